package sqlrotate

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// witness is a service that remembers every password it was given and what was
// said, and ends with a search of the latter for the former.
type witness struct {
	*service
	mu        sync.Mutex
	passwords []string
	said      []string
}

func newWitness(tb testing.TB, server *pgtest.Server, adjust func(*Config)) *witness {
	tb.Helper()
	w := &witness{service: newService(tb, server, adjust)}
	w.exec("truncate entry")
	cred, err := w.source.Credential(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	w.passwords = append(w.passwords, cred.Password.Reveal())
	tb.Cleanup(w.search)
	return w
}

// stranger is a role that doesn't exist.
func (w *witness) stranger() roleLogin {
	r := roleLogin{"s_" + strings.ToLower(rand.Text()[:8]), rand.Text()}
	w.passwords = append(w.passwords, r.password)
	return r
}

// newRole makes a role that can log in.
func (w *witness) newRole(options ...string) roleLogin {
	w.Helper()
	r := w.stranger()
	w.create(r, options...)
	return r
}

// heard remembers an error as it may be printed.
func (w *witness) heard(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf("%v\n%+v\n%#v", err, err, err))
}

func (w *witness) search() {
	w.Helper()
	w.heard(w.c.CheckHealth())
	log, err := w.server.Log()
	if err != nil && !errors.Is(err, pgtest.ErrNotOurs) {
		w.Error(err)
	}
	said := append(w.said, w.log.String(), log, fmt.Sprintf("%+v %#v", w.c.Stats(), w.c.Stats()))
	for _, text := range said {
		for _, password := range w.passwords {
			if strings.Contains(text, password) {
				grave(w, "a password was said: %s", text)
			}
		}
	}
}

// query runs a query that may take as long as limit, and returns how long it took.
func (w *witness) query(limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	rows, err := w.db.QueryContext(ctx, "select balance from account limit 1")
	if err == nil {
		for rows.Next() {
			_ = rows.Scan(new(int))
		}
		err = errors.Join(rows.Err(), rows.Close())
	}
	if err != nil {
		w.heard(err)
	}
	return time.Since(start), err
}

// works checks that a query does.
func (w *witness) works() {
	w.Helper()
	start := time.Now()
	if _, err := w.query(5 * time.Second); err != nil {
		w.blame(start, "a query: %v", err)
		w.FailNow()
	}
}

// attempts counts the logins of a role that the server decided, by SQLSTATE.
func (w *witness) attempts(role string) map[string]int {
	w.Helper()
	logins, err := w.server.Logins(role)
	if err != nil {
		w.Fatal(err)
	}
	n := map[string]int{}
	for _, l := range logins {
		n[l.SQLState]++
	}
	return n
}

// rest waits, for time to pass while others work.
func rest(d time.Duration) { <-time.After(d) }

// Scenario 4.
func TestFileThatNeverComesIsOneClearError(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	const bridge = 2 * time.Second
	server := pgtest.New(t, pgtest.Options{Control: true})
	start := time.Now()
	w := newWitness(t, server, func(cfg *Config) { cfg.Window, cfg.RetryTimeout = InPlace(), bridge })
	w.db.SetMaxIdleConns(-1)
	w.works()
	role := roleLogin{w.role, rand.Text()}
	w.passwords = append(w.passwords, role.password)
	if err := server.AlterPassword(t.Context(), role.name, role.password); err != nil {
		t.Fatal(err)
	}

	took, err := w.query(10 * time.Second)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("%v after %v", err, took)
	}
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want-50*time.Millisecond {
			t.Errorf("%s: %v, want about %v", what, got, want)
		}
		w.meter.Within(want+bridge-100*time.Millisecond, got, what)
	}
	near("took", took, bridge)
	near("Waited", refused.Waited, bridge)
	near("Refused", refused.RefusedFor, bridge)
	if refused.Age < bridge || refused.Age > time.Since(start) {
		t.Errorf("Age: %v", refused.Age)
	}
	if refused.Username != role.name || !strings.HasPrefix(refused.Version, "#1") || !strings.Contains(refused.Source, w.path) || refused.Code != "28P01" {
		t.Errorf("%+v", refused)
	}
	var theirs *pq.Error
	if !errors.As(err, &theirs) || theirs.Code != "28P01" {
		t.Errorf("the driver's error: %v", theirs)
	}
	for _, word := range []string{"sqlrotate: ", role.name, refused.Version, w.path, "28P01", "refused for " + refused.RefusedFor.Round(time.Millisecond).String(), "waited " + refused.Waited.Round(time.Millisecond).String()} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than one line", err)
	}
	t.Log(err)

	// Whoever comes later does not wait all that time again.
	took, err = w.query(10 * time.Second)
	if !errors.As(err, &refused) {
		t.Errorf("afterwards: %v after %v", err, took)
	}
	w.meter.Within(bridge-100*time.Millisecond, took, "an answer afterwards")
	if err := w.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "no new connection can be made") {
		t.Errorf("healthy: %v", err)
	}
	w.publish(role)
	w.eventually(5*time.Second, "a login with the new file", func() bool { _, err := w.query(time.Second); return err == nil })

	t.Run("within the caller's context", func(t *testing.T) {
		w := newWitness(t, server, func(cfg *Config) { cfg.Window = InPlace() })
		if err := server.AlterPassword(t.Context(), w.role, rand.Text()); err != nil {
			t.Fatal(err)
		}
		const patience = time.Second // half-way between two logins
		took, err := w.query(patience)
		var refused *RefusedError
		if !errors.As(err, &refused) || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &theirs) {
			w.blame(time.Now().Add(-took), "%v", err)
			return
		}
		near("took", took, patience)
		near("Waited", refused.Waited, patience)
	})
}

// Scenario 6: the server would still take it.
func TestPreviousCredentialIsNeverUsedAfterItsOverlap(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	const overlap = 3 * time.Second
	w := newWitness(t, pgtest.New(t, pgtest.Options{Control: true}), func(cfg *Config) {
		cfg.Window = Window{Overlap: overlap, Lag: 500 * time.Millisecond, MaxInUse: 500 * time.Millisecond}
	})
	w.db.SetMaxIdleConns(-1)
	w.works()
	old, next := w.role, w.stranger()
	published := time.Now()
	w.publish(next)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for time.Since(published) < overlap+2*time.Second {
				_, _ = w.query(300 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	logins, err := w.server.Logins(old)
	if err != nil {
		t.Fatal(err)
	}
	last := logins[len(logins)-1].Time.Sub(published)
	if last < overlap/2 {
		w.blame(published, "the last of %d logins of the previous role %v after the rotation, with an overlap of %v", len(logins), last, overlap)
	}
	w.meter.Between(overlap, published, published.Add(last), "the time of the last login with the previous role")
	if n := w.sessions(old); n != 0 {
		t.Errorf("%d sessions of the previous role", n)
	}
	var refused *RefusedError
	if _, err := w.query(300 * time.Millisecond); !errors.As(err, &refused) || refused.Username != next.name {
		t.Errorf("%v", err)
	}
	if n := w.attempts(next.name)["28P01"]; n > 5 {
		t.Errorf("%d refused logins", n)
	}
	t.Logf("the last of %d logins %v after the rotation", len(logins), last)
}

// Scenarios 11, 12 and 34.
func TestDeadOnArrivalRetiresNothing(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	var wg sync.WaitGroup // all cases at once: they wait most of the time
	for _, test := range []struct {
		name, probe string
		make        func(*witness) roleLogin
		state       string
		says        string
	}{
		{
			"no such role", "",
			(*witness).stranger, "28P01", "password authentication failed",
		},
		{
			"a role that can do nothing", "select balance from account limit 1",
			func(w *witness) roleLogin {
				r := w.newRole()
				w.exec("revoke all on all tables in schema app from " + r.name)
				return r
			}, "42501", "probe",
		},
		{
			"a role of another environment", "select balance from account limit 1",
			func(w *witness) roleLogin {
				r := w.newRole()
				w.exec("alter role " + r.name + " set search_path = staging")
				return r
			}, "42P01", "probe",
		},
	} {
		wg.Go(func() {
			t.Run(test.name, func(t *testing.T) {
				w := newWitness(t, pgtest.New(t, pgtest.Options{Control: true}), func(cfg *Config) {
					cfg.ProbeQuery, cfg.DrainTime = test.probe, 500*time.Millisecond
				})
				l := w.startLoad(10, 5*time.Millisecond, 5*time.Second)
				w.eventually(30*time.Second, "load", func() bool { return l.Done() > 100 })
				old := w.role
				dead := test.make(w)
				w.publish(dead)
				w.eventually(3*time.Second, "a refusal", func() bool { return w.c.Stats().Refused > 0 })
				rest(3 * time.Second)
				stats := w.c.Stats()
				if stats.Closed[CloseSuperseded]+stats.Closed[CloseAged]+stats.Closed[CloseEnding]+stats.Outlived > 0 || stats.Versions[0].Proven || w.sessions(old) == 0 {
					t.Errorf("%d old sessions; %+v", w.sessions(old), stats)
				}
				w.eventually(5*time.Second, "no session of the dead role is kept", func() bool { return w.sessions(dead.name) == 0 })
				attempts := w.attempts(dead.name)
				if n := attempts[""] + attempts["28P01"]; n < 1 || n > 5 {
					t.Errorf("logins by SQLSTATE: %v", attempts)
				}
				health := fmt.Sprint(w.c.CheckHealth())
				for _, word := range []string{"refused credential #2", dead.name, test.state, test.says, "logins use #1"} {
					if !strings.Contains(health, word) {
						t.Errorf("%q does not say %q", health, word)
					}
				}
				if !strings.Contains(w.log.String(), "the server refuses the credential") {
					t.Error("the log does not say so")
				}
				next := w.newRole()
				w.publish(next)
				w.eventually(time.Minute, "recovery", func() bool { return w.sessions(next.name) > 0 && w.gone(old) })
				l.mustNotFail()
				if err := w.c.CheckHealth(); err != nil {
					t.Errorf("healthy: %v", err)
				}
			})
		})
	}
	wg.Wait()
}

// Scenario 14, and its like: the server has no room for a login, or is away. That
// says nothing about the credential, and nobody hammers.
func TestServerWithoutRoomIsNotARefusal(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	var wg sync.WaitGroup // all cases at once: they wait most of the time
	for _, test := range []struct {
		name    string
		options pgtest.Options
		full    func(*witness) (next roleLogin, relieve func())
		load    bool
	}{
		{
			"role's connection limit",
			pgtest.Options{Control: true},
			func(w *witness) (roleLogin, func()) {
				r := w.newRole("connection limit 0")
				return r, func() { w.exec("alter role " + r.name + " connection limit 100") }
			}, true,
		},
		{
			"max_connections",
			pgtest.Options{MaxConnections: 15},
			func(w *witness) (roleLogin, func()) {
				other := w.newRole()
				empty := w.fill(other)
				return w.newRole(), empty
			}, true,
		},
		{
			"server stopped",
			pgtest.Options{Control: true},
			func(w *witness) (roleLogin, func()) {
				r := w.newRole()
				if err := w.server.Stop(pgtest.Fast); err != nil {
					w.Fatal(err)
				}
				return r, func() {
					if err := w.server.Start(context.Background()); err != nil {
						w.Fatal(err)
					}
				}
			}, false,
		},
	} {
		wg.Go(func() {
			t.Run(test.name, func(t *testing.T) {
				dials := &dialCount{}
				w := newWitness(t, pgtest.New(t, test.options), func(cfg *Config) {
					cfg.Dial, cfg.DrainTime = dials.dial, 500*time.Millisecond
					// Nothing grows old while nobody can log in.
					cfg.Window = Window{Overlap: 2 * time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second}
				})
				l := w.startLoad(5, 5*time.Millisecond, 5*time.Second)
				w.eventually(30*time.Second, "load", func() bool { return l.Done() > 200 && w.sessions(w.role) == 5 })
				if !test.load {
					l.mustNotFail()
				}
				old := w.role
				next, relieve := test.full(w)
				before := dials.dials()
				w.publish(next)
				w.eventually(2*time.Second, "a login that fails", func() bool { return w.c.Stats().Failed > 0 })
				rest(2 * time.Second)
				if n := dials.dials() - before; n < 1 || n > 12 {
					t.Errorf("%d logins in 2 s", n)
				}
				stats := w.c.Stats()
				if stats.Refused > 0 || stats.Closed[CloseSuperseded] > 0 || stats.Failed == 0 {
					t.Errorf("%+v", stats)
				}
				if err := w.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "not proven yet") {
					t.Errorf("healthy: %v", err)
				}
				relieve()
				took := w.eventually(15*time.Second, "the new role in use", func() bool { return w.version(next.name).Proven })
				w.eventually(time.Minute, "no session of the old role", func() bool { return w.gone(old) })
				if test.load {
					l.mustNotFail()
				}
				t.Logf("in use after %v; logins by SQLSTATE: %v", took, w.attempts(next.name))
			})
		})
	}
	wg.Wait()
}

// A database that has room for the pool and one session more, or for the pool alone: a login
// that finds it full waits for the session that is just going, and no query fails.
func TestDatabaseThatIsFull(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	for name, room := range map[string]int{"but for one": 2, "to the last": 1} { // the test has a session, too
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const pool = 10
			s := newService(t, pgtest.New(t, pgtest.Options{Control: true}), func(cfg *Config) {
				cfg.Window, cfg.DrainTime = Window{Overlap: 8 * time.Second, Lag: -1, MaxInUse: 2 * time.Second}, time.Second
			})
			s.db.SetMaxOpenConns(pool)
			s.db.SetMaxIdleConns(pool)
			s.exec(fmt.Sprintf("alter database %s connection limit %d", pq.QuoteIdentifier(s.server.Database()), pool+room))
			l := s.startLoad(2*pool, time.Millisecond, 20*time.Second)
			l.more(500)
			for range 2 {
				old := s.rotate()
				took := s.eventually(30*time.Second, "no session of the old role is left", func() bool { return s.gone(old) })
				t.Logf("gone after %v", took.Round(time.Millisecond))
			}
			l.more(500)
			l.mustNotFail()
			s.mustLeaveNoSession()
		})
	}
}

// fill opens sessions until the server has no more, and returns how to close them.
func (w *witness) fill(role roleLogin) (empty func()) {
	w.Helper()
	cfg, err := pq.NewConfig(w.server.DSN())
	if err != nil {
		w.Fatal(err)
	}
	cfg.User, cfg.Password = role.name, role.password
	connector, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		w.Fatal(err)
	}
	var conns []driver.Conn
	empty = func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
		conns = nil
	}
	w.Cleanup(func() { empty() })
	for range 1000 {
		conn, err := connector.Connect(context.Background())
		var full *pq.Error
		if errors.As(err, &full) && full.Code == "53300" {
			return empty
		}
		if err != nil {
			w.Fatal(err)
		}
		conns = append(conns, conn)
	}
	w.Fatal("the server is never full")
	return nil
}

// Scenario 16: by the server's log. (Without auth_delay it is one of the behaviours.)
func TestWrongPasswordMakesAHandfulOfAttempts(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	const workers, duration = 50, 10 * time.Second
	w := newWitness(t, pgtest.New(t, pgtest.Options{Settings: map[string]string{
		"shared_preload_libraries": "auth_delay", "auth_delay.milliseconds": "500",
	}}), nil)
	w.db.SetMaxOpenConns(workers)
	wrong := roleLogin{w.role, w.stranger().password}
	w.publish(wrong)
	w.eventually(5*time.Second, "the file is read", func() bool {
		cred, err := w.source.Credential(t.Context())
		return err == nil && cred.Password.Reveal() == wrong.password
	})
	var queries atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(duration)
	for range workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				_, err := w.query(2 * time.Second) // less than auth_delay, and nobody ever hears of a refusal
				queries.Add(1)
				var refused *RefusedError
				if !errors.As(err, &refused) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := w.attempts(wrong.name)
	if n := got["28P01"]; n < 2 || n > 6 || len(got) != 1 {
		t.Errorf("logins by SQLSTATE in %v: %v", duration, got)
	}
	t.Logf("%d queries in %v; logins by SQLSTATE: %v", queries.Load(), duration, got)
}

// What a caller gets, how soon, and what the server sees of it, with a bridge and
// a limit to logins of two seconds each.
func TestWhatComesOutOfQueryContext(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{TLS: true, MaxConnections: 15})
	address := net.JoinHostPort(server.Host(), strconv.Itoa(server.Port()))
	isRefused := func(err error) bool {
		var refused *RefusedError
		return errors.As(err, &refused) && refused.Code != ""
	}
	hasState := func(err error) bool {
		var theirs *pq.Error
		return errors.As(err, &theirs) && !isRefused(err)
	}
	alter := func(words string) func(*witness) {
		return func(w *witness) { w.exec("alter role " + w.role + " " + words) }
	}
	listen := func(greeting string) func(*testing.T) string {
		return func(t *testing.T) string { return listenAndSay(t, greeting) }
	}
	const (
		two        = 2 * time.Second
		atOnce     = 1500 * time.Millisecond // well before that
		afterTwo   = 3500 * time.Millisecond // and before a fourth login would be
		mysqlHello = "J\x00\x00\x00\x0a8.0.33\x00"
	)
	for _, test := range []struct {
		name     string
		dsn      string                  // appended
		to       func(*testing.T) string // where it is dialled; nil: the server
		prepare  func(*witness)          // what goes wrong
		is       func(error) bool        // what comes out
		says     string
		from, by time.Duration
		state    string // of the logins that the server decides; empty: none
		logins   int    // those at most; at least one unless state is empty
		dials    int    // at most
	}{
		{"pg_hba reject", "", nil, func(w *witness) {
			if err := server.WriteHBA(t.Context(), "host all all 127.0.0.1/32 reject"); err != nil {
				w.Fatal(err)
			}
			w.Cleanup(func() {
				if err := server.WriteHBA(context.Background()); err != nil {
					w.Fatal(err)
				}
			})
		}, isRefused, "28000", two, afterTwo, "28000", 3, 3},
		{"NOLOGIN", "", nil, alter("nologin"), isRefused, "28000", two, afterTwo, "28000", 3, 3},
		{"VALID UNTIL in the past", "", nil, alter("valid until '2020-01-01'"), isRefused, "28P01", two, afterTwo, "28P01", 3, 3},
		{"role dropped", "", nil, func(w *witness) {
			if err := server.RevokeRole(t.Context(), w.role); err != nil {
				w.Fatal(err)
			}
		}, isRefused, "28P01", two, afterTwo, "28P01", 3, 3},
		{"CONNECT revoked", "", nil, func(w *witness) {
			w.exec("revoke connect on database " + server.Database() + " from public")
			w.Cleanup(func() { w.exec("grant connect on database " + server.Database() + " to public") })
		}, isRefused, "42501", two, afterTwo, "42501", 3, 3},
		{"wrong database", "dbname=nosuch", nil, nil, hasState, "3D000", 0, atOnce, "3D000", 1, 1},
		{"max_connections reached", "", nil, func(w *witness) {
			w.fill(w.newRole())
		}, hasState, "53300", 0, atOnce, "53300", 1, 1},
		{"TLS server with a wrong name", "host=db.example", func(*testing.T) string { return address }, nil, func(err error) bool {
			var name x509.HostnameError
			return errors.As(err, &name)
		}, "db.example", 0, atOnce, "", 0, 1},
		{"TLS server, wrong authority", "sslrootcert=system", nil, nil, func(err error) bool {
			var authority x509.UnknownAuthorityError
			return errors.As(err, &authority)
		}, "unknown authority", 0, atOnce, "", 0, 1},
		{"a server that accepts and never answers", "", listen(""), nil, func(err error) bool {
			return errors.Is(err, context.DeadlineExceeded)
		}, "no answer to the login within 2s", two, afterTwo, "", 0, 1},
		{"a port that isn't PostgreSQL", "sslmode=disable", listen(mysqlHello), nil, func(err error) bool {
			return err != nil && !isRefused(err)
		}, "unknown response for startup", 0, atOnce, "", 0, 1},
		{"a port that isn't PostgreSQL, by TLS", "", listen(mysqlHello), nil, func(err error) bool {
			return errors.Is(err, pq.ErrSSLNotSupported)
		}, "SSL is not enabled", 0, atOnce, "", 0, 1},
		{"a port that talks nonsense", "sslmode=disable", listen("R\x00\x00\x00\x00"), nil, func(err error) bool {
			return err != nil && !isRefused(err)
		}, "makes no sense", 0, atOnce, "", 0, 1},
		{"server stopped", "", nil, func(w *witness) {
			if err := server.Stop(pgtest.Fast); err != nil {
				w.Fatal(err)
			}
			w.Cleanup(func() {
				if err := server.Start(context.Background()); err != nil {
					w.Fatal(err)
				}
			})
		}, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }, "refused", 0, atOnce, "", 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			dials := &dialCount{}
			if test.to != nil {
				dials.to = test.to(t)
			}
			w := newWitness(t, server, func(cfg *Config) {
				cfg.RetryTimeout, cfg.LoginTimeout = two, two
				cfg.Dial = dials.dial
				cfg.Opener = mustPostgres(t, server.DSN()+" "+test.dsn)
			})
			if test.prepare != nil {
				test.prepare(w)
			}
			start := time.Now()
			took, err := w.query(10 * time.Second)
			if err == nil || !test.is(err) || !strings.Contains(err.Error(), test.says) {
				w.blame(start, "an error of type %T: %v", err, err)
			}
			if took < test.from {
				t.Errorf("took %v, not %v at least", took, test.from)
			}
			w.meter.Within(test.by, took, "the error")
			logins := w.attempts(w.role)
			switch n := logins[test.state]; {
			case len(logins) > 1, test.state == "" && len(logins) > 0, test.state != "" && (n < 1 || n > test.logins):
				t.Errorf("logins by SQLSTATE: %v", logins)
			}
			if n := dials.dials(); n < 1 || n > test.dials {
				t.Errorf("%d dials", n)
			}
			w.eventually(5*time.Second, "no socket left", func() bool { return dials.open() == 0 })
			t.Logf("%v; %d dials, logins by SQLSTATE: %v: %v", took, dials.dials(), logins, err)
		})
	}
}

// listenAndSay returns the address of a server that greets and then is silent.
func listenAndSay(t *testing.T, greeting string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(greeting))
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return l.Addr().String()
}

// tarpit is a connection whose reads stick.
type tarpit struct {
	net.Conn
	pass    int           // let this many bytes through first; negative: any number
	onQuery bool          // stick once a query has been sent
	delay   time.Duration // of each read, which then is of one byte; zero: for ever

	mu     sync.Mutex
	stuck  bool
	once   sync.Once
	closed chan struct{}
}

func newTarpit(c net.Conn, pass int, onQuery bool, delay time.Duration) *tarpit {
	return &tarpit{Conn: c, pass: pass, onQuery: onQuery, delay: delay, closed: make(chan struct{})}
}

func (c *tarpit) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.stuck = c.stuck || c.onQuery && len(p) > 0 && (p[0] == 'Q' || p[0] == 'P')
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *tarpit) Read(p []byte) (int, error) {
	c.mu.Lock()
	stuck := c.stuck || c.pass == 0
	if !stuck && c.pass > 0 {
		p = p[:min(len(p), c.pass)]
	}
	c.mu.Unlock()
	if stuck {
		if c.delay == 0 {
			<-c.closed
			return 0, net.ErrClosed
		}
		select {
		case <-time.After(c.delay):
		case <-c.closed:
			return 0, net.ErrClosed
		}
		return c.Conn.Read(p[:min(1, len(p))])
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	if c.pass > 0 {
		c.pass -= n
	}
	c.mu.Unlock()
	return n, err
}

func (c *tarpit) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Scenario 39.
func TestContextEndsALoginWhateverTheServerDoes(t *testing.T) {
	needsQuiet(t)
	server := pgtest.New(t, pgtest.Options{TLS: true})
	for _, test := range []struct {
		name    string
		dsn     string
		pass    int
		onQuery bool
		delay   time.Duration
	}{
		{"silent after accept", "sslmode=disable", 0, false, 0},
		{"silent after accept, by TLS", "", 0, false, 0},
		{"silent after it has agreed to TLS", "", 1, false, 0},
		{"silent in the TLS handshake", "", 400, false, 0},
		{"slow in TLS", "", 1, false, 20 * time.Millisecond},
		{"silent in SCRAM", "sslmode=disable", 24, false, 0},
		{"silent in SCRAM by TLS", "", 1100, false, 0},
		{"silent at the end of SCRAM", "sslmode=disable", 150, false, 0},
		{"slow in SCRAM", "sslmode=disable", 24, false, 20 * time.Millisecond},
		{"silent in the probe", "sslmode=disable", -1, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			dials := &dialCount{wrap: func(_ int, c net.Conn) net.Conn { return newTarpit(c, test.pass, test.onQuery, test.delay) }}
			before := runtime.NumGoroutine()
			t.Run("", func(t *testing.T) {
				w := newWitness(t, server, func(cfg *Config) {
					cfg.Dial, cfg.ProbeQuery = dials.dial, "select balance from account limit 1"
					cfg.Opener = mustPostgres(t, server.DSN()+" "+test.dsn)
				})
				idle := runtime.NumGoroutine()
				settled := func(what string) {
					t.Helper()
					w.eventually(5*time.Second, "no socket left after "+what, func() bool { return dials.open() == 0 })
					noLeak(t, idle)
				}
				expectWithin := func(what string, err, want error, start time.Time, limit time.Duration) {
					t.Helper()
					w.heard(err)
					if !errors.Is(err, want) {
						t.Errorf("%s: %v", what, err)
					}
					w.meter.Within(limit+time.Second, time.Since(start), what)
				}
				const limit = 250 * time.Millisecond

				began := time.Now()
				start := began
				_, err := w.query(limit)
				expectWithin("deadline", err, context.DeadlineExceeded, start, limit)
				settled("a deadline")

				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(limit, cancel)
				start = time.Now()
				_, err = w.db.ExecContext(ctx, "select 1")
				expectWithin("cancel", err, context.Canceled, start, limit)
				settled("a cancel")

				start = time.Now()
				_, err = w.c.Connect(ctx)
				expectWithin("cancelled before", err, context.Canceled, start, 0)
				settled("a context that was cancelled before")

				// A query that is given up has lib/pq dial once more, to cancel it.
				if n := dials.dials(); n > 5 {
					t.Errorf("%d dials", n)
				} else if n < 2 {
					w.meter.Blame(began, time.Now(), limit/2, "%d dials", n)
				}
				if got := w.c.Stats(); got.Refused+got.Failed+got.Logins > 0 || got.Waiting > 0 {
					t.Errorf("a caller that gave up was counted: %+v", got)
				}
			})
			noLeak(t, before)
		})
	}
}

// answer is what came of a query.
type answer struct {
	took time.Duration
	err  error
}

// answers checks that it was want, and came within limit.
func (w *witness) answers(a answer, want error, limit time.Duration, who string) {
	w.Helper()
	if !errors.Is(a.err, want) {
		w.blame(time.Now().Add(-a.took), "%s: %v after %v", who, a.err, a.took)
	}
	w.meter.Within(limit, a.took, who)
}

// Scenario 39: of many who wait for one login, none depends on another's patience.
func TestCallersThatGiveUpFailNobodyElse(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	ask := func(w *witness, n int, limit time.Duration) <-chan answer {
		answers := make(chan answer, n)
		for range n {
			go func() {
				took, err := w.query(limit)
				answers <- answer{took, err}
			}()
		}
		return answers
	}
	stuckFirst := func(delay time.Duration) *dialCount {
		return &dialCount{wrap: func(n int, c net.Conn) net.Conn {
			if n > 1 {
				return c
			}
			return newTarpit(c, 24, false, delay)
		}}
	}

	t.Run("the one that goes ahead", func(t *testing.T) {
		dials := stuckFirst(0)
		w := newWitness(t, server, func(cfg *Config) { cfg.Dial = dials.dial })
		ahead := ask(w, 1, 400*time.Millisecond)
		w.eventually(5*time.Second, "a dial", func() bool { return dials.dials() == 1 })
		others := ask(w, 10, 20*time.Second)
		if a := <-ahead; !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("the one ahead: %v after %v", a.err, a.took)
		}
		for range 10 {
			w.answers(<-others, nil, 2500*time.Millisecond, "another")
		}
	})
	t.Run("those that wait", func(t *testing.T) {
		dials := stuckFirst(5 * time.Millisecond) // some 500 bytes, a byte at a time
		w := newWitness(t, server, func(cfg *Config) { cfg.Dial = dials.dial })
		ahead := ask(w, 1, time.Minute)
		w.eventually(5*time.Second, "a dial", func() bool { return dials.dials() == 1 })
		hasty, patient := ask(w, 10, 100*time.Millisecond), ask(w, 5, 30*time.Second)
		for range 10 {
			w.answers(<-hasty, context.DeadlineExceeded, time.Second, "a hasty one")
		}
		for range 5 {
			w.answers(<-patient, nil, 5*time.Second, "a patient one")
		}
		w.answers(<-ahead, nil, 10*time.Second, "the one ahead")
	})
	t.Run("those that wait for a refused credential", func(t *testing.T) {
		w := newWitness(t, server, func(cfg *Config) { cfg.Window = InPlace() })
		next := roleLogin{w.role, w.stranger().password}
		if err := server.AlterPassword(t.Context(), next.name, next.password); err != nil {
			t.Fatal(err)
		}
		patient := ask(w, 5, 20*time.Second)
		hasty := ask(w, 10, 300*time.Millisecond)
		for range 10 {
			w.answers(<-hasty, context.DeadlineExceeded, 1500*time.Millisecond, "a hasty one")
		}
		w.publish(next)
		for range 5 {
			w.answers(<-patient, nil, 3*time.Second, "a patient one")
		}
	})
}

// dialCount is a Config.Dial that counts what it has opened. Its zero value dials
// what it is asked for.
type dialCount struct {
	to   string                           // dial this address instead
	wrap func(n int, c net.Conn) net.Conn // what becomes of the n-th connection

	mu    sync.Mutex
	n     int
	conns map[*countedConn]bool
}

type countedConn struct {
	net.Conn
	count *dialCount
}

func (c *countedConn) Close() error {
	c.count.mu.Lock()
	delete(c.count.conns, c)
	c.count.mu.Unlock()
	return c.Conn.Close()
}

func (d *dialCount) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.n++
	n := d.n
	d.mu.Unlock()
	if d.to != "" {
		address = d.to
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if d.wrap != nil {
		conn = d.wrap(n, conn)
	}
	c := &countedConn{conn, d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns == nil {
		d.conns = map[*countedConn]bool{}
	}
	d.conns[c] = true
	return c, nil
}

// dials returns how often it was called.
func (d *dialCount) dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n
}

// open returns how many of its connections are open.
func (d *dialCount) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

func (d *dialCount) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.Conn.Close()
	}
	clear(d.conns)
}
