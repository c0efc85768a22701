// The drain: which connection database/sql is to retire next, and when. Pure: it
// never reads a clock, and knows neither the pool nor the server.

package sqlrotate

import "time"

const (
	// maxGap is the longest pause between two retirements after a rotation, so
	// that a small pool is done soon.
	maxGap = 250 * time.Millisecond

	// lazyGap is the longest pause between two retirements of connections whose
	// time is nearly over without a rotation.
	lazyGap = time.Second

	// standbyLead is how long before a retirement the login for its replacement
	// begins.
	standbyLead = time.Second

	// slack is how long after a connection was handed to database/sql that takes
	// the time of its creation, at most, without the machine being overloaded.
	slack = 2 * time.Millisecond
)

// pooled is what the plan knows of a connection in the pool.
type pooled struct {
	born  time.Time // when it was handed to the pool
	by    time.Time // when it must have been told to go; zero: never
	eager bool      // a successor of its credential has proven itself
	dead  bool      // its credential is known to be revoked already
}

// drainState is one drain: from the moment a successor has proven itself until
// no connection of an older version is left.
type drainState struct {
	from time.Time // when the first retirement may happen; zero: no drain
	to   time.Time // when the last one should
}

// plan is what retirement depends on. Connections are retired by age, oldest
// first, because age is what database/sql retires by: everything born at or
// before the line is told to go.
type plan struct {
	now     time.Time
	line    time.Time // where it is
	moved   time.Time // when it was moved last
	standby bool      // a connection is ready to replace the next that goes
	drain   drainState
	spread  time.Duration // over how much time lazy retirements may be spread
	conns   []pooled      // by born
}

// decision is what to do now.
type decision struct {
	line    time.Time // where it is to be
	standby bool      // a replacement is wanted
	wake    time.Time // when to decide again; zero: when something changes
}

// decide moves the line over at most one connection at a time, with a replacement
// ready, unless time is running out.
func (p plan) decide() decision {
	above := p.conns
	for len(above) > 0 && !above[0].born.After(p.line) {
		above = above[1:]
	}
	// What fails queries already, or is being retired by the pool's own lifetime,
	// is not paced.
	urgent := 0
	for i, c := range above {
		if c.dead || !c.by.IsZero() && !p.now.Before(c.by) {
			urgent = i + 1
		}
	}
	if urgent > 0 {
		return decision{line: above[urgent-1].born, standby: true, wake: p.now}
	}

	eager := p.eagerAt(above)
	lazy, gap := p.lazyAt(above)
	at := earliest(eager, lazy)
	if at.IsZero() {
		return decision{line: p.line}
	}
	d := decision{line: p.line, standby: !eager.IsZero() || !p.now.Before(lazy.Add(-standbyLead))}
	late := !lazy.IsZero() && !p.now.Before(lazy.Add(gap))
	switch {
	case !p.now.Before(at) && (p.standby || late):
		d.line, d.wake = above[0].born, p.now
	case !p.now.Before(at):
		// The replacement's login is under way, or fails: it wakes us.
		if !lazy.IsZero() {
			d.wake = lazy.Add(gap)
		}
	case d.standby:
		d.wake = at
	default:
		d.wake = at.Add(-standbyLead)
	}
	return d
}

// eagerAt returns when the next connection goes because of a rotation: those of
// older versions, spread evenly over what is left of the drain.
func (p plan) eagerAt(above []pooled) time.Time {
	n := 0
	for i, c := range above {
		if c.eager {
			n = i + 1
		}
	}
	if n == 0 || p.drain.from.IsZero() {
		return time.Time{}
	}
	gap := min(maxGap, max(0, p.drain.to.Sub(p.now)/time.Duration(n)))
	at := p.moved.Add(gap)
	if at.Before(p.drain.from) {
		at = p.drain.from
	}
	return at
}

// lazyAt returns the latest time at which the next connection can go so that this
// one and all after it, gap after gap, go in time; and that gap. Connections that
// were born in one burst are so retired one by one, the last just in time.
func (p plan) lazyAt(above []pooled) (at time.Time, gap time.Duration) {
	if len(above) == 0 {
		return time.Time{}, 0
	}
	gap = min(lazyGap, p.spread/time.Duration(len(above)))
	for k, c := range above {
		if !c.by.IsZero() {
			at = earliest(at, c.by.Add(-time.Duration(k+1)*gap))
		}
	}
	return at, gap
}

// lifetime returns what to set SetConnMaxLifetime to so that connections born at
// or before the line expire and those born at or after next, the first one above
// it, don't; and how soon to set it anew, because a lifetime is an age: the line
// that it draws moves on with time. base is the lifetime without a line.
func lifetime(now, line, next time.Time, base time.Duration) (d, refresh time.Duration) {
	margin, refresh := slack, maxGap
	if !next.IsZero() {
		gap := next.Sub(line)
		margin = min(margin, gap/2)
		refresh = min(refresh, max(time.Millisecond, gap/4))
	}
	return min(base, max(1, now.Sub(line)-margin)), refresh
}
