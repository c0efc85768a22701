package rotation

import (
	"testing"
	"time"
)

// rotated is a rig whose pool has n sessions of version 1, which version 2 has just been
// proven to succeed; chance has it that the drain begins at once. A spare is ready.
func rotated(t *testing.T, cfg Config, n int) (*rig, []SessionID) {
	t.Helper()
	r := newRig(t, cfg)
	r.step(PoolLimit{Pool: thePool, Limit: 1000})
	ids := r.fill(n)
	r.after(2 * sec)
	r.readUser(2, 1, time.Time{}) // the same user: nobody asks after the old role
	r.s.cfg.DrainTime = 0         // no chance
	r.ok(r.own(Prove))
	r.s.cfg.DrainTime = cfg.DrainTime
	d := &r.s.pools[0].drain
	d.told, d.to = r.now.Mono, r.s.drainEnd(r.now)
	for _, x := range r.s.pools[0].members {
		if x.state != Pooled {
			r.s.move(x, Pooled, NotRetired, r.now)
		}
	}
	d.open, d.opened, d.hidden = false, 0, false
	r.step(Tick{})
	return r, ids
}

// Nothing is retired because another credential was read: only when it has worked.
func TestNothingIsRetiredBeforeProof(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.connect()
	r.read(2)
	own := r.own(Prove)
	r.after(5 * sec)
	r.state(id, Pooled)
	r.refuse(own)
	r.after(5 * sec)
	r.state(id, Pooled)
	r.logins = nil
}

// All are told at an even pace within nine tenths of the time, one at a time, the oldest
// first, each with a spare ready to take its place; and the drain is told of.
func TestADrainIsEven(t *testing.T) {
	r, ids := rotated(t, overlapping(), 9)
	from := r.now.Mono
	var gone []SessionID
	for range 2000 {
		for r.act() {
		}
		for _, id := range ids {
			if r.s.Session(id).State == NoSession && (len(gone) == 0 || gone[len(gone)-1] < id) {
				gone = append(gone, id)
				want := time.Duration(len(gone)) * 900 * ms // 9 s for 9 and one more gap
				if took := r.now.Mono.Sub(from); took < want-50*ms || took > want+50*ms {
					t.Errorf("session %d went after %v, want %v", id, took, want)
				}
			}
		}
		if len(gone) == 9 || r.fx.Wake > from.Add(20*sec) {
			break
		}
		r.until(r.fx.Wake)
	}
	if len(gone) != 9 {
		t.Fatalf("%v went, want %v", gone, ids)
	}
	if r.heard(DrainBegan) != 1 || r.heard(DrainDone) != 1 {
		t.Errorf("told of %d beginnings and %d ends", r.heard(DrainBegan), r.heard(DrainDone))
	}
	c := r.s.Snapshot(r.now).Counts
	if c.Drains != 1 || c.LastDrained != 9 || c.LastDrain < 8*sec || c.LastDrain > 9*sec || c.Ended[Superseded] != 9 {
		t.Errorf("counts %+v", c)
	}
}

// The pause by which a drain begins is by chance, a quarter of its time at the most.
func TestADrainBeginsByChance(t *testing.T) {
	var least, most time.Duration = time.Hour, 0
	for seed := range uint64(100) {
		cfg := overlapping()
		cfg.Seed = seed
		r := newRig(t, cfg)
		r.connect()
		r.read(2)
		r.ok(r.own(Prove))
		pause := r.s.pools[0].drain.told.Sub(r.now.Mono)
		least, most = min(least, pause), max(most, pause)
	}
	if least > sec/4 || most < 2*sec || most > 10*sec/4 {
		t.Errorf("between %v and %v", least, most)
	}
}

// It is somebody's turn only while a spare is ready that isn't owed.
func TestATurnNeedsASpare(t *testing.T) {
	r, ids := rotated(t, overlapping(), 3)
	r.until(r.s.pools[0].drain.slot())
	r.state(ids[0], Going)
	r.end(ids[0])
	if r.s.pools[0].owed != 1 {
		t.Fatalf("%d are owed", r.s.pools[0].owed)
	}
	r.after(5 * sec)
	r.state(ids[1], Due) // the spare takes the place of the first
	r.state(ids[2], Pooled)
	r.ok(r.own(Refill))
	r.state(ids[1], Going)
}

// After any end what was said is taken back until the next turn.
func TestGoingIsTakenBackAfterAnyEnd(t *testing.T) {
	r, ids := rotated(t, overlapping(), 5)
	r.until(r.s.pools[0].drain.slot())
	r.state(ids[0], Going)
	r.end(ids[3])
	r.state(ids[0], Due)
	if !r.fx.Marks {
		t.Error("that isn't said")
	}
	r.ok(r.own(Refill))
	r.state(ids[0], Going)
}

// Who was told and is in use doesn't hold up the others.
func TestTheNextIsToldWhenTheLastMustBeInUse(t *testing.T) {
	r, ids := rotated(t, overlapping(), 4)
	d := &r.s.pools[0].drain
	d.to = r.now.Mono // all at once
	r.step(Tick{})
	r.state(ids[0], Going)
	r.after(exposure - 1)
	r.state(ids[1], Pooled)
	r.after(1)
	r.state(ids[1], Going)
	r.state(ids[2], Pooled)
	r.after(exposure)
	r.state(ids[2], Going)
}

// When the time of the drain is over those in use go as they come back, spare or no spare;
// but not while logins fail.
func TestAnOverdueDrainWaitsForNoSpare(t *testing.T) {
	for _, failures := range []int{0, 1} {
		r, ids := rotated(t, overlapping(), 4)
		d := &r.s.pools[0].drain
		d.to = r.now.Mono.Add(ms)
		r.s.failures = failures
		for range 4 {
			r.after(exposure)
		}
		r.end(ids[0])
		r.logins = nil // the spare is owed, and no other comes
		r.after(exposure)
		want := Going
		if failures > 0 {
			want = Due
		}
		r.state(ids[1], want)
		r.state(ids[2], want)
	}
}

// Sessions of a dead role, and those whose time is over, go at once, all of them.
func TestWhoGoesAtOnce(t *testing.T) {
	r, ids := rotated(t, overlapping(), 5)
	r.s.versions[1].dead = true
	r.step(Tick{})
	for _, id := range ids {
		r.state(id, Going)
		if got := r.s.Session(id).Reason; got != Revoked {
			t.Errorf("session %d goes as %v", id, got)
		}
	}
	r = newRig(t, overlapping())
	ids = r.fill(2)
	r.until(r.s.byNumber(ids[0]).born.Add(40*sec - 1))
	r.state(ids[0], Due) // there is no spare
	r.after(1)
	r.state(ids[0], Going)
	if got := r.s.Session(ids[0]).Reason; got != Aged {
		t.Errorf("it goes as %v", got)
	}
}

// Marks are derived anew: what was told is taken back with its reason.
func TestMarksGoWithTheirReason(t *testing.T) {
	t.Run("a version comes back", func(t *testing.T) {
		r, ids := rotated(t, overlapping(), 3)
		r.until(r.s.pools[0].drain.slot())
		r.state(ids[0], Going)
		r.readUser(1, 1, time.Time{})
		r.state(ids[0], Pooled)
	})
	t.Run("its successor is refused", func(t *testing.T) {
		r, ids := rotated(t, overlapping(), 3)
		r.until(r.s.pools[0].drain.slot())
		r.s.refuse(r.s.current(), false, r.now)
		r.step(Tick{})
		r.state(ids[0], Pooled)
		if r.heard(DrainDone) != 0 {
			t.Error("an interrupted drain is done")
		}
		r.s.ep.on = false
		r.settle(15 * sec)
		r.state(ids[0], NoSession)
		if r.heard(DrainDone) != 1 {
			t.Error("it doesn't go on")
		}
	})
	t.Run("a lease is renewed", func(t *testing.T) {
		cfg := inPlace()
		r := newRig(t, cfg)
		r.readUser(1, 1, start.Wall.Add(time.Minute))
		ids := r.fill(2)
		r.until(start.Mono.Add(50 * sec))
		r.state(ids[0], Going)
		r.readUser(1, 1, start.Wall.Add(time.Hour))
		r.state(ids[0], Pooled)
		r.state(ids[1], Pooled)
	})
}

// Sessions that are held are left alone, but for the end of their credential.
func TestWhoIsHeldStays(t *testing.T) {
	r, ids := rotated(t, overlapping(), 3)
	r.step(Held{Session: ids[0]})
	r.settle(20 * sec)
	r.state(ids[0], Pooled)
	r.state(ids[1], NoSession)
	if r.heard(DrainDone) != 1 {
		t.Error("the drain isn't done")
	}
	r.step(Released{Session: ids[0]})
	r.settle(10 * sec)
	r.state(ids[0], NoSession)
}

// A pool that retires by age takes what is older along; another doesn't.
func TestOlderNeighbours(t *testing.T) {
	for _, byAge := range []bool{true, false} {
		r := newRig(t, overlapping())
		r.step(PoolAdded{Pool: thePool, Limit: 10, ByAge: byAge})
		old := r.connect()
		r.read(2)
		r.s.versions[0].proven, r.s.versions[0].provenAt = true, r.now.Mono
		r.logins = nil
		r.step(Held{Session: old})
		young := r.connect() // of 2, and older than the one of 1 that comes now
		r.s.find(young, Pooled).v = r.s.versions[0]
		late := r.connect()
		r.s.versions[0].sessions--
		r.s.versions[1].sessions++
		r.s.find(late, Pooled).v = r.s.versions[1]
		r.s.versions[1].dead = true
		r.step(Tick{})
		r.state(late, Going)
		want := Pooled
		if byAge {
			want = Going
			if got := r.s.Session(young).Reason; got != Neighbour {
				t.Errorf("it goes as %v", got)
			}
		}
		r.state(young, want)
	}
}

// In the steady state those that were born in one burst go one by one, each early enough
// for all after it to go in time, behind a spare.
func TestAgingConnectionsGoOneByOne(t *testing.T) {
	r := newRig(t, overlapping())
	ids := r.fill(8)
	last := r.s.byNumber(ids[7]).born.Add(40 * sec)
	gap := sec // an eighth of 8 s
	first := last.Add(-8*gap - 7*ms)
	r.until(first.Add(-spareLead - 1))
	r.none()
	r.after(20 * ms)
	r.ok(r.own(Replace))
	for i, id := range ids {
		for r.s.Session(id).State != NoSession {
			for r.act() {
			}
			if r.now.Mono > last {
				t.Fatalf("session %d is still there", id)
			}
			if r.s.Session(id).State != NoSession {
				r.until(r.fx.Wake)
			}
		}
		if at := r.now.Mono; at < first.Add(time.Duration(i)*gap-20*ms) || at > first.Add(time.Duration(i)*gap+20*ms) {
			t.Errorf("session %d went %v after the first should", id, at.Sub(first))
		}
	}
	if got := r.s.Snapshot(r.now).Counts.Ended[Aged]; got != 8 {
		t.Errorf("%d aged", got)
	}
}

// byNumber is the session itself.
func (s *State) byNumber(id SessionID) *session { return s.byID[id] }

// When nothing better can take their place, the last connections of a lease stay to its
// end; the others go a checkout before it.
func TestBeforeTheEndOfALeaseWithoutASuccessor(t *testing.T) {
	for _, tt := range []struct {
		name string
		born time.Duration // before the end
		by   time.Duration
	}{
		{"long before", 35 * sec, 10 * sec},
		{"just before those that go for its sake", 10*sec + 3*sec + 1, 10 * sec},
		{"when they went", 10*sec + 3*sec, 0},
		{"at the last moment", sec, 0},
	} {
		r := newRig(t, overlapping())
		r.readUser(1, 1, start.Wall.Add(time.Hour))
		ids := r.fill(2)
		end := start.Mono.Add(time.Hour)
		x := r.s.find(ids[0], Pooled)
		x.born = end.Add(-tt.born)
		if by, why := r.s.mustGoBy(x, r.s.pools[0], r.now); by != end.Add(-tt.by) || why != Ending {
			t.Errorf("%s: must go %v before the end, as %v", tt.name, end.Sub(by), why)
		}
	}
}

// A superseded version's sessions go a checkout before its end even if the drain isn't
// done; but not before a successor has worked.
func TestBeforeTheEndOfAnOverlap(t *testing.T) {
	cfg := overlapping()
	cfg.MaxLifetime, cfg.DrainTime = 0, time.Hour
	for _, proven := range []bool{true, false} {
		r := newRig(t, cfg)
		id := r.connect()
		r.readUser(2, 1, time.Time{})
		own := r.own(Prove)
		if proven {
			r.ok(own)
		}
		r.logins = nil
		r.until(r.s.versions[1].overlap.Mono.Add(-10 * sec))
		want := Pooled
		if proven {
			want = Going
		}
		r.state(id, want)
		r.logins = nil
	}
}

// A connection's age never exceeds the limit: with another one after the other going,
// wherever the drain stands.
func TestTheLifetimeIsUpToATenthShorter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for seed := range uint64(100) {
		cfg := overlapping()
		cfg.Seed = seed
		l := New(cfg).Lifetime()
		if l > cfg.MaxLifetime || l < cfg.MaxLifetime*9/10 {
			t.Errorf("a lifetime of %v", l)
		}
		seen[l] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d lifetimes of 100 differ", len(seen))
	}
	if l := New(inPlace()).Lifetime(); l != 0 {
		t.Errorf("without a limit it is %v", l)
	}
}

// Two pools share the spares: one whose turn it is in vain doesn't hold up the other.
func TestPoolsTakeTurns(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(PoolAdded{Pool: 2, Limit: 10, ByAge: true})
	a := r.connect()
	v := r.s.Choose(2, r.now)
	r.ok(v.Session)
	r.s.HandOut(v.Session, r.now)
	r.step(Tick{})
	b := v.Session
	r.s.cfg.DrainTime = 0
	r.readUser(2, 1, time.Time{})
	r.ok(r.own(Prove))
	r.state(a, Going)
	r.state(b, Due)
	r.after(exposure) // the first is in use
	r.state(a, Going)
	r.state(b, Going)
	r.s.failures = 1 // or else an overdue drain waits for no spare
	r.end(b)
	r.state(a, Due) // the spare is owed to the other
}

// A pool that is closed, or not managed, is left alone.
func TestAPoolThatIsClosedIsLeftAlone(t *testing.T) {
	r, ids := rotated(t, overlapping(), 3)
	r.until(r.s.pools[0].drain.slot())
	r.state(ids[0], Going)
	r.step(PoolClosed{Pool: thePool})
	r.state(ids[0], Pooled)
	r.close()
	r.after(time.Minute)
	r.none()
	if n := len(r.in(Spare)); n != 0 {
		t.Errorf("%d spares are kept for nobody", n)
	}
}

// A new heir every few seconds doesn't put the drain off for ever.
func TestADrainGoesOnWhileItsHeirChanges(t *testing.T) {
	r, ids := rotated(t, overlapping(), 9)
	for v := VersionID(3); v < 13; v++ { // for 30 s
		r.settle(3 * sec)
		r.readUser(v, 1, time.Time{})
	}
	for _, id := range ids {
		r.state(id, NoSession)
	}
	if got := r.s.Snapshot(r.now).Counts.Ended[Superseded]; got != 9 {
		t.Errorf("%d went because they were superseded", got)
	}
}
