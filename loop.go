// The loop: what happened goes to the rules, and what follows from it is set going.
// Whatever can take long has a goroutine of its own.

package sqlrotate

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// step tells the rules what has happened.
func (c *Connector) step(ev rotation.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stepLocked(ev)
}

// stepLocked tells the rules what has happened, sets going what follows from it, and
// has the loop look again if that is sooner than it would. It reports whether a
// CredentialRead was too old to count.
func (c *Connector) stepLocked(ev rotation.Event) (stale bool) {
	now := c.now()
	do := c.rules.Step(ev, now)
	c.beginLocked(do, now)
	if do.Marks || do.Wake < c.turn {
		c.turn = min(c.turn, do.Wake)
		poke(c.wake)
	}
	return do.Stale
}

// beginLocked sets going what follows from an event. Nothing here takes long.
func (c *Connector) beginLocked(do rotation.Effects, now rotation.Now) {
	for _, l := range do.Logins {
		c.tasks.start(ownLogin{c, l}.begin)
	}
	for _, a := range do.Asks {
		c.tasks.start(question{c, a}.put)
	}
	for _, id := range do.Close {
		if s := c.sessions[id]; s != nil {
			c.tasks.start(func() { c.discard(s) })
		}
	}
	for _, id := range do.Gone {
		c.forgetLocked(id)
	}
	for _, id := range do.Recall {
		c.recallLocked(id)
	}
	for _, n := range do.Tell {
		c.tellLocked(n, now)
	}
	for _, id := range do.Forget {
		c.deadlines.arm(id, rotation.End{})
		c.book.forget(id)
	}
	if do.Read != rotation.DontRead && !c.closed {
		c.readInBackgroundLocked(do.Read)
	}
	if do.Look {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	if do.Marks {
		c.markLocked()
	}
	if do.Ends {
		c.ends = c.rules.AppendEnds(c.ends[:0])
		for _, e := range c.ends {
			c.deadlines.arm(e.Version, e.End)
		}
	}
}

// loop runs until Close.
func (c *Connector) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for due := c.observed.now(); ; {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
			c.observed.fired(due)
		}
		if wait := c.look(); wait > 0 {
			due = c.observed.now().Add(wait)
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// look has the rules look again, and the pools do what they say. It returns how soon
// to look again, or 0 if only an event can change anything.
func (c *Connector) look() time.Duration {
	c.watchPools()
	c.mu.Lock()
	now := c.now()
	do := c.rules.Step(rotation.Tick{}, now)
	c.beginLocked(do, now)
	c.adviseLocked(now)
	lifetimes, turn := c.lifetimesLocked(now.Mono)
	turn = min(do.Wake, turn, c.retireLocked(now.Mono))
	c.turn = turn
	c.heeds.Store(do.Heed)
	if do.Heed && c.inUseLocked() { // before that was stored
		poke(c.wake)
	}
	c.mu.Unlock()
	for _, l := range lifetimes {
		l.set()
	}
	if turn == rotation.Never {
		return 0
	}
	return max(turn.Sub(now.Mono), 1)
}

// stirred has the loop look if that is how it learns that a pool is used again.
func (c *Connector) stirred() {
	if c.heeds.Load() && c.heeds.CompareAndSwap(true, false) {
		poke(c.wake)
	}
}

// inUseLocked reports whether a pool's connection has been used since the loop looked.
func (c *Connector) inUseLocked() bool {
	for _, s := range c.sessions {
		if s.pool != nil && s.used.Load() {
			return true
		}
	}
	return false
}
