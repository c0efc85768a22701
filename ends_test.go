// The sockets of each role's sessions, seen at this end.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// ends notes when the sockets of each role's sessions are closed. It is an Opener over
// another one, and comes with a Dial.
type ends struct {
	Opener
	dialer DialFunc

	mu    sync.Mutex
	roles map[string]*roleEnds
}

// roleEnds is what is known of a role's sockets.
type roleEnds struct {
	open   int
	closed time.Time // the last of those that are closed
}

// ProbeQuery is that of the opener within, if it has one.
func (e *ends) ProbeQuery() string {
	if o, ok := e.Opener.(interface{ ProbeQuery() string }); ok {
		return o.ProbeQuery()
	}
	return ""
}

// watchEnds puts ends before what cfg dials and logs in with.
func watchEnds(cfg *Config) *ends {
	e := &ends{Opener: cfg.Opener, dialer: cfg.Dial, roles: map[string]*roleEnds{}}
	if e.dialer == nil {
		e.dialer = new(net.Dialer).DialContext
	}
	cfg.Opener, cfg.Dial = e, e.dial
	return e
}

type roleKey struct{}

// Open tells dial who logs in.
func (e *ends) Open(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error) {
	if err := plantedWait(ctx, "login"); err != nil {
		return nil, err
	}
	return e.Opener.Open(ctx, cred, func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(context.WithValue(ctx, roleKey{}, cred.Username), network, address)
	})
}

func (e *ends) dial(ctx context.Context, network, address string) (net.Conn, error) {
	_ = plantedWait(context.Background(), "dial")
	conn, err := e.dialer(ctx, network, address)
	if err != nil {
		return nil, err
	}
	role, _ := ctx.Value(roleKey{}).(string)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.roles[role] == nil {
		e.roles[role] = &roleEnds{}
	}
	e.roles[role].open++
	return &endedConn{Conn: conn, ends: e, role: role}, nil
}

// endedConn is a socket that says when it is closed.
type endedConn struct {
	net.Conn
	ends *ends
	role string
	once sync.Once
}

// SyscallConn passes on what is wrapped, so that the connection can be looked at.
func (c *endedConn) SyscallConn() (syscall.RawConn, error) {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return raw.SyscallConn()
}

func (c *endedConn) Close() error {
	_ = plantedWait(context.Background(), "close")
	err := c.Conn.Close()
	c.once.Do(func() {
		c.ends.mu.Lock()
		defer c.ends.mu.Unlock()
		c.ends.roles[c.role].open--
		c.ends.roles[c.role].closed = time.Now()
	})
	return err
}

// of returns how many sockets of a role are open, and when the last of those that
// aren't was closed.
func (e *ends) of(role string) (open int, closed time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.roles[role]; r != nil {
		return r.open, r.closed
	}
	return 0, time.Time{}
}

// forget forgets a role that is gone.
func (e *ends) forget(role string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.roles[role]; r != nil && r.open == 0 {
		delete(e.roles, role)
	}
}
