// The others: what people do without sqlrotate, in a few lines each.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lib/pq"
)

// flip is lib/pq with the latest login, and a lifetime of next to nothing for as
// long as an operation of the load takes, so that those in use go as well.
type flip struct {
	standard
	cfg  pq.Config
	load load

	mu     sync.Mutex // guards latest
	latest login
}

func openFlip(e *env, l load, _ terms, first login) (pool, error) { return newFlip(e, l, first) }

func newFlip(e *env, l load, first login) (*flip, error) {
	cfg, err := pq.NewConfig(e.server.DSN())
	if err != nil {
		return nil, err
	}
	p := &flip{cfg: cfg, load: l, latest: first}
	p.db = sql.OpenDB(p)
	p.limit(l)
	p.db.SetConnMaxLifetime(l.age)
	return p, nil
}

func (p *flip) Connect(ctx context.Context) (driver.Conn, error) {
	cfg := p.cfg.Clone()
	p.mu.Lock()
	cfg.User, cfg.Password = p.latest.user, p.latest.password
	p.mu.Unlock()
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	c.Dialer(&p.dialer)
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, err // conn is not nil: it holds a nil pointer
	}
	return conn, nil
}

func (p *flip) Driver() driver.Driver { return &pq.Driver{} }

func (p *flip) rotate(l login) error {
	p.mu.Lock()
	p.latest = l
	p.mu.Unlock()
	p.db.SetConnMaxLifetime(1)
	time.AfterFunc(p.load.longest, func() { p.db.SetConnMaxLifetime(p.load.age) })
	return nil
}

// openFixed opens a pool that keeps the login it has begun with.
func openFixed(e *env, l load, _ terms, first login) (pool, error) {
	p, err := newFlip(e, l, first)
	return fixed{p}, err
}

type fixed struct{ *flip }

func (fixed) rotate(login) error { return nil }

// service is lib/pq with the login in a service file, which it reads for each connection.
type service struct {
	standard
	env  *env
	path string
}

func openService(e *env, l load, _ terms, first login) (pool, error) {
	p := &service{env: e, path: e.file(first)}
	if err := p.rotate(first); err != nil {
		return nil, err
	}
	if err := os.Setenv("PGSERVICEFILE", p.path); err != nil {
		return nil, err
	}
	db, err := sql.Open("postgres", "service=bench")
	if err != nil {
		return nil, err
	}
	p.db = db
	p.limit(l)
	p.db.SetConnMaxLifetime(l.age)
	return p, nil
}

func (p *service) rotate(l login) error {
	cfg, err := pq.NewConfig(p.env.server.DSN())
	if err != nil {
		return err
	}
	content := fmt.Sprintf("[bench]\nhost=%s\nport=%d\ndbname=%s\nsslmode=%s\nuser=%s\npassword=%s\n", cfg.Host, cfg.Port, cfg.Database, cfg.SSLMode, l.user, l.password)
	if cfg.SSLRootCert != "" {
		content += "sslrootcert=" + cfg.SSLRootCert + "\n"
	}
	return replace(p.path, []byte(content))
}

func (p *service) close() {
	p.standard.close()
	_ = os.Unsetenv("PGSERVICEFILE")
}

// reset is pgxpool with BeforeConnect and Reset, and its own defaults otherwise.
type reset struct {
	native

	mu     sync.Mutex // guards latest
	latest login
}

func openReset(e *env, l load, _ terms, first login) (pool, error) {
	cfg, err := pgxpool.ParseConfig(e.server.DSN())
	if err != nil {
		return nil, err
	}
	p := &reset{latest: first}
	l.size(cfg)
	cfg.ConnConfig.DialFunc = p.DialContext
	cfg.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		cc.User, cc.Password = p.latest.user, p.latest.password
		return nil
	}
	p.pool, err = pgxpool.NewWithConfig(context.Background(), cfg)
	return p, err
}

func (p *reset) rotate(l login) error {
	p.mu.Lock()
	p.latest = l
	p.mu.Unlock()
	p.pool.Reset()
	return nil
}

func (p *reset) close() { p.pool.Close() }
