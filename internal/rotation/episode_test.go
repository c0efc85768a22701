package rotation

import (
	"testing"
	"time"
)

// Whose refusal begins an episode, and whose success ends it: that of a login which began
// with the version that was the latest then.
func TestWhoseLoginCounts(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(r *rig)
		on   bool
	}{
		{"the latest version's refusal begins one", func(r *rig) {
			r.refuse(r.begin())
		}, true},
		{"a success ends it that began after the refusal was heard", func(r *rig) {
			r.refuse(r.begin())
			r.step(Waiting{N: 1})
			r.after(retryMin)
			r.ok(r.own(Prove))
		}, false},
		{"a success doesn't that began before", func(r *rig) {
			r.connect() // a proof: two may go at once
			a, b := r.begin(), r.begin()
			r.after(ms)
			r.refuse(a)
			r.ok(b)
		}, true},
		{"a predecessor's success doesn't", func(r *rig) {
			r.connect()
			r.read(2)
			r.refuse(r.own(Prove))
			r.after(ms)
			r.connect() // with version 1
		}, true},
		{"a predecessor's refusal begins none", func(r *rig) {
			r.connect()
			r.read(2)
			r.ok(r.own(Prove))
			r.close()
			r.refuse(r.own(AskOld))
		}, false},
		{"a login that was the latest's when it began counts though it isn't when it ends", func(r *rig) {
			r.connect()
			old := r.begin()
			r.read(2)
			r.refuse(old)
		}, true},
		{"and ends one likewise", func(r *rig) {
			r.refuse(r.begin())
			r.step(Waiting{N: 1})
			r.after(retryMin)
			id := r.own(Prove)
			r.read(2)
			r.ok(id)
		}, false},
		{"a failure says nothing", func(r *rig) {
			r.fail(r.begin())
		}, false},
		{"nor does a login that was given up", func(r *rig) {
			r.step(LoginAbandoned{Session: r.begin()})
		}, false},
		{"a failure ends none", func(r *rig) {
			r.refuse(r.begin())
			r.step(Waiting{N: 1})
			r.after(retryMin)
			r.fail(r.own(Prove))
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			tt.run(r)
			if got := r.s.Snapshot(r.now).Refusing; got != tt.on {
				t.Errorf("refusing %v, want %v", got, tt.on)
			}
		})
	}
}

// A success at the very instant of the refusal began after it, for all that is known.
func TestASuccessMustHaveBegunAfterTheLastRefusal(t *testing.T) {
	for _, tt := range []struct {
		began time.Duration // since the refusal was heard
		ends  bool
	}{{-1, false}, {0, true}, {1, true}} {
		r := newRig(t, overlapping())
		r.refuse(r.begin())
		heard := r.now.Mono
		r.step(Waiting{N: 1})
		r.after(retryMin)
		id := r.own(Prove)
		r.s.find(id, LoggingIn).began = heard.Add(tt.began)
		r.ok(id)
		if got := !r.s.ep.on; got != tt.ends {
			t.Errorf("begun %v after the refusal: ends %v", tt.began, got)
		}
	}
}

func TestAtTheBeginningOfAnEpisodeAllProofsLapse(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.read(2)
	r.refuse(r.own(Prove))
	for _, v := range r.s.versions {
		if v.provenAt != 0 {
			t.Errorf("version %d is still proven", v.id)
		}
	}
	// So one fallback goes ahead, and not a burst.
	r.begin()
	if v := r.choose(); v.Kind != Wait || v.Cause != ForAnswer {
		t.Errorf("a second caller is told %+v", v)
	}
}

// The server is asked after 0.5 s, then 1, 2, 4, 8, 10 and 10 s, by the connector alone.
func TestARefusedCredentialIsAskedAboutLessAndLess(t *testing.T) {
	r := newRig(t, overlapping())
	r.refuse(r.begin())
	r.step(Waiting{N: 1})
	for n, wait := range []time.Duration{retryMin, sec, 2 * sec, 4 * sec, 8 * sec, retryMax, retryMax} {
		r.after(wait - 1)
		r.none()
		r.after(1)
		r.refuse(r.own(Prove))
		if got := r.s.Snapshot(r.now).Refusals; got != n+2 {
			t.Fatalf("%d refusals count, want %d", got, n+2)
		}
	}
}

// A code that says no for everything is asked about every second or two, kills no role,
// and isn't waited for if the credential has never worked.
func TestAnUnclearRefusal(t *testing.T) {
	r := newRig(t, overlapping())
	r.unclear(r.begin())
	if v := r.choose(); v.Kind != FailRefused || !v.Ambiguous {
		t.Errorf("a credential that has never worked: %+v", v)
	}
	r.step(Waiting{N: 1})
	for _, wait := range []time.Duration{unclearMin, unclearMax, unclearMax, unclearMax} {
		r.after(wait - 1)
		r.none()
		r.after(1)
		r.unclear(r.own(Prove))
	}
	r.read(2)
	if r.s.versions[1].dead {
		t.Error("an unclear refusal killed a role")
	}
	if got := r.s.Problems(r.now)[0].Kind; got != CredentialUnclear {
		t.Errorf("the problem is %v", got)
	}
	r.after(unclearMax)
	r.refuse(r.own(Prove))
	if got := r.s.Problems(r.now)[0].Kind; got != CredentialRefused {
		t.Errorf("after a clear refusal the problem is %v", got)
	}
}

func TestAnUnclearRefusalIsWaitedForIfTheCredentialHasWorked(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	r.after(proofTTL)
	r.unclear(r.begin())
	if v := r.choose(); v.Kind != Wait || v.Cause != ForAccept || !v.Ambiguous {
		t.Errorf("a caller is told %+v", v)
	}
}

// A new version is asked about at once; the next ones less and less often.
func TestNewVersionsInAnEpisodeHaveAFloor(t *testing.T) {
	r := newRig(t, overlapping())
	r.refuse(r.begin())
	r.step(Waiting{N: 1})
	asked := 0
	for v := VersionID(2); v < 202; v++ { // a new one each 50 ms, for 10 s
		r.after(50 * ms)
		r.read(v)
		if len(r.logins) > 0 {
			r.refuse(r.own(Prove))
			asked++
		}
	}
	if asked < 4 || asked > 8 {
		t.Errorf("%d of 200 new versions were asked about within 10 s", asked)
	}
}

func TestAFreshVersionIsAskedAboutAtOnce(t *testing.T) {
	r := newRig(t, overlapping())
	r.refuse(r.begin())
	r.step(Waiting{N: 1})
	for range 4 {
		r.until(r.s.ep.next)
		r.refuse(r.own(Prove))
	}
	r.after(sec)
	r.none()
	r.read(2)
	r.own(Prove)
}

// Another episode within a minute goes on where the last one stood, but for what has worn
// off meanwhile.
func TestAnEpisodeGoesOn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		quiet time.Duration
		n     int           // of the refusals before
		spent time.Duration // of the callers' time
	}{
		{"at once", 0, 3, 3500 * ms},
		{"before a step has worn off", wearOff*2*sec - 1, 3, 0},
		{"when it has", wearOff * 2 * sec, 2, 0},
		{"after a second", sec, 3, 2500 * ms},
		{"when two have", wearOff * 3 * sec, 1, 0},
		{"when all have", wearOff * 3500 * ms, 0, 0},
		{"a minute later, less a moment", memory - 1, 0, 0},
		{"a minute later", memory, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			r.refuse(r.begin())
			r.step(Waiting{N: 1})
			r.after(retryMin)
			r.refuse(r.own(Prove))
			r.after(sec)
			r.refuse(r.own(Prove))
			r.after(2 * sec)
			r.ok(r.own(Prove))
			r.step(Waiting{N: 0})
			r.after(tt.quiet)
			r.s.refuse(r.s.current(), false, r.now)
			if got := r.s.ep.n - 1; got != tt.n {
				t.Errorf("goes on after %d refusals, want %d", got, tt.n)
			}
			if got := r.now.Mono.Sub(r.s.ep.began); got != tt.spent {
				t.Errorf("callers have waited %v, want %v", got, tt.spent)
			}
		})
	}
}

// Callers wait anew where the last episode was ended by another credential: of in-place
// rotations one after the other each is an outage of its own. The backoff goes on.
func TestAnEpisodeThatANewVersionEndedIsOver(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spent time.Duration // of the callers' time
		heal  func(r *rig)
	}{
		{"the version that was refused is accepted", 3500 * ms, func(r *rig) { r.ok(r.own(Prove)) }},
		{"another one is", 0, func(r *rig) {
			login := r.own(Prove)
			r.read(2)
			r.refuse(login)
			r.until(r.s.ep.next)
			r.ok(r.own(Prove))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, inPlace())
			r.refuse(r.begin())
			r.step(Waiting{N: 1})
			r.after(retryMin)
			r.refuse(r.own(Prove))
			r.after(sec)
			r.refuse(r.own(Prove))
			r.after(2 * sec)
			tt.heal(r)
			if r.s.ep.on {
				t.Fatal("the episode goes on")
			}
			r.s.refuse(r.s.current(), false, r.now)
			if got := r.now.Mono.Sub(r.s.ep.began); got != tt.spent {
				t.Errorf("callers have waited %v, want %v", got, tt.spent)
			}
			if r.s.ep.n < 4 {
				t.Errorf("the backoff begins anew, with step %d", r.s.ep.n)
			}
		})
	}
}

// A version that was refused and comes back brings its episode with it, for a minute.
func TestARefusedVersionThatComesBackIsKnown(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		on    bool
	}{{memory - 1, true}, {memory, false}} {
		r := newRig(t, overlapping())
		r.connect()
		r.read(2)
		r.refuse(r.own(Prove))
		r.read(1)
		r.ok(r.own(Prove))
		if r.s.ep.on {
			t.Fatal("the old version's success has ended nothing")
		}
		r.after(tt.after)
		r.read(2)
		if r.s.ep.on != tt.on {
			t.Errorf("back after %v: refusing %v", tt.after, r.s.ep.on)
		}
	}
}

// A source that alternates between a good and a refused login doesn't cost a refusal each
// time.
func TestASourceThatAlternates(t *testing.T) {
	r := newRig(t, overlapping())
	r.step(Waiting{N: 1})
	r.connect()
	refused := 0
	for i := range 300 { // for 30 s
		r.after(100 * ms)
		r.read(VersionID(1 + (i+1)%2))
		for len(r.logins) > 0 {
			l := r.logins[0]
			r.logins = nil
			switch r.s.Bind(l.Session, r.now) {
			case 2:
				refused++
				r.refuse(l.Session)
			case 1:
				r.ok(l.Session)
			}
			r.step(Tick{})
		}
	}
	if refused > 8 {
		t.Errorf("%d refusals in 30 s", refused)
	}
}

// A login that was the latest's when it began doesn't end the refusals of what is the latest
// by now.
func TestASuccessOfTheLastLatestEndsNothing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known bool // that the latest is refused
	}{{"the latest is new", false}, {"it is known to be refused", true}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, overlapping())
			r.connect()
			r.read(2)
			r.refuse(r.own(Prove))
			r.read(1) // it comes back, and is asked about
			login := r.own(Prove)
			if tt.known {
				r.read(2)
			} else {
				r.read(3)
			}
			r.ok(login)
			if r.s.ep.on != tt.known {
				t.Errorf("refusing %v, want %v", r.s.ep.on, tt.known)
			}
			if v := r.choose(); tt.known && v.Kind == LogIn && v.Version == 2 {
				t.Errorf("a caller is told to log in with what is refused")
			}
		})
	}
}

// Predecessors that are refused share one backoff.
func TestPredecessorsThatAreRefusedShareAFloor(t *testing.T) {
	cfg := overlapping()
	r := newRig(t, cfg)
	for v := VersionID(1); v <= 5; v++ { // one user's password changes
		r.readUser(v, 7, time.Time{})
		r.connect()
		r.after(2 * sec)
	}
	r.readUser(6, 7, time.Time{})
	r.s.refuse(r.s.current(), false, r.now)
	refused := 0
	for range 100 { // for 10 s
		if v := r.choose(); v.Kind == LogIn {
			refused++
			r.refuse(v.Session)
		}
		r.after(100 * ms)
		r.logins = nil
	}
	if refused < 3 || refused > 6 {
		t.Errorf("%d logins with predecessors within 10 s", refused)
	}
}

// A role that is refused is dead if its successor has another user, whether it is refused
// before that comes or after; the same user's password has only changed.
func TestWhichRefusalsKillARole(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cfg     Config
		user    uint64 // of the successor
		unclear bool
		late    bool // the refusal comes after the successor
		dead    bool
	}{
		{"before its successor", overlapping(), 2, false, false, true},
		{"after it", overlapping(), 2, false, true, true},
		{"the same user", overlapping(), 1, false, false, false},
		{"the same user, after", overlapping(), 1, false, true, false},
		{"unclear", overlapping(), 2, true, false, false},
		{"unclear, after", overlapping(), 2, true, true, false},
		{"a token", loginTokens(), 2, false, false, false},
		{"a token, after", loginTokens(), 2, false, true, false},
		{"in place", inPlace(), 1, false, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			r.connect()
			id := r.begin()
			refuse := LoginRefused{Session: id, Ambiguous: tt.unclear}
			if tt.late {
				r.readUser(2, tt.user, time.Time{})
				r.step(refuse)
			} else {
				r.step(refuse)
				r.readUser(2, tt.user, time.Time{})
			}
			if got := r.s.versions[1].dead; got != tt.dead {
				t.Errorf("dead %v, want %v", got, tt.dead)
			}
			if got := r.heard(RoleDead); got != map[bool]int{true: 1}[tt.dead] {
				t.Errorf("told %d times", got)
			}
		})
	}
}

// A refused token may only have been old: it is read again, past caches, before that is an
// episode.
func TestARefusedTokenIsReadAgainOnce(t *testing.T) {
	r := newRig(t, loginTokens())
	r.connect()
	a, b := r.begin(), r.begin()
	r.after(ms)
	if r.refuse(a); r.s.ep.on || r.fx.Read != ReadAfresh {
		t.Fatalf("the first refusal: refusing %v, read %v", r.s.ep.on, r.fx.Read)
	}
	if r.refuse(b); r.s.ep.on {
		t.Fatal("one that went out together with it has begun an episode")
	}
	r.after(ms)
	r.readUser(1, 1, time.Time{})
	if r.refuse(r.begin()); !r.s.ep.on {
		t.Error("the second refusal has begun no episode")
	}
}

func TestATokenThatIsAcceptedAgainMayBeRefusedAgain(t *testing.T) {
	r := newRig(t, loginTokens())
	r.refuse(r.begin())
	r.after(ms)
	r.ok(r.begin())
	r.after(ms)
	if r.refuse(r.begin()); r.s.ep.on {
		t.Error("one refusal after a success has begun an episode")
	}
}

// An episode that ended less than a minute ago goes on, but for what has worn off.
func TestWhichEpisodesGoOn(t *testing.T) {
	for _, tt := range []struct {
		name         string
		quiet        time.Duration // since it ended
		n, fresh     int           // then
		wantN, wantF int           // with the refusal
	}{
		{"one that ended just now", 0, 7, 5, 8, 5},
		{"one of which a step has worn off", 40 * sec, 7, 7, 7, 6},
		{"one that is just remembered", memory - 1, 7, 1, 7, 1},
		{"one that isn't", memory, 7, 5, 1, 0},
	} {
		r := newRig(t, overlapping())
		over := r.now.Mono.Add(-tt.quiet)
		r.s.ep = episode{began: over.Add(-sec), heard: over, n: tt.n, fresh: tt.fresh, over: over}
		r.s.resume()
		r.s.refuse(r.s.current(), true, r.now)
		if r.s.ep.n != tt.wantN || r.s.ep.fresh != tt.wantF {
			t.Errorf("%s: n %d, want %d; fresh %d, want %d", tt.name, r.s.ep.n, tt.wantN, r.s.ep.fresh, tt.wantF)
		}
		if r.step(Tick{}); r.heard(Refused) != 1 || !r.told[len(r.told)-1].Ambiguous || !r.fx.Look {
			t.Errorf("%s: told %+v, look %v", tt.name, r.told, r.fx.Look)
		}
	}
}

// A version that comes back, and was refused a short while ago, goes on where it stood: it
// isn't asked about at once.
func TestARefusedVersionThatComesBack(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ago     time.Duration // that it was refused; negative: it wasn't
		unclear bool
		on      bool // there is an episode already
		want    bool // another begins
	}{
		{"lately", memory - 1, false, false, true},
		{"lately, perhaps for another reason", memory - 1, true, false, true},
		{"long ago", memory, false, false, false},
		{"never", -1, false, false, false},
		{"during an episode", sec, true, true, false},
	} {
		r := newRig(t, overlapping())
		v := r.s.current()
		r.read(2)
		if tt.ago >= 0 {
			v.refusedAt, v.unclear = r.now.Mono.Add(-tt.ago), tt.unclear
		}
		over := r.now.Mono.Add(-sec)
		r.s.ep = episode{on: tt.on, began: over, heard: over, n: 4, fresh: 9, over: over}
		if tt.on {
			r.s.ep.next = r.now.Mono.Add(sec)
		}
		r.s.askedAt = r.now.Mono
		r.read(1)
		if began := r.heard(Refused) == 1; began != tt.want || r.s.ep.on != (tt.want || tt.on) {
			t.Errorf("%s: another begins %v", tt.name, began)
		}
		if !tt.want {
			continue
		}
		if got := r.s.Snapshot(r.now).Ambiguous; got != tt.unclear {
			t.Errorf("%s: ambiguous %v", tt.name, got)
		}
		if got, want := r.s.ep.next, over.Add(4*sec); got != want {
			t.Errorf("%s: it is asked about in %v, want %v", tt.name, got.Sub(r.now.Mono), want.Sub(r.now.Mono))
		}
	}
}

// A refusal of what isn't the latest any more doesn't hold up the one that came meanwhile.
func TestARefusalThatComesLate(t *testing.T) {
	for _, tt := range []struct {
		late  bool
		fresh int // versions that came during the episode
		want  time.Duration
	}{
		{false, 0, 8 * sec},
		{true, 0, 0},
		{true, 3, 2*sec - retryMin},
		{true, 9, 8 * sec},
	} {
		r := newRig(t, overlapping())
		v := r.s.current()
		if tt.late {
			r.read(2)
		}
		r.s.ep = episode{on: true, n: 4, fresh: tt.fresh}
		r.s.askedAt = r.now.Mono
		r.s.refuse(v, false, r.now)
		if got := r.s.ep.next.Sub(r.now.Mono); got != tt.want {
			t.Errorf("late %v, after %d versions: asked about in %v, want %v", tt.late, tt.fresh, got, tt.want)
		}
	}
}

// Versions in a row, each within a minute of the last, have less and less haste; the first
// after that begins anew, and so do the questions after old roles.
func TestVersionsInARow(t *testing.T) {
	r := newRig(t, overlapping())
	for i, tt := range []struct {
		pause time.Duration
		churn int
		floor time.Duration // from when the last one was asked about
	}{
		{memory, 1, 0},
		{memory - 1, 2, sec - retryMin},
		{memory - 1, 3, sec - retryMin},
		{memory, 1, 0},
		{sec, 2, sec - retryMin},
	} {
		r.now.Mono, r.now.Wall = r.now.Mono.Add(tt.pause), r.now.Wall.Add(tt.pause)
		r.s.asksOld, r.s.askOldAt = 3, r.now.Mono
		r.s.askedAt, r.s.retryAt = r.now.Mono.Add(-ms), r.now.Mono.Add(time.Minute)
		r.read(VersionID(i + 2))
		if r.s.churn != tt.churn {
			t.Errorf("%d: it is the %d. in a row, want %d", i, r.s.churn, tt.churn)
		}
		if again := r.s.asksOld == 0 && r.s.askOldAt == 0; again != (tt.churn == 1) {
			t.Errorf("%d: old roles are asked after anew %v", i, again)
		}
		want := max(r.now.Mono, r.s.askedAt.Add(tt.floor))
		if r.s.retryAt != want {
			t.Errorf("%d: it waits for %v, want %v", i, r.s.retryAt.Sub(r.now.Mono), want.Sub(r.now.Mono))
		}
	}
}

// That a version is accepted is told the first time, and again after an episode.
func TestAcceptanceIsToldOf(t *testing.T) {
	r := newRig(t, overlapping())
	for range 2 {
		r.connect()
		if got := r.heard(Accepted); got != 1 {
			t.Errorf("told %d times", got)
		}
	}
	r.refuse(r.begin())
	r.step(Waiting{N: 1})
	r.s.ep.fresh = 3
	r.after(retryMin)
	r.ok(r.own(Prove))
	if got := r.heard(Accepted); got != 2 {
		t.Errorf("after an episode: told %d times", got)
	}
	if r.s.ep.fresh != 0 {
		t.Errorf("%d versions are said to have come during it", r.s.ep.fresh)
	}
}

// A success clears a version that was refused before it began; and its role isn't dead,
// whatever a query said.
func TestWhatASuccessClears(t *testing.T) {
	for _, tt := range []struct {
		began  time.Duration // since the refusal
		clears bool
	}{{-1, false}, {0, true}, {1, true}} {
		r := newRig(t, overlapping())
		r.connect()
		id := r.begin()
		v, x := r.s.current(), r.s.byNumber(id)
		r.after(sec)
		v.refusedAt, v.dead, v.gone = r.now.Mono, true, true
		r.s.ep.on, r.s.ep.heard = true, r.now.Mono
		x.began = r.now.Mono.Add(tt.began)
		r.ok(id)
		if v.dead == tt.clears || v.gone == tt.clears || v.queryLies != tt.clears || (v.refusedAt == 0) != tt.clears {
			t.Errorf("begun %v after the refusal: dead %v, gone %v, refused at %d, the query lies %v", tt.began, v.dead, v.gone, v.refusedAt, v.queryLies)
		}
	}
}

// A predecessor's success lets others follow it, unless it is known to be dead.
func TestAPredecessorsSuccess(t *testing.T) {
	for _, dead := range []bool{false, true} {
		r := newRig(t, overlapping())
		r.connect()
		r.readUser(2, 1, time.Time{})
		r.refuse(r.own(Prove))
		id := r.begin()
		r.after(ms)
		v := r.s.versions[1]
		if dead {
			v.dead, v.refusedAt = true, r.now.Mono
		}
		r.s.fall = fallback{n: 3, next: r.now.Mono.Add(sec)}
		r.ok(id)
		if r.s.fall != (fallback{}) || r.s.ep.helped != r.now.Mono {
			t.Errorf("dead %v: %+v, helped at %v", dead, r.s.fall, r.s.ep.helped)
		}
		if got := v.provenAt == r.now.Mono; got == dead {
			t.Errorf("dead %v: proven %v", dead, got)
		}
	}
}

// What a refusal says of the version: the last one that began after the others were heard
// counts; one for certain, while it was the latest, is kept in mind.
func TestWhatARefusalSaysOfAVersion(t *testing.T) {
	for _, tt := range []struct {
		name    string
		began   time.Duration // since it was refused last, for certain
		latest  bool
		unclear bool
		gone    bool // already
		want    bool // gone
		takes   bool // the last refusal's place
	}{
		{"later", 1, true, false, false, true, true},
		{"later, perhaps for another reason", 1, true, true, false, false, true},
		{"at once", 0, true, true, false, false, true},
		{"together with it", -1, true, true, false, false, false},
		{"of a predecessor", 1, false, false, false, false, true},
		{"that had been refused as the latest", 1, false, true, true, true, true},
		{"again, perhaps for another reason", 1, true, true, true, true, true},
	} {
		r := newRig(t, inPlace())
		r.connect()
		x := r.s.byNumber(r.begin())
		r.after(sec)
		v := r.s.current()
		v.refusedAt, v.gone = r.now.Mono, tt.gone
		r.after(sec)
		x.began, x.latest = v.refusedAt.Add(tt.began), tt.latest
		r.s.refused(x, tt.unclear, r.now)
		if v.gone != tt.want {
			t.Errorf("%s: gone %v", tt.name, v.gone)
		}
		if takes := v.refusedAt == r.now.Mono; takes != tt.takes || takes && v.unclear != tt.unclear {
			t.Errorf("%s: takes its place %v, unclear %v", tt.name, takes, v.unclear)
		}
	}
}

// The first refusal of a predecessor that has worked until now says that something has
// changed: the latest version is tried at once.
func TestAPredecessorsRefusal(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   bool
		n    int           // refusals of predecessors in a row
		next time.Duration // when the latest was to be tried
		want time.Duration
	}{
		{"the first", true, 0, 5 * sec, 0},
		{"the second", true, 1, 5 * sec, 5 * sec},
		{"it is due already", true, 0, -sec, -sec},
		{"outside of an episode", false, 0, 5 * sec, 5 * sec},
	} {
		r := newRig(t, overlapping())
		x := r.s.byNumber(r.begin())
		x.latest = false
		r.s.ep.on, r.s.ep.next, r.s.fall.n = tt.on, r.now.Mono.Add(tt.next), tt.n
		r.s.refused(x, false, r.now)
		if got := r.s.ep.next.Sub(r.now.Mono); got != tt.want {
			t.Errorf("%s: the latest is tried in %v, want %v", tt.name, got, tt.want)
		}
		if got := r.s.fall.n; got != tt.n+1 {
			t.Errorf("%s: %d in a row", tt.name, got)
		}
	}
}

// Of refusals only those count that began after the last one was heard, and of tokens those
// of one that was asked for after another was refused.
func TestWhichRefusalsCount(t *testing.T) {
	for _, began := range []time.Duration{-1, 0, 1} {
		r := newRig(t, overlapping())
		x := r.s.byNumber(r.begin())
		r.s.ep = episode{on: true, n: 1, heard: x.began.Add(-began)}
		r.s.refused(x, false, r.now)
		if counts := r.s.ep.n == 2; counts != (began >= 0) {
			t.Errorf("begun %v after: counts %v", began, counts)
		}
		r = newRig(t, loginTokens())
		x = r.s.byNumber(r.begin())
		r.s.tokenRefused = x.began.Add(-began)
		r.s.refused(x, false, r.now)
		if r.s.ep.on != (began >= 0) {
			t.Errorf("a token begun %v after: counts %v", began, r.s.ep.on)
		}
	}
}

// A success of the latest version that is no proof, because it began before the refusal was
// heard, is no predecessor's success either.
func TestASuccessThatIsNoProof(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	a, b := r.begin(), r.begin()
	r.after(ms)
	r.refuse(a)
	r.ok(b)
	if r.s.ep.helped != 0 || r.s.current().provenAt != 0 {
		t.Errorf("helped at %v, proven at %v", r.s.ep.helped, r.s.current().provenAt)
	}
}
