//go:build unix

// What only Unix has: process groups, another user, stopping a process.

package testserver

import "syscall"

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// Attributes keep a child out of our process group, so that a Ctrl-C meant for
// us does not reach it, and give it to a user if one is named.
func Attributes(o *Owner) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if o != nil {
		a.Credential = &syscall.Credential{Uid: o.uid, Gid: o.gid}
	}
	return a
}
