// The ledger of sessions: each has one state, and moves from one to the next here alone.

package rotation

import (
	"slices"
	"time"
)

// session is a login that is under way, or what came of it. Of what it was only its
// state changes, and that through State.move alone.
type session struct {
	id        SessionID
	v         *version
	pool      *pool // whose it is: from when a caller of that pool has it
	state     SessionState
	purpose   Purpose
	reason    Reason  // why it is to go
	began     Instant // of the login: when it was bound to its version
	ready     Instant // when it had logged in
	born      Instant // when it went to its pool
	since     Instant // when it came into its state
	latest    bool    // its version was the latest when it began
	bound     bool    // the login is on its way to the server
	untracked bool
	held      bool
	recalled  bool // whoever holds it has been told that it is to go
	past      bool // it has been said that it outlives its credential

	// What the drain makes of it; derived anew at each step.
	need need
	why  Reason
	by   Instant
	last bool // and not before, because nothing better can take its place
}

// own reports whether nobody but the connector waits for what comes of x.
func (x *session) own() bool { return x.purpose != ForCaller }

// newSession books a login.
func (s *State) newSession(v *version, purpose Purpose, p *pool, now Now) *session {
	x := &session{}
	if n := len(s.free); n > 0 {
		x, s.free = s.free[n-1], s.free[:n-1]
	}
	s.lastID++
	*x = session{
		id: s.lastID, v: v, pool: p, state: LoggingIn, purpose: purpose,
		began: now.Mono, since: now.Mono, latest: v == s.current(), bound: purpose == ForCaller,
	}
	v.sessions++
	s.byID[x.id] = x
	s.loose = append(s.loose, x)
	return x
}

// find returns the session of that number if it is in one of the states.
func (s *State) find(id SessionID, states ...SessionState) *session {
	x := s.byID[id]
	if x == nil || !slices.Contains(states, x.state) {
		return nil
	}
	return x
}

// move brings x into another state, and onto the list where that belongs.
func (s *State) move(x *session, to SessionState, why Reason, now Now) {
	from := x.state
	if from == Going || to == Going {
		s.fx.Marks = true
	}
	if to == Pooled && !from.InPool() {
		s.loose = remove(s.loose, x)
		x.pool.members = append(x.pool.members, x)
	}
	x.state, x.reason, x.since = to, why, now.Mono
	switch to {
	case Closing:
		s.fx.Close = append(s.fx.Close, x.id)
		s.fx.Look = true
	case Spare:
		s.fx.Look = true
	}
}

// drop takes x off the books.
func (s *State) drop(x *session) {
	if x.state.InPool() {
		x.pool.members = remove(x.pool.members, x)
	} else {
		s.loose = remove(s.loose, x)
	}
	if x.state == Going {
		s.fx.Marks = true
	}
	delete(s.byID, x.id)
	x.v.sessions--
	s.fx.Look = true
	s.free = append(s.free, x)
}

func remove(list []*session, x *session) []*session {
	return slices.DeleteFunc(list, func(other *session) bool { return other == x })
}

// loginSucceeded is for a login that has got what it went for.
func (s *State) loginSucceeded(ev LoginSucceeded, now Now) {
	x := s.find(ev.Session, LoggingIn)
	if x == nil {
		return
	}
	s.succeeded(x, now)
	x.ready, x.untracked = now.Mono, ev.Untracked
	s.untracked = s.untracked || ev.Untracked
	switch {
	case s.closed:
		s.move(x, Closing, ByClose, now)
	case !x.own():
		s.move(x, Promised, NotRetired, now)
	case x.purpose == AskOld:
		x.v.livedAt = now.Mono
		s.move(x, Closing, Answered, now)
	default:
		s.move(x, Spare, NotRetired, now) // if there is room for it: see fitSpares
	}
	s.fx.Look = true
}

// loginRefused is for a login whose credential the server refuses.
func (s *State) loginRefused(ev LoginRefused, now Now) {
	if x := s.find(ev.Session, LoggingIn); x != nil {
		s.refused(x, ev.Ambiguous, now)
		s.drop(x)
	}
}

// loginFailed is for a login that failed for another reason. It says nothing about the
// credential. Whoever waited for it may try for itself: the failure is one caller's.
func (s *State) loginFailed(ev LoginFailed, now Now) {
	x := s.find(ev.Session, LoggingIn)
	if x == nil {
		return
	}
	s.counts.Failed++
	s.abandoned = 0
	s.failed++
	switch {
	case x.purpose == AskOld:
		s.unansweredOld(x, now)
	case x.own():
		s.failures++
		if s.failing == 0 {
			s.failing = now.Mono
		}
		s.putOff(backoff(s.failures, retryMin, retryMax), now)
	}
	s.drop(x)
}

// loginAbandoned is for a login that was given up. It says nothing, but if that happens
// again and again the server may be refusing more slowly than callers wait.
func (s *State) loginAbandoned(ev LoginAbandoned, now Now) {
	x := s.find(ev.Session, LoggingIn)
	if x == nil {
		return
	}
	s.counts.Abandoned++
	switch {
	case x.purpose == AskOld:
		s.unansweredOld(x, now)
	case x.own():
		s.putOff(retryMin, now) // whatever gave it up may do so again
	case x.latest:
		s.abandoned++
	}
	s.drop(x)
}

// givenBack is for a caller who gave up after it was promised a session.
func (s *State) givenBack(ev GivenBack, now Now) {
	x := s.find(ev.Session, Promised)
	switch {
	case x == nil:
	case s.closed:
		s.move(x, Closing, ByClose, now)
	default:
		x.pool = nil
		x.purpose = Refill
		s.move(x, Spare, NotRetired, now)
	}
}

// ended is for a session whose socket is closed.
func (s *State) ended(ev Ended, now Now) {
	x := s.find(ev.Session, Spare, Asking, Promised, Pooled, Due, Going, Closing)
	if x == nil {
		return
	}
	s.endedAt = now.Mono
	s.over(x, now)
}

// over takes a session off the books that had logged in.
func (s *State) over(x *session, now Now) {
	why := x.reason
	if x.state == Promised {
		s.distrust(now) // it was looked at, and found dead
	}
	if s.hardEnd(x.v).Past(now) && x.state != Closing {
		why = Expired
	}
	if x.state.InPool() {
		switch {
		case why != NotRetired:
		case s.outdated(x.v, now):
			why = Superseded
		case x.pool.isNeighbour(x, now) && x.by != Never:
			why = x.why // it would have gone for that soon
		case x.pool.isNeighbour(x, now):
			why = Neighbour
		}
		s.left(x, why, now)
		s.counts.Ended[why]++
	}
	age := now.Mono.Sub(x.ready)
	s.tell(Notice{Kind: SessionEnded, Session: x.id, Version: x.v.id, Pool: x.pool.number(), Reason: why, State: x.state, Took: age})
	s.drop(x)
}

// distrust closes all spares: what has ended one has most likely ended the others, though
// it may not have been heard of yet.
func (s *State) distrust(now Now) {
	for _, x := range s.loose {
		if x.state == Spare {
			s.move(x, Closing, Unneeded, now)
		}
	}
}

// handOut gives a promised session to its pool. Of sessions whose end can't be seen only
// the youngest of a version is on a pool's books: the others go with it, at the latest.
func (s *State) handOut(x *session, now Now) {
	if x.untracked {
		for _, old := range x.pool.members {
			if old.untracked && !old.held && old.v == x.v {
				s.presumeGone(old)
				break
			}
		}
	}
	x.born = now.Mono
	x.pool.owed = max(0, x.pool.owed-1)
	x.pool.everUsed = true
	s.move(x, Pooled, NotRetired, now)
}

// presumeGone takes a session off the books whose end can't be seen.
func (s *State) presumeGone(x *session) {
	s.fx.Gone = append(s.fx.Gone, x.id)
	s.drop(x)
}

// untrackedSlack is how much longer than a checkout a session takes to go whose end
// can't be seen.
const untrackedSlack = 100 * time.Millisecond

// expectGone presumes those gone that were told to go a checkout ago and whose end
// can't be seen, and returns when the next will be.
func (s *State) expectGone(now Now) (wake Instant) {
	wake = Never
	if !s.untracked {
		return wake
	}
	for _, p := range s.pools {
		for _, x := range slices.Backward(p.members) {
			if !x.untracked || x.state != Going {
				continue
			}
			gone := x.since.Add(s.cfg.MaxInUse).Add(untrackedSlack)
			if now.Mono < gone {
				wake = min(wake, gone)
				continue
			}
			s.left(x, x.reason, now)
			s.counts.Ended[x.reason]++
			s.presumeGone(x)
		}
	}
	return wake
}
