// Command sqlrotate is for who runs services with the package sqlrotate: "sqlrotate check"
// says what will become of a credential file, a DSN and a window, "sqlrotate parse" how a
// file is read, "sqlrotate drained" whether an old role may be revoked now, and "sqlrotate
// demo" shows the package at work: it runs three applications under load on a PostgreSQL of
// its own while their login is rotated.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// Exit statuses. Whoever is ended by a signal has 128 and its number, as in a shell.
const (
	statusOK     = 0
	statusFailed = 1
	statusUsage  = 2
)

// stdio is where a command writes.
type stdio struct{ out, err io.Writer }

// command is one of the things that this program does.
type command struct {
	name    string
	summary string
	run     func(ctx context.Context, s stdio, args []string) int
}

func commands() []command {
	return []command{
		{"check", "say what the library will do with a file, a DSN and a window", runCheck},
		{"parse", "say how a credential file is read", runParse},
		{"demo", "watch a database login being rotated under three applications", runDemo},
		{"drained", "wait until no session of a role is left, so that it may be revoked", runDrained},
		{"version", "print the version of this program", runVersion},
	}
}

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		signal.Reset() // the next one ends us at once
		cancel(interruption{s})
	}()
	// Without this, a write to a closed pipe ends us on the spot.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	status := run(ctx, stdio{os.Stdout, os.Stderr}, os.Args[1:])
	var by interruption
	if errors.As(context.Cause(ctx), &by) {
		status = by.status()
	}
	os.Exit(status)
}

// interruption is why a command was told to end early.
type interruption struct{ os.Signal }

func (i interruption) Error() string { return "interrupted: " + i.String() }

func (i interruption) status() int {
	if number, ok := i.Signal.(syscall.Signal); ok {
		return 128 + int(number)
	}
	return statusFailed
}

func run(ctx context.Context, s stdio, args []string) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "":
		usage(s.err)
		return statusUsage
	case "help", "-h", "-help", "--help":
		if len(args) == 0 {
			usage(s.out)
			return statusOK
		}
		name, args = args[0], []string{"-h"}
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(ctx, s, args)
		}
	}
	_, _ = fmt.Fprintf(s.err, "sqlrotate: there is no command %q\n\n", name)
	usage(s.err)
	return statusUsage
}

func usage(w io.Writer) {
	_, _ = fmt.Fprint(w, "usage: sqlrotate <command> [flags]\n\n")
	for _, c := range commands() {
		_, _ = fmt.Fprintf(w, "  %-10s %s\n", c.name, c.summary)
	}
	_, _ = fmt.Fprint(w, "\n\"sqlrotate help <command>\" lists the flags of a command.\n")
}

func runVersion(_ context.Context, s stdio, args []string) int {
	if len(args) > 0 {
		_, _ = fmt.Fprint(s.err, "usage: sqlrotate version\n")
		return statusUsage
	}
	info, _ := debug.ReadBuildInfo()
	_, _ = fmt.Fprintln(s.out, version(info))
	return statusOK
}

// version says what was built from what. Without build information, info is nil.
func version(info *debug.BuildInfo) string {
	built := fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if info == nil {
		return "sqlrotate, version unknown, " + built
	}
	text := "sqlrotate " + info.Main.Version
	if info.Main.Version == "" {
		text = "sqlrotate (devel)"
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	if revision := settings["vcs.revision"]; revision != "" {
		text += ", commit " + revision[:min(12, len(revision))]
		if settings["vcs.modified"] == "true" {
			text += " with changes"
		}
	}
	return text + ", " + built
}
