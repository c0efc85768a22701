package alerts

import (
	"strings"
	"testing"
	"time"
)

func TestScrapesBecomeSeries(t *testing.T) {
	r := &Recording{Scale: 10, Interval: 6 * time.Second}
	began := time.Unix(1_800_000_000, 0)
	for i, scrape := range []string{
		"# TYPE a_timestamp_seconds gauge\na_timestamp_seconds{x=\"it's\"} 1799999999\n# TYPE b_seconds gauge\nb_seconds 2\n",
		"# TYPE a_timestamp_seconds gauge\na_timestamp_seconds{x=\"it's\"} 1799999999\n# TYPE c_total counter\nc_total 7\n",
		"",
		"",
		"# TYPE b_seconds gauge\nb_seconds 3\n",
	} {
		if err := r.Add(began.Add(time.Duration(i)*time.Second), strings.NewReader(scrape)); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	if err := r.Write(&b, "rules.yaml", []Expectation{{"A", 2, true}, {"A", 4, false}}); err != nil {
		t.Fatal(err)
	}
	want := `rule_files: ["rules.yaml"]
evaluation_interval: 6s
tests:
  - interval: 6s
    input_series:
      - series: 'a_timestamp_seconds{x="it''s"}'
        values: "-10 -14 stale _ _"
      - series: 'b_seconds'
        values: "20 stale _ _ 30"
      - series: 'c_total'
        values: "_ 7 stale _ _"
    promql_expr_test:
      - expr: 'count(ALERTS{alertname="A",alertstate="firing"}) or vector(0)'
        eval_time: 12s
        exp_samples: [{labels: '{}', value: 1}]
      - expr: 'count(ALERTS{alertname="A",alertstate="firing"}) or vector(0)'
        eval_time: 24s
        exp_samples: [{labels: '{}', value: 0}]
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if i, ok := r.Since(began.Add(500*time.Millisecond), 15*time.Second); i != 2 || !ok {
		t.Error(i, ok)
	}
}
