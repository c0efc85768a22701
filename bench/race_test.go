package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

const shortLead = 100 * time.Millisecond

func newTestEnv(tb testing.TB) *env {
	tb.Helper()
	e, err := newEnv(tb.Context(), pgtest.New(tb, pgtest.Options{Control: true}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = e.close() })
	return e
}

// rotates reports whether a pool is one of ours.
func rotates(p pool) bool {
	switch p.(type) {
	case *rotator, *rotatingPool:
		return true
	}
	return false
}

// await waits until f is true.
func (p *play) await(ctx context.Context, f func() (bool, error)) error {
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		if pause(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// hasFailed reports whether an operation has.
func (p *play) hasFailed() (bool, error) {
	failed, _ := p.running.failures()
	return len(failed) > 0, nil
}

// A short story is seen as what it is: who keeps the old login's sessions fails when that
// is dropped, and has them still; sqlrotate, which is given the time, doesn't. (A flip on a
// busy machine may be either.) The table and the charts say so.
func TestARaceTellsContendersApart(t *testing.T) {
	e := newTestEnv(t)
	keeps := func(p pool) bool {
		switch p.(type) {
		case fixed, *service, *refresher:
			return true
		}
		return false
	}
	s := story{
		name: "brief", title: "Rotated & dropped",
		load:  load{about: "Four workers.", conns: 4, workers: 4, think: 5 * time.Millisecond, longest: 50 * time.Millisecond},
		terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: -1},
		tell: func(ctx context.Context, p *play) error {
			next, err := p.env.newRole(ctx)
			if err != nil {
				return err
			}
			if err := p.publish(next, "published"); err != nil {
				return err
			}
			if rotates(p.pool) {
				err := p.await(ctx, func() (bool, error) {
					n, err := p.env.server.Sessions(ctx, p.first.user)
					return n == 0, err
				})
				if err != nil {
					return err
				}
			}
			p.mark(time.Since(p.start), "dropped")
			if err := p.env.server.RevokeRole(ctx, p.first.user); err != nil {
				return err
			}
			if keeps(p.pool) {
				return p.await(ctx, p.hasFailed)
			}
			return nil
		},
	}
	lanes, err := e.run(t.Context(), s, "", shortLead)
	if err != nil {
		t.Fatal(err)
	}
	if len(lanes) != len(racers()) {
		t.Fatalf("%d lanes", len(lanes))
	}
	for _, l := range lanes {
		if (len(l.failed) > 0) != (l.err != nil) {
			t.Errorf("%s: %d failed: %v", l.name, len(l.failed), l.err)
		}
		switch {
		case rotates(l.pool):
			if l.err != nil || l.orphans != 0 || l.logins == 0 || l.refused != 0 {
				t.Errorf("%s: %v, %d sessions of a dropped role, %d logins, %d refused", l.name, l.err, l.orphans, l.logins, l.refused)
			}
		case keeps(l.pool):
			if l.err == nil || l.orphans != s.load.conns || l.logins != 0 || l.refused != 0 {
				t.Errorf("%s: %v, %d sessions of a dropped role, %d logins, %d refused", l.name, l.err, l.orphans, l.logins, l.refused)
			}
		}
	}

	var results bytes.Buffer
	table(&results, s, lanes)
	for _, l := range lanes {
		if !strings.Contains(results.String(), "\n| "+l.name+" | ") || l.err != nil && !strings.Contains(results.String(), l.err.Error()) {
			t.Errorf("the table lacks %s:\n%s", l.name, &results)
		}
	}
	var spent bytes.Buffer
	if err := e.overhead(t.Context(), &spent, "", effort{rounds: 1, queries: 2, logins: 1}); err != nil {
		t.Fatal(err)
	}
	for _, c := range racers() {
		if !strings.Contains(spent.String(), "\n| "+c.name+" | ") {
			t.Errorf("the table lacks %s:\n%s", c.name, &spent)
		}
	}
	for i, p := range palettes() {
		chart := drawStory(s, lanes, "a machine", p, float64(i)*160)
		decoder := xml.NewDecoder(bytes.NewReader(chart))
		for err = nil; err == nil; {
			_, err = decoder.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("the chart is no XML: %v", err)
		}
		for _, text := range []string{"Rotated &amp; dropped", "a machine", "published", "dropped", nameService} {
			if !bytes.Contains(chart, []byte(">"+text+"<")) {
				t.Errorf("the chart lacks %q", text)
			}
		}
	}
}

// A file that ends in the middle is a login that is refused to who reads it as it is. For
// ours it is none, and they say so. Who looks at a file only when it is refused has it tried
// by a change of the password.
func TestWhoReadsATornFile(t *testing.T) {
	e := newTestEnv(t)
	s := story{
		name: "torn", title: "Torn", needsFile: true,
		load:  load{conns: 2, workers: 2, think: time.Millisecond, longest: 50 * time.Millisecond, age: 20 * time.Millisecond},
		terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: -1},
		tell: func(ctx context.Context, p *play) error {
			if err := p.tear(newPassword(p.first)); err != nil {
				return err
			}
			switch p.pool.(type) {
			case *service:
				return p.await(ctx, p.hasFailed)
			case *refresher:
				if err := p.env.server.AlterPassword(ctx, p.first.user, "another"); err != nil {
					return err
				}
				return p.await(ctx, p.hasFailed)
			}
			return p.await(ctx, func() (bool, error) {
				p.ask()
				return p.complaint != nil, nil
			})
		},
	}
	lanes, err := e.run(t.Context(), s, "", shortLead)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lanes {
		switch l.pool.(type) {
		case *service, *refresher:
			if l.err == nil || l.refused == 0 {
				t.Errorf("%s: %v, %d refused", l.name, l.err, l.refused)
			}
		case *rotator, *rotatingPool:
			if l.err != nil || l.refused != 0 || l.complaint == nil {
				t.Errorf("%s: %v, %d refused; it says %v", l.name, l.err, l.refused, l.complaint)
			}
		default:
			t.Errorf("%s has no file", l.name)
		}
	}
	var results bytes.Buffer
	table(&results, s, lanes)
	if !strings.Contains(results.String(), "sqlrotate, `CheckHealth` meanwhile: ") || strings.Contains(results.String(), e.dir) {
		t.Errorf("the table lacks what is wrong, or has the machine's directory:\n%s", &results)
	}
}
