package sqlrotate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ownPool is another driver's pool, as simple as one can be.
type ownPool struct {
	rig *rig
	*Pool

	mu      sync.Mutex
	all     []*Session
	idle    []*Session
	retired []time.Time // when Retire was called
}

func newOwnPool(r *rig, limit int) *ownPool {
	r.Helper()
	p := &ownPool{rig: r}
	var err error
	if p.Pool, err = r.c.NewPool(PoolConfig{MaxConns: limit, Retire: p.retire, Ask: p.ask}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		for _, s := range p.all {
			_ = s.Conn().Close()
		}
		_ = p.Close()
	})
	return p
}

func (p *ownPool) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = append(p.retired, time.Now())
	p.idle = slices.DeleteFunc(p.idle, func(s *Session) bool {
		if s.Keep() {
			return false
		}
		_ = s.Conn().Close()
		return true
	})
}

func (p *ownPool) ask(ctx context.Context, query string) (*Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		return s, runQuery(ctx, s.Conn(), query)
	}
	return nil, nil //nolint:nilnil // none is idle
}

// lend lends a connection, and returns what gives it back.
func (p *ownPool) lend() (s *Session, giveBack func()) {
	p.mu.Lock()
	for len(p.idle) > 0 && s == nil {
		if last := p.idle[len(p.idle)-1]; last.Lend() {
			s = last
		} else {
			_ = last.Conn().Close()
		}
		p.idle = p.idle[:len(p.idle)-1]
	}
	p.mu.Unlock()
	if s == nil {
		var err error
		if s, err = p.Connect(context.Background()); err != nil {
			p.rig.Error(err)
			return nil, func() {}
		}
		p.mu.Lock()
		p.all = append(p.all, s)
		p.mu.Unlock()
		s.Lend()
	}
	return s, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s.Return() {
			p.idle = append(p.idle, s)
		} else {
			_ = s.Conn().Close()
		}
	}
}

// fill opens n connections, and returns what gives them back.
func (p *ownPool) fill(n int) (giveBack func()) {
	var all []func()
	for range n {
		_, f := p.lend()
		all = append(all, f)
	}
	return func() {
		for _, f := range all {
			f()
		}
	}
}

// Connections of a pool that can close any of them go in the order of their births, each
// behind a replacement; the one that is in use when its turn has come goes when it is
// given back, and isn't looked for before.
func TestPoolIsRetiredOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		p := newOwnPool(r, 10)
		giveBack := p.fill(9)
		busy, done := p.lend()
		giveBack()
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if old := r.server.open("v1"); old != 1 || r.server.most() > 11 || busy.Keep() {
			t.Errorf("%d old connections, %d at the peak", old, r.server.most())
		}
		if n := len(p.retired); n < 9 || n > 20 {
			t.Errorf("Retire was called %d times", n)
		}
		done()
		time.Sleep(time.Second)
		synctest.Wait()
		if s := r.c.Stats(); s.LastDrainSize != 10 || s.Closed[CloseSuperseded] != 10 || len(s.Closed) != 1 {
			t.Errorf("%+v", s)
		}
		before, _ := r.server.attempts("v2")
		p.fill(10)()
		if after, _ := r.server.attempts("v2"); after > before {
			t.Errorf("a burst needed %d logins", after-before)
		}
		if err := p.Close(); err != nil || r.c.Stats().Outlived > 0 {
			t.Errorf("%v; %+v", err, r.c.Stats())
		}
	})
}

// How long a connection of a pool was in use is known, whatever was done with it.
func TestUseOfAPoolIsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOwnPool(newRig(t, nil), 1)
		_, giveBack := p.lend()
		time.Sleep(90 * time.Second)
		giveBack()
		time.Sleep(time.Hour)
		if use := p.rig.c.Stats().Observed.LongestUse; use.Took != 90*time.Second {
			t.Errorf("%+v", use)
		}
	})
}

// What was to go need not, once its credential has come back.
func TestSessionOfAPoolIsKeptWhenItsVersionComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		p := newOwnPool(r, 1)
		s, giveBack := p.lend()
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(15 * time.Second)
		if s.Keep() || s.Username() != "v1" {
			t.Fatal("it is not to go")
		}
		r.source.publish("v1", "p1")
		time.Sleep(time.Second)
		if !s.Keep() {
			t.Error("it is to go all the same")
		}
		giveBack()
		if again, _ := p.lend(); again != s {
			t.Error("it was not kept")
		}
	})
}

// At the end of its credential a connection of a pool is cut off, in use or not.
func TestSessionOfAPoolIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		p := newOwnPool(r, 1)
		s, _ := p.lend()
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if err := runQuery(t.Context(), s.Conn(), "1s"); err == nil || s.Return() || r.server.open("v1") > 0 || r.c.Stats().Outlived != 1 {
			t.Errorf("%v; %+v", err, r.c.Stats())
		}
	})
}

// The server is asked on an idle connection of the pool whether the role in use lives.
func TestRoleOfAPoolIsAskedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		p := newOwnPool(r, 10)
		p.fill(2)()
		use := func() {
			s, giveBack := p.lend()
			_ = runQuery(t.Context(), s.Conn(), "1ms")
			giveBack()
		}
		for range 60 {
			use()
			time.Sleep(time.Second)
		}
		if n, _ := r.server.attempts("v1"); n != 2 || r.c.CheckHealth() != nil {
			t.Errorf("%d logins: %v", n, r.c.CheckHealth())
		}
		r.server.set(func(s *fakeServer) { delete(s.roles, "v1") })
		for range 30 {
			use()
			time.Sleep(time.Second)
		}
		if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "role in use is dead") {
			t.Errorf("%v", err)
		}
	})
}

// A pool that doesn't come back from Retire holds up nothing, and health says so.
func TestRetireThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		hung := make(chan struct{})
		p, err := r.c.NewPool(PoolConfig{Retire: func() { <-hung }})
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Conn().Close() }()
		r.fill(1)
		time.Sleep(time.Second)
		r.rotate("v2")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := r.server.open("v1"); n != 1 {
			t.Errorf("%d old connections", n)
		}
		if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "PoolConfig.Retire hangs") {
			t.Errorf("%v", err)
		}
		close(hung)
		_ = p.Close()
	})
}

func TestLastPoolClosesTheConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		if _, err := r.c.NewPool(PoolConfig{}); err == nil {
			t.Error("a pool that can't retire is taken")
		}
		p := newOwnPool(r, 1)
		if err := r.db.Close(); err != nil {
			t.Fatal(err)
		}
		p.lend()
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
		if _, err := p.Connect(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
		if _, err := r.c.NewPool(PoolConfig{Retire: func() {}}); !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}
