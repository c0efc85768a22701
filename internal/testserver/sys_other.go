//go:build !unix

// Elsewhere this package compiles, and finds no server to start.

package testserver

import "syscall"

const (
	sigStop = syscall.Signal(0)
	sigCont = syscall.Signal(0)
)

func Attributes(*Owner) *syscall.SysProcAttr { return nil }
