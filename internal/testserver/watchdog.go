// What is left of us, whatever ends us: a process that cleans up.

package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Watchdog removes a directory when we are done with it or dead. Nil has none.
type Watchdog struct {
	dir   string
	cmd   *exec.Cmd
	leash io.Closer // closing it, which our death does too, lets the watchdog go
}

// watchdogScript stands by until its input ends, which it does when the process
// at the other end of the pipe closes it or dies. Then it ends the server whose pid is in
// the file $2, if one is left, and removes the directory $1. A server so young that it has
// not written its pid yet finds its directory gone, and gives up; so does what makes its
// data directory, which may write a few files more before it does.
const watchdogScript = `
while read -r _; do :; done
pid=$(head -n 1 "$2" 2>/dev/null)
if [ -n "$pid" ]; then
	kill -QUIT "$pid" && kill -CONT "$pid" # it may have been paused
	n=0
	while [ $n -lt 100 ] && kill -0 "$pid"; do sleep 0.1; n=$((n+1)); done
	kill -KILL "$pid"
fi 2>/dev/null
n=0
until rm -rf "$1" 2>/dev/null || [ $n -ge 100 ]; do sleep 0.1; n=$((n+1)); done
`

// Watch has dir removed when the watchdog is ended or we die, or at once if it fails. A
// server whose pid is in the first line of pidFile by then is ended before.
func Watch(ctx context.Context, dir, pidFile string) (*Watchdog, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", watchdogScript, "sqlrotate-watchdog", dir, pidFile)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = Attributes(nil)
	leash, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("testserver: watchdog: %w", err), os.RemoveAll(dir))
	}
	return &Watchdog{dir, cmd, leash}, nil
}

// End has the directory removed, after a server that still runs, and returns when that is
// done.
func (w *Watchdog) End() error {
	if w == nil {
		return nil
	}
	_ = w.leash.Close()
	_ = w.cmd.Wait()
	return os.RemoveAll(w.dir) // which says why, if the watchdog could not
}

// StandsBy reports whether the watchdog was not ended.
func (w *Watchdog) StandsBy() bool { return w.cmd.ProcessState == nil }
