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

// A short story is seen as what it is: who keeps the old login's sessions fails when that
// is dropped, and has them still; sqlrotate, which is given the time, doesn't. (A flip on a
// busy machine may be either.) The table and the charts say so.
func TestARaceTellsContendersApart(t *testing.T) {
	e, err := newEnv(t.Context(), pgtest.New(t, pgtest.Options{Control: true}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	rotates := func(p pool) bool {
		switch p.(type) {
		case *rotator, *rotatingPool:
			return true
		}
		return false
	}
	s := story{
		name: "brief", title: "Rotated & dropped",
		load:  load{about: "Four workers.", conns: 4, workers: 4, think: 5 * time.Millisecond, longest: 50 * time.Millisecond},
		terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: -1},
		lead:  100 * time.Millisecond, end: time.Second,
		tell: func(ctx context.Context, p *play) error {
			next, err := p.env.newRole(ctx)
			if err != nil {
				return err
			}
			if err := p.publish(next, "published"); err != nil {
				return err
			}
			for n := 1; n > 0 && rotates(p.pool); {
				if n, err = p.env.server.Sessions(ctx, p.first.user); err != nil {
					return err
				}
				pause(ctx, 10*time.Millisecond)
			}
			p.mark(time.Since(p.start), "dropped")
			err = p.env.server.RevokeRole(ctx, p.first.user)
			pause(ctx, time.Second)
			return err
		},
	}
	lanes, err := e.run(t.Context(), s, "")
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
			if l.err != nil || l.orphans != 0 || l.logins < s.load.conns || l.refused != 0 {
				t.Errorf("%s: %v, %d sessions of a dropped role, %d logins, %d refused", l.name, l.err, l.orphans, l.logins, l.refused)
			}
		case l.name == nameFixed || l.name == nameService:
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
	for _, p := range palettes() {
		chart := drawStory(s, lanes, "a machine", p)
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
