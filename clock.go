// Small arithmetic on time that more than one file needs.

package sqlrotate

import "time"

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

// backoff returns how long to wait after the n-th failure in a row: least, then twice
// that, and so on up to most.
func backoff(n int, least, most time.Duration) time.Duration {
	d := least
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
