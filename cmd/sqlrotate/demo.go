// The demo: server, agent and application, a line a second, and a summary.

package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

type demo struct {
	duration, every, overlap time.Duration
	connections, workers     int
	compare                  bool
}

// window is that of the demo: its agent writes a local file, and no transaction
// takes long.
func (d *demo) window() sqlrotate.Window {
	return sqlrotate.Window{Overlap: d.overlap, Lag: d.overlap / 8, Checkout: d.overlap / 4}
}

// accounts is how many rows the application works on.
const accounts = 1000

// run reports whether the rotations went unnoticed.
func (d *demo) run(ctx context.Context) (bool, error) {
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return false, err
	}
	defer func() { _ = server.Close() }() //nolint:contextcheck // it is closed whatever became of ctx
	admin := server.Admin()
	for _, statement := range []string{
		"create table account (id int primary key, balance int not null)",
		fmt.Sprintf("insert into account select n, 100 from generate_series(1, %d) n", accounts),
	} {
		if _, err := admin.ExecContext(ctx, statement); err != nil {
			return false, fmt.Errorf("sqlrotate demo: preparing the database: %w", err)
		}
	}

	window := d.window()
	lifetime, err := window.MaxLifetime()
	if err != nil {
		return false, err
	}
	fmt.Printf("A PostgreSQL at %s, an application with %d connections, a new login every %v.\n", server.DSN(), d.connections, d.every)
	fmt.Printf("Window: overlap %v - lag %v - checkout %v = %v for a connection to live.\n\n", window.Overlap, window.Lag, window.Checkout, lifetime)
	ok, err := d.application(ctx, server, "sqlrotate", d.openRotating)
	if err != nil || !d.compare || ctx.Err() != nil {
		return ok, err
	}
	fmt.Printf("\nThe same through plain lib/pq, with the login that was in the file at the start.\n\n")
	_, err = d.application(ctx, server, "lib/pq alone", d.openFixed)
	return ok, err
}

// pool is what the application queries through.
type pool struct {
	db    *sql.DB
	stats func() sqlrotate.Stats // nil for plain lib/pq
	close func()
}

func (d *demo) openRotating(server *pgtest.Server, path string, _ role) (pool, error) {
	source, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return pool{}, err
	}
	postgres, err := sqlrotate.Postgres(server.DSN())
	if err != nil {
		return pool{}, err
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: source,
		Opener: postgres,
		Window: d.window(),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return pool{}, err
	}
	db := sqlrotate.OpenDB(c)
	return pool{db, c.Stats, func() { _, _ = db.Close(), source.Close() }}, nil
}

func (d *demo) openFixed(server *pgtest.Server, _ string, first role) (pool, error) {
	db, err := sql.Open("postgres", fmt.Sprintf("%s user=%s password=%s", server.DSN(), first.name, first.password))
	if err != nil {
		return pool{}, err
	}
	return pool{db, nil, func() { _ = db.Close() }}, nil
}

// application runs the load through one pool while the agent rotates, and reports
// whether no query failed and no session outlived its role.
func (d *demo) application(ctx context.Context, server *pgtest.Server, name string, open func(*pgtest.Server, string, role) (pool, error)) (bool, error) {
	dir, err := os.MkdirTemp("", "sqlrotate-demo-")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	a := &agent{server: server, path: filepath.Join(dir, "db.json"), every: d.every, overlap: d.overlap}
	first, err := a.publish(ctx, 1)
	if err != nil {
		return false, err
	}
	p, err := open(server, a.path, first)
	if err != nil {
		return false, err
	}
	p.db.SetMaxOpenConns(d.connections)
	p.db.SetMaxIdleConns(d.connections)

	l := &load{db: p.db, workers: d.workers}
	ctx, cancel := context.WithTimeout(ctx, d.duration)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { a.run(ctx, first) })
	wg.Go(func() { l.run(ctx) })
	report(ctx, os.Stdout, a, l, p)
	wg.Wait()
	l.take()

	ctx = context.WithoutCancel(ctx)
	survivors, err := server.OrphanSessions(ctx)
	if err != nil {
		return false, fmt.Errorf("sqlrotate demo: asking for survivors: %w", err)
	}
	p.close()
	return summary(os.Stdout, name, a, l, survivors), nil
}

// report prints a line a second until ctx is done.
func report(ctx context.Context, w io.Writer, a *agent, l *load, p pool) {
	_, _ = fmt.Fprintf(w, "%5s %9s %8s %7s %9s %9s %9s  %s\n", "time", "rotations", "queries", "failed", "p50", "p99", "max", "open connections by credential version")
	start := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t := l.take()
		a.mu.Lock()
		rotations := a.rotations
		a.mu.Unlock()
		_, _ = fmt.Fprintf(w, "%4.0fs %9d %8d %7d %9v %9v %9v  %s\n", time.Since(start).Seconds(), rotations, t.queries, t.failed,
			round(t.quantile(.5)), round(t.quantile(.99)), round(t.quantile(1)), connections(p))
	}
}

func connections(p pool) string {
	if p.stats == nil {
		return fmt.Sprintf("%d", p.db.Stats().OpenConnections)
	}
	var parts []string
	for _, v := range p.stats().Versions {
		if v.Open > 0 || v.Current {
			parts = append(parts, fmt.Sprintf("#%d:%d", v.Number, v.Open))
		}
	}
	return strings.Join(parts, " ")
}

// summary prints what it came to, and reports whether all went well.
func summary(w io.Writer, name string, a *agent, l *load, survivors int) bool {
	slices.Sort(l.total.latencies)
	_, _ = fmt.Fprintf(w, "\n%s: %d rotations, %d queries, %d failed; p50 %v, p99 %v, p99.9 %v, slowest %v\n", name, a.rotations, l.total.queries, l.total.failed,
		round(l.total.quantile(.5)), round(l.total.quantile(.99)), round(l.total.quantile(.999)), round(l.total.quantile(1)))
	_, _ = fmt.Fprintf(w, "%d roles revoked; pg_stat_activity says: %d sessions were open when their role was revoked, %d at the end\n", a.revoked, a.outlived, survivors)
	for text, n := range l.errs {
		_, _ = fmt.Fprintf(w, "  %6d × %s\n", n, text)
	}
	for _, problem := range a.problems {
		_, _ = fmt.Fprintf(w, "  agent: %s\n", problem)
	}
	return l.total.failed == 0 && l.total.queries > 0 && a.outlived == 0 && survivors == 0 && len(a.problems) == 0
}

func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(100 * time.Microsecond)
}
