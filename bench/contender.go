// The contenders: pools that change their login, each in its own way.

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/pgxopener"
)

const (
	nameSQLRotate = "sqlrotate"
	namePgx       = "sqlrotate, pgx"
	namePgxpool   = "sqlrotate, pgxpool"
	nameFlip      = "lifetime flip"
	nameReset     = "pgxpool.Reset"
	nameNone      = "no rotation"
	nameNonePgx   = "no rotation, pgx"
	nameNonePool  = "no rotation, pgxpool"
	nameService   = "service file"
	nameFixed     = "fixed login"
)

// against says whom each of ours is held against.
func against() map[string][]string {
	return map[string][]string{
		nameSQLRotate: {nameReset, nameFlip, nameNone},
		namePgx:       {nameReset, nameNonePgx},
		namePgxpool:   {nameReset, nameNonePool},
	}
}

// login is a role and its password.
type login struct{ user, password string }

// pool is a pool of connections of one contender.
type pool interface {
	// query runs one short statement, in autocommit.
	query(ctx context.Context) error
	// transact runs a transaction that is open for some time.
	transact(ctx context.Context, open time.Duration) error
	// rotate tells of a new login, and has old connections replaced.
	rotate(login) error
	logins() int64
	close()
}

// contender opens pools of a kind.
type contender struct {
	name string
	calm bool // nothing is rotated: what the slices of an undisturbed load look like
	open func(e *env, l load, t terms, first login) (pool, error)
}

// terms are what is agreed of the old login's end. Only sqlrotate asks.
type terms struct {
	window sqlrotate.Window
	drain  time.Duration
}

// leisurely are the terms of the rotations. The default of DrainTime is as long as two
// minutes, in which hardly anything is to be seen.
func leisurely() terms {
	return terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: 10 * time.Second}
}

// contenders are those that are timed while a login is rotated under them.
func contenders() []contender {
	return []contender{
		{name: nameSQLRotate, open: openSQLRotate},
		{name: namePgx, open: openPgx},
		{name: namePgxpool, open: openPgxpool},
		{name: nameFlip, open: openFlip},
		{name: nameReset, open: openReset},
		{name: nameNone, open: openFlip, calm: true},
		{name: nameNonePgx, open: openPgx, calm: true},
		{name: nameNonePool, open: openReset, calm: true},
	}
}

// racers are those among them, and others, that are told stories.
func racers() []contender {
	return []contender{
		{name: nameSQLRotate, open: openSQLRotate},
		{name: namePgx, open: openPgx},
		{name: namePgxpool, open: openPgxpool},
		{name: nameFixed, open: openFixed},
		{name: nameService, open: openService},
		{name: nameFlip, open: openFlip},
		{name: nameReset, open: openReset},
	}
}

// chosen are those of all that who names: whose names hold it, or who are listed in it,
// divided by semicolons.
func chosen(all []contender, who string) []contender {
	names := strings.Split(who, ";")
	return slices.DeleteFunc(all, func(c contender) bool {
		if len(names) > 1 {
			return !slices.Contains(names, c.name)
		}
		return !strings.Contains(c.name, who)
	})
}

// dialer counts what it dials: without TLS and without cancellations, the logins.
type dialer struct{ n atomic.Int64 }

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.n.Add(1)
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d *dialer) logins() int64 { return d.n.Load() }

const (
	statement = "select balance from account where id = $1"
	accounts  = 1000
)

// standard is what the two over database/sql have in common.
type standard struct {
	db *sql.DB
	dialer
}

func (p *standard) limit(l load) {
	p.db.SetMaxOpenConns(l.conns)
	p.db.SetMaxIdleConns(l.conns)
	if l.fresh {
		p.db.SetMaxIdleConns(-1)
	}
}

func (p *standard) query(ctx context.Context) error {
	var balance int
	return p.db.QueryRowContext(ctx, statement, account()).Scan(&balance)
}

func (p *standard) transact(ctx context.Context, open time.Duration) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var balance int
	if err := tx.QueryRowContext(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	pause(ctx, open)
	if err := tx.QueryRowContext(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	return tx.Commit()
}

func (p *standard) close() { _ = p.db.Close() }

// rotator is sqlrotate as its README has it, with the login in a file.
type rotator struct {
	standard
	path   string
	source *sqlrotate.FileSource
}

func openSQLRotate(e *env, l load, t terms, first login) (pool, error) {
	opener, err := sqlrotate.LibPQ(e.server.DSN())
	if err != nil {
		return nil, err
	}
	return openRotator(e, l, t, first, opener)
}

// openPgx is openSQLRotate with pgx behind database/sql.
func openPgx(e *env, l load, t terms, first login) (pool, error) {
	cfg, err := pgxopener.Parse(e.server.DSN())
	if err != nil {
		return nil, err
	}
	opener, err := pgxopener.New(cfg)
	if err != nil {
		return nil, err
	}
	return openRotator(e, l, t, first, opener)
}

func openRotator(e *env, l load, t terms, first login, opener sqlrotate.Opener) (pool, error) {
	path := e.file(first)
	if err := publish(path, first); err != nil {
		return nil, err
	}
	return newRotator(l, t, path, opener)
}

func newRotator(l load, t terms, path string, opener sqlrotate.Opener) (*rotator, error) {
	source, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	p := &rotator{path: path, source: source}
	cfg := rotating(l, t, source, p.DialContext)
	cfg.Opener = opener
	c, err := sqlrotate.New(cfg)
	if err != nil {
		return nil, err
	}
	p.db = sqlrotate.OpenDB(c)
	p.limit(l)
	return p, nil
}

// rotating is the configuration of ours.
func rotating(l load, t terms, source sqlrotate.Source, dial sqlrotate.DialFunc) sqlrotate.Config {
	return sqlrotate.Config{
		Source:          source,
		Window:          t.window,
		DrainTime:       t.drain,
		ConnMaxLifetime: l.age,
		Dial:            dial,
		Logger:          slog.New(slog.DiscardHandler),
	}
}

// rotatingPool is pgxpool as ours has it.
type rotatingPool struct {
	native
	own    *pgxopener.Pool
	path   string
	source *sqlrotate.FileSource
}

func openPgxpool(e *env, l load, t terms, first login) (pool, error) {
	p := &rotatingPool{path: e.file(first)}
	if err := publish(p.path, first); err != nil {
		return nil, err
	}
	cfg, err := pgxopener.ParsePool(e.server.DSN())
	if err != nil {
		return nil, err
	}
	l.size(cfg)
	if p.source, err = sqlrotate.NewFileSource(p.path, sqlrotate.FileOptions{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	if p.own, err = pgxopener.NewPool(context.Background(), cfg, rotating(l, t, p.source, p.DialContext)); err != nil {
		return nil, err
	}
	p.pool = p.own.Pool
	return p, nil
}

func (p *rotatingPool) rotate(l login) error { return publish(p.path, l) }

func (p *rotatingPool) close() {
	p.own.Close()
	_ = p.source.Close()
}

func (p *rotator) rotate(l login) error { return publish(p.path, l) }

func (p *rotator) close() {
	p.standard.close()
	_ = p.source.Close()
}

// publish writes a login to a file, by rename.
func publish(path string, l login) error {
	content, err := json.Marshal(map[string]string{"username": l.user, "password": l.password})
	if err != nil {
		return err
	}
	return replace(path, content)
}

func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".next", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".next", path)
}

// native is what those over pgxpool have in common.
type native struct {
	pool *pgxpool.Pool
	dialer
}

// size makes a pool what the load needs.
func (l load) size(cfg *pgxpool.Config) {
	cfg.MaxConns = int32(l.conns) //nolint:gosec // some hundreds
	switch {
	case l.fresh:
		cfg.AfterRelease = func(*pgx.Conn) bool { return false }
	case l.age > 0:
		cfg.MaxConnLifetime = l.age
	}
}

func (p *native) query(ctx context.Context) error {
	var balance int
	return p.pool.QueryRow(ctx, statement, account()).Scan(&balance)
}

func (p *native) transact(ctx context.Context, open time.Duration) error {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var balance int
	if err := tx.QueryRow(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	pause(ctx, open)
	if err := tx.QueryRow(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
