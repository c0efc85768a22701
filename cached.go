// CachedSource: a source in front of one that is slow, such as an API.

package sqlrotate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// CacheOptions adjusts a [CachedSource].
type CacheOptions struct {
	// MaxAge is the time after which a credential without a NotAfter is fetched
	// again; a successor may be noticed that much later, which Window.Lag has to
	// allow for. Zero means 5 min; negative means that it is fetched again when a
	// login was refused, and not before. A credential with a NotAfter is fetched
	// again when two thirds of its time have passed at the latest, or at MaxAge if
	// that is positive and earlier. (A NotAfter that is more than ten years away is
	// taken for none here.) There is a second at least between two fetches.
	MaxAge time.Duration

	// Timeout bounds each fetch. Zero means 30 s; negative means no bound. A fetch
	// that goes on for a second longer, because the source ignores its context, is
	// left behind and counts as failed; with four of those there is no new one until
	// one has returned.
	Timeout time.Duration

	// Logger gets a line when fetching begins to fail and when it works again. Nil
	// means slog.Default().
	Logger *slog.Logger
}

const (
	defaultFetchTimeout = 30 * time.Second
	fetchGrace          = time.Second // beyond the timeout, for a source to heed its context
	maxFetches          = 4           // calls of the source at once, those left behind included

	// refusalTold is for how long after the last report CheckHealth says that the
	// credential is refused: nobody reports that it works again.
	refusalTold = 30 * time.Second

	// A sleeping machine stops timers but not leases, so the clock on the wall is
	// looked at this often.
	maxSleep = time.Minute
)

var (
	errCacheClosed = fmt.Errorf("sqlrotate: the cached source is closed: %w", os.ErrClosed)
	errFetchLost   = errors.New("sqlrotate: the source did not return from a fetch")
	errFetchHangs  = errors.New("sqlrotate: the source hangs: a fetch goes on past its time (CacheOptions.Timeout)")
	errFetchesHang = fmt.Errorf("sqlrotate: the source hangs: %d fetches go on past their time (CacheOptions.Timeout)", maxFetches)
)

// CachedSource remembers what another source gave: N connections that need a
// credential at once cost one fetch, and a fetch that fails, or that is under way,
// leaves the last good credential in use until its NotAfter. It is a [Source],
// [Notifier] and [Refresher]; all methods are safe for concurrent use. Make it with
// [NewCachedSource].
type CachedSource struct {
	src  Source
	opt  CacheOptions
	name string
	log  *slog.Logger

	ctx   context.Context //nolint:containedctx // the life of the source, done when closed
	close context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended
	wake  chan struct{} // tells the goroutine that the plan has changed
	calls chan struct{} // holds one for each call of src that has not returned

	mu        sync.Mutex // guards what follows; nothing slow and nothing of src is called under it
	cred      Credential // the last good one
	have      bool
	good      time.Time // when it was last fetched
	plan      fetchPlan
	fetching  time.Time // since when a fetch is under way; zero: none is
	fetches   uint64
	err       error         // of the last fetch
	failing   time.Time     // since when fetches have failed
	refused   Credential    // what was reported since the last fetch began; zero: nothing
	refusedAt time.Time     // when cred was last reported; zero: it was not
	finished  chan struct{} // closed when the next fetch ends
	changed   chan struct{} // closed when cred changes
}

// NewCachedSource returns a source that remembers what src gave. A goroutine fetches
// at once, ahead of the credential's NotAfter, at CacheOptions.MaxAge, and when a login
// was refused; [CachedSource.Close] ends it. What brings nothing new is repeated with
// growing pauses: a fetch that fails or gives a credential that has ended, after one to
// ten seconds while somebody waits for it and up to a minute otherwise; one that gives
// a refused credential again, after one to ten seconds; and one that gives yet another
// user that is refused, up to 15 min, because such a source may make a role each time.
// src stays the caller's. An error says what is wrong with opt.
//
// Put it in front of sources that cross a network, within the Lag of the window (see
// CacheOptions.MaxAge). A [FileSource] is faster without.
func NewCachedSource(src Source, opt CacheOptions) (*CachedSource, error) {
	if src == nil {
		return nil, errors.New("sqlrotate: NewCachedSource: the source is nil")
	}
	if err := errors.Join(plausible("CacheOptions.MaxAge", opt.MaxAge), plausible("CacheOptions.Timeout", opt.Timeout)); err != nil {
		return nil, err
	}
	s := &CachedSource{
		src: src, opt: opt, name: fmt.Sprintf("%T", src), log: opt.Logger,
		done: make(chan struct{}), wake: make(chan struct{}, 1), calls: make(chan struct{}, maxFetches),
		finished: make(chan struct{}), changed: make(chan struct{}),
		plan: fetchPlan{maxAge: opt.MaxAge, asked: true},
	}
	if named, ok := src.(fmt.Stringer); ok {
		s.name = named.String()
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.ctx, s.close = context.WithCancel(context.Background())
	go s.run()
	return s, nil
}

// Credential returns the last good credential at once. If there is none, or it has
// ended, Credential waits, within ctx, for the fetch that is due or under way, and
// returns what that gives; in the pause after one that failed it returns the error of
// that. It never returns a credential that has ended: if the source gives such a one,
// the error is an [*ExpiredError]. After Close, when there is nothing to return, the
// error is an [os.ErrClosed].
func (s *CachedSource) Credential(ctx context.Context) (Credential, error) {
	s.mu.Lock()
	now := time.Now()
	if s.usableLocked(now) {
		defer s.mu.Unlock()
		return s.cred, nil
	}
	return s.askAndUnlock(ctx, now)
}

// Refresh implements [Refresher]: it returns a credential other than refused at once
// if there is one, and else what a fetch gives. In the pause after a fetch (see
// [NewCachedSource]) it returns the refused credential again, and the fetch is made
// when the pause is over. A source behind the cache that is a Refresher itself is told
// what was refused, at most once a minute, then after two, four and more, at last every
// 15 minutes, until nothing has been refused for 15 minutes.
func (s *CachedSource) Refresh(ctx context.Context, refused Credential) (Credential, error) {
	s.mu.Lock()
	now := time.Now()
	same := s.have && s.cred.SameLogin(refused)
	if !same && s.usableLocked(now) {
		defer s.mu.Unlock()
		return s.cred, nil
	}
	if same {
		s.refused, s.refusedAt = refused, now
		s.plan.reports.hear(now)
	}
	return s.askAndUnlock(ctx, now)
}

// askAndUnlock asks for a fetch. If that is due, or one is under way, it waits for the
// end; otherwise it returns what is known. mu is held, and released.
func (s *CachedSource) askAndUnlock(ctx context.Context, now time.Time) (Credential, error) {
	s.plan.asked = true
	if s.ctx.Err() != nil || !past(s.plan.next(), now) { // one that is under way is due until it ends
		defer s.mu.Unlock()
		s.poke() // the pause may be over sooner than the goroutine thinks
		return s.answerLocked(now)
	}
	finished := s.finished
	s.mu.Unlock()
	s.poke()
	select {
	case <-finished:
	case <-s.ctx.Done():
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answerLocked(time.Now())
}

func (s *CachedSource) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// answerLocked returns what is known: the credential at hand, or why there is none.
func (s *CachedSource) answerLocked(now time.Time) (Credential, error) {
	switch {
	case s.usableLocked(now):
		return s.cred, nil
	case s.ctx.Err() != nil:
		return Credential{}, errCacheClosed
	case s.err != nil:
		return Credential{}, s.err
	default:
		return Credential{}, newEndedError(s.cred, s.name)
	}
}

func (s *CachedSource) usableLocked(now time.Time) bool { return s.have && !endsBy(s.cred, now) }

// endsBy reports whether cred is at its NotAfter or past it at t.
func endsBy(cred Credential, t time.Time) bool {
	return !cred.NotAfter.IsZero() && past(cred.NotAfter, t)
}

// endedError is an [*ExpiredError] about a credential that no connector has numbered.
type endedError struct{ *ExpiredError }

func newEndedError(cred Credential, source string) error {
	return &endedError{&ExpiredError{Username: cred.Username, Version: cred.Version, Source: source, Ended: cred.NotAfter}}
}

func (e *endedError) Error() string {
	return fmt.Sprintf("sqlrotate: %s gives a credential of user %q that is at its end by this machine's clock (NotAfter is %s)",
		e.Source, e.Username, e.Ended.UTC().Format(time.RFC3339))
}

func (e *endedError) Unwrap() error { return e.ExpiredError }

// Changed implements [Notifier].
func (s *CachedSource) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// String names the source behind the cache: by its own String, or else by its type.
func (s *CachedSource) String() string { return s.name }

// CacheStatus is how a [CachedSource] is doing, for metrics and status pages.
type CacheStatus struct {
	// Username, Version and NotAfter are the last good credential's. Username is
	// empty as long as there is none. It is not given out past its NotAfter.
	Username string
	Version  string
	NotAfter time.Time

	// FetchedAt is when it was last fetched.
	FetchedAt time.Time

	// FetchingSince is since when a fetch has been under way; zero if none is.
	FetchingSince time.Time

	// NextFetchAt is when the next fetch is due. It is zero while one is under way,
	// if none is planned until a login is refused, and after Close.
	NextFetchAt time.Time

	// Fetches counts the fetches so far, and Hanging those that have not returned
	// though their time is over.
	Fetches uint64
	Hanging int

	// Failures counts the fetches that failed since the last good one, FailingSince
	// is when the first of them did, and Err is the last error; 0, zero and nil if the
	// last fetch was good. One that gave a credential that has ended has failed.
	Failures     int
	FailingSince time.Time
	Err          error

	// RefusedAt is when it was last reported that the server refuses the credential;
	// zero if it was not.
	RefusedAt time.Time
}

// Status returns the state of the source.
func (s *CachedSource) Status() CacheStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := CacheStatus{
		Username: s.cred.Username, Version: s.cred.Version, NotAfter: s.cred.NotAfter,
		FetchedAt: s.good, FetchingSince: s.fetching,
		Fetches: s.fetches, Hanging: len(s.calls),
		Failures: s.plan.failures, FailingSince: s.failing, Err: s.err, RefusedAt: s.refusedAt,
	}
	switch {
	case !s.fetching.IsZero():
		st.Hanging = max(0, st.Hanging-1)
	case s.ctx.Err() == nil && !s.plan.fetched.IsZero():
		st.NextFetchAt = s.plan.next()
	}
	return st
}

// CheckHealth returns nil, or says in words what is wrong and since when: fetching
// fails or gives what has ended, the credential that was fetched last has ended, or
// the server refuses it and the source has no better one (for half a minute after the
// last such report). If nothing of that is the case, it is what the source behind the
// cache says, if that has a method CheckHealth. After Close it is an [os.ErrClosed].
func (s *CachedSource) CheckHealth() error {
	now := time.Now()
	s.mu.Lock()
	cred, have, err, failing := s.cred, s.have, s.err, s.failing
	refusedAt, since := s.refusedAt, s.plan.reports.since
	noBetter := s.plan.fetched.After(since)
	s.mu.Unlock()
	ago := func(t time.Time) time.Duration { return now.Sub(t).Round(time.Second) }
	switch {
	case s.ctx.Err() != nil:
		return errCacheClosed
	case err != nil:
		return fmt.Errorf("sqlrotate: fetching the credential has failed for %v: %w", ago(failing), err)
	case have && endsBy(cred, now):
		return fmt.Errorf("sqlrotate: the credential of user %q ended %v ago, and %s has not given another one yet", cred.Username, ago(cred.NotAfter), s.name)
	case !refusedAt.IsZero() && now.Sub(refusedAt) < refusalTold && noBetter:
		return fmt.Errorf("sqlrotate: the server refuses what %s gives, for %v, the last time %v ago for user %q", s.name, ago(since), ago(refusedAt), cred.Username)
	}
	return checkSource(s.src)
}

// Close ends the goroutine and waits, for a second at the most, for a fetch that is
// under way to give up. A credential that has been fetched is given out until its
// NotAfter. Close may be called more than once.
func (s *CachedSource) Close() error {
	s.close()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
	return nil
}

// run fetches when it is time to, until Close.
func (s *CachedSource) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		wait := s.untilDue()
		if wait <= 0 {
			s.fetch()
			wait = s.untilDue()
		}
		timer.Reset(wait)
	}
}

// untilDue returns how long to sleep before the next fetch, or before the next look at
// the clock.
func (s *CachedSource) untilDue() time.Duration {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch next := s.plan.next(); {
	case next.IsZero():
		return maxSleep
	case past(next, now):
		return 0
	default:
		return min(next.Sub(now), maxSleep)
	}
}

// fetch asks the source once, and keeps what comes of it.
func (s *CachedSource) fetch() {
	refused, refresh := s.begin()
	cred, err := s.call(func(ctx context.Context) (Credential, error) {
		if r, ok := s.src.(Refresher); ok && refresh {
			return r.Refresh(ctx, refused)
		}
		return s.src.Credential(ctx)
	})
	s.finish(refused, refresh, cred, err)
}

// begin notes that a fetch begins, and returns which credential it is for that was
// refused, if any, and whether the source is to be told of that.
func (s *CachedSource) begin() (refused Credential, refresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	refused, s.refused = s.refused, Credential{}
	if _, ok := s.src.(Refresher); ok && refused.Username != "" && s.plan.reports.mayRefresh(now) {
		refresh = true
		s.plan.reports.refreshed = now
	}
	s.fetching = now
	s.fetches++
	return refused, refresh
}

// finish notes what came of a fetch, and tells all who wait for it.
func (s *CachedSource) finish(refused Credential, refreshed bool, cred Credential, err error) {
	now := time.Now()
	// What ends before it could be fetched again is of no use.
	ended := err == nil && endsBy(cred, now.Add(fetchPause))
	if ended {
		err = newEndedError(cred, s.name)
	}
	s.mu.Lock()
	before := s.err
	s.fetching = time.Time{}
	switch {
	case err == nil:
		s.acceptLocked(cred, now)
		if refused.Username != "" {
			s.plan.reports.answered(cred.Username != refused.Username, refreshed)
		}
	case s.ctx.Err() != nil: // it was made to give up
		s.mu.Unlock()
		return
	default:
		if ended && cred.SameLogin(s.cred) {
			s.replaceLocked(cred)
		}
		if before == nil {
			s.failing = now
		}
		s.plan.failures++
	}
	s.err = err
	if !s.cred.SameLogin(s.refused) {
		s.refused = Credential{}
	}
	// Whoever asked meanwhile has his answer, unless that is what was refused meanwhile.
	s.plan.asked = s.refused.Username != ""
	s.plan.fetched, s.plan.dice = now, rand.Float64()
	close(s.finished)
	s.finished = make(chan struct{})
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("sqlrotate: the credential can't be fetched", "source", s.name, "err", err)
	case err == nil && before != nil:
		s.log.Info("sqlrotate: the credential is fetched again", "source", s.name)
	}
}

// acceptLocked makes cred the last good one.
func (s *CachedSource) acceptLocked(cred Credential, now time.Time) {
	s.replaceLocked(cred)
	s.good, s.failing = now, time.Time{}
	s.plan.failures = 0
}

// replaceLocked puts cred in the place of the credential at hand.
func (s *CachedSource) replaceLocked(cred Credential) {
	same := s.have && s.cred.SameLogin(cred)
	if !same {
		s.refusedAt = time.Time{}
	}
	if !same || !s.cred.NotAfter.Equal(cred.NotAfter) {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.cred, s.have, s.plan.notAfter = cred, true, cred.NotAfter
}

// call calls the source, within its time. It leaves a call behind that ignores its
// context.
func (s *CachedSource) call(ask func(context.Context) (Credential, error)) (Credential, error) {
	select {
	case s.calls <- struct{}{}:
	default:
		return Credential{}, errFetchesHang
	}
	ctx, cancel := s.ctx, context.CancelFunc(func() {})
	var late <-chan time.Time
	if d := orDefault(s.opt.Timeout, defaultFetchTimeout); d > 0 {
		ctx, cancel = context.WithTimeout(s.ctx, d)
		timer := time.NewTimer(min(d, math.MaxInt64-fetchGrace) + fetchGrace)
		defer timer.Stop()
		late = timer.C
	}
	type answer struct {
		cred Credential
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		a := answer{err: errFetchLost}
		defer func() { // also if the source ends the goroutine
			cancel()
			<-s.calls
			answers <- a
		}()
		a.cred, a.err = guard(ctx, ask)
	}()
	select {
	case a := <-answers:
		return a.cred, a.err
	case <-late:
		return Credential{}, errFetchHangs
	}
}
