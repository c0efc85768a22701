package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// What is measured tells a fleet that logs in over the time of a drain from one that does so
// at once, and an old role that is dropped in mid-drain from one that isn't. The tables and
// charts say so.
func TestAFleetTellsAStormFromASpread(t *testing.T) {
	t.Attr("needs", "quiet")
	e := newTestEnv(t)
	const drain = 4 * time.Second
	f := formation{
		processes: 3, conns: 2, think: 50 * time.Millisecond,
		window: sqlrotate.Window{Overlap: 10 * time.Minute, Lag: 6 * time.Second, MaxInUse: 3 * time.Second},
	}
	lead := 100 * time.Millisecond
	var all []*seen
	for _, p := range []acts{
		{0, []act{
			{name: "spread", drainTime: drain, lead: lead, drop: time.Hour, end: drain + time.Second},
			{name: "early", early: true, drainTime: drain, lead: lead, drop: 300 * time.Millisecond, end: 2 * time.Second},
		}},
		{0, []act{{name: "at once", drainTime: -1, lead: lead, drop: time.Hour, end: 2 * time.Second}}},
		{0, []act{{name: "flip", flip: true, lead: lead, drop: time.Hour, end: time.Second}}},
	} {
		seen, err := e.performFleet(t.Context(), f, p, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, seen...)
	}
	spread, early, atOnce, flip := all[0], all[1], all[2], all[3]
	for _, s := range all {
		if len(s.samples) == 0 || (len(s.failed) > 0) != (s.err != "") || s != early && s.err != "" {
			t.Errorf("%s: %d operations, %d failed: %s", s.name, len(s.samples), len(s.failed), s.err)
		}
	}
	// Nothing makes a drain shorter. How long what is done at once takes is the machine's affair.
	if spread.gone < drain/3 {
		t.Errorf("a drain of %v was over after %v", drain, spread.gone)
	}
	if n := spread.during(0, spread.end); n < f.sessions() {
		t.Errorf("%d logins for %d sessions", n, f.sessions())
	}
	if n := atOnce.during(0, atOnce.end); n < f.sessions() || atOnce.gone < 0 || atOnce.gone >= spread.gone {
		t.Errorf("at once: %d logins, the last old session was gone after %v, and with a drain after %v", n, atOnce.gone, spread.gone)
	}
	if flip.during(0, flip.end) == 0 {
		t.Error("flip: nobody has logged in")
	}
	if early.left() == 0 {
		t.Errorf("of a role that was dropped early %d sessions were left, the last until %v", early.left(), early.gone)
	}

	dir := t.TempDir()
	big := simulateBig(5)
	var results bytes.Buffer
	fleetTables(&results, all, big[0], big, []serverCost{{tls: true, cpu: 4 * time.Millisecond, perSecond: 100}})
	for _, text := range []string{"\n| spread | ", "\n| at once | ", "\n| flip | ", "\n| early | ", "\n| SCRAM, TLS | 4.0 ms | 250 | 100 |\n", "\n| measured | ", "\n| simulated | "} {
		if !strings.Contains(results.String(), text) {
			t.Errorf("the tables lack %q:\n%s", text, &results)
		}
	}
	if err := drawFleet(dir, all, big, "a machine"); err != nil {
		t.Fatal(err)
	}
	for name, texts := range map[string][]string{"fleet": {"spread", "at once", "flip"}, "early-dark": {"early", "old role dropped"}, "pods": {"a machine"}} {
		chart, err := os.ReadFile(filepath.Join(dir, name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		decoder := xml.NewDecoder(bytes.NewReader(chart))
		for err == nil {
			_, err = decoder.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s is no XML: %v", name, err)
		}
		for _, text := range texts {
			if !bytes.Contains(chart, []byte(">"+text+"<")) {
				t.Errorf("%s lacks %q", name, text)
			}
		}
	}
}

// Pods that see a rotation together log in over the time that the drain has, at a small
// multiple of what their renewal takes; without a drain they all do at once.
func TestSimulatedPodsDontStorm(t *testing.T) {
	const pods = 50
	big := simulateBig(pods)
	for i, c := range big[:4] {
		storm, together := i >= 2, i%2 == 1
		if got := c.most(10) / c.steady(); !storm && got > 15 {
			t.Errorf("%s: %.1f times the renewal in the busiest ten seconds", c.name, got)
		}
		if got := c.most(1) / c.steady(); storm && together && got < 300 {
			t.Errorf("%s: %.1f times the renewal in the busiest second", c.name, got)
		}
		if c.failed > 0 || c.queries == 0 {
			t.Errorf("%s: %d of %d operations failed", c.name, c.failed, c.queries)
		}
	}
	if got := big[0].before() / big[0].steady(); got < 0.5 || got > 2 {
		t.Errorf("before the rotation it is %.2f times the renewal", got)
	}
	if most := big[1].most(1); most > pods {
		t.Errorf("%.0f logins of %d pods within a second", most, pods)
	}
	if d := big[1].drained; d > 130*time.Second {
		t.Errorf("a drain of two minutes took %v", d)
	}
	if early := big[4]; early.failed == 0 {
		t.Error("no operation failed though the old role was dropped in mid-drain")
	}
}
