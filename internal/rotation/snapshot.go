// What can be seen from outside: snapshots and counts.

package rotation

import (
	"math"
	"time"
)

// Snapshot is what there is to see at one moment.
type Snapshot struct {
	Versions []VersionView // newest first; the first is the current one
	Pools    []PoolView
	States   [numStates]int // sessions by state
	Spares   int            // sessions that wait for the pools, those that are being asked included
	Held     int            // sessions that somebody holds
	Waiting  int            // callers that wait now
	Epoch    uint64

	// The episode of refusals, if there is one.
	Refusing     bool
	Ambiguous    bool    // the server's code says no for other reasons as well
	RefusedSince Instant // its beginning
	Refusals     int     // of this episode, those that counted
	NextAttempt  Instant

	// The source.
	SourceFailing Instant       // since when its reads fail; zero: they don't
	ReadAt        Instant       // the last read that succeeded
	Unsettled     bool          // it gives another login at nearly every read
	ReadEvery     time.Duration // how often it is read in the background; zero: it isn't

	// The server, as the connector's own logins find it.
	Failures int     // that failed in a row, and not because they were refused
	RetryAt  Instant // no other begins before this

	LastLogin    Instant // the last login that succeeded with the version that was the latest then
	SuccessorDue Instant // when the warning that the latest version has no successor is due; Never
	Counts       Counts
}

// VersionView is what there is to see of a version.
type VersionView struct {
	Version      VersionID
	Read         Instant // when it was first read
	Superseded   Instant // when its successor was read; zero: it is the latest
	NotAfter     time.Time
	End          End // when it is over
	Proven       bool
	ProvenAt     Instant // its last success
	Refused      bool    // its last answer was a refusal
	RefusedSince Instant // of the latest one: since when the server refuses it; zero: it doesn't
	Dead         bool    // its role is known to be dead
	Sessions     int     // logged in, and not closing
	LoggingIn    int
	OldestInPool Instant // birth of the oldest that a pool has
}

// PoolView is what there is to see of a pool.
type PoolView struct {
	Pool       PoolID
	Limit      int // zero: none
	Peak       int
	Sessions   int // that it has
	ToGo       int // of these, those that a rotation retires
	Due        int // of these, those that are told to go
	Owed       int // that have gone and aren't replaced
	DrainSince Instant
	DrainSize  int     // how many were to go when it began
	DrainUntil Instant // when it is to be done
}

// Counts only ever grow.
type Counts struct {
	Rotations   uint64
	Logins      uint64 // that succeeded
	Refused     uint64
	Failed      uint64
	Abandoned   uint64
	Fallbacks   uint64 // callers' logins with a predecessor of the latest version
	Taken       uint64 // spares that callers got
	Waits       uint64 // of callers
	Waited      time.Duration
	Asks        uint64
	Drains      uint64 // finished
	LastDrain   time.Duration
	LastDrained int
	Ended       [numReasons]uint64 // sessions that a pool had, by reason
	Outlived    uint64             // sessions in a pool whose credential ended
}

// Snapshot returns what there is to see now, in one pass over the sessions.
func (s *State) Snapshot(now Now) Snapshot {
	snap := Snapshot{
		Waiting: s.waiting, Epoch: s.epoch,
		SourceFailing: s.readFailing, ReadAt: s.readAt, Unsettled: s.unsettled(now), ReadEvery: s.readEvery(now),
		Failures: s.failures, RetryAt: s.retryAt,
		LastLogin: s.lastLogin, SuccessorDue: Never, Counts: s.counts,
	}
	snap.Counts.Waited += time.Duration(s.waiting) * now.Mono.Sub(s.waitingSince)
	if s.ep.on {
		snap.Refusing, snap.Ambiguous = true, s.ep.unclear
		snap.RefusedSince, snap.Refusals, snap.NextAttempt = s.ep.began, s.ep.n, max(s.ep.next, s.retryAt)
	}
	if c := s.current(); c != nil {
		snap.SuccessorDue = s.alarm(c, now)
	}
	index := make(map[*version]*VersionView, len(s.versions))
	snap.Versions = make([]VersionView, 0, len(s.versions))
	for _, v := range s.versions {
		snap.Versions = append(snap.Versions, s.view(v))
		index[v] = &snap.Versions[len(snap.Versions)-1]
	}
	for _, x := range s.loose {
		snap.States[x.state]++
		index[x.v].count(x)
	}
	for _, p := range s.pools {
		for _, x := range p.members {
			snap.States[x.state]++
			index[x.v].count(x)
			if x.held {
				snap.Held++
			}
		}
		snap.Pools = append(snap.Pools, p.view())
	}
	snap.Spares = snap.States[Spare] + snap.States[Asking]
	return snap
}

// View returns what there is to see of one version now, and whether it is known.
func (s *State) View(id VersionID) (VersionView, bool) {
	v := s.findVersion(id)
	if v == nil {
		return VersionView{}, false
	}
	view := s.view(v)
	count := func(sessions []*session) {
		for _, x := range sessions {
			if x.v == v {
				view.count(x)
			}
		}
	}
	count(s.loose)
	for _, p := range s.pools {
		count(p.members)
	}
	return view, true
}

// Counts returns what has been counted.
func (s *State) Counts() Counts { return s.counts }

// Unsettled reports whether the source gives another login at nearly every read.
func (s *State) Unsettled(now Now) bool { return s.unsettled(now) }

func (s *State) view(v *version) VersionView {
	view := VersionView{
		Version: v.id, Read: v.read, Superseded: v.superseded, NotAfter: v.notAfter, End: s.hardEnd(v),
		Proven: v.proven, ProvenAt: v.provenAt, Refused: v.refusedAt != 0, Dead: v.dead,
	}
	if s.ep.on && v == s.current() {
		view.RefusedSince = s.ep.began
	}
	return view
}

func (v *VersionView) count(x *session) {
	switch {
	case x.state == LoggingIn:
		v.LoggingIn++
	case x.state != Closing:
		v.Sessions++
	}
	if x.state.InPool() && v.OldestInPool == 0 {
		v.OldestInPool = x.born // the oldest comes first
	}
}

func (p *pool) view() PoolView {
	v := PoolView{
		Pool: p.id, Peak: p.peak, Sessions: len(p.members), Due: p.drain.due, Owed: p.owed,
		ToGo: p.drain.leaving, DrainSince: p.drain.began, DrainUntil: p.drain.to,
	}
	if p.limit != math.MaxInt {
		v.Limit = p.limit
	}
	if v.DrainSince != 0 {
		v.DrainSize = p.drain.size
	}
	return v
}

// ProblemKind is a kind of trouble that a person may have to act on. Its String is
// stable: alerts go by it.
type ProblemKind uint8

// Kinds of problems.
const (
	CredentialRefused ProblemKind = iota + 1
	CredentialUnclear             // refused with a code that says no for other reasons as well
	CredentialExpired
	SuccessorOverdue
	RoleInUseDead
	SourceFails
	SourceUnsettled
	LoginsFail // for other reasons than the credential
	NoCredential
)

// Problem is something that a person may have to act on.
type Problem struct {
	Kind    ProblemKind
	Since   Instant
	Version VersionID
	// CanConnect says whether new connections can be made all the same.
	CanConnect bool
}

// String names the kind.
func (k ProblemKind) String() string {
	return name(int(k), "none", "credential_refused", "credential_unclear", "credential_expired", "successor_overdue",
		"role_in_use_dead", "source_fails", "source_unsettled", "logins_fail", "no_credential")
}

// Problems returns what is wrong now, the worst first.
func (s *State) Problems(now Now) []Problem {
	var all []Problem
	c := s.current()
	if c == nil {
		if s.readFailing != 0 {
			all = append(all, Problem{Kind: NoCredential, Since: s.readFailing})
		}
		return all
	}
	connects := s.connects(now)
	say := func(kind ProblemKind, since Instant) {
		all = append(all, Problem{Kind: kind, Since: since, Version: c.id, CanConnect: connects})
	}
	end := c.loginEnd()
	switch {
	case s.expired(c, now):
		say(CredentialExpired, end.Instant(now))
	case s.ep.on && c.dead:
		say(RoleInUseDead, c.refusedAt)
	case s.ep.on && s.ep.unclear:
		say(CredentialUnclear, s.ep.began)
	case s.ep.on:
		say(CredentialRefused, s.ep.began)
	}
	if due := s.alarm(c, now); now.Mono >= due && !end.Past(now) {
		say(SuccessorOverdue, due)
	}
	if s.failing != 0 {
		say(LoginsFail, s.failing)
	}
	if s.readFailing != 0 {
		say(SourceFails, s.readFailing)
	}
	if s.unsettled(now) {
		say(SourceUnsettled, s.unsettledSince)
	}
	return all
}

// connects reports whether new connections can be made, with the latest credential or a
// predecessor.
func (s *State) connects(now Now) bool {
	for i, v := range s.versions {
		refused := i == 0 && s.ep.on || i > 0 && now.Mono < s.fall.next
		if s.usable(v, now) && !refused {
			return s.failing == 0
		}
	}
	return false
}
