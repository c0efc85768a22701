// A sample of a scrape, made cheaply.

package prometheus

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sqlrotate/sqlrotate/internal/metrics"
)

// A sample is one series of a scrape, with all that client_golang wants of it in one piece.
// Its own const metrics cost more than all the rest of a scrape of many connectors.
type sample struct {
	desc    *prometheus.Desc
	value   float64
	labels  int
	label   [metrics.MaxLabels]*dto.LabelPair
	counts  bool
	gauge   dto.Gauge
	counter dto.Counter
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	out.Label = s.label[:s.labels:s.labels] // who adds a label makes a copy
	if s.counts {
		out.Counter = &s.counter
	} else {
		out.Gauge = &s.gauge
	}
	return nil
}

// samples are those of one scrape.
type samples struct {
	ch    chan<- prometheus.Metric
	descs map[*metrics.Metric]*prometheus.Desc
	free  []sample
	pairs map[pair]*dto.LabelPair
	last  pair // the same connector comes many times in a row
	label *dto.LabelPair
}

type pair struct{ name, value string }

// samplesAtOnce is how many are allocated together. They are all gone after the scrape.
const samplesAtOnce = 64

func (s *samples) add(m *metrics.Metric, value float64, labels metrics.Values) {
	if len(s.free) == 0 {
		s.free = make([]sample, samplesAtOnce)
	}
	one := &s.free[0]
	s.free = s.free[1:]
	one.desc, one.value, one.counts, one.labels = s.descs[m], value, m.Counts, len(m.Labels)
	one.gauge.Value, one.counter.Value = &one.value, &one.value
	for i, name := range m.Labels {
		one.label[i] = s.pair(pair{name, labels[i]})
	}
	s.ch <- one
}

// pair returns a label, the same for all series that have it: nobody changes it.
func (s *samples) pair(p pair) *dto.LabelPair {
	if p == s.last {
		return s.label
	}
	label, ok := s.pairs[p]
	if !ok {
		name, value := p.name, p.value
		label = &dto.LabelPair{Name: &name, Value: &value}
		s.pairs[p] = label
	}
	if p.name == "connector" {
		s.last, s.label = p, label
	}
	return label
}
