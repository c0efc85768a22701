// What the rules tell of, in words: a log line and a callback for each.

package sqlrotate

import (
	"log/slog"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// tellLocked puts what the rules say into a log line and a callback.
func (c *Connector) tellLocked(n rotation.Notice, now rotation.Now) {
	switch {
	case n.Kind == rotation.SessionEnded:
		c.tellEndedLocked(n, now)
		return
	case n.Kind == rotation.Rotated && c.rules.Counts().Rotations == 0:
		return // the first one
	}
	v := c.book.get(n.Version)
	if v == nil {
		v = &version{}
	}
	info := c.infoLocked(n.Version, now)
	if level, msg := words(n.Kind, c.cfg.NoForceClose); msg != "" {
		c.notices.log(level, msg, c.detailsLocked(n, v, info)...)
	}
	switch n.Kind {
	case rotation.Rotated:
		c.notices.rotated(info)
		if !c.unmanagedTold && c.unmanagedLocked() {
			c.unmanagedTold = true
			c.notices.log(slog.LevelWarn, "sqlrotate: no *sql.DB is managed, so old connections can't be retired, only closed when their credential ends: open the pool with sqlrotate.OpenDB or call Manage")
		}
	case rotation.Accepted:
		c.notices.proven(info)
	case rotation.DrainDone:
		c.notices.drained(n.N, n.Took)
	case rotation.SessionPastIt:
		c.notices.outlived(info, n.Took)
	}
}

// words says what a log line says of a notice; nothing if there is none of it.
func words(kind rotation.NoticeKind, left bool) (slog.Level, string) {
	switch kind {
	case rotation.Rotated:
		return slog.LevelInfo, "sqlrotate: new credential"
	case rotation.Accepted:
		return slog.LevelInfo, "sqlrotate: the credential is accepted"
	case rotation.Refused:
		return slog.LevelWarn, "sqlrotate: the server refuses the credential"
	case rotation.RoleDead:
		return slog.LevelWarn, "sqlrotate: the server refuses a role before its time: its connections are replaced at once"
	case rotation.EndsSoon:
		return slog.LevelWarn, "sqlrotate: the credential ends soon and no successor has come"
	case rotation.HasEnded:
		return slog.LevelWarn, "sqlrotate: the credential has ended and no successor has come"
	case rotation.SourceFailed:
		return slog.LevelError, "sqlrotate: the source fails; the last good credential stays in use"
	case rotation.SourceHealed:
		return slog.LevelInfo, "sqlrotate: the source is readable again"
	case rotation.Unsettled:
		return slog.LevelWarn, "sqlrotate: the source gives another login at nearly every read: it is read less often from now on"
	case rotation.DrainBegan:
		return slog.LevelInfo, "sqlrotate: old connections are being replaced"
	case rotation.DrainDone:
		return slog.LevelInfo, "sqlrotate: the rotation is complete: no connection of an older credential is left"
	case rotation.SessionPastIt:
		if left {
			return slog.LevelWarn, "sqlrotate: a connection outlives its credential"
		}
		return slog.LevelWarn, "sqlrotate: closing a connection that outlives its credential"
	case rotation.Recalled:
		return slog.LevelInfo, "sqlrotate: a held connection should go: its credential has a successor, or ends soon"
	}
	return 0, ""
}

// detailsLocked are the attributes of that line.
func (c *Connector) detailsLocked(n rotation.Notice, v *version, info VersionStats) []any {
	label := slog.String("version", v.label())
	switch n.Kind {
	case rotation.SourceFailed:
		return []any{slog.Any("err", c.source.err), label}
	case rotation.SourceHealed:
		return []any{label}
	case rotation.DrainBegan:
		return []any{slog.Int("connections", n.N)}
	case rotation.DrainDone:
		return []any{slog.Int("connections", n.N), slog.Duration("took", n.Took.Round(time.Millisecond))}
	}
	details := []any{label, slog.String("user", v.cred.Username)}
	switch n.Kind {
	case rotation.Refused:
		details = append(details, slog.Any("err", v.refusal))
	case rotation.EndsSoon, rotation.HasEnded, rotation.Recalled:
		details = append(details, slog.Time("end", info.EndsAt))
	case rotation.SessionPastIt:
		details = append(details, slog.Duration("age", n.Took))
	}
	return details
}

// tellEndedLocked tells of a connection that is closed.
func (c *Connector) tellEndedLocked(n rotation.Notice, now rotation.Now) {
	if c.notices.trace.Closed == nil {
		return
	}
	c.notices.closed(c.infoLocked(n.Version, now), closeReason(n.Reason), n.Took)
}

// closeReason says why a connection was closed, as far as users know of reasons.
func closeReason(r rotation.Reason) CloseReason {
	switch r {
	case rotation.Superseded, rotation.Revoked:
		return CloseSuperseded
	case rotation.Aged:
		return CloseAged
	case rotation.Ending:
		return CloseEnding
	case rotation.Expired:
		return CloseExpired
	}
	return CloseOther // and one that went only because it stood below one that must go
}
