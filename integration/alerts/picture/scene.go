package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	collector "github.com/sqlrotate/sqlrotate/prometheus"
)

// A scene is two services: orders, of two processes as far as Prometheus can see, and
// billing. Each has a login in a file.
type scene struct {
	server *pgtest.Server
	dir    string
	roles  int
	apps   []*app
	cancel context.CancelFunc
	busy   sync.WaitGroup
}

type app struct {
	db     *sql.DB
	src    *sqlrotate.FileSource
	served *httptest.Server
}

// lease is how long a login lasts.
const lease = 100 * time.Second

func newScene(ctx context.Context, server *pgtest.Server, dir string) (*scene, error) {
	s := &scene{server: server, dir: dir}
	ctx, s.cancel = context.WithCancel(ctx)
	for _, name := range []string{"orders", "billing"} {
		role, err := s.newRole(ctx, name)
		if err != nil {
			return s, err
		}
		if err := s.publish(name, login(role)); err != nil {
			return s, err
		}
	}
	return s, errors.Join(s.run(ctx, "orders", 6), s.run(ctx, "orders", 6), s.run(ctx, "billing", 4))
}

// play is what happens, in five minutes.
func (s *scene) play(ctx context.Context) error {
	began := time.Now()
	var late string // a role that isn't there when its login is
	for _, next := range []struct {
		at   int // seconds
		what string
		do   func() error
	}{
		{50, "a slow query", func() error { s.slow(ctx, 35*time.Second); return nil }},
		{60, "orders gets a login", func() error { return s.rotate(ctx, "orders") }},
		{80, "billing gets a login", func() error { return s.rotate(ctx, "billing") }},
		{120, "the file of orders is torn", func() error { return s.publish("orders", `{"username":"ord`) }},
		{145, "orders gets a login", func() error { return s.rotate(ctx, "orders") }},
		{150, "billing gets a login before its role is there", func() error {
			s.roles++
			late = fmt.Sprintf("billing_%d", s.roles)
			return s.publish("billing", login(late))
		}},
		{172, "the role is there", func() error { return s.server.CreateRole(ctx, late, "s3cret") }},
		{210, "orders gets a login", func() error { return s.rotate(ctx, "orders") }},
		{240, "billing gets a login", func() error { return s.rotate(ctx, "billing") }},
		{270, "orders gets a login", func() error { return s.rotate(ctx, "orders") }},
		{300, "that's all", func() error { return nil }},
	} {
		select {
		case <-time.After(time.Until(began.Add(time.Duration(next.at) * time.Second))):
		case <-ctx.Done():
			return ctx.Err()
		}
		log.Printf("%3d s: %s", next.at, next.what)
		if err := next.do(); err != nil {
			return err
		}
	}
	return nil
}

func login(role string) string {
	return fmt.Sprintf(`{"username":%q,"password":"s3cret","expires_at":%q}`, role, time.Now().Add(lease).Format(time.RFC3339Nano))
}

func (s *scene) newRole(ctx context.Context, name string) (string, error) {
	s.roles++
	role := fmt.Sprintf("%s_%d", name, s.roles)
	return role, s.server.CreateRole(ctx, role, "s3cret")
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name+".json") }

func (s *scene) publish(name, text string) error {
	next := s.path(name) + ".new"
	return errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, s.path(name)))
}

func (s *scene) rotate(ctx context.Context, name string) error {
	role, err := s.newRole(ctx, name)
	if err != nil {
		return err
	}
	return s.publish(name, login(role))
}

// run starts a process, with so many connections in use at most.
func (s *scene) run(ctx context.Context, name string, size int) error {
	quiet := slog.New(slog.DiscardHandler)
	src, err := sqlrotate.NewFileSource(s.path(name), sqlrotate.FileOptions{Logger: quiet}) //nolint:contextcheck // it lives until it is closed
	if err != nil {
		return err
	}
	opener, err := sqlrotate.LibPQ(s.server.DSN())
	if err != nil {
		return err
	}
	metrics := collector.NewCollector()
	c, err := sqlrotate.New(sqlrotate.Config{
		Name: name, Source: src, Opener: opener, Logger: quiet, Trace: metrics.Trace(name), DrainTime: 12 * time.Second,
		Window: sqlrotate.Window{Overlap: lease, Lag: 10 * time.Second, MaxInUse: 30 * time.Second},
	})
	if err != nil {
		return err
	}
	db := sqlrotate.OpenDB(c)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	registry := client.NewRegistry()
	registry.MustRegister(metrics)
	s.apps = append(s.apps, &app{db, src, httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))})
	for range size {
		s.busy.Go(func() {
			for ctx.Err() == nil {
				_, _ = db.ExecContext(ctx, "select pg_sleep(0.1)")
			}
		})
	}
	return errors.Join(metrics.AddConnector(name, c), metrics.AddFile(name, src))
}

// slow uses a connection of orders for so long.
func (s *scene) slow(ctx context.Context, d time.Duration) {
	s.busy.Go(func() { _, _ = s.apps[0].db.ExecContext(ctx, "select pg_sleep($1)", d.Seconds()) })
}

func (s *scene) targets() []string {
	var all []string
	for _, a := range s.apps {
		all = append(all, strings.TrimPrefix(a.served.URL, "http://"))
	}
	return all
}

func (s *scene) close() error {
	s.cancel()
	s.busy.Wait()
	var errs []error
	for _, a := range s.apps {
		a.served.Close()
		errs = append(errs, a.db.Close(), a.src.Close())
	}
	return errors.Join(errs...)
}
