// May the old role be revoked now? It may when no session of it is left, and none comes.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/sqlrotate/sqlrotate"
)

// statusUnknown is the exit status when there is no answer, of whatever kind the trouble is.
const statusUnknown = statusUsage

const drainedUsage = `usage: sqlrotate drained [flags] ROLE
       sqlrotate drained -list [flags]

drained waits until no session of ROLE is left, and none has come back for
-settle. It asks the server that -dsn names, with the login that is in the file
-credential, in any format that the library reads. Without -credential the
login is looked for where psql looks for it, but for PGPASSWORD: a passfile, or
none, if the server trusts the system's user. Whoever asks must be in
pg_read_all_stats or pg_monitor, or in ROLE, and have another login than ROLE.

Sessions of all databases count, prepared transactions too. Sessions on a
standby are seen there only: give each server its -dsn. Sessions that a pooler
keeps are sessions.

exit status:
  0  no session is left: ROLE may be revoked
  1  some are left after -timeout, and are listed
  2  that could not be found out

flags:
`

// drained is what the command line says.
type drained struct {
	role                      string
	dsns                      []string
	credential                string
	version                   string
	before                    time.Time
	timeout, settle, interval time.Duration
	json, list                bool
}

func (d *drained) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("sqlrotate drained", flag.ContinueOnError)
	flags.Func("dsn", "where the server is, as a URL or in keywords, without a password;\nonce for each server", func(dsn string) error {
		d.dsns = append(d.dsns, dsn)
		return nil
	})
	flags.StringVar(&d.credential, "credential", "", "`file` or directory with the login of whoever asks")
	flags.StringVar(&d.version, "version", "", "wait for sessions of this version of the login only, as -list shows it,\nand for those that carry none")
	flags.Func("before", "wait for sessions only that began before this `time`, in RFC 3339: when a\npassword was changed in place", func(text string) (err error) {
		d.before, err = time.Parse(time.RFC3339, text)
		return err
	})
	flags.DurationVar(&d.timeout, "timeout", 5*time.Minute, "how long to wait; 0 looks once, and leaves -settle out")
	flags.DurationVar(&d.settle, "settle", 10*time.Second, "how long there must be no session")
	flags.DurationVar(&d.interval, "interval", time.Second, "how often to look")
	flags.BoolVar(&d.json, "json", false, "print one JSON object")
	flags.BoolVar(&d.list, "list", false, "list the sessions of all roles by version, and don't wait")
	flags.SetOutput(io.Discard) // until somebody asks for its usage
	return flags
}

// parse reads the command line. ROLE may stand before the flags as well.
func (d *drained) parse(args []string) error {
	flags := d.flags()
	var roles []string
	for {
		if err := flags.Parse(args); err != nil {
			return err
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		roles, args = append(roles, args[0]), args[1:]
	}
	if len(d.dsns) == 0 {
		d.dsns = []string{""}
	}
	switch {
	case d.list && len(roles) > 0:
		return fmt.Errorf("-list is about all roles, not %q", roles[0])
	case d.list:
		return nil
	case len(roles) != 1 || roles[0] == "":
		return errors.New("it takes the name of one role")
	}
	d.role, d.version = roles[0], strings.TrimPrefix(d.version, "sqlrotate:")
	return d.check()
}

// check refuses what can't be asked for.
func (d *drained) check() error {
	switch {
	case !utf8.ValidString(d.role):
		return fmt.Errorf("%q is not UTF-8", d.role)
	case d.version != "" && (len(d.version) != 8 || strings.Trim(d.version, "0123456789abcdef") != ""):
		return fmt.Errorf("-version %q: eight hexadecimal digits, as -list shows them", d.version)
	case d.version != "" && !d.before.IsZero():
		return errors.New("-version or -before, not both")
	case d.timeout < 0 || d.settle < 0:
		return errors.New("-timeout and -settle: 0 or more")
	case d.interval < 100*time.Millisecond:
		return fmt.Errorf("-interval %v: from 100ms", d.interval)
	case d.timeout > 0 && d.settle >= d.timeout:
		return fmt.Errorf("-settle %v does not fit into -timeout %v", d.settle, d.timeout)
	}
	return nil
}

func runDrained(ctx context.Context, s stdio, args []string) int {
	var d drained
	err := d.parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprint(s.out, drainedUsage)
		flags := d.flags()
		flags.SetOutput(s.out)
		flags.PrintDefaults()
		return statusOK
	case err != nil:
		_, _ = fmt.Fprintf(s.err, "sqlrotate drained: %v\n\"sqlrotate help drained\" lists the flags.\n", err)
		return statusUsage
	}
	servers, end, err := d.open() //nolint:contextcheck // reads the file at once, or not at all
	defer end()
	switch {
	case err != nil:
		return d.unknown(s, answer{err: err})
	case d.list:
		return d.runList(ctx, s, servers)
	}
	f := d.wait(ctx, func(ctx context.Context) (sight, error) { return d.look(ctx, servers) }, func(line string) {
		_, _ = fmt.Fprintln(s.err, line)
	})
	if f.err != nil {
		return d.unknown(s, f)
	}
	d.print(s.out, f)
	if !f.drained {
		return statusFailed
	}
	return statusOK
}

// open makes the servers. end closes them, whatever the error.
func (d *drained) open() (servers []*server, end func(), err error) {
	var source sqlrotate.Source
	var closers []io.Closer
	end = func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}
	if d.credential != "" {
		file, err := sqlrotate.NewFileSource(d.credential, sqlrotate.FileOptions{PollOnly: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, end, err
		}
		source, closers = file, append(closers, file)
	}
	for _, dsn := range d.dsns {
		server, err := newServer(dsn, source)
		if err != nil {
			return nil, end, err
		}
		servers, closers = append(servers, server), append(closers, server.db)
	}
	return servers, end, nil
}

// look looks at all servers once.
func (d *drained) look(ctx context.Context, servers []*server) (sight, error) {
	tags := []string{strings.TrimPrefix(sqlrotate.ApplicationName("", sqlrotate.Credential{Username: d.role}), "sqlrotate:")}
	if d.version != "" {
		tags = append(tags, d.version)
	}
	var views []view
	for _, server := range servers {
		v, err := server.look(ctx, d.role, tags)
		if err != nil {
			return sight{}, err
		}
		if v.asker == d.role && d.before.IsZero() {
			return sight{}, undecidable{fmt.Errorf("whoever asks has logged in as %q, and is a session of it: ask with another login", d.role)}
		}
		views = append(views, v)
	}
	return d.see(views), nil
}

// sight is what one look at all servers comes to.
type sight struct {
	exists     bool // on any
	canLogin   bool
	validUntil *time.Time
	sessions   []session
	prepared   []prepared
	notes      []string
}

func (s sight) left() int { return len(s.sessions) + len(s.prepared) }

// see makes one of what was seen of all servers.
func (d *drained) see(views []view) sight {
	var s sight
	var background []string
	standbys, looked, lacking, strangers := 0, 0, 0, 0
	for _, v := range views {
		if v.exists {
			s.exists, s.canLogin, s.validUntil = true, v.canLogin, v.validUntil
		} else {
			lacking++
		}
		for _, one := range v.sessions {
			if d.counts(one) {
				s.sessions = append(s.sessions, one)
			}
		}
		if d.version == "" && d.before.IsZero() { // else the role lives on
			s.prepared = append(s.prepared, v.prepared...)
		}
		background = append(background, v.background...)
		standbys, strangers = standbys+v.standbys, strangers+v.strangers
		if v.standby {
			looked++
		}
	}
	switch {
	case !s.exists && strangers > 0:
		s.notes = append(s.notes, fmt.Sprintf("open sessions of dropped roles: %d, and nothing says whose they were", strangers))
	case s.exists && lacking > 0:
		s.notes = append(s.notes, fmt.Sprintf("servers without that role: %d of %d", lacking, len(views)))
	}
	if len(background) > 0 {
		slices.Sort(background)
		s.notes = append(s.notes, "not counted, because it has not logged in, but runs as the role: "+strings.Join(slices.Compact(background), ", "))
	}
	if standbys > looked {
		s.notes = append(s.notes, fmt.Sprintf("standbys: %d, looked at: %d; sessions there are seen only there, with a -dsn for each", standbys, looked))
	}
	return s
}

// counts reports whether a session of the role is one that is waited for.
func (d *drained) counts(s session) bool {
	switch {
	case d.version != "":
		return s.Version == d.version || s.Version == ""
	case !d.before.IsZero():
		return s.Start.Before(d.before)
	}
	return true
}

// answer is what the wait has come to.
type answer struct {
	drained bool
	sight   sight         // the last one
	waited  time.Duration // all in all
	quiet   time.Duration // since there was no session last, without a break
	err     error         // why nothing can be said; nil if something can
}

// wait looks again and again until there is an answer, or the time is over. say tells how
// it goes.
func (d *drained) wait(ctx context.Context, look func(context.Context) (sight, error), say func(string)) answer {
	start := time.Now()
	w := waiting{drained: d, say: say, since: never, told: -1}
	for {
		s, err := look(ctx)
		if ctx.Err() != nil {
			err = undecidable{context.Cause(ctx)}
		}
		if w.saw(s, err, time.Since(start)) {
			return w.answer
		}
		pause(ctx, min(d.interval, d.timeout-w.answer.waited))
	}
}

// never is a time since the start of the wait that there has not been.
const never = time.Duration(-1)

// waiting is a wait.
type waiting struct {
	*drained
	answer answer
	say    func(string)
	since  time.Duration // when there was no session first, without a break
	seen   bool          // a look has succeeded
	told   int           // how many sessions were told of last
}

// saw notes what a look has come to, at a time since the start, and reports whether the wait
// is over. One that fails ends it if it is the first; after that, only if it is the last.
func (w *waiting) saw(s sight, err error, at time.Duration) (over bool) {
	f, before := &w.answer, w.answer.err
	f.waited, f.quiet, f.err = at, 0, err
	if err != nil {
		w.since, w.told = never, -1
		if !w.seen || errors.As(err, new(undecidable)) {
			return true
		}
		if before == nil || before.Error() != err.Error() {
			w.say(err.Error() + "; it is asked again")
		}
		return at >= w.timeout
	}
	f.sight, w.seen = s, true
	if s.left() != w.told {
		w.told = s.left()
		w.say(fmt.Sprintf("%s: %s", w.about(), amount(s)))
	}
	switch {
	case s.left() > 0:
		w.since = never
	case w.since == never:
		w.since = at
	}
	if w.since != never {
		f.quiet = at - w.since
		f.drained = f.quiet >= w.settle || w.timeout == 0
	}
	return f.drained || at >= w.timeout
}

// about says what is waited for.
func (d *drained) about() string {
	switch {
	case d.version != "":
		return fmt.Sprintf("%q, version %s", d.role, d.version)
	case !d.before.IsZero():
		return fmt.Sprintf("%q, before %s", d.role, d.before.Format(time.RFC3339))
	}
	return fmt.Sprintf("%q", d.role)
}

// amount says how much is left.
func amount(s sight) string {
	text := "no session is left"
	switch n := len(s.sessions); {
	case n == 1:
		text = "1 session is left"
	case n > 1:
		text = fmt.Sprintf("%d sessions are left", n)
	}
	if n := len(s.prepared); n > 0 {
		text += fmt.Sprintf(", and prepared transactions: %d", n)
	}
	return text
}

// report is what -json prints.
type report struct {
	Role       string     `json:"role"`
	Drained    bool       `json:"drained"`
	Error      string     `json:"error,omitempty"` // why nothing can be said
	Exists     bool       `json:"exists"`
	CanLogin   bool       `json:"can_login"`
	ValidUntil *time.Time `json:"valid_until,omitempty"`
	Waited     float64    `json:"waited_seconds"`
	Quiet      float64    `json:"quiet_seconds"`
	Sessions   []session  `json:"sessions"`
	Prepared   []prepared `json:"prepared_transactions"`
	Notes      []string   `json:"notes"`
}

func (d *drained) printJSON(w io.Writer, f answer) {
	r := report{
		Role: d.role, Drained: f.drained && f.err == nil,
		Exists: f.sight.exists, CanLogin: f.sight.canLogin, ValidUntil: f.sight.validUntil,
		Waited: f.waited.Seconds(), Quiet: f.quiet.Seconds(),
		Sessions: append([]session{}, f.sight.sessions...), Prepared: append([]prepared{}, f.sight.prepared...),
		Notes: append([]string{}, f.sight.notes...),
	}
	if f.err != nil {
		r.Error = f.err.Error()
	}
	printJSON(w, r)
}

func printJSON(w io.Writer, value any) {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value)
}

// unknown says that nothing can be said.
func (d *drained) unknown(s stdio, f answer) int {
	if d.json && !d.list {
		d.printJSON(s.out, f)
	}
	_, _ = fmt.Fprintf(s.err, "sqlrotate drained: %v\n", f.err)
	return statusUnknown
}

func (d *drained) print(w io.Writer, f answer) {
	if d.json {
		d.printJSON(w, f)
		return
	}
	second := func(d time.Duration) time.Duration { return d.Round(time.Second) }
	s := f.sight
	switch {
	case f.drained && !s.exists:
		_, _ = fmt.Fprintf(w, "%s: drained. There is no such role, and no session of it for %v.\n", d.about(), second(f.quiet))
	case f.drained:
		_, _ = fmt.Fprintf(w, "%s: drained. No session for %v.\n", d.about(), second(f.quiet))
	case s.left() == 0:
		_, _ = fmt.Fprintf(w, "%s: not drained after %v. No session is left, but for %v only, not yet for %v.\n", d.about(), second(f.waited), second(f.quiet), d.settle)
	default:
		_, _ = fmt.Fprintf(w, "%s: not drained after %v: %s.\n", d.about(), second(f.waited), amount(s))
	}
	printSessions(w, s.sessions)
	for _, p := range s.prepared {
		_, _ = fmt.Fprintf(w, "prepared transaction %q in database %q at %s, since %s\n", p.GID, p.Database, p.Server, p.Prepared.UTC().Format(time.RFC3339))
	}
	switch {
	case !s.exists:
	case !s.canLogin:
		_, _ = fmt.Fprintln(w, "note: the role can't log in (NOLOGIN)")
	case s.validUntil != nil && s.validUntil.Before(time.Now()):
		_, _ = fmt.Fprintf(w, "note: the role can still log in, but its password ended at %s\n", s.validUntil.UTC().Format(time.RFC3339))
	case s.validUntil != nil:
		_, _ = fmt.Fprintf(w, "note: the role can log in with a password until %s\n", s.validUntil.UTC().Format(time.RFC3339))
	default:
		_, _ = fmt.Fprintln(w, "note: the role can still log in")
	}
	for _, note := range s.notes {
		_, _ = fmt.Fprintf(w, "note: %s\n", note)
	}
}

func printSessions(w io.Writer, sessions []session) {
	if len(sessions) == 0 {
		return
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SERVER\tPID\tDATABASE\tAPPLICATION\tCLIENT\tSTATE\tSINCE\tAGE")
	for _, s := range sessions {
		state := s.State
		if s.Backend != "client backend" {
			state = strings.TrimSpace(s.Backend + " " + state)
		}
		client := s.Client
		if client == "" {
			client = "local"
		}
		_, _ = fmt.Fprintf(table, "%s\t%d\t%q\t%q\t%s\t%s\t%s\t%v\n", s.Server, s.PID, s.Database, s.Application, client, state,
			s.Start.UTC().Format(time.RFC3339), (time.Duration(s.Age) * time.Second))
	}
	_ = table.Flush()
}

// runList prints who is on which version.
func (d *drained) runList(ctx context.Context, s stdio, servers []*server) int {
	all := []versionSessions{}
	for _, server := range servers {
		found, hidden, err := server.list(ctx)
		if err != nil {
			return d.unknown(s, answer{err: err})
		}
		if hidden {
			_, _ = fmt.Fprintf(s.err, "note: %v shows the others' OLDEST and CLIENTS to members of pg_read_all_stats or pg_monitor only\n", server)
		}
		all = append(all, found...)
	}
	if d.json {
		printJSON(s.out, all)
		return statusOK
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SERVER\tROLE\tVERSION\tSESSIONS\tOLDEST\tCLIENTS")
	for _, one := range all {
		oldest := ""
		if one.Oldest != nil {
			oldest = one.Oldest.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(table, "%s\t%q\t%s\t%d\t%s\t%s\n", one.Server, one.Role, one.Version, one.Sessions, oldest, one.Clients)
	}
	_ = table.Flush()
	return statusOK
}
