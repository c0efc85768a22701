// Pools, as database/sql has them, with its cleaner and its waiters.

package sim

import (
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/line"
	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// pool is a pool as database/sql has it, or one that can close a connection by name.
type pool struct {
	Pool
	w       *world
	id      rotation.PoolID
	line    *line.Line
	life    time.Duration
	wake    time.Duration
	limit   int
	open    int // and about to be
	peak    int
	conns   []*conn
	idle    []*conn
	waiters []*waiter
	closed  bool
	used    bool // since that was last said
}

type waiter struct {
	deadline time.Duration
	done     func(*conn, error)
	over     bool
}

func newPool(w *world, id rotation.PoolID, plan Pool) *pool {
	p := &pool{Pool: plan, w: w, id: id, line: line.New(w.core.Lifetime()), limit: plan.Size}
	p.life = p.line.Base()
	w.after(0, func() {
		w.shell.step(rotation.PoolAdded{Pool: id, Limit: plan.Size, ByAge: plan.ByAge})
		p.cleaner()
	})
	for range plan.Workers {
		p.worker()
	}
	return p
}

func (p *pool) cleaner() {
	p.clean()
	p.w.after(sec, p.cleaner)
}

// retire has the pool let go whom the core says may go, by what holds now.
func (p *pool) retire() {
	if p.closed {
		return
	}
	if !p.ByAge {
		p.clean()
		return
	}
	set, wake := p.line.Step(p.w.core.Going, p.w.clock().Mono)
	for _, d := range set {
		shorter := d < p.life
		p.life = d
		if shorter {
			p.w.after(p.w.UpTo(500*time.Microsecond), p.clean)
		}
	}
	p.wake = forever
	if wake != rotation.Never {
		t := time.Duration(wake) - 1
		p.wake = t
		p.w.after(t-p.w.now, func() {
			if p.wake == t {
				p.retire()
			}
		})
	}
}

func (p *pool) expired(c *conn) bool {
	if !p.ByAge {
		return p.w.core.Going(c.id)
	}
	return c.created < p.w.now-p.life
}

func (p *pool) clean() {
	for i := 0; i < len(p.idle); {
		c := p.idle[i]
		if !p.expired(c) {
			i++
			continue
		}
		p.idle = slices.Delete(p.idle, i, i+1)
		p.drop(c)
	}
}

func (p *pool) drop(c *conn) {
	p.w.books.closed(c, p)
	p.conns = slices.DeleteFunc(p.conns, func(x *conn) bool { return x == c })
	c.pooled = false
	p.w.shell.end(c)
	p.open--
	p.maybeOpen()
}

// maybeOpen opens connections for those who wait for one, with no deadline of its own.
func (p *pool) maybeOpen() {
	for n := min(len(p.waiters), p.limit-p.open); n > 0 && !p.closed; n-- {
		p.open++
		p.peak = max(p.peak, p.open)
		p.w.shell.connect(p, forever, func(c *conn, err error) {
			if err == nil {
				p.add(c)
				p.put(c)
				return
			}
			p.open--
			if len(p.waiters) > 0 {
				x := p.waiters[0]
				p.waiters = p.waiters[1:]
				x.over = true
				x.done(nil, err)
			}
			p.maybeOpen()
		})
	}
}

func (p *pool) add(c *conn) {
	c.created, c.pooled, c.inUse, c.taken = p.w.now, true, true, p.w.now
	p.conns = append(p.conns, c)
}

func (p *pool) get(deadline time.Duration, done func(*conn, error)) {
	if p.closed {
		done(nil, errGaveUp)
		return
	}
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if c.broken || p.expired(c) {
			p.drop(c)
			continue
		}
		c.inUse, c.taken = true, p.w.now
		done(c, nil)
		return
	}
	if p.open < p.limit {
		p.open++
		p.peak = max(p.peak, p.open)
		p.w.shell.connect(p, deadline, func(c *conn, err error) {
			if err != nil {
				p.open--
				p.maybeOpen()
				done(nil, err)
				return
			}
			p.add(c)
			done(c, nil)
		})
		return
	}
	x := &waiter{deadline: deadline, done: done}
	p.waiters = append(p.waiters, x)
	p.w.after(deadline-p.w.now, func() {
		if !x.over {
			x.over = true
			p.waiters = slices.DeleteFunc(p.waiters, func(y *waiter) bool { return x == y })
			done(nil, errPoolFull)
		}
	})
}

func (p *pool) put(c *conn) {
	c.inUse = false
	if c.broken || p.closed || p.expired(c) || p.open > p.limit {
		p.drop(c)
		return
	}
	c.long = false
	if len(p.waiters) > 0 {
		x := p.waiters[0]
		p.waiters = p.waiters[1:]
		x.over = true
		c.inUse, c.taken = true, p.w.now
		x.done(c, nil)
		return
	}
	if len(p.idle) < p.Idle {
		p.idle = append(p.idle, c)
		return
	}
	p.drop(c)
}

func (p *pool) resize(n int) {
	p.limit = n
	p.w.shell.step(rotation.PoolLimit{Pool: p.id, Limit: n})
	for len(p.idle) > n {
		c := p.idle[0]
		p.idle = p.idle[1:]
		p.drop(c)
	}
}

func (p *pool) close() {
	p.closed = true
	p.w.shell.step(rotation.PoolClosed{Pool: p.id})
	idle := p.idle
	p.idle = nil
	for _, c := range idle {
		p.drop(c)
	}
	waiters := p.waiters
	p.waiters = nil
	for _, x := range waiters {
		x.over = true
		x.done(nil, errGaveUp)
	}
}

func (p *pool) worker() {
	rest := max(p.w.UpTo(p.Think), p.w.quiet-p.w.now)
	p.w.after(rest, func() {
		hold := p.w.between(ms, 40*ms)
		if p.w.random.IntN(30) == 0 {
			hold = p.w.UpTo(p.w.Config.MaxInUse)
		}
		if p.Busy > 0 {
			hold = p.Busy
		}
		p.query(p.w.now+10*sec, hold, false, p.worker)
	})
}

// query runs a query that takes so long.
func (p *pool) query(deadline, hold time.Duration, impatient bool, then func()) {
	began := p.w.now
	p.used = true
	p.w.shell.stir()
	p.get(deadline, func(c *conn, err error) {
		if err != nil {
			p.w.books.query(p, began, nil, err, impatient)
			p.w.after(ms, then)
			return
		}
		p.w.after(hold, func() {
			var err error
			if c.broken {
				err = errBroken
			} else if p.w.outside.Dropped(c.token.login) {
				err = errRefused
			}
			p.w.books.query(p, began, c, err, impatient)
			p.put(c)
			then()
		})
	})
}
