package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// A token is asked for at login only: another one retires nothing, and its end ends
// nothing.
func TestTokensRetireNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Window, cfg.RoleCheck = LoginTokens(), -1 })
		token := func(n int) {
			password := fmt.Sprint("token ", n)
			r.server.grant("v1", password)
			r.source.set(Credential{Username: "v1", Password: NewSecret(password), NotAfter: time.Now().Add(15 * time.Minute)}, nil)
		}
		token(0)
		r.fill(5)
		stop := r.load(5, "10ms", time.Second)
		for n := range 10 {
			time.Sleep(10 * time.Minute)
			token(n)
		}
		stop()
		before, _ := r.server.attempts("v1")
		if got := r.c.Stats(); before > 12 || got.Outlived+got.Closed[CloseSuperseded]+got.Rotations > 0 {
			t.Errorf("%d logins for a pool of 5; %+v", before, got)
		}
		// The source gives nothing new: sessions live on past the token's end.
		stop = r.load(5, "10ms", time.Second)
		time.Sleep(time.Hour)
		stop()
	})
}

// The password is changed in the source first and at the server later.
func TestPasswordThatTheServerLearnsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Window = InPlace() })
		r.fill(3)
		r.db.SetMaxIdleConns(-1)
		stop := r.load(3, "10ms", 100*time.Millisecond)
		time.Sleep(5 * time.Second)
		r.source.publish("v1", "next")
		time.Sleep(30 * time.Second)
		r.server.grant("v1", "next")
		time.Sleep(30 * time.Second)
		stop()
		if v := r.c.Stats().Versions[0]; !v.Proven || v.Number != 2 {
			t.Errorf("%+v", v)
		}
	})
}

// The role in use is dropped: its sessions fail every query, but no ping.
func TestRoleInUseThatDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(5)
		stop := make(chan struct{})
		defer close(stop)
		go func() { // it goes on, whatever comes of it
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					_ = r.query("1ms")
				}
			}
		}()
		time.Sleep(5 * time.Minute)
		before, _ := r.server.attempts("v1")
		if before != 5 {
			t.Errorf("%d logins for a pool of 5: asking costs none while connections are idle", before)
		}
		r.server.set(func(s *fakeServer) { delete(s.roles, "v1") })
		time.Sleep(30 * time.Second)
		if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "role in use is dead") {
			t.Errorf("half a minute after the role died: %v", err)
		}
		if p := r.c.Problems(); len(p) == 0 || p[0].Kind != ProblemRoleDead || p[0].CanConnect || time.Since(p[0].Since) > 30*time.Second {
			t.Errorf("%+v", p)
		}
		r.rotate("v2")
		time.Sleep(time.Second)
		if err := r.query("0s"); err != nil {
			t.Errorf("a second after its successor came: %v", err)
		}
	})
}

// A pooler says 08P01 for anything. When its server is back, so is the service, soon.
func TestAmbiguousRefusalIsAskedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			s := cfg.Opener.(*fakeServer)
			cfg.Opener = poolerOpener{&openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
				return s.Open(ctx, cred, dial)
			}}}
		})
		r.fill(2)
		r.db.SetMaxIdleConns(-1)
		r.server.set(func(s *fakeServer) { s.down = stateError("08P01") })
		go func() { _ = r.query("0s") }()
		time.Sleep(20 * time.Second)
		if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "pooler") {
			t.Errorf("the health report says %v", err)
		}
		r.server.set(func(s *fakeServer) { s.down = nil })
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.db.PingContext(ctx); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 2100*time.Millisecond {
			t.Errorf("the service was back %v after its server", d)
		}
	})
}

// poolerOpener takes 08P01 for a refusal, as LibPQ does.
type poolerOpener struct{ *openerFunc }

func (poolerOpener) Refused(err error) bool {
	return anySQLState(err, func(state string) bool { return state == "08P01" || credentialRefused(state) })
}

// A predecessor is used while all of a checkout is left of its time, and not after.
func TestFallbackIsUsableToTheEndOfACheckout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			cfg.Window = Window{Overlap: 10 * time.Minute, Lag: -1, MaxInUse: time.Minute}
			cfg.RetryTimeout = -1
		})
		r.fill(1)
		r.db.SetMaxIdleConns(-1)
		r.source.publish("v2", "there is no such role")
		time.Sleep(9*time.Minute - 2*time.Second)
		if err := r.query("0s"); err != nil {
			t.Errorf("a minute and more before the end: %v", err)
		}
		time.Sleep(2 * time.Second)
		var refused *RefusedError
		if err := r.query("0s"); !errors.As(err, &refused) {
			t.Errorf("less than a checkout before the end: %v", err)
		}
	})
}

// A login with a predecessor that takes until less than a checkout is left is not used.
func TestFallbackThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			cfg.Window = Window{Overlap: 10 * time.Minute, Lag: -1, MaxInUse: time.Minute}
			cfg.RetryTimeout = -1
		})
		r.fill(1)
		r.db.SetMaxIdleConns(-1)
		r.source.publish("v2", "there is no such role")
		time.Sleep(9*time.Minute - 2*time.Second)
		r.server.set(func(s *fakeServer) { s.latency = 4 * time.Second })
		var refused *RefusedError
		if conn, err := r.c.Connect(t.Context()); !errors.As(err, &refused) {
			t.Errorf("%v, %v", conn, err)
		}
		if _, ok := r.server.attempts("v1"); ok < 2 {
			t.Error("no login has come through")
		}
	})
}

// A drain that is done is told of, and counted from the rotation on.
func TestDrainThatIsDoneIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		var drained int
		r := newRig(t, func(cfg *Config) {
			cfg.Logger = log.logger()
			cfg.Trace = &Trace{Drained: func(n int, _ time.Duration) { drained = n }}
		})
		r.fill(5)
		r.rotate("v2")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if drained != 5 || !strings.Contains(log.String(), "rotation is complete") {
			t.Errorf("%d connections; the log says\n%s", drained, log)
		}
	})
}

// A pool that isn't used, over a source that tells of changes and with no end in sight,
// wakes its connector once a minute at the most.
func TestAnIdlePoolLetsItsConnectorSleep(t *testing.T) {
	for name, window := range map[string]Window{
		"overlap": {Overlap: time.Hour, Lag: time.Minute, MaxInUse: time.Minute}, "in place": InPlace(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(cfg *Config) { cfg.Window = window })
				r.fill(20)
				time.Sleep(time.Minute)
				turn := func() rotation.Instant {
					r.c.mu.Lock()
					defer r.c.mu.Unlock()
					return r.c.turn
				}
				const idle = 3 * time.Hour
				wakes, last := 0, turn()
				for range idle / time.Second {
					time.Sleep(time.Second)
					if now := turn(); now != last {
						wakes, last = wakes+1, now
					}
				}
				t.Logf("%d times in %v", wakes, idle)
				if most := int(idle / time.Minute); wakes > most || wakes == 0 {
					t.Errorf("woken %d times in %v, want at most %d", wakes, idle, most)
				}
			})
		})
	}
}

// A pool that has long not been used wakes its connector when it is: the first query on
// sessions of a role that has died meanwhile is enough.
func TestRoleThatDiesWhileThePoolIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Window = InPlace() })
		r.fill(5)
		time.Sleep(time.Hour + 5*time.Minute) // it is asked after each ten minutes
		r.server.set(func(s *fakeServer) { delete(s.roles, "v1") })
		time.Sleep(2 * time.Second)
		if err := r.c.CheckHealth(); err != nil {
			t.Errorf("before anybody asks for anything: %v", err)
		}
		if err := r.query("1ms"); err == nil {
			t.Error("a query of a dead role works")
		}
		time.Sleep(time.Second)
		if p := r.c.Problems(); len(p) == 0 || p[0].Kind != ProblemRoleDead {
			t.Errorf("a second later: %+v", p)
		}
	})
}

// A question after an old role that nobody answers, as behind a pooler, holds up the drain
// for some seconds and no longer.
func TestAQuestionThatHangsHoldsUpTheDrainOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			server, _ := cfg.Opener.(*fakeServer)
			cfg.Opener = &openerFunc{fakeServer: server, open: func(ctx context.Context, n int, cred Credential, dial DialFunc) (driver.Conn, error) {
				if n > 20 && cred.Username == "v1" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return server.Open(ctx, cred, dial)
			}}
		})
		r.fill(20)
		r.rotate("v2")
		time.Sleep(20 * time.Second) // DrainTime is 10 s
		if s := r.c.Stats(); s.Drains != 1 || s.LastDrainTime > 17*time.Second {
			t.Errorf("%d drains, in %v; %d are left", s.Drains, s.LastDrainTime, s.DrainLeft)
		}
	})
}
