package rotation

import (
	"testing"
	"time"
)

// How often the source is read in the background.
func TestHowOftenTheSourceIsRead(t *testing.T) {
	quietly := func(cfg Config) Config { cfg.Notified = false; return cfg }
	lag := func(cfg Config, d time.Duration) Config { cfg.Lag = d; return cfg }
	for _, tt := range []struct {
		name string
		cfg  Config
		run  func(r *rig)
		want time.Duration
	}{
		{"one that tells", overlapping(), nil, 0},
		{"one that doesn't, with a long lag", quietly(overlapping()), nil, watchMax},
		{"with a lag of 3 s", quietly(lag(overlapping(), 3*sec)), nil, 3 * sec},
		{"with no lag", quietly(lag(overlapping(), 0)), nil, watchMin},
		{"in place", quietly(inPlace()), nil, watchMax},
		{"tokens", loginTokens(), nil, 0},
		{"callers wait for a login", overlapping(), func(r *rig) { r.step(Waiting{N: 1}) }, 0},
		{"callers wait for acceptance", overlapping(), func(r *rig) { r.s.refuse(r.s.current(), false, r.now); r.step(Waiting{N: 1}) }, waitMin},
		{"nobody waits", overlapping(), func(r *rig) { r.s.refuse(r.s.current(), false, r.now) }, 0},
		{"callers have waited for 16 s", overlapping(), func(r *rig) {
			r.s.refuse(r.s.current(), false, r.now)
			r.after(16 * sec)
			r.step(Waiting{N: 1})
		}, 500 * ms},
		{"for long", overlapping(), func(r *rig) {
			r.s.refuse(r.s.current(), false, r.now)
			r.after(time.Hour)
			r.step(Waiting{N: 1})
		}, waitMax},
		{"callers wait for a newer one", overlapping(), func(r *rig) {
			r.readUser(1, 1, r.now.Wall.Add(sec))
			r.step(Waiting{N: 1})
			r.after(sec)
		}, waitMin},
		{"tokens, callers wait for acceptance", loginTokens(), func(r *rig) { r.s.refuse(r.s.current(), false, r.now); r.step(Waiting{N: 1}) }, waitMin},
	} {
		r := newRig(t, tt.cfg)
		if tt.run != nil {
			tt.run(r)
		}
		if got := r.s.readEvery(r.now); got != tt.want {
			t.Errorf("%s: every %v, want %v", tt.name, got, tt.want)
		}
	}
}

// reads runs for d and returns how often a source was read that gives a login for each.
func (r *rig) reads(d time.Duration, give func(n int) VersionID) int {
	n := 0
	end := r.now.Mono.Add(d)
	for r.now.Mono < end {
		for r.fx.Read != DontRead || r.act() {
			if r.fx.Read != DontRead {
				n++
				r.readUser(give(n), 1, time.Time{})
			}
		}
		r.until(min(r.fx.Wake, end))
	}
	return n
}

func TestASourceThatRepeatsItselfIsReadAtItsPace(t *testing.T) {
	cfg := overlapping()
	cfg.Notified, cfg.Lag = false, 2*sec
	r := newRig(t, cfg)
	if n := r.reads(time.Minute, func(int) VersionID { return 1 }); n < 29 || n > 31 {
		t.Errorf("%d reads in a minute, want 30", n)
	}
}

// A source that never repeats itself is read ever less often, and that is told of; once it
// does, it is read as before.
func TestASourceThatNeverRepeatsItself(t *testing.T) {
	cfg := overlapping()
	cfg.Notified, cfg.Lag = false, 0
	r := newRig(t, cfg)
	other := func(n int) VersionID { return VersionID(1000 + n) }
	if n := r.reads(time.Minute, other); n > 15 {
		t.Errorf("%d reads in the first minute", n)
	}
	other = func(n int) VersionID { return VersionID(2000 + n) }
	if n := r.reads(time.Minute, other); n > 6 {
		t.Errorf("%d reads in the second minute", n)
	}
	if r.heard(Unsettled) != 1 {
		t.Errorf("told %d times", r.heard(Unsettled))
	}
	if p := r.s.Problems(r.now); len(p) != 1 || p[0].Kind != SourceUnsettled {
		t.Errorf("problems %+v", p)
	}
	last := r.s.Current()
	if n := r.reads(time.Minute, func(int) VersionID { return last }); n < 45 {
		t.Errorf("%d reads in a minute when it repeats itself", n)
	}
	if p := r.s.Problems(r.now); len(p) != 0 {
		t.Errorf("problems %+v", p)
	}
}

// Rotations that come now and then are no trouble.
func TestRotationsNowAndThenAreNoTrouble(t *testing.T) {
	r := newRig(t, overlapping())
	for v := VersionID(2); v < 50; v++ {
		r.after(2*watchMin + 1)
		r.read(v)
	}
	if r.s.unsettled(r.now) {
		t.Error("a rotation every few seconds is taken for a source that never repeats itself")
	}
}

// A burst of rotations over a source that tells of them passes, though nobody reads it
// again: the drain goes at its own pace then.
func TestABurstOfRotationsPasses(t *testing.T) {
	r := newRig(t, overlapping())
	const burst = 10
	for v := VersionID(2); v < 2+burst; v++ {
		r.read(v)
		r.after(10 * ms)
	}
	last := r.s.movedAt
	floor := 2 * backoff(burst-unsettledAt+1, watchMin, unsettledMax)
	for _, tt := range []struct {
		since time.Duration
		want  bool
	}{{0, true}, {floor, true}, {floor + 1, false}} {
		now := r.now
		now.Mono = last.Add(tt.since)
		if got := r.s.unsettled(now); got != tt.want {
			t.Errorf("%v after the last one: unsettled %v", tt.since, got)
		}
	}
}

// A source that fails is read less and less often, and that is told of once.
func TestASourceThatFails(t *testing.T) {
	cfg := overlapping()
	cfg.Notified, cfg.Lag = false, sec
	r := newRig(t, cfg)
	r.connect()
	n := 0
	for end := r.now.Mono.Add(time.Minute); r.now.Mono < end; {
		if r.fx.Read != DontRead {
			n++
			r.step(ReadFailed{})
			continue
		}
		r.until(min(r.fx.Wake, end))
	}
	if n < 10 || n > 20 {
		t.Errorf("%d reads in a minute", n)
	}
	if r.heard(SourceFailed) != 1 {
		t.Errorf("told %d times", r.heard(SourceFailed))
	}
	if p := r.s.Problems(r.now); len(p) != 1 || p[0].Kind != SourceFails || !p[0].CanConnect {
		t.Errorf("problems %+v", p)
	}
	r.read(1)
	if r.heard(SourceHealed) != 1 || len(r.s.Problems(r.now)) != 0 {
		t.Error("it isn't healed")
	}
}

// A read that is asked for and hangs isn't asked for again at once.
func TestAReadThatHangsIsNotAskedForAgainAtOnce(t *testing.T) {
	cfg := overlapping()
	cfg.Notified, cfg.Lag = false, sec
	r := newRig(t, cfg)
	r.after(sec)
	if r.fx.Read != ReadAgain {
		t.Fatal("it isn't read")
	}
	for range 9 {
		r.after(sec / 10)
		if r.fx.Read != DontRead {
			t.Fatal("it is read again")
		}
	}
	r.after(sec / 10)
	if r.fx.Read != ReadAgain {
		t.Error("it isn't read a second later")
	}
}

// Each refusal that counts has the source read past caches, once.
func TestRefusalsHaveTheSourceReadAfresh(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	a, b := r.begin(), r.begin()
	r.after(ms)
	if r.refuse(a); r.fx.Read != ReadAfresh {
		t.Errorf("read %v", r.fx.Read)
	}
	if r.refuse(b); r.fx.Read != DontRead {
		t.Errorf("one that went out together with it: read %v", r.fx.Read)
	}
}

// Four reads in a row that find another login, each soon after the last, are too many; then
// the pauses grow, and what is soon with them.
func TestWhatIsUnsettled(t *testing.T) {
	quiet := overlapping()
	quiet.Notified, quiet.Lag = false, 3*sec
	for _, tt := range []struct {
		name  string
		cfg   Config
		pause time.Duration
		reads int
		want  int
	}{
		{"three", overlapping(), 0, 3, 3},
		{"four", overlapping(), 0, 4, 4},
		{"just soon", overlapping(), 2 * watchMin, 3, 3},
		{"not soon", overlapping(), 2*watchMin + 1, 3, 1},
		{"soon for one that is read every three seconds", quiet, 6 * sec, 3, 3},
		{"not soon for it", quiet, 6*sec + 1, 3, 1},
		{"soon for one that is unsettled", overlapping(), 2 * watchMin, 5, 5},
	} {
		r := newRig(t, tt.cfg)
		for v := range tt.reads {
			r.after(tt.pause)
			r.read(VersionID(v + 2))
		}
		if r.s.moved != tt.want {
			t.Errorf("%s: %d count, want %d", tt.name, r.s.moved, tt.want)
		}
		if got := r.s.unsettled(r.now); got != (tt.want >= 4) {
			t.Errorf("%s: unsettled %v", tt.name, got)
		}
		r.read(r.s.Current())
		if r.s.moved != 0 {
			t.Errorf("%s: when it repeats itself %d count", tt.name, r.s.moved)
		}
	}
	for moved, want := range map[int]time.Duration{4: sec, 5: 2 * sec, 6: 4 * sec, 7: 8 * sec, 8: 10 * sec} {
		r := newRig(t, overlapping())
		r.s.moved, r.s.movedAt = moved, r.now.Mono
		if got := r.s.settle(); got != want {
			t.Errorf("after %d: a pause of %v, want %v", moved, got, want)
		}
		if got := r.s.readEvery(r.now); got != 0 {
			t.Errorf("one that tells is read every %v", got)
		}
		r.after(2 * want)
		if r.read(2); r.s.moved != moved+1 {
			t.Errorf("after %d: %d", moved, r.s.moved)
		}
		r.s.moved = moved
		r.after(2*want + 1)
		if r.read(3); r.s.moved != 1 {
			t.Errorf("after %d and a long pause: %d", moved, r.s.moved)
		}
	}
}

func TestThatASourceIsUnsettledIsToldOf(t *testing.T) {
	r := newRig(t, overlapping())
	r.after(sec)
	for v := VersionID(2); v <= 5; v++ {
		r.read(v)
	}
	since := r.now.Mono
	r.after(sec)
	if p := r.s.Problems(r.now); len(p) != 1 || p[0].Kind != SourceUnsettled || p[0].Since != since {
		t.Errorf("problems %+v", p)
	}
	for _, n := range r.told {
		if n.Kind == Unsettled && n.Version != 5 {
			t.Errorf("told of %+v", n)
		}
	}
}

// After a failure, the pause before the next read counts from it.
func TestTheNextReadCountsFromAFailure(t *testing.T) {
	cfg := overlapping()
	cfg.Notified, cfg.Lag = false, sec
	r := newRig(t, cfg)
	r.after(sec - 1)
	r.step(ReadFailed{})
	if got := r.fx.Wake; got != r.now.Mono.Add(sec) {
		t.Errorf("it is read again after %v", got.Sub(r.now.Mono))
	}
}
