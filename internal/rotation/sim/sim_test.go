package sim

import (
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
	n := seeds()
	sum := tally{T: t}
	all(*flagFrom, n, sum.add)
	sum.report()
	if share, _ := sum.pairs.Coverage(); n >= 5000 && share < .95 {
		t.Errorf("%.1f %% of the reachable pairs were reached, want 95", 100*share)
	}
}

// Other schedules than the usual ones: some in short, as many as there is time for when
// soaked.
func TestSoakOtherSchedulesHoldTheBooks(t *testing.T) {
	sum := tally{T: t}
	v := os.Getenv("SQLROTATE_SOAK")
	if v == "" {
		all(1_000_000, 200, sum.add)
		sum.report()
		return
	}
	length, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	from, end := rand.Uint64()>>16, time.Now().Add(length/4) // other tests are soaked as well
	if v := os.Getenv("SQLROTATE_SEED"); v != "" {
		if from, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("from seed %d on", from)
	all(from, math.MaxUint64, func(s Schedule, r Result) bool { return sum.add(s, r) && time.Now().Before(end) })
	sum.report()
}

// tally is what came of many schedules.
type tally struct {
	*testing.T
	pairs                  Pairs
	steps, queries, failed int
	logins, refused        int
	events                 []int // in each of them
	bad, tame, without     int   // tame: with less than two faults; without: a rotation
}

// add adds a schedule and reports whether there should be more.
func (sum *tally) add(s Schedule, r Result) (goOn bool) {
	sum.pairs.Add(r.Pairs)
	sum.events = append(sum.events, r.Events)
	sum.steps += r.Steps
	sum.queries += r.Queries
	sum.failed += r.Failed
	sum.logins += r.Logins
	sum.refused += r.Refused
	if r.Rotations < 1 {
		sum.without++
	}
	if r.Faults < 2 {
		sum.tame++
	}
	if r.Violation == "" {
		return true
	}
	sum.bad++
	if *flagFirst {
		sum.Errorf("seed %d: %s", s.Seed, r.Violation)
		return false
	}
	less := Shrink(s, r.Violation)
	sum.Errorf("%s\n%vat its shortest: %s\n%v", r.Violation, s, Run(less, false).Violation, less)
	return sum.bad < 5
}

// report says what they were like.
func (sum *tally) report() {
	if sum.bad > 0 {
		return
	}
	slices.Sort(sum.events)
	n := len(sum.events)
	if median := sum.events[n/2]; median < 200 {
		sum.Errorf("%d events in the median, want 200 at least", median)
	} else {
		sum.Logf("%d schedules: %d events in the median; on average %d steps, %d queries (%.1f failed, with an excuse), %d logins (%.1f refused)",
			n, median, sum.steps/n, sum.queries/n, float64(sum.failed)/float64(n), sum.logins/n, float64(sum.refused)/float64(n))
	}
	if sum.without > 0 || sum.tame > 0 {
		sum.Errorf("%d schedules without a rotation, %d with less than two faults", sum.without, sum.tame)
	}
	share, missing := sum.pairs.Coverage()
	sum.Logf("%.1f %% of the reachable pairs; missing: %s\n%v", 100*share, strings.Join(missing, "; "), &sum.pairs)
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
