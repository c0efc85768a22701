// The contenders: pools that change their login, each in its own way, and ours among them.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lib/pq"
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
	nameFixed     = "bare lib/pq"
	nameService   = "service file"
	nameAging     = "service file, lifetime"
	nameRefresher = "refresh on refusal"
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
	// transact runs a transaction that is open until f returns.
	transact(ctx context.Context, f func()) error
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
	lost func(story) bool // whether a story is lost on it; nil: none is
}

// terms are what is agreed of the old login's end. Who retires nothing doesn't ask.
type terms struct {
	window sqlrotate.Window
	drain  time.Duration
}

// leisurely are the terms of the rotations: a window that is wide enough for any of them.
func leisurely(drain time.Duration) terms {
	return terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: drain}
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
	noFile := func(s story) bool { return s.needsFile }
	aging := func(s story) bool { return s.load.age > 0 } // so are the connections of "service file"
	return []contender{
		{name: nameSQLRotate, open: openSQLRotate},
		{name: namePgx, open: openPgx},
		{name: namePgxpool, open: openPgxpool},
		{name: nameFixed, open: openFixed, lost: noFile},
		{name: nameService, open: openService},
		{name: nameAging, open: openAging, lost: aging},
		{name: nameRefresher, open: openRefresher},
		{name: nameFlip, open: openFlip, lost: noFile},
		{name: nameReset, open: openReset, lost: noFile},
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

func (p *standard) transact(ctx context.Context, f func()) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var balance int
	if err := tx.QueryRowContext(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	f()
	if err := tx.QueryRowContext(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	return tx.Commit()
}

func (p *standard) close() { _ = p.db.Close() }

// logIn opens a connection of lib/pq.
func (p *standard) logIn(ctx context.Context, cfg pq.Config, l login) (driver.Conn, error) {
	cfg = cfg.Clone()
	cfg.User, cfg.Password = l.user, l.password
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

// loginFile is where a pool finds its login.
type loginFile struct {
	path   string
	format func(login) []byte
}

// inJSON is the file that ours read.
func inJSON(path string) loginFile {
	return loginFile{path, func(l login) []byte {
		return fmt.Appendf(nil, `{"username":%q,"password":%q}`, l.user, l.password)
	}}
}

// rotate replaces the file.
func (f loginFile) rotate(l login) error {
	if err := os.WriteFile(f.path+".next", f.format(l), 0o600); err != nil {
		return err
	}
	return os.Rename(f.path+".next", f.path)
}

// tear writes the file in place, and leaves it as it is just before the end.
func (f loginFile) tear(l login) error {
	content := f.format(l)
	return os.WriteFile(f.path, content[:len(content)-10], 0o600)
}

// publish writes a login to a file that ours read.
func publish(path string, l login) error { return inJSON(path).rotate(l) }

// rotator is sqlrotate as its README has it, with the login in a file.
type rotator struct {
	standard
	loginFile
	connector *sqlrotate.Connector
	source    *sqlrotate.FileSource
}

func openSQLRotate(e *env, l load, t terms, first login) (pool, error) {
	opener, err := sqlrotate.LibPQ(e.dsn)
	if err != nil {
		return nil, err
	}
	return openRotator(e, l, t, first, opener)
}

// openPgx is openSQLRotate with pgx behind database/sql.
func openPgx(e *env, l load, t terms, first login) (pool, error) {
	cfg, err := pgxopener.Parse(e.dsn)
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
	return openVolume(l, t, path, false, opener)
}

// openVolume is newRotator for a file or a directory, which may have to be polled.
func openVolume(l load, t terms, path string, polls bool, opener sqlrotate.Opener) (*rotator, error) {
	source, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Logger: slog.New(slog.DiscardHandler), PollOnly: polls})
	if err != nil {
		return nil, err
	}
	p := &rotator{loginFile: inJSON(path), source: source}
	cfg := rotating(l, t, source, p.DialContext)
	cfg.Opener = opener
	if p.connector, err = sqlrotate.New(cfg); err != nil {
		return nil, err
	}
	p.db = sqlrotate.OpenDB(p.connector)
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
	loginFile
	own    *pgxopener.Pool
	source *sqlrotate.FileSource
}

func openPgxpool(e *env, l load, t terms, first login) (pool, error) {
	p := &rotatingPool{loginFile: inJSON(e.file(first))}
	if err := p.rotate(first); err != nil {
		return nil, err
	}
	cfg, err := pgxopener.ParsePool(e.dsn)
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

func (p *rotatingPool) health() error { return p.own.Connector().CheckHealth() }

func (p *rotatingPool) close() {
	p.own.Close()
	_ = p.source.Close()
}

func (p *rotator) health() error { return p.connector.CheckHealth() }

func (p *rotator) close() {
	p.standard.close()
	_ = p.source.Close()
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

func (p *native) transact(ctx context.Context, f func()) error {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var balance int
	if err := tx.QueryRow(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	f()
	if err := tx.QueryRow(ctx, statement, account()).Scan(&balance); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
