//go:build unix

// The CPU time of this process, without the server's.

package main

import (
	"syscall"
	"time"
)

// cpuTime returns the time that the process has spent on CPUs, in user and system
// mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// contextSwitches returns how often a thread of the process has gone to sleep, and so was
// woken.
func contextSwitches() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return int64(u.Nvcsw) //nolint:unconvert // not an int64 everywhere
}
