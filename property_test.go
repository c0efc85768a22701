package sqlrotate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Random schedules: whatever the load, the rotations and the size of the pool, a
// window that holds fails no query, no session is open when its role is revoked,
// and no login is attempted afterwards.
func TestRandomSchedulesKeepTheWindow(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomSchedule(t, seed) })
		})
	}
}

func randomSchedule(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	window := Window{Overlap: 2 * time.Minute, Lag: 5 * time.Second, Checkout: 20 * time.Second}
	size := 1 + random.IntN(20)
	r := newRig(t, func(cfg *Config) { cfg.Window = window })
	r.db.SetMaxOpenConns(size)
	r.db.SetMaxIdleConns(random.IntN(size + 1))

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for worker := range 1 + random.IntN(2*size) {
		random := rand.New(rand.NewPCG(seed, uint64(worker+1)))
		longest := time.Duration(1 + random.Int64N(int64(10*time.Second)))
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := r.query(time.Duration(random.Int64N(int64(longest))).String()); err != nil {
					t.Errorf("%v: %v; %+v", time.Now(), err, r.c.Stats())
					return
				}
				time.Sleep(time.Duration(random.Int64N(int64(longest))))
			}
		})
	}
	revoked := map[string]time.Time{}
	current := "v1"
	for n := range 10 {
		time.Sleep(time.Duration(random.Int64N(int64(3 * time.Minute))))
		old := current
		current = fmt.Sprintf("w%d", n)
		r.rotate(current)
		time.AfterFunc(window.Overlap, func() {
			if n := r.server.open(old); n > 0 {
				t.Errorf("%d sessions of %s are open when it is revoked", n, old)
			}
			r.server.set(func(s *fakeServer) {
				delete(s.roles, old)
				revoked[old] = time.Now()
			})
		})
	}
	time.Sleep(window.Overlap + time.Minute)
	stop()
	wg.Wait()
	r.server.set(func(s *fakeServer) {
		for _, l := range s.logins {
			if at, ok := revoked[l.user]; ok && l.at.After(at) {
				t.Errorf("a login of %s is attempted %v after it was revoked", l.user, l.at.Sub(at))
			}
		}
		if len(revoked) != 10 {
			t.Errorf("%d roles were revoked, want 10", len(revoked))
		}
	})
	if got := r.c.Stats(); got.Overran > 0 || got.Refused > 0 {
		t.Errorf("%+v", got)
	}
}
