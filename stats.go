// Stats: what there is to see of a connector. It is computed from live state when it is
// asked for.

package sqlrotate

import (
	"maps"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// VersionStats describes one credential version.
type VersionStats struct {
	Number       uint64    // 1, 2, 3 … in the order in which they were first read
	Username     string    // who logs in
	Version      string    // Credential.Version
	Current      bool      // it is the latest
	Proven       bool      // a login with it has succeeded
	Open         int       // connections that logged in with it and are open
	OldestAt     time.Time // when the oldest of them logged in; zero if there is none, and in a Trace
	SeenAt       time.Time // when it was first read
	LoggedInAt   time.Time // when a login with it succeeded last; zero: never, or not since it was refused
	SupersededAt time.Time // when its successor was read; zero for the latest
	EndsAt       time.Time // when it is revoked at the earliest; zero: not known
	RefusedSince time.Time // since when the server refuses it; zero if it does not
}

// WindowStats is the window in force, with its defaults.
type WindowStats struct {
	MaxLifetime  time.Duration // of a connection; zero: no limit
	Overlap      time.Duration // zero: there is none, as with [InPlace]
	Lag          time.Duration
	MaxInUse     time.Duration
	RetryTimeout time.Duration // zero: logins don't wait
	DrainTime    time.Duration // zero: at once
}

// ConnectFailure says why Connect failed. Its values don't change: metrics can be labelled
// with them.
type ConnectFailure string

// Why Connect fails.
const (
	FailedRefused  ConnectFailure = "refused"  // the server refuses the credential: a [RefusedError]
	FailedExpired  ConnectFailure = "expired"  // the credential has ended: an [ExpiredError]
	FailedSource   ConnectFailure = "source"   // the source has never given a credential
	FailedCanceled ConnectFailure = "canceled" // the caller's context was done first
	FailedLogin    ConnectFailure = "login"    // the login failed for another reason: the server is down, or full
	FailedClosed   ConnectFailure = "closed"   // the connector is closed: [ErrClosed]
)

// Stats is a snapshot of a [Connector]. Counters count from New on.
type Stats struct {
	Name string // Config.Name

	// Versions are the latest credential version and those before it that still
	// have connections or may still be used, newest first.
	Versions  []VersionStats
	Rotations uint64 // changes of the credential, one that came back included

	Window   WindowStats // in force
	Observed Observed    // what it rests on, as it was seen to be

	// TimersLate is for how long timers of the connector were overdue that were late by more
	// than 100 ms; what several were late together counts once. It is time in which the
	// process didn't run: there is too little CPU, or it was stopped. A connector that is idle
	// has hardly a timer; its file source has (FileStatus.TimersLate).
	TimersLate time.Duration

	// Logins, the connector's own included.
	Logins      uint64        // that succeeded
	LoginTime   time.Duration // that those took, all together
	Refused     uint64        // that the server refused
	Failed      uint64        // that failed for another reason
	LastLoginAt time.Time     // when the last one succeeded; zero: none ever has
	Fallbacks   uint64        // of callers, with a predecessor of the latest credential

	// Refusals that were counted since the server began to refuse the latest credential,
	// the code that it gave last, and when the connector asks again. They are zero when it
	// doesn't refuse it. Since when it does stands in Versions.
	Refusals      int
	RefusalCode   string
	NextAttemptAt time.Time

	// Calls of Connect that failed, and those that had to wait for the source, the server
	// or another login: how many, how long all together, and how many do now.
	ConnectFailures map[ConnectFailure]uint64
	Waits           uint64
	WaitTime        time.Duration
	Waiting         int

	// Closed are the connections that were closed after a pool or somebody else had them, by
	// reason.
	Closed   map[CloseReason]uint64
	Outlived uint64 // connections that were open when their credential ended
	Spares   int    // connections that are ready to replace the next ones retired
	Held     int    // connections of [Connector.Hold] that are open

	// The drain that is under way after a rotation, of all pools: since and until when,
	// of how many connections, and how many are left. They are zero if there is none.
	DrainSince, DrainUntil time.Time
	DrainSize, DrainLeft   int
	// Drains that are finished, and how long the last one took for how many.
	Drains        uint64
	LastDrainTime time.Duration
	LastDrainSize int

	// SuccessorDueAt is when health begins to say that the latest credential has no
	// successor: some time before its end. Zero if its end isn't known.
	SuccessorDueAt time.Time

	SourceReadAt       time.Time // last successful read of the source
	SourceErrors       uint64    // failed reads of the source
	SourceFailingSince time.Time // zero: the last one succeeded
	SourceErr          error     // of the last one, if it failed

	NoticesDropped uint64 // log lines and callbacks dropped because the logger or a callback was too slow
}

// Stats returns a snapshot, made in one pass over the connections.
func (c *Connector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	seen := c.rules.Snapshot(now)
	n := seen.Counts
	observed, late := c.observedLocked(now)
	s := Stats{
		Name: c.cfg.Name, Rotations: n.Rotations, Window: c.window, Observed: observed, TimersLate: late,
		Logins: n.Logins, LoginTime: c.loginTime, Refused: n.Refused, Failed: n.Failed,
		LastLoginAt: c.lastLogin, Fallbacks: n.Fallbacks,
		ConnectFailures: maps.Clone(c.failures),
		Waits:           n.Waits, WaitTime: n.Waited, Waiting: c.waiting,
		Closed: make(map[CloseReason]uint64), Outlived: n.Outlived, Spares: seen.Spares, Held: seen.Held,
		Drains: n.Drains, LastDrainTime: n.LastDrain, LastDrainSize: n.LastDrained,
		SourceReadAt: c.source.read, SourceErrors: c.source.errors,
		SourceFailingSince: c.source.failing, SourceErr: c.source.err,
		NoticesDropped: c.notices.drops(),
	}
	for reason, n := range n.Ended {
		if n > 0 {
			s.Closed[closeReason(rotation.Reason(reason))] += n
		}
	}
	if seen.SuccessorDue != rotation.Never {
		s.SuccessorDueAt = now.Time(seen.SuccessorDue)
	}
	if seen.Refusing {
		s.Refusals, s.NextAttemptAt = seen.Refusals, now.Time(seen.NextAttempt)
		s.RefusalCode = c.currentLocked().refusalCode()
	}
	for _, p := range seen.Pools {
		s.addDrain(p, now)
	}
	for _, v := range seen.Versions {
		s.Versions = append(s.Versions, c.describeLocked(v, now))
	}
	return s
}

// addDrain adds what a pool still has to retire.
func (s *Stats) addDrain(p rotation.PoolView, now rotation.Now) {
	if p.DrainSince == 0 {
		return
	}
	if since := now.Time(p.DrainSince); s.DrainSince.IsZero() || since.Before(s.DrainSince) {
		s.DrainSince = since
	}
	if until := now.Time(p.DrainUntil); until.After(s.DrainUntil) {
		s.DrainUntil = until
	}
	s.DrainSize += p.DrainSize
	s.DrainLeft += p.ToGo
}

// infoLocked describes one version to a Trace.
func (c *Connector) infoLocked(id rotation.VersionID, now rotation.Now) VersionStats {
	v, ok := c.rules.View(id)
	if !ok {
		return VersionStats{}
	}
	info := c.describeLocked(v, now)
	info.OldestAt = time.Time{}
	return info
}

// describeLocked describes a version.
func (c *Connector) describeLocked(v rotation.VersionView, now rotation.Now) VersionStats {
	known := c.book.get(v.Version)
	return VersionStats{
		Number: uint64(v.Version), Username: known.cred.Username, Version: known.cred.Version,
		Current: v.Version == c.rules.Current(), Proven: v.Proven, Open: v.Sessions, OldestAt: now.Time(v.OldestInPool),
		SeenAt: known.seen, LoggedInAt: now.Time(v.ProvenAt), SupersededAt: now.Time(v.Superseded), EndsAt: v.End.Wall, RefusedSince: now.Time(v.RefusedSince),
	}
}
