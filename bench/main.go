// Command bench measures what a rotation of the database login does to an
// application, on a PostgreSQL of its own: for sqlrotate with lib/pq, with pgx behind
// database/sql and with pgxpool, for a plain SetConnMaxLifetime flip over lib/pq, and
// for pgxpool with BeforeConnect and Reset, in turn, under the same loads. With -race it
// tells each of them, and others, what happens around a rotation, and draws how they come
// through it. With -scale it measures what the drain of many connections costs the process
// instead.
//
// It prints Markdown. There is nothing to pass or fail: figures are for reading.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

func main() {
	rounds := flag.Int("rounds", 7, "rotations for each contender and load")
	scale := flag.Bool("scale", false, "measure the cost of large drains instead")
	only := flag.String("load", "", "one load only: think, saturated or long")
	who := flag.String("contenders", "", "only those whose names hold this text; or those with these names, divided by semicolons")
	tls := flag.Bool("tls", false, "rotations with TLS (sslmode=verify-full)")
	tell := flag.Bool("race", false, "tell each contender the stories of a rotation instead")
	told := flag.String("story", "", "with -race, one story only: revoked, in-place, refused or overhead")
	out := flag.String("out", "", "with -race, the directory for the results and charts; else they are printed and not drawn")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	measure := func(ctx context.Context) error { return rotations(ctx, *rounds, *only, *who, *tls) }
	switch {
	case *tell:
		measure = func(ctx context.Context) error { return race(ctx, *told, *who, *out) }
	case *scale:
		measure = func(ctx context.Context) error { return drains(ctx, *rounds) }
	}
	if err := measure(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// rotations prints the table of the rotation benchmark.
func rotations(ctx context.Context, rounds int, only, who string, tls bool) (err error) {
	server, err := pgtest.Start(ctx, pgtest.Options{TLS: tls})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	e, err := newEnv(ctx, server)
	if err != nil {
		return err
	}
	defer e.close()
	fmt.Printf("%d CPUs, %s, %d rotations for each line, the contenders in turn.\n", runtime.NumCPU(), runtime.Version(), rounds)
	for _, l := range loads() {
		if only != "" && l.name != only {
			continue
		}
		all := map[string][]outcome{}
		for range rounds {
			for _, c := range chosen(contenders(), who) {
				o, err := e.observe(ctx, c, l)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", l.name, c.name, err)
				}
				all[c.name] = append(all[c.name], o)
			}
		}
		report(l, all)
	}
	return nil
}

func report(l load, all map[string][]outcome) {
	fmt.Printf("\n### %s\n\n%s\n\n", l.name, l.about)
	fmt.Println("| | | p50 ms | p99 ms | p99.9 ms | max ms | failed | logins | peak sessions | last old session gone |")
	fmt.Println("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, c := range contenders() {
		os := all[c.name]
		if len(os) == 0 {
			continue
		}
		failed := 0
		for _, o := range os {
			failed += o.failed
		}
		d := func(name string, pick func(outcome) dist, rest string) {
			fmt.Printf("| %s |", name)
			for _, figure := range []func(dist) float64{dist.p50ms, dist.p99ms, dist.p999ms, dist.maxms} {
				fmt.Printf(" %s |", short(median(os, func(o outcome) float64 { return figure(pick(o)) })))
			}
			fmt.Printf(" %s |\n", rest)
		}
		d(c.name+" | before", func(o outcome) dist { return o.before },
			fmt.Sprintf(" | | %.0f |", median(os, func(o outcome) float64 { return float64(o.peakBefore) })))
		gone := fmt.Sprintf("%.2f s", median(os, func(o outcome) float64 { return o.gone.Seconds() }))
		if c.calm {
			gone = ""
		}
		d(" | rotation", func(o outcome) dist { return o.worst },
			fmt.Sprintf("%d | %.0f | %.0f | %s", failed,
				median(os, func(o outcome) float64 { return float64(o.logins) }),
				median(os, func(o outcome) float64 { return float64(o.peak) }), gone))
	}
	fmt.Println("\nRatios of p99.9: the median over the rotations, and the range of the middle half.")
	fmt.Println()
	for _, c := range contenders() {
		if len(all[c.name]) > 0 {
			fmt.Printf("- %s, rotation to before: %s\n", c.name, spread(all[c.name], ratioToBefore))
		}
	}
	for _, c := range contenders() {
		for _, other := range against()[c.name] {
			if ours, theirs := p999s(all[c.name]), p999s(all[other]); len(ours) > 0 && len(theirs) > 0 {
				ratio, low, high := ratioOfMedians(ours, theirs)
				fmt.Printf("- %s to %s, during a rotation: %s; of the medians: %s, with 90 %% certainty %s to %s\n",
					c.name, other, ratioBetween(all[c.name], all[other]), short(ratio), short(low), short(high))
			}
		}
	}
	for _, c := range contenders() {
		for _, o := range all[c.name] {
			if o.err != nil {
				fmt.Printf("- %s, first failure of one rotation: %v\n", c.name, o.err)
				break
			}
		}
	}
}

// p999s are the p99.9 of the worst slices, in milliseconds.
func p999s(os []outcome) []float64 {
	values := make([]float64, len(os))
	for i, o := range os {
		values[i] = o.worst.p999ms()
	}
	return values
}

func ratioToBefore(o outcome) float64 { return o.worst.p999ms() / o.before.p999ms() }

// ratioBetween compares neighbours: the two outcomes of each round.
func ratioBetween(a, b []outcome) string {
	i := -1
	return spread(a, func(o outcome) float64 { i++; return o.worst.p999ms() / b[i].worst.p999ms() })
}

func median(os []outcome, f func(outcome) float64) float64 { return quartile(os, f, 2) }

func spread(os []outcome, f func(outcome) float64) string {
	values := make([]float64, len(os))
	for i, o := range os {
		values[i] = f(o)
	}
	at := func(q int) float64 { return quartileOf(values, q) }
	return fmt.Sprintf("%s (%s to %s)", short(at(2)), short(at(1)), short(at(3)))
}

func quartile(os []outcome, f func(outcome) float64, q int) float64 {
	values := make([]float64, len(os))
	for i, o := range os {
		values[i] = f(o)
	}
	return quartileOf(values, q)
}

// short returns a figure as far as it means anything.
func short(x float64) string {
	if x >= 10 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2g", x)
}

// quartileOf returns the q-th quartile: of an even number of values, the upper of
// two candidates.
func quartileOf(values []float64, q int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)*q/4, len(sorted)-1)]
}
