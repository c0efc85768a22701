// sockets: what is dialled, by who logs in.

package openertest

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// sockets notes what is dialled for each user, and the logins that are tried. It comes as a
// Dial and an Opener.
type sockets struct {
	mu    sync.Mutex // guards what follows
	users map[string]*userSockets
	open  int
	most  int // that were open at once
}

// userSockets is what is known of a user's sockets.
type userSockets struct {
	open    int
	dialled int       // that were opened
	closed  time.Time // the last of those that are closed
	refused int       // logins
}

func newSockets() *sockets { return &sockets{users: map[string]*userSockets{}} }

// ofLocked returns what is known of a user.
func (s *sockets) ofLocked(username string) *userSockets {
	if s.users[username] == nil {
		s.users[username] = &userSockets{}
	}
	return s.users[username]
}

func (s *sockets) of(username string) userSockets {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.ofLocked(username)
}

// count returns how many sockets are open.
func (s *sockets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// peak returns how many were open at once.
func (s *sockets) peak() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

type userKey struct{}

func (s *sockets) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	username, _ := ctx.Value(userKey{}).(string)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ofLocked(username).open++
	s.ofLocked(username).dialled++
	s.open++
	s.most = max(s.most, s.open)
	return &socket{Conn: conn, all: s, username: username}, nil
}

// socket says when it is closed.
type socket struct {
	net.Conn
	all      *sockets
	username string
	once     sync.Once
}

// SyscallConn passes on what is wrapped, so that the connection can be looked at.
func (c *socket) SyscallConn() (syscall.RawConn, error) {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return raw.SyscallConn()
}

// Close implements [net.Conn].
func (c *socket) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		user := c.all.ofLocked(c.username)
		user.open--
		user.closed = time.Now()
		c.all.open--
	})
	return err
}

// words are the methods of openers for servers that don't speak PostgreSQL's SQLSTATE.
type words interface {
	Code(err error) string
	Full(err error) bool
}

// watch returns an opener that is o, and tells dial who logs in.
func (s *sockets) watch(o sqlrotate.Opener) sqlrotate.Opener {
	w := &watched{o, s}
	if of, ok := o.(words); ok {
		return struct {
			*watched
			words
		}{w, of}
	}
	return w
}

type watched struct {
	sqlrotate.Opener
	sockets *sockets
}

// ProbeQuery is that of the opener within, if it has one.
func (w *watched) ProbeQuery() string {
	if o, ok := w.Opener.(interface{ ProbeQuery() string }); ok {
		return o.ProbeQuery()
	}
	return ""
}

// Open implements [sqlrotate.Opener].
func (w *watched) Open(ctx context.Context, cred sqlrotate.Credential, dial sqlrotate.DialFunc) (driver.Conn, error) {
	conn, err := w.Opener.Open(ctx, cred, func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(context.WithValue(ctx, userKey{}, cred.Username), network, address)
	})
	if err != nil && w.Refused(err) {
		w.sockets.mu.Lock()
		defer w.sockets.mu.Unlock()
		w.sockets.ofLocked(cred.Username).refused++
	}
	return conn, err
}
