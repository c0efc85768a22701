package main

import (
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// One rotation for each iteration. The table, with all contenders in turn and
// their ratios, is what the command prints: go run ./bench.
func BenchmarkRotation(b *testing.B) {
	e, err := newEnv(b.Context(), pgtest.New(b, pgtest.Options{}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.close)
	for _, l := range loads() {
		for _, c := range contenders() {
			b.Run(l.name+"/"+c.name, func(b *testing.B) {
				var all []outcome
				for b.Loop() {
					o, err := e.observe(b.Context(), c, l)
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
