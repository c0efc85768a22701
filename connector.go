// Config, New and the Connector: what database/sql asks for connections, and
// where credential versions are kept.

package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Config is what [New] builds a [Connector] from.
type Config struct {
	// Source is where the latest credential comes from. Required. It is read for
	// every new connection and stays the caller's to close.
	Source Source

	// Opener logs in: [Postgres] for lib/pq. Required.
	Opener Opener

	// Window is the overlap of a credential and its successor. Required: see
	// [Window] and [InPlace].
	Window Window

	// Probe is a query that says what "works" means, for logins that succeed with
	// a role that can do nothing. It is run, and its rows discarded, after a login
	// with a credential that has not proven itself yet, within LoginTimeout; if it
	// fails, the credential counts as refused. The driver's connection must be a
	// driver.QueryerContext. Empty means that a login is proof enough.
	Probe string

	// Bridge is how long after the first refusal, or after the credential's
	// NotAfter, logins wait for the source and the server to agree again, within the
	// contexts of those who ask for them. It is counted once for all of them: after
	// it they fail at once. Zero means 30 s; negative means not at all. A connection
	// that the pool opens on its own account has no deadline of its own and waits as
	// long.
	Bridge time.Duration

	// LoginTimeout bounds each login. Zero means 30 s; negative means no bound but
	// the caller's context. The connector's own logins have no caller: without a
	// bound one that hangs holds up the drain.
	LoginTimeout time.Duration

	// Drain is the time over which old connections are replaced after a rotation,
	// one after the other. Zero means half the window's MaxLifetime and at
	// most 10 s (with [InPlace], 10 s); negative means at once. A small pool is done
	// sooner, and a window that is nearly over makes it hurry. Connections that are
	// in use go when they come back, so a large pool of long transactions takes
	// longer.
	Drain time.Duration

	// NoSever leaves connections open whose credential has ended: at the end of
	// the overlap, or at NotAfter. What is left then is a query that outran the
	// window; without NoSever its connection is closed under it.
	NoSever bool

	// Dial opens network connections. Nil means a zero net.Dialer.
	Dial Dial

	// Logger gets a line for every change of state, never a secret. Nil means
	// slog.Default().
	Logger *slog.Logger

	// Trace has callbacks for metrics and tests. Nil means none.
	Trace *Trace
}

const (
	defaultBridge       = 30 * time.Second
	defaultLoginTimeout = 30 * time.Second
	defaultDrain        = 10 * time.Second
)

func (cfg Config) bridge() time.Duration { return orDefault(cfg.Bridge, defaultBridge) }
func (cfg Config) loginTimeout() time.Duration {
	return orDefault(cfg.LoginTimeout, defaultLoginTimeout)
}

func (cfg Config) drain(maxLifetime time.Duration) time.Duration {
	def := defaultDrain
	if maxLifetime > 0 {
		def = min(def, maxLifetime/2)
	}
	return orDefault(cfg.Drain, def)
}

// ErrClosed is returned by Connect after Close.
var ErrClosed = errors.New("sqlrotate: connector is closed")

// Connector is a [driver.Connector] whose connections log in with the latest
// credential of a [Source]. It is meant for one *sql.DB: make it with [New], and the
// pool with [OpenDB]. All methods are safe for concurrent use.
type Connector struct {
	cfg         Config
	maxLifetime time.Duration // 0: no limit
	drainTime   time.Duration
	dial        Dial
	sourceName  string // if it has one
	log         *slog.Logger
	trace       Trace

	ctx   context.Context //nolint:containedctx // the life of the connector, done when closed
	close context.CancelFunc
	wg    sync.WaitGroup
	wake  chan struct{} // tells the keeper that something has changed

	deadlines *deadlines // of the versions that have sessions

	plain, refresh   sharedReader // of the source
	reads, refreshes foreign
	pings            foreign

	// mu guards what follows. Nothing slow and nothing of others (source, driver,
	// *sql.DB, callbacks, logger) is called under it.
	mu       sync.Mutex
	started  bool
	closed   bool
	dbs      []*sql.DB
	versions []*version    // the current one, then its predecessors, newest first
	number   uint64        // of the newest version
	changes  uint64        // how often the current version or its end changed
	changed  chan struct{} // closed and replaced when a waiting login should look again
	sessions map[*session]struct{}
	pool     []*session // those handed to the pool, oldest first
	standbys []*session // logged in, and not yet handed to the pool
	waiting  int        // logins that wait for a usable credential
	source   sourceState
	keeper   keeperState
	counts   counts
}

// sourceState is how the source has been doing.
type sourceState struct {
	read      time.Time // last successful read
	err       error     // of the last read; nil if it succeeded
	failing   time.Time // since when reads have failed
	slow      time.Time // since when logins don't wait for it; zero: they do
	restless  int       // reads in a row of which each found another login
	restUntil time.Time // the connector's own reads come no sooner, for that
}

// New returns a connector. It does no I/O: the source is first read for the first
// connection. An error says what is missing in cfg, or shows the sum of a window
// in which next to nothing is left for a connection to live.
//
// The connector starts to work in the background when the first connection is
// asked for, or with [Connector.Manage]; [Connector.Close] ends that.
func New(cfg Config) (*Connector, error) {
	switch {
	case cfg.Source == nil:
		return nil, errors.New("sqlrotate: Config.Source is nil")
	case cfg.Opener == nil:
		return nil, errors.New("sqlrotate: Config.Opener is nil")
	}
	maxLifetime, short, err := cfg.Window.lifetime()
	if err != nil {
		return nil, err
	}
	c := &Connector{
		cfg:         cfg,
		maxLifetime: maxLifetime,
		drainTime:   cfg.drain(maxLifetime),
		dial:        cfg.Dial,
		log:         cfg.Logger,
		wake:        make(chan struct{}, 1),
		changed:     make(chan struct{}),
		sessions:    make(map[*session]struct{}),
	}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
	}
	if s, ok := cfg.Source.(fmt.Stringer); ok {
		c.sourceName = s.String()
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if cfg.Trace != nil {
		c.trace = *cfg.Trace
	}
	if short {
		c.log.Warn("sqlrotate: the window leaves connections little time to live: they will log in again and again", "max_lifetime", maxLifetime)
	}
	c.ctx, c.close = context.WithCancel(context.Background())
	c.deadlines = newDeadlines(c.expire)
	c.plain.read, c.refresh.read = c.readSource, c.refreshSource
	c.reads.name, c.reads.bound = "the source", readTimeout
	c.refreshes.name, c.refreshes.bound = "the source's Refresh", readTimeout
	c.pings.name, c.pings.bound = "the driver's Ping", 2*pingTimeout
	return c, nil
}

// OpenDB returns a *sql.DB over c, with c managing its connections' lifetime:
// sql.OpenDB and [Connector.Manage]. Closing the *sql.DB closes c.
func OpenDB(c *Connector) *sql.DB {
	db := sql.OpenDB(c)
	c.Manage(db)
	return db
}

// Connect implements [driver.Connector]. It reads the source, and returns a
// connection that has logged in with what it gave: one that was prepared in
// advance during a rotation, or a new one.
//
// If the server refuses the credential, Connect reads the source again, uses the
// previous credential while it is inside its overlap, and else waits for the
// source or the server to change, for at most Config.Bridge from the first
// refusal. Then the error is a [*RefusedError]; it is an [*ExpiredError] if the
// latest credential has ended, [ErrClosed] after Close, and the source's if it has
// never given a credential. Other errors are the driver's own or those of a context,
// but never driver.ErrBadConn, which database/sql would retry. Connect returns as
// soon as ctx is done.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.start(); err != nil {
		return nil, err
	}
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	for {
		s, err := c.login(ctx)
		if err != nil {
			return nil, err
		}
		if c.handOut(ctx, s) {
			return s.conn, nil
		}
		// Its credential ended between the login and here.
	}
}

// Driver implements [driver.Connector]. Its Open always fails: a connector has no
// DSN.
func (c *Connector) Driver() driver.Driver { return noDriver{} }

type noDriver struct{}

func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("sqlrotate: connections are opened through the Connector, not by a DSN")
}

// Close ends everything the connector does in the background and waits for it.
// Connections that are still open stay so until their *sql.DB closes them. It is
// called by the *sql.DB's own Close (through a connector that wraps this one only if
// that is an [io.Closer] and passes it on), and may be called more than once.
func (c *Connector) Close() error {
	c.mu.Lock()
	c.closed = true
	standbys := c.standbys
	c.standbys = nil
	c.mu.Unlock()
	c.close()
	c.deadlines.stop()
	c.wg.Wait()
	for _, s := range standbys {
		c.discard(s)
	}
	return nil
}

// start starts the keeper, once.
func (c *Connector) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if !c.started {
		c.started = true
		c.wg.Go(c.keep)
	}
	return nil
}

// observe makes cred the current version if it isn't. It reports false, and does nothing,
// if the current version changed since changes was read and cred may be older: it is
// another one, or has an earlier end.
func (c *Connector) observe(cred Credential, changes uint64) bool {
	now := time.Now()
	c.mu.Lock()
	current := c.currentLocked()
	same := current != nil && current.cred.SameLogin(cred)
	if current != nil && c.changes != changes && (!same || mayBeOlder(cred.NotAfter, current.notAfter)) {
		c.mu.Unlock()
		return false
	}
	healed := c.source.err != nil || !c.source.slow.IsZero()
	c.source.read = now
	c.source.err, c.source.failing, c.source.slow = nil, time.Time{}, time.Time{}
	c.restlessLocked(current != nil && !same, now)
	if same {
		if !current.notAfter.Equal(cred.NotAfter) {
			current.notAfter, current.renewed = cred.NotAfter, now
			current.warned = current.warned && past(c.alarm(current), now) // said once, if it still ends soon
			c.changes++
			c.armLocked(current)
			c.broadcastLocked()
		}
		c.mu.Unlock()
		if healed {
			c.log.Info("sqlrotate: the source is readable again", "version", current.label())
		}
		return true
	}
	v, overtaken := c.rotateLocked(cred, now)
	info, unmanaged := c.infoLocked(v), len(c.dbs) == 0 && c.counts.rotations == 1
	c.mu.Unlock()
	if current == nil {
		return true
	}

	c.log.Info("sqlrotate: new credential", "version", v.label(), "user", cred.Username)
	if overtaken {
		c.log.Warn("sqlrotate: rotations outrun the overlap window: connections of more than two credential versions are open", "version", v.label())
	}
	if unmanaged {
		c.log.Warn("sqlrotate: no *sql.DB is managed, so old connections can't be retired, only closed when their credential ends: open the pool with sqlrotate.OpenDB or call Manage")
	}
	c.trace.rotated(info)
	return true
}

// mayBeOlder reports whether a credential's end may have been read before another end
// of the same: leases are renewed to end later. Zero, for none, may be either.
func mayBeOlder(end, other time.Time) bool {
	return end.Before(other) || other.IsZero() != end.IsZero()
}

// rotateLocked makes cred the current version: a new one, or one that has come
// back. It reports whether versions before the last one still have connections.
func (c *Connector) rotateLocked(cred Credential, now time.Time) (v *version, overtaken bool) {
	if i := slices.IndexFunc(c.versions, func(v *version) bool { return v.cred.SameLogin(cred) }); i >= 0 {
		v = c.versions[i]
		v.superseded, v.end, v.dead = time.Time{}, time.Time{}, false
		v.gate.refusals = 0
		c.versions = slices.Delete(c.versions, i, i+1)
	} else {
		c.number++
		v = &version{number: c.number, cred: cred, seen: now}
	}
	v.notAfter, v.renewed, v.warned = cred.NotAfter, now, false
	c.armLocked(v)
	if len(c.versions) > 0 {
		last := c.versions[0]
		last.superseded, last.end = now, c.cfg.Window.end(now)
		c.armLocked(last)
		last.dead = last.gate.refusals > 0 && last.cred.Username != cred.Username
		c.counts.rotations++
	}
	c.versions = slices.Insert(c.versions, 0, v)
	c.versions = prune(c.versions, now)
	overtaken = slices.ContainsFunc(c.versions[min(2, len(c.versions)):], func(v *version) bool { return v.open > 0 })
	c.changes++
	c.keeper.drain, c.keeper.peak = drainState{}, 0
	c.keeper.checkAt, c.keeper.checkWait = now, checkMin
	c.keeper.retryAt = time.Time{}
	c.broadcastLocked()
	return v, overtaken
}

// maxVersions bounds how many superseded versions without connections are
// remembered, should somebody rotate many times a second.
const maxVersions = 16

// prune drops superseded versions that can neither be fallen back to nor have
// connections.
func prune(versions []*version, now time.Time) []*version {
	idle := 0
	return slices.DeleteFunc(versions, func(v *version) bool {
		if v.superseded.IsZero() || v.open > 0 || v.gate.inflight > 0 {
			return false
		}
		idle++
		return v.end.IsZero() || v.ended(now) || idle > maxVersions
	})
}

func (c *Connector) currentLocked() *version {
	if len(c.versions) == 0 {
		return nil
	}
	return c.versions[0]
}

// broadcastLocked has waiting logins and the keeper look again.
func (c *Connector) broadcastLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
	c.poke()
}

// poke has the keeper look again.
func (c *Connector) poke() { poke(c.wake) }
