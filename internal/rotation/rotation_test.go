package rotation

import (
	"math"
	"slices"
	"testing"
	"time"
)

// Callers who wait look again when something has come that may let them go on, or tells
// them that it never will.
func TestWhenCallersLookAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(r *rig)
		look bool
	}{
		{"nothing", func(r *rig) { r.step(Tick{}) }, false},
		{"the source says the same", func(r *rig) { r.read(1) }, false},
		{"another end", func(r *rig) { r.readUser(1, 1, start.Wall.Add(time.Hour)) }, true},
		{"another version", func(r *rig) { r.read(2) }, true},
		{"a login has succeeded", func(r *rig) { r.ok(r.begin()) }, true},
		{"was refused", func(r *rig) { r.refuse(r.begin()) }, true},
		{"has failed", func(r *rig) { r.fail(r.begin()) }, true},
		{"was given up", func(r *rig) { r.step(LoginAbandoned{Session: r.begin()}) }, true},
		{"a spare is ready", func(r *rig) {
			id := r.begin()
			r.ok(id)
			r.step(GivenBack{Session: id})
		}, true},
		{"a session has ended", func(r *rig) { r.end(r.connect()) }, true},
		{"the connector is closed", func(r *rig) { r.step(Closed{}) }, true},
		{"the rest", func(r *rig) { r.step(Waiting{N: 1}) }, false},
	} {
		r := newRig(t, overlapping())
		if tt.run(r); r.fx.Look != tt.look {
			t.Errorf("%s: look %v", tt.name, r.fx.Look)
		}
	}
}

func TestWhatIsKnownOfASession(t *testing.T) {
	r := newRig(t, overlapping())
	began := r.now.Mono
	id := r.begin()
	r.after(ms)
	r.step(LoginSucceeded{Session: id, Untracked: true})
	r.after(ms)
	r.s.HandOut(id, r.now)
	r.step(Tick{})
	r.step(Held{Session: id})
	want := SessionInfo{
		Version: 1, Pool: thePool, State: Pooled, Began: began, Since: began.Add(2 * ms), Ready: began.Add(ms), Born: began.Add(2 * ms),
		Untracked: true, Held: true,
	}
	if got := r.s.Session(id); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.step(Released{Session: id})
	if r.s.Session(id).Held {
		t.Error("it is still held")
	}
	other := r.connect()
	if got := r.s.Session(other); got.Untracked || got.Held {
		t.Errorf("another one: %+v", got)
	}
	spare := r.begin()
	r.ok(spare)
	r.step(GivenBack{Session: spare})
	if got := r.s.Session(spare); got.State != Spare || got.Pool != 0 || got.Purpose != Refill {
		t.Errorf("a spare: %+v", got)
	}
	if got := r.s.Session(1000); got != (SessionInfo{}) {
		t.Errorf("one that isn't: %+v", got)
	}
}

// Who may go, one by one and together.
func TestWhoIsGoing(t *testing.T) {
	r, ids := rotated(t, overlapping(), 3)
	r.until(r.s.pools[0].drain.slot())
	if !r.s.Going(ids[0]) || r.s.Going(ids[1]) || r.s.Going(1000) {
		t.Error("not the oldest, and it alone")
	}
	if got := r.s.AppendGoing(nil, thePool); !slices.Equal(got, ids[:1]) {
		t.Errorf("together: %v", got)
	}
	if got := r.s.AppendGoing(nil, 1000); got != nil {
		t.Errorf("of no pool: %v", got)
	}
}

// Chance is splitmix64's: the reference's first numbers for this seed.
func TestChance(t *testing.T) {
	s := New(Config{})
	s.random = 1234567
	for _, z := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821} {
		if got := s.chance(math.MaxInt64 - 1); got != time.Duration(z>>1) {
			t.Errorf("%d, want %d", got, z>>1)
		}
	}
	if got := s.chance(-5); got != 0 {
		t.Errorf("of less than nothing: %v", got)
	}
}

// A connection's lifetime is up to a tenth less than what is configured, by chance.
func TestLifetimesDiffer(t *testing.T) {
	least, most := time.Duration(math.MaxInt64), time.Duration(0)
	for seed := range uint64(1000) {
		life := New(Config{MaxLifetime: 1000 * sec, Seed: seed}).Lifetime()
		least, most = min(least, life), max(most, life)
	}
	if least < 900*sec || least > 901*sec || most < 999*sec || most > 1000*sec {
		t.Errorf("between %v and %v", least, most)
	}
	if got := New(Config{}).Lifetime(); got != 0 {
		t.Errorf("without a limit %v", got)
	}
}
