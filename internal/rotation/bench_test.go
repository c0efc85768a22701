package rotation

import (
	"fmt"
	"testing"
	"time"
)

func BenchmarkStep(b *testing.B) {
	for _, n := range []int{20, 100, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			now := Now{Wall: time.Unix(1e9, 0), Mono: 1}
			s := New(Config{Overlap: time.Minute, Lag: time.Second, MaxInUse: time.Second, MaxLifetime: 50 * time.Second, DrainTime: 5 * time.Second, RetryTimeout: time.Second})
			s.Step(PoolAdded{Pool: 1, ByAge: true}, now)
			s.Step(CredentialRead{Version: 1, User: 1}, now)
			for range n {
				v := s.Choose(1, now)
				s.Step(LoginSucceeded{Session: v.Session}, now)
				s.HandOut(v.Session, now)
				now.Mono = now.Mono.Add(time.Millisecond)
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Step(Tick{}, now)
			}
		})
	}
}
