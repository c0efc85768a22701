package sqlrotate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

func TestAdvice(t *testing.T) {
	at := time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)
	took := func(d time.Duration) Worst { return Worst{d, at} }
	w := WindowStats{Overlap: 10 * time.Minute, Lag: 90 * time.Second, MaxInUse: 30 * time.Second, RetryTimeout: 30 * time.Second}
	with := func(change func(*WindowStats)) WindowStats {
		changed := w
		change(&changed)
		return changed
	}
	for _, c := range []struct {
		what   string
		kind   rotation.Kind
		window WindowStats
		seen   Observed
		want   []string // part, and what to put in
	}{
		{what: "nothing was seen", window: w},
		{what: "all fits", window: w, seen: Observed{LongestUse: took(30 * time.Second), SourceLag: took(90 * time.Second), LongestLogin: took(time.Hour), TimerLateness: took(time.Hour)}},
		{what: "more by what says nothing", window: w, seen: Observed{LongestUse: took(30*time.Second + 100*time.Millisecond), SourceLag: took(90*time.Second + 100*time.Millisecond)}},
		{what: "a use", window: w, seen: Observed{LongestUse: took(2*time.Minute + 10*time.Second)}, want: []string{"Window.MaxInUse 3m0s"}},
		{what: "a use, just", window: w, seen: Observed{LongestUse: took(30*time.Second + 101*time.Millisecond)}, want: []string{"Window.MaxInUse 40s"}},
		{what: "a lag", window: w, seen: Observed{SourceLag: took(100 * time.Second)}, want: []string{"Window.Lag 2m30s"}},
		{what: "both", window: w, seen: Observed{LongestUse: took(time.Minute), SourceLag: took(2 * time.Minute)}, want: []string{"Window.MaxInUse 1m15s", "Window.Lag 2m30s"}},
		{
			what: "more than the overlap has room for", window: w, seen: Observed{LongestUse: took(10 * time.Minute)},
			want: []string{"Window.MaxInUse 13m0s", "Window.Overlap 14m40s"},
		},
		{
			what: "just what it has room for", window: with(func(w *WindowStats) { w.Overlap = 4*time.Minute + 40*time.Second }),
			seen: Observed{LongestUse: took(2*time.Minute + 10*time.Second)}, want: []string{"Window.MaxInUse 3m0s"},
		},
		{
			what: "a short overlap in which all fits", window: with(func(w *WindowStats) { w.Overlap = 2*time.Minute + time.Second }),
			seen: Observed{LongestUse: took(time.Second)},
		},
		{
			what: "none of either is meant", window: with(func(w *WindowStats) { w.Lag, w.MaxInUse = 0, 0 }),
			seen: Observed{LongestUse: took(100 * time.Millisecond), SourceLag: took(1500 * time.Millisecond)}, want: []string{"Window.Lag 1.9s"},
		},
		{what: "in place, nothing is cut off", kind: rotation.InPlace, window: w, seen: Observed{LongestUse: took(time.Hour), SourceLag: took(20 * time.Second), LongestLogin: took(10 * time.Second)}},
		{
			what: "in place, the password takes longer than logins wait", kind: rotation.InPlace, window: w,
			seen: Observed{SourceLag: took(25 * time.Second), LongestLogin: took(7 * time.Second)}, want: []string{"Config.RetryTimeout 40s"},
		},
		{what: "in place, a login takes long, and of the lag nothing is known", kind: rotation.InPlace, window: w, seen: Observed{LongestLogin: took(time.Minute)}},
		{
			what: "in place, logins aren't meant to wait", kind: rotation.InPlace, window: with(func(w *WindowStats) { w.RetryTimeout = 0 }),
			seen: Observed{SourceLag: took(time.Hour)},
		},
		{what: "tokens", kind: rotation.LoginTokens, window: w, seen: Observed{LongestUse: took(time.Hour), SourceLag: took(time.Hour)}},
	} {
		var got []string
		for _, a := range c.window.advise(c.kind, c.seen) {
			got = append(got, a.part+" "+a.least.String())
			for _, part := range []string{a.part, a.is.String(), a.least.String()} {
				if !strings.Contains(a.text, part) {
					t.Errorf("%s: %q doesn't say %s", c.what, a.text, part)
				}
			}
			if a.least <= a.is {
				t.Errorf("%s: %v in place of %v is no more", c.what, a.least, a.is)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Who follows the advice is given no other.
func TestAdviceIsEnough(t *testing.T) {
	for d := time.Millisecond; d < 100*time.Hour; d += d/7 + 1 {
		o := Observed{LongestUse: Worst{d, time.Now()}, SourceLag: Worst{d / 3, time.Now()}}
		w := WindowStats{Overlap: time.Second}
		for _, a := range w.advise(rotation.Overlapping, o) {
			switch a.part {
			case "Window.MaxInUse":
				w.MaxInUse = a.least
			case "Window.Lag":
				w.Lag = a.least
			case "Window.Overlap":
				w.Overlap = a.least
			}
		}
		if again := w.advise(rotation.Overlapping, o); len(again) > 0 {
			t.Fatalf("for %v: %v", d, again)
		}
		if w.MaxInUse > 2*d {
			t.Errorf("%v for %v", w.MaxInUse, d)
		}
	}
}
