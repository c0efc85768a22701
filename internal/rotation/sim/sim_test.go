package sim

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	flagFrom  = flag.Uint64("sim.from", 1, "first seed")
	flagN     = flag.Uint64("sim.n", 0, "how many seeds; 0: as many as are meant to be run with the other tests")
	flagTrace = flag.Bool("sim.trace", false, "print the trace of the first one")
)

func TestSchedules(t *testing.T) {
	n := *flagN
	if n == 0 {
		n = 5000
	}
	var next atomic.Uint64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var tot Result
	bad := 0
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				s := New(*flagFrom + i)
				r := Run(s, *flagTrace)
				mu.Lock()
				if *flagTrace {
					for _, l := range r.Trace {
						t.Log(l)
					}
				}
				tot.Events += r.Events
				tot.Steps += r.Steps
				tot.Queries += r.Queries
				tot.Failed += r.Failed
				tot.Logins += r.Logins
				tot.Refused += r.Refused
				if r.Violation != "" {
					bad++
					if bad < 6 {
						t.Errorf("%s\n%v", r.Violation, s)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d bad of %d; per run: %d events, %d steps, %d queries, %.2f failed, %d logins, %.1f refused", bad, n, tot.Events/int(n), tot.Steps/int(n), tot.Queries/int(n), float64(tot.Failed)/float64(n), tot.Logins/int(n), float64(tot.Refused)/float64(n))
}
