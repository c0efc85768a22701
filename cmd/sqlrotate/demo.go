// The demo: a server, an agent and three applications, a line a second, and what it
// came to.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// demo is what the flags say.
type demo struct {
	duration, every, overlap time.Duration
	revokeAfter, lifetime    time.Duration
	connections, workers     int
}

const demoUsage = `usage: sqlrotate demo [flags]

demo starts a throwaway PostgreSQL and an agent that makes a new login again and
again, publishes it in a file, and drops the one before when the overlap is
over. Three applications work on the database all the time: one with sqlrotate,
one with lib/pq that has the login of the start, and one with lib/pq that reads
the file for each login. The exit status is 1 if a request of the first failed
or one of its sessions outlived its login.

If the environment variable SQLROTATE_TEST_POSTGRES is set, to the DSN of a
superuser, its server is used, and left as it was unless the demo is killed.

flags:
`

func (d *demo) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("sqlrotate demo", flag.ContinueOnError)
	flags.DurationVar(&d.duration, "duration", 30*time.Second, "how long the applications run")
	flags.DurationVar(&d.every, "every", 2*time.Second, "how often the login is rotated")
	flags.DurationVar(&d.overlap, "overlap", 4*time.Second, "how long a login outlives the publication of its successor")
	flags.DurationVar(&d.revokeAfter, "revoke-after", 0, "how long it really does; zero means -overlap")
	flags.DurationVar(&d.lifetime, "lifetime", 0, "SetConnMaxLifetime of the application that reads the file;\nzero means no limit, as in database/sql")
	flags.IntVar(&d.connections, "connections", 20, "size of each application's pool")
	flags.IntVar(&d.workers, "workers", 20, "goroutines of each application")
	flags.SetOutput(io.Discard) // until somebody asks for its usage
	return flags
}

// Limits of the flags.
const (
	maxDuration    = time.Hour
	minEvery       = 100 * time.Millisecond
	minOverlap     = time.Second // an eighth of it for the file, a quarter for a request
	maxConnections = 250
	maxWorkers     = 1000
)

// check refuses what can't be run or would show nothing.
func (d demo) check() error {
	switch {
	case d.duration < time.Second || d.duration > maxDuration:
		return fmt.Errorf("-duration %v: from 1s to %v", d.duration, maxDuration)
	case d.every < minEvery || d.every > maxDuration:
		return fmt.Errorf("-every %v: from %v to %v", d.every, minEvery, maxDuration)
	case d.overlap < minOverlap || d.overlap > maxDuration:
		return fmt.Errorf("-overlap %v: from %v to %v", d.overlap, minOverlap, maxDuration)
	case d.revokeAfter < 0 || d.revokeAfter > maxDuration:
		return fmt.Errorf("-revoke-after %v: from 0s, for -overlap, to %v", d.revokeAfter, maxDuration)
	case d.lifetime < 0:
		return fmt.Errorf("-lifetime %v: zero, for none, or more", d.lifetime)
	case d.connections < 1 || d.connections > maxConnections:
		return fmt.Errorf("-connections %d: from 1 to %d, for each of 3 applications", d.connections, maxConnections)
	case d.workers < 1 || d.workers > maxWorkers:
		return fmt.Errorf("-workers %d: from 1 to %d", d.workers, maxWorkers)
	case d.every+d.dropAfter() >= d.duration:
		return fmt.Errorf("-duration %v: the first login is dropped after %v + %v = %v, and is to be seen dropped", d.duration, d.every, d.dropAfter(), d.every+d.dropAfter())
	}
	_, err := d.window().MaxLifetime()
	return err
}

// dropAfter is when the agent drops a login, counted from its successor.
func (d demo) dropAfter() time.Duration {
	if d.revokeAfter > 0 {
		return d.revokeAfter
	}
	return d.overlap
}

// window is that of the demo: its agent writes a local file, and no transaction
// takes long.
func (d demo) window() sqlrotate.Window {
	return sqlrotate.Window{Overlap: d.overlap, Lag: d.overlap / 8, MaxInUse: d.overlap / 4}
}

// sessions is how many the applications have at the most: the pools, and the one
// that replaces another.
func (d demo) sessions() int { return 3*d.connections + 1 }

func runDemo(ctx context.Context, s stdio, args []string) int {
	var d demo
	flags := d.flags()
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("it takes flags only, not %q", flags.Arg(0))
	}
	if err == nil {
		err = d.check()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprint(s.out, demoUsage)
		flags.SetOutput(s.out)
		flags.PrintDefaults()
		return statusOK
	case err != nil:
		_, _ = fmt.Fprintf(s.err, "sqlrotate demo: %v\n\"sqlrotate help demo\" lists the flags.\n", err)
		return statusUsage
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	result, err := d.run(ctx, output{s.out, cancel})
	switch {
	case errors.Is(context.Cause(ctx), syscall.EPIPE):
		return statusFailed // nobody reads on, so there is nobody to tell
	case err != nil && ctx.Err() != nil:
		_, _ = fmt.Fprintf(s.err, "sqlrotate demo: %v\n", context.Cause(ctx))
		return statusFailed
	case err != nil:
		_, _ = fmt.Fprintf(s.err, "sqlrotate demo: %v\n", err)
		return statusFailed
	case !result.good():
		return statusFailed
	}
	return statusOK
}

// output is where the demo writes, and ends the demo when it can't.
type output struct {
	io.Writer
	cancel context.CancelCauseFunc
}

func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.cancel(err)
	}
	return n, err
}

// run runs it all and prints what it came to, also when ctx ends it early.
func (d demo) run(ctx context.Context, w io.Writer) (_ outcome, err error) {
	if pgtest.Named() {
		_, _ = fmt.Fprintln(w, "Starting an agent that rotates a login, and three applications that use it.")
	} else {
		_, _ = fmt.Fprintln(w, "Starting a PostgreSQL, an agent that rotates its login, and three applications.")
	}
	server, err := d.start(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, server.Close()) }() //nolint:contextcheck // it is closed whatever became of ctx
	dir, err := server.TempDir(ctx)
	if err != nil {
		return outcome{}, err
	}

	a := &agent{server: server, path: filepath.Join(dir, "login.json"), every: d.every, revokeAfter: d.dropAfter()}
	first, err := a.publish(ctx, 1)
	if err != nil {
		return outcome{}, err
	}
	apps, err := d.open(ctx, place{server.DSN(), a.path}, first)
	defer func() {
		for _, app := range apps {
			app.close()
		}
	}()
	if err != nil {
		return outcome{}, err
	}

	_, _ = io.WriteString(w, d.opening(a.path, server.Host(), server.Port()))
	start := time.Now()
	working, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { a.run(working, first) })
	for _, app := range apps {
		wg.Go(func() { app.load.run(working) })
	}
	peak, late := d.watch(ctx, w, a, apps)
	took := time.Since(start)
	stop()
	wg.Wait()

	survivors, err := a.survivors(context.WithoutCancel(ctx))
	if err != nil {
		return outcome{}, err
	}
	o := outcome{demo: d, took: took, peak: peak, books: a.books, stall: late}
	for i, app := range apps {
		if i > 0 {
			o.stall = max(o.stall, app.load.total.longest)
		}
		o.apps[i] = result{totals: app.load.total, outlived: a.books.outlived[app.name], survivors: survivors[app.name]}
	}
	_, _ = io.WriteString(w, o.closing())
	return o, nil
}

// start starts a server that has room for all, and makes what they work on.
func (d demo) start(ctx context.Context) (*pgtest.Server, error) {
	options := pgtest.Options{
		MaxConnections: d.sessions() + d.sessions()/4 + 20,             // sessions take a moment to end
		Settings:       map[string]string{"log_min_messages": "fatal"}, // a dropped login's errors are many
	}
	if pgtest.Named() {
		options = pgtest.Options{}
	}
	server, err := pgtest.Start(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := d.prepare(ctx, server); err != nil {
		return nil, errors.Join(err, server.Close()) //nolint:contextcheck // it is closed whatever became of ctx
	}
	return server, nil
}

func (d demo) prepare(ctx context.Context, server *pgtest.Server) error {
	var room int
	err := server.Admin().QueryRowContext(ctx, `select current_setting('max_connections')::int
		- current_setting('superuser_reserved_connections')::int
		- (select count(*) from pg_stat_activity where backend_type = 'client backend')`).Scan(&room)
	if err != nil {
		return fmt.Errorf("asking for the server's limit: %w", err)
	}
	if room < d.sessions() {
		return fmt.Errorf("the server has room for %d more sessions, and 3 applications with %d connections each need %d: see -connections", max(room, 0), d.connections, d.sessions())
	}
	for _, statement := range []string{
		"create table account (id int primary key, balance int not null)",
		"insert into account select n, 100 from generate_series(1, " + strconv.Itoa(accounts) + ") n",
	} {
		if _, err := server.Admin().ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("preparing the database: %w", err)
		}
	}
	return nil
}

// watch prints a line a second until the demo's time is up or ctx is done. It returns
// the most connections that it saw the first application have, and how late it was
// woken at the worst.
func (d demo) watch(ctx context.Context, w io.Writer, a *agent, apps []*application) (peak int, late time.Duration) {
	start := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := time.Second; n <= d.duration; n += time.Second {
		select {
		case <-ctx.Done():
			return peak, late
		case <-tick.C:
		}
		l := line{elapsed: time.Since(start)}
		late = max(late, l.elapsed-n)
		l.made, l.dropped = a.counts()
		l.made++ // the first
		for i, app := range apps {
			l.apps[i] = app.load.take()
		}
		for _, v := range apps[0].stats().Versions {
			if v.Current {
				l.latest += v.Open
			} else {
				l.earlier += v.Open
			}
		}
		peak = max(peak, l.latest+l.earlier)
		_, _ = io.WriteString(w, l.String())
	}
	pause(ctx, time.Until(start.Add(d.duration)))
	return peak, late
}
