package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// blindDriver is a driver that dials for itself.
type blindDriver struct {
	mu    sync.Mutex
	open  int
	total int
}

func (d *blindDriver) Open(string) (driver.Conn, error) {
	time.Sleep(5 * time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total++
	d.open++
	return &blindConn{d: d}, nil
}

type blindConn struct {
	d    *blindDriver
	once sync.Once
}

func (c *blindConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *blindConn) Begin() (driver.Tx, error)           { return fakeTx{}, nil }
func (c *blindConn) Ping(context.Context) error          { return nil }
func (c *blindConn) Close() error { // by the pool, or by the connector
	c.once.Do(func() { c.d.mu.Lock(); c.d.open--; c.d.mu.Unlock() })
	return nil
}

func (c *blindConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return noRows{}, nil
}

func newBlindRig(t *testing.T) (*rig, *blindDriver) {
	d := &blindDriver{}
	r := newRig(t, func(cfg *Config) {
		cfg.Opener = FromDriver(d, func(c Credential) string { return c.Username })
		cfg.Window = Window{Overlap: 2 * time.Minute, Lag: 10 * time.Second, MaxInUse: 20 * time.Second}
	})
	return r, d
}

// Sessions of FromDriver that the connector itself closes.
func TestBlindSessionsThatTheConnectorClosesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := newBlindRig(t)
		r.fill(5)
		time.Sleep(time.Second)
		for _, u := range []string{"v2", "v3", "v4", "v5"} {
			r.source.publish(u, "p")
			for range 300 {
				time.Sleep(time.Second)
				if err := r.query("0s"); err != nil {
					t.Error(err)
				}
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		r.c.mu.Lock()
		sessions, versions := len(r.c.sessions), len(r.c.book.versions)
		r.c.mu.Unlock()
		d.mu.Lock()
		defer d.mu.Unlock()
		if sessions > 2 || versions > 1 || r.c.Stats().Outlived > 0 {
			t.Errorf("%d sessions and %d versions are remembered; %d connections open at the driver, %d logins in all; overran %d",
				sessions, versions, d.open, d.total, r.c.Stats().Outlived)
		}
		if err := r.c.CheckHealth(); err != nil {
			t.Error(err)
		}
	})
}

// Sessions of FromDriver that are open at the end of their credential.
func TestBlindSessionsThatAreSeveredAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newBlindRig(t)
		lease := func(user string) {
			r.source.set(Credential{Username: user, Password: NewSecret("p"), NotAfter: time.Now().Add(time.Minute)}, nil)
		}
		lease("v2")
		r.fill(2)
		time.Sleep(50 * time.Second) // its checkout: what is born now goes at the end
		r.fill(2)
		conn, err := r.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		_ = conn.Close()
		r.source.publish("v3", "p")
		for range 600 {
			time.Sleep(time.Second)
			if err := r.query("0s"); err != nil {
				t.Error(err)
			}
		}
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		if drain := r.c.rules.Snapshot(r.c.now()).Pools[0].DrainSince; len(r.c.book.versions) > 1 || drain != 0 {
			t.Errorf("%d sessions, %d versions, drain since %v", len(r.c.sessions), len(r.c.book.versions), drain)
		}
	})
}

// A login whose credential ends between its last byte and its return.
func TestSessionThatIsSeveredAtTheEndOfItsLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			s := cfg.Opener.(*fakeServer)
			cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, n int, cred Credential, dial DialFunc) (driver.Conn, error) {
				conn, err := s.Open(ctx, cred, dial)
				if n == 1 {
					time.Sleep(2 * time.Second)
				}
				return conn, err
			}}
		})
		r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(time.Second)}, nil)
		go func() { time.Sleep(1500 * time.Millisecond); r.rotate("v2") }()
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		for _, s := range r.c.sessions {
			if s.version.cred.Username == "v1" {
				t.Error("a session that is over is remembered for ever")
			}
		}
		if len(r.c.book.versions) > 1 {
			t.Errorf("%d versions", len(r.c.book.versions))
		}
	})
}

// tcp is a Config.Dial over real sockets, with a server that closes what it is told to.
type tcp struct {
	net.Listener
	accepted chan net.Conn
}

func newTCP(t *testing.T) *tcp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &tcp{l, make(chan net.Conn, 10)}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted <- conn
		}
	}()
	return s
}

// dial opens a connection through a session, and returns both its ends.
func (s *tcp) dial(t *testing.T, session *session) (client, server net.Conn) {
	t.Helper()
	session.dialer = new(net.Dialer).DialContext
	client, err := session.dial(t.Context(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server = <-s.accepted
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// Some drivers look at the socket before they use it again, and complain of a second Close
// that fails.
func TestSocketIsWhatItWraps(t *testing.T) {
	conn, _ := newTCP(t).dial(t, &session{calls: newCalls(&tasks{}, 0), ended: func(*session) {}})
	sc, ok := conn.(syscall.Conn)
	if !ok {
		t.Fatal("it is no syscall.Conn")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(uintptr) {}); err != nil {
		t.Error(err)
	}
	if nc, ok := conn.(interface{ NetConn() net.Conn }); !ok {
		t.Error("what it wraps can't be had")
	} else if _, ok := nc.NetConn().(*net.TCPConn); !ok {
		t.Errorf("it wraps a %T", nc.NetConn())
	}
	for range 3 {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}

	pipe, _ := net.Pipe()
	s := &session{calls: newCalls(&tasks{}, 0), dialer: func(context.Context, string, string) (net.Conn, error) { return pipe, nil }}
	conn, _ = s.dial(t.Context(), "", "")
	if _, ok := conn.(syscall.Conn); ok {
		t.Error("a socket over a pipe claims to be a syscall.Conn")
	}
}

func TestPeek(t *testing.T) {
	listener := newTCP(t)
	for name, test := range map[string]struct {
		server func(server net.Conn)
		want   peeked
	}{
		"nothing has come":    {func(net.Conn) {}, peekQuiet},
		"something has come":  {func(c net.Conn) { _, _ = c.Write([]byte("FATAL")) }, peekPending},
		"the server is gone":  {func(c net.Conn) { _ = c.Close() }, peekOver},
		"it said why":         {func(c net.Conn) { _, _ = c.Write([]byte("FATAL")); _ = c.Close() }, peekPending},
		"it closed its half":  {func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() }, peekOver},
		"it reset the stream": {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }, peekOver},
	} {
		t.Run(name, func(t *testing.T) {
			s := &session{calls: newCalls(&tasks{}, 0), ended: func(*session) {}}
			client, server := listener.dial(t, s)
			if !s.settle() {
				t.Fatal("aborted")
			}
			test.server(server)
			got := s.peek()
			for deadline := time.Now().Add(5 * time.Second); got != test.want && time.Now().Before(deadline); got = s.peek() {
				time.Sleep(time.Millisecond) // until it has arrived
			}
			if got != test.want {
				t.Errorf("peek finds %v, want %v", got, test.want)
			}
			_ = client.Close()
			if got := s.peek(); got == peekQuiet || got == peekPending {
				t.Errorf("after it was closed here: %v", got)
			}
		})
	}
}

// The socket on which the server answered last is the session's, whichever was dialled last.
func TestSessionsSocketIsTheOneThatWasReadFrom(t *testing.T) {
	for name, test := range map[string]struct {
		read []int // in this order, of three that are dialled
		shut int   // this one is closed by the driver; negative: none
		want int
	}{
		"parallel dials, the first wins":  {[]int{0}, -1, 0},
		"parallel dials, the second wins": {[]int{1}, -1, 1},
		"one host after the other":        {[]int{0, 1, 2}, -1, 2},
		"the last was closed":             {[]int{0, 1}, 2, 1},
		"nothing was read":                {nil, -1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			ended := 0
			s := &session{calls: newCalls(&tasks{}, 0), ended: func(*session) { ended++ }}
			var clients, servers [3]net.Conn
			listener := newTCP(t)
			for i := range clients {
				clients[i], servers[i] = listener.dial(t, s)
			}
			for _, i := range test.read {
				_, _ = servers[i].Write([]byte("R"))
				_, _ = clients[i].Read(make([]byte, 1))
			}
			if test.shut >= 0 {
				_ = clients[test.shut].Close()
			}
			if !s.settle() || s.untracked() {
				t.Fatal("it has no socket")
			}
			s.calls.tasks.wait(10 * time.Second) // for what is left behind to be closed
			for i := range clients {
				_, err := clients[i].Write([]byte("Q"))
				if open := err == nil; open != (i == test.want) {
					t.Errorf("socket %d is open: %t", i, open)
				}
			}
			for i := range clients {
				if i != test.want {
					_ = clients[i].Close()
				}
			}
			if ended != 0 {
				t.Error("the session ends with a socket that is not its own")
			}
			_ = clients[test.want].Close()
			if ended != 1 {
				t.Errorf("the end of its socket is told %d times", ended)
			}
		})
	}
}

// An Opener that dials to find the primary, closes that, and then connects by a way of its own.
func TestSessionThatHasClosedWhatItDialledIsBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &blindDriver{}
		r := newRig(t, func(cfg *Config) {
			cfg.Window = Window{Overlap: 2 * time.Minute, Lag: 10 * time.Second, MaxInUse: 20 * time.Second}
			cfg.Opener = &openerFunc{fakeServer: cfg.Opener.(*fakeServer), open: func(ctx context.Context, _ int, _ Credential, dial DialFunc) (driver.Conn, error) {
				nc, err := dial(ctx, "fake", "which is the primary?")
				if err != nil {
					return nil, err
				}
				_ = nc.Close()
				return d.Open("")
			}}
		})
		r.fill(3)
		for range 2000 {
			time.Sleep(time.Second)
			if err := r.query("0s"); err != nil {
				t.Fatal(err)
			}
		}
		r.c.mu.Lock()
		sessions := len(r.c.sessions)
		r.c.mu.Unlock()
		d.mu.Lock()
		defer d.mu.Unlock()
		if sessions > d.open+2 {
			t.Errorf("%d sessions are remembered, %d are open", sessions, d.open)
		}
	})
}

// closingConn counts how often it is closed.
type closingConn struct {
	*fakeConn
	closes *atomic.Int64
	rows   func() // called when a query has succeeded
}

func (c *closingConn) Close() error { c.closes.Add(1); return c.fakeConn.Close() }

func (c *closingConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.fakeConn.QueryContext(ctx, q, args)
	if err == nil && c.rows != nil {
		c.rows()
	}
	return rows, err
}

// Whatever becomes of a session, the driver's connection is closed, and once: drivers may
// have a goroutine for each.
func TestDriversConnectionIsAlwaysClosed(t *testing.T) {
	for _, where := range []string{"in the login", "in the probe query", "as a spare", "in the pool"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var opened []*atomic.Int64
				end := time.Now().Add(5 * time.Minute)
				r := newRig(t, func(cfg *Config) {
					cfg.RetryTimeout = -1
					s := cfg.Opener.(*fakeServer)
					slow := func() {}
					if where == "in the probe query" {
						cfg.ProbeQuery = "0s"
						slow = func() { time.Sleep(2 * time.Second) }
					}
					cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
						conn, err := s.Open(ctx, cred, dial)
						if err != nil {
							return nil, err
						}
						if where == "in the login" {
							time.Sleep(2 * time.Second)
						}
						closes := new(atomic.Int64)
						mu.Lock()
						opened = append(opened, closes)
						mu.Unlock()
						return &closingConn{conn.(*fakeConn), closes, slow}, nil
					}}
				})
				r.lease(end)
				if where == "as a spare" || where == "in the pool" {
					r.fill(3)
				}
				if where == "as a spare" {
					r.rotate("v2")
					time.Sleep(20 * time.Second)
					r.server.set(func(s *fakeServer) {
						for c := range s.sessions {
							_ = c.nc.Close() // whatever it is that does so
						}
					})
				}
				time.Sleep(time.Until(end) - time.Second)
				_ = r.query("0s")
				time.Sleep(2 * time.Second)
				_ = r.db.Close()
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				for i, closes := range opened {
					if n := closes.Load(); n != 1 {
						t.Errorf("connection %d of %d was closed %d times", i, len(opened), n)
					}
				}
				if len(opened) == 0 {
					t.Error("none was opened")
				}
			})
		})
	}
}

// Callers who give up while a spare is asked whether its server is still there leave it.
func TestSpareSurvivesTheImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(10)
		r.rotate("v2")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		open := r.server.open("v2")
		before, _ := r.server.attempts("v2")
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Microsecond)
			if conn, err := r.c.Connect(ctx); err == nil {
				_ = conn.Close()
			}
			cancel()
			time.Sleep(10 * time.Millisecond)
		}
		after, _ := r.server.attempts("v2")
		if n := r.server.open("v2"); n < open || after > before+1 { // one, for the spare that was being asked
			t.Errorf("%d of %d sessions are left, and %d logins were made", n, open, after-before)
		}
	})
}

// A statement that is cut off learns why, even from a connection that does not close; one
// that is begun afterwards is run on another.
func TestStatementThatIsCutOffLearnsWhy(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprint("stuck=", stuck), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				released := make(chan struct{})
				closes := &stuckCloses{released: released}
				if !stuck {
					close(released)
				} else {
					defer close(released)
				}
				r := newRig(t, func(cfg *Config) { cfg.Dial = closes.over(cfg.Dial) })
				end := time.Now().Add(time.Minute)
				r.lease(end)
				time.AfterFunc(50*time.Second, func() { r.rotate("v2") })
				err := r.query("2m")
				if time.Now() != end {
					t.Errorf("it ends %v after the credential", time.Since(end))
				}
				var outlived *OutlivedError
				if !errors.As(err, &outlived) || outlived.Username != "v1" || !outlived.Ended.Equal(end) {
					t.Errorf("%v", err)
				}
				if !errors.Is(err, net.ErrClosed) || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("drivers make something else of it: %v", err)
				}
				if err := r.query("1ms"); err != nil {
					t.Errorf("the next statement: %v", err)
				}
			})
		})
	}
}

// What lib/pq makes of it, over TLS as well: the statement runs once, and its error says why.
func TestQueryOverTheHardEndSaysWhy(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS=", tls), func(t *testing.T) {
			s := newService(t, pgtest.New(t, pgtest.Options{TLS: tls}), func(cfg *Config) {
				cfg.Window = Window{Overlap: 3 * time.Second, Lag: 500 * time.Millisecond, MaxInUse: time.Second}
			})
			s.exec("create sequence app.runs; grant usage on sequence app.runs to public")
			conns := make([]*sql.Conn, 3)
			for i := range conns {
				conn, err := s.db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				conns[i] = conn
			}
			old := s.rotate()
			var wg sync.WaitGroup
			statements := map[string]func(*sql.Conn) error{
				"exec": func(c *sql.Conn) error {
					_, err := c.ExecContext(t.Context(), "select nextval('app.runs'), pg_sleep(8)")
					return err
				},
				"with a parameter": func(c *sql.Conn) error {
					_, err := c.ExecContext(t.Context(), "select nextval('app.runs'), pg_sleep($1)", 8)
					return err
				},
				"rows": func(c *sql.Conn) error {
					rows, err := c.QueryContext(t.Context(), "select nextval('app.runs') + length(repeat('x', 10000)) + n, pg_sleep(case when n < 2 then 0 else 8 end) from generate_series(1, 2) n")
					if err != nil {
						return err
					}
					defer func() { _ = rows.Close() }()
					for rows.Next() {
					}
					return rows.Err()
				},
			}
			i := 0
			for name, statement := range statements {
				conn := conns[i]
				i++
				wg.Go(func() {
					err := statement(conn)
					var outlived *OutlivedError
					if !errors.As(err, &outlived) || outlived.Username != old {
						t.Errorf("%s: %v (%T)", name, err, err)
					}
				})
			}
			wg.Wait()
			s.eventually(30*time.Second, "its sessions end", func() bool { return s.sessions(old) == 0 })
			var n int
			if err := s.server.Admin().QueryRowContext(t.Context(), "select last_value from app.runs").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != 4 { // two, and one for each of the rows
				t.Errorf("nextval ran %d times", n)
			}
		})
	}
}

// A spare whose session the server has ended in mid-drain is not handed out: the application
// gets no driver.ErrBadConn that lib/pq alone would have spared it.
func TestSoakSpareThatTheServerHasEndedIsNotHandedOut(t *testing.T) {
	s := newService(t, pgtest.New(t, pgtest.Options{}), func(cfg *Config) { cfg.DrainTime = time.Minute })
	s.db.SetMaxIdleConns(-1)
	rounds, dead := 0, 0
	for end := time.Now().Add(soakFor(t, 0)); rounds < 10 || time.Now().Before(end); rounds++ {
		if !s.spareIsAlive() {
			dead++
		}
	}
	t.Logf("%d rounds", rounds)
	if dead > 0 {
		t.Errorf("%d of %d were handed out dead", dead, rounds)
	}
}

// spareIsAlive rotates, ends the session that is ready to take the place of others, and
// reports whether what is handed out next can be used.
func (s *service) spareIsAlive() bool {
	for range 5 { // connections of the old role, for the drain to prepare for
		conn, err := s.db.Conn(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	s.rotate()
	var spare *session
	s.eventually(20*time.Second, "a spare is ready", func() bool {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		for id, session := range s.c.sessions {
			if s.c.rules.Session(id).State == rotation.Spare && session.version.cred.Username == s.role {
				spare = session
			}
		}
		return spare != nil
	})
	if _, err := s.server.Terminate(s.Context(), s.role); err != nil {
		s.Fatal(err)
	}
	s.eventually(20*time.Second, "its end has arrived", func() bool { return spare.peek() != peekQuiet })
	conn, err := s.db.Conn(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.ExecContext(s.Context(), "select 1")
	return !errors.Is(err, driver.ErrBadConn)
}

// What is dialled after the login was given up is closed.
func TestWhatIsDialledTooLateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer func() { _ = server.Close() }()
		s := &session{
			calls:  newCalls(&tasks{}, time.Second),
			dialer: func(context.Context, string, string) (net.Conn, error) { return client, nil },
		}
		s.abort()
		if conn, err := s.dial(t.Context(), "", ""); conn != nil || !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, %v", conn, err)
		}
		synctest.Wait()
		if _, err := client.Write([]byte("Q")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("it is open: %v", err)
		}
	})
}

// probedConn does something of the test's when it is probed.
type probedConn struct {
	*fakeConn
	probed func() error
}

func (c *probedConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return noRows{}, c.probed()
}

// newProbedRig is one whose connections are probed by a function of the test's.
func newProbedRig(t *testing.T, probed func(c *fakeConn) error) *rig {
	t.Helper()
	return newRig(t, func(cfg *Config) {
		s := cfg.Opener.(*fakeServer)
		cfg.ProbeQuery = "who am I"
		cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
			conn, err := s.Open(ctx, cred, dial)
			if err != nil {
				return nil, err
			}
			fake := conn.(*fakeConn)
			return &probedConn{fake, func() error { return probed(fake) }}, nil
		}}
	})
}

// A connection that breaks while it is probed says nothing about the credential.
func TestAProbeThatBreaksIsNoRefusal(t *testing.T) {
	for _, err := range []error{io.ErrUnexpectedEOF, stateError("42501")} {
		synctest.Test(t, func(t *testing.T) {
			r := newProbedRig(t, func(*fakeConn) error { return err })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := r.c.Connect(ctx); err == nil {
				t.Error("it has connected")
			}
			var state stateError
			r.c.mu.Lock()
			defer r.c.mu.Unlock()
			if refusing := r.c.rules.Snapshot(r.c.now()).Refusing; refusing != errors.As(err, &state) {
				t.Errorf("after %q: refused %v", err, refusing)
			}
		})
	}
}

// A driver's connection is for one goroutine at a time: it is not closed under a probe that
// was abandoned, and closed when that has returned.
func TestAnAbandonedProbeKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probed atomic.Pointer[fakeConn]
		r := newProbedRig(t, func(c *fakeConn) error {
			probed.Store(c)
			_, err := c.nc.Read(make([]byte, 1)) // until the connector closes the socket
			time.Sleep(100 * time.Millisecond)
			if c.closed.Load() {
				t.Error("it was closed under the probe")
			}
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := r.c.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Connect: %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("whoever gave up has waited %v", took)
		}
		time.Sleep(time.Second)
		if !probed.Load().closed.Load() {
			t.Error("it is never closed")
		}
	})
}

// A session that ends between its login and the rules' hearing of it has never been.
func TestASessionThatEndsAsItIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newProbedRig(t, func(c *fakeConn) error { return c.nc.Close() })
		if _, err := r.c.Connect(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Connect: %v", err)
		}
		synctest.Wait()
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		if states := r.c.rules.Snapshot(r.c.now()).States; states != (rotation.Snapshot{}).States || len(r.c.sessions) != 0 {
			t.Errorf("sessions by state: %v; %d are remembered", states, len(r.c.sessions))
		}
	})
}

// A spare whose server has hung up is found out by a look at its socket.
func TestASpareThatIsOverIsFoundOut(t *testing.T) {
	r := newRigOutside(t, nil)
	s := &session{id: 7, version: &version{}, calls: r.c.calls, ended: r.c.sessionEnded}
	client, server := newTCP(t).dial(t, s)
	s.conn = &fakeConn{server: r.server, nc: client}
	s.settle()
	r.c.mu.Lock()
	r.c.sessions[s.id] = s
	r.c.mu.Unlock()
	take := rotation.Verdict{Kind: rotation.Take, Session: s.id}
	if got := r.c.fit(t.Context(), take); got != s {
		t.Fatal("it isn't fit at first")
	}
	_ = server.Close()
	for deadline := time.Now().Add(10 * time.Second); s.peek() != peekOver; {
		if time.Now().After(deadline) {
			t.Fatal("its end doesn't arrive")
		}
		time.Sleep(time.Millisecond)
	}
	if got := r.c.fit(t.Context(), take); got != nil {
		t.Error("it is still fit")
	}
}
