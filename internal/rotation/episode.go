// Episodes: a credential is refused, and logins fall back to the one before or wait.

package rotation

import "time"

const (
	// A refused credential is tried again after retryMin, then twice that, and so on up
	// to retryMax.
	retryMin = 500 * time.Millisecond
	retryMax = 10 * time.Second

	// A server that says no for reasons of its own is asked every second or two.
	unclearMin = time.Second
	unclearMax = 2 * time.Second

	// wearOff is how much longer than a step of the backoff logins must have been accepted
	// for the next episode to begin a step lower.
	wearOff = 4

	// churnMax is how long a new version at the most waits for a server that is failing,
	// if it isn't the first one within a minute.
	churnMax = time.Second
)

// episode is the time from when the server begins to refuse the latest credential
// until it accepts one. There is one for the whole connector: were it a version's, each
// new version would begin with new patience and no backoff.
//
// Whose login counts is decided by whether its version was the latest when it began.
// With a source that never repeats itself nothing is current any more when the answer
// comes.
type episode struct {
	on      bool
	unclear bool      // no refusal of it was about the credential for certain
	began   Instant   // how long callers wait counts from here
	heard   Instant   // when the last refusal that counted was heard
	next    Instant   // the connector doesn't ask again before this
	n       int       // refusals that counted
	about   VersionID // whose refusal began it
	settled bool      // another version's success ended it
	fresh   int       // new versions since it began
	over    Instant   // when the last one ended
	helped  Instant   // when a login with a predecessor succeeded last: callers had what they wanted until then
}

// begin begins an episode, or goes on with one that ended a short while ago: a server
// or a source that changes its mind all the time gets no new patience each time. v is the
// version that was refused.
func (s *State) begin(v *version, unclear bool, now Now) {
	e := &s.ep
	if e.over != 0 && now.Mono.Sub(e.over) < memory {
		e.resume(now)
	} else {
		*e = episode{began: now.Mono}
	}
	e.on, e.unclear, e.about = true, unclear, v.id
	for _, old := range s.versions {
		old.provenAt = 0 // whatever was proven may have changed with it
	}
	s.tell(Notice{Kind: Refused, Version: s.versions[0].id, Ambiguous: unclear})
}

// resume goes on with the last episode, but for what has worn off: how long callers have
// waited by the time for which logins were accepted, and a step of the backoff by wearOff
// times its length. Where that episode ended as it should, with another credential, callers
// wait anew: in-place rotations in a row are one outage each.
func (e *episode) resume(now Now) {
	quiet := now.Mono.Sub(e.over)
	waited := max(0, e.over.Sub(e.began)-quiet)
	if e.settled {
		waited = 0
	}
	e.began = now.Mono.Add(-waited)
	for e.n > 0 && quiet >= wearOff*backoff(e.n, retryMin, retryMax) {
		quiet -= wearOff * backoff(e.n, retryMin, retryMax)
		e.n--
	}
	e.fresh = min(e.fresh, e.n)
	e.next = e.heard.Add(backoff(e.n, retryMin, retryMax))
}

// refuse counts a refusal of v, which was the latest version when the login began.
func (s *State) refuse(v *version, unclear bool, now Now) {
	e := &s.ep
	if !e.on {
		s.begin(v, unclear, now)
	}
	e.unclear = e.unclear && unclear
	e.n++
	e.heard = now.Mono
	if unclear {
		e.next = now.Mono.Add(backoff(e.n, unclearMin, unclearMax))
	} else {
		e.next = now.Mono.Add(backoff(e.n, retryMin, retryMax))
	}
	if v != s.current() {
		e.next = min(e.next, s.freshFloor(now)) // it says nothing about the one that came meanwhile
	}
	s.fx.Read = ReadAfresh
	s.fx.Look = true
}

// freshVersion is for a version that has become the current one. It is asked about at
// once, but not each of a hundred.
func (s *State) freshVersion(v *version, now Now) {
	if !s.ep.on && v.refusedAt != 0 && now.Mono.Sub(v.refusedAt) < memory {
		s.begin(v, v.unclear, now) // it has come back, and is known
	}
	if now.Mono.Sub(s.rotatedAt) < memory {
		s.churn++
	} else {
		s.churn = 1
		s.asksOld, s.askOldAt = 0, 0
	}
	s.rotatedAt = now.Mono
	floor := max(now.Mono, s.askedAt.Add(backoff(s.churn, retryMin, churnMax)-retryMin))
	s.retryAt = min(s.retryAt, floor)
	if s.ep.on {
		s.ep.fresh++
		s.ep.next = min(s.ep.next, s.freshFloor(now))
	}
}

// freshFloor is when a version that came during the episode may be asked about.
func (s *State) freshFloor(now Now) Instant {
	return max(now.Mono, s.askedAt.Add(backoff(s.ep.fresh, retryMin, retryMax)-retryMin))
}

// succeeded takes in a login that has succeeded.
func (s *State) succeeded(x *session, now Now) {
	v := x.v
	s.counts.Logins++
	s.abandoned, s.failed, s.failures, s.failing, s.retryAt = 0, 0, 0, 0, 0
	first := !v.proven
	v.proven = true
	if v.dead && x.latest && x.began >= s.ep.heard { // by the word of a query; a login knows better
		v.queryLies = true
	}
	if x.began >= v.refusedAt {
		v.refusedAt, v.dead, v.gone = 0, false, false
	}
	// One that is no longer the latest says nothing for a latest that is known to be
	// refused: the source may go back and forth between the two.
	if c := s.current(); !x.latest || s.ep.on && v != c && c.refusedAt != 0 {
		s.fall, s.ep.helped = fallback{}, now.Mono
		if !v.dead {
			v.provenAt = now.Mono
		}
		return
	}
	s.tokenRefused = 0
	if s.ep.on {
		if x.began < s.ep.heard {
			return // the server may have said so before it changed its mind
		}
		s.ep.on, s.ep.over, s.ep.fresh = false, now.Mono, 0
		s.ep.settled = v.id != s.ep.about
		first = true
	}
	v.provenAt, s.lastLogin = now.Mono, now.Mono
	if first {
		s.tell(Notice{Kind: Accepted, Version: v.id})
	}
}

// refused takes in a login that was refused.
func (s *State) refused(x *session, unclear bool, now Now) {
	v := x.v
	s.counts.Refused++
	s.abandoned, s.failed = 0, 0
	if x.began >= v.refusedAt {
		v.refusedAt, v.unclear, v.provenAt = now.Mono, unclear, 0
		v.gone = v.gone || x.latest && !unclear
	}
	if !unclear && v.superseded != 0 {
		s.refusedOld(v)
	}
	if !x.latest {
		if s.fall.n == 0 && s.ep.on { // it has worked until now: something has changed
			s.ep.next = min(s.ep.next, now.Mono)
		}
		s.fall.refused(s.ep.next, now)
		return
	}
	if s.cfg.Kind == LoginTokens && !s.ep.on && (s.tokenRefused == 0 || x.began < s.tokenRefused) {
		// A token may have ended a moment ago: another one first.
		s.tokenRefused = max(s.tokenRefused, now.Mono)
		s.fx.Read = ReadAfresh
		return
	}
	if s.ep.on && x.began < s.ep.heard {
		return // it went out together with the one that was counted
	}
	s.refuse(v, unclear, now)
}

// fallback is how predecessors fare while the latest version is refused. There is one
// floor for all of them, or else each of many would be tried.
type fallback struct {
	n    int     // refusals in a row
	next Instant // none is tried before this
}

// refused counts the refusal of a predecessor. step is when the latest version is tried
// again: the two take turns, and the server counts both.
func (f *fallback) refused(step Instant, now Now) {
	f.n++
	f.next = max(step, now.Mono.Add(backoff(f.n, retryMin, retryMax)))
}
