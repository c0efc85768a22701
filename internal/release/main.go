// Release looks after what is published: the modules of this repository that are for
// users, all of one version.
//
//	release fetch      fetch the checkout's modules as users do, and build what README shows
//	release versions   write the version that CHANGELOG.md names to each go.mod and go.sum
//	release rehearse   release what is committed, in a clone, and fetch that
//
// RELEASING.md says when which of them is run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	dir := flag.String("C", ".", "the top `directory` of the checkout")
	flag.Usage = func() {
		_, _ = fmt.Fprintln(flag.CommandLine.Output(), "usage: release [-C directory] fetch|versions|rehearse")
		flag.PrintDefaults()
	}
	flag.Parse()

	commands := map[string]func(context.Context, *checkout) error{
		"fetch": fetch, "versions": writeVersions, "rehearse": rehearse,
	}
	command := commands[flag.Arg(0)]
	if command == nil || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *dir, command); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		stop()
		os.Exit(1)
	}
}

// run runs a command on the checkout in dir, and says how long it took.
func run(ctx context.Context, dir string, command func(context.Context, *checkout) error) error {
	began := time.Now()
	c, err := open(ctx, dir)
	if err != nil {
		return err
	}
	c.log = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	if err := command(ctx, c); err != nil {
		return err
	}
	c.log("%s: %.1f s", c.version, time.Since(began).Seconds())
	return nil
}
