// Command bench measures what a rotation of the database login does to an
// application, on a PostgreSQL of its own.
//
// Without a flag that says otherwise it measures rotations (rotations.go): for sqlrotate with
// lib/pq, with pgx behind database/sql and with pgxpool, for a plain SetConnMaxLifetime flip
// over lib/pq, and for pgxpool with BeforeConnect and Reset, in turn, under the same loads.
// With -race it tells stories (race.go): to each of them, and to others, what happens around a
// rotation, and draws how they come through it. With -scale it measures what the drain of many
// connections costs the process (scale.go), with -tenants what many pools do in one
// (tenants.go). With -fleet it rotates the login of many processes at once, and counts their
// logins at the server (fleet.go).
//
// It prints Markdown. There is nothing to pass or fail: figures are for reading.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	if had, err := beChild(); had {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 7, "rotations for each contender and load")
	scale := flag.Bool("scale", false, "measure the cost of large drains instead")
	only := flag.String("load", "", "one load only: think, saturated or long")
	who := flag.String("contenders", "", "only those whose names hold this text; or those with these names, divided by semicolons")
	many := flag.Bool("tenants", false, "measure many pools, and many sources, in one process instead")
	tls := flag.Bool("tls", false, "rotations with TLS (sslmode=verify-full)")
	tell := flag.Bool("race", false, "tell each contender the stories of a rotation instead")
	told := flag.String("story", "", "with -race, one story only: "+strings.Join(storyNames(), ", "))
	crowd := flag.Bool("fleet", false, "rotate the login of many processes instead, and simulate many more")
	processes := flag.Int("processes", 200, "with -fleet, how many processes")
	overlap := flag.Duration("overlap", 90*time.Second, "with -fleet, how long the old login works on: a run takes three times as long, and some minutes")
	pods := flag.Int("pods", 10_000, "with -fleet, how many pods are simulated")
	out := flag.String("out", "", "with -race, -tenants or -fleet, the directory for the results and charts; else they are printed and not drawn")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	measure := func(ctx context.Context) error { return rotations(ctx, *rounds, *only, *who, *tls) }
	switch {
	case *many:
		measure = func(ctx context.Context) error { return tenants(ctx, *who, *out) }
	case *tell:
		measure = func(ctx context.Context) error { return race(ctx, *told, *who, *out) }
	case *crowd:
		measure = func(ctx context.Context) error { return runFleet(ctx, newFormation(*processes, *overlap), *pods, *out) }
	case *scale:
		measure = func(ctx context.Context) error { return drains(ctx, *rounds) }
	}
	var err error
	if *out != "" { // before it is needed, a quarter of an hour later
		err = os.MkdirAll(*out, 0o750)
	}
	if err == nil {
		err = measure(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
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
