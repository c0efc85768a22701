// One login and its waits: what a caller goes through until it has a session, and
// what comes of a login.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// RefusedError says that no login was possible because the server refuses the
// latest credential, and no other one may be used. It wraps the driver's error of
// the last refusal and, if that ended the wait, the error of the context.
type RefusedError struct {
	Username   string        // who was refused
	Version    string        // the credential's number, and its Version if it has one
	Source     string        // where it came from, if the source is a fmt.Stringer
	Age        time.Duration // since it was first read
	Waited     time.Duration // how long this login waited for another one
	RefusedFor time.Duration // since the server refused it first
	Code       string        // the server's code, such as an SQLSTATE; empty if it gave none
	errs       []error
}

func (e *RefusedError) Error() string {
	msg := fmt.Sprintf("sqlrotate: the server refuses the latest credential: user %q, version %s", e.Username, e.Version)
	if e.Source != "" {
		msg += " from " + e.Source
	}
	msg += fmt.Sprintf(", read %v ago, refused for %v, waited %v for another one",
		e.Age.Round(time.Millisecond), e.RefusedFor.Round(time.Millisecond), e.Waited.Round(time.Millisecond))
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

// connect is Connect for a caller from one of the pools.
func (c *Connector) connect(ctx context.Context, pool rotation.PoolID) (driver.Conn, error) {
	if ctx.Value(borrowing{}) != nil {
		return nil, errNoneIdle
	}
	s, err := c.session(ctx, pool)
	if err != nil {
		return nil, err
	}
	return s.conn, nil
}

// session gets a caller a session, and counts it if there is none to be had.
func (c *Connector) session(ctx context.Context, pool rotation.PoolID) (*session, error) {
	s, err := c.obtain(ctx, pool)
	if err != nil {
		c.mu.Lock()
		c.failures[c.failureLocked(ctx, err)]++
		c.mu.Unlock()
	}
	return s, err
}

// failureLocked says why Connect fails with err.
func (c *Connector) failureLocked(ctx context.Context, err error) ConnectFailure {
	switch err.(type) { //nolint:errorlint // they are made here
	case *RefusedError:
		return FailedRefused
	case *ExpiredError:
		return FailedExpired
	}
	switch {
	case errors.Is(err, ErrClosed):
		return FailedClosed
	case over(ctx):
		return FailedCanceled
	case c.rules.Current() == 0:
		return FailedSource
	}
	return FailedLogin
}

// obtain gets a caller a session: a spare, or one of a new login.
func (c *Connector) obtain(ctx context.Context, pool rotation.PoolID) (*session, error) {
	if err := c.start(); err != nil {
		return nil, err
	}
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	waited := false
	for start := time.Now(); ; {
		v, changed := c.choose(pool, waited)
		var (
			s   *session
			err error
		)
		waited = v.Kind == rotation.Wait
		switch v.Kind {
		case rotation.Take:
			s = c.fit(ctx, v)
		case rotation.LogIn:
			if s, err = c.open(ctx, v.Session, v.Version, false); err != nil {
				err = c.afterwards(ctx, err)
			}
		case rotation.Wait:
			if err = c.await(ctx, changed, v.Until); err != nil {
				c.leave()
				err = c.unusable(v, start, err)
			}
		default:
			err = c.unusable(v, start, nil)
		}
		if err == nil && s == nil && v.Kind == rotation.Take {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if s != nil && c.handOut(ctx, s, pool) {
			return s, nil
		}
	}
}

// choose asks the rules what a caller is to do, and returns what is closed when one that
// is to wait should ask again. One that has waited is counted as waiting until it has
// its answer, or what it waited for would be given up as unneeded.
func (c *Connector) choose(pool rotation.PoolID, waited bool) (rotation.Verdict, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, changed := c.rules.Choose(pool, c.now()), c.changed // before anything else happens
	waiting := c.waiting
	if waited {
		waiting--
	}
	if v.Kind == rotation.Wait {
		waiting++
	}
	if waiting == c.waiting {
		c.stepLocked(rotation.Tick{})
		return v, changed
	}
	c.waiting = waiting
	c.stepLocked(rotation.Waiting{N: waiting})
	return v, changed
}

// leave notes that a caller waits no more.
func (c *Connector) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting--
	c.stepLocked(rotation.Waiting{N: c.waiting})
}

// await waits for a change, at most until the given instant.
func (c *Connector) await(ctx context.Context, changed <-chan struct{}, until rotation.Instant) error {
	t := time.NewTimer(until.Sub(c.now().Mono))
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

// afterwards says what becomes of a caller whose login has failed: nil, if it is to
// choose again.
func (c *Connector) afterwards(ctx context.Context, err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		return c.reread(ctx, refused.cred)
	}
	if !full(c.cfg.Opener, err) {
		return err
	}
	c.mu.Lock()
	until, wait := c.rules.Full(c.now())
	changed := c.changed
	c.mu.Unlock()
	if !wait {
		return err
	}
	return c.await(ctx, changed, until)
}

// full reports whether a login failed because the server or the user has no connection
// left.
func full(opener Opener, err error) bool {
	if o, ok := opener.(interface{ Full(error) bool }); ok {
		return o.Full(err)
	}
	return anySQLState(err, serverFull)
}

// serverFull is PostgreSQL's word for that, and a pooler's.
// See https://www.postgresql.org/docs/current/errcodes-appendix.html.
func serverFull(state string) bool { return state == "53300" }

// unusable makes the error for a caller that has found no usable version. cause, if
// any, is what ended its wait.
func (c *Connector) unusable(verdict rotation.Verdict, start time.Time, cause error) error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.book.get(c.rules.Current())
	seen, _ := c.rules.View(c.rules.Current())
	switch {
	case verdict.Kind == rotation.FailClosed || errors.Is(cause, ErrClosed):
		return ErrClosed
	case v == nil:
		return fmt.Errorf("sqlrotate: there is no credential yet: %w", c.source.err)
	case seen.RefusedSince != 0:
		return c.refusedError(v, now.Sub(start), c.now().Mono.Sub(seen.RefusedSince), cause)
	case verdict.Kind == rotation.FailExpired || verdict.Cause == rotation.ForNewer:
		if cause == nil {
			cause = c.source.err
		}
		return &ExpiredError{
			Username: v.cred.Username, Version: v.label(), Source: c.sourceName,
			Ended: seen.End.Wall, Waited: now.Sub(start), err: cause,
		}
	case v.failure != nil && !errors.Is(cause, v.failure):
		return fmt.Errorf("%w, while another login failed: %v", cause, v.failure) //nolint:errorlint // not this caller's
	}
	return cause
}

// refusedError makes the error of callers while v is refused.
func (c *Connector) refusedError(v *version, waited, refused time.Duration, cause error) error {
	e := &RefusedError{
		Username: v.cred.Username, Version: v.label(), Source: c.sourceName,
		Age: time.Since(v.seen), RefusedFor: refused, Waited: waited, Code: v.refusalCode(), errs: []error{v.refusal},
	}
	if cause != nil {
		e.errs = append(e.errs, cause)
	}
	return e
}

// refusal marks an error of open as a refused credential, or as one that ended
// meanwhile: another one may do.
type refusal struct {
	err  error
	cred Credential
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// open logs in as session id with version v and tells the rules what came of it. ask
// says that the probe query is run whether or not v has proven itself.
func (c *Connector) open(ctx context.Context, id rotation.SessionID, number rotation.VersionID, ask bool) (*session, error) {
	s := &session{id: id, calls: c.calls, dialer: c.dial, observed: c.observed, ended: c.sessionEnded, stirred: c.stirred}
	c.mu.Lock()
	s.version = c.book.get(number)
	v, known := c.rules.View(number)
	if !known || v.End.Past(c.now()) { // since it was chosen
		c.stepLocked(rotation.LoginAbandoned{Session: id})
		ended := &refusal{fmt.Errorf("sqlrotate: credential %s has ended", s.version.label()), s.version.cred}
		c.mu.Unlock()
		return nil, ended
	}
	c.sessions[id] = s
	cred := s.version.cred
	query := ""
	switch {
	case ask && !c.probeOff:
		query = c.cfg.probeQuery()
	case !v.Proven:
		query = c.cfg.ProbeQuery
	}
	c.mu.Unlock()

	began := time.Now()
	lctx, cancel := c.loginContext(ctx)
	err := s.login(lctx, c.cfg.Opener, cred)
	probed := err == nil && query != ""
	if probed {
		err = s.probe(lctx, query)
	}
	cancel()
	var ev rotation.Event
	switch refused, ambiguous := judge(err, probed); {
	case err == nil:
	case over(ctx) || c.ctx.Err() != nil || s.expired.Load() != nil:
		ev = rotation.LoginAbandoned{Session: id}
	case refused:
		ev = rotation.LoginRefused{Session: id, Ambiguous: ambiguous}
	default:
		ev = rotation.LoginFailed{Session: id}
	}
	return s, c.opened(s, ev, err, time.Since(began))
}

// judge says what a login's error means. A failure of the probe query is a refusal as
// well; but 08P01 is what poolers such as PgBouncer say for a wrong password, a server
// that is down and a database that doesn't exist.
func judge(err error, probed bool) (refused, ambiguous bool) {
	var failure *loginError
	switch {
	case err == nil:
		return false, false
	case probed:
		return !broken(err), false
	case !errors.As(err, &failure):
		return false, false
	}
	return failure.refused, failure.code == "08P01"
}

// loginError is an error of a login with what had to be asked about it: errors and their
// methods are the driver's, and may take their time.
type loginError struct {
	err     error
	text    string
	code    string // the server's
	refused bool   // the credential was
}

func newLoginError(opener Opener, err error) *loginError {
	e := &loginError{err: err, text: err.Error(), refused: opener.Refused(err)}
	if o, ok := opener.(interface{ Code(error) string }); ok {
		e.code = o.Code(err)
	} else {
		e.code = sqlState(err)
	}
	return e
}

func (e *loginError) Error() string { return e.text }
func (e *loginError) Unwrap() error { return e.err }

// opened notes what came of a login that took so long. ev is nil if it succeeded.
func (c *Connector) opened(s *session, ev rotation.Event, err error, took time.Duration) error {
	untracked := err == nil && s.untracked()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && s.over {
		err = fmt.Errorf("sqlrotate: the connection broke during the login: %w", net.ErrClosed)
		ev = rotation.LoginFailed{Session: s.id}
	}
	var failure *loginError
	told := err
	if errors.As(err, &failure) {
		told = failure.err // the driver's own
	}
	_, refused := ev.(rotation.LoginRefused)
	info := c.infoLocked(s.version.id, c.now())
	c.notices.login(LoginInfo{
		Version: info, Took: took, Err: told, Refused: refused,
		Own: c.rules.Session(s.id).Purpose != rotation.ForCaller,
	})
	if err == nil {
		s.version.failure = nil
		c.loginTime, c.lastLogin = c.loginTime+took, time.Now()
		c.observed.note(loginSeen, took, c.observed.now())
		c.stepLocked(rotation.LoginSucceeded{Session: s.id, Untracked: untracked})
		return nil
	}
	delete(c.sessions, s.id)
	if s.conn != nil {
		c.tasks.start(s.closeConn)
	}
	switch ev.(type) {
	case rotation.LoginRefused:
		s.version.refusal = err
	case rotation.LoginFailed:
		s.version.failure = err
	}
	c.stepLocked(ev)
	if refused {
		c.notices.refused(info, err)
	}
	switch {
	case refused, s.expired.Load() != nil: // let the caller try another one
		return &refusal{err, s.version.cred}
	case c.closed:
		return ErrClosed
	}
	return told
}

// ownLogin is a login of the connector's own. Its contexts are the connector's, whoever's
// event it follows from.
type ownLogin struct {
	c *Connector
	rotation.Login
}

// begin logs in.
func (l ownLogin) begin() {
	c := l.c
	c.mu.Lock()
	settled := !c.rules.Unsettled(c.now()) // else its reads are rationed
	c.mu.Unlock()
	if l.Purpose != rotation.AskOld && settled {
		ctx, cancel := c.loginContext(c.ctx)
		_ = c.read(ctx) // what comes of it is noted where it belongs
		cancel()
	}
	c.mu.Lock()
	number := c.rules.Bind(l.Session, c.now())
	c.stepLocked(rotation.Tick{})
	c.mu.Unlock()
	if number == 0 {
		return
	}
	asking := l.Purpose == rotation.AskOld || l.Purpose == rotation.AskCurrent
	ctx := c.ctx
	if l.Purpose == rotation.AskOld {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askOldTimeout)
		defer cancel()
	}
	_, _ = c.open(ctx, l.Session, number, asking) // likewise
}

// askOldTimeout bounds the login that asks whether an old role still lives: nothing else of
// the connector's logs in meanwhile. A server that refuses slowly (auth_delay) needs some of
// it; a PgBouncer whose own login is refused keeps the query for two minutes.
const askOldTimeout = 5 * time.Second

// loginContext bounds a login by ctx, by Config.LoginTimeout and by Close.
func (c *Connector) loginContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	if d := c.cfg.loginTimeout(); d > 0 {
		var cancelTimeout context.CancelFunc
		ctx, cancelTimeout = context.WithTimeoutCause(ctx, d, c.noAnswer)
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

// probe runs a query on a session that has just logged in.
func (s *session) probe(ctx context.Context, query string) error {
	if err := s.query(ctx, query, said); err != nil {
		return said(fmt.Errorf("sqlrotate: the probe query failed: %w", err))
	}
	return nil
}

// runQuery runs a query without parameters and discards its rows.
func runQuery(ctx context.Context, conn driver.Conn, query string) error {
	queryer, ok := conn.(driver.QueryerContext)
	if !ok {
		return errors.New("the driver's connection is no driver.QueryerContext, which Config.ProbeQuery needs")
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

// handOut gives a session to the pool, or to who is to hold it. It reports false if the
// session is over, or its credential has ended.
func (c *Connector) handOut(ctx context.Context, s *session, id rotation.PoolID) bool {
	c.mu.Lock()
	now := c.now()
	ok := c.rules.HandOut(s.id, now)
	var wait time.Duration
	s.handed = ok
	s.used.Store(false) // the login is no use of the pool's
	if p := c.poolLocked(id); ok && p != nil {
		s.pool = p
		if p.byAge() {
			wait = p.line.HandedOut(s.id, now.Mono)
		}
	}
	if ok && id == rotation.Outside {
		s.held = &Held{c: c, s: s, superseded: make(chan struct{})}
		c.stepLocked(rotation.Held{Session: s.id})
	} else {
		s.lent.Store(ok)
		c.pooled = c.pooled || ok
		c.stepLocked(rotation.Tick{})
	}
	c.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return ok
}

// fit returns the spare that v names if it is fit for use, and else closes it.
func (c *Connector) fit(ctx context.Context, v rotation.Verdict) *session {
	c.mu.Lock()
	s := c.sessions[v.Session]
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	switch found := s.peek(); {
	case found == peekOver:
		c.discard(s)
		return nil
	case found <= peekQuiet && !v.Check: // or it can't be looked at
		return s
	}
	return c.askSpare(ctx, s)
}

// askSpare returns s if the server answers on it within pingTimeout. If ctx is done
// first, that is no fault of the spare, which is given back.
func (c *Connector) askSpare(ctx context.Context, s *session) *session {
	asked, err := call(ctx, &c.calls.pings, func(context.Context) (*session, error) {
		fit := false
		defer func() { // it may panic
			if !fit {
				c.discard(s)
			}
		}()
		if fit = s.alive(c.ctx); !fit { //nolint:contextcheck // the caller may give up
			return nil, net.ErrClosed
		}
		return s, nil
	}, func(s *session) { c.step(rotation.GivenBack{Session: s.id}) })
	var hung *hungError
	if errors.As(err, &hung) { // it was not asked
		c.discard(s)
	}
	if err != nil {
		return nil
	}
	return asked
}

// pingTimeout bounds the question whether a spare's server is still there. One that takes
// longer may be gone without a word, and a login finds another one, or says why not.
const pingTimeout = time.Second

// alive reports whether the server answers on the session within pingTimeout.
func (s *session) alive(ctx context.Context) bool {
	pinger, ok := s.conn.(driver.Pinger)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, s.abort)
	err := pinger.Ping(ctx)
	return stop() && err == nil
}

// discard closes a session that no pool has.
func (c *Connector) discard(s *session) {
	s.closeConn()
	if s.untracked() {
		c.sessionEnded(s) // its socket doesn't tell
	}
}

// sessionEnded is called when the socket of a session that had logged in is closed, by
// whomever.
func (c *Connector) sessionEnded(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.over = true
	s.leaves.Store(true)
	c.noteUseLocked(s, c.observed.now())
	c.stepLocked(rotation.Ended{Session: s.id})
	c.forgetLocked(s.id)
	if !s.handed {
		c.tasks.start(s.closeConn) // nobody else will
	}
	if s.pool != nil && s.pool.id == 0 {
		poke(c.wake) // its *sql.DB may be closed, and nothing else tells
	}
}

// forgetLocked strikes a session that is over.
func (c *Connector) forgetLocked(id rotation.SessionID) {
	s := c.sessions[id]
	if s == nil {
		return
	}
	delete(c.sessions, id)
	if s.pool != nil && s.pool.byAge() {
		s.pool.line.Ended(id)
	}
}
