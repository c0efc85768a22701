// What each contender costs while nothing is rotated: for a query, and for a login.

package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"time"
)

// effort is how much is measured.
type effort struct{ rounds, queries, logins int }

// expense is what one operation took, on average.
type expense struct {
	took   time.Duration
	allocs float64
}

// overhead has the contenders whose names hold who do the same in turn, and prints the
// medians.
func (e *env) overhead(ctx context.Context, w *bytes.Buffer, who string, n effort) error {
	e.encrypt(false)
	role, err := e.newRole(ctx)
	if err != nil {
		return err
	}
	queries, logins := map[string][]expense{}, map[string][]expense{}
	for range n.rounds {
		for _, c := range chosen(racers(), who) {
			q, err := e.spend(ctx, c, load{conns: 1}, role, n.queries)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			l, err := e.spend(ctx, c, load{conns: 1, fresh: true}, role, n.logins)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			queries[c.name], logins[c.name] = append(queries[c.name], q), append(logins[c.name], l)
		}
	}
	fmt.Fprintf(w, "\n## Nothing is rotated\n\nOne query after the other on one connection, and the same where each logs in: medians of %d rounds of %d and %d.\n\n", n.rounds, n.queries, n.logins)
	fmt.Fprintln(w, "| | query µs | allocations | login and query µs | allocations |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|")
	for _, c := range chosen(racers(), who) {
		q, l := queries[c.name], logins[c.name]
		fmt.Fprintf(w, "| %s | %.0f | %.0f | %.0f | %.0f |\n", c.name, medianOf(q, micros), medianOf(q, allocs), medianOf(l, micros), medianOf(l, allocs))
	}
	return nil
}

func micros(e expense) float64 { return float64(e.took) / float64(time.Microsecond) }

func allocs(e expense) float64 { return e.allocs }

func medianOf(es []expense, f func(expense) float64) float64 {
	values := make([]float64, len(es))
	for i, e := range es {
		values[i] = f(e)
	}
	return quartileOf(values, 2)
}

// spend measures n operations, after one that isn't.
func (e *env) spend(ctx context.Context, c contender, l load, first login, n int) (x expense, err error) {
	p, err := c.open(e, l, leisurely(briskly), first)
	if err != nil {
		return x, err
	}
	defer p.close()
	if err := p.query(ctx); err != nil {
		return x, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for range n {
		if err := p.query(ctx); err != nil {
			return x, err
		}
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	return expense{took / time.Duration(n), float64(after.Mallocs-before.Mallocs) / float64(n)}, nil
}
