// Time: monotonic instants, and the wall clock by which a lease ends.

package rotation

import (
	"math"
	"time"
)

// Instant is a moment on the monotonic clock, counted from whenever the shell likes
// so long as it is positive. Zero means that something has not happened.
//
// What is measured in Instants (paces, pauses, ages) neither stops nor hurries when
// somebody sets the wall clock.
type Instant time.Duration

// Never is an Instant that doesn't come.
const Never Instant = math.MaxInt64

// Now is the present as two clocks tell it.
type Now struct {
	Wall time.Time // without a monotonic reading
	Mono Instant
}

// Clock makes a Now of a reading of the system's clock.
type Clock struct{ origin time.Time }

// NewClock returns a clock that counts from the given time, which must hold a
// monotonic reading, as time.Now does.
func NewClock(origin time.Time) Clock { return Clock{origin} }

// Now reads t, which must hold a monotonic reading and not be before the clock's origin.
func (c Clock) Now(t time.Time) Now {
	return Now{Wall: wall(t), Mono: Instant(t.Sub(c.origin) + 1)}
}

// wall returns t without its monotonic reading.
func wall(t time.Time) time.Time { return t.Round(0) }

// Time returns at as the wall clock would tell it today: for people.
func (n Now) Time(at Instant) time.Time {
	switch at {
	case 0, Never:
		return time.Time{}
	}
	return n.Wall.Add(at.Sub(n.Mono))
}

// Add returns the instant d later. It stays below Never, and Never stays.
func (i Instant) Add(d time.Duration) Instant {
	switch sum := i + Instant(d); {
	case i == Never:
		return Never
	case d > 0 && (sum <= i || sum == Never):
		return Never - 1
	default:
		return sum
	}
}

// Sub returns the time from j to i; the longest there is if i is Never.
func (i Instant) Sub(j Instant) time.Duration {
	switch diff := i - j; {
	case i == Never:
		return math.MaxInt64
	case j < 0 && diff < i:
		return math.MaxInt64
	default:
		return time.Duration(diff)
	}
}

// End is when something ends, by both clocks: a machine that sleeps stops the
// monotonic one, and whoever sets the wall clock turns that one. The server does
// neither; so what is past by either hand is past. The zero End never comes.
type End struct {
	Wall time.Time
	Mono Instant
}

// IsZero reports whether e never comes.
func (e End) IsZero() bool { return e == End{} }

// endAt is a moment that is known by the wall clock.
func endAt(at time.Time, now Now) End {
	if at.IsZero() {
		return End{}
	}
	at = wall(at)
	// Sub saturates, and so does Add: an end in the year 9999 is as good as any.
	return End{Wall: at, Mono: max(1, now.Mono.Add(at.Sub(now.Wall)))}
}

// endAfter is the moment that is d from now.
func endAfter(d time.Duration, now Now) End {
	return End{Wall: now.Wall.Add(d), Mono: max(1, now.Mono.Add(d))}
}

// earlier returns what of e and f comes first, for each hand.
func (e End) earlier(f End) End {
	switch {
	case e.IsZero():
		return f
	case f.IsZero():
		return e
	}
	if f.Wall.Before(e.Wall) {
		e.Wall = f.Wall
	}
	e.Mono = min(e.Mono, f.Mono)
	return e
}

// Past reports whether e has come, by either clock.
func (e End) Past(now Now) bool {
	return !e.IsZero() && (now.Mono >= e.Mono || !now.Wall.Before(e.Wall))
}

// Instant returns when e comes by the hand that is ahead, as things stand; Never for
// the zero End.
func (e End) Instant(now Now) Instant {
	if e.IsZero() {
		return Never
	}
	return min(e.Mono, now.Mono.Add(e.Wall.Sub(now.Wall)))
}

// backoff returns how long to wait after the n-th failure in a row: least, then twice
// that, and so on up to most.
func backoff(n int, least, most time.Duration) time.Duration {
	d := least
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
