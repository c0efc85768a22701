package rotation

import (
	"slices"
	"time"
)

const (
	// Each old role is asked after again after an eighth of the time for which it has been
	// superseded, within these bounds. All of them together are asked after oldMin after
	// the last time, then twice that, up to oldAll.
	oldMin = 250 * time.Millisecond
	oldMax = 10 * time.Minute
	oldAll = 5 * time.Second

	// A pool that isn't used is asked after this long.
	idleMax = 10 * time.Minute

	// lookEvery is how often the shell is woken while no pool is used, to see whether there
	// still is one: with the questions less than once a minute.
	lookEvery = 75 * time.Second

	// askPatience is when a question counts as unanswered.
	askPatience = 30 * time.Second
)

// question is how asking after the current role stands: on an idle connection, or else on
// a spare, or else by a login.
type question struct {
	pending  Ask     // if its Began isn't zero
	stage    stage   // the way that is tried next
	answered Instant // when the last answer came that said it lives
	useless  bool    // a query can't tell
}

type stage uint8

const (
	askIdle stage = iota
	askSpare
	askLogin
)

// oldRole is the login that asks whether an old role still lives: its sessions fail every
// query but no ping, so somebody has to. Of several it is the one that is due first. The
// longer a role has been superseded, the less often it is asked after.
func (s *State) oldRole(now Now) plannedLogin {
	l := plannedLogin{purpose: AskOld, at: Never, crowd: true}
	c := s.current()
	for _, v := range s.versions {
		if v.dead || v.user == c.user || !v.outdated || v.loginEnd().Past(now) || !s.inPool(v) {
			continue
		}
		if v.askAt < l.at {
			l.v, l.at = v, v.askAt
		}
	}
	l.at = max(l.at, s.askOldAt)
	return l
}

// askedOld notes that an old role is being asked after.
func (s *State) askedOld(v *version, now Now) {
	s.counts.Asks++
	s.asksOld++
	s.askOldAt = now.Mono.Add(backoff(s.asksOld, oldMin, oldAll))
	v.askAt = now.Mono.Add(min(max(now.Mono.Sub(v.superseded)/8, oldMin), oldMax))
}

// unansweredOld notes that a login which was to ask after an old role failed for another
// reason, or took too long. That says nothing about the latest one, which is not put off;
// and while the question waits nothing else of the connector's logs in, so it waits twice
// as long for its next turn.
func (s *State) unansweredOld(x *session, now Now) {
	s.askOldAt = max(s.askOldAt, now.Mono.Add(2*now.Mono.Sub(x.began)))
}

// inPool reports whether a pool that can retire it has a session of v.
func (s *State) inPool(v *version) bool {
	for _, p := range s.pools {
		if !p.managed {
			continue
		}
		for _, x := range p.members {
			if x.v == v {
				return true
			}
		}
	}
	return false
}

// askDue returns when the current role is to be asked after, and when to see whether its
// pools are in use; and whether it is to be asked after as soon as one is.
func (s *State) askDue(c *version, now Now) (due, look Instant, heed bool) {
	if s.cfg.AskAfter <= 0 || !c.proven || s.ep.on || s.closed || s.hardEnd(c).Past(now) {
		return Never, Never, false
	}
	last := max(s.lastLogin, s.ask.answered)
	used, open := s.used(), false
	for _, p := range s.pools {
		open = open || p.managed && len(p.members) > 0
	}
	due = last.Add(s.cfg.AskAfter)
	switch {
	case !open:
		return Never, Never, false
	case used:
		return due, due, false
	case now.Mono < due:
		look = due
	default:
		look, heed = now.Mono.Add(lookEvery), true
	}
	return last.Add(max(s.cfg.AskAfter, idleMax)), look, heed
}

// used reports whether a pool has been in use since the current role was last known to
// live.
func (s *State) used() bool {
	last := max(s.lastLogin, s.ask.answered)
	return slices.ContainsFunc(s.pools, func(p *pool) bool { return p.managed && p.used > last })
}

// planAsk has the current role asked after on a session that there is, if it is time.
func (s *State) planAsk(now Now) (wake Instant) {
	c := s.current()
	if c == nil {
		return Never
	}
	q := &s.ask
	if q.pending.Began != 0 {
		until := q.pending.Began.Add(askPatience)
		if now.Mono < until {
			return until
		}
		s.asked(Asked{Ask: q.pending, Answer: Unanswered}, now)
	}
	due, look, heed := s.askDue(c, now)
	if now.Mono < due {
		s.fx.Heed = heed
		q.stage = askIdle
		return min(due, look)
	}
	if !s.cfg.AskByQuery || q.useless || c.queryLies {
		q.stage = askLogin
	}
	switch q.stage {
	case askIdle:
		s.put(Ask{How: OnIdle, Version: c.id, Began: now.Mono})
	case askSpare:
		if _, ready := s.room(); !ready {
			return Never // what isn't ready brings us back: a spare that is asked is no readier
		}
		x := s.youngestSpare(now)
		if x == nil || x.v != c {
			q.stage = askLogin
			break
		}
		s.move(x, Asking, NotRetired, now)
		s.put(Ask{How: OnSpare, Version: c.id, Session: x.id, Began: now.Mono})
	case askLogin: // see currentRole
	}
	return Never
}

func (s *State) put(a Ask) {
	s.counts.Asks++
	s.ask.pending = a
	s.fx.Asks = append(s.fx.Asks, a)
}

// currentRole is the login that asks after the current role, when nothing else can. A
// pool that isn't used is not worth one.
func (s *State) currentRole(c *version, now Now) plannedLogin {
	l := plannedLogin{v: c, purpose: AskCurrent, at: Never, crowd: true}
	if s.ask.stage == askLogin && s.used() {
		l.at, _, _ = s.askDue(c, now)
	}
	return l
}

// asked takes in what came of a question. The session that was asked may have been of
// another version than was meant: then that is known of it, and the question stands.
func (s *State) asked(ev Asked, now Now) {
	q := &s.ask
	if x := s.find(ev.Ask.Session, Asking); x != nil {
		s.answeredBy(x, ev.Answer, now)
	}
	if ev.Ask.Began == 0 || ev.Ask.Began != q.pending.Began {
		return // too late
	}
	q.pending = Ask{}
	q.stage++ // if the question still stands: see planAsk
	switch ev.Answer {
	case Lives:
		if ev.Ask.Version == s.Current() {
			q.answered = now.Mono
		}
	case Refuses:
		s.queryRefused(ev.Ask.Version, now)
	case Unasked:
		q.useless = true
	case Unanswered:
	}
}

// answeredBy notes what a spare that was asked is good for now.
func (s *State) answeredBy(x *session, a Answer, now Now) {
	switch {
	case s.closed:
		s.move(x, Closing, ByClose, now)
	case a == Refuses:
		s.move(x, Closing, Revoked, now)
	case a == Unanswered:
		s.move(x, Closing, Unneeded, now)
	default:
		s.move(x, Spare, NotRetired, now)
	}
}

// queryRefused notes that a role is dead, by the word of a session of its own. If it is
// the current one that is an episode of refusals: logins would fare no better.
func (s *State) queryRefused(id VersionID, now Now) {
	i := slices.IndexFunc(s.versions, func(v *version) bool { return v.id == id })
	if i < 0 || s.versions[i].queryLies {
		return
	}
	user, c := s.versions[i].user, s.current()
	for _, v := range s.versions {
		if v.user == user {
			v.refusedAt, v.unclear = now.Mono, false
			s.dies(v)
		}
	}
	if user == c.user {
		s.refuse(c, false, now)
	}
}
