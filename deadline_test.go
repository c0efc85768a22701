package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// lease gives v1's credential an end.
func (r *rig) lease(end time.Time) {
	r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: end}, nil)
}

// stuckChanged is a Notifier whose Changed returns when it is released, and not before.
type stuckChanged struct {
	Source
	released <-chan struct{}
}

func (s stuckChanged) Changed() <-chan struct{} { <-s.released; return nil }

// stuckHandler is the same for a slog.Handler.
type stuckHandler struct {
	slog.Handler
	released <-chan struct{}
}

func (h stuckHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h stuckHandler) Handle(context.Context, slog.Record) error { <-h.released; return nil }

// stuckCloses are network connections whose Close returns when it is released. It counts
// those that have been told to close.
type stuckCloses struct {
	released <-chan struct{}
	told     atomic.Int64
}

func (s *stuckCloses) over(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return stuckClose{conn, s}, err
	}
}

type stuckClose struct {
	net.Conn
	closes *stuckCloses
}

func (c stuckClose) Close() error {
	c.closes.told.Add(1)
	<-c.closes.released
	return c.Conn.Close()
}

// Whatever of what was handed in hangs, a credential's sessions are told to close when it
// ends, each of them.
func TestHardEndDependsOnNobody(t *testing.T) {
	for name, hang := range map[string]func(*Config, <-chan struct{}){
		"Notifier.Changed": func(cfg *Config, released <-chan struct{}) {
			cfg.Source = stuckChanged{SourceFunc(cfg.Source.Credential), released}
		},
		"Logger": func(cfg *Config, released <-chan struct{}) {
			cfg.Logger = slog.New(stuckHandler{slog.DiscardHandler, released})
		},
		"Trace.Outlived": func(cfg *Config, released <-chan struct{}) {
			cfg.Trace = &Trace{Outlived: func(VersionStats, time.Duration) { <-released }}
		},
		"Trace.Closed": func(cfg *Config, released <-chan struct{}) {
			cfg.Trace = &Trace{Closed: func(VersionStats, CloseReason, time.Duration) { <-released }}
		},
		"net.Conn.Close": func(*Config, <-chan struct{}) {}, // does in all of them
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				released := make(chan struct{})
				closes := &stuckCloses{released: released}
				r := newRig(t, func(cfg *Config) {
					hang(cfg, released)
					cfg.Dial = closes.over(cfg.Dial)
					cfg.RoleCheck = -1 // all are in use: asking would take a session more
				})
				defer close(released)
				end := time.Now().Add(time.Minute)
				r.lease(end)
				var conns sync.WaitGroup
				for range 5 {
					conns.Go(func() {
						if _, err := r.db.Conn(t.Context()); err != nil {
							t.Error(err)
						}
					})
				}
				conns.Wait()
				time.Sleep(time.Until(end) - time.Millisecond)
				synctest.Wait()
				if n := closes.told.Load(); n != 0 {
					t.Errorf("%d of 5 sessions are told to close before the end", n)
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if n := closes.told.Load(); n != 5 {
					t.Errorf("%d of 5 sessions are told to close at the end", n)
				}
			})
		})
	}
}

// What is open goes when its credential ends, by what is known of that then.
func TestHardEndMoves(t *testing.T) {
	const never = 10 * time.Hour // later than the test
	for name, test := range map[string]struct {
		move func(r *rig, end time.Time)
		want time.Duration // from the first end to the one that counts
	}{
		"not at all":      {func(*rig, time.Time) {}, 0},
		"renewed":         {func(r *rig, end time.Time) { r.lease(end.Add(time.Hour)) }, time.Hour},
		"shortened":       {func(r *rig, end time.Time) { r.lease(end.Add(-20 * time.Second)) }, -20 * time.Second},
		"no longer known": {func(r *rig, end time.Time) { r.lease(time.Time{}) }, never},
		"renewed twice": {func(r *rig, end time.Time) {
			r.lease(end.Add(time.Second))
			time.Sleep(10 * time.Second)
			r.lease(end.Add(time.Minute))
		}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(cfg *Config) { cfg.Window = Window{Overlap: 24 * time.Hour, Lag: 5 * time.Second} })
				end := time.Now().Add(time.Minute)
				r.lease(end)
				conn, err := r.db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				time.Sleep(10 * time.Second)
				test.move(r, end)
				at := end.Add(test.want)
				time.Sleep(time.Until(at) - time.Millisecond)
				synctest.Wait()
				if r.server.open("v1") == 0 {
					t.Error("the session is closed before the end")
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if n := r.server.open("v1"); test.want < never && n != 0 {
					t.Errorf("at the end %d sessions are open", n)
				}
			})
		})
	}
}

// A rotation back takes the end of what has come back away, and gives one to what went.
func TestHardEndOfARotationBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		window := Window{Overlap: 2 * time.Minute, Lag: 10 * time.Second, MaxInUse: 20 * time.Second}
		r := newRig(t, func(cfg *Config) { cfg.Window = window })
		hold := func() {
			conn, err := r.db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
		hold()
		r.rotate("v2")
		time.Sleep(time.Minute)
		hold()
		r.source.publish("v1", "p1")
		time.Sleep(10 * time.Second)
		back := time.Now()
		time.Sleep(50 * time.Second) // past the end that v1 had
		if v1, v2 := r.server.open("v1"), r.server.open("v2"); v1 == 0 || v2 != 1 {
			t.Errorf("%d sessions of v1, which is back, and %d of v2, which is in use", v1, v2)
		}
		time.Sleep(time.Until(back.Add(window.Overlap - window.Lag)))
		synctest.Wait()
		if v1, v2 := r.server.open("v1"), r.server.open("v2"); v1 == 0 || v2 != 0 {
			t.Errorf("after the end of v2: %d sessions of v1, %d of v2", v1, v2)
		}
	})
}

// On a machine that was suspended the wall clock has moved on and timers have not.
func TestDeadlineByTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		var over atomic.Int64
		clock := rotation.NewClock(time.Now())
		d := newDeadlines(func(rotation.VersionID) { over.Add(1) }, func() rotation.Now {
			now := clock.Now(time.Now())
			now.Wall = now.Wall.Add(time.Duration(slept.Load()))
			return now
		}, func(rotation.Instant) {})
		defer d.stop()
		d.arm(1, rotation.End{Wall: time.Now().Add(time.Hour), Mono: rotation.Instant(time.Hour)})
		time.Sleep(time.Minute)
		slept.Store(int64(time.Hour))
		if n := over.Load(); n != 0 {
			t.Fatalf("over %d times an hour early", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := over.Load(); n != 1 {
			t.Errorf("a second after the machine awoke it was over %d times", n)
		}
	})
}

// What is armed anew, disarmed or stopped does not come to its former end.
func TestDeadlineThatIsArmedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var over []rotation.VersionID
		start := time.Now()
		clock := rotation.NewClock(start)
		var fired atomic.Int64
		d := newDeadlines(func(version rotation.VersionID) { over = append(over, version) }, func() rotation.Now { return clock.Now(time.Now()) }, func(due rotation.Instant) {
			fired.Add(1)
			if late := clock.Now(time.Now()).Mono.Sub(due); late != 0 {
				t.Errorf("a timer fired %v after it was due, on a machine that has time", late)
			}
		})
		after := func(d time.Duration) rotation.End {
			return rotation.End{Wall: start.Add(d), Mono: clock.Now(start.Add(d)).Mono}
		}
		d.arm(1, after(time.Minute))
		d.arm(2, after(time.Minute))
		d.arm(3, after(time.Minute))
		d.arm(2, rotation.End{})
		d.arm(3, after(2*time.Minute))
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(over) != 1 || over[0] != 1 {
			t.Errorf("after a minute %v are over, want 1", over)
		}
		if n := fired.Load(); n < 100 { // of the two that are armed, each second
			t.Errorf("timers fired %d times", n)
		}
		d.stop()
		d.arm(4, after(time.Minute))
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(over) != 1 {
			t.Errorf("after the stop %v are over", over)
		}
	})
}

// A credential may end between being chosen for a login and the login.
func TestNoLoginBeginsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened *openerFunc
		r := newRig(t, func(cfg *Config) {
			s := cfg.Opener.(*fakeServer)
			opened = &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
				return s.Open(ctx, cred, dial)
			}}
			cfg.Opener = opened
		})
		r.lease(time.Now().Add(time.Minute))
		r.fill(1)
		r.db.SetMaxIdleConns(-1)
		v, _ := r.c.choose(1, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		before := opened.n.Load()
		_, err := r.c.open(t.Context(), v.Session, v.Version, false)
		var refused *refusal
		if after := opened.n.Load(); v.Kind != rotation.LogIn || after != before || !errors.As(err, &refused) {
			t.Errorf("%d attempts, %v", after-before, err)
		}
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		if state := r.c.rules.Session(v.Session).State; state != rotation.NoSession || len(r.c.sessions) != 0 {
			t.Errorf("the login is %v, and there are %d sessions", state, len(r.c.sessions))
		}
	})
}
