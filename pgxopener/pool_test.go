package pgxopener_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"

	"github.com/sqlrotate/sqlrotate/pgxopener"
)

// statements runs what a ledger wants on a pool.
func statements(pool *pgxopener.Pool) ledger.Run {
	return func(ctx context.Context, statements ...ledger.Statement) error {
		if len(statements) == 1 {
			_, err := pool.Exec(ctx, statements[0].SQL, statements[0].Args...)
			return err
		}
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			for _, s := range statements {
				if _, err := tx.Exec(ctx, s.SQL, s.Args...); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func TestPool(t *testing.T) {
	server := openertest.New(t)
	if err := ledger.Create(t.Context(), server.Admin()); err != nil {
		t.Fatal(err)
	}
	t.Run("rotations with TLS", func(t *testing.T) { poolRotates(t, server, "tls", "") })
	t.Run("rotations without", func(t *testing.T) { poolRotates(t, server, "plain", "sslmode=disable") })
	t.Run("in place", func(t *testing.T) { poolInPlace(t, server) })
	t.Run("refused", func(t *testing.T) { poolIsRefused(t, server) })
	t.Run("closed while it waits", func(t *testing.T) { poolClosesWhileItWaits(t, server) })
	t.Run("cut off", func(t *testing.T) { poolCutsOff(t, server, "cut off", "") })
	t.Run("cut off without TLS", func(t *testing.T) { poolCutsOff(t, server, "cut off plain", "sslmode=disable") })
	t.Run("idle", func(t *testing.T) { idlePoolIsDrained(t, server) })
	t.Run("busy", func(t *testing.T) { busyConnectionGoesWhenItIsReleased(t, server) })
	t.Run("hooks", func(t *testing.T) { poolHooks(t, server) })
	t.Run("hooks fail", func(t *testing.T) { poolHooksFail(t, server) })
	t.Run("connections", func(t *testing.T) { poolConnections(t, server, "connections", "") })
	t.Run("connections without TLS", func(t *testing.T) {
		poolConnections(t, server, "connections plain", "sslmode=disable max_protocol_version=3.2")
	})
	t.Run("connections with all checks", func(t *testing.T) {
		poolConnections(t, server, "connections checked", "host=127.0.0.1,localhost target_session_attrs=read-write channel_binding=require require_auth=scram-sha-256")
	})
	t.Run("idle for long", func(t *testing.T) { poolShrinks(t, server, "shrinks", nil) })
	t.Run("idle for long, with a hook", func(t *testing.T) {
		poolShrinks(t, server, "shrinks hooked", func(cfg *pgxpool.Config) { cfg.BeforeClose = func(*pgx.Conn) {} })
	})
	t.Run("idle duration", func(t *testing.T) { idleDurationIsTheApplications(t, server) })
	t.Run("dropped", func(t *testing.T) { poolAsksAfterItsRole(t, server) })
}

// A role is replaced every 1.5 s and dropped, as Vault does it, when its overlap is
// over, under an application that works on.
func poolRotates(t *testing.T, server *openertest.Server, prefix, options string) {
	t.Parallel()
	const overlap = 4 * time.Second
	role := func(n int) sqlrotate.Credential {
		cred := sqlrotate.Credential{Username: fmt.Sprint(prefix, n), Password: sqlrotate.NewSecret(fmt.Sprint("secret", n))}
		if err := server.CreateRole(t.Context(), cred.Username, cred.Password.Reveal()); err != nil {
			t.Fatal(err)
		}
		return cred
	}
	meter := stall.Watch(t)
	meter.AskServer(server.Admin())
	began := time.Now()
	source := sqlrotatetest.NewSource(role(0))
	poolCfg, err := pgxopener.ParsePool(server.DSN() + " pool_max_conns=10 " + options)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxopener.NewPool(t.Context(), poolCfg, sqlrotate.Config{
		Source: source,
		Window: sqlrotate.Window{Overlap: overlap, Lag: 500 * time.Millisecond, MaxInUse: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	work := ledger.StartRun(statements(pool), ledger.Options{Workers: 10, Think: time.Millisecond})

	const rotations = 3
	var revocations sync.WaitGroup
	tick := time.NewTicker(1500 * time.Millisecond)
	defer tick.Stop()
	for n := range rotations {
		<-tick.C
		source.Set(role(n + 1))
		revocations.Go(func() {
			old := fmt.Sprint(prefix, n)
			<-time.After(overlap)
			if sessions, err := server.Sessions(context.Background(), old); err != nil || sessions > 0 {
				meter.Blame(began, time.Now(), 250*time.Millisecond, "%d sessions of %s when it is revoked (%v); %+v", sessions, old, err, pool.Connector().Stats())
			}
			if err := server.RevokeRole(context.Background(), old); err != nil {
				t.Error(err)
			}
		})
	}
	revocations.Wait()
	work.Stop()
	stats := pool.Connector().Stats()
	for _, f := range work.Failures() {
		meter.Blame(began, time.Now(), 250*time.Millisecond, "an operation failed: %v", f.Err)
	}
	if err := work.Audit(t.Context(), server.Admin()); err != nil {
		t.Error(err)
	}
	if stats.Rotations != rotations || stats.Refused > 0 || stats.Closed[sqlrotate.CloseOther] > 0 {
		t.Errorf("%+v", stats)
	}
	if stats.Outlived > 0 {
		meter.Blame(began, time.Now(), 250*time.Millisecond, "%d connections outlived their credential", stats.Outlived)
	}
	pool.Close()
	for _, v := range pool.Connector().Stats().Versions {
		if v.Open > 0 {
			t.Errorf("the books have sessions after Close: %+v", v)
		}
	}
	meter.Eventually(10*time.Second, "the sessions are over", func() bool {
		n, err := server.Sessions(context.Background(), fmt.Sprint(prefix, rotations))
		return err == nil && n == 0
	}, func() string { return fmt.Sprintf("%+v", pool.Connector().Stats()) })
	t.Logf("%d operations, the slowest %v; %+v", work.Done(), work.Slowest(), stats)
}

// rotating is a pool at a server, and the source of its credentials.
type rotating struct {
	*testing.T
	server *openertest.Server
	source *sqlrotatetest.Source
	cred   sqlrotate.Credential
	pool   *pgxopener.Pool
}

// newRotating makes one that is logged in as a new role of that name. adjust may change the
// configurations.
func newRotating(t *testing.T, server *openertest.Server, name, options string, adjust func(*pgxpool.Config, *sqlrotate.Config)) *rotating {
	t.Helper()
	r := &rotating{T: t, server: server}
	r.cred = r.role(name)
	r.source = sqlrotatetest.NewSource(r.cred)
	poolCfg, err := pgxopener.ParsePool(server.DSN() + " " + options)
	if err != nil {
		t.Fatal(err)
	}
	cfg := sqlrotate.Config{
		Source: r.source, Logger: slog.New(slog.DiscardHandler),
		Window: sqlrotate.Window{Overlap: 4 * time.Second, Lag: 500 * time.Millisecond, MaxInUse: time.Second},
	}
	if adjust != nil {
		adjust(poolCfg, &cfg)
	}
	if r.pool, err = pgxopener.NewPool(t.Context(), poolCfg, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	return r
}

func (r *rotating) role(name string) sqlrotate.Credential {
	r.Helper()
	cred := sqlrotate.Credential{Username: name, Password: sqlrotate.NewSecret("hunter2 of " + name)}
	if err := r.server.CreateRole(context.Background(), cred.Username, cred.Password.Reveal()); err != nil {
		r.Fatal(err)
	}
	return cred
}

// user returns who a connection of the pool has logged in as.
func (r *rotating) user() string {
	r.Helper()
	var user string
	if err := r.pool.QueryRow(context.Background(), "select session_user").Scan(&user); err != nil {
		r.Fatal(err)
	}
	return user
}

func (r *rotating) acquire() *pgxpool.Conn {
	r.Helper()
	conn, err := r.pool.Acquire(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	return conn
}

func (r *rotating) sessions(role string) int {
	r.Helper()
	n, err := r.server.Sessions(context.Background(), role)
	if err != nil {
		r.Fatal(err)
	}
	return n
}

func (r *rotating) eventually(what string, f func() bool) {
	r.Helper()
	stall.Watch(r).Eventually(15*time.Second, what, f, func() string { return fmt.Sprintf("%+v", r.pool.Connector().Stats()) })
}

// After a password was changed in place no operation fails: at the server first, and at the
// source first.
func poolInPlace(t *testing.T, server *openertest.Server) {
	t.Parallel()
	r := newRotating(t, server, "in place", "pool_max_conns=10 pool_max_conn_lifetime=200ms", func(_ *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.Window = sqlrotate.InPlace()
		cfg.DrainTime = 300 * time.Millisecond
	})
	work := ledger.StartRun(statements(r.pool), ledger.Options{Workers: 10, Think: time.Millisecond})
	alter := func(password string) {
		if err := server.AlterPassword(t.Context(), r.cred.Username, password); err != nil {
			t.Error(err)
		}
	}
	publish := func(password string) {
		r.source.Set(sqlrotate.Credential{Username: r.cred.Username, Password: sqlrotate.NewSecret(password)})
	}
	refused := func() uint64 { return r.pool.Connector().Stats().Refused }
	r.eventually("the pool works", func() bool { return work.Done() > 100 })
	alter("second")
	r.eventually("the old password is refused", func() bool { return refused() > 0 })
	publish("second")
	r.eventually("the new one is accepted", func() bool { return r.pool.Connector().CheckHealth() == nil })
	before := refused()
	publish("third")
	r.eventually("the next one is refused", func() bool { return refused() > before })
	alter("third")
	r.eventually("the next one is accepted", func() bool { return r.pool.Connector().CheckHealth() == nil })
	work.Stop()
	for _, f := range work.Failures() {
		t.Errorf("an operation failed: %v", f.Err)
	}
	if err := work.Audit(t.Context(), server.Admin()); err != nil {
		t.Error(err)
	}
	if stats := r.pool.Connector().Stats(); stats.Refused > 20 || stats.Rotations != 2 {
		t.Errorf("%+v", stats)
	}
}

// A refused credential is waited for, costs a handful of logins, and gives an error that says
// who is refused, without the password.
func poolIsRefused(t *testing.T, server *openertest.Server) {
	t.Parallel()
	r := newRotating(t, server, "refused", "pool_min_conns=4", func(_ *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.RetryTimeout = time.Second
		cfg.Window = sqlrotate.InPlace()
		cred := sqlrotate.Credential{Username: "refused", Password: sqlrotate.NewSecret("hunter2, and wrong")}
		cfg.Source = sqlrotate.SourceFunc(func(context.Context) (sqlrotate.Credential, error) { return cred, nil })
	})
	var failures sync.WaitGroup
	for range 10 {
		failures.Go(func() {
			_, err := r.pool.Acquire(context.Background())
			var refused *sqlrotate.RefusedError
			if !errors.As(err, &refused) || refused.Code != "28P01" || refused.Username != "refused" {
				t.Errorf("%v", err)
			}
			mustHoldNoSecret(t, err)
		})
	}
	failures.Wait()
	if _, refused, err := server.LoginAttempts("refused"); err != nil || refused > 8 {
		t.Errorf("%d refused logins: %v", refused, err)
	}
	if n := r.pool.Connector().Stats().ConnectFailures[sqlrotate.FailedRefused]; n < 4 {
		t.Errorf("%d failures are counted", n)
	}
}

// Closing the pool gives up logins that wait for a credential.
func poolClosesWhileItWaits(t *testing.T, server *openertest.Server) {
	t.Parallel()
	r := newRotating(t, server, "waits", "pool_min_conns=2", func(_ *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.RetryTimeout = 10 * time.Minute
		cfg.Source = sqlrotate.StaticSource(sqlrotate.Credential{Username: "waits", Password: sqlrotate.NewSecret("wrong")})
	})
	failed := make(chan error)
	go func() {
		_, err := r.pool.Acquire(context.Background())
		failed <- err
	}()
	r.eventually("two logins wait", func() bool { return r.pool.Connector().Stats().Waiting >= 2 })
	r.pool.Close()
	if err := <-failed; err == nil {
		t.Error("a connection of a closed pool")
	}
	if err := r.pool.Ping(t.Context()); err == nil {
		t.Error("a closed pool answers")
	}
}

// mustHoldNoSecret searches all that reflection reaches.
func mustHoldNoSecret(t *testing.T, v any) {
	t.Helper()
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if text := fmt.Sprintf(verb, v); strings.Contains(text, "hunter2") {
			t.Errorf("it says the password: %s", text)
		}
	}
	type visit struct {
		at uintptr
		of reflect.Type
	}
	seen := map[visit]bool{}
	var find func(v reflect.Value, path string)
	find = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.String:
			if strings.Contains(v.String(), "hunter2") {
				t.Errorf("the password is in %s", path)
			}
		case reflect.Interface, reflect.Pointer:
			if v.IsNil() {
				return
			}
			if v.Kind() == reflect.Pointer {
				at := visit{v.Pointer(), v.Type()}
				if seen[at] {
					return
				}
				seen[at] = true
			}
			find(v.Elem(), path)
		case reflect.Struct:
			for i := range v.NumField() {
				find(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				find(v.Index(i), path)
			}
		case reflect.Map:
			for it := v.MapRange(); it.Next(); {
				find(it.Key(), path)
				find(it.Value(), path)
			}
		}
	}
	find(reflect.ValueOf(v), fmt.Sprintf("%T", v))
}

// A connection that outlives its credential is cut off, in use or not, and whoever uses it is
// told why. So is one that was taken out of the pool.
func poolCutsOff(t *testing.T, server *openertest.Server, name, options string) {
	t.Parallel()
	r := newRotating(t, server, name, options, nil)
	used, hijacked := r.acquire(), r.acquire().Hijack()
	defer used.Release()
	next := r.role(name + " next")
	r.source.Set(next)
	failed := make(chan error)
	go func() {
		_, err := used.Exec(context.Background(), "select pg_sleep(20)")
		failed <- err
	}()
	go func() {
		_, err := hijacked.Exec(context.Background(), "select pg_sleep($1)", 20)
		failed <- err
	}()
	for range 2 {
		var outlived *sqlrotate.OutlivedError
		if err := <-failed; !errors.As(err, &outlived) || outlived.Username != name {
			t.Errorf("%v", err)
		}
	}
	if n := r.pool.Connector().Stats().Outlived; n != 2 {
		t.Errorf("%d connections have outlived their credential", n)
	}
	r.eventually("the sessions are over", func() bool { return r.sessions(name) == 0 })
	if user := r.user(); user != next.Username {
		t.Errorf("the pool works as %q", user)
	}
}

// A pool that nobody uses is drained as well, and MinConns are there again soon, out of what
// was logged in to replace them. The application's hooks are not bothered.
func idlePoolIsDrained(t *testing.T, server *openertest.Server) {
	t.Parallel()
	var hooked atomic.Int64
	r := newRotating(t, server, "idle", "pool_min_conns=3", func(poolCfg *pgxpool.Config, cfg *sqlrotate.Config) {
		poolCfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { hooked.Add(1); return true, nil }
		poolCfg.AfterRelease = func(*pgx.Conn) bool { hooked.Add(1); return true }
		poolCfg.ConnConfig.Tracer = poolTracer{tracer{func(what string) {
			if what == "release" {
				hooked.Add(1)
			}
		}, func(any) {}}}
	})
	r.eventually("there are MinConns", func() bool { return r.pool.Stat().IdleConns() == 3 })
	next := r.role("idle next")
	r.source.Set(next)
	r.eventually("the old ones are gone", func() bool { return r.sessions("idle") == 0 })
	r.eventually("there are MinConns again", func() bool { return r.pool.Stat().IdleConns() == 3 && r.sessions("idle next") >= 3 })
	if stats := r.pool.Connector().Stats(); hooked.Load() > 0 || stats.Outlived > 0 || stats.Closed[sqlrotate.CloseOther] > 0 {
		t.Errorf("%d hooks; %+v", hooked.Load(), stats)
	}
	r.pool.Reset()
	if user := r.user(); user != next.Username {
		t.Errorf("after a reset the pool works as %q", user)
	}
}

// A connection that is in use when its turn has come is closed as it comes back, though
// nobody acquires another one.
func busyConnectionGoesWhenItIsReleased(t *testing.T, server *openertest.Server) {
	t.Parallel()
	r := newRotating(t, server, "in use", "", func(_ *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.Window.Overlap, cfg.DrainTime = time.Minute, time.Second
	})
	conn := r.acquire()
	r.source.Set(r.role("in use next"))
	r.eventually("it is its turn", func() bool {
		s := r.pool.Connector().Stats()
		return s.DrainLeft == 1 && s.Spares == 1
	})
	if err := conn.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	conn.Release()
	r.eventually("it is gone", func() bool { return r.sessions("in use") == 0 && r.pool.Stat().TotalConns() == 0 })
	if s := r.pool.Connector().Stats(); s.Closed[sqlrotate.CloseSuperseded] != 1 {
		t.Errorf("%+v", s)
	}
}

// calls are those of hooks.
type calls struct {
	mu   sync.Mutex
	list []string
}

func (c *calls) add(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, s)
}

func (c *calls) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(c.list, ", ")
	c.list = nil
	return all
}

// tracer notes what it sees.
type tracer struct {
	add   func(string)
	check func(any)
}

func (t tracer) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	t.add("connect")
	t.check(data)
	return ctx
}

func (t tracer) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	t.add("connected")
	t.check(data.Conn.Config())
}

func (t tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	t.add(data.SQL)
	return ctx
}
func (tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// poolTracer sees what the pool does as well.
type poolTracer struct{ tracer }

func (t poolTracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	t.add("acquire")
	return ctx
}

func (t poolTracer) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {
	t.add("acquired")
}
func (t poolTracer) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData) { t.add("release") }

// The application's hooks and tracer are called as ever, each once.
func poolHooks(t *testing.T, server *openertest.Server) {
	t.Parallel()
	var seen calls
	keep := true
	r := newRotating(t, server, "hooks", "pool_max_conns=1 pool_max_conn_lifetime=1h", func(poolCfg *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.Window = sqlrotate.InPlace()
		cfg.ProbeQuery = "select 7" // prepared by nobody
		cfg.TagVersion = true
		poolCfg.ConnConfig.Tracer = poolTracer{tracer{seen.add, func(v any) { mustHoldNoSecret(t, v) }}}
		poolCfg.BeforeConnect = func(_ context.Context, cfg *pgx.ConnConfig) error {
			seen.add("before connect as " + cfg.User)
			cfg.RuntimeParams["search_path"] = "elsewhere"
			cfg.User, cfg.Password, cfg.DialFunc, cfg.LookupFunc = "nobody", "wrong", nil, nil // not the hook's to say
			return nil
		}
		poolCfg.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { seen.add("validate"); return nil }
		poolCfg.ConnConfig.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error { seen.add("after connect"); return nil }
		poolCfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			seen.add("after connect as " + conn.Config().User)
			return nil
		}
		//lint:ignore SA1019 applications may still have it
		poolCfg.BeforeAcquire = func(context.Context, *pgx.Conn) bool { seen.add("before acquire"); return true } //nolint:staticcheck // likewise
		poolCfg.AfterRelease = func(*pgx.Conn) bool { seen.add("after release"); return keep }
		poolCfg.BeforeClose = func(*pgx.Conn) { seen.add("before close") }
	})
	conn := r.acquire()
	for range 2 {
		var n int
		if err := conn.QueryRow(t.Context(), "select 7").Scan(&n); err != nil || n != 7 {
			t.Errorf("%d: %v", n, err)
		}
	}
	var path, name string
	if err := conn.QueryRow(t.Context(), "select current_setting('search_path'), current_setting('application_name')").Scan(&path, &name); err != nil || path != "elsewhere" ||
		name != sqlrotate.ApplicationName("", r.cred) || conn.Conn().PgConn().ParameterStatus("application_name") != name {
		t.Errorf("%q, %q: %v", path, name, err)
	}
	want := "acquire, before connect as hooks, validate, connect, after connect, connected, after connect as hooks, before acquire, acquired, select 7, select 7, " +
		"select current_setting('search_path'), current_setting('application_name')"
	if got := seen.take(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	keep = false
	conn.Release()
	r.eventually("it is closed", func() bool { return r.sessions("hooks") == 0 })
	if got := seen.take(); got != "release, after release, before close" {
		t.Errorf("%s", got)
	}
	cfg := r.pool.Config()
	mustHoldNoSecret(t, cfg)
	if cfg.ConnConfig.User != "" || cfg.MaxConnLifetime != 0 || r.pool.Connector().Stats().Window.MaxLifetime != 59*time.Minute {
		t.Errorf("%+v; %+v", cfg, r.pool.Connector().Stats())
	}
}

// What a connection of the pool can do: notifications, types, copies, batches, and its
// queries can be cancelled, over TLS if it is.
func poolConnections(t *testing.T, server *openertest.Server, name, options string) {
	t.Parallel()
	r := newRotating(t, server, name, options, nil)
	conn := r.acquire()
	defer conn.Release()
	_, secure := conn.Conn().PgConn().Conn().(interface{ NetConn() net.Conn }).NetConn().(*tls.Conn)
	if secure == strings.Contains(options, "sslmode=disable") {
		t.Errorf("TLS: %v", secure)
	}
	if _, err := conn.Exec(t.Context(), "listen c; notify c, 'x'"); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Conn().WaitForNotification(t.Context()); err != nil || n.Payload != "x" {
		t.Errorf("%+v: %v", n, err)
	}
	var list []int
	if err := conn.QueryRow(t.Context(), "select array[1, 2]").Scan(&list); err != nil || len(list) != 2 {
		t.Errorf("%v: %v", list, err)
	}
	for _, cancel := range []bool{true, false} {
		sleeps := make(chan error)
		ctx, expire := context.WithCancel(t.Context())
		go func() {
			_, err := conn.Exec(ctx, "select pg_sleep(60) /* "+name+" */")
			sleeps <- err
		}()
		running := func() bool {
			n := 0
			err := server.Admin().QueryRowContext(t.Context(), "select count(*) from pg_stat_activity where state = 'active' and usename = $1", name).Scan(&n)
			return err == nil && n > 0
		}
		r.eventually("it sleeps", running)
		var failed *pgconn.PgError
		if cancel {
			if err := conn.Conn().PgConn().CancelRequest(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-sleeps; !errors.As(err, &failed) || failed.Code != "57014" {
				t.Errorf("%v", err)
			}
			expire()
			continue
		}
		expire()
		if err := <-sleeps; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		r.eventually("it is cancelled", func() bool { return !running() })
	}
	// A second connection with the configuration of the first is none.
	if other, err := pgx.ConnectConfig(t.Context(), conn.Conn().Config()); err == nil || !strings.Contains(err.Error(), "can be used for no other one") {
		t.Errorf("%v, %v", other, err)
	}
}

// The role in use is asked after by a query on an idle connection. So one that is dropped
// before its time is found out.
func poolAsksAfterItsRole(t *testing.T, server *openertest.Server) {
	t.Parallel()
	r := newRotating(t, server, "asked", "pool_max_conns=1", func(_ *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.RoleCheck, cfg.RetryTimeout = 50*time.Millisecond, -1
	})
	var pid, polls int
	r.eventually("the pool's connection is asked", func() bool {
		if polls%40 == 0 { // it must be used, and then be idle
			if err := r.pool.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
				t.Fatal(err)
			}
		}
		polls++
		var last string
		err := server.Admin().QueryRowContext(t.Context(), "select query from pg_stat_activity where pid = $1", pid).Scan(&last)
		return err == nil && last == "select current_user"
	})
	if err := server.RevokeRole(t.Context(), "asked"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the connector has found out", func() bool {
		_ = r.pool.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error { return conn.Ping(t.Context()) })
		return !r.pool.Connector().Stats().Versions[0].RefusedSince.IsZero() && r.pool.Connector().CheckHealth() != nil
	})
}

// A connection that nobody has used for MaxConnIdleTime goes, however often the connector
// asks after the role; MinConns stay.
func poolShrinks(t *testing.T, server *openertest.Server, name string, adjust func(*pgxpool.Config)) {
	t.Parallel()
	r := newRotating(t, server, name, "pool_max_conns=6 pool_min_conns=2 pool_max_conn_idle_time=500ms pool_health_check_period=100ms", func(poolCfg *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.Window, cfg.RoleCheck = sqlrotate.InPlace(), 50*time.Millisecond // nothing ages
		if adjust != nil {
			adjust(poolCfg)
		}
	})
	var all []*pgxpool.Conn
	for range 6 {
		all = append(all, r.acquire())
	}
	for _, conn := range all {
		conn.Release()
	}
	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	defer working.Wait()
	defer stop()
	working.Go(func() {
		for ; ctx.Err() == nil; <-time.After(5 * time.Millisecond) {
			if err := r.pool.Ping(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	r.eventually("those that aren't used are closed", func() bool { return r.pool.Stat().TotalConns() == 2 })
}

// How long a connection has been idle is how long the application hasn't used it: what
// pgxpool's ShouldPing goes by.
func idleDurationIsTheApplications(t *testing.T, server *openertest.Server) {
	t.Parallel()
	var longest atomic.Int64
	r := newRotating(t, server, "idle duration", "pool_max_conns=2", func(poolCfg *pgxpool.Config, cfg *sqlrotate.Config) {
		cfg.Window, cfg.RoleCheck = sqlrotate.InPlace(), 50*time.Millisecond
		poolCfg.ShouldPing = func(_ context.Context, params pgxpool.ShouldPingParams) bool {
			longest.Store(max(longest.Load(), int64(params.IdleDuration)))
			return false
		}
	})
	used, idle := r.acquire(), r.acquire()
	defer used.Release()
	idle.Release()
	longest.Store(0)
	for began := time.Now(); time.Since(began) < 500*time.Millisecond; <-time.After(10 * time.Millisecond) {
		if err := used.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.acquire().Release()
	if d := time.Duration(longest.Load()); d < 500*time.Millisecond {
		t.Errorf("a connection that was idle for half a second has been so for %v", d)
	}
}

// A failing hook fails who acquires, and leaves nothing open.
func poolHooksFail(t *testing.T, server *openertest.Server) {
	t.Parallel()
	no := errors.New("no")
	for name, adjust := range map[string]func(*pgxpool.Config){
		"before connect": func(cfg *pgxpool.Config) {
			cfg.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return no }
		},
		"after connect": func(cfg *pgxpool.Config) { cfg.AfterConnect = func(context.Context, *pgx.Conn) error { return no } },
		"after login": func(cfg *pgxpool.Config) {
			cfg.ConnConfig.AfterConnect = func(context.Context, *pgconn.PgConn) error { return no }
		},
		"validate": func(cfg *pgxpool.Config) {
			cfg.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { return no }
		},
		"prepare": func(cfg *pgxpool.Config) {
			cfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return false, no }
		},
	} {
		r := newRotating(t, server, "fails "+name, "", func(poolCfg *pgxpool.Config, _ *sqlrotate.Config) { adjust(poolCfg) })
		if _, err := r.pool.Acquire(t.Context()); !errors.Is(err, no) {
			t.Errorf("%s: %v", name, err)
		} else {
			mustHoldNoSecret(t, err)
		}
		r.eventually("nothing is left open", func() bool { return r.sessions("fails "+name) == 0 })
	}
}

func TestNewPoolTakesWhatParsePoolMakes(t *testing.T) {
	cfg, err := pgxopener.ParsePool("host=db pool_max_conns=7 pool_max_conn_lifetime=1m")
	if err != nil || cfg.MaxConns != 7 || cfg.ConnConfig.User != "" || cfg.ConnConfig.Password != "" {
		t.Fatalf("%+v: %v", cfg, err)
	}
	for dsn, says := range map[string]string{
		"host=db password=hunter2":                        "has a password",
		"postgres://me:hunter2@db?pool_max_conns=1":       "has a password",
		"host=db pool_max_conns=none":                     "pool_max_conns",
		"host=db pool_max_conns=none password=hunter2 'x": "withheld",
	} {
		if _, err := pgxopener.ParsePool(dsn); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	source := sqlrotate.StaticSource(sqlrotate.Credential{Username: "app"})
	opener, err := open("host=db")
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*pgxpool.Config)) *pgxpool.Config {
		cfg := cfg.Copy()
		f(cfg)
		return cfg
	}
	for name, test := range map[string]struct {
		pool *pgxpool.Config
		cfg  sqlrotate.Config
		says string
	}{
		"nil":        {nil, sqlrotate.Config{Source: source, Window: sqlrotate.InPlace()}, "not made by ParsePool"},
		"literal":    {&pgxpool.Config{ConnConfig: cfg.ConnConfig}, sqlrotate.Config{Source: source, Window: sqlrotate.InPlace()}, "not made by ParsePool"},
		"a password": {with(func(cfg *pgxpool.Config) { cfg.ConnConfig.Password = "hunter2" }), sqlrotate.Config{Source: source, Window: sqlrotate.InPlace()}, "has a password"},
		"an opener":  {cfg, sqlrotate.Config{Source: source, Window: sqlrotate.InPlace(), Opener: opener}, "Config.Opener is set"},
		"no source":  {cfg, sqlrotate.Config{Window: sqlrotate.InPlace()}, "Config.Source is nil"},
		"no window":  {cfg, sqlrotate.Config{Source: source}, "Window"},
	} {
		if p, err := pgxopener.NewPool(t.Context(), test.pool, test.cfg); err == nil || p != nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
