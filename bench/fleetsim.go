// Fleets that this machine can't hold: the connector's own rules, one simulated process
// after the other.

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/rotation"
	"github.com/sqlrotate/sqlrotate/internal/rotation/sim"
)

// curve is the logins of a simulated fleet, by the second. Times count from when the new
// login was published.
type curve struct {
	name     string
	from     time.Duration
	logins   []int // in each second from then on
	failed   int   // operations
	queries  int
	drained  time.Duration // the longest drain
	sessions int           // that are renewed
	lifetime time.Duration
}

func newCurve(name string, from, to time.Duration) *curve {
	return &curve{name: name, from: from, logins: make([]int, int((to-from)/time.Second))}
}

func (c *curve) add(at time.Duration) {
	if i := int((at - c.from) / time.Second); at >= c.from && i < len(c.logins) {
		c.logins[i]++
	}
}

// merge adds what another one has counted.
func (c *curve) merge(o *curve) {
	for i, n := range o.logins {
		c.logins[i] += n
	}
	c.failed, c.queries, c.drained = c.failed+o.failed, c.queries+o.queries, max(c.drained, o.drained)
}

// sum is the logins from and until.
func (c *curve) sum(from, to time.Duration) (n int) {
	for i, k := range c.logins {
		if at := c.from + time.Duration(i)*time.Second; at >= from && at < to {
			n += k
		}
	}
	return n
}

// before is the logins a second before the rotation.
func (c *curve) before() float64 { return float64(c.sum(c.from, 0)) / -c.from.Seconds() }

// most is the most logins within so many seconds of the rotation or what follows, for each.
func (c *curve) most(seconds int) (most float64) {
	for i := range c.logins {
		from := c.from + time.Duration(i)*time.Second
		if from >= 0 {
			most = max(most, float64(c.sum(from, from+time.Duration(seconds)*time.Second))/float64(seconds))
		}
	}
	return most
}

// steady is what it takes to renew all sessions in their time.
func (c *curve) steady() float64 { return float64(c.sessions) / (0.95 * c.lifetime.Seconds()) }

// troop is pods that are simulated alike.
type troop struct {
	formation
	drain  time.Duration
	steady bool          // they are old enough for some to be renewed at any time
	ramp   time.Duration // over which they were started; zero: a lifetime
	lead   time.Duration // of what is shown
	drop   time.Duration // when the old role is dropped; zero: at the end of the overlap
	end    time.Duration
}

// pod is one of them: its pool is filled, in use, and told of a rotation.
func (t troop) pod(random *rand.Rand) (s sim.Schedule, rotated time.Duration) {
	at := 20 * time.Second
	if t.steady {
		at = t.lifetime() + t.lead + time.Duration(random.Int64N(int64(t.lifetime())))
	}
	if t.ramp > 0 {
		at = t.lead + time.Duration(random.Int64N(int64(t.ramp)))
	}
	s = sim.Schedule{
		Seed: random.Uint64(),
		Config: rotation.Config{
			Kind: rotation.Overlapping, Overlap: t.window.Overlap, Lag: t.window.Lag, MaxInUse: t.window.MaxInUse, MaxLifetime: t.lifetime(), DrainTime: t.drain,
			RetryTimeout: 30 * time.Second, Notified: true, AskAfter: 20 * time.Second, AskByQuery: true, Seed: random.Uint64(),
		},
		Pools: []sim.Pool{{Size: t.conns, Idle: t.conns, Busy: transaction, ByAge: true}},
	}
	for use := 100 * time.Millisecond; use < at+t.end-time.Second; use += t.think/2 + time.Duration(random.Int64N(int64(t.think))) {
		s.Moves = append(s.Moves, sim.Move{At: use, Kind: sim.Burst, N: t.conns})
	}
	s.Moves = append(s.Moves, sim.Move{At: at, Kind: sim.Rotate})
	if t.drop > 0 {
		s.Moves = append(s.Moves, sim.Move{At: at + t.drop, Kind: sim.DropOld})
	}
	return s, at
}

// simulate simulates so many, and adds each to all the curves: as much later as that one's
// lag says, by chance.
func (t troop) simulate(n int, curves []*curve, lags []time.Duration) {
	var (
		next atomic.Uint64
		mu   sync.Mutex // guards curves
		wg   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			own := make([]*curve, len(curves))
			for i, c := range curves {
				own[i] = newCurve("", c.from, c.from+time.Duration(len(c.logins))*time.Second)
			}
			for i := next.Add(1); i <= uint64(n); i = next.Add(1) { //nolint:gosec // some thousands
				t.one(i, own, lags)
			}
			mu.Lock()
			defer mu.Unlock()
			for i, c := range curves {
				c.merge(own[i])
			}
		})
	}
	wg.Wait()
	for _, c := range curves {
		c.sessions, c.lifetime = n*t.conns, t.lifetime()
	}
}

func (t troop) one(seed uint64, curves []*curve, lags []time.Duration) {
	random := rand.New(rand.NewPCG(seed, 1))
	s, at := t.pod(random)
	later := make([]time.Duration, len(lags))
	for i, lag := range lags {
		later[i] = time.Duration(random.Int64N(int64(lag) + 1))
	}
	r := sim.Watch(s, at+t.end, func(a sim.Attempt) {
		for i, c := range curves {
			if a.Outcome == sim.Succeeds && (t.steady || t.ramp > 0 || a.At >= at) {
				c.add(a.At - at + later[i])
			}
		}
	})
	for _, c := range curves {
		c.failed, c.queries, c.drained = c.failed+r.Failed, c.queries+r.Queries, max(c.drained, r.Drained)
	}
}

// twin simulates the fleet that was measured, as it was measured.
func (f formation) twin() *curve {
	a := f.programme()[0]
	t := troop{formation: f, drain: f.drain(), ramp: a.ramp, lead: a.acts[0].lead, end: f.window.Overlap}
	c := newCurve("simulated", -t.lead, f.window.Overlap)
	t.simulate(f.processes, []*curve{c}, []time.Duration{0})
	return c
}

const (
	kubeletLag = 90 * time.Second // the longest
	bigLead    = time.Minute
	bigEnd     = 4 * time.Minute // after the last pod has the new login
)

// simulateBig simulates a fleet with the window of ten minutes that the README has: a pool
// of ten each.
func simulateBig(n int) []*curve {
	f := formation{
		processes: n, conns: 10, think: 30 * time.Second,
		window: sqlrotate.Window{Overlap: 10 * time.Minute, Lag: kubeletLag, MaxInUse: 30 * time.Second},
	}
	pair := func(name string) []*curve {
		return []*curve{
			newCurve(name+", within 90 s", -bigLead, bigEnd),
			newCurve(name+", all at once", -bigLead, bigEnd),
		}
	}
	lags := []time.Duration{kubeletLag, 0}
	calm, flip, early := pair("the default of two minutes"), pair("DrainTime: -1"), pair("revoked after 20 s")[1:]
	f.troopOf(f.drain(), true).simulate(n, calm, lags)
	f.troopOf(0, false).simulate(n, flip, lags)
	t := f.troopOf(f.drain(), false)
	t.drop = 20 * time.Second
	t.simulate(n, early, lags[1:])
	return append(append(calm, flip...), early...)
}

func (f formation) troopOf(drain time.Duration, steady bool) troop {
	t := troop{formation: f, drain: drain, steady: steady, lead: bigLead + kubeletLag, end: bigEnd}
	if !steady {
		t.end = time.Minute
	}
	return t
}

func bigTable(w *bytes.Buffer, big []*curve) {
	c := big[0]
	fmt.Fprintf(w, "\n## %s pods, simulated\n\n", thousands(c.sessions/10))
	fmt.Fprintf(w, "A pool of ten each, and the window `Window{Overlap: 10 * time.Minute}`: MaxLifetime is %v. To renew %s connections takes %s logins a second.\n\n",
		c.lifetime, thousands(c.sessions), short(c.steady()))
	picture(w, "pods", "logins a second of the simulated pods over time")
	fmt.Fprintln(w, "| DrainTime, and when the pods see the new login | logins in the busiest second | times the renewal | in the busiest ten, a second | times the renewal | longest drain | operations that failed |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|")
	for _, c := range big {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.0f s | %s of %s |\n", c.name, thousands(int(c.most(1))), short(c.most(1)/c.steady()),
			thousands(int(c.most(10))), short(c.most(10)/c.steady()), c.drained.Seconds(), thousands(c.failed), thousands(c.queries))
	}
}
