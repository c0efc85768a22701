// A run of a schedule: everything in it, on one simulated clock.

package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// world is a run of a schedule.
type world struct {
	queue
	Schedule
	random  *rand.Rand
	core    *rotation.State
	outside *Outside
	shell   shell
	pools   []*pool
	books   books

	asleep  time.Duration // how long the machine has slept in all: by so much its monotonic clock is late
	set     time.Duration // by how much the wall clock is wrong
	quiet   time.Duration // nobody asks for anything before this
	tracing bool
	trace   func(format string, args ...any)
	decided func(Attempt) // is told of each login
}

// Result is what came of a run.
type Result struct {
	Violation string // empty: none
	Trace     []string
	Events    int
	Rotations int
	Faults    int
	Queries   int
	Failed    int // queries, all excused if there is no violation
	Logins    int
	Refused   int
	Steps     int
	Sessions  int           // at most, at once
	Drained   time.Duration // how long the last drain took that was finished
	Pairs     *Pairs
}

// Run runs a schedule. With a trace it says what happened.
func Run(s Schedule, trace bool) (r Result) {
	w := newWorld(s)
	if trace {
		w.tracing = true
		w.trace = func(format string, args ...any) {
			r.Trace = append(r.Trace, fmt.Sprintf("%9.4f ", w.now.Seconds())+fmt.Sprintf(format, args...))
		}
	}
	w.run(Length)
	w.books.close()
	r.Violation = w.books.violation
	w.books.report(&r)
	return r
}

func newWorld(s Schedule) *world {
	return &world{
		Schedule: s, random: rand.New(rand.NewPCG(s.Seed, 2)), core: rotation.New(s.Config),
		trace: func(string, ...any) {}, decided: func(Attempt) {},
	}
}

// run runs the schedule for so long, and then until all is closed.
func (w *world) run(length time.Duration) {
	w.books.init(w)
	w.outside = NewOutside(w.Schedule, w)
	w.shell.init(w)
	for i, p := range w.Pools {
		w.pools = append(w.pools, newPool(w, rotation.PoolID(i+1), p))
	}
	for _, m := range w.Moves {
		w.after(m.At, func() { w.make(m) })
	}
	w.after(length, w.close)
	for w.books.violation == "" && w.next(length+closing) {
	}
}

// closing is how long everything may take to be closed: a login that nobody hears from.
const closing = loginTimeout + 2*readTimeout + sec

// close closes the connector and its pools.
func (w *world) close() {
	w.books.shut = true
	w.outside.Calm()
	w.quiet = forever
	w.shell.step(rotation.Closed{})
	for _, p := range w.pools {
		if !p.closed {
			p.close()
		}
		for _, c := range p.conns {
			if c.inUse {
				w.after(w.UpTo(sec), func() { w.shell.end(c) })
			}
		}
	}
}

// clock is what the machine's clocks say.
func (w *world) clock() rotation.Now {
	return rotation.Now{Mono: rotation.Instant(w.now + 1), Wall: epoch.Add(w.now + w.asleep + w.set)}
}

// Truth is the server's time, which doesn't stop.
func (w *world) Truth() time.Duration { return w.now + w.asleep }

// After has something done in d.
func (w *world) After(d time.Duration, f func()) { w.after(d, f) }

// Tells has a source that tells of changes do so.
func (w *world) Tells() {
	if w.Config.Notified {
		w.after(w.jitter(), func() { w.shell.read(false, func() {}) })
	}
}

var epoch = time.Unix(1_800_000_000, 0).UTC() //nolint:gochecknoglobals // a constant

// UpTo is a time by chance.
func (w *world) UpTo(d time.Duration) time.Duration { return w.between(0, d) }

func (w *world) between(from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return from + time.Duration(w.random.Int64N(int64(to-from)))
}

// jitter is how late something is done: mostly little.
func (w *world) jitter() time.Duration {
	if w.random.IntN(20) == 0 {
		return w.UpTo(20 * ms)
	}
	return w.UpTo(ms)
}

// make has a move happen.
func (w *world) make(m Move) {
	w.trace("MOVE %v for %v by %v n %d", m.Kind, m.For, m.By, m.N)
	w.books.move(m)
	if w.outside.Make(m) {
		return
	}
	switch m.Kind {
	case Suspend:
		w.asleep += m.For
	case WallStep:
		w.set += m.By
	case Quiet:
		w.quiet = max(w.quiet, w.now+m.For)
	default:
		w.disturb(m)
	}
}

// disturb has something happen to the pools.
func (w *world) disturb(m Move) {
	p := w.pools[0]
	switch m.Kind {
	case Crash:
		for _, c := range w.shell.sorted() {
			if !c.loggingIn && w.random.IntN(10) < m.N {
				c.broken = true
				w.shell.end(c)
			}
		}
	case Burst:
		for range m.N {
			w.after(w.UpTo(5*ms), func() {
				hold := p.Busy
				if hold == 0 {
					hold = w.between(ms, 40*ms)
				}
				p.query(w.now+10*sec, hold, false, func() {})
			})
		}
	case Impatient:
		for i := range m.N {
			w.after(time.Duration(i)*m.For/time.Duration(m.N), func() { p.query(w.now+m.By, ms, true, func() {}) })
		}
	case Resize:
		p.resize(m.N)
		over := p.Size
		w.after(m.For, func() { p.resize(over) })
	case Hold, Keep:
		p.get(w.now+10*sec, func(c *conn, err error) {
			if err != nil {
				return
			}
			c.long = true
			if m.Kind == Keep {
				w.after(m.By, func() { w.shell.step(rotation.Held{Session: c.id}) })
			}
			w.after(m.For, func() {
				if m.Kind == Keep {
					w.shell.step(rotation.Released{Session: c.id})
				}
				p.put(c)
			})
		})
	case ClosePool:
		if len(w.pools) > 1 {
			w.pools[len(w.pools)-1].close()
		}
	}
}
