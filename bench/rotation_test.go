package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// One rotation for each iteration. The table, with all contenders in turn and
// their ratios, is what the command prints: go run ./bench.
func BenchmarkRotation(b *testing.B) {
	e := newTestEnv(b)
	for _, l := range loads() {
		for _, c := range contenders() {
			b.Run(l.name+"/"+c.name, func(b *testing.B) {
				var all []outcome
				for b.Loop() {
					o, err := e.observe(b.Context(), c, l, briskly)
					if err != nil {
						b.Fatal(err)
					}
					all = append(all, o)
				}
				figure := func(unit string, f func(outcome) float64) { b.ReportMetric(median(all, f), unit) }
				figure("before-p99.9-ms", func(o outcome) float64 { return o.before.p999ms() })
				figure("rotation-p99.9-ms", func(o outcome) float64 { return o.worst.p999ms() })
				figure("rotation-max-ms", func(o outcome) float64 { return o.worst.maxms() })
				figure("p99.9-ratio", ratioToBefore)
				figure("failed", func(o outcome) float64 { return float64(o.failed) })
				figure("logins", func(o outcome) float64 { return float64(o.logins) })
				figure("peak-sessions", func(o outcome) float64 { return float64(o.peak) })
				figure("gone-s", func(o outcome) float64 { return o.gone.Seconds() })
				b.ReportMetric(0, "ns/op") // says nothing here
			})
		}
	}
}

// A rotation and its control are watched for the same time: of more slices the worst is worse.
func TestRotationAndItsControl(t *testing.T) {
	t.Parallel()
	const drain = 2 * time.Second
	e := newTestEnv(t)
	for _, c := range chosen(contenders(), nameSQLRotate+";"+nameNone) {
		o, err := e.observe(t.Context(), c, loads()[0], drain)
		if err != nil {
			t.Fatal(err)
		}
		if o.watched != max(o.gone, drain)+aftermath || o.before.n == 0 || o.worst.n == 0 {
			t.Errorf("%s: watched for %v, old sessions for %v; %d operations before, %d in the smallest slice", c.name, o.watched, o.gone, o.before.n, o.worst.n)
		}
		if rotated := o.logins > 0; o.failed > 0 || rotated == c.calm {
			t.Errorf("%s: %d operations failed, %v; %d logins", c.name, o.failed, o.err, o.logins)
		}
	}
}

// A report has, against the control, the ratio of the medians and where that may lie, and
// the longest of all rotations.
func TestReportHasRatiosAndMaxima(t *testing.T) {
	outcomes := func(p999s ...float64) (os []outcome) {
		for _, ms := range p999s {
			d := time.Duration(ms * float64(time.Millisecond))
			os = append(os, outcome{before: dist{p999: time.Millisecond}, worst: dist{p999: d, max: 2 * d}})
		}
		return os
	}
	var b bytes.Buffer
	report(&b, loads()[0], map[string][]outcome{nameSQLRotate: outcomes(3, 3, 3, 3, 3, 3, 3, 3, 7), nameNone: outcomes(2, 2, 2, 2, 2, 2, 2, 2, 2)})
	for _, line := range []string{
		"- sqlrotate to no rotation, during a rotation: 1.5 (1.5 to 1.5); of the medians: 1.5, with 90 % certainty 1.5 to 1.5\n",
		"- sqlrotate: p99.9 of a slice 7 ms, one operation 14 ms\n",
		"- no rotation: p99.9 of a slice 2 ms, one operation 4 ms\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("it lacks %q:\n%s", line, &b)
		}
	}
}
