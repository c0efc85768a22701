// The connector on a simulated clock, over the server of the imagination: rules that rest
// on time, and what goes on between pool, connector and server.

package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// laggingSource answers a tenth of a second after it has looked.
type laggingSource struct{ *fakeSource }

func (s laggingSource) Credential(ctx context.Context) (Credential, error) {
	cred, err := s.fakeSource.Credential(ctx)
	select {
	case <-time.After(100 * time.Millisecond):
		return cred, err
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
}

func TestRotationDuringAReadIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Source = laggingSource{cfg.Source.(*fakeSource)} })
		r.fill(3)
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(50 * time.Millisecond)
		r.rotate("v3")
		time.Sleep(5 * time.Second)
		if user := r.c.Stats().Versions[0].Username; user != "v3" {
			t.Errorf("the current version is %s", user)
		}
	})
}

func TestEndThatIsLearntLaterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(3)
		time.Sleep(time.Second)
		r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(70 * time.Second)}, nil)
		time.Sleep(71 * time.Second)
		synctest.Wait()
		if n := r.server.open("v1"); n > 0 {
			t.Errorf("%d connections are open after NotAfter", n)
		}
		if r.c.CheckHealth() == nil {
			t.Error("healthy although the lease has ended without a successor")
		}
	})
}

// A lease of an hour that is renewed again and again is never about to end.
func TestRenewedLeaseIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		renew := func() {
			r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(time.Hour)}, nil)
		}
		renew()
		r.fill(1)
		for range 20 {
			time.Sleep(40 * time.Minute)
			if err := r.c.CheckHealth(); err != nil {
				t.Fatal(err)
			}
			renew()
			synctest.Wait()
		}
		time.Sleep(50 * time.Minute)
		if r.c.CheckHealth() == nil {
			t.Error("healthy in the last sixth of a lease")
		}
	})
}

// A read that began before the renewal and ends after another one has seen it.
func TestRenewalIsNotTurnedBackByALateRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		r := newRig(t, func(cfg *Config) {
			src := cfg.Source.(*fakeSource)
			cfg.Source = SourceFunc(func(ctx context.Context) (Credential, error) {
				cred, err := src.Credential(ctx)
				if slow.CompareAndSwap(true, false) {
					time.Sleep(time.Second)
				}
				return cred, err
			})
		})
		lease := func(d time.Duration) time.Time {
			end := time.Now().Add(d)
			r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: end}, nil)
			return end
		}
		lease(5 * time.Minute)
		r.fill(1)
		slow.Store(true)
		var late sync.WaitGroup
		late.Go(func() { _ = r.c.read(t.Context()) })
		synctest.Wait()
		end := lease(time.Hour)
		if err := r.c.read(t.Context()); err != nil {
			t.Error(err)
		}
		late.Wait()
		if got := r.c.Stats().Versions[0].EndsAt; !got.Equal(end) {
			t.Errorf("it ends %v too early", end.Sub(got))
		}
	})
}

func TestRenewedLeaseEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		lease := func(d time.Duration) {
			r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(d)}, nil)
		}
		lease(-time.Second)
		go func() {
			time.Sleep(time.Second)
			lease(time.Hour)
		}()
		start := time.Now()
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the query took %v", d)
		}
	})
}

func TestServerThatIsDownIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(3)
		r.server.set(func(s *fakeServer) { s.down = context.DeadlineExceeded })
		r.rotate("v2")
		time.Sleep(time.Minute)
		if n, _ := r.server.attempts("v2"); n > 15 {
			t.Errorf("%d attempts in a minute", n)
		}
		if n := r.server.open("v1"); n != 3 {
			t.Errorf("%d old connections, want all 3 before the drain", n)
		}
		r.server.set(func(s *fakeServer) { s.down = nil })
		time.Sleep(30 * time.Second)
		if n := r.server.open("v1"); n != 0 {
			t.Errorf("%d old connections are left half a minute after recovery", n)
		}
	})
}

func TestRefusedCredentialFallsBackInsideTheOverlapOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.RetryTimeout = time.Second })
		r.fill(1)
		r.db.SetMaxIdleConns(-1)
		r.source.publish("v2", "there is no such role")
		time.Sleep(time.Second)
		if err := r.query("0s"); err != nil {
			t.Errorf("inside the overlap: %v", err)
		}
		time.Sleep(9 * time.Minute) // overlap less lag
		before, _ := r.server.attempts("v1")
		var refused *RefusedError
		if err := r.query("0s"); !errors.As(err, &refused) || refused.Code != "28P01" || refused.Username != "v2" {
			t.Errorf("after the overlap: %v", err)
		}
		if after, _ := r.server.attempts("v1"); after != before {
			t.Error("the previous credential was used after its end")
		}
		if n := r.server.open("v1"); n != 0 {
			t.Errorf("%d connections outlive their credential", n)
		}
		r.rotate("v3")
		if err := r.query("0s"); err != nil {
			t.Errorf("after the next file: %v", err)
		}
	})
}

// A credential that never works is asked after again and again; meanwhile, for as long
// as the overlap lasts, logins use the one before it.
func TestFallbackOutlastsTheRetryTimeout(t *testing.T) {
	for _, test := range []struct {
		name     string
		callers  int
		patience time.Duration // theirs
	}{
		{"logins that wait for one another", 5, time.Minute},
		{"a caller that doesn't wait for a refusal and then a login", 1, 700 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(cfg *Config) {
					cfg.Window = Window{Overlap: time.Hour, Lag: -1, MaxInUse: -1}
					cfg.RetryTimeout = 10 * time.Second
				})
				r.fill(1)
				r.db.SetMaxIdleConns(-1)
				r.server.set(func(s *fakeServer) { s.latency = 500 * time.Millisecond })
				r.source.publish("v2", "there is no such role")
				time.Sleep(2 * time.Second)
				for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(7 * time.Second) {
					var callers sync.WaitGroup
					for range test.callers {
						callers.Go(func() {
							ctx, cancel := context.WithTimeout(t.Context(), test.patience)
							defer cancel()
							if err := r.db.PingContext(ctx); err != nil {
								t.Error(err)
							}
						})
					}
					callers.Wait()
				}
				if n, _ := r.server.attempts("v2"); n > 80 {
					t.Errorf("%d attempts in ten minutes with the credential that is refused", n)
				}
			})
		})
	}
}

func TestWrongPasswordCostsAHandfulOfAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.source.publish("v1", "wrong")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		done := make(chan error)
		for range 100 {
			go func() { done <- r.db.PingContext(ctx) }()
		}
		for range 100 {
			if err := <-done; err == nil {
				t.Error("a login succeeded")
			}
		}
		if n, _ := r.server.attempts("v1"); n < 2 || n > 8 {
			t.Errorf("%d attempts in ten seconds", n)
		}
	})
}

// The server accepts one login just before the password changes, and the client
// hears of it after others have been refused.
func TestLateSuccessIsNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late atomic.Bool
		r := newRig(t, func(cfg *Config) {
			cfg.Window = InPlace()
			s := cfg.Opener.(*fakeServer)
			cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, n int, cred Credential, dial DialFunc) (driver.Conn, error) {
				conn, err := s.Open(ctx, cred, dial)
				if late.CompareAndSwap(true, false) {
					s.grant("v1", "p2")
					time.Sleep(20 * time.Millisecond)
				}
				return conn, err
			}}
		})
		r.server.latency = 5 * time.Millisecond
		r.db.SetMaxIdleConns(-1)
		r.db.SetMaxOpenConns(20)
		stop := r.load(20, "0s", 5*time.Millisecond)
		time.Sleep(time.Second)
		late.Store(true)
		time.Sleep(3 * time.Second)
		if all, ok := r.server.attempts("v1"); all-ok < 3 || all-ok > 25 {
			t.Errorf("%d refused logins", all-ok)
		}
		r.source.publish("v1", "p2")
		time.Sleep(time.Second)
		stop()
	})
}

// A Refresher may make a new login when it is told of a refusal.
func TestOnlyARefusedCredentialIsRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &refresherFake{}
		r := newRig(t, func(cfg *Config) {
			src.fakeSource = cfg.Source.(*fakeSource)
			cfg.Source = src
		})
		r.server.latency = time.Second // logins wait for the first of them
		for range 3 {
			r.fill(3)
			r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(time.Hour)}, nil)
			time.Sleep(5 * time.Second)
			r.db.SetMaxIdleConns(-1)
		}
		if got := src.told(); len(got) > 0 {
			t.Errorf("the source was told %d times that %q is refused", len(got), got[0].Username)
		}
		r.server.grant("v1", "p2")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if r.db.PingContext(ctx) == nil {
			t.Error("a login succeeded")
		}
		if len(src.told()) == 0 {
			t.Error("the source wasn't told of a refusal")
		}
	})
}

// staleRefresher gives the credential that it has until it is told of a refusal, and takes
// its time for another.
type staleRefresher struct {
	*fakeSource
	told atomic.Int64
}

func (s *staleRefresher) Refresh(ctx context.Context, _ Credential) (Credential, error) {
	s.told.Add(1)
	time.Sleep(100 * time.Millisecond)
	s.publish("v1", "p2")
	return s.Credential(ctx)
}

func newStaleRig(t *testing.T) (*rig, *staleRefresher) {
	t.Helper()
	src := &staleRefresher{}
	r := newRig(t, func(cfg *Config) {
		src.fakeSource = cfg.Source.(*fakeSource)
		cfg.Source, cfg.RetryTimeout = src, -1
	})
	return r, src
}

// Whose login is refused waits for what the source gives past its cache, even if it waits for
// nothing else.
func TestACallerWaitsForTheRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newStaleRig(t)
		r.server.grant("v1", "p2")
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
	})
}

// The source hears of a refusal of the connector's own logins as well.
func TestARefusalThatNobodyHearsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, src := newStaleRig(t)
		r.fill(1)
		r.source.publish("v1", "wrong")
		time.Sleep(time.Second)
		if src.told.Load() == 0 {
			t.Error("it isn't told")
		}
	})
}

func TestBurstThatGrowsOldLeavesNoCliff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(20)
		most := 0
		for range 10 * 60 * 10 {
			before := r.server.open("")
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			most = max(most, before-r.server.open(""))
		}
		if most > 2 { // one, and a spare that nobody took
			t.Errorf("%d connections went within 100 ms", most)
		}
		if r.c.Stats().Closed[CloseAged] < 20 {
			t.Errorf("%+v", r.c.Stats())
		}
	})
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a goroutine that is left fails the bubble
		r := newRig(t, nil)
		r.fill(5)
		r.rotate("v2")
		time.Sleep(time.Second)
		if err := r.db.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := r.server.open(""); n != 0 {
			t.Errorf("%d sessions are open", n)
		}
	})
}

func TestManyRotationsASecondEndWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(10)
		for i := range 100 {
			r.rotate(fmt.Sprintf("w%d", i))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		if n := r.server.open(""); n != r.server.open("w99") {
			t.Errorf("%d connections, %d with the last credential", n, r.server.open("w99"))
		}
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
		if n := len(r.c.Stats().Versions); n > 17 {
			t.Errorf("%d versions are remembered", n)
		}
		if n := r.c.Stats().Logins; n > 250 {
			t.Errorf("%d logins for 100 rotations of 10 connections", n)
		}
	})
}

// Whatever is kept of a rotation goes when its overlap is over. Heaps are compared, so no
// other test may run meanwhile.
func TestSoakRotationsLeaveNothingBehind(t *testing.T) {
	length := soakFor(t, 0)
	if length == 0 {
		manyRotations(t, 2_000)
	}
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); {
		manyRotations(t, 10_000)
	}
}

func manyRotations(t *testing.T, rotations int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			cfg.Window = Window{Overlap: 4 * time.Second, Lag: 500 * time.Millisecond, MaxInUse: time.Second}
		})
		r.fill(3)
		stop := r.load(3, "100ms", 900*time.Millisecond)
		rotate := func(from, to int) {
			for i := from; i < to; i++ {
				user := fmt.Sprint("w", i)
				r.rotate(user)
				time.Sleep(time.Second)
				r.server.set(func(s *fakeServer) {
					delete(s.roles, fmt.Sprint("w", i-4))
					s.logins = nil
				})
			}
		}
		inUse := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		rotate(0, 100)
		before := inUse()
		rotate(100, rotations)
		if grown := int64(inUse() - before); grown > 100*int64(rotations) {
			t.Errorf("%d bytes more are in use after %d rotations", grown, rotations-100)
		}
		stop()
		r.c.mu.Lock()
		versions, sessions := len(r.c.book.versions), len(r.c.sessions)
		r.c.mu.Unlock()
		if versions > 5 || sessions > 5 {
			t.Errorf("%d versions and %d sessions are remembered", versions, sessions)
		}
		if got := r.c.Stats(); got.Rotations != uint64(rotations) || got.Outlived > 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestRotationBackInTheMiddleOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(20)
		r.rotate("v2")
		time.Sleep(4 * time.Second)
		r.source.publish("v1", "p1")
		time.Sleep(30 * time.Second)
		if n := r.server.open("v2"); n != 0 {
			t.Errorf("%d connections of the credential that was taken back", n)
		}
		current := r.c.Stats().Versions[0]
		if current.Number != 1 || !current.EndsAt.IsZero() {
			t.Errorf("the current version is %+v", current)
		}
		time.Sleep(15 * time.Minute) // past what was to be its end
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
	})
}

func TestPoolThatChangesDuringADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(20)
		r.rotate("v2")
		time.Sleep(3 * time.Second)
		r.db.SetMaxOpenConns(5)
		time.Sleep(30 * time.Second)
		if n := r.server.open("v1"); n != 0 {
			t.Errorf("%d old connections", n)
		}
		r.rotate("v3")
		time.Sleep(100 * time.Millisecond)
		if err := r.db.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := r.server.open(""); n != 0 {
			t.Errorf("%d sessions are open after Close", n)
		}
	})
}

func TestCallersWithoutPatienceDoNotHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.server.set(func(s *fakeServer) { s.latency = 500 * time.Millisecond })
		r.source.publish("v1", "wrong")
		ask := func(d time.Duration) (failed int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				impatient, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				if r.db.PingContext(impatient) != nil {
					failed++
				}
				cancel()
			}
			return failed
		}
		ask(10 * time.Second)
		if n, _ := r.server.attempts("v1"); n < 2 || n > 8 {
			t.Errorf("%d attempts in ten seconds", n)
		}
		r.source.publish("v1", "p1")
		ask(5 * time.Second)
		if n := ask(10 * time.Second); n > 0 {
			t.Errorf("%d failures with the right password: nobody logged in for those who don't wait", n)
		}
	})
}

// A pool that nobody manages keeps its old connections until their credential ends, and
// the log says so at the first rotation.
func TestUnmanagedPoolIsCutOffAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		r := &rig{T: t, server: newFakeServer(), source: newFakeSource("v1", "p1")}
		r.server.grant("v1", "p1")
		window := Window{Overlap: 2 * time.Minute, Lag: 10 * time.Second, MaxInUse: 20 * time.Second}
		c, err := New(Config{Source: r.source, Opener: r.server, Dial: r.server.dial, Window: window, Logger: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		r.c, r.db = c, sql.OpenDB(c)
		defer func() { _ = r.db.Close() }()
		r.fill(5)
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(window.Overlap - window.Lag - time.Second)
		synctest.Wait()
		if n := r.server.open("v1"); n != 5 {
			t.Errorf("%d old connections a second before the end, want all 5", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := r.server.open("v1"); n != 0 {
			t.Errorf("%d connections outlive their credential", n)
		}
		if got := r.c.Stats(); got.Outlived != 5 || got.Closed[CloseSuperseded] != 0 {
			t.Errorf("%+v", got)
		}
		r.rotate("v3")
		time.Sleep(time.Second)
		if n := strings.Count(log.String(), "no *sql.DB is managed"); n != 1 {
			t.Errorf("the log says %d times that the pool isn't managed:\n%s", n, log)
		}
	})
}

// An idle time that the application has set makes the pool's cleaner run less often;
// old connections are gone in time all the same.
func TestDrainWithIdleSettingsOfTheApplication(t *testing.T) {
	for name, adjust := range map[string]func(*sql.DB){
		"short idle time": func(db *sql.DB) { db.SetConnMaxIdleTime(30 * time.Second) },
		"long idle time":  func(db *sql.DB) { db.SetConnMaxIdleTime(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.fill(10)
				adjust(r.db)
				time.Sleep(time.Second)
				r.rotate("v2")
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := r.server.open("v1"); n != 0 {
					t.Errorf("%d old connections a minute after the rotation", n)
				}
				if err := r.query("1s"); err != nil {
					t.Error(err)
				}
				if r.server.most() > 11 || r.c.Stats().Outlived > 0 {
					t.Errorf("%d sessions at once; %+v", r.server.most(), r.c.Stats())
				}
			})
		})
	}
}

// A pool whose connections are idle replaces none that is retired. Replacements are kept
// for it all the same, so that its next burst finds them; and if none comes, they go.
func TestIdlePoolComesOutOfADrainWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(20)
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if old, all := r.server.open("v1"), r.server.open(""); old != 0 || all < 20 || r.server.most() > 21 {
			t.Errorf("%d sessions, %d of them old, %d at the peak", all, old, r.server.most())
		}
		before, _ := r.server.attempts("v2")
		r.fill(20)
		if after, _ := r.server.attempts("v2"); after > before+1 {
			t.Errorf("a burst needed %d logins", after-before)
		}

		r.rotate("v3")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := r.server.open(""); n > 1 {
			t.Errorf("%d sessions two minutes later, and nobody wants any", n)
		}
		n, _ := r.server.attempts("v3")
		time.Sleep(time.Hour)
		if later, _ := r.server.attempts("v3"); n > 30 || later > n {
			t.Errorf("%d logins for a pool of 20, and %d in an idle hour", n, later-n)
		}
	})
}

// database/sql counts the age of a connection from when it has got it. On a busy machine, or
// behind a connector that does something to each new connection, that is later than the
// connector thinks; and yet the last one goes within the drain's time.
func TestConnectionsThatThePoolGetsLateAreDrainedInTime(t *testing.T) {
	for _, late := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 50 * time.Millisecond} {
		for _, n := range []int{1, 2, 5, 20} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				db := sql.OpenDB(lateConnector{r.c, late})
				defer db.Close()
				r.c.Manage(db)
				_ = r.db.Close()
				r.db = db
				r.fill(n)
				time.Sleep(time.Second)
				r.rotate("v2")
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if old := r.server.open("v1"); old != 0 || r.server.most() > n+1 {
					t.Errorf("%v late: %d of %d are left, %d at the peak", late, old, n, r.server.most())
				}
			})
		}
	}
}

// lateConnector takes its time with connections that are open.
type lateConnector struct {
	*Connector
	late time.Duration
}

func (c lateConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	time.Sleep(c.late)
	return conn, err
}

// A login for the pool that is under way when an old role is asked after counts, too.
func TestAskingAfterAnOldRoleMakesRoomForALoginUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.db.SetMaxOpenConns(1)
		r.fill(1)
		r.rotate("v2") // a spare is kept from now on
		time.Sleep(10 * time.Second)
		r.db.SetMaxIdleConns(-1)
		for round := range 60 {
			r.source.publish("nobody", "there is no such role") // v2 goes on, and is asked after
			for range 100 {
				if err := r.query("7ms"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(round) * 100 * time.Microsecond)
			}
			r.source.publish("v2", "p-v2")
			time.Sleep(time.Second)
		}
		if r.server.most() > 2 {
			t.Errorf("%d sessions at once with a pool of 1", r.server.most())
		}
	})
}

// A pool that may have fewer connections than before gets no spares for those that
// went, however often the credential changes.
func TestShrunkPoolIsNotKeptWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(20)
		r.rotate("v2")
		time.Sleep(3 * time.Second) // in the middle of the drain
		r.db.SetMaxOpenConns(5)
		defer r.load(5, "50ms", 30*time.Millisecond)()
		for i := range 5 {
			time.Sleep(30 * time.Second)
			r.rotate(fmt.Sprintf("w%d", i))
		}
		time.Sleep(15 * time.Second)
		if n := r.server.open(""); n > 6 {
			t.Errorf("%d sessions, and the pool may have 5", n)
		}
	})
}

// Settings of the application that change in the middle of a drain, with load.
func TestIdleSettingsThatChangeDuringADrain(t *testing.T) {
	for name, adjust := range map[string]func(*sql.DB){
		"idle time":    func(db *sql.DB) { db.SetConnMaxIdleTime(time.Second) },
		"no idle ones": func(db *sql.DB) { db.SetMaxIdleConns(0) },
		"both":         func(db *sql.DB) { db.SetMaxIdleConns(0); db.SetConnMaxIdleTime(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.db.SetMaxOpenConns(20)
				r.fill(20)
				defer r.load(10, "700ms", 300*time.Millisecond)()
				time.Sleep(time.Second)
				r.rotate("v2")
				time.Sleep(4 * time.Second)
				if n := r.server.open("v1"); n == 0 || n == 20 {
					t.Fatalf("%d old connections: not in the middle of the drain", n)
				}
				adjust(r.db)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if n := r.server.open("v1"); n != 0 {
					t.Errorf("%d old connections are left", n)
				}
				if got := r.c.Stats(); got.Outlived > 0 || got.Refused > 0 || r.server.most() > 21 {
					t.Errorf("%d sessions at once; %+v", r.server.most(), got)
				}
			})
		})
	}
}

// A server that takes its time to refuse, and counts refusals; the file tells of the new
// password half a minute after the server has it.
func TestServerThatRefusesSlowlySeesAHandfulOfLogins(t *testing.T) {
	const latency = 2500 * time.Millisecond
	for name, idle := range map[string]int{"pool": 20, "new connections all the time": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(cfg *Config) { cfg.Window, cfg.RetryTimeout = InPlace(), time.Minute })
				r.db.SetMaxOpenConns(20)
				r.fill(20)
				r.db.SetMaxIdleConns(idle)
				stop := r.load(20, "50ms", 10*time.Millisecond)
				time.Sleep(10 * time.Second)
				r.server.set(func(s *fakeServer) { s.latency = latency })
				r.server.grant("v1", "next")
				if idle > 0 {
					r.db.SetMaxIdleConns(idle - 1) // one has to log in
				}
				time.Sleep(30 * time.Second)
				r.source.publish("v1", "next")
				time.Sleep(10 * time.Second)
				stop()
				var refused []time.Time
				r.server.set(func(s *fakeServer) {
					for _, l := range s.logins {
						if !l.ok {
							refused = append(refused, l.at)
						}
					}
				})
				underWay := 0
				for _, at := range refused {
					if !at.After(refused[0].Add(latency)) {
						underWay++
					}
				}
				if n := len(refused) - underWay; n < 1 || n > 5 || underWay > 22 {
					t.Errorf("%d logins refused, and %d when nobody knew yet", n, underWay)
				}
				t.Logf("%d logins refused, and %d when nobody knew yet", len(refused)-underWay, underWay)
			})
		})
	}
}

// A spare whose server has vanished without a word holds nobody up for long, be it
// one that asks for a connection without a deadline.
func TestSpareOfAServerThatVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(5)
		r.rotate("v2")
		time.Sleep(20 * time.Second)
		r.server.set(func(s *fakeServer) {
			for c := range s.sessions {
				c.silent = true
			}
		})
		r.db.SetMaxIdleConns(-1)
		from := time.Now()
		if err := r.query("1ms"); err != nil {
			t.Error(err)
		}
		if d := time.Since(from); d < time.Second || d > 2*time.Second {
			t.Errorf("a connection after %v; the test is for a spare that doesn't answer", d)
		}
	})
}

// A connection that stays in use beyond its lifetime, such as one with an advisory lock.
func TestConnectionThatIsHeldForADayCostsNoLogins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		conn, err := r.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		before := r.c.Stats().Logins
		time.Sleep(23 * time.Hour)
		if n := r.c.Stats().Logins - before; n > 10 {
			t.Errorf("%d logins in 23 hours in which nobody asked for a connection", n)
		}
		_ = conn.Close()
	})
}

// Logins that hang take up the room of the spares that the pool is owed.
func TestHangingLoginsDoNotChurnSpares(t *testing.T) {
	for name, drain := range map[string]time.Duration{"default": 0, "at once": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var hang atomic.Int64
				r := newRig(t, func(cfg *Config) {
					cfg.DrainTime = drain
					s := cfg.Opener.(*fakeServer)
					cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, n int, cred Credential, dial DialFunc) (driver.Conn, error) {
						if hang.Add(-1) >= 0 {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						return s.Open(ctx, cred, dial)
					}}
				})
				r.fill(10)
				r.db.SetMaxIdleConns(20)
				time.Sleep(10 * time.Millisecond)
				// Six more are wanted, and hang.
				hang.Store(6)
				var conns []*sql.Conn
				for range 10 {
					conn, err := r.db.Conn(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, conn)
				}
				for range 6 {
					go func() {
						if conn, err := r.db.Conn(context.Background()); err == nil {
							_ = conn.Close()
						}
					}()
				}
				time.Sleep(100 * time.Millisecond)
				for _, conn := range conns {
					_ = conn.Close()
				}
				r.rotate("v2")
				time.Sleep(25 * time.Second)
				if _, n := r.server.attempts("v2"); n > 30 {
					t.Errorf("%d logins for a pool of 10", n)
				}
				time.Sleep(10 * time.Second)
			})
		})
	}
}

// nosyOpener asks the connector how it does whenever it is asked something.
type nosyOpener struct {
	*fakeServer
	c *Connector
}

func (o *nosyOpener) Refused(err error) bool {
	_ = o.c.Stats() // hangs if this is called under the lock
	return o.fakeServer.Refused(err)
}

func TestOpenerIsNotAskedUnderTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &nosyOpener{}
		r := newRig(t, func(cfg *Config) {
			o.fakeServer = cfg.Opener.(*fakeServer)
			cfg.Opener, cfg.RetryTimeout = o, -1
		})
		o.c = r.c
		r.source.publish("v1", "wrong")
		var refused *RefusedError
		if err := r.query("0s"); !errors.As(err, &refused) {
			t.Error(err)
		}
	})
}

// A source that takes its credential from a database may fail as one does.
func TestBadConnOfASourceIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Source.(*fakeSource).fail(driver.ErrBadConn) }) // from its first read on
		if _, err := r.c.Connect(t.Context()); err == nil || errors.Is(err, driver.ErrBadConn) {
			t.Error(err)
		}
	})
}

// A login that is under way when its credential ends is given up, and no connection
// has overrun. Nobody else wakes the connector.
func TestLoginIsCutOffAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(5 * time.Minute)
		r := newRig(t, func(cfg *Config) {
			cfg.RetryTimeout = -1
			cfg.Source.(*fakeSource).set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: end}, nil)
		})
		if err := r.query("0s"); err != nil {
			t.Fatal(err)
		}
		r.db.SetMaxIdleConns(-1)
		time.Sleep(time.Until(end) - time.Second)
		r.server.set(func(s *fakeServer) { s.latency = 10 * time.Second })
		var expired *ExpiredError
		if err := r.query("0s"); !errors.As(err, &expired) {
			t.Error(err)
		}
		if late := time.Since(end); late > 10*time.Millisecond {
			t.Errorf("given up %v after the end", late)
		}
		time.Sleep(10 * time.Second)
		if n := r.server.open(""); n > 0 {
			t.Errorf("%d sessions after the end", n)
		}
		if n := r.c.Stats().Outlived; n > 0 {
			t.Errorf("%d connections overran, and none was open", n)
		}
	})
}

// Who waits for a login of the connector's takes what comes of it.
func TestWaitingLoginTakesTheSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.DrainTime = time.Second })
		busy, err := r.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Close() }()
		time.Sleep(5 * time.Second)
		r.server.set(func(s *fakeServer) { s.latency = 900 * time.Millisecond })
		r.rotate("v2")
		time.Sleep(100 * time.Millisecond) // the new credential is being proven
		start := time.Now()
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 900*time.Millisecond {
			t.Errorf("the query took %v", d)
		}
	})
}

// The session that proves a credential is the one above the pool's: spares that are
// left of the rotation before make room for it.
func TestProofMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.db.SetMaxOpenConns(3)
		r.fill(3)
		stop := r.load(3, "100ms", time.Millisecond)
		for i := range 3 {
			password := fmt.Sprint("q", i)
			r.server.grant("v1", password)
			r.source.publish("v1", password)
			time.Sleep(5 * time.Second)
		}
		stop()
		if r.server.most() > 4 {
			t.Errorf("%d sessions with a pool of 3", r.server.most())
		}
	})
}

// A session that makes room has gone before the next login begins, although to close it
// takes a while.
func TestRoomIsMadeBeforeItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.DrainTime = time.Second })
		r.server.closing = 20 * time.Millisecond
		r.db.SetMaxOpenConns(3)
		r.fill(3)
		for i := range 20 {
			stop := r.load(3, fmt.Sprintf("%dms", 50+i), time.Duration(i)*time.Millisecond)
			r.rotate(fmt.Sprint("r", i))
			time.Sleep(10 * time.Second)
			stop()
		}
		if n := r.server.most(); n > 4 {
			t.Errorf("%d sessions with a pool of 3", n)
		}
	})
}

// Of two old roles with connections that are in use the server drops the older one.
func TestEachOldRoleIsAskedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		hold := func(n int) {
			for range n {
				conn, err := r.db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
			}
		}
		hold(3)
		r.rotate("v2")
		hold(3)
		r.rotate("v3")
		time.Sleep(10 * time.Second)
		r.server.set(func(s *fakeServer) { delete(s.roles, "v1") })
		time.Sleep(10 * time.Second)
		if all, ok := r.server.attempts("v1"); all-ok != 1 {
			t.Errorf("the dead role was asked after %d times", all-ok)
		}
		if all, ok := r.server.attempts("v2"); all != ok || ok < 6 {
			t.Errorf("the role that lives: %d attempts, %d successful", all, ok)
		}
	})
}

// A role that a login has found dead while it was still the current one is left at once
// when its successor comes.
func TestRoleThatDiedBeforeItsSuccessorCameIsLeftAtOnce(t *testing.T) {
	for _, pool := range []int{5, 20} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) { cfg.RetryTimeout = -1 })
			r.fill(pool)
			time.Sleep(time.Minute)
			r.server.set(func(s *fakeServer) { delete(s.roles, "v1") })
			conns := make([]*sql.Conn, pool)
			for i := range conns {
				conn, err := r.db.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				conns[i] = conn
			}
			if _, err := r.db.Conn(t.Context()); err == nil {
				t.Fatal("a dead role was let in")
			}
			for _, conn := range conns {
				_ = conn.Close()
			}
			time.Sleep(5 * time.Second)
			r.rotate("v2")
			time.Sleep(time.Second)
			synctest.Wait()
			if n := r.server.open("v1"); n > 0 {
				t.Errorf("%d of %d sessions of the dead role a second after the next one came", n, pool)
			}
		})
	}
}

// mute hides that a fakeSource is a Notifier.
func mute(src Source) Source { return SourceFunc(src.Credential) }

// The connections of an idle pool are retired in time although nothing tells of the
// rotation and nobody asks for a connection.
func TestIdlePoolFollowsASourceThatDoesNotTell(t *testing.T) {
	for _, window := range []Window{
		{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: time.Second},
		{Overlap: 10 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) { cfg.Source, cfg.Window = mute(cfg.Source), window })
			r.fill(5)
			r.rotate("v2")
			time.Sleep(window.Overlap)
			if n := r.server.open("v1"); n > 0 {
				t.Errorf("%d sessions of the old role at its end", n)
			}
			r.server.set(func(s *fakeServer) { delete(s.roles, "v1") })
			if err := r.query("0s"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRenewalIsSeenThoughNothingTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Source = mute(cfg.Source) })
		lease := func(d time.Duration) {
			r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(d)}, nil)
		}
		lease(5 * time.Minute)
		time.AfterFunc(4*time.Minute+30*time.Second, func() { lease(time.Hour) })
		if err := r.query("10m"); err != nil {
			t.Error(err)
		}
	})
}

// forgetfulNotifier is to tell of changes, and doesn't.
type forgetfulNotifier struct{ Source }

func (forgetfulNotifier) Changed() <-chan struct{} { return nil }

// What is promised doesn't rest on a Notifier: spares read the source, too.
func TestSpareLogsInWithTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.Source = forgetfulNotifier{cfg.Source} })
		r.fill(5)
		time.Sleep(time.Minute)
		r.server.grant("v1", "p2")
		r.source.publish("v1", "p2")
		time.Sleep(8 * time.Minute) // their lifetime
		if all, ok := r.server.attempts("v1"); all < 10 || all > ok {
			t.Errorf("%d logins, %d refused", all, all-ok)
		}
	})
}

// A lease to whose credential no successor comes: its connections go before the end, in
// time and one by one, those that take their place stay until it, and the log says so
// once, long before.
func TestLeaseWithoutASuccessor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		end := time.Now().Add(5 * time.Minute)
		var mu sync.Mutex
		reasons, seconds := map[CloseReason]int{}, map[time.Duration]int{}
		r := newRig(t, func(cfg *Config) {
			cfg.Source.(*fakeSource).set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: end}, nil)
			cfg.Logger = log.logger()
			cfg.Trace = &Trace{Closed: func(_ VersionStats, reason CloseReason, _ time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				reasons[reason]++
				seconds[time.Until(end).Truncate(time.Second)]++
			}}
		})
		r.db.SetMaxOpenConns(20)
		r.fill(20)
		stop := r.load(20, "100ms", 100*time.Millisecond)
		time.Sleep(time.Until(end) - time.Second)
		stop()
		mu.Lock()
		defer mu.Unlock()
		// While one is awaited its neighbours in a burst may go, too; and a spare that
		// nobody takes is closed for no such reason.
		if n := reasons["ending"]; n < 19 || n > 24 || reasons["aged"] > 0 || reasons[CloseOther] > 2 {
			t.Errorf("connections are closed for these reasons: %v", reasons)
		}
		for left, n := range seconds {
			if n > 6 {
				t.Errorf("%d connections are closed %v before the end", n, left)
			}
		}
		if n, _ := r.server.attempts("v1"); n > 46 {
			t.Errorf("%d logins", n)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "ends soon") {
			t.Errorf("%d warnings in the log:\n%s", n, log)
		}
	})
}

// What a source gives may have ended when it comes: the log doesn't say that it will.
func TestLogOfACredentialThatHasEndedAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		r := newRig(t, func(cfg *Config) {
			cfg.Source.(*fakeSource).set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(-time.Hour)}, nil)
			cfg.Logger = log.logger()
			cfg.RetryTimeout = -1
		})
		if r.db.Ping() == nil {
			t.Fatal("a login with a credential that has ended")
		}
		synctest.Wait()
		if said := log.String(); !strings.Contains(said, "the credential has ended and no successor has come") || strings.Contains(said, "ends soon") {
			t.Errorf("the log says:\n%s", said)
		}
	})
}

// A burst waits for the login that goes ahead. If that fails, for whatever passing reason,
// its caller alone fails; if the server lets nobody in, none waits for long.
func TestOneFailedLoginFailsOneCaller(t *testing.T) {
	for _, down := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) {
				s := cfg.Opener.(*fakeServer)
				cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, n int, cred Credential, dial DialFunc) (driver.Conn, error) {
					if n == 1 || down {
						time.Sleep(3 * time.Millisecond)
						return nil, errors.New("connection reset by peer")
					}
					return s.Open(ctx, cred, dial)
				}}
			})
			start := time.Now()
			var failed atomic.Int64
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() {
					if r.db.PingContext(t.Context()) != nil {
						failed.Add(1)
					}
				})
			}
			callers.Wait()
			want := map[bool]int64{false: 1, true: 100}[down]
			if took := time.Since(start); failed.Load() != want || took > 200*time.Millisecond {
				t.Errorf("down=%t: %d of 100 callers fail, within %v", down, failed.Load(), took)
			}
		})
	}
}

// Close ends the logins that are under way, whatever the server does, and their callers'
// wait.
func TestCloseEndsLoginsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.LoginTimeout = -1 })
		r.server.latency = time.Hour
		failed := make(chan error, 2)
		for range cap(failed) { // the second waits for the first
			go func() {
				_, err := r.c.Connect(context.Background())
				failed <- err
			}()
		}
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		_ = r.c.Close()
		for range cap(failed) {
			if err := <-failed; !errors.Is(err, ErrClosed) {
				t.Errorf("Connect: %v", err)
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("that takes %v", took)
		}
		if n, _ := r.server.attempts("v1"); n != 0 {
			t.Errorf("%d logins have come through", n)
		}
	})
}

// When Close returns, what it closes is closed.
func TestCloseWaitsForWhatItCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(5)
		r.rotate("v2")
		for r.server.open("v2") == 0 { // a spare: nothing has been asked for
			time.Sleep(time.Millisecond)
		}
		r.server.set(func(s *fakeServer) { s.closing = 100 * time.Millisecond })
		_ = r.c.Close()
		if n := r.server.open("v2"); n != 0 {
			t.Errorf("%d spares are open", n)
		}
	})
}
