package recipes

import (
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	"github.com/sqlrotate/sqlrotate/pgxopener"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

// A role is replaced every so often, and dropped when its overlap is over, as Vault does it.
const (
	rotations = 4
	every     = 2 * time.Second
	overlap   = 14 * time.Second
	lag       = 500 * time.Millisecond
	longest   = 12 * time.Second // that a migration may take
	tolerated = 250 * time.Millisecond
)

//go:embed schema.sql
var schema string

// TestMain keeps the environment's PG variables out of the tests: drivers read them.
func TestMain(m *testing.M) {
	pgtest.ClearEnvironment()
	os.Exit(m.Run())
}

// Everything works on while logins are rotated: nothing fails, what was done is there once,
// and no session is left when its role is dropped.
func TestRecipesWhileLoginsAreRotated(t *testing.T) {
	s := newSite(t)
	all := s.recipes()
	migrations := s.migrate()
	s.rotate()
	migrations.Wait()
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) { s.check(t, r) })
	}
	if n, err := s.server.OrphanSessions(t.Context()); n > 0 || err != nil {
		t.Errorf("%d sessions of dropped roles: %v", n, err)
	}
}

// site is a server, and those who log in there.
type site struct {
	*testing.T
	server     *pgtest.Server
	meter      *stall.Meter
	began      time.Time
	app, owner *sqlrotatetest.Source
	pq, pgx    func(name string) sqlrotate.Opener
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, server: pgtest.New(t, pgtest.Options{MaxConnections: 150}), meter: stall.Watch(t)}
	s.meter.AskServer(s.server.Admin())
	s.migrateRiver()
	for _, statement := range []string{schema, "create role owner nologin", "create schema migrated authorization owner"} {
		if _, err := s.server.Admin().ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	app, owner := s.roles(0)
	s.app, s.owner = sqlrotatetest.NewSource(app), sqlrotatetest.NewSource(owner)
	s.pq = func(name string) sqlrotate.Opener { return must(sqlrotate.LibPQ(s.dsn(name)))(t) }
	s.pgx = func(name string) sqlrotate.Opener {
		return must(pgxopener.New(must(pgxopener.Parse(s.dsn(name)))(t)))(t)
	}
	s.began = time.Now()
	return s
}

func must[V any](v V, err error) func(testing.TB) V {
	return func(tb testing.TB) V {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func (s *site) dsn(name string) string {
	return s.server.DSN() + " application_name='" + name + "'"
}

// roles makes the next login of the application, and that of its migrations: what they
// create belongs to a role that stays. It is in a schema of its own, because golang-migrate
// truncates its table, at which a GRANT ON ALL TABLES fails.
func (s *site) roles(n int) (app, owner sqlrotate.Credential) {
	s.Helper()
	role := func(name string, options ...string) sqlrotate.Credential {
		cred := sqlrotate.Credential{Username: fmt.Sprint(name, n), Password: sqlrotate.NewSecret(rand.Text())}
		if err := s.server.CreateRole(s.Context(), cred.Username, cred.Password.Reveal(), options...); err != nil {
			s.Fatal(err)
		}
		return cred
	}
	app, owner = role("app"), role("migration", "in role owner")
	for _, setting := range []string{"role = owner", "search_path = migrated"} {
		if _, err := s.server.Admin().ExecContext(s.Context(), "alter role "+owner.Username+" set "+setting); err != nil {
			s.Fatal(err)
		}
	}
	return app, owner
}

// rotate returns when the last old role has been dropped.
func (s *site) rotate() {
	var revocations sync.WaitGroup
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := range rotations {
		<-tick.C
		app, owner := s.roles(n + 1)
		s.app.Set(app)
		s.owner.Set(owner)
		revocations.Go(func() {
			<-time.After(overlap)
			s.revoke(fmt.Sprint("app", n))
			s.revoke(fmt.Sprint("migration", n))
		})
	}
	revocations.Wait()
}

func (s *site) revoke(role string) {
	var names []string
	rows, err := s.server.Admin().QueryContext(s.Context(), "select application_name from pg_stat_activity where usename = $1", role)
	if err == nil {
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				s.Error(err)
			}
			names = append(names, name)
		}
		err = rows.Err()
		_ = rows.Close()
	}
	if len(names) > 0 || err != nil {
		s.blame("%s has sessions when it is revoked: %q (%v)", role, names, err)
	}
	if err := s.server.RevokeRole(s.Context(), role); err != nil {
		s.Error(err)
	}
}

func (s *site) blame(what string, args ...any) {
	s.Helper()
	s.meter.Blame(s.began, time.Now(), tolerated, what, args...)
}

// config is what an application would have.
func (s *site) config(opener sqlrotate.Opener) sqlrotate.Config {
	return sqlrotate.Config{
		Source: s.app, Opener: opener,
		Window:    sqlrotate.Window{Overlap: overlap, Lag: lag, MaxInUse: 2 * time.Second},
		DrainTime: every / 2,
	}
}

// operation writes two rows, whose amounts are 1 and -1, in one transaction.
type operation func(ctx context.Context, book, op string) error

// recipe is one of them at work.
type recipe struct {
	name    string
	c       *sqlrotate.Connector
	db      *sql.DB
	operate operation
	finish  func() // what it does in the background, if anything

	stop    context.CancelFunc
	workers sync.WaitGroup
	mu      sync.Mutex
	done    map[string]bool
	failed  []error
}

// start sets two workers to work.
func (s *site) start(name string, opener func(name string) sqlrotate.Opener, open func(*sqlrotate.Connector) *sql.DB, use func(*recipe) operation) *recipe {
	s.Helper()
	r := &recipe{name: name, done: map[string]bool{}, finish: func() {}}
	r.c = must(sqlrotate.New(s.config(opener(name))))(s)
	r.db = open(r.c)
	r.db.SetMaxOpenConns(4)
	r.db.SetMaxIdleConns(4)
	s.Cleanup(func() { _ = r.db.Close() })
	r.operate = use(r)
	ctx, cancel := context.WithCancel(s.Context())
	r.stop = cancel
	for range 2 {
		r.workers.Go(func() {
			for ctx.Err() == nil {
				r.work(context.WithoutCancel(ctx))
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	return r
}

func (r *recipe) work(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	op := rand.Text()
	err := r.operate(ctx, r.name, op)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = append(r.failed, err)
		return
	}
	r.done[op] = true
}

// check ends a recipe's work, and looks at its books.
func (s *site) check(t *testing.T, r *recipe) {
	r.stop()
	r.workers.Wait()
	r.finish()
	for _, err := range r.failed {
		s.meter.Blame(s.began, time.Now(), tolerated, "%s: an operation failed: %v", r.name, err)
	}
	stats := r.c.Stats()
	if stats.Rotations != rotations || stats.Refused > 0 || len(r.done) < 10*rotations {
		t.Errorf("%d operations, %+v", len(r.done), stats)
	}
	if stats.Outlived > 0 {
		s.meter.Blame(s.began, time.Now(), tolerated, "%s: %d connections outlived their credential", r.name, stats.Outlived)
	}
	if stats.Drains == 0 {
		s.meter.Blame(s.began, time.Now(), tolerated, "%s: no rotation was over before the next one: %+v", r.name, stats)
	}
	for _, p := range r.c.Problems() {
		if p.Kind == sqlrotate.ProblemUnmanaged {
			t.Error(p.Text)
		}
	}
	rows, err := s.server.Admin().QueryContext(t.Context(), "select op, count(*), sum(amount) from entry where book = $1 group by op", r.name)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	there := 0
	for rows.Next() {
		var op string
		var n, sum int
		if err := rows.Scan(&op, &n, &sum); err != nil {
			t.Fatal(err)
		}
		if n != 2 || sum != 0 || !r.done[op] && len(r.failed) == 0 {
			t.Errorf("%d rows with a sum of %d, acknowledged: %v", n, sum, r.done[op])
		}
		if r.done[op] {
			there++
		}
	}
	if err := rows.Err(); err != nil || there != len(r.done) {
		t.Errorf("of %d operations that were acknowledged %d are there: %v", len(r.done), there, err)
	}
	if err := r.db.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d operations, %d rotations, closed %v", len(r.done), stats.Rotations, stats.Closed)
}

// url returns where the server is for an opener of a driver.
func (s *site) url(name string) *url.URL {
	return &url.URL{
		Scheme: "postgres", Host: fmt.Sprintf("%s:%d", s.server.Host(), s.server.Port()), Path: s.server.Database(),
		RawQuery: url.Values{"application_name": {name}, "sslmode": {"disable"}}.Encode(),
	}
}
