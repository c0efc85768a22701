package rotation

import (
	"slices"
	"testing"
	"time"
)

// The old role is asked after as soon as its successor has worked, then ever less often: a
// session that is kept for ten hours costs it some sixty logins.
func TestAnOldRoleIsAskedAfterEverLessOften(t *testing.T) {
	cfg := overlapping()
	cfg.Overlap, cfg.MaxLifetime = 24*time.Hour, 0
	r := newRig(t, cfg)
	id := r.connect()
	r.step(Held{Session: id})
	r.read(2)
	from, last := r.now.Mono, r.now.Mono
	var gaps []time.Duration
	for r.now.Mono < from.Add(10*time.Hour) {
		for r.act() {
			continue
		}
		if n := r.s.counts.Asks; int(n) > len(gaps) {
			gaps = append(gaps, r.now.Mono.Sub(last))
			last = r.now.Mono
		}
		r.until(r.fx.Wake)
	}
	if len(gaps) < 50 || len(gaps) > 120 {
		t.Errorf("it is asked after %d times", len(gaps))
	}
	for i, gap := range gaps[1:] {
		if gap < oldMin || gap > oldMax+sec {
			t.Errorf("the %d. time after %v", i+2, gap)
		}
	}
	if gaps[0] != 0 {
		t.Errorf("the first time after %v", gaps[0])
	}
}

// Only roles of another user are asked after, that are outdated, not known to be dead, not
// over, and of which a pool has sessions.
func TestWhichOldRolesAreAskedAfter(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(r *rig, id SessionID)
		asks bool
	}{
		{"one like that", func(*rig, SessionID) {}, true},
		{"the same user", func(r *rig, _ SessionID) { r.s.versions[1].user = 2 }, false},
		{"dead", func(r *rig, _ SessionID) { r.s.versions[1].dead = true }, false},
		{"without sessions", func(r *rig, id SessionID) { r.end(id) }, false},
		{"the successor is refused", func(r *rig, _ SessionID) { r.s.ep.on = true }, false},
		{"over", func(r *rig, _ SessionID) { r.now.Mono = r.now.Mono.Add(time.Hour) }, false},
		{"in a pool that nobody manages", func(r *rig, _ SessionID) { r.s.pools[0].managed = false }, false},
	} {
		r := newRig(t, overlapping())
		id := r.connect()
		r.read(2)
		r.s.versions[0].proven = true
		tt.run(r, id)
		for _, v := range r.s.versions {
			v.outdated = r.s.outdated(v, r.now)
		}
		if got := r.s.oldRole(r.now).at != Never; got != tt.asks {
			t.Errorf("%s: asked after %v", tt.name, got)
		}
	}
}

// A question that isn't answered puts off the next question and nothing else: the drain,
// which it has held up, goes on.
func TestAnUnansweredQuestionHoldsUpTheDrainOnce(t *testing.T) {
	const hangs = 5 * sec
	for name, end := range map[string]func(*rig, SessionID){
		"failed":    func(r *rig, id SessionID) { r.fail(id) },
		"abandoned": func(r *rig, id SessionID) { r.step(LoginAbandoned{Session: id}) },
	} {
		r := newRig(t, overlapping())
		r.fill(10)
		r.read(2)
		r.ok(r.own(Prove))
		r.close()
		ask := r.own(AskOld)
		r.after(hangs)
		end(r, ask)
		if r.s.retryAt > r.now.Mono || r.s.failing != 0 {
			t.Errorf("%s: the latest credential's logins are put off by %v", name, r.s.retryAt.Sub(r.now.Mono))
		}
		asks := r.s.counts.Asks
		r.settle(2*hangs - 1)
		if n := r.s.counts.Asks - asks; n > 0 {
			t.Errorf("%s: asked again %d times within %v", name, n, 2*hangs)
		}
		if left := r.s.versions[1].sessions; left > 5 {
			t.Errorf("%s: %d of 10 are left", name, left)
		}
	}
}

// Of several the one that is due first is asked after, and all together not too often.
func TestSeveralOldRolesAreAskedAfterInTurn(t *testing.T) {
	r := newRig(t, overlapping())
	for v := VersionID(1); v <= 3; v++ {
		r.read(v)
		r.s.versions[0].proven = true
		r.step(Held{Session: r.connect()})
		r.after(2 * sec)
	}
	r.read(4)
	asked := map[VersionID]int{}
	from := r.now.Mono
	for r.now.Mono < from.Add(30*sec) {
		for _, l := range r.logins {
			if v := r.s.Bind(l.Session, r.now); l.Purpose == AskOld {
				asked[v]++
			}
			r.ok(l.Session)
		}
		r.logins = nil
		r.close()
		if len(r.logins) == 0 {
			r.until(r.fx.Wake)
		}
	}
	for v := VersionID(1); v <= 3; v++ {
		if asked[v] < 2 || asked[v] > 6 {
			t.Errorf("asked after: %v", asked)
		}
	}
}

func withQuestions() Config {
	cfg := inPlace()
	cfg.AskAfter, cfg.AskByQuery = 20*sec, true
	return cfg
}

// The role in use is asked after when no login has succeeded for a while: on an idle
// connection, or else on a spare, or else by a login.
func TestHowTheCurrentRoleIsAskedAfter(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.after(20*sec - 1)
	r.step(PoolUsed{Pool: thePool})
	if len(r.fx.Asks) != 0 {
		t.Fatal("it is asked after too early")
	}
	r.after(1)
	if len(r.fx.Asks) != 1 || r.fx.Asks[0].How != OnIdle || r.fx.Asks[0].Version != 1 {
		t.Fatalf("asks %+v", r.fx.Asks)
	}
	ask := r.fx.Asks[0]
	r.none()
	r.step(Asked{Ask: ask, Answer: Unanswered}) // there was none, and there is no spare
	r.ok(r.own(AskCurrent))
	r.none()
	r.close()

	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	ask = r.fx.Asks[0]
	r.step(Asked{Ask: ask, Answer: Lives})
	r.after(20*sec - 1)
	r.step(PoolUsed{Pool: thePool})
	if len(r.fx.Asks) != 0 {
		t.Error("it is asked after again too early")
	}
}

func TestTheCurrentRoleIsAskedAfterOnASpare(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.step(Waiting{N: 1}) // somebody wants spares
	x := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(x, Spare, NotRetired, r.now)
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	r.step(Asked{Ask: r.fx.Asks[0], Answer: Unanswered})
	if len(r.fx.Asks) != 1 || r.fx.Asks[0].How != OnSpare || r.fx.Asks[0].Session != x.id {
		t.Fatalf("asks %+v", r.fx.Asks)
	}
	ask := r.fx.Asks[0]
	r.state(x.id, Asking)
	if v := r.choose(); v.Kind != LogIn {
		t.Errorf("a caller is told %+v", v)
	}
	r.step(Asked{Ask: ask, Answer: Lives})
	r.state(x.id, Spare)
}

// Nobody asks after the role of a pool that isn't used, but every ten minutes; whether it is
// used is looked at once a minute at the most.
// A spare that is asked can't be handed out: not while another session of the connector's
// own isn't ready either, or callers would find neither and log in beside the two.
func TestASpareIsNotAskedDuringALoginOfOurOwn(t *testing.T) {
	r := newRig(t, withQuestions())
	for _, id := range r.fill(3)[:2] { // so that there is room
		r.end(id)
	}
	r.step(Waiting{N: 1}) // somebody wants spares
	spare := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(spare, Spare, NotRetired, r.now)
	login := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	r.step(Asked{Ask: r.fx.Asks[0], Answer: Unanswered})
	r.state(spare.id, Spare)
	r.fail(login.id)
	r.state(spare.id, Asking)
}

func TestAnUnusedPoolIsLeftAlone(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	from := r.now.Mono
	wakes := 0
	for len(r.fx.Asks) == 0 {
		r.until(r.fx.Wake)
		wakes++
	}
	if at := r.now.Mono.Sub(from); at != 10*time.Minute {
		t.Errorf("asked after %v", at)
	}
	if wakes > 11 {
		t.Errorf("woken %d times in ten minutes", wakes)
	}
}

func TestWhenNobodyAsksAfterTheCurrentRole(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  func(*Config)
		run  func(r *rig)
	}{
		{"it isn't wanted", func(c *Config) { c.AskAfter = 0 }, func(*rig) {}},
		{"it is refused", nil, func(r *rig) { r.s.ep.on, r.s.ep.next = true, Never }},
		{"nothing is managed", nil, func(r *rig) { r.s.pools[0].managed = false }},
		{"it is closed", nil, func(r *rig) { r.step(Closed{}) }},
	} {
		cfg := withQuestions()
		if tt.cfg != nil {
			tt.cfg(&cfg)
		}
		r := newRig(t, cfg)
		r.connect()
		tt.run(r)
		r.after(30 * sec)
		r.step(PoolUsed{Pool: thePool})
		if len(r.fx.Asks) != 0 || len(r.logins) != 0 {
			t.Errorf("%s: asks %v, logins %v", tt.name, r.fx.Asks, r.logins)
		}
	}
}

// A query that the role's own session is refused says that it is dead: that is an episode,
// the source is read past caches, and the pool's sessions go when a successor has worked.
func TestADeadRoleInUse(t *testing.T) {
	r := newRig(t, withQuestions())
	id := r.connect()
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	r.step(Asked{Ask: r.fx.Asks[0], Answer: Refuses})
	if r.fx.Read != ReadAfresh || !r.s.ep.on {
		t.Errorf("read %v, refusing %v", r.fx.Read, r.s.ep.on)
	}
	if p := r.s.Problems(r.now); len(p) != 1 || p[0].Kind != RoleInUseDead || p[0].CanConnect || p[0].Since != r.now.Mono {
		t.Errorf("problems %+v", p)
	}
	r.state(id, Pooled)
	r.read(2)
	r.ok(r.own(Prove))
	r.state(id, Going)
	if got := r.s.Session(id).Reason; got != Revoked {
		t.Errorf("it goes as %v", got)
	}
}

// A login that the same role is granted knows better than a query.
func TestAQueryThatLies(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	r.step(Asked{Ask: r.fx.Asks[0], Answer: Refuses})
	r.after(retryMin)
	r.ok(r.own(Prove))
	if r.s.ep.on || r.s.versions[0].dead {
		t.Error("the role is still dead")
	}
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	if len(r.fx.Asks) != 0 {
		t.Error("the query is put again")
	}
	r.close() // a spare has made room
	r.own(AskCurrent)
}

// A query that is wrong is not put again, and is no refusal.
func TestAWrongQueryIsNotPutAgain(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	r.step(Asked{Ask: r.fx.Asks[0], Answer: Unasked})
	if r.s.ep.on {
		t.Error("it is a refusal")
	}
	r.ok(r.own(AskCurrent))
	r.close()
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	if len(r.fx.Asks) != 0 {
		t.Error("it is put again")
	}
}

// The session that was borrowed may be of another version: that is known of it then, and
// the question stands.
func TestAnAnswerOfAnotherVersion(t *testing.T) {
	for _, tt := range []struct {
		answer Answer
		dead   bool
	}{{Lives, false}, {Refuses, true}} {
		r := newRig(t, withQuestions())
		r.connect()
		r.readUser(2, 1, time.Time{})
		r.ok(r.own(Prove))
		r.s.versions[1].user, r.s.versions[1].askAt = 7, Never
		r.s.pools[0].drain.told = Never - 1 // the drain waits
		r.logins = nil
		r.after(20 * sec)
		r.step(PoolUsed{Pool: thePool})
		ask := r.fx.Asks[0]
		ask.Version = 1
		r.step(Asked{Ask: ask, Answer: tt.answer})
		if got := r.s.versions[len(r.s.versions)-1].dead; got != tt.dead {
			t.Errorf("%v: the old one is dead: %v", tt.answer, got)
		}
		if r.s.ep.on {
			t.Errorf("%v: the current one is refused", tt.answer)
		}
		if len(r.fx.Asks)+len(r.logins)+len(r.in(Closing)) == 0 {
			t.Errorf("%v: the question doesn't stand", tt.answer)
		}
	}
}

// A question that isn't answered for long counts as unanswered, and its answer is late.
func TestAQuestionThatHangs(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	ask := r.fx.Asks[0]
	r.after(askPatience - 1)
	r.none()
	r.after(1)
	r.step(PoolUsed{Pool: thePool})
	own := r.own(AskCurrent)
	r.step(Asked{Ask: ask, Answer: Refuses})
	if r.s.ep.on {
		t.Error("a late answer counts")
	}
	r.ok(own)
}

// A session of an old password of the same user knows about the role as well as any.
func TestTheSameUsersSessionSpeaksForTheRole(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.readUser(2, 1, time.Time{})
	r.ok(r.own(Prove))
	r.s.pools[0].drain.told = Never - 1 // the drain waits
	r.logins = nil
	r.after(20 * sec)
	r.step(PoolUsed{Pool: thePool})
	ask := r.fx.Asks[0]
	ask.Version = 1
	r.step(Asked{Ask: ask, Answer: Refuses})
	if !r.s.ep.on || !r.s.versions[0].dead {
		t.Error("the current role isn't dead")
	}
}

// Of old roles that are due together the newest is asked after, and again after an eighth of
// the time for which it has been superseded.
func TestWhichOldRoleIsAskedAfterNext(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(Held{Session: r.connect()})
	r.read(2)
	r.s.versions[0].proven = true
	r.step(Held{Session: r.connect()})
	r.logins = nil
	r.read(3)
	r.s.versions[0].proven = true
	for _, v := range r.s.versions {
		v.outdated = r.s.outdated(v, r.now)
		v.askAt = 0
	}
	if l := r.s.oldRole(r.now); l.v.id != 2 {
		t.Errorf("it is %d", l.v.id)
	}
	r.now.Mono = r.s.versions[1].superseded.Add(40 * sec)
	r.s.askedOld(r.s.versions[1], r.now)
	if got := r.s.versions[1].askAt.Sub(r.now.Mono); got != 5*sec {
		t.Errorf("again after %v", got)
	}
	if l := r.s.oldRole(r.now); l.v.id != 1 {
		t.Errorf("then it is %d", l.v.id)
	}
}

// The role in use is asked after while a pool that is managed has sessions; if none has been
// used meanwhile, much later.
func TestWhenTheCurrentRoleIsAskedAfter(t *testing.T) {
	for _, tt := range []struct {
		name      string
		run       func(r *rig)
		due, look time.Duration // from now; negative: never
		heed      bool
	}{
		{"never asked after", func(r *rig) { r.connect(); r.after(20 * sec); r.s.cfg.AskAfter = -1 }, -1, -1, false},
		{"nothing is open", func(*rig) {}, -1, -1, false},
		{"only where nobody manages it", func(r *rig) { r.connect(); r.s.pools[0].managed = false; r.s.pool(7).managed = true }, -1, -1, false},
		{"in use", func(r *rig) { r.connect(); r.after(1); r.step(PoolUsed{Pool: thePool}) }, 20*sec - 1, 20*sec - 1, false},
		{"used when it was last known to live", func(r *rig) { r.connect(); r.step(PoolUsed{Pool: thePool}) }, 10 * time.Minute, 20 * sec, false},
		{"not used for as long", func(r *rig) { r.connect(); r.after(20 * sec) }, 10*time.Minute - 20*sec, lookEvery, true},
		{"another pool has none", func(r *rig) { r.connect(); r.step(PoolAdded{Pool: 7}) }, 10 * time.Minute, 20 * sec, false},
		{"another pool, first, has none", func(r *rig) {
			r.step(PoolAdded{Pool: 7})
			r.connect()
			r.s.pools[0], r.s.pools[1] = r.s.pools[1], r.s.pools[0]
		}, 10 * time.Minute, 20 * sec, false},
	} {
		r := newRig(t, withQuestions())
		r.s.current().proven = true
		tt.run(r)
		due, look, heed := r.s.askDue(r.s.current(), r.now)
		want := func(d time.Duration) Instant {
			if d < 0 {
				return Never
			}
			return r.now.Mono.Add(d)
		}
		if due != want(tt.due) || look != want(tt.look) || heed != tt.heed {
			t.Errorf("%s: due in %v, looked at in %v, heeded %v", tt.name, due.Sub(r.now.Mono), look.Sub(r.now.Mono), heed)
		}
		if got := r.s.planAsk(r.now); got != want(tt.look) {
			t.Errorf("%s: it wakes in %v", tt.name, got.Sub(r.now.Mono))
		}
	}
}

// A pool that was not used for long is not looked at often; but the role is asked after at
// once when it is used again.
func TestAPoolThatIsUsedAgainIsAskedAtOnce(t *testing.T) {
	r := newRig(t, withQuestions())
	r.s.current().proven = true
	r.connect()
	r.after(20*sec - 1)
	if r.step(Tick{}); r.fx.Heed {
		t.Error("it is to be told of a use before it is time to ask")
	}
	if r.after(1); !r.fx.Heed || len(r.fx.Asks) > 0 {
		t.Errorf("heeded %v, asks %v", r.fx.Heed, r.fx.Asks)
	}
	r.after(time.Second)
	if r.step(PoolUsed{Pool: thePool}); len(r.fx.Asks) != 1 || r.fx.Heed {
		t.Errorf("when it is used: heeded %v, asks %v", r.fx.Heed, r.fx.Asks)
	}
}

// What an answer says is known of the version of whoever gave it; the question stands if that
// wasn't the one in use.
func TestWhatAnswersSay(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version VersionID
		answer  Answer
		stands  bool // the question: it is put in another way
		on      bool // an episode has begun
	}{
		{"the one in use lives", 2, Lives, false, false},
		{"an old one does", 1, Lives, true, false},
		{"the one in use is dead", 2, Refuses, false, true},
		{"an old one is", 1, Refuses, true, false},
		{"one that is forgotten is", 99, Refuses, true, false},
		{"there was nobody", 2, Unanswered, true, false},
		{"it can't be asked", 2, Unasked, true, false},
	} {
		r := newRig(t, withQuestions())
		r.connect()
		r.read(2)
		r.step(Asked{Ask: r.fx.Asks[0], Answer: Lives})
		r.s.versions[1].askAt = Never // nobody asks after the old one again
		r.ok(r.own(Prove))
		r.connect()
		r.after(20 * sec)
		r.logins, r.told = nil, nil
		asks := r.s.counts.Asks
		r.step(PoolUsed{Pool: thePool})
		if len(r.fx.Asks) != 1 || r.s.counts.Asks != asks+1 {
			t.Fatalf("asks %+v, of which %d count", r.fx.Asks, r.s.counts.Asks-asks)
		}
		ask := r.fx.Asks[0]
		ask.Version = tt.version
		r.step(Asked{Ask: ask, Answer: tt.answer})
		if stands := r.s.ask.stage != askIdle; stands != tt.stands || r.s.ep.on != tt.on {
			t.Errorf("%s: the question stands %v, an episode %v", tt.name, stands, r.s.ep.on)
		}
		if tt.answer == Lives && tt.version == 2 && r.s.ask.answered != r.now.Mono {
			t.Errorf("%s: the answer came at %v", tt.name, r.s.ask.answered)
		}
	}
}

// The word of a query isn't believed once a login has known better.
func TestAQueryThatHasLiedIsNotBelieved(t *testing.T) {
	r := newRig(t, withQuestions())
	r.connect()
	r.s.queryRefused(1, r.now)
	if !r.s.ep.on || !r.s.current().dead {
		t.Fatal("it isn't believed at first")
	}
	if r.s.current().unclear {
		t.Error("it may have had other reasons")
	}
	r.step(Waiting{N: 1})
	r.after(retryMin)
	r.ok(r.own(Prove))
	if r.s.ep.on || r.s.current().dead {
		t.Fatal("the login isn't believed")
	}
	if r.s.queryRefused(1, r.now); r.s.ep.on || r.s.current().dead {
		t.Error("it is believed again")
	}
}

func TestAfterCloseASpareThatWasAskedIsClosed(t *testing.T) {
	r := newRig(t, withQuestions())
	x := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(x, Asking, NotRetired, r.now)
	r.step(Closed{})
	r.step(Asked{Ask: Ask{How: OnSpare, Version: 1, Session: x.id, Began: r.now.Mono}, Answer: Lives})
	r.state(x.id, Closing)
}

// A question that isn't answered holds up the next one for twice as long as it has taken.
func TestHowLongAnUnansweredQuestionHoldsUpTheNext(t *testing.T) {
	r := newRig(t, overlapping())
	x := r.s.newSession(r.s.versions[0], AskOld, nil, r.now)
	x.began = r.now.Mono.Add(-5 * sec)
	if r.s.unansweredOld(x, r.now); r.s.askOldAt != r.now.Mono.Add(10*sec) {
		t.Errorf("it waits for %v", r.s.askOldAt.Sub(r.now.Mono))
	}
}

// drainWithQuestions has a pool of three whose credential has just had a successor that works,
// and the question after the old role that comes of it.
func drainWithQuestions(t *testing.T, change func(*Config)) (*rig, Ask) {
	t.Helper()
	cfg := overlapping()
	cfg.AskAfter, cfg.AskByQuery = 20*sec, true
	if change != nil {
		change(&cfg)
	}
	r := newRig(t, cfg)
	r.fill(3)
	ask := append(r.read(2).Asks, Ask{})[0]
	r.ok(r.own(Prove))
	return r, ask
}

// An old role is asked after by a query, which takes no login and no spare's room, for as long
// as its sessions answer.
func TestAnOldRoleIsAskedAfterByQuery(t *testing.T) {
	r, ask := drainWithQuestions(t, nil)
	if ask.How != OnIdle || ask.Version != 1 || r.s.counts.Asks != 1 {
		t.Fatalf("asks %+v, which count as %d", ask, r.s.counts.Asks)
	}
	from := r.now.Mono
	for _, at := range []time.Duration{250 * ms, 750 * ms, 1750 * ms} {
		r.step(Asked{Ask: ask, Answer: Lives})
		if n := len(r.in(Closing)) + len(r.logins) + len(r.fx.Asks); n > 0 || len(r.in(Spare)) != 1 {
			t.Fatalf("closing %v, logins %v, asks %v, spares %v", r.in(Closing), r.logins, r.fx.Asks, r.in(Spare))
		}
		r.until(from.Add(at) - 1)
		r.none()
		if len(r.fx.Asks) > 0 {
			t.Fatalf("asked again before %v", at)
		}
		if r.fx.Wake > from.Add(at) {
			t.Fatalf("it wakes in %v", r.fx.Wake.Sub(r.now.Mono))
		}
		r.until(from.Add(at))
		if len(r.fx.Asks) != 1 {
			t.Fatalf("not asked again after %v", at)
		}
		ask = r.fx.Asks[0]
	}
}

// What follows from the answer to a question after an old role, which a session of the latest
// one may have given.
func TestWhatFollowsFromAnAnswerAfterAnOldRole(t *testing.T) {
	for _, tt := range []struct {
		name          string
		known         time.Duration // for how long it was known to live when it was superseded; negative: it wasn't
		version       VersionID
		answer        Answer
		login, again  bool // by what it is asked after next, whenever that is
		dead, refused bool
	}{
		{name: "it lives", known: -1, version: 1, answer: Lives, again: true},
		{name: "it is dead", known: -1, version: 1, answer: Refuses, dead: true},
		{name: "another one lives, and nothing is known of it", known: -1, version: 2, answer: Lives, login: true},
		{name: "another one does, and it did lately", known: 20*sec - 1, version: 2, answer: Lives, again: true},
		{name: "another one does, and it did some time ago", known: 20 * sec, version: 2, answer: Lives, login: true},
		{name: "the latest one is dead", known: -1, version: 2, answer: Refuses, refused: true},
		{name: "nobody is idle", known: sec, version: 1, answer: Unanswered, login: true},
		{name: "a query can't tell", known: sec, version: 1, answer: Unasked, login: true},
	} {
		r, ask := drainWithQuestions(t, nil)
		if old := r.s.versions[1]; tt.known >= 0 {
			old.livedAt = r.now.Mono.Add(-tt.known)
		}
		ask.Version = tt.version
		r.step(Asked{Ask: ask, Answer: tt.answer})
		r.close() // at the first question a spare makes room for a login
		login := len(r.logins) == 1 && r.logins[0].Purpose == AskOld
		old, at := r.s.nextOld(r.now)
		again := !login && old != nil && !r.s.byLogin(old) && at == r.now.Mono.Add(oldMin)
		if login != tt.login || again != tt.again {
			t.Errorf("%s: by a login %v, by a query again %v", tt.name, login, again)
		}
		if r.s.versions[1].dead != tt.dead || r.s.ep.on != tt.refused {
			t.Errorf("%s: it is dead %v, the latest is refused %v", tt.name, r.s.versions[1].dead, r.s.ep.on)
		}
		if !tt.login {
			continue
		}
		r.ok(r.own(AskOld))
		r.close()
		r.ok(r.own(Replace))
		r.after(oldMin)
		if asks := len(r.fx.Asks); asks != 1 && !r.s.ask.useless || asks > 0 && r.s.ask.useless {
			t.Errorf("%s: then it is asked after by %d queries", tt.name, asks)
		}
		if r.s.ask.useless {
			continue
		}
		ask = r.fx.Asks[0]
		ask.Version = 2
		if r.step(Asked{Ask: ask, Answer: Lives}); r.s.byLogin(r.s.versions[1]) {
			t.Errorf("%s: the login's success is forgotten", tt.name)
		}
	}
}

// When no query can ask after an old role, or none should, a login does.
func TestWhenAnOldRoleIsAskedAfterByLogin(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"there is no query":       func(c *Config) { c.AskByQuery = false },
		"nobody wants any asking": func(c *Config) { c.AskAfter = 0 },
	} {
		r, ask := drainWithQuestions(t, change)
		if ask != (Ask{}) {
			t.Errorf("%s: asks %+v", name, ask)
		}
		r.close()
		r.ok(r.own(AskOld))
	}
}

// A question after an old role that hangs holds up no login, and is followed by one.
func TestAQuestionAfterAnOldRoleThatHangs(t *testing.T) {
	r, _ := drainWithQuestions(t, func(c *Config) { c.DrainTime = 10 * time.Minute; c.Overlap, c.MaxLifetime = time.Hour, 0 })
	r.after(askPatience - 1)
	r.none()
	if len(r.fx.Asks) > 0 || len(r.in(Closing)) > 0 {
		t.Fatalf("asks %v, closing %v", r.fx.Asks, r.in(Closing))
	}
	r.after(1)
	r.close()
	r.ok(r.own(AskOld))
}

// The login that asks after an old role waits for a second until there is room for it, but
// for the first time: then it closes the spare.
func TestALoginAfterAnOldRoleWaitsForRoom(t *testing.T) {
	for _, room := range []bool{false, true} {
		r := newRig(t, overlapping())
		ids := r.fill(3)
		r.read(2)
		r.ok(r.own(Prove))
		r.close()
		r.ok(r.own(AskOld))
		r.close()
		r.ok(r.own(Replace))
		r.after(oldMin)
		r.none()
		r.after(sec - 1)
		if len(r.in(Closing)) > 0 {
			t.Fatal("a spare makes room at once")
		}
		if room {
			r.s.pools[0].drain.told = Never - 1 // the drain waits
			r.end(ids[2])
			r.connect() // takes the spare
			r.end(ids[1])
			r.ok(r.own(AskOld))
			continue
		}
		if r.fx.Wake != r.now.Mono+1 {
			t.Errorf("it wakes in %v", r.fx.Wake.Sub(r.now.Mono))
		}
		r.after(1)
		r.close()
		r.ok(r.own(AskOld))
	}
}

// Processes that are told of a rotation together don't log in together to have it proven, and
// are not late; who has a caller waiting, or sessions of a role that is dead, does at once.
func TestProcessesProveANewVersionOneByOne(t *testing.T) {
	const n = 1000
	cfg := overlapping()
	cfg.DrainTime = 120 * sec
	var tenths [10]int
	for seed := range uint64(n) {
		cfg.Seed = seed
		r := newRig(t, cfg)
		r.s.hurry = New(cfg).hurry
		r.connect()
		r.read(2)
		for len(r.logins) == 0 {
			r.until(r.fx.Wake)
		}
		r.own(Prove)
		late := r.now.Mono.Sub(r.s.versions[0].read)
		if late > 10*sec {
			t.Fatalf("it is proven %v late", late)
		}
		tenths[min(late/sec, 9)]++
	}
	for i, k := range tenths {
		if k < n/20 || k > n*3/20 {
			t.Errorf("%d of %d in the %d. tenth of the time", k, n, i+1)
		}
	}
	for name, hurries := range map[string]func(*rig){
		"a caller waits":      func(r *rig) { r.step(Waiting{N: 1}) },
		"a caller would know": func(r *rig) { r.s.want(r.now); r.step(Tick{}) },
		"the old role is dead": func(r *rig) {
			r.s.versions[1].dead = true
			r.step(Tick{})
		},
	} {
		r := newRig(t, cfg)
		r.s.hurry = 10 * sec
		r.connect()
		r.read(2)
		if hurries(r); len(r.logins) == 0 {
			t.Errorf("%s: nobody logs in", name)
		}
	}
}

// A query that an old role's session is refused says that the role is dead: its successor is
// proven at once, and its sessions go.
func TestAnOldRoleIsFoundDeadByQuery(t *testing.T) {
	cfg := overlapping()
	cfg.AskAfter, cfg.AskByQuery = 20*sec, true
	r := newRig(t, cfg)
	r.s.hurry = 10 * sec
	ids := r.fill(3)
	r.read(2)
	r.none()
	r.after(oldMin)
	r.step(Asked{Ask: r.fx.Asks[0], Answer: Refuses})
	if r.heard(RoleDead) != 1 {
		t.Fatal("nobody hears of it")
	}
	r.ok(r.own(Prove))
	for _, id := range ids {
		r.state(id, Going)
	}
}

// Pools that are told of a rotation together don't ask after the old role in step: each asks
// within oldMin, and again by chance up to a quarter earlier than it might. Those that are to
// replace all at once have no time for that.
func TestPoolsAskAfterAnOldRoleOneByOne(t *testing.T) {
	const n = 500
	for _, hurry := range []time.Duration{0, 100 * ms, 10 * sec} {
		var tenths [2][10]int
		first, second := min(oldMin, hurry), min(oldMin/2, hurry) // of the second gap, which is two oldMin
		for seed := range uint64(n) {
			cfg := overlapping()
			cfg.Seed, cfg.AskAfter, cfg.AskByQuery = seed, 20*sec, true
			r := newRig(t, cfg)
			r.s.hurry = hurry
			r.connect()
			r.read(2)
			_, at := r.s.nextOld(r.now)
			wait := at.Sub(r.now.Mono)
			r.s.asksOld = 1
			r.s.askedOld(r.s.versions[1], r.now)
			gap := r.s.askOldAt.Sub(r.now.Mono)
			if wait < 0 || wait > first || gap > 2*oldMin || gap < 2*oldMin-second {
				t.Fatalf("it is asked after in %v, and again in %v", wait, gap)
			}
			if hurry > 0 {
				tenths[0][min(10*wait/first, 9)]++
				tenths[1][min(10*(2*oldMin-gap)/second, 9)]++
			}
		}
		for i, k := range slices.Concat(tenths[0][:], tenths[1][:]) {
			if hurry > 0 && (k < n/25 || k > n*4/25) {
				t.Errorf("%v: %d of %d in the %d. tenth of the time", hurry, k, n, i%10+1)
			}
		}
	}
}

// The first login that asks after an old role has no time to wait for room, the others have.
func TestALoginThatAsksWaitsForRoom(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.ok(r.own(Prove))
	r.after(ms)
	for i := range 2 {
		l := r.s.oldRole(r.now)
		if l.v == nil || l.crowd != l.at.Add(time.Duration(i)*roomPatience) {
			t.Errorf("%d. login: at %v, and if need be at %v", i+1, l.at, l.crowd)
		}
		r.s.askedOld(r.s.versions[1], r.now)
	}
}

// Processes that were told of a rotation together don't go on asking after the old role
// together, when those have come to log in for it who have replaced most connections.
func TestProcessesAskAfterAnOldRoleOneByOne(t *testing.T) {
	const n = 500
	s := New(overlapping())
	v := &version{superseded: 1}
	var tenths [10]int
	for range n {
		now := Now{Mono: v.superseded.Add(80 * sec)}
		s.askedOld(v, now)
		pause := v.askAt.Sub(now.Mono)
		if pause < 7500*ms || pause > 10*sec {
			t.Fatalf("it is asked after again in %v", pause)
		}
		tenths[min((pause-7500*ms)/(250*ms), 9)]++
	}
	for i, k := range tenths {
		if k < n/20 || k > n*3/20 {
			t.Errorf("%d of %d in the %d. tenth of the time", k, n, i+1)
		}
	}
}
