// Pools, and the one rule for how many sessions there may be: their peak, and one more.

package rotation

import "math"

// pool is what the core knows of a pool, or of several that are managed as one.
type pool struct {
	id       PoolID
	managed  bool // its connections can be retired
	byAge    bool // but only the oldest first
	closed   bool // it wants no more than it has
	limit    int  // the most that it may have
	members  []*session
	count    int // that it has, or that its callers are about to have: see count
	peak     int // the most of these since the last rotation
	owed     int // that have gone and that it has not replaced
	refill   bool
	used     Instant // when it was last known to be in use
	everUsed bool    // it has had a session
	drain    drain
}

// number returns p's number; zero if there is no pool.
func (p *pool) number() PoolID {
	if p == nil {
		return 0
	}
	return p.id
}

// findPool returns the pool of that number, or nil.
func (s *State) findPool(id PoolID) *pool {
	for _, p := range s.pools {
		if p.id == id {
			return p
		}
	}
	return nil
}

// pool returns the pool of that number. Callers may come from one that nobody manages.
func (s *State) pool(id PoolID) *pool {
	if p := s.findPool(id); p != nil {
		return p
	}
	p := &pool{id: id, limit: math.MaxInt, closed: id == Outside}
	s.pools = append(s.pools, p)
	return p
}

// poolAdded is for a pool whose connections are to be retired.
func (s *State) poolAdded(ev PoolAdded) {
	p := s.pool(ev.Pool)
	p.managed, p.closed, p.byAge = true, false, ev.ByAge
	p.setLimit(ev.Limit)
}

func (p *pool) setLimit(n int) {
	if n <= 0 {
		n = math.MaxInt
	}
	p.limit = n
}

// poolClosed is for a pool that wants no more sessions.
func (s *State) poolClosed(id PoolID, now Now) {
	p := s.pool(id)
	for _, x := range p.members {
		if x.state != Pooled {
			s.move(x, Pooled, NotRetired, now)
		}
	}
	p.managed, p.closed, p.refill, p.drain = false, true, false, drain{}
}

// countPools counts what each pool has or is about to have, and notes its peak. The
// peak comes from the pool alone.
func (s *State) countPools() {
	for _, p := range s.pools {
		p.count = len(p.members)
	}
	for _, x := range s.loose {
		if x.state == Promised || x.state == LoggingIn && !x.own() {
			x.pool.count++
		}
	}
	for _, p := range s.pools {
		p.peak = min(p.limit, max(p.peak, p.count))
		if p.closed {
			p.peak = p.count // until that is gone
		}
		p.owed = max(0, min(p.owed, p.peak-p.count)) // a pool that has shrunk takes no more
	}
}

// room is the one rule for how many sessions there may be, in two clauses: no more than
// the pools' peak and one, and none of the connector's own unready before another
// begins. (The pools may claim their peak at any moment, and take only what is ready: of
// what isn't, there may be one.)
func (s *State) room() (free int, ready bool) {
	peak := 1
	ready = true
	for _, p := range s.pools {
		peak += p.peak
	}
	for _, x := range s.loose {
		if x.state == Closing || x.state == Asking || x.state == LoggingIn && x.own() {
			ready = false
		}
	}
	return peak - len(s.byID), ready
}

// crowded reports whether a caller's login must wait for a session that is just being
// closed to make room for it, and until when.
func (s *State) crowded(p *pool, now Now) (until Instant, crowded bool) {
	free, ready := s.room()
	if p.count >= p.peak {
		free++ // the pool grows, and its peak with it
	}
	if free > 0 || ready {
		return 0, false
	}
	for _, x := range s.loose {
		if end := x.since.Add(closePatience); x.state == Closing && now.Mono < end {
			return end, true
		}
	}
	return 0, false
}
