// A server of the imagination, for what a real one can't be made to do on demand
// and for everything that runs under testing/synctest.

package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeServer knows roles and counts sessions and logins. Its time is that of the
// test's bubble.
type fakeServer struct {
	mu       sync.Mutex
	roles    map[string]string // user name -> password
	broken   map[string]bool   // roles that can log in but run no query
	latency  time.Duration     // of a login
	closing  time.Duration     // of a session that the driver closes
	down     error             // what every login fails with
	sessions map[*fakeConn]bool
	peak     int
	logins   []fakeLogin // attempts
	opened   func()      // called after each login that succeeds

	// What is asked in place of the above, if it isn't nil.
	takes func() time.Duration   // latency
	judge func(Credential) error // roles and down
	runs  func(*fakeConn) error  // roles and broken
}

type fakeLogin struct {
	at   time.Time
	user string
	pass string
	ok   bool
}

func newFakeServer() *fakeServer {
	return &fakeServer{
		roles: map[string]string{}, broken: map[string]bool{}, sessions: map[*fakeConn]bool{},
		latency: 5 * time.Millisecond,
	}
}

// stateError is a server's error with a SQLSTATE.
type stateError string

func (e stateError) Error() string    { return "fake server says " + string(e) }
func (e stateError) SQLState() string { return string(e) }

func (s *fakeServer) grant(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[user] = password
}

func (s *fakeServer) set(f func(*fakeServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// open returns the number of open sessions of user, or of all users if it is empty.
func (s *fakeServer) open(user string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.sessions {
		if user == "" || c.user == user {
			n++
		}
	}
	return n
}

// most returns how many sessions there were at once.
func (s *fakeServer) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// attempts returns how many logins of user were attempted, and how many succeeded.
func (s *fakeServer) attempts(user string) (all, ok int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logins {
		if l.user == user {
			all++
			if l.ok {
				ok++
			}
		}
	}
	return all, ok
}

// Open implements Opener.
func (s *fakeServer) Open(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error) {
	conn, err := s.login(ctx, cred, dial)
	if err == nil && s.opened != nil {
		s.opened()
	}
	return conn, err
}

func (s *fakeServer) login(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error) {
	nc, err := dial(ctx, "fake", "server")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	latency := s.latency
	s.mu.Unlock()
	if s.takes != nil {
		latency = s.takes()
	}
	_ = nc.SetReadDeadline(time.Now().Add(latency)) // a read that nobody answers: the login's round trips
	if _, err := nc.Read(make([]byte, 1)); lost(err) {
		return nil, err
	}
	_ = nc.SetReadDeadline(time.Time{})

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.judge != nil {
		err = s.judge(cred)
	} else {
		err = s.down
		if pw, ok := s.roles[cred.Username]; err == nil && (!ok || pw != cred.Password.Reveal()) {
			err = stateError("28P01")
		}
	}
	s.logins = append(s.logins, fakeLogin{time.Now(), cred.Username, cred.Password.Reveal(), err == nil})
	if err != nil {
		return nil, err
	}
	c := &fakeConn{server: s, user: cred.Username, pass: cred.Password.Reveal(), nc: nc, born: time.Now()}
	s.sessions[c] = true
	s.peak = max(s.peak, len(s.sessions))
	return c, nil
}

// ProbeQuery is how a role is asked after, as it is with lib/pq.
func (s *fakeServer) ProbeQuery() string { return "who am I" }

// Refused implements Opener.
func (s *fakeServer) Refused(err error) bool { return anySQLState(err, credentialRefused) }

// dial is a Config.Dial: the server's end of the pipe watches for the close.
func (s *fakeServer) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	l := &fakeLink{Conn: client, far: server}
	go func() {
		_, _ = server.Read(make([]byte, 1))
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.sessions {
			if c.link() == l {
				delete(s.sessions, c)
			}
		}
	}()
	return l, nil
}

// fakeLink is the client's end of a connection.
type fakeLink struct {
	net.Conn
	far  net.Conn
	shut atomic.Bool // by the client
}

// Close closes the connection.
func (l *fakeLink) Close() error {
	l.shut.Store(true)
	return l.Conn.Close()
}

// openerFunc lets a test get in the way of logins.
type openerFunc struct {
	*fakeServer
	open func(ctx context.Context, n int, cred Credential, dial DialFunc) (driver.Conn, error)
	n    atomic.Int64
}

func (o *openerFunc) Open(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error) {
	return o.open(ctx, int(o.n.Add(1)), cred, dial)
}

// fakeConn is the driver's connection.
type fakeConn struct {
	server *fakeServer
	user   string
	pass   string
	nc     net.Conn
	born   time.Time
	silent bool // its packets are lost without a word
	closed atomic.Bool
}

// link returns the connection's end of the network, or nil if it was not dialled here.
func (c *fakeConn) link() *fakeLink {
	if k, ok := c.nc.(*socket); ok {
		l, _ := k.Conn.(*fakeLink)
		return l
	}
	return nil
}

func (c *fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *fakeConn) Begin() (driver.Tx, error)           { return fakeTx{}, nil }
func (c *fakeConn) Close() error {
	c.server.mu.Lock()
	closing := c.server.closing
	c.server.mu.Unlock()
	time.Sleep(closing)
	c.closed.Store(true)
	c.server.set(func(s *fakeServer) { delete(s.sessions, c) })
	return c.nc.Close()
}
func (c *fakeConn) Ping(ctx context.Context) error { return c.alive() }

type fakeTx struct{}

func (fakeTx) Commit() error   { return nil }
func (fakeTx) Rollback() error { return nil }

func (c *fakeConn) alive() error {
	c.server.mu.Lock()
	silent := c.silent
	c.server.mu.Unlock()
	if !silent {
		_ = c.nc.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
	}
	_, err := c.nc.Read(make([]byte, 1))
	_ = c.nc.SetReadDeadline(time.Time{})
	if lost(err) {
		return driver.ErrBadConn
	}
	return nil
}

// lost reports whether err is that of a connection that was closed at either end.
func lost(err error) bool {
	return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF)
}

// QueryContext understands any query, takes as long as one that parses as a
// duration, and fails for a role that is gone or broken.
func (c *fakeConn) QueryContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.alive(); err != nil {
		return nil, err
	}
	if d, err := time.ParseDuration(query); err == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(d))
		_, err := c.nc.Read(make([]byte, 1))
		_ = c.nc.SetReadDeadline(time.Time{})
		if lost(err) {
			return nil, fmt.Errorf("fake server: connection lost during a query: %w", err)
		}
	}
	if c.server.runs != nil {
		if err := c.server.runs(c); err != nil {
			return nil, err
		}
		return noRows{}, nil
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if _, ok := c.server.roles[c.user]; !ok || c.server.broken[c.user] {
		return nil, stateError("42501")
	}
	return noRows{}, nil
}

type noRows struct{}

func (noRows) Columns() []string         { return []string{"user"} }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }

// fakeSource is a Source that is set by hand. With notify it is a Notifier too.
type fakeSource struct {
	mu    sync.Mutex
	cred  Credential
	err   error
	reads int
	ch    chan struct{}
}

func newFakeSource(user, password string) *fakeSource {
	return &fakeSource{cred: Credential{Username: user, Password: NewSecret(password)}, ch: make(chan struct{})}
}

func (s *fakeSource) Credential(context.Context) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.cred, s.err
}

func (s *fakeSource) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *fakeSource) set(cred Credential, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cred, s.err = cred, err
	close(s.ch)
	s.ch = make(chan struct{})
}

// fail makes reads fail until fail(nil), whatever is published meanwhile.
func (s *fakeSource) fail(err error) {
	s.mu.Lock()
	cred := s.cred
	s.mu.Unlock()
	s.set(cred, err)
}

func (s *fakeSource) publish(user, password string) {
	s.set(Credential{Username: user, Password: NewSecret(password)}, nil)
}

// refresherFake remembers what it was told of.
type refresherFake struct {
	*fakeSource
	rejected []Credential
}

func (s *refresherFake) Refresh(ctx context.Context, refused Credential) (Credential, error) {
	s.mu.Lock()
	s.rejected = append(s.rejected, refused)
	s.mu.Unlock()
	return s.Credential(ctx)
}

func (s *refresherFake) told() []Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejected
}

// rig is a server, a source, a connector and a pool in a bubble.
type rig struct {
	*testing.T
	server *fakeServer
	source *fakeSource
	c      *Connector
	db     *sql.DB
}

// newRig makes one whose role "v1" exists and is published, and which has read that. adjust
// may change the configuration, and so what is read first.
func newRig(t *testing.T, adjust func(*Config)) *rig {
	t.Helper()
	r := newRigOutside(t, adjust)
	synctest.Wait()
	return r
}

// newRigOutside makes one outside of a bubble.
func newRigOutside(t *testing.T, adjust func(*Config)) *rig {
	t.Helper()
	r := &rig{T: t, server: newFakeServer(), source: newFakeSource("v1", "p1")}
	r.server.grant("v1", "p1")
	cfg := Config{
		Source:    r.source,
		Opener:    r.server,
		Window:    Window{Overlap: 10 * time.Minute, Lag: time.Minute, MaxInUse: time.Minute},
		DrainTime: 10 * time.Second,
		Dial:      r.server.dial,
		Logger:    slog.New(slog.DiscardHandler),
	}
	if adjust != nil {
		adjust(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.c, r.db = c, OpenDB(c)
	t.Cleanup(func() { _ = r.db.Close() })
	return r
}

// fill opens n connections at once and returns them to the pool.
func (r *rig) fill(n int) {
	r.Helper()
	r.db.SetMaxIdleConns(n)
	conns := make([]*sql.Conn, n)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			conn, err := r.db.Conn(context.Background())
			if err != nil {
				r.Error(err)
				return
			}
			conns[i] = conn
		})
	}
	wg.Wait()
	for _, conn := range conns {
		if conn != nil {
			_ = conn.Close()
		}
	}
}

// query runs a query that takes as long as it says.
func (r *rig) query(q string) error {
	rows, err := r.db.QueryContext(context.Background(), q)
	if err != nil {
		return err
	}
	_ = rows.Close()
	return rows.Err()
}

// load has workers run a query again and again, with a pause in between, until it is
// stopped. None may fail.
func (r *rig) load(workers int, query string, pause time.Duration) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for {
				if err := r.query(query); err != nil {
					r.Error(err)
				}
				select {
				case <-done:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	return func() { close(done); running.Wait() }
}

// rotate publishes role user, which exists from now on.
func (r *rig) rotate(user string) {
	r.server.grant(user, "p-"+user)
	r.source.publish(user, "p-"+user)
}
