// An application that works through sqlrotate on a PostgreSQL whose logins a Vault
// makes, and an observer of those logins.

package integration

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	vault "github.com/hashicorp/vault/api"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// database is a PostgreSQL that Vault manages the roles of.
type database struct {
	*pgtest.Server
	tb testing.TB
	v  *vaultServer
}

// newDatabase starts both and lets Vault in as a superuser.
func newDatabase(tb testing.TB) *database {
	tb.Helper()
	d := &database{Server: pgtest.New(tb, pgtest.Options{Control: true}), tb: tb, v: newVault(tb)}
	if err := ledger.Create(tb.Context(), d.Admin()); err != nil {
		tb.Fatal(err)
	}
	password := rand.Text()
	if err := d.CreateRole(tb.Context(), "vault", password, "SUPERUSER"); err != nil {
		tb.Fatal(err)
	}
	if err := d.v.root.Sys().MountWithContext(tb.Context(), "database", &vault.MountInput{Type: "database"}); err != nil {
		tb.Fatal(err)
	}
	d.v.write("database/config/pg", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@%s:%d/%s?sslmode=disable", d.Host(), d.Port(), d.Database()),
		"username":       "vault", "password": password,
	})
	return d
}

// dynamicRole lets Vault make a role for each lease. It is revoked as Vault does by
// default.
func (d *database) dynamicRole(ttl, maxTTL time.Duration) {
	d.tb.Helper()
	d.v.write("database/roles/app", map[string]any{
		"db_name": "pg", "default_ttl": ttl.String(), "max_ttl": maxTTL.String(),
		"creation_statements": `CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
			GRANT USAGE ON SCHEMA app TO "{{name}}";
			GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA app TO "{{name}}";`,
	})
}

// staticRole lets Vault rotate one role's password.
func (d *database) staticRole(period time.Duration) {
	d.tb.Helper()
	if err := d.CreateRole(d.tb.Context(), "app_static", rand.Text()); err != nil {
		d.tb.Fatal(err)
	}
	d.v.write("database/static-roles/app", map[string]any{
		"db_name": "pg", "username": "app_static", "rotation_period": period.String(),
	})
}

// app is the application.
type app struct {
	testing.TB
	d      *database
	source sqlrotate.Source
	c      *sqlrotate.Connector
	db     *sql.DB
	log    *logbook
	ledger *ledger.Ledger
	meter  *stall.Meter
	window sqlrotate.Window
	began  time.Time
}

// newApp starts an application that takes its logins from source.
func newApp(d *database, source sqlrotate.Source, window sqlrotate.Window, log *logbook) *app {
	d.tb.Helper()
	opener, err := sqlrotate.LibPQ(d.DSN())
	if err != nil {
		d.tb.Fatal(err)
	}
	return startApp(d, log, sqlrotate.Config{Source: source, Opener: opener, Window: window, Logger: log.logger()})
}

// startApp starts an application with a pool of 20 and as many workers.
func startApp(d *database, log *logbook, cfg sqlrotate.Config) *app {
	d.tb.Helper()
	a := &app{TB: d.tb, d: d, source: cfg.Source, log: log, meter: stall.Watch(d.tb), window: cfg.Window, began: time.Now()}
	var err error
	if a.c, err = sqlrotate.New(cfg); err != nil {
		a.Fatal(err)
	}
	a.db = sqlrotate.OpenDB(a.c)
	a.db.SetMaxOpenConns(20)
	a.db.SetMaxIdleConns(20)
	a.ledger = ledger.Start(a.db, ledger.Options{Workers: 20, Think: 20 * time.Millisecond})
	a.Cleanup(func() {
		a.ledger.Stop()
		if a.Failed() {
			a.Logf("healthy: %v; %+v\n%s", a.c.CheckHealth(), a.c.Stats(), log)
		}
		_ = a.db.Close()
	})
	return a
}

// newFileApp is newApp with what an agent renders to path.
func newFileApp(d *database, path string, window sqlrotate.Window) *app {
	d.tb.Helper()
	log := &logbook{}
	source, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{WaitFor: 30 * time.Second, Logger: log.logger()})
	if err != nil {
		d.tb.Fatal(err)
	}
	d.tb.Cleanup(func() { _ = source.Close() })
	return newApp(d, source, window, log)
}

// more waits until n more operations have succeeded or failed.
func (a *app) more(n int) {
	a.Helper()
	before := a.ledger.Done()
	eventually(a, 60*time.Second, "more load", func() bool { return a.ledger.Done() > before+n })
}

// whole waits until all of the last second's operations have succeeded and the
// connector says that all is well.
func (a *app) whole(limit time.Duration) time.Duration {
	a.Helper()
	return eventually(a, limit, "the application is whole again", func() bool {
		failures := a.ledger.Failures()
		return a.c.CheckHealth() == nil && (len(failures) == 0 || time.Since(failures[len(failures)-1].To) > time.Second)
	}) - time.Second
}

// finish stops the load and checks the books.
func (a *app) finish() {
	a.Helper()
	a.ledger.Stop()
	if err := a.ledger.Audit(a.Context(), a.d.Admin()); err != nil {
		a.Attr("failure", "grave")
		a.Error(err)
	}
	if a.ledger.Done() == 0 {
		a.Error("the load did nothing")
	}
}

// mustNotFail stops the load and checks that nothing failed.
func (a *app) mustNotFail() {
	a.Helper()
	a.finish()
	failures := a.ledger.Failures()
	if len(failures) == 0 {
		return
	}
	first := failures[0]
	for _, f := range failures { // one that the machine doesn't excuse comes first
		if !a.meter.Stalled(f.From.Add(-a.memory()), f.To, a.bearable()) {
			first = f
			break
		}
	}
	a.meter.Blame(first.From.Add(-a.memory()), first.To, a.bearable(), "%d of %d operations failed; one after %v: %v",
		len(failures), a.ledger.Done(), first.To.Sub(first.From), first.Err)
}

// bearable is for how long the machine may stall at once, all processes alike, without
// excusing anything.
func (a *app) bearable() time.Duration {
	const least = 200 * time.Millisecond
	return max(least, min(a.window.Lag, a.window.MaxInUse)/2)
}

// memory is for how long a stall may have consequences: for a window, or what of it
// there is.
func (a *app) memory() time.Duration {
	return min(max(time.Second, a.window.Overlap), 10*time.Second)
}

// mustLeaveNoSession checks that no role had a session when it was revoked, and no
// connection outlived its credential.
func (a *app) mustLeaveNoSession(o *observer) {
	a.Helper()
	for _, r := range o.revoked() {
		if r.orphans > 0 && a.meter.Blame(r.gone.Add(-a.memory()), r.gone, a.bearable(), "%d sessions of %s are open when it is revoked", r.orphans, r.name) {
			a.Attr("failure", "grave")
		}
	}
	if n := a.c.Stats().Outlived; n > 0 && a.meter.Blame(a.began, time.Now(), a.bearable(), "%d connections outlived their credential", n) {
		a.Attr("failure", "grave")
	}
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

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// observer watches the roles that Vault makes, and the file.
type observer struct {
	tb   testing.TB
	d    *database
	path string
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	roles []*role
}

// role is what became of one.
type role struct {
	name     string
	made     time.Time // first seen
	rendered time.Time // when the file held it
	idle     time.Time // when it was last seen to have a session
	gone     time.Time // first not seen
	orphans  int       // sessions that it still had then
}

// observe looks at the server every ten milliseconds. path may be empty.
func observe(d *database, path string) *observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{tb: d.tb, d: d, path: path, stop: cancel}
	d.tb.Cleanup(o.finish)
	o.done.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.look(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return o
}

func (o *observer) finish() {
	o.stop()
	o.done.Wait()
}

func (o *observer) look(ctx context.Context) {
	rows, err := o.d.Admin().QueryContext(ctx, `select coalesce(r.rolname, ''), count(a.pid)
		from (select oid, rolname from pg_roles where rolname like 'v-%') r
		full join (select pid, usesysid from pg_stat_activity where usesysid is not null and datname = current_database()
			and usesysid not in (select oid from pg_roles where rolname not like 'v-%')) a on a.usesysid = r.oid
		group by 1`)
	if err != nil {
		return
	}
	defer func() { _ = rows.Close() }()
	sessions := map[string]int{}
	for rows.Next() {
		var name string
		var n int
		if rows.Scan(&name, &n) != nil {
			return
		}
		sessions[name] = n
	}
	if rows.Err() != nil {
		return
	}
	now := time.Now()
	var content []byte
	var written time.Time
	if o.path != "" {
		if info, err := os.Stat(o.path); err == nil {
			written = info.ModTime()
			content, _ = os.ReadFile(o.path)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.roles {
		n, there := sessions[r.name]
		switch {
		case there && n > 0:
			r.idle = now
		case !there && r.gone.IsZero():
			r.gone, r.orphans = now, sessions[""]
		}
		if r.rendered.IsZero() && r.name != "" && strings.Contains(string(content), r.name) {
			r.rendered = written
		}
	}
	for name := range sessions {
		if name != "" && !slices.ContainsFunc(o.roles, func(r *role) bool { return r.name == name }) {
			o.roles = append(o.roles, &role{name: name, made: now})
		}
	}
}

// revoked returns the roles that have come and gone.
func (o *observer) revoked() (rs []role) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.roles {
		if !r.gone.IsZero() {
			rs = append(rs, *r)
		}
	}
	return rs
}

// rendered returns the roles that have been in the file, in that order.
func (o *observer) rendered() (rs []role) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.roles {
		if !r.rendered.IsZero() {
			rs = append(rs, *r)
		}
	}
	slices.SortFunc(rs, func(a, b role) int { return a.rendered.Compare(b.rendered) })
	return rs
}
