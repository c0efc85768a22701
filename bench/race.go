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

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// story is what happens to a login while a load is under way. Times count from the
// moment when the new login is published, or would be.
type story struct {
	name  string
	title string
	about string
	load  load
	terms terms
	tell  func(ctx context.Context, p *play) error
	lead  time.Duration // for which the load is under way before
	end   time.Duration
}

const (
	overlap  = 10 * time.Second
	opening  = 3 * time.Second // what is shown of the time before
	gap      = 2 * time.Second // in which server and file disagree about a password
	refusing = 8 * time.Second
)

func stories() []story {
	busy := loads()[0]
	renewing := load{
		about: "10 workers, each with a pause of 10 to 30 ms between two short queries; 10 connections, each of which is closed when it is two seconds old: somebody logs in at any time.",
		conns: 10, workers: 10, think: 20 * time.Millisecond, longest: 50 * time.Millisecond, age: 2 * time.Second,
	}
	brief := terms{window: sqlrotate.Window{Overlap: overlap, Lag: time.Second, MaxInUse: time.Second}, drain: 5 * time.Second}
	return []story{
		{
			name: "revoked", title: "A new role, and the old one dropped ten seconds later",
			about: "As Vault's database engine does it by default: privileges revoked, role dropped, sessions left alone.",
			load:  busy, terms: brief, lead: warmUp + opening, end: overlap + 5*time.Second,
			tell: func(ctx context.Context, p *play) error {
				next, err := p.env.newRole(ctx)
				if err != nil {
					return err
				}
				if err := p.publish(next, "new login published"); err != nil {
					return err
				}
				p.until(ctx, overlap)
				p.mark(overlap, "old role dropped")
				return p.env.server.RevokeRole(ctx, p.first.user)
			},
		},
		{
			name: "in-place", title: "The password changed at the server, and in the file two seconds later",
			load: renewing, terms: terms{window: sqlrotate.InPlace(), drain: 5 * time.Second}, lead: warmUp + opening, end: 8 * time.Second,
			tell: func(ctx context.Context, p *play) error {
				next := newPassword(p.first)
				p.mark(0, "password changed")
				if err := p.env.server.AlterPassword(ctx, next.user, next.password); err != nil {
					return err
				}
				p.until(ctx, gap)
				return p.publish(next, "and published")
			},
		},
		{
			name: "refused", title: "A login that the server refuses, and a good one eight seconds later",
			about: "The old role lives on.",
			load:  renewing, terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: 5 * time.Second}, lead: warmUp + opening, end: refusing + 5*time.Second,
			tell: func(ctx context.Context, p *play) error {
				next, err := p.env.newRole(ctx)
				if err != nil {
					return err
				}
				if err := p.publish(newPassword(next), "published a login that is refused"); err != nil {
					return err
				}
				p.until(ctx, refusing)
				return p.publish(next, "a good one")
			},
		},
	}
}

// play is one story as one contender lives through it.
type play struct {
	env   *env
	pool  pool
	first login
	start time.Time

	marks    []mark
	sessions []census
	samples  []sample
	failed   []time.Time
	err      error // of the first operation that failed
	refused  int   // logins, at the server
	logins   int   // that succeeded there, from the start
	orphans  int   // sessions of dropped roles, at the end
	before   dist
	worst    dist
}

// mark is something that happened.
type mark struct {
	at   time.Duration
	what string
}

// census is how many sessions there were, by login: those of the first, and others.
type census struct {
	at       time.Duration
	old, new int
}

func (p *play) publish(l login, what string) error {
	p.mark(time.Since(p.start), what)
	return p.pool.rotate(l)
}

func (p *play) mark(at time.Duration, what string) { p.marks = append(p.marks, mark{at, what}) }

// until waits for a moment of the story.
func (p *play) until(ctx context.Context, at time.Duration) { pause(ctx, time.Until(p.start.Add(at))) }

// perform has a contender live through a story.
func (e *env) perform(ctx context.Context, c contender, s story) (*play, error) {
	first, err := e.newRole(ctx)
	if err != nil {
		return nil, err
	}
	p := &play{env: e, first: first}
	if p.pool, err = c.open(e, s.load, s.terms, first); err != nil {
		return nil, err
	}
	defer p.pool.close()
	if err := s.load.fill(ctx, p.pool); err != nil {
		return nil, err
	}
	runtime.GC() // of what the one before has left
	r := s.load.start(ctx, p.pool)
	defer r.finish()
	pause(ctx, s.lead)

	ok, refused, err := e.attempts()
	if err != nil {
		return nil, err
	}
	p.start = time.Now()
	counting, stop := context.WithCancel(ctx)
	defer stop()
	counted := make(chan error, 1)
	go func() { counted <- p.count(counting) }()
	err = s.tell(ctx, p)
	p.until(ctx, s.end)
	stop()
	if err := errors.Join(err, <-counted, ctx.Err()); err != nil {
		return nil, err
	}
	if p.orphans, err = e.server.OrphanSessions(ctx); err != nil {
		return nil, err
	}
	p.samples = r.finish()
	p.failed, p.err = r.failed, r.err
	p.before = over(p.samples, p.start.Add(-slice), p.start)
	p.worst = worst(p.samples, p.start, p.start.Add(s.end))
	okNow, refusedNow, err := e.attempts()
	p.logins, p.refused = okNow-ok, refusedNow-refused
	return p, err
}

// count takes the census until ctx is done. A role that was dropped has no name any more.
func (p *play) count(ctx context.Context) error {
	tick := time.NewTicker(2 * sampling)
	defer tick.Stop()
	for {
		var n census
		row := p.env.server.Admin().QueryRowContext(ctx, "select count(*) filter (where usename is null or usename = $1), count(*) filter (where usename <> $1 and usename like 'bench%')"+
			" from pg_stat_activity where datname = current_database() and backend_type = 'client backend'", p.first.user)
		switch err := row.Scan(&n.old, &n.new); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		n.at = time.Since(p.start)
		p.sessions = append(p.sessions, n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// attempts counts the logins that the server has decided, of all roles there were.
func (e *env) attempts() (ok, refused int, err error) {
	for n := range e.roles {
		o, r, err := e.server.LoginAttempts(roleName(n + 1))
		if err != nil {
			return 0, 0, err
		}
		ok, refused = ok+o, refused+r
	}
	return ok, refused, nil
}

// race has the contenders live through the stories, and prints a table of each. With a
// directory it also draws the charts into that, and writes the tables there.
func race(ctx context.Context, only, who, dir string) (err error) {
	server, err := pgtest.Start(ctx, pgtest.Options{Control: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	e, err := newEnv(ctx, server)
	if err != nil {
		return err
	}
	defer e.close()
	version, err := machine(ctx, server)
	if err != nil {
		return err
	}
	results := new(bytes.Buffer)
	said := 0
	fmt.Fprintf(results, "# Results of the race\n\n%s. [What this is, and how to run it](../race.md).\n", version)
	for _, s := range stories() {
		if !strings.Contains(s.name, only) {
			continue
		}
		lanes, err := e.run(ctx, s, who)
		if err != nil {
			return err
		}
		table(results, s, lanes)
		fmt.Print(string(results.Bytes()[said:]))
		said = results.Len()
		if err := draw(s, lanes, version, dir); err != nil {
			return err
		}
	}
	if only == "" || only == "overhead" {
		if err := e.overhead(ctx, results, who, effort{rounds: 9, queries: 2000, logins: 50}); err != nil {
			return err
		}
		fmt.Print(string(results.Bytes()[said:]))
	}
	if dir == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "results.md"), results.Bytes(), 0o644) //nolint:gosec // for everybody
}

// run has those contenders live through a story, one after the other, whose names hold who.
func (e *env) run(ctx context.Context, s story, who string) (lanes []lane, err error) {
	for _, c := range chosen(racers(), who) {
		p, err := e.perform(ctx, c, s)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", s.name, c.name, err)
		}
		lanes = append(lanes, lane{c.name, p})
	}
	return lanes, nil
}

// draw draws the story's charts into the directory, if there is one.
func draw(s story, lanes []lane, version, dir string) error {
	if dir == "" {
		return nil
	}
	for _, p := range palettes() {
		if err := os.WriteFile(filepath.Join(dir, s.name+p.suffix+".svg"), drawStory(s, lanes, version, p), 0o644); err != nil { //nolint:gosec // for everybody
			return err
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
	fmt.Fprintf(w, "<picture><source media=\"(prefers-color-scheme: dark)\" srcset=\"%s-dark.svg\"><img src=\"%s.svg\" alt=\"latency and sessions of each contender over time\"></picture>\n\n", s.name, s.name)
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
	if slices.ContainsFunc(lanes, func(l lane) bool { return l.err != nil }) {
		fmt.Fprintln(w)
	}
}

// machine says when, on what and with what versions something is measured.
func machine(ctx context.Context, server *pgtest.Server) (string, error) {
	var postgres string
	err := server.Admin().QueryRowContext(ctx, "show server_version").Scan(&postgres)
	postgres, _, _ = strings.Cut(postgres, " ")
	return fmt.Sprintf("%s, %d CPUs, %s, PostgreSQL %s, lib/pq %s, pgx %s", time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), postgres,
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
