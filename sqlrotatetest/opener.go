// TestOpener: what an Opener owes the connector, tried on a real server.

package sqlrotatetest

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// ServerState is what may be the matter when a login fails.
type ServerState string

// The states that TestOpener knows. The first six are about the credential: Refused must
// say so. The others say nothing about it.
const (
	WrongPassword   ServerState = "wrong password"
	UnknownUser     ServerState = "unknown user"
	LoginForbidden  ServerState = "login forbidden"    // NOLOGIN, a locked account
	PasswordExpired ServerState = "password expired"   // VALID UNTIL
	HostForbidden   ServerState = "not from this host" // no line of pg_hba.conf
	AccessRevoked   ServerState = "access revoked"     // REVOKE CONNECT

	NoSuchDatabase ServerState = "no such database"
	UserIsFull     ServerState = "too many sessions of the user"
	ServerIsFull   ServerState = "server full"
	ServerStarting ServerState = "server starting or stopping"
	ServerDown     ServerState = "server down"
)

// serverStates are all of them, in the order in which they are reported, and what Refused
// says of each.
func serverStates() (states []ServerState, refused map[ServerState]bool) {
	about := []ServerState{WrongPassword, UnknownUser, LoginForbidden, PasswordExpired, HostForbidden, AccessRevoked}
	other := []ServerState{NoSuchDatabase, UserIsFull, ServerIsFull, ServerStarting, ServerDown}
	refused = map[ServerState]bool{}
	for _, s := range about {
		refused[s] = true
	}
	return append(about, other...), refused
}

// OpenerCase is a login that fails because of a state that the server is in.
type OpenerCase struct {
	State      ServerState
	Opener     sqlrotate.Opener     // that logs in; nil: the harness's
	Credential sqlrotate.Credential // to log in with; zero: the harness's Login
	Begin      func() error         // brings the state about; nil: it is there already
	End        func() error         // ends it; called if Begin was. Nil: nothing needs to be done
}

// OpenerHarness is a [sqlrotate.Opener] with a server to try it on.
type OpenerHarness struct {
	// Opener is what is checked. Required.
	Opener sqlrotate.Opener

	// Login and Other are two users that the server lets in by their passwords, and by
	// nothing else. Required. The passwords must not be found in anything by chance.
	Login, Other sqlrotate.Credential

	// UserQuery is a query for the name of the user that has logged in, such as
	// "select session_user". Required.
	UserQuery string

	// Cases are the logins that fail. A state that is in none of them is not checked.
	Cases []OpenerCase

	// EndSessions ends the sessions of Login's user at the server, as its administrator
	// would, and returns when they have ended. Nil: whether the driver notices is not checked.
	EndSessions func() error

	// DropOther drops the user of Other, whose session stays: the probe query must fail
	// in it. It is the last thing that is done. Nil: that is not checked.
	DropOther func() error

	// LooksAtSocket says that the driver looks at its socket, as a [syscall.Conn], before it
	// uses a connection again: then it is checked that it can.
	LooksAtSocket bool

	// Dial reaches the server. Nil means net.Dialer.
	Dial sqlrotate.DialFunc

	// Delay bounds what should be done at once: to return when the context is done, to
	// close a socket, to notice that one is closed. Zero means 5 s.
	Delay time.Duration

	// Unchecked is told of each thing that the harness has no way to bring about. Nil:
	// nobody is.
	Unchecked func(what string)
}

// TestOpener checks an opener against what [sqlrotate.Opener] says that it must do. It
// returns nil, or every violation that it found, each with what it is about and what it
// is for:
//
//	login       the session is that of the credential, whoever logs in at the same time
//	dial        all is dialled with the function that was handed in
//	ends        the connection that Open returns has one socket, and closes it
//	context     Open returns soon when its context is done and its sockets are closed, at
//	            whatever stage; afterwards the context is of no concern to the connection
//	refused     Refused says which failures are about the credential, and says it of a
//	            wrong password that is the user's name, and so in the server's own words
//	silent      no password is in an error of Open, in any field that reflection reaches
//	            from there, or kept by the Opener
//	liveness    a connection that has ended while it was idle says driver.ErrBadConn, so
//	            that database/sql takes another one
//	probe       ProbeQuery, if there is one, succeeds in a session, and fails when its
//	            user was dropped
//
// A typical test:
//
//	func TestMyOpener(t *testing.T) {
//		err := sqlrotatetest.TestOpener(sqlrotatetest.OpenerHarness{
//			Opener: NewMyOpener(server.Address()), Login: server.User("one"), Other: server.User("two"),
//			UserQuery:   "select session_user",
//			Cases:       []sqlrotatetest.OpenerCase{{State: sqlrotatetest.WrongPassword, Credential: wrong}},
//			EndSessions: server.KillSessions,
//			Unchecked:   func(what string) { t.Log("not checked:", what) },
//		})
//		if err != nil {
//			t.Fatal(err)
//		}
//	}
func TestOpener(h OpenerHarness) error {
	if h.Opener == nil || h.Login.Username == "" || h.Other.Username == "" || h.UserQuery == "" {
		return errors.New("sqlrotatetest: OpenerHarness.Opener, Login, Other and UserQuery are required")
	}
	if h.Dial == nil {
		h.Dial = new(net.Dialer).DialContext
	}
	if h.Delay <= 0 {
		h.Delay = 5 * time.Second
	}
	if h.Unchecked == nil {
		h.Unchecked = func(string) {}
	}
	c := &openerCheck{OpenerHarness: h}
	for _, step := range []func(*openerCheck) error{
		(*openerCheck).login, (*openerCheck).together, (*openerCheck).dials, (*openerCheck).returns, (*openerCheck).judges,
		(*openerCheck).notices, (*openerCheck).probes, (*openerCheck).silent,
	} {
		if err := step(c); err != nil { // the harness failed
			return c.joined(err)
		}
	}
	return c.joined(nil)
}

type openerCheck struct {
	OpenerHarness
	violations

	mu       sync.Mutex // guards what follows
	failures []openFailure
	hung     bool // a call of Open has not returned
}

// openFailure is an error of Open, and the credential that it was called with.
type openFailure struct {
	cred sqlrotate.Credential
	err  error
}

// open calls Open as the connector does: when ctx is done the sockets are closed. It
// reports false if Open then doesn't return within Delay; stage says when that was.
func (c *openerCheck) open(ctx context.Context, o sqlrotate.Opener, cred sqlrotate.Credential, w *wire, stage string) (driver.Conn, error, bool) {
	stop := context.AfterFunc(ctx, w.closeAll)
	defer stop()
	type result struct {
		conn driver.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		conn, err := o.Open(ctx, cred, w.open)
		results <- result{conn, err}
	}()
	var r result
	select {
	case r = <-results:
	case <-within(ctx, c.Delay):
		c.violated("context", "Open has not returned %v after its context was done and its sockets were closed, %s: each such call keeps a goroutine, and after four of them nobody logs in", c.Delay, stage)
		c.mu.Lock()
		c.hung = true
		c.mu.Unlock()
		go func() { // it may return some day
			if r := <-results; r.err == nil && r.conn != nil {
				_ = r.conn.Close()
			}
		}()
		return nil, errHung, false
	}
	switch {
	case r.err != nil:
		w.closeAll()
		c.mu.Lock()
		c.failures = append(c.failures, openFailure{cred, r.err})
		c.mu.Unlock()
	case r.conn == nil:
		c.violated("login", "Open returned neither a connection nor an error")
		r.err = errors.New("sqlrotatetest: no connection")
	}
	return r.conn, r.err, true
}

// errHung stands for the error of a call that has not returned.
var errHung = errors.New("sqlrotatetest: Open has not returned")

// within returns a channel that is closed d after ctx is done.
func within(ctx context.Context, d time.Duration) <-chan struct{} {
	over := make(chan struct{})
	context.AfterFunc(ctx, func() { time.AfterFunc(d, func() { close(over) }) })
	return over
}

// opened is a connection that Open has returned, and its socket.
type opened struct {
	driver.Conn
	wire *wire
}

// session logs in. A login that fails, or that can't be followed, is a violation and
// gives nil.
func (c *openerCheck) session(cred sqlrotate.Credential) *opened {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := &wire{dial: c.Dial}
	conn, err, returned := c.open(ctx, c.Opener, cred, w, "at a login that should succeed")
	switch {
	case !returned:
		return nil
	case err != nil:
		c.violated("login", "user %q can't log in: %s", cred.Username, textOf(err, cred))
		return nil
	case w.dials() == 0:
		c.violated("dial", "a connection came about without the dial function: it is not closed at the end of its credential, and nothing aborts its login")
		_ = conn.Close()
		return nil
	}
	w.settle()
	return &opened{conn, w}
}

// close closes a connection, and sees that its socket is.
func (c *openerCheck) close(s *opened) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.Close()
	}()
	timer := time.NewTimer(c.Delay)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
		c.violated("ends", "the connection's Close has not returned within %v", c.Delay)
		return
	}
	if !s.wire.awaitClosed(c.Delay) {
		c.violated("ends", "the connection's socket is open %v after its Close: its session counts as open, and is closed by force later", c.Delay)
		s.wire.closeAll()
	}
}

// is checks who has logged in.
func (c *openerCheck) is(s *opened, username string) {
	got, err := queryString(s.Conn, c.UserQuery)
	switch {
	case err != nil:
		c.violated("login", "a query fails right after the login: %v", err)
	case got != username:
		c.violated("login", "the session is that of user %q, and the credential was %q's", got, username)
	}
}

// lingering is how long a context is done before it is said to have done no harm.
const lingering = 100 * time.Millisecond

// login logs in with one credential, then with the other, and with no password.
func (c *openerCheck) login() error {
	for _, cred := range []sqlrotate.Credential{c.Login, c.Other, c.Login} {
		s := c.session(cred)
		if s == nil {
			continue
		}
		c.is(s, cred.Username)
		for end := time.Now().Add(lingering); time.Now().Before(end); <-time.After(lingering / 10) {
			if _, err := queryString(s.Conn, c.UserQuery); err != nil {
				c.violated("context", "the connection doesn't survive the context that Open was called with: %v", err)
				break
			}
		}
		c.close(s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	without := sqlrotate.Credential{Username: c.Login.Username}
	conn, err, returned := c.open(ctx, c.Opener, without, &wire{dial: c.Dial}, "at a login without a password")
	if returned && err == nil {
		c.violated("login", "a credential without a password is let in: the driver has found a password elsewhere")
		_ = conn.Close()
	}
	return nil
}

// together logs in with both credentials at the same time.
func (c *openerCheck) together() error {
	var logins sync.WaitGroup
	for i := range 6 {
		cred := []sqlrotate.Credential{c.Login, c.Other}[i%2]
		logins.Go(func() {
			if s := c.session(cred); s != nil {
				c.is(s, cred.Username)
				c.close(s)
			}
		})
	}
	logins.Wait()
	return nil
}

// dials has nothing be dialled.
func (c *openerCheck) dials() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := &wire{dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("sqlrotatetest: nothing can be dialled")}
	}}
	conn, err, returned := c.open(ctx, c.Opener, c.Login, w, "while nothing could be dialled")
	if !returned {
		return nil
	}
	if err == nil {
		c.violated("dial", "a connection came about although the dial function fails: the driver dials for itself")
		_ = conn.Close()
	} else if c.Opener.Refused(err) {
		c.violated("refused", "a failure to dial counts as refused")
	}
	return nil
}

// patience bounds logins and queries that should succeed.
const patience = 30 * time.Second

// stages is how many stages of a login are interrupted at the most.
const stages = 12

// returns interrupts logins: while dialling, and at each time that the server's answer
// is read.
func (c *openerCheck) returns() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := &wire{dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}
	c.interrupted(ctx, w, "while dialling")

	s := c.session(c.Login)
	if s == nil {
		return nil
	}
	reads := s.wire.loginReads()
	c.close(s)
	step := max(1, (reads+stages-1)/stages)
	for n := 0; n < reads; n += step {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		w := &wire{dial: c.Dial, stallAt: n + 1, stalled: cancel}
		c.interrupted(ctx, w, fmt.Sprintf("at read %d of %d of the login", n+1, reads))
		cancel()
	}
	return nil
}

// interrupted logs in over w, which ends ctx.
func (c *openerCheck) interrupted(ctx context.Context, w *wire, stage string) {
	c.mu.Lock()
	hung := c.hung
	c.mu.Unlock()
	if hung {
		return // it has been said, and each stage takes its time
	}
	conn, err, returned := c.open(ctx, c.Opener, c.Login, w, stage)
	if !returned || err != nil {
		if returned && c.Opener.Refused(err) {
			c.violated("refused", "a login that its context interrupted counts as refused")
		}
		return
	}
	if w.interrupted() {
		c.violated("login", "Open returned a connection before the login was done")
	}
	_ = conn.Close()
	w.closeAll()
}

// judges has logins fail for all reasons that the harness knows.
func (c *openerCheck) judges() error {
	states, refused := serverStates()
	tried := map[ServerState]bool{}
	for _, k := range c.Cases {
		if !slices.Contains(states, k.State) {
			return fmt.Errorf("the harness has a case for %q, which is no ServerState that is known", k.State)
		}
		tried[k.State] = true
		if err := c.judge(k, refused[k.State]); err != nil {
			return err
		}
	}
	for _, state := range states {
		if !tried[state] {
			c.Unchecked("what Refused says of: " + string(state))
		}
	}
	if tried[WrongPassword] {
		return c.judge(OpenerCase{State: WrongPassword, Credential: namesake(c.Login.Username)}, true)
	}
	return nil
}

// namesake is a credential whose password is the user's name.
func namesake(username string) sqlrotate.Credential {
	return sqlrotate.Credential{Username: username, Password: sqlrotate.NewSecret(username)}
}

func (c *openerCheck) judge(k OpenerCase, refused bool) (err error) {
	if k.Begin != nil {
		if k.End != nil {
			defer func() {
				if endErr := k.End(); endErr != nil {
					err = errors.Join(err, fmt.Errorf("end of %q: %w", k.State, endErr))
				}
			}()
		}
		if err := k.Begin(); err != nil {
			return fmt.Errorf("begin of %q: %w", k.State, err)
		}
	}
	o, cred := k.Opener, k.Credential
	if o == nil {
		o = c.Opener
	}
	if cred.Username == "" {
		cred = c.Login
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, openErr, returned := c.open(ctx, o, cred, &wire{dial: c.Dial}, fmt.Sprintf("with %q", k.State))
	switch {
	case !returned:
		return nil
	case openErr == nil:
		c.violated("login", "a login succeeds that should fail: %s", k.State)
		_ = conn.Close()
	case o.Refused(openErr) == refused:
	case refused:
		c.violated("refused", "%s: the error doesn't count as refused, so neither is another credential asked for nor its predecessor used: %s", k.State, textOf(openErr, cred))
	default:
		c.violated("refused", "%s: the error counts as refused, and the credential is not to blame: %s", k.State, textOf(openErr, cred))
	}
	return nil
}

// notices has connections end while they are idle: by the connector's hand, and by
// the server's.
func (c *openerCheck) notices() error {
	if s := c.session(c.Login); s != nil {
		s.wire.closeAll()
		c.mustBeBad(s, "its socket was closed")
		c.close(s)
	}
	if c.EndSessions == nil {
		c.Unchecked("whether the driver notices that the server has ended an idle connection")
		return nil
	}
	s := c.session(c.Login)
	if s == nil {
		return nil
	}
	looks := s.wire.looks()
	if err := c.EndSessions(); err != nil {
		return fmt.Errorf("end the sessions: %w", err)
	}
	c.mustBeBad(s, "the server has ended it")
	if c.LooksAtSocket && s.wire.looks() == looks {
		c.violated("liveness", "the driver doesn't get to look at its socket, which was a syscall.Conn when it was dialled")
	}
	c.close(s)
	return nil
}

// mustBeBad asks the driver whether an idle connection is good, as database/sql does
// before it uses it and as a ping would, until it says no.
func (c *openerCheck) mustBeBad(s *opened, because string) {
	for end := time.Now().Add(c.Delay); time.Now().Before(end); <-time.After(time.Millisecond) {
		err := liveness(s.Conn)
		switch {
		case errors.Is(err, driver.ErrBadConn):
			return
		case err != nil:
			c.violated("liveness", "an idle connection fails with another error than driver.ErrBadConn, which the caller gets, although %s: %v", because, err)
			return
		}
	}
	c.violated("liveness", "an idle connection counts as good although %s", because)
}

// probes runs the probe query.
func (c *openerCheck) probes() error {
	p, ok := c.Opener.(interface{ ProbeQuery() string })
	if !ok || p.ProbeQuery() == "" {
		return nil
	}
	s := c.session(c.Other)
	if s == nil {
		return nil
	}
	defer c.close(s)
	if _, err := queryString(s.Conn, p.ProbeQuery()); err != nil {
		c.violated("probe", "the probe query fails in a session of a user that lives, which then counts as dead: %v", err)
	}
	if c.DropOther == nil {
		c.Unchecked("what the probe query does when its user was dropped")
		return nil
	}
	if err := c.DropOther(); err != nil {
		return fmt.Errorf("drop the user: %w", err)
	}
	if _, err := queryString(s.Conn, p.ProbeQuery()); err == nil {
		c.violated("probe", "the probe query succeeds in a session whose user was dropped")
	}
	return nil
}

// silent searches what was seen for the passwords.
func (c *openerCheck) silent() error {
	c.mu.Lock()
	failures, hung := c.failures, c.hung
	c.mu.Unlock()
	for _, f := range failures {
		if f.cred.SameLogin(namesake(f.cred.Username)) {
			continue // an error may say who was refused
		}
		if where := holds(f.err, f.cred); where != "" {
			c.violated("silent", "an error of Open, of type %T, holds the password in %s", f.err, where)
		}
	}
	if hung {
		return nil // it is in use
	}
	for _, cred := range []sqlrotate.Credential{c.Login, c.Other} {
		if where := holds(c.Opener, cred); where != "" {
			c.violated("silent", "the Opener keeps a password in %s", where)
		}
	}
	return nil
}
