// Trace, Stats and Healthy: what operators and tests see. Everything is computed
// from live state when it is asked for.

package sqlrotate

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Trace has optional callbacks. They are called outside the connector's locks, from
// many goroutines at once, and must return soon. Closed may be called by database/sql
// while it holds a lock of the pool: callbacks must not use the *sql.DB.
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
}

func (t Trace) rotated(v VersionStats) {
	if t.Rotated != nil {
		t.Rotated(v)
	}
}

func (t Trace) proven(v VersionStats) {
	if t.Proven != nil {
		t.Proven(v)
	}
}

func (t Trace) refused(v VersionStats, err error) {
	if t.Refused != nil {
		t.Refused(v, err)
	}
}

func (t Trace) closed(v VersionStats, reason string, age time.Duration) {
	if t.Closed != nil {
		t.Closed(v, reason, age)
	}
}

func (t Trace) overran(v VersionStats, age time.Duration) {
	if t.Overran != nil {
		t.Overran(v, age)
	}
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

	SourceErrors uint64    // failed reads of the source
	SourceRead   time.Time // last successful read of the source
	Waiting      int       // logins that wait for a usable credential
	Standby      bool      // a connection is ready to replace the next one retired
	Draining     bool      // connections of older versions are being retired
}

// counts are the counters behind Stats.
type counts struct {
	rotations, logins, refused, failed, overran, sourceErrors uint64

	superseded, aged, ending uint64
}

// closed counts a session that is over.
func (n *counts) closed(s *session) {
	if s.severed {
		return // counted as overran
	}
	switch s.due {
	case reasonSuperseded:
		n.superseded++
	case reasonAged:
		n.aged++
	case reasonEnding:
		n.ending++
	}
}

// Stats returns a snapshot.
func (c *Connector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{
		Rotations: c.counts.rotations, Logins: c.counts.logins, Refused: c.counts.refused, Failed: c.counts.failed,
		Superseded: c.counts.superseded, Aged: c.counts.aged, Ending: c.counts.ending, Overran: c.counts.overran,
		SourceErrors: c.counts.sourceErrors, SourceRead: c.source.read,
		Waiting: c.waiting, Standby: len(c.standbys) > 0, Draining: !c.keeper.drain.from.IsZero(),
	}
	for _, v := range c.versions {
		info := c.infoLocked(v)
		for session := range c.sessions {
			if session.version == v {
				info.Oldest = earliest(info.Oldest, session.ready)
			}
		}
		s.Versions = append(s.Versions, info)
	}
	return s
}

// infoLocked describes v, but for Oldest.
func (c *Connector) infoLocked(v *version) VersionStats {
	info := VersionStats{
		Number: v.number, Username: v.cred.Username, Version: v.cred.Version,
		Current: v.superseded.IsZero(), Proven: v.gate.proven, Open: v.open,
		Seen: v.seen, LoggedIn: v.gate.proofAt, Superseded: v.superseded, Ends: v.deadline(),
	}
	if v.gate.refusals > 0 {
		info.Refused = v.gate.refusedAt
	}
	return info
}

// Healthy returns nil if the latest credential is good and nothing threatens that, as
// far as the connector knows without asking the server. Else the error says what is
// wrong, and since when, for an operator to act on; after Close it is [ErrClosed]. It
// does no I/O. If the source has a method CheckHealth() error, what that says is part of
// it. It knows nothing before the first login (call db.Ping at the start), and a
// server that is down or full is no fault of a credential that has worked before.
//
// Connections that are open may well go on working while this is not nil; take it
// for an alert, and for readiness only if a service that can't open connections
// should get no traffic. Liveness should not depend on it.
func (c *Connector) Healthy() error {
	var problems []string
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if err := checkSource(c.cfg.Source); err != nil {
		say("%s", strings.TrimPrefix(err.Error(), "sqlrotate: "))
	}

	now := time.Now()
	ago := func(t time.Time) time.Duration { return now.Sub(t).Round(time.Second) }
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if c.source.err != nil && len(problems) == 0 { // else the source has said so itself
		say("the source has failed for %v: %s", ago(c.source.failing), strings.TrimPrefix(c.source.err.Error(), "sqlrotate: "))
	}
	if s := c.source.slow; !s.IsZero() && c.source.err == nil {
		say("the source has not answered for %v", ago(s))
	}
	if pause := c.source.pause(); pause > c.watchInterval() {
		say("the source has given another login at each of the last %d reads, and is read every %v only: a rotation may be seen later than Window.Lag allows for", c.source.restless, pause)
	}
	v := c.currentLocked()
	if v == nil {
		if len(problems) == 0 {
			return nil // nobody has asked for a connection yet
		}
		return errors.New("sqlrotate: " + strings.Join(problems, "; "))
	}
	switch {
	case v.gate.refusals > 0:
		say("the server has refused credential %s of user %q for %v (%v): %s", v.label(), v.cred.Username, ago(v.gate.refusedAt), v.gate.refusal, c.fallbackLocked(now))
	case !v.gate.proven && v.gate.failure != nil:
		say("credential %s of user %q is not proven yet, %v after it was read: the login fails (%v)", v.label(), v.cred.Username, ago(v.seen), v.gate.failure)
	}
	switch end := v.deadline(); {
	case v.ended(now):
		say("credential %s ended %v ago and no successor has come", v.label(), ago(end))
	case !end.IsZero() && past(c.alarm(v), now):
		say("credential %s ends in %v and no successor has come", v.label(), -ago(end))
	}
	for i, v := range c.versions[1:] {
		if v.open > 0 && v.ended(now) {
			say("%d connections outlive credential %s, which ended %v ago", v.open, v.label(), ago(v.deadline()))
		}
		if v.open > 0 && i > 0 {
			say("rotations outrun the overlap window: %d connections are open with credential %s, superseded %v ago", v.open, v.label(), ago(v.superseded))
		}
	}
	if len(c.dbs) == 0 && c.counts.rotations > 0 {
		say("no *sql.DB is managed, so old connections are not retired: use OpenDB or Manage")
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New("sqlrotate: " + strings.Join(problems, "; "))
}

// checkSource returns what src says about its own health, if it can.
func checkSource(src Source) error {
	switch s := src.(type) {
	case interface{ CheckHealth() error }:
		return s.CheckHealth()
	case interface{ Healthy() error }:
		return s.Healthy()
	}
	return nil
}

// fallbackLocked says what logins do while the current version is refused.
func (c *Connector) fallbackLocked(now time.Time) string {
	for _, v := range c.versions[1:] {
		if c.usable(v, now) {
			return fmt.Sprintf("logins use %s, which ends in %v", v.label(), v.deadline().Sub(now).Round(time.Second))
		}
	}
	return "no new connection can be made"
}

// alarm returns from when on the successor of a current version that ends is overdue: in
// the last quarter of its lease, or so late that a connection handed out then might not
// come back in time.
func (c *Connector) alarm(v *version) time.Time {
	end := v.deadline()
	return end.Add(-max(c.cfg.Window.checkout(), end.Sub(v.renewed)/4))
}
