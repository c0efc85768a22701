package alerts

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	grafana "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/prometheus"
)

// The dashboard is what Grafana's schema allows, its queries are PromQL over metrics and
// labels that there are, and nothing in it is in the way of something else.
func TestDashboard(t *testing.T) {
	if err := checkDashboard(t, readFile(t, "../../examples/grafana/sqlrotate.json")); err != nil {
		t.Error(err)
	}
}

func TestPlantedErrorsInTheDashboardAreFound(t *testing.T) {
	text := readFile(t, "../../examples/grafana/sqlrotate.json")
	for name, planted := range map[string]struct{ old, new, want string }{
		"a misspelt metric":                {"sqlrotate_can_connect{", "sqlrotate_can_conect{", "there is no metric sqlrotate_can_conect"},
		"a misspelt metric of a variable":  {"label_values(sqlrotate_can_connect", "label_values(sqlrotate_canconnect", "there is no metric sqlrotate_canconnect"},
		"a bucket of what is no histogram": {"sqlrotate_connects_waiting{", "sqlrotate_connects_waiting_bucket{", "there is no metric sqlrotate_connects_waiting_bucket"},
		"a label that the metric lacks":    {`sqlrotate_can_connect{connector=~`, `sqlrotate_can_connect{source=~`, "sqlrotate_can_connect has no label source"},
		"a group by what there isn't":      {"min by (source, divergence)", "min by (source, kind)", "by kind"},
		"a legend of what was aggregated":  {`"legendFormat": "{{version}}"`, `"legendFormat": "{{connector}}"`, "legend has connector"},
		"a variable that nobody sets":      {`source=~\"$source\"`, `source=~\"$sources\"`, "what is $sources"},
		"an unknown field of a panel":      {`"title": "Heartbeat"`, `"titel": "Heartbeat"`, "titel"},
		"an unknown field of options":      {`"showHeader"`, `"showHeaders"`, "showHeaders"},
		"an unknown field of a query":      {`"legendFormat"`, `"legend"`, "legend"},
		"an unknown field of a timeseries": {`"drawStyle"`, `"drawingStyle"`, "drawingStyle"},
		"a field of the wrong type":        {`"lineWidth": 2`, `"lineWidth": "2"`, "lineWidth"},
		"a kind of panel that there isn't": {`"type": "table"`, `"type": "tables"`, "tables"},
		"a data source of one's own":       {`"uid": "${datasource}"`, `"uid": "P1809F7CD0C75ACF3"`, "data source"},
		"what is no PromQL":                {"- min by (source) (sqlrotate_file_checked", "- > min by (source) (sqlrotate_file_checked", "promtool"},
		"two panels in one place":          {"\"x\": 5,\n        \"y\": 0", "\"x\": 4,\n        \"y\": 0", "overlaps"},
		"a panel beyond the edge":          {"\"x\": 15,\n        \"y\": 0,\n        \"w\": 9", "\"x\": 15,\n        \"y\": 0,\n        \"w\": 10", "24"},
		"an id twice":                      {`"id": 2,`, `"id": 1,`, "id 1"},
		"a question that nobody asks":      {`"Is the watcher alive?"`, `"Is the watcher awake?"`, "awake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := strings.Replace(text, planted.old, planted.new, 1)
			if changed == text {
				t.Fatal("there is nothing to change")
			}
			if err := checkDashboard(t, changed); err == nil || !strings.Contains(err.Error(), planted.want) {
				t.Errorf("got %v, want %s", err, planted.want)
			}
		})
	}
}

func readFile(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

// A query is one of a panel, of a variable or of the annotations.
type query struct{ where, expr, legend string }

// plain is the expression as Grafana asks for it, for all there are.
func (q query) plain() string {
	values := map[string]string{"$connector": ".*", "$source": ".*", "$__rate_interval": "1m"}
	return variable.ReplaceAllStringFunc(q.expr, func(name string) string { return cmp.Or(values[name], name) })
}

func checkDashboard(t *testing.T, text string) error {
	t.Helper()
	d, err := decode(text)
	if err != nil {
		return err
	}
	queries, err := queriesOf(d)
	if err != nil {
		return err
	}
	errs := []error{checkLayout(t, d), checkNames(text)}
	for _, q := range queries {
		errs = append(errs, q.check())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return parses(t, queries)
}

// classic is the form that every Grafana imports.
type classic = dashboard.Dashboard //nolint:staticcheck // the newer one needs Grafana 12

// decode decodes it twice: the strict decoder says what is wrong, but keeps no panels, and
// what it returns is never nil.
func decode(text string) (*classic, error) {
	kinds := cog.NewRuntime() // not all that there are: they take minutes to compile
	kinds.RegisterPanelcfgVariant(stat.VariantConfig())
	kinds.RegisterPanelcfgVariant(table.VariantConfig())
	kinds.RegisterPanelcfgVariant(timeseries.VariantConfig())
	kinds.RegisterDataqueryVariant(grafana.VariantConfig())
	var errs cog.BuildErrors
	if err := new(classic).UnmarshalJSONStrict([]byte(text)); !errors.As(err, &errs) || len(errs) > 0 {
		return nil, err
	}
	d := &classic{}
	if err := json.Unmarshal([]byte(text), d); err != nil {
		return nil, err
	}
	return d, d.Validate()
}

func queriesOf(d *classic) ([]query, error) {
	var all []query
	var errs []error
	for _, p := range panelsOf(d) {
		where := *p.Title
		if _, ok := cog.ConfigForPanelcfgVariant(p.Type); !ok {
			errs = append(errs, fmt.Errorf("%s is of the kind %s, which there isn't", where, p.Type))
		}
		errs = append(errs, checkSource(where, p.Datasource))
		if len(p.Targets) == 0 {
			errs = append(errs, fmt.Errorf("%s has no query", where))
		}
		for _, target := range p.Targets {
			q, ok := target.(*grafana.Dataquery)
			if !ok {
				errs = append(errs, fmt.Errorf("%s has a query that is a %T", where, target))
				continue
			}
			legend := ""
			if q.LegendFormat != nil {
				legend = *q.LegendFormat
			}
			errs = append(errs, checkSource(where, q.Datasource))
			all = append(all, query{where, q.Expr, legend})
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == dashboard.VariableTypeQuery {
			errs = append(errs, checkSource(v.Name, v.Datasource))
		}
	}
	for _, a := range d.Annotations.List {
		errs = append(errs, checkSource(a.Name, a.Datasource))
		all = append(all, query{a.Name, *a.Expr, *a.TitleFormat})
	}
	return all, errors.Join(errs...)
}

func checkSource(where string, ref *common.DataSourceRef) error {
	if ref == nil || *ref.Type != "prometheus" || *ref.Uid != "${datasource}" {
		return fmt.Errorf("%s has another data source than the variable", where)
	}
	return nil
}

func panelsOf(d *classic) []*dashboard.Panel {
	var all []*dashboard.Panel
	for _, p := range d.Panels {
		if p.Panel != nil {
			all = append(all, p.Panel)
		}
	}
	return all
}

// checkLayout says what is in the way of something else, or lacks a text.
func checkLayout(t *testing.T, d *classic) error {
	t.Helper()
	questions := strings.ToLower(readFile(t, "../../docs/operate.md"))
	var errs []error
	type place struct {
		title string
		dashboard.GridPos
	}
	var places []place
	ids := map[uint32]bool{}
	add := func(id uint32, title string, pos *dashboard.GridPos) {
		if ids[id] {
			errs = append(errs, fmt.Errorf("%s has the id %d of another", title, id))
		}
		ids[id] = true
		if pos.X+pos.W > 24 {
			errs = append(errs, fmt.Errorf("%s ends at %d of 24", title, pos.X+pos.W))
		}
		for _, other := range places {
			if pos.X < other.X+other.W && other.X < pos.X+pos.W && pos.Y < other.Y+other.H && other.Y < pos.Y+pos.H {
				errs = append(errs, fmt.Errorf("%s overlaps %s", title, other.title))
			}
		}
		places = append(places, place{title, *pos})
	}
	rows := 0
	for _, p := range d.Panels {
		switch {
		case p.RowPanel != nil:
			rows++
			if question := strings.TrimSuffix(strings.ToLower(*p.RowPanel.Title), "?"); !strings.Contains(questions, question) {
				errs = append(errs, fmt.Errorf("docs/operate.md doesn't ask: %s", question))
			}
			add(p.RowPanel.Id, *p.RowPanel.Title, p.RowPanel.GridPos)
		case p.Panel.Description == nil || *p.Panel.Description == "":
			errs = append(errs, fmt.Errorf("%s doesn't say what it shows", *p.Panel.Title))
		default:
			add(*p.Panel.Id, *p.Panel.Title, p.Panel.GridPos)
		}
	}
	if rows != 4 {
		errs = append(errs, fmt.Errorf("%d questions are answered, of four", rows))
	}
	return errors.Join(errs...)
}

// metricLabels returns what the collector has, and each one's labels.
func metricLabels() map[string][]string {
	ch := make(chan *client.Desc, 1000)
	prometheus.NewCollector().Describe(ch)
	close(ch)
	all := map[string][]string{}
	for d := range ch {
		m := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{(.*)\}\}$`).FindStringSubmatch(d.String())
		all[m[1]] = strings.Split(m[2], ",")
		if strings.HasSuffix(m[1], "_duration_seconds") { // of last_drain_… nobody asks for buckets
			all[m[1]+"_bucket"] = append(slices.Clone(all[m[1]]), "le")
		}
	}
	return all
}

// checkNames says what in text looks like a metric and is none.
func checkNames(text string) error {
	known := metricLabels()
	var errs []error
	for _, m := range regexp.MustCompile(`label_values\((\w+), (\w+)\)`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(known[m[1]], m[2]) {
			errs = append(errs, fmt.Errorf("%s has no label %s", m[1], m[2]))
		}
	}
	for _, name := range regexp.MustCompile(`\bsqlrotate_\w+`).FindAllString(text, -1) {
		if known[name] == nil {
			errs = append(errs, fmt.Errorf("there is no metric %s", name))
		}
	}
	return errors.Join(errs...)
}

var (
	selector = regexp.MustCompile(`\b(sqlrotate_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	grouped  = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	legend   = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	variable = regexp.MustCompile(`\$\w+`)
)

// check says which labels aren't there.
func (q query) check() error {
	known := metricLabels()
	var errs []error
	labels := []string{"instance"}
	for _, m := range selector.FindAllStringSubmatch(q.expr, -1) {
		labels = append(labels, known[m[1]]...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(known[m[1]], l[1]) {
				errs = append(errs, fmt.Errorf("%s: %s has no label %s", q.where, m[1], l[1]))
			}
		}
	}
	var kept []string
	for _, m := range grouped.FindAllStringSubmatch(q.expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(labels, l) {
				errs = append(errs, fmt.Errorf("%s is by %s, which nothing in it has", q.where, l))
			}
			kept = append(kept, l)
		}
	}
	for _, m := range legend.FindAllStringSubmatch(q.legend, -1) {
		if !slices.Contains(kept, m[1]) {
			errs = append(errs, fmt.Errorf("%s: the legend has %s, which the query hasn't", q.where, m[1]))
		}
	}
	if rest := variable.FindString(q.plain()); rest != "" {
		errs = append(errs, fmt.Errorf("%s: what is %s?", q.where, rest))
	}
	return errors.Join(errs...)
}

// parses has promtool read the queries.
func parses(t *testing.T, queries []query) error {
	t.Helper()
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, q := range queries {
		fmt.Fprintf(&b, "      - record: query:%d\n        expr: %s\n", i, quote(q.plain()))
	}
	name := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", name).CombinedOutput(); err != nil {
		return fmt.Errorf("promtool: %w\n%s", err, out)
	}
	return nil
}

// Each query of the dashboard shows something when there is something to show.
func TestDashboardShows(t *testing.T) {
	a := &app{T: t, began: time.Now(), name: "shown", server: pgtest.New(t, pgtest.Options{}), path: filepath.Join(t.TempDir(), "creds.json"), recording: &Recording{Scale: scale, Interval: interval}}
	a.replace(ending(a.newRole(), time.Hour))
	a.start(nil)
	slow, err := sqlrotate.NewCachedSource(sqlrotate.SourceFunc(func(ctx context.Context) (sqlrotate.Credential, error) {
		<-ctx.Done()
		return sqlrotate.Credential{}, ctx.Err()
	}), sqlrotate.CacheOptions{Logger: slog.New(slog.DiscardHandler)})
	a.must(err)
	defer func() { a.must(slow.Close()) }()
	a.must(a.collector.AddCache("slow", slow))
	asked, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _ = slow.Credential(asked) }()
	a.scrape(settled, a.works)
	a.replace(ending(a.newRole(), time.Hour))
	a.scrape(settled, a.works)
	a.replace("torn")
	a.scrape(settled, nil)
	a.replace(content("next_" + a.role)) // there is no such role
	a.scrape(settled, nil)
	a.must(a.server.RevokeRole(t.Context(), a.role))
	impatient, cancelled := context.WithTimeout(t.Context(), every)
	defer cancelled()
	if conn, err := a.connector.Connect(impatient); err == nil {
		a.must(conn.Close())
		t.Error("a role that was dropped logs in")
	}
	a.scrape(settled, nil)

	d, err := decode(readFile(t, "../../examples/grafana/sqlrotate.json"))
	a.must(err)
	queries, err := queriesOf(d)
	a.must(err)
	last := a.recording.Len() - 1
	var tests []exprTest
	for _, q := range queries {
		expr := fmt.Sprintf("(count(count_over_time((%s)[%v:%v])) or vector(0)) > bool 0", q.plain(), model.Duration(time.Duration(last)*interval), model.Duration(interval))
		tests = append(tests, exprTest{expr, last, 1})
	}
	name := filepath.Join(t.TempDir(), "shows.yaml")
	f, err := os.Create(name)
	a.must(err)
	a.must(errors.Join(a.recording.write(f, "", tests), f.Close()))
	if out, err := exec.CommandContext(t.Context(), "promtool", "test", "rules", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
