// Command bench measures what a rotation of the database login does to an
// application, on a PostgreSQL of its own.
//
// Its first argument says what to measure; "bench race -help" lists the flags of that.
//
//	rotations  latency before and during a rotation (rotations.go): sqlrotate with lib/pq, with
//	           pgx behind database/sql and with pgxpool, a plain SetConnMaxLifetime flip over
//	           lib/pq, and pgxpool with BeforeConnect and Reset, in turn, under the same loads
//	race       the stories of a rotation (race.go): to each of them, and to others, what
//	           happens around one, and how they come through it
//	fleet      the logins of many processes that are rotated at once, counted at the server,
//	           and of many more in simulation (fleet.go)
//	tenants    many pools, and many sources, in one process (tenants.go)
//	drains     what the drain of many connections costs the process (scale.go)
//
// It prints Markdown. There is nothing to pass or fail: figures are for reading.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	had, err := beChild()
	if !had {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = run(ctx, os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures what the arguments say.
func run(ctx context.Context, args []string) error {
	all := measurements()
	if len(args) == 0 || all[args[0]] == nil {
		return fmt.Errorf("what is to be measured? %s", strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	flags := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	measure := all[args[0]](flags)
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s is no flag of %s", flags.Arg(0), args[0])
	}
	if out := flags.Lookup("out"); out != nil && out.Value.String() != "" { // before it is needed, a quarter of an hour later
		if err := os.MkdirAll(out.Value.String(), 0o750); err != nil { //nolint:gosec // the user says where
			return err
		}
	}
	return measure(ctx)
}

// measurements are what can be measured, by their names: each defines its flags, and returns
// what is to be done once they are known.
func measurements() map[string]func(*flag.FlagSet) func(context.Context) error {
	const (
		outUse = "the `directory` for the results and charts; else they are printed and not drawn"
		whoUse = "only those whose names hold this `text`; or those with these names, divided by semicolons"
	)
	return map[string]func(*flag.FlagSet) func(context.Context) error{
		"rotations": func(f *flag.FlagSet) func(context.Context) error {
			rounds := f.Int("rounds", 7, "rotations for each contender and load")
			drain := f.Duration("drain", briskly, "the DrainTime; the library's own for this window is two minutes")
			only := f.String("load", "", "one load only: think, saturated or long")
			who := f.String("contenders", "", whoUse)
			tls := f.Bool("tls", false, "with TLS (sslmode=verify-full)")
			return func(ctx context.Context) error {
				var names []string
				for _, l := range loads() {
					names = append(names, l.name)
				}
				if err := errors.Join(atLeast(1, *rounds, "-rounds"), atLeast(time.Second, *drain, "-drain"),
					oneOf(names, *only, "-load"), anyOf(contenders(), *who)); err != nil {
					return err
				}
				return rotations(ctx, *rounds, *drain, *only, *who, *tls)
			}
		},
		"race": func(f *flag.FlagSet) func(context.Context) error {
			told := f.String("story", "", "one story only: "+strings.Join(storyNames(), ", "))
			who := f.String("contenders", "", whoUse)
			out := f.String("out", "", outUse)
			return func(ctx context.Context) error {
				if err := errors.Join(oneOf(storyNames(), *told, "-story"), anyOf(racers(), *who)); err != nil {
					return err
				}
				return race(ctx, *told, *who, *out)
			}
		},
		"fleet": func(f *flag.FlagSet) func(context.Context) error {
			processes := f.Int("processes", 200, "how many processes")
			overlap := f.Duration("overlap", 90*time.Second, "how long the old login works on: a run takes three times as long, and some minutes")
			pods := f.Int("pods", 10_000, "how many pods are simulated")
			out := f.String("out", "", outUse)
			return func(ctx context.Context) error {
				if err := errors.Join(atLeast(1, *processes, "-processes"), atLeast(1, *pods, "-pods"), atLeast(30*time.Second, *overlap, "-overlap")); err != nil {
					return err
				}
				return runFleet(ctx, newFormation(*processes, *overlap), *pods, *out)
			}
		},
		"tenants": func(f *flag.FlagSet) func(context.Context) error {
			which := f.String("only", "", "only those whose names hold this `text`")
			out := f.String("out", "", outUse)
			return func(ctx context.Context) error {
				if !slices.ContainsFunc(sites(), func(s site) bool { return strings.Contains(s.Name, *which) }) {
					return fmt.Errorf("-only %q: no name holds it", *which)
				}
				return tenants(ctx, *which, *out)
			}
		},
		"drains": func(f *flag.FlagSet) func(context.Context) error {
			rounds := f.Int("rounds", 7, "drains for each figure")
			return func(ctx context.Context) error {
				if err := atLeast(1, *rounds, "-rounds"); err != nil {
					return err
				}
				return drains(ctx, *rounds)
			}
		},
	}
}

// atLeast says that a flag's value is too small.
func atLeast[T int | time.Duration](least, value T, flag string) error {
	if value < least {
		return fmt.Errorf("%s %v: at least %v is needed", flag, value, least)
	}
	return nil
}

// oneOf says that a flag names nothing that there is.
func oneOf(names []string, name, flag string) error {
	if name == "" || slices.Contains(names, name) {
		return nil
	}
	return fmt.Errorf("%s %q: there are %s", flag, name, strings.Join(names, ", "))
}

// anyOf says that who names none of the contenders.
func anyOf(all []contender, who string) error {
	if len(chosen(slices.Clone(all), who)) > 0 {
		return nil
	}
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	return fmt.Errorf("-contenders %q: there are %s", who, strings.Join(names, "; "))
}

// beChild does what this program is to do when it has started itself, which its only argument
// says; false if it hasn't.
func beChild() (had bool, err error) {
	if len(os.Args) != 2 {
		return false, nil
	}
	ctx := context.Background()
	switch os.Args[1] {
	case errandWord:
		return true, runErrand(ctx)
	case siteWord:
		return true, beSite(ctx)
	}
	return false, nil
}
