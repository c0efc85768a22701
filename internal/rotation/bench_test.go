package rotation

import (
	"fmt"
	"testing"
)

// filled is a state whose pool has n sessions, of which those of an old version are being
// drained.
func filled(n int) (*State, Now) {
	cfg := overlapping()
	cfg.DrainTime = 3600 * sec
	s, now := New(cfg), start
	s.hurry = 0
	s.Step(PoolAdded{Pool: thePool, ByAge: true}, now)
	s.Step(CredentialRead{Version: 1, User: 1, Epoch: s.Epoch()}, now)
	for range n {
		v := s.Choose(thePool, now)
		s.Step(LoginSucceeded{Session: v.Session}, now)
		s.HandOut(v.Session, now)
		now.Mono = now.Mono.Add(ms)
	}
	fx := s.Step(CredentialRead{Version: 2, User: 2, Epoch: s.Epoch()}, now)
	id := fx.Logins[0].Session
	s.Bind(id, now)
	s.Step(LoginSucceeded{Session: id}, now)
	return s, now
}

func BenchmarkStep(b *testing.B) {
	for _, n := range []int{20, 100, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, now := filled(n)
			b.ReportAllocs()
			for b.Loop() {
				s.Step(Tick{}, now)
			}
		})
	}
}

// In the steady state a step allocates nothing, nor does a session that comes and goes.
func TestStepsDoNotAllocate(t *testing.T) {
	s, now := filled(20)
	if n := testing.AllocsPerRun(100, func() { s.Step(Tick{}, now) }); n > 0 {
		t.Errorf("%v allocations for a step", n)
	}
	s = New(overlapping())
	s.Step(PoolAdded{Pool: thePool, ByAge: true}, now)
	s.Step(CredentialRead{Version: 1, User: 1}, now)
	n := testing.AllocsPerRun(100, func() {
		v := s.Choose(thePool, now)
		s.Step(LoginSucceeded{Session: v.Session}, now)
		s.HandOut(v.Session, now)
		s.Step(Tick{}, now)
		s.Step(Ended{Session: v.Session}, now)
	})
	if n > 3 { // the events, as interfaces
		t.Errorf("%v allocations for a session that comes and goes", n)
	}
}
