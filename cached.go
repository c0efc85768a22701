// Cached: a source in front of one that is slow, such as an API.

package sqlrotate

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// CacheOptions adjusts [Cached].
type CacheOptions struct {
	// MaxAge is the time after which a credential without a NotAfter is fetched
	// again; a successor may be noticed that much later, which Window.Lag has to
	// allow for. Zero means 5 min; negative means that it is fetched again when a
	// login was refused, and not before. A credential with a NotAfter is fetched
	// again when two thirds of its time have passed at the latest, or at MaxAge if
	// that is positive and earlier.
	MaxAge time.Duration

	// Timeout bounds each fetch. Zero means 30 s; negative means no bound.
	Timeout time.Duration

	// Logger gets a line when fetching begins to fail and when it works again. Nil
	// means slog.Default().
	Logger *slog.Logger
}

const (
	defaultMaxAge       = 5 * time.Minute
	defaultFetchTimeout = 30 * time.Second

	// A failed fetch is tried again after fetchRetryMin, then twice that, up to
	// fetchRetryMax; and one that a refused login asks for comes no sooner than
	// fetchRetryMin after the last, and is made by a Refresher's Refresh, which may
	// be dear (a new role in the database), no sooner than fetchRetryMax after that.
	fetchRetryMin = time.Second
	fetchRetryMax = time.Minute
)

// CachedSource is what [Cached] returns: a [Source], [Notifier] and [Refresher].
type CachedSource struct {
	src Source
	opt CacheOptions
	log *slog.Logger

	ctx   context.Context //nolint:containedctx // the life of the source, done when closed
	close context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended
	want  chan struct{} // asks for a fetch now

	mu       sync.Mutex // guards what follows; nothing slow is done under it
	cred     Credential
	have     bool
	err      error         // of the last fetch
	failing  time.Time     // since when fetches have failed
	fetched  time.Time     // when the last fetch ended
	rejected Credential    // what was refused, for the next fetch; zero: nothing
	told     time.Time     // when src was last told of such a one
	finished chan struct{} // closed when the next fetch ends
	changed  chan struct{} // closed when cred changes
}

// Cached returns a source that remembers what src gave: N connections that need a
// credential at once cost one fetch, and a fetch that fails, or that is under way,
// leaves the last good credential in use until its NotAfter. A goroutine fetches
// again ahead of NotAfter, at CacheOptions.MaxAge, and when a login was refused;
// failures are retried with growing pauses. Close ends it. src stays the caller's.
//
// Put it in front of sources that cross a network, within the Lag of the window (see
// CacheOptions.MaxAge). A [FileSource] is faster without.
func Cached(src Source, opt CacheOptions) *CachedSource {
	s := &CachedSource{
		src: src, opt: opt, log: opt.Logger,
		done: make(chan struct{}), want: make(chan struct{}, 1),
		finished: make(chan struct{}), changed: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.ctx, s.close = context.WithCancel(context.Background())
	go s.run()
	return s
}

// Credential returns the last good credential at once. If there is none, or it has
// ended, it waits for the fetch of one, within ctx; for a second after a fetch it
// returns what that gave instead, an error or a credential that has ended.
func (s *CachedSource) Credential(ctx context.Context) (Credential, error) {
	now := time.Now()
	s.mu.Lock()
	cred, err, finished := s.cred, s.err, s.finished
	usable, recent := s.have && !s.ended(now), now.Sub(s.fetched) < fetchRetryMin
	s.mu.Unlock()
	switch {
	case usable || recent && err == nil:
		return cred, nil
	case recent:
		return Credential{}, err
	}
	return s.await(ctx, finished)
}

// Refresh implements [Refresher]: it returns a credential other than rejected at
// once, and else fetches, at most once a second. A source behind the cache that is a
// Refresher is told what was refused, at most once a minute. What Refresh returns may
// be rejected itself: if nothing else is to be had, or the last fetch was less than a
// second ago.
func (s *CachedSource) Refresh(ctx context.Context, rejected Credential) (Credential, error) {
	s.mu.Lock()
	cred, finished := s.cred, s.finished
	known := s.have && (!cred.SameLogin(rejected) || time.Since(s.fetched) < fetchRetryMin)
	if !known {
		s.rejected = rejected
	}
	s.mu.Unlock()
	if known {
		return cred, nil
	}
	return s.await(ctx, finished)
}

// await asks for a fetch, waits for the end of one, and returns what is known then.
func (s *CachedSource) await(ctx context.Context, finished <-chan struct{}) (Credential, error) {
	select {
	case s.want <- struct{}{}:
	default:
	}
	select {
	case <-finished:
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	case <-s.ctx.Done():
		return Credential{}, fmt.Errorf("sqlrotate: cached source: %w", os.ErrClosed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.have || s.err != nil && s.ended(time.Now()) {
		return Credential{}, s.err
	}
	return s.cred, nil
}

// ended reports whether the credential at hand is past its NotAfter. mu is held.
func (s *CachedSource) ended(now time.Time) bool {
	return !s.cred.NotAfter.IsZero() && past(s.cred.NotAfter, now)
}

// Changed implements [Notifier].
func (s *CachedSource) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// String names the source behind the cache, if it has a name.
func (s *CachedSource) String() string {
	if name, ok := s.src.(fmt.Stringer); ok {
		return name.String()
	}
	return fmt.Sprintf("%T", s.src)
}

// Healthy returns nil, or since when and why fetching fails.
func (s *CachedSource) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return nil
	}
	return fmt.Errorf("sqlrotate: fetching the credential has failed for %v: %w", time.Since(s.failing).Round(time.Second), s.err)
}

// Close ends the goroutine and waits for a fetch that is under way to give up. A
// credential that has been fetched is given out until its NotAfter.
func (s *CachedSource) Close() error {
	s.close()
	<-s.done
	return nil
}

// run fetches when it is time to, or asked to, until Close.
func (s *CachedSource) run() {
	defer close(s.done)
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.want:
		case <-timer.C:
		}
		if s.fetch() {
			failures = 0
		} else {
			failures++
		}
		s.mu.Lock()
		next := nextFetch(s.fetched, s.cred.NotAfter, s.opt.MaxAge, failures)
		s.mu.Unlock()
		if next.IsZero() {
			timer.Stop()
			continue
		}
		wait := time.Until(next)
		if wait > 0 {
			wait -= rand.N(wait/4 + 1)
		}
		timer.Reset(wait)
	}
}

// nextFetch returns when to fetch again, at the latest, after a fetch that ended
// at fetched and was the last of so many failures in a row. Zero means never.
func nextFetch(fetched, notAfter time.Time, maxAge time.Duration, failures int) time.Time {
	if failures > 0 {
		return fetched.Add(backoff(failures, fetchRetryMin, fetchRetryMax))
	}
	if notAfter.IsZero() {
		if maxAge < 0 {
			return time.Time{}
		}
		return fetched.Add(orDefault(maxAge, defaultMaxAge))
	}
	d := max(fetchRetryMin, notAfter.Sub(fetched)*2/3)
	if maxAge > 0 {
		d = min(d, maxAge)
	}
	return fetched.Add(d)
}

// fetch asks the source once.
func (s *CachedSource) fetch() bool {
	ctx, cancel := s.ctx, context.CancelFunc(func() {})
	if d := orDefault(s.opt.Timeout, defaultFetchTimeout); d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	cred, err := guard(ctx, s.asking())
	cancel()
	now := time.Now()
	s.mu.Lock()
	before := s.err
	s.fetched, s.err = now, err
	switch {
	case err == nil:
		if !s.have || !s.cred.SameLogin(cred) || !s.cred.NotAfter.Equal(cred.NotAfter) {
			close(s.changed)
			s.changed = make(chan struct{})
		}
		s.cred, s.have = cred, true
	case before == nil:
		s.failing = now
	}
	select {
	case <-s.want: // whoever asked while this fetch was under way has his answer
	default:
	}
	s.rejected = Credential{}
	close(s.finished)
	s.finished = make(chan struct{})
	s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
	case err != nil && before == nil:
		s.log.Error("sqlrotate: the credential can't be fetched", "source", s.String(), "err", err)
	case err == nil && before != nil:
		s.log.Info("sqlrotate: the credential is fetched again", "source", s.String())
	}
	return err == nil
}

// asking returns how to ask the source for the next credential.
func (s *CachedSource) asking() func(context.Context) (Credential, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.src.(Refresher)
	rejected := s.rejected
	if !ok || rejected.Username == "" || !rejected.SameLogin(s.cred) || !s.told.IsZero() && now.Sub(s.told) < fetchRetryMax {
		return s.src.Credential
	}
	s.told = now
	return func(ctx context.Context) (Credential, error) { return r.Refresh(ctx, rejected) }
}
