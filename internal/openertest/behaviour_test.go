package openertest_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

type (
	cred   = sqlrotate.Credential
	dialer = sqlrotate.DialFunc
)

// faulty is lib/pq's opener with a fault in what is not nil.
type faulty struct {
	sqlrotate.Opener
	open    func(context.Context, sqlrotate.Opener, cred, dialer) (driver.Conn, error)
	refused func(error) bool
	conn    func(*conn)
}

func (f *faulty) Open(ctx context.Context, c cred, dial dialer) (driver.Conn, error) {
	open := f.open
	if open == nil {
		open = func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
			return o.Open(ctx, c, dial)
		}
	}
	made, err := open(ctx, f.Opener, c, dial)
	if err != nil || f.conn == nil {
		return made, err
	}
	with := &conn{pqConn: made.(pqConn), username: c.Username}
	f.conn(with)
	return with, nil
}

func (f *faulty) Refused(err error) bool {
	if f.refused == nil {
		return f.Opener.Refused(err)
	}
	return f.refused(err)
}

func (f *faulty) ProbeQuery() string { return "select current_user" }

// wordless is an opener that gives no code.
type wordless struct{ *faulty }

func (wordless) Code(error) string { return "" }
func (wordless) Full(error) bool   { return false }

// pqConn is what lib/pq's connections are.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// conn is a connection that is lib/pq's but for its fault.
type conn struct {
	pqConn
	username string
	exec     func(context.Context, string, []driver.NamedValue) (driver.Result, error)
	query    func(context.Context, string, []driver.NamedValue) (driver.Rows, error)
	prepare  func(context.Context, string) (driver.Stmt, error)
	begin    func(context.Context, driver.TxOptions) (driver.Tx, error)
	close    func() error
}

func (c *conn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if c.exec == nil {
		return c.pqConn.ExecContext(ctx, q, args)
	}
	return c.exec(ctx, q, args)
}

func (c *conn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if c.query == nil {
		return c.pqConn.QueryContext(ctx, q, args)
	}
	return c.query(ctx, q, args)
}

func (c *conn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	if c.prepare == nil {
		return c.pqConn.PrepareContext(ctx, q)
	}
	return c.prepare(ctx, q)
}

func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.begin == nil {
		return c.pqConn.BeginTx(ctx, o)
	}
	return c.begin(ctx, o)
}

func (c *conn) Close() error {
	if c.close == nil {
		return c.pqConn.Close()
	}
	return c.close()
}

// forgetful is a transaction that never comes to anything.
type forgetful struct{ driver.Tx }

func (f forgetful) Commit() error { return f.Rollback() }

// server is PostgreSQL with a fault in what is not nil.
type server struct {
	openertest.Database
	create func(ctx context.Context, username, password string) error
	drop   func(ctx context.Context, username string) error
	traits openertest.Traits
}

func (s *server) CreateLogin(ctx context.Context, username, password string) error {
	if s.create == nil {
		return s.Database.CreateLogin(ctx, username, password)
	}
	return s.create(ctx, username, password)
}

func (s *server) DropLogin(ctx context.Context, username string) error {
	if s.drop == nil {
		return s.Database.DropLogin(ctx, username)
	}
	return s.drop(ctx, username)
}

func (s *server) Traits() openertest.Traits {
	if s.traits == (openertest.Traits{}) {
		return s.Database.Traits()
	}
	return s.traits
}

// listener is a TB that keeps what a behaviour says, and has heard enough with what it wants.
type listener struct {
	*testing.T
	want string

	mu       sync.Mutex
	said     []string
	cleanups []func()
}

func (l *listener) Helper()             {}
func (l *listener) Attr(string, string) {}
func (l *listener) FailNow()            { runtime.Goexit() }

func (l *listener) Cleanup(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanups = append(l.cleanups, f)
}

func (l *listener) Failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.said) > 0
}

func (l *listener) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.mu.Lock()
	l.said = append(l.said, text)
	l.mu.Unlock()
	if strings.Contains(text, l.want) {
		l.FailNow()
	}
}

// mustFind checks that a behaviour says what is wrong, if only to put it down to the machine.
func mustFind(t *testing.T, want string, b openertest.Behaviour, s openertest.Suite) {
	t.Helper()
	l := &listener{T: t, want: want}
	var done sync.WaitGroup
	done.Go(func() { b.Check(l, s) })
	done.Wait()
	for _, cleanup := range slices.Backward(l.cleanups) {
		done.Go(cleanup)
		done.Wait()
	}
	if !slices.ContainsFunc(l.said, func(text string) bool { return strings.Contains(text, want) }) {
		t.Errorf("%q is not said, but %d times something else: %.2000q", want, len(l.said), l.said)
	}
}

func behaviour(t *testing.T, name string) openertest.Behaviour {
	t.Helper()
	for _, b := range append(openertest.Behaviours(), openertest.Rotations(5, time.Second)) {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("there is no behaviour %q", name)
	return openertest.Behaviour{}
}

// Each behaviour finds what is wrong with an opener, or a server, that breaks a promise.
func TestBehavioursFindWhatIsWrong(t *testing.T) {
	t.Attr("needs", "quiet")
	postgres := pgtest.New(t, openertest.QuickLogins())
	postgres.Admin().SetMaxOpenConns(20)
	db := openertest.OnPostgreSQL(t, postgres)
	opener, err := sqlrotate.LibPQ(postgres.DSN())
	if err != nil {
		t.Fatal(err)
	}
	suite := openertest.Suite{Database: db, Opener: opener, CutOff: openertest.CutOffSaysWhy, Soon: 3 * time.Second}
	direct := new(net.Dialer).DialContext
	every := func(n int64) func() bool { // each nth time it is asked
		var asked atomic.Int64
		return func() bool { return asked.Add(1)%n == 0 }
	}
	var mu sync.Mutex
	var held []io.Closer
	var leaked sync.WaitGroup
	leave := make(chan struct{})
	t.Cleanup(func() {
		close(leave)
		leaked.Wait()
		for _, conn := range held {
			_ = conn.Close()
		}
	})
	hold := func(conn io.Closer) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, conn)
	}
	second := func() func(context.Context, sqlrotate.Opener, cred, dialer) (driver.Conn, error) {
		var once atomic.Bool
		return func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
			if !once.Swap(true) {
				if conn, err := o.Open(ctx, c, direct); err == nil {
					hold(conn)
				}
			}
			return o.Open(ctx, c, dial)
		}
	}
	first := func() func(context.Context, sqlrotate.Opener, cred, dialer) (driver.Conn, error) {
		var first atomic.Pointer[cred]
		return func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
			first.CompareAndSwap(nil, &c)
			return o.Open(ctx, *first.Load(), dial)
		}
	}
	dialsItself := func(ctx context.Context, o sqlrotate.Opener, c cred, _ dialer) (driver.Conn, error) {
		return o.Open(ctx, c, direct)
	}
	refusesNothing := func(error) bool { return false }

	type fault = func(*faulty, *server)
	faults := []struct {
		name, behaviour string
		want            string // in what is said
		fault           fault
	}{
		{"statements fail", "drain is spread out", "operations failed", func(f *faulty, _ *server) {
			fails := every(100)
			f.conn = func(c *conn) {
				c.exec = func(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
					if fails() {
						return nil, errors.New("now and then")
					}
					return c.pqConn.ExecContext(ctx, q, args)
				}
			}
		}},
		{"statements run twice", "drain is spread out", "an acknowledged write is there 2 times", func(f *faulty, _ *server) {
			fails := every(100)
			f.conn = func(c *conn) {
				c.exec = func(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
					result, err := c.pqConn.ExecContext(ctx, q, args)
					if err == nil && fails() {
						return nil, driver.ErrBadConn
					}
					return result, err
				}
			}
		}},
		{"statements don't run", "drain is spread out", "an acknowledged write is there 0 times", func(f *faulty, _ *server) {
			fails := every(100)
			f.conn = func(c *conn) {
				c.exec = func(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
					if fails() {
						return driver.RowsAffected(1), nil
					}
					return c.pqConn.ExecContext(ctx, q, args)
				}
			}
		}},
		{"users are dropped with no overlap", "drain is spread out", "operations failed", func(_ *faulty, s *server) {
			var last string
			s.create = func(ctx context.Context, username, password string) error {
				old := last
				last = username
				if err := s.Database.CreateLogin(ctx, username, password); err != nil || old == "" {
					return err
				}
				return s.Database.DropLogin(ctx, old)
			}
			s.drop = func(context.Context, string) error { return nil }
		}},
		{"sessions are another user's", "rotations under load", "revoked", func(f *faulty, _ *server) {
			f.open = first()
		}},
		{"sessions are another's of two", "users alternate", "sessions gone", func(f *faulty, _ *server) {
			f.open = first()
		}},
		{"a session too many", "three rotations within one overlap", "revoked", func(f *faulty, _ *server) {
			f.open = second()
		}},
		{"a session too many", "prepared statements", "the old user's sessions gone", func(f *faulty, _ *server) {
			f.open = second()
		}},
		{"sessions that nobody has dialled", "idle sessions ended by the server", "books, after sessions were ended, round 1", func(f *faulty, _ *server) {
			f.open = dialsItself
		}},
		{"sessions that nobody has dialled", "hard end", "the end is noted", func(f *faulty, _ *server) {
			f.open = dialsItself
		}},
		{"connections don't close", "wrong password", "no socket is open after Close", func(f *faulty, _ *server) {
			f.conn = func(c *conn) { c.close = func() error { hold(c.pqConn); return nil } }
		}},
		{"two sockets for a login", "drain is spread out", "sockets at once", func(f *faulty, _ *server) {
			f.open = func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
				_, _ = dial(ctx, "tcp", net.JoinHostPort(postgres.Host(), fmt.Sprint(postgres.Port())))
				return o.Open(ctx, c, dial)
			}
		}},
		{"goroutines stay", "login dropped in use", "goroutines are left after Close", func(f *faulty, _ *server) {
			f.open = func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
				leaked.Go(func() { <-leave })
				return o.Open(ctx, c, dial)
			}
		}},
		{"a password is quoted", "wrong password", "a password was said", func(f *faulty, _ *server) {
			f.open = func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
				conn, err := o.Open(ctx, c, dial)
				if err != nil {
					err = fmt.Errorf("with %q: %w", c.Password.Reveal(), err)
				}
				return conn, err
			}
		}},
		{"nothing is refused", "wrong password", "a query with a wrong password", func(f *faulty, _ *server) {
			f.refused = refusesNothing
		}},
		{"nothing is refused", "password changed in place, with new connections all the time", "operations failed", func(f *faulty, _ *server) {
			f.refused = refusesNothing
		}},
		{"nothing is refused", "password changed in place, with a pool that must grow", "operations failed", func(f *faulty, _ *server) {
			f.refused = refusesNothing
		}},
		{"nothing is refused", "login published before it exists, with a pool", "a refusal", func(f *faulty, _ *server) {
			f.refused = refusesNothing
		}},
		{"nothing is refused", "login published before it exists, with nobody asking", "a refusal", func(f *faulty, _ *server) {
			f.refused = refusesNothing
		}},
		{"a refusal is retried", "login published before it exists, with new connections all the time", "refused logins in 2 s", func(f *faulty, _ *server) {
			f.open = func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (conn driver.Conn, err error) {
				for range 5 { // the connector counts one
					if conn, err = o.Open(ctx, c, dial); err == nil {
						break
					}
				}
				return conn, err
			}
		}},
		{"reads are cut", "drain of busy connections", "read ", func(f *faulty, _ *server) {
			f.open = func(ctx context.Context, o sqlrotate.Opener, c cred, dial dialer) (driver.Conn, error) {
				return o.Open(ctx, c, func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := dial(ctx, network, address)
					if err != nil {
						return nil, err
					}
					return &shortlived{Conn: conn, left: 100_000}, nil
				})
			}
		}},
		{"commits are rolled back", "no hard end", "the transaction's write is there 0 times", func(f *faulty, _ *server) {
			f.conn = func(c *conn) {
				c.begin = func(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
					tx, err := c.pqConn.BeginTx(ctx, o)
					return forgetful{tx}, err
				}
			}
		}},
		{"why is kept to itself", "hard end", "a statement that was cut", func(f *faulty, _ *server) {
			f.conn = func(c *conn) {
				c.exec = func(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
					result, err := c.pqConn.ExecContext(ctx, q, args)
					if err != nil {
						err = errors.New("it is over")
					}
					return result, err
				}
			}
		}},
		{"statements can't be prepared again", "prepared statements", "an execution fails", func(f *faulty, _ *server) {
			fails := every(8)
			f.conn = func(c *conn) {
				c.prepare = func(ctx context.Context, q string) (driver.Stmt, error) {
					if fails() {
						return nil, errors.New("prepared already")
					}
					return c.pqConn.PrepareContext(ctx, q)
				}
			}
		}},
		{"ends of sessions are no driver.ErrBadConn", "idle sessions ended by the server", "a query after the server has ended idle sessions", func(f *faulty, _ *server) {
			f.conn = func(c *conn) {
				c.query = func(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
					rows, err := c.pqConn.QueryContext(ctx, q, args)
					if errors.Is(err, driver.ErrBadConn) {
						err = errors.New("it is over")
					}
					return rows, err
				}
			}
		}},
		{"sessions don't work on", "old login dropped early", "operations failed", func(_ *faulty, s *server) {
			s.traits = db.Traits()
			s.traits.AfterDrop = openertest.SessionsWorkOn
		}},
		{"sessions don't work on", "login dropped in use", "a query after its user was dropped", func(_ *faulty, s *server) {
			s.traits = db.Traits()
			s.traits.AfterDrop = openertest.SessionsWorkOn
		}},
	}
	var all sync.WaitGroup
	atOnce := make(chan struct{}, 8) // they wait most of the time
	for _, test := range faults {
		atOnce <- struct{}{}
		all.Go(func() {
			defer func() { <-atOnce }()
			t.Run(test.name+" in "+test.behaviour, func(t *testing.T) {
				f, s := &faulty{Opener: opener}, &server{Database: db}
				test.fault(f, s)
				suite := suite
				suite.Opener, suite.Database = f, s
				mustFind(t, test.want, behaviour(t, test.behaviour), suite)
			})
		})
	}
	all.Go(func() {
		t.Run("no code in wrong password", func(t *testing.T) {
			suite := suite
			suite.Opener = wordless{&faulty{Opener: opener}}
			mustFind(t, "nobody was told that the login is refused", behaviour(t, "wrong password"), suite)
		})
	})
	all.Wait()

	found := map[string]bool{"rotations under load": true}
	for _, test := range faults {
		found[test.behaviour] = true
	}
	for _, b := range openertest.Behaviours() {
		if !found[b.Name] {
			t.Errorf("no fault is planted for %q", b.Name)
		}
	}
}

// shortlived is a connection that breaks when so much was read.
type shortlived struct {
	net.Conn
	left int
}

func (c *shortlived) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left -= n; c.left < 0 {
		_ = c.Close()
	}
	return n, err
}
