// The rotations: each contender under each load, before and during a rotation, many times over.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// rotations prints the table of the rotation benchmark.
func rotations(ctx context.Context, rounds int, drain time.Duration, only, who string, tls bool) (err error) {
	e, err := startEnv(ctx, pgtest.Options{TLS: tls})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	fmt.Printf("%d CPUs, %s, %d rotations for each line, the contenders in turn, a DrainTime of %v.\n", runtime.NumCPU(), runtime.Version(), rounds, drain)
	for _, l := range loads() {
		if only != "" && l.name != only {
			continue
		}
		all := map[string][]outcome{}
		for range rounds {
			for _, c := range chosen(contenders(), who) {
				o, err := e.observe(ctx, c, l, drain)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", l.name, c.name, err)
				}
				all[c.name] = append(all[c.name], o)
			}
		}
		var b bytes.Buffer
		report(&b, l, all)
		fmt.Print(b.String())
	}
	return nil
}

// report writes what the rotations under a load have done to each contender.
func report(w *bytes.Buffer, l load, all map[string][]outcome) {
	fmt.Fprintf(w, "\n### %s\n\n%s\n\n", l.name, l.about)
	fmt.Fprintln(w, "| | | p50 ms | p99 ms | p99.9 ms | max ms | failed | logins | peak sessions | last old session gone |")
	fmt.Fprintln(w, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
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
			fmt.Fprintf(w, "| %s |", name)
			for _, figure := range []func(dist) float64{dist.p50ms, dist.p99ms, dist.p999ms, dist.maxms} {
				fmt.Fprintf(w, " %s |", short(median(os, func(o outcome) float64 { return figure(pick(o)) })))
			}
			fmt.Fprintf(w, " %s |\n", rest)
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
	compare(w, all)
	for _, c := range contenders() {
		for _, o := range all[c.name] {
			if o.err != nil {
				fmt.Fprintf(w, "- %s, first failure of one rotation: %v\n", c.name, o.err)
				break
			}
		}
	}
}

// compare writes how long operations took during rotations against how long before, and with
// other contenders.
func compare(w *bytes.Buffer, all map[string][]outcome) {
	fmt.Fprintln(w, "\nRatios of p99.9: the median over the rotations, and the range of the middle half.")
	fmt.Fprintln(w)
	for _, c := range contenders() {
		if len(all[c.name]) > 0 {
			fmt.Fprintf(w, "- %s, rotation to before: %s\n", c.name, spread(all[c.name], ratioToBefore))
		}
	}
	for _, c := range contenders() {
		for _, other := range against()[c.name] {
			if ours, theirs := p999s(all[c.name]), p999s(all[other]); len(ours) > 0 && len(theirs) > 0 {
				ratio, low, high := ratioOfMedians(ours, theirs)
				fmt.Fprintf(w, "- %s to %s, during a rotation: %s; of the medians: %s, with 90 %% certainty %s to %s\n",
					c.name, other, ratioBetween(all[c.name], all[other]), short(ratio), short(low), short(high))
			}
		}
	}
	fmt.Fprintln(w, "\nMaxima, over all rotations:")
	fmt.Fprintln(w)
	for _, c := range contenders() {
		if os := all[c.name]; len(os) > 0 {
			fmt.Fprintf(w, "- %s: p99.9 of a slice %s ms, one operation %s ms\n", c.name,
				short(highest(os, func(o outcome) float64 { return o.worst.p999ms() })), short(highest(os, func(o outcome) float64 { return o.worst.maxms() })))
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

func highest(os []outcome, f func(outcome) float64) float64 { return quartile(os, f, 4) }

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

// outcome is what one rotation did.
type outcome struct {
	before           dist          // in the slice before it
	worst            dist          // in the worst slice from it until aftermath
	gone             time.Duration // until no session of the old role was left
	watched          time.Duration // from it until aftermath
	failed           int           // operations, from the beginning to the end
	err              error         // of the first one that failed
	logins           int64         // from the rotation on
	peakBefore, peak int           // sessions
}

const (
	warmUp    = 2 * time.Second
	aftermath = time.Second // how long after the last old session a stall still counts
	patience  = time.Minute // with old sessions
	sampling  = 25 * time.Millisecond

	briskly = 10 * time.Second // the DrainTime of rotations, unless told otherwise
)

// observe watches everybody for as long as the drain may take, whether anything is drained or
// not: of more slices, the worst is worse.
func (e *env) observe(ctx context.Context, c contender, l load, drain time.Duration) (o outcome, err error) {
	old, err := e.newRole(ctx)
	if err != nil {
		return o, err
	}
	next, err := e.newRole(ctx)
	if err != nil {
		return o, err
	}
	p, err := c.open(e, l, leisurely(drain), old)
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
	if c.calm {
		next = old
	} else if err := p.rotate(next); err != nil {
		return o, err
	}
	if err := watch(next, &o.peak, func(old int) bool { return old == 0 || time.Since(start) > drain+patience }); err != nil {
		return o, err
	}
	o.gone = time.Since(start)
	o.watched = max(o.gone, drain) + aftermath
	end := start.Add(o.watched)
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
