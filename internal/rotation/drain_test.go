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
// done; but not before a successor has worked. That it is refused just then, which may be
// by chance, changes nothing: whoever got one would be cut off.
func TestBeforeTheEndOfAnOverlap(t *testing.T) {
	for _, tt := range []struct {
		name            string
		proven, refused bool
		want            SessionState
	}{
		{"the successor has worked", true, false, Going},
		{"it was never tried", false, false, Pooled},
		{"it was refused at once", false, true, Pooled},
		{"it has worked, and is refused", true, true, Going},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := overlapping()
			cfg.MaxLifetime, cfg.DrainTime = 0, time.Hour
			r := newRig(t, cfg)
			id := r.connect()
			r.readUser(2, 1, time.Time{})
			own := r.own(Prove)
			if tt.proven {
				r.ok(own)
			}
			r.logins = nil
			ending := r.s.versions[1].overlap.Mono.Add(-10 * sec)
			r.until(ending - 1)
			if tt.refused {
				r.s.refuse(r.s.current(), false, r.now)
				r.step(Tick{})
				r.s.ep.next = Never // nobody asks
			}
			r.until(ending)
			r.state(id, tt.want)
			r.logins = nil
		})
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

// What follows from how a drain stands, at the instant 1000.
func TestHowADrainStands(t *testing.T) {
	now := Now{Mono: Instant(1000 * sec)}
	at := func(d time.Duration) Instant { return now.Mono.Add(d) }
	ago := at(-exposure)
	for _, tt := range []struct {
		name                   string
		d                      drain
		exposed, overdue, late bool
		next                   Instant
	}{
		{"nobody goes", drain{lazy: Never}, true, false, false, Never},
		{"nobody is told, the last turn hid somebody", drain{hidden: true, lazy: Never}, true, false, false, Never},
		{
			"two of three are to be told",
			drain{told: at(-2 * sec), to: at(4 * sec), leaving: 3, untold: 2, due: 1, lazy: Never},
			true, false, false, at(0),
		},
		{
			"one who was told may be idle, and it isn't anybody's turn",
			drain{told: at(-2 * sec), to: at(4 * sec), leaving: 3, untold: 2, due: 1, hidden: true, lazy: at(7)},
			false, false, false, at(7),
		},
		{
			"it is its turn",
			drain{told: at(-3), opened: at(-2), to: at(-1), leaving: 3, untold: 2, due: 1, hidden: true, open: true, lazy: Never},
			false, false, false, at(exposure - 2),
		},
		{
			"it was told after the turn began",
			drain{told: at(-2), opened: at(-3), to: at(-1), leaving: 3, untold: 2, due: 1, hidden: true, open: true, lazy: Never},
			false, false, false, at(exposure - 2),
		},
		{
			"and others have to go soon",
			drain{told: at(-2), opened: at(-3), to: at(-1), leaving: 3, untold: 2, due: 1, hidden: true, open: true, lazy: at(1)},
			false, false, false, at(1),
		},
		{
			"it must be in use, and the time is over",
			drain{told: ago, opened: ago - 1, to: at(0), leaving: 1, untold: 1, due: 1, hidden: true, open: true, lazy: Never},
			true, true, false, at(-exposure / 2),
		},
		{
			"and it is not over",
			drain{told: ago, opened: ago, to: at(1), leaving: 1, untold: 0, due: 1, hidden: true, open: true, lazy: Never},
			true, false, false, Never,
		},
		{"nobody leaves any more", drain{to: at(-1), due: 1, lazy: Never}, true, false, false, Never},
		{"it is interrupted", drain{leaving: 1, lazy: Never}, true, false, false, Never},
		{"the next is late", drain{lazy: at(-5), gap: 5}, true, false, true, at(-5)},
		{"the next isn't yet", drain{lazy: at(-5), gap: 6}, true, false, false, at(-5)},
	} {
		d := &tt.d
		if got := d.exposed(now); got != tt.exposed {
			t.Errorf("%s: exposed %v", tt.name, got)
		}
		if got := d.overdue(now); got != tt.overdue {
			t.Errorf("%s: overdue %v", tt.name, got)
		}
		if got := d.late(now); got != tt.late {
			t.Errorf("%s: late %v", tt.name, got)
		}
		if got := d.next(now); got != tt.next {
			t.Errorf("%s: the next in %v, want %v", tt.name, got.Sub(now.Mono), tt.next.Sub(now.Mono))
		}
	}
}

func TestWhoWantsASpare(t *testing.T) {
	now := Now{Mono: Instant(1000 * sec)}
	for _, tt := range []struct {
		d    drain
		want bool
	}{
		{drain{lazy: Never}, false},
		{drain{lazy: Never, due: 1}, true},
		{drain{lazy: Never, leaving: 1}, true},
		{drain{lazy: now.Mono.Add(spareLead)}, true},
		{drain{lazy: now.Mono.Add(spareLead + 1)}, false},
	} {
		if got := (&pool{drain: tt.d}).wantsSpare(now); got != tt.want {
			t.Errorf("%+v: %v", tt.d, got)
		}
	}
}

// When there may be something else to decide.
func TestWhenADrainWakes(t *testing.T) {
	now := Now{Mono: Instant(1000 * sec)}
	at := func(d time.Duration) Instant { return now.Mono.Add(d) }
	for _, tt := range []struct {
		name  string
		d     drain
		pools int
		x     session
		want  Instant
	}{
		{"never", drain{lazy: Never}, 1, session{by: Never}, Never},
		{"a session must have been told", drain{lazy: Never}, 1, session{by: at(5)}, at(5)},
		{"one that goes at once", drain{lazy: Never}, 1, session{by: at(5), need: leaveNow}, Never},
		{"one is late by now", drain{lazy: Never}, 1, session{by: at(0)}, Never},
		{"the next one's spare", drain{lazy: at(2 * sec)}, 1, session{by: Never}, at(sec)},
		{"the next one", drain{lazy: at(sec / 2), gap: sec}, 1, session{by: Never}, at(sec / 2)},
		{"it is late", drain{lazy: at(-1), gap: 3}, 1, session{by: Never}, at(2)},
		{"the time is over", drain{lazy: Never, leaving: 1, to: at(5)}, 1, session{by: Never}, at(5)},
		{"it is in use", drain{lazy: Never, open: true, told: at(-1), opened: at(-2)}, 2, session{by: Never}, at(exposure - 1)},
		{"since its turn began", drain{lazy: Never, open: true, told: at(-2), opened: at(-1)}, 2, session{by: Never}, at(exposure - 1)},
		{"there is no other pool", drain{lazy: Never, open: true, told: at(-1), opened: at(-2)}, 1, session{by: Never}, Never},
		{"it isn't anybody's turn", drain{lazy: Never, told: at(-1), opened: at(-2)}, 2, session{by: Never}, Never},
	} {
		s := New(overlapping())
		p := &pool{drain: tt.d, members: []*session{&tt.x}}
		s.pools = append([]*pool{p}, make([]*pool, tt.pools-1)...)
		if got := s.drainWake(p, now); got != tt.want {
			t.Errorf("%s: in %v, want %v", tt.name, got.Sub(now.Mono), tt.want.Sub(now.Mono))
		}
	}
}

// A turn begins and ends, and the line is the youngest's whose turn it is.
func TestTurns(t *testing.T) {
	for _, tt := range []struct{ open, turn bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		r := newRig(t, overlapping())
		ids := r.fill(3)
		p := r.s.pools[0]
		d := &p.drain
		for _, id := range ids[:2] { // the third stays
			x := r.s.byNumber(id)
			x.need, x.state, x.why = leaving, Due, Superseded
		}
		d.open, d.hidden, d.opened, d.closed, d.line = tt.open, true, 7, 8, 9
		r.s.setTurn(p, tt.turn, r.now)
		opened, closed, line := Instant(7), Instant(8), Instant(9)
		if tt.turn && !tt.open {
			opened = r.now.Mono
		}
		if tt.open && !tt.turn {
			closed = r.now.Mono
		}
		if tt.turn {
			line = r.s.byNumber(ids[1]).born
		}
		if d.open != tt.turn || d.opened != opened || d.closed != closed || d.line != line {
			t.Errorf("%+v: open %v since %d, closed at %d, the line at %d", tt, d.open, d.opened, d.closed, d.line)
		}
	}
}

// It isn't anybody's turn before somebody is told, though a spare is ready.
func TestNoTurnWithoutAnybodyWhoIsTold(t *testing.T) {
	r, _ := rotated(t, overlapping(), 3)
	if r.s.pools[0].drain.open || len(r.in(Spare)) != 1 {
		t.Errorf("open %v, spares %v", r.s.pools[0].drain.open, r.in(Spare))
	}
}

// Why somebody is to go may change.
func TestAReasonMayChange(t *testing.T) {
	r, ids := rotated(t, overlapping(), 3)
	r.until(r.s.pools[0].drain.slot())
	if got := r.s.Session(ids[0]).Reason; got != Superseded {
		t.Fatalf("it goes as %v", got)
	}
	r.s.versions[1].dead = true
	r.step(Tick{})
	if got := r.s.Session(ids[0]).Reason; got != Revoked {
		t.Errorf("when its role is dead it goes as %v", got)
	}
}

// What is noted of one that leaves its pool.
func TestWhatIsNotedOfOneThatLeaves(t *testing.T) {
	for _, tt := range []struct {
		name       string
		drain, old bool
		why        Reason
		gone, owed int
	}{
		{"in a drain", true, true, Superseded, 1, 1},
		{"in a drain, because the application closed it", true, true, NotRetired, 0, 0},
		{"in a drain, of the latest version", true, false, Aged, 0, 1},
		{"for its age", false, false, Aged, 0, 1},
		{"of an old version, after the drain", false, true, Superseded, 0, 1},
	} {
		r := newRig(t, overlapping())
		x := r.s.byNumber(r.connect())
		p := r.s.pools[0]
		p.drain = drain{open: true}
		if tt.drain {
			p.drain.began = r.now.Mono
		}
		if tt.old {
			x.v.superseded = r.now.Mono
		}
		r.s.left(x, tt.why, r.now)
		if p.drain.gone != tt.gone || p.owed != tt.owed || p.refill != (tt.owed > 0) {
			t.Errorf("%s: %d gone, %d owed, refill %v", tt.name, p.drain.gone, p.owed, p.refill)
		}
		if p.drain.open || p.drain.closed != r.now.Mono {
			t.Errorf("%s: it is still somebody's turn", tt.name)
		}
	}
}

// A pool takes up the spare that is ready, unless who is awaited is in use.
func TestWhichPoolTakesUpASpare(t *testing.T) {
	for _, tt := range []struct {
		name         string
		open, hidden bool
		opened       time.Duration // ago
		want         bool
	}{
		{"it isn't anybody's turn", false, false, time.Hour, true},
		{"it may be idle", true, true, exposure - 1, true},
		{"it is in use", true, true, exposure, false},
	} {
		r, ids := rotated(t, overlapping(), 2)
		r.until(r.s.pools[0].drain.slot())
		r.state(ids[0], Going)
		p := r.s.pools[0]
		p.drain.open, p.drain.hidden = tt.open, tt.hidden
		p.drain.opened = r.now.Mono.Add(-tt.opened)
		p.drain.told = p.drain.opened
		p.drain.to = r.now.Mono.Add(time.Hour)
		if got := r.s.planPool(p, 2, true, r.now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// When a session must have been told to go.
func TestWhenASessionMustGo(t *testing.T) {
	for _, tt := range []struct {
		name     string
		lifetime time.Duration
		left     time.Duration // of the credential; 0: no end
		by       time.Duration
		why      Reason
		last     bool
	}{
		{"no end", 0, 0, -1, Aged, false},
		{"its age", 40 * sec, 0, 40 * sec, Aged, false},
		{"its credential ends later", 40 * sec, time.Hour, 40 * sec, Aged, false},
		{"it ends first", time.Hour, 30 * time.Minute, 30*time.Minute - 10*sec, Ending, false},
		{"it ends a checkout after", 40 * sec, 50 * sec, 40 * sec, Aged, false},
		{"and a bit less", 40 * sec, 50*sec - 1, 40*sec - 1, Ending, false},
		{"born when others went", 40 * sec, 11 * sec, 11 * sec, Ending, true},
		{"born then, and its time is over as it ends", 11 * sec, 11 * sec, 11 * sec, Aged, false},
		{"born then, and its time is over before", 10 * sec, 11 * sec, 10 * sec, Aged, false},
	} {
		cfg := overlapping()
		cfg.MaxLifetime = tt.lifetime
		r := newRig(t, cfg)
		if tt.left > 0 {
			r.readUser(1, 1, start.Wall.Add(tt.left))
		}
		x := r.s.byNumber(r.connect())
		by, why := r.s.mustGoBy(x, r.s.pools[0], r.now)
		want := Never
		if tt.by >= 0 {
			want = r.now.Mono.Add(tt.by)
		}
		if by != want || why != tt.why || x.last != tt.last {
			t.Errorf("%s: in %v as %v, last %v", tt.name, by.Sub(r.now.Mono), why, x.last)
		}
	}
}

// Over how much time retirements without a rotation are spread, and how far apart they are.
func TestGaps(t *testing.T) {
	for _, tt := range []struct {
		lifetime, drain time.Duration
		members         int
		spread, gap     time.Duration
	}{
		{40 * sec, 10 * sec, 1, 8 * sec, sec},
		{40 * sec, 10 * sec, 20, 8 * sec, 400 * ms},
		{0, 10 * sec, 20, 10 * sec, 500 * ms},
		{0, 600 * ms, 1, 600 * ms, 600 * ms},
		{0, 600 * ms, 0, 600 * ms, 600 * ms},
		{0, 0, 1, 0, 0},
	} {
		s := New(Config{DrainTime: tt.drain})
		s.lifetime = tt.lifetime
		p := &pool{members: make([]*session, tt.members)}
		if s.spread() != tt.spread || s.gap(p) != tt.gap {
			t.Errorf("%+v: spread over %v, %v apart", tt, s.spread(), s.gap(p))
		}
	}
}

// The next must be told early enough for it and all after it to go in time: those of them
// that must go at some time and aren't the last.
func TestWhoCountsForThePace(t *testing.T) {
	s := New(Config{DrainTime: 5 * sec})
	v := &version{}
	at := Instant(1000 * sec)
	p := &pool{members: []*session{
		{v: v, by: Never, state: Pooled},
		{v: v, by: at, state: Pooled, need: aging, last: true},
		{v: v, by: at + 5, state: Pooled, need: aging},
		{v: v, by: at + 7, state: Pooled, need: stay},
		{v: v, by: at, state: Going, need: leaveNow},
	}}
	s.survey(p)
	if d := p.drain; d.due != 1 || d.leaving != 0 || d.gap != sec || d.lazy != (at+7).Add(-2*sec) {
		t.Errorf("%+v", d)
	}
}

// A drain that is interrupted goes on with its whole time, and so does one for whose sake
// there is another version by now.
func TestTheTimeOfADrain(t *testing.T) {
	r, ids := rotated(t, overlapping(), 1)
	d := &r.s.pools[0].drain
	if d.heir != 2 || !r.s.pools[0].refill {
		t.Errorf("heir %d, refill %v", d.heir, r.s.pools[0].refill)
	}
	r.s.ep.on, r.s.ep.next = true, Never
	if r.step(Tick{}); d.to != 0 {
		t.Errorf("interrupted, it is to be done at %v", d.to)
	}
	r.s.ep.on = false
	r.after(sec)
	if want := r.s.drainEnd(r.now); d.to != want {
		t.Errorf("it is to be done in %v, want %v", d.to.Sub(r.now.Mono), want.Sub(r.now.Mono))
	}
	r.readUser(3, 1, time.Time{})
	r.s.versions[0].proven = true
	if r.after(sec); d.heir != 3 || d.to != r.s.drainEnd(r.now) {
		t.Errorf("with another version: heir %d, to be done in %v", d.heir, d.to.Sub(r.now.Mono))
	}
	to := d.to
	if r.after(sec); d.to != to {
		t.Errorf("then it is to be done in %v", d.to.Sub(r.now.Mono))
	}
	r.s.versions[2].dead = true // now they go at once
	for range 2 {
		if r.step(Tick{}); d.to != 0 {
			t.Errorf("when all go at once it is to be done in %v", d.to.Sub(r.now.Mono))
		}
	}
	r.state(ids[0], Going)
}

// That a drain begins is told when somebody is told to go, and that it is done only if that
// was; each time.
func TestWhatIsToldOfDrains(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	for v := VersionID(2); v <= 3; v++ {
		r.told = nil
		r.readUser(v, 1, time.Time{})
		for r.s.pools[0].drain.began == 0 {
			if r.step(Tick{}); !r.act() {
				r.until(r.fx.Wake)
			}
		}
		if r.heard(DrainBegan) != 0 {
			t.Error("it is told before anybody is told to go")
		}
		r.settle(11 * sec)
		if r.heard(DrainBegan) != 1 || r.heard(DrainDone) != 1 {
			t.Errorf("told %d and %d times", r.heard(DrainBegan), r.heard(DrainDone))
		}
		for _, n := range r.told {
			if (n.Kind == DrainBegan || n.Kind == DrainDone) && n.Version != v {
				t.Errorf("told of %+v", n)
			}
		}
		r.connect()
	}
	r.told = nil
	r.readUser(4, 1, time.Time{})
	r.s.versions[0].proven = true
	r.step(Tick{})
	if r.s.pools[0].drain.began == 0 {
		t.Fatal("there is no drain")
	}
	r.readUser(3, 1, time.Time{})
	r.step(Tick{})
	if r.heard(DrainBegan) != 0 || r.heard(DrainDone) != 0 || r.s.counts.Drains != 2 || r.s.pools[0].drain.began != 0 {
		t.Errorf("one that was taken back: told %d and %d times, %d count", r.heard(DrainBegan), r.heard(DrainDone), r.s.counts.Drains)
	}
	r = newRig(t, overlapping())
	r.connect()
	r.settle(41 * sec)
	if r.heard(DrainBegan) != 0 || r.s.counts.Ended[Aged] != 1 {
		t.Errorf("for one that goes for its age: told %d times", r.heard(DrainBegan))
	}
}

// The time in which a credential is to prove itself is part of the drain's, however long it
// takes.
func TestADrainEndsWithItsTimeWhenTheProofWasLate(t *testing.T) {
	for _, tt := range []struct{ late, end time.Duration }{{0, 9 * sec}, {300 * ms, 9 * sec}, {sec, 9 * sec}, {5 * sec, 13 * sec}} {
		r := newRig(t, overlapping()) // DrainTime is 10 s
		r.fill(3)
		r.s.hurry = sec
		r.read(2)
		r.s.versions[0].proveAt = r.now.Mono.Add(tt.late)
		from := r.now.Mono
		r.after(tt.late)
		r.ok(r.own(Prove))
		if end := r.s.pools[0].drain.to.Sub(from); end != tt.end {
			t.Errorf("proven after %v: the drain ends after %v, want %v", tt.late, end, tt.end)
		}
	}
}
