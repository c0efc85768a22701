// The loads, and one observation: a contender under a load, before and during a
// rotation.

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// load is what the workers do.
type load struct {
	name    string
	about   string
	conns   int           // the pool's limit
	age     time.Duration // that a connection may reach; zero: any
	fresh   bool          // each operation logs in
	workers int
	think   time.Duration // mean pause between operations
	open    time.Duration // mean time that a transaction is open; zero: short queries
	longest time.Duration // what an operation takes, at the most, but for extremes
}

func loads() []load {
	return []load{
		{
			name: "think", about: "20 workers, each with a pause of 5 to 15 ms between two short queries; 20 connections.",
			conns: 20, workers: 20, think: 10 * time.Millisecond, longest: 50 * time.Millisecond,
		},
		{
			name: "saturated", about: "50 workers without pause on 20 connections, short queries. The wait for a connection counts.",
			conns: 20, workers: 50, longest: 50 * time.Millisecond,
		},
		{
			name: "long", about: "30 workers on 20 connections, transactions that are open for 200 to 500 ms. Latency is what they take beyond that: the wait for a connection, above all.",
			conns: 20, workers: 30, think: 10 * time.Millisecond, open: 350 * time.Millisecond, longest: 550 * time.Millisecond,
		},
	}
}

func account() int { return 1 + mathrand.IntN(accounts) }

// around returns a time whose mean is d, between the one and the other end of what
// the loads say.
func around(d time.Duration, width float64) time.Duration {
	return d + time.Duration((mathrand.Float64()-0.5)*width*float64(d))
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// once does one operation and returns what it took beyond what was asked of it.
func (l load) once(ctx context.Context, p pool) (time.Duration, error) {
	// An operation that has begun is not cut off at the end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	start := time.Now()
	if l.open == 0 {
		err := p.query(ctx)
		return time.Since(start), err
	}
	open := around(l.open, 6.0/7)
	err := p.transact(ctx, open)
	return max(0, time.Since(start)-open), err
}

// running is a load under way.
type running struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	samples [][]sample // by worker
	mu      sync.Mutex // guards what follows
	failed  []time.Time
	err     error
}

func (l load) start(ctx context.Context, p pool) *running {
	ctx, stop := context.WithCancel(ctx)
	r := &running{stop: stop, samples: make([][]sample, l.workers)}
	for w := range l.workers {
		r.wg.Go(func() {
			samples := make([]sample, 0, 1<<12)
			for ctx.Err() == nil {
				took, err := l.once(ctx, p)
				samples = append(samples, sample{time.Now(), took})
				if err != nil {
					r.mu.Lock()
					r.failed = append(r.failed, time.Now())
					r.err = cmp.Or(r.err, err)
					r.mu.Unlock()
				}
				pause(ctx, around(l.think, 1))
			}
			r.samples[w] = samples
		})
	}
	return r
}

// finish ends the load and returns all samples, in order.
func (r *running) finish() []sample {
	r.stop()
	r.wg.Wait()
	all := slices.Concat(r.samples...)
	slices.SortFunc(all, func(a, b sample) int { return a.done.Compare(b.done) })
	return all
}

// fill opens all the connections that a pool may have, by using them at once.
func (l load) fill(ctx context.Context, p pool) error {
	errs := make(chan error)
	for range l.conns {
		go func() { errs <- p.transact(ctx, 500*time.Millisecond) }()
	}
	var err error
	for range l.conns {
		err = errors.Join(err, <-errs)
	}
	return err
}

// env is the server, and the role that was made last.
type env struct {
	server *pgtest.Server
	dir    string // of the credential files
	roles  int
}

func newEnv(ctx context.Context, server *pgtest.Server) (*env, error) {
	for _, statement := range []string{
		"create table account (id int primary key, balance int not null)",
		fmt.Sprintf("insert into account select n, 100 from generate_series(1, %d) n", accounts),
		"vacuum analyze account",
	} {
		if _, err := server.Admin().ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "sqlrotate-bench-")
	return &env{server: server, dir: dir}, err
}

func (e *env) close() { _ = os.RemoveAll(e.dir) }

// file returns the path of the file for a login, and those that replace it.
func (e *env) file(l login) string { return filepath.Join(e.dir, l.user+".json") }

func (e *env) newRole(ctx context.Context) (login, error) {
	e.roles++
	l := newPassword(login{user: roleName(e.roles)})
	return l, e.server.CreateRole(ctx, l.user, l.password)
}

func roleName(n int) string { return fmt.Sprintf("bench_%d", n) }

// newPassword returns the login with another password.
func newPassword(l login) login { return login{l.user, rand.Text()} }

// sessions returns how many sessions the contender has, and how many of them are
// not the latest role's.
func (e *env) sessions(ctx context.Context, latest login) (all, old int, err error) {
	err = e.server.Admin().QueryRowContext(ctx, "select count(*), count(*) filter (where usename <> $1)"+
		" from pg_stat_activity where usename like 'bench%'", latest.user).Scan(&all, &old)
	return all, old, err
}

// outcome is what one rotation did.
type outcome struct {
	before           dist          // in the slice before it
	worst            dist          // in the worst slice from it until aftermath
	gone             time.Duration // until no session of the old role was left
	failed           int           // operations, from the beginning to the end
	err              error         // of the first one that failed
	logins           int64         // from the rotation on
	peakBefore, peak int           // sessions
}

const (
	warmUp    = 2 * time.Second
	aftermath = time.Second      // how long after the last old session a stall still counts
	calmFor   = 6 * time.Second  // how long an undisturbed load is watched
	patience  = 60 * time.Second // with old sessions
	sampling  = 25 * time.Millisecond
)

func (e *env) observe(ctx context.Context, c contender, l load) (o outcome, err error) {
	old, err := e.newRole(ctx)
	if err != nil {
		return o, err
	}
	next, err := e.newRole(ctx)
	if err != nil {
		return o, err
	}
	p, err := c.open(e, l, leisurely(), old)
	if err != nil {
		return o, err
	}
	defer p.close()
	if err := l.fill(ctx, p); err != nil {
		return o, err
	}
	runtime.GC() // of what the one before has left
	r := l.start(ctx, p)
	defer r.finish()

	watch := func(latest login, peak *int, f func(old int) bool) error { return e.watch(ctx, latest, peak, f) }
	during := func(d time.Duration) func(int) bool {
		end := time.Now().Add(d)
		return func(int) bool { return !time.Now().Before(end) }
	}
	if err := watch(old, &o.peakBefore, during(warmUp+slice)); err != nil {
		return o, err
	}

	start, logins := time.Now(), p.logins()
	gone := func(old int) bool { return old == 0 || time.Since(start) > patience }
	if c.calm {
		next, gone = old, during(calmFor)
	} else if err := p.rotate(next); err != nil {
		return o, err
	}
	if err := watch(next, &o.peak, gone); err != nil {
		return o, err
	}
	o.gone = time.Since(start)
	end := time.Now().Add(aftermath)
	if least := start.Add(slice); end.Before(least) {
		end = least
	}
	if err := watch(next, &o.peak, during(time.Until(end))); err != nil {
		return o, err
	}
	o.logins = p.logins() - logins

	samples := r.finish()
	o.before = over(samples, start.Add(-slice), start)
	o.worst = worst(samples, start, end)
	o.failed, o.err = len(r.failed), r.err
	return o, nil
}

// watch samples the sessions until f is true of the number of old ones, and notes the most
// that there were at once.
func (e *env) watch(ctx context.Context, latest login, peak *int, f func(old int) bool) error {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for {
		all, old, err := e.sessions(ctx, latest)
		if err != nil {
			return err
		}
		*peak = max(*peak, all)
		if f(old) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
