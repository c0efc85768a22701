// What the drain of many connections costs the process, in one pool and in many.

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// fleet is a number of pools of one process that are rotated together.
type fleet struct {
	pools, conns int           // conns of each pool
	open         time.Duration // of the transactions that keep every connection busy; zero: all are idle
}

func (f fleet) name() string {
	if f.open == 0 {
		return fmt.Sprintf("%d × %d, idle", f.pools, f.conns)
	}
	return fmt.Sprintf("%d × %d, in transactions of %v", f.pools, f.conns, f.open)
}

func fleets() []fleet {
	return []fleet{
		{1, 20, 0},
		{1, 500, 0},
		{50, 10, 0},
		{1, 20, time.Second},
		{1, 500, time.Second},
		{50, 10, time.Second},
	}
}

// cost is what a drain took, for each connection that was retired.
type cost struct {
	cpu    time.Duration
	allocs float64
	kib    float64       // allocated
	heap   float64       // KiB of heap in use at the peak, more than before
	gone   time.Duration // until the last one was gone
	logins int64         // in all
	peak   int           // sessions
}

// drains prints the table of costs.
func drains(ctx context.Context, rounds int) (err error) {
	e, err := startEnv(ctx, pgtest.Options{MaxConnections: 600})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	fmt.Printf("%d CPUs, %s, medians of %d drains. The client's own, for each connection retired;\nwhat it needs without a drain is taken off.\n\n", runtime.NumCPU(), runtime.Version(), rounds)
	fmt.Println("| pools × connections | CPU µs | allocations | allocated KiB | peak heap KiB | last old session gone | logins | peak sessions |")
	fmt.Println("|---|--:|--:|--:|--:|--:|--:|--:|")
	all := make([][]cost, len(fleets()))
	for range rounds {
		for i, f := range fleets() {
			c, err := e.drain(ctx, f)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name(), err)
			}
			all[i] = append(all[i], c)
		}
	}
	for i, f := range fleets() {
		m := func(figure func(cost) float64) float64 {
			values := make([]float64, len(all[i]))
			for j, c := range all[i] {
				values[j] = figure(c)
			}
			return quartileOf(values, 2)
		}
		fmt.Printf("| %s | %.0f | %.0f | %.1f | %.1f | %.1f s | %.0f | %.0f |\n", f.name(),
			m(func(c cost) float64 { return float64(c.cpu.Microseconds()) }),
			m(func(c cost) float64 { return c.allocs }),
			m(func(c cost) float64 { return c.kib }),
			m(func(c cost) float64 { return c.heap }),
			m(func(c cost) float64 { return c.gone.Seconds() }),
			m(func(c cost) float64 { return float64(c.logins) }),
			m(func(c cost) float64 { return float64(c.peak) }))
	}
	cpu, allocs, kib, err := e.loginCost(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nTo compare: to log in and out with lib/pq alone takes %d µs of CPU, %.0f allocations and %.1f KiB.\n", cpu.Microseconds(), allocs, kib)
	return nil
}

// usage is what the process has used so far.
type usage struct {
	at            time.Time
	cpu           time.Duration
	allocs, bytes uint64
	heap          uint64 // in use now
}

func use() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{time.Now(), cpuTime(), m.Mallocs, m.TotalAlloc, m.HeapInuse + m.StackInuse}
}

// over returns what u has used since v, less what is used in the same time at the
// rate of rest.
func (u usage) over(v usage, rest [2]usage) (cpu time.Duration, allocs, bytes float64) {
	share := float64(u.at.Sub(v.at)) / float64(rest[1].at.Sub(rest[0].at))
	less := func(u, v, b, a float64) float64 { return u - v - share*(b-a) }
	cpu = time.Duration(less(float64(u.cpu), float64(v.cpu), float64(rest[1].cpu), float64(rest[0].cpu)))
	allocs = less(float64(u.allocs), float64(v.allocs), float64(rest[1].allocs), float64(rest[0].allocs))
	bytes = less(float64(u.bytes), float64(v.bytes), float64(rest[1].bytes), float64(rest[0].bytes))
	return cpu, allocs, bytes
}

// atRest is for how long a fleet is watched before its drain.
const atRest = 8 * time.Second

func (e *env) drain(ctx context.Context, f fleet) (c cost, err error) {
	old, err := e.newRole(ctx)
	if err != nil {
		return c, err
	}
	next, err := e.newRole(ctx)
	if err != nil {
		return c, err
	}
	path := e.file(old)
	if err := publish(path, old); err != nil {
		return c, err
	}
	l := load{conns: f.conns, workers: f.conns, open: f.open}
	pools, end, err := e.openPools(ctx, f, l, path)
	defer end()
	if err != nil {
		return c, err
	}
	pause(ctx, warmUp) // the loads fall out of step, the server comes to rest
	runtime.GC()
	rest := [2]usage{use()}
	for i := range pools {
		c.logins -= pools[i].logins()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(rest[0].at) < atRest {
		all, _, err := e.sessions(ctx, old)
		if err != nil {
			return c, err
		}
		c.peak = max(c.peak, all)
		use() // it costs something itself
		<-tick.C
	}
	if c.peak != f.pools*f.conns {
		return c, fmt.Errorf("%d sessions to begin with", c.peak)
	}
	runtime.GC()
	rest[1] = use()

	before := rest[1]
	if err := publish(path, next); err != nil {
		return c, err
	}
	after := before
	for {
		all, remaining, err := e.sessions(ctx, next)
		if err != nil {
			return c, err
		}
		c.peak = max(c.peak, all)
		after = use()
		c.heap = max(c.heap, float64(after.heap)-float64(before.heap))
		if c.gone = after.at.Sub(before.at); remaining == 0 || c.gone > patience {
			break
		}
		<-tick.C
	}
	cpu, allocs, bytes := after.over(before, rest)
	n := float64(f.pools * f.conns)
	c.cpu = time.Duration(float64(cpu) / n)
	c.allocs, c.kib, c.heap = allocs/n, bytes/1024/n, c.heap/1024/n
	for i := range pools {
		c.logins += pools[i].logins()
	}
	return c, nil
}

// openPools opens a fleet's pools, and sets to work those that are in use. end ends all of it.
func (e *env) openPools(ctx context.Context, f fleet, l load, path string) (pools []*rotator, end func(), err error) {
	var ends []func()
	end = func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	opener, err := sqlrotate.LibPQ(e.server.DSN())
	if err != nil {
		return nil, end, err
	}
	for range f.pools {
		p, err := newRotator(l, leisurely(briskly), path, opener) //nolint:contextcheck // it lives until it is closed
		if err != nil {
			return nil, end, err
		}
		ends = append(ends, p.close)
		if err := l.fill(ctx, p); err != nil {
			return nil, end, err
		}
		if f.open > 0 {
			r := l.start(ctx, p)
			ends = append(ends, func() { r.finish() })
		}
		pools = append(pools, p)
	}
	return pools, end, nil
}

// loginCost returns what it takes lib/pq to log in and out again.
func (e *env) loginCost(ctx context.Context) (cpu time.Duration, allocs, kib float64, err error) {
	role, err := e.newRole(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	const n = 200
	p, err := newFlip(e, load{conns: 1}, role)
	if err != nil {
		return 0, 0, 0, err
	}
	defer p.close()
	p.db.SetMaxIdleConns(-1)
	before := use()
	for range n {
		conn, err := p.db.Conn(ctx)
		if err != nil {
			return 0, 0, 0, err
		}
		_ = conn.Close()
	}
	after := use()
	return (after.cpu - before.cpu) / n, float64(after.allocs-before.allocs) / n, float64(after.bytes-before.bytes) / 1024 / n, nil
}
