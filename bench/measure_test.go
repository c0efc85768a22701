package main

import (
	"testing"
	"time"
)

func TestWorstSliceFindsAStallWhereverItIs(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, at := range []time.Duration{0, time.Second, 5 * time.Second, 9900 * time.Millisecond} {
		var samples []sample
		for i := range 10_000 { // one a millisecond
			s := sample{start.Add(time.Duration(i) * time.Millisecond), time.Millisecond}
			if d := s.done.Sub(start); d >= at && d < at+20*time.Millisecond {
				s.latency = 300 * time.Millisecond
			}
			samples = append(samples, s)
		}
		got := worst(samples, start, start.Add(10*time.Second))
		want := dist{n: 4000, p50: time.Millisecond, p99: time.Millisecond, p999: 300 * time.Millisecond, max: 300 * time.Millisecond}
		if got != want {
			t.Errorf("stall at %v: %+v, want %+v", at, got, want)
		}
	}
}

func TestQuantilesAreNearestRanks(t *testing.T) {
	start := time.Unix(1000, 0)
	var samples []sample
	for i := range 1000 {
		samples = append(samples, sample{start.Add(time.Duration(i)), time.Duration(i + 1)})
	}
	if got, want := over(samples, start, start.Add(time.Second)), (dist{1000, 500, 990, 999, 1000}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := over(samples, start.Add(time.Hour), start.Add(2*time.Hour)); got != (dist{}) {
		t.Errorf("%+v where nothing is", got)
	}
}

func TestQuartiles(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range []float64{1, 2, 3, 4, 5} {
		if got := quartileOf(values, q); got != want {
			t.Errorf("quartile %d is %v, want %v", q, got, want)
		}
	}
}

func TestRatioOfMedians(t *testing.T) {
	wide := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, test := range []struct {
		name             string
		a, b             []float64
		ratio, low, high float64
	}{
		{"no spread", []float64{4, 4, 4}, []float64{2, 2, 2}, 2, 2, 2},
		{"the same spread", wide, wide, 1, 0.4, 2.5},
		{"spread above", wide, []float64{5, 5, 5}, 1, 0.4, 1.6},
	} {
		ratio, low, high := ratioOfMedians(test.a, test.b)
		if ratio != test.ratio || low < test.low || low > ratio || high > test.high || high < ratio {
			t.Errorf("%s: %v (%v to %v), want %v (within %v to %v)", test.name, ratio, low, high, test.ratio, test.low, test.high)
		}
		if len(test.a) == len(wide) && (low == ratio || high == ratio) {
			t.Errorf("%s: no interval", test.name)
		}
	}
}
