// Ends: hard ends are announced, warned of before, and told of when a session outlives one.

package rotation

import "time"

// wallEvery is how often ends are held against the wall clock: timers stand still while
// a machine is suspended.
const wallEvery = time.Second

// planEnds announces hard ends that have moved, tells of what is past them or soon will
// be, and drops versions that are of no use any more.
func (s *State) planEnds(now Now) (wake Instant) {
	wake = Never
	s.forget(now)
	for _, v := range s.versions {
		end := s.hardEnd(v)
		if end != v.armed {
			v.armed = end
			s.fx.Ends = true
		}
		switch at := end.Instant(now); {
		case at == Never:
		case now.Mono >= at:
			s.outlived(v)
		case v.sessions > 0:
			wake = min(wake, at, now.Mono.Add(wallEvery))
		}
	}
	if c := s.current(); c != nil {
		wake = min(wake, s.warn(c, now))
	}
	return wake
}

// warn tells, once each, that the current version ends soon and that it has ended, and
// returns when there may be something to tell.
func (s *State) warn(c *version, now Now) (wake Instant) {
	at := s.alarm(c, now)
	switch {
	case at == Never:
		return Never
	case now.Mono < at:
		return at
	case c.loginEnd().Past(now):
		if !c.mourned {
			c.warned, c.mourned = true, true
			s.tell(Notice{Kind: HasEnded, Version: c.id})
		}
		return Never
	case !c.warned:
		c.warned = true
		s.tell(Notice{Kind: EndsSoon, Version: c.id})
	}
	return c.loginEnd().Instant(now)
}

// outlived tells, once, of each session that a pool has and whose credential has ended.
func (s *State) outlived(v *version) {
	for _, p := range s.pools {
		for _, x := range p.members {
			if x.v == v && !x.past {
				x.past = true
				s.counts.Outlived++
				s.tell(Notice{Kind: SessionPastIt, Session: x.id, Version: v.id, Pool: p.id})
			}
		}
	}
}

// alarm returns when to start warning that v has no successor: in the last quarter of
// its lease, or MaxInUse before its end, whichever is earlier; Never for tokens, for
// which there is another one whenever it is asked for.
func (s *State) alarm(v *version, now Now) Instant {
	end := v.loginEnd().Instant(now)
	if end == Never || s.cfg.Kind == LoginTokens {
		return Never
	}
	return max(1, end.Add(-max(s.cfg.MaxInUse, end.Sub(v.renewed)/4)))
}

// AppendEnds appends the versions that are remembered and when they end: the hard end,
// at which what is left of them is cut off, logins under way included. It is zero for
// those that have none.
func (s *State) AppendEnds(to []VersionEnd) []VersionEnd {
	for _, v := range s.versions {
		to = append(to, VersionEnd{v.id, s.hardEnd(v)})
	}
	return to
}

// VersionEnd is when a version's sessions are cut off.
type VersionEnd struct {
	Version VersionID
	End     End
}
