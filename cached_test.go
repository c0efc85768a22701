package sqlrotate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowSource takes a second for each fetch and counts them.
type slowSource struct {
	mu      sync.Mutex
	cred    Credential
	err     error
	fetches atomic.Int64
}

func (s *slowSource) Credential(ctx context.Context) (Credential, error) {
	s.fetches.Add(1)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cred, s.err
}

func (s *slowSource) set(cred Credential, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cred, s.err = cred, err
}

func login(user string, notAfter time.Time) Credential {
	return Credential{Username: user, Password: NewSecret("p-" + user), NotAfter: notAfter}
}

func newCached(t *testing.T, src Source, opt CacheOptions) *CachedSource {
	t.Helper()
	opt.Logger = slog.New(slog.DiscardHandler)
	c, err := NewCachedSource(src, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCachedFetchesOnceForAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Time{})}
		c := newCached(t, src, CacheOptions{})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
					t.Errorf("got %v, %v", cred.Username, err)
				}
			})
		}
		wg.Wait()
		time.Sleep(10 * time.Second)
		if n := src.fetches.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

func TestCachedWaitEndsWithTheCallersContextAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCached(t, &slowSource{cred: login("v1", time.Time{})}, CacheOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Credential(t.Context()); err != nil {
				t.Errorf("the patient caller got %v", err)
			}
		})
		start := time.Now()
		if _, err := c.Credential(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Millisecond {
			t.Errorf("the impatient caller got %v after %v", err, time.Since(start))
		}
		wg.Wait()
	})
}

func TestCachedFetchesAheadOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Hour)
		src := &slowSource{cred: login("v1", end)}
		c := newCached(t, src, CacheOptions{})
		if _, err := c.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
		src.set(login("v2", end.Add(time.Hour)), nil)
		<-c.Changed()
		if left := time.Until(end); left < 15*time.Minute {
			t.Errorf("fetched %v before the end of an hour's lease", left)
		}
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v2" {
			t.Errorf("got %v, %v after the change", cred.Username, err)
		}
	})
}

func TestCachedKeepsTheLastGoodUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Hour)
		src := &slowSource{cred: login("v1", end)}
		c := newCached(t, src, CacheOptions{})
		if _, err := c.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
		down := errors.New("source is down")
		src.set(Credential{}, down)
		time.Sleep(time.Until(end) - time.Second)
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
			t.Errorf("before the end: got %v, %v", cred.Username, err)
		}
		if c.CheckHealth() == nil {
			t.Error("healthy although fetching fails")
		}
		if n := src.fetches.Load(); n > 60 {
			t.Errorf("%d fetches in an hour of which 20 min failed", n)
		}
		time.Sleep(2 * time.Second)
		if _, err := c.Credential(t.Context()); !errors.Is(err, down) {
			t.Errorf("after the end: got %v, want the source's error", err)
		}
		src.set(login("v2", time.Time{}), nil)
		time.Sleep(2 * unaskedMax)
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v2" {
			t.Errorf("after recovery: got %v, %v", cred.Username, err)
		}
		if err := c.CheckHealth(); err != nil {
			t.Error(err)
		}
	})
}

func TestCachedRefreshOfARefusedCredentialIsOneFetchForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Time{})}
		c := newCached(t, src, CacheOptions{})
		v1, err := c.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		src.set(login("v2", time.Time{}), nil)
		refresh := func() {
			if cred, err := c.Refresh(t.Context(), v1); err != nil || cred.Username != "v2" {
				t.Errorf("got %v, %v", cred.Username, err)
			}
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(refresh)
		}
		wg.Wait()
		refresh() // a late comer
		if n := src.fetches.Load(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

func TestCachedCloseDoesNotWaitForASlowSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCached(t, &slowSource{}, CacheOptions{})
		synctest.Wait()
		start := time.Now()
		_ = c.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("Close took %v", d)
		}
		for range 2 { // at once, and later
			_, err := c.Credential(t.Context())
			if !errors.Is(err, os.ErrClosed) || errors.Is(err, context.Canceled) {
				t.Errorf("a closed source gave %v", err)
			}
			if err := c.CheckHealth(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("health: %v", err)
			}
			if st := c.Status(); st.Failures > 0 || st.Err != nil {
				t.Errorf("Close makes a failure: %+v", st)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A lease that is renewed has another end: those who wait for a change learn of it.
func TestCachedTellsOfARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Now().Add(time.Hour))}
		c := newCached(t, src, CacheOptions{})
		if _, err := c.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
		changed := c.Changed()
		src.set(login("v1", time.Now().Add(2*time.Hour)), nil)
		time.Sleep(time.Hour)
		select {
		case <-changed:
		default:
			t.Error("nobody is told that the lease is renewed")
		}
	})
}

// refreshingSource makes a new login when one was refused.
type refreshingSource struct {
	slowSource
	refreshed []string // who was refused
}

func (s *refreshingSource) Refresh(_ context.Context, refused Credential) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshed = append(s.refreshed, refused.Username)
	s.cred = login(refused.Username+"x", time.Time{})
	return s.cred, nil
}

// told returns who was refused so far.
func (s *refreshingSource) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.refreshed, " ")
}

// A source that can be told what was refused is told; but a server that refuses
// everybody doesn't have it make a login each second.
func TestCachedTellsTheSourceWhatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &refreshingSource{slowSource: slowSource{cred: login("v", time.Time{})}}
		c := newCached(t, src, CacheOptions{})
		cred, err := c.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		start := time.Now()
		for time.Since(start) < 5*time.Minute {
			if cred, err = c.Refresh(t.Context(), cred); err != nil {
				t.Fatal(err)
			}
			if src.told() == "v" && cred.Username != "vx" {
				t.Fatalf("got %q", cred.Username)
			}
			time.Sleep(time.Second)
		}
		// At once, after one minute, and after two more.
		if got := src.told(); got != "v vx vxx" {
			t.Errorf("told of %v", got)
		}
	})
}

// What was refused once is not told again when nothing is refused any more.
func TestCachedTellsTheSourceOfARefusalOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &refreshingSource{slowSource: slowSource{cred: login("v", time.Time{})}}
		c := newCached(t, src, CacheOptions{MaxAge: 2 * time.Minute})
		cred, err := c.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Refresh(t.Context(), cred)
		time.Sleep(time.Hour)
		if got := src.told(); got != "v" {
			t.Errorf("told of %v", got)
		}
		if n := src.fetches.Load(); n < 20 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestCachedWithoutBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Time{})}
		c := newCached(t, src, CacheOptions{MaxAge: -1, Timeout: -1})
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
			t.Fatalf("got %v, %v", cred.Username, err)
		}
		time.Sleep(24 * time.Hour)
		if n := src.fetches.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
		src.set(login("v2", time.Time{}), nil)
		if cred, err := c.Refresh(t.Context(), login("v1", time.Time{})); err != nil || cred.Username != "v2" {
			t.Errorf("got %v, %v", cred.Username, err)
		}
	})
}

// The cache and the connector know of the same failure: an operator is told once.
func TestHealthySaysOnceThatTheSourceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{}
		src.set(Credential{}, errors.New("source is down"))
		cache := newCached(t, src, CacheOptions{})
		r := newRig(t, func(cfg *Config) { cfg.Source = cache })
		if r.db.Ping() == nil {
			t.Fatal("a login without a credential")
		}
		if err := r.c.CheckHealth(); err == nil || strings.Count(err.Error(), "source is down") != 1 || strings.Count(err.Error(), "sqlrotate:") != 1 {
			t.Errorf("CheckHealth says: %v", err)
		}
	})
}

// answers is a source that gives what it is told to, at once, and remembers when.
type answers struct {
	mu    sync.Mutex
	give  func(ctx context.Context, n int) (Credential, error) // n counts from 1
	times []time.Time
}

func (s *answers) Credential(ctx context.Context) (Credential, error) {
	s.mu.Lock()
	s.times = append(s.times, time.Now())
	n := len(s.times)
	s.mu.Unlock()
	return s.give(ctx, n)
}

// fetches returns how often it was asked since t.
func (s *answers) fetches(since time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.times {
		if !at.Before(since) {
			n++
		}
	}
	return n
}

// What brings no progress costs ever less, whether anybody asks or not, and health
// says what it is.
func TestCachedBacksOffWithoutProgress(t *testing.T) {
	const hour, unasked, asked = time.Hour, 90, 370 // fetches in the second hour, at the most
	down := errors.New("source is down")
	for name, test := range map[string]struct {
		give   func(ctx context.Context, n int) (Credential, error)
		opt    CacheOptions
		refuse bool   // who asks says that what he got is refused
		limit  int    // of fetches in the second hour while somebody asks
		health string // what it says, with somebody asking; empty: nothing
	}{
		"fails": {
			give:  func(context.Context, int) (Credential, error) { return Credential{}, down },
			limit: asked, health: "source is down",
		},
		"hangs within its context": {
			give:  func(ctx context.Context, _ int) (Credential, error) { <-ctx.Done(); return Credential{}, ctx.Err() },
			limit: 100, health: "deadline",
		},
		"gives what has ended": {
			give:  func(context.Context, int) (Credential, error) { return login("v", time.Now().Add(-time.Minute)), nil },
			limit: asked, health: `of user "v" that is at its end`,
		},
		"gives another login that has ended each time": {
			give: func(_ context.Context, n int) (Credential, error) {
				return login(fmt.Sprint("v", n), time.Now().Add(-time.Duration(n))), nil
			},
			limit: asked, health: "at its end",
		},
		"gives what ends at once": {
			give:  func(context.Context, int) (Credential, error) { return login("v", time.Now().Add(time.Second)), nil },
			limit: asked, health: "at its end",
		},
		"gives no user name": {
			give:  func(context.Context, int) (Credential, error) { return Credential{Password: NewSecret("p")}, nil },
			limit: asked, health: "user name",
		},
		"panics": {
			give:  func(context.Context, int) (Credential, error) { panic("oops") },
			limit: asked, health: "panicked",
		},
		"gives what is good until 9999": {
			give: func(context.Context, int) (Credential, error) {
				return login("v", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)), nil
			},
			limit: 20,
		},
		"is asked as often as can be": {
			give:  func(context.Context, int) (Credential, error) { return login("v", time.Time{}), nil },
			opt:   CacheOptions{MaxAge: time.Hour},
			limit: 2,
		},
		"gives what is refused": {
			give:   func(context.Context, int) (Credential, error) { return login("v", time.Time{}), nil },
			refuse: true, limit: asked, health: `the server refuses what *sqlrotate.answers gives, for 2h`,
		},
		"gives another password each time, each refused": {
			give: func(_ context.Context, n int) (Credential, error) {
				return Credential{Username: "v", Password: NewSecret(fmt.Sprint(n))}, nil
			},
			refuse: true, limit: asked, health: "the server refuses",
		},
		"gives another user each time, each refused": {
			give:   func(_ context.Context, n int) (Credential, error) { return login(fmt.Sprint("v", n), time.Time{}), nil },
			opt:    CacheOptions{MaxAge: -1},
			refuse: true, limit: 5, health: "the server refuses",
		},
	} {
		for _, asking := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", asked=", asking), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					src := &answers{give: test.give}
					c := newCached(t, src, test.opt)
					start := time.Now()
					for time.Since(start) < 2*hour {
						if asking {
							ask(t, c, test.refuse)
						}
						time.Sleep(700 * time.Millisecond)
					}
					if asking || !test.refuse { // nobody else can know that it is
						err := c.CheckHealth()
						if (err == nil) != (test.health == "") || err != nil && !strings.Contains(err.Error(), test.health) {
							t.Errorf("health: %v; want %q", err, test.health)
						}
					}
					limit := unasked
					if asking {
						limit = test.limit
					}
					if n := src.fetches(start.Add(hour)); n > limit {
						t.Errorf("%d fetches in the second hour, want %d at the most", n, limit)
					}
				})
			})
		}
	}
}

// ask asks for a credential as a login does, and says that it is refused if refuse.
func ask(t *testing.T, c *CachedSource, refuse bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	cred, err := c.Credential(ctx)
	if err == nil && refuse {
		cred, err = c.Refresh(ctx, cred)
	}
	if err == nil && endsBy(cred, time.Now()) {
		t.Errorf("%s is given out after its end", cred.Username)
	}
}

// A source that has been found wanting for long is found good within ten seconds of
// that, by those who ask.
func TestCachedRecoversSoonWhileSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{err: errors.New("source is down")}
		c := newCached(t, src, CacheOptions{})
		for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(time.Second) {
			ask(t, c, false)
		}
		src.set(login("v1", time.Time{}), nil)
		start := time.Now()
		for {
			if _, err := c.Credential(t.Context()); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(start); d > askedMax+2*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// A refused login whose successor isn't there yet is asked for again when the pause is
// over, also if nobody comes back to ask.
func TestCachedFetchesAfterThePauseForWhoWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Time{})}
		c := newCached(t, src, CacheOptions{})
		v1, err := c.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		changed := c.Changed()
		src.set(login("v2", time.Time{}), nil)
		if cred, err := c.Refresh(t.Context(), v1); err != nil || cred.Username != "v1" {
			t.Fatalf("got %v, %v", cred.Username, err)
		}
		if err := c.CheckHealth(); err != nil {
			t.Errorf("nobody knows yet what the source has: %v", err)
		}
		start := time.Now()
		<-changed
		if d := time.Since(start); d != fetchPause+time.Second {
			t.Errorf("fetched after %v", d)
		}
		if st := c.Status(); !st.RefusedAt.IsZero() || c.CheckHealth() != nil {
			t.Errorf("the successor is taken for refused: %+v", st)
		}
	})
}

// A fetch that began before the refusal may have missed what followed: there is
// another one, if it gave what was refused.
func TestCachedRefusalDuringAFetch(t *testing.T) {
	for _, missed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			src := &refreshingSource{slowSource: slowSource{cred: login("v1", time.Time{})}}
			c := newCached(t, src, CacheOptions{MaxAge: time.Minute})
			v1, err := c.Credential(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for src.fetches.Load() < 2 {
				time.Sleep(100 * time.Millisecond)
			}
			want := "v1"
			if !missed {
				want = "v2"
				src.set(login("v2", time.Time{}), nil)
			}
			if cred, err := c.Refresh(t.Context(), v1); err != nil || cred.Username != want {
				t.Errorf("missed=%t: %v, %v", missed, cred.Username, err)
			}
			time.Sleep(fetchPause)
			synctest.Wait()
			if got := src.told(); (got == "v1") != missed {
				t.Errorf("missed=%t: told of %q", missed, got)
			}
			time.Sleep(time.Hour)
			if got := src.told(); (got == "v1") != missed {
				t.Errorf("missed=%t, later: told of %q", missed, got)
			}
		})
	}
}

// A login that works again after it was refused is not complained of for long.
func TestCachedHealthForgetsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCached(t, &slowSource{cred: login("v1", time.Time{})}, CacheOptions{})
		cred, err := c.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, err := c.Refresh(t.Context(), cred); err != nil {
			t.Fatal(err)
		}
		if err := c.CheckHealth(); err == nil || !strings.Contains(err.Error(), `refuses what *sqlrotate.slowSource gives, for 1s, the last time 1s ago for user "v1"`) {
			t.Errorf("health: %v", err)
		}
		time.Sleep(refusalTold)
		if err := c.CheckHealth(); err != nil {
			t.Error(err)
		}
	})
}

// At its end, to the nanosecond, a credential is given out no longer, whatever the
// source does then.
func TestCachedGivesNothingPastItsEnd(t *testing.T) {
	for name, then := range map[string]func(ctx context.Context, first Credential) (Credential, error){
		"the source fails": func(context.Context, Credential) (Credential, error) { return Credential{}, errors.New("down") },
		"the source hangs": func(ctx context.Context, _ Credential) (Credential, error) {
			<-ctx.Done()
			return Credential{}, ctx.Err()
		},
		"the source repeats itself": func(_ context.Context, first Credential) (Credential, error) { return first, nil },
		"another one has ended": func(context.Context, Credential) (Credential, error) {
			return login("v2", time.Now()), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end := time.Now().Add(time.Hour)
				first := login("v1", end)
				c := newCached(t, &answers{give: func(ctx context.Context, n int) (Credential, error) {
					if n == 1 {
						return first, nil
					}
					return then(ctx, first)
				}}, CacheOptions{})
				time.Sleep(time.Until(end) - time.Nanosecond)
				if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
					t.Errorf("1 ns before the end: %v, %v", cred.Username, err)
				}
				time.Sleep(time.Nanosecond)
				for range 1000 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if cred, err := c.Credential(ctx); err == nil {
						t.Fatalf("%s %v after the end", cred.Username, time.Since(end))
					}
					if cred, err := c.Refresh(ctx, login("v0", time.Time{})); err == nil {
						t.Fatalf("%s %v after the end, for one that was refused", cred.Username, time.Since(end))
					}
					cancel()
					if c.CheckHealth() == nil {
						t.Fatalf("healthy %v after the end", time.Since(end))
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		})
	}
}

// Health knows that the credential has ended before the fetch that is under way does.
func TestCachedHealthAtTheEndOfTheCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(30 * time.Second)
		c := newCached(t, &answers{give: func(ctx context.Context, n int) (Credential, error) {
			if n == 1 {
				return login("v1", end), nil
			}
			<-ctx.Done()
			return Credential{}, ctx.Err()
		}}, CacheOptions{})
		time.Sleep(time.Until(end) - time.Nanosecond)
		if err := c.CheckHealth(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Nanosecond)
		if err := c.CheckHealth(); err == nil || !strings.Contains(err.Error(), `the credential of user "v1" ended 0s ago`) {
			t.Errorf("health: %v", err)
		}
	})
}

// A source with a clock of its own gives what has ended: who asks can tell, and what
// is at hand stays until its end.
func TestCachedKeepsTheLastGoodFromOneThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Now().Add(-time.Minute))}
		c := newCached(t, src, CacheOptions{MaxAge: time.Minute})
		_, err := c.Credential(t.Context())
		var expired *ExpiredError
		if !errors.As(err, &expired) || expired.Username != "v1" || !expired.Ended.Equal(src.cred.NotAfter) {
			t.Errorf("got %v", err)
		}
		end := time.Now().Add(time.Hour)
		src.set(login("v2", end), nil)
		time.Sleep(2 * time.Minute)
		src.set(login("v1", end.Add(-2*time.Hour)), nil)
		time.Sleep(2 * time.Minute)
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v2" {
			t.Errorf("got %v, %v", cred.Username, err)
		}
		if err := c.CheckHealth(); !errors.As(err, &expired) {
			t.Errorf("health: %v", err)
		}
		src.set(login("v2", time.Now()), nil) // revoked before its time
		time.Sleep(2 * time.Minute)
		if cred, err := c.Credential(t.Context()); err == nil {
			t.Errorf("got %v, which is said to have ended", cred.Username)
		}
	})
}

// An application is told the same of a credential that has ended, with a cache and
// without.
func TestLoginOverACacheOfWhatHasEnded(t *testing.T) {
	for _, cached := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			source := StaticSource(login("v1", time.Now().Add(-time.Minute)))
			if cached {
				source = newCached(t, source, CacheOptions{})
			}
			r := newRig(t, func(cfg *Config) { cfg.Source, cfg.RetryTimeout = source, -1 })
			err := r.db.Ping()
			var expired *ExpiredError
			if !errors.As(err, &expired) || expired.Username != "v1" {
				t.Errorf("cached=%t: %v", cached, err)
			}
			if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "end") {
				t.Errorf("cached=%t: health: %v", cached, err)
			}
		})
	}
}

// Fetches that ignore their context are left behind, four at the most; when one
// comes back there is room for another.
func TestCachedLeavesHangingFetchesBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		src := &answers{give: func(_ context.Context, n int) (Credential, error) {
			if n == 1 {
				return login("v1", time.Time{}), nil
			}
			<-hang
			return login("late", time.Time{}), nil
		}}
		c := newCached(t, src, CacheOptions{MaxAge: time.Minute, Timeout: 10 * time.Second})
		start := time.Now()
		time.Sleep(time.Minute + 10*time.Second + fetchGrace)
		if err := c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "CacheOptions.Timeout") {
			t.Errorf("health: %v", err)
		}
		time.Sleep(time.Hour)
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
			t.Errorf("got %v, %v", cred.Username, err)
		}
		if n := src.fetches(start); n != 1+maxFetches {
			t.Errorf("%d fetches hang", n-1)
		}
		if err := c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "4 fetches") {
			t.Errorf("health: %v", err)
		}
		if st := c.Status(); st.Hanging != maxFetches || st.Failures < maxFetches {
			t.Errorf("%+v", st)
		}
		hang <- struct{}{} // one of them comes back
		time.Sleep(unaskedMax)
		if n := src.fetches(start); n != 2+maxFetches {
			t.Errorf("%d fetches after one came back", n-1)
		}
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
			t.Errorf("got %v, %v: what comes late may be old", cred.Username, err)
		}

		start = time.Now()
		_ = c.Close()
		if d := time.Since(start); d > closeWait {
			t.Errorf("Close took %v", d)
		}
		close(hang)
	})
}

// Without a bound a fetch is waited for, but not by Close.
func TestCachedCloseWaitsASecondForAFetchThatHangs(t *testing.T) {
	for _, timeout := range []time.Duration{0, -1, math.MaxInt64} {
		synctest.Test(t, func(t *testing.T) {
			hang := make(chan struct{})
			c := newCached(t, SourceFunc(func(context.Context) (Credential, error) {
				<-hang
				return Credential{}, errors.New("at last")
			}), CacheOptions{Timeout: timeout})
			waited := make(chan error)
			go func() {
				_, err := c.Credential(context.Background())
				waited <- err
			}()
			synctest.Wait()
			start := time.Now()
			_ = c.Close()
			if d := time.Since(start); d != closeWait {
				t.Errorf("Close took %v", d)
			}
			if err := <-waited; !errors.Is(err, os.ErrClosed) {
				t.Errorf("who waited got %v", err)
			}
			close(hang)
		})
	}
}

// A source that ends the goroutine it is called in fails like any other.
func TestCachedSurvivesAFetchThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCached(t, SourceFunc(func(context.Context) (Credential, error) {
			runtime.Goexit()
			return Credential{}, nil
		}), CacheOptions{Timeout: -1})
		if _, err := c.Credential(t.Context()); !errors.Is(err, errFetchLost) {
			t.Error(err)
		}
	})
}

func TestCachedStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := func(d time.Duration) time.Time { return start.Add(d) }
		down := errors.New("down")
		v1 := login("v1", at(time.Hour))
		v1.Version = "7"
		src := &slowSource{cred: v1}
		c := newCached(t, src, CacheOptions{})
		synctest.Wait()
		if st := c.Status(); st != (CacheStatus{FetchingSince: start, Fetches: 1}) {
			t.Errorf("at the start: %+v", st)
		}
		if _, err := c.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
		good := c.Status()
		if due := good.NextFetchAt.Sub(start); due < 29*time.Minute || due > 41*time.Minute {
			t.Errorf("next fetch after %v", due)
		}
		want := CacheStatus{
			Username: "v1", Version: "7", NotAfter: v1.NotAfter,
			FetchedAt: at(time.Second), NextFetchAt: good.NextFetchAt, Fetches: 1,
		}
		if good != want {
			t.Errorf("%+v, want %+v", good, want)
		}
		src.set(Credential{}, down)
		refused := time.Now()
		_, _ = c.Refresh(t.Context(), v1)
		time.Sleep(2500 * time.Millisecond) // the pause and the fetch
		want.RefusedAt, want.Fetches, want.Failures, want.FailingSince, want.Err = refused, 2, 1, at(3*time.Second), down
		want.NextFetchAt = at(4 * time.Second)
		if st := c.Status(); st != want {
			t.Errorf("%+v, want %+v", st, want)
		}
		time.Sleep(2 * time.Second)
		if st := c.Status(); st.Failures != 2 || !st.FailingSince.Equal(want.FailingSince) {
			t.Errorf("after another failure: %+v", st)
		}
		src.set(v1, nil)
		time.Sleep(20 * time.Second)
		if st := c.Status(); st.Failures != 0 || !st.FailingSince.IsZero() || st.Err != nil {
			t.Errorf("after recovery: %+v", st)
		}
		_ = c.Close()
		if st := c.Status(); st.Username != "v1" || !st.NextFetchAt.IsZero() {
			t.Errorf("closed: %+v", st)
		}
	})
}

// ailing is a source that gives a credential and is not well.
type ailing struct{ slowSource }

func (*ailing) CheckHealth() error { return errors.New("not well") }

func TestCachedHealthIncludesTheSourcesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &ailing{slowSource{cred: login("v1", time.Time{})}}
		c := newCached(t, src, CacheOptions{})
		if _, err := c.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.CheckHealth(); err == nil || err.Error() != "not well" {
			t.Errorf("health: %v", err)
		}
	})
}

func TestCachedRefusesWhatCannotBeMeant(t *testing.T) {
	src := StaticSource(login("v1", time.Time{}))
	for _, test := range []struct {
		src  Source
		opt  CacheOptions
		says string
	}{
		{nil, CacheOptions{}, "source is nil"},
		{src, CacheOptions{MaxAge: 30}, "CacheOptions.MaxAge is 30ns: give it a unit, as in 30*time.Second"},
		{src, CacheOptions{MaxAge: time.Millisecond - 1}, "MaxAge"},
		{src, CacheOptions{Timeout: 10}, "CacheOptions.Timeout is 10ns"},
		{src, CacheOptions{MaxAge: time.Millisecond, Timeout: time.Millisecond}, ""},
		{src, CacheOptions{MaxAge: -1, Timeout: -1}, ""},
	} {
		c, err := NewCachedSource(test.src, test.opt)
		if c != nil {
			_ = c.Close()
		}
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) || (c == nil) != (err != nil) {
			t.Errorf("%+v: %v; want %q", test.opt, err, test.says)
		}
	}
}

// lagging makes a role when one is refused, or whenever it is asked; the server
// knows it much later.
type lagging struct {
	mu     sync.Mutex
	lag    time.Duration
	always bool
	server *fakeServer
	made   int
}

func (s *lagging) make(another bool) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if another || s.made == 0 {
		s.made++
		cred := login(fmt.Sprint("made", s.made), time.Time{})
		time.AfterFunc(s.lag, func() { s.server.grant(cred.Username, cred.Password.Reveal()) })
	}
	return login(fmt.Sprint("made", s.made), time.Time{}), nil
}

func (s *lagging) roles() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made
}

func (s *lagging) Credential(context.Context) (Credential, error)          { return s.make(s.always) }
func (s *lagging) Refresh(context.Context, Credential) (Credential, error) { return s.make(true) }

// A role that needs minutes to reach the server is given these minutes.
func TestCachedConvergesBehindALaggingReplica(t *testing.T) {
	for _, test := range []struct {
		lag    time.Duration
		always bool
		roles  int // at the most
	}{
		{10 * time.Second, false, 2},
		{90 * time.Second, false, 4},
		{10 * time.Minute, false, 6},
		{90 * time.Second, true, 9},
		{10 * time.Minute, true, 12},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &lagging{lag: test.lag, always: test.always}
				var source Source = src
				if test.always {
					source = SourceFunc(src.Credential) // can't be told
				}
				cache := newCached(t, source, CacheOptions{MaxAge: -1})
				r := newRig(t, func(cfg *Config) {
					src.server = cfg.Opener.(*fakeServer)
					cfg.Source = cache
					cfg.RetryTimeout = 5 * time.Minute
				})
				start := time.Now()
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					err := r.db.PingContext(ctx)
					cancel()
					if err == nil {
						break
					}
					if time.Since(start) > 6*test.lag {
						t.Fatalf("no login for %v, %d roles were made: %v", time.Since(start), src.roles(), err)
					}
					time.Sleep(time.Second)
				}
				if n := src.roles(); n > test.roles {
					t.Errorf("%d roles were made", n)
				}
			})
		})
	}
}
