// Calls of what was handed in, such as the source: none of them holds up who makes it.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxHung is how many calls of one thing may hang before it is called no more.
	maxHung = 4

	// closeTimeout bounds each close of a connection, and Connector.Close.
	closeTimeout = time.Second

	// askTimeout bounds what only returns what is known: Changed and CheckHealth.
	askTimeout = time.Second
)

// calls are all things that are handed in and called, each with the calls of it that
// were abandoned.
type calls struct {
	tasks *tasks

	reads, refreshes, changes, healths, dials, logins, probes, pings, retires, closes, netCloses, logs, callbacks foreign
}

// newCalls returns calls that run among tasks. loginTimeout is how long a login may take;
// 0 means that it has no bound.
func newCalls(tasks *tasks, loginTimeout time.Duration) *calls {
	if loginTimeout == 0 {
		loginTimeout = defaultLoginTimeout
	}
	c := &calls{tasks: tasks}
	c.reads = foreign{name: "the source", bound: readTimeout, tasks: tasks}
	c.refreshes = foreign{name: "the source's Refresh", bound: readTimeout, tasks: tasks}
	c.changes = foreign{name: "the source's Changed", bound: askTimeout, tasks: tasks}
	c.healths = foreign{name: "the source's CheckHealth", bound: askTimeout, tasks: tasks}
	c.dials = foreign{name: "Config.Dial", bound: loginTimeout, tasks: tasks}
	c.logins = foreign{name: "the Opener", bound: loginTimeout, tasks: tasks}
	c.probes = foreign{name: "the probe query", bound: loginTimeout, tasks: tasks}
	c.pings = foreign{name: "the driver's Ping", bound: 2 * pingTimeout, tasks: tasks}
	c.retires = foreign{name: "PoolConfig.Retire", bound: retireTimeout, tasks: tasks}
	c.closes = foreign{name: "the driver's Close", bound: closeTimeout, tasks: tasks, always: true}
	c.netCloses = foreign{name: "the Close of a network connection", bound: closeTimeout, tasks: tasks, always: true}
	c.logs = foreign{name: "the Logger", bound: noticeTimeout, tasks: tasks}
	c.callbacks = foreign{name: "a callback of Config.Trace", bound: noticeTimeout, tasks: tasks}
	return c
}

// shut closes what nobody has a use for, and does not wait for that.
func (c *calls) shut(conn io.Closer) {
	c.tasks.start(func() {
		_, _ = guarded(c.closes.name, func() (struct{}, error) { return struct{}{}, conn.Close() })
	})
}

// hung returns what hangs, in words.
func (c *calls) hung(now time.Time) (problems []error) {
	for _, p := range []*foreign{
		&c.reads, &c.refreshes, &c.changes, &c.healths, &c.dials, &c.logins, &c.probes, &c.pings, &c.retires, &c.closes, &c.netCloses, &c.logs, &c.callbacks,
	} {
		if err := p.hangs(now, 1); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// foreign is something that was handed in, and the calls of it that were abandoned and
// have not returned. All methods are safe for concurrent use.
type foreign struct {
	name   string        // as in "the source hangs"
	bound  time.Duration // a call that was abandoned and is older hangs
	tasks  *tasks        // which the calls belong to
	always bool          // it is called even so, but not waited for: what is open must be closed

	mu        sync.Mutex
	abandoned map[*pending]struct{}
}

// pending is one call.
type pending struct {
	began          time.Time
	returned, left bool // guarded by foreign.mu
}

// call calls f in a goroutine of its own and returns what f returns, or the cause of ctx
// as soon as that is done. Then f is abandoned: what it returns in the end goes to late,
// if that is not nil. While maxHung of the calls of p hang, f is not called at all and the
// error is a *hungError. What f must not do becomes an error: a panic, and
// driver.ErrBadConn, which database/sql would take for its own.
func call[T any](ctx context.Context, p *foreign, f func(context.Context) (T, error), late func(T)) (T, error) {
	value, err := callUntil(ctx.Done(), p, func() (T, error) { return f(ctx) }, late)
	if err == errLeft { //nolint:errorlint // it is not wrapped
		err = context.Cause(ctx)
	}
	return value, err
}

// callFor is call for what has a time in place of a context.
func callFor(d time.Duration, p *foreign, f func() error) error {
	done := make(chan struct{})
	defer time.AfterFunc(d, func() { close(done) }).Stop()
	_, err := callUntil(done, p, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// errLeft is returned for a call that was abandoned.
var errLeft = errors.New("sqlrotate: a call has not returned in time")

func callUntil[T any](done <-chan struct{}, p *foreign, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	hung := p.hangs(time.Now(), maxHung)
	if hung != nil && !p.always {
		return none, hung
	}
	n := &pending{began: time.Now()}
	results := make(chan result, 1)
	p.tasks.start(func() {
		var r result
		r.value, r.err = guarded(p.name, f)
		if p.returns(n) {
			results <- r
		} else if r.err == nil && late != nil {
			late(r.value)
		}
	})
	if hung == nil {
		select {
		case r := <-results:
			return r.value, r.err
		case <-done:
			hung = errLeft
		}
	}
	if p.leave(n) {
		return none, hung
	}
	r := <-results
	return r.value, r.err
}

// guarded calls f and makes errors of what it must not do.
func guarded[T any](name string, f func() (T, error)) (value T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{name, fmt.Sprintf("%T", r)}
		}
	}()
	value, err = f()
	if errors.Is(err, driver.ErrBadConn) {
		err = fmt.Errorf("sqlrotate: %s failed: %v", name, err) //nolint:errorlint // database/sql would retry it
	}
	return value, err
}

// returns notes that a call has returned, and reports whether somebody waits for it.
func (p *foreign) returns(n *pending) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n.returned = true
	delete(p.abandoned, n)
	return !n.left
}

// leave notes that nobody waits for a call any longer. It reports false if the call has
// returned meanwhile.
func (p *foreign) leave(n *pending) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.returned {
		return false
	}
	n.left = true
	if p.abandoned == nil {
		p.abandoned = map[*pending]struct{}{}
	}
	p.abandoned[n] = struct{}{}
	return true
}

// hangs returns an error that says so if at least n calls hang.
func (p *foreign) hangs(now time.Time, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	hung, first := 0, now
	for n := range p.abandoned {
		if now.Sub(n.began) >= p.bound {
			hung, first = hung+1, earliest(first, n.began)
		}
	}
	if hung == 0 || hung < n {
		return nil
	}
	return &hungError{p.name, hung, now.Sub(first)}
}

// panicError says that something panicked, and with what type of value: the value itself may
// hold a secret.
type panicError struct{ name, value string }

func (e *panicError) Error() string {
	return fmt.Sprintf("sqlrotate: %s panicked with a value of type %s", e.name, e.value)
}

// hungError says that something is not called, because calls of it hang.
type hungError struct {
	name  string
	calls int
	since time.Duration
}

func (e *hungError) Error() string {
	return fmt.Sprintf("sqlrotate: %s hangs: calls that do not return: %d, the first of them for %v", e.name, e.calls, e.since.Round(time.Second))
}

// saidError is an error of others' that was asked for its text once, so that it can be
// printed anywhere.
type saidError struct {
	err  error
	text string
}

// said asks err for its text.
func said(err error) error { return &saidError{err, err.Error()} }

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.err }

// tasks are goroutines of which one can wait for the last. All methods are safe for
// concurrent use.
type tasks struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // closed when none is running; nil: nobody waits
}

// start runs f in a goroutine.
func (t *tasks) start(f func()) {
	t.mu.Lock()
	t.running++
	t.mu.Unlock()
	go func() {
		defer t.end()
		f()
	}()
}

func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if t.running == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// wait waits until none is running, for d at the most.
func (t *tasks) wait(d time.Duration) {
	t.mu.Lock()
	if t.running == 0 {
		t.mu.Unlock()
		return
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}
