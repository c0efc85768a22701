// The drain: when which old session is to go, and what makes it hurry.

package rotation

import (
	"slices"
	"time"
)

const (
	// agingGap is the longest pause between two retirements of connections whose time is
	// nearly over without a rotation.
	agingGap = time.Second

	// spareLead is how long before a retirement the login for its replacement begins.
	spareLead = time.Second

	// exposure is how long it takes a pool, at the most, to let one go that is idle. Who
	// is told to go and still there after that is in use.
	exposure = 5 * time.Millisecond
)

// need is how much a session in a pool needs to go.
type need uint8

const (
	stay     need = iota
	aging         // some time soon, because of its age
	leaving       // over the time of the drain, because a successor has proven itself
	leaveNow      // at once: its queries fail, or its time is over
)

// drain is how the retirement of a pool's sessions stands. Those that are to go are told
// so one after the other (they are Due), the oldest first. They are let go (they are
// Going) while it is somebody's turn: until one of them has gone, whichever that is, and
// then not before a spare is ready to take the place of the next.
type drain struct {
	began  Instant   // zero: there is none
	heir   VersionID // the version that takes the place of those that go
	to     Instant   // when all should have been told; zero: it is interrupted
	size   int       // how many were to go when it began
	gone   int       // how many have
	told   Instant   // when the last one was told, or is taken to have been
	hidden bool      // it hasn't been anybody's turn since
	said   bool      // that it has begun
	open   bool      // it is somebody's turn
	opened Instant   // since when it is, or was last
	closed Instant   // when it last ceased to be
	line   Instant   // birth of the youngest whose turn it is, or was last

	// Derived anew at each step.
	leaving int     // sessions that need to leave over the time of the drain, told or not
	untold  int     // of these, not told
	due     int     // sessions that have been told, whatever the reason
	old     bool    // there are sessions of superseded versions
	lazy    Instant // when the next must be told so that all go in time, one after the other
	gap     time.Duration
}

// slot is when the next session should be told so that all are by the end of the drain,
// at an even pace.
func (d *drain) slot() Instant {
	return d.told.Add(max(0, d.to.Sub(d.told)) / time.Duration(d.untold+1))
}

// exposed reports whether those who have been told and are still there must be in use.
func (d *drain) exposed(now Now) bool {
	return d.due == 0 || !d.hidden || d.open && now.Mono >= max(d.told, d.opened).Add(exposure)
}

// overdue reports whether the drain should be over and what is left is in use: it then
// goes as it comes back. Whoever needs one in its place logs in, as they all would
// without a drain; there is no herd, because each had to come back first.
func (d *drain) overdue(now Now) bool {
	return d.leaving > 0 && d.to != 0 && now.Mono >= d.to && d.exposed(now)
}

// late reports whether time is running out: sessions then go without a spare.
func (d *drain) late(now Now) bool { return now.Mono >= d.lazy.Add(d.gap) }

// planDrain decides who is to go from each pool and whose turn it is.
func (s *State) planDrain(now Now) (wake Instant) {
	wake = Never
	var heir VersionID
	for i, v := range slices.Backward(s.versions) {
		v.outdated = s.outdated(v, now)
		if s.succeeds(i, now) {
			heir = v.id
		}
	}
	s.spareWanted = false
	spares := s.readySpares(now)
	for _, p := range s.pools {
		if !p.managed || s.closed {
			continue
		}
		if s.planPool(p, heir, spares > 0, now) {
			spares--
		}
		s.spareWanted = s.spareWanted || p.wantsSpare(now)
		wake = min(wake, s.drainWake(p, now))
	}
	return wake
}

// planPool decides for one pool. It reports whether it takes up the spare that is ready:
// not if who is awaited is in use, because another pool may be quicker.
func (s *State) planPool(p *pool, heir VersionID, spare bool, now Now) (taken bool) {
	s.assess(p, now)
	s.pace(p, heir, now)
	s.tellNext(p, now)
	s.announce(p)
	d := &p.drain
	awaited := d.open && d.exposed(now)
	turn := d.due > 0 && (spare || d.late(now) || d.overdue(now) && s.failures == 0)
	s.setTurn(p, turn, now)
	return turn && !awaited
}

// wantsSpare reports whether a session is about to go.
func (p *pool) wantsSpare(now Now) bool {
	d := &p.drain
	return d.due > 0 || d.leaving > 0 || now.Mono >= d.lazy.Add(-spareLead)
}

// readySpares counts the spares that can take the place of the next ones that go: those
// that have gone and are not replaced come first.
func (s *State) readySpares(now Now) int {
	n := 0
	for _, x := range s.loose {
		if x.state == Spare && s.fit(x, now) {
			n++
		}
	}
	for _, p := range s.pools {
		n -= p.owed
	}
	return n
}

// assess derives for each session of a pool whether it needs to go, why, and by when.
func (s *State) assess(p *pool, now Now) {
	// Nobody is told for its age before this: see survey.
	horizon := now.Mono.Add(time.Duration(len(p.members)) * s.gap(p))
	strongest := stay // of those that are younger
	for _, x := range slices.Backward(p.members) {
		x.by, x.why = s.mustGoBy(x, p, now)
		switch {
		case x.held:
			x.need, x.why, x.by = stay, NotRetired, Never
		case x.v.outdated && x.v.dead:
			x.need, x.why = leaveNow, Revoked
		case now.Mono >= x.by:
			x.need = leaveNow
		case x.v.outdated:
			x.need, x.why = leaving, Superseded
		case x.by <= horizon && !x.last:
			x.need = aging
		default:
			x.need = stay
		}
		if p.byAge && !x.held && x.need < strongest { // it goes with them
			if x.need == stay {
				x.why = Neighbour
			}
			x.need = strongest
		}
		strongest = max(strongest, x.need)
	}
}

// mustGoBy returns when a session must have been told to go, and why: at the end of its
// lifetime, or early enough before the end of its credential to come back first. The
// last sessions of a credential without a successor are those that were born when others
// went for its sake: they stay until the end, because nothing better can take their
// place.
func (s *State) mustGoBy(x *session, p *pool, now Now) (by Instant, why Reason) {
	by, why, x.last = Never, Aged, false
	if s.lifetime > 0 {
		by = x.born.Add(s.lifetime)
	}
	end := s.hardEnd(x.v).Instant(now)
	if end == Never || x.v.superseded != 0 && !s.followed(x.v, now) {
		return by, why
	}
	ending := end.Add(-s.cfg.MaxInUse)
	if x.v.superseded == 0 {
		from := ending.Add(-min(s.spread(), time.Duration(len(p.members)+1)*agingGap))
		if x.born >= from {
			ending, x.last = end, end < by
		}
	}
	if ending < by {
		by, why = ending, Ending
	}
	return by, why
}

// spread is over how much time retirements without a rotation may be spread.
func (s *State) spread() time.Duration {
	if s.lifetime > 0 {
		return s.lifetime / 5
	}
	return s.cfg.DrainTime
}

// gap is the pause between two retirements without a rotation.
func (s *State) gap(p *pool) time.Duration {
	return min(agingGap, s.spread()/time.Duration(max(1, len(p.members))))
}

// pace derives how the drain of a pool stands, and begins or ends it.
func (s *State) pace(p *pool, heir VersionID, now Now) {
	d := &p.drain
	s.survey(p)
	switch {
	case d.leaving > 0 && d.began == 0:
		s.beginDrain(p, heir, now)
	case d.leaving > 0 && (d.to == 0 || d.heir != heir): // it goes on, or there is more to do
		d.heir, d.to = heir, s.drainEnd(now)
	case d.leaving == 0 && d.began != 0:
		d.to = 0
		if d.due == 0 && !d.old {
			s.endDrain(p, now)
		}
	}
}

// survey counts what assess has found. The next one must be told early enough for it and
// all after it to go in time, a gap apart: so those that were born in one burst go one by
// one, the last just in time.
func (s *State) survey(p *pool) {
	d := &p.drain
	d.leaving, d.untold, d.due, d.old, d.lazy = 0, 0, 0, false, Never
	d.gap = s.gap(p)
	k := 0
	for _, x := range p.members {
		d.old = d.old || x.v.superseded != 0 && !x.held
		told := x.need == leaveNow || x.need != stay && x.state != Pooled
		if x.need == leaving {
			d.leaving++
		}
		switch {
		case told:
			d.due++
			continue
		case x.need == leaving:
			d.untold++
		}
		if x.by != Never && !x.last {
			k++
			d.lazy = min(d.lazy, x.by.Add(-time.Duration(k)*d.gap))
		}
	}
}

// drainEnd is when all should have been told. A tenth of the time is kept for those that
// are in use then; and what the credential was given to prove itself is part of it.
func (s *State) drainEnd(now Now) Instant {
	return now.Mono.Add(s.cfg.DrainTime - s.cfg.DrainTime/10 - min(s.hurry, now.Mono.Sub(s.rotatedAt)))
}

// beginDrain begins with a pause by chance, within the time that the drain has, so that
// processes which are told of a rotation together don't all log in at once.
func (s *State) beginDrain(p *pool, heir VersionID, now Now) {
	d := &p.drain
	d.began, d.heir, d.size, d.gone = now.Mono, heir, d.leaving+d.due, 0
	d.told, d.to = now.Mono.Add(s.chance(s.cfg.DrainTime/4)), s.drainEnd(now)
	d.said = false
	p.refill = true
}

// announce says that a drain has begun once a session has been told: many a rotation is
// taken back before that.
func (s *State) announce(p *pool) {
	if d := &p.drain; d.began != 0 && d.due > 0 && !d.said {
		d.said = true
		s.tell(Notice{Kind: DrainBegan, Pool: p.id, Version: d.heir, N: d.size})
	}
}

func (s *State) endDrain(p *pool, now Now) {
	d := &p.drain
	took := now.Mono.Sub(d.began)
	d.began, d.to = 0, 0
	if !d.said {
		return
	}
	s.counts.Drains++
	s.counts.LastDrain, s.counts.LastDrained = took, d.gone
	s.tell(Notice{Kind: DrainDone, Pool: p.id, Version: d.heir, N: d.gone, Took: took})
}

// next is when another session is to be told, as things stand. Nobody is, for a
// rotation's sake, while another one that was told might still be idle: a pool would let
// both go at once.
func (d *drain) next(now Now) Instant {
	switch {
	case d.untold == 0:
		return d.lazy
	case d.exposed(now):
		return min(d.lazy, d.slot())
	case d.open:
		return min(d.lazy, max(d.slot(), d.told.Add(exposure), d.opened.Add(exposure)))
	default:
		return d.lazy // and when it is somebody's turn again
	}
}

// tellNext tells sessions that they are to go, as far as it is time.
func (s *State) tellNext(p *pool, now Now) {
	d := &p.drain
	for x := p.oldest(); x != nil && now.Mono >= d.next(now); x = p.oldest() {
		s.move(x, Due, x.why, now)
		d.told, d.hidden = now.Mono, true
		s.survey(p)
	}
}

// oldest returns the oldest session that is to go and hasn't been told, or nil.
func (p *pool) oldest() *session {
	for _, x := range p.members {
		if x.state == Pooled && (x.need == aging || x.need == leaving) {
			return x
		}
	}
	return nil
}

// setTurn lets those go whose turn it is, and those that can't wait for one. What
// sessions were told is taken back with its reason: a version has come back, a lease was
// renewed, a successor is refused.
func (s *State) setTurn(p *pool, turn bool, now Now) {
	d := &p.drain
	switch {
	case turn && !d.open:
		d.open, d.opened = true, now.Mono
	case !turn:
		d.shut(now)
	}
	for _, x := range p.members {
		to := x.state
		switch {
		case x.need == stay:
			to = Pooled
		case x.need == leaveNow || x.state != Pooled && turn:
			to = Going
		case x.state != Pooled:
			to = Due
		}
		if to == Going {
			d.line = x.born // they are in the order of their births
		}
		if to != x.state {
			s.move(x, to, x.why, now)
		} else if to != Pooled {
			x.reason = x.why
		}
	}
}

// drainWake is when there may be something else to decide for a pool.
func (s *State) drainWake(p *pool, now Now) (wake Instant) {
	d := &p.drain
	wake = Never
	later := func(at Instant) {
		if at > now.Mono {
			wake = min(wake, at)
		}
	}
	later(d.next(now))
	later(d.lazy.Add(-spareLead))
	later(d.lazy.Add(d.gap))
	later(d.to)
	if d.open && len(s.pools) > 1 {
		later(max(d.told, d.opened).Add(exposure))
	}
	for _, x := range p.members {
		if x.need != leaveNow {
			later(x.by)
		}
	}
	return wake
}

// shut ends a turn.
func (d *drain) shut(now Now) {
	if d.open {
		d.open, d.hidden, d.closed = false, false, now.Mono
	}
}

// left notes that a session has left its pool: it is no longer anybody's turn. What was
// retired and isn't replaced is owed: a pool replaces a connection when somebody needs
// one, so a mostly idle one would come out of a drain all but empty.
func (s *State) left(x *session, why Reason, now Now) {
	p := x.pool
	d := &p.drain
	d.shut(now)
	if why == NotRetired || why == Expired {
		return
	}
	if d.began != 0 && x.v.superseded != 0 {
		d.gone++
	}
	if p.managed {
		p.owed++
		p.refill = true
	}
}

// drift is how far a lifetime line moves while it is held, about: neighbours of those
// who are to go may go in their place.
const drift = 10 * time.Millisecond

// isNeighbour reports whether x, which has gone without being told, has most likely gone
// in the place of one that was, or together with it.
func (p *pool) isNeighbour(x *session, now Now) bool {
	d := &p.drain
	return p.byAge && d.line != 0 && x.born <= d.line.Add(drift) && (d.open || now.Mono < d.closed.Add(drift))
}
