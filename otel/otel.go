// Package otel exports what connectors, their pools and their sources say of themselves as
// asynchronous instruments of OpenTelemetry:
//
//	metrics, err := otel.NewInstruments(provider)
//	connector, err := sqlrotate.New(sqlrotate.Config{Name: "orders", Trace: metrics.Trace("orders"), …})
//	db := sqlrotate.OpenDB(connector)
//	err = metrics.AddConnector("orders", connector)
//	err = metrics.AddFile("orders", source)
//	err = metrics.AddPool("orders", db)
//
// There are three that OpenTelemetry's conventions for database clients name, with the
// attribute db.client.connection.pool.name:
//
//	db.client.connection.count        of a pool, with db.client.connection.state: used or idle
//	db.client.connection.max          of a pool that has a limit
//	db.client.connection.create_time  how long logins took that succeeded
//
// (There is no db.client.connection.pending_requests: database/sql doesn't tell how many
// callers wait for a connection now.)
//
// The others are those of the module github.com/sqlrotate/sqlrotate/prometheus, with the
// same labels as attributes: connector, source, version and so on. In their names a dot
// follows sqlrotate, and neither the unit nor _total ends them:
// sqlrotate_file_checked_timestamp_seconds is sqlrotate.file_checked_timestamp here, in
// seconds. Where OpenTelemetry's metrics become those of Prometheus, the names become the
// same again, and the rules and the dashboard in the repository fit both.
//
// Moments are times, in seconds since 1970, and not ages; what has not happened, or is
// over, isn't reported. Of the credential's versions there are never more than three:
// current, previous and older. Logins' user names are attributes of
// sqlrotate.credential_info and of nothing else.
package otel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/metrics"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// scope is the name of the instruments' scope.
const scope = "github.com/sqlrotate/sqlrotate/otel"

// Instruments are those of any number of connectors, pools and sources, which may come and
// go. Make it with [NewInstruments]. All methods are safe for concurrent use.
//
// A collection reads what the connectors know, and waits for no server and no login. A
// source whose CheckHealth doesn't return holds it up for a second.
type Instruments struct {
	set          metrics.Set
	observables  map[*metrics.Metric]metric.Float64Observable
	count, max   metric.Int64ObservableUpDownCounter
	logins       metric.Float64Histogram
	creates      metric.Float64Histogram
	registration metric.Registration

	mu    sync.Mutex // guards pools
	pools []*pool
}

// SourceStatus is what a source other than a file or a cache says of itself. Of what is
// zero nothing is reported.
type SourceStatus struct {
	ReadAt       time.Time // when it last gave a login that it hadn't given before
	Reads        uint64    // how many times that was
	RenewedAt    time.Time // when the login's lease was renewed last
	EndsAt       time.Time // when the login ends
	FailingSince time.Time // since when it fails
	Failures     int       // that many times in a row
}

type pool struct {
	name            string
	db              *sql.DB
	used, idle, all metric.ObserveOption
}

// NewInstruments makes the instruments with a meter of provider, and registers what
// observes them until [Instruments.Close]. They report nothing yet. One of them for a
// provider is enough: two would report the same instruments.
func NewInstruments(provider metric.MeterProvider) (*Instruments, error) {
	meter := provider.Meter(scope)
	m := &Instruments{observables: make(map[*metrics.Metric]metric.Float64Observable)}
	var errs [5]error
	m.logins, errs[0] = meter.Float64Histogram(name(metrics.LoginDuration), metric.WithUnit("s"), metric.WithDescription(metrics.LoginDuration.Help),
		metric.WithExplicitBucketBoundaries(metrics.LoginBuckets()...))
	m.creates, errs[1] = meter.Float64Histogram("db.client.connection.create_time", metric.WithUnit("s"),
		metric.WithDescription("The time it took to create a new connection."), metric.WithExplicitBucketBoundaries(metrics.LoginBuckets()...))
	m.count, errs[2] = meter.Int64ObservableUpDownCounter("db.client.connection.count", metric.WithUnit("{connection}"),
		metric.WithDescription("The number of connections that are currently in state described by the `state` attribute."))
	m.max, errs[3] = meter.Int64ObservableUpDownCounter("db.client.connection.max", metric.WithUnit("{connection}"),
		metric.WithDescription("The maximum number of open connections allowed."))
	observed := []metric.Observable{m.count, m.max}
	for _, one := range metrics.All() {
		o, err := observable(meter, one)
		if err != nil {
			return nil, fmt.Errorf("sqlrotate: %w", err)
		}
		m.observables[one] = o
		observed = append(observed, o)
	}
	m.registration, errs[4] = meter.RegisterCallback(m.observe, observed...)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("sqlrotate: %w", err)
	}
	return m, nil
}

func observable(meter metric.Meter, one *metrics.Metric) (metric.Float64Observable, error) {
	if one.Counts {
		return meter.Float64ObservableCounter(name(one), metric.WithUnit(unit(one)), metric.WithDescription(one.Help))
	}
	return meter.Float64ObservableGauge(name(one), metric.WithUnit(unit(one)), metric.WithDescription(one.Help))
}

// name returns the name that becomes the one of Prometheus where that is made of it.
func name(m *metrics.Metric) string {
	return "sqlrotate." + strings.TrimSuffix(strings.TrimSuffix(m.Name, "_total"), "_seconds")
}

func unit(m *metrics.Metric) string {
	if strings.HasSuffix(strings.TrimSuffix(m.Name, "_total"), "_seconds") {
		return "s"
	}
	return ""
}

// Close has nothing observed any longer. Logins that a Trace measures are recorded still.
func (m *Instruments) Close() error { return m.registration.Unregister() }

// AddConnector has c observed, with name in the attribute connector. It is an error if
// there is another one of that name.
func (m *Instruments) AddConnector(name string, c *sqlrotate.Connector) error {
	return m.set.AddConnector(name, c)
}

// AddPool has the connections of db counted, with name as db.client.connection.pool.name:
// that of its connector, unless it has several pools. It is an error if there is another one
// of that name. Don't add it if something else counts them under the same name.
func (m *Instruments) AddPool(name string, db *sql.DB) error {
	name = metrics.Label(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.pools, func(other *pool) bool { return other.name == name }) {
		return fmt.Errorf("sqlrotate: there are metrics of a pool %q already", name)
	}
	state := func(s string) metric.ObserveOption {
		return metric.WithAttributeSet(attribute.NewSet(poolName(name), attribute.String("db.client.connection.state", s)))
	}
	m.pools = append(m.pools, &pool{name, db, state("used"), state("idle"), metric.WithAttributeSet(attribute.NewSet(poolName(name)))})
	return nil
}

func poolName(name string) attribute.KeyValue {
	return attribute.String("db.client.connection.pool.name", name)
}

// Trace returns callbacks for Config.Trace that measure how long logins take, for the
// connector of that name; those that succeed are in db.client.connection.create_time, too.
// [sqlrotate.JoinTraces] joins it to others. What it has recorded is reported even when the
// connector is removed.
func (m *Instruments) Trace(name string) *sqlrotate.Trace {
	name = metrics.Label(name)
	created := metric.WithAttributeSet(attribute.NewSet(poolName(name)))
	return &sqlrotate.Trace{Login: func(l sqlrotate.LoginInfo) {
		ctx := context.Background()
		outcome := metrics.Outcome(l)
		m.logins.Record(ctx, l.Took.Seconds(), attributes(metrics.LoginDuration, metrics.Values{name, outcome}))
		if outcome == metrics.LoginOK {
			m.creates.Record(ctx, l.Took.Seconds(), created)
		}
	}}
}

// AddFile has src observed, with name in the attribute source: that of the connector that it
// serves, if it serves one. It is an error if there is another source of that name.
func (m *Instruments) AddFile(name string, src *sqlrotate.FileSource) error {
	return m.set.AddFile(name, src.Status)
}

// AddCache has src observed, as AddFile has a file.
func (m *Instruments) AddCache(name string, src *sqlrotate.CachedSource) error {
	return m.set.AddCache(name, src.Status)
}

// AddSource has what status returns observed, as AddFile has a file. It is called by each
// collection and must return at once. For a source of vaultsource:
//
//	metrics.AddSource("vault", func() otel.SourceStatus {
//		st := src.Status()
//		return otel.SourceStatus{
//			ReadAt: st.ReadAt, Reads: st.Reads, RenewedAt: st.RenewedAt, EndsAt: st.NotAfter,
//			FailingSince: st.FailingSince, Failures: st.Failures,
//		}
//	})
//
// A cache in front of it is a source of its own, with another name.
func (m *Instruments) AddSource(name string, status func() SourceStatus) error {
	return m.set.AddSource(name, func() metrics.SourceStatus {
		st := status() // not converted: one of the two may have more fields in a newer version
		return metrics.SourceStatus{
			ReadAt: st.ReadAt, Reads: st.Reads, RenewedAt: st.RenewedAt, EndsAt: st.EndsAt, FailingSince: st.FailingSince, Failures: st.Failures,
		}
	})
}

// RemoveConnector has the connector of that name observed no longer.
func (m *Instruments) RemoveConnector(name string) { m.set.RemoveConnector(name) }

// RemovePool has the pool of that name counted no longer.
func (m *Instruments) RemovePool(name string) {
	name = metrics.Label(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pools = slices.DeleteFunc(m.pools, func(p *pool) bool { return p.name == name })
}

// RemoveSource has the source of that name observed no longer.
func (m *Instruments) RemoveSource(name string) { m.set.RemoveSource(name) }

// observe is called for each collection.
func (m *Instruments) observe(_ context.Context, to metric.Observer) error {
	m.set.Read(func(one *metrics.Metric, value float64, labels metrics.Values) {
		to.ObserveFloat64(m.observables[one], value, attributes(one, labels))
	})
	m.mu.Lock()
	pools := slices.Clone(m.pools)
	m.mu.Unlock()
	for _, p := range pools {
		st := p.db.Stats()
		to.ObserveInt64(m.count, int64(st.InUse), p.used)
		to.ObserveInt64(m.count, int64(st.Idle), p.idle)
		if st.MaxOpenConnections > 0 {
			to.ObserveInt64(m.max, int64(st.MaxOpenConnections), p.all)
		}
	}
	return nil
}

func attributes(m *metrics.Metric, labels metrics.Values) metric.MeasurementOption {
	var pairs [metrics.MaxLabels]attribute.KeyValue
	for i, name := range m.Labels {
		pairs[i] = attribute.String(name, labels[i])
	}
	return metric.WithAttributeSet(attribute.NewSet(pairs[:len(m.Labels)]...))
}
