// Reading the source: for all who ask at once, within a bound, and ever less often where
// it leads nowhere.

package sqlrotate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// readTimeout bounds a read of the source, and firstReadTimeout those before there
	// is a credential to go on with.
	readTimeout      = 10 * time.Second
	firstReadTimeout = 30 * time.Second

	// readPatience is how long a login waits for a read before it goes on with the last
	// good credential; slowPatience is the same while the source is known to be slow.
	readPatience = 2 * time.Second
	slowPatience = 100 * time.Millisecond

	// When each read finds another login, the connector's own reads come restlessMin
	// apart, then twice that, up to restlessMax.
	restlessMin = 250 * time.Millisecond
	restlessMax = 10 * time.Second

	// A Notifier that tells of changes without a pause is listened to every noticeMin,
	// then twice that, up to noticeMax.
	noticeMin = 10 * time.Millisecond
	noticeMax = time.Second
)

// sharedReader makes one read at a time for all who ask for one: at most one is in flight and
// one queued. All methods are safe for concurrent use.
type sharedReader struct {
	read func(rejected Credential) error // makes a read and notes what comes of it

	mu       sync.Mutex // guards what follows; read is not called under it
	reading  bool
	next     *reading   // queued; nil: none
	rejected Credential // what it is told, if anything
}

// reading is one read, queued or under way.
type reading struct {
	done chan struct{} // closed when it has ended
	err  error         // set before that
}

// ask asks for a read that begins after the call, and does not wait for it. rejected is
// for a source that is told what was refused: what was asked last counts.
func (r *sharedReader) ask(rejected Credential) *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rejected = rejected
	if r.next == nil {
		r.next = &reading{done: make(chan struct{})}
	}
	n := r.next
	if !r.reading {
		r.reading = true
		go r.run()
	}
	return n
}

// run makes the reads that are queued.
func (r *sharedReader) run() {
	for {
		r.mu.Lock()
		n, rejected := r.next, r.rejected
		r.next = nil
		r.reading = n != nil
		r.mu.Unlock()
		if n == nil {
			return
		}
		n.err = r.read(rejected)
		close(n.done)
	}
}

// read has the source read for a login. It returns when a read that began after the call
// has ended or, if there is a last good credential, has taken too long to wait for. It
// fails if there is no credential to go on with.
func (c *Connector) read(ctx context.Context) error {
	c.mu.Lock()
	patience := readPatience
	if !c.source.slow.IsZero() {
		patience = slowPatience
	}
	c.mu.Unlock()
	waited, err := c.awaitRead(ctx, c.plain.ask(Credential{}), patience)
	if err == nil && !waited {
		c.slow(patience)
	}
	return err
}

// reread is read past every cache, after rejected was refused. While the source gives
// another login each time it does nothing: the keeper reads on.
func (c *Connector) reread(ctx context.Context, rejected Credential) error {
	c.mu.Lock()
	known := !c.currentLocked().cred.SameLogin(rejected) // another one already
	resting := time.Now().Before(c.source.restUntil)
	c.mu.Unlock()
	_, ok := c.cfg.Source.(Refresher)
	switch {
	case resting:
		return nil
	case known || !ok:
		return c.read(ctx)
	}
	_, err := c.awaitRead(ctx, c.refresh.ask(rejected), readPatience)
	return err
}

// awaitRead waits for a read to end, and no longer than patience if there is a last good
// credential. It reports whether the read has ended.
func (c *Connector) awaitRead(ctx context.Context, n *reading, patience time.Duration) (ended bool, err error) {
	c.mu.Lock()
	known := c.currentLocked() != nil
	c.mu.Unlock()
	var tired <-chan time.Time
	if known {
		t := time.NewTimer(patience)
		defer t.Stop()
		tired = t.C
	}
	select {
	case <-n.done:
	case <-tired:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-c.ctx.Done():
		return false, ErrClosed
	}
	c.mu.Lock()
	known = c.currentLocked() != nil
	c.mu.Unlock()
	switch {
	case known:
		return true, nil
	case c.ctx.Err() != nil:
		return true, ErrClosed
	}
	return true, fmt.Errorf("sqlrotate: there is no credential yet: %w", n.err)
}

// slow notes that a read has taken longer than a login waits.
func (c *Connector) slow(patience time.Duration) {
	now := time.Now()
	c.mu.Lock()
	first := c.source.slow.IsZero()
	if first {
		c.source.slow = now
	}
	v := c.currentLocked()
	c.mu.Unlock()
	if first {
		c.log.Warn("sqlrotate: the source is slow: logins don't wait for it and use the last good credential", "waited", patience, "version", v.label())
	}
}

// readSource reads the source once, for all who wait for it.
func (c *Connector) readSource(Credential) error {
	return c.readWith(&c.reads, c.cfg.Source.Credential)
}

// refreshSource reads the source past every cache, after rejected was refused.
func (c *Connector) refreshSource(rejected Credential) error {
	r, ok := c.cfg.Source.(Refresher)
	if !ok {
		return c.readSource(rejected)
	}
	return c.readWith(&c.refreshes, func(ctx context.Context) (Credential, error) { return r.Refresh(ctx, rejected) })
}

func (c *Connector) readWith(p *foreign, credential func(context.Context) (Credential, error)) error {
	ctx, cancel := c.readContext()
	defer cancel()
	for {
		c.mu.Lock()
		changes := c.changes
		c.mu.Unlock()
		cred, err := call(ctx, p, func(ctx context.Context) (Credential, error) { return guard(ctx, credential) }, nil)
		if c.ctx.Err() != nil {
			return ErrClosed
		}
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx) // the bound is what ended it
			}
			c.unread(err)
			return err
		}
		// A read and a refresh may overlap, and then nobody knows which of them has the
		// newer one: it must not turn the rotation, or a renewal, back.
		if c.observe(cred, changes) {
			return nil
		}
	}
}

// readContext bounds a read.
func (c *Connector) readContext() (context.Context, context.CancelFunc) {
	c.mu.Lock()
	timeout := readTimeout
	if c.currentLocked() == nil {
		timeout = firstReadTimeout
	}
	c.mu.Unlock()
	return context.WithTimeoutCause(c.ctx, timeout, fmt.Errorf("sqlrotate: the source has not answered within %v: %w", timeout, context.DeadlineExceeded))
}

// guard calls a source and turns what it must not do into an error.
func guard(ctx context.Context, credential func(context.Context) (Credential, error)) (Credential, error) {
	cred, err := guarded(ctx, "the source", credential)
	switch {
	case err != nil:
		return Credential{}, err
	case cred.Username == "":
		return Credential{}, errors.New("sqlrotate: the source gave a credential without a user name")
	case cred.Password.Reveal() == "":
		return Credential{}, errors.New("sqlrotate: the source gave a credential without a password")
	}
	return cred, nil
}

// unread notes that the source failed.
func (c *Connector) unread(err error) {
	now := time.Now()
	c.mu.Lock()
	first := c.source.err == nil
	c.source.err = err
	if first {
		c.source.failing = now
	}
	c.counts.sourceErrors++
	v := c.currentLocked()
	c.mu.Unlock()
	if v != nil && first {
		c.log.Error("sqlrotate: the source fails; the last good credential stays in use", "err", err, "version", v.label())
	}
}

// restlessLocked notes whether a read has found another login than the one before. One
// is a rotation; read after read is a source that never repeats itself.
func (c *Connector) restlessLocked(another bool, now time.Time) {
	if !another {
		c.source.restless, c.source.restUntil = 0, time.Time{}
		return
	}
	c.source.restless++
	if pause := c.source.pause(); pause > 0 {
		c.source.restUntil = now.Add(pause)
	}
}

// pause returns how far apart the connector's own reads are for a source that gives
// another login each time: 0 if it does not.
func (s *sourceState) pause() time.Duration {
	if s.restless < 2 {
		return 0
	}
	return backoff(s.restless-1, restlessMin, restlessMax)
}

// watch has the source read whenever it tells of a change, until Close.
func (c *Connector) watch(n Notifier) {
	changed := n.Changed()
	c.askInBackground() // it may have changed between the first login and that call
	for pause := noticeMin; ; {
		select {
		case <-changed:
		case <-c.ctx.Done():
			return
		}
		changed = n.Changed() // before the read, so that no change falls between the two
		c.askInBackground()
		if c.await(c.ctx, nil, pause) != nil {
			return
		}
		select {
		case <-changed:
			pause = min(2*pause, noticeMax)
		default:
			pause = noticeMin
		}
	}
}

// askInBackground has the keeper read the source as soon as it may.
func (c *Connector) askInBackground() {
	c.mu.Lock()
	c.keeper.readAsked = true
	c.mu.Unlock()
	c.poke()
}

// readDueLocked returns when the keeper is to read the source: often while logins wait
// for it to change, and now and then if it doesn't tell of changes. Zero means never.
func (c *Connector) readDueLocked(now time.Time) (due time.Time) {
	_, tells := c.cfg.Source.(Notifier)
	switch {
	case len(c.versions) == 0:
		return time.Time{} // nobody has asked for a connection yet
	case c.keeper.readAsked:
		due = now
	case c.waiting > 0:
		due = c.keeper.readAt.Add(sourcePoll)
	case !tells:
		due = c.keeper.readAt.Add(c.watchInterval())
	default:
		return time.Time{}
	}
	if due.Before(c.source.restUntil) {
		due = c.source.restUntil
	}
	return due
}

// watchInterval is how often a source that does not tell of changes is read.
func (c *Connector) watchInterval() time.Duration {
	return min(max(c.cfg.Window.lag(), minWatch), maxWatch)
}

// readInBackground asks for a read of the source: past every cache if the current
// credential is being refused, and only then, because a Refresher may make a new login
// for it. It returns when the next one is due.
func (c *Connector) readInBackground(now time.Time) (due time.Time) {
	c.mu.Lock()
	c.keeper.readAt, c.keeper.readAsked = now, false
	due = c.readDueLocked(now)
	v, closed := c.currentLocked(), c.closed
	refused := v != nil && v.gate.refusals > 0
	c.mu.Unlock()
	switch {
	case closed:
	case refused:
		c.refresh.ask(v.cred)
	default:
		c.plain.ask(Credential{})
	}
	return due
}
