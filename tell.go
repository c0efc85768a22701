// What the rules tell of, in words: a log line and a callback for each.

package sqlrotate

import (
	"log/slog"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

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
		if c.rules.Counts().Rotations == 0 {
			return // the first one
		}
		msg = "sqlrotate: new credential"
		callback = func() { c.notices.rotated(info) }
		if !c.unmanagedTold && len(c.pools) == 0 {
			c.unmanagedTold = true
			c.notices.log(slog.LevelWarn, "sqlrotate: no *sql.DB is managed, so old connections can't be retired, only closed when their credential ends: open the pool with sqlrotate.OpenDB or call Manage")
		}
	case rotation.Accepted:
		msg = "sqlrotate: the credential is accepted"
		callback = func() { c.notices.proven(info) }
	case rotation.Refused:
		level, msg = slog.LevelWarn, "sqlrotate: the server refuses the credential"
		args = append(args, "err", v.refusal)
	case rotation.RoleDead:
		level, msg = slog.LevelWarn, "sqlrotate: the server refuses a role before its time: its connections are replaced at once"
	case rotation.EndsSoon:
		level, msg = slog.LevelWarn, "sqlrotate: the credential ends soon and no successor has come"
		args = append(args, "end", info.EndsAt)
	case rotation.HasEnded:
		level, msg = slog.LevelWarn, "sqlrotate: the credential has ended and no successor has come"
		args = append(args, "end", info.EndsAt)
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
		callback = func() { c.notices.drained(n.N, n.Took) }
	case rotation.SessionPastIt:
		level, msg = slog.LevelWarn, "sqlrotate: closing a connection that outlives its credential"
		if c.cfg.NoForceClose {
			msg = "sqlrotate: a connection outlives its credential"
		}
		args = append(args, "age", n.Took)
		callback = func() { c.notices.outlived(info, n.Took) }
	}
	if msg != "" {
		c.notices.log(level, msg, args...)
	}
	if callback != nil {
		callback()
	}
}

// tellEndedLocked tells of a connection that is closed.
func (c *Connector) tellEndedLocked(n rotation.Notice, now rotation.Now) {
	if c.notices.trace.Closed == nil {
		return
	}
	info, why := c.infoLocked(n.Version, now), closeReason(n.Reason)
	if n.Reason == rotation.Neighbour && info.Current {
		why = CloseOther // it went with one that was superseded
	}
	c.notices.closed(info, why, n.Took)
}

// closeReason says why a connection was closed, as far as users know of reasons.
func closeReason(r rotation.Reason) CloseReason {
	switch r {
	case rotation.Superseded, rotation.Revoked, rotation.Neighbour:
		return CloseSuperseded
	case rotation.Aged:
		return CloseAged
	case rotation.Ending:
		return CloseEnding
	case rotation.Expired:
		return CloseExpired
	}
	return CloseOther
}
