// Command retest runs go test and prints each failure when it happens, the end of
// each test that took a while, and every five seconds what is running. A test that
// failed for the machine's sake it can run once more:
//
//	retest [-again] [-report file] -- [flag=value ...] package ...
//
// The flags and packages are go test's; a flag is one word. Two kinds of failed tests
// are run again at the end, alone, with -again:
//
//   - A test that calls t.Attr("needs", "quiet") measures time, and other work on the
//     machine makes it fail. If it passes now, it is listed as flaky. If more than five
//     of them fail, the machine is not the reason, and none is run again.
//   - A test that says "nothing is proven" has found that the machine stalled. If it
//     says so again, it is listed as unproven. More than three of them fail the run.
//
// No test is run again that detected a data race or a leak of a synctest bubble, that
// panicked, did not end, or called t.Attr("failure", "grave"): lost books, a leaked
// secret and the session of a revoked role are nobody's fault but ours.
//
// A report collects the lists of several runs, which may have three unproven tests
// together.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	again := flag.Bool("again", false, "run tests again that failed for the machine's sake")
	path := flag.String("report", "", "append to this `file` which tests are flaky or unproven")
	flag.Parse()
	ok, err := retest(os.Stdout, options{again: *again, report: *path, args: flag.Args()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

type options struct {
	again  bool
	report string   // path of a file; empty: none
	args   []string // of go test
	env    []string // of go test; nil: this process's
	dir    string   // of go test; empty: this process's
}

const (
	mostFlaky    = 5 // that are run again
	mostUnproven = 3 // in all runs of a report
)

// retest reports whether all tests passed, or failed in a way that is excused.
func retest(w io.Writer, o options) (bool, error) {
	first := newWatch(w)
	if err := goTest(o, o.args, first); err != nil {
		return false, err
	}
	quiet := 0
	for _, f := range first.failed {
		if f.kind == needsQuiet {
			quiet++
		}
	}
	var lines []string // of the report
	var failed []failure
	unproven := 0
	for _, f := range first.failed {
		last := f
		if o.again && (f.kind == nothingProven || f.kind == needsQuiet && quiet <= mostFlaky) {
			var err error
			if last, err = alone(w, o, f); err != nil {
				return false, err
			}
		}
		line := excuse(f, last)
		switch {
		case line == "":
			failed = append(failed, last)
			continue
		case last.kind == nothingProven:
			unproven++
		}
		lines = append(lines, line)
	}
	before, err := note(o.report, lines)
	if err != nil {
		return false, err
	}
	first.summary(append(lines, failureLines(failed)...))
	if before+unproven > mostUnproven {
		_, _ = fmt.Fprintf(w, "%d tests have proven nothing, more than %d\n", before+unproven, mostUnproven)
		return false, nil
	}
	return first.ok() && len(failed) == 0, nil
}

// excuse says why a test that failed at first, and came to last, is no failure; empty if it
// is one.
func excuse(first, last failure) string {
	switch {
	case last.kind == passed && first.kind == nothingProven:
		return fmt.Sprintf("stalled: %s, which passed when it was run again. At first: %s", first.name(), first.reason)
	case last.kind == passed:
		return fmt.Sprintf("flaky: %s, which passed when it was run again. At first: %s", first.name(), first.reason)
	case last.kind == nothingProven:
		return fmt.Sprintf("unproven: %s: %s", first.name(), last.reason)
	}
	return ""
}

func failureLines(failed []failure) (lines []string) {
	for _, f := range failed {
		lines = append(lines, fmt.Sprintf("failed: %s: %s", f.name(), f.reason))
	}
	return lines
}

// alone runs a test once more, and returns what became of it.
func alone(w io.Writer, o options, f failure) (failure, error) {
	_, _ = fmt.Fprintf(w, "=== once more, alone: %s\n", f.name())
	var args []string
	for _, arg := range o.args {
		if strings.HasPrefix(arg, "-") {
			args = append(args, arg)
		}
	}
	args = append(args, "-count=1", "-run=^"+f.test+"$", f.pkg)
	second := newWatch(w)
	if err := goTest(o, args, second); err != nil {
		return f, err
	}
	switch {
	case len(second.failed) == 1:
		return second.failed[0], nil
	case second.ok() && second.passed[f.pkg] == 1:
		f.kind = passed
	default: // its package didn't build, or it was skipped
		f.kind = broken
	}
	return f, nil
}

// goTest runs go test and shows what it says to watch.
func goTest(o options, args []string, watch *watch) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...) //nolint:gosec,noctx // it is what was asked for, and ends by itself
	cmd.Env, cmd.Dir, cmd.Stderr = o.env, o.dir, os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("retest: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("retest: %w", err)
	}
	events := make(chan event)
	go func() {
		defer close(events)
		lines := bufio.NewReader(stdout)
		for {
			line, err := lines.ReadBytes('\n')
			if len(line) > 0 {
				e := event{Action: "output", Output: string(line)}
				if json.Unmarshal(line, &e) != nil {
					e = event{Action: "build-output", Output: string(line)}
				}
				events <- e
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for open := true; open; {
		select {
		case e, more := <-events:
			if open = more; more {
				watch.take(e, time.Now())
			}
		case now := <-tick.C:
			watch.alive(now)
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("retest: go test: %w", err)
	}
	watch.exited(err == nil)
	return nil
}

// note appends lines to the report and returns how many unproven tests were in it
// before.
func note(path string, lines []string) (unproven int, err error) {
	if path == "" {
		return 0, nil
	}
	before, err := os.ReadFile(path) //nolint:gosec // it is where we were told to
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("retest: report: %w", err)
	}
	for line := range strings.Lines(string(before)) {
		if strings.HasPrefix(line, "unproven: ") {
			unproven++
		}
	}
	for _, line := range lines {
		before = append(before, line+"\n"...)
	}
	if err := os.WriteFile(path, before, 0o600); err != nil { //nolint:gosec // as above
		return 0, fmt.Errorf("retest: report: %w", err)
	}
	return unproven, nil
}
