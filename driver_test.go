package sqlrotate

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/disk"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// service is an application that works on a real PostgreSQL through a pool whose
// login comes from a file, and whoever rotates that.
type service struct {
	testing.TB
	server *pgtest.Server
	path   string // of the credential file
	source *FileSource
	disk   gate // which its reads go through
	c      *Connector
	db     *sql.DB
	log    *logbook
	role   string // published last
	roles  int
	began  time.Time
	meter  *stall.Meter
	ends   *ends
	window Window
}

// newService makes one with a role that exists and is published. adjust may change
// the configuration.
func newService(tb testing.TB, server *pgtest.Server, adjust func(*Config)) *service {
	tb.Helper()
	s := &service{TB: tb, server: server, path: filepath.Join(tb.TempDir(), "db.json"), log: &logbook{}, began: time.Now(), meter: stall.Watch(tb)}
	if err := ledger.Create(tb.Context(), server.Admin()); err != nil {
		tb.Fatal(err)
	}
	s.publish(s.newRole())

	source, err := newFileSource(s.path, FileOptions{Logger: s.log.logger(), Poll: 200 * time.Millisecond})
	if err != nil {
		tb.Fatal(err)
	}
	read := source.read
	source.read = func() (disk.Snapshot, error) {
		s.disk.pass(nil)
		return read()
	}
	if err := source.start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = source.Close() })
	opener, err := LibPQ(server.DSN())
	if err != nil {
		tb.Fatal(err)
	}
	cfg := Config{
		Source: plantedSource{source},
		Opener: opener,
		Window: Window{Overlap: 20 * time.Second, Lag: time.Second, MaxInUse: 5 * time.Second},
		Logger: s.log.logger(),
	}
	if adjust != nil {
		adjust(&cfg)
	}
	s.window, s.ends = cfg.Window, watchEnds(&cfg)
	c, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s.source, s.c, s.db = source, c, OpenDB(c)
	tb.Cleanup(func() { _ = s.db.Close() })
	s.db.SetMaxOpenConns(20)
	s.db.SetMaxIdleConns(20)
	return s
}

func (s *service) exec(statement string) {
	s.Helper()
	if _, err := s.server.Admin().ExecContext(context.Background(), statement); err != nil {
		s.Fatalf("%s: %v", statement, err)
	}
}

// login is a role and its password.
type roleLogin struct{ name, password string }

// newRole makes a role that can log in.
func (s *service) newRole(options ...string) roleLogin {
	s.Helper()
	s.roles++
	r := roleLogin{fmt.Sprintf("r%d_%s", s.roles, strings.ToLower(rand.Text()[:8])), rand.Text()}
	s.create(r, options...)
	return r
}

func (s *service) create(r roleLogin, options ...string) {
	s.Helper()
	if err := s.server.CreateRole(context.Background(), r.name, r.password, options...); err != nil {
		s.Fatal(err)
	}
}

// publish writes a login to the file, by rename.
func (s *service) publish(r roleLogin) {
	s.Helper()
	content, err := json.Marshal(map[string]string{"username": r.name, "password": r.password})
	if err != nil {
		s.Fatal(err)
	}
	s.write(content)
	s.role = r.name
}

func (s *service) write(content []byte) {
	s.Helper()
	temp := s.path + ".next"
	if err := os.WriteFile(temp, content, 0o600); err != nil {
		s.Fatal(err)
	}
	if err := os.Rename(temp, s.path); err != nil {
		s.Fatal(err)
	}
}

// rotate makes a new role, publishes it, and returns the name of the one before.
func (s *service) rotate() (old string) {
	s.Helper()
	old = s.role
	s.publish(s.newRole())
	return old
}

func (s *service) sessions(role string) int {
	s.Helper()
	n, err := s.server.Sessions(context.Background(), role)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// version returns what the connector says of a role's latest login: nothing, once it
// has ended and has no session.
func (s *service) version(role string) VersionStats {
	for _, v := range s.c.Stats().Versions {
		if v.Username == role {
			return v
		}
	}
	return VersionStats{}
}

// gone reports whether no session of role is left, to the server's knowledge and the
// connector's, which has counted them then: the server may be done with a session
// before its socket is closed.
func (s *service) gone(role string) bool {
	s.Helper()
	s.c.mu.Lock()
	for _, session := range s.c.sessions {
		if session.version.cred.Username == role {
			s.c.mu.Unlock()
			return false
		}
	}
	s.c.mu.Unlock()
	return s.sessions(role) == 0
}

// mustLeaveNoSession checks that no connection outlived its credential, and no session
// its role.
func (s *service) mustLeaveNoSession() {
	s.Helper()
	s.mustNotOutlive(0, s.began)
	s.mustBeNoOrphan()
}

// mustNotOutlive checks that no connection outlived its credential since there were before of
// them, and returns how many there are now.
func (s *service) mustNotOutlive(before uint64, since time.Time) uint64 {
	s.Helper()
	n := s.c.Stats().Outlived
	if n > before && s.blame(since, "%d connections outlived their credential", n-before) {
		s.Attr("failure", "grave")
	}
	return n
}

// mustBeNoOrphan checks that the server has no session of a role that it hasn't.
func (s *service) mustBeNoOrphan() {
	s.Helper()
	if n, err := s.server.OrphanSessions(s.Context()); n > 0 || err != nil {
		grave(s, "%d sessions of dropped roles (%v)", n, err)
	}
}

// noticed is how soon a server on a quiet machine has noticed that a client is gone.
const noticed = 250 * time.Millisecond

// revoke drops a role as Vault does, and complains about sessions that are open then:
// at this end, where the connector has to have closed them, or at the server's, if it
// was told long enough before.
func (s *service) revoke(role string) {
	s.Helper()
	now := time.Now()
	if open, closed := s.ends.of(role); open > 0 {
		if s.blame(now.Add(-s.memory()), "%d sessions of %s are open when it is revoked; %+v", open, role, s.c.Stats()) {
			s.Attr("failure", "grave")
		}
	} else if s.sessions(role) > 0 {
		s.eventually(10*time.Second, "the server has noticed that its client is gone", func() bool { return s.sessions(role) == 0 })
		s.meter.Between(noticed, closed, time.Now(), "the server's end of a session")
	}
	if err := s.server.RevokeRole(context.Background(), role); err != nil {
		s.Error(err)
	}
}

// blame fails the test for what went wrong since from, unless the machine broke the
// promises that the window relies on: to run what is due in a fraction of the lag and
// of the longest checkout. It reports whether that is the connector's fault.
func (s *service) blame(from time.Time, what string, args ...any) bool {
	s.Helper()
	return s.meter.Blame(from, time.Now(), s.bearable(), what, args...)
}

// bearable is for how long the machine may stall at once without excusing anything.
func (s *service) bearable() time.Duration {
	const least = 200 * time.Millisecond
	return max(least, min(s.window.lag(), s.window.maxInUse(), time.Second)/2)
}

// memory is for how long a stall may have consequences: for a window, or what of it
// there is.
func (s *service) memory() time.Duration {
	return min(max(time.Second, s.window.Overlap), 10*time.Second)
}

// eventually waits until f is true, for at most limit, and returns how long that
// took.
func (s *service) eventually(limit time.Duration, what string, f func() bool) time.Duration {
	s.Helper()
	return s.meter.Eventually(limit, what, f, func() string {
		return fmt.Sprintf("healthy: %v; %+v\n%s", s.c.CheckHealth(), s.c.Stats(), s.log)
	})
}

// gate holds up what passes while it is shut. The zero gate is open.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed when it opens; nil: it is open
	held int           // so far
}

// pass returns when the gate is open, or done is.
func (g *gate) pass(done <-chan struct{}) {
	g.mu.Lock()
	open := g.open
	if open != nil {
		g.held++
	}
	g.mu.Unlock()
	if open == nil {
		return
	}
	select {
	case <-open:
	case <-done:
	}
}

// shut shuts the gate for d and returns how many had to wait.
func (g *gate) shut(d time.Duration) int {
	g.mu.Lock()
	open, before := make(chan struct{}), g.held
	g.open = open
	g.mu.Unlock()
	<-time.After(d)
	g.mu.Lock()
	defer g.mu.Unlock()
	close(open)
	g.open = nil
	return g.held - before
}

// logbook keeps what is logged.
type logbook struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// cut takes what was logged so far out of the book.
func (l *logbook) cut() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.b.String()
	l.b.Reset()
	return said
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// load is an application under way on a service.
type load struct {
	*ledger.Ledger
	s *service
}

// startLoad runs workers until stopped; each operation may take patience.
func (s *service) startLoad(workers int, think, patience time.Duration) *load {
	l := &load{ledger.Start(s.db, ledger.Options{Workers: workers, Think: think, Patience: patience}), s}
	s.Cleanup(l.Stop)
	return l
}

// more waits until n more operations are done.
func (l *load) more(n int) {
	l.s.Helper()
	before := l.Done()
	l.s.eventually(30*time.Second, "more load", func() bool { return l.Done() > before+n })
}

// failed returns how many operations have failed.
func (l *load) failed() int { return len(l.Failures()) }

// finish stops the load and checks the books.
func (l *load) finish() {
	l.s.Helper()
	l.Stop()
	if err := l.Audit(context.Background(), l.s.server.Admin()); err != nil {
		grave(l.s, "%v", err)
	}
}

// mustNotFail stops the load and checks that nothing failed.
func (l *load) mustNotFail() {
	l.s.Helper()
	l.finish()
	if failures := l.Failures(); len(failures) > 0 {
		s := l.s
		first := failures[0]
		for _, f := range failures { // one that the machine doesn't excuse comes first
			if !s.meter.Stalled(f.From.Add(-s.memory()), f.To, s.bearable()) {
				first = f
				break
			}
		}
		s.meter.Blame(first.From.Add(-s.memory()), first.To, s.bearable(), "%d of %d operations failed; one after %v: %v\n%+v\n%s",
			len(failures), l.Done(), first.To.Sub(first.From), first.Err, s.c.Stats(), s.log)
	}
	if l.Done() == 0 {
		l.s.Error("the load did nothing")
	}
}

// The role in use is dropped under load, as when somebody revokes the wrong lease: health
// says so within half a minute, without a login for it, although ProbeQuery sees nothing of
// it, and a successor in the file takes over within a second.
func TestRoleInUseIsDropped(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	s := newService(t, pgtest.New(t, pgtest.Options{Control: true}), func(cfg *Config) {
		cfg.Window = Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second}
		cfg.ProbeQuery = "select 1"
	})
	l := s.startLoad(20, 10*time.Millisecond, 5*time.Second)
	l.more(500)
	dropped, logins := time.Now(), s.c.Stats().Logins
	if err := s.server.RevokeRole(t.Context(), s.role); err != nil {
		t.Fatal(err)
	}
	said := s.eventually(60*time.Second, "health says that the role in use is dead", func() bool {
		problems := s.c.Problems()
		return len(problems) > 0 && problems[0].Kind == ProblemRoleDead
	})
	t.Logf("said after %v: %v", said.Round(time.Millisecond), s.c.CheckHealth())
	if said > 30*time.Second {
		s.blame(dropped, "it is said only after %v", said)
	}
	if stats := s.c.Stats(); stats.Logins != logins || stats.Refused > 2 {
		t.Errorf("%d logins succeeded and %d were refused before it was said", stats.Logins-logins, stats.Refused)
	}
	published := time.Now()
	s.rotate()
	took := s.eventually(30*time.Second, "operations with the new role", func() bool { return s.sessions(s.role) > 0 && s.version(s.role).Proven })
	if took > time.Second {
		s.blame(published, "the successor is in use only after %v", took)
	}
	s.eventually(30*time.Second, "every connection is the new role's", func() bool { return s.sessions(s.role) >= 20 })
	failed := l.failed()
	l.more(500)
	if n := l.failed() - failed; n > 0 {
		s.blame(published, "%d operations failed after all connections had been replaced", n)
	}
	l.finish()
	t.Logf("a session of the successor after %v", took.Round(time.Millisecond))
}

// Scenario 10: the current role dies, and its successor comes seconds later.
func TestServiceIsWholeWithinASecondOfTheNextFile(t *testing.T) {
	needsQuiet(t)
	s := newService(t, pgtest.New(t, pgtest.Options{}), nil)
	l := s.startLoad(20, 5*time.Millisecond, 20*time.Second)
	l.more(200)
	if err := s.server.RevokeRole(t.Context(), s.role); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // the agent is renewing its token
	old := s.rotate()
	took := s.eventually(10*time.Second, "no session of the dead role", func() bool { return s.sessions(old) == 0 })
	s.meter.Within(time.Second, took, "becoming whole again")
	l.more(100)
	before := l.failed()
	l.more(200)
	if l.failed() > before {
		t.Errorf("%d operations failed afterwards", l.failed()-before)
	}
	l.finish()
	t.Logf("whole again %v after the file", took)
}

// Scenario 15.
func TestServerRestartIsNotARotation(t *testing.T) {
	t.Parallel()
	s := newService(t, pgtest.New(t, pgtest.Options{Control: true}), nil)
	l := s.startLoad(20, 5*time.Millisecond, 20*time.Second)
	l.more(200)
	old := s.rotate()
	if err := s.server.Restart(t.Context(), pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	s.eventually(15*time.Second, "the rotation completes", func() bool { return s.sessions(old) == 0 && s.sessions(s.role) > 0 })
	l.more(200)
	failed := l.failed()
	l.more(200)
	if l.failed() > failed {
		t.Errorf("%d operations failed long after the restart", l.failed()-failed)
	}
	l.finish()
	if got := s.c.Stats(); got.Rotations != 1 || got.Refused != 0 {
		t.Errorf("%+v", got)
	}
}

// Scenario 13: a session that has become another role doesn't notice that its own
// was dropped. The window's end is the only thing that ends it.
func TestSessionWithSetRoleIsClosedAtTheEnd(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	s := newService(t, server, func(cfg *Config) {
		cfg.Window = Window{Overlap: 4 * time.Second, Lag: 500 * time.Millisecond, MaxInUse: time.Second}
	})
	s.exec("create role owner nologin")
	defer s.exec("drop role owner")
	s.exec("grant owner to " + s.role)
	conn, err := s.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.ExecContext(t.Context(), "set role owner"); err != nil {
		t.Fatal(err)
	}
	published := time.Now()
	old := s.rotate()
	s.eventually(3*time.Second, "the rotation is seen", func() bool { return s.c.Stats().Rotations == 1 })
	if err := server.RevokeRole(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "select 1"); err != nil {
		t.Errorf("the session has noticed: %v", err)
	}
	end := s.version(old).EndsAt
	if end.IsZero() {
		s.blame(published, "its end is over already")
		return
	}
	s.meter.Between(4*time.Second, published, end, "the overlap") // in which it is to be closed
	s.eventually(10*time.Second, "the session is closed", func() bool { return s.sessions(old) == 0 })
	if early := time.Until(end); early > 0 {
		t.Errorf("closed %v early", early)
	}
	s.closedAt(old, end)
	if _, err := conn.ExecContext(t.Context(), "select 1"); err == nil {
		t.Error("the connection still works")
	}
	if got := s.c.Stats().Outlived; got != 1 {
		t.Errorf("%d connections overran, want 1", got)
	}
}

// closedAt checks that the last socket of a role was closed when its overlap ended.
func (s *service) closedAt(role string, end time.Time) {
	s.Helper()
	const prompt = 100 * time.Millisecond
	if end.IsZero() {
		s.blame(s.began, "the end of %s was over when it was asked for", role)
		return
	}
	if open, closed := s.ends.of(role); open > 0 || closed.Before(end) {
		s.Errorf("%d sockets open, the last of the others closed %v after the end", open, closed.Sub(end))
	} else {
		s.meter.Between(prompt, end, closed, "closing a session at its end")
	}
}

// Scenario 17: the login stalls between the dial and the flip of the credential.
func TestLoginThatStraddlesARotationCountsAsOld(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	hold := make(chan struct{})
	dialled := make(chan struct{}, 1)
	var once sync.Once
	s := newService(t, server, func(cfg *Config) {
		cfg.DrainTime = 100 * time.Millisecond
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			first := false
			once.Do(func() { first = true })
			if first {
				conn = &heldConn{Conn: conn, hold: hold}
				dialled <- struct{}{}
			}
			return conn, nil
		}
	})
	got := make(chan *sql.Conn)
	go func() {
		conn, err := s.db.Conn(context.Background())
		if err != nil {
			t.Error(err)
		}
		got <- conn
	}()
	<-dialled
	old := s.rotate()
	s.eventually(5*time.Second, "the rotation is seen", func() bool { return s.c.Stats().Rotations == 1 })
	close(hold)
	conn := <-got
	if conn == nil {
		return
	}
	if n := s.sessions(old); n != 1 {
		t.Fatalf("%d sessions of the old role, want the one that was logging in", n)
	}
	_ = conn.Close()
	s.eventually(10*time.Second, "it is retired", func() bool { return s.gone(old) })
	if got := s.c.Stats().Closed[CloseSuperseded]; got != 1 {
		t.Errorf("%d connections retired as superseded, want 1", got)
	}
}

// heldConn delivers nothing until it is let go.
type heldConn struct {
	net.Conn
	hold chan struct{}
}

func (c *heldConn) Read(p []byte) (int, error) {
	<-c.hold
	return c.Conn.Read(p)
}

func TestBadInputIsRefusedAtConstructionWithoutItsSecrets(t *testing.T) {
	const secret = "hunter2hunter2"
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty := filepath.Join(dir, "emptydir")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	source := func(path string) func() error {
		return func() error {
			src, err := NewFileSource(path, FileOptions{})
			if err == nil {
				_ = src.Close()
			}
			return err
		}
	}
	dsn := func(dsn string) func() error {
		return func() error { _, err := LibPQ(dsn); return err }
	}
	window := func(w Window) func() error {
		return func() error {
			_, err := New(Config{Source: StaticSource(Credential{}), Opener: newFakeServer(), Window: w})
			return err
		}
	}
	for _, test := range []struct {
		name  string
		build func() error
		says  []string
	}{
		{"missing file", source(filepath.Join(dir, "missing")), []string{"missing"}},
		{"directory without keys", source(empty), []string{"emptydir"}},
		{"empty file", source(file("empty", "")), []string{"empty"}},
		{"binary file", source(file("binary", "\x00\x01\xff"+secret)), []string{"binary"}},
		{"torn JSON", source(file("torn", `{"username":"app","password":"`+secret)), []string{"torn"}},
		{"window with nothing left", window(Window{Overlap: time.Minute}), []string{"1m0s", "1m30s", "30s", "-1m0s"}},
		{"window without overlap", window(Window{}), []string{"Overlap", "InPlace"}},
		{"DSN that is no DSN", dsn("host=db sslmode"), []string{"sslmode"}},
		{"DSN that can't be parsed", dsn("postgres://app:" + secret + "@host:port/db"), []string{"DSN"}},
		{"DSN with a password", dsn("host=db user=app password=" + secret), []string{"password", "Source"}},
		{"URL with a password", dsn("postgres://app:" + secret + "@db/app"), []string{"password", "Source"}},
		{"DSN with a broken password", dsn("host=db password='" + secret), []string{"DSN"}},
		{"sslmode=allow", dsn("host=db sslmode=allow"), []string{"sslmode=allow", "require"}},
		{"prefer-spare", dsn("host=db target_session_attrs=prefer-spare"), []string{"prefer-spare", "spare"}},
		{"no source", func() error { _, err := New(Config{Opener: newFakeServer(), Window: InPlace()}); return err }, []string{"Source"}},
		{"no opener", func() error {
			_, err := New(Config{Source: StaticSource(Credential{}), Window: InPlace()})
			return err
		}, []string{"Opener"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.build()
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), "sqlrotate: ") {
				t.Errorf("%q lacks the prefix", err)
			}
			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				if strings.Contains(text, secret) {
					t.Errorf("the error holds the secret: %s", text)
				}
			}
		})
	}
}

// A query through the connector costs what it costs with lib/pq alone.
func BenchmarkQuery(b *testing.B) {
	s := newService(b, pgtest.New(b, pgtest.Options{}), nil)
	plain := s.plain()
	query := func(db *sql.DB) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := db.ExecContext(b.Context(), "select 1"); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for range 3 { // in turn: machines are noisy
		b.Run("pq", query(plain))
		b.Run("sqlrotate", query(s.db))
	}
}

// What Connect adds to lib/pq's own, the read of the file included: the two in
// turn, and the difference of their medians.
func BenchmarkConnect(b *testing.B) {
	s := newService(b, pgtest.New(b, pgtest.Options{}), nil)
	plain := s.plain()
	connect := func(db *sql.DB) time.Duration {
		start := time.Now()
		c, err := db.Conn(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		d := time.Since(start)
		_ = c.Close()
		return d
	}
	plain.SetMaxIdleConns(-1)
	s.db.SetMaxIdleConns(-1)
	var with, without []time.Duration
	for b.Loop() {
		without = append(without, connect(plain))
		with = append(with, connect(s.db))
	}
	median := func(ds []time.Duration) float64 {
		slices.Sort(ds)
		return float64(ds[len(ds)/2]) / 1e3
	}
	b.ReportMetric(median(without), "pq-µs")
	b.ReportMetric(median(with), "sqlrotate-µs")
	b.ReportMetric(median(with)-median(without), "added-µs")
}

// What Connect costs by itself, the read of a file included: the login is a pipe.
func BenchmarkConnectWithoutLogin(b *testing.B) {
	path := filepath.Join(b.TempDir(), "db.json")
	if err := os.WriteFile(path, []byte(`{"username":"app","password":"secret"}`), 0o600); err != nil {
		b.Fatal(err)
	}
	source, err := NewFileSource(path, FileOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = source.Close() }()
	c, err := New(Config{
		Source: source, Opener: pipeOpener{}, Window: Window{Overlap: time.Hour}, Logger: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, string, string) (net.Conn, error) { client, _ := net.Pipe(); return client, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b.ReportAllocs()
	for b.Loop() {
		conn, err := c.Connect(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}

// pipeOpener logs in without saying a word.
type pipeOpener struct{}

func (pipeOpener) Open(ctx context.Context, _ Credential, dial DialFunc) (driver.Conn, error) {
	nc, err := dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	return &fakeConn{server: newFakeServer(), nc: nc}, nil
}

func (pipeOpener) Refused(error) bool { return false }

// plain returns a pool over lib/pq alone with the same login.
func (s *service) plain() *sql.DB {
	s.Helper()
	cred, err := s.source.Credential(context.Background())
	if err != nil {
		s.Fatal(err)
	}
	db, err := sql.Open("postgres", fmt.Sprintf("%s user=%s password=%s", s.server.DSN(), cred.Username, cred.Password.Reveal()))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = db.Close() })
	db.SetMaxIdleConns(20)
	return db
}
