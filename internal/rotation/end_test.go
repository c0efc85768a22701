package rotation

import (
	"testing"
	"time"
)

// The successor of a lease is overdue in its last quarter, or a checkout before its end,
// whichever is earlier.
func TestWhenASuccessorIsOverdue(t *testing.T) {
	for _, tt := range []struct {
		cfg   Config
		lease time.Duration
		alarm time.Duration // from its beginning; 0: never
	}{
		{overlapping(), time.Hour, 45 * time.Minute},
		{overlapping(), 40 * sec, 30 * sec},
		{overlapping(), 20 * sec, 10 * sec},
		{inPlace(), time.Hour, 45 * time.Minute},
		{loginTokens(), time.Hour, 0},
		{overlapping(), 0, 0},
	} {
		r := newRig(t, tt.cfg)
		if tt.lease > 0 {
			r.readUser(1, 1, start.Wall.Add(tt.lease))
		}
		want := Never
		if tt.alarm > 0 {
			want = start.Mono.Add(tt.alarm)
		}
		if got := r.s.Snapshot(r.now).SuccessorDue; got != want {
			t.Errorf("kind %d, lease %v: due at %v, want %v", tt.cfg.Kind, tt.lease, got.Sub(start.Mono), tt.alarm)
		}
	}
}

// That it ends soon and that it has ended is told once each, and again only if a renewal
// had put it off; one that was over when it was read doesn't end soon.
func TestEndsAreToldOfOnce(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(40*sec))
	r.after(30*sec - 1)
	if r.heard(EndsSoon) != 0 || r.fx.Wake != r.now.Mono+1 {
		t.Errorf("a moment before it is told %d times, and wakes in %v", r.heard(EndsSoon), r.fx.Wake.Sub(r.now.Mono))
	}
	if r.after(1); r.heard(EndsSoon) != 1 {
		t.Error("then it isn't told")
	}
	for i := range 5 { // an end that jitters
		r.readUser(1, 1, start.Wall.Add(40*sec+time.Duration(i)*ms))
		r.after(ms)
	}
	if got := r.heard(EndsSoon); got != 1 {
		t.Errorf("told %d times that it ends soon", got)
	}
	r.after(20 * sec)
	r.after(sec)
	if got := r.heard(HasEnded); got != 1 {
		t.Errorf("told %d times that it has ended", got)
	}
	r.readUser(1, 1, r.now.Wall.Add(40*sec))
	r.after(40 * sec)
	if r.heard(EndsSoon) != 1 || r.heard(HasEnded) != 2 {
		t.Errorf("after a renewal: told %d and %d times", r.heard(EndsSoon), r.heard(HasEnded))
	}
	r = newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(-sec))
	if r.heard(EndsSoon) != 0 || r.heard(HasEnded) != 1 {
		t.Errorf("one that is over: told %d and %d times", r.heard(EndsSoon), r.heard(HasEnded))
	}
}

// Hard ends are announced when they move.
func TestHardEndsAreAnnounced(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	for _, tt := range []struct {
		name string
		run  func()
		says bool
	}{
		{"nothing", func() { r.after(sec) }, false},
		{"a lease", func() { r.readUser(1, 1, start.Wall.Add(time.Hour)) }, true},
		{"the same", func() { r.readUser(1, 1, start.Wall.Add(time.Hour)) }, false},
		{"renewed", func() { r.readUser(1, 1, start.Wall.Add(2*time.Hour)) }, true},
		{"superseded", func() { r.read(2) }, true},
		{"back", func() { r.readUser(1, 1, start.Wall.Add(2*time.Hour)) }, true},
	} {
		if tt.run(); r.fx.Ends != tt.says {
			t.Errorf("%s: says so %v", tt.name, r.fx.Ends)
		}
	}
}

// While a version with sessions has an end in sight the wall clock is looked at each second.
func TestTheWallClockIsLookedAt(t *testing.T) {
	cfg := overlapping()
	cfg.MaxLifetime = 0
	r := newRig(t, cfg)
	r.connect()
	if r.fx.Wake != Never {
		t.Errorf("with no end in sight it wakes in %v", r.fx.Wake.Sub(r.now.Mono))
	}
	if r.heard(SessionPastIt) != 0 {
		t.Error("a session without an end is past it")
	}
	r.readUser(1, 1, start.Wall.Add(time.Hour))
	if got := r.fx.Wake.Sub(r.now.Mono); got != wallEvery {
		t.Errorf("it wakes in %v", got)
	}
	r.now.Wall = r.now.Wall.Add(time.Hour) // the machine slept
	r.step(Tick{})
	if r.heard(SessionPastIt) != 1 {
		t.Error("the session isn't past it")
	}
	r.step(Tick{})
	if r.heard(SessionPastIt) != 1 || r.s.counts.Outlived != 1 {
		t.Error("it is told of again")
	}
}

// A session that goes after its end has been cut off, whatever it was told.
func TestWhatIsCutOffIsExpired(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(time.Minute))
	id := r.connect()
	r.after(time.Minute)
	r.end(id)
	if n := r.told[len(r.told)-1]; n.Reason != Expired {
		t.Errorf("told %+v", n)
	}
	if r.s.pools[0].owed != 0 {
		t.Error("it is owed")
	}
}

// For a version without sessions nobody looks at the wall clock.
func TestTheWallClockIsOfNoInterestWithoutSessions(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(time.Hour))
	if got := r.fx.Wake.Sub(r.now.Mono); got != 45*time.Minute {
		t.Errorf("it wakes in %v", got)
	}
}

// Who was told that it has ended, and hears of an end that is near, needs no warning.
func TestAnEndThatIsNearIsNoNewsAfterOneThatIsPast(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(-sec))
	r.readUser(1, 1, start.Wall.Add(5*sec))
	r.after(sec)
	if r.heard(HasEnded) != 1 || r.heard(EndsSoon) != 0 {
		t.Errorf("told %d and %d times", r.heard(HasEnded), r.heard(EndsSoon))
	}
}

func TestAnAlarmIsAnInstant(t *testing.T) {
	cfg := overlapping()
	cfg.MaxInUse = 2 * time.Duration(start.Mono)
	r := newRig(t, cfg)
	r.readUser(1, 1, start.Wall.Add(sec))
	if got := r.s.alarm(r.s.current(), r.now); got != 1 {
		t.Errorf("it is at %d", got)
	}
}
