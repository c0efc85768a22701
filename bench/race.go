// The race: a rotation's whole story, from before the new login to after the end of the
// old one, as each contender lives through it.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// nothing is the story in which nothing happens: what a query costs, and a login.
const nothing = "overhead"

func storyNames() []string {
	var names []string
	for _, s := range stories() {
		names = append(names, s.name)
	}
	return append(names, nothing)
}

// race has the contenders live through the stories, and prints a table of each. With a
// directory it also draws the charts into that, and writes the tables there.
func race(ctx context.Context, only, who, dir string) (err error) {
	// Failed statements aren't logged: there are so many, and logins are counted in the log.
	e, err := startEnv(ctx, pgtest.Options{TLS: true, Settings: map[string]string{"log_min_messages": "log"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	version, err := machine(ctx, e.server)
	if err != nil {
		return err
	}
	results, shown := new(bytes.Buffer), 0
	show := func() {
		fmt.Print(string(results.Bytes()[shown:]))
		shown = results.Len()
	}
	fmt.Fprintf(results, "# Results of the race\n\n%s. [What this is, and how to run it](../race.md).\n", version)
	for _, s := range stories() {
		if only != "" && s.name != only {
			continue
		}
		lanes, err := e.run(ctx, s, who, warming)
		if err != nil {
			return err
		}
		table(results, s, lanes)
		show()
		if err := drawAll(s, lanes, version, dir); err != nil {
			return err
		}
	}
	if only == "" || only == nothing {
		if err := e.overhead(ctx, results, who, effort{rounds: 7, queries: 2000, logins: 50}); err != nil {
			return err
		}
		show()
	}
	return save(results, dir)
}

// run has those contenders live through a story, one after the other, that who names. For
// lead each is under its load before.
func (e *env) run(ctx context.Context, s story, who string, lead time.Duration) (lanes []lane, err error) {
	e.encrypt(s.tls)
	for _, c := range chosen(racers(), who) {
		if c.lost != nil && c.lost(s) {
			continue
		}
		p, err := e.perform(ctx, c, s, lead)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", s.name, c.name, err)
		}
		lanes = append(lanes, lane{c.name, p})
	}
	return lanes, nil
}

// drawAll draws the story's charts into the directory, if there is one.
func drawAll(s story, lanes []lane, version, dir string) error {
	if dir == "" || s.undrawn {
		return nil
	}
	for _, p := range palettes() {
		charts := map[string][]byte{s.name: drawStory(s, lanes, version, p, 0)}
		few := slices.DeleteFunc(slices.Clone(lanes), func(l lane) bool { return !slices.Contains(s.inShort, l.name) })
		if len(few) > 0 {
			charts["readme"] = drawStory(s, few, version, p, 160)
		}
		for name, chart := range charts {
			if err := os.WriteFile(filepath.Join(dir, name+p.suffix+".svg"), chart, 0o644); err != nil { //nolint:gosec // for everybody
				return err
			}
		}
	}
	return nil
}

// lane is how a contender came through a story.
type lane struct {
	name string
	*play
}

func table(w *bytes.Buffer, s story, lanes []lane) {
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", s.title, strings.TrimSpace(s.load.about+" "+s.about))
	if !s.undrawn {
		fmt.Fprintf(w, "<picture><source media=\"(prefers-color-scheme: dark)\" srcset=\"%s-dark.svg\"><img src=\"%s.svg\" alt=\"latency and sessions of each contender over time\"></picture>\n\n", s.name, s.name)
	}
	fmt.Fprintln(w, "| | operations | failed | p99.9 ms before | after | longest ms | logins | refused | sessions of a dropped role, at the end |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, l := range lanes {
		fmt.Fprintf(w, "| %s | %d | %d | %s | %s | %s | %d | %d | %d |\n", l.name, len(l.samples), len(l.failed),
			short(l.before.p999ms()), short(l.worst.p999ms()), short(l.worst.maxms()), l.logins, l.refused, l.orphans)
	}
	for _, l := range lanes {
		if l.err != nil {
			fmt.Fprintf(w, "\n- %s, the first failure: %v", l.name, l.err)
		}
	}
	for _, l := range lanes {
		if l.complaint != nil { // the others say the same
			fmt.Fprintf(w, "\n- %s, `CheckHealth` meanwhile: %s", l.name, strings.ReplaceAll(l.complaint.Error(), l.env.dir+string(filepath.Separator), ""))
			break
		}
	}
	if slices.ContainsFunc(lanes, func(l lane) bool { return l.err != nil || l.complaint != nil }) {
		fmt.Fprintln(w)
	}
}

// machine says when, on what and with what versions something is measured.
func machine(ctx context.Context, server *pgtest.Server) (string, error) {
	var postgres string
	err := server.Admin().QueryRowContext(ctx, "show server_version").Scan(&postgres)
	postgres, _, _ = strings.Cut(postgres, " ")
	return fmt.Sprintf("%s, %s/%s with %d CPUs, %s, PostgreSQL %s, lib/pq %s, pgx %s", time.Now().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), postgres,
		moduleVersion("github.com/lib/pq"), moduleVersion("github.com/jackc/pgx/v5")), err
}

// moduleVersion returns the version of a module that this program was built with.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "of unknown version"
}
