package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func defaults(t *testing.T) demo {
	t.Helper()
	var d demo
	if err := d.flags().Parse(nil); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFlagsAreCheckedBeforeAnythingStarts(t *testing.T) {
	for _, test := range []struct {
		flags string
		says  string // empty: they are fine
	}{
		{"", ""},
		{"-duration 12s -every 3s -overlap 8s", ""},
		{"-duration 1h -every 100ms -overlap 1s -connections 250 -workers 1000 -lifetime 1s -revoke-after 1ns", ""},
		{"-duration 0", "-duration 0s"},
		{"-duration -1s", "-duration -1s"},
		{"-duration 999ms", "-duration 999ms"},
		{"-duration 2562047h47m16.854775807s", "to 1h0m0s"},
		{"-every 0", "-every 0s"},
		{"-every -1s", "-every -1s"},
		{"-every 99ms", "-every 99ms"},
		{"-every 2562047h -overlap 2562047h", "-every"},
		{"-overlap 0", "-overlap 0s"},
		{"-overlap -4s", "-overlap -4s"},
		{"-overlap 1ns", "-overlap 1ns"},
		{"-overlap 2562047h", "-overlap"},
		{"-revoke-after -1s", "-revoke-after -1s"},
		{"-revoke-after 2562047h", "-revoke-after"},
		{"-lifetime -1s", "-lifetime -1s"},
		{"-connections 0", "-connections 0"},
		{"-connections -3", "-connections -3"},
		{"-connections 251", "-connections 251: from 1 to 250, for each of 3"},
		{"-workers 0", "-workers 0"},
		{"-workers 1000000000", "-workers 1000000000"},
		{"-duration 6s", "-duration 6s: the first login is dropped after 2s + 4s = 6s"},
		{"-duration 7s -revoke-after 5s", "dropped after 2s + 5s = 7s"},
		{"-every 10m", "the first login is dropped after"},
	} {
		t.Run(test.flags, func(t *testing.T) {
			var d demo
			if err := d.flags().Parse(strings.Fields(test.flags)); err != nil {
				t.Fatal(err)
			}
			err := d.check()
			if test.says == "" && err == nil {
				return
			}
			if test.says == "" || err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}

func TestLinesFitWhateverTheNumbers(t *testing.T) {
	const most = 999_999_999
	narrow(t, heading)
	for _, slowest := range []time.Duration{0, 1, 999_499, 999_500, 9_949_999, 9_950_000, 999_499_999, 999_500_000, 12345678 * time.Microsecond, 999 * time.Second} {
		for _, n := range []int{0, 9999, 10_000, 999_999, 1_000_000, most} {
			l := line{elapsed: time.Hour, made: n, dropped: n, latest: 251, earlier: 251}
			for i := range l.apps {
				l.apps[i] = tally{requests: n + 1, slowest: slowest}
			}
			narrow(t, l.String())
			l.apps[1].failed = n
			narrow(t, l.String())
		}
	}
	d := demo{maxDuration, maxDuration - 1, maxDuration - 1, maxDuration, maxDuration - 1, maxConnections, maxWorkers}
	narrow(t, d.opening("/var/folders/"+strings.Repeat("x", 200)+"/login.json", "a-host-of-some-name.example", 65535))
	o := outcome{demo: d, took: time.Hour, peak: 502, books: books{rotations: most, revoked: most - 1, problems: []string{strings.Repeat("very ", 40) + "bad"}}}
	for i := range o.apps {
		o.apps[i] = result{totals: totals{tally: tally{requests: most, failed: most}}, outlived: most, survivors: most}
		o.apps[i].failures = map[string]failure{}
		for _, state := range []string{"42P01", "42501", "42704", "28P01", "28000", "3D000", "53300", "57P01", "57014", "", "XX000"} {
			o.apps[i].failures[state] = failure{most, "pq: " + strings.Repeat("x", 100) + " (" + state + ")"}
		}
	}
	narrow(t, o.closing())
}

func TestLineSaysWhatHappened(t *testing.T) {
	l := line{elapsed: 7*time.Second + 3*time.Millisecond, made: 4, dropped: 1, latest: 11, earlier: 10}
	l.apps[0] = tally{requests: 490, slowest: 171 * time.Millisecond}
	l.apps[1] = tally{requests: 346, failed: 252, slowest: 2440 * time.Microsecond}
	l.apps[2] = tally{requests: 448, failed: 448}
	const want = "" +
		"        logins   sqlrotate              pool  lib/pq fixed       lib/pq reads\n" +
		" time made gone     ok  fail   max new old     ok  fail   max     ok  fail   max\n" +
		"   7s    4    1    490     0 171ms  11  10     94   252 2.4ms      0   448     -\n"
	if got := heading + l.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestClosingExplainsWhatWasSeen(t *testing.T) {
	const missing = `pq: relation "account" does not exist at column 21 (42P01)`
	// usual is a minute as it should be.
	usual := func() outcome {
		o := outcome{demo: defaults(t), took: time.Minute, peak: 21, books: books{rotations: 29, revoked: 27}}
		o.apps[0].tally = tally{requests: 30000}
		for i := 1; i < 3; i++ {
			o.apps[i] = result{totals{tally{requests: 30000, failed: 27000}, map[string]failure{"42P01": {27000, missing}}}, 20, 20}
		}
		return o
	}
	for _, test := range []struct {
		name   string
		adjust func(*outcome)
		good   bool
		says   []string // in this order
		not    []string
	}{
		{"a minute", func(*outcome) {}, true, []string{
			"no request failed in 29 rotations, and no session outlived its login",
			"54000 times in lib/pq fixed and lib/pq reads: " + missing + ". The table is there.",
			"nobody logs in", "A lifetime below 2.5s is the other half",
			"29 rotations, which makes 30 logins with the first, and 27 were dropped. A login goes 4s after its successor was published, and for 2 of those",
			"came to 21 at times, and its pool has 20",
			"-revoke-after",
		}, []string{"defect", "promise: it", "had a problem", "stalls"}},
		{"nobody waits for its end", func(o *outcome) { o.revoked = 29 }, true, []string{"30 logins with the first, and 29 were dropped."}, []string{"A login goes"}},
		{
			"one of each", func(o *outcome) { o.rotations, o.revoked, o.peak = 2, 1, 20 }, true,
			[]string{"2 rotations, which makes 3 logins", "and 1 was dropped.", "for one of those that had one"},
			[]string{"came to"},
		},
		{"a larger pool", func(o *outcome) { o.demo.connections, o.peak = 200, 201 }, true, []string{"came to 201 at times, and its pool has 200"}, nil},
		{"a lifetime that holds", func(o *outcome) {
			o.demo.lifetime = 2 * time.Second
			o.apps[2] = result{totals: totals{tally: tally{requests: 30000}}}
		}, true, []string{"27000 times in lib/pq fixed: ", "lib/pq reads came through as well: with SetConnMaxLifetime(2s)"}, []string{"other half"}},
		{
			"a lifetime that is too long", func(o *outcome) { o.demo.lifetime = 10 * time.Second }, true,
			[]string{"SetConnMaxLifetime(10s) makes lib/pq reads log in again, but too late for logins that are dropped 4s after", "up to 2.5s is in time"},
			nil,
		},
		{"several errors, the most frequent first", func(o *outcome) {
			o.apps[2].failures["28P01"] = failure{30000, "pq: password authentication failed (28P01)"}
			o.apps[2].failures[""] = failure{1, "context deadline exceeded"}
			o.apps[2].failures["XX000"] = failure{2, "pq: internal error (XX000)"}
		}, true, []string{missing, "30000 times in lib/pq reads: pq: password", "2 times in lib/pq reads: pq: internal error (XX000). What it means is in appendix A", "1 time in lib/pq reads: context deadline exceeded. The server did not say this"}, nil},
		{"interrupted before anything happened", func(o *outcome) {
			*o = outcome{demo: o.demo, took: time.Second, peak: 20}
			o.apps[0].requests = 5
		}, true, []string{"no request failed, but no login was dropped either", "0 rotations, which makes 1 login with the first, and 0 were dropped."}, []string{"times in"}},
		{"no request", func(o *outcome) { o.apps[0].requests = 0 }, false, []string{"sqlrotate: there was no request"}, []string{"no request failed"}},
		{"sqlrotate fails", func(o *outcome) {
			o.apps[0].totals = totals{tally{requests: 30000, failed: 1}, map[string]failure{"42P01": {1, missing}}}
		}, false, []string{"sqlrotate: 1 request failed, and 0 sessions outlived their login. This must not happen", "54001 times in sqlrotate and lib/pq fixed and lib/pq reads"}, []string{"no request failed"}},
		{
			"a machine that stalls", func(o *outcome) { o.apps[0].failed, o.stall = 1, 501*time.Millisecond }, false,
			[]string{"1 request failed", "This machine stalls: it let others wait for 501ms, and the window has 500ms for the file and 1s for a request. Nothing is proven"},
			[]string{"defect"},
		},
		{"a machine that stalls and does no harm", func(o *outcome) { o.stall = time.Minute }, true, []string{"no request failed"}, []string{"stalls"}},
		{"a session outlives its login", func(o *outcome) { o.apps[0].outlived = 1 }, false, []string{"0 requests failed, and 1 session outlived their login. This must not happen"}, nil},
		{"a session is left at the end", func(o *outcome) { o.apps[0].survivors = 1 }, false, []string{"This must not happen"}, nil},
		{"an agent that breaks its promise", func(o *outcome) {
			o.demo.revokeAfter = time.Second
			o.apps[0].failed, o.apps[0].outlived = 240, 39
		}, false, []string{"240 requests failed, and 39 sessions outlived", "dropped logins after 1s, and the window counts on 4s", "A login goes 1s after"}, []string{"defect"}},
		{"an agent in trouble", func(o *outcome) { o.problems = []string{"pgtest: drop role: no"} }, false, []string{"The agent had a problem: pgtest: drop role: no"}, []string{"A login goes", "no request failed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := usual()
			test.adjust(&o)
			if o.good() != test.good {
				t.Errorf("good: %v", o.good())
			}
			text := o.closing()
			narrow(t, text)
			flat := strings.Join(strings.Fields(text), " ")
			rest := flat
			for _, want := range test.says {
				var found bool
				if _, rest, found = strings.Cut(rest, want); !found {
					t.Fatalf("it does not say %q, or not there:\n%s", want, text)
				}
			}
			for _, unwanted := range test.not {
				if strings.Contains(flat, unwanted) {
					t.Errorf("it says %q:\n%s", unwanted, text)
				}
			}
		})
	}
}

func TestWrapLosesNothing(t *testing.T) {
	for _, text := range []string{"", "a", strings.Repeat("word ", 100), strings.Repeat("ä", 200), strings.Repeat("x", 80) + " y", "y " + strings.Repeat("x", 76)} {
		got := wrap("  a ", text)
		narrow(t, got)
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if squeeze(got) != squeeze("a"+text) {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestShortFormsSayAsMuchAsFits(t *testing.T) {
	for n, want := range map[int]string{0: "0", 9999: "9999", 10000: "10k", 999999: "999k", 1000000: "1M", math.MaxInt32: "2147M"} {
		if got := short(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 460 * time.Microsecond: "460µs", 999499: "999µs", 999500: "1.0ms", 11400 * time.Microsecond: "11ms",
		9949 * time.Microsecond: "9.9ms", 9950 * time.Microsecond: "10ms", 999499 * time.Microsecond: "999ms", 999500 * time.Microsecond: "1.0s", 1440 * time.Millisecond: "1.4s", 99949 * time.Millisecond: "99.9s", 100 * time.Second: "100s",
	} {
		if got := brief(d); got != want {
			t.Errorf("%s: %s, want %s", fmt.Sprint(d), got, want)
		}
	}
}
