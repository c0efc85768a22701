// Command mutate changes the rules, one thing at a time, and runs their tests on each
// change: what no test notices no test holds.
//
//	mutate [-survivors file] [-only regexp] [-v] directory ...
//
// It negates conditions, shifts boundaries (< to <=), swaps && and ||, and min and max,
// adds 1 to numbers, takes 1 off them and makes them 0, and drops statements. All mutants
// of a package are compiled into one test binary, which an environment variable tells
// which of them it is; so hundreds are tested in a minute. One that runs for two seconds
// of the processor's time, or takes more than 2 GB, is killed. It is for Linux.
//
// It doesn't touch: statements that declare something or return a value, since they can't
// just be left out; numbers that must be constants, as iota and the lengths of arrays;
// an Instant or a Duration that is 0, which stands for none; strings.
//
// It fails if fewer than 97 % of the mutants are killed, if one survives that isn't in the
// list of survivors, if one in the list doesn't, or if that is longer than 15. A survivor
// is listed as it is printed, without its place, and after it, indented, why it changes
// nothing.
//
// Unless -only chooses among the mutants, it then plants the defects of defects.go in the
// shell around the rules and where the two meet, and fails if the test that is named
// beside one doesn't notice it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"time"
)

const (
	leastKilled   = 97 // percent
	mostSurvivors = 15
)

func main() {
	path := flag.String("survivors", "", "the `file` that lists the mutants which survive, and why")
	verbose := flag.Bool("v", false, "print each mutant and what came of it")
	pattern := flag.String("only", "", "test only the mutants whose line, as printed, this `regexp` matches")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	only, err := regexp.Compile(*pattern)
	if err == nil {
		err = mutateAll(ctx, os.Stdout, flag.Args(), *path, only, *verbose)
	}
	if err == nil && *pattern == "" {
		err = plantAll(ctx, os.Stdout, ".", defects)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		stop()
		os.Exit(1)
	}
}

// mutateAll tests the mutants of the packages in dirs.
func mutateAll(ctx context.Context, w io.Writer, dirs []string, path string, only *regexp.Regexp, verbose bool) error {
	listed := map[string]string{}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if listed, err = readSurvivors(string(text)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	var all []*mutant
	for _, dir := range dirs {
		start := time.Now()
		p, err := load(ctx, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if err := p.test(ctx, only); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		p.mutants = slices.DeleteFunc(p.mutants, func(m *mutant) bool { return m.fate == notRun })
		killed := 0
		for _, m := range p.mutants {
			if m.fate == killedByTests {
				killed++
			}
			if verbose {
				say(w, "%v", m)
			}
		}
		say(w, "%s: %d of %d mutants killed in %.0f s", dir, killed, len(p.mutants), time.Since(start).Seconds())
		all = append(all, p.mutants...)
	}
	return judge(w, all, listed, only)
}

func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }

// judge compares what survives with the list.
func judge(w io.Writer, all []*mutant, listed map[string]string, only *regexp.Regexp) error {
	survivors, bad := 0, 0
	left := map[string]bool{}
	for key := range listed {
		left[key] = true
	}
	for _, m := range all {
		if m.fate == killedByTests {
			continue
		}
		survivors++
		if _, ok := listed[m.key]; !ok {
			bad++
			say(w, "%v", m)
		}
		delete(left, m.key)
	}
	for key := range left {
		if !only.MatchString(key) {
			continue
		}
		bad++
		say(w, "listed, and killed or no more: %s", key)
	}
	switch {
	case bad > 0:
		return fmt.Errorf("%d mutants are not as listed", bad)
	case len(listed) > mostSurvivors:
		return fmt.Errorf("%d survivors are listed, %d is the most", len(listed), mostSurvivors)
	case (len(all)-survivors)*100 < leastKilled*len(all):
		return fmt.Errorf("%d of %d mutants survive", survivors, len(all))
	}
	return nil
}
