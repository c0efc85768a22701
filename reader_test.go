package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// countingSource is a source whose reads take their time, and that counts them.
type countingSource struct {
	Source
	takes time.Duration

	mu       sync.Mutex
	inflight int
	most     int
	began    []time.Time
}

func (s *countingSource) Credential(ctx context.Context) (Credential, error) {
	s.mu.Lock()
	s.inflight++
	s.most = max(s.most, s.inflight)
	s.began = append(s.began, time.Now())
	s.mu.Unlock()
	cred, err := s.Source.Credential(ctx) // of the moment when the read begins
	time.Sleep(s.takes)
	s.mu.Lock()
	s.inflight--
	s.mu.Unlock()
	return cred, err
}

// Many logins over a slow source: one read is in flight and one queued, and each login
// gets one that began after it came.
func TestReadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var source *countingSource
		r := newRig(t, func(cfg *Config) {
			source = &countingSource{Source: SourceFunc(cfg.Source.Credential), takes: 50 * time.Millisecond}
			cfg.Source = source
		})
		start := time.Now()
		r.fill(80)
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("80 logins took %v", took)
		}
		source.mu.Lock()
		if n := len(source.began); n > 6 || source.most > 1 {
			t.Errorf("%d reads, %d at once", n, source.most)
		}
		source.mu.Unlock()

		// One comes while a read is under way, and a rotation came after that had begun.
		r.db.SetMaxIdleConns(-1)
		time.Sleep(10 * time.Second)
		for range 20 {
			go func() {
				if conn, err := r.c.Connect(t.Context()); err == nil {
					_ = conn.Close()
				}
			}()
			time.Sleep(10 * time.Millisecond)
			source.mu.Lock()
			if source.inflight == 0 {
				t.Error("no read is under way")
			}
			source.mu.Unlock()
			user := fmt.Sprint("v", time.Now().UnixNano())
			r.rotate(user)
			conn, err := r.c.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := conn.(*fakeConn).user; got != user {
				t.Fatalf("a login that began after %s was published is one of %s", user, got)
			}
			_ = conn.Close()
			time.Sleep(time.Second)
		}
	})
}

// hangingSource hangs while it is told to: until its context is done, or, if it is deaf,
// until it is released.
type hangingSource struct {
	Source
	hangs    atomic.Bool
	deaf     bool
	released chan struct{}
	reads    atomic.Int64
}

func newHangingSource(src Source, deaf bool) *hangingSource {
	return &hangingSource{Source: SourceFunc(src.Credential), deaf: deaf, released: make(chan struct{})}
}

func (s *hangingSource) Credential(ctx context.Context) (Credential, error) {
	s.reads.Add(1)
	if s.hangs.Load() {
		if s.deaf {
			<-s.released
			return Credential{}, errors.New("released")
		}
		<-ctx.Done()
		return Credential{}, ctx.Err()
	}
	return s.Source.Credential(ctx)
}

// tellingSource is the same as a Notifier.
type tellingSource struct {
	*hangingSource
	Notifier
}

// A read that hangs does not end the background reads: a rotation is seen by an idle pool,
// and a lease that was renewed is not cut off.
func TestReadThatHangsIsFollowedByOthers(t *testing.T) {
	for i := range 4 {
		deaf, tells := i%2 > 0, i/2 > 0
		t.Run(fmt.Sprintf("deaf=%t,tells=%t", deaf, tells), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var source *hangingSource
				r := newRig(t, func(cfg *Config) {
					cfg.Window = Window{Overlap: time.Hour, Lag: 5 * time.Second, MaxInUse: time.Minute}
					source = newHangingSource(cfg.Source, deaf)
					notifier := cfg.Source.(Notifier)
					cfg.Source = source
					if tells {
						cfg.Source = tellingSource{source, notifier}
					}
				})
				defer close(source.released)
				r.lease(time.Now().Add(10 * time.Minute))
				r.fill(5)
				for range 3 {
					time.Sleep(time.Minute)
					source.hangs.Store(true)
					r.lease(time.Now().Add(10 * time.Minute))
					time.Sleep(6 * time.Second) // one read at least
					source.hangs.Store(false)
				}
				r.lease(time.Now().Add(10 * time.Hour))
				if err := r.query("30m"); err != nil {
					t.Errorf("a query over the former end: %v", err)
				}
				r.rotate("v2")
				time.Sleep(10 * time.Minute)
				if n := r.server.open("v1"); n > 0 || r.c.Stats().Rotations != 1 {
					t.Errorf("10 min after the rotation: %d rotations seen, %d sessions of v1", r.c.Stats().Rotations, n)
				}
			})
		})
	}
}

// A source that hangs for ever is a source that fails: it is counted and told of, and
// logins use the last good credential.
func TestSourceThatHangsFails(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprint("deaf=", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var source *hangingSource
				log := &logbook{}
				r := newRig(t, func(cfg *Config) {
					source = newHangingSource(cfg.Source, deaf)
					cfg.Source = source
					cfg.Logger = log.logger()
				})
				defer close(source.released)
				r.fill(2)
				time.Sleep(time.Second)
				source.hangs.Store(true)
				r.db.SetMaxIdleConns(-1)
				var longest time.Duration
				for i := range 60 {
					start := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					if err := r.db.PingContext(ctx); err != nil {
						t.Errorf("login %d: %v", i, err)
					}
					cancel()
					if i > 0 {
						longest = max(longest, time.Since(start))
					}
					time.Sleep(5 * time.Second)
				}
				if longest > 200*time.Millisecond {
					t.Errorf("a login took %v for a source that was known to hang", longest)
				}
				if n := source.reads.Load(); n > 120 {
					t.Errorf("%d reads in 5 min", n)
				}
				if n := source.abandoned(r.c); n > maxHung {
					t.Errorf("%d reads hang", n)
				}
				err := r.c.CheckHealth()
				if err == nil || !strings.Contains(err.Error(), "source") || r.c.Stats().SourceErrors == 0 {
					t.Errorf("the source has hung for 5 min: %v; errors %d", err, r.c.Stats().SourceErrors)
				}
				if n := strings.Count(log.String(), "\n"); n > 10 {
					t.Errorf("%d lines:\n%s", n, log)
				}
				if !deaf {
					source.hangs.Store(false)
					time.Sleep(20 * time.Second)
					if err := r.c.CheckHealth(); err != nil {
						t.Errorf("it is read again: %v", err)
					}
				}
			})
		})
	}
}

func (s *hangingSource) abandoned(c *Connector) int {
	c.calls.reads.mu.Lock()
	defer c.calls.reads.mu.Unlock()
	return len(c.calls.reads.abandoned)
}

// A source that has never answered holds nobody longer than his context, nor for ever.
func TestSourceThatHangsFromTheStart(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var source *hangingSource
			r := newRig(t, func(cfg *Config) {
				source = newHangingSource(cfg.Source, deaf)
				source.hangs.Store(true)
				cfg.Source = source
			})
			defer close(source.released)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := r.db.PingContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("within a second: %v", err)
			}
			start := time.Now()
			err := r.db.PingContext(t.Context())
			if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "not answered") || took > time.Minute {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

// A source that gives another login each time is read ever less often by the connector
// itself, and the health report says so; every login reads it once.
func TestSourceThatNeverRepeatsItself(t *testing.T) {
	for name, window := range map[string]Window{
		"in place": InPlace(),
		"window":   {Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reads atomic.Int64
				r := newRig(t, func(cfg *Config) {
					cfg.Window = window
					cfg.Source = SourceFunc(func(context.Context) (Credential, error) {
						return Credential{Username: "v1", Password: NewSecret(fmt.Sprint(reads.Add(1)))}, nil
					})
					cfg.Opener = acceptAny(cfg.Opener.(*fakeServer))
				})
				if err := r.query("1ms"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if n := reads.Load(); n > 6 {
					t.Errorf("%d reads in the first second", n)
				}
				time.Sleep(time.Minute)
				before := reads.Load()
				time.Sleep(10 * time.Minute)
				if n := reads.Load() - before; n > 60 {
					t.Errorf("%d reads in 10 min", n)
				}
				if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "another login") {
					t.Errorf("the health report says %v", err)
				}
				before = reads.Load()
				start := time.Now()
				var logins sync.WaitGroup
				for range 50 {
					logins.Go(func() {
						conn, err := r.c.Connect(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						_ = conn.Close()
					})
				}
				logins.Wait()
				if n := reads.Load() - before; n > 50 || time.Since(start) > 200*time.Millisecond {
					t.Errorf("%d reads for 50 logins, which took %v", n, time.Since(start))
				}
			})
		})
	}
}

// acceptAny makes a server let v1 in whatever the password.
func acceptAny(s *fakeServer) Opener {
	return &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
		return s.Open(ctx, Credential{Username: "v1", Password: NewSecret("p1")}, dial)
	}}
}

// eagerNotifier's channel is closed whenever one asks for it.
type eagerNotifier struct{ Source }

func (eagerNotifier) Changed() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}

// rearmingNotifier's channel stays closed until a read has ended.
type rearmingNotifier struct {
	mu    sync.Mutex
	ch    chan struct{}
	asked int
}

func (s *rearmingNotifier) Credential(context.Context) (Credential, error) {
	time.Sleep(200 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ch:
		s.ch = make(chan struct{})
	default:
	}
	return Credential{Username: "v1", Password: NewSecret("p1")}, nil
}

func (s *rearmingNotifier) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.ch
}

// These two run in real time: in a bubble, time does not pass for a busy loop. One makes
// thousands of turns in a second.
func TestNotifierThatIsAlwaysClosed(t *testing.T) {
	var reads atomic.Int64
	r := newRigOutside(t, func(cfg *Config) {
		src := cfg.Source
		cfg.Source = eagerNotifier{SourceFunc(func(ctx context.Context) (Credential, error) {
			reads.Add(1)
			return src.Credential(ctx)
		})}
	})
	if err := r.db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustTurn(t, 2, reads.Load)
}

func TestNotifierThatRearmsWhenRead(t *testing.T) {
	src := &rearmingNotifier{ch: make(chan struct{})}
	r := newRigOutside(t, func(cfg *Config) { cfg.Source = src })
	if err := r.db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	src.mu.Lock()
	before := src.asked
	close(src.ch)
	src.mu.Unlock()
	mustTurn(t, 1, func() int64 {
		src.mu.Lock()
		defer src.mu.Unlock()
		return int64(src.asked - before)
	})
}

// mustTurn checks that there are so many turns at least, and no more than 20 in a second.
func mustTurn(t *testing.T, least int64, turns func() int64) {
	t.Helper()
	const most = 20
	start := time.Now()
	for deadline := start.Add(30 * time.Second); turns() < least || time.Since(start) < time.Second; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d turns in %v", turns(), time.Since(start))
		}
	}
	if n, took := turns(), time.Since(start); float64(n) > most*took.Seconds() {
		t.Errorf("%d turns in %v, more than %d a second", n, took, most)
	}
}

// An end that is another one at each read, but soon, is warned of once.
func TestEndThatJittersIsWarnedOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		r := newRig(t, func(cfg *Config) { cfg.Logger = log.logger() })
		end := time.Now().Add(3 * time.Minute)
		for i := range 150 {
			r.lease(end.Add(time.Duration(i%2) * time.Millisecond))
			if err := r.db.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := strings.Count(log.String(), "ends soon"); n != 1 {
			t.Errorf("it is said %d times:\n%s", n, log)
		}
		r.lease(time.Now().Add(10 * time.Minute))
		time.Sleep(9 * time.Minute)
		if n := strings.Count(log.String(), "ends soon"); n != 2 {
			t.Errorf("after a renewal it is said %d times in all:\n%s", n, log)
		}
	})
}

// The source is read again, which renews what is known of a login, while a login says that it
// was slow or finds that it has ended: nothing is read that is being written.
func TestLoginIsRenewedWhileItIsNamed(t *testing.T) {
	r := newRigOutside(t, nil)
	r.fill(1)
	cred, err := r.source.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := r.c
	ended := func() {
		c.mu.Lock()
		const unknown = 1000 // to the rules
		if c.book.get(unknown) == nil {
			c.book.enter(&version{id: unknown, cred: cred})
		}
		c.mu.Unlock()
		var gone *refusal
		if _, err := c.open(t.Context(), 0, unknown, false); !errors.As(err, &gone) {
			t.Errorf("%v", err)
		}
	}
	renewed := func() {
		c.mu.Lock()
		for _, v := range c.book.versions {
			v.cred = cred
		}
		c.source.slow = time.Time{}
		c.mu.Unlock()
	}
	for _, named := range []func(){func() { c.slow(0) }, ended} {
		var wg sync.WaitGroup
		for _, f := range []func(){named, renewed} {
			wg.Go(func() {
				for range 4000 {
					f()
				}
			})
		}
		wg.Wait()
	}
}
