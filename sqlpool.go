// How database/sql is made to retire one connection: by its lifetime. A pool's limit
// and its end are watched here as well. The rules know nothing of this.

package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/line"
	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// unlimited is the lifetime of connections that don't age. Not 0: the pool's cleaner
// runs only while there is a limit, and the drain needs it.
const unlimited = time.Duration(math.MaxInt64 / 4)

// pool is one *sql.DB, or several over connectors that wrap this one: those can't be
// told apart when they ask for a connection. Or it is a [Pool].
type pool struct {
	id    rotation.PoolID
	base  time.Duration // the lifetime of connections while none is singled out
	line  *line.Line    // nil for a Pool; what it holds is guarded by Connector.mu
	limit int           // guarded by Connector.mu
	dbs   []*sql.DB     // likewise

	retiring // of a Pool
}

// byAge reports whether the pool is database/sql's, which can let its oldest connections go
// only. A Pool lets go those that it is told to.
func (p *pool) byAge() bool { return p.line != nil }

// OpenDB returns a *sql.DB over c, with c managing its connections' lifetime: see
// [Connector.Manage]. It may be called more than once; each pool is retired for
// itself. Closing the last pool of c closes c.
func OpenDB(c *Connector) *sql.DB {
	f := &face{c: c, id: c.newPoolID()}
	db := sql.OpenDB(f)
	c.manage(db, f.id)
	return db
}

// face is the connector as one pool sees it.
type face struct {
	c  *Connector
	id rotation.PoolID
}

func (f *face) Connect(ctx context.Context) (driver.Conn, error) { return f.c.connect(ctx, f.id) }
func (f *face) Driver() driver.Driver                            { return f.c.Driver() }

// Close is called by the pool's own Close.
func (f *face) Close() error {
	f.c.mu.Lock()
	p := f.c.poolLocked(f.id)
	f.c.mu.Unlock()
	if p == nil {
		return nil
	}
	return f.c.poolClosed(p)
}

// Manage lets c set the lifetime of db's connections. It is for a pool that was not
// opened with [OpenDB], but for example with sql.OpenDB over a connector that wraps c.
// From then on db.SetConnMaxLifetime is c's to call ([Config].ConnMaxLifetime says
// what it would have said); all other settings of db stay the caller's. More than one
// pool may be managed: those that were not opened with OpenDB are drained as one. When
// all are closed, so is c. A nil db is ignored, and so is every db after
// [Connector.Close].
//
// (With a SetConnMaxIdleTime shorter than the age of its connections, database/sql's
// cleaner runs less promptly: cold connections then go when they are touched, or with
// their idle time.)
func (c *Connector) Manage(db *sql.DB) {
	if db != nil {
		c.manage(db, 0)
	}
}

func (c *Connector) newPoolID() rotation.PoolID {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.poolID++
	return c.poolID
}

func (c *Connector) manage(db *sql.DB, id rotation.PoolID) {
	if c.start() != nil {
		return
	}
	limit := db.Stats().MaxOpenConnections
	c.mu.Lock()
	if slices.ContainsFunc(c.pools, func(p *pool) bool { return slices.Contains(p.dbs, db) }) {
		c.mu.Unlock()
		return
	}
	p := c.poolLocked(id)
	if p == nil {
		p = &pool{id: id, base: c.lifetime, limit: limit}
		p.line = line.New(p.base)
		c.pools = append(c.pools, p)
		c.stepLocked(rotation.PoolAdded{Pool: id, Limit: limit, ByAge: true})
	}
	p.dbs = append(p.dbs, db)
	c.mu.Unlock()
	db.SetConnMaxLifetime(p.base)
	poke(c.wake)
}

// poolLocked returns the pool with that number, or nil.
func (c *Connector) poolLocked(id rotation.PoolID) *pool {
	for _, p := range c.pools {
		if p.id == id {
			return p
		}
	}
	return nil
}

// unmanagedLocked reports whether there is a pool and nothing retires its connections.
func (c *Connector) unmanagedLocked() bool { return c.pooled && len(c.pools) == 0 }

// watchPools tells the rules which pools are closed, in use, or of another size than
// before.
func (c *Connector) watchPools() {
	c.mu.Lock()
	pools := slices.Clone(c.pools)
	c.mu.Unlock()
	for _, p := range pools {
		if p.byAge() {
			c.watchPool(p)
		} else {
			c.noteUsed(p)
		}
	}
}

func (c *Connector) watchPool(p *pool) {
	c.mu.Lock()
	dbs := slices.Clone(p.dbs)
	c.mu.Unlock()
	limit, endless := 0, false
	dbs = slices.DeleteFunc(dbs, func(db *sql.DB) bool { return closedDB(db) })
	for _, db := range dbs {
		n := db.Stats().MaxOpenConnections
		limit += n
		endless = endless || n <= 0
	}
	if endless {
		limit = 0
	}
	if len(dbs) == 0 {
		go func() { _ = c.poolClosed(p) }() // may wait for this one to end
		return
	}
	c.noteUsed(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.dbs = dbs
	if limit != p.limit {
		p.limit = limit
		c.stepLocked(rotation.PoolLimit{Pool: p.id, Limit: limit})
	}
}

// noteUsed tells the rules if the pool has been in use since it was last called.
func (c *Connector) noteUsed(p *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := false
	for _, s := range c.sessions {
		if s.pool == p && s.used.Swap(false) {
			used = true
		}
	}
	if used {
		c.stepLocked(rotation.PoolUsed{Pool: p.id})
	}
}

// poolClosed notes that a pool is closed; with the last one, the connector is.
func (c *Connector) poolClosed(p *pool) error {
	c.mu.Lock()
	i := slices.Index(c.pools, p)
	if i >= 0 {
		c.pools = slices.Delete(c.pools, i, i+1)
		c.stepLocked(rotation.PoolClosed{Pool: p.id})
	}
	last := i >= 0 && len(c.pools) == 0
	c.mu.Unlock()
	if !last {
		return nil
	}
	return c.Close()
}

// lifetime is what a pool's SetConnMaxLifetime is to be called with.
type lifetime struct {
	dbs []*sql.DB
	d   time.Duration
}

func (l lifetime) set() {
	for _, db := range l.dbs {
		setLifetime(db, l.d)
	}
}

// lifetimesLocked returns what to set the pools' lifetimes to so that those go that may,
// and when to look again.
func (c *Connector) lifetimesLocked(now rotation.Instant) (all []lifetime, wake rotation.Instant) {
	wake = rotation.Never
	for _, p := range c.pools {
		if !p.byAge() {
			continue
		}
		set, again := p.line.Step(c.rules.Going, now)
		for _, d := range set {
			all = append(all, lifetime{p.dbs, d})
		}
		if again != 0 {
			wake = min(wake, again)
		}
	}
	return all, wake
}

// setLifetime sets the lifetime of db's connections, unless db is closed: then
// database/sql would start a cleaner that sleeps for as long, or, if the lifetime is
// shortened before the cleaner has noticed, panic with a send on its closed channel
// (see DB.Close and DB.SetConnMaxLifetime). A Close between the question and the
// call can't be seen, so lifetimes are shortened no more often than need be.
func setLifetime(db *sql.DB, d time.Duration) {
	if !closedDB(db) {
		db.SetConnMaxLifetime(d)
	}
}

// closedDB reports whether db is closed. An open pool says that the context is done,
// and does nothing else.
func closedDB(db *sql.DB) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return !errors.Is(db.PingContext(ctx), context.Canceled)
}
