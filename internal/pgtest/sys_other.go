//go:build !unix

// Elsewhere this package compiles, and finds no server to start.

package pgtest

import "syscall"

const (
	sigStop = syscall.Signal(0)
	sigCont = syscall.Signal(0)
)

func attributes(*owner) *syscall.SysProcAttr { return nil }
