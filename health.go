// Health: what is wrong, in words that an operator can act on.

package sqlrotate

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// ProblemKind names a kind of trouble. The names don't change: alerts can go by them.
type ProblemKind string

// Kinds of problems.
const (
	ProblemRefused    ProblemKind = "credential_refused"   // the server refuses the latest credential
	ProblemUnclear    ProblemKind = "credential_unclear"   // it says no with a code that may mean anything
	ProblemRoleDead   ProblemKind = "role_in_use_dead"     // the role that open connections use is dead
	ProblemExpired    ProblemKind = "credential_expired"   // the latest credential has ended
	ProblemOverdue    ProblemKind = "successor_overdue"    // it ends soon, and has no successor
	ProblemUnproven   ProblemKind = "credential_unproven"  // logins with it fail, and none has succeeded
	ProblemSource     ProblemKind = "source_fails"         // the source fails, or says that something is wrong
	ProblemSlowSource ProblemKind = "source_hangs"         // the source doesn't answer
	ProblemUnsettled  ProblemKind = "source_unsettled"     // the source gives another login each time
	ProblemOutlived   ProblemKind = "connections_outlived" // connections outlive their credential
	ProblemUnmanaged  ProblemKind = "pool_unmanaged"       // nothing retires old connections
	ProblemHangs      ProblemKind = "calls_hang"           // what was handed in doesn't return when it is called
	ProblemWindow     ProblemKind = "window_too_small"     // for what was observed: advice for the next rotation
)

// Problem is something that a person may have to act on.
type Problem struct {
	Kind ProblemKind
	// Since is when it began; zero if that isn't known.
	Since time.Time
	// Text says what is wrong, with what, and since when. It holds no secret.
	Text string
	// CanConnect says whether new connections can be made all the same.
	CanConnect bool
}

// Problems returns what is wrong now, as far as the connector knows without asking the
// server, the worst first. It does no I/O. If the source has a method CheckHealth()
// error, what that says is one of them. A server that is down or full is no problem of
// a credential that has worked before.
func (c *Connector) Problems() []Problem {
	source := c.askSource()
	f := c.facts()
	var all []Problem
	say := func(kind ProblemKind, since time.Time, canConnect bool, format string, args ...any) {
		all = append(all, Problem{kind, since, fmt.Sprintf(format, args...), canConnect})
	}
	for _, p := range f.problems {
		f.describe(p, say)
	}
	switch {
	case source != nil:
		say(ProblemSource, time.Time{}, f.connects, "%s", strings.TrimPrefix(source.Error(), "sqlrotate: "))
	case f.source.err != nil: // else the source has said so itself
		say(ProblemSource, f.source.failing, f.connects, "the source has failed for %v: %s", f.ago(f.source.failing), strings.TrimPrefix(f.source.err.Error(), "sqlrotate: "))
	case !f.source.slow.IsZero():
		say(ProblemSlowSource, f.source.slow, f.connects, "the source has not answered for %v", f.ago(f.source.slow))
	}
	for _, old := range f.outlived {
		say(ProblemOutlived, old.ended, f.connects, "%d connections outlive credential %s, which ended %v ago", old.open, old.label, f.ago(old.ended))
	}
	for _, err := range c.calls.hung(f.now) {
		say(ProblemHangs, time.Time{}, f.connects, "%s", strings.TrimPrefix(err.Error(), "sqlrotate: "))
	}
	if f.unmanaged {
		say(ProblemUnmanaged, time.Time{}, f.connects, "no *sql.DB is managed, so old connections are not retired: use OpenDB or Manage")
	}
	for _, a := range f.advice {
		say(ProblemWindow, a.saw.At, f.connects, "%s", a.text)
	}
	return all
}

// facts is what the problems are made of. The errors in it are others': their texts are
// asked for when the lock is free.
type facts struct {
	now       time.Time
	problems  []rotation.Problem
	seen      rotation.Snapshot
	instants  rotation.Now
	current   version // a copy
	fallback  string
	connects  bool
	source    sourceState
	outlived  []oldVersion
	unmanaged bool
	advice    []advice
}

type oldVersion struct {
	label string
	open  int
	ended time.Time
}

func (c *Connector) facts() facts {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	f := facts{
		now: time.Now(), instants: now, source: c.source, connects: true,
		problems: c.rules.Problems(now), seen: c.rules.Snapshot(now), fallback: c.fallbackLocked(now),
	}
	observed, _ := c.observedLocked(now)
	f.advice = c.window.advise(c.cfg.Window.kind, observed)
	v := c.currentLocked()
	if v == nil {
		f.connects = c.source.err == nil
		return f
	}
	f.current = *v
	for _, p := range f.problems {
		f.connects = f.connects && p.CanConnect
	}
	for _, old := range f.seen.Versions[1:] {
		if old.Sessions > 0 && old.End.Past(now) {
			f.outlived = append(f.outlived, oldVersion{c.book.get(old.Version).label(), old.Sessions, old.End.Wall})
		}
	}
	f.unmanaged = c.unmanagedLocked() && f.seen.Counts.Rotations > 0
	return f
}

func (f *facts) ago(t time.Time) time.Duration { return f.now.Sub(t).Round(time.Second) }

// describe puts what the rules say into words.
func (f *facts) describe(p rotation.Problem, say func(kind ProblemKind, since time.Time, canConnect bool, format string, args ...any)) {
	v, user := f.current.label(), f.current.cred.Username
	since := f.instants.Time(p.Since)
	tell := func(kind ProblemKind, format string, args ...any) { say(kind, since, p.CanConnect, format, args...) }
	switch p.Kind {
	case rotation.CredentialRefused:
		tell(ProblemRefused, "the server has refused credential %s of user %q for %v (%v): %s", v, user, f.ago(since), f.current.refusal, f.fallback)
	case rotation.CredentialUnclear:
		tell(ProblemUnclear, "the server has refused logins with credential %s of user %q for %v, with a code that a pooler gives for any reason, such as a server that is down or a database that doesn't exist (%v): %s",
			v, user, f.ago(since), f.current.refusal, f.fallback)
	case rotation.RoleInUseDead:
		tell(ProblemRoleDead, "the role in use is dead: the server has refused credential %s of user %q for %v (%v), and queries on connections that are open may fail: %s",
			v, user, f.ago(since), f.current.refusal, f.fallback)
	case rotation.CredentialExpired:
		tell(ProblemExpired, "credential %s ended %v ago and no successor has come", v, f.ago(f.seen.Versions[0].End.Wall))
	case rotation.SuccessorOverdue:
		tell(ProblemOverdue, "credential %s ends in %v and no successor has come", v, -f.ago(f.seen.Versions[0].End.Wall))
	case rotation.LoginsFail:
		if !f.seen.Versions[0].Proven && f.current.failure != nil {
			tell(ProblemUnproven, "credential %s of user %q is not proven yet, %v after it was read: the login fails (%v)", v, user, f.ago(f.current.seen), f.current.failure)
		}
	case rotation.SourceUnsettled:
		tell(ProblemUnsettled, "the source gives another login at nearly every read, and is read every %v only: a rotation may be seen later than Window.Lag allows for", f.seen.ReadEvery)
	case rotation.SourceFails, rotation.NoCredential: // said with the source's own words
	}
}

// fallbackLocked says what logins do while the latest version is refused.
func (c *Connector) fallbackLocked(now rotation.Now) string {
	seen := c.rules.Snapshot(now)
	for i, v := range seen.Versions {
		if i == 0 || !c.rules.Usable(v.Version, now) {
			continue
		}
		end := "has no known end"
		if !v.End.IsZero() {
			end = fmt.Sprintf("ends in %v", v.End.Wall.Sub(now.Wall).Round(time.Second))
		}
		return fmt.Sprintf("logins use %s, which %s", c.book.get(v.Version).label(), end)
	}
	return "no new connection can be made"
}

// CheckHealth returns nil if nothing is wrong, and else what [Connector.Problems] says, in
// one error; after Close it is [ErrClosed]. Advice on the window ([ProblemWindow]) is left
// out: nothing is wrong yet. It knows nothing before the first login: call db.Ping at the
// start.
//
// Connections that are open may well go on working while this is not nil; take it
// for an alert, and for readiness only if a service that can't open connections
// should get no traffic. Liveness should not depend on it.
func (c *Connector) CheckHealth() error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return ErrClosed
	}
	var texts []string
	for _, p := range c.Problems() {
		if p.Kind != ProblemWindow {
			texts = append(texts, p.Text)
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New("sqlrotate: " + strings.Join(texts, "; "))
}

// askSource asks the source how it is, for askTimeout at the most.
func (c *Connector) askSource() error {
	err := callFor(askTimeout, &c.calls.healths, func() error {
		err := checkSource(c.cfg.Source)
		if err != nil {
			err = said(err)
		}
		return err
	})
	if err == errLeft { //nolint:errorlint // it is not wrapped
		return fmt.Errorf("sqlrotate: the source does not say within %v how it is", askTimeout)
	}
	return err
}

// checkSource returns what src says about its own health, if it can.
func checkSource(src Source) error {
	if s, ok := src.(interface{ CheckHealth() error }); ok {
		return s.CheckHealth()
	}
	return nil
}
