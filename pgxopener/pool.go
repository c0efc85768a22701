// A native *pgxpool.Pool over a Connector.

package pgxopener

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/sqlrotate/sqlrotate"
)

// ParsePool is [Parse] for a pool: it parses dsn as pgxpool.ParseConfig does, pool_max_conns
// and its like included.
func ParsePool(dsn string) (*pgxpool.Config, error) {
	var cfg *pgxpool.Config
	err := parse(dsn, func(settings string) (_ *pgx.ConnConfig, err error) {
		if cfg, err = pgxpool.ParseConfig(settings); err != nil {
			return nil, err
		}
		return cfg.ConnConfig, nil
	})
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

// Pool is a *pgxpool.Pool whose connections log in with the latest credential of a source,
// and are replaced one by one in a rotation. Make it with [NewPool], and close it by its own
// Close. Its field Pool is for what takes a *pgxpool.Pool. All methods are safe for
// concurrent use.
type Pool struct {
	*pgxpool.Pool
	connector *sqlrotate.Connector
	rotating  *sqlrotate.Pool
	native    atomic.Pointer[pgxpool.Pool] // Pool, for those who may be called before it is set
	closing   context.Context              //nolint:containedctx // done when Close is called
	close     context.CancelFunc
	tracer    pgx.QueryTracer // the application's
}

// NewPool makes a pool as poolCfg says, which [ParsePool] has made, with a connector of its
// own as cfg says. cfg.Opener must be nil: poolCfg says how to log in. As with
// pgxpool.NewWithConfig no connection is waited for, and of ctx the values count alone.
//
// poolCfg may be changed before, as for pgxpool: limits, hooks and the tracer are used as
// ever, but for this:
//
//   - A connection logs in before the pool sees it; that may be long before, to replace one
//     that is to go. BeforeConnect, ConnConfig.ValidateConnect and ConnConfig.AfterNetConnect
//     are called at the login, with the user and the password in the configuration that the
//     first of them is given. All other hooks are called as the pool gets or uses a
//     connection, and see no password. So does the tracer: of logins, and why they fail, tells
//     cfg.Trace.
//   - MaxConnLifetime is cfg's: the shorter of it and cfg.ConnMaxLifetime counts, connections
//     that reach it are replaced one by one, and the pool itself has none.
//     (MaxConnLifetimeJitter is not used. The connector has its own, of a tenth.)
//   - User, Password, DialFunc and LookupFunc of ConnConfig are not used, nor what
//     BeforeConnect makes of them: see [New].
//
// What is an error of [New] is one of NewPool.
func NewPool(ctx context.Context, poolCfg *pgxpool.Config, cfg sqlrotate.Config) (*Pool, error) {
	switch {
	case poolCfg == nil || poolCfg.ConnConfig == nil || poolCfg.MaxConns < 1:
		return nil, errors.New("pgxopener: the pool's configuration was not made by ParsePool")
	case cfg.Opener != nil:
		return nil, errors.New("pgxopener: Config.Opener is set, and the pool's configuration says how to log in")
	}
	poolCfg = poolCfg.Copy()
	opener, err := New(loginConfig(poolCfg), beforeConnect(poolCfg)...)
	if err != nil {
		return nil, err
	}
	cfg.Opener = opener
	if d := poolCfg.MaxConnLifetime; d > 0 && (cfg.ConnMaxLifetime <= 0 || d < cfg.ConnMaxLifetime) {
		cfg.ConnMaxLifetime = d
	}
	p := &Pool{}
	if p.connector, err = sqlrotate.New(cfg); err != nil {
		return nil, err
	}
	p.rotating, err = p.connector.NewPool(sqlrotate.PoolConfig{MaxConns: int(poolCfg.MaxConns), Retire: p.retire, Ask: p.ask})
	if err != nil {
		return nil, err
	}
	p.closing, p.close = context.WithCancel(context.Background())
	p.hook(poolCfg)
	if p.Pool, err = pgxpool.NewWithConfig(ctx, poolCfg); err != nil {
		p.close()
		_ = p.rotating.Close()
		return nil, err
	}
	p.native.Store(p.Pool)
	return p, nil
}

// Connector returns the connector that logs in for the pool: its Stats and CheckHealth. It
// is the pool's to close.
func (p *Pool) Connector() *sqlrotate.Connector { return p.connector }

// Close closes the pool and then the connector. As pgxpool's it waits until all connections
// have been returned; logins that are under way are given up.
func (p *Pool) Close() {
	p.close()
	p.Pool.Close()
	_ = p.rotating.Close()
}

// loginConfig is what a pool's logins go by. They are not traced: the pool's tracer sees
// connections, and what is asked on one that no pool has is nobody's query. That prepares
// no statement either, because the pool would not know of it.
func loginConfig(poolCfg *pgxpool.Config) *pgx.ConnConfig {
	cfg := poolCfg.ConnConfig.Copy()
	cfg.Tracer, cfg.AfterConnect = nil, nil
	if cfg.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = 2 * time.Minute // as in pgxpool
	}
	return cfg
}

// beforeConnect has a pool's hook of that name called at its logins, with a copy of the
// configuration that it may change, but for what belongs to each login.
func beforeConnect(poolCfg *pgxpool.Config) []stdlib.OptionOpenDB {
	hook := poolCfg.BeforeConnect
	if hook == nil {
		return nil
	}
	return []stdlib.OptionOpenDB{stdlib.OptionBeforeConnect(func(ctx context.Context, cfg *pgx.ConnConfig) error {
		its := cfg.Copy()
		err := hook(ctx, its)
		its.User, its.Password, its.DialFunc, its.LookupFunc = cfg.User, cfg.Password, cfg.DialFunc, cfg.LookupFunc
		*cfg = *its
		return err
	})}
}

// hook puts the pool's own hooks before the application's.
func (p *Pool) hook(cfg *pgxpool.Config) {
	cfg.ConnConfig.User = ""
	cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter = 0, 0
	cfg.BeforeConnect = p.logIn
	prepare := cfg.PrepareConn
	//lint:ignore SA1019 applications may still have it
	if before := cfg.BeforeAcquire; prepare == nil && before != nil { //nolint:staticcheck // likewise
		prepare = func(ctx context.Context, conn *pgx.Conn) (bool, error) { return before(ctx, conn), nil }
	}
	cfg.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		if ctx.Value(sweeping{}) != nil {
			return true, nil
		}
		return lend(ctx, conn, prepare)
	}
	// With AfterRelease pgxpool returns each connection in a goroutine of its own, and one
	// that is wanted right then is not there: it is left out where it isn't needed.
	released, destroys := cfg.AfterRelease, cfg.AfterRelease != nil || cfg.BeforeClose != nil
	if destroys {
		cfg.AfterRelease = func(conn *pgx.Conn) bool {
			r := resumedOf(conn)
			return (r.swept.Load() || released == nil || released(conn)) && r.session.Keep()
		}
	}
	ping := cfg.ShouldPing
	cfg.ShouldPing = func(ctx context.Context, params pgxpool.ShouldPingParams) bool {
		params.IdleDuration = time.Since(resumedOf(params.Conn).idleSince) // pgxpool counts from the last sweep
		switch {
		case ctx.Value(sweeping{}) != nil:
			return false
		case ping == nil:
			return params.IdleDuration > time.Second // as in pgxpool
		}
		return ping(ctx, params)
	}
	p.tracer = cfg.ConnConfig.Tracer
	cfg.ConnConfig.Tracer = releaseTracer(p.tracer, destroys)
}

// lend has the application's hook prepare a connection, if that may be lent.
func lend(ctx context.Context, conn *pgx.Conn, prepare func(context.Context, *pgx.Conn) (bool, error)) (bool, error) {
	r := resumedOf(conn)
	r.swept.Store(false)
	switch {
	case !r.session.Lend():
		return false, nil
	case prepare == nil:
		return true, nil
	}
	ok, err := prepare(ctx, conn)
	if err != nil {
		r.session.Return() // nobody gets it
	}
	return ok, err
}

// logIn is the pool's BeforeConnect. It gets a session from the connector, with all that
// belongs to that: spares, waits, other credentials. The connection that pgxpool then makes
// is that one.
func (p *Pool) logIn(ctx context.Context, cfg *pgx.ConnConfig) error {
	if ctx.Value(sweeping{}) != nil {
		return errNoneIdle
	}
	waits, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.closing, cancel)() //nolint:contextcheck // either may end it
	s, err := p.rotating.Connect(waits)
	if err != nil {
		return err
	}
	cfg.Tracer = p.tracer
	return resume(ctx, s, cfg)
}

// sweeping marks the context by which idle connections are taken for a moment: it is nothing
// of the application's.
type sweeping struct{}

// retire closes idle connections that may go, by their release. It takes all that are idle
// for that, and first gives back those that stay.
func (p *Pool) retire() {
	pool := p.native.Load()
	if pool == nil {
		return
	}
	var going []*pgxpool.Conn
	all := pool.AcquireAllIdle(context.WithValue(context.Background(), sweeping{}, true))
	for _, conn := range slices.Backward(all) { // the one that was used last is to be used next
		r := resumedOf(conn.Conn())
		r.swept.Store(true)
		if r.session.Keep() {
			conn.Release()
		} else {
			going = append(going, conn)
		}
	}
	for _, conn := range going {
		conn.Release()
	}
}

// ask runs a query on the idle connection that was used last, past the tracer. (If it took
// more than that one, pgxpool would not see how long the others have been idle.)
func (p *Pool) ask(ctx context.Context, query string) (*sqlrotate.Session, error) {
	pool := p.native.Load()
	if pool == nil || pool.Stat().IdleConns() == 0 {
		return nil, nil //nolint:nilnil // none is idle
	}
	conn, err := pool.Acquire(context.WithValue(ctx, sweeping{}, true))
	if err != nil {
		return nil, nil //nolint:nilnil // nor is any by now
	}
	defer conn.Release()
	r := resumedOf(conn.Conn())
	r.swept.Store(true)
	_, err = conn.Conn().PgConn().ExecParams(ctx, query, nil, nil, nil, nil).Close()
	return r.session, err
}

var errNoneIdle = errors.New("pgxopener: no connection is idle")
