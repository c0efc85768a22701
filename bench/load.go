// The loads, and one observation: a contender under a load, before and during a
// rotation.

package main

import (
	"cmp"
	"context"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"
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
	err := p.transact(ctx, func() { pause(ctx, open) })
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

// failures returns when operations have failed so far, and the error of the first.
func (r *running) failures() ([]time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failed), r.err
}

// fill opens all the connections that a pool may have, by using them at once.
func (l load) fill(ctx context.Context, p pool) error {
	errs := make(chan error)
	var begun sync.WaitGroup
	begun.Add(l.conns)
	for range l.conns {
		go func() {
			begin := sync.OnceFunc(begun.Done)
			defer begin()
			errs <- p.transact(ctx, func() {
				begin()
				begun.Wait()
			})
		}()
	}
	var err error
	for range l.conns {
		err = errors.Join(err, <-errs)
	}
	return err
}
