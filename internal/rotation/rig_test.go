package rotation

import (
	"slices"
	"testing"
	"time"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

// The configuration of most tests: a connection lives for 40 s at the most, the old
// login for a minute.
func overlapping() Config {
	return Config{
		Kind: Overlapping, Overlap: 60 * sec, Lag: 10 * sec, MaxInUse: 10 * sec, MaxLifetime: 40 * sec,
		DrainTime: 10 * sec, RetryTimeout: 30 * sec, Notified: true,
	}
}

func inPlace() Config {
	return Config{Kind: InPlace, MaxInUse: 10 * sec, DrainTime: 10 * sec, RetryTimeout: 30 * sec, Notified: true}
}

func loginTokens() Config {
	return Config{Kind: LoginTokens, MaxInUse: 10 * sec, DrainTime: 10 * sec, RetryTimeout: 30 * sec}
}

// rig is a State with a clock and somebody who does what it says, at once.
type rig struct {
	t      *testing.T
	s      *State
	now    Now
	fx     Effects // of the last step
	told   []Notice
	logins []Login // that were to begin and haven't been bound
	recall []SessionID
}

const thePool PoolID = 1

var start = Now{Wall: time.Unix(1_800_000_000, 0).UTC(), Mono: Instant(time.Hour)} //nolint:gochecknoglobals // a constant

// newRig has one pool of 10 that can retire only its oldest, and one version.
func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, s: New(cfg), now: start}
	r.s.lifetime, r.s.hurry = cfg.MaxLifetime, 0 // no chance
	r.step(PoolAdded{Pool: thePool, Limit: 10, ByAge: true})
	r.read(1)
	return r
}

func (r *rig) step(ev Event) Effects {
	r.fx = r.s.Step(ev, r.now)
	r.told = append(r.told, r.fx.Tell...)
	r.logins = append(r.logins, r.fx.Logins...)
	r.recall = append(r.recall, r.fx.Recall...)
	return r.fx
}

// after moves both clocks on and looks.
func (r *rig) after(d time.Duration) Effects {
	r.now.Mono, r.now.Wall = r.now.Mono.Add(d), r.now.Wall.Add(d)
	return r.step(Tick{})
}

// until moves on to an instant.
func (r *rig) until(at Instant) Effects { return r.after(at.Sub(r.now.Mono)) }

// read reads a version whose user is of the same number.
func (r *rig) read(v VersionID) Effects { return r.readUser(v, uint64(v), time.Time{}) }

func (r *rig) readUser(v VersionID, user uint64, notAfter time.Time) Effects {
	return r.step(CredentialRead{Version: v, User: user, NotAfter: notAfter, Epoch: r.s.Epoch()})
}

func (r *rig) choose() Verdict {
	v := r.s.Choose(thePool, r.now)
	r.step(Tick{})
	return v
}

// begin is a caller's login that is on its way.
func (r *rig) begin() SessionID {
	r.t.Helper()
	v := r.choose()
	if v.Kind != LogIn {
		r.t.Fatalf("a caller is told %v, not to log in: %+v", v.Kind, v)
	}
	return v.Session
}

func (r *rig) ok(id SessionID) Effects     { return r.step(LoginSucceeded{Session: id}) }
func (r *rig) refuse(id SessionID) Effects { return r.step(LoginRefused{Session: id}) }
func (r *rig) unclear(id SessionID) Effects {
	return r.step(LoginRefused{Session: id, Ambiguous: true})
}
func (r *rig) fail(id SessionID) Effects { return r.step(LoginFailed{Session: id}) }
func (r *rig) end(id SessionID) Effects  { return r.step(Ended{Session: id}) }

// connect is a caller's login that succeeds, into the pool; or a spare.
func (r *rig) connect() SessionID {
	r.t.Helper()
	v := r.choose()
	if v.Kind == LogIn {
		r.ok(v.Session)
	} else if v.Kind != Take {
		r.t.Fatalf("a caller is told %v: %+v", v.Kind, v)
	}
	if !r.s.HandOut(v.Session, r.now) {
		r.t.Fatalf("session %d is not handed out", v.Session)
	}
	r.step(Tick{})
	return v.Session
}

// fill connects n, a millisecond apart.
func (r *rig) fill(n int) []SessionID {
	r.t.Helper()
	var ids []SessionID
	for range n {
		ids = append(ids, r.connect())
		r.after(ms)
	}
	return ids
}

// own returns the connector's own login that is to begin, bound; it must be for purpose.
func (r *rig) own(purpose Purpose) SessionID {
	r.t.Helper()
	if len(r.logins) != 1 || r.logins[0].Purpose != purpose {
		r.t.Fatalf("own logins %v, want one to %v", r.logins, purpose)
	}
	id := r.logins[0].Session
	r.logins = nil
	if r.s.Bind(id, r.now) == 0 {
		r.t.Fatalf("the login to %v is not to be", purpose)
	}
	r.step(Tick{})
	return id
}

// none checks that no login of the connector's own is to begin.
func (r *rig) none() {
	r.t.Helper()
	if len(r.logins) > 0 {
		r.t.Fatalf("own logins %v, want none", r.logins)
	}
}

// settle does what the core says for d, a server answering at once: own logins succeed,
// what is to be closed ends, and of those who may go the oldest goes.
func (r *rig) settle(d time.Duration) {
	r.t.Helper()
	end := r.now.Mono.Add(d)
	for {
		for r.act() {
		}
		if r.fx.Wake > end {
			break
		}
		r.until(r.fx.Wake)
	}
	r.until(end)
	for r.act() {
	}
}

func (r *rig) act() bool {
	if len(r.logins) > 0 {
		l := r.logins[0]
		r.logins = r.logins[1:]
		if r.s.Bind(l.Session, r.now) != 0 {
			r.ok(l.Session)
		}
		r.step(Tick{})
		return true
	}
	if closing := r.in(Closing); len(closing) > 0 {
		r.end(closing[0])
		return true
	}
	if going := r.s.AppendGoing(nil, thePool); len(going) > 0 {
		r.end(going[0])
		return true
	}
	return false
}

// close ends what is to be closed.
func (r *rig) close() {
	for _, id := range r.in(Closing) {
		r.end(id)
	}
}

// in lists the sessions that are in a state, by number.
func (r *rig) in(st SessionState) (ids []SessionID) {
	for id, x := range r.s.byID {
		if x.state == st {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (r *rig) state(id SessionID, want SessionState) {
	r.t.Helper()
	if got := r.s.Session(id).State; got != want {
		r.t.Errorf("session %d is %v, want %v", id, got, want)
	}
}

func (r *rig) heard(kind NoticeKind) int {
	n := 0
	for _, t := range r.told {
		if t.Kind == kind {
			n++
		}
	}
	return n
}
