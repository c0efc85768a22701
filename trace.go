// Trace: callbacks for what happens, as it happens.

package sqlrotate

import "time"

// Trace has optional callbacks. They are called one after the other, in the order of what
// they tell of and soon after it, in a goroutine of the connector's own. So they may use the
// connector and the *sql.DB; Close called by one waits for it, a second at the most. One that
// takes longer than a second is left behind, and the next is called. Of log lines and
// callbacks a thousand may wait for their turn; those that come on top are dropped and
// counted in Stats.NoticesDropped. A panic is recovered, and logged. [JoinTraces] makes one
// of several.
type Trace struct {
	// Login is called after each login that was begun, whatever came of it.
	Login func(LoginInfo)
	// Rotated is called when another credential than before was read, or an earlier one
	// came back. It is not called for the first.
	Rotated func(VersionStats)
	// Proven is called when a login succeeded with a credential for the first time, or
	// for the first time since it was refused.
	Proven func(VersionStats)
	// Refused is called when the server refused a login, the probe query failed, or the
	// credential ended during the login.
	Refused func(VersionStats, error)
	// Closed is called when a connection is closed, after the given time.
	Closed func(v VersionStats, reason CloseReason, age time.Duration)
	// Outlived is called when a connection was open when its credential ended. It is
	// closed next, unless Config.NoForceClose is set.
	Outlived func(v VersionStats, age time.Duration)
	// Drained is called after a rotation when the last connection of an older credential
	// is gone, of so many, after so long.
	Drained func(connections int, took time.Duration)
}

// LoginInfo describes a login that is over, to [Trace].
type LoginInfo struct {
	Version VersionStats
	Took    time.Duration // from the first dial to the last row of the probe query, if there is one
	Err     error         // nil: it succeeded
	Refused bool          // the server refused the credential
	// Own says that nobody asked for it: it is the connector's, to prove a credential,
	// to replace a connection before it is retired, or to ask after a role.
	Own bool
}

// CloseReason says why a connection was closed. Its values don't change: metrics can be
// labelled with them.
type CloseReason string

// Why connections are closed.
const (
	// CloseOther means that the pool, the driver or the server closed it, for reasons of
	// their own; that it went together with one of about its age, which was retired; or that
	// the pool never had it: it was the connector's, for a question or to replace another
	// one, and wasn't needed.
	CloseOther CloseReason = "other"
	// CloseSuperseded means that it was retired because a successor of its credential had
	// proven itself.
	CloseSuperseded CloseReason = "superseded"
	// CloseAged means that it was retired because its time was over: Window.MaxLifetime or
	// Config.ConnMaxLifetime.
	CloseAged CloseReason = "aged"
	// CloseEnding means that it was retired before the end of its credential.
	CloseEnding CloseReason = "ending"
	// CloseExpired means that it was closed, in use or not, because its credential had
	// ended.
	CloseExpired CloseReason = "expired"
)

// JoinTraces returns a trace that calls the callbacks of each of traces, in that order. A nil
// one is left out. They share the second that a callback may take.
func JoinTraces(traces ...*Trace) *Trace {
	joined := &Trace{}
	for _, t := range traces {
		if t == nil {
			continue
		}
		joined = &Trace{
			Login:    join(joined.Login, t.Login),
			Rotated:  join(joined.Rotated, t.Rotated),
			Proven:   join(joined.Proven, t.Proven),
			Refused:  join2(joined.Refused, t.Refused),
			Closed:   join3(joined.Closed, t.Closed),
			Outlived: join2(joined.Outlived, t.Outlived),
			Drained:  join2(joined.Drained, t.Drained),
		}
	}
	return joined
}

// join calls g after f, even if f panics.
func join[A any](f, g func(A)) func(A) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A) { defer g(a); f(a) }
}

func join2[A, B any](f, g func(A, B)) func(A, B) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A, b B) { defer g(a, b); f(a, b) }
}

func join3[A, B, C any](f, g func(A, B, C)) func(A, B, C) {
	if f == nil || g == nil {
		return either(f, g, f == nil)
	}
	return func(a A, b B, c C) { defer g(a, b, c); f(a, b, c) }
}

func either[F any](f, g F, second bool) F {
	if second {
		return g
	}
	return f
}
