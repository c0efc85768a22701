package sqlrotate

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The numbers of a rotation: each login and how long it took, the drain, who was closed and
// why, and what window is in force.
func TestStatsOfARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const login = 100 * time.Millisecond
		var mu sync.Mutex
		var logins []LoginInfo
		r := newRig(t, func(cfg *Config) {
			cfg.Name = "orders"
			cfg.Trace = &Trace{Login: func(l LoginInfo) {
				mu.Lock()
				defer mu.Unlock()
				logins = append(logins, l)
			}}
		})
		r.server.set(func(s *fakeServer) { s.latency = login })
		if s := r.c.Stats(); !s.LastLoginAt.IsZero() || s.Logins > 0 {
			t.Errorf("before the first login: %d logins, the last at %v", s.Logins, s.LastLoginAt)
		}
		r.fill(20)
		rotated := time.Now()
		r.rotate("v2")
		time.Sleep(5 * time.Second)
		s := r.c.Stats()
		if s.DrainSize != 20 || s.DrainLeft < 5 || s.DrainLeft > 15 || s.Spares == 0 || s.Spares > 21-s.DrainLeft {
			t.Errorf("half-way: %d of %d are left, %d spares", s.DrainLeft, s.DrainSize, s.Spares)
		}
		if began := s.DrainSince.Sub(rotated); began < 0 || began > 2*time.Second {
			t.Errorf("the drain began %v after the rotation", began)
		}
		if left := time.Until(s.DrainUntil); left <= 0 || left > 10*time.Second {
			t.Errorf("the drain is to end in %v", left)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()

		s = r.c.Stats()
		if s.Name != "orders" {
			t.Errorf("the name is %q", s.Name)
		}
		if s.Drains != 1 || s.LastDrainSize != 20 || s.LastDrainTime < 5*time.Second || s.LastDrainTime > 11*time.Second || !s.DrainSince.IsZero() || s.DrainSize+s.DrainLeft > 0 {
			t.Errorf("%d drains, the last of %d in %v; under way: %d of %d", s.Drains, s.LastDrainSize, s.LastDrainTime, s.DrainLeft, s.DrainSize)
		}
		if got := s.Closed[CloseSuperseded]; got != 20 || len(s.Closed) != 1 {
			t.Errorf("closed: %v", s.Closed)
		}
		want := WindowStats{
			MaxLifetime: 8 * time.Minute, Overlap: 10 * time.Minute, Lag: time.Minute, MaxInUse: time.Minute,
			RetryTimeout: 30 * time.Second, DrainTime: 10 * time.Second,
		}
		if s.Window != want {
			t.Errorf("the window in force is %+v, want %+v", s.Window, want)
		}

		mu.Lock()
		defer mu.Unlock()
		own := 0
		var took time.Duration
		for _, l := range logins {
			took += l.Took
			if l.Own {
				own++
			}
			if l.Err != nil || l.Refused || l.Took < login || l.Took > login+time.Millisecond || l.Version.Number == 0 {
				t.Errorf("a login: %+v", l)
			}
		}
		all, _ := r.server.attempts("v1")
		new2, _ := r.server.attempts("v2")
		if len(logins) != all+new2 || s.Logins != uint64(all+new2) || s.LoginTime != took {
			t.Errorf("the server saw %d logins, Stats %d in %v, the callbacks %d in %v", all+new2, s.Logins, s.LoginTime, len(logins), took)
		}
		if own != len(logins)-20 {
			t.Errorf("%d logins were the connector's own, want all %d but the pool's 20", own, len(logins))
		}
		if got := s.Observed.LongestLogin; got.Took < login || got.Took > login+time.Millisecond || got.At.After(s.LastLoginAt) || got.At.Before(rotated.Add(-time.Second)) {
			t.Errorf("the longest login took %v", got)
		}
		if ago := time.Since(s.LastLoginAt); ago < 0 || ago > 20*time.Second {
			t.Errorf("the last login was %v ago", ago)
		}
	})
}

// The numbers of an outage: the refusals and when the next attempt is due, who waits, who
// has failed, and that it is over.
func TestStatsOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			cfg.Window, cfg.RetryTimeout, cfg.NoFallback = InPlace(), 4*time.Second, true
		})
		r.db.SetMaxIdleConns(-1)
		if err := r.query("0s"); err != nil {
			t.Fatal(err)
		}
		r.server.grant("v1", "changed")
		for range 3 {
			go func() { _ = r.query("0s") }()
		}
		time.Sleep(time.Second)
		s := r.c.Stats()
		if s.Waiting != 3 || s.Waits != 3 || s.WaitTime < 2*time.Second || s.WaitTime > 3*time.Second {
			t.Errorf("%d wait, %d have for %v together", s.Waiting, s.Waits, s.WaitTime)
		}
		if s.Refusals == 0 || s.RefusalCode != "28P01" || !s.NextAttemptAt.After(time.Now()) || s.Versions[0].RefusedSince.IsZero() {
			t.Errorf("%d refusals with code %q, the next attempt at %v", s.Refusals, s.RefusalCode, s.NextAttemptAt)
		}
		time.Sleep(10 * time.Second)
		if s = r.c.Stats(); s.ConnectFailures[FailedRefused] != 3 || len(s.ConnectFailures) != 1 || s.Waiting > 0 {
			t.Errorf("failures: %v, %d wait", s.ConnectFailures, s.Waiting)
		}
		r.source.publish("v1", "changed")
		time.Sleep(20 * time.Second)
		if s = r.c.Stats(); s.Refusals != 0 || s.RefusalCode != "" || !s.NextAttemptAt.IsZero() || !s.Versions[0].RefusedSince.IsZero() {
			t.Errorf("after it: %d refusals with code %q, the next attempt at %v", s.Refusals, s.RefusalCode, s.NextAttemptAt)
		}
	})
}

// Why Connect fails is counted by kind, and in no other.
func TestConnectFailuresAreCountedByKind(t *testing.T) {
	for kind, fail := range map[ConnectFailure]func(r *rig, ctx context.Context) context.Context{
		FailedRefused: func(r *rig, ctx context.Context) context.Context { r.server.grant("v1", "another"); return ctx },
		FailedSource:  func(_ *rig, ctx context.Context) context.Context { return ctx }, // from its first read on
		FailedLogin: func(r *rig, ctx context.Context) context.Context {
			r.server.set(func(s *fakeServer) { s.down = errors.New("down") })
			return ctx
		},
		FailedClosed:  func(r *rig, ctx context.Context) context.Context { _ = r.c.Close(); return ctx },
		FailedExpired: func(r *rig, ctx context.Context) context.Context { r.lease(time.Now().Add(-time.Second)); return ctx },
		FailedCanceled: func(r *rig, ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		},
	} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(cfg *Config) {
					cfg.RetryTimeout = -1
					if kind == FailedSource {
						cfg.Source.(*fakeSource).fail(errors.New("no file"))
					}
				})
				ctx := fail(r, t.Context())
				for range 2 {
					if conn, err := r.c.Connect(ctx); err == nil {
						_ = conn.Close()
						t.Fatal("Connect succeeds")
					}
				}
				if got := r.c.Stats().ConnectFailures; got[kind] != 2 || len(got) != 1 {
					t.Errorf("failures: %v", got)
				}
			})
		})
	}
}

func TestStatsOfASourceThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(1)
		failing := time.Now()
		torn := errors.New("torn")
		r.source.fail(torn)
		time.Sleep(time.Minute)
		s := r.c.Stats()
		if s.SourceErrors == 0 || s.SourceErr == nil || !strings.Contains(s.SourceErr.Error(), "torn") || s.SourceFailingSince.Sub(failing) > time.Second || s.SourceReadAt.After(failing) {
			t.Errorf("%d errors, since %v: %v; last read %v", s.SourceErrors, s.SourceFailingSince, s.SourceErr, s.SourceReadAt)
		}
		r.source.fail(nil)
		time.Sleep(time.Minute)
		if s = r.c.Stats(); s.SourceErr != nil || !s.SourceFailingSince.IsZero() {
			t.Errorf("healed: since %v: %v", s.SourceFailingSince, s.SourceErr)
		}
	})
}

// When health will say that a successor is overdue is known beforehand.
func TestStatsKnowWhenASuccessorIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.lease(time.Now().Add(time.Hour))
		r.fill(1)
		due := r.c.Stats().SuccessorDueAt
		time.Sleep(time.Until(due) - time.Second)
		if err := r.c.CheckHealth(); err != nil {
			t.Errorf("before it is due: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := r.c.CheckHealth(); err == nil {
			t.Error("when it is due, nothing is said")
		}
	})
}

// An Opener's own code is what the connector shows.
func TestOpenersMayHaveCodesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			s, _ := cfg.Opener.(*fakeServer)
			cfg.Opener, cfg.RetryTimeout = codedOpener{s}, -1
		})
		r.server.grant("v1", "another")
		var refused *RefusedError
		if err := r.query("0s"); !errors.As(err, &refused) || refused.Code != "1045" {
			t.Errorf("%v; code %q", err, refused.Code)
		}
		if got := r.c.Stats().RefusalCode; got != "1045" {
			t.Errorf("Stats has the code %q", got)
		}
	})
}

type codedOpener struct{ *fakeServer }

func (codedOpener) Code(error) string { return "1045" }

func TestLogLinesHaveTheConnectorsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRig(t, func(cfg *Config) {
			cfg.Name, cfg.Logger = "orders", slog.New(slog.NewTextHandler(&log, nil))
		})
		r.fill(1)
		_ = r.db.Close()
		synctest.Wait()
		for line := range strings.Lines(log.String()) {
			if !strings.Contains(line, "connector=orders") {
				t.Errorf("a line without the name: %s", line)
			}
		}
		if log.Len() == 0 {
			t.Error("nothing was logged")
		}
	})
}

// Each of several traces is called, and one that panics keeps none of the others from it.
func TestJoinTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &events{}, &events{}
		broken := &Trace{
			Rotated: func(VersionStats) { panic("broken") },
			Proven:  func(VersionStats) { panic("broken") },
			Closed:  func(VersionStats, CloseReason, time.Duration) { panic("broken") },
		}
		drained := 0
		last := &Trace{Drained: func(int, time.Duration) { drained++ }, Login: func(LoginInfo) {}}
		r := newRig(t, func(cfg *Config) {
			cfg.Trace = JoinTraces(first.trace(), nil, broken, second.trace(), last)
		})
		r.fill(3)
		r.rotate("v2")
		time.Sleep(time.Minute)
		_ = r.db.Close()
		want := first.all()
		if len(want) < 6 || strings.Join(want, "\n") != strings.Join(second.all(), "\n") || drained != 1 {
			t.Errorf("the first:\n%s\nthe second:\n%s\ndrained: %d", strings.Join(want, "\n"), strings.Join(second.all(), "\n"), drained)
		}
	})
	if joined := JoinTraces(nil, nil); joined == nil || joined.Login != nil || joined.Drained != nil {
		t.Errorf("of nothing: %+v", joined)
	}
}
