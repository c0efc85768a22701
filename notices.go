// Notices: log lines and callbacks, one after the other, where they hold up nobody.

package sqlrotate

import (
	"log/slog"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// maxNotices is how many notices may wait, for a logger or a callback that is slow or
// stuck. Those beyond are dropped and counted.
const maxNotices = 1024

// notices calls what is added to it in that order, in a goroutine that there is only
// while there is something to call.
type notices struct {
	mu      sync.Mutex // guards what follows; nothing is called under it
	waiting []func()
	idle    chan struct{} // closed when nothing waits any more; nil: nothing does
	dropped uint64
}

func (n *notices) add(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) >= maxNotices {
		n.dropped++
		return
	}
	n.waiting = append(n.waiting, f)
	if n.idle == nil {
		n.idle = make(chan struct{})
		go n.run()
	}
}

func (n *notices) run() {
	for {
		n.mu.Lock()
		if len(n.waiting) == 0 {
			close(n.idle)
			n.idle = nil
			n.mu.Unlock()
			return
		}
		f := n.waiting[0]
		n.waiting = n.waiting[1:]
		n.mu.Unlock()
		n.call(f)
	}
}

// call calls a callback, whose panic is not ours.
func (n *notices) call(f func()) {
	defer func() {
		if r := recover(); r != nil {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.dropped++
		}
	}()
	f()
}

// flush waits until everything has been called, for d at the most.
func (n *notices) flush(d time.Duration) {
	n.mu.Lock()
	idle := n.idle
	n.mu.Unlock()
	if idle == nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}

// lost returns how many notices were dropped.
func (n *notices) lost() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dropped
}

// tellLocked puts what the rules say into a log line and a callback.
func (c *Connector) tellLocked(n rotation.Notice, now rotation.Now) {
	if n.Kind == rotation.SessionEnded {
		c.tellEndedLocked(n, now)
		return
	}
	v := c.book.get(n.Version)
	if v == nil {
		v = &version{}
	}
	info := c.infoLocked(n.Version, now)
	level, msg := slog.LevelInfo, ""
	args := []any{"version", v.label(), "user", v.cred.Username}
	var callback func()
	switch n.Kind {
	case rotation.Rotated:
		if c.rules.Snapshot(now).Counts.Rotations == 0 {
			return // the first one
		}
		msg = "sqlrotate: new credential"
		callback = func() { c.trace.rotated(info) }
		if !c.unmanagedTold && len(c.pools) == 0 {
			c.unmanagedTold = true
			c.notices.add(func() {
				c.log.Warn("sqlrotate: no *sql.DB is managed, so old connections can't be retired, only closed when their credential ends: open the pool with sqlrotate.OpenDB or call Manage")
			})
		}
	case rotation.Accepted:
		msg = "sqlrotate: the credential is accepted"
		callback = func() { c.trace.proven(info) }
	case rotation.Refused:
		level, msg = slog.LevelWarn, "sqlrotate: the server refuses the credential"
		args = append(args, "err", v.refusal)
	case rotation.RoleDead:
		level, msg = slog.LevelWarn, "sqlrotate: the server refuses a role before its time: its connections are replaced at once"
	case rotation.EndsSoon:
		level, msg = slog.LevelWarn, "sqlrotate: the credential ends soon and no successor has come"
		args = append(args, "end", info.Ends)
	case rotation.HasEnded:
		level, msg = slog.LevelWarn, "sqlrotate: the credential has ended and no successor has come"
		args = append(args, "end", info.Ends)
	case rotation.SourceFailed:
		level, msg = slog.LevelError, "sqlrotate: the source fails; the last good credential stays in use"
		args = []any{"err", c.source.err, "version", v.label()}
	case rotation.SourceHealed:
		msg = "sqlrotate: the source is readable again"
		args = []any{"version", v.label()}
	case rotation.Unsettled:
		level, msg = slog.LevelWarn, "sqlrotate: the source gives another login at nearly every read: it is read less often from now on"
	case rotation.DrainBegan:
		msg = "sqlrotate: old connections are being replaced"
		args = []any{"connections", n.N}
	case rotation.DrainDone:
		msg = "sqlrotate: the rotation is complete: no connection of an older credential is left"
		args = []any{"connections", n.N, "took", n.Took.Round(time.Millisecond)}
		callback = func() { c.trace.drained(n.N, n.Took) }
	case rotation.SessionPastIt:
		level, msg = slog.LevelWarn, "sqlrotate: closing a connection that outlives its credential"
		if c.cfg.NoSever {
			msg = "sqlrotate: a connection outlives its credential"
		}
		args = append(args, "age", n.Took)
		callback = func() { c.trace.overran(info, n.Took) }
	}
	c.notices.add(func() {
		if msg != "" {
			c.log.Log(c.ctx, level, msg, args...)
		}
		if callback != nil {
			callback()
		}
	})
}

// tellEndedLocked tells of a connection that is closed.
func (c *Connector) tellEndedLocked(n rotation.Notice, now rotation.Now) {
	if c.trace.Closed == nil {
		return
	}
	info := c.infoLocked(n.Version, now)
	c.notices.add(func() { c.trace.closed(info, closeReason(n.Reason), n.Took) })
}

// closeReason names why a connection was closed, for people.
func closeReason(r rotation.Reason) string {
	switch r {
	case rotation.Superseded, rotation.Revoked, rotation.Neighbour:
		return "superseded"
	case rotation.Aged, rotation.Ending:
		return r.String()
	case rotation.Expired:
		return "severed"
	}
	return ""
}
