package rotation

import (
	"math"
	"testing"
	"time"
)

func TestInstantsDontOverflow(t *testing.T) {
	const most = time.Duration(math.MaxInt64)
	for _, tt := range []struct {
		name string
		got  Instant
		want Instant
	}{
		{"plain", Instant(5).Add(3), 8},
		{"back", Instant(5).Add(-3), 2},
		{"the longest time", Instant(5).Add(most), Never - 1},
		{"all but the longest time", Instant(5).Add(most - 5), Never - 1},
		{"one more than there is", Instant(5).Add(most - 4), Never - 1},
		{"the last step", (Never - 1).Add(1), Never - 1},
		{"none", Instant(5).Add(0), 5},
		{"from never", Never.Add(-most), Never},
		{"far back", Instant(5).Add(-most), 5 - Instant(most)},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
	for _, tt := range []struct {
		name string
		got  time.Duration
		want time.Duration
	}{
		{"plain", Instant(5).Sub(3), 2},
		{"before", Instant(3).Sub(5), -2},
		{"never", Never.Sub(5), most},
		{"from far back", Instant(math.MaxInt64 - 1).Sub(-5), most},
		{"from as far back as can be", Instant(0).Sub(math.MinInt64), most},
		{"both far back", Instant(-5).Sub(-7), 2},
		{"the other way", Instant(-7).Sub(-5), -2},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}

// What is past by either clock is past.
func TestEndsAreHeldAgainstBothClocks(t *testing.T) {
	at := start.Wall.Add(time.Minute)
	e := endAt(at, start)
	for _, tt := range []struct {
		name       string
		mono, wall time.Duration // since start
		past       bool
	}{
		{"before", time.Minute - 1, time.Minute - 1, false},
		{"at", time.Minute, time.Minute, true},
		{"the machine slept", sec, time.Minute, true},
		{"the machine slept, not yet", sec, time.Minute - 1, false},
		{"the clock was set back", time.Minute, -time.Hour, true},
		{"the clock was set back, not yet", time.Minute - 1, -time.Hour, false},
	} {
		now := Now{Wall: start.Wall.Add(tt.wall), Mono: start.Mono.Add(tt.mono)}
		if got := e.Past(now); got != tt.past {
			t.Errorf("%s: past %v", tt.name, got)
		}
		if got := e.Instant(now) <= now.Mono; got != tt.past {
			t.Errorf("%s: comes at %v, and it is %v", tt.name, e.Instant(now), now.Mono)
		}
	}
}

func TestEndsFarAway(t *testing.T) {
	far := endAt(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), start)
	if far.Past(start) || far.Instant(start) <= start.Mono || far.Instant(start) == Never {
		t.Errorf("an end in the year 9999 comes at %d", far.Instant(start))
	}
	gone := endAt(time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), start)
	if !gone.Past(start) || gone.Instant(start) > start.Mono {
		t.Errorf("an end in the year 1 comes at %d", gone.Instant(start))
	}
	if never := endAt(time.Time{}, start); never.Past(start) || never.Instant(start) != Never {
		t.Error("no end comes")
	}
	if both := far.earlier(gone); both != gone {
		t.Errorf("the earlier one is %v", both)
	}
	if one := (End{}).earlier(far); one != far {
		t.Errorf("the earlier one is %v", one)
	}
}

// Each hand of an end is the earlier one of the two.
func TestEarlierEndByEachHand(t *testing.T) {
	a := End{Wall: start.Wall, Mono: 10}
	b := End{Wall: start.Wall.Add(-1), Mono: 20}
	want := End{Wall: start.Wall.Add(-1), Mono: 10}
	if a.earlier(b) != want || b.earlier(a) != want {
		t.Errorf("%v and %v", a.earlier(b), b.earlier(a))
	}
}

func TestClockReadsBothHands(t *testing.T) {
	origin := time.Now()
	c := NewClock(origin)
	if now := c.Now(origin); now.Mono != 1 || !now.Wall.Equal(origin) {
		t.Errorf("at the origin it is %v", now)
	}
	now := c.Now(origin.Add(sec))
	if now.Mono != Instant(sec)+1 {
		t.Errorf("a second later it is %v", now.Mono)
	}
	if got := now.Time(1); !got.Equal(origin.Round(0)) {
		t.Errorf("the origin was at %v, want %v", got, origin)
	}
	if !now.Time(0).IsZero() || !now.Time(Never).IsZero() {
		t.Error("what has not happened, or never will, has a time")
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range []time.Duration{retryMin, retryMin, sec, 2 * sec, 4 * sec, 8 * sec, retryMax, retryMax} {
		if got := backoff(n, retryMin, retryMax); got != want {
			t.Errorf("after %d: %v, want %v", n, got, want)
		}
	}
	if got := backoff(1<<40, retryMin, retryMax); got != retryMax {
		t.Errorf("after very many: %v", got)
	}
}

// However long ago it was, an end's Instant is one: 0 would be none.
func TestEndsLongPastAreInstants(t *testing.T) {
	if e := endAt(start.Wall.Add(-2*time.Duration(start.Mono)), start); e.Mono != 1 {
		t.Errorf("it ended at %d", e.Mono)
	}
	if e := endAfter(-2*time.Duration(start.Mono), start); e.Mono != 1 {
		t.Errorf("it ended at %d", e.Mono)
	}
	local := start.Wall.In(time.FixedZone("", 3600))
	if e := endAt(time.Now(), Now{Wall: local, Mono: 1}); e.Wall != e.Wall.Round(0) {
		t.Error("it has a monotonic reading")
	}
}
