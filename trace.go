// Trace and Stats: what operators and tests see. Everything is computed from live
// state when it is asked for.

package sqlrotate

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Trace has optional callbacks. They are called one after the other, in the order of what
// they tell of and soon after it, in a goroutine of the connector's own. So they may use the
// connector and the *sql.DB; Close called by one waits for it, a second at the most. One that
// takes longer than a second is left behind, and the next is called. Of log lines and
// callbacks a thousand may wait for their turn; those that come on top are dropped and
// counted in Stats.NoticesDropped. A panic is recovered, and logged.
type Trace struct {
	// Rotated: another credential than before was read, or an earlier one came
	// back. It is not called for the first.
	Rotated func(VersionStats)
	// Proven: a login succeeded with a credential for the first time, or for the
	// first time since it was refused.
	Proven func(VersionStats)
	// Refused: the server refused a login, the probe query failed, or the
	// credential ended during the login.
	Refused func(VersionStats, error)
	// Closed: a connection is closed, after the given time. The reason is
	// "superseded", "aged" or "ending" if it was retired, "severed" if its
	// credential ended first, and empty otherwise: the pool or the driver closed it
	// for reasons of their own, or it was the connector's and the pool never had it.
	Closed func(v VersionStats, reason string, age time.Duration)
	// Overran: a connection was open when its credential ended. It is closed next,
	// unless Config.NoSever is set.
	Overran func(v VersionStats, age time.Duration)
	// Drained: after a rotation the last connection of an older credential is gone, of
	// so many, after so long.
	Drained func(connections int, took time.Duration)
}

// VersionStats describes one credential version.
type VersionStats struct {
	Number     uint64    // 1, 2, 3 … in the order in which they were first read
	Username   string    // who logs in
	Version    string    // Credential.Version
	Current    bool      // it is the latest
	Proven     bool      // a login with it has succeeded
	Open       int       // connections that logged in with it and are open
	Oldest     time.Time // when the oldest of them logged in; zero if there is none, and in a Trace
	Seen       time.Time // when it was first read
	LoggedIn   time.Time // when a login with it succeeded last; zero: never
	Superseded time.Time // when its successor was read; zero for the latest
	Ends       time.Time // when it is revoked at the earliest; zero: not known
	Refused    time.Time // since when the server refuses it; zero if it does not
}

// Stats is a snapshot of a [Connector]. Counters count from New on.
type Stats struct {
	// Versions are the latest credential version and those before it that still
	// have connections or may still be used, newest first.
	Versions []VersionStats

	Rotations uint64 // changes of the credential, one that came back included
	Logins    uint64 // successful logins
	Refused   uint64 // logins refused by the server
	Failed    uint64 // logins that failed for another reason

	Superseded uint64 // connections retired because a successor had proven itself
	Aged       uint64 // connections retired by age
	Ending     uint64 // connections retired before the end of their credential
	Overran    uint64 // connections that were open when their credential ended

	SourceErrors   uint64    // failed reads of the source
	SourceRead     time.Time // last successful read of the source
	Waiting        int       // logins that wait for a usable credential
	Standby        bool      // a connection is ready to replace the next one retired
	Draining       bool      // connections of older versions are being retired
	NoticesDropped uint64    // log lines and callbacks dropped because the logger or a callback was too slow
}

// Stats returns a snapshot.
func (c *Connector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	seen := c.rules.Snapshot(now)
	n := seen.Counts
	s := Stats{
		Rotations: n.Rotations, Logins: n.Logins, Refused: n.Refused, Failed: n.Failed,
		Superseded: n.Ended[rotation.Superseded] + n.Ended[rotation.Revoked] + n.Ended[rotation.Neighbour],
		Aged:       n.Ended[rotation.Aged], Ending: n.Ended[rotation.Ending], Overran: n.Outlived,
		SourceErrors: c.source.errors, SourceRead: c.source.read,
		Waiting: c.waiting, Standby: seen.Spares > 0, NoticesDropped: c.notices.drops(),
	}
	for _, p := range seen.Pools {
		s.Draining = s.Draining || p.DrainSince != 0
	}
	for i := range seen.Versions {
		s.Versions = append(s.Versions, c.describeLocked(&seen, i, now))
	}
	return s
}

// infoLocked describes one version.
func (c *Connector) infoLocked(id rotation.VersionID, now rotation.Now) VersionStats {
	seen := c.rules.Snapshot(now)
	for i := range seen.Versions {
		if seen.Versions[i].Version == id {
			info := c.describeLocked(&seen, i, now)
			info.Oldest = time.Time{}
			return info
		}
	}
	return VersionStats{}
}

// describeLocked describes the i-th version of a snapshot.
func (c *Connector) describeLocked(seen *rotation.Snapshot, i int, now rotation.Now) VersionStats {
	v := seen.Versions[i]
	known := c.book.get(v.Version)
	info := VersionStats{
		Number: uint64(v.Version), Username: known.cred.Username, Version: known.cred.Version,
		Current: i == 0, Proven: v.Proven, Open: v.Sessions, Oldest: now.Time(v.OldestInPool),
		Seen: known.seen, LoggedIn: now.Time(v.ProvenAt), Superseded: now.Time(v.Superseded), Ends: v.End.Wall,
	}
	if i == 0 && seen.Refusing {
		info.Refused = now.Time(seen.RefusedSince)
	}
	return info
}
