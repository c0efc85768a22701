package sqlrotate

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRotationReplacesIdleConnectionsOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.fill(20)
		synctest.Wait()
		if n := r.server.open("v1"); n != 20 {
			t.Fatalf("%d connections of v1, want 20", n)
		}
		r.rotate("v2")
		start := time.Now()
		for r.server.open("v1") > 0 && time.Since(start) < time.Minute {
			before := r.server.open("v1")
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if after := r.server.open("v1"); before-after > 1 {
				t.Errorf("%v after the rotation %d connections went within 10 ms", time.Since(start), before-after)
			}
		}
		t.Logf("drained in %v; peak %d; stats %+v", time.Since(start), r.server.most(), r.c.Stats())
		if n := r.server.open("v1"); n != 0 {
			t.Errorf("%d connections of v1 left", n)
		}
		if r.server.most() > 21 {
			t.Errorf("peak of %d sessions", r.server.most())
		}
	})
}
