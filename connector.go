// Config, New and the Connector: what database/sql asks for connections.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Config is what [New] builds a [Connector] from.
type Config struct {
	// Name names the connector in its log lines and in Stats, for processes that have
	// several. It is the application's to choose. Empty means that it has none.
	Name string

	// Source is where the latest credential comes from. Required. It is read for
	// every new connection and stays the caller's to close.
	Source Source

	// Opener logs in: [LibPQ] for lib/pq. Required.
	Opener Opener

	// Window is the overlap of a credential and its successor. Required: see
	// [Window] and [InPlace].
	Window Window

	// ProbeQuery is a query that only a working credential can run, for servers that let
	// a role log in which may do nothing yet. It runs after each login with a credential
	// that has not proven itself, within LoginTimeout, and its rows are discarded; if it
	// fails, the credential counts as refused. The driver's connection must be a
	// driver.QueryerContext. Empty means that a login is proof enough. To learn whether a
	// role still lives the connector runs the Opener's own query, if it has a method
	// ProbeQuery() string, as [LibPQ] has, and then this one.
	ProbeQuery string

	// RetryTimeout is how long logins wait for a credential that the server accepts,
	// counted from the first refusal, or from the credential's NotAfter. It is counted
	// once for all of them: after it they fail at once. A caller's context ends its wait
	// earlier; a connection that the pool opens on its own account has no deadline and
	// waits as long. Zero means 30 s; negative means that they don't wait.
	RetryTimeout time.Duration

	// LoginTimeout bounds each login. Zero means 30 s; negative means no bound but
	// the caller's context. The connector's own logins have no caller: without a
	// bound one that hangs holds up the drain.
	LoginTimeout time.Duration

	// DrainTime is the time over which old connections are replaced after a rotation,
	// one after the other. Zero means a third of the window's MaxLifetime and at most
	// two minutes (with [InPlace] and [LoginTokens], a minute); negative means at once.
	// A window that is nearly over makes it hurry, and so does an old role that turns
	// out to be dead. Connections that are in use go when they come back. The credential is
	// first tried at a moment by chance in the first twelfth of it, unless a caller needs a
	// connection before: processes that are told together don't all log in at once.
	DrainTime time.Duration

	// ConnMaxLifetime is the longest that a connection may live, as
	// sql.DB.SetConnMaxLifetime would have it: the connector takes that setting over.
	// The window's MaxLifetime counts as well; the shorter of the two does. Connections
	// that reach it are retired one by one, behind a replacement, and go when they are
	// returned. Zero or negative means no limit but the window's.
	ConnMaxLifetime time.Duration

	// RoleCheck is the time without a successful login after which, while a pool is in
	// use, the connector asks the server whether the role in use still lives: by a query
	// on an idle connection of the pool, if there is one. Zero means 20 s; negative means
	// never. After a pool was not used for that long, the server is asked at its first use.
	// (A role that has a successor is asked after in any case while it has connections.)
	RoleCheck time.Duration

	// NoFallback keeps a superseded password from being tried with [InPlace] while its
	// successor is refused. Without it the immediate predecessor, if it has worked, is
	// tried once for each attempt, because the file may be ahead of the server. Set it
	// where the server locks accounts by counting refused passwords.
	NoFallback bool

	// NoForceClose leaves a connection open when its credential ends, at the end of the
	// overlap or at NotAfter. Without it such a connection is closed, under the query
	// that outran the window.
	NoForceClose bool

	// Dial opens network connections. Nil means a zero net.Dialer.
	Dial DialFunc

	// TagVersion has each session carry the name of its credential's version in its
	// application_name, after the application's own: see [ApplicationName], and
	// docs/operate.md for the query that tells who is still on which. The Opener must have
	// a method Tagged() Opener, as that of [LibPQ] has. There the application's own name is
	// that of the DSN, else PGAPPNAME, else the DSN's fallback_application_name; one that is
	// set elsewhere (options, PGOPTIONS, ALTER ROLE, ALTER DATABASE) gives way. A session
	// whose application sets application_name later loses the name of its version.
	TagVersion bool

	// Logger gets a line for every change of state, never a secret. Nil means
	// slog.Default().
	Logger *slog.Logger

	// Trace has callbacks for metrics and tests. Nil means none.
	Trace *Trace
}

const (
	defaultRetryTimeout = 30 * time.Second
	defaultLoginTimeout = 30 * time.Second
	defaultRoleCheck    = 20 * time.Second
	maxDrainTime        = 2 * time.Minute
	leisure             = time.Minute // the DrainTime of sessions that live on
)

func (cfg Config) retryTimeout() time.Duration {
	return orDefault(cfg.RetryTimeout, defaultRetryTimeout)
}

func (cfg Config) loginTimeout() time.Duration {
	return orDefault(cfg.LoginTimeout, defaultLoginTimeout)
}

// drainTime returns the time over which old connections are replaced, where the window
// leaves a connection maxLifetime to live, or no limit, which is zero.
func (cfg Config) drainTime(maxLifetime time.Duration) time.Duration {
	def := leisure
	if maxLifetime > 0 {
		def = min(maxLifetime/3, maxDrainTime)
	}
	return orDefault(cfg.DrainTime, def)
}

// rules is the configuration of the core.
func (cfg Config) rules() (rotation.Config, error) {
	maxLifetime, _, err := cfg.Window.lifetime()
	if err != nil {
		return rotation.Config{}, err
	}
	if err := plausible("Config.ConnMaxLifetime", cfg.ConnMaxLifetime); err != nil {
		return rotation.Config{}, err
	}
	drainTime := cfg.drainTime(maxLifetime)
	// A connection counts its age from when the pool gets it, and may have been a spare
	// for a tenth of its lifetime, a minute at the most.
	if own := cfg.ConnMaxLifetime - min(cfg.ConnMaxLifetime/10, time.Minute); own > 0 && (maxLifetime == 0 || own < maxLifetime) {
		maxLifetime = own
	}
	_, notified := cfg.Source.(Notifier)
	return rotation.Config{
		Kind:         cfg.Window.kind,
		Overlap:      cfg.Window.Overlap,
		Lag:          cfg.Window.lag(),
		MaxInUse:     cfg.Window.maxInUse(),
		MaxLifetime:  maxLifetime,
		DrainTime:    drainTime,
		RetryTimeout: cfg.retryTimeout(),
		NoFallback:   cfg.NoFallback,
		Notified:     notified,
		AskAfter:     orDefault(cfg.RoleCheck, defaultRoleCheck),
		AskByQuery:   len(cfg.questions()) > 0,
		Seed:         rand.Uint64(),
	}, nil
}

// probeQuery is the query by which a login is to show that its role lives: the
// application's, or else the Opener's.
func (cfg Config) probeQuery() string {
	if cfg.ProbeQuery != "" {
		return cfg.ProbeQuery
	}
	return cfg.openersQuery()
}

// openersQuery is the query by which the Opener's server says whether a role lives, if there
// is one.
func (cfg Config) openersQuery() string {
	if o, ok := cfg.Opener.(interface{ ProbeQuery() string }); ok {
		return o.ProbeQuery()
	}
	return ""
}

// questions are the queries by which an open session is asked whether its role lives: the
// Opener's own first, because ProbeQuery may be one that says nothing of it.
func (cfg Config) questions() []string {
	return slices.DeleteFunc([]string{cfg.openersQuery(), cfg.ProbeQuery}, func(q string) bool { return q == "" })
}

// ErrClosed is returned by Connect after Close.
var ErrClosed = errors.New("sqlrotate: connector is closed")

// Connector is a [driver.Connector] whose connections log in with the latest
// credential of a [Source]. Make it with [New], and a pool over it with [OpenDB]. All
// methods are safe for concurrent use.
type Connector struct {
	cfg        Config
	dial       DialFunc
	sourceName string              // if it has one
	now        func() rotation.Now // reads both clocks
	window     WindowStats         // in force
	noAnswer   error               // of a server, within Config.LoginTimeout
	lifetime   time.Duration       // of the pools' connections while none is singled out
	deadlines  *deadlines          // of the versions that have sessions
	observed   *observed           // what the window rests on
	notices    *notices            // log lines and callbacks

	plain, refresh sharedReader // of the source
	calls          *calls       // of what was handed in

	ctx   context.Context //nolint:containedctx // the life of the connector, done when closed
	close context.CancelFunc
	tasks tasks         // all its goroutines
	wake  chan struct{} // has the loop look again
	heeds atomic.Bool   // it looks again as soon as a pool is used

	// mu guards what follows. Nothing slow and nothing of others (source, driver,
	// *sql.DB, callbacks, logger) is called under it.
	mu       sync.Mutex
	started  bool
	closed   bool
	rules    *rotation.State
	turn     rotation.Instant // when the loop looks again
	book     book
	sessions map[rotation.SessionID]*session
	pools    []*pool
	poolID   rotation.PoolID // the last one given
	waiting  int             // callers that wait
	changed  chan struct{}   // closed and replaced when they should look again
	source   sourceState
	tally
	ends  []rotation.VersionEnd // kept for its memory
	going []rotation.SessionID  // likewise

	probeOff      bool                     // the probe query is wrong
	pooled        bool                     // a pool, managed or not, has had a session
	unmanagedTold bool                     // that no pool is managed
	advised       map[string]time.Duration // what was logged to be the least, by the window's part
}

// tally is what the rules don't count.
type tally struct {
	loginTime time.Duration // of the logins that succeeded
	lastLogin time.Time
	failures  map[ConnectFailure]uint64
}

// sourceState is how the source has been doing.
type sourceState struct {
	read    time.Time    // last successful read
	readAt  rotation.Now // likewise, by both clocks
	err     error        // of the last read; nil if it succeeded
	failing time.Time    // since when reads have failed
	slow    time.Time    // since when reads take longer than logins wait; zero: they don't
	errors  uint64
}

// New returns a connector. It does no I/O: the source is first read for the first
// connection. An error says what is missing in cfg, or shows the sum of a window
// in which next to nothing is left for a connection to live.
//
// The connector starts to work in the background when the first connection is
// asked for, or with [OpenDB] or [Connector.Manage]; [Connector.Close] ends that.
func New(cfg Config) (*Connector, error) {
	switch {
	case cfg.Source == nil:
		return nil, errors.New("sqlrotate: Config.Source is nil")
	case cfg.Opener == nil:
		return nil, errors.New("sqlrotate: Config.Opener is nil")
	}
	rules, err := cfg.rules()
	if err != nil {
		return nil, err
	}
	if cfg.TagVersion {
		o, ok := cfg.Opener.(interface{ Tagged() Opener })
		if !ok {
			return nil, fmt.Errorf("sqlrotate: Config.TagVersion is set, and the Opener, a %T, has no method Tagged: with FromDriver use ApplicationName in the DSN", cfg.Opener)
		}
		cfg.Opener = o.Tagged()
	}
	origin := time.Now()
	clock := rotation.NewClock(origin)
	c := &Connector{
		cfg:      cfg,
		dial:     cfg.Dial,
		now:      func() rotation.Now { return clock.Now(time.Now()) },
		wake:     make(chan struct{}, 1),
		changed:  make(chan struct{}),
		rules:    rotation.New(rules),
		turn:     rotation.Never,
		book:     book{tokens: rules.Kind == rotation.LoginTokens},
		sessions: make(map[rotation.SessionID]*session),
		observed: newObserved(origin),
		advised:  make(map[string]time.Duration),
	}
	if c.lifetime = c.rules.Lifetime(); c.lifetime == 0 {
		c.lifetime = unlimited
	}
	c.failures = make(map[ConnectFailure]uint64)
	c.noAnswer = fmt.Errorf("sqlrotate: no answer to the login within %v: %w", cfg.loginTimeout(), context.DeadlineExceeded)
	c.window = WindowStats{
		MaxLifetime: rules.MaxLifetime, Overlap: cfg.Window.Overlap, Lag: rules.Lag, MaxInUse: rules.MaxInUse,
		RetryTimeout: max(rules.RetryTimeout, 0), DrainTime: max(rules.DrainTime, 0),
	}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
	}
	if s, ok := cfg.Source.(fmt.Stringer); ok {
		c.sourceName = s.String()
	}
	c.ctx, c.close = context.WithCancel(context.Background())
	c.deadlines = newDeadlines(c.expire, func() rotation.Now { return c.now() }, c.observed.fired)
	c.plain.read, c.refresh.read = c.readSource, c.refreshSource
	c.plain.tasks, c.refresh.tasks = &c.tasks, &c.tasks
	c.calls = newCalls(&c.tasks, cfg.loginTimeout())
	c.notices = newNotices(cfg.Name, cfg.Logger, cfg.Trace, c.calls)
	if d, short, _ := cfg.Window.lifetime(); short {
		c.notices.log(slog.LevelWarn, "sqlrotate: the window leaves connections little time to live: they will log in again and again", "max_lifetime", d)
	}
	return c, nil
}

// Connect implements [driver.Connector]. It reads the source, and returns a
// connection that has logged in with what it gave: one that was prepared in
// advance during a rotation, or a new one.
//
// If the server refuses the credential, Connect reads the source again, uses the
// previous credential while it is inside its overlap, and else waits for the
// source or the server to change, for at most Config.RetryTimeout from the first
// refusal. Then the error is a [*RefusedError]; it is an [*ExpiredError] if the
// latest credential has ended, [ErrClosed] after Close, and the source's if it has
// never given a credential. Other errors are the driver's own or those of a context,
// but never driver.ErrBadConn, which database/sql would retry. Connect returns as
// soon as ctx is done.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) { return c.connect(ctx, 0) }

// Driver implements [driver.Connector]. Its Open always fails: a connector has no
// DSN.
func (c *Connector) Driver() driver.Driver { return noDriver{} }

type noDriver struct{}

func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("sqlrotate: connections are opened through the Connector, not by a DSN")
}

// Close ends everything the connector does in the background, and waits for it for a
// second at the most: what others have not given back by then is left behind.
// Connections that are still open stay so until their *sql.DB closes them. Close is
// called when the last pool over the connector is closed (a pool over a connector that
// wraps this one calls it only if that is an [io.Closer] and passes it on), and may be
// called more than once.
func (c *Connector) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	if first {
		c.stepLocked(rotation.Closed{})
	}
	c.mu.Unlock()
	c.close()
	c.deadlines.stop()
	c.tasks.wait(closeTimeout) // notices that wait included
	return nil
}

// start starts the loop, once.
func (c *Connector) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if !c.started {
		c.started = true
		c.tasks.start(c.loop)
		if n, ok := c.cfg.Source.(Notifier); ok {
			c.tasks.start(func() { c.watch(n) })
		}
	}
	return nil
}
