//go:build unix

package sqlrotate

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// ownGroup puts a program that is to be started, and what that starts, into a session and
// process group of its own. So it has no terminal to ask at, and the group is killed when
// the program's context is done.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
}

// killGroup kills what is left of a program's group.
func killGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
