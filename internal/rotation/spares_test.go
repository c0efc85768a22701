package rotation

import (
	"math"
	"testing"
	"time"
)

// Room is one rule of two clauses: the pools' peak and one, and none of the connector's own
// unready.
func TestRoom(t *testing.T) {
	type sessions map[SessionState]int
	for _, tt := range []struct {
		name  string
		peak  int
		have  sessions // LoggingIn: the connector's own
		free  int
		ready bool
	}{
		{"nothing", 0, sessions{}, 1, true},
		{"a full pool", 3, sessions{Pooled: 3}, 1, true},
		{"and a spare", 3, sessions{Pooled: 3, Spare: 1}, 0, true},
		{"one that is on its way to a caller", 3, sessions{Pooled: 2, Promised: 1, Spare: 1}, 0, true},
		{"one that is due", 3, sessions{Due: 2, Going: 1}, 1, true},
		{"one that logs in", 3, sessions{Pooled: 2, LoggingIn: 1}, 1, false},
		{"one that is asked", 3, sessions{Pooled: 2, Asking: 1}, 1, false},
		{"one that is closed", 3, sessions{Pooled: 2, Closing: 1}, 1, false},
		{"a pool that is mostly idle", 10, sessions{Pooled: 2, Spare: 8}, 1, true},
		{"too many", 2, sessions{Pooled: 3, Spare: 1}, -1, true},
	} {
		r := newRig(t, overlapping())
		p := r.s.pool(thePool)
		p.peak = tt.peak
		for st, n := range tt.have {
			for range n {
				x := r.s.newSession(r.s.versions[0], Replace, p, r.now)
				if st.InPool() {
					r.s.move(x, Promised, NotRetired, r.now)
					r.s.move(x, Pooled, NotRetired, r.now)
				}
				if st != LoggingIn {
					r.s.move(x, st, NotRetired, r.now)
				}
			}
		}
		if free, ready := r.s.room(); free != tt.free || ready != tt.ready {
			t.Errorf("%s: room for %d, ready %v, want %d, %v", tt.name, free, ready, tt.free, tt.ready)
		}
	}
}

// The peak comes from the pool alone: what it has and its callers are about to have, the
// most since the last rotation, and no more than its limit.
func TestPeak(t *testing.T) {
	r := newRig(t, overlapping())
	ids := r.fill(3)
	r.begin() // with a proof of a moment ago
	if p := r.s.pools[0]; p.peak != 4 || p.count != 4 {
		t.Fatalf("peak %d, count %d", p.peak, p.count)
	}
	r.end(ids[0])
	if p := r.s.pools[0]; p.peak != 4 {
		t.Errorf("when one has gone the peak is %d", p.peak)
	}
	r.step(PoolLimit{Pool: thePool, Limit: 2})
	if p := r.s.pools[0]; p.peak != 2 {
		t.Errorf("with a limit of 2 it is %d", p.peak)
	}
	r.step(PoolLimit{Pool: thePool})
	r.read(2)
	if p := r.s.pools[0]; p.peak != 3 {
		t.Errorf("after a rotation it is %d", p.peak)
	}
}

// A caller's login waits for a session that is being closed, if there is no room for both,
// and not for long.
func TestACallerWaitsForWhatIsJustBeingClosed(t *testing.T) {
	r := newRig(t, overlapping())
	ids := r.fill(2)
	r.read(2)
	r.ok(r.own(Prove))
	for len(r.in(Closing)) == 0 {
		r.until(r.fx.Wake)
	}
	r.logins = nil
	r.end(ids[0]) // the pool is below its peak, and a caller takes its place
	if v := r.choose(); v.Kind == Wait && v.Cause == ForRoom {
		t.Fatalf("with room it is told %+v", v)
	}
	r = newRig(t, overlapping())
	r.fill(2)
	p := r.s.pools[0]
	x := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(x, Closing, Unneeded, r.now)
	p.limit, p.peak = 2, 2
	ready := r.s.newSession(r.s.versions[0], ForCaller, p, r.now) // and one that a caller has begun
	_ = ready
	v := r.choose()
	if v.Kind != Wait || v.Cause != ForRoom || v.Until != r.now.Mono.Add(closePatience) {
		t.Fatalf("without room it is told %+v", v)
	}
	r.after(closePatience)
	if v := r.choose(); v.Kind != LogIn {
		t.Errorf("after %v it is told %+v", closePatience, v)
	}
}

// What has been retired and the pool doesn't ask for is logged in for it, so that it comes
// out of a drain as ready as it went into it: pool and spares together never exceed its
// peak by more than one.
func TestAnIdlePoolComesOutOfADrainReady(t *testing.T) {
	r, _ := rotated(t, overlapping(), 6)
	for range 500 {
		for r.act() {
			if n := len(r.s.byID); n > 7 {
				t.Fatalf("%d sessions", n)
			}
		}
		if r.heard(DrainDone) > 0 {
			break
		}
		r.until(r.fx.Wake)
	}
	for r.act() {
	}
	if n := len(r.in(Spare)); n != 6 {
		t.Fatalf("%d spares, want 6", n)
	}
	for range 6 {
		if v := r.choose(); v.Kind != Take {
			t.Fatalf("a caller is told %+v", v)
		}
	}
}

// Spares that nobody takes go when nothing is retired any more, and no others follow.
func TestSparesThatNobodyTakes(t *testing.T) {
	r, _ := rotated(t, overlapping(), 3)
	r.settle(9 * sec)
	if len(r.in(Spare)) == 0 {
		t.Fatal("there are no spares")
	}
	r.settle(r.s.spareTTL() + sec)
	if n := len(r.s.byID); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	r.settle(5 * time.Minute)
	if n := len(r.s.byID); n != 0 {
		t.Errorf("%d sessions have been logged in for nobody", n)
	}
}

func TestHowLongSparesAreKept(t *testing.T) {
	for _, tt := range []struct{ lifetime, ttl time.Duration }{{0, time.Minute}, {40 * sec, 4 * sec}, {time.Hour, time.Minute}} {
		r := newRig(t, overlapping())
		r.s.lifetime = tt.lifetime
		if got := r.s.spareTTL(); got != tt.ttl {
			t.Errorf("with a lifetime of %v: %v", tt.lifetime, got)
		}
	}
}

// Spares go that are outdated, over, or too many.
func TestUnfitSparesGo(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(r *rig)
		why  Reason
	}{
		{"outdated", func(r *rig) {
			x := r.s.byID[r.in(Spare)[0]]
			x.v.sessions--
			x.v = r.s.versions[1]
			x.v.sessions++
		}, Outdated},
		{"dead", func(r *rig) { r.s.versions[0].dead = true }, Outdated},
		{"over", func(r *rig) { r.readUser(2, 1, r.now.Wall.Add(sec)); r.after(sec) }, Expired},
		{"too many", func(r *rig) { r.s.pools[0].peak = 0; r.step(PoolLimit{Pool: thePool, Limit: 1}); r.choose() }, Unneeded},
		{"closed", func(r *rig) { r.step(Closed{}) }, ByClose},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			r.fill(2)
			r.readUser(2, 1, time.Time{})
			id := r.own(Prove)
			r.ok(id)
			r.logins = nil
			if tt.name == "too many" {
				r.step(PoolLimit{Pool: thePool, Limit: 1}) // two are in use all the same
				r.state(id, Closing)
			} else {
				tt.run(r)
				r.step(Tick{})
				r.state(id, Closing)
			}
			if got := r.s.Session(id).Reason; got != tt.why {
				t.Errorf("it goes as %v, want %v", got, tt.why)
			}
		})
	}
}

// The connector's own login that is needed most begins first; and only one at a time.
func TestOwnLoginsAreOneAtATime(t *testing.T) {
	r := newRig(t, overlapping())
	r.fill(3)
	r.read(2)
	r.ok(r.own(Prove)) // takes the place of a spare: now the old role, which needs its room
	if got := r.s.Session(r.in(Closing)[0]).Reason; got != Unneeded {
		t.Fatalf("the spare goes as %v", got)
	}
	r.none()
	r.close()
	r.ok(r.own(AskOld))
	r.none()
	r.close()
	r.ok(r.own(Replace))
}

// A login of its own that fails is tried again after 0.5 s, then 1, 2 … 10 s; a success
// ends that.
func TestOwnLoginsThatFailBackOff(t *testing.T) {
	r := newRig(t, inPlace())
	r.connect()
	r.readUser(2, 1, time.Time{})
	for _, wait := range []time.Duration{retryMin, sec, 2 * sec, 4 * sec, 8 * sec, retryMax, retryMax} {
		r.fail(r.own(Prove))
		r.after(wait - 1)
		r.none()
		r.after(1)
	}
	if got := r.s.Problems(r.now); len(got) != 1 || got[0].Kind != LoginsFail || got[0].CanConnect {
		t.Errorf("problems %+v", got)
	}
	r.ok(r.own(Prove))
	if got := r.s.Problems(r.now); len(got) != 0 {
		t.Errorf("problems %+v", got)
	}
}

// A new credential is asked about at once, even if logins have failed; but not each of many
// within a minute.
func TestANewCredentialIsAskedAboutInSpiteOfFailures(t *testing.T) {
	r := newRig(t, inPlace())
	r.connect()
	r.readUser(2, 1, time.Time{})
	for range 5 {
		r.fail(r.own(Prove))
		r.until(r.s.retryAt)
	}
	r.fail(r.own(Prove))
	r.after(2 * sec)
	r.readUser(3, 1, time.Time{})
	r.own(Prove)
}

// With nobody who cares nothing is asked.
func TestNobodyAsksForAnUnusedConnector(t *testing.T) {
	r := newRig(t, overlapping())
	r.read(2)
	r.after(time.Hour)
	r.none()
	if r.fx.Wake != Never {
		t.Errorf("it wakes in %v", r.fx.Wake.Sub(r.now.Mono))
	}
}

// Versions that follow one another at each read are not proven each.
func TestProofsOfQuickVersionsHaveAFloor(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	proofs := 0
	for v := VersionID(2); v < 102; v++ { // for 10 s
		r.after(100 * ms)
		r.readUser(v, 1, time.Time{})
		for _, l := range r.logins {
			if l.Purpose == Prove {
				proofs++
			}
			if r.s.Bind(l.Session, r.now) != 0 {
				r.ok(l.Session)
			}
		}
		r.logins = nil
		r.step(Tick{})
		r.close()
	}
	if proofs < 1 || proofs > 6 {
		t.Errorf("%d proofs of 100 versions within 10 s", proofs)
	}
}

// What a closed pool still has makes no room, and takes none away.
func TestAClosedPoolDoesNotCrowdTheOthers(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(PoolAdded{Pool: 2, Limit: 10, ByAge: true})
	r.fill(3)
	v := r.s.Choose(2, r.now)
	r.ok(v.Session)
	r.s.HandOut(v.Session, r.now)
	r.step(PoolClosed{Pool: thePool})
	r.readUser(2, 1, time.Time{})
	r.ok(r.own(Prove))
	if n := len(r.in(Spare)); n != 1 {
		t.Errorf("%d spares", n)
	}
}

// Callers who wait hear within two seconds that a server which has been failing is back,
// however long it has.
func TestCallersHearSoonThatTheServerIsBack(t *testing.T) {
	r := newRig(t, overlapping())
	r.refuse(r.begin())
	r.step(Waiting{N: 1})
	r.after(retryMin)
	for range 8 {
		r.fail(r.own(Prove))
		r.after(unclearMax)
	}
	r.own(Prove)

	cfg := overlapping()
	cfg.RetryTimeout = 0
	r = newRig(t, cfg)
	r.connect()
	r.s.refuse(r.s.current(), false, r.now)
	r.after(retryMin)
	for r.s.failures < 6 { // with nobody who waits
		r.fail(r.own(Prove))
		r.until(r.s.retryAt)
	}
	r.fail(r.own(Prove))
	r.after(unclearMax)
	r.none()
	if v := r.choose(); v.Kind != Wait {
		t.Errorf("a caller is told %+v", v)
	}
	r.own(Prove)
}

// A login is crowded only by a session that is just being closed, if there is no room for
// both; a pool that grows has room for its own.
func TestWhoIsCrowded(t *testing.T) {
	for _, tt := range []struct {
		name    string
		peak    int
		pooled  int
		loose   SessionState // of two others
		crowded bool
	}{
		{"two are being closed", 3, 2, Closing, true},
		{"there is room", 4, 2, Closing, false},
		{"the pool grows", 2, 2, Closing, true},
		{"the pool grows into what is left", 3, 3, Closing, true},
		{"two are being asked", 3, 2, Asking, false},
		{"two are ready", 3, 2, Spare, false},
	} {
		r := newRig(t, overlapping())
		r.fill(tt.pooled)
		p := r.s.pools[0]
		for range 2 {
			x := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
			x.state = tt.loose
		}
		p.peak, p.count = tt.peak, tt.pooled
		if _, got := r.s.crowded(p, r.now); got != tt.crowded {
			t.Errorf("%s: crowded %v", tt.name, got)
		}
	}
	r := newRig(t, overlapping())
	r.fill(2)
	p := r.s.pools[0]
	x := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	x.state = Closing
	if _, got := r.s.crowded(p, r.now); got {
		t.Error("one at its peak is crowded by a single one that is being closed")
	}
	p.peak++
	p.count++ // it has grown by a login that is under way
	if _, got := r.s.crowded(p, r.now); got {
		t.Error("one that grows is crowded")
	}
}

// A pool that is added has the limit it was added with; one that is closed has none to be
// filled up to, is owed nothing, and its peak is what is left of it.
func TestPoolsComeAndGo(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(PoolAdded{Pool: 7, Limit: 3})
	p := r.s.findPool(7)
	if p.limit != 3 {
		t.Errorf("its limit is %d", p.limit)
	}
	r.step(PoolLimit{Pool: 7, Limit: -1})
	if p.limit != math.MaxInt {
		t.Errorf("without a limit it is %d", p.limit)
	}
	ids := r.fill(3)
	r.end(ids[0])
	p = r.s.pools[0]
	p.owed = 1
	r.step(PoolClosed{Pool: thePool})
	if !p.closed || p.managed || p.owed != 0 || p.peak != 2 {
		t.Errorf("closed: %+v", p)
	}
	r.end(ids[1])
	if p.peak != 1 {
		t.Errorf("its peak is %d when one is left", p.peak)
	}
}

// A pool is owed no more than it lacks of its peak.
func TestAPoolIsOwedNoMoreThanItLacks(t *testing.T) {
	for _, tt := range []struct{ peak, limit, have, owed, want int }{
		{5, 10, 3, 1, 1},
		{5, 10, 3, 2, 2},
		{5, 10, 3, 3, 2},
		{3, 10, 3, 1, 0},
		{3, 2, 3, 1, 0},
	} {
		r := newRig(t, overlapping())
		r.fill(tt.have)
		p := r.s.pools[0]
		p.peak, p.limit, p.owed = tt.peak, tt.limit, tt.owed
		r.s.countPools()
		if p.owed != tt.want {
			t.Errorf("%d of %d, owed %d: %d are left", tt.have, tt.peak, tt.owed, p.owed)
		}
	}
}

// spare is one that has been ready since some time before now.
func (r *rig) spare(since time.Duration) *session {
	x := r.s.newSession(r.s.versions[0], Refill, nil, r.now)
	r.s.move(x, Spare, NotRetired, r.now)
	x.since, x.ready = r.now.Mono.Add(-since), r.now.Mono.Add(-since)
	return x
}

// Spares that nobody takes go one after the other; none does while a caller waits.
func TestSparesGoOneAfterTheOther(t *testing.T) {
	r := newRig(t, overlapping())
	r.s.lifetime = 10 * sec // they are kept for a second
	a, b := r.spare(sec), r.spare(sec)
	p := r.s.pools[0]
	p.peak, p.owed = 3, 1
	r.step(Waiting{N: 1})
	r.state(a.id, Spare)
	r.s.busyAt, r.s.waiting = 0, 0
	if wake := r.s.fitSpares(r.now); wake != r.now.Mono.Add(sec/2) {
		t.Errorf("the next goes in %v", wake.Sub(r.now.Mono))
	}
	r.state(a.id, Closing)
	r.state(b.id, Spare)
	if p.owed != 0 || p.refill {
		t.Errorf("owed %d, refill %v", p.owed, p.refill)
	}
	r.s.drop(a)
	if wake := r.s.fitSpares(r.now); wake != r.now.Mono.Add(sec) {
		t.Errorf("the last goes in %v", wake.Sub(r.now.Mono))
	}
	r.now.Mono = r.now.Mono.Add(sec - 1)
	r.s.fitSpares(r.now)
	r.state(b.id, Spare)
	r.now.Mono++
	r.s.fitSpares(r.now)
	r.state(b.id, Closing)
}

// Of spares for which there is no room as many go as are too many.
func TestSparesThatThereIsNoRoomFor(t *testing.T) {
	r := newRig(t, overlapping())
	a, b := r.spare(0), r.spare(0)
	r.step(Tick{})
	r.state(a.id, Closing)
	r.state(b.id, Spare)
}

// A login that is needed more than spares has one make room, unless a caller is about to
// take it.
func TestWhoMakesRoom(t *testing.T) {
	r := newRig(t, overlapping())
	if r.s.makeRoom(r.now) {
		t.Error("there is room where there is no spare")
	}
	a, b := r.spare(0), r.spare(0)
	r.s.waiting = 1
	if r.s.makeRoom(r.now) {
		t.Error("there is room while a caller waits")
	}
	r.state(a.id, Spare)
	r.s.waiting = 0
	if !r.s.makeRoom(r.now) {
		t.Error("there is no room")
	}
	r.state(a.id, Closing)
	r.state(b.id, Spare)
}

func TestAProofHasASpareMakeRoom(t *testing.T) {
	r := newRig(t, overlapping())
	r.fill(2)
	x := r.spare(0)
	r.step(Tick{})
	r.state(x.id, Spare)
	r.none()
	r.read(2)
	r.state(x.id, Closing)
	r.none()
	r.close()
	r.own(Prove)
}

// That a caller wants to know is remembered for as long as it waits, and until the connector
// asks.
func TestForHowLongAWishIsRemembered(t *testing.T) {
	r := newRig(t, overlapping())
	r.s.retryAt, r.s.failedAt = Never, Never-1
	r.s.want(r.now)
	if r.after(patience - 1); r.s.wanted == 0 {
		t.Error("it is forgotten too early")
	}
	if r.after(1); r.s.wanted != 0 {
		t.Error("it is remembered")
	}
	r = newRig(t, overlapping())
	r.read(2)
	r.s.want(r.now)
	r.step(Tick{})
	r.own(Prove)
	if r.s.wanted != 0 {
		t.Error("it is remembered though the connector asks")
	}
}

// When the connector logs in to learn whether the latest version is accepted.
func TestWhenAProofIsCalledFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(r *rig)
		at   time.Duration // from now; negative: never
	}{
		{"the first version is a caller's to prove", func(r *rig) { r.step(Waiting{N: 1}) }, -1},
		{"a new one in a pool that was used", func(r *rig) { r.connect(); r.read(2) }, 0},
		{"a new one that nobody wants", func(r *rig) { r.read(2) }, -1},
		{"one session in a pool that nobody manages", func(r *rig) { r.connect(); r.s.pools[0].managed = false; r.read(2) }, 0},
		{"a caller's login with it has just begun", func(r *rig) { r.step(Waiting{N: 1}); r.begin(); r.read(2); r.after(1) }, patience - 1},
		{"two logins in a row were given up", func(r *rig) { r.connect(); r.s.abandoned = 2 }, -1},
		{"three were", func(r *rig) { r.connect(); r.after(2 * sec); r.begin(); r.s.abandoned = 3 }, 0},
	} {
		r := newRig(t, overlapping())
		tt.run(r)
		want := Never
		if tt.at >= 0 {
			want = r.now.Mono.Add(tt.at)
		}
		if l := r.s.proof(r.s.current(), r.now); l.at != want || l.crowd != 0 || l.purpose != Prove {
			t.Errorf("%s: %+v, in %v", tt.name, l, l.at.Sub(r.now.Mono))
		}
	}
}

// When the connector logs in to take the place of what goes or has gone.
func TestWhenAReplacementIsCalledFor(t *testing.T) {
	for _, tt := range []struct {
		name             string
		unproven, on     bool
		free             int
		spares, promised int
		owed             int
		refill, wanted   bool
		called           bool
		purpose          Purpose
	}{
		{name: "nobody goes", free: 1, purpose: Replace},
		{name: "one is about to go", free: 1, wanted: true, called: true, purpose: Replace},
		{name: "and its place is ready", free: 1, wanted: true, spares: 1, purpose: Refill},
		{name: "or promised", free: 1, wanted: true, promised: 1, purpose: Refill},
		{name: "one has gone", free: 1, owed: 1, called: true, purpose: Replace},
		{name: "and another is about to", free: 1, owed: 1, wanted: true, spares: 1, called: true, purpose: Refill},
		{name: "some have gone lately", free: 1, refill: true, called: true, purpose: Replace},
		{name: "and one is owed", free: 1, refill: true, owed: 1, spares: 1, purpose: Refill},
		{name: "there is no room", free: 0, wanted: true, purpose: Replace},
		{name: "the version has not worked", unproven: true, free: 1, wanted: true, purpose: Replace},
		{name: "or is refused", on: true, free: 1, wanted: true, purpose: Replace},
	} {
		r := newRig(t, overlapping())
		c, p := r.s.current(), r.s.pools[0]
		c.proven, r.s.ep.on, r.s.spareWanted = !tt.unproven, tt.on, tt.wanted
		p.owed, p.refill = tt.owed, tt.refill
		for range tt.spares {
			r.spare(0)
		}
		for range tt.promised {
			r.spare(0).state = Promised
		}
		r.s.newSession(c, ForCaller, p, r.now).state = Closing
		l := r.s.replacement(c, tt.free)
		if called := l.at != Never; called != tt.called || l.purpose != tt.purpose {
			t.Errorf("%s: %+v", tt.name, l)
		}
	}
}

// A login that there is no room for doesn't hide when the next is due.
func TestALoginWithoutRoomHidesNoOther(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(Held{Session: r.connect()})
	r.read(2)
	r.s.versions[0].proven = true
	r.step(Held{Session: r.connect()})
	r.logins = nil
	for x := r.s.asker(); x != nil; x = r.s.asker() {
		r.s.drop(x)
	}
	r.step(PoolLimit{Pool: thePool, Limit: 1})
	for _, id := range r.in(LoggingIn) {
		r.s.drop(r.s.byNumber(id))
	}
	r.read(3)
	r.s.askOldAt = r.now.Mono.Add(3 * sec)
	r.s.countPools()
	if free, ready := r.s.room(); free > 0 || !ready {
		t.Fatalf("there is room for %d, ready %v", free, ready)
	}
	if wake := r.s.planLogins(r.now); wake != r.s.askOldAt {
		t.Errorf("it wakes in %v", wake.Sub(r.now.Mono))
	}
}
