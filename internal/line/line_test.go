package line

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const (
	ms   = time.Millisecond
	base = time.Minute
)

func at(d time.Duration) rotation.Instant { return rotation.Instant(time.Hour + d) }

func going(ids ...rotation.SessionID) func(rotation.SessionID) bool {
	return func(id rotation.SessionID) bool { return slices.Contains(ids, id) }
}

// born notes births and checks how long each waits.
func born(t *testing.T, l *Line, births ...time.Duration) {
	t.Helper()
	for i, d := range births {
		if wait := l.HandedOut(rotation.SessionID(i+1), at(d)); wait != 0 {
			t.Fatalf("a session that is born at %v waits %v", d, wait)
		}
	}
}

// Births are half a millisecond apart, so that sessions are distinct by age.
func TestBirthsAreSpaced(t *testing.T) {
	l := New(base)
	for i, tt := range []struct{ born, wait time.Duration }{
		{0, 0},
		{0, Spacing},
		{0, 2 * Spacing},
		{3 * Spacing, 0},
		{4*Spacing - 1, 1},
		{5 * Spacing, 0},
	} {
		if wait := l.HandedOut(rotation.SessionID(i+1), at(tt.born)); wait != tt.wait {
			t.Errorf("born at %v it waits %v, want %v", tt.born, wait, tt.wait)
		}
	}
}

// The line is drawn above the last one that may go, and below the next; and is set anew
// before it has moved far.
func TestWhereTheLineIs(t *testing.T) {
	for _, tt := range []struct {
		name    string
		births  []time.Duration
		going   []rotation.SessionID
		now     time.Duration
		life    time.Duration
		refresh time.Duration
	}{
		{"the only one", []time.Duration{0}, []rotation.SessionID{1}, 100 * ms, 98 * ms, maxRefresh},
		{"with a neighbour far off", []time.Duration{0, 10 * time.Second}, []rotation.SessionID{1}, 20 * time.Second, 20*time.Second - slack, maxRefresh},
		{"with one 100 ms younger", []time.Duration{0, 100 * ms}, []rotation.SessionID{1}, time.Second, time.Second - slack, 25 * ms},
		{"with one 2 ms younger", []time.Duration{0, 2 * ms}, []rotation.SessionID{1}, time.Second, time.Second - ms, minRefresh},
		{"with the nearest there is", []time.Duration{0, Spacing}, []rotation.SessionID{1}, time.Second, time.Second - Spacing/2, minRefresh},
		{"the last of several", []time.Duration{0, 10 * ms, 20 * ms}, []rotation.SessionID{1, 3}, time.Second, 980*ms - slack, maxRefresh},
		{"one in the middle", []time.Duration{0, 10 * ms, 20 * ms}, []rotation.SessionID{2}, time.Second, 990*ms - slack, 10 * ms / 4},
		{"one that has just been born", []time.Duration{0}, []rotation.SessionID{1}, ms, 1, maxRefresh},
		{"one that is older than the base", []time.Duration{0}, []rotation.SessionID{1}, 2 * base, base, maxRefresh},
	} {
		l := New(base)
		born(t, l, tt.births...)
		set, wake := l.Step(going(tt.going...), at(tt.now))
		if want := []time.Duration{base, tt.life}; !slices.Equal(set, want) {
			t.Errorf("%s: sets %v, want %v", tt.name, set, want)
		}
		if want := at(tt.now + tt.refresh); wake != want {
			t.Errorf("%s: looks again in %v, want %v", tt.name, wake.Sub(at(tt.now)), tt.refresh)
		}
	}
}

// One that doesn't go is idle, and database/sql has got it later than was thought, or in use,
// and then it doesn't matter: the longer it is awaited the higher the line, as long as that
// stays below its neighbour.
func TestTheLineRisesToThoseThatAreLate(t *testing.T) {
	l := New(time.Hour)
	born(t, l, 0, 10*time.Second)
	for _, tt := range []struct {
		going  rotation.SessionID
		waited time.Duration
		margin time.Duration
	}{
		{2, 0, slack},
		{2, 4 * slack, slack},
		{2, 4*slack + 4, slack + 1},
		{2, time.Second, 250 * ms},
		{2, time.Minute, 15 * time.Second},
		{1, 0, slack},
		{1, 16 * time.Second, 4 * time.Second},
		{1, 20 * time.Second, 5 * time.Second},
		{1, 24 * time.Second, 5 * time.Second},
	} {
		since, birth := 20*time.Second, 10*time.Second
		if tt.going == 1 {
			since, birth = 100*time.Second, 0
		}
		set, _ := l.Step(going(tt.going), at(since+tt.waited))
		if got, want := set[len(set)-1], since+tt.waited-birth-tt.margin; got != want {
			t.Errorf("%d is awaited for %v: the line is %v above its birth, want %v", tt.going, tt.waited, since+tt.waited-birth-got, tt.margin)
		}
	}
}

// The cleaner is woken, by a lifetime that is shortened, when the line is held anew, when
// it is elsewhere, and every 50 ms.
func TestWhenTheCleanerIsWoken(t *testing.T) {
	l := New(base)
	born(t, l, 0, 10*ms)
	for _, tt := range []struct {
		now   time.Duration
		going rotation.SessionID
		sets  int
	}{
		{100 * ms, 1, 2},
		{100*ms + cleanerGap - 1, 1, 1},
		{100*ms + cleanerGap, 1, 2},
		{101*ms + cleanerGap, 2, 2},
		{102*ms + cleanerGap, 0, 1}, // let go
		{103*ms + cleanerGap, 0, 0},
		{104*ms + cleanerGap, 2, 2},
	} {
		set, wake := l.Step(going(tt.going), at(tt.now))
		if len(set) != tt.sets {
			t.Errorf("at %v with %d going it sets %v", tt.now, tt.going, set)
		}
		if len(set) == 2 && set[0] <= set[1] {
			t.Errorf("at %v nothing is shortened: %v", tt.now, set)
		}
		if tt.going == 0 && (wake != rotation.Never || len(set) == 1 && set[0] != base) {
			t.Errorf("at %v, let go, it sets %v and looks again at %v", tt.now, set, wake)
		}
	}
}

func TestSessionsThatAreOver(t *testing.T) {
	l := New(base)
	born(t, l, 0, 10*ms, 20*ms)
	l.Ended(3)
	l.Ended(3)
	if set, _ := l.Step(going(3), at(time.Second)); len(set) != 0 {
		t.Errorf("for one that is over it sets %v", set)
	}
	if _, wake := l.Step(going(2), at(time.Second)); wake != at(time.Second+maxRefresh) {
		t.Error("one that is over is a neighbour")
	}
	l.Ended(2)
	if set, wake := l.Step(going(), at(time.Second)); len(set) != 1 || set[0] != base || wake != rotation.Never {
		t.Errorf("when the one that was awaited is over it sets %v", set)
	}
}

func TestBase(t *testing.T) {
	if got := New(base).Base(); got != base {
		t.Errorf("%v", got)
	}
	if got := New(0).Base(); got != Unlimited || got <= 0 {
		t.Errorf("without a limit it is %v", got)
	}
}

// While twenty that were born in one burst are drained the line is set no more than 500
// times a second.
func TestTheLineIsNotSetTooOften(t *testing.T) {
	l := New(base)
	for i := range 20 {
		l.HandedOut(rotation.SessionID(i+1), at(0))
	}
	sets := 0
	for now := at(time.Second); now < at(2*time.Second); {
		_, wake := l.Step(going(1), now)
		sets++
		now = wake
	}
	if sets > 501 {
		t.Errorf("%d times in a second", sets)
	}
}

// The longer one that is in use is awaited the less often the line is set anew: from four
// times a second to once a minute. For another one, or the same one again, that begins anew.
func TestHowLongOneIsAwaited(t *testing.T) {
	l := New(time.Hour)
	born(t, l, 0, 10*ms)
	for _, tt := range []struct {
		now     time.Duration
		going   rotation.SessionID
		refresh time.Duration
	}{
		{time.Second, 2, 250 * ms},
		{5 * time.Second, 2, 250 * ms},
		{17 * time.Second, 2, time.Second},
		{161 * time.Second, 2, 10 * time.Second},
		{time.Hour, 2, time.Minute},
		{time.Hour + time.Second, 1, 10 * ms / 4}, // another one, which has a neighbour
		{time.Hour + 2*time.Second, 2, 250 * ms},
		{time.Hour + 34*time.Second, 2, 2 * time.Second},
		{time.Hour + 35*time.Second, 0, 0}, // let go
		{time.Hour + 36*time.Second, 2, 250 * ms},
	} {
		_, wake := l.Step(going(tt.going), at(tt.now))
		if want := at(tt.now + tt.refresh); tt.going != 0 && wake != want {
			t.Errorf("at %v: looks again in %v, want %v", tt.now, wake.Sub(at(tt.now)), tt.refresh)
		}
	}
}

// What the package's comments promise in numbers. Other tests go by the names.
func TestNumbersThatArePromised(t *testing.T) {
	for _, tt := range []struct {
		name      string
		got, want time.Duration
	}{
		{"between two births", Spacing, ms / 2},
		{"until database/sql stamps a session", slack, 2 * ms},
		{"between two rounds of the cleaner", cleanerGap, 50 * ms},
		{"until the line is set anew, at the least", minRefresh, 2 * ms},
		{"at the most", maxRefresh, 250 * ms},
		{"and for one that is in use for long", longRefresh, time.Minute},
		{"of a connection, without a limit", Unlimited, math.MaxInt64 / 4},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

// The line is set some hundred times a second: that allocates nothing.
func TestStepAllocatesNothing(t *testing.T) {
	l := New(base)
	born(t, l, 0, 10*ms)
	one := going(1)
	now := at(time.Second)
	if n := testing.AllocsPerRun(100, func() { l.Step(one, now); now = now.Add(cleanerGap) }); n != 0 {
		t.Errorf("%v times", n)
	}
}
