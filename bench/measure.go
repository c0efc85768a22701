// What is made of the latencies: the distribution in a slice of time, and the
// worst slice of a longer time.

package main

import (
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"time"
)

const (
	// slice is the length of time that a distribution is taken over, before and
	// during a rotation, so that a long drain can't hide a short stall.
	slice = 4 * time.Second

	// slide is how far apart the slices begin.
	slide = 250 * time.Millisecond
)

// sample is one operation.
type sample struct {
	done    time.Time
	latency time.Duration
}

// dist is a distribution of latencies.
type dist struct {
	n                   int
	p50, p99, p999, max time.Duration
}

func (d dist) p50ms() float64  { return ms(d.p50) }
func (d dist) p99ms() float64  { return ms(d.p99) }
func (d dist) p999ms() float64 { return ms(d.p999) }
func (d dist) maxms() float64  { return ms(d.max) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// over returns the distribution of the samples that were done in [from, to).
// samples are in the order in which they were done.
func over(samples []sample, from, to time.Time) dist {
	first, _ := slices.BinarySearchFunc(samples, from, func(s sample, t time.Time) int { return s.done.Compare(t) })
	last, _ := slices.BinarySearchFunc(samples, to, func(s sample, t time.Time) int { return s.done.Compare(t) })
	latencies := make([]time.Duration, 0, max(0, last-first))
	for _, s := range samples[first:max(first, last)] {
		latencies = append(latencies, s.latency)
	}
	n := len(latencies)
	if n == 0 {
		return dist{}
	}
	slices.Sort(latencies)
	rank := func(q float64) time.Duration { return latencies[max(1, int(math.Ceil(q*float64(n))))-1] }
	return dist{n: n, p50: rank(0.5), p99: rank(0.99), p999: rank(0.999), max: latencies[n-1]}
}

// worst returns, of all slices in [from, to], each figure where it is highest. The
// first slice is there even if less than its length lies between from and to.
func worst(samples []sample, from, to time.Time) dist {
	w := over(samples, from, from.Add(slice))
	for start := from.Add(slide); !start.Add(slice).After(to); start = start.Add(slide) {
		w = w.highest(over(samples, start, start.Add(slice)))
	}
	if last := to.Add(-slice); last.After(from) {
		w = w.highest(over(samples, last, to))
	}
	return w
}

func (d dist) highest(e dist) dist {
	return dist{n: min(d.n, e.n), p50: max(d.p50, e.p50), p99: max(d.p99, e.p99), p999: max(d.p999, e.p999), max: max(d.max, e.max)}
}

// ratioOfMedians returns the ratio of the medians of a and b, and the interval in which it
// lies with 90 % certainty by the bootstrap: from as many values, drawn again and again with
// replacement. It is the same each time for the same values.
func ratioOfMedians(a, b []float64) (ratio, low, high float64) {
	const draws = 10_000
	random := mathrand.New(mathrand.NewPCG(1, 2))
	draw := func(values []float64) float64 {
		drawn := make([]float64, len(values))
		for i := range drawn {
			drawn[i] = values[random.IntN(len(values))]
		}
		return quartileOf(drawn, 2)
	}
	ratios := make([]float64, draws)
	for i := range ratios {
		ratios[i] = draw(a) / draw(b)
	}
	slices.Sort(ratios)
	return quartileOf(a, 2) / quartileOf(b, 2), ratios[draws/20], ratios[draws-draws/20-1]
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
