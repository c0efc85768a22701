//go:build !unix

package sqlrotate

import "os/exec"

// ownGroup does nothing: there are no process groups. The program itself is killed when
// its context is done.
func ownGroup(*exec.Cmd) {}

// killGroup does nothing: the program has ended.
func killGroup(*exec.Cmd) {}
