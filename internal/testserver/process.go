// A server's process, and those that it has begun.

package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// StopTimeout is how long a server is given to do as it is told.
const StopTimeout = 10 * time.Second

// Process is a server's process, started or not. Its user sees to it that only one of its
// methods is called at a time.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended; nil before the first start
	paused []int         // stopped processes, the server's first
}

// Start starts the process.
func (p *Process) Start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("testserver: start the server: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	p.cmd, p.exited = cmd, exited
	return nil
}

// PID is the process's number, after its start.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running reports whether the process was started and has not ended.
func (p *Process) Running() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stop sends the signals, one after the other, until the process has ended.
func (p *Process) Stop(signals ...syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	if err := p.Resume(); err != nil {
		return err
	}
	for _, sig := range signals {
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("testserver: stop the server: %w", err)
		}
		select {
		case <-p.exited:
			return nil
		case <-time.After(StopTimeout):
		}
	}
	return errors.New("testserver: the server does not stop")
}

// Pause stops the process, so that there can be no new children, and then those it has: a
// network that swallows everything, as far as clients can tell. It works on Linux only.
func (p *Process) Pause(ctx context.Context) error {
	if len(p.paused) > 0 || !p.Running() {
		return nil
	}
	parent := p.PID()
	p.paused = []int{parent}
	if err := signal(parent, sigStop); err != nil {
		return err
	}
	err := Poll(ctx, StopTimeout, func() (bool, error) {
		all, err := Processes()
		return all[parent].State == "T", err
	})
	if err != nil {
		return errors.Join(err, p.Resume())
	}
	all, err := Processes()
	for pid, of := range all {
		if of.Parent == parent {
			p.paused = append(p.paused, pid)
			err = errors.Join(err, signal(pid, sigStop))
		}
	}
	return err
}

// Resume ends a Pause.
func (p *Process) Resume() error {
	var errs []error
	for _, pid := range slices.Backward(p.paused) {
		errs = append(errs, signal(pid, sigCont))
	}
	p.paused = nil
	return errors.Join(errs...)
}

// signal sends a signal to a process that may have ended.
func signal(pid int, sig syscall.Signal) error {
	proc, err := os.FindProcess(pid)
	if err == nil {
		err = proc.Signal(sig)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("testserver: signal: %w", err)
	}
	return nil
}

// ProcessInfo is what the system says of a process.
type ProcessInfo struct {
	State  string // T: stopped, Z: ended
	Parent int
}

// Processes lists the machine's processes by their numbers, from /proc, which Linux has.
func Processes() (map[int]ProcessInfo, error) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	if len(files) == 0 {
		return nil, fmt.Errorf("testserver: no processes in /proc: %w", errors.ErrUnsupported)
	}
	all := make(map[int]ProcessInfo)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent ..., where the name may hold anything
		pid, _, _ := strings.Cut(string(content), " ")
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		n, err1 := strconv.Atoi(pid)
		parent, err2 := strconv.Atoi(fields[1])
		if err1 == nil && err2 == nil {
			all[n] = ProcessInfo{State: fields[0], Parent: parent}
		}
	}
	return all, nil
}
