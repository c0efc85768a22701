// Sessions seen at their sockets: which credential version each was opened with,
// and when it ends. Nothing is wrapped around driver.Conn.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"net"
	"sync"
	"time"
)

// session is one login and the connection that came of it.
type session struct {
	version *version
	dialer  Dial
	ended   func(*session) // called once, when a session that was logged in is over
	conn    driver.Conn    // set when logged in

	// Guarded by Connector.mu.
	born    time.Time // handed to the pool, a moment before database/sql's own createdAt; zero before
	ready   time.Time // logged in
	due     reason    // why it is to be retired; empty: it is not
	dueAt   time.Time
	severed bool
	standby bool // it is kept for the pool, or was

	mu       sync.Mutex // guards what follows; nothing is called under it
	sockets  []*socket  // open ones
	dialled  bool       // the driver has opened a socket: its end can be seen
	loggedIn bool
	aborted  bool
}

// reason says why a connection was retired.
type reason string

const (
	reasonSuperseded reason = "superseded" // a successor of its credential has proven itself
	reasonAged       reason = "aged"       // its lifetime is over
	reasonEnding     reason = "ending"     // its credential ends soon
	reasonSevered    reason = "severed"    // its credential has ended, and it was still open
)

// login opens the session. When ctx is done it returns at once, whatever the
// server does: lib/pq looks at the context in its TCP dial only, so the sockets
// are closed under it.
func (s *session) login(ctx context.Context, opener Opener, cred Credential) error {
	stop := context.AfterFunc(ctx, s.abort)
	conn, err := opener.Open(ctx, cred, s.dial)
	if stopped := stop(); !stopped || over(ctx) {
		if err == nil {
			_ = conn.Close()
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
	s.conn = conn
	if !s.settle() {
		_ = conn.Close()
		return net.ErrClosed
	}
	return nil
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
	conn, err := s.dialer(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.loggedIn:
		return conn, nil
	case s.aborted:
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	k := &socket{Conn: conn, session: s}
	s.sockets = append(s.sockets, k)
	s.dialled = true
	return k, nil
}

// settle ends the login: the socket dialled last is the session's, and whatever
// else is open was left behind by an attempt at another host or without TLS. It
// reports false if the session was aborted meanwhile.
func (s *session) settle() bool {
	s.mu.Lock()
	if s.aborted {
		s.mu.Unlock()
		return false
	}
	s.loggedIn = true
	var left []*socket
	if n := len(s.sockets); n > 1 {
		left, s.sockets = s.sockets[:n-1:n-1], s.sockets[n-1:]
	}
	s.mu.Unlock()
	for _, k := range left {
		_ = k.Conn.Close()
	}
	return true
}

// abort closes every socket of the session. A statement that runs on one fails
// with an error that database/sql doesn't retry; an idle connection is found
// dead before a byte is sent, and replaced.
func (s *session) abort() {
	s.mu.Lock()
	s.aborted = true
	sockets := s.sockets
	s.mu.Unlock()
	for _, k := range sockets {
		_ = k.Close()
	}
}

// blind reports whether the driver never dialled through the session, so that
// its end can't be seen.
func (s *session) blind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loggedIn && !s.dialled
}

// remove forgets a closed socket and reports whether the session ended with it.
func (s *session) remove(k *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.sockets {
		if other == k {
			s.sockets = append(s.sockets[:i:i], s.sockets[i+1:]...)
			return s.loggedIn && len(s.sockets) == 0
		}
	}
	return false
}

// socket is a network connection that tells its session when it is closed. It
// adds nothing to reading and writing.
type socket struct {
	net.Conn
	session *session
	once    sync.Once
}

func (k *socket) Close() error {
	err := k.Conn.Close()
	k.once.Do(func() {
		if k.session.remove(k) {
			k.session.ended(k.session)
		}
	})
	return err
}
