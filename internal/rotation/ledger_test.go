package rotation

import (
	"fmt"
	"testing"
)

// inState returns a rig with a session in the given state, and no other but what brought
// it there.
func inState(t *testing.T, st SessionState) (*rig, SessionID) {
	t.Helper()
	r := newRig(t, overlapping())
	switch st {
	case NoSession:
		id := r.begin()
		r.fail(id)
		return r, id
	case LoggingIn:
		return r, r.begin()
	case Promised:
		id := r.begin()
		r.ok(id)
		return r, id
	case Pooled:
		return r, r.connect()
	}
	id := r.connect()
	r.read(2)
	own := r.own(Prove)
	switch st {
	case Due, Going:
		x := r.s.find(id, Pooled)
		x.untracked = false
		r.ok(own)
		r.until(r.s.pools[0].drain.told)
		if st == Due {
			r.s.pools[0].owed = 1 // so that no spare is ready
			r.s.pools[0].peak = 2
			r.s.cfg.DrainTime = 0
			r.s.pools[0].drain.told, r.s.pools[0].drain.to = r.now.Mono, r.now.Mono.Add(1)
			r.after(1)
			return r, id
		}
		for r.s.Session(id).State != Going {
			r.until(r.fx.Wake)
			r.close()
		}
		return r, id
	case Spare:
		r.s.cfg.Kind = InPlace // nobody asks after the old role: it makes no room for that
		r.s.versions[1].user = 2
		r.ok(own)
	case Asking:
		r.s.versions[1].user = 2
		r.ok(own)
		r.s.put(Ask{How: OnSpare, Session: own, Version: 2, Began: r.now.Mono})
		r.s.move(r.s.find(own, Spare), Asking, NotRetired, r.now)
	case Closing:
		r.s.versions[1].user = 2
		r.ok(own)
		r.s.move(r.s.find(own, Spare), Closing, Unneeded, r.now)
	}
	return r, own
}

// Each pair of a state and an event that names a session: what comes of it. A session that
// isn't named here is as it was; what is over stays over.
func TestEachEventInEachState(t *testing.T) {
	events := []struct {
		name string
		do   func(r *rig, id SessionID)
		to   map[SessionState]SessionState
	}{
		{"login succeeded", func(r *rig, id SessionID) { r.ok(id) }, map[SessionState]SessionState{LoggingIn: Promised}},
		{"login refused", func(r *rig, id SessionID) { r.refuse(id) }, map[SessionState]SessionState{LoggingIn: NoSession}},
		{"login failed", func(r *rig, id SessionID) { r.fail(id) }, map[SessionState]SessionState{LoggingIn: NoSession}},
		{
			"login abandoned",
			func(r *rig, id SessionID) { r.step(LoginAbandoned{Session: id}) },
			map[SessionState]SessionState{LoggingIn: NoSession},
		},
		{"given back", func(r *rig, id SessionID) { r.step(GivenBack{Session: id}) }, map[SessionState]SessionState{Promised: Spare}},
		{"ended", func(r *rig, id SessionID) { r.end(id) }, map[SessionState]SessionState{
			Spare: NoSession, Asking: NoSession, Promised: NoSession, Pooled: NoSession, Due: NoSession, Going: NoSession, Closing: NoSession,
		}},
		{"asked: lives", func(r *rig, id SessionID) {
			r.step(Asked{Ask: Ask{Session: id, Version: 2}, Answer: Lives})
		}, map[SessionState]SessionState{Asking: Spare}},
		{"asked: unasked", func(r *rig, id SessionID) {
			r.step(Asked{Ask: Ask{Session: id, Version: 2}, Answer: Unasked})
		}, map[SessionState]SessionState{Asking: Spare}},
		{"asked: refuses", func(r *rig, id SessionID) {
			r.step(Asked{Ask: Ask{Session: id, Version: 2}, Answer: Refuses})
		}, map[SessionState]SessionState{Asking: Closing}},
		{"asked: unanswered", func(r *rig, id SessionID) {
			r.step(Asked{Ask: Ask{Session: id, Version: 2}, Answer: Unanswered})
		}, map[SessionState]SessionState{Asking: Closing}},
		{"held", func(r *rig, id SessionID) { r.step(Held{Session: id}) }, map[SessionState]SessionState{Due: Pooled, Going: Pooled}},
		{"released", func(r *rig, id SessionID) { r.step(Released{Session: id}) }, nil},
		{"hand out", func(r *rig, id SessionID) {
			r.s.HandOut(id, r.now)
			r.step(Tick{})
		}, map[SessionState]SessionState{Promised: Pooled}},
		{"bind", func(r *rig, id SessionID) {
			r.s.Bind(id, r.now)
			r.step(Tick{})
		}, nil},
		{"closed", func(r *rig, _ SessionID) { r.step(Closed{}) }, map[SessionState]SessionState{Spare: Closing}},
		{"tick", func(r *rig, _ SessionID) { r.step(Tick{}) }, nil},
	}
	for _, ev := range events {
		for st := range numStates {
			t.Run(fmt.Sprint(st, ", ", ev.name), func(t *testing.T) {
				r, id := inState(t, st)
				if got := r.s.Session(id).State; got != st {
					t.Fatalf("it is %v to begin with", got)
				}
				ev.do(r, id)
				want, ok := ev.to[st]
				if !ok {
					want = st
				}
				if got := r.s.Session(id).State; got != want {
					t.Errorf("it comes to %v, want %v", got, want)
				}
				r.balance()
			})
		}
	}
}

// balance checks that each session is on exactly one list, and counted.
func (r *rig) balance() {
	r.t.Helper()
	seen := map[SessionID]int{}
	perVersion := map[*version]int{}
	count := func(x *session, inPool bool) {
		seen[x.id]++
		perVersion[x.v]++
		if x.state.InPool() != inPool || r.s.byID[x.id] != x {
			r.t.Errorf("session %d is %v, and on the wrong list", x.id, x.state)
		}
	}
	for _, x := range r.s.loose {
		count(x, false)
	}
	for _, p := range r.s.pools {
		for i, x := range p.members {
			count(x, true)
			if x.pool != p || i > 0 && x.born < p.members[i-1].born {
				r.t.Errorf("session %d is in the wrong place", x.id)
			}
		}
	}
	if len(seen) != len(r.s.byID) {
		r.t.Errorf("%d sessions are on lists, %d on the books", len(seen), len(r.s.byID))
	}
	for _, v := range r.s.versions {
		if v.sessions != perVersion[v] {
			r.t.Errorf("version %d counts %d sessions, and has %d", v.id, v.sessions, perVersion[v])
		}
	}
}

func TestWhatIsOverIsToldOfOnce(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.connect()
	r.after(3 * sec)
	r.end(id)
	r.end(id)
	if got := r.heard(SessionEnded); got != 1 {
		t.Errorf("told %d times", got)
	}
	n := r.told[len(r.told)-1]
	if n.Session != id || n.Version != 1 || n.Pool != thePool || n.State != Pooled || n.Reason != NotRetired || n.Took != 3*sec {
		t.Errorf("told %+v", n)
	}
}

// Of sessions whose end can't be seen only the youngest of a version is on a pool's books.
func TestUntrackedSessionsReplaceOneAnother(t *testing.T) {
	r := newRig(t, overlapping())
	first := r.begin()
	r.step(LoginSucceeded{Session: first, Untracked: true})
	r.s.HandOut(first, r.now)
	second := r.begin()
	r.step(LoginSucceeded{Session: second, Untracked: true})
	r.s.HandOut(second, r.now)
	if r.step(Tick{}); len(r.fx.Gone) != 1 || r.fx.Gone[0] != first {
		t.Errorf("gone: %v", r.fx.Gone)
	}
	r.state(first, NoSession)
	r.state(second, Pooled)
	r.balance()
}

// One that was told to go is gone a checkout later.
func TestAnUntrackedSessionIsPresumedGone(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.begin()
	r.step(LoginSucceeded{Session: id, Untracked: true})
	r.s.HandOut(id, r.now)
	r.step(Tick{})
	r.read(2)
	r.s.versions[1].dead = true // so that it goes at once
	r.ok(r.own(Prove))
	r.state(id, Going)
	r.after(10*sec + untrackedSlack - 1)
	r.state(id, Going)
	if r.after(1); len(r.fx.Gone) != 1 || r.fx.Gone[0] != id {
		t.Errorf("gone: %v", r.fx.Gone)
	}
	r.state(id, NoSession)
}

func TestASessionThatEndsBeforeItIsHandedOut(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.begin()
	r.ok(id)
	r.end(id)
	if r.s.HandOut(id, r.now) {
		t.Error("it is handed out")
	}
}

// After Close nothing begins: what is promised is closed, and so is what comes of logins.
func TestAfterClose(t *testing.T) {
	r := newRig(t, overlapping())
	promised, login, pooled := r.begin(), SessionID(0), SessionID(0)
	r.ok(promised)
	login = r.begin()
	pooled = r.connect()
	r.read(2)
	r.step(Closed{})
	if v := r.choose(); v.Kind != FailClosed {
		t.Errorf("a caller is told %v", v.Kind)
	}
	if r.s.HandOut(promised, r.now) {
		t.Error("a session is handed out")
	}
	r.ok(login)
	r.state(promised, Closing)
	r.state(login, Closing)
	r.state(pooled, Pooled)
	for _, l := range r.logins {
		if r.s.Bind(l.Session, r.now) != 0 {
			t.Error("a login begins")
		}
	}
	r.logins = nil
	r.close()
	r.end(pooled)
	r.after(sec)
	r.none()
	if n := len(r.s.byID); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// A pool that retires by age may let a neighbour go; that counts as if it had been told.
func TestANeighbourThatGoesInItsPlace(t *testing.T) {
	for _, tt := range []struct {
		after Instant // so much later born than the one who may go
		want  Reason
	}{{Instant(drift), Aged}, {Instant(drift) + 1, NotRetired}} {
		r := newRig(t, overlapping())
		ids := r.fill(2)
		old, young := r.s.find(ids[0], Pooled), r.s.find(ids[1], Pooled)
		young.born = old.born + tt.after
		r.s.move(old, Going, Aged, r.now)
		r.s.pools[0].drain.open, r.s.pools[0].drain.line = true, old.born
		r.end(young.id)
		if got := r.told[len(r.told)-1].Reason; got != tt.want {
			t.Errorf("born %v later: it went as %q", tt.after, got)
		}
		if open := r.s.pools[0].drain.open; open {
			t.Error("it is still somebody's turn")
		}
	}
}
