// Sessions seen at their sockets: which credential version each was opened with,
// when it ends and, if the connector cut it off, why. Nothing is wrapped around
// driver.Conn.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// session is one login and the connection that came of it.
type session struct {
	id       rotation.SessionID
	version  *version
	calls    *calls
	dialer   DialFunc
	observed *observed      // notes what the sockets show
	ended    func(*session) // called once, when a session that was logged in is over
	stirred  func()         // called when used becomes true; may be nil
	conn     driver.Conn    // set when logged in

	// Guarded by Connector.mu.
	pool   *pool // that has it
	held   *Held // if no pool is to have it
	handed bool  // a pool, or whoever called Connect or Hold, has it or had it
	over   bool

	leaves     atomic.Bool                   // its Pool is to close it: see Session.Keep
	inUse      atomic.Bool                   // its Pool has lent it
	lentAt     atomic.Int64                  // since when, as an instant
	used       atomic.Bool                   // something was sent or read since this was last asked
	expired    atomic.Pointer[OutlivedError] // set when it is cut off
	connClosed atomic.Bool
	dam        atomic.Pointer[dam] // keeps back what is written; nil: nothing does
	settled    atomic.Bool         // the login is over, and it is known which socket is the session's

	// What a pool does with it.
	lent               atomic.Bool // a pool has it, or had it
	exchange           atomic.Int32
	sentAt, answeredAt atomic.Int64 // since when and when last, as instants; zero: never

	mu      sync.Mutex // guards what follows; nothing is called under it
	sockets []*socket  // open ones
	last    *socket    // the one that was read from last; nil: none was
	seen    bool       // it had a socket when it settled: its end can be seen
	aborted bool
	queried chan struct{} // closed when the connector's own last query has returned; nil: there was none
}

// login opens the session. When ctx is done it returns at once, whatever the driver and
// the server do: lib/pq looks at the context in its TCP dial only, so the sockets are
// closed under it; and a connection that comes too late is closed.
func (s *session) login(ctx context.Context, opener Opener, cred Credential) error {
	stop := context.AfterFunc(ctx, s.abort)
	conn, err := call(ctx, &s.calls.logins, func(ctx context.Context) (driver.Conn, error) {
		conn, err := opener.Open(ctx, cred, s.dial)
		switch {
		case err != nil:
			return nil, newLoginError(opener, err)
		case conn == nil:
			return nil, errors.New("sqlrotate: the Opener returned no connection and no error")
		}
		return conn, nil
	}, func(conn driver.Conn) { s.calls.shut(conn) })
	if err == nil {
		s.conn = conn
	}
	if stopped := stop(); !stopped || over(ctx) {
		if err == nil {
			s.calls.tasks.start(s.closeConn)
		}
		s.abort()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return context.DeadlineExceeded
	}
	if err != nil {
		s.abort()
		return err
	}
	if !s.settle() {
		s.calls.tasks.start(s.closeConn)
		return net.ErrClosed
	}
	return nil
}

// closeConn closes the driver's connection, once, and waits for that as long as
// closeTimeout. The pool closes those that it has been given itself.
func (s *session) closeConn() {
	if !s.connClosed.CompareAndSwap(false, true) {
		return
	}
	_ = callFor(closeTimeout, &s.calls.closes, func() error {
		s.await(nil)
		return s.conn.Close()
	})
	s.abort() // or else the driver has done so
}

// query runs a query of the connector's own. A driver's connection is for one goroutine at a
// time, so whoever uses or closes it next awaits the end of one that was abandoned. as makes
// of the driver's error one that can be passed on.
func (s *session) query(ctx context.Context, query string, as func(error) error) error {
	stop := context.AfterFunc(ctx, s.abort)
	_, err := call(ctx, &s.calls.probes, func(ctx context.Context) (struct{}, error) {
		returned := make(chan struct{})
		defer close(returned)
		s.mu.Lock()
		s.queried = returned
		s.mu.Unlock()
		if ctx.Err() != nil { // nobody may have seen it begin
			return struct{}{}, context.Cause(ctx)
		}
		err := runQuery(ctx, s.conn, query)
		if err != nil {
			err = as(err)
		}
		return struct{}{}, err
	}, nil)
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// await waits until no query of the connector's own runs, or until done.
func (s *session) await(done <-chan time.Time) {
	s.mu.Lock()
	queried := s.queried
	s.mu.Unlock()
	if queried == nil {
		return
	}
	select {
	case <-queried:
	case <-done:
	}
}

// over reports whether ctx is done or its deadline has passed: a dialer that goes
// by the deadline fails a moment before the context says so.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// dial is the Dial that the driver gets. What it opens before the login is done
// belongs to the session; later calls are the driver's own short-lived
// connections, such as query cancellations.
func (s *session) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := call(ctx, &s.calls.dials, func(ctx context.Context) (net.Conn, error) {
		conn, err := s.dialer(ctx, network, address)
		if err == nil && conn == nil {
			err = errors.New("sqlrotate: Config.Dial returned no connection and no error")
		}
		return conn, err
	}, func(conn net.Conn) { s.calls.shut(conn) })
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.settled.Load():
		return conn, nil
	case s.aborted:
		s.calls.shut(conn)
		return nil, net.ErrClosed
	}
	k := &socket{Conn: conn, session: s}
	s.sockets = append(s.sockets, k)
	if raw, ok := conn.(syscall.Conn); ok {
		return rawSocket{k, raw}, nil
	}
	return k, nil
}

// settle ends the login. Of several sockets that are open the one that was read from
// last is the session's, because a login ends with an answer of the server's; what else
// is open was left behind by an attempt at another host or without TLS. It reports false
// if the session was aborted meanwhile.
func (s *session) settle() bool {
	s.mu.Lock()
	if s.aborted {
		s.mu.Unlock()
		return false
	}
	s.settled.Store(true)
	left := s.sockets
	if n := len(left); n > 0 {
		i := slices.Index(left, s.last)
		if i < 0 {
			i = n - 1 // the server has not said a word yet
		}
		s.sockets = left[i : i+1 : i+1]
		s.seen = true
		left = slices.Delete(slices.Clone(left), i, i+1)
	}
	s.mu.Unlock()
	for _, k := range left {
		s.calls.tasks.start(func() { _ = k.Close() })
	}
	return true
}

// heard notes that the server has said something on k.
func (s *session) heard(k *socket) {
	if !s.settled.Load() {
		s.readFrom(k)
		return
	}
	s.answers()
}

// readFrom notes that k was read from last.
func (s *session) readFrom(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = k
}

// expire has whoever uses the session from now on told why it is closed. It does not
// close it: that may take its time.
func (s *session) expire(reason *OutlivedError) {
	s.expired.Store(reason)
	s.mu.Lock()
	sockets := s.sockets
	s.mu.Unlock()
	for _, k := range sockets {
		s.calls.tasks.start(func() { _ = k.SetDeadline(time.Unix(1, 0)) }) // for those who wait, if Close hangs
	}
}

// abort closes every socket of the session, and waits for none. A statement that runs on one fails
// with an error that database/sql doesn't retry; an idle connection is found
// dead before a byte is sent, and replaced.
func (s *session) abort() {
	s.mu.Lock()
	s.aborted = true
	sockets := s.sockets
	s.mu.Unlock()
	for _, k := range sockets {
		s.calls.tasks.start(func() { _ = k.Close() })
	}
}

// untracked reports whether the session has no socket that was dialled through it, so that
// its end can't be seen.
func (s *session) untracked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled.Load() && !s.seen
}

// remove forgets a closed socket and reports whether the session ended with it.
func (s *session) remove(k *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.sockets, k)
	if i < 0 {
		return false
	}
	s.sockets = append(s.sockets[:i:i], s.sockets[i+1:]...)
	return s.settled.Load() && len(s.sockets) == 0
}

// peek looks at what the server has sent, without reading it.
func (s *session) peek() peeked {
	s.mu.Lock()
	sockets := s.sockets
	s.mu.Unlock()
	if len(sockets) != 1 {
		return peekUnknown
	}
	if raw, ok := sockets[0].Conn.(syscall.Conn); ok {
		return peek(raw)
	}
	return peekUnknown
}

// peeked is what a look at an idle connection has found.
type peeked int

const (
	peekUnknown peeked = iota // it can't be looked at
	peekQuiet                 // nothing has been sent
	peekPending               // something has
	peekOver                  // the connection is closed or broken
)

// socket is a network connection that tells its session when it is closed, and those who
// use it why the connector has done so.
type socket struct {
	net.Conn
	session *session
	closed  atomic.Bool
}

// Read reads from the connection.
func (k *socket) Read(b []byte) (int, error) {
	k.session.awaits()
	n, err := k.Conn.Read(b)
	k.session.use()
	if n > 0 {
		k.session.heard(k)
	}
	if err != nil && k.session.expired.Load() != nil {
		err = k.outlived("read")
	}
	return n, err
}

// Write writes to the connection: nothing, if that has been cut off.
func (k *socket) Write(b []byte) (int, error) {
	if k.session.expired.Load() != nil {
		return 0, k.outlived("write")
	}
	if d := k.session.dam.Load(); d != nil && d.keep(b) {
		return len(b), nil
	}
	k.session.use()
	k.session.sends()
	n, err := k.Conn.Write(b)
	if err != nil && k.session.expired.Load() != nil {
		err = k.outlived("write")
	}
	return n, err
}

// use notes that something is sent or read. Mostly it was noted before, and costs a load.
func (s *session) use() {
	if s.used.Load() {
		return
	}
	s.used.Store(true)
	if s.stirred != nil {
		s.stirred()
	}
}

// outlived is what a connection that was cut off fails with: a *net.OpError, as from any
// connection that is closed, so that drivers know what to make of it.
func (k *socket) outlived(op string) error {
	err := &net.OpError{Op: op, Source: k.LocalAddr(), Addr: k.RemoteAddr(), Err: cutOffError{k.session.expired.Load()}}
	if err.Addr != nil {
		err.Net = err.Addr.Network()
	}
	return err
}

// cutOffError passes for a timeout. After one pgx reads again, and its statement fails with what
// that gives; after another error it says that the connection was closed before anything was
// sent, and database/sql runs the statement once more.
type cutOffError struct{ *OutlivedError }

// Timeout is what [net.OpError] asks for.
func (cutOffError) Timeout() bool { return true }

func (e cutOffError) Unwrap() error { return e.OutlivedError }

// Close closes the connection, and waits for that as long as closeTimeout. Only the first
// call does anything, and returns an error if that fails: drivers complain of a second one.
func (k *socket) Close() error {
	if !k.closed.CompareAndSwap(false, true) {
		return nil
	}
	return callFor(closeTimeout, &k.session.calls.netCloses, func() error {
		err := k.Conn.Close()
		if k.session.remove(k) {
			k.session.ended(k.session)
		}
		return err
	})
}

// NetConn returns the connection that is wrapped, as in crypto/tls.
func (k *socket) NetConn() net.Conn { return k.Conn }

// rawSocket is a socket over a [syscall.Conn], which some drivers look at before they use
// a connection again.
type rawSocket struct {
	*socket
	raw syscall.Conn
}

// SyscallConn implements [syscall.Conn].
func (k rawSocket) SyscallConn() (syscall.RawConn, error) {
	k.session.looksAtIt()
	return k.raw.SyscallConn()
}
