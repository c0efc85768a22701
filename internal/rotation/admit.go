// Admission: what a caller who wants a connection gets, and when it is to ask again.

package rotation

import "time"

const (
	// proofTTL is how long a successful login lets others go ahead without waiting for
	// its like. A burst after a quiet time sends one login ahead, so that a password
	// which has meanwhile changed costs one refusal, not a burst of them.
	proofTTL = time.Second

	// patience is how long logins wait for the one that went ahead before another one
	// follows it.
	patience = time.Second

	// maxAbandoned is how many logins in a row may be given up by their callers before
	// the connector makes the next one, with a patience of its own.
	maxAbandoned = 2

	// maxAhead is how many logins may go ahead at once. It is 1, and doubles with each
	// one that fails for another reason than the credential: those who waited for it try
	// for themselves, and must not have to do so one after the other.
	maxAhead = 8

	// closePatience is how long callers wait for a session that is being closed to make
	// room, and fullPatience for any that is about to end when the server is full. One whose
	// socket has just been closed may be there for a moment more: the server is tried again
	// every fullRetry for as long.
	closePatience = 50 * time.Millisecond
	fullPatience  = time.Second
	fullRetry     = 50 * time.Millisecond

	// spareTrust is how long a spare is handed out without asking whether the server is
	// still there.
	spareTrust = time.Second
)

// Choose says what a caller from pool who needs a session is to do. It books what it
// says: a session that it names is the caller's until it is handed out, given back or
// over. Step with a Tick must follow under the same lock, as after HandOut and Bind.
func (s *State) Choose(pool PoolID, now Now) Verdict {
	c := s.current()
	switch {
	case s.closed:
		return Verdict{Kind: FailClosed}
	case c == nil:
		return Verdict{Kind: FailEmpty}
	}
	p := s.pool(pool)
	if x := s.youngestSpare(now); x != nil {
		check := now.Mono >= x.ready.Add(spareTrust)
		x.pool = p
		s.move(x, Promised, NotRetired, now)
		s.counts.Taken++
		return Verdict{Kind: Take, Session: x.id, Version: x.v.id, Check: check}
	}
	if until, crowded := s.crowded(p, now); crowded {
		return Verdict{Kind: Wait, Version: c.id, Until: until, Cause: ForRoom}
	}
	retry := Never
	for _, v := range s.versions {
		if !s.usable(v, now) || v == c && (s.ep.on || s.deserted(now)) {
			continue // whether the latest one is accepted the connector's own login asks
		}
		if v != c && now.Mono < s.fall.next {
			retry = s.fall.next
			continue
		}
		ok, until := s.admit(v, now)
		if !ok {
			return Verdict{Kind: Wait, Version: v.id, Until: until, Cause: ForAnswer}
		}
		if v != c {
			s.counts.Fallbacks++
		}
		return Verdict{Kind: LogIn, Session: s.newSession(v, ForCaller, p, now).id, Version: v.id}
	}
	return s.waitOrFail(c, retry, now)
}

// youngestSpare returns the spare that has been idle for the shortest time and is fit
// for use, or nil.
func (s *State) youngestSpare(now Now) (best *session) {
	for _, x := range s.loose {
		if x.state == Spare && (best == nil || x.ready >= best.ready) && s.fit(x, now) {
			best = x
		}
	}
	return best
}

// fit reports whether a spare may be handed out.
func (s *State) fit(x *session, now Now) bool {
	return !s.hardEnd(x.v).Past(now) && !x.v.dead && !s.outdated(x.v, now)
}

// admit says whether a login with v may begin now, or when to ask again: at once if one
// has succeeded lately, else as one of few that go ahead.
func (s *State) admit(v *version, now Now) (ok bool, again Instant) {
	if v.provenAt != 0 && now.Mono < v.provenAt.Add(proofTTL) {
		return true, 0
	}
	n, youngest := s.ahead(v)
	if n < min(maxAhead, 1<<min(s.failed, maxAhead)) {
		return true, 0
	}
	if again = youngest.Add(patience); now.Mono < again {
		return false, again
	}
	return true, 0
}

// ahead counts the logins under way that tell about v. Of the latest version those tell
// that began with what was the latest then: there may be a new one with each.
func (s *State) ahead(v *version) (n int, youngest Instant) {
	latest := v == s.current()
	for _, x := range s.loose {
		if x.state == LoggingIn && x.bound && (x.v == v || latest && x.latest) {
			n++
			youngest = max(youngest, x.began)
		}
	}
	return n, youngest
}

// deserted reports whether callers give up again and again before they learn what comes
// of their logins, and the connector sees to it itself, and not for too long.
func (s *State) deserted(now Now) bool {
	if s.abandoned <= maxAbandoned || now.Mono < s.retryForCallers() {
		return false
	}
	x := s.asker()
	return x == nil || now.Mono < x.since.Add(patience)
}

// asker returns the connector's own login with the latest version that is under way, or
// nil. There is no more than one.
func (s *State) asker() *session {
	for _, x := range s.loose {
		if x.state == LoggingIn && x.own() && x.latest {
			return x
		}
	}
	return nil
}

// waitOrFail is for a caller for whom there is nothing to log in with now. retry is when
// a predecessor may be tried again.
func (s *State) waitOrFail(c *version, retry Instant, now Now) Verdict {
	var wait, fail Verdict
	var bound Instant
	switch {
	case s.ep.on:
		wait = Verdict{Kind: Wait, Version: c.id, Cause: ForAccept, Ambiguous: s.ep.unclear}
		fail = Verdict{Kind: FailRefused, Version: c.id, Ambiguous: s.ep.unclear}
		bound = max(s.ep.began, s.ep.helped).Add(s.cfg.RetryTimeout)
		if s.ep.unclear && !c.proven {
			bound = 0 // what has never worked may never do: say so at once
		}
	case c.loginEnd().Past(now):
		wait = Verdict{Kind: Wait, Version: c.id, Cause: ForNewer}
		fail = Verdict{Kind: FailExpired, Version: c.id}
		bound = c.loginEnd().Instant(now).Add(s.cfg.RetryTimeout)
	default: // deserted: the connector's own login is under way, or about to be
		s.want(now)
		return Verdict{Kind: Wait, Version: c.id, Cause: ForAnswer, Until: now.Mono.Add(patience)}
	}
	wait.Until = min(bound, retry)
	if now.Mono < bound {
		return wait
	}
	if until := s.attempt(c, now); now.Mono < until {
		wait.Until = until
		return wait
	}
	return fail
}

// attempt returns until when a caller whose time is over waits all the same: for an
// attempt of the connector's own that is under way or due, and not for long.
func (s *State) attempt(c *version, now Now) (until Instant) {
	if x := s.asker(); x != nil {
		return x.since.Add(patience)
	}
	if s.ep.on && s.usable(c, now) && now.Mono >= max(s.ep.next, s.retryForCallers()) {
		s.want(now)
		return s.wanted.Add(patience)
	}
	return 0
}

// waits takes in how many callers wait.
func (s *State) waits(n int, now Now) {
	s.counts.Waits += uint64(max(0, n-s.waiting))
	s.counts.Waited += time.Duration(s.waiting) * now.Mono.Sub(s.waitingSince)
	s.waiting, s.waitingSince = n, now.Mono
}

// want notes that a caller would have the connector ask whether the latest version is
// accepted.
func (s *State) want(now Now) {
	if s.wanted == 0 {
		s.wanted = now.Mono
	}
}

// HandOut notes that a promised session goes to its pool. False says that it must not:
// it is over, or its credential is; the session is closed, and the caller is to Choose
// again.
func (s *State) HandOut(id SessionID, now Now) bool {
	s.resume()
	x := s.find(id, Promised)
	switch {
	case x == nil:
		return false
	case s.closed:
		s.move(x, Closing, ByClose, now)
		return false
	case s.hardEnd(x.v).Past(now) || s.tooLate(x.v, now):
		s.move(x, Closing, Expired, now)
		return false
	}
	s.handOut(x, now)
	return true
}

// tooLate reports whether a session of v would have to be back before a checkout is
// over: a login with a predecessor that took long.
func (s *State) tooLate(v *version, now Now) bool {
	return v.superseded != 0 && !s.lasts(s.hardEnd(v), now)
}

// Bind says with which version a login of Effects.Logins goes out. It is called after
// the read of the source that precedes each login, and immediately before the dial.
// Zero says that the login is not to be: it is off the books.
func (s *State) Bind(id SessionID, now Now) VersionID {
	s.resume()
	x := s.find(id, LoggingIn)
	if x == nil || !x.own() || x.bound {
		return 0
	}
	if x.purpose != AskOld {
		x.v.sessions--
		x.v = s.current()
		x.v.sessions++
	}
	x.latest = x.v == s.current()
	if s.closed || x.v.loginEnd().Past(now) || x.v.dead && !x.latest || x.latest && s.ep.on && now.Mono < s.ep.next {
		s.putOff(retryMin, now) // the next one may fare no better
		s.drop(x)
		return 0
	}
	x.began, x.bound = now.Mono, true
	if x.latest {
		s.askedAt = now.Mono
	}
	return x.v.id
}

// Full says whether a caller whose login found the server full should wait for a
// session that is about to end, or has just ended, and until when, before it Chooses
// again; else it fails.
func (s *State) Full(now Now) (until Instant, wait bool) {
	for _, x := range s.loose {
		if x.state == Closing || x.state == Spare || x.state == LoggingIn && x.purpose == AskOld {
			return now.Mono.Add(fullPatience), true
		}
	}
	for _, p := range s.pools {
		for _, x := range p.members {
			if x.state == Going {
				return now.Mono.Add(fullPatience), true
			}
		}
	}
	if s.endedAt != 0 && now.Mono.Sub(s.endedAt) < fullPatience {
		return now.Mono.Add(fullRetry), true
	}
	return 0, false
}
