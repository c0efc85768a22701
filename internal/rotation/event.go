// What goes in and what comes out: the events of the shell, and the effects it is to bring about.

package rotation

import (
	"math"
	"strconv"
	"time"
)

// SessionID names a session: a login that is under way, or what came of it. Numbers
// are never used again.
type SessionID uint64

// VersionID names a login that the source has given. The shell allots the numbers: the
// same login has the same number for as long as it isn't told to Forget it.
type VersionID uint64

// PoolID names a pool, or several that are managed as one. Zero is that of callers
// who come from no pool that has been added.
type PoolID uint32

// Outside is the PoolID of callers who keep what they get outside of any pool, until they
// are told that it is to go. It is never added.
const Outside PoolID = math.MaxUint32

// Event is something that the shell has learnt. Events about what is over already
// are legal and ignored.
type Event interface{ apply(s *State, now Now) }

type (
	// CredentialRead says what a read of the source has found.
	CredentialRead struct {
		Version VersionID
		User    uint64 // a number for the user name: the same one for the same name
		// NotAfter is the credential's end by the wall clock; zero: none is known.
		NotAfter time.Time
		Epoch    uint64 // State.Epoch when the read began
	}

	// ReadFailed says that a read of the source has failed: the source's doing, not
	// that of a caller who gave up.
	ReadFailed struct{}

	// LoginSucceeded says that a session has logged in and, where that was called for,
	// answered the probe query. It is ready for use.
	LoginSucceeded struct {
		Session SessionID
		// Untracked says that the session's end will not be seen.
		Untracked bool
	}

	// LoginRefused says that the server refused a login for its credential, or let it
	// in and refused the probe query. The session is over.
	LoginRefused struct {
		Session SessionID
		// Ambiguous says that the server's code is one that says no for other reasons
		// as well.
		Ambiguous bool
	}

	// LoginFailed says that a login failed for another reason: the server was down,
	// full, out of reach, or too slow. The session is over.
	LoginFailed struct{ Session SessionID }

	// LoginAbandoned says that a login was given up by whoever asked for it, or cut
	// off because its credential had ended. Nothing was learnt. The session is over.
	LoginAbandoned struct{ Session SessionID }

	// GivenBack says that a session that was promised to a caller is not wanted: it
	// is as good as it was.
	GivenBack struct{ Session SessionID }

	// Ended says that the socket of a session that had logged in is closed, by
	// whomever. While a login is under way what comes of it counts, not this.
	Ended struct{ Session SessionID }

	// Asked says what came of an Ask.
	Asked struct {
		Ask    Ask
		Answer Answer
	}

	// PoolAdded says that a pool's connections are to be retired. Limit is the most
	// that it may have; zero or less: no limit. ByAge says that it can retire its
	// oldest connections only.
	PoolAdded struct {
		Pool  PoolID
		Limit int
		ByAge bool
	}

	// PoolLimit says that the most connections a pool may have is another number.
	PoolLimit struct {
		Pool  PoolID
		Limit int
	}

	// PoolUsed says that a pool is in use now, or has been since this was last said.
	PoolUsed struct{ Pool PoolID }

	// PoolClosed says that a pool is closed. What it had ends by and by.
	PoolClosed struct{ Pool PoolID }

	// Waiting says how many callers have been told to wait and not yet been told anything
	// else: one that waits, and Chooses again in vain, is one all the time.
	Waiting struct{ N int }

	// Held says that a session is not to be retired: whoever has it sees to that, once
	// it is among Effects.Recall. Its credential's end is its end all the same.
	Held struct{ Session SessionID }

	// Released takes Held back.
	Released struct{ Session SessionID }

	// Closed says that the connector is closed: from now on there is nothing but ends.
	Closed struct{}

	// Tick says nothing but that it is later, or that State was changed by one of its
	// other methods.
	Tick struct{}
)

// Effects are what follows from an event. The slices are State's: they are good until
// the next call of Step, HandOut or Bind.
//
// What may take long, and so be overtaken, is not here but a level: Marks and Ends
// only say that State.Going and State.Ends have other answers than before, and whoever
// carries them out looks at what holds then.
type Effects struct {
	Logins []Login     // to begin, each by itself: State.Bind says with what
	Asks   []Ask       // to put, each by itself: the answer is an Asked
	Close  []SessionID // to close: nobody else has them
	Gone   []SessionID // to forget: their ends can't be seen, and by now have come
	Recall []SessionID // held: whoever has them is to be told that they should go
	Forget []VersionID // to forget: nothing refers to them any more
	Tell   []Notice    // for the log and callbacks, in order
	Read   Reading     // the source is to be read in the background
	Stale  bool        // the CredentialRead may be older than what is known, and is ignored: read again
	Look   bool        // callers who wait should Choose again
	Marks  bool        // State.Going has changed for some sessions
	Ends   bool        // State.Ends has changed
	Heed   bool        // PoolUsed is to come as soon as there is something to say
	Wake   Instant     // when to Step again, at the latest
}

// Login is a login of the connector's own that is to begin.
type Login struct {
	Session SessionID
	Purpose Purpose
}

// Ask is a question whether a role still lives, put by a query.
type Ask struct {
	How     How
	Version VersionID
	Session SessionID // of a spare, if that is asked
	Began   Instant
}

// Reading says how the source is to be read.
type Reading uint8

// How the source is read.
const (
	DontRead   Reading = iota
	ReadAgain          // as every login reads it
	ReadAfresh         // past caches, because what it gave is refused
)

// Purpose is what a login is for.
type Purpose uint8

// What logins are for. All but ForCaller are the connector's own.
const (
	ForCaller  Purpose = iota
	Prove              // to learn whether the latest credential is accepted
	AskOld             // to learn whether an old role still lives; it isn't kept
	AskCurrent         // to learn whether the current role still lives
	Replace            // to take the place of the next connection that goes
	Refill             // to take the place of one that has gone and isn't missed yet
)

// How is how a question is put.
type How uint8

// How questions are put.
const (
	OnIdle  How = iota + 1 // on an idle connection of a pool, borrowed for it
	OnSpare                // on a session that no pool has
)

// Answer is what came of a question.
type Answer uint8

// What comes of a question.
const (
	Unanswered Answer = iota // there was nobody to ask, or the connection broke
	Lives
	Refuses // the server won't answer this role: it is dead
	Unasked // the question itself is wrong; it is not to be put again
)

// SessionState is where a session is in its life. It is in exactly one of these.
type SessionState uint8

// A session's states. The pool has those that are Pooled, Due or Going.
const (
	NoSession SessionState = iota
	LoggingIn              // until the login's outcome is told
	Spare                  // logged in, and kept for whoever needs it
	Asking                 // a spare that is being asked whether its role lives
	Promised               // logged in, and on its way to a caller
	Pooled                 // the pool has it
	Due                    // the pool has it; it is to go, but it isn't its turn
	Going                  // the pool may let it go now
	Closing                // the shell closes it
	numStates
)

// InPool reports whether the pool has sessions of this state.
func (s SessionState) InPool() bool { return s >= Pooled && s <= Going }

// Reason is why a session is retired, or why it has ended.
type Reason uint8

// Why sessions go.
const (
	NotRetired Reason = iota // the pool or the application closed it, or it broke
	Superseded               // a successor of its credential has proven itself
	Revoked                  // its role is known to be dead
	Aged                     // its time is over
	Ending                   // its credential ends soon
	Neighbour                // it stands below one that must go, in a pool that retires by age
	Expired                  // its credential has ended
	Unneeded                 // a spare that nobody took, or that made room
	Outdated                 // a spare whose credential has a proven successor
	Answered                 // it was for a question
	ByClose                  // the connector was closed
	numReasons
)

// VerdictKind is what a caller is to do.
type VerdictKind uint8

// What callers are to do.
const (
	Take        VerdictKind = iota + 1 // hand out Session, a spare, once it has been looked at
	LogIn                              // log in as Session with Version
	Wait                               // until Effects.Look or Until, and Choose again
	FailRefused                        // the latest credential has been refused for too long
	FailExpired                        // the latest credential has ended, too long ago
	FailEmpty                          // there is no credential
	FailClosed                         // the connector is closed
)

// Cause is what a caller waits for, and what to tell it if its patience ends first.
type Cause uint8

// What callers wait for.
const (
	ForAnswer Cause = iota + 1 // a login that went ahead
	ForAccept                  // the credential is refused
	ForNewer                   // the credential has ended
	ForRoom                    // a session that is about to end
)

// Verdict is what a caller is to do.
type Verdict struct {
	Kind    VerdictKind
	Session SessionID
	Version VersionID // what Session has or is to have, or what is refused or has ended
	Until   Instant   // with Wait
	Cause   Cause     // with Wait
	// Check says, with Take, that the spare has been idle for so long that the server
	// should be asked whether it is still there.
	Check bool
	// Ambiguous says, with FailRefused and ForAccept, that it isn't sure that it is the
	// credential which is refused.
	Ambiguous bool
}

// NoticeKind is what a Notice says.
type NoticeKind uint8

// What notices say.
const (
	Rotated       NoticeKind = iota + 1 // Version is the latest: it is new, or has come back
	Accepted                            // Version is accepted: for the first time, or again
	Refused                             // Version is refused: an episode has begun
	RoleDead                            // Version's role is dead before its time
	EndsSoon                            // Version ends soon and has no successor
	HasEnded                            // Version has ended and has no successor
	SourceFailed                        // reads of the source have begun to fail
	SourceHealed                        // and no longer do
	Unsettled                           // the source gives another login at nearly every read
	DrainBegan                          // N sessions of Pool are to go
	DrainDone                           // N sessions of Pool went, in Took
	SessionEnded                        // Session is over, aged Took, for Reason
	SessionPastIt                       // Session, which a pool has, outlives its credential
	Recalled                            // Session, which is held, is to go
)

// Notice is something that people may want to know.
type Notice struct {
	Kind      NoticeKind
	Version   VersionID
	Session   SessionID
	Pool      PoolID
	Reason    Reason
	State     SessionState // with SessionEnded: what it was in
	N         int
	Took      time.Duration
	Ambiguous bool
}

// String names what logins are for.
func (p Purpose) String() string {
	return name(int(p), "for a caller", "prove", "ask old", "ask current", "replace", "refill")
}

// String names the state.
func (s SessionState) String() string {
	return name(int(s), "none", "logging in", "spare", "asking", "promised", "pooled", "due", "going", "closing")
}

// String names the reason.
func (r Reason) String() string {
	return name(int(r), "", "superseded", "revoked", "aged", "ending", "neighbour", "expired", "unneeded", "outdated", "answered", "closed")
}

// String names the verdict.
func (k VerdictKind) String() string {
	return name(int(k), "none", "take", "log in", "wait", "refused", "expired", "empty", "closed")
}

// String names the cause.
func (c Cause) String() string {
	return name(int(c), "none", "an answer", "acceptance", "a newer credential", "room")
}

// String names the answer.
func (a Answer) String() string { return name(int(a), "unanswered", "lives", "refuses", "unasked") }

// String names how a question is put.
func (h How) String() string { return name(int(h), "none", "on an idle connection", "on a spare") }

// String names how the source is read.
func (r Reading) String() string { return name(int(r), "none", "again", "afresh") }

// String names what the notice says.
func (k NoticeKind) String() string {
	return name(int(k), "none", "rotated", "accepted", "refused", "role dead", "ends soon", "has ended", "source failed", "source healed",
		"unsettled", "drain began", "drain done", "session ended", "session outlives its credential", "recalled")
}

func name(i int, names ...string) string {
	if i < len(names) {
		return names[i]
	}
	return strconv.Itoa(i)
}
