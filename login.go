// Logging in, and what happens when the server says no: which version to try,
// who tries it, how long the others wait.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"
)

// sourcePoll is how often the source is read while logins wait for it to change.
const sourcePoll = 250 * time.Millisecond

// RefusedError says that no login was possible because the server refuses the
// latest credential, and no other one may be used. It wraps the driver's error of
// the last refusal and, if that ended the wait, the error of the context.
type RefusedError struct {
	Username string        // who was refused
	Version  string        // the credential's number, and its Version if it has one
	Source   string        // where it came from, if the source is a fmt.Stringer
	Age      time.Duration // since it was first read
	Waited   time.Duration // how long this login waited for another one
	Refused  time.Duration // since the server refused it first
	SQLState string        // the server's code; empty if it gave none
	errs     []error
}

func (e *RefusedError) Error() string {
	msg := fmt.Sprintf("sqlrotate: the server refuses the latest credential: user %q, version %s", e.Username, e.Version)
	if e.Source != "" {
		msg += " from " + e.Source
	}
	msg += fmt.Sprintf(", read %v ago, refused for %v, waited %v for another one",
		e.Age.Round(time.Millisecond), e.Refused.Round(time.Millisecond), e.Waited.Round(time.Millisecond))
	for _, err := range e.errs {
		msg = fmt.Sprintf("%s: %v", msg, err)
	}
	return msg
}

// Unwrap returns the driver's error, and the context's if there is one.
func (e *RefusedError) Unwrap() []error { return e.errs }

// ExpiredError says that no login was attempted because the latest credential has
// ended, and no successor has come.
type ExpiredError struct {
	Username string        // whose it is
	Version  string        // the credential's number, and its Version if it has one
	Source   string        // where it came from, if the source is a fmt.Stringer
	Ended    time.Time     // its NotAfter
	Waited   time.Duration // how long this login waited for another one
	err      error
}

func (e *ExpiredError) Error() string {
	msg := fmt.Sprintf("sqlrotate: the latest credential has ended at %s and no successor has come: user %q, version %s",
		e.Ended.UTC().Format(time.RFC3339), e.Username, e.Version)
	if e.Source != "" {
		msg += " from " + e.Source
	}
	msg += fmt.Sprintf(", waited %v", e.Waited.Round(time.Millisecond))
	if e.err != nil {
		msg += ": " + e.err.Error()
	}
	return msg
}

// Unwrap returns the error of the context that ended the wait, or of the source
// that gives no successor, or nil.
func (e *ExpiredError) Unwrap() error { return e.err }

// OutlivedError is what a statement fails with whose connection was closed under it,
// because the credential that it was opened with had ended: the window was too short for
// it, or the credential's NotAfter came first. The statement may have run, or not. Get it
// with errors.As from the driver's error; what the driver makes of it is the driver's. lib/pq
// passes it on if the connection was waiting for the server, and gives driver.ErrBadConn
// in a transaction that was idle when its connection was closed.
type OutlivedError struct {
	Username string    // whose connection it was
	Version  string    // the credential's number, and its Version if it has one
	Ended    time.Time // when the credential ended
}

func (e *OutlivedError) Error() string {
	return fmt.Sprintf("sqlrotate: the connection has outlived its credential and was closed: user %q, version %s, which ended at %s: %v",
		e.Username, e.Version, e.Ended.UTC().Format(time.RFC3339), net.ErrClosed)
}

// Unwrap returns net.ErrClosed.
func (e *OutlivedError) Unwrap() error { return net.ErrClosed }

// login returns a standby, or logs in with the first usable version, and waits for one
// of these within ctx and Config.Bridge.
func (c *Connector) login(ctx context.Context) (*session, error) {
	var (
		start    = time.Now()
		awaited  *version // what comes of it is waited for
		failures int      // of its logins, when the wait began
	)
	for {
		if s := c.takeStandby(ctx); s != nil {
			return s, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		now := time.Now()
		v, wait := c.chooseLocked(now)
		if wait == 0 {
			c.mu.Unlock()
			s, err := c.open(ctx, v, false)
			var refused *refusal
			switch {
			case err == nil:
				return s, nil
			case !errors.As(err, &refused):
				return nil, err
			}
			if err := c.reread(ctx, v.cred); err != nil {
				return nil, err
			}
			continue
		}

		current := c.currentLocked()
		if awaited == v && v.gate.failures > failures {
			err := v.gate.failure
			c.mu.Unlock()
			return nil, err
		}
		awaited, failures = v, v.gate.failures
		if until := c.waitUntilLocked(v, now); !until.IsZero() {
			wait = min(wait, until.Sub(now))
			if wait <= 0 {
				err := c.unusableLocked(current, start, now, nil)
				c.mu.Unlock()
				return nil, err
			}
		}
		changed := c.changed
		c.waiting++
		c.mu.Unlock()
		c.poke()
		err := c.await(ctx, changed, wait)
		c.mu.Lock()
		c.waiting--
		if err != nil {
			err = c.unusableLocked(current, start, time.Now(), err)
		}
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// await waits for a change, at most for d.
func (c *Connector) await(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	}
}

// chooseLocked returns the version that the next login goes out with: let through its
// gate, if wait is zero, and else the one to wait for, for so long at the most. That is
// the current version; while it is refused, the newest of its predecessors that has
// worked and is still inside its overlap. Whether the current one is accepted by now is
// then the keeper's to find out, and costs no caller a login.
func (c *Connector) chooseLocked(now time.Time) (v *version, wait time.Duration) {
	wait = math.MaxInt64
	current, managed := c.currentLocked(), len(c.dbs) > 0
	for _, v := range c.versions {
		switch {
		case !c.usable(v, now):
			continue
		case v != current || !managed:
		case v.gate.refusals > 0:
			continue // it comes last
		case v.gate.deserted():
			return v, wait // the keeper logs in
		}
		ok, w := v.gate.admit(now)
		if ok {
			return v, 0
		}
		wait = min(wait, w)
		if v.gate.refusals == 0 {
			return v, wait // a login with it is on its way
		}
	}
	if managed && current.gate.refusals > 0 && !current.gate.deserted() && c.usable(current, now) {
		ok, w := current.gate.admit(now)
		if ok {
			return current, 0
		}
		wait = min(wait, w)
	}
	return current, wait
}

// usable reports whether v may be logged in with at all.
func (c *Connector) usable(v *version, now time.Time) bool {
	if v.superseded.IsZero() {
		return !v.ended(now)
	}
	return !c.cfg.Window.inPlace && v.gate.proven && !v.dead && !v.ended(now)
}

// waitUntilLocked returns until when logins wait for v, or zero if a login with it is
// on its way.
func (c *Connector) waitUntilLocked(v *version, now time.Time) time.Time {
	switch {
	case v.gate.refusals > 0:
		return v.gate.refusedAt.Add(c.cfg.bridge())
	case v.ended(now):
		return v.deadline().Add(c.cfg.bridge())
	}
	return time.Time{}
}

// unusableLocked makes the error for a login that has found no usable version.
// cause, if any, is what ended its wait.
func (c *Connector) unusableLocked(v *version, start, now time.Time, cause error) error {
	switch {
	case v.gate.refusals > 0:
		e := &RefusedError{
			Username: v.cred.Username,
			Version:  v.label(),
			Source:   c.sourceName,
			Age:      now.Sub(v.seen),
			Refused:  now.Sub(v.gate.refusedAt),
			Waited:   now.Sub(start),
			errs:     []error{v.gate.refusal},
		}
		// Of several hosts' errors, one that is about the credential.
		anySQLState(v.gate.refusal, func(state string) bool {
			refused := credentialRefused(state)
			if e.SQLState == "" || refused {
				e.SQLState = state
			}
			return refused
		})
		if cause != nil {
			e.errs = append(e.errs, cause)
		}
		return e
	case v.ended(now):
		if cause == nil {
			cause = c.source.err
		}
		return &ExpiredError{
			Username: v.cred.Username, Version: v.label(), Source: c.sourceName,
			Ended: v.deadline(), Waited: now.Sub(start), err: cause,
		}
	}
	return cause
}

// refusal marks an error of open as a refused credential.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// open logs in with v, which has been let through its gate, and tells the gate
// what came of it. The session becomes a standby if that is asked for and there is room
// for it. The error is a *refusal if the credential was refused.
func (c *Connector) open(ctx context.Context, v *version, standby bool) (*session, error) {
	s := &session{version: v, dialer: c.dial, ended: c.sessionEnded}
	began := time.Now()
	c.mu.Lock()
	c.sessions[s] = struct{}{}
	cred, proven := v.cred, v.gate.proven
	cred.NotAfter = v.notAfter
	c.armLocked(v) // it may end meanwhile
	c.mu.Unlock()

	lctx, cancel := c.loginContext(ctx)
	err := s.login(lctx, c.cfg.Opener, cred)
	probed := err == nil && !proven && c.cfg.Probe != ""
	if probed {
		err = s.probe(lctx, c.cfg.Probe)
	}
	cancel()
	rejected := err != nil && c.cfg.Opener.Rejected(err)
	if errors.Is(err, driver.ErrBadConn) {
		err = fmt.Errorf("sqlrotate: the connection broke during the login: %v", err) //nolint:errorlint // database/sql would retry it
	}

	now := time.Now()
	c.mu.Lock()
	first, lost := !v.gate.proven, v.gate.refusals > 0
	if _, ok := c.sessions[s]; !ok && err == nil {
		err = fmt.Errorf("sqlrotate: the connection broke during the login: %w", net.ErrClosed)
	}
	var refused bool
	switch {
	case err == nil:
		v.gate.succeeded(now, began)
		v.open++
		s.ready = now
		c.counts.logins++
		if standby {
			c.keepStandbyLocked(s) // before those who wait for it look again
		}
	case over(ctx) || c.ctx.Err() != nil:
		v.gate.cancelled(now)
	case s.severed:
		v.gate.cancelled(now)
		refused = true // its credential ended meanwhile: let the caller try another one
	case probed && !broken(err), rejected:
		refused = true
		v.gate.refused(now, began, err)
		c.counts.refused++
		v.dead = !v.superseded.IsZero() && v.cred.Username != c.versions[0].cred.Username
	default:
		v.gate.failed(err)
		c.counts.failed++
	}
	if err != nil {
		delete(c.sessions, s)
		c.armLocked(v)
	}
	gone := err != nil && s.conn != nil
	accepted := err == nil && (first || lost && v.gate.refusals == 0)
	info := c.infoLocked(v)
	c.broadcastLocked()
	c.mu.Unlock()

	if gone {
		s.closeConn()
	}
	switch {
	case accepted:
		c.log.Info("sqlrotate: the credential is accepted", "version", v.label(), "user", v.cred.Username)
		c.trace.proven(info)
	case refused && !lost && !s.severed:
		c.log.Warn("sqlrotate: the server refuses the credential", "version", v.label(), "user", v.cred.Username, "err", err)
	}
	if refused {
		c.trace.refused(info, err)
		return nil, &refusal{err}
	}
	if err != nil && c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return s, err
}

// loginContext bounds a login by ctx, by Config.LoginTimeout and by Close.
func (c *Connector) loginContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	if d := c.cfg.loginTimeout(); d > 0 {
		var cancelTimeout context.CancelFunc
		ctx, cancelTimeout = context.WithTimeoutCause(ctx, d, fmt.Errorf("sqlrotate: no answer to the login within %v: %w", d, context.DeadlineExceeded))
		return ctx, func() { cancelTimeout(); cancel(); stop() }
	}
	return ctx, func() { cancel(); stop() }
}

// broken reports whether err says that the connection failed rather than a query.
func broken(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// probe runs a query on a session that has just logged in, and closes it if the
// query fails.
func (s *session) probe(ctx context.Context, query string) error {
	stop := context.AfterFunc(ctx, s.abort)
	err := runQuery(ctx, s.conn, query)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.closeConn()
		return fmt.Errorf("sqlrotate: the probe query failed: %w", err)
	}
	return nil
}

// runQuery runs a query without parameters and discards its rows.
func runQuery(ctx context.Context, conn driver.Conn, query string) error {
	queryer, ok := conn.(driver.QueryerContext)
	if !ok {
		return errors.New("the driver's connection is no driver.QueryerContext, which Config.Probe needs")
	}
	rows, err := queryer.QueryContext(ctx, query, nil)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// spacing is the least time between two connections given to the pool. It makes
// them distinct by age, which is how the drain singles one out. A burst that is
// slowed down by it logs in faster than a PostgreSQL server forks.
const spacing = 500 * time.Microsecond

// handOut gives a session to the pool. It reports false if the session is over, or
// its credential has ended.
func (c *Connector) handOut(ctx context.Context, s *session) bool {
	now := time.Now()
	c.mu.Lock()
	_, open := c.sessions[s]
	ended := s.version.ended(now)
	if open && !ended {
		s.born = now
		if n := len(c.pool); n > 0 && now.Sub(c.pool[n-1].born) < spacing {
			s.born = c.pool[n-1].born.Add(spacing)
		}
		if s.blind() {
			c.replaceBlindLocked(s)
		}
		c.pool = append(c.pool, s)
		c.keeper.owed = max(0, c.keeper.owed-1)
	}
	c.mu.Unlock()
	c.poke()
	if !open || ended {
		c.discard(s)
		return false
	}
	if d := s.born.Sub(now); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return true
}

// replaceBlindLocked drops the record of the last connection of the same version
// whose end can't be seen: of those only the youngest counts.
func (c *Connector) replaceBlindLocked(s *session) {
	for old := range c.sessions {
		if old != s && old.version == s.version && !old.born.IsZero() && old.blind() {
			c.removeLocked(old)
			return
		}
	}
}

// discard closes a session that the pool doesn't have.
func (c *Connector) discard(s *session) {
	s.closeConn()
	if s.blind() {
		c.sessionEnded(s) // its socket doesn't tell
	}
}

// sessionEnded is called when the socket of a session that had logged in is
// closed, by whomever.
func (c *Connector) sessionEnded(s *session) {
	c.mu.Lock()
	ok := c.removeLocked(s)
	due, severed, unused := s.due, s.severed, s.born.IsZero()
	info := c.infoLocked(s.version)
	age := time.Since(s.ready)
	c.mu.Unlock()
	if !ok {
		return
	}
	c.poke()
	if unused {
		go s.closeConn() // nobody else will
	}
	if severed {
		due = reasonSevered
	}
	c.trace.closed(info, string(due), age)
}
