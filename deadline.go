// The hard end by itself: timers that know when a credential ends and depend on nothing
// but the runtime.

package sqlrotate

import (
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// wallClock is how often an end is held against the wall clock: timers stand still while
// a machine is suspended.
const wallClock = time.Second

// deadlines tells when the end of a version has come, by the monotonic clock or by the
// wall clock. Each version has a timer of its own, and over is called in that timer's
// goroutine, so that none waits for another. All methods are safe for concurrent use.
type deadlines struct {
	over  func(rotation.VersionID)
	now   func() rotation.Now
	fired func(due rotation.Instant) // called when a timer has

	mu      sync.Mutex // guards what follows; over is not called under it
	armed   map[rotation.VersionID]*deadline
	stopped bool
}

type deadline struct {
	end   rotation.End
	timer *time.Timer
	due   rotation.Instant // when that fires
}

func newDeadlines(over func(rotation.VersionID), now func() rotation.Now, fired func(due rotation.Instant)) *deadlines {
	return &deadlines{over: over, now: now, fired: fired, armed: map[rotation.VersionID]*deadline{}}
}

// arm sets the end of a version, in place of the one that it had: over is called once,
// when that has come. The zero End means that there is none.
func (d *deadlines) arm(version rotation.VersionID, end rotation.End) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.armed[version]
	if old != nil {
		if old.end == end {
			return
		}
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

// look calls over if the end has come, and else looks again. A version whose end has
// come stays armed, so that it isn't cut off twice, until it gets another one.
func (d *deadlines) look(version rotation.VersionID, n *deadline) {
	now := d.now()
	d.mu.Lock()
	if d.armed[version] != n {
		d.mu.Unlock()
		return // armed anew while the timer fired
	}
	due, over := n.due, n.end.Past(now)
	if !over {
		n.timer.Reset(n.pause(now))
	}
	d.mu.Unlock()
	d.fired(due)
	if over {
		d.over(version)
	}
}

// pause returns how long to wait before the end is looked at, and notes when that is.
func (n *deadline) pause(now rotation.Now) time.Duration {
	pause := min(n.end.Instant(now).Sub(now.Mono), wallClock)
	n.due = now.Mono.Add(max(pause, 0))
	return pause
}

// endLocked returns when a version ends, for people.
func (c *Connector) endLocked(version rotation.VersionID) time.Time {
	c.ends = c.rules.AppendEnds(c.ends[:0])
	for _, e := range c.ends {
		if e.Version == version {
			return e.End.Wall
		}
	}
	return time.Time{}
}

// expire cuts off what is open with a version that has ended: each session in a
// goroutine of its own, because closing one may take as long as it likes.
func (c *Connector) expire(version rotation.VersionID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	v := c.book.get(version)
	for id, s := range c.sessions {
		if s.version.id != version || s.expired.Load() != nil || c.cfg.NoForceClose && c.rules.Session(id).State.InPool() {
			continue
		}
		reason := &OutlivedError{Username: v.cred.Username, Version: v.label(), Ended: c.endLocked(version)}
		s.expired.Store(reason) // from now on, whatever closing it takes
		c.tasks.start(func() { s.expire(reason); s.abort() })
	}
	c.stepLocked(rotation.Tick{})
}
