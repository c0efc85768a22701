package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// play has a watch follow lines of go test -json, one second apart, which may be cut
// short: action, test, and what the action needs.
func play(t *testing.T, lines ...string) (*watch, string) {
	t.Helper()
	var b strings.Builder
	w, now := newWatch(&b), time.Now()
	for _, line := range lines {
		action, rest, _ := strings.Cut(line, " ")
		test, rest, _ := strings.Cut(rest, " ")
		e := event{Action: action, Package: "p", Test: strings.TrimPrefix(test, "-")}
		switch action {
		case "output":
			e.Output = rest + "\n"
		case "attr":
			e.Key, e.Value, _ = strings.Cut(rest, " ")
		case "pass", "fail":
			_, _ = fmt.Sscan(rest, &e.Elapsed)
		}
		w.take(e, now)
		now = now.Add(time.Second)
		w.alive(now)
	}
	w.exited(!strings.HasPrefix(lines[len(lines)-1], "fail"))
	return w, b.String()
}

func TestFailuresAreOfThreeKinds(t *testing.T) {
	quiet := "attr TestX needs quiet"
	for _, test := range []struct {
		name  string
		lines []string
		want  kind
	}{
		{"as most", []string{"output TestX x_test.go:1: wrong"}, broken},
		{"one that needs quiet", []string{quiet, "output TestX x_test.go:1: late"}, needsQuiet},
		{"a subtest of one that needs quiet", []string{quiet, "run TestX/a", "output TestX/a x_test.go:1: late", "fail TestX/a 1"}, needsQuiet},
		{"a stall", []string{"output TestX x_test.go:1: it stalls by 90 ms, nothing is proven"}, nothingProven},
		{"a stall in a subtest", []string{quiet, "run TestX/a", "output TestX/a x_test.go:1: nothing is proven", "fail TestX/a 1"}, nothingProven},
		{"data race", []string{quiet, "output TestX WARNING: DATA RACE"}, broken},
		{"data race, after the fact", []string{quiet, "output TestX     testing.go:1712: race detected during execution of test"}, broken},
		{"panic", []string{quiet, "output TestX nothing is proven", "output TestX panic: runtime error"}, broken},
		{"fatal error", []string{quiet, "output TestX fatal error: concurrent map writes"}, broken},
		{"grave", []string{quiet, "attr TestX failure grave"}, broken},
		{"grave in a subtest", []string{quiet, "run TestX/a", "attr TestX/a failure grave", "fail TestX/a 1"}, broken},
		{"grave beside a stall", []string{"output TestX nothing is proven", "attr TestX failure grave"}, broken},
		{"a word of panic", []string{quiet, "output TestX x_test.go:1: the decoder panics: panic: oops"}, needsQuiet},
		{"a mark of another test", []string{"run TestY", "attr TestY needs quiet", "pass TestY 1"}, broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, _ := play(t, append(append([]string{"start -", "run TestX"}, test.lines...), "fail TestX 1", "fail - 1")...)
			failures := w.failed
			if len(failures) != 1 || failures[0].kind != test.want || failures[0].test != "TestX" || !w.ok() {
				t.Errorf("%+v, ok: %t; want kind %d", failures, w.ok(), test.want)
			}
		})
	}
}

func TestAProcessThatDiesIsNoTestsFault(t *testing.T) {
	for name, lines := range map[string][]string{
		"in the middle of a test": {"start -", "run TestX", "attr TestX needs quiet", "output TestX bye", "fail - 1"},
		"beside one that failed":  {"start -", "run TestX", "attr TestX needs quiet", "run TestY", "fail TestX 1", "output TestY bye", "fail - 1"},
		"before any test":         {"start -", "output - bye", "fail - 1"},
		"after all tests":         {"start -", "run TestX", "pass TestX 1", "output - bye", "fail - 1"},
		"with a race at the end":  {"start -", "run TestX", "attr TestX needs quiet", "fail TestX 1", "output - WARNING: DATA RACE", "output - bye", "fail - 1"},
	} {
		w, said := play(t, lines...)
		if w.ok() || !strings.Contains(said, "bye") {
			t.Errorf("%s: ok: %t, said: %s", name, w.ok(), said)
		}
	}
}

func TestAFailureIsPrintedWhenItHappens(t *testing.T) {
	lines := []string{"start -", "run TestX", "run TestX/a", "output TestX/a === RUN TestX/a", "output TestX/a     x_test.go:7: because", "fail TestX/a 1"}
	if _, said := play(t, lines...); !strings.HasSuffix(said, "    x_test.go:7: because\n") {
		t.Errorf("said %q", said)
	}
}

func TestNobodyWaitsLongForALine(t *testing.T) {
	lines := []string{"start -", "run TestX", "run TestX/a", "run TestY", "pause TestY"}
	for range 20 {
		lines = append(lines, "output TestX/a busy")
	}
	_, said := play(t, lines...)
	if n := strings.Count(said, "\n"); n < 4 || n > 5 {
		t.Errorf("%d lines in 25 s: %s", n, said)
	}
	if !strings.Contains(said, "TestX/a (") || strings.Contains(said, "TestX (") || strings.Contains(said, "TestY") {
		t.Errorf("who runs is not what is said: %s", said)
	}
}

// module makes one whose tests note each run in a file, and returns its directory.
func module(t *testing.T, tests string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module example\n\ngo 1.25\n",
		"x_test.go": `package example

import (
	"os"
	"testing"
)

// run returns how often it was called before, in all processes.
func run(t *testing.T) int {
	path := t.Name() + ".runs"
	before, _ := os.ReadFile(path)
	if err := os.WriteFile(path, append(before, '.'), 0o600); err != nil {
		t.Fatal(err)
	}
	return len(before)
}
` + tests,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// retestModule runs those tests of the module in dir whose name matches pattern.
func retestModule(t *testing.T, dir, pattern string) (ok bool, said, report string) {
	t.Helper()
	var b strings.Builder
	path := filepath.Join(dir, "report")
	ok, err := retest(&b, options{
		again: true, report: path, dir: dir, args: []string{"-race", "-vet=off", "-run=" + pattern, "."},
		env: append(os.Environ(), "GOWORK=off", "GOFLAGS="),
	})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return ok, b.String(), string(content)
}

func runs(t *testing.T, dir, test string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, test+".runs"))
	if err != nil {
		t.Fatal(err)
	}
	return len(content)
}

func TestSecondChances(t *testing.T) {
	dir := module(t, `
func TestGood(t *testing.T) { run(t) }

func TestFlaky(t *testing.T) {
	t.Attr("needs", "quiet")
	if run(t) == 0 {
		t.Error("late")
	}
}

func TestStalled(t *testing.T) {
	if run(t) == 0 {
		t.Error("it stalls: nothing is proven")
	}
}

func TestStalls(t *testing.T) {
	run(t)
	t.Error("it stalls: nothing is proven")
}
`)
	if _, err := note(filepath.Join(dir, "report"), []string{"unproven: TestA", "flaky: TestB", "unproven: TestC"}); err != nil {
		t.Fatal(err)
	}
	ok, said, report := retestModule(t, dir, ".")
	if !ok {
		t.Errorf("failed: %s", said)
	}
	for test, want := range map[string]int{"TestGood": 1, "TestFlaky": 2, "TestStalled": 2, "TestStalls": 2} {
		if n := runs(t, dir, test); n != want {
			t.Errorf("%s was run %d times, not %d", test, n, want)
		}
	}
	for _, line := range []string{"flaky: TestFlaky in example", "stalled: TestStalled in example", "unproven: TestStalls in example"} {
		if !strings.Contains(said, line) || !strings.Contains(report, line) {
			t.Errorf("%q is not in the output or not in the report: %s", line, said)
		}
	}

	if ok, said, _ := retestModule(t, dir, "TestStalls"); ok || !strings.Contains(said, "4 tests have proven nothing") {
		t.Errorf("four unproven tests in the report: ok is %t: %s", ok, said)
	}
}

func TestNoSecondChance(t *testing.T) {
	dir := module(t, `
func TestBroken(t *testing.T) {
	if run(t) == 0 {
		t.Error("wrong")
	}
}

func TestGrave(t *testing.T) {
	t.Attr("needs", "quiet")
	if run(t) == 0 {
		t.Attr("failure", "grave")
		t.Error("a secret is out")
	}
}

func TestRace(t *testing.T) {
	t.Attr("needs", "quiet")
	if run(t) == 0 {
		n, done := 0, make(chan bool)
		go func() { n++; close(done) }()
		n++
		<-done
	}
}

func TestStillLate(t *testing.T) {
	t.Attr("needs", "quiet")
	run(t)
	t.Error("late")
}
`)
	ok, said, report := retestModule(t, dir, ".")
	if ok || report != "" {
		t.Errorf("ok: %t, report: %s\n%s", ok, report, said)
	}
	for test, want := range map[string]int{"TestBroken": 1, "TestGrave": 1, "TestRace": 1, "TestStillLate": 2} {
		if n := runs(t, dir, test); n != want {
			t.Errorf("%s was run %d times, not %d", test, n, want)
		}
	}
	for _, text := range []string{"wrong", "a secret is out", "DATA RACE", "late"} {
		if !strings.Contains(said, text) {
			t.Errorf("%q is not said: %s", text, said)
		}
	}
}
