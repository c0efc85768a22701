// The others: what people do without sqlrotate, in a few lines each.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate"
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
	cfg, err := pq.NewConfig(e.dsn)
	if err != nil {
		return nil, err
	}
	return newFlipOver(cfg, l, first), nil
}

// newFlipOver is newFlip with the server's address.
func newFlipOver(cfg pq.Config, l load, first login) *flip {
	p := &flip{cfg: cfg, load: l, latest: first}
	p.db = sql.OpenDB(p)
	p.limit(l)
	p.db.SetConnMaxLifetime(l.age)
	return p
}

func (p *flip) Connect(ctx context.Context) (driver.Conn, error) {
	p.mu.Lock()
	latest := p.latest
	p.mu.Unlock()
	return p.logIn(ctx, p.cfg, latest)
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
	loginFile
}

func openService(e *env, l load, _ terms, first login) (pool, error) { return newService(e, l, first) }

// openAging opens the same with the lifetime that ours derives from the window, set once.
func openAging(e *env, l load, t terms, first login) (pool, error) {
	lifetime, err := t.window.MaxLifetime()
	if err != nil {
		return nil, err
	}
	l.age = lifetime
	return newService(e, l, first)
}

func newService(e *env, l load, first login) (*service, error) {
	cfg, err := pq.NewConfig(e.dsn)
	if err != nil {
		return nil, err
	}
	p := &service{loginFile: loginFile{e.file(first), func(l login) []byte {
		server := fmt.Sprintf("[bench]\nhost=%s\nport=%d\ndbname=%s\nsslmode=%s\n", cfg.Host, cfg.Port, cfg.Database, cfg.SSLMode)
		if cfg.SSLRootCert != "" {
			server += "sslrootcert=" + cfg.SSLRootCert + "\n"
		}
		return fmt.Appendf(nil, "%suser=%s\npassword=%s\n", server, l.user, l.password)
	}}}
	if err := p.rotate(first); err != nil {
		return nil, err
	}
	if err := os.Setenv("PGSERVICEFILE", p.path); err != nil {
		return nil, err
	}
	if p.db, err = sql.Open("postgres", "service=bench"); err != nil {
		return nil, err
	}
	p.limit(l)
	p.db.SetConnMaxLifetime(l.age)
	return p, nil
}

func (p *service) close() {
	p.standard.close()
	_ = os.Unsetenv("PGSERVICEFILE")
}

// refresher is lib/pq with a login that it keeps until the server refuses it. Then it reads
// the file again, and tries once more. One connection logs in at a time.
type refresher struct {
	standard
	loginFile
	cfg pq.Config

	mu   sync.Mutex // held over a login
	kept login
}

func openRefresher(e *env, l load, _ terms, first login) (pool, error) {
	cfg, err := pq.NewConfig(e.dsn)
	if err != nil {
		return nil, err
	}
	p := &refresher{loginFile: inJSON(e.file(first)), cfg: cfg, kept: first}
	if err := p.rotate(first); err != nil {
		return nil, err
	}
	p.db = sql.OpenDB(p)
	p.limit(l)
	p.db.SetConnMaxLifetime(l.age)
	return p, nil
}

func (p *refresher) Connect(ctx context.Context) (driver.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn, err := p.logIn(ctx, p.cfg, p.kept)
	if !sqlrotate.SQLStateRefused(err) {
		return conn, err
	}
	content, err := os.ReadFile(p.path)
	if err != nil {
		return nil, err
	}
	var latest struct{ Username, Password string }
	if err := json.Unmarshal(content, &latest); err != nil {
		return nil, err
	}
	p.kept = login{latest.Username, latest.Password}
	return p.logIn(ctx, p.cfg, p.kept)
}

func (p *refresher) Driver() driver.Driver { return &pq.Driver{} }

// reset is pgxpool with BeforeConnect and Reset, and its own defaults otherwise.
type reset struct {
	native

	mu     sync.Mutex // guards latest
	latest login
}

func openReset(e *env, l load, _ terms, first login) (pool, error) {
	cfg, err := pgxpool.ParseConfig(e.dsn)
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
