// Calls of what was handed in, such as the source: none of them holds up who makes it.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"
)

// maxHung is how many calls of one thing may hang before it is called no more.
const maxHung = 4

// foreign is something that was handed in, and the calls of it that were abandoned and
// have not returned. All methods are safe for concurrent use.
type foreign struct {
	name  string        // as in "the source hangs"
	bound time.Duration // a call that was abandoned and is older hangs

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
// error is a *hungError. What f must not do becomes an error: a panic, and driver.ErrBadConn, which database/sql
// would take for its own.
func call[T any](ctx context.Context, p *foreign, f func(context.Context) (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := p.hangs(time.Now(), maxHung); err != nil {
		return none, err
	}
	n := &pending{began: time.Now()}
	done := make(chan result, 1)
	go func() {
		var r result
		r.value, r.err = guarded(ctx, p.name, f)
		if p.returns(n) {
			done <- r
		} else if r.err == nil && late != nil {
			late(r.value)
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	if p.leave(n) {
		return none, context.Cause(ctx)
	}
	r := <-done
	return r.value, r.err
}

// guarded calls f and makes errors of what it must not do.
func guarded[T any](ctx context.Context, name string, f func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("sqlrotate: %s panicked with a value of type %T", name, r)
		}
	}()
	value, err = f(ctx)
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

// hungError says that something is not called, because calls of it hang.
type hungError struct {
	name  string
	calls int
	since time.Duration
}

func (e *hungError) Error() string {
	return fmt.Sprintf("sqlrotate: %s hangs: calls that do not return: %d, the first of them for %v", e.name, e.calls, e.since.Round(time.Second))
}
