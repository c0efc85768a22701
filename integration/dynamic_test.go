// Dynamic roles: each lease is a role of its own, which is dropped when it ends.

package integration

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// The shortest leases that make sense: an agent replaces them when a quarter of their
// time is left.
func TestDynamicRole(t *testing.T) {
	t.Attr("needs", "quiet")
	t.Parallel()
	manyLeases(t, 10, 20*time.Second, 20*time.Second, windowOf20())
}

// Leases that are renewed first. Of some the agent leaves two seconds, so no other test
// runs beside this one.
func TestDynamicRoleThatIsRenewed(t *testing.T) {
	t.Attr("needs", "quiet")
	manyLeases(t, 5, 20*time.Second, 40*time.Second, sqlrotate.Window{Overlap: 2 * time.Second, Lag: 200 * time.Millisecond, MaxInUse: 600 * time.Millisecond})
}

// manyLeases runs an application until so many leases have come and gone, with a window as
// short as the overlap that the agent leaves.
func manyLeases(t *testing.T, leases int, ttl, maxTTL time.Duration, window sqlrotate.Window) {
	t.Helper()
	d := newDatabase(t)
	d.dynamicRole(ttl, maxTTL)
	path := filepath.Join(t.TempDir(), "db.json")
	newAgent(d.v, path, dynamicTemplate, time.Hour)
	o := observe(d, path)
	a := newFileApp(d, path, window)
	if testing.Short() {
		leases = 2
	}
	eventually(t, time.Duration(leases+2)*maxTTL, "leases have come and gone", func() bool { return len(o.revoked()) >= leases })
	a.more(200)
	a.mustNotFail()
	o.finish()
	report(t, o)
	a.mustLeaveNoSession(o)
	if got := a.c.Stats(); got.Refused > 0 || int(got.Rotations) < leases {
		t.Errorf("%+v", got)
	}
	t.Logf("%d operations, the slowest took %v; %+v", a.ledger.Done(), a.ledger.Slowest().Round(time.Millisecond), a.c.Stats())
}

// report prints how long each role lived, for how long it outlived the rendering of
// its successor, and how long before its end its last session was seen.
func report(t *testing.T, o *observer) {
	t.Helper()
	rs := o.rendered()
	var overlaps, spare []time.Duration
	for i, r := range rs {
		if r.gone.IsZero() || i+1 == len(rs) {
			continue
		}
		overlap := r.gone.Sub(rs[i+1].rendered)
		overlaps = append(overlaps, overlap)
		spare = append(spare, r.gone.Sub(r.idle))
		t.Logf("role %2d: lived %6.2f s, outlived its successor's file by %5.2f s, last session seen %5.2f s before its end",
			i+1, r.gone.Sub(r.made).Seconds(), overlap.Seconds(), r.gone.Sub(r.idle).Seconds())
	}
	if len(overlaps) > 0 {
		slices.Sort(overlaps)
		slices.Sort(spare)
		t.Logf("overlap: %.2f to %.2f s, median %.2f s; spare: at least %.2f s",
			overlaps[0].Seconds(), overlaps[len(overlaps)-1].Seconds(), overlaps[len(overlaps)/2].Seconds(), spare[0].Seconds())
	}
}
