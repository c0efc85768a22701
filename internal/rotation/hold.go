// Held sessions: they are left out of the drain, and recalled in time.

package rotation

// hold leaves a session out of the drain, or no longer.
func (s *State) hold(id SessionID, held bool) {
	if x := s.find(id, Pooled, Due, Going); x != nil {
		x.held, x.recalled = held, false
	}
}

// planHolds recalls held sessions, once each, and returns when the next is due.
func (s *State) planHolds(now Now) (wake Instant) {
	wake = Never
	for _, p := range s.pools {
		for _, x := range p.members {
			if !x.held || x.recalled {
				continue
			}
			if at := s.recallAt(x.v, now); now.Mono < at {
				wake = min(wake, at)
				continue
			}
			x.recalled = true
			s.fx.Recall = append(s.fx.Recall, x.id)
			if !s.closed {
				s.tell(Notice{Kind: Recalled, Session: x.id, Version: x.v.id, Pool: p.id})
			}
		}
	}
	return wake
}

// Recalls reports whether held sessions of a version are to go, or were to if there were
// any.
func (s *State) Recalls(id VersionID, now Now) bool {
	for _, v := range s.versions {
		if v.id == id {
			return now.Mono >= s.recallAt(v, now)
		}
	}
	return true
}

// recallAt returns when held sessions of v are to go: as soon as its successor has proven
// itself or its role is dead, and else early enough before its end to be back by then.
func (s *State) recallAt(v *version, now Now) Instant {
	if s.closed || v.outdated || v.dead {
		return 0
	}
	end := s.hardEnd(v).Instant(now)
	if end == Never {
		return Never
	}
	return end.Add(-s.cfg.MaxInUse)
}
