// Versions: the credentials that were read, their windows and what is known of each.

package rotation

import (
	"slices"
	"time"
)

const (
	// maxVersions bounds how many superseded versions without sessions are remembered,
	// should somebody rotate many times a second.
	maxVersions = 16

	// memory is for how long what a server has said no to is remembered: a version that
	// comes back within it, or an episode that begins within it, goes on where the last
	// one stood.
	memory = time.Minute
)

// version is one login that the source has given: a user and a password, or only a
// user where the password is a token.
type version struct {
	id         VersionID
	user       uint64
	read       Instant   // when it was first read
	notAfter   time.Time // as last read
	renewed    Instant   // when that was first read
	lease      End       // notAfter, by both clocks
	superseded Instant   // when its successor was read; zero: it is the latest
	overlap    End       // until when it outlives its successor
	proven     bool      // a login has succeeded, ever
	provenAt   Instant   // when the last one did; zero: that proof has lapsed
	refusedAt  Instant   // when its last login was refused; zero: its last answer was another one
	unclear    bool      // and that refusal may have had other reasons
	gone       bool      // it was refused for certain while it was the latest
	dead       bool      // its role won't come back
	queryLies  bool      // a query said that its role is dead, and a login that it lives
	warned     bool      // it has been said that it ends soon
	mourned    bool      // and that it has ended
	proveAt    Instant   // when the connector has it prove itself, if it hasn't
	askAt      Instant   // when it is next asked after, once it is superseded
	askByLogin bool      // because nobody has answered a query
	livedAt    Instant   // when its role was last known to live, since it was superseded; zero: never
	sessions   int       // on the ledger
	armed      End       // its hard end as last announced
	outdated   bool      // derived anew at each step
}

// current returns the latest version, or nil.
func (s *State) current() *version {
	if len(s.versions) == 0 {
		return nil
	}
	return s.versions[0]
}

// loginEnd is when v is no longer logged in with.
func (v *version) loginEnd() End { return v.overlap.earlier(v.lease) }

// expired reports whether v is over and there is reason to think that the source has
// nothing better. There is another token whenever one is asked for, or should be.
func (s *State) expired(v *version, now Now) bool {
	if s.cfg.Kind == LoginTokens && s.readFailing == 0 && v.lease.Mono > v.renewed {
		return false
	}
	return v.loginEnd().Past(now)
}

// hardEnd is when sessions of v must be gone. A token is needed at login only.
func (s *State) hardEnd(v *version) End {
	if s.cfg.Kind == LoginTokens {
		return v.overlap
	}
	return v.loginEnd()
}

// read takes in what a read of the source has found.
func (s *State) read(ev CredentialRead, now Now) {
	c := s.current()
	same := c != nil && c.id == ev.Version
	if c != nil && ev.Epoch != s.epoch && (!same || s.mayBeOlder(ev.NotAfter, c.notAfter)) {
		// It began before another read found the current version: it must not turn the
		// rotation, or a renewal, back.
		s.fx.Stale = true
		return
	}
	s.readAt, s.readTried = now.Mono, now.Mono
	if s.readFailing != 0 {
		s.readFailing, s.readFailures = 0, 0
		s.tell(Notice{Kind: SourceHealed, Version: ev.Version})
	}
	s.noteChange(ev.Version, !same && c != nil, now)
	if same {
		s.renew(c, ev.NotAfter, now)
		return
	}
	s.rotate(ev, now)
}

// mayBeOlder reports whether a credential's end may have been read before another end
// of the same: leases are renewed to end later. Zero, for none, may be either. Of
// tokens any will do.
func (s *State) mayBeOlder(end, other time.Time) bool {
	return s.cfg.Kind != LoginTokens && (end.Before(other) || other.IsZero() != end.IsZero())
}

// renew notes what the current version's end is now. An end that is read again keeps
// its monotonic hand: by that it comes, even if the wall clock is set back meanwhile.
func (s *State) renew(v *version, notAfter time.Time, now Now) {
	if v.notAfter.Equal(notAfter) {
		return
	}
	v.notAfter, v.renewed, v.lease = notAfter, now.Mono, endAt(notAfter, now)
	if s.alarm(v, now) > now.Mono {
		v.warned = false
	}
	v.mourned = v.mourned && v.lease.Past(now)
	if s.cfg.Kind != LoginTokens {
		s.epoch++
	}
	s.fx.Look = true
}

// rotate makes another version the current one: a new one, or one that comes back.
func (s *State) rotate(ev CredentialRead, now Now) {
	last := s.current()
	v := s.takeVersion(ev.Version)
	if v == nil {
		v = &version{id: ev.Version, user: ev.User, read: now.Mono}
	}
	v.superseded, v.overlap, v.dead, v.warned, v.mourned = 0, End{}, false, false, false
	v.notAfter, v.renewed, v.lease = ev.NotAfter, now.Mono, endAt(ev.NotAfter, now)
	s.versions = slices.Insert(s.versions, 0, v)
	if last != nil {
		last.superseded, last.askByLogin, last.livedAt = now.Mono, false, 0
		last.askAt = now.Mono.Add(s.chance(min(oldMin, s.hurry)))
		v.proveAt = now.Mono.Add(s.chance(s.hurry))
		if s.cfg.Kind == Overlapping {
			last.overlap = endAfter(s.cfg.Overlap-s.cfg.Lag, now)
		}
		if last.refusedAt != 0 && !last.unclear {
			s.refusedOld(last)
		}
		s.counts.Rotations++
	}
	s.epoch++
	s.fx.Look = true
	s.tell(Notice{Kind: Rotated, Version: v.id})
	s.freshVersion(v, now)
	for _, p := range s.pools {
		p.peak = len(p.members) + p.owed
	}
}

// takeVersion takes a version off the list, if it is on it.
func (s *State) takeVersion(id VersionID) *version {
	v := s.findVersion(id)
	s.versions = slices.DeleteFunc(s.versions, func(other *version) bool { return other == v })
	return v
}

// findVersion returns the version of that number, or nil.
func (s *State) findVersion(id VersionID) *version {
	i := slices.IndexFunc(s.versions, func(v *version) bool { return v.id == id })
	if i < 0 {
		return nil
	}
	return s.versions[i]
}

// dies notes that v's role is dead before its time: its sessions fail their queries,
// though not a ping.
func (s *State) dies(v *version) {
	if v.dead {
		return
	}
	v.dead, v.provenAt = true, 0
	s.fx.Look = true
	s.tell(Notice{Kind: RoleDead, Version: v.id})
}

// refusedOld notes that a superseded version was refused, before or after its successor
// came. If that has another user name the old role is dead. A token may be refused for
// its age, and a password because it was changed.
func (s *State) refusedOld(v *version) {
	if s.cfg.Kind != LoginTokens && v.user != s.current().user {
		s.dies(v)
	}
}

// usable reports whether a login with v may be made at all. One with a predecessor may
// if that has worked, isn't dead, and will outlive the whole checkout of the
// connection. In place the password before the last may still be the server's, until
// the last one has been accepted, unless the server has already gone on from it.
func (s *State) usable(v *version, now Now) bool {
	end := v.loginEnd()
	if end.Past(now) {
		return false
	}
	if v == s.current() {
		return true
	}
	if !v.proven || v.dead {
		return false
	}
	switch s.cfg.Kind {
	case InPlace:
		return !s.cfg.NoFallback && v == s.versions[1] && !s.current().proven && !v.gone
	case LoginTokens:
		return v.refusedAt == 0 // there won't be another token for it
	default:
		return s.lasts(end, now)
	}
}

// lasts reports whether there is time for a whole checkout before the end.
func (s *State) lasts(end End, now Now) bool {
	return end.Instant(now).Sub(now.Mono) > s.cfg.MaxInUse
}

// succeeds reports whether the i-th version has proven itself, and is neither over nor
// refused: then what is older is outdated.
func (s *State) succeeds(i int, now Now) bool {
	refused := i == 0 && s.ep.on
	return !refused && s.hasWorked(s.versions[i], now)
}

// hasWorked reports whether v has proven itself and is not over, whatever the server says
// of it now.
func (s *State) hasWorked(v *version, now Now) bool {
	return v.proven && !v.dead && !s.hardEnd(v).Past(now)
}

// outdated reports whether a newer version than v succeeds.
func (s *State) outdated(v *version, now Now) bool {
	for i := 0; s.versions[i] != v; i++ {
		if s.succeeds(i, now) {
			return true
		}
	}
	return false
}

// followed reports whether a newer version than v has worked. A refusal of that version,
// which may be one by chance, keeps what is older in use for as long as it lasts for a
// whole checkout, and no longer: what is lent out after that is cut off.
func (s *State) followed(v *version, now Now) bool {
	for i := 0; s.versions[i] != v; i++ {
		if s.hasWorked(s.versions[i], now) {
			return true
		}
	}
	return false
}

// forget drops superseded versions that have no sessions and that nobody can fall back
// to.
func (s *State) forget(now Now) {
	idle := 0
	s.versions = slices.DeleteFunc(s.versions, func(v *version) bool {
		if v.superseded == 0 || v.sessions > 0 {
			return false
		}
		idle++
		end := v.loginEnd()
		kept := !end.IsZero() && !end.Past(now) ||
			s.cfg.Kind != Overlapping && s.usable(v, now) ||
			v.refusedAt != 0 && now.Mono.Sub(v.refusedAt) < memory
		if kept && idle <= maxVersions {
			return false
		}
		if !v.armed.IsZero() {
			s.fx.Ends = true
		}
		s.fx.Forget = append(s.fx.Forget, v.id)
		return true
	})
}

// Usable reports whether a login with the version may be made at all now.
func (s *State) Usable(id VersionID, now Now) bool {
	v := s.findVersion(id)
	return v != nil && s.usable(v, now)
}
