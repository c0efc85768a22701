// Spares and the connector's own logins: how many, for what, and when.

package rotation

import (
	"slices"
	"time"
)

// maxSpareTTL is how long a spare that nobody takes is kept at the most, when nothing is
// retired any more.
const maxSpareTTL = time.Minute

// spareTTL is little of the lifetime that a spare has once it is taken.
func (s *State) spareTTL() time.Duration {
	if s.lifetime == 0 {
		return maxSpareTTL
	}
	return min(maxSpareTTL, s.lifetime/10)
}

// fitSpares closes the spares that are of no use, that nobody takes, or that there is no
// room for, and returns when to look again.
func (s *State) fitSpares(now Now) (wake Instant) {
	wake = Never
	s.countPools()
	free, _ := s.room()
	busy := s.spareWanted || s.waiting > 0
	if busy {
		s.busyAt = now.Mono
	}
	// One after the other: a server that sees them all go at once sees a cliff.
	gap := min(agingGap, s.spareTTL()/time.Duration(max(1, len(s.loose))))
	for _, x := range s.loose {
		if x.state != Spare {
			continue
		}
		expires := max(max(x.since, s.busyAt).Add(s.spareTTL()), s.shedAt.Add(gap))
		switch {
		case s.closed:
			s.move(x, Closing, ByClose, now)
		case s.hardEnd(x.v).Past(now):
			s.move(x, Closing, Expired, now)
		case !s.fit(x, now):
			s.move(x, Closing, Outdated, now)
		case !busy && now.Mono >= expires:
			s.shedAt = now.Mono
			s.move(x, Closing, Unneeded, now)
			for _, p := range s.pools {
				p.refill, p.owed = false, 0 // the pools don't need them
			}
		case free < 0:
			s.move(x, Closing, Unneeded, now)
			free++ // as soon as it has ended
		case !busy:
			wake = min(wake, expires)
		}
	}
	return wake
}

// plannedLogin is a login of the connector's own.
type plannedLogin struct {
	v       *version
	purpose Purpose
	at      Instant // when it should begin; Never: it isn't called for
	crowd   Instant // when spares make room for it
}

// planLogins begins the connector's own login that is needed most, if there is room for
// one, and returns when to look again.
func (s *State) planLogins(now Now) (wake Instant) {
	wake = Never
	c := s.current()
	if now.Mono >= s.wanted.Add(patience) {
		s.wanted = 0
	}
	if c == nil || s.closed || s.hardEnd(c).Past(now) { // another token comes with the login's read
		return wake
	}
	free, ready := s.room()
	if !ready {
		return wake // its end, or what comes of it, brings us back
	}
	for _, l := range [...]plannedLogin{s.proof(c, now), s.oldRole(now), s.currentRole(c, now), s.replacement(c, free)} {
		switch at := s.floor(l.at, l.purpose, now); {
		case at == Never:
		case now.Mono < at:
			wake = min(wake, at)
		case free >= 1:
			s.startLogin(l, now)
			return Never
		case now.Mono < l.crowd:
			wake = min(wake, l.crowd)
		case s.makeRoom(now):
			return Never // the end of what makes room brings us back
		}
	}
	return wake
}

// floor is when a login that should begin at an instant may: not while the last failure
// is fresh, nor all the time over a source that gives another login to each. (An episode
// has floors of its own.)
func (s *State) floor(at Instant, p Purpose, now Now) Instant {
	if at == Never {
		return at
	}
	at = max(at, s.retry(p))
	if s.unsettled(now) && !s.ep.on {
		at = max(at, s.askedAt.Add(s.settle()))
	}
	return at
}

// retry is when the connector may log in again after a failure: less and less often; but
// for a caller who cares for what comes of it every second or two, or else it would hear
// late that the server is back.
func (s *State) retry(p Purpose) Instant {
	if p == Prove && (s.waiting > 0 || s.wanted != 0) {
		return s.retryForCallers()
	}
	return s.retryAt
}

func (s *State) retryForCallers() Instant { return min(s.retryAt, s.failedAt.Add(unclearMax)) }

// putOff has the connector's own logins wait for d.
func (s *State) putOff(d time.Duration, now Now) {
	s.failedAt, s.retryAt = now.Mono, max(s.retryAt, now.Mono.Add(d))
}

func (s *State) startLogin(l plannedLogin, now Now) {
	x := s.newSession(l.v, l.purpose, nil, now)
	s.fx.Logins = append(s.fx.Logins, Login{x.id, l.purpose})
	if l.purpose == AskOld {
		s.counts.Asks++
		s.askedOld(l.v, now)
	} else {
		s.wanted = 0
	}
}

// makeRoom closes the spare that has waited longest, if there is one that no caller is
// about to take.
func (s *State) makeRoom(now Now) bool {
	if s.waiting > 0 {
		return false
	}
	for _, x := range s.loose {
		if x.state == Spare {
			s.move(x, Closing, Unneeded, now)
			return true
		}
	}
	return false
}

// proof is the login that finds out whether the latest version is accepted, if that
// isn't known and somebody cares.
func (s *State) proof(c *version, now Now) plannedLogin {
	l := plannedLogin{v: c, purpose: Prove, at: Never}
	deserted := s.abandoned > maxAbandoned
	switch {
	case !s.ep.on && !deserted && (c.proven || len(s.versions) == 1):
	case !s.inUse():
	case s.ep.on:
		l.at = s.ep.next
	case deserted:
		l.at = now.Mono
	default:
		l.at = now.Mono
		if !s.urgent() {
			l.at = max(l.at, c.proveAt)
		}
		if ok, again := s.admit(c, now); !ok {
			l.at = max(l.at, again)
		}
	}
	return l
}

// urgent reports whether somebody waits to hear whether the latest version is accepted:
// callers, or a pool with sessions of a dead role. Nobody does as a rule, and processes
// that are told of a rotation together should not all log in at once.
func (s *State) urgent() bool {
	return s.waiting > 0 || s.wanted != 0 ||
		slices.ContainsFunc(s.versions, func(v *version) bool { return v.superseded != 0 && v.dead && s.inPool(v) })
}

// inUse reports whether a pool has or had sessions, or a caller wants one. A pool that has
// none at the moment may want one at any time, and its caller should not be the one who
// learns that a credential is refused.
func (s *State) inUse() bool {
	return s.waiting > 0 || s.wanted != 0 || slices.ContainsFunc(s.pools, func(p *pool) bool { return p.managed && p.everUsed || len(p.members) > 0 })
}

// replacement is the login for the next spare: for the next session that goes, and for
// each that has gone and isn't replaced.
func (s *State) replacement(c *version, free int) plannedLogin {
	l := plannedLogin{v: c, purpose: Replace, at: Never, crowd: Never}
	if !c.proven || s.ep.on || free < 1 {
		return l
	}
	have, need := 0, 0
	refill := false
	for _, x := range s.loose {
		if x.state == Spare || x.state == Promised { // what is promised is owed no more soon
			have++
		}
	}
	for _, p := range s.pools {
		need += p.owed
		refill = refill || p.refill
	}
	if s.spareWanted || refill && need == 0 {
		need++
	}
	if have > 0 {
		l.purpose = Refill
	}
	if have < need {
		l.at = 0
	}
	return l
}
