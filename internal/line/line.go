// Package line makes database/sql retire one connection: by age, which is all that it
// can tell connections apart by. SetConnMaxLifetime draws a line; those born before it
// go when they are idle or come back. But a lifetime is an age: the line moves on with
// time, so it must be set anew, again and again, while somebody is to go.
//
// It decides and does nothing: the shell alone sets lifetimes.
package line

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Line is the lifetime line of one pool. It is guarded by the lock of the State that
// says who goes.
type Line struct{}

// New returns the line of a pool whose connections live for base when none is singled
// out.
func New(base time.Duration) *Line { return &Line{} }

// HandedOut notes the birth of a session and returns how long to wait before the pool
// gets it.
func (l *Line) HandedOut(id rotation.SessionID, now rotation.Instant) time.Duration { panic("not yet") }

// Ended notes that a session is over.
func (l *Line) Ended(id rotation.SessionID) { panic("not yet") }

// Step returns the lifetimes to set now, one after the other, and when to look again.
// going reports whether the pool may let a session go: rotation.State.Going.
func (l *Line) Step(going func(rotation.SessionID) bool, now rotation.Instant) (set []time.Duration, wake rotation.Instant) {
	panic("not yet")
}
