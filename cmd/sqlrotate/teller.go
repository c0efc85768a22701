// What check -watch tells, and the score that it keeps.

package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// teller prints what happens, and keeps the score.
type teller struct {
	over   chan struct{} // has a value when a rotation is over
	broken chan struct{} // closed when nobody reads on

	// mu guards what follows. Lines are written under it, one after the other.
	mu       sync.Mutex
	out      io.Writer
	json     bool
	err      error // of writing
	rotated  int
	pending  bool // a rotation is under way
	failures int
}

func newTeller(out io.Writer, asJSON bool) *teller {
	return &teller{out: out, json: asJSON, over: make(chan struct{}, 1), broken: make(chan struct{})}
}

// tell prints a line.
func (t *teller) tell(what string, l level, d details, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := finding{what, l, oneLine(fmt.Sprintf(format, args...)), d}
	if l == levelFail {
		t.failures++
	}
	if t.err != nil {
		return
	}
	now := time.Now()
	if t.json {
		t.err = writeJSON(t.out, struct {
			Time time.Time `json:"time"`
			finding
		}{now, f})
	} else {
		_, t.err = io.WriteString(t.out, now.Format("15:04:05.000 ")+f.String())
	}
	if t.err != nil {
		close(t.broken)
	}
}

// trace tells what the connector does.
func (t *teller) trace() *sqlrotate.Trace {
	return &sqlrotate.Trace{
		Rotated: func(v sqlrotate.VersionStats) {
			t.began()
			t.tell("rotated", levelNote, of(v), "user %q, the connector's version %d: it is to prove itself", v.Username, v.Number)
		},
		Proven: func(v sqlrotate.VersionStats) {
			t.tell("proven", levelOK, of(v), "a login as user %q, version %d, has succeeded", v.Username, v.Number)
		},
		Refused: func(v sqlrotate.VersionStats, err error) {
			t.tell("refused", levelWarning, of(v), "the server refuses user %q, version %d: %s", v.Username, v.Number, said(err))
		},
		Login: func(l sqlrotate.LoginInfo) {
			if l.Err != nil && !l.Refused {
				t.tell("login", levelWarning, of(l.Version), "a login as user %q fails: %s", l.Version.Username, said(l.Err))
			}
		},
		Closed: func(v sqlrotate.VersionStats, reason sqlrotate.CloseReason, age time.Duration) {
			if reason == sqlrotate.CloseOther {
				return // the connector's own, for a question, come and go
			}
			d := of(v)
			d["reason"] = reason
			t.tell("closed", levelNote, d, "a connection of user %q, version %d, after %v: %s", v.Username, v.Number, age.Round(time.Millisecond), reason)
		},
		Outlived: func(v sqlrotate.VersionStats, age time.Duration) {
			t.tell("outlived", levelFail, of(v), "a connection of user %q, version %d, was open when its credential ended, after %v", v.Username, v.Number, age.Round(time.Millisecond))
		},
		Drained: func(connections int, took time.Duration) {
			t.tell("drained", levelOK, details{"connections": connections, "seconds": took.Seconds()}, "all connections of the old login (%d) are gone, after %v", connections, took.Round(time.Millisecond))
			t.ended()
		},
	}
}

func of(v sqlrotate.VersionStats) details {
	return details{"username": v.Username, "version": v.Number}
}

// began notes that a rotation has begun.
func (t *teller) began() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rotated++
	t.pending = true
}

// ended notes that a rotation is over.
func (t *teller) ended() {
	t.mu.Lock()
	t.pending = false
	t.mu.Unlock()
	select {
	case t.over <- struct{}{}:
	default:
	}
}

// sum says what it came to, and returns the exit status.
func (t *teller) sum() int {
	t.mu.Lock()
	rotated, pending, failures, err := t.rotated, t.pending, t.failures, t.err
	t.mu.Unlock()
	d := details{"rotations": rotated, "failures": failures}
	switch {
	case err != nil:
		return statusFailed // nobody reads on
	case rotated == 0:
		t.tell("watch", levelFail, d, "no rotation was seen")
		return statusFailed
	case pending:
		t.tell("watch", levelFail, d, "rotations seen: %d; the last one isn't over", rotated)
		return statusFailed
	case failures > 0:
		t.tell("watch", levelFail, d, "rotations seen: %d; failures: %d", rotated, failures)
		return statusFailed
	}
	t.tell("watch", levelOK, d, "rotations seen: %d; nothing failed", rotated)
	return statusOK
}
