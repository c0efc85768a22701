package sqlrotate

import (
	"context"
	"errors"
	"log/slog"
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
	opt.Logger = slog.New(slog.DiscardHandler)
	c := Cached(src, opt)
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
		if c.Healthy() == nil {
			t.Error("Healthy although fetching fails")
		}
		if n := src.fetches.Load(); n > 60 {
			t.Errorf("%d fetches in an hour of which 20 min failed", n)
		}
		time.Sleep(2 * time.Second)
		if _, err := c.Credential(t.Context()); !errors.Is(err, down) {
			t.Errorf("after the end: got %v, want the source's error", err)
		}
		src.set(login("v2", time.Time{}), nil)
		time.Sleep(2 * fetchRetryMax)
		if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v2" {
			t.Errorf("after recovery: got %v, %v", cred.Username, err)
		}
		if err := c.Healthy(); err != nil {
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

func TestNextFetch(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name     string
		notAfter time.Duration // 0: unknown
		maxAge   time.Duration
		failures int
		want     time.Duration
	}{
		{"unknown end", 0, 0, 0, defaultMaxAge},
		{"unknown end, max age", 0, time.Minute, 0, time.Minute},
		{"end is known, no max age", time.Hour, -1, 0, 40 * time.Minute},
		{"two thirds of the time", time.Hour, 0, 0, 40 * time.Minute},
		{"max age is earlier", time.Hour, time.Minute, 0, time.Minute},
		{"max age is later", time.Minute, time.Hour, 0, 40 * time.Second},
		{"end is past", -time.Hour, 0, 0, fetchRetryMin},
		{"first failure", time.Hour, 0, 1, time.Second},
		{"second failure", time.Hour, 0, 2, 2 * time.Second},
		{"many failures", time.Hour, 0, 1000, fetchRetryMax},
	} {
		var notAfter time.Time
		if test.notAfter != 0 {
			notAfter = at.Add(test.notAfter)
		}
		if got := nextFetch(at, notAfter, test.maxAge, test.failures).Sub(at); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
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
		if _, err := c.Credential(t.Context()); err == nil {
			t.Error("a closed source gave a credential")
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

func (s *refreshingSource) Refresh(_ context.Context, rejected Credential) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshed = append(s.refreshed, rejected.Username)
	s.cred = login(rejected.Username+"x", time.Time{})
	return s.cred, nil
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
			if len(src.refreshed) == 1 && cred.Username != "vx" {
				t.Fatalf("got %q", cred.Username)
			}
			time.Sleep(time.Second)
		}
		if n := len(src.refreshed); n < 4 || n > 6 || src.refreshed[0] != "v" || src.refreshed[1] != "vx" {
			t.Errorf("told of %v", src.refreshed)
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
		if err := r.c.Healthy(); err == nil || strings.Count(err.Error(), "source is down") != 1 || strings.Count(err.Error(), "sqlrotate:") != 1 {
			t.Errorf("Healthy says: %v", err)
		}
	})
}

func TestCachedFetchesAnEndedCredentialOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &slowSource{cred: login("v1", time.Now())}
		c := newCached(t, src, CacheOptions{})
		start := time.Now()
		for range 1000 {
			if cred, err := c.Credential(t.Context()); err != nil || cred.Username != "v1" {
				t.Fatalf("got %v, %v", cred.Username, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		// A fetch takes a second, and so does the pause after it, less a quarter.
		if n, took := src.fetches.Load(), time.Since(start); n > int64(took/(1750*time.Millisecond))+1 {
			t.Errorf("%d fetches in %v", n, took)
		}
	})
}
