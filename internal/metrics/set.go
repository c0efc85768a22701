// The set of what is measured.

package metrics

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// A Set is connectors and sources, which may come and go. The zero Set is empty. All
// methods are safe for concurrent use. Names are told apart as [Label] makes them.
type Set struct {
	mu         sync.Mutex // guards what follows
	connectors []*connector
	sources    []*source
}

// Connector is what there is to know of a connector: a [sqlrotate.Connector] is one.
type Connector interface {
	Stats() sqlrotate.Stats
	Problems() []sqlrotate.Problem
}

// SourceStatus is what a source other than a file or a cache says of itself. All that is
// zero has no series.
type SourceStatus struct {
	ReadAt       time.Time
	Reads        uint64
	RenewedAt    time.Time
	EndsAt       time.Time
	FailingSince time.Time
	Failures     int
}

type connector struct {
	name string
	c    Connector
}

type source struct {
	name string
	read func(s *samples)
}

// Label returns name as the value of a label: those are valid UTF-8.
func Label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// AddConnector adds c by its name. It is an error if there is another one of that name.
func (s *Set) AddConnector(name string, c Connector) error {
	name = Label(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.connectors, func(other *connector) bool { return other.name == name }) {
		return fmt.Errorf("sqlrotate: there are metrics of a connector %q already", name)
	}
	s.connectors = append(s.connectors, &connector{name, c})
	return nil
}

// AddFile adds a file. It is an error if there is another source of that name.
func (s *Set) AddFile(name string, status func() sqlrotate.FileStatus) error {
	return s.addSource(name, func(to *samples, name string) { to.file(name, status()) })
}

// AddCache adds a cache, as AddFile does a file.
func (s *Set) AddCache(name string, status func() sqlrotate.CacheStatus) error {
	return s.addSource(name, func(to *samples, name string) { to.cache(name, status()) })
}

// AddSource adds a source of another kind, as AddFile does a file.
func (s *Set) AddSource(name string, status func() SourceStatus) error {
	return s.addSource(name, func(to *samples, name string) { to.source(name, status()) })
}

func (s *Set) addSource(name string, read func(to *samples, name string)) error {
	name = Label(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.sources, func(other *source) bool { return other.name == name }) {
		return fmt.Errorf("sqlrotate: there are metrics of a source %q already", name)
	}
	s.sources = append(s.sources, &source{name, func(to *samples) { read(to, name) }})
	return nil
}

// RemoveConnector removes the connector of that name, if there is one.
func (s *Set) RemoveConnector(name string) {
	name = Label(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connectors = slices.DeleteFunc(s.connectors, func(c *connector) bool { return c.name == name })
}

// RemoveSource removes the source of that name, if there is one.
func (s *Set) RemoveSource(name string) {
	name = Label(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sources = slices.DeleteFunc(s.sources, func(src *source) bool { return src.name == name })
}

// Read calls found for each series that there is now, from one goroutine. It waits for no
// server and no login, and for a source's CheckHealth for a second.
func (s *Set) Read(found func(m *Metric, value float64, labels Values)) {
	s.mu.Lock()
	connectors, sources := slices.Clone(s.connectors), slices.Clone(s.sources)
	s.mu.Unlock()
	// A connector asks its source how it is, and may have to wait for the answer: they
	// wait together.
	problems := make([][]sqlrotate.Problem, len(connectors))
	var asked sync.WaitGroup
	for i, c := range connectors {
		asked.Go(func() { problems[i] = c.c.Problems() })
	}
	to := &samples{found}
	for _, src := range sources {
		src.read(to)
	}
	for _, c := range connectors {
		to.connector(c.name, c.c.Stats())
	}
	asked.Wait()
	for i, c := range connectors {
		to.problems(c.name, problems[i])
	}
}
