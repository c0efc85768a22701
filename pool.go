// Pools that aren't database/sql's: the seam to them. The rules retire their connections
// one by one, exactly, where database/sql can only be made to let its oldest go.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// PoolConfig is what [Connector.NewPool] needs to know of a pool. Its functions are called
// in goroutines of the connector's own.
type PoolConfig struct {
	// MaxConns is the most connections that the pool may have. Zero means that it has
	// no limit.
	MaxConns int

	// Retire closes the connections that are idle in the pool and whose [Session.Keep] is
	// false. It is called when there is one that is not lent, and again after growing
	// pauses, up to a quarter of a second, for as long as there is. Required.
	Retire func()

	// Ask runs query on any connection that is idle in the pool, and returns its session
	// and the error of the query. It opens no connection: if none is idle it returns nil.
	// By this the connector learns whether the role in use still lives, at no cost of a
	// login. Nil means that the pool can't.
	Ask func(ctx context.Context, query string) (*Session, error)
}

// Pool is a [Connector]'s side of a connection pool that is no *sql.DB: it gives that
// connections which have logged in with the latest credential, and says which are to be
// retired. Make it with [Connector.NewPool]. All methods are safe for concurrent use.
//
// It is for whoever serves another driver's own pool. Users of pgxpool have
// pgxopener.NewPool, which is made with it.
type Pool struct {
	c *Connector
	p *pool
}

// NewPool adds a pool to those whose connections c retires, until [Pool.Close]. When all
// pools of c are closed, those of [OpenDB] included, so is c. After [Connector.Close] the
// error is [ErrClosed].
func (c *Connector) NewPool(cfg PoolConfig) (*Pool, error) {
	if cfg.Retire == nil {
		return nil, errors.New("sqlrotate: PoolConfig.Retire is nil")
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	p := &pool{id: c.newPoolID(), limit: cfg.MaxConns, retiring: retiring{cfg: cfg}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pools = append(c.pools, p)
	c.stepLocked(rotation.PoolAdded{Pool: p.id, Limit: p.limit})
	return &Pool{c, p}, nil
}

// Connect returns a session for the pool: one that was prepared in advance during a
// rotation, or a new one. It waits and fails as [Connector.Connect] does. The pool calls it
// whenever it would log in.
func (p *Pool) Connect(ctx context.Context) (*Session, error) {
	s, err := p.c.session(ctx, p.p.id)
	if err != nil {
		return nil, err
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return &Session{s, s.version.cred.Username}, nil
}

// Close says that the pool is closed. It leaves its connections open. Only the first call
// does anything; that for the last pool of a connector closes that as well.
func (p *Pool) Close() error { return p.c.poolClosed(p.p) }

// Session is a connection of a [Pool]. All methods are safe for concurrent use.
type Session struct {
	s    *session
	user string
}

// Conn returns what the Opener has returned. The pool may take the network connection out
// of it and go on with that by itself: the connector sees a session's end at what the
// Opener has dialled.
func (s *Session) Conn() driver.Conn { return s.s.conn }

// Username returns who has logged in.
func (s *Session) Username() string { return s.user }

// Lend notes that the pool lends the connection. If it is false, the pool is to close it and
// to lend another one.
func (s *Session) Lend() bool {
	s.s.lentAt.Store(int64(s.s.observed.now()))
	s.s.inUse.Store(true)
	return s.Keep()
}

// Return notes that a connection which was lent comes back. If it is false, the pool is to
// close it.
func (s *Session) Return() bool {
	if s.s.inUse.Swap(false) {
		now := s.s.observed.now()
		s.s.observed.note(useSeen, now.Sub(rotation.Instant(s.s.lentAt.Load())), now)
	}
	return s.Keep()
}

// Keep reports whether the pool may keep the connection: false says that it is to be retired,
// or is closed already. It costs next to nothing, as Lend and Return do. False may become
// true again: a credential that had been replaced may come back.
func (s *Session) Keep() bool { return !s.s.leaves.Load() && s.s.expired.Load() == nil }

const (
	// A connection that is not lent, and not idle yet either, is so within microseconds.
	retireMin = 2 * time.Millisecond
	retireMax = 250 * time.Millisecond

	// retireTimeout bounds PoolConfig.Retire, which has idle connections closed.
	retireTimeout = 10 * time.Second
)

// retiring is how a Pool is made to close the connections that may go. Guarded by
// Connector.mu, but for cfg.
type retiring struct {
	cfg   PoolConfig
	busy  bool             // Retire is being called
	pause time.Duration    // before the next call
	next  rotation.Instant // when that is due
}

// markLocked has the sessions of Pools know whether they are to go, and those be called
// that have one.
func (c *Connector) markLocked() {
	for _, p := range c.pools {
		p.pause, p.next = 0, 0
	}
	for id, s := range c.sessions {
		if s.pool != nil && !s.pool.byAge() {
			s.leaves.Store(s.over || c.rules.Going(id))
		}
	}
}

// retireLocked has each Pool close what is idle and may go, and returns when to look again.
func (c *Connector) retireLocked(now rotation.Instant) (wake rotation.Instant) {
	wake = rotation.Never
	for _, p := range c.pools {
		switch {
		case p.byAge() || p.busy: // the end of the call brings us back
		case !c.retirableLocked(p):
		case now < p.next:
			wake = min(wake, p.next)
		default:
			p.busy = true
			c.tasks.start(func() { c.retire(p) })
		}
	}
	return wake
}

// retirableLocked reports whether a Pool has a connection that may go and isn't lent.
func (c *Connector) retirableLocked(p *pool) bool {
	c.going = c.rules.AppendGoing(c.going[:0], p.id)
	return slices.ContainsFunc(c.going, func(id rotation.SessionID) bool {
		s := c.sessions[id]
		return s != nil && !s.inUse.Load()
	})
}

// retire calls a Pool's Retire.
func (c *Connector) retire(p *pool) {
	_ = callFor(retireTimeout, &c.calls.retires, func() error { p.cfg.Retire(); return nil })
	c.mu.Lock()
	p.busy = false
	p.pause = min(max(2*p.pause, retireMin), retireMax)
	p.next = c.now().Mono.Add(p.pause)
	c.mu.Unlock()
	poke(c.wake)
}

// asker is PoolConfig.Ask.
type asker = func(context.Context, string) (*Session, error)

// askers returns those of the Pools that have one.
func (c *Connector) askers() (asks []asker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pools {
		if !p.byAge() && p.cfg.Ask != nil {
			asks = append(asks, p.cfg.Ask)
		}
	}
	return asks
}

// askNative asks on an idle connection of a Pool, or on several if the Pool chooses so.
func (c *Connector) askNative(ask asker) (of rotation.VersionID, answer rotation.Answer) {
	answer = c.askAll(func(query string) rotation.Answer {
		ctx, cancel := context.WithTimeout(c.ctx, questionTimeout)
		defer cancel()
		asked, err := call(ctx, &c.calls.probes, func(ctx context.Context) (*Session, error) {
			asked, err := ask(ctx, query)
			if err != nil {
				err = newLoginError(c.cfg.Opener, err)
			}
			return asked, err
		}, nil)
		if asked == nil {
			return rotation.Unanswered
		}
		of = asked.s.version.id
		asked.s.used.Store(false) // the question is no use, and says more than what was before it
		return c.answered(asked.s, err)
	})
	return of, answer
}
