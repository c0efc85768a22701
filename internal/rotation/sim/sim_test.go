package sim

import (
	"flag"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	flagFrom  = flag.Uint64("sim.from", 1, "the first seed")                                          //nolint:gochecknoglobals // a flag
	flagN     = flag.Uint64("sim.n", 0, "how many seeds; 0: as many as belong to the other tests")    //nolint:gochecknoglobals // a flag
	flagFirst = flag.Bool("sim.first", false, "say what the first violation is, and no more")         //nolint:gochecknoglobals // a flag
	flagTrace = flag.Bool("sim.trace", false, "run the first seed alone, and say what happens in it") //nolint:gochecknoglobals // a flag
)

// seeds is how many schedules are run with the other tests.
func seeds() uint64 {
	switch {
	case *flagN > 0:
		return *flagN
	case raceDetector || testing.Short():
		return 200
	}
	return 5000
}

// all runs schedules on all cores, until there is a violation that do wants to be the
// last. do is called for one at a time.
func all(from, n uint64, do func(Schedule, Result) (goOn bool)) {
	var (
		next atomic.Uint64
		stop atomic.Bool
		mu   sync.Mutex
		wg   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				s := New(from + i)
				r := Run(s, false)
				mu.Lock()
				if !do(s, r) {
					stop.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestSchedulesHoldTheBooks(t *testing.T) {
	if *flagTrace {
		s := New(*flagFrom)
		r := Run(s, true)
		t.Logf("%v%s", s, strings.Join(r.Trace, "\n"))
		return
	}
	var (
		pairs               Pairs
		tot                 Result
		events              []int
		bad, tame, monotone int
	)
	n := seeds()
	all(*flagFrom, n, func(s Schedule, r Result) bool {
		pairs.Add(r.Pairs)
		events = append(events, r.Events)
		tot.Steps += r.Steps
		tot.Queries += r.Queries
		tot.Failed += r.Failed
		tot.Logins += r.Logins
		tot.Refused += r.Refused
		if r.Rotations < 1 {
			monotone++
		}
		if r.Faults < 2 {
			tame++
		}
		if r.Violation != "" {
			bad++
			if *flagFirst {
				t.Errorf("FIRST seed %d: %s", s.Seed, r.Violation)
				return false
			}
			less := Shrink(s, r.Violation)
			t.Errorf("%s\n%vat its shortest: %s\n%v", r.Violation, s, Run(less, false).Violation, less)
		}
		return bad < 5
	})
	if bad > 0 {
		return
	}
	slices.Sort(events)
	if median := events[len(events)/2]; median < 200 {
		t.Errorf("%d events in the median, want 200 at least", median)
	} else {
		t.Logf("%d schedules: %d events in the median; on average %d steps, %d queries (%.1f failed, with an excuse), %d logins (%.1f refused)",
			n, median, tot.Steps/int(n), tot.Queries/int(n), float64(tot.Failed)/float64(n), tot.Logins/int(n), float64(tot.Refused)/float64(n))
	}
	if monotone > 0 || tame > 0 {
		t.Errorf("%d schedules without a rotation, %d with less than two faults", monotone, tame)
	}
	share, missing := pairs.Coverage()
	t.Logf("%.1f %% of the reachable pairs; missing: %s\n%v", 100*share, strings.Join(missing, "; "), &pairs)
	if n >= 5000 && share < .95 {
		t.Errorf("%.1f %% of the reachable pairs were reached, want 95", 100*share)
	}
}

func TestSchedulesAreDeterministic(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		one, two := Run(New(seed), true), Run(New(seed), true)
		for i := range one.Trace {
			if i >= len(two.Trace) || one.Trace[i] != two.Trace[i] {
				t.Fatalf("seed %d: line %d differs:\n%s", seed, i, one.Trace[i])
			}
		}
	}
}
