// Package line makes database/sql retire one connection: by age, which is all that it
// can tell connections apart by. SetConnMaxLifetime draws a line; those born before it
// go when they are idle or come back. But a lifetime is an age: the line moves on with
// time, so it must be set anew, again and again, while somebody is to go.
//
// It decides and does nothing: the shell alone sets lifetimes.
package line

import (
	"math"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const (
	// Spacing is the least time between two births, so that sessions are distinct by
	// age. A burst that is slowed down by it logs in faster than a server forks.
	Spacing = 500 * time.Microsecond

	// slack is how long after a session was handed to database/sql that takes the time
	// of its creation, at most, without the machine being overloaded. For one that is
	// awaited for longer than that takes, it is taken to have been later: by a quarter of
	// the wait.
	slack = 2 * time.Millisecond

	// cleanerGap is how often the pool's cleaner is woken while the line is held: one
	// that misses a round, because database/sql stamped it late, has another one.
	cleanerGap = 50 * time.Millisecond

	// The line is set anew this often at the least and at the most. Until then it moves
	// on, and one born as much later may go in place of the one that is meant. While one
	// that is in use is awaited for long, that is ever less often: it is retired when it
	// comes back, whether or not anybody looks.
	minRefresh  = 2 * time.Millisecond
	maxRefresh  = 250 * time.Millisecond
	longRefresh = time.Minute

	// Unlimited is the lifetime of connections that don't age. Not 0: the pool's cleaner
	// runs only while there is a limit.
	Unlimited = time.Duration(math.MaxInt64 / 4)
)

// Line is the lifetime line of one pool. It is guarded by the lock of the State that
// says who goes.
type Line struct {
	base  time.Duration
	pool  []birth // in their order
	held  bool
	at    rotation.Instant // the birth that the line is held at
	since rotation.Instant // since when
	woken rotation.Instant // when the cleaner was last woken for that
	set   [2]time.Duration
}

type birth struct {
	id rotation.SessionID
	at rotation.Instant
}

// New returns the line of a pool whose connections live for base when none is singled
// out; zero: for ever.
func New(base time.Duration) *Line {
	if base <= 0 {
		base = Unlimited
	}
	return &Line{base: base}
}

// Base is the lifetime to set when none is singled out.
func (l *Line) Base() time.Duration { return l.base }

// HandedOut notes the birth of a session and returns how long to wait before the pool
// gets it.
func (l *Line) HandedOut(id rotation.SessionID, now rotation.Instant) time.Duration {
	at := now
	if n := len(l.pool); n > 0 {
		at = max(at, l.pool[n-1].at.Add(Spacing))
	}
	l.pool = append(l.pool, birth{id, at})
	return at.Sub(now)
}

// Ended notes that a session is over.
func (l *Line) Ended(id rotation.SessionID) {
	l.pool = slices.DeleteFunc(l.pool, func(b birth) bool { return b.id == id })
}

// Step returns the lifetimes to set now, one after the other, and when to look again. The
// slice is good until the next call. going reports whether the pool may let a session go:
// rotation.State.Going.
func (l *Line) Step(going func(rotation.SessionID) bool, now rotation.Instant) (set []time.Duration, wake rotation.Instant) {
	set = l.set[:0]
	last := len(l.pool) - 1
	for last >= 0 && !going(l.pool[last].id) {
		last--
	}
	if last < 0 {
		if l.held {
			l.held = false
			set = append(set, l.base)
		}
		return set, rotation.Never
	}
	at := l.pool[last].at
	if !l.held || at != l.at {
		l.since = now
	}
	waited := now.Sub(l.since)
	margin, refresh := max(slack, waited/4), min(max(maxRefresh, waited/16), longRefresh)
	if last+1 < len(l.pool) {
		gap := l.pool[last+1].at.Sub(at)
		margin = min(margin, gap/2)
		refresh = min(refresh, max(minRefresh, gap/4))
	}
	if !l.held || at != l.at || now.Sub(l.woken) >= cleanerGap {
		set = append(set, l.base) // what follows shortens it, which wakes the cleaner
		l.woken = now
	}
	l.held, l.at = true, at
	return append(set, min(l.base, max(1, now.Sub(at)-margin))), now.Add(refresh)
}
