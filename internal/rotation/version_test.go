package rotation

import (
	"fmt"
	"testing"
	"time"
)

// A read that began before another one found the current version, or its end, must not
// turn that back.
func TestWhichReadsAreStale(t *testing.T) {
	end := start.Wall.Add(time.Hour)
	for _, tt := range []struct {
		name  string
		cfg   Config
		first CredentialRead // as read by the one that overtakes
		late  CredentialRead // as read by the one that is overtaken
		stale bool
	}{
		{"the same", overlapping(), CredentialRead{Version: 2, User: 2}, CredentialRead{Version: 2, User: 2}, false},
		{"another", overlapping(), CredentialRead{Version: 2, User: 2}, CredentialRead{Version: 1, User: 1}, true},
		{"a newer end", overlapping(), CredentialRead{Version: 1, NotAfter: end}, CredentialRead{Version: 1, NotAfter: end.Add(1)}, false},
		{"an older end", overlapping(), CredentialRead{Version: 1, NotAfter: end}, CredentialRead{Version: 1, NotAfter: end.Add(-1)}, true},
		{"no end", overlapping(), CredentialRead{Version: 1, NotAfter: end}, CredentialRead{Version: 1}, true},
		{"an older token", loginTokens(), CredentialRead{Version: 1, NotAfter: end}, CredentialRead{Version: 1, NotAfter: end.Add(-1)}, false},
		{"another user's token", loginTokens(), CredentialRead{Version: 2, User: 2}, CredentialRead{Version: 1, User: 1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			epoch := r.s.Epoch()
			tt.first.Epoch, tt.late.Epoch = epoch, epoch
			r.step(tt.first)
			if r.fx.Stale {
				t.Fatal("the first is stale")
			}
			if r.step(tt.late); r.fx.Stale != tt.stale {
				t.Errorf("stale %v, want %v", r.fx.Stale, tt.stale)
			}
			if tt.stale {
				if got := r.s.Current(); got != tt.first.Version {
					t.Errorf("the current version is %d", got)
				}
				tt.late.Epoch = r.s.Epoch()
				if r.step(tt.late); r.fx.Stale {
					t.Error("it is stale when it is read again")
				}
			}
		})
	}
}

// Usable means usable to the end of a checkout.
func TestWhichVersionsAreUsable(t *testing.T) {
	in := func(d time.Duration) time.Time { return start.Wall.Add(d) }
	left := 50 * sec // of the overlap, when a successor is read
	for _, tt := range []struct {
		name   string
		cfg    Config
		end    time.Time // of the first one
		proven bool
		dead   bool
		no     bool // its last login was refused
		second bool // a successor comes at once
		third  bool // and another one
		proof  bool // the latest one has worked
		after  time.Duration
		usable bool
	}{
		{name: "the latest", cfg: overlapping(), usable: true},
		{name: "the latest, before its end", cfg: overlapping(), end: in(sec), after: sec - 1, usable: true},
		{name: "the latest, at its end", cfg: overlapping(), end: in(sec), after: sec},
		{name: "a predecessor", cfg: overlapping(), proven: true, second: true, usable: true},
		{name: "a predecessor that never worked", cfg: overlapping(), second: true},
		{name: "a dead one", cfg: overlapping(), proven: true, second: true, dead: true},
		{name: "a predecessor with more than a checkout left", cfg: overlapping(), proven: true, second: true, after: left - 10*sec - 1, usable: true},
		{name: "with exactly a checkout left", cfg: overlapping(), proven: true, second: true, after: left - 10*sec},
		{name: "whose lease leaves more", cfg: overlapping(), end: in(30 * sec), proven: true, second: true, after: 20*sec - 1, usable: true},
		{name: "whose lease leaves a checkout", cfg: overlapping(), end: in(30 * sec), proven: true, second: true, after: 20 * sec},
		{name: "the one before the last", cfg: overlapping(), proven: true, second: true, third: true, usable: true},
		{name: "in place", cfg: inPlace(), proven: true, second: true, usable: true},
		{name: "in place, once the successor has worked", cfg: inPlace(), proven: true, second: true, proof: true},
		{name: "in place, one that never worked", cfg: inPlace(), second: true},
		{name: "in place, not the immediate one", cfg: inPlace(), proven: true, second: true, third: true},
		{name: "in place, without fallback", cfg: func() Config { c := inPlace(); c.NoFallback = true; return c }(), proven: true, second: true},
		{name: "tokens of another user", cfg: loginTokens(), end: in(sec), proven: true, second: true, after: sec - 1, usable: true},
		{name: "tokens of another user, whose last one was refused", cfg: loginTokens(), proven: true, no: true, second: true},
		{name: "of the latest user", cfg: loginTokens(), proven: true, no: true, usable: true},
		{name: "and their end", cfg: loginTokens(), end: in(sec), proven: true, second: true, after: sec},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			r.readUser(1, 1, tt.end)
			v := r.s.versions[0]
			if tt.proven {
				r.connect() // so that it is remembered
			}
			v.proven, v.dead = tt.proven, tt.dead
			if tt.no {
				v.refusedAt = r.now.Mono
			}
			if tt.second {
				r.read(2)
			}
			if tt.third {
				r.read(3)
			}
			r.s.versions[0].proven = r.s.versions[0].proven || tt.proof
			r.now.Mono, r.now.Wall = r.now.Mono.Add(tt.after), r.now.Wall.Add(tt.after)
			if got := r.s.usable(v, r.now); got != tt.usable {
				t.Errorf("usable %v, want %v", got, tt.usable)
			}
		})
	}
}

// What is older is outdated once a newer version has worked, and while that is neither
// refused, nor dead, nor over.
func TestWhichVersionsAreOutdated(t *testing.T) {
	for _, tt := range []struct {
		name     string
		run      func(r *rig)
		outdated []bool // newest first
	}{
		{"alone", func(*rig) {}, []bool{false}},
		{"the successor is unproven", func(r *rig) { r.read(2) }, []bool{false, false}},
		{"it has worked", func(r *rig) { r.read(2); r.s.versions[0].proven = true }, []bool{false, true}},
		{"it is refused", func(r *rig) { r.read(2); r.s.versions[0].proven = true; r.s.ep.on = true }, []bool{false, false}},
		{"it is dead", func(r *rig) { r.read(2); r.s.versions[0].proven = true; r.s.versions[0].dead = true }, []bool{false, false}},
		{"it is over", func(r *rig) {
			r.readUser(2, 2, r.now.Wall.Add(sec))
			r.s.versions[0].proven = true
			r.now.Mono = r.now.Mono.Add(sec)
		}, []bool{false, false}},
		{"the one between has worked, the latest is refused", func(r *rig) {
			r.read(2)
			r.s.versions[0].proven = true
			r.read(3)
			r.s.ep.on = true
		}, []bool{false, false, true}},
		{"it has come back", func(r *rig) {
			r.s.versions[0].proven = true
			r.s.newSession(r.s.versions[0], ForCaller, r.s.pool(thePool), r.now) // so that it is remembered
			r.read(2)
			r.s.versions[0].proven = true
			r.read(1)
		}, []bool{false, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			tt.run(r)
			for i, v := range r.s.versions {
				if got := r.s.outdated(v, r.now); got != tt.outdated[i] {
					t.Errorf("version %d: outdated %v", v.id, got)
				}
			}
		})
	}
}

// A version's end is the earlier one of its overlap's and its lease's; in place and of
// tokens only one of them counts, or none.
func TestHardEnds(t *testing.T) {
	lease := start.Wall.Add(20 * sec)
	for _, tt := range []struct {
		name       string
		cfg        Config
		notAfter   time.Time
		superseded bool
		end        time.Duration // from now; 0: none
	}{
		{"none", overlapping(), time.Time{}, false, 0},
		{"a lease", overlapping(), lease, false, 20 * sec},
		{"an overlap", overlapping(), time.Time{}, true, 50 * sec},
		{"both", overlapping(), lease, true, 20 * sec},
		{"a long lease", overlapping(), start.Wall.Add(time.Hour), true, 50 * sec},
		{"in place", inPlace(), time.Time{}, true, 0},
		{"in place, a lease", inPlace(), lease, true, 20 * sec},
		{"tokens", loginTokens(), lease, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			r.readUser(1, 1, tt.notAfter)
			r.connect()
			if tt.superseded {
				r.read(2)
			}
			var end End
			for _, e := range r.s.AppendEnds(nil) {
				if e.Version == 1 {
					end = e.End
				}
			}
			want := End{}
			if tt.end > 0 {
				want = endAfter(tt.end, r.now)
			}
			if end != want {
				t.Errorf("it ends at %v, want %v", end, want)
			}
		})
	}
}

// A version that comes back has no end, and is no longer superseded.
func TestAVersionThatComesBack(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.ok(r.own(Prove))
	r.s.versions[1].dead = true
	r.read(1)
	v := r.s.versions[0]
	if v.id != 1 || v.superseded != 0 || !r.s.hardEnd(v).IsZero() || !v.proven || v.dead {
		t.Errorf("version 1 is %+v", v)
	}
	if len(r.s.versions) != 2 {
		t.Errorf("%d versions", len(r.s.versions))
	}
	if got := r.heard(Rotated); got != 3 {
		t.Errorf("told of %d rotations", got)
	}
}

// An end that is read again keeps its monotonic hand, so that it comes even if the wall
// clock is set back; another one gets a new one.
func TestEndsThatAreReadAgain(t *testing.T) {
	r := newRig(t, overlapping())
	end := start.Wall.Add(20 * sec)
	r.readUser(1, 1, end)
	epoch := r.s.Epoch()
	r.now.Wall = r.now.Wall.Add(-time.Hour)
	r.readUser(1, 1, end)
	if got := r.s.hardEnd(r.s.versions[0]).Mono; got != start.Mono.Add(20*sec) {
		t.Errorf("it comes at %v", got)
	}
	if r.s.Epoch() != epoch {
		t.Error("an end that hasn't moved is a change")
	}
	r.readUser(1, 1, end.Add(sec))
	if got := r.s.hardEnd(r.s.versions[0]).Mono; got != start.Mono.Add(21*sec+time.Hour) {
		t.Errorf("the renewed one comes at %v", got)
	}
	if !r.fx.Ends || r.s.Epoch() == epoch {
		t.Error("an end that has moved is no change")
	}
}

// Versions without sessions are forgotten when nobody can fall back to them.
func TestWhatIsForgotten(t *testing.T) {
	forgets := func(r *rig, want ...VersionID) {
		r.t.Helper()
		if got := fmt.Sprint(r.fx.Forget); got != fmt.Sprint(want) {
			r.t.Errorf("forgets %v, want %v", got, want)
		}
	}
	t.Run("at the end of its overlap", func(t *testing.T) {
		r := newRig(t, overlapping())
		r.read(2)
		r.after(50*sec - 1)
		forgets(r)
		r.after(1)
		forgets(r, 1)
	})
	t.Run("not with sessions", func(t *testing.T) {
		r := newRig(t, overlapping())
		id := r.connect()
		r.read(2)
		r.after(51 * sec)
		forgets(r)
		r.end(id)
		forgets(r, 1)
	})
	t.Run("in place when its successor has worked", func(t *testing.T) {
		r := newRig(t, inPlace())
		id := r.connect()
		r.readUser(2, 1, time.Time{})
		own := r.own(Prove)
		r.end(id)
		forgets(r)
		r.ok(own)
		forgets(r, 1)
	})
	t.Run("a refused one after a minute", func(t *testing.T) {
		r := newRig(t, inPlace())
		r.refuse(r.begin())
		r.readUser(2, 1, time.Time{})
		r.after(memory - 1)
		forgets(r)
		r.after(1)
		forgets(r, 1)
	})
	t.Run("all but sixteen", func(t *testing.T) {
		r := newRig(t, overlapping())
		for v := VersionID(2); v <= 18; v++ {
			r.read(v)
		}
		forgets(r, 1)
		if len(r.s.versions) != 17 {
			t.Errorf("%d versions", len(r.s.versions))
		}
	})
}

func TestUsableIsAskedByNumber(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	for v, want := range map[VersionID]bool{1: true, 2: true, 3: false} {
		if got := r.s.Usable(v, r.now); got != want {
			t.Errorf("version %d is usable: %v", v, got)
		}
	}
	r.s.versions[1].dead = true
	if r.s.Usable(1, r.now) {
		t.Error("a dead one is usable")
	}
}

// A token that was over when it was read is over; of one that has ended since there is
// another whenever one is asked for.
func TestATokenThatWasOverWhenItWasRead(t *testing.T) {
	for _, tt := range []struct {
		left time.Duration
		want bool
	}{{-1, true}, {0, true}, {1, false}} {
		r := newRig(t, loginTokens())
		r.readUser(1, 1, r.now.Wall.Add(tt.left))
		r.after(sec)
		if got := r.s.expired(r.s.current(), r.now); got != tt.want {
			t.Errorf("read %v before its end: expired %v", tt.left, got)
		}
	}
}

// A read that succeeds ends the failures, and with them the pauses.
func TestAReadThatSucceeds(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(ReadFailed{})
	r.step(ReadFailed{})
	r.after(sec)
	r.read(1)
	if got := r.s.Snapshot(r.now); got.ReadAt != r.now.Mono || got.SourceFailing != 0 || r.s.readTried != r.now.Mono {
		t.Errorf("read at %v, failing since %v", got.ReadAt, got.SourceFailing)
	}
	if r.s.readFailures != 0 {
		t.Errorf("%d failures in a row", r.s.readFailures)
	}
}

// That a version ends soon is told again when its end was put off for long enough, and when
// it has come back.
func TestEndsAreToldOfAgain(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(40*sec))
	r.after(35 * sec)
	r.readUser(1, 1, r.now.Wall.Add(40*sec))
	r.after(35 * sec)
	if got := r.heard(EndsSoon); got != 2 {
		t.Errorf("after a renewal it is told %d times", got)
	}
	r.read(2)
	r.readUser(1, 1, r.now.Wall.Add(40*sec))
	r.after(35 * sec)
	if got := r.heard(EndsSoon); got != 3 {
		t.Errorf("when it has come back it is told %d times", got)
	}
}

// Only what is remembered of a pool at a rotation counts for its peak.
func TestARotationBringsThePeakDown(t *testing.T) {
	r := newRig(t, overlapping())
	ids := r.fill(5)
	for _, id := range ids[:3] {
		r.end(id)
	}
	p := r.s.pools[0]
	p.owed = 1
	r.read(2)
	if p.peak != 3 {
		t.Errorf("with 2 and 1 owed it is %d", p.peak)
	}
}

func TestADeadRoleIsToldOfOnce(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.s.resume()
	r.s.dies(r.s.versions[1])
	r.s.dies(r.s.versions[1])
	if r.step(Tick{}); !r.fx.Look {
		t.Error("nobody looks")
	}
	if got := r.heard(RoleDead); got != 1 {
		t.Errorf("it is told %d times", got)
	}
}

// When a version is forgotten that had an end, ends have changed.
func TestForgettingChangesEnds(t *testing.T) {
	for _, tt := range []struct {
		cfg   Config
		after time.Duration
		ends  bool
	}{{overlapping(), 50 * sec, true}, {inPlace(), 0, false}} {
		r := newRig(t, tt.cfg)
		r.read(2)
		if tt.after > 0 {
			if r.after(tt.after - 1); len(r.fx.Forget) != 0 {
				t.Errorf("kind %d: forgotten too early", tt.cfg.Kind)
			}
			r.after(1)
		}
		if len(r.fx.Forget) != 1 || r.fx.Forget[0] != 1 || r.fx.Ends != tt.ends {
			t.Errorf("kind %d: %v is forgotten, ends %v", tt.cfg.Kind, r.fx.Forget, r.fx.Ends)
		}
	}
}
