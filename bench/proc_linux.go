package main

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// residentSet returns how much memory the process has, in bytes.
func residentSet() int64 {
	content, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(content)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

// apart has a process run in a user namespace, where the limits on inotify are its own.
func apart(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
}

// forgoInotify has such a process get no inotify instance.
func forgoInotify() error {
	return os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0)
}
