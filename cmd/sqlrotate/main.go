// Command sqlrotate shows the sqlrotate package at work: "sqlrotate demo" runs an
// application under load on a PostgreSQL of its own while its login is rotated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `usage: sqlrotate demo [flags]

demo starts a throwaway PostgreSQL, an agent that creates a new role again and
again, publishes it in a file and drops the one before when the overlap ends, and
an application that queries all the time. The exit status is 1 if a query failed
or a session outlived its role.

flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("sqlrotate demo", flag.ContinueOnError)
	var d demo
	flags.DurationVar(&d.duration, "duration", 60*time.Second, "how long the application runs")
	flags.DurationVar(&d.every, "every", 2*time.Second, "how often the login is rotated")
	flags.DurationVar(&d.overlap, "overlap", 4*time.Second, "how long the old login outlives the new one's publication")
	flags.IntVar(&d.connections, "connections", 20, "size of the pool")
	flags.IntVar(&d.workers, "workers", 20, "goroutines that query")
	flags.BoolVar(&d.compare, "compare", false, "then run the same through plain lib/pq, with the password fixed at start")
	flags.Usage = func() {
		_, _ = fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if len(args) == 0 || args[0] != "demo" {
		flags.Usage()
		return 2
	}
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		flags.Usage()
		return 2
	}
	ok, err := d.run(ctx)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	case !ok:
		return 1
	}
	return 0
}
