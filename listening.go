// One session of a Listener, in a goroutine of its own: it receives, and runs statements in
// between.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"time"
)

// answerTimeout is how long a listener waits for an answer of the server's.
const answerTimeout = 10 * time.Second

// listening is a session that listens.
type listening struct {
	l      *Listener
	held   *Held
	user   string
	ctx    context.Context //nolint:containedctx // its life
	cancel context.CancelFunc
	begun  chan struct{} // closed when the token has come from which on it counts
	lost   chan struct{} // closed when it is over
	err    error         // why, set before that

	// Guarded by Listener.mu. Tokens are empty when they aren't waited for, or have come.
	begins string        // what comes before it counts for nothing
	ends   string        // what comes after it, its successor has as well
	ended  chan struct{} // closed when that has come; nil: it isn't waited for
	kept   inbox         // what has come before its turn, or after its end

	mu        sync.Mutex // guards what follows
	requests  []request
	interrupt context.CancelFunc // ends the wait for notifications; nil: there is none
	gone      bool               // it takes no more requests
}

// request is a statement to run.
type request struct {
	statement string
	done      chan error // takes one
}

func newListening(l *Listener, held *Held) *listening {
	x := &listening{
		l: l, held: held, user: held.username(),
		begun: make(chan struct{}), lost: make(chan struct{}), kept: inbox{max: l.opt.buffer()},
	}
	x.ctx, x.cancel = context.WithCancel(l.ctx)
	return x
}

// stop ends the session and waits for that.
func (x *listening) stop() {
	x.cancel()
	<-x.lost
}

// exec has the session run statements, and waits for what comes of it.
func (x *listening) exec(statement string) error {
	r := request{statement, make(chan error, 1)}
	x.mu.Lock()
	if x.gone {
		x.mu.Unlock()
		<-x.lost
		return x.err
	}
	x.requests = append(x.requests, r)
	if x.interrupt != nil {
		x.interrupt()
	}
	x.mu.Unlock()
	return <-r.done
}

// run receives until the session is over.
func (x *listening) run() {
	defer close(x.lost)
	defer context.AfterFunc(x.ctx, x.breakOff)()
	if o := x.l.notifier; o != nil {
		o.notify(x.held.Conn(), func(n Notification) { x.l.received(x, n) })
	}
	for x.err == nil {
		x.err = x.receive()
		for _, r := range x.take() {
			err := x.err
			if err == nil {
				err = x.runStatement(r.statement)
			}
			r.done <- err
		}
	}
	x.leave()
	_ = x.held.Close()
}

// breakOff ends a call of the driver's, if that doesn't return soon.
func (x *listening) breakOff() {
	t := time.NewTimer(closeTimeout)
	defer t.Stop()
	select {
	case <-t.C:
		x.held.s.abort()
	case <-x.lost:
	}
}

// receive receives until there is something else to do. Who is silent for long is asked
// whether it is there.
func (x *listening) receive() error {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	if d := x.l.opt.keepAlive(); d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	x.mu.Lock()
	x.interrupt = cancel
	if len(x.requests) > 0 {
		cancel()
	}
	x.mu.Unlock()
	err := x.guarded(func() error {
		if x.l.waiter != nil {
			return x.waitAgain(ctx, x.l.waiter)
		}
		return x.awaitHandler(ctx)
	})
	if err == nil {
		err = x.ctx.Err()
	}
	return err
}

// take returns the statements to run.
func (x *listening) take() []request {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.interrupt = nil
	all := x.requests
	x.requests = nil
	return all
}

// leave fails what comes too late.
func (x *listening) leave() {
	x.mu.Lock()
	x.gone = true
	x.mu.Unlock()
	for _, r := range x.take() {
		r.done <- x.err
	}
}

// runStatement runs a statement. One that isn't answered in time breaks the session.
func (x *listening) runStatement(statement string) error {
	defer time.AfterFunc(answerTimeout, x.held.s.abort).Stop()
	return x.guarded(func() error { return execute(x.held.Conn(), statement) })
}

// guarded calls the driver, who may panic, and ends the session if it is broken.
func (x *listening) guarded(f func() error) error {
	_, err := guarded("the driver", func() (struct{}, error) { return struct{}{}, f() })
	if outlived := x.held.s.expired.Load(); err != nil && outlived != nil {
		err = outlived
	}
	return err
}

// execute runs a statement, and nothing cuts it short but the end of the session: what a
// driver does when a context is done costs the session.
func execute(conn driver.Conn, statement string) error {
	e, ok := conn.(driver.ExecerContext)
	if !ok {
		return errors.New("sqlrotate: the driver's connection is no driver.ExecerContext, which a Listener needs")
	}
	_, err := e.ExecContext(context.Background(), statement, nil)
	return err
}

// waitAgain receives with a driver that waits for one notification at a time.
func (x *listening) waitAgain(ctx context.Context, w waiter) error {
	for {
		n, err := w.WaitForNotification(ctx, x.held.Conn())
		switch {
		case err == nil:
			x.l.received(x, n)
		case ctx.Err() == nil:
			return err
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return x.runStatement("") //nolint:contextcheck // see execute
		default:
			return nil
		}
	}
}

// awaitHandler receives with a driver that reads only while it waits for an answer: it is
// made to wait for that to an empty statement, which is kept back until there is something
// else to do.
func (x *listening) awaitHandler(ctx context.Context) error {
	s := x.held.s
	s.keepBack()
	answered := make(chan struct{})
	defer close(answered)
	defer context.AfterFunc(ctx, func() {
		late := time.AfterFunc(answerTimeout, s.abort)
		defer late.Stop()
		s.letGo()
		<-answered
	})()
	return execute(x.held.Conn(), "") //nolint:contextcheck // see there
}

// dam keeps back what is written to a session's socket, and lets it go later, in order.
type dam struct {
	mu    sync.Mutex // held while what was kept is written
	shut  bool
	water []byte
}

// keepBack has what is written to the session's socket wait for letGo.
func (s *session) keepBack() {
	d := s.dam.Load()
	if d == nil {
		d = &dam{}
		s.dam.Store(d)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
}

// letGo writes what was kept back. If that fails, so do those who wait for an answer.
func (s *session) letGo() {
	d := s.dam.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = false
	if len(d.water) == 0 {
		return
	}
	s.mu.Lock()
	sockets := s.sockets
	s.mu.Unlock()
	for _, k := range sockets {
		if _, err := k.Conn.Write(d.water); err != nil {
			s.abort()
		}
	}
	d.water = nil
}

// keep reports whether it keeps b back.
func (d *dam) keep(b []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		d.water = append(d.water, b...)
	}
	return d.shut
}
