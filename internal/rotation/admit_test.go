package rotation

import (
	"testing"
	"time"
)

// A proof lets others go for a second; then one goes ahead, and the next follows when it
// has had a second, or has failed.
func TestWhoGoesAhead(t *testing.T) {
	for _, tt := range []struct {
		name  string
		run   func(r *rig)
		kind  VerdictKind
		until time.Duration // from the last event, for those who wait
	}{
		{"the first", func(*rig) {}, LogIn, 0},
		{"behind the first", func(r *rig) { r.begin() }, Wait, patience},
		{"when that has had its time, less a moment", func(r *rig) { r.begin(); r.after(patience - 1) }, Wait, 1},
		{"when that has had its time", func(r *rig) { r.begin(); r.after(patience) }, LogIn, 0},
		{"with a proof", func(r *rig) { r.connect(); r.begin(); r.begin() }, LogIn, 0},
		{"with a proof that has nearly lapsed", func(r *rig) { r.connect(); r.after(proofTTL - 1); r.begin() }, LogIn, 0},
		{"with one that has lapsed", func(r *rig) { r.connect(); r.after(proofTTL); r.begin() }, Wait, patience},
		{"after a failure", func(r *rig) { r.fail(r.begin()); r.begin() }, LogIn, 0},
		{"third after a failure", func(r *rig) { r.fail(r.begin()); r.begin(); r.begin() }, Wait, patience},
		{"after a login was given up", func(r *rig) { r.step(LoginAbandoned{Session: r.begin()}) }, LogIn, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			tt.run(r)
			v := r.choose()
			if v.Kind != tt.kind {
				t.Fatalf("a caller is told %+v, want %v", v, tt.kind)
			}
			if v.Kind == Wait && v.Until != r.now.Mono.Add(tt.until) {
				t.Errorf("it waits %v, want %v", v.Until.Sub(r.now.Mono), tt.until)
			}
		})
	}
}

// One caller's failure is its own: those who waited for it try for themselves, ever more of
// them at once, but never very many.
func TestThoseWhoWaitedForAFailureTryForThemselves(t *testing.T) {
	r := newRig(t, overlapping())
	rounds := []int{}
	for range 6 {
		var ids []SessionID
		for {
			v := r.choose()
			if v.Kind != LogIn {
				break
			}
			ids = append(ids, v.Session)
		}
		rounds = append(rounds, len(ids))
		for _, id := range ids {
			r.fail(id)
		}
	}
	want := []int{1, 2, 8, 8, 8, 8}
	for i := range want {
		if rounds[i] != want[i] {
			t.Fatalf("%v try at once, want %v", rounds, want)
		}
	}
	id := r.begin()
	r.ok(id)
	r.after(proofTTL)
	r.begin()
	if v := r.choose(); v.Kind != Wait {
		t.Errorf("after a success as many go ahead as before: %+v", v)
	}
}

// Callers who give up teach nobody anything; after three in a row the connector asks, and
// callers wait for it: not for long.
func TestCallersWhoGiveUp(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.after(5 * sec)
	for range maxAbandoned + 1 {
		r.step(LoginAbandoned{Session: r.begin()})
	}
	own := r.own(Prove)
	v := r.choose()
	if v.Kind != Wait || v.Cause != ForAnswer {
		t.Fatalf("a caller is told %+v", v)
	}
	r.step(Waiting{N: 1})
	r.after(patience - 1)
	if v := r.choose(); v.Kind != Wait {
		t.Fatalf("a caller is told %+v", v)
	}
	r.after(1)
	other := r.begin()
	r.fail(own)
	r.step(LoginAbandoned{Session: other})
	r.logins = nil
	if v := r.choose(); v.Kind != LogIn {
		t.Errorf("after the connector's own has failed a caller is told %+v", v)
	}
}

func TestASlowServerDoesNotSlowAPatientCaller(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.after(5 * sec)
	for range 3 {
		id := r.begin()
		r.after(10 * ms)
		r.step(LoginAbandoned{Session: id})
	}
	from := r.now.Mono
	r.choose()
	r.step(Waiting{N: 1})
	r.ok(r.own(Prove))
	if v := r.choose(); v.Kind != Take || r.now.Mono != from {
		t.Errorf("the next caller is told %+v, %v later", v, r.now.Mono.Sub(from))
	}
}

// How long callers wait counts from the episode's beginning, whatever the source says
// meanwhile; then they fail at once, but for the answer to a question that is due or put.
func TestHowLongCallersWaitForAcceptance(t *testing.T) {
	r := newRig(t, overlapping())
	r.refuse(r.begin())
	end := r.now.Mono.Add(30 * sec)
	if v := r.choose(); v.Kind != Wait || v.Cause != ForAccept || v.Until != end {
		t.Fatalf("at first: %+v", v)
	}
	r.step(Waiting{N: 1})
	for v := VersionID(2); r.now.Mono < end-1; v++ {
		r.until(min(r.now.Mono.Add(sec), end-1))
		r.read(v)
		if v := r.choose(); v.Kind != Wait || v.Until != end {
			t.Fatalf("%v before its end: %+v", end.Sub(r.now.Mono), v)
		}
		for _, l := range r.logins {
			if r.s.Bind(l.Session, r.now) != 0 {
				r.refuse(l.Session)
			}
		}
		r.logins = nil
	}
	r.step(Waiting{N: 0})
	r.until(end)
	r.logins = nil
	r.s.ep.next = r.now.Mono + 1
	if v := r.choose(); v.Kind != FailRefused || v.Version != r.s.Current() {
		t.Errorf("at its end: %+v", v)
	}
}

func TestACallerWhoseTimeIsOverHearsOfTheNextAttempt(t *testing.T) {
	cfg := overlapping()
	cfg.RetryTimeout = 0
	r := newRig(t, cfg)
	r.refuse(r.begin())
	if v := r.choose(); v.Kind != FailRefused {
		t.Fatalf("at once: %+v", v)
	}
	r.after(retryMin - 1)
	if v := r.choose(); v.Kind != FailRefused {
		t.Fatalf("before the next attempt is due: %+v", v)
	}
	r.none()
	r.after(1)
	v := r.choose()
	if v.Kind != Wait || v.Until != r.now.Mono.Add(patience) {
		t.Fatalf("when it is due: %+v", v)
	}
	own := r.own(Prove)
	r.after(patience - 1)
	if v := r.choose(); v.Kind != Wait || v.Until != r.now.Mono+1 {
		t.Errorf("while it is under way: %+v", v)
	}
	r.after(1)
	if v := r.choose(); v.Kind != FailRefused {
		t.Errorf("when it takes long: %+v", v)
	}
	r.ok(own)
	if v := r.choose(); v.Kind != Take {
		t.Errorf("when it has succeeded: %+v", v)
	}
}

// An attempt that is due and doesn't come is waited for only once.
func TestAnAttemptThatDoesNotComeIsNotWaitedForForEver(t *testing.T) {
	cfg := overlapping()
	cfg.RetryTimeout = 0
	r := newRig(t, cfg)
	r.refuse(r.begin())
	r.after(retryMin)
	r.s.Choose(thePool, r.now)
	r.now.Mono = r.now.Mono.Add(patience)
	if v := r.s.Choose(thePool, r.now); v.Kind != FailRefused {
		t.Errorf("a second later: %+v", v)
	}
}

func TestHowLongCallersWaitForANewerCredential(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(sec))
	r.after(sec)
	end := r.now.Mono.Add(30 * sec)
	if v := r.choose(); v.Kind != Wait || v.Cause != ForNewer || v.Until != end {
		t.Fatalf("at first: %+v", v)
	}
	r.until(end - 1)
	if v := r.choose(); v.Kind != Wait {
		t.Errorf("a moment before: %+v", v)
	}
	r.after(1)
	if v := r.choose(); v.Kind != FailExpired || v.Version != 1 {
		t.Errorf("at its end: %+v", v)
	}
}

func TestWithoutACredential(t *testing.T) {
	s := New(overlapping())
	if v := s.Choose(thePool, start); v.Kind != FailEmpty {
		t.Errorf("a caller is told %+v", v)
	}
	if s.Current() != 0 {
		t.Error("there is a version")
	}
}

// While the latest version is refused callers use the newest predecessor that may be used.
func TestCallersFallBack(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.after(sec)
	r.read(2)
	r.ok(r.own(Prove))
	r.after(sec)
	r.read(3)
	r.close()
	r.refuse(r.own(Prove))
	v := r.choose()
	if v.Kind != LogIn || v.Version != 2 {
		t.Fatalf("a caller is told %+v", v)
	}
	if got := r.s.Snapshot(r.now).Counts.Fallbacks; got != 1 {
		t.Errorf("%d fallbacks", got)
	}
	r.after(ms)
	r.ok(v.Session)
	if v := r.choose(); v.Kind != LogIn || v.Version != 2 {
		t.Errorf("the next is told %+v", v)
	}
}

// In place the predecessor is tried once a step, until its successor has been accepted.
func TestInPlaceThePredecessorIsTriedOnceAStep(t *testing.T) {
	r := newRig(t, inPlace())
	r.connect()
	r.after(2 * sec)
	r.readUser(2, 1, time.Time{})
	r.refuse(r.own(Prove))
	r.step(Waiting{N: 1})
	for range 4 {
		v := r.choose()
		if v.Kind != LogIn || v.Version != 1 {
			t.Fatalf("a caller is told %+v", v)
		}
		if other := r.choose(); other.Kind != Wait {
			t.Fatalf("another one is told %+v", other)
		}
		r.refuse(v.Session)
		if other := r.choose(); other.Kind != Wait || other.Until < r.s.ep.next {
			t.Fatalf("after its refusal a caller is told %+v", other)
		}
		r.until(r.s.ep.next)
		r.refuse(r.own(Prove))
		r.until(r.s.fall.next)
	}
	r.until(r.s.ep.next)
	r.ok(r.own(Prove))
	r.connect()
	r.s.refuse(r.s.current(), false, r.now)
	if v := r.choose(); v.Kind != Wait {
		t.Errorf("once the successor has been accepted a caller is told %+v", v)
	}
}

// A spare is taken before anything else: the youngest that is fit; the server is asked
// first if it has been idle for a second.
func TestWhichSpareIsTaken(t *testing.T) {
	for _, tt := range []struct {
		idle  time.Duration
		check bool
	}{{spareTrust - 1, false}, {spareTrust, true}} {
		r := newRig(t, inPlace())
		r.connect()
		r.readUser(2, 1, time.Time{})
		id := r.own(Prove)
		r.ok(id)
		r.after(tt.idle)
		if v := r.choose(); v.Kind != Take || v.Session != id || v.Version != 2 || v.Check != tt.check {
			t.Errorf("after %v: %+v", tt.idle, v)
		}
	}
	r := newRig(t, inPlace())
	old := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(old, Spare, NotRetired, r.now)
	old.ready = r.now.Mono
	young := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(young, Spare, NotRetired, r.now)
	young.ready = r.now.Mono + 1
	if got := r.s.youngestSpare(r.now); got != young {
		t.Errorf("session %d is taken", got.id)
	}
	young.v.dead = true
	if got := r.s.youngestSpare(r.now); got != nil {
		t.Errorf("session %d of a dead role is taken", got.id)
	}
}

// A fallback that has taken long to log in isn't handed out if a checkout would outlive
// its credential.
func TestHandOutIsTheLastMomentToThinkAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		left time.Duration
		ok   bool
	}{{"more than a checkout", 10*sec + 1, true}, {"a checkout", 10 * sec, false}, {"none", 0, false}} {
		r := newRig(t, overlapping())
		id := r.begin()
		r.ok(id)
		r.read(2)
		r.now.Mono = r.now.Mono.Add(50*sec - tt.left)
		if ok := r.s.HandOut(id, r.now); ok != tt.ok {
			t.Errorf("%s left: handed out %v", tt.name, ok)
		}
		r.step(Tick{})
		if !tt.ok {
			r.state(id, Closing)
		}
	}
}

func TestTheLatestIsHandedOutToItsEnd(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		ok    bool
	}{{sec - 1, true}, {sec, false}} {
		r := newRig(t, overlapping())
		r.readUser(1, 1, start.Wall.Add(sec))
		id := r.begin()
		r.ok(id)
		r.now.Mono = r.now.Mono.Add(tt.after)
		if ok := r.s.HandOut(id, r.now); ok != tt.ok {
			t.Errorf("%v after its beginning: handed out %v", tt.after, ok)
		}
	}
}

// A login reads the source and is bound to what is the latest then; not if that is over,
// refused, or (of an old role) dead.
func TestWhatALoginIsBoundTo(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(r *rig)
		want VersionID
	}{
		{"what it was begun for", func(*rig) {}, 2},
		{"what its read has found", func(r *rig) { r.read(3) }, 3},
		{"what has come back", func(r *rig) { r.read(1) }, 1},
		{"not what is over", func(r *rig) { r.readUser(2, 2, r.now.Wall.Add(sec)); r.now.Mono = r.now.Mono.Add(sec) }, 0},
		{"not what is refused", func(r *rig) { r.s.refuse(r.s.current(), false, r.now) }, 0},
		{"unless it is time to ask", func(r *rig) { r.s.refuse(r.s.current(), false, r.now); r.now.Mono = r.s.ep.next }, 2},
		{"not after Close", func(r *rig) { r.step(Closed{}) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			r.connect()
			r.read(2)
			l := r.logins[0]
			r.logins = nil
			tt.run(r)
			if got := r.s.Bind(l.Session, r.now); got != tt.want {
				t.Errorf("bound to %d, want %d", got, tt.want)
			}
			if st := r.s.Session(l.Session).State; (st == LoggingIn) != (tt.want != 0) {
				t.Errorf("it is %v", st)
			}
			if r.s.Bind(l.Session, r.now) != 0 {
				t.Error("it is bound twice")
			}
			r.step(Tick{})
			r.balance()
		})
	}
}

// A login that was not to be isn't begun again at once.
func TestALoginThatWasNotToBeHasAFloor(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	l := r.logins[0]
	r.logins = nil
	r.s.refuse(r.s.current(), false, r.now)
	r.s.Bind(l.Session, r.now)
	if r.step(Tick{}); r.fx.Wake > r.now.Mono.Add(retryMin) {
		t.Errorf("the next is looked for in %v", r.fx.Wake.Sub(r.now.Mono))
	}
	r.after(retryMin - 1)
	r.none()
	r.after(1)
	r.own(Prove)
}

// A caller who finds the server full waits for a session that is about to end, if there is
// one.
func TestWhoFindsTheServerFull(t *testing.T) {
	r := newRig(t, overlapping())
	id := r.connect()
	if _, wait := r.s.Full(r.now); wait {
		t.Error("it waits for nothing")
	}
	for _, st := range []SessionState{Going} {
		r.s.move(r.s.find(id, Pooled), st, Aged, r.now)
		if until, wait := r.s.Full(r.now); !wait || until != r.now.Mono.Add(fullPatience) {
			t.Errorf("with one that is %v it waits %v until %v", st, wait, until)
		}
	}
	r.end(id)
	for _, tt := range []struct {
		since, wait time.Duration
	}{{0, fullRetry}, {fullPatience - 1, fullRetry}, {fullPatience, 0}} {
		now := r.now
		now.Mono = now.Mono.Add(tt.since)
		if until, wait := r.s.Full(now); wait != (tt.wait > 0) || wait && until != now.Mono.Add(tt.wait) {
			t.Errorf("%v after the end of one it waits %v until %v", tt.since, wait, until)
		}
	}
	r = newRig(t, overlapping())
	r.connect()
	r.read(2)
	own := r.own(Prove)
	if _, wait := r.s.Full(r.now); wait {
		t.Error("it waits for a login")
	}
	r.ok(own)
	if _, wait := r.s.Full(r.now); !wait {
		t.Error("it doesn't wait for a spare that makes room")
	}
}

// Waits are counted and their time is summed up.
func TestWaitsAreCounted(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(Waiting{N: 2})
	r.after(sec)
	r.step(Waiting{N: 3})
	r.after(sec)
	r.step(Waiting{N: 1})
	r.after(sec)
	c := r.s.Snapshot(r.now).Counts
	if c.Waits != 3 || c.Waited != 6*sec {
		t.Errorf("%d waits, %v in all", c.Waits, c.Waited)
	}
}

// Of a login with the latest version those tell that began with what was the latest then;
// of one with a predecessor only its like.
func TestWhichLoginsTellOfAVersion(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	s := r.s
	ahead := func(v VersionID) int {
		n, _ := s.ahead(s.versions[len(s.versions)-int(v)])
		return n
	}
	s.newSession(s.versions[1], ForCaller, s.pools[0], r.now) // with 1, which isn't the latest
	if ahead(1) != 1 || ahead(2) != 0 {
		t.Errorf("with a predecessor's: %d and %d", ahead(1), ahead(2))
	}
	s.newSession(s.versions[0], ForCaller, r.s.pools[0], r.now) // with 2, which is
	if ahead(1) != 1 || ahead(2) != 1 {
		t.Errorf("with the latest one's: %d and %d", ahead(1), ahead(2))
	}
	r.logins = nil
	r.read(3)
	if ahead(1) != 1 || ahead(2) != 1 || ahead(3) != 1 {
		t.Errorf("with a former latest one's: %d, %d and %d", ahead(1), ahead(2), ahead(3))
	}
}

// The connector's own login with the latest version is one that is under way, and no
// caller's, nor one with a predecessor.
func TestTheConnectorsOwnLoginIsOne(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.own(Prove)
	asker := r.s.asker()
	if asker == nil || asker.purpose != Prove {
		t.Fatalf("it is %+v", asker)
	}
	r.s.move(asker, Spare, NotRetired, r.now)
	r.s.newSession(r.s.versions[0], ForCaller, r.s.pools[0], r.now)
	r.s.newSession(r.s.versions[1], AskOld, nil, r.now)
	if x := r.s.asker(); x != nil {
		t.Errorf("there is none but it is %+v", x)
	}
}

// When callers give up again and again the connector asks for them: from when it may log
// in, and until its own login takes too long.
func TestWhenCallersAreDeserted(t *testing.T) {
	for _, tt := range []struct {
		name      string
		abandoned int
		retry     time.Duration // from now
		own       time.Duration // since the connector's own login began; negative: there is none
		want      bool
	}{
		{"twice", 2, 0, -1, false},
		{"three times", 3, 0, -1, true},
		{"before it may log in", 3, 1, -1, false},
		{"its own login is under way", 3, 0, patience - 1, true},
		{"and takes too long", 3, 0, patience, false},
	} {
		r := newRig(t, overlapping())
		r.s.abandoned = tt.abandoned
		r.s.failedAt, r.s.retryAt = r.now.Mono, r.now.Mono.Add(tt.retry)
		if tt.own >= 0 {
			x := r.s.newSession(r.s.versions[0], Prove, nil, r.now)
			x.since = r.now.Mono.Add(-tt.own)
		}
		if got := r.s.deserted(r.now); got != tt.want {
			t.Errorf("%s: deserted %v", tt.name, got)
		}
	}
}

// A caller who is deserted has the connector log in, though nothing was ever in use.
func TestADesertedCallerHasTheConnectorLogIn(t *testing.T) {
	r := newRig(t, overlapping())
	for range maxAbandoned + 1 {
		r.step(LoginAbandoned{Session: r.begin()})
		r.after(patience)
	}
	r.logins = nil
	if v := r.choose(); v.Kind != Wait || v.Cause != ForAnswer || v.Until != r.now.Mono.Add(patience) {
		t.Fatalf("it is told %+v", v)
	}
	r.own(Prove)
}

// A refused credential that has ended as well is asked about no more.
func TestNobodyWaitsForAnAttemptThatCantBe(t *testing.T) {
	r := newRig(t, overlapping())
	r.readUser(1, 1, start.Wall.Add(20*sec))
	r.refuse(r.begin())
	r.after(40 * sec)
	if v := r.choose(); v.Kind != FailRefused {
		t.Errorf("it is told %+v", v)
	}
}

// While a predecessor has just been refused as well, a caller waits until that is tried
// again.
func TestACallerWaitsForThePredecessorsTurn(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.readUser(2, 1, time.Time{})
	r.refuse(r.own(Prove))
	r.refuse(r.begin()) // with version 1
	if v := r.choose(); v.Kind != Wait || v.Until != r.s.fall.next || v.Until > r.now.Mono.Add(sec) {
		t.Errorf("it is told %+v, and the predecessor is tried at %v", v, r.s.fall.next)
	}
}

// A login that isn't to be has those who wait look again, and puts the next one off.
func TestALoginThatIsNotToBe(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	id := r.logins[0].Session
	r.readUser(2, 2, r.now.Wall.Add(-1))
	if v := r.s.Bind(id, r.now); v != 0 {
		t.Fatalf("it goes out with version %d", v)
	}
	if fx := r.step(Tick{}); !fx.Look {
		t.Error("nobody looks")
	}
	if r.s.retryAt != r.now.Mono.Add(retryMin) || r.s.failedAt != r.now.Mono {
		t.Errorf("the next one is put off by %v", r.s.retryAt.Sub(r.now.Mono))
	}
}

// What a login tells is decided when it goes out: an old role may have come back by then.
func TestALoginIsTheLatestIfItIsWhenItGoesOut(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.ok(r.own(Prove))
	r.close()
	id := r.logins[0].Session // to ask after version 1
	r.logins = nil
	r.read(1)
	if v := r.s.Bind(id, r.now); v != 1 {
		t.Fatalf("it goes out with version %d", v)
	}
	r.refuse(id)
	if !r.s.ep.on {
		t.Error("its refusal says nothing")
	}
}

// While the latest version is refused old roles are asked after all the same.
func TestBindsDuringAnEpisode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		on     bool
		latest bool
		next   time.Duration
		bound  bool
	}{
		{"the latest, too early", true, true, 1, false},
		{"the latest, in time", true, true, 0, true},
		{"an old one", true, false, 1, true},
		{"the latest, after one", false, true, 1, true},
	} {
		r := newRig(t, overlapping())
		r.connect()
		r.read(2)
		r.logins = nil
		v, purpose := r.s.versions[1], AskOld
		if tt.latest {
			v, purpose = r.s.versions[0], Prove
		}
		x := r.s.newSession(v, purpose, nil, r.now)
		r.s.ep.on, r.s.ep.next = tt.on, r.now.Mono.Add(tt.next)
		if got := r.s.Bind(x.id, r.now) != 0; got != tt.bound {
			t.Errorf("%s: bound %v", tt.name, got)
		}
	}
}

// Whoever finds the server full waits for what is about to end.
func TestWhoFindsTheServerFullWaitsForWhatIsAboutToEnd(t *testing.T) {
	for _, tt := range []struct {
		state   SessionState
		purpose Purpose
		want    bool
	}{
		{Closing, Prove, true},
		{Spare, Prove, true},
		{LoggingIn, AskOld, true},
		{LoggingIn, Prove, false},
		{LoggingIn, ForCaller, false},
		{Promised, AskOld, false},
	} {
		r := newRig(t, overlapping())
		x := r.s.newSession(r.s.versions[0], tt.purpose, nil, r.now)
		x.state = tt.state
		until, wait := r.s.Full(r.now)
		if wait != tt.want || wait && until != r.now.Mono.Add(sec) {
			t.Errorf("%v to %v: wait %v, until %v", tt.state, tt.purpose, wait, until)
		}
	}
}

func TestWhatCallersDoIsCounted(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.refuse(r.own(Prove))
	r.fail(r.begin()) // with version 1
	r.step(LoginAbandoned{Session: r.begin()})
	r.after(retryMin)
	r.ok(r.own(Prove)) // and kept
	r.connect()
	c := r.s.Snapshot(r.now).Counts
	want := Counts{Rotations: 1, Logins: 2, Refused: 1, Failed: 1, Abandoned: 1, Fallbacks: 2, Taken: 1}
	if c.Rotations != want.Rotations || c.Logins != want.Logins || c.Refused != want.Refused || c.Failed != want.Failed ||
		c.Abandoned != want.Abandoned || c.Fallbacks != want.Fallbacks || c.Taken != want.Taken {
		t.Errorf("counts %+v, want %+v", c, want)
	}
}

// Of several spares a caller gets the one that was ready last, which is the least likely to
// be gone; of those that were ready together the one that was begun last.
func TestTheYoungestSpareIsTaken(t *testing.T) {
	r := newRig(t, overlapping())
	spare := func(ready time.Duration) SessionID {
		x := r.s.newSession(r.s.versions[0], Refill, nil, r.now)
		r.s.move(x, Spare, NotRetired, r.now)
		x.ready = r.now.Mono.Add(ready)
		return x.id
	}
	spare(-2)
	spare(-1)
	want := spare(-1)
	spare(-3)
	if x := r.s.youngestSpare(r.now); x.id != want {
		t.Errorf("session %d is taken, want %d", x.id, want)
	}
}
