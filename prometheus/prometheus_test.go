package prometheus

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/sqlrotate/sqlrotate"
)

// opener logs in where there is no server.
type opener struct{ login func(context.Context) error }

func (o opener) Open(ctx context.Context, _ sqlrotate.Credential, dial sqlrotate.DialFunc) (driver.Conn, error) {
	if o.login != nil {
		if err := o.login(ctx); err != nil {
			return nil, err
		}
	}
	socket, err := dial(ctx, "fake", "server")
	return &conn{socket}, err
}

func (opener) Refused(err error) bool { return sqlrotate.SQLStateRefused(err) }

// A conn has a socket, as far as the connector can see.
type conn struct{ socket net.Conn }

func dial(context.Context, string, string) (net.Conn, error) {
	socket, _ := net.Pipe()
	return socket, nil
}

func (*conn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("no statements") }
func (c *conn) Close() error                      { return c.socket.Close() }
func (*conn) Begin() (driver.Tx, error)           { return nil, errors.New("no transactions") }

type refusal struct{}

func (refusal) Error() string    { return "refused" }
func (refusal) SQLState() string { return "28P01" }

// open returns a connector that has the login "app" with the password "s3cret", and is
// collected.
func open(tb testing.TB, m *Collector, name string, o opener) *sql.DB {
	tb.Helper()
	c, err := sqlrotate.New(sqlrotate.Config{
		Name: name, Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("s3cret")}),
		Opener: o, Window: sqlrotate.Window{Overlap: time.Hour}, Logger: slog.New(slog.DiscardHandler), Dial: dial, Trace: m.Trace(name),
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := m.AddConnector(name, c); err != nil {
		tb.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func registry(tb testing.TB, m *Collector) *prometheus.Registry {
	tb.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(m); err != nil {
		tb.Fatal(err)
	}
	return r
}

// text is what a scrape gets.
func text(tb testing.TB, r *prometheus.Registry) string {
	tb.Helper()
	families, err := r.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	return encode(tb, families)
}

func encode(tb testing.TB, families []*dto.MetricFamily) string {
	tb.Helper()
	var b bytes.Buffer
	e := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			tb.Fatal(err)
		}
	}
	return b.String()
}

// fixed is a connector in a state that was thought of.
type fixed struct {
	stats    sqlrotate.Stats
	problems []sqlrotate.Problem
}

func (f fixed) Stats() sqlrotate.Stats        { return f.stats }
func (f fixed) Problems() []sqlrotate.Problem { return f.problems }

// In each state, what is exported is clean, and what is said is said.
func TestStatesAreClean(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(1_800_000_000+s, 0) }
	full := sqlrotate.Stats{
		Versions: []sqlrotate.VersionStats{
			{Number: 4, Username: "d", Current: true, Open: 3, OldestAt: at(40), SeenAt: at(30), EndsAt: at(400), RefusedSince: at(50)},
			{Number: 3, Username: "c", Proven: true, Open: 4, OldestAt: at(30), SeenAt: at(20), SupersededAt: at(40), EndsAt: at(300)},
			{Number: 2, Username: "b", Open: 5, OldestAt: at(20), SeenAt: at(10), EndsAt: at(200)},
			{Number: 1, Username: "a", Open: 6, OldestAt: at(10), SeenAt: at(0), EndsAt: at(100)},
		},
		Rotations: 3, Window: sqlrotate.WindowStats{MaxLifetime: time.Minute, Overlap: 2 * time.Minute, Lag: time.Second, MaxInUse: time.Second, RetryTimeout: time.Second},
		Logins: 7, Refused: 8, Failed: 9, LastLoginAt: at(1), Fallbacks: 2, NextAttemptAt: at(60),
		ConnectFailures: map[sqlrotate.ConnectFailure]uint64{sqlrotate.FailedRefused: 11},
		Closed:          map[sqlrotate.CloseReason]uint64{sqlrotate.CloseExpired: 12}, Outlived: 13, Spares: 1,
		DrainSince: at(5), DrainUntil: at(6), DrainSize: 9, DrainLeft: 2, Drains: 1, LastDrainTime: time.Second,
		Observed: sqlrotate.Observed{
			Since: at(0), LongestUse: sqlrotate.Worst{Took: 90 * time.Second, At: at(9)}, SourceLag: sqlrotate.Worst{At: at(9)},
			LongestLogin: sqlrotate.Worst{Took: 2 * time.Second, At: at(9)}, TimerLateness: sqlrotate.Worst{Took: 3 * time.Second, At: at(9)},
		}, TimersLate: 4 * time.Second,
		SuccessorDueAt: at(350), SourceReadAt: at(7), SourceErrors: 1, SourceFailingSince: at(8), NoticesDropped: 1,
	}
	for name, state := range map[string]struct {
		fill func(m *Collector) error
		want []string
		none []string
	}{
		"nothing":                  {fill: func(*Collector) error { return nil }, none: []string{"sqlrotate_"}},
		"a connector without news": {fill: func(m *Collector) error { return m.set.AddConnector("x", fixed{}) }, want: []string{`sqlrotate_can_connect{connector="x"} 1`, `sqlrotate_connections{connector="x",version="older"} 0`}, none: []string{"timestamp", "observed"}},
		"a connector in trouble": {
			fill: func(m *Collector) error {
				return m.set.AddConnector("x", fixed{full, []sqlrotate.Problem{
					{Kind: sqlrotate.ProblemRefused, CanConnect: true}, {Kind: sqlrotate.ProblemHangs}, {Kind: sqlrotate.ProblemHangs},
				}})
			},
			want: []string{
				`sqlrotate_connections{connector="x",version="current"} 3`, `sqlrotate_connections{connector="x",version="previous"} 4`, `sqlrotate_connections{connector="x",version="older"} 11`,
				`sqlrotate_oldest_connection_timestamp_seconds{connector="x",version="older"} 1.80000001e+09`,
				`sqlrotate_credential_end_timestamp_seconds{connector="x",version="older"} 1.8000001e+09`,
				`sqlrotate_credential_seen_timestamp_seconds{connector="x",version="older"} 1.80000001e+09`,
				`sqlrotate_credential_refused_since_timestamp_seconds{connector="x"} 1.80000005e+09`,
				`sqlrotate_successor_due_timestamp_seconds{connector="x"} 1.80000035e+09`,
				`sqlrotate_credential_info{connector="x",username="d",version="current"} 1`,
				`sqlrotate_problem{connector="x",kind="calls_hang"} 1`, `sqlrotate_problem{connector="x",kind="credential_refused"} 1`,
				`sqlrotate_can_connect{connector="x"} 0`, `sqlrotate_closed_connections_total{connector="x",reason="expired"} 12`,
				`sqlrotate_logins_total{connector="x",outcome="refused"} 8`, `sqlrotate_window_seconds{connector="x",part="lag"} 1`,
				`sqlrotate_observed_use_seconds{connector="x"} 90`, `sqlrotate_observed_source_lag_seconds{connector="x"} 0`, `sqlrotate_observed_login_seconds{connector="x"} 2`,
				`sqlrotate_observed_timer_lateness_seconds{connector="x"} 3`, `sqlrotate_timers_late_seconds_total{connector="x"} 4`,
			},
			none: []string{`username="a"`, `username="b"`},
		},
		"several of each, of names that are no labels": {
			fill: func(m *Collector) error {
				return errors.Join(m.set.AddConnector("x", fixed{stats: full}), m.set.AddConnector("\xff\"\n", fixed{stats: full}),
					m.set.AddFile("x", func() sqlrotate.FileStatus { return sqlrotate.FileStatus{Path: "/x\xff"} }),
					m.set.AddFile("\xfe", func() sqlrotate.FileStatus { return sqlrotate.FileStatus{} }))
			},
			want: []string{"connector=\"\uFFFD\\\"\\n\""},
		},
		"sources in trouble": {
			fill: func(m *Collector) error {
				return errors.Join(
					m.set.AddFile("f", func() sqlrotate.FileStatus {
						return sqlrotate.FileStatus{
							Path: "/creds", Username: "app", LoadedAt: at(1), CheckedAt: at(2), ModTime: at(3), Divergence: sqlrotate.DivergedRefused, DivergedSince: at(4),
							Failures: 5, FailingSince: at(6), Events: true, Reads: 9, FailedReads: 5, Loads: 2, ReplacedSince: at(7), MovedSince: at(8), TimersLate: 9 * time.Second,
						}
					}),
					m.set.AddCache("c", func() sqlrotate.CacheStatus {
						return sqlrotate.CacheStatus{
							Username: "app", NotAfter: at(1), FetchedAt: at(2), FetchingSince: at(3), NextFetchAt: at(4), Fetches: 5, Hanging: 1, Failures: 6, FailingSince: at(7), RefusedAt: at(8),
						}
					}),
					m.AddSource("v", func() SourceStatus {
						return SourceStatus{ReadAt: at(1), Reads: 2, RenewedAt: at(3), EndsAt: at(4), FailingSince: at(5), Failures: 6}
					}))
			},
			want: []string{
				`sqlrotate_file_diverged_since_timestamp_seconds{divergence="refused",source="f"} 1.800000004e+09`, `sqlrotate_file_checked_timestamp_seconds{source="f"} 1.800000002e+09`,
				`sqlrotate_file_reads_total{outcome="ok",source="f"} 4`, `sqlrotate_file_timers_late_seconds_total{source="f"} 9`, `sqlrotate_file_replaced_since_timestamp_seconds{source="f"} 1.800000007e+09`,
				`sqlrotate_file_events{source="f"} 1`, `sqlrotate_source_failing_since_timestamp_seconds{source="c"} 1.800000007e+09`,
				`sqlrotate_source_renewed_timestamp_seconds{source="v"} 1.800000003e+09`, `sqlrotate_source_failures{source="v"} 6`,
			},
			none: []string{"username"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewCollector()
			if err := state.fill(m); err != nil {
				t.Fatal(err)
			}
			r := registry(t, m)
			problems, err := testutil.GatherAndLint(r)
			if err != nil || len(problems) > 0 {
				t.Error(problems, err)
			}
			got := text(t, r)
			for _, want := range state.want {
				if !strings.Contains(got, want) {
					t.Errorf("there is no %s in\n%s", want, got)
				}
			}
			for _, none := range state.none {
				if strings.Contains(got, none) {
					t.Errorf("%s is in\n%s", none, got)
				}
			}
		})
	}
}

func TestARealConnectorAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "creds.json")
	if err := os.WriteFile(path, []byte(`{"username":"app","password":"s3cret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{PollOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	cache, err := sqlrotate.NewCachedSource(src, sqlrotate.CacheOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	m := NewCollector()
	db := open(t, m, "orders", opener{})
	if err := errors.Join(m.AddFile("orders", src), m.AddCache("cache", cache), db.PingContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	r := registry(t, m)
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	got := text(t, r)
	for _, want := range []string{`sqlrotate_connections{connector="orders",version="current"} 1`, `sqlrotate_file_info{path="` + path + `",source="orders"} 1`, `sqlrotate_can_connect{connector="orders"} 1`} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "s3cret") {
		t.Error("the password is told")
	}
	m.RemoveConnector("orders")
	m.RemoveSource("orders")
	m.RemoveSource("cache")
	if got := text(t, r); strings.Contains(got, "orders") || strings.Contains(got, "cache") {
		t.Error("what was removed is still told:", got)
	}
}

func TestLoginsAreMeasured(t *testing.T) {
	m := NewCollector()
	trace := m.Trace("x")
	trace.Login(sqlrotate.LoginInfo{Took: 30 * time.Millisecond})
	trace.Login(sqlrotate.LoginInfo{Took: 3 * time.Second, Err: errors.New("down")})
	trace.Login(sqlrotate.LoginInfo{Took: 3 * time.Second, Err: refusal{}, Refused: true})
	trace.Login(sqlrotate.LoginInfo{Took: 4 * time.Second, Err: refusal{}, Refused: true})
	m.Trace("x").Login(sqlrotate.LoginInfo{Took: 40 * time.Millisecond})
	m.Trace("y\xff").Login(sqlrotate.LoginInfo{Took: time.Second})
	r := registry(t, m)
	got := text(t, r)
	for _, want := range []string{
		`sqlrotate_login_duration_seconds_bucket{connector="x",outcome="ok",le="0.025"} 0`, `sqlrotate_login_duration_seconds_bucket{connector="x",outcome="ok",le="0.05"} 2`,
		`sqlrotate_login_duration_seconds_count{connector="x",outcome="failed"} 1`, `sqlrotate_login_duration_seconds_sum{connector="x",outcome="refused"} 7`,
		"sqlrotate_login_duration_seconds_count{connector=\"y\uFFFD\",outcome=\"ok\"} 1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "connector=\"y\uFFFD\",outcome=\"failed\"") {
		t.Error("logins that there never were have a histogram:", got)
	}
	m.RemoveConnector("x")
	trace.Login(sqlrotate.LoginInfo{Took: time.Second}) // it was under way
	if got := text(t, r); strings.Contains(got, `connector="x"`) {
		t.Error("what was removed is still told:", got)
	}
}

func TestNamesAreUnique(t *testing.T) {
	m := NewCollector()
	open(t, m, "x", opener{})
	if err := m.set.AddConnector("x", fixed{}); err == nil {
		t.Error("there are two connectors x")
	}
	status := func() SourceStatus { return SourceStatus{} }
	if err := m.AddSource("x", status); err != nil {
		t.Error(err)
	}
	if err := m.AddSource("x", status); err == nil {
		t.Error("there are two sources x")
	}
	if err := errors.Join(m.AddSource("\xff", status), m.AddSource("\xfe", status)); err == nil {
		t.Error("there are two sources of the same label")
	}
	m.RemoveSource("\xfd")
	if err := m.AddSource("\xfe", status); err != nil {
		t.Error(err)
	}
}

// Every metric is described, or a pedantic registry would refuse the scrape.
func TestDescribe(t *testing.T) {
	ch := make(chan *prometheus.Desc, 100)
	NewCollector().Describe(ch)
	close(ch)
	var names []string
	for d := range ch {
		if names = append(names, d.String()); slices.Contains(names[:len(names)-1], d.String()) {
			t.Error("twice:", d)
		}
	}
}

// A scrape is done while a login is not.
func TestAScrapeWaitsForNoLogin(t *testing.T) {
	m := NewCollector()
	began, release := make(chan struct{}), make(chan struct{})
	db := open(t, m, "x", opener{func(context.Context) error {
		close(began)
		<-release
		return nil
	}})
	pinged := make(chan error)
	go func() { pinged <- db.PingContext(context.Background()) }()
	<-began
	got := text(t, registry(t, m))
	if !strings.Contains(got, `sqlrotate_connections{connector="x",version="current"} 0`) {
		t.Error(got)
	}
	close(release)
	if err := <-pinged; err != nil {
		t.Error(err)
	}
}

// BenchmarkScrape is of 100 pools with 20 connections each.
func BenchmarkScrape(b *testing.B) {
	m := NewCollector()
	for i := range 100 {
		db := open(b, m, "pool"+string(rune('a'+i/26))+string(rune('a'+i%26)), opener{})
		db.SetMaxIdleConns(20)
		for range 20 {
			c, err := db.Conn(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
		}
	}
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	if got := text(b, r); strings.Count(got, `version="current"} 20`) != 100 {
		b.Fatal("these are not the pools that are meant:", got)
	}
	b.Run("collect", func(b *testing.B) {
		ch := make(chan prometheus.Metric, 10_000)
		for b.Loop() {
			m.Collect(ch)
			b.ReportMetric(float64(len(ch)), "series")
			for len(ch) > 0 {
				<-ch
			}
		}
	})
	b.Run("gather", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.Gather(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("serve", func(b *testing.B) {
		serves, request := promhttp.HandlerFor(r, promhttp.HandlerOpts{}), httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/metrics", nil)
		for b.Loop() {
			serves.ServeHTTP(unread{http.Header{}}, request)
		}
	})
}

// unread is an answer that nobody reads.
type unread struct{ header http.Header }

func (u unread) Header() http.Header       { return u.header }
func (unread) Write(p []byte) (int, error) { return len(p), nil }
func (unread) WriteHeader(int)             {}
