// One process that is measured: pools of many tenants, each with a login of its own, or their
// sources alone.

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgstub"
)

// site is what a process has, and for how long what is watched. It is passed to the process
// as JSON.
type site struct {
	Name    string
	Group   string // sites that are compared: the first is the control
	Tenants int
	Conns   int    // of each tenant's pool; zero: there are only sources
	Layout  layout // empty: pools of lib/pq alone, with a login that stays
	DSN     string // of the server; each tenant has a database of its own if that has none
	Other   string // of the pool beside them
	Real    bool   // it is a PostgreSQL

	NoEvents bool // there is no inotify instance to be had

	Settle, Idle, Before, Drain time.Duration
}

func (s site) rotates() bool { return s.Layout != fixedLogin }

// figures is what was seen of a site. Memory is with nothing in use, after a collection.
type figures struct {
	Base, Resting memory
	Sources       time.Duration // that they took to be made
	Open          time.Duration // New and OpenDB
	Fill          time.Duration // all logins

	IdleCPU    float64 // share of a core
	IdleWakes  float64 // context switches in a second
	IdleAllocs float64 // in a second

	Calm, During tail          // of the other pool
	Seen         time.Duration // until the last source had its new version
	Gone         time.Duration // until the last old session was gone
	CPU          time.Duration // that took, the other pool's left out
	Logins       int
	Peaks        map[int]int   // how many tenants had so many sessions at most
	One          time.Duration // CPU time for the change of one tenant's login

	Stats    time.Duration // of all connectors, and their problems
	Close    time.Duration
	Left     int // goroutines, after that
	Warnings int // in the log
}

// tail is the end of a distribution of latencies: the worst slices of time.
type tail struct{ P999, Max time.Duration }

func (d dist) tail() tail { return tail{d.p999, d.max} }

// memory is what a process has.
type memory struct {
	Heap, Stacks, RSS int64 // bytes
	Goroutines        int
}

// hold collects garbage, returns what is free to the system, and says what is left.
func hold() memory {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{int64(m.HeapInuse), int64(m.StackInuse), residentSet(), runtime.NumGoroutine()} //nolint:gosec // far from overflowing
}

// house is a site as it stands.
type house struct {
	site
	disk       *store
	sources    []*sqlrotate.FileSource
	connectors []*sqlrotate.Connector
	dbs        []*sql.DB
	log        *slog.Logger
	warnings   atomic.Int64
}

// newHouse prepares a site: the tenants' first logins are on disk.
func newHouse(s site) (h *house, err error) {
	h = &house{site: s}
	h.log = slog.New(counting{slog.DiscardHandler, &h.warnings})
	h.disk, err = newStore(s.Layout, s.Tenants)
	return h, err
}

// live does all that is measured of a site.
func (s site) live(ctx context.Context, c counter) (f figures, err error) {
	if s.NoEvents {
		if err := forgoInotify(); err != nil {
			return f, err
		}
	}
	if err := c.reset(); err != nil {
		return f, err
	}
	h, err := newHouse(s)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, h.disk.close()) }()
	f.Base = hold()
	defer h.close()
	if err := h.open(ctx, &f); err != nil {
		return f, err
	}
	pause(ctx, s.Settle)
	h.rest(ctx, &f)
	if s.Conns == 0 {
		err = h.tell(ctx, &f)
	} else {
		err = h.rotate(ctx, c, &f)
	}
	if err != nil {
		return f, err
	}
	h.end(ctx, &f)
	return f, ctx.Err()
}

// end asks all connectors how they are, and closes everything.
func (h *house) end(ctx context.Context, f *figures) {
	began := time.Now()
	for _, c := range h.connectors {
		_, _ = c.Stats(), c.Problems()
	}
	f.Stats = time.Since(began)
	began = time.Now()
	h.close()
	f.Close = time.Since(began)
	f.Warnings = int(h.warnings.Load())
	for range 500 { // what is told to end may take a moment
		if f.Left = runtime.NumGoroutine() - f.Base.Goroutines; f.Left <= 0 {
			break
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// open opens the sources and the pools, with all their connections.
func (h *house) open(ctx context.Context, f *figures) error {
	began := time.Now()
	if h.rotates() {
		for i := range h.disk.sources() {
			s, err := sqlrotate.NewFileSource(h.disk.path(i), sqlrotate.FileOptions{Logger: h.log}) //nolint:contextcheck // it lives until it is closed
			if err != nil {
				return err
			}
			h.sources = append(h.sources, s)
		}
	}
	f.Sources = time.Since(began)
	if h.Conns == 0 {
		return nil
	}
	began = time.Now()
	for i := range h.Tenants {
		db, err := h.pool(i)
		if err != nil {
			return err
		}
		db.SetMaxOpenConns(h.Conns)
		db.SetMaxIdleConns(h.Conns)
		h.dbs = append(h.dbs, db)
	}
	f.Open = time.Since(began)
	began = time.Now()
	err := h.fill(ctx)
	f.Fill = time.Since(began)
	return err
}

// pool opens a tenant's pool.
func (h *house) pool(i int) (*sql.DB, error) {
	dsn := tenantDSN(h.DSN, i)
	if !h.rotates() {
		user := tenantUser(i, 1)
		c, err := pq.NewConnector(dsn + " user=" + user + " password=" + tenantPassword(user))
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(c), nil
	}
	opener, err := sqlrotate.LibPQ(dsn)
	if err != nil {
		return nil, err
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Name: tenant(i), Source: h.sources[min(i, len(h.sources)-1)], Opener: opener,
		Window: sqlrotate.Window{Overlap: 10 * time.Minute}, DrainTime: h.Drain, Logger: h.log,
	})
	if err != nil {
		return nil, err
	}
	h.connectors = append(h.connectors, c)
	return sqlrotate.OpenDB(c), nil
}

// fill opens all connections, those of some pools at a time, and uses none.
func (h *house) fill(ctx context.Context) error {
	var (
		work sync.WaitGroup
		mu   sync.Mutex // guards errs
		errs []error
	)
	turns := make(chan struct{}, 8)
	for _, db := range h.dbs {
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			if err := fillPool(ctx, db, h.Conns); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// fillPool has n connections opened at once.
func fillPool(ctx context.Context, db *sql.DB, n int) error {
	type result struct {
		conn *sql.Conn
		err  error
	}
	results := make(chan result)
	for range n {
		go func() {
			conn, err := db.Conn(ctx)
			results <- result{conn, err}
		}()
	}
	var err error
	conns := make([]*sql.Conn, 0, n)
	for range n {
		r := <-results
		if r.err != nil {
			err = errors.Join(err, r.err)
			continue
		}
		conns = append(conns, r.conn)
	}
	for _, conn := range conns {
		err = errors.Join(err, conn.Close())
	}
	return err
}

// rest sees what it takes to do nothing.
func (h *house) rest(ctx context.Context, f *figures) {
	began, wakes := use(), contextSwitches()
	pause(ctx, h.Idle)
	ended := use()
	seconds := ended.at.Sub(began.at).Seconds()
	f.IdleCPU = (ended.cpu - began.cpu).Seconds() / seconds
	f.IdleWakes = float64(contextSwitches()-wakes) / seconds
	f.IdleAllocs = float64(ended.allocs-began.allocs) / seconds
	f.Resting = hold()
}

// tell changes the logins of all tenants at once, and then those of some, one by one.
func (h *house) tell(ctx context.Context, f *figures) error {
	before := use()
	told := h.listen()
	if err := h.disk.publish(2); err != nil {
		return err
	}
	if err := await(ctx, told); err != nil {
		return err
	}
	after := use()
	f.Seen, f.CPU = after.at.Sub(before.at), after.cpu-before.cpu
	pause(ctx, time.Second)
	changes := 20
	if h.NoEvents {
		changes = 2 // each is seen at a poll
	}
	before = use()
	for i := range changes {
		told := h.sources[i*len(h.sources)/changes].Changed()
		if err := h.disk.publishOne(i*len(h.sources)/changes, 3); err != nil {
			return err
		}
		if err := await(ctx, []<-chan struct{}{told}); err != nil {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
	f.One = (use().cpu - before.cpu) / time.Duration(changes)
	return nil
}

// listen returns what is closed when each of the sources has another login.
func (h *house) listen() []<-chan struct{} {
	told := make([]<-chan struct{}, len(h.sources))
	for i, s := range h.sources {
		told[i] = s.Changed()
	}
	return told
}

// await waits for all of it.
func await(ctx context.Context, told []<-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, c := range told {
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("a change isn't seen: %w", ctx.Err())
		}
	}
	return nil
}

// rotate changes the logins of all tenants at once, beside a pool that is none of theirs and
// goes on working, and waits until the last old session is gone. Those that keep their login
// are watched as long.
func (h *house) rotate(ctx context.Context, c counter, f *figures) error {
	l := load{conns: 8, workers: 8, think: 5 * time.Millisecond}
	other, err := openNeighbour(h.Other, l)
	if err != nil {
		return err
	}
	defer other.close()
	if err := l.fill(ctx, other); err != nil {
		return err
	}
	if err := c.reset(); err != nil {
		return err
	}
	working := l.start(ctx, other)
	defer working.finish()
	pause(ctx, time.Second)
	rest := [2]usage{use()}
	pause(ctx, h.Before)
	rest[1] = use()
	if h.rotates() {
		told := h.listen()
		if err := h.disk.publish(2); err != nil {
			return err
		}
		seen := make(chan time.Duration, 1)
		go func() {
			_ = await(ctx, told)
			seen <- time.Since(rest[1].at)
		}()
		if err := h.awaitGone(ctx, c); err != nil {
			return err
		}
		f.Seen = <-seen
	} else {
		pause(ctx, h.Before)
	}
	after := use()
	f.Gone = after.at.Sub(rest[1].at)
	f.CPU, _, _ = after.over(rest[1], rest)
	pause(ctx, time.Second) // for spares that are still to come
	samples := working.finish()
	if working.err != nil {
		return fmt.Errorf("the pool beside them: %w", working.err)
	}
	f.Calm, f.During = worst(samples, rest[0].at, rest[1].at).tail(), worst(samples, rest[1].at, after.at).tail()
	n, err := c.count("_1")
	f.Logins, f.Peaks = n.Logins, n.Peaks
	return err
}

// awaitGone waits for the end of the last session of a first login.
func (h *house) awaitGone(ctx context.Context, c counter) error {
	late := time.Now().Add(h.Drain + patience)
	for time.Now().Before(late) {
		n, err := c.count("_1")
		if err != nil || n.Chosen == 0 {
			return err
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("some old sessions are still open")
}

// close closes everything. It may be called more than once.
func (h *house) close() {
	for _, db := range h.dbs {
		_ = db.Close()
	}
	for _, s := range h.sources {
		_ = s.Close()
	}
}

// neighbour is a pool of lib/pq alone.
type neighbour struct{ standard }

func openNeighbour(dsn string, l load) (*neighbour, error) {
	p := new(neighbour)
	c, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	c.Dialer(&p.dialer)
	p.db = sql.OpenDB(c)
	p.limit(l)
	return p, nil
}

func (*neighbour) rotate(login) error { return nil }

// counting counts warnings and what is worse.
type counting struct {
	slog.Handler
	n *atomic.Int64
}

// Enabled counts: what is logged is made into a line only if it is wanted.
func (c counting) Enabled(_ context.Context, level slog.Level) bool {
	if level >= slog.LevelWarn {
		c.n.Add(1)
	}
	return false
}

// counter counts sessions at the server, those of users whose names end with a suffix apart.
type counter interface {
	reset() error
	count(suffix string) (pgstub.Count, error)
}

func tenant(i int) string { return fmt.Sprintf("t%04d", i) }

func tenantUser(i, version int) string { return fmt.Sprintf("%s_%d", tenant(i), version) }

func tenantPassword(user string) string { return "secret-of-" + user }

// tenantDSN adds the tenant's database to a DSN without one.
func tenantDSN(dsn string, i int) string {
	if cfg, err := pq.NewConfig("user=x " + dsn); err == nil && cfg.Database == "" {
		return dsn + " dbname=" + tenant(i)
	}
	return dsn
}
