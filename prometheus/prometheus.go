// Package prometheus exports what connectors and their sources say of themselves as
// metrics of Prometheus:
//
//	metrics := prometheus.NewCollector()
//	registry.MustRegister(metrics)
//	connector, err := sqlrotate.New(sqlrotate.Config{Name: "orders", Trace: metrics.Trace("orders"), …})
//	err = metrics.AddConnector("orders", connector)
//	err = metrics.AddFile("orders", source)
//
// Moments are exported as times (…_timestamp_seconds) and not as ages; what has not
// happened, or is over, has no series. Of the credential's versions there are never more
// than three: current, previous and older. Logins' user names are in the labels of
// sqlrotate_credential_info and of nothing else. Rules for alerts over these metrics
// are in examples/prometheus of the repository.
package prometheus

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/metrics"
)

// Collector is a [prometheus.Collector] over any number of connectors and sources, which
// may come and go. Make it with [NewCollector]. All methods are safe for concurrent use.
//
// A scrape reads what the connectors know, and waits for no server and no login. A source
// whose CheckHealth doesn't return holds it up for a second.
type Collector struct {
	set   metrics.Set
	descs map[*metrics.Metric]*prometheus.Desc

	mu     sync.Mutex                          // guards logins
	logins map[string]*prometheus.HistogramVec // by the name of the connector
}

// SourceStatus is what a source other than a file or a cache says of itself. All that is
// zero has no series.
type SourceStatus struct {
	ReadAt       time.Time // when it last gave a login that it hadn't given before
	Reads        uint64    // how many times that was
	RenewedAt    time.Time // when the login's lease was renewed last
	EndsAt       time.Time // when the login ends
	FailingSince time.Time // since when it fails
	Failures     int       // that many times in a row
}

// NewCollector returns a collector of nothing yet.
func NewCollector() *Collector {
	m := &Collector{descs: make(map[*metrics.Metric]*prometheus.Desc), logins: make(map[string]*prometheus.HistogramVec)}
	for _, one := range metrics.All() {
		m.descs[one] = prometheus.NewDesc("sqlrotate_"+one.Name, one.Help, one.Labels, nil)
	}
	return m
}

// newLogins returns the histograms of one connector. An outcome that there never was has
// none: most of a scrape would say nothing.
func newLogins() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sqlrotate_" + metrics.LoginDuration.Name, Help: metrics.LoginDuration.Help, Buckets: metrics.LoginBuckets(),
	}, metrics.LoginDuration.Labels)
}

// AddConnector has c collected, with name in the label connector. It is an error if the
// collector has another one of that name.
func (m *Collector) AddConnector(name string, c *sqlrotate.Connector) error {
	return m.set.AddConnector(name, c)
}

// Trace returns callbacks for Config.Trace that measure how long logins take, for the
// connector of that name. [sqlrotate.JoinTraces] joins it to others.
func (m *Collector) Trace(name string) *sqlrotate.Trace {
	name = metrics.Label(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	logins, ok := m.logins[name]
	if !ok {
		logins = newLogins()
		m.logins[name] = logins
	}
	return &sqlrotate.Trace{Login: func(l sqlrotate.LoginInfo) {
		logins.WithLabelValues(name, metrics.Outcome(l)).Observe(l.Took.Seconds())
	}}
}

// AddFile has src collected, with name in the label source: that of the connector that it
// serves, if it serves one. It is an error if the collector has another source of that name.
func (m *Collector) AddFile(name string, src *sqlrotate.FileSource) error {
	return m.set.AddFile(name, src.Status)
}

// AddCache has src collected, as AddFile has a file.
func (m *Collector) AddCache(name string, src *sqlrotate.CachedSource) error {
	return m.set.AddCache(name, src.Status)
}

// AddSource has what status returns collected, as AddFile has a file. It is called by each
// scrape and must return at once. For a source of vaultsource:
//
//	metrics.AddSource("vault", func() prometheus.SourceStatus {
//		st := src.Status()
//		return prometheus.SourceStatus{
//			ReadAt: st.ReadAt, Reads: st.Reads, RenewedAt: st.RenewedAt, EndsAt: st.NotAfter,
//			FailingSince: st.FailingSince, Failures: st.Failures,
//		}
//	})
//
// A cache in front of it is a source of its own, with another name.
func (m *Collector) AddSource(name string, status func() SourceStatus) error {
	return m.set.AddSource(name, func() metrics.SourceStatus {
		st := status() // not converted: one of the two may have more fields in a newer version
		return metrics.SourceStatus{
			ReadAt: st.ReadAt, Reads: st.Reads, RenewedAt: st.RenewedAt, EndsAt: st.EndsAt, FailingSince: st.FailingSince, Failures: st.Failures,
		}
	})
}

// RemoveConnector has the connector of that name collected no longer, its logins included.
func (m *Collector) RemoveConnector(name string) {
	m.set.RemoveConnector(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.logins, metrics.Label(name))
}

// RemoveSource has the source of that name collected no longer.
func (m *Collector) RemoveSource(name string) { m.set.RemoveSource(name) }

// Describe implements [prometheus.Collector].
func (m *Collector) Describe(ch chan<- *prometheus.Desc) {
	newLogins().Describe(ch)
	for _, d := range m.descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *Collector) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	logins := slices.Collect(maps.Values(m.logins))
	m.mu.Unlock()
	for _, l := range logins {
		l.Collect(ch)
	}
	s := &samples{ch: ch, descs: m.descs, pairs: make(map[pair]*dto.LabelPair)}
	m.set.Read(s.add)
}
