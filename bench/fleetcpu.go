// The CPU time of a fleet and its server, as Linux tells it.

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is what /proc counts in.
const procTick = 10 * time.Millisecond

// procStat is what is known of a process.
type procStat struct {
	pid, parent int
	own         time.Duration
	ended       time.Duration // of its children, those that are over
}

// readStat reads /proc/PID/stat; false if there is none.
func readStat(path string) (p procStat, ok bool) {
	text, err := os.ReadFile(path) //nolint:gosec // of /proc
	if err != nil {
		return p, false
	}
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 1 || end < open {
		return p, false
	}
	p.pid, _ = strconv.Atoi(string(bytes.TrimSpace(text[:open])))
	fields := bytes.Fields(text[end+1:]) // the third field of the line comes first
	if len(fields) < 15 {
		return p, false
	}
	number := func(field int) int {
		n, _ := strconv.Atoi(string(fields[field-3]))
		return n
	}
	p.parent = number(4)
	p.own = time.Duration(number(14)+number(15)) * procTick
	p.ended = time.Duration(number(16)+number(17)) * procTick
	return p, true
}

// meter returns what reads the CPU time that the clients and the server have used: zero
// where there is no /proc.
func (e *env) meter(ctx context.Context, pods []*pod) func() [2]time.Duration {
	var backend int
	if err := e.server.Admin().QueryRowContext(ctx, "select pg_backend_pid()").Scan(&backend); err != nil {
		return func() (none [2]time.Duration) { return none }
	}
	one, _ := readStat(fmt.Sprintf("/proc/%d/stat", backend))
	postmaster := one.parent
	return func() (used [2]time.Duration) {
		for _, p := range pods {
			one, _ := readStat(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
			used[0] += one.own
		}
		if postmaster == 0 {
			return used
		}
		all, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
		for _, path := range all {
			switch one, ok := readStat(path); {
			case !ok:
			case one.pid == postmaster:
				used[1] += one.own + one.ended
			case one.parent == postmaster:
				used[1] += one.own
			}
		}
		return used
	}
}
