// Package rotation decides and does nothing: which credential a connection logs in
// with, who waits for whom, which connection a pool is to let go next, and what the
// connector does of its own accord. It is a function of what it is told: it reads no
// clock, rolls no dice, takes no lock, and never sees a secret (a version is a number).
//
// The shell that owns a State tells it what it learns, by Step, and does what Step
// answers. All methods of State run under one lock of the shell's. What the shell then
// does outside of that lock may be overtaken by the next event, so whatever could do
// harm is a level and not a command: see Effects.
//
// One file has one subject: clock.go the two clocks, event.go what goes in and comes
// out, version.go the logins that the source has given, episode.go the refusals,
// ledger.go the sessions, admit.go who may log in, drain.go who is to go and when,
// room.go how many sessions there may be, spares.go the connector's own logins, ask.go
// whether roles still live, reads.go when the source is read, end.go when credentials
// end, snapshot.go what people see.
package rotation

import "time"

// Kind is what changes when a credential does, and what that means for the last one.
type Kind uint8

// Kinds of rotation.
const (
	// Overlapping is for logins that live on for a known time after their successor is
	// published: each its own user, or two users in turn.
	Overlapping Kind = iota

	// InPlace is for one user whose password changes. Sessions live on; the old
	// password is dead as soon as the server has the new one, which may be before or
	// after the source has it.
	InPlace

	// LoginTokens is for passwords that are good for logging in, for a while, and for
	// nothing else. A version is the user; sessions live on.
	LoginTokens
)

// Config is what a State goes by. All of it is as it is in force: no field has a
// default.
type Config struct {
	Kind Kind

	// Overlap, Lag and MaxInUse are the window's; Overlap and Lag count for
	// Overlapping alone.
	Overlap, Lag, MaxInUse time.Duration

	// MaxLifetime is the longest that a connection may live: the shorter of what the
	// window leaves and what the application wants. Zero: no limit.
	MaxLifetime time.Duration

	// DrainTime is the time over which old connections are replaced. Zero: at once.
	// A tenth of it is for those that are in use when they are told to go.
	DrainTime time.Duration

	// RetryTimeout is how long callers wait while the latest credential is refused or
	// over. Zero: not at all.
	RetryTimeout time.Duration

	// NoFallback says that, in place, the predecessor's password is not tried while a
	// new one is refused.
	NoFallback bool

	// Notified says that the source tells of changes.
	Notified bool

	// AskAfter is for how long no login has succeeded when the role in use is asked
	// after. Zero: never.
	AskAfter time.Duration

	// AskByQuery says that a query can ask whether a role lives.
	AskByQuery bool

	// Seed is what chance depends on: another number for each connector.
	Seed uint64
}

// State is all that the core knows. It is not safe for concurrent use.
type State struct {
	cfg      Config
	lifetime time.Duration // of a connection: MaxLifetime, less by chance
	hurry    time.Duration // within which a new version is to prove itself
	random   uint64
	closed   bool
	counts   Counts
	fx       Effects
	returned bool // fx was returned by Step: what follows begins anew

	// Versions and refusals: version.go, episode.go.
	versions     []*version // the current one, then its predecessors, newest first
	epoch        uint64     // counts changes of the current version and its end
	ep           episode
	fall         fallback
	lastLogin    Instant // last success of a login that began with the latest version
	tokenRefused Instant // when a token was refused that may only have been old
	churn        int     // versions in a row that came soon after the one before
	rotatedAt    Instant
	asking
	reading

	// Sessions: ledger.go, room.go.
	byID      map[SessionID]*session
	loose     []*session // those that no pool has
	pools     []*pool
	free      []*session // kept for their memory
	lastID    SessionID
	untracked bool // some sessions' ends can't be seen

	// Callers: admit.go.
	waiting      int
	waitingSince Instant // when that number was last another one
	abandoned    int     // logins in a row that were given up
	failed       int     // logins in a row that failed

	// The connector's own logins: spares.go.
	failures    int     // of these, in a row
	failing     Instant // since when
	failedAt    Instant // when they were last put off
	endedAt     Instant // when a session ended last
	retryAt     Instant // none begins before this: see retry
	askedAt     Instant // when the last one with the latest version did
	wanted      Instant // since when a caller wants to know whether that is accepted
	spareWanted bool    // for the drain
	busyAt      Instant // when spares were last wanted
	shedAt      Instant // when a spare that nobody took was last closed
}

// asking is how asking after roles stands: ask.go.
type asking struct {
	ask      question
	askOldAt Instant // when any old role may be asked after again
	asksOld  int     // that there were since the last rotation, or since the first of many
}

// reading is how the source is doing: reads.go.
type reading struct {
	readAt         Instant // last read that succeeded
	readTried      Instant // last read that was asked for, or is known of
	readFailing    Instant // since when reads fail; zero: they don't
	readFailures   int     // in a row
	moved          int     // reads in a row that found another login, each soon after the last
	movedAt        Instant
	unsettledSince Instant
}

// New returns the state of a connector that has read nothing yet.
func New(cfg Config) *State {
	s := &State{cfg: cfg, random: cfg.Seed, byID: make(map[SessionID]*session)}
	s.lifetime = cfg.MaxLifetime - s.chance(cfg.MaxLifetime/10)
	s.hurry = cfg.DrainTime / 12
	return s
}

// Lifetime is how long a connection lives when nothing else ends it: up to a tenth less
// than MaxLifetime, so that processes which were started together don't renew their
// connections together. Zero: for ever.
func (s *State) Lifetime() time.Duration { return s.lifetime }

// chance returns a time between 0 and most. (Splitmix64: any will do.)
func (s *State) chance(most time.Duration) time.Duration {
	s.random += 0x9e3779b97f4a7c15
	z := s.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return time.Duration(z>>1) % (max(most, 0) + 1)
}

// Step takes in what has happened and returns what follows from it.
func (s *State) Step(ev Event, now Now) Effects {
	s.resume()
	ev.apply(s, now)
	s.fx.Wake = min(
		s.planEnds(now),
		s.expectGone(now),
		s.fitSpares(now),
		s.planDrain(now),
		s.planHolds(now),
		s.planAsk(now),
		s.planLogins(now),
		s.planReads(now),
	)
	s.returned = true
	return s.fx
}

// resume begins a new set of effects if the last one has been returned. What Choose,
// HandOut and Bind bring about waits for the next Step.
func (s *State) resume() {
	if !s.returned {
		return
	}
	s.returned = false
	f := &s.fx
	*f = Effects{
		Logins: f.Logins[:0], Asks: f.Asks[:0], Close: f.Close[:0],
		Gone: f.Gone[:0], Recall: f.Recall[:0], Forget: f.Forget[:0], Tell: f.Tell[:0],
	}
}

func (s *State) tell(n Notice) { s.fx.Tell = append(s.fx.Tell, n) }

func (ev CredentialRead) apply(s *State, now Now) { s.read(ev, now) }
func (ev ReadFailed) apply(s *State, now Now)     { s.readFailed(now) }
func (ev LoginSucceeded) apply(s *State, now Now) { s.loginSucceeded(ev, now) }
func (ev LoginRefused) apply(s *State, now Now)   { s.loginRefused(ev, now) }
func (ev LoginFailed) apply(s *State, now Now)    { s.loginFailed(ev, now) }
func (ev LoginAbandoned) apply(s *State, now Now) { s.loginAbandoned(ev, now) }
func (ev GivenBack) apply(s *State, now Now)      { s.givenBack(ev, now) }
func (ev Ended) apply(s *State, now Now)          { s.ended(ev, now) }
func (ev Asked) apply(s *State, now Now)          { s.asked(ev, now) }
func (ev PoolAdded) apply(s *State, _ Now)        { s.poolAdded(ev) }
func (ev PoolLimit) apply(s *State, _ Now)        { s.pool(ev.Pool).setLimit(ev.Limit) }
func (ev PoolUsed) apply(s *State, now Now)       { s.pool(ev.Pool).used = now.Mono }
func (ev PoolClosed) apply(s *State, now Now)     { s.poolClosed(ev.Pool, now) }
func (ev Waiting) apply(s *State, now Now)        { s.waits(ev.N, now) }
func (ev Held) apply(s *State, _ Now)             { s.hold(ev.Session, true) }
func (ev Released) apply(s *State, _ Now)         { s.hold(ev.Session, false) }
func (Closed) apply(s *State, _ Now)              { s.closed = true; s.fx.Look = true }
func (Tick) apply(*State, Now)                    {}

// Epoch counts the changes of the latest credential and its end: a read notes it as
// it begins.
func (s *State) Epoch() uint64 { return s.epoch }

// Current returns the latest version, or 0.
func (s *State) Current() VersionID {
	if c := s.current(); c != nil {
		return c.id
	}
	return 0
}

// Going reports whether its pool may let the session go now.
func (s *State) Going(id SessionID) bool { return s.find(id, Going) != nil }

// AppendGoing appends the sessions that pool may let go now, oldest first.
func (s *State) AppendGoing(to []SessionID, pool PoolID) []SessionID {
	p := s.findPool(pool)
	if p == nil {
		return to
	}
	for _, x := range p.members {
		if x.state == Going {
			to = append(to, x.id)
		}
	}
	return to
}

// Session returns what is known of a session; the zero SessionInfo if it is over.
func (s *State) Session(id SessionID) SessionInfo {
	x := s.byID[id]
	if x == nil {
		return SessionInfo{}
	}
	return SessionInfo{
		Version: x.v.id, Pool: x.pool.number(), State: x.state, Purpose: x.purpose, Reason: x.reason,
		Began: x.began, Since: x.since, Ready: x.ready, Born: x.born, Untracked: x.untracked, Held: x.held,
	}
}

// SessionInfo is what is known of a session.
type SessionInfo struct {
	Version   VersionID
	Pool      PoolID
	State     SessionState
	Purpose   Purpose
	Reason    Reason  // with Due, Going and Closing
	Began     Instant // of the login
	Since     Instant // when it came into its state
	Ready     Instant // when it had logged in
	Born      Instant // when it went to its pool
	Untracked bool
	Held      bool
}
