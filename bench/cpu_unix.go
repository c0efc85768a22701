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
