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
