// Standbys: sessions that are logged in before the pool asks for them, one ahead of
// each connection that is retired, and one for each that was and is not yet missed.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"math"
	"net"
	"slices"
	"time"
)

const (
	// maxStandbyTTL is how long a standby that nobody takes is kept at the most,
	// after a drain.
	maxStandbyTTL = time.Minute

	// standbyTrust is how long a standby on which nothing has come is handed out without
	// asking whether the server is still there.
	standbyTrust = time.Second

	// pingTimeout bounds that question. A server that takes longer may be gone
	// without a word, and a login finds another one, or says why not.
	pingTimeout = time.Second

	// checkPause is the time a standby that makes room for a login gets to leave.
	checkPause = 50 * time.Millisecond
)

// poolLimit returns how many connections the managed pools may have in all.
func (c *Connector) poolLimit() int {
	c.mu.Lock()
	dbs := c.dbs
	c.mu.Unlock()
	limit := 0
	for _, db := range dbs {
		n := db.Stats().MaxOpenConnections
		if n <= 0 {
			return math.MaxInt
		}
		limit += n
	}
	return limit
}

// wantStandbyLocked returns when the next standby is to log in: one to replace the
// next connection that goes, if that is wanted; and, at the pace of the drain, one
// in place of each that has gone and that the pool has not replaced, because it was
// idle. Without those a pool would come out of a drain all but empty, and its next
// burst would have to log in. The zero time means never.
func (c *Connector) wantStandbyLocked(wanted bool, now time.Time) time.Time {
	n := len(c.standbys)
	switch {
	case n == 0 && (wanted || c.keeper.refill):
		return now
	case n == 0 || n >= min(c.keeper.owed, c.keeper.room):
		return time.Time{}
	}
	gap := min(maxGap, c.drainTime/time.Duration(c.keeper.owed))
	return c.standbys[n-1].ready.Add(gap)
}

// standbyTTL returns how long a standby that nobody takes is kept after a drain:
// little of the lifetime that it has once it is taken.
func (c *Connector) standbyTTL() time.Duration {
	if c.maxLifetime == 0 {
		return maxStandbyTTL
	}
	return min(maxStandbyTTL, c.maxLifetime/10)
}

// expireStandbysLocked takes away standbys that are outdated, that nobody takes, or
// that there is no room for: there is never more than one session above the pool's
// peak, nor above limit, the most connections that it may have.
func (c *Connector) expireStandbysLocked(limit int, now time.Time) (wake time.Time, stale []*session) {
	k, pool := &c.keeper, len(c.pool)
	k.owed = min(k.owed, max(0, limit-pool)) // a pool that has shrunk takes no more
	k.peak = max(min(k.peak, limit), pool+k.owed)
	others := len(c.sessions) - pool - len(c.standbys) // about to be in the pool, or to go
	room := k.peak + 1 - pool - others
	k.room = room
	switch old, full := c.suspectLocked(now), len(c.standbys) >= max(1, room) && !k.login; {
	case full && c.unprovenLocked(now) && c.versions[0].gate.wait(now) <= 0 && !now.Before(k.retryAt):
		room-- // for the login that proves a new credential
		k.retryAt = now.Add(checkPause)
	case full && old != nil && old.gate.wait(now) <= 0 && !now.Before(k.checkAt) && c.waiting == 0:
		room-- // for the login that asks after an old role
		k.checkAt = now.Add(checkPause)
	case !k.login: // or else it is that login which is the one too many
		room = max(1, room)
	}
	busy := !k.drain.from.IsZero() || k.held
	kept := c.standbys[:0]
	for _, s := range c.standbys {
		expires := s.ready.Add(c.standbyTTL())
		late := !busy && !now.Before(expires)
		if len(kept) >= room || late || c.outdatedLocked(s.version, now) || s.version.ended(now) {
			stale = append(stale, s)
			if late {
				k.refill, k.owed = false, 0 // the pool doesn't need them
			}
			continue
		}
		kept = append(kept, s)
		if !busy {
			wake = earliest(wake, expires)
		}
	}
	clear(c.standbys[len(kept):])
	c.standbys = kept
	return wake, stale
}

// keepStandbyLocked makes a standby of a session that has logged in, if there is room.
func (c *Connector) keepStandbyLocked(s *session) {
	if !c.closed && (len(c.standbys) == 0 || len(c.pool)+len(c.standbys) <= c.keeper.peak) {
		s.standby = true
		c.standbys = append(c.standbys, s)
	}
}

// takeStandby returns a standby that is fit for use, or nil: then the one that it
// found unfit is closed, because a login takes its place.
func (c *Connector) takeStandby(ctx context.Context) *session {
	now := time.Now()
	c.mu.Lock()
	n := len(c.standbys)
	if n == 0 {
		c.mu.Unlock()
		return nil
	}
	s := c.standbys[n-1] // the youngest: it has been idle for the shortest time
	c.standbys = c.standbys[:n-1]
	unfit := c.outdatedLocked(s.version, now) || s.version.ended(now)
	c.mu.Unlock()
	c.poke()
	if unfit {
		c.discard(s)
		return nil
	}
	switch found := s.peek(); {
	case found == peekOver:
		c.discard(s)
		return nil
	case found == peekQuiet && now.Sub(s.ready) < standbyTrust:
		return s
	}
	return c.askStandby(ctx, s)
}

// askStandby returns s if the server answers on it within pingTimeout. If ctx is done
// first, that is no fault of the standby, which is kept.
func (c *Connector) askStandby(ctx context.Context, s *session) *session {
	asked, err := call(ctx, &c.pings, func(context.Context) (*session, error) {
		fit := false
		defer func() { // it may panic
			if !fit {
				c.discard(s)
			}
		}()
		if fit = s.alive(c.ctx); !fit { //nolint:contextcheck // the caller may give up
			return nil, net.ErrClosed
		}
		return s, nil
	}, c.returnStandby)
	var hung *hungError
	switch {
	case errors.As(err, &hung): // it was not asked
		c.discard(s)
		return nil
	case err != nil:
		return nil
	}
	return asked
}

// returnStandby makes a standby again of a session that was taken and not handed out.
func (c *Connector) returnStandby(s *session) {
	c.mu.Lock()
	_, open := c.sessions[s]
	kept := open && !c.closed
	if kept {
		c.standbys = append(c.standbys, s)
		slices.SortFunc(c.standbys, func(a, b *session) int { return a.ready.Compare(b.ready) })
	}
	c.mu.Unlock()
	c.poke()
	if !kept {
		c.discard(s)
	}
}

// alive reports whether the server answers on the session within pingTimeout.
func (s *session) alive(ctx context.Context) bool {
	pinger, ok := s.conn.(driver.Pinger)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, s.abort)
	err := pinger.Ping(ctx)
	return stop() && err == nil
}
