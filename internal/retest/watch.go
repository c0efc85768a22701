// The watch: what go test says, event by event, and what is printed of it.

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json; see go doc test2json and go help buildjson.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
	Key     string // of an attribute
	Value   string
}

// kind is what a failure is like.
type kind int

const (
	passed kind = iota
	broken
	needsQuiet
	nothingProven
)

// failure is a top-level test that failed.
type failure struct {
	pkg, test string
	kind      kind
	reason    string // the first line that says why
}

func (f failure) name() string { return f.test + " in " + f.pkg }

type id struct{ pkg, test string }

// root returns the top-level test that i is part of.
func (i id) root() id {
	i.test, _, _ = strings.Cut(i.test, "/")
	return i
}

// running is a test, a subtest or, without a test's name, a package that has not
// ended.
type running struct {
	since  time.Time
	paused bool
	output []string
}

// marks are what a top-level test, its subtests included, has said of itself.
type marks struct {
	quiet, grave, unproven bool
	reason                 string
}

// watch follows one run of go test.
type watch struct {
	w       io.Writer
	spoke   time.Time // when something was printed last
	running map[id]*running
	marks   map[id]*marks
	failed  []failure      // in the order of their ends
	passed  map[string]int // top-level tests by package
	skipped []string
	broken  []string // packages that failed for a reason that is no test's
	success bool     // go test's
}

func newWatch(w io.Writer) *watch {
	return &watch{w: w, spoke: time.Now(), running: map[id]*running{}, marks: map[id]*marks{}, passed: map[string]int{}}
}

// silence is for how long nothing may be printed.
const silence = 5 * time.Second

// slow is what a test takes whose end is worth a line.
const slow = time.Second

// ok reports whether nothing failed but the tests of failures.
func (w *watch) ok() bool {
	return len(w.broken) == 0 && (w.success || len(w.failed) > 0)
}

// exited is told last whether go test succeeded.
func (w *watch) exited(success bool) { w.success = success }

func (w *watch) take(e event, now time.Time) {
	i := id{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		w.print(now, strings.TrimSuffix(e.Output, "\n"))
	case "start", "run":
		w.running[i] = &running{since: now}
	case "pause", "cont":
		if r := w.running[i]; r != nil {
			r.paused = e.Action == "pause"
			r.since = now
		}
	case "attr":
		m := w.marksOf(i)
		m.quiet = m.quiet || e.Key == "needs" && e.Value == "quiet"
		m.grave = m.grave || e.Key == "failure" && e.Value == "grave"
	case "output":
		w.hear(i, e.Output)
	case "pass", "fail", "skip":
		w.end(i, e, now)
	}
}

func (w *watch) marksOf(i id) *marks {
	i = i.root()
	if w.marks[i] == nil {
		w.marks[i] = &marks{}
	}
	return w.marks[i]
}

// hear keeps a line, in case that whoever says it fails.
func (w *watch) hear(i id, line string) {
	if r := w.running[i]; r != nil && !strings.HasPrefix(line, "=== ") {
		r.output = append(r.output, line)
	}
	m := w.marksOf(i)
	m.grave = m.grave || isGrave(strings.TrimSpace(line))
	m.unproven = m.unproven || strings.Contains(line, "nothing is proven")
}

// isGrave reports whether a line is the Go runtime's about something that no machine
// makes happen.
func isGrave(line string) bool {
	return strings.HasPrefix(line, "WARNING: DATA RACE") || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") ||
		strings.HasPrefix(line, "testing.go:") && strings.HasSuffix(line, "race detected during execution of test")
}

func (w *watch) end(i id, e event, now time.Time) {
	took := time.Duration(e.Elapsed * float64(time.Second))
	r := w.running[i]
	delete(w.running, i)
	if r == nil {
		r = &running{}
	}
	if i.test == "" {
		w.endPackage(i.pkg, e.Action, took, r, now)
		return
	}
	top := i == i.root()
	switch {
	case e.Action == "fail":
		w.print(now, strings.TrimSuffix(strings.Join(r.output, ""), "\n"))
		m := w.marksOf(i)
		if m.reason == "" || strings.Contains(reason(r.output), "nothing is proven") {
			m.reason = reason(r.output)
		}
		if top {
			w.failed = append(w.failed, failure{i.pkg, i.test, m.kind(), m.reason})
		}
	case e.Action == "skip":
		w.skipped = append(w.skipped, i.test)
	case top:
		w.passed[i.pkg]++
		if took >= slow {
			w.print(now, fmt.Sprintf("ok   %6.1fs %s", took.Seconds(), i.test))
		}
	}
}

// kind returns what a failure is like of a test with these marks.
func (m *marks) kind() kind {
	switch {
	case m.grave:
		return broken
	case m.unproven:
		return nothingProven
	case m.quiet:
		return needsQuiet
	}
	return broken
}

// reason returns the first line that a test has said about its failure: it names
// the place in a file.
func reason(output []string) string {
	for _, line := range output {
		if strings.Contains(line, ".go:") {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "\n")
			return line
		}
	}
	return ""
}

func (w *watch) endPackage(pkg, action string, took time.Duration, r *running, now time.Time) {
	line := fmt.Sprintf("%-4s %6.1fs %s", action, took.Seconds(), pkg)
	if action == "fail" {
		line = strings.ToUpper(line[:4]) + line[4:]
		excused := w.marks[id{pkg, ""}] == nil || !w.marks[id{pkg, ""}].grave
		excused = excused && slices.ContainsFunc(w.failed, func(f failure) bool { return f.pkg == pkg })
		for i, unfinished := range w.running {
			if i.pkg == pkg { // the process has died
				excused = false
				w.print(now, strings.Join(unfinished.output, "")+"--- FAIL: "+i.test+" did not end")
				delete(w.running, i)
			}
		}
		if !excused {
			w.print(now, strings.Join(r.output, ""))
			w.broken = append(w.broken, pkg)
		}
	}
	w.print(now, line)
}

// alive prints what is running if nothing was printed for a while.
func (w *watch) alive(now time.Time) {
	if now.Sub(w.spoke) < silence {
		return
	}
	parents := map[id]bool{}
	for i := range w.running {
		if slash := strings.LastIndex(i.test, "/"); slash > 0 {
			parents[id{i.pkg, i.test[:slash]}] = true
		} else if i.test != "" {
			parents[id{i.pkg, ""}] = true
		}
	}
	var names []string
	for i, r := range w.running {
		if parents[i] || r.paused {
			continue
		}
		name := i.test
		if name == "" {
			name = i.pkg
		}
		names = append(names, fmt.Sprintf("%s (%.0f s)", name, now.Sub(r.since).Seconds()))
	}
	slices.Sort(names)
	if len(names) == 0 {
		names = []string{"compiling"}
	} else if n := len(names) - 2; n > 0 {
		names = append(names[:2], fmt.Sprintf("and %d more", n))
	}
	w.print(now, "...          "+strings.Join(names, ", "))
}

func (w *watch) print(now time.Time, text string) {
	if text == "" {
		return
	}
	w.spoke = now
	_, _ = fmt.Fprintln(w.w, text)
}

// summary prints what came of the run, and more lines.
func (w *watch) summary(more []string) {
	n := 0
	for _, passed := range w.passed {
		n += passed
	}
	line := fmt.Sprintf("%d tests passed, %d failed", n, len(w.failed))
	if len(w.skipped) > 0 {
		line += fmt.Sprintf(", %d skipped: %s", len(w.skipped), strings.Join(w.skipped, ", "))
	}
	for _, pkg := range w.broken {
		more = append(more, "failed: "+pkg)
	}
	_, _ = fmt.Fprintln(w.w, strings.Join(append([]string{line}, more...), "\n"))
}
