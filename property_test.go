package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Random schedules of a quarter of an hour, with windows of minutes and all that follows
// from them by default: whatever the load, the rotations, the troubles of the source and of
// the server, refusals by chance, and the size of the pool, a window that holds fails no
// query, no session is open when its role is revoked, no login is attempted afterwards,
// nothing is retired before a successor has proven itself, and there is never more than one
// session above those that the pool has or may have. (The simulator's schedules, which are
// half a minute of a bad day, are played in TestSoakLedgersAgree.)
func TestSoakRandomSchedulesKeepTheWindow(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomSchedule(t, seed) })
		})
	}
	for seed := range uint64(30) {
		run(seed)
	}
	seed := soakSeed(t)
	for end := time.Now().Add(soakFor(t, 0)); time.Now().Before(end) && !t.Failed(); seed++ {
		run(seed)
	}
}

// schedule is one of them under way.
type schedule struct {
	*rig
	random *rand.Rand
	size   int
	window Window
	lease  time.Duration // of each credential, renewed at half time; zero: none is known

	mu         sync.Mutex
	published  []string // user names, in that order
	superseded map[string]time.Time
	revoked    map[string]time.Time
	down       []span
	roles      int
}

type span struct{ from, to time.Time }

func randomSchedule(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	s := &schedule{
		random: random, size: 1 + random.IntN(20), superseded: map[string]time.Time{}, revoked: map[string]time.Time{},
		window: oneOf(random,
			Window{Overlap: 2 * time.Minute, Lag: 5 * time.Second, MaxInUse: 20 * time.Second},
			Window{Overlap: 40 * time.Second, Lag: 2 * time.Second, MaxInUse: 15 * time.Second},
			Window{Overlap: 10 * time.Minute}),
		lease:     oneOf(random, 0, 0, 20*time.Minute),
		published: []string{"v1"},
	}
	s.rig = newRig(t, func(cfg *Config) {
		cfg.Window = s.window
		cfg.DrainTime = oneOf(random, 0, -1, 30*time.Second)
		cfg.ProbeQuery = oneOf(random, "", "0s")
		cfg.Trace = &Trace{Closed: s.closed}
		src := cfg.Source.(*fakeSource)
		src.set(s.credential("v1", "p1"), nil)
		if random.IntN(3) == 0 {
			cfg.Source = mute(src)
		}
		if chance := rand.New(rand.NewPCG(seed, 1_000_000)); chance.IntN(2) == 0 {
			cfg.Opener = &openerFunc{fakeServer: cfg.Opener.(*fakeServer), open: s.spuriously(chance)}
		}
	})
	s.server.latency = oneOf(random, 5*time.Millisecond, 300*time.Millisecond, 1100*time.Millisecond)
	s.server.opened = s.countSessions
	s.db.SetMaxOpenConns(s.size)
	s.db.SetMaxIdleConns(random.IntN(s.size + 1))

	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	if s.lease > 0 {
		workers.Go(func() { s.renew(ctx) })
	}
	for worker := range 1 + random.IntN(2*s.size) {
		random := rand.New(rand.NewPCG(seed, uint64(worker+1)))
		longest := 1 + random.Int64N(int64(10*time.Second))
		workers.Go(func() {
			for ctx.Err() == nil {
				from := time.Now()
				if err := s.query(time.Duration(random.Int64N(longest)).String()); err != nil && !s.excused(from) {
					t.Errorf("%v: %v; %+v", time.Now(), err, s.c.Stats())
					return
				}
				time.Sleep(time.Duration(random.Int64N(longest)))
			}
		})
	}
	for range 10 {
		time.Sleep(s.upTo(3 * time.Minute))
		switch random.IntN(6) {
		case 0:
			s.rotateToDud()
		case 1:
			s.rotateAndBack()
		case 2:
			s.failSource()
		case 3:
			s.failServer()
		case 4:
			s.db.SetMaxOpenConns(random.IntN(s.size + 1)) // 0: as many as it likes
			s.db.SetMaxIdleConns(random.IntN(s.size + 1))
			poke(s.c.wake) // the pool can't tell: it is seen when the loop looks next
			s.next()
		default:
			s.next()
		}
	}
	time.Sleep(s.window.Overlap + time.Minute)
	if random.IntN(2) == 0 {
		stop()
		workers.Wait()
	} else { // in the middle of everything
		s.mu.Lock()
		s.down = append(s.down, span{time.Now(), time.Now().Add(time.Hour)})
		s.mu.Unlock()
		_ = s.db.Close()
		stop()
		workers.Wait()
	}
	s.mu.Lock()
	revoked := maps.Clone(s.revoked)
	s.mu.Unlock()
	s.server.set(func(server *fakeServer) {
		for _, l := range server.logins {
			if at, ok := revoked[l.user]; ok && l.at.After(at) {
				t.Errorf("a login of %s is attempted %v after it was revoked", l.user, l.at.Sub(at))
			}
		}
	})
	if got := s.c.Stats(); got.Outlived > 0 {
		t.Errorf("%+v", got)
	}
}

// spuriously refuses a login now and then. (A server that refuses one in many all the time
// makes callers wait: it is taken for one that changes its mind.)
func (s *schedule) spuriously(chance *rand.Rand) func(context.Context, int, Credential, DialFunc) (driver.Conn, error) {
	var last time.Time
	return func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
		s.mu.Lock()
		refuses := time.Since(last) > time.Minute && chance.IntN(25) == 0
		if refuses {
			last = time.Now()
		}
		s.mu.Unlock()
		if refuses {
			return nil, stateError("28P01")
		}
		return s.server.Open(ctx, cred, dial)
	}
}

// countSessions is called after each login: with it there is at most one session more
// than the pool has, or may have.
func (s *schedule) countSessions() {
	pool, sessions := s.db.Stats(), s.server.open("")
	if pool.MaxOpenConnections > 0 && sessions > max(pool.OpenConnections, pool.MaxOpenConnections)+1 {
		s.Errorf("%v: %d sessions with a pool of %d that may have %d", time.Now(), sessions, pool.OpenConnections, pool.MaxOpenConnections)
	}
}

func (s *schedule) upTo(d time.Duration) time.Duration {
	return time.Duration(s.random.Int64N(int64(d)))
}

// excused reports whether the server was down since from.
func (s *schedule) excused(from time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.down, func(d span) bool { return from.Before(d.to) && !time.Now().Before(d.from) })
}

// oneOf returns one of values.
func oneOf[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func (s *schedule) credential(user, password string) Credential {
	cred := Credential{Username: user, Password: NewSecret(password)}
	if s.lease > 0 {
		cred.NotAfter = time.Now().Add(s.lease)
	}
	return cred
}

// renew moves the end of the latest credential on, now and then.
func (s *schedule) renew(ctx context.Context) {
	for {
		select {
		case <-time.After(s.lease / 2):
			s.mu.Lock()
			cred, err := s.source.Credential(ctx)
			s.source.set(s.credential(cred.Username, cred.Password.Reveal()), err)
			s.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// publish makes a login the latest, and has the one before dropped when its overlap is
// over, unless it has come back.
func (s *schedule) publish(user, password string) {
	s.mu.Lock()
	old, now := s.published[len(s.published)-1], time.Now()
	s.published = append(s.published, user)
	delete(s.superseded, user)
	s.superseded[old] = now
	s.source.set(s.credential(user, password), nil)
	s.mu.Unlock()
	time.AfterFunc(s.window.Overlap, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.superseded[old].Equal(now) {
			return
		}
		if n := s.server.open(old); n > 0 {
			s.Errorf("%d sessions of %s are open when it is revoked", n, old)
		}
		s.server.set(func(server *fakeServer) { delete(server.roles, old) })
		s.revoked[old] = time.Now()
	})
}

func (s *schedule) next() {
	s.roles++
	user := fmt.Sprintf("w%d", s.roles)
	s.server.grant(user, "p-"+user)
	s.publish(user, "p-"+user)
}

// rotateToDud publishes a role that doesn't exist, and then one that does.
func (s *schedule) rotateToDud() {
	s.roles++
	s.publish(fmt.Sprintf("dud%d", s.roles), "x")
	time.Sleep(s.upTo(20 * time.Second))
	s.next()
}

// rotateAndBack comes back to a role before it is dropped.
func (s *schedule) rotateAndBack() {
	s.mu.Lock()
	before := s.published[len(s.published)-1]
	s.mu.Unlock()
	s.next()
	time.Sleep(s.upTo(s.window.Overlap / 2))
	password := "p-" + before
	if before == "v1" {
		password = "p1"
	}
	s.publish(before, password)
}

// failSource makes the source fail for no longer than the lag, with a rotation in the
// middle.
func (s *schedule) failSource() {
	s.source.fail(errors.New("unreadable"))
	time.Sleep(s.upTo(s.window.lag() / 2))
	s.next()
	s.source.fail(errors.New("unreadable"))
	time.Sleep(s.upTo(s.window.lag()))
	s.source.fail(nil)
}

// failServer makes logins fail for a while, with a rotation in the middle.
func (s *schedule) failServer() {
	from := time.Now()
	s.mu.Lock()
	s.down = append(s.down, span{from, from.Add(time.Hour)})
	s.mu.Unlock()
	s.server.set(func(server *fakeServer) { server.down = stateError("57P03") })
	time.Sleep(s.upTo(5 * time.Second))
	s.next()
	time.Sleep(s.upTo(5 * time.Second))
	s.server.set(func(server *fakeServer) { server.down = nil })
	s.mu.Lock()
	s.down[len(s.down)-1].to = time.Now()
	s.mu.Unlock()
}

// closed is told of every connection that ends: one that is retired for a successor's
// sake has a successor that has logged in.
func (s *schedule) closed(v VersionStats, reason CloseReason, _ time.Duration) {
	if reason != "superseded" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// From the first time on that it was published: it may have come back since it
	// was decided that the connection goes.
	successors := s.published[slices.Index(s.published, v.Username)+1:]
	proven := false
	s.server.set(func(server *fakeServer) {
		for _, l := range server.logins {
			proven = proven || l.ok && l.user != v.Username && slices.Contains(successors, l.user)
		}
	})
	if !proven {
		s.Errorf("a connection of %s is retired, of whose successors %v none has logged in", v.Username, successors)
	}
}
