// Questions: whether the role in use and old ones still live, asked on a session that there
// is, or else by a login.

package rotation

import (
	"slices"
	"time"
)

const (
	// Each old role is asked after within oldMin, and again after an eighth of the time for
	// which it has been superseded, within these bounds. All of them together are asked after
	// oldMin after the last time, then twice that, up to oldAll. All of it by chance a little
	// earlier: thousands of pools that are told of a rotation together don't ask in step.
	oldMin = 250 * time.Millisecond
	oldMax = 10 * time.Minute
	oldAll = 5 * time.Second

	// roomPatience is how long a login that asks after an old role waits for room.
	roomPatience = time.Second

	// A pool that isn't used is asked after this long.
	idleMax = 10 * time.Minute

	// lookEvery is how often the shell is woken while no pool is used, to see whether there
	// still is one: with the questions less than once a minute.
	lookEvery = 75 * time.Second

	// askPatience is when a question counts as unanswered.
	askPatience = 30 * time.Second
)

// question is how asking after roles stands. One is asked after at a time.
type question struct {
	pending  Ask     // if its Began isn't zero
	stage    stage   // of the current role: the way that is tried next
	answered Instant // when the last answer came that said the current role lives
	useless  bool    // a query can't tell
}

// stage is a way to ask after the current role: on an idle connection, or else on a spare,
// or else by a login.
type stage uint8

const (
	askIdle stage = iota
	askSpare
	askLogin
)

// nextOld returns the old role that is to be asked after next, and when; nil: none is. Its
// sessions fail every query but no ping, so somebody has to. Of several it is the one that
// is due first. The longer a role has been superseded, the less often it is asked after.
func (s *State) nextOld(now Now) (old *version, at Instant) {
	c := s.current()
	at = Never
	for _, v := range s.versions {
		if v.dead || v.user == c.user || !s.asksAfter(v) || v.loginEnd().Past(now) || !s.inPool(v) {
			continue
		}
		if v.askAt < at {
			old, at = v, v.askAt
		}
	}
	return old, max(at, s.askOldAt)
}

// asksAfter reports whether it is time to ask after a role: by a query, which costs next to
// nothing, as soon as it is superseded, because its successor may take its time to prove
// itself; by a login when that has.
func (s *State) asksAfter(v *version) bool {
	return v.outdated || v.superseded != 0 && !s.byLogin(v)
}

// byLogin reports whether an old role is asked after by a login, because no query can tell,
// or nobody has answered one.
func (s *State) byLogin(v *version) bool {
	return v.askByLogin || !s.cfg.AskByQuery || s.cfg.AskAfter <= 0 || s.ask.useless || v.queryLies
}

// oldRole is the login that asks after an old role. Where there is no room for it, it waits
// for a while until a spare has been taken: to close one costs two logins in place of one. The
// first time after a rotation it doesn't.
func (s *State) oldRole(now Now) plannedLogin {
	l := plannedLogin{purpose: AskOld, at: Never, crowd: Never}
	if v, at := s.nextOld(now); v != nil && s.byLogin(v) {
		l.v, l.at, l.crowd = v, at, at
		if s.asksOld > 0 {
			l.crowd = at.Add(roomPatience)
		}
	}
	return l
}

// askedOld notes that an old role has been asked after, or is being asked after by a login.
func (s *State) askedOld(v *version, now Now) {
	s.asksOld++
	gap := backoff(s.asksOld, oldMin, oldAll)
	s.askOldAt = now.Mono.Add(gap - s.chance(min(gap/4, s.hurry)))
	pause := min(max(now.Mono.Sub(v.superseded)/8, oldMin), oldMax)
	if pause > oldAll {
		pause -= s.chance(pause / 4)
	}
	v.askAt = now.Mono.Add(pause)
	v.askByLogin = false
}

// answeredOld takes in what came of a question on an idle connection that was to be one of
// v's. If it was another's, so would be that of the next caller: then v's role can wait, if
// it was known to live not long ago.
func (s *State) answeredOld(v *version, ev Asked, now Now) {
	recently := v.livedAt != 0 && now.Mono < v.livedAt.Add(s.cfg.AskAfter)
	if v.askByLogin = ev.Answer != Lives || !recently; !v.askByLogin {
		s.askedOld(v, now)
	}
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

// planAsk has a role asked after on a session that there is, if it is time: an old one, or
// the current one.
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
	if v, at := s.nextOld(now); v != nil && !s.byLogin(v) && !s.closed && !s.hardEnd(c).Past(now) {
		if now.Mono >= at {
			s.put(Ask{How: OnIdle, Version: v.id, Began: now.Mono})
			return Never
		}
		return min(at, s.planAskCurrent(c, now))
	}
	return s.planAskCurrent(c, now)
}

func (s *State) planAskCurrent(c *version, now Now) (wake Instant) {
	q := &s.ask
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
	l := plannedLogin{v: c, purpose: AskCurrent, at: Never}
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
	meant := q.pending.Version
	q.pending = Ask{}
	switch ev.Answer {
	case Lives:
		s.lives(ev.Ask.Version, now)
	case Refuses:
		s.queryRefused(ev.Ask.Version, now)
	case Unasked:
		q.useless = true
	case Unanswered:
	}
	if meant == s.Current() {
		q.stage++ // if the question still stands: see planAsk
	} else if v := s.findVersion(meant); v != nil {
		s.answeredOld(v, ev, now)
	}
}

// lives notes that the role of a version has answered a query.
func (s *State) lives(id VersionID, now Now) {
	if id == s.Current() {
		s.ask.answered = now.Mono
	}
	if v := s.findVersion(id); v != nil {
		v.livedAt = now.Mono
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
	asked := s.findVersion(id)
	if asked == nil || asked.queryLies {
		return
	}
	user, c := asked.user, s.current()
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
