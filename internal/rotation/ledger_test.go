package rotation

import (
	"fmt"
	"slices"
	"testing"
	"time"
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

// Marks say that Going has other answers than before.
func TestWhenMarksChange(t *testing.T) {
	r, ids := rotated(t, overlapping(), 2)
	if r.fx.Marks {
		t.Error("before anybody goes")
	}
	r.end(ids[1])
	if r.fx.Marks {
		t.Error("when one ends that wasn't going")
	}
	r.connect()
	if r.fx.Marks {
		t.Error("when one is handed out")
	}
	r.settle(0)
	if r.until(r.s.pools[0].drain.slot()); !r.fx.Marks {
		t.Error("when one may go it isn't said")
	}
	if r.end(ids[0]); !r.fx.Marks {
		t.Error("when one has gone it isn't said")
	}
}

// What is to be closed is said, and those who wait for its room look.
func TestWhatIsToBeClosedIsSaid(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.begin()
	r.ok(id)
	r.step(GivenBack{Session: id})
	r.after(r.s.spareTTL() - 1)
	if len(r.fx.Close) != 0 {
		t.Fatalf("%v is to be closed", r.fx.Close)
	}
	r.after(1)
	if !slices.Equal(r.fx.Close, []SessionID{id}) || !r.fx.Look {
		t.Errorf("%v is to be closed, look %v", r.fx.Close, r.fx.Look)
	}
}

// Sessions' memory is used again.
func TestSessionsMemoryIsUsedAgain(t *testing.T) {
	r := newRig(t, overlapping())
	x := r.s.byNumber(r.connect())
	r.end(x.id)
	if y := r.s.byNumber(r.begin()); y != x {
		t.Error("it isn't")
	}
}

// A failure of another kind ends a row of logins that were given up; one of the connector's
// own that is given up puts the next one off.
func TestWhatEndsARowOfLoginsThatAreGivenUp(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(LoginAbandoned{Session: r.begin()})
	r.step(LoginAbandoned{Session: r.begin()})
	if r.fail(r.begin()); r.s.abandoned != 0 {
		t.Errorf("after a failure there are %d", r.s.abandoned)
	}
	r.step(LoginAbandoned{Session: r.begin()})
	if r.refuse(r.begin()); r.s.abandoned != 0 {
		t.Errorf("after a refusal there are %d", r.s.abandoned)
	}
	r.step(Waiting{N: 1})
	r.after(retryMin)
	r.step(LoginAbandoned{Session: r.own(Prove)})
	if r.s.abandoned != 0 || r.s.retryAt != r.now.Mono.Add(retryMin) {
		t.Errorf("after one of the connector's own: %d, and it is put off by %v", r.s.abandoned, r.s.retryAt.Sub(r.now.Mono))
	}
}

func TestAfterCloseWhatIsGivenBackIsClosed(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.begin()
	r.ok(id)
	r.step(Closed{})
	r.step(GivenBack{Session: id})
	r.state(id, Closing)
	if got := r.s.Session(id).Reason; got != ByClose {
		t.Errorf("its reason is %v", got)
	}
}

// Where one was found dead that was about to be handed out, all spares are closed, and
// nothing else is.
func TestSparesAreDistrustedTogether(t *testing.T) {
	r := newRig(t, overlapping())
	pooled := r.connect()
	promised, a, b := r.begin(), r.begin(), r.begin()
	under := r.begin()
	for _, id := range []SessionID{promised, a, b} {
		r.ok(id)
	}
	r.s.pools[0].limit = 10
	r.step(Waiting{N: 1})
	r.step(GivenBack{Session: a})
	r.step(GivenBack{Session: b})
	r.end(promised)
	r.state(a, Closing)
	r.state(b, Closing)
	r.state(under, LoggingIn)
	r.state(pooled, Pooled)
}

// A session whose end can't be seen replaces only its like.
func TestOnlyUntrackedSessionsReplaceOneAnother(t *testing.T) {
	r := newRig(t, overlapping())
	hand := func(untracked bool) SessionID {
		id := r.begin()
		r.step(LoginSucceeded{Session: id, Untracked: untracked})
		r.s.HandOut(id, r.now)
		r.step(Tick{})
		return id
	}
	seen := hand(false)
	if r.s.untracked {
		t.Error("a session whose end is seen is taken for another")
	}
	first := hand(true)
	after := hand(false)
	if !r.s.untracked {
		t.Error("that there are untracked ones is forgotten")
	}
	second := hand(true)
	r.state(seen, Pooled)
	r.state(first, NoSession)
	r.state(after, Pooled)
	r.state(second, Pooled)
	if !slices.Equal(r.fx.Gone, nil) && r.fx.Gone[0] != first {
		t.Errorf("gone: %v", r.fx.Gone)
	}
}

// Those whose end can't be seen have gone a checkout after they might, and a little: each by
// itself, and only they.
func TestUntrackedSessionsAreExpectedToGo(t *testing.T) {
	r, ids := rotated(t, overlapping(), 3)
	r.s.untracked = true
	x := r.s.byNumber(ids[0])
	x.untracked = true
	r.s.byNumber(ids[2]).untracked = true // it isn't going
	r.s.versions[1].dead = true           // all but it
	r.step(Held{Session: ids[2]})
	r.state(ids[0], Going)
	r.state(ids[1], Going)
	gone := r.now.Mono.Add(r.s.cfg.MaxInUse + untrackedSlack)
	owed, ended := r.s.pools[0].owed, r.s.counts.Ended[Revoked]
	r.until(gone - 1)
	r.state(ids[0], Going)
	if r.s.expectGone(r.now) != gone {
		t.Errorf("it looks again %v later", r.s.expectGone(r.now).Sub(gone))
	}
	r.until(gone)
	r.state(ids[0], NoSession)
	r.state(ids[1], Going)
	r.state(ids[2], Pooled)
	if !slices.Equal(r.fx.Gone, ids[:1]) {
		t.Errorf("gone: %v", r.fx.Gone)
	}
	if r.s.pools[0].owed != owed+1 || r.s.counts.Ended[Revoked] != ended+1 {
		t.Errorf("owed %d, was %d; ended %d, was %d", r.s.pools[0].owed, owed, r.s.counts.Ended[Revoked], ended)
	}
}

// A session that a pool gets is one less that it is owed.
func TestWhatAPoolGetsItIsOwedNoMore(t *testing.T) {
	for _, tt := range []struct{ owed, want int }{{0, 0}, {1, 0}, {2, 1}} {
		r := newRig(t, overlapping())
		id := r.begin()
		r.ok(id)
		p := r.s.pools[0]
		p.owed = tt.owed
		if r.s.HandOut(id, r.now); p.owed != tt.want {
			t.Errorf("owed %d, then %d", tt.owed, p.owed)
		}
	}
}

// A pool that has had a session may want one at any time: a new credential is proven.
func TestAPoolThatWasUsedIsInUse(t *testing.T) {
	r := newRig(t, overlapping())
	r.end(r.connect())
	r.read(2)
	r.own(Prove)
}

// Who goes with others of an older birth is their neighbour.
func TestNeighbours(t *testing.T) {
	for _, tt := range []struct {
		name   string
		byAge  bool
		line   time.Duration // from its birth
		open   bool
		closed time.Duration // before now
		want   bool
	}{
		{"in a turn, older than the line", true, 1, true, 0, true},
		{"at the line", true, 0, true, 0, true},
		{"a little younger", true, -drift, true, 0, true},
		{"younger", true, -drift - 1, true, 0, false},
		{"just after a turn", true, 0, false, drift - 1, true},
		{"long after one", true, 0, false, drift, false},
		{"in a pool that can choose", false, 0, true, 0, false},
	} {
		r := newRig(t, inPlace())
		id := r.connect()
		x, p := r.s.byNumber(id), r.s.pools[0]
		p.byAge = tt.byAge
		p.drain.line, p.drain.open, p.drain.closed = x.born.Add(tt.line), tt.open, r.now.Mono.Add(-tt.closed)
		if got := p.isNeighbour(x, r.now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
		if !tt.want {
			continue
		}
		r.s.over(x, r.now)
		if got := r.s.counts.Ended[Neighbour]; got != 1 {
			t.Errorf("%s: %v have ended as one", tt.name, got)
		}
	}
	r := newRig(t, inPlace())
	if x := r.s.byNumber(r.connect()); r.s.pools[0].isNeighbour(x, r.now) {
		t.Error("without a turn it is one")
	}
}
