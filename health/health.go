// Package health serves how connectors are doing over HTTP: to a readiness probe, and to
// people.
//
//	page := health.NewPage()
//	connector, err := sqlrotate.New(sqlrotate.Config{Name: "orders", Trace: page.Trace("orders"), …})
//	err = page.AddConnector("orders", connector)
//	err = page.AddFile("orders", source)
//	mux.Handle("GET /readyz", page.Ready())
//	mux.Handle("GET /sqlrotate", page)
//
// Nothing of it is a secret, but the page names users and paths: serve it where metrics
// are served, and not to the world.
package health

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// kept is how many rotations are remembered.
const kept = 10

// Page is an [http.Handler] that says how connectors and their sources are doing, as
// text or, with the query format=json or the header Accept: application/json, as a
// [Report]. Make it with [NewPage]. All methods are safe for concurrent use. A request
// waits for no server and no login; a source that doesn't say how it is holds it up for two
// seconds at the most.
type Page struct {
	mu         sync.Mutex // guards what follows
	connectors []named[connector]
	sources    []named[func() Source]
	rotations  map[string][]Rotation
}

type named[T any] struct {
	name string
	it   T
}

type connector interface {
	Stats() sqlrotate.Stats
	Problems() []sqlrotate.Problem
	CheckHealth() error
}

// NewPage returns a page of nothing yet.
func NewPage() *Page { return &Page{rotations: map[string][]Rotation{}} }

// AddConnector has the page tell of c. It is an error if it tells of another one of that
// name.
func (p *Page) AddConnector(name string, c *sqlrotate.Connector) error {
	return p.addConnector(name, c)
}

func (p *Page) addConnector(name string, c connector) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return add(&p.connectors, name, c)
}

// AddFile has the page tell of src. It is an error if it tells of another source of that
// name.
func (p *Page) AddFile(name string, src *sqlrotate.FileSource) error {
	return p.addSource(name, func() Source { return file(src.Status()) })
}

// AddCache has the page tell of src. It is an error if it tells of another source of that
// name.
func (p *Page) AddCache(name string, src *sqlrotate.CachedSource) error {
	return p.addSource(name, func() Source { return cache(src.Status()) })
}

func (p *Page) addSource(name string, status func() Source) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return add(&p.sources, name, status)
}

func add[T any](list *[]named[T], name string, it T) error {
	if slices.ContainsFunc(*list, func(n named[T]) bool { return n.name == name }) {
		return fmt.Errorf("sqlrotate: there is another %q on this page", name)
	}
	*list = append(*list, named[T]{name, it})
	return nil
}

// Trace returns callbacks for Config.Trace that remember the last ten rotations of the
// connector of that name. [sqlrotate.JoinTraces] joins it to others.
func (p *Page) Trace(name string) *sqlrotate.Trace {
	last := func(change func(r *Rotation), of func(r Rotation) bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		all := p.rotations[name]
		for i := len(all) - 1; i >= 0; i-- {
			if of(all[i]) {
				change(&all[i])
				return
			}
		}
	}
	number := func(v sqlrotate.VersionStats) func(Rotation) bool {
		return func(r Rotation) bool { return r.Version == v.Number }
	}
	return &sqlrotate.Trace{
		Rotated: func(v sqlrotate.VersionStats) {
			p.mu.Lock()
			defer p.mu.Unlock()
			all := append(p.rotations[name], Rotation{Version: v.Number, Username: v.Username, At: time.Now().UTC()})
			p.rotations[name] = slices.Clone(all[max(0, len(all)-kept):])
		},
		Proven: func(v sqlrotate.VersionStats) {
			last(func(r *Rotation) { r.ProvenAt = time.Now().UTC() }, number(v))
		},
		Refused: func(v sqlrotate.VersionStats, _ error) {
			last(func(r *Rotation) { r.Refusals++ }, number(v))
		},
		Outlived: func(sqlrotate.VersionStats, time.Duration) {
			last(func(r *Rotation) { r.CutOff++ }, func(Rotation) bool { return true })
		},
		Drained: func(connections int, took time.Duration) {
			last(func(r *Rotation) { r.Drained, r.DrainSeconds = connections, took.Seconds() }, func(Rotation) bool { return true })
		},
	}
}

// Ready returns a handler for a readiness probe. It answers 503, with the names of the
// connectors that are to blame, if one of them can make no new connection for its
// credential's sake, has never made one, or is closed; else 200. A server that is down
// is no reason: taking every replica out of service wouldn't help it.
func (p *Page) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !reads(w, r) {
			return
		}
		var blame []string
		for _, c := range p.report().Connectors {
			if !c.Ready {
				blame = append(blame, fmt.Sprintf("%s: %s", c.Name, c.NotReady))
			}
		}
		head(w, "text/plain; charset=utf-8")
		if len(blame) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, strings.Join(blame, "\n"))
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
}

// ServeHTTP implements [http.Handler]. It answers 200 whatever it has to say.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !reads(w, r) {
		return
	}
	report := p.report()
	if r.URL.Query().Get("format") == "json" || strings.Contains(r.Header.Get("Accept"), "application/json") {
		head(w, "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(report)
		return
	}
	head(w, "text/plain; charset=utf-8")
	_, _ = fmt.Fprint(w, report)
}

// reads reports whether r only asks; else it has been answered.
func reads(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
	return false
}

func head(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

func (p *Page) report() Report {
	p.mu.Lock()
	connectors, sources := slices.Clone(p.connectors), slices.Clone(p.sources)
	rotations := map[string][]Rotation{}
	for name, all := range p.rotations {
		rotations[name] = slices.Clone(all)
	}
	p.mu.Unlock()
	report := Report{At: time.Now().UTC(), Connectors: make([]Connector, len(connectors)), Sources: make([]Source, len(sources))}
	var asked sync.WaitGroup // each may have to wait for its source
	for i, c := range connectors {
		asked.Go(func() { report.Connectors[i] = describe(c.name, c.it, rotations[c.name]) })
	}
	for i, src := range sources {
		report.Sources[i] = src.it()
		report.Sources[i].Name = src.name
	}
	asked.Wait()
	return report
}

func describe(name string, c connector, rotations []Rotation) Connector {
	st := c.Stats()
	d := Connector{
		Name: name, Problems: []Problem{}, Versions: []Version{}, Rotations: st.Rotations, LastRotations: append([]Rotation{}, rotations...), Logins: st.Logins, Refused: st.Refused, Failed: st.Failed,
		LastLoginAt: st.LastLoginAt.UTC(), Waiting: st.Waiting, Outlived: st.Outlived, SuccessorDueAt: st.SuccessorDueAt.UTC(), SourceReadAt: st.SourceReadAt.UTC(),
		Window: Window{
			OverlapSeconds: st.Window.Overlap.Seconds(), LagSeconds: st.Window.Lag.Seconds(), MaxInUseSeconds: st.Window.MaxInUse.Seconds(),
			MaxLifetimeSeconds: st.Window.MaxLifetime.Seconds(), RetryTimeoutSeconds: st.Window.RetryTimeout.Seconds(), DrainSeconds: st.Window.DrainTime.Seconds(),
		},
	}
	o := st.Observed
	d.Observed = Observed{
		Since: o.Since.UTC(), LongestUseSeconds: o.LongestUse.Took.Seconds(), LongestUseAt: o.LongestUse.At.UTC(),
		SourceLagSeconds: o.SourceLag.Took.Seconds(), SourceLagAt: o.SourceLag.At.UTC(),
		LongestLoginSeconds: o.LongestLogin.Took.Seconds(), LongestLoginAt: o.LongestLogin.At.UTC(),
		TimerLatenessSeconds: o.TimerLateness.Took.Seconds(), TimerLatenessAt: o.TimerLateness.At.UTC(),
	}
	for _, v := range st.Versions {
		d.Versions = append(d.Versions, Version{
			Number: v.Number, Username: v.Username, Current: v.Current, Proven: v.Proven, Open: v.Open,
			OldestAt: v.OldestAt.UTC(), SeenAt: v.SeenAt.UTC(), EndsAt: v.EndsAt.UTC(), RefusedSince: v.RefusedSince.UTC(),
		})
	}
	if !st.DrainSince.IsZero() {
		d.Drain = &Drain{Since: st.DrainSince.UTC(), Until: st.DrainUntil.UTC(), Size: st.DrainSize, Left: st.DrainLeft}
	}
	for _, p := range c.Problems() {
		d.Problems = append(d.Problems, Problem{Kind: string(p.Kind), Since: p.Since.UTC(), Text: p.Text, CanConnect: p.CanConnect})
		if !p.CanConnect {
			d.NotReady = cmp.Or(d.NotReady, string(p.Kind))
		}
	}
	switch {
	case errors.Is(c.CheckHealth(), sqlrotate.ErrClosed):
		d.NotReady = "closed"
	case st.LastLoginAt.IsZero():
		d.NotReady = cmp.Or(d.NotReady, "no login has succeeded yet")
	}
	d.Ready = d.NotReady == ""
	return d
}

func file(st sqlrotate.FileStatus) Source {
	return Source{
		Kind: "file", Path: st.Path, Format: string(st.Format), Username: st.Username, LoadedAt: st.LoadedAt.UTC(), CheckedAt: st.CheckedAt.UTC(), ModifiedAt: st.ModTime.UTC(),
		Divergence: string(st.Divergence), DivergedSince: st.DivergedSince.UTC(), Reads: st.Reads, FailedReads: st.FailedReads, Loads: st.Loads, FailingSince: st.FailingSince.UTC(), Failures: st.Failures, Err: said(st.Err),
	}
}

func cache(st sqlrotate.CacheStatus) Source {
	return Source{
		Kind: "cache", Reads: st.Fetches, Username: st.Username, LoadedAt: st.FetchedAt.UTC(), NextAt: st.NextFetchAt.UTC(), EndsAt: st.NotAfter.UTC(),
		FailingSince: st.FailingSince.UTC(), Failures: st.Failures, Err: said(st.Err),
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
