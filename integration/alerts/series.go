// Package alerts tests the rules of examples/prometheus and the dashboard of
// examples/grafana with promtool, on what the collector really says while something goes
// wrong.
package alerts

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// A Recording is a sequence of scrapes, to be played to promtool in slow motion: a second
// of it becomes Scale seconds there, and the scrapes are Interval apart. promtool's clock
// begins with the first. Moments keep their distance from the scrape that tells of them.
type Recording struct {
	Scale    float64
	Interval time.Duration
	at       []time.Time
	series   map[string][]string // by name and labels
}

// Add adds a scrape that was made at the time at, in the text format.
func (r *Recording) Add(at time.Time, scrape io.Reader) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(scrape)
	if err != nil {
		return err
	}
	if r.series == nil {
		r.series = map[string][]string{}
	}
	i := len(r.at)
	r.at = append(r.at, at)
	for name, f := range families {
		for _, m := range f.GetMetric() {
			value, ok := number(m)
			if !ok {
				r.addBuckets(i, name, m)
				continue
			}
			switch {
			case strings.HasSuffix(name, "_timestamp_seconds"):
				value = r.Interval.Seconds()*float64(i) + r.Scale*(value-float64(at.UnixMicro())/1e6)
			case strings.HasSuffix(name, "_seconds"), strings.HasSuffix(name, "_seconds_total"):
				value *= r.Scale
			}
			r.add(i, name+labels(m.GetLabel()), value)
		}
	}
	return nil
}

func (r *Recording) add(i int, key string, value float64) {
	r.series[key] = append(upTo(r.series[key], i), strconv.FormatFloat(value, 'f', -1, 64))
}

// addBuckets adds those of a histogram, which nobody tells from one in slow motion.
func (r *Recording) addBuckets(i int, name string, m *dto.Metric) {
	for _, b := range m.GetHistogram().GetBucket() {
		le := strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64)
		r.add(i, name+"_bucket"+labels(append(slices.Clone(m.GetLabel()), &dto.LabelPair{Name: new("le"), Value: &le})), float64(b.GetCumulativeCount()))
	}
}

// upTo fills what a series lacks before its i-th value, as a scrape does: it is stale
// once it is gone.
func upTo(values []string, i int) []string {
	for len(values) < i {
		next := "_"
		if n := len(values); n > 0 && values[n-1] != "_" && values[n-1] != "stale" {
			next = "stale"
		}
		values = append(values, next)
	}
	return values
}

func number(m *dto.Metric) (float64, bool) {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	}
	return 0, false
}

func labels(all []*dto.LabelPair) string {
	var pairs []string
	for _, l := range all {
		pairs = append(pairs, l.GetName()+"="+strconv.Quote(l.GetValue()))
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// Len is the number of scrapes.
func (r *Recording) Len() int { return len(r.at) }

// Since returns the first scrape that was made when d had passed in slow motion since
// then, and whether there is one.
func (r *Recording) Since(then time.Time, d time.Duration) (int, bool) {
	i := slices.IndexFunc(r.at, func(at time.Time) bool { return r.Scale*at.Sub(then).Seconds() >= d.Seconds() })
	return i, i >= 0
}

// An Expectation is whether an alert fires at a scrape.
type Expectation struct {
	Alert  string
	Scrape int
	Fires  bool
}

// Write writes the file that `promtool test rules` reads.
func (r *Recording) Write(w io.Writer, rules string, expect []Expectation) error {
	var tests []exprTest
	for _, e := range expect {
		fires := 0
		if e.Fires {
			fires = 1
		}
		tests = append(tests, exprTest{fmt.Sprintf(`count(ALERTS{alertname="%s",alertstate="firing"}) or vector(0)`, e.Alert), e.Scrape, fires})
	}
	return r.write(w, rules, tests)
}

// exprTest is what an expression is at a scrape: one number without labels.
type exprTest struct {
	expr   string
	scrape int
	value  int
}

func (r *Recording) write(w io.Writer, rules string, tests []exprTest) error {
	var b strings.Builder
	if rules != "" {
		fmt.Fprintf(&b, "rule_files: [%q]\n", rules)
	}
	fmt.Fprintf(&b, "evaluation_interval: %v\ntests:\n  - interval: %v\n    input_series:\n", model.Duration(r.Interval), model.Duration(r.Interval))
	keys := make([]string, 0, len(r.series))
	for key := range r.series {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		fmt.Fprintf(&b, "      - series: %s\n        values: %q\n", quote(key), strings.Join(upTo(r.series[key], len(r.at)), " "))
	}
	b.WriteString("    promql_expr_test:\n")
	for _, e := range tests {
		fmt.Fprintf(&b, "      - expr: %s\n        eval_time: %v\n        exp_samples: [{labels: '{}', value: %d}]\n",
			quote(e.expr), model.Duration(time.Duration(e.scrape)*r.Interval), e.value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// quote quotes for YAML.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
