package sqlrotate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// conns returns n connections that were born a second apart, the oldest an hour
// before now.
func conns(now time.Time, n int, adjust func(i int, p *pooled)) []pooled {
	ps := make([]pooled, n)
	for i := range ps {
		ps[i].born = now.Add(-time.Hour + time.Duration(i)*time.Second)
		if adjust != nil {
			adjust(i, &ps[i])
		}
	}
	return ps
}

func TestDecide(t *testing.T) {
	now := time.Now()
	eager := func(n int) func(int, *pooled) { return func(i int, p *pooled) { p.eager = i < n } }
	draining := drainState{from: now, to: now.Add(10 * time.Second)}
	for name, test := range map[string]struct {
		plan
		told    int           // how many are at or below the line afterwards
		hold    bool          // the pool is to expire them
		standby bool          // a replacement is wanted
		wake    time.Duration // -1: when something changes
	}{
		"nothing to do":                      {plan{conns: conns(now, 3, nil)}, 0, false, false, -1},
		"an empty pool":                      {plan{}, 0, false, false, -1},
		"old ones before the drain begins":   {plan{conns: conns(now, 3, eager(3)), drain: drainState{from: now.Add(time.Second), to: now.Add(2 * time.Second)}}, 0, false, true, time.Second},
		"no standby yet":                     {plan{conns: conns(now, 3, eager(3)), drain: draining}, 0, false, true, -1},
		"the oldest goes when one is ready":  {plan{conns: conns(now, 3, eager(3)), drain: draining, standby: true}, 1, true, true, 0},
		"nobody follows while it is busy":    {plan{conns: conns(now, 3, eager(3)), drain: draining, standby: true, line: now.Add(-time.Hour), moved: now}, 1, true, true, maxGap},
		"nor without a standby":              {plan{conns: conns(now, 3, eager(3)), drain: draining, line: now.Add(-time.Hour), moved: now.Add(-time.Minute)}, 1, false, true, -1},
		"younger ones of the new login stay": {plan{conns: conns(now, 3, eager(1)), drain: draining, standby: true, line: now.Add(-time.Hour), moved: now.Add(-time.Minute)}, 1, true, true, -1},
		"dead ones go at once, all of them": {
			plan{conns: conns(now, 4, func(i int, p *pooled) { p.eager, p.dead = i < 3, i < 3 }), drain: draining},
			3, true, true, -1,
		},
		"those whose time is over, too": {
			plan{conns: conns(now, 4, func(i int, p *pooled) { p.by = now.Add(time.Duration(i-1) * time.Hour) })},
			2, true, true, time.Hour,
		},
		"nearly over: a standby is made": {
			plan{conns: conns(now, 1, func(_ int, p *pooled) { p.by = now.Add(1500 * time.Millisecond) }), spread: time.Minute},
			0, false, true, 500 * time.Millisecond,
		},
		"long before: nothing": {
			plan{conns: conns(now, 1, func(_ int, p *pooled) { p.by = now.Add(time.Hour) }), spread: time.Minute},
			0, false, false, time.Hour - 2*time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := test.plan
			p.now = now
			d := p.decide()
			told := 0
			for told < len(p.conns) && !p.conns[told].born.After(d.line) {
				told++
			}
			wake := time.Duration(-1)
			if !d.wake.IsZero() {
				wake = d.wake.Sub(now)
			}
			if told != test.told || d.hold != test.hold || d.standby != test.standby || wake != test.wake {
				t.Errorf("%d told, hold %t, standby %t, wake after %v; want %d, %t, %t, %v",
					told, d.hold, d.standby, wake, test.told, test.hold, test.standby, test.wake)
			}
		})
	}
}

// The lifetime separates neighbours, whatever lies between them.
func TestLifetimeDrawsTheLineBetweenNeighbours(t *testing.T) {
	now := time.Now()
	for _, gap := range []time.Duration{50 * time.Microsecond, 500 * time.Microsecond, 5 * time.Millisecond, time.Minute} {
		line := now.Add(-time.Hour)
		next := line.Add(gap)
		d, refresh := lifetime(now, line, next, 2*time.Hour)
		if expired := now.Add(-d); expired.Before(line) || !expired.Before(next) {
			t.Errorf("%v apart: what was born before %v after the line expires", gap, expired.Sub(line))
		}
		if refresh <= 0 || refresh > maxGap {
			t.Errorf("%v apart: set anew after %v", gap, refresh)
		}
	}
	if d, _ := lifetime(now, now.Add(-time.Hour), time.Time{}, time.Minute); d != time.Minute {
		t.Errorf("the base is the most: %v", d)
	}
	if d, _ := lifetime(now, now, now.Add(time.Second), time.Minute); d <= 0 {
		t.Errorf("%v would mean for ever", d)
	}
}

// A pool that does what it is told, in simulated time: connections are busy now and
// then, a standby takes a while to log in, and whoever goes is replaced. Whatever the
// numbers, one goes at a time and only with a replacement ready, oldest first, until
// time is short; and all have been told in time.
func TestDrainOfASimulatedPool(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { simulateDrain(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func simulateDrain(t *testing.T, random *rand.Rand) {
	const tick = time.Millisecond
	begin := time.Now()
	now := begin
	size := 1 + random.IntN(30)
	long := time.Duration(1 + random.Int64N(int64(5*time.Second))) // for how long one may be busy
	end := begin.Add(40 * time.Second)                             // of the old login
	login := time.Duration(1 + random.Int64N(int64(100*time.Millisecond)))

	type conn struct {
		pooled
		free time.Time // until when it is busy
	}
	pool := make([]conn, size)
	for i := range pool {
		pool[i] = conn{pooled{born: begin.Add(time.Duration(i-size) * time.Second / 2), by: end.Add(-long), eager: true}, begin.Add(time.Duration(random.Int64N(int64(long))))}
	}
	p := plan{drain: drainState{from: begin.Add(time.Duration(random.Int64N(int64(2 * time.Second)))), to: begin.Add(10 * time.Second)}, spread: time.Minute}
	var standby time.Time // when it will be ready
	left := size
	for ; left > 0; now = now.Add(tick) {
		if now.After(end) {
			t.Fatalf("%d of %d are left at the end, busy for up to %v", left, size, long)
		}
		p.now, p.conns = now, p.conns[:0]
		for _, c := range pool {
			p.conns = append(p.conns, c.pooled)
		}
		p.standby = !standby.IsZero() && !now.Before(standby)
		urgent := p.urgent()
		before := p.line
		d := p.decide()
		if d.line.Before(before) {
			t.Fatal("the line goes back")
		}
		newly := 0
		for _, c := range pool {
			if c.born.After(before) && !c.born.After(d.line) {
				newly++
				if !c.eager {
					t.Fatal("one of the new login goes")
				}
			}
		}
		if newly > max(1, urgent) {
			t.Fatalf("%d are told to go at once, %d of them urgently", newly, urgent)
		}
		if newly > 0 && urgent == 0 && now.Before(p.drain.from) {
			t.Fatal("one goes before the drain begins")
		}
		if d.line.After(before) {
			p.line, p.moved = d.line, now
		}
		if d.standby && standby.IsZero() {
			standby = now.Add(login)
		}
		if !d.hold {
			continue
		}
		if urgent == 0 && !p.standby {
			t.Fatal("one goes without a replacement")
		}
		// The pool expires the first that is idle; without hurry, no more than one.
		for i := 0; i < len(pool); i++ {
			c := pool[i]
			if c.born.After(p.line) || now.Before(c.free) {
				continue
			}
			pool = slices.Delete(pool, i, i+1)
			left--
			i--
			p.retired = now
			pool = append(pool, conn{pooled{born: now.Add(time.Duration(len(pool)) * time.Microsecond)}, now})
			standby = time.Time{}
			if urgent == 0 {
				break
			}
		}
	}
	if took := now.Sub(begin); took > 10*time.Second+2*long+time.Duration(size)*(login+maxGap) {
		t.Errorf("%d connections, busy for up to %v, took %v", size, long, took)
	}
}
