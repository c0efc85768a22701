// Sidecar is both halves of a pod: `sidecar agent PATH` writes each line that it reads
// to a file, as a secrets agent does, and `sidecar app PATH DSN` works on a database
// with the login in that file, and says four times a second how that goes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "agent":
		return agent(args[1])
	case len(args) == 3 && args[0] == "app":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return app(ctx, args[1], args[2])
	}
	return errors.New("usage: sidecar agent PATH | sidecar app PATH DSN")
}

func agent(path string) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := os.WriteFile(path+".tmp", lines.Bytes(), 0o600); err != nil { //nolint:gosec // a path that is an argument is the point
			return err
		}
		if err := os.Rename(path+".tmp", path); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return lines.Err()
}

// Report is a line of the application's output.
type Report struct {
	Done     int
	Slowest  time.Duration
	Failures []Failure // since the last report
	Username string    // of the login in use
	Proven   bool
	Seen     time.Time // when that was first read
	Told     string    // the last login that an event has told of, and when
	ToldAt   time.Time
	Healthy  string // empty: yes
	Outlived uint64
	Books    string // when all is done: "kept", or what is wrong with them
}

// Failure is an operation that failed.
type Failure struct {
	From, To time.Time
	Err      string
}

func app(ctx context.Context, path, dsn string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	source, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{WaitFor: time.Minute, Logger: log}) //nolint:contextcheck // Close ends it
	if err != nil {
		return err
	}
	defer source.Close()
	// Nobody logs in through this one and it hardly polls: what it knows, it knows
	// from events.
	told, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Poll: time.Hour, Logger: log}) //nolint:contextcheck // as above
	if err != nil {
		return err
	}
	defer told.Close()
	opener, err := sqlrotate.LibPQ(dsn)
	if err != nil {
		return err
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: source, Opener: opener, Logger: log,
		Window: sqlrotate.Window{Overlap: 12 * time.Second, Lag: time.Second, MaxInUse: time.Second},
	})
	if err != nil {
		return err
	}
	db := sqlrotate.OpenDB(c)
	defer db.Close()
	db.SetMaxOpenConns(10)
	db.SetMaxIdleConns(10)
	work := ledger.Start(db, ledger.Options{Workers: 10, Think: 5 * time.Millisecond}) //nolint:contextcheck // Stop ends it

	out := json.NewEncoder(os.Stdout)
	reported := 0
	report := func(books string) error {
		heard := told.Status()
		r := Report{Done: work.Done(), Slowest: work.Slowest(), Told: heard.Username, ToldAt: heard.LoadedAt, Books: books}
		failures := work.Failures()
		for _, f := range failures[reported:] {
			r.Failures = append(r.Failures, Failure{f.From, f.To, f.Err.Error()})
		}
		reported = len(failures)
		if err := c.CheckHealth(); err != nil {
			r.Healthy = err.Error()
		}
		stats := c.Stats()
		r.Outlived = stats.Outlived
		if len(stats.Versions) > 0 {
			v := stats.Versions[0]
			r.Username, r.Proven, r.Seen = v.Username, v.Proven, v.SeenAt
		}
		return out.Encode(r)
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := report(""); err != nil {
				return err
			}
		case <-ctx.Done():
			work.Stop()
			books := "kept"
			if err := work.Audit(context.WithoutCancel(ctx), db); err != nil {
				books = err.Error()
			}
			return report(books)
		}
	}
}
