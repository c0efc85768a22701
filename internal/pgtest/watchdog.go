// What is left of us, whatever ends us: a process that cleans up.

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// watchdog removes a directory when we are done with it or dead.
type watchdog struct {
	dir   string
	cmd   *exec.Cmd
	leash io.Closer // closing it, which our death does too, lets the watchdog go
}

// watchdogScript stands by until its input ends, which it does when the process
// at the other end of the pipe closes it or dies. Then it ends the server in the
// directory $1, if one is left, and removes the directory. A server so young that
// it has not written its pid yet finds its directory gone, and gives up; so does
// initdb, which may write a few files more before it does.
const watchdogScript = `
while read -r _; do :; done
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
	kill -QUIT "$pid" && kill -CONT "$pid" # it may have been paused
	n=0
	while [ $n -lt 100 ] && kill -0 "$pid"; do sleep 0.1; n=$((n+1)); done
	kill -KILL "$pid"
fi 2>/dev/null
n=0
until rm -rf "$1" 2>/dev/null || [ $n -ge 100 ]; do sleep 0.1; n=$((n+1)); done
`

// watch has dir removed when the watchdog is ended or we die, or at once if it fails.
func watch(ctx context.Context, dir string) (*watchdog, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", watchdogScript, "sqlrotate-watchdog", dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = attributes(nil)
	leash, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: watchdog: %w", err), os.RemoveAll(dir))
	}
	return &watchdog{dir, cmd, leash}, nil
}

// end has the directory removed, with a server in it that still runs, and returns
// when that is done.
func (w *watchdog) end() error {
	if w == nil {
		return nil
	}
	_ = w.leash.Close()
	_ = w.cmd.Wait()
	return os.RemoveAll(w.dir) // which says why, if the watchdog could not
}
