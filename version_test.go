package sqlrotate

import (
	"errors"
	"testing"
	"time"
)

// A gate is played with for a while: what it lets in, and how long others wait.
func TestGate(t *testing.T) {
	start := time.Now()
	no := errors.New("refused")
	type step struct {
		at    time.Duration // since the beginning
		do    string
		admit bool
		wait  time.Duration // of a login's end: when it began
	}
	for name, steps := range map[string][]step{
		"one goes ahead, the others wait for it": {
			{0, "admit", true, 0},
			{0, "admit", false, patience},
			{0, "succeeded", false, 0},
			{0, "admit", true, 0},
			{0, "admit", true, 0},
		},
		"but not for ever": {
			{0, "admit", true, 0}, {patience, "admit", true, 0},
		},
		"a proof lapses": {
			{0, "admit", true, 0},
			{0, "succeeded", false, 0},
			{proofTTL - 1, "admit", true, 0},
			{proofTTL - 1, "succeeded", false, proofTTL - 1},
			{3 * proofTTL, "admit", true, 0},
			{3 * proofTTL, "admit", false, patience},
		},
		"pauses grow from refusal to refusal": {
			{0, "admit", true, 0},
			{0, "refused", false, 0},
			{0, "admit", false, retryMin},
			{retryMin, "admit", true, 0},
			{retryMin, "refused", false, retryMin},
			{retryMin, "admit", false, 2 * retryMin},
			{3 * retryMin, "admit", true, 0},
			{3 * retryMin, "refused", false, 3 * retryMin},
			{3 * retryMin, "admit", false, 4 * retryMin},
		},
		"refusals of a burst count once": {
			{0, "admit", true, 0},
			{0, "succeeded", false, 0},
			{0, "admit", true, 0},
			{0, "admit", true, 0},
			{0, "refused", false, 0},
			{0, "refused", false, 0},
			{0, "admit", false, retryMin},
		},
		"success forgets refusals": {
			{0, "admit", true, 0},
			{0, "refused", false, 0},
			{retryMin, "admit", true, 0},
			{retryMin, "succeeded", false, retryMin},
			{retryMin, "admit", true, 0},
			{retryMin, "admit", true, 0},
		},
		"a failure of the server says nothing about the credential": {
			{0, "admit", true, 0}, {0, "failed", false, 0}, {0, "admit", true, 0},
		},
		"one that is given up makes room at once, three make the next wait": {
			{0, "admit", true, 0},
			{0, "cancelled", false, 0},
			{0, "admit", true, 0},
			{0, "cancelled", false, 0},
			{0, "admit", true, 0},
			{0, "cancelled", false, 0},
			{0, "admit", false, retryMin},
			{retryMin, "admit", true, 0},
			{retryMin, "cancelled", false, 0},
			{retryMin, "admit", false, 2 * retryMin},
			{3 * retryMin, "admit", true, 0},
			{3 * retryMin, "succeeded", false, 3 * retryMin},
			{3 * retryMin, "admit", true, 0},
		},
		"a success that began before the refusal is no news": {
			{0, "admit", true, 0},
			{0, "succeeded", false, 0},
			{1, "admit", true, 0},
			{1, "admit", true, 0},
			{1, "admit", true, 0},
			{2, "refused", false, 1},
			{3, "succeeded", false, 1},
			{3, "admit", false, retryMin - 1},
			{retryMin + 2, "succeeded", false, 1}, // nor when it is slow
			{retryMin + 2, "admit", true, 0},
			{retryMin + 2, "admit", false, retryPatience},
			{retryMin + 3, "succeeded", false, retryMin + 2},
			{retryMin + 3, "admit", true, 0},
			{retryMin + 3, "admit", true, 0},
		},
		"a refusal that began before the one that counted does not count": {
			{0, "admit", true, 0},
			{0, "succeeded", false, 0},
			{1, "admit", true, 0},
			{1, "admit", true, 0},
			{2, "refused", false, 1},
			{retryMin + 3, "refused", false, 1},
			{retryMin + 3, "admit", true, 0},
			{retryMin + 4, "refused", false, retryMin + 3},
			{retryMin + 4, "admit", false, 2 * retryMin},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gate{}
			for i, s := range steps {
				now := start.Add(s.at)
				switch s.do {
				case "admit":
					ok, wait := g.admit(now)
					if ok != s.admit || wait != s.wait {
						t.Fatalf("step %d: %t, wait %v; want %t, %v", i, ok, wait, s.admit, s.wait)
					}
				case "succeeded":
					g.succeeded(now, start.Add(s.wait))
				case "refused":
					g.refused(now, start.Add(s.wait), no)
				case "failed":
					g.failed(no)
				case "cancelled":
					g.cancelled(now)
				}
			}
		})
	}
}

func TestBackoffIsBounded(t *testing.T) {
	least, most := 500*time.Millisecond, 10*time.Second
	for n, want := range map[int]time.Duration{0: least, 1: least, 2: 2 * least, 5: 16 * least, 6: most, 1000: most} {
		if d := backoff(n, least, most); d != want {
			t.Errorf("after %d failures: %v, want %v", n, d, want)
		}
	}
}

func TestEndIsAnInstantThatCountsAsPast(t *testing.T) {
	now := time.Now()
	wall := now.Round(0)
	for _, test := range []struct {
		what string
		end  time.Time
		want bool
	}{
		{"a moment ago", now.Add(-1), true},
		{"now", now, true},
		{"in a moment", now.Add(1), false},
		{"a moment ago, by the wall clock", wall.Add(-1), true},
		{"in a moment, by the wall clock", wall.Add(1), false},
	} {
		if past(test.end, now) != test.want {
			t.Errorf("%s: %t", test.what, !test.want)
		}
	}
}

func TestDeadlineIsTheEarlierOfTwo(t *testing.T) {
	a, b := time.Unix(1, 0), time.Unix(2, 0)
	for _, test := range []struct{ end, notAfter, want time.Time }{
		{a, b, a}, {b, a, a}, {a, time.Time{}, a}, {time.Time{}, b, b}, {time.Time{}, time.Time{}, time.Time{}},
	} {
		v := version{end: test.end, notAfter: test.notAfter}
		if got := v.deadline(); !got.Equal(test.want) {
			t.Errorf("end %v, NotAfter %v: %v", test.end, test.notAfter, got)
		}
		if test.want.IsZero() && v.ended(time.Now().Add(1e6*time.Hour)) {
			t.Error("what has no end has ended")
		}
	}
}
