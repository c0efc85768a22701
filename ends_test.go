// The sockets of each role's sessions, seen at this end, and what can be put in their
// way to see whether tests notice.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// ends notes when the sockets of each role's sessions are closed. It is an Opener over
// another one, and comes with a Dial.
type ends struct {
	Opener
	dialer  Dial
	planted planted

	mu    sync.Mutex
	roles map[string]*roleEnds
}

// roleEnds is what is known of a role's sockets.
type roleEnds struct {
	open   int
	closed time.Time // the last of those that are closed
}

// watchEnds puts ends before what cfg dials and logs in with.
func watchEnds(tb testing.TB, cfg *Config) *ends {
	tb.Helper()
	e := &ends{Opener: cfg.Opener, dialer: cfg.Dial, planted: plantedDelay(tb), roles: map[string]*roleEnds{}}
	if e.dialer == nil {
		e.dialer = new(net.Dialer).DialContext
	}
	cfg.Opener, cfg.Dial = e, e.dial
	return e
}

type roleKey struct{}

// Open tells dial who logs in.
func (e *ends) Open(ctx context.Context, cred Credential, dial Dial) (driver.Conn, error) {
	if err := e.planted.wait(ctx, "login"); err != nil {
		return nil, err
	}
	return e.Opener.Open(ctx, cred, func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(context.WithValue(ctx, roleKey{}, cred.Username), network, address)
	})
}

func (e *ends) dial(ctx context.Context, network, address string) (net.Conn, error) {
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

func (c *endedConn) Close() error {
	_ = c.ends.planted.wait(context.Background(), "close")
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

// plantEnv plants a delay in the way of all that services of a test binary do, such as
// "close=1s": each login, each reading of the source, or each close of a socket then
// takes longer.
const plantEnv = "SQLROTATE_TEST_PLANT"

type planted struct {
	what  string
	delay time.Duration
}

func plantedDelay(tb testing.TB) planted {
	tb.Helper()
	what, delay, found := strings.Cut(os.Getenv(plantEnv), "=")
	if !found {
		return planted{}
	}
	d, err := time.ParseDuration(delay)
	if err != nil {
		tb.Fatal(err)
	}
	return planted{what, d}
}

// wait is in the way of something.
func (p planted) wait(ctx context.Context, what string) error {
	if p.what != what {
		return nil
	}
	t := time.NewTimer(p.delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// plantedSource is a source that is read late.
type plantedSource struct {
	*FileSource
	planted planted
}

func (s plantedSource) Credential(ctx context.Context) (Credential, error) {
	if err := s.planted.wait(ctx, "read"); err != nil {
		return Credential{}, err
	}
	return s.FileSource.Credential(ctx)
}
