package rotation

import (
	"fmt"
	"testing"
	"time"
)

func TestSnapshotCountsEachSessionOnce(t *testing.T) {
	r, ids := rotated(t, overlapping(), 4)
	r.until(r.s.pools[0].drain.slot())
	if v := r.choose(); v.Kind != Take {
		t.Fatalf("a caller is told %+v", v)
	}
	snap := r.s.Snapshot(r.now)
	if got := fmt.Sprint(snap.States); got != "[0 0 0 0 1 3 1 0 0]" && got != "[0 1 0 0 1 3 1 0 0]" {
		// the spare is promised to the caller, one is due, three are pooled
		t.Errorf("states %v", got)
	}
	if len(snap.Versions) != 2 || snap.Versions[0].Version != 2 || snap.Versions[1].Version != 1 {
		t.Fatalf("versions %+v", snap.Versions)
	}
	old, cur := snap.Versions[1], snap.Versions[0]
	if old.Sessions != 4 || old.Superseded == 0 || !old.Proven || old.OldestInPool != r.s.byNumber(ids[0]).born {
		t.Errorf("the old version: %+v", old)
	}
	if cur.Sessions != 1 || cur.Superseded != 0 || cur.ProvenAt == 0 {
		t.Errorf("the current version: %+v", cur)
	}
	if len(snap.Pools) != 1 {
		t.Fatalf("pools %+v", snap.Pools)
	}
	if p := snap.Pools[0]; p.Limit != 1000 || p.Sessions != 4 || p.ToGo != 4 || p.Due != 1 || p.DrainSize != 4 || p.DrainSince == 0 {
		t.Errorf("the pool: %+v", p)
	}
}

func TestSnapshotOfAnEpisode(t *testing.T) {
	r := newRig(t, overlapping())
	r.unclear(r.begin())
	since := r.now.Mono
	r.step(Waiting{N: 2})
	r.after(unclearMin)
	r.refuse(r.own(Prove))
	snap := r.s.Snapshot(r.now)
	if !snap.Refusing || snap.Ambiguous || snap.RefusedSince != since || snap.Refusals != 2 || snap.NextAttempt != r.now.Mono.Add(sec) || snap.Waiting != 2 {
		t.Errorf("%+v", snap)
	}
	if v := snap.Versions[0]; !v.Refused || v.Proven {
		t.Errorf("%+v", v)
	}
}

// Each problem has a kind that stays, since when, and whether connections can be made all
// the same; the worst comes first.
func TestProblems(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		run  func(r *rig)
		want string
	}{
		{"none", overlapping(), func(r *rig) { r.connect() }, "[]"},
		{"refused", overlapping(), func(r *rig) { r.refuse(r.begin()) }, "[credential_refused false]"},
		{"refused with a predecessor", overlapping(), func(r *rig) {
			r.connect()
			r.read(2)
			r.refuse(r.own(Prove))
		}, "[credential_refused true]"},
		{"unclear", overlapping(), func(r *rig) { r.unclear(r.begin()) }, "[credential_unclear false]"},
		{"ends soon", overlapping(), func(r *rig) {
			r.readUser(1, 1, start.Wall.Add(40*sec))
			r.after(30 * sec)
		}, "[successor_overdue true]"},
		{"over", overlapping(), func(r *rig) {
			r.readUser(1, 1, start.Wall.Add(sec))
			r.after(sec)
		}, "[credential_expired false]"},
		{"a token is over and nobody has asked for another", loginTokens(), func(r *rig) {
			r.readUser(1, 1, start.Wall.Add(sec))
			r.after(time.Hour)
		}, "[]"},
		{"a token is over and the source fails", loginTokens(), func(r *rig) {
			r.readUser(1, 1, start.Wall.Add(sec))
			r.after(time.Hour)
			r.step(ReadFailed{})
		}, "[credential_expired false source_fails false]"},
		{"a token was over when it was read", loginTokens(), func(r *rig) {
			r.readUser(1, 1, start.Wall.Add(-sec))
		}, "[credential_expired false]"},
		{"several", overlapping(), func(r *rig) {
			r.readUser(1, 1, start.Wall.Add(40*sec))
			r.connect()
			r.readUser(2, 1, start.Wall.Add(40*sec))
			r.fail(r.own(Prove))
			r.step(ReadFailed{})
			r.after(30 * sec)
		}, "[successor_overdue false logins_fail false source_fails false]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.cfg)
			tt.run(r)
			var got []any
			for _, p := range r.s.Problems(r.now) {
				got = append(got, p.Kind, p.CanConnect)
				if p.Since == 0 || p.Since > r.now.Mono || p.Version != r.s.Current() {
					t.Errorf("%v since %v, version %d", p.Kind, p.Since, p.Version)
				}
			}
			if fmt.Sprint(got) != tt.want {
				t.Errorf("%v, want %s", got, tt.want)
			}
		})
	}
	s := New(overlapping())
	s.Step(ReadFailed{}, start)
	if p := s.Problems(start); len(p) != 1 || p[0].Kind != NoCredential {
		t.Errorf("without a credential: %+v", p)
	}
}

// Names are stable: logs, metrics and alerts go by them.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		got  []any
		want string
	}{
		{
			[]any{NoSession, LoggingIn, Spare, Asking, Promised, Pooled, Due, Going, Closing, numStates},
			"[none logging in spare asking promised pooled due going closing 9]",
		},
		{
			[]any{Superseded, Revoked, Aged, Ending, Neighbour, Expired, Unneeded, Outdated, Answered, ByClose, numReasons},
			"[superseded revoked aged ending neighbour expired unneeded outdated answered closed 11]",
		},
		{[]any{ForCaller, Prove, AskOld, AskCurrent, Replace, Refill}, "[for a caller prove ask old ask current replace refill]"},
		{[]any{Take, LogIn, Wait, FailRefused, FailExpired, FailEmpty, FailClosed}, "[take log in wait refused expired empty closed]"},
		{[]any{ForAnswer, ForAccept, ForNewer, ForRoom}, "[an answer acceptance a newer credential room]"},
		{[]any{Unanswered, Lives, Refuses, Unasked}, "[unanswered lives refuses unasked]"},
		{[]any{OnIdle, OnSpare}, "[on an idle connection on a spare]"},
		{[]any{DontRead, ReadAgain, ReadAfresh}, "[none again afresh]"},
		{
			[]any{Rotated, Accepted, Refused, RoleDead, EndsSoon, HasEnded, SourceFailed, SourceHealed, Unsettled, DrainBegan, DrainDone, SessionEnded, SessionPastIt},
			"[rotated accepted refused role dead ends soon has ended source failed source healed unsettled drain began drain done session ended session outlives its credential]",
		},
		{
			[]any{CredentialRefused, CredentialUnclear, CredentialExpired, SuccessorOverdue, RoleInUseDead, SourceFails, SourceUnsettled, LoginsFail, NoCredential},
			"[credential_refused credential_unclear credential_expired successor_overdue role_in_use_dead source_fails source_unsettled logins_fail no_credential]",
		},
	} {
		if got := fmt.Sprint(tt.got); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

// Whether new connections can be made: with the latest version unless it is refused, or with
// a predecessor unless that has just been refused as well.
func TestWhetherConnectionsCanBeMade(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   bool
		fall time.Duration // until a predecessor is tried again
		want bool
	}{
		{"all is well", false, 0, true},
		{"predecessors don't matter then", false, 1, true},
		{"with a predecessor", true, 0, true},
		{"that is refused as well", true, 1, false},
	} {
		r := newRig(t, overlapping())
		r.connect()
		r.read(2)
		r.s.ep.on, r.s.fall.next = tt.on, r.now.Mono.Add(tt.fall)
		if got := r.s.connects(r.now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestSnapshotOfSessions(t *testing.T) {
	r := newRig(t, overlapping())
	r.connect()
	a, b := r.begin(), r.begin()
	r.ok(a)
	r.step(Waiting{N: 1})
	r.step(GivenBack{Session: a})
	x := r.s.newSession(r.s.versions[0], Replace, nil, r.now)
	r.s.move(x, Asking, NotRetired, r.now)
	snap := r.s.Snapshot(r.now)
	v := snap.Versions[0]
	if snap.Spares != 2 || v.Sessions != 3 || v.LoggingIn != 1 || v.Dead || snap.Unsettled {
		t.Errorf("%d spares, %d sessions, %d log in, dead %v, unsettled %v", snap.Spares, v.Sessions, v.LoggingIn, v.Dead, snap.Unsettled)
	}
	r.ok(b)
}

// One version's view is what the snapshot has of it; and only the latest is refused in an
// episode.
func TestViewOfOneVersion(t *testing.T) {
	for _, on := range []bool{false, true} {
		r, _ := rotated(t, overlapping(), 3)
		r.s.newSession(r.s.versions[0], ForCaller, r.s.pools[0], r.now)
		r.s.ep.on, r.s.ep.began = on, r.now.Mono
		for i, want := range r.s.Snapshot(r.now).Versions {
			if got, ok := r.s.View(want.Version); !ok || got != want {
				t.Errorf("%v, %+v, want %+v", ok, got, want)
			}
			since := Instant(0)
			if on && i == 0 {
				since = r.now.Mono
			}
			if want.RefusedSince != since {
				t.Errorf("on %v: version %d is refused since %v", on, want.Version, want.RefusedSince)
			}
		}
		if got, ok := r.s.View(99); ok || got != (VersionView{}) {
			t.Errorf("one that isn't known: %v, %+v", ok, got)
		}
		if r.s.Unsettled(r.now) {
			t.Error("the source is unsettled")
		}
	}
}
