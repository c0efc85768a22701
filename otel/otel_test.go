package otel

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/semconv/v1.39.0/dbconv"
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

// instruments returns some, and what collects them.
func instruments(tb testing.TB) (*Instruments, *sdk.ManualReader) {
	tb.Helper()
	reader := sdk.NewManualReader()
	m, err := NewInstruments(sdk.NewMeterProvider(sdk.WithReader(reader)))
	if err != nil {
		tb.Fatal(err)
	}
	return m, reader
}

// open returns a pool that has the login "app" with the password "s3cret", and is observed.
func open(tb testing.TB, m *Instruments, name string, o opener) *sql.DB {
	tb.Helper()
	c, err := sqlrotate.New(sqlrotate.Config{
		Name: name, Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("s3cret")}),
		Opener: o, Window: sqlrotate.Window{Overlap: time.Hour}, Logger: slog.New(slog.DiscardHandler), Dial: dial, Trace: m.Trace(name),
	})
	if err != nil {
		tb.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	tb.Cleanup(func() { _ = db.Close() })
	if err := errors.Join(m.AddConnector(name, c), m.AddPool(name, db)); err != nil {
		tb.Fatal(err)
	}
	return db
}

// collected is what a collection gets: a line for each series, such as
// name{attribute=value} 1.
func collected(tb testing.TB, reader *sdk.ManualReader) []string {
	tb.Helper()
	var lines []string
	for _, m := range collect(tb, reader) {
		add := func(attributes attribute.Set, value any) {
			lines = append(lines, fmt.Sprintf("%s{%s} %v", m.Name, attributes.Encoded(attribute.DefaultEncoder()), value))
		}
		switch data := m.Data.(type) {
		case metricdata.Gauge[float64]:
			points(data.DataPoints, add)
		case metricdata.Sum[float64]:
			points(data.DataPoints, add)
		case metricdata.Sum[int64]:
			points(data.DataPoints, add)
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				add(p.Attributes, fmt.Sprintf("%d of %v", p.Count, p.Sum))
			}
		default:
			tb.Fatalf("%s is a %T", m.Name, data)
		}
	}
	return lines
}

func points[N int64 | float64](all []metricdata.DataPoint[N], add func(attribute.Set, any)) {
	for _, p := range all {
		add(p.Attributes, fmt.Sprintf("%.0f", float64(p.Value)))
	}
}

func collect(tb testing.TB, reader *sdk.ManualReader) []metricdata.Metrics {
	tb.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		tb.Fatal(err)
	}
	if len(all.ScopeMetrics) == 0 {
		return nil
	}
	return all.ScopeMetrics[0].Metrics
}

// says fails the test unless each of want is a line of what is collected.
func says(tb testing.TB, reader *sdk.ManualReader, want ...string) {
	tb.Helper()
	got := collected(tb, reader)
	for _, line := range want {
		if !slices.Contains(got, line) {
			tb.Errorf("there is no %s in\n%s", line, strings.Join(got, "\n"))
		}
	}
}

// fixed is a connector in a state that was thought of.
type fixed struct {
	stats    sqlrotate.Stats
	problems []sqlrotate.Problem
}

func (f fixed) Stats() sqlrotate.Stats        { return f.stats }
func (f fixed) Problems() []sqlrotate.Problem { return f.problems }

func at(s int64) time.Time { return time.Unix(1_800_000_000+s, 0) }

func TestAConnectorInTrouble(t *testing.T) {
	m, reader := instruments(t)
	if err := m.set.AddConnector("x\xff", fixed{sqlrotate.Stats{
		Versions: []sqlrotate.VersionStats{
			{Number: 4, Username: "d", Current: true, Open: 3, EndsAt: at(400), RefusedSince: at(50)},
			{Number: 3, Username: "c\xff", Open: 4, EndsAt: at(300)},
			{Number: 2, Username: "b", Open: 5, EndsAt: at(200)},
			{Number: 1, Username: "a", Open: 6, EndsAt: at(100)},
		},
		Rotations: 3, Refused: 8, WaitTime: time.Minute, Closed: map[sqlrotate.CloseReason]uint64{sqlrotate.CloseExpired: 12},
	}, []sqlrotate.Problem{{Kind: sqlrotate.ProblemHangs}, {Kind: sqlrotate.ProblemHangs}}}); err != nil {
		t.Fatal(err)
	}
	says(t, reader,
		"sqlrotate.connections{connector=x\uFFFD,version=current} 3", "sqlrotate.connections{connector=x\uFFFD,version=previous} 4", "sqlrotate.connections{connector=x\uFFFD,version=older} 11",
		"sqlrotate.credential_end_timestamp{connector=x\uFFFD,version=older} 1800000100", "sqlrotate.credential_refused_since_timestamp{connector=x\uFFFD} 1800000050",
		"sqlrotate.credential_info{connector=x\uFFFD,username=c\uFFFD,version=previous} 1", "sqlrotate.logins{connector=x\uFFFD,outcome=refused} 8",
		"sqlrotate.connect_wait{connector=x\uFFFD} 60", "sqlrotate.closed_connections{connector=x\uFFFD,reason=expired} 12",
		"sqlrotate.can_connect{connector=x\uFFFD} 0", "sqlrotate.problem{connector=x\uFFFD,kind=calls_hang} 1",
	)
	for _, one := range collect(t, reader) {
		sum, isSum := one.Data.(metricdata.Sum[float64])
		switch one.Name {
		case "sqlrotate.connect_wait":
			if !isSum || !sum.IsMonotonic || one.Unit != "s" {
				t.Errorf("%+v", one)
			}
		case "sqlrotate.logins":
			if !isSum || !sum.IsMonotonic || one.Unit != "" || one.Description == "" {
				t.Errorf("%+v", one)
			}
		case "sqlrotate.connections":
			if isSum || one.Unit != "" {
				t.Errorf("%+v", one)
			}
		}
	}
	m.RemoveConnector("x\xfe")
	if got := collected(t, reader); len(got) > 0 {
		t.Error("what was removed is still told:", got)
	}
}

func TestSourcesInTrouble(t *testing.T) {
	m, reader := instruments(t)
	if err := errors.Join(
		m.set.AddFile("f", func() sqlrotate.FileStatus {
			return sqlrotate.FileStatus{Path: "/creds", CheckedAt: at(2), Divergence: sqlrotate.DivergedRefused, DivergedSince: at(4)}
		}),
		m.set.AddCache("c", func() sqlrotate.CacheStatus { return sqlrotate.CacheStatus{FetchedAt: at(2), Failures: 6} }),
		m.AddSource("v", func() SourceStatus {
			return SourceStatus{ReadAt: at(1), Reads: 2, RenewedAt: at(3), EndsAt: at(4), FailingSince: at(5), Failures: 6}
		}),
	); err != nil {
		t.Fatal(err)
	}
	says(t, reader, "sqlrotate.file_info{path=/creds,source=f} 1", "sqlrotate.file_checked_timestamp{source=f} 1800000002",
		"sqlrotate.file_diverged_since_timestamp{divergence=refused,source=f} 1800000004", "sqlrotate.source_failures{source=c} 6",
		"sqlrotate.source_fetches{source=v} 2", "sqlrotate.source_renewed_timestamp{source=v} 1800000003", "sqlrotate.source_failing_since_timestamp{source=v} 1800000005")
}

func TestARealConnectorPoolAndFile(t *testing.T) {
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
	m, reader := instruments(t)
	db := open(t, m, "orders", opener{})
	c1, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c2, err := db.Conn(t.Context())
	if err := errors.Join(err, c1.Close(), m.AddFile("orders", src), m.AddCache("cache", cache)); err != nil {
		t.Fatal(err)
	}
	says(t, reader, "sqlrotate.connections{connector=orders,version=current} 2", "sqlrotate.credential_info{connector=orders,username=app,version=current} 1",
		"sqlrotate.file_info{path="+path+",source=orders} 1", "sqlrotate.can_connect{connector=orders} 1",
		"db.client.connection.count{db.client.connection.pool.name=orders,db.client.connection.state=used} 1",
		"db.client.connection.count{db.client.connection.pool.name=orders,db.client.connection.state=idle} 1")
	db.SetMaxOpenConns(7)
	says(t, reader, "db.client.connection.max{db.client.connection.pool.name=orders} 7")
	for _, line := range collected(t, reader) {
		if strings.Contains(line, "s3cret") {
			t.Error("the password is told:", line)
		}
		if strings.Contains(line, "=app") && !strings.HasPrefix(line, "sqlrotate.credential_info{") {
			t.Error("the user name is told:", line)
		}
	}
	if err := c2.Close(); err != nil {
		t.Error(err)
	}
	m.RemoveConnector("orders")
	m.RemovePool("orders")
	m.RemoveSource("orders")
	m.RemoveSource("cache")
	for _, line := range collected(t, reader) {
		if !strings.HasPrefix(line, "sqlrotate.login_duration{") && !strings.HasPrefix(line, "db.client.connection.create_time{") {
			t.Error("what was removed is still told:", line)
		}
	}
}

func TestLoginsAreMeasured(t *testing.T) {
	m, reader := instruments(t)
	trace := m.Trace("x\xff")
	trace.Login(sqlrotate.LoginInfo{Took: 30 * time.Millisecond})
	trace.Login(sqlrotate.LoginInfo{Took: 3 * time.Second, Err: errors.New("down")})
	trace.Login(sqlrotate.LoginInfo{Took: 3 * time.Second, Err: errors.New("no"), Refused: true})
	trace.Login(sqlrotate.LoginInfo{Took: 4 * time.Second, Err: errors.New("no"), Refused: true})
	says(t, reader, "sqlrotate.login_duration{connector=x\uFFFD,outcome=ok} 1 of 0.03", "sqlrotate.login_duration{connector=x\uFFFD,outcome=failed} 1 of 3",
		"sqlrotate.login_duration{connector=x\uFFFD,outcome=refused} 2 of 7", "db.client.connection.create_time{db.client.connection.pool.name=x\uFFFD} 1 of 0.03")
	for _, one := range collect(t, reader) {
		if bounds := one.Data.(metricdata.Histogram[float64]).DataPoints[0].Bounds; !slices.Contains(bounds, .025) || one.Unit != "s" {
			t.Errorf("%s is in %s by %v", one.Name, one.Unit, bounds)
		}
	}
}

// What has a name in the conventions is what they mean by it.
func TestNamesOfTheConventions(t *testing.T) {
	m, reader := instruments(t)
	db := open(t, m, "x", opener{})
	db.SetMaxOpenConns(1)
	m.Trace("x").Login(sqlrotate.LoginInfo{Took: time.Second})
	found := make(map[string]metricdata.Metrics)
	for _, one := range collect(t, reader) {
		if strings.HasPrefix(one.Name, "db.") {
			found[one.Name] = one
		}
	}
	for _, want := range []interface {
		Name() string
		Unit() string
		Description() string
	}{dbconv.ClientConnectionCount{}, dbconv.ClientConnectionMax{}, dbconv.ClientConnectionCreateTime{}} {
		got, ok := found[want.Name()]
		delete(found, want.Name())
		if !ok || got.Unit != want.Unit() || got.Description != want.Description() {
			t.Errorf("got %+v, want %s in %s: %s", got, want.Name(), want.Unit(), want.Description())
		}
	}
	if len(found) > 0 {
		t.Error("there is more than is known of:", found)
	}
	for _, state := range []dbconv.ClientConnectionStateAttr{dbconv.ClientConnectionStateUsed, dbconv.ClientConnectionStateIdle} {
		if !slices.ContainsFunc(collected(t, reader), func(line string) bool {
			return strings.Contains(line, "{db.client.connection.pool.name=x,db.client.connection.state="+string(state)+"}")
		}) {
			t.Error("there is no state", state)
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	m, _ := instruments(t)
	db := open(t, m, "x", opener{})
	status := func() SourceStatus { return SourceStatus{} }
	if m.set.AddConnector("x", fixed{}) == nil {
		t.Error("there are two connectors x")
	}
	if m.AddPool("x", db) == nil {
		t.Error("there are two pools x")
	}
	if err := m.AddSource("x", status); err != nil {
		t.Error(err)
	}
	if m.AddSource("x", status) == nil {
		t.Error("there are two sources x")
	}
}

// After Close nothing is observed, and closing it again is no error.
func TestClose(t *testing.T) {
	m, reader := instruments(t)
	open(t, m, "x", opener{})
	if len(collected(t, reader)) == 0 {
		t.Fatal("nothing is observed")
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	if got := collected(t, reader); len(got) > 0 {
		t.Error(got)
	}
}

// A collection is done while a login is not.
func TestACollectionWaitsForNoLogin(t *testing.T) {
	m, reader := instruments(t)
	began, release := make(chan struct{}), make(chan struct{})
	db := open(t, m, "x", opener{func(context.Context) error {
		close(began)
		<-release
		return nil
	}})
	pinged := make(chan error)
	go func() { pinged <- db.PingContext(context.Background()) }()
	<-began
	says(t, reader, "sqlrotate.connections{connector=x,version=current} 0")
	close(release)
	if err := <-pinged; err != nil {
		t.Error(err)
	}
}

// broken is a meter that makes no instrument of one kind.
type broken struct {
	noop.Meter
	kind string
}

type provider struct {
	noop.MeterProvider
	meter broken
}

func (p provider) Meter(string, ...metric.MeterOption) metric.Meter { return p.meter }

var errBroken = errors.New("broken")

func (b broken) err(kind string) error {
	if kind == b.kind {
		return errBroken
	}
	return nil
}

func (b broken) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return noop.Float64Histogram{}, b.err("histogram")
}

func (b broken) Int64ObservableUpDownCounter(string, ...metric.Int64ObservableUpDownCounterOption) (metric.Int64ObservableUpDownCounter, error) {
	return noop.Int64ObservableUpDownCounter{}, b.err("up and down")
}

func (b broken) Float64ObservableCounter(string, ...metric.Float64ObservableCounterOption) (metric.Float64ObservableCounter, error) {
	return noop.Float64ObservableCounter{}, b.err("counter")
}

func (b broken) Float64ObservableGauge(string, ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	return noop.Float64ObservableGauge{}, b.err("gauge")
}

func (b broken) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return noop.Registration{}, b.err("registration")
}

func TestWhatAMeterRefusesIsSaid(t *testing.T) {
	for _, kind := range []string{"histogram", "up and down", "counter", "gauge", "registration"} {
		if _, err := NewInstruments(provider{meter: broken{kind: kind}}); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := NewInstruments(provider{}); err != nil {
		t.Error(err)
	}
}

// BenchmarkCollect is of 100 pools with 20 connections each.
func BenchmarkCollect(b *testing.B) {
	m, reader := instruments(b)
	for i := range 100 {
		db := open(b, m, fmt.Sprintf("pool%d", i), opener{})
		db.SetMaxIdleConns(20)
		for range 20 {
			c, err := db.Conn(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
		}
	}
	var all metricdata.ResourceMetrics
	for b.Loop() {
		if err := reader.Collect(b.Context(), &all); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(collected(b, reader))), "series")
}
