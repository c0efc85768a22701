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
	last  bool      // and not before, because nothing better can take its place
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
// first, because age is what database/sql retires by: those born at or before the
// line are to go, and while the line is held the pool expires them when they are
// idle or come back.
//
// An age can't tell neighbours apart for long: the line drifts while it is held. So
// it is held until one connection has gone, whichever that is, and then not before
// the next one's turn.
type plan struct {
	now     time.Time
	line    time.Time // where it is
	moved   time.Time // when it was moved last
	retired time.Time // when a connection was closed last
	standby bool      // a connection is ready to replace the next that goes
	drain   drainState
	spread  time.Duration // over how much time retirements without a rotation may be spread
	conns   []pooled      // by born
}

// decision is what to do now.
type decision struct {
	line    time.Time // where it is to be
	hold    bool      // whether the pool is to expire what is at or below it
	standby bool      // a replacement is wanted
	wake    time.Time // when to decide again; zero: when something changes
}

// decide moves the line over at most one connection at a time, and holds it with a
// replacement ready, unless time is running out.
func (p plan) decide() decision {
	d := decision{line: p.line}
	told := 0
	for told < len(p.conns) && !p.conns[told].born.After(p.line) {
		told++
	}
	urgent := p.urgent()
	if urgent > told {
		told, d.line = urgent, p.conns[urgent-1].born
	}

	eager := p.eager()
	lazy, gap := p.lazy(told)
	at := lazy
	if eager > 0 && !p.drain.from.IsZero() {
		gap = min(maxGap, max(0, p.drain.to.Sub(p.now)/time.Duration(max(eager, told))))
	}
	turn := p.retired.Add(gap)
	if eager > told && !p.drain.from.IsZero() {
		next := p.moved.Add(gap)
		if next.Before(turn) {
			next = turn
		}
		if next.Before(p.drain.from) {
			next = p.drain.from
		}
		at = earliest(at, next)
	}
	late := !lazy.IsZero() && !p.now.Before(lazy.Add(gap))

	if told < len(p.conns) && !at.IsZero() && !p.now.Before(at) && (p.standby || late) {
		d.line = p.conns[told].born
		told++
		at = p.now // decide on the one after it when this is done
	}
	d.hold = told > 0 && (urgent > 0 || late || p.standby && !p.now.Before(turn))
	d.standby = told > 0 || eager > 0 && !p.drain.from.IsZero() || !lazy.IsZero() && !p.now.Before(lazy.Add(-standbyLead))

	// Where a replacement is awaited, its arrival wakes us.
	if told > 0 && p.now.Before(turn) {
		d.wake = turn
	}
	switch {
	case at.IsZero():
	case p.now.Before(at) && d.standby:
		d.wake = earliest(d.wake, at)
	case p.now.Before(at):
		d.wake = earliest(d.wake, at.Add(-standbyLead))
	case d.line.After(p.line):
		d.wake = p.now
	case !lazy.IsZero():
		d.wake = earliest(d.wake, lazy.Add(gap))
	}
	return d
}

// urgent returns how many of the oldest connections go without pacing: up to the
// last one that fails its queries already, or that the pool's own lifetime retires.
func (p plan) urgent() int {
	n := 0
	for i, c := range p.conns {
		if c.dead || !c.by.IsZero() && !p.now.Before(c.by) {
			n = i + 1
		}
	}
	return n
}

// eager returns how many of the oldest connections go because of a rotation: up to
// the last one of an older version.
func (p plan) eager() int {
	n := 0
	for i, c := range p.conns {
		if c.eager {
			n = i + 1
		}
	}
	return n
}

// lazy returns the latest time at which the next connection can be told to go so
// that this one and all after it, gap after gap, go in time; and that gap. So
// connections that were born in one burst are retired one by one, the last just in
// time. told of them have been told to go.
func (p plan) lazy(told int) (at time.Time, gap time.Duration) {
	if len(p.conns) == 0 {
		return time.Time{}, 0
	}
	gap = min(lazyGap, p.spread/time.Duration(len(p.conns)))
	for k, c := range p.conns[told:] {
		if !c.by.IsZero() && !c.last {
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
