// Reads: how often the source is read, and when what it said has settled.

package rotation

import "time"

const (
	// While callers wait for the source to change it is read this often, and less often
	// the longer they do.
	waitMin = 250 * time.Millisecond
	waitMax = 5 * time.Second

	// A source that doesn't tell of changes is read as often as Lag says, within these
	// bounds.
	watchMin = time.Second
	watchMax = 5 * time.Second

	// unsettledMax is the longest pause between reads of a source that gives another
	// login each time.
	unsettledMax = 10 * time.Second

	// unsettledAt is how many reads in a row must have done that.
	unsettledAt = 4
)

// readEvery returns how often the source is read in the background; 0: it isn't. A
// source that never repeats itself is read ever less often: each read is a rotation.
func (s *State) readEvery(now Now) time.Duration {
	c := s.current()
	every := time.Duration(0)
	switch {
	case c == nil:
	case s.waiting > 0 && (s.ep.on || c.loginEnd().Past(now)):
		since := c.loginEnd().Instant(now)
		if s.ep.on {
			since = s.ep.began
		}
		every = min(max(now.Mono.Sub(since)/32, waitMin), waitMax)
	case s.cfg.Kind != LoginTokens && (!s.cfg.Notified || s.readFailing != 0): // nobody tells that it can be read again
		every = s.watch()
	}
	if every > 0 && s.unsettled(now) {
		every = max(every, s.settle())
	}
	return every
}

// watch is how often a source that doesn't tell of changes is read.
func (s *State) watch() time.Duration {
	if s.cfg.Kind != Overlapping {
		return watchMax
	}
	return min(max(s.cfg.Lag, watchMin), watchMax)
}

// unsettled reports whether the source gives another login at each read: it has done so
// many times in a row, the last time not long ago. A burst of rotations passes.
func (s *State) unsettled(now Now) bool {
	return s.moved >= unsettledAt && now.Mono.Sub(s.movedAt) <= s.soon()
}

// soon is how long after a change another one is the next in a row.
func (s *State) soon() time.Duration {
	if s.cfg.Notified {
		return 2 * s.settle()
	}
	return 2 * max(s.settle(), s.watch())
}

// settle is the floor between reads of a source that never repeats itself, and between
// the connector's own logins over it, each of which reads it.
func (s *State) settle() time.Duration {
	return backoff(s.moved-unsettledAt+1, watchMin, unsettledMax)
}

// noteChange notes whether a read has found another login, soon after the last one
// that did.
func (s *State) noteChange(read VersionID, other bool, now Now) {
	if !other {
		s.moved = 0
		return
	}
	if s.movedAt != 0 && now.Mono.Sub(s.movedAt) > s.soon() {
		s.moved = 0
	}
	s.moved++
	s.movedAt = now.Mono
	if s.moved == unsettledAt {
		s.unsettledSince = now.Mono
		s.tell(Notice{Kind: Unsettled, Version: read})
	}
}

// readFailed is for a read that failed. What was read last stays in use.
func (s *State) readFailed(now Now) {
	s.readTried = now.Mono
	s.readFailures++
	if s.readFailing == 0 {
		s.readFailing = now.Mono
		s.tell(Notice{Kind: SourceFailed})
	}
}

// planReads says whether the source is to be read now, and when to look again.
func (s *State) planReads(now Now) (wake Instant) {
	every := s.readEvery(now)
	if every == 0 || s.closed {
		return Never
	}
	every = max(every, backoff(s.readFailures, waitMin, watchMax))
	if due := s.readTried.Add(every); now.Mono < due {
		return due
	}
	s.readTried = now.Mono // a read that hangs isn't asked for again and again
	if s.fx.Read == DontRead {
		s.fx.Read = ReadAgain
	}
	return now.Mono.Add(every)
}
