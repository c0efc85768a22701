// The command check: what the library will do with a file, a DSN and a window.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

const checkUsage = `usage: sqlrotate check -credential PATH [-dsn DSN] [flags]

check says what the library will do with a credential, a DSN and a window, and
what is wrong with them: how the file is read, what it is mounted from, who can
read it, whether a login works and what its role may, what TLS verifies, and
whether the window's sum holds. Run it where the application runs, as its user.
Durations are those of the library: zero means its default.

It reads the file, logs in once, and changes nothing. With -watch, if nothing is
wrong, it then keeps a pool of two connections, and tells of each change until
it is interrupted.

The exit status is 1 if something is wrong, and 0 if not, or if there are
warnings only. With -watch it is 0 if a rotation was seen and went well.

flags:
`

// check is what the flags say.
type check struct {
	file       fileFlags
	credential string
	write      bool
	dsn        string
	pool       int
	probe      string
	json       bool

	window             sqlrotate.Window
	inPlace, tokens    bool
	retry, login       time.Duration
	drain, maxLifetime time.Duration

	watch, once bool
	lasting     time.Duration
}

func (c *check) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("sqlrotate check", flag.ContinueOnError)
	flags.StringVar(&c.credential, "credential", "", "the file, or the directory of key files, with the login")
	c.file.add(flags)
	flags.DurationVar(&c.file.Poll, "poll", 0, "how often the file is read without an event")
	flags.DurationVar(&c.file.Settle, "settle", 0, "how long what is written in place is left alone first")
	flags.BoolVar(&c.file.PollOnly, "poll-only", false, "leave the file system's events alone")
	flags.BoolVar(&c.write, "write", false, "make a file beside the credential, and remove it, to see\nwhether that is an event")
	flags.StringVar(&c.dsn, "dsn", "", "where the database is, without user name and password;\nempty means that it isn't asked")
	flags.IntVar(&c.pool, "pool", 0, "connections of the pool, or of the pools of all processes\nthat share the login; zero means that limits are only told")
	flags.StringVar(&c.probe, "probe-query", "", "a query that only a working credential can run")
	flags.DurationVar(&c.window.Overlap, "overlap", 0, "how long the old login works after the new one is\npublished; zero means that there is no window to check")
	flags.DurationVar(&c.window.Lag, "lag", 0, "longest from the publication until the file can be read")
	flags.DurationVar(&c.window.MaxInUse, "max-in-use", 0, "longest that a connection is in use")
	flags.BoolVar(&c.inPlace, "in-place", false, "the window of passwords that are changed in place")
	flags.BoolVar(&c.tokens, "login-tokens", false, "the window of tokens that are asked for at login only")
	flags.DurationVar(&c.retry, "retry-timeout", 0, "how long refused logins wait for another credential")
	flags.DurationVar(&c.drain, "drain-time", 0, "time over which old connections are replaced")
	flags.DurationVar(&c.maxLifetime, "conn-max-lifetime", 0, "longest that a connection may live")
	flags.DurationVar(&c.login, "login-timeout", 10*time.Second, "bound of the login")
	flags.BoolVar(&c.json, "json", false, "say it in JSON: one object, with a list of findings; with\n-watch, a line for each change as well")
	flags.BoolVar(&c.watch, "watch", false, "then follow it through a rotation")
	flags.DurationVar(&c.lasting, "for", 0, "how long -watch goes on; zero means until it is\ninterrupted")
	flags.BoolVar(&c.once, "once", false, "end -watch when a rotation is over")
	flags.SetOutput(io.Discard) // until somebody asks for its usage
	return flags
}

// parse reads the arguments. Its errors repeat none that may be a DSN.
func (c *check) parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if c.file.FileOptions, err = c.file.options(); err != nil {
		return err
	}
	return c.refuse(flags.NArg())
}

// refuse returns what can't be asked.
func (c *check) refuse(rest int) error {
	switch {
	case rest > 0:
		return errors.New("it takes flags only: put quotes around a DSN that has blanks")
	case c.credential == "":
		return errors.New("-credential is missing: the path of the login's file")
	case isContent(c.credential):
		return fmt.Errorf("-credential: %w", errContent)
	case c.pool < 0:
		return fmt.Errorf("-pool %d: zero or more", c.pool)
	case c.lasting < 0:
		return fmt.Errorf("-for %v: zero or more", c.lasting)
	case !c.watch && (c.once || c.lasting != 0):
		return errors.New("-for and -once are for -watch")
	}
	return c.refuseWindow()
}

func (c *check) refuseWindow() error {
	overlap := c.window != sqlrotate.Window{}
	switch {
	case c.inPlace && c.tokens || (c.inPlace || c.tokens) && overlap:
		return errors.New("-overlap, -in-place and -login-tokens: give one")
	case overlap && c.window.Overlap == 0:
		return errors.New("-lag and -max-in-use are parts of a window: give -overlap, too")
	case c.watch && c.tokens:
		return errors.New("-watch is of no use with -login-tokens")
	case c.watch && (c.dsn == "" || !c.windowed()):
		return errors.New("-watch needs -dsn, and a window: -overlap or -in-place")
	}
	return nil
}

// windowed reports whether a window was given.
func (c *check) windowed() bool { return c.inPlace || c.tokens || c.window.Overlap != 0 }

// config is what the application would build its connector from.
func (c *check) config() sqlrotate.Config {
	window := c.window
	switch {
	case c.inPlace:
		window = sqlrotate.InPlace()
	case c.tokens:
		window = sqlrotate.LoginTokens()
	}
	return sqlrotate.Config{
		Window: window, RetryTimeout: c.retry, LoginTimeout: c.login, ProbeQuery: c.probe, DrainTime: c.drain, ConnMaxLifetime: c.maxLifetime,
	}
}

func runCheck(ctx context.Context, s stdio, args []string) int {
	var c check
	flags := c.flags()
	if err := c.parse(flags, args); err != nil {
		return badUsage(s, flags, checkUsage, err)
	}
	facts, src := c.gather(ctx)
	if src != nil {
		defer src.Close()
	}
	found := judge(facts)
	if err := found.write(s.out, c.json); err != nil {
		return statusFailed
	}
	if !c.watch || found.worst() == levelFail {
		return found.status()
	}
	return c.follow(ctx, s, src)
}
