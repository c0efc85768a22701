package rotation

import (
	"slices"
	"testing"
	"time"
)

// hold is a caller who keeps what it gets outside of any pool.
func (r *rig) hold() SessionID {
	r.t.Helper()
	v := r.s.Choose(Outside, r.now)
	if v.Kind == LogIn {
		r.ok(v.Session)
	}
	if !r.s.HandOut(v.Session, r.now) {
		r.t.Fatalf("a caller is told %v: %+v", v.Kind, v)
	}
	r.step(Held{Session: v.Session})
	return v.Session
}

// Held sessions are recalled once: for a successor that has proven itself, a role that is
// dead, an end that is nearer than a checkout, and for Close.
func TestHeldSessionsAreRecalled(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, r *rig, recalled func() bool){
		"successor": func(t *testing.T, r *rig, recalled func() bool) {
			r.read(2)
			if recalled() {
				t.Error("before its successor has proven itself")
			}
			r.ok(r.own(Prove))
		},
		"dead": func(_ *testing.T, r *rig, _ func() bool) {
			r.refuse(r.begin())
			r.read(2)
			r.refuse(r.own(Prove))
		},
		"overlap": func(t *testing.T, r *rig, recalled func() bool) {
			r.read(2)
			r.refuse(r.own(Prove))
			r.after(40*sec - 300*ms)
			if want := r.now.Mono.Add(300 * ms); r.fx.Wake != want {
				t.Errorf("it wakes at %v, not at %v", r.fx.Wake, want)
			}
			r.after(300*ms - 1)
			if recalled() || r.s.Recalls(1, r.now) {
				t.Error("more than a checkout before its end")
			}
			r.after(1)
			if !r.s.Recalls(1, r.now) || r.s.Recalls(2, r.now) || !r.s.Recalls(3, r.now) {
				t.Error("a session of it that was held now would not be recalled, or another one would")
			}
		},
		"lease": func(t *testing.T, r *rig, recalled func() bool) {
			r.readUser(1, 1, r.now.Wall.Add(time.Minute))
			r.until(r.fx.Wake)
			r.after(49*sec - r.now.Mono.Sub(start.Mono))
			if recalled() {
				t.Error("more than a checkout before its end")
			}
			r.after(sec)
		},
		"close": func(_ *testing.T, r *rig, _ func() bool) { r.step(Closed{}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, overlapping())
			id := r.hold()
			recalled := func() bool { return len(r.recall) > 0 }
			if recalled() {
				t.Fatal("at once")
			}
			test(t, r, recalled)
			if !recalled() {
				t.Error("it is not recalled")
			}
			for range 5 {
				r.after(sec)
			}
			if !slices.Equal(r.recall, []SessionID{id}) {
				t.Errorf("%v are recalled", r.recall)
			}
			if n := r.heard(Recalled); name != "close" && n != 1 {
				t.Errorf("that is told %d times", n)
			}
			r.state(id, Pooled)
		})
	}
}

// What is held outside of the pools makes room for nothing: each may have its peak beside it.
func TestHeldSessionsMakeNoRoom(t *testing.T) {
	r := newRig(t, overlapping())
	r.fill(3)
	one, two := r.hold(), r.hold()
	if free, _ := r.s.room(); free != 1 {
		t.Errorf("there is room for %d", free)
	}
	if n := r.s.Snapshot(r.now).Held; n != 2 {
		t.Errorf("%d are held", n)
	}
	r.end(one)
	r.end(two)
	if free, _ := r.s.room(); free != 1 {
		t.Errorf("there is room for %d", free)
	}
	r.read(2)
	r.ok(r.own(Prove))
	r.settle(20 * sec)
	if n := r.s.Snapshot(r.now).Counts.LastDrained; n != 3 {
		t.Errorf("%d were retired", n)
	}
}
