package sqlrotate

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRotationReplacesIdleConnectionsOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last time.Time // a session that asks after the old role comes and goes as well
		r := newRig(t, func(cfg *Config) {
			cfg.Trace = &Trace{Closed: func(_ VersionStats, reason CloseReason, _ time.Duration) {
				if now := time.Now(); reason == "superseded" {
					if now.Sub(last) < 10*time.Millisecond {
						t.Errorf("two connections went within %v", now.Sub(last))
					}
					last = now
				}
			}}
		})
		r.fill(20)
		synctest.Wait()
		if n := r.server.open("v1"); n != 20 {
			t.Fatalf("%d connections of v1, want 20", n)
		}
		r.rotate("v2")
		start := time.Now()
		for r.server.open("v1") > 0 && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		t.Logf("drained in %v; peak %d; stats %+v", time.Since(start), r.server.most(), r.c.Stats())
		if n := r.server.open("v1"); n != 0 {
			t.Errorf("%d connections of v1 left", n)
		}
		if n := r.c.Stats().Closed[CloseSuperseded]; n != 20 {
			t.Errorf("%d connections were retired", n)
		}
		if r.server.most() > 21 {
			t.Errorf("peak of %d sessions", r.server.most())
		}
	})
}
