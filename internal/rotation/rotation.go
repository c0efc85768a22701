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
	cfg   Config
	epoch uint64
}

// New returns the state of a connector that has read nothing yet.
func New(cfg Config) *State { return &State{cfg: cfg} }

// Step takes in what has happened and returns what follows from it.
func (s *State) Step(ev Event, now Now) Effects { panic("not yet") }

// Choose says what a caller from pool who needs a session is to do. It books what it
// says: a session that it names is the caller's until it is handed out, given back or
// over. Step with a Tick must follow under the same lock, as after HandOut and Bind.
func (s *State) Choose(pool PoolID, now Now) Verdict { panic("not yet") }

// HandOut notes that a promised session goes to its pool. False says that it must not:
// it is over, or its credential is; the session is closed, and the caller is to Choose
// again.
func (s *State) HandOut(id SessionID, now Now) bool { panic("not yet") }

// Bind says with which version a login of Effects.Logins goes out. It is called after
// the read of the source that precedes each login, and immediately before the dial.
// Zero says that the login is not to be: it is off the books.
func (s *State) Bind(id SessionID, now Now) VersionID { panic("not yet") }

// Full says whether a caller whose login found the server full should wait for a
// session that is about to end, and until when, before it Chooses again; else it
// fails.
func (s *State) Full(now Now) (until Instant, wait bool) { panic("not yet") }

// Epoch counts the changes of the latest credential and its end: a read notes it as
// it begins.
func (s *State) Epoch() uint64 { return s.epoch }

// Current returns the latest version, or 0.
func (s *State) Current() VersionID { panic("not yet") }

// Going reports whether its pool may let the session go now.
func (s *State) Going(id SessionID) bool { panic("not yet") }

// AppendGoing appends the sessions that pool may let go now, oldest first.
func (s *State) AppendGoing(to []SessionID, pool PoolID) []SessionID { panic("not yet") }

// AppendEnds appends the versions that have sessions or logins under way, and when
// they end: the hard end, at which what is left of them is cut off. The end is zero for
// those that have none.
func (s *State) AppendEnds(to []VersionEnd) []VersionEnd { panic("not yet") }

// VersionEnd is when a version's sessions are cut off.
type VersionEnd struct {
	Version VersionID
	End     End
}

// Session returns what is known of a session; the zero SessionInfo if it is over.
func (s *State) Session(id SessionID) SessionInfo { panic("not yet") }

// SessionInfo is what is known of a session.
type SessionInfo struct {
	Version   VersionID
	Pool      PoolID
	State     SessionState
	Purpose   Purpose
	Reason    Reason  // with Due, Going and Closing
	Began     Instant // of the login
	Ready     Instant // when it had logged in
	Born      Instant // when it went to its pool
	Untracked bool
	Held      bool
}
