// Reading the source: for all who ask at once, within a bound, and ever less often where
// it leads nowhere.

package sqlrotate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
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

	// A Notifier that tells of changes without a pause is listened to every noticeMin,
	// then twice that, up to noticeMax.
	noticeMin = 10 * time.Millisecond
	noticeMax = time.Second

	// watchMute is how often a Notifier is read that can't be listened to.
	watchMute = 5 * time.Second
)

// sharedReader makes one read at a time for all who ask for one: at most one is in flight and
// one queued. All methods are safe for concurrent use.
type sharedReader struct {
	read  func(refused Credential) error // makes a read and notes what comes of it
	tasks *tasks                         // which the reads belong to

	mu      sync.Mutex // guards what follows; read is not called under it
	reading bool
	next    *reading   // queued; nil: none
	refused Credential // what it is told, if anything
}

// reading is one read, queued or under way.
type reading struct {
	done chan struct{} // closed when it has ended
	err  error         // set before that
}

// ask asks for a read that begins after the call, and does not wait for it. refused is
// for a source that is told what was refused: what was asked last counts.
func (r *sharedReader) ask(refused Credential) *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = refused
	if r.next == nil {
		r.next = &reading{done: make(chan struct{})}
	}
	n := r.next
	if !r.reading {
		r.reading = true
		r.tasks.start(r.run)
	}
	return n
}

// run makes the reads that are queued.
func (r *sharedReader) run() {
	for {
		r.mu.Lock()
		n, refused := r.next, r.refused
		r.next = nil
		r.reading = n != nil
		r.mu.Unlock()
		if n == nil {
			return
		}
		n.err = r.read(refused)
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

// reread is read past every cache, after the server refused a credential. While the source gives
// another login each time it does nothing: the rules say when it is read again.
func (c *Connector) reread(ctx context.Context, refused Credential) error {
	c.mu.Lock()
	v := c.currentLocked()
	known := v != nil && !v.cred.SameLogin(refused) // another one already
	resting := c.rules.Snapshot(c.now()).Unsettled
	c.mu.Unlock()
	_, ok := c.cfg.Source.(Refresher)
	switch {
	case resting:
		return nil
	case known || !ok:
		return c.read(ctx)
	}
	_, err := c.awaitRead(ctx, c.refresh.ask(refused), readPatience)
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
	defer c.mu.Unlock()
	if !c.source.slow.IsZero() {
		return
	}
	c.source.slow = now
	c.notices.log(slog.LevelWarn, "sqlrotate: the source is slow: logins don't wait for it and use the last good credential", "waited", patience, "version", c.currentLocked().label())
}

// readSource reads the source once, for all who wait for it.
func (c *Connector) readSource(Credential) error {
	return c.readWith(&c.calls.reads, c.cfg.Source.Credential)
}

// refreshSource reads the source past every cache, after the server refused a credential.
func (c *Connector) refreshSource(refused Credential) error {
	r, ok := c.cfg.Source.(Refresher)
	if !ok {
		return c.readSource(refused)
	}
	return c.readWith(&c.calls.refreshes, func(ctx context.Context) (Credential, error) { return r.Refresh(ctx, refused) })
}

func (c *Connector) readWith(p *foreign, credential func(context.Context) (Credential, error)) error {
	ctx, cancel := c.readContext()
	defer cancel()
	for {
		c.mu.Lock()
		epoch := c.rules.Epoch()
		c.mu.Unlock()
		cred, err := call(ctx, p, func(ctx context.Context) (Credential, error) {
			cred, err := guard(ctx, credential)
			if err != nil {
				err = said(err)
			}
			return cred, err
		}, nil)
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
		if c.observe(cred, epoch) {
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
	cred, err := guarded("the source", func() (Credential, error) { return credential(ctx) })
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

// watch has the source read whenever it tells of a change, until Close.
func (c *Connector) watch(n Notifier) {
	changed := c.listen(n)
	c.readInBackground(rotation.ReadAgain) // it may have changed between the first login and that call
	for pause := noticeMin; ; {
		var again <-chan time.Time
		if changed == nil {
			again = time.After(watchMute)
		}
		select {
		case <-changed:
		case <-again:
		case <-c.ctx.Done():
			return
		}
		changed = c.listen(n) // before the read, so that no change falls between the two
		c.readInBackground(rotation.ReadAgain)
		if c.await(c.ctx, nil, c.now().Mono.Add(pause)) != nil {
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

// listen returns a channel that is closed when the source has changed. It is nil if none
// can be had: then the source is read like one that doesn't tell.
func (c *Connector) listen(n Notifier) <-chan struct{} {
	late := make(chan struct{})
	defer time.AfterFunc(askTimeout, func() { close(late) }).Stop()
	changed, err := callUntil(late, &c.calls.changes, func() (<-chan struct{}, error) { return n.Changed(), nil }, nil)
	if err != nil {
		changed = nil
	}
	return changed
}

// observe notes what the source gave. It reports false if the read was too old to
// count.
func (c *Connector) observe(cred Credential, epoch uint64) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.book.find(cred)
	known := v != nil
	if !known {
		v = c.book.next(cred, now)
		c.book.enter(v) // the notices name it
	}
	if c.stepLocked(rotation.CredentialRead{Version: v.id, User: v.user, NotAfter: cred.NotAfter, Epoch: epoch}) {
		if !known {
			c.book.forget(v.id)
		}
		return false
	}
	clocks := c.now()
	if !known {
		c.rotatedLocked(cred, clocks)
	}
	v.cred = cred
	c.source = sourceState{read: now, readAt: clocks, errors: c.source.errors}
	return true
}

// unread notes that a read of the source failed.
func (c *Connector) unread(err error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.source.err == nil {
		c.source.failing = now
	}
	c.source.err = err
	c.source.errors++
	c.stepLocked(rotation.ReadFailed{})
}

// readInBackground asks for a read of the source, and doesn't wait for it: past every
// cache if that is said, which is when the latest credential is refused.
func (c *Connector) readInBackground(how rotation.Reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readInBackgroundLocked(how)
}

func (c *Connector) readInBackgroundLocked(how rotation.Reading) {
	v := c.currentLocked()
	if how == rotation.ReadAfresh && v != nil {
		c.refresh.ask(v.cred)
		return
	}
	c.plain.ask(Credential{})
}

// currentLocked returns the latest version, or nil.
func (c *Connector) currentLocked() *version { return c.book.get(c.rules.Current()) }
