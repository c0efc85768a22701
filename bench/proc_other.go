//go:build !linux

package main

import (
	"errors"
	"os/exec"
)

// residentSet is not known here.
func residentSet() int64 { return 0 }

// apart changes nothing.
func apart(*exec.Cmd) {}

// forgoInotify has nothing to forgo.
func forgoInotify() error { return errors.ErrUnsupported }
