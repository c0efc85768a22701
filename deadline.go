// The hard end by itself: timers that know when a credential ends and depend on nothing
// but the runtime.

package sqlrotate

import (
	"sync"
	"time"
)

// wallClock is how often an end is held against the wall clock: timers stand still while
// a machine is suspended.
const wallClock = time.Second

// deadlines tells when the end of a version has come, by the monotonic clock or by the
// wall clock. Each version has a timer of its own, and over is called in that timer's
// goroutine, so that none waits for another. All methods are safe for concurrent use.
type deadlines struct {
	over func(version uint64, now time.Time)
	now  func() time.Time // time.Now, but in tests

	mu      sync.Mutex // guards what follows; over is not called under it
	armed   map[uint64]*deadline
	stopped bool
}

type deadline struct {
	end   time.Time
	timer *time.Timer
}

func newDeadlines(over func(version uint64, now time.Time)) *deadlines {
	return &deadlines{over: over, now: time.Now, armed: map[uint64]*deadline{}}
}

// arm sets the end of a version, in place of the one that it had: over is called once,
// when that has come. The zero time means that there is none.
func (d *deadlines) arm(version uint64, end time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.armed[version]; old != nil {
		old.timer.Stop()
		delete(d.armed, version)
	}
	if end.IsZero() || d.stopped {
		return
	}
	n := &deadline{end: end}
	d.armed[version] = n
	n.timer = time.AfterFunc(n.pause(d.now()), func() { d.look(version, n) })
}

// stop disarms everything for good.
func (d *deadlines) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, n := range d.armed {
		n.timer.Stop()
	}
	clear(d.armed)
}

// look calls over if the end has come, and else looks again.
func (d *deadlines) look(version uint64, n *deadline) {
	now := d.now()
	d.mu.Lock()
	if d.armed[version] != n {
		d.mu.Unlock()
		return // armed anew while the timer fired
	}
	if !past(n.end, now) {
		n.timer.Reset(n.pause(now))
		d.mu.Unlock()
		return
	}
	delete(d.armed, version)
	d.mu.Unlock()
	d.over(version, now)
}

// pause returns how long to wait before the end is looked at.
func (n *deadline) pause(now time.Time) time.Duration { return min(n.end.Sub(now), wallClock) }

// armLocked has what is open with v closed when v ends. It is called whenever that may
// have changed.
func (c *Connector) armLocked(v *version) {
	var end time.Time
	if v.open > 0 || v.gate.inflight > 0 {
		end = v.deadline()
	}
	c.deadlines.arm(v.number, end)
}

// expire cuts off what is open with a version that has ended: each session in a
// goroutine of its own, because closing one may take as long as it likes.
func (c *Connector) expire(number uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for s := range c.sessions {
		if s.version.number != number || s.severed || !s.version.ended(now) {
			continue
		}
		s.severed = true
		reason := &OutlivedError{Username: s.version.cred.Username, Version: s.version.label(), Ended: s.version.deadline()}
		if s.born.IsZero() {
			c.wg.Go(func() { s.expire(reason); s.abort() }) // a login under way, or a standby: nobody has it
			continue
		}
		c.counts.overran++
		info, age := c.infoLocked(s.version), now.Sub(s.born)
		c.wg.Go(func() { c.cut(s, reason, info, age) })
	}
	c.poke()
}

// cut closes a session that outlives its credential, and tells of it; with
// Config.NoSever it only tells.
func (c *Connector) cut(s *session, reason *OutlivedError, info VersionStats, age time.Duration) {
	msg := "sqlrotate: a connection outlives its credential"
	if !c.cfg.NoSever {
		s.expire(reason)
		s.abort()
		msg = "sqlrotate: closing a connection that outlives its credential"
	}
	c.log.Warn(msg, "version", s.version.label(), "age", age)
	c.trace.overran(info, age)
}
