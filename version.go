// version: one login that the source has given, when it ends, and its gate: who
// may log in with it now. Pure: every method takes the time as a parameter.

package sqlrotate

import (
	"fmt"
	"time"
)

// version is one (user name, password).
type version struct {
	number uint64     // 1, 2, 3 … in the order in which they were first seen
	cred   Credential // as first rendered
	seen   time.Time  // when it was first read

	// Guarded by Connector.mu.
	notAfter   time.Time // as last rendered: a lease may be renewed
	renewed    time.Time // when that was read first
	warned     bool      // it has been said that it ends soon
	superseded time.Time // when its successor was read; zero for the current one
	end        time.Time // end of its overlap; zero: none known
	dead       bool      // superseded by another user, and refused by the server
	gate       gate
	open       int // sessions logged in
}

// deadline is the instant at which the version is revoked: its end or its
// NotAfter, whichever is earlier. Zero means that none is known.
func (v *version) deadline() time.Time { return earliest(v.end, v.notAfter) }

// ended reports whether the version is past its deadline.
func (v *version) ended(now time.Time) bool {
	d := v.deadline()
	return !d.IsZero() && past(d, now)
}

// label names the version in logs and errors.
func (v *version) label() string {
	if v.cred.Version == "" {
		return fmt.Sprintf("#%d", v.number)
	}
	return fmt.Sprintf("#%d (%s)", v.number, v.cred.Version)
}

// past reports whether now is at or after t by the monotonic clock or by the wall
// clock. A suspended machine stops the first, and a clock that is set back turns
// the second; the server's clock does neither.
func past(t, now time.Time) bool {
	return !now.Before(t) || !now.Round(0).Before(t.Round(0))
}

// earliest returns the earliest of ts that is not zero.
func earliest(ts ...time.Time) time.Time {
	var min time.Time
	for _, t := range ts {
		if !t.IsZero() && (min.IsZero() || t.Before(min)) {
			min = t
		}
	}
	return min
}

const (
	// proofTTL is how long a successful login lets others go ahead without
	// waiting for its like. A burst after a quiet time sends one login ahead, so
	// that a password which has meanwhile changed costs one refusal, not a burst
	// of them.
	proofTTL = time.Second

	// patience is how long logins wait for the one that went ahead before another
	// one follows it.
	patience = time.Second

	// retryPatience is the same while the credential is being refused: a server may
	// take seconds to say so (PostgreSQL's auth_delay), and counts each login.
	retryPatience = 10 * time.Second

	// maxAbandoned is how many logins in a row may be given up by their callers
	// before the keeper makes the next one, with a patience of its own.
	maxAbandoned = 2

	// A refused credential is tried again after retryMin, then twice that, and so
	// on up to retryMax.
	retryMin = 500 * time.Millisecond
	retryMax = 10 * time.Second
)

// gate decides which logins with a version may go to the server now, so that a
// pool never hammers a server, or locks an account, with a credential that is
// refused or unproven.
type gate struct {
	inflight  int
	admitted  time.Time // when the last one was let through
	proven    bool      // a login has succeeded, ever
	proofAt   time.Time // when the last one did
	refusals  int       // in a row
	refusedAt time.Time // the first of them
	next      time.Time // not before, after a refusal
	refusal   error     // the last of them
	abandoned int       // logins given up by their callers, in a row
	failures  int       // logins that failed for another reason, ever
	failure   error     // the last of them
}

// admit lets a login through, or says how long to wait before asking again. A
// login that is let through is reported to exactly one of succeeded, refused,
// failed, cancelled and withdrawn.
func (g *gate) admit(now time.Time) (ok bool, wait time.Duration) {
	if wait := g.wait(now); wait > 0 {
		return false, wait
	}
	g.inflight++
	g.admitted = now
	return true, 0
}

func (g *gate) wait(now time.Time) time.Duration {
	if g.refusals == 0 && !g.proofAt.IsZero() && now.Sub(g.proofAt) < proofTTL {
		return 0
	}
	if wait := g.next.Sub(now); (g.refusals > 0 || g.deserted()) && wait > 0 {
		return wait
	}
	if g.inflight == 0 {
		return 0
	}
	limit := patience
	if g.refusals > 0 {
		limit = retryPatience
	}
	return max(0, limit-now.Sub(g.admitted))
}

// succeeded is for a login that began at began. One that the server accepted just
// before the password changed may be heard of after a refusal: it is no proof.
func (g *gate) succeeded(now, began time.Time) {
	g.inflight--
	g.proven, g.abandoned = true, 0
	if g.outdated(began) {
		return
	}
	g.proofAt = now
	g.refusals, g.refusal = 0, nil
}

func (g *gate) refused(now, began time.Time, err error) {
	g.inflight--
	g.refusal, g.abandoned = err, 0
	if g.outdated(began) {
		return // it went out together with the one that was counted
	}
	if g.refusals == 0 {
		g.refusedAt = now
	}
	g.refusals++
	g.next = now.Add(backoff(g.refusals, retryMin, retryMax))
}

func (g *gate) failed(err error) {
	g.inflight--
	g.failures++
	g.failure, g.abandoned = err, 0
}

// cancelled is for a login that was given up by its caller: it says nothing about
// the credential or the server. But if that happens again and again, the server may
// be refusing more slowly than callers wait.
func (g *gate) cancelled(now time.Time) {
	g.inflight--
	if g.deserted() && now.Before(g.next) {
		return // it went out together with the one that was counted
	}
	g.abandoned++
	if g.deserted() {
		g.next = now.Add(backoff(g.abandoned-maxAbandoned, retryMin, retryMax))
	}
}

// withdrawn is for a login that was let through and not begun.
func (g *gate) withdrawn() { g.inflight-- }

// outdated reports whether a login that began at began went out before the last
// refusal that counted: none goes out from then until next.
func (g *gate) outdated(began time.Time) bool { return g.refusals > 0 && began.Before(g.next) }

// deserted reports whether no caller waits long enough to learn what comes of a
// login.
func (g *gate) deserted() bool { return g.abandoned > maxAbandoned }

// backoff returns how long to wait after the n-th failure in a row: least, then twice
// that, and so on up to most.
func backoff(n int, least, most time.Duration) time.Duration {
	d := least
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
