package sim

import (
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// A drain keeps its time even if all connections are in use, by transactions of a second.
func TestALargeBusyPoolIsDrainedInTime(t *testing.T) {
	for _, drain := range []time.Duration{5 * sec, 10 * sec, 20 * sec} {
		for _, byAge := range []bool{true, false} {
			s := Schedule{
				Seed: 1,
				Config: rotation.Config{
					Overlap: 10 * time.Minute, MaxInUse: 5 * sec, MaxLifetime: 5 * time.Minute, DrainTime: drain,
					RetryTimeout: 6 * sec, Notified: true,
				},
				Pools: []Pool{{Size: 500, Idle: 500, Workers: 520, Think: ms, Busy: sec, ByAge: byAge}},
				Moves: []Move{{At: 5 * sec, Kind: Rotate}},
			}
			r := Run(s, false)
			t.Logf("drain %v, by age %v: drained in %v; %d steps, %d logins", drain, byAge, r.Drained, r.Steps, r.Logins)
			if r.Violation != "" {
				t.Error(r.Violation)
			}
			if r.Drained == 0 || r.Drained > drain+sec {
				t.Errorf("a pool of 500 (by age: %v) was drained in %v, want %v", byAge, r.Drained, drain)
			}
		}
	}
}
