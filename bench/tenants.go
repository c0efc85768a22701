// Many tenants in one process, each with a login and a pool of its own: what they cost while
// nobody needs them, and while all logins change at once. Each figure stands beside that of
// lib/pq alone. Each site is a process of its own, so that none finds what another has left.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgstub"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

const (
	manyTenants = 1000
	someTenants = 100 // whom a real server has room for
	tenantConns = 5
	largePool   = 500
	manySources = 2000
)

// sites are those that are measured, in groups: the first of a group is the control.
func sites() []site {
	var all []site
	group := func(name string, s site, layouts ...layout) {
		for _, l := range layouts {
			s.Group, s.Layout = name, l
			s.Name = name + ", " + describe(l)
			all = append(all, s)
		}
	}
	// Before is about as long as the rotation takes: of a longer time, the worst is worse.
	timed := site{Settle: 2 * time.Second, Idle: 10 * time.Second, Before: 12 * time.Second, Drain: 15 * time.Second}
	many, some, large, sources := timed, timed, timed, timed
	many.Tenants, many.Conns = manyTenants, tenantConns
	some.Tenants, some.Conns, some.Real = someTenants, tenantConns, true
	large.Tenants, large.Conns = 1, largePool
	sources.Tenants = manySources
	group("1,000 pools of 5", many, fixedLogin, files, oneVolume, volumes, oneLogin)
	group("100 pools of 5, PostgreSQL", some, fixedLogin, files)
	group("1 pool of 500", large, fixedLogin, files)
	group("2,000 sources", sources, files, directories, volumes)
	sources.NoEvents = true
	group("2,000 sources without inotify", sources, files)
	return all
}

func describe(l layout) string {
	switch l {
	case fixedLogin:
		return "lib/pq alone"
	case files:
		return "files in one directory"
	case directories:
		return "a directory each"
	case volumes:
		return "a volume each"
	case oneVolume:
		return "keys of one volume"
	case oneLogin:
		return "one source for all"
	}
	return string(l)
}

// tenants measures the sites whose names hold which, and prints tables. With a directory it
// writes them there, too.
func tenants(ctx context.Context, which, dir string) (err error) {
	stub, err := pgstub.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer stub.Close()
	e, err := startEnv(ctx, pgtest.Options{MaxConnections: someTenants*(tenantConns+1) + 20})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	version, err := machine(ctx, e.server)
	if err != nil {
		return err
	}
	neighbour, err := e.newRole(ctx)
	if err != nil {
		return err
	}
	if err := e.newTenants(ctx); err != nil {
		return err
	}
	var seen []sighting
	for _, s := range sites() {
		if !strings.Contains(s.Name, which) {
			continue
		}
		var c counter = stubCounter{stub}
		s.DSN, s.Other = stub.DSN(), stub.DSN()+" dbname=neighbour user=neighbour"
		if s.Real {
			c = &realCounter{server: e.server}
			s.DSN, s.Other = e.server.DSN(), e.server.DSN()+" user="+neighbour.user+" password="+neighbour.password
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s:", s.Name)
		f, err := measure(ctx, s, c)
		fmt.Fprintf(os.Stderr, " %.0f s, %.2f %% of a core at rest, changed within %.1f s\n", time.Since(began).Seconds(), 100*f.IdleCPU, max(f.Gone, f.Seen).Seconds())
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		seen = append(seen, sighting{s, f})
	}
	results := new(bytes.Buffer)
	fmt.Fprintf(results, "# Many tenants in one process: results\n\n%s. [What this is, and how to run it](../scale.md).\n", version)
	tabulate(results, seen)
	fmt.Print(results)
	return save(results, dir)
}

// newTenants makes the roles of the tenants of the real server.
func (e *env) newTenants(ctx context.Context) error {
	for i := range someTenants {
		for version := 1; version <= 2; version++ {
			user := tenantUser(i, version)
			if err := e.server.CreateRole(ctx, user, tenantPassword(user)); err != nil {
				return err
			}
		}
	}
	return nil
}

// order is what a process is told to do.
type order struct {
	Site    site
	Counter string // where sessions are counted
}

// measure has a process of its own be that site.
func measure(ctx context.Context, s site, c counter) (f figures, err error) {
	address, stop, err := offer(c)
	if err != nil {
		return f, err
	}
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return f, err
	}
	in, err := json.Marshal(order{s, address})
	if err != nil {
		return f, err
	}
	cmd := exec.CommandContext(ctx, self, siteWord) //nolint:gosec // this program
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	if s.NoEvents {
		apart(cmd)
	}
	out, err := cmd.Output()
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(out, &f)
}

// siteWord is the only argument of a process that measure starts.
const siteWord = "site"

// beSite is what that process does.
func beSite(ctx context.Context) error {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	pgtest.ClearEnvironment()
	client, err := rpc.Dial("tcp", o.Counter)
	if err != nil {
		return err
	}
	defer client.Close()
	f, err := o.Site.live(ctx, remoteCounter{client})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// sighting is a site and what was seen of it.
type sighting struct {
	site
	figures
}

// tabulate writes the tables.
func tabulate(w *bytes.Buffer, seen []sighting) {
	var pools, sources []sighting
	for _, s := range seen {
		if s.Conns > 0 {
			pools = append(pools, s)
		} else {
			sources = append(sources, s)
		}
	}
	if len(pools) > 0 {
		tabulateIdle(w, "Pools that nobody uses", pools)
		tabulateRotation(w, pools)
		tabulateEnds(w, pools)
	}
	if len(sources) > 0 {
		tabulateIdle(w, "Sources alone", sources)
		tabulateSources(w, sources)
	}
}

// perTenant is per pool, or where there is one of them, per connection.
func (s sighting) perTenant(n int64) float64 {
	by := s.Tenants
	if by == 1 {
		by = s.Conns
	}
	return float64(n) / float64(by)
}

func tabulateIdle(w *bytes.Buffer, title string, seen []sighting) {
	fmt.Fprintf(w, "\n## %s\n\n", title)
	fmt.Fprintln(w, "| | CPU, % of a core | wake-ups in a second | allocations in a second | goroutines each | heap and stacks KiB each | above lib/pq | RSS KiB each | above lib/pq |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	control := map[string]sighting{}
	for _, s := range seen {
		goroutines := s.perTenant(int64(s.Resting.Goroutines - s.Base.Goroutines))
		memory := s.perTenant(s.Resting.Heap+s.Resting.Stacks-s.Base.Heap-s.Base.Stacks) / 1024
		rss := s.perTenant(s.Resting.RSS-s.Base.RSS) / 1024
		fmt.Fprintf(w, "| %s | %.2f | %.0f | %.0f | %.3g | %.1f |", s.Name, 100*s.IdleCPU, s.IdleWakes, s.IdleAllocs, goroutines, memory)
		if c, ok := control[s.Group]; ok {
			theirs := c.perTenant(c.Resting.Heap+c.Resting.Stacks-c.Base.Heap-c.Base.Stacks) / 1024
			theirRSS := c.perTenant(c.Resting.RSS-c.Base.RSS) / 1024
			fmt.Fprintf(w, " %.1f | %.1f | %.1f |\n", memory-theirs, rss, rss-theirRSS)
		} else {
			fmt.Fprintf(w, " | %.1f | |\n", rss)
		}
		if !s.rotates() {
			control[s.Group] = s
		}
	}
}

func tabulateRotation(w *bytes.Buffer, seen []sighting) {
	fmt.Fprintf(w, "\n## All logins change at once\n\n")
	fmt.Fprintln(w, "| | last source has it | last old session gone, of DrainTime | logins | pools by most sessions | CPU ms for each connection | p99.9 of another pool ms, before | meanwhile | longest ms, before | meanwhile |")
	fmt.Fprintln(w, "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|")
	for _, s := range seen {
		row := fmt.Sprintf("| %s | | | | |", s.Name)
		if s.rotates() {
			logins := ""
			if s.Logins > 0 {
				logins = fmt.Sprint(s.Logins)
			}
			row = fmt.Sprintf("| %s | %.2f s | %.1f of %.0f s | %s | %s |", s.Name, s.Seen.Seconds(), s.Gone.Seconds(), s.Drain.Seconds(), logins, peaks(s.Peaks))
		}
		fmt.Fprint(w, row)
		if s.rotates() {
			cpu := "in the noise"
			if s.CPU > 0 {
				cpu = short(ms(s.CPU) / float64(s.Tenants*s.Conns))
			}
			fmt.Fprintf(w, " %s |", cpu)
		} else {
			fmt.Fprint(w, " |")
		}
		fmt.Fprintf(w, " %s | %s | %s | %s |\n", short(ms(s.Calm.P999)), short(ms(s.During.P999)), short(ms(s.Calm.Max)), short(ms(s.During.Max)))
	}
}

// peaks says how many pools had how many sessions at the most.
func peaks(n map[int]int) string {
	var said []string
	for _, most := range slices.Sorted(maps.Keys(n)) {
		said = append(said, fmt.Sprintf("%d: %d", most, n[most]))
	}
	return strings.Join(said, ", ")
}

func tabulateEnds(w *bytes.Buffer, seen []sighting) {
	fmt.Fprintf(w, "\n## To open and to close them\n\n")
	fmt.Fprintln(w, "| | sources ms | New and OpenDB ms | logins s | Stats and Problems of all ms | Close of all ms | goroutines left |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|")
	for _, s := range seen {
		fmt.Fprintf(w, "| %s | %.0f | %.0f | %.1f | %s | %.0f | %d |\n", s.Name, ms(s.Sources), ms(s.Open), s.Fill.Seconds(), short(ms(s.Stats)), ms(s.Close), max(s.Left, 0))
	}
}

func tabulateSources(w *bytes.Buffer, seen []sighting) {
	fmt.Fprintf(w, "\n| | to make them ms | all change: last one has it ms | CPU ms | one changes: CPU ms | warnings | Close ms | goroutines left |\n")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|")
	for _, s := range seen {
		fmt.Fprintf(w, "| %s | %.0f | %.0f | %.0f | %s | %d | %.0f | %d |\n", s.Name, ms(s.Sources), ms(s.Seen), ms(s.CPU), short(ms(s.One)), s.Warnings, ms(s.Close), max(s.Left, 0))
	}
}
