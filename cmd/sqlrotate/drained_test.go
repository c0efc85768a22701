package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// cluster is a server with a role that may ask, and others of which it asks.
type cluster struct {
	*pgtest.Server
	t    *testing.T
	file string // the login of "asker", which is in pg_monitor
}

const madeUp = "made-up-s3cret"

func newCluster(t *testing.T, server *pgtest.Server) *cluster {
	t.Helper()
	c := &cluster{Server: server, t: t}
	c.role("asker", "IN ROLE pg_monitor")
	c.file = c.login("asker")
	return c
}

func TestDrained(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "5"}})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"it waits for the last session", drainedWaits},
		{"it says who is left", notDrained},
		{"whoever doesn't see the sessions isn't told that there are none", drainedForWhom},
		{"a role that doesn't exist, or can't log in", drainedNobody},
		{"odd names", oddNames},
		{"sessions of other databases and prepared transactions", otherDatabases},
		{"a role that is dropped while it has sessions", droppedRole},
		{"one version of a login", oneVersion},
		{"the login of whoever asks", loginOfWhoeverAsks},
		{"a list of all", listed},
		{"a fleet that rotates", fleet},
		{"the command in docs/operate.md", documentedCommand},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newCluster(t, server)) })
	}
}

func (c *cluster) role(name string, options ...string) {
	c.t.Helper()
	if err := c.CreateRole(c.t.Context(), name, madeUp, options...); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_, _ = c.Admin().Exec("drop owned by " + pq.QuoteIdentifier(name) + "; drop role " + pq.QuoteIdentifier(name))
	})
}

// login writes a file with the login of a role.
func (c *cluster) login(role string) string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "login.json")
	content, err := json.Marshal(login{role, madeUp})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *cluster) exec(query string) {
	c.t.Helper()
	if _, err := c.Admin().ExecContext(c.t.Context(), query); err != nil {
		c.t.Fatal(err)
	}
}

// session opens a session of a role. Calling end ends it, and returns when the server knows.
func (c *cluster) session(role string, settings ...string) (conn *sql.Conn, end func()) {
	c.t.Helper()
	cfg, err := pq.NewConfig(c.DSN() + " " + strings.Join(settings, " "))
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.User, cfg.Password = role, madeUp
	connector, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	c.t.Cleanup(func() { _ = db.Close() })
	if conn, err = db.Conn(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	var pid int
	if err := conn.QueryRowContext(c.t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		c.t.Fatal(err)
	}
	return conn, func() {
		_ = conn.Close()
		_ = db.Close()
		eventually(c.t, "the session ends", func() bool {
			var there bool
			err := c.Admin().QueryRowContext(c.t.Context(), "select exists (select from pg_stat_activity where pid = $1)", pid).Scan(&there)
			return err == nil && !there
		})
	}
}

// ran is what a run of the command has come to.
type ran struct {
	status      int
	out, errout string
}

// drained runs the command as asker.
func (c *cluster) drained(args ...string) ran {
	c.t.Helper()
	return c.drainedAs(c.t.Context(), &transcript{}, append([]string{"-dsn", c.DSN(), "-credential", c.file}, args...)...)
}

func (c *cluster) drainedAs(ctx context.Context, errout *transcript, args ...string) ran {
	c.t.Helper()
	var out bytes.Buffer
	status := run(ctx, stdio{&out, errout}, append([]string{"drained"}, args...))
	r := ran{status, out.String(), errout.text.String()}
	if strings.Contains(r.out+r.errout, madeUp) {
		c.t.Errorf("the secret is in the output: %+v", r)
	}
	return r
}

// is fails unless the run had a status and said something.
func (r ran) is(t *testing.T, status int, says ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("exit status %d, want %d", r.status, status)
	}
	for _, text := range says {
		if !strings.Contains(r.out+r.errout, text) {
			t.Errorf("it doesn't say %q", text)
		}
	}
	if t.Failed() {
		t.Logf("it printed\n%s\nand said\n%s", r.out, r.errout)
	}
}

func drainedWaits(t *testing.T, c *cluster) {
	c.role("old")
	_, end := c.session("old", "application_name=billing")
	_, endOther := c.session("old")
	var said transcript
	done := make(chan ran)
	go func() {
		done <- c.drainedAs(t.Context(), &said, "-dsn", c.DSN(), "-credential", c.file, "-interval", "100ms", "-settle", "500ms", "-timeout", "1m", "old")
	}()
	saying := func(text string) {
		eventually(t, text, func() bool {
			said.mu.Lock()
			defer said.mu.Unlock()
			return strings.Contains(said.text.String(), text)
		})
	}
	saying(`"old": 2 sessions are left`)
	end()
	saying(`"old": 1 session is left`)
	endOther()
	(<-done).is(t, statusOK, `"old": no session is left`, `"old": drained. No session for `, "can still log in")
}

func notDrained(t *testing.T, c *cluster) {
	c.role("old")
	conn, _ := c.session("old", "application_name=billing")
	var pid int
	if err := conn.QueryRowContext(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	r := c.drained("old", "-timeout", "300ms", "-settle", "0", "-interval", "100ms")
	r.is(t, statusFailed, ": 1 session is left", fmt.Sprint(pid), `"billing"`, "127.0.0.1 ", " idle ", c.Database(), "SINCE", "AGE")

	var said report
	r = c.drained("old", "-timeout", "0", "-json")
	r.is(t, statusFailed)
	if err := json.Unmarshal([]byte(r.out), &said); err != nil {
		t.Fatal(err)
	}
	if len(said.Sessions) != 1 || said.Drained || !said.Exists || !said.CanLogin || said.Error != "" {
		t.Fatalf("%+v", said)
	}
	got := said.Sessions[0]
	if got.Age <= 0 || got.Age > 60 || time.Since(got.Start) > time.Minute {
		t.Errorf("it is %v s old, since %v", got.Age, got.Start)
	}
	got.Age, got.Start = 0, time.Time{}
	if want := (session{
		Server: fmt.Sprintf("%s:%d", c.Host(), c.Port()), PID: pid, Database: c.Database(), Application: "billing",
		Client: "127.0.0.1", State: "idle", Backend: "client backend",
	}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func drainedForWhom(t *testing.T, c *cluster) {
	c.role("old")
	c.role("plain")
	c.role("member", "IN ROLE old")
	c.role("stranger", "NOINHERIT IN ROLE old")
	for role, status := range map[string]int{"plain": statusUnknown, "stranger": statusUnknown, "member": statusOK, "asker": statusOK} {
		t.Run(role, func(t *testing.T) {
			c.t = t
			r := c.drainedAs(t.Context(), &transcript{}, "-dsn", c.DSN(), "-credential", c.login(role), "-timeout", "0", "-json", "old")
			r.is(t, status)
			if status == statusUnknown && (!strings.Contains(r.errout, "grant it pg_read_all_stats") || !strings.Contains(r.out, `"drained": false`) || !strings.Contains(r.out, `"error": "`)) {
				t.Errorf("%+v", r)
			}
		})
	}
	c.t = t
	ask := func(role string, args ...string) ran {
		return c.drainedAs(t.Context(), &transcript{}, append([]string{"-dsn", c.DSN(), "-credential", c.login(role), "-timeout", "0"}, args...)...)
	}
	ask("member", "gone").is(t, statusUnknown, "may not see")
	ask("old", "old").is(t, statusUnknown, "ask with another login")
	ask("old", "old", "-version", "3f2a9c01").is(t, statusUnknown, "ask with another login")
	ask("old", "old", "-before", "2026-01-02T03:04:05Z").is(t, statusOK)
	ask("old", "old", "-before", "2100-01-02T03:04:05Z").is(t, statusFailed, "sqlrotate drained")
}

func drainedNobody(t *testing.T, c *cluster) {
	c.role("Old")
	c.drained("gone", "-timeout", "0").is(t, statusOK, "no such role")
	c.drained("old", "-timeout", "0").is(t, statusUnknown, `no role "old", but there is "Old"`)
	c.drained(strings.Repeat("x", 64), "-timeout", "0").is(t, statusUnknown, "cuts it to 63")
	c.exec(`alter role "Old" nologin`)
	c.drained("Old", "-timeout", "0").is(t, statusOK, "can't log in (NOLOGIN)")
	c.exec(`alter role "Old" login valid until '2031-02-03 04:05:06Z'`)
	c.drained("Old", "-timeout", "0").is(t, statusOK, "until 2031-02-03T04:05:06Z")
	c.exec(`alter role "Old" valid until '2021-02-03 04:05:06Z'`)
	c.drained("Old", "-timeout", "0").is(t, statusOK, "its password ended at 2021-02-03T04:05:06Z")
	c.exec(`alter role "Old" valid until 'infinity'`)
	c.drained("Old", "-timeout", "0").is(t, statusOK, "can still log in")
}

func oddNames(t *testing.T, c *cluster) {
	for _, role := range []string{`quo"te's`, `back\slash`, "white space", "-timeout", "Größe", "$1", "%s", "a\nb", strings.Repeat("x", 63)} {
		c.role(role)
		c.drained("-timeout", "0", "--", role).is(t, statusOK, "still log in")
		_, end := c.session(role)
		c.drained("-timeout", "0", "--", role).is(t, statusFailed, "1 session is left")
		end()
	}
}

func otherDatabases(t *testing.T, c *cluster) {
	c.role("old")
	c.exec("create database other")
	t.Cleanup(func() { _, _ = c.Admin().Exec("drop database other with (force)") })
	_, end := c.session("old", "dbname=other")
	c.drained("old", "-timeout", "0").is(t, statusFailed, `"other"`)
	end()
	conn, end := c.session("old", "dbname=other")
	for _, query := range []string{"begin", "create temp table t (n int)", "drop table t", "rollback", "begin", "prepare transaction 'it''s left'"} {
		if _, err := conn.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	end()
	c.drained("old", "-timeout", "0").is(t, statusFailed, "prepared transactions: 1", `prepared transaction "it's left" in database "other"`)
	c.drained("old", "-timeout", "0", "-before", "2100-01-01T00:00:00Z").is(t, statusOK)
	conn, _ = c.session("old", "dbname=other")
	if _, err := conn.ExecContext(t.Context(), "rollback prepared 'it''s left'"); err != nil {
		t.Fatal(err)
	}
	c.drained("old", "-timeout", "0").is(t, statusFailed, "1 session is left.")
}

// After a role is dropped its sessions have no user name. They are known by the oid, if the
// wait began before, and else by the name of the version.
func droppedRole(t *testing.T, c *cluster) {
	c.role("old")
	c.session("old")
	tag := sqlrotate.ApplicationName("billing", sqlrotate.Credential{Username: "old"})
	_, end := c.session("old", "application_name='"+tag+"'")
	servers, done := c.servers(nil)
	defer done()
	d := drained{role: "old"}
	before, err := d.look(t.Context(), servers)
	if err != nil || !before.exists || before.left() != 2 {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := c.RevokeRole(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	after, err := d.look(t.Context(), servers)
	if err != nil || after.exists || after.left() != 2 || len(after.notes) != 0 {
		t.Errorf("%+v, %v", after, err)
	}
	c.drained("old", "-timeout", "0").is(t, statusFailed, "1 session is left", tag, "open sessions of dropped roles: 1")
	c.role("old") // another one, of the same name
	again, err := d.look(t.Context(), servers)
	if err != nil || !again.exists || again.left() != 2 {
		t.Errorf("%+v, %v", again, err)
	}
	c.exec("drop owned by old; drop role old")
	end()
	c.drained("old", "-timeout", "0").is(t, statusOK, "no such role", "open sessions of dropped roles: 1")
}

// servers returns what the command asks through.
func (c *cluster) servers(adjust func(*server)) ([]*server, func()) {
	c.t.Helper()
	d := drained{dsns: []string{c.DSN()}, credential: c.file}
	servers, end, err := d.open()
	if err != nil {
		c.t.Fatal(err)
	}
	if adjust != nil {
		adjust(servers[0])
	}
	return servers, end
}

// A password that was changed in place: the sessions that began before are the old one's,
// and so may be those that carry no version, if versions are asked for.
func oneVersion(t *testing.T, c *cluster) {
	c.role("app")
	name := func(version string) string {
		return sqlrotate.ApplicationName("billing", sqlrotate.Credential{Username: "app", Version: version})
	}
	_, end := c.session("app", "application_name='"+name("3")+"'")
	var changed time.Time
	if err := c.Admin().QueryRowContext(t.Context(), "select clock_timestamp()").Scan(&changed); err != nil {
		t.Fatal(err)
	}
	c.session("app", "application_name='"+name("4")+"'")
	_, old, _ := strings.Cut(name("3"), " ")
	before := changed.Format(time.RFC3339Nano)
	c.drained("app", "-timeout", "0").is(t, statusFailed, "2 sessions are left")
	c.drained("app", "-timeout", "0", "-version", old).is(t, statusFailed, "1 session is left", name("3"))
	c.drained("app", "-timeout", "0", "-before", before).is(t, statusFailed, "1 session is left", name("3"))
	end()
	c.drained("app", "-timeout", "0", "-version", old).is(t, statusOK, "version "+strings.TrimPrefix(old, "sqlrotate:"))
	c.drained("app", "-timeout", "0", "-before", before).is(t, statusOK)
	c.session("app", "application_name=unknown")
	c.drained("app", "-timeout", "0", "-version", old).is(t, statusFailed, `"unknown"`)
}

// What runs as a role without having logged in is told of, and doesn't keep it for ever;
// a session for replication has logged in.
func TestDrainedTellsSessionsFromOtherProcesses(t *testing.T) {
	c := newCluster(t, pgtest.New(t, pgtest.Options{Control: true, HBA: []string{"host all,replication all 127.0.0.1/32 scram-sha-256"}}))
	c.role("replica", "REPLICATION")
	_, end := c.session("replica", "replication=database", "binary_parameters=yes")
	defer end()
	c.drained("replica", "-timeout", "0").is(t, statusFailed, "walsender")
	var super string
	if err := c.Admin().QueryRowContext(t.Context(), "select current_user").Scan(&super); err != nil {
		t.Fatal(err)
	}
	servers, done := c.servers(nil)
	defer done()
	v, err := servers[0].look(t.Context(), super, nil)
	if err != nil || fmt.Sprint(v.background) != "[logical replication launcher]" || len(v.sessions) == 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// A connection that is lost is made again, also if the server is away for a while.
func TestDrainedOutlastsARestart(t *testing.T) {
	c := newCluster(t, pgtest.New(t, pgtest.Options{Control: true}))
	c.role("old")
	c.session("old")
	var said transcript
	done := make(chan ran)
	go func() {
		done <- c.drainedAs(t.Context(), &said, "-dsn", c.DSN(), "-credential", c.file, "-interval", "100ms", "-settle", "1s", "-timeout", "1m", "old")
	}()
	saying := func(text string) {
		eventually(t, text, func() bool {
			said.mu.Lock()
			defer said.mu.Unlock()
			return strings.Contains(said.text.String(), text)
		})
	}
	saying("1 session is left")
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	saying("it is asked again")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	(<-done).is(t, statusOK, "drained. No session for 1s")
}

func TestServerThatHangsOrIsNotThere(t *testing.T) {
	c := newCluster(t, pgtest.New(t, pgtest.Options{Control: true}))
	servers, end := c.servers(func(s *server) { s.limit = 300 * time.Millisecond })
	defer end()
	d := drained{role: "old"}
	if _, err := d.look(t.Context(), servers); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"a query", "a login"} {
		start := time.Now()
		_, err := d.look(t.Context(), servers)
		if err == nil || !strings.Contains(err.Error(), "no answer within 300ms") || time.Since(start) > 5*time.Second {
			t.Errorf("%s that hangs: after %v %v", what, time.Since(start), err)
		}
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.look(t.Context(), servers); err != nil {
		t.Error(err)
	}
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c.drained("old").is(t, statusUnknown, "connection refused")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v to say so", took)
	}
}

// The login comes from a file, or from where libpq has it, and not from the command line or
// the environment.
func loginOfWhoeverAsks(t *testing.T, c *cluster) {
	c.role("old")
	passfile := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(passfile, fmt.Appendf(nil, "*:*:*:asker:%s\n", madeUp), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) ran {
		return c.drainedAs(t.Context(), &transcript{}, append(args, "-timeout", "0", "old")...)
	}
	url := fmt.Sprintf("postgres://%s:%d/%s?sslmode=disable", c.Host(), c.Port(), c.Database())
	ask("-dsn", url, "-credential", c.file).is(t, statusOK)
	ask("-dsn", c.DSN()+" password="+madeUp, "-credential", c.file).is(t, statusUnknown, "the DSN or the service that it names has a password: remove it")
	ask("-dsn", "postgres://asker:"+madeUp+"@127.0.0.1/x", "-credential", c.file).is(t, statusUnknown, "has a password")
	ask("-dsn", c.DSN(), "-credential", passfile).is(t, statusOK)
	ask("-dsn", c.DSN(), "-credential", passfile+".none").is(t, statusUnknown, "no such file")
	ask("-dsn", c.DSN()+" user=asker passfile="+passfile).is(t, statusOK)
	ask("-dsn", "host=127.0.0.2,127.0.0.1 port="+fmt.Sprint(c.Port())+" sslmode=disable dbname="+c.Database(), "-credential", c.file).
		is(t, statusUnknown, "each look must be at the same server")

	t.Setenv("PGHOST", c.Host())
	t.Setenv("PGPORT", fmt.Sprint(c.Port()))
	t.Setenv("PGDATABASE", c.Database())
	t.Setenv("PGSSLMODE", "disable")
	t.Setenv("PGUSER", "asker")
	t.Setenv("PGPASSFILE", passfile)
	ask().is(t, statusOK)
	ask("-credential", c.file).is(t, statusOK)
	t.Setenv("PGPASSWORD", madeUp)
	ask().is(t, statusUnknown, "PGPASSWORD is set")
}

// Sessions of each server that is named count.
func TestDrainedOfSeveralServers(t *testing.T) {
	one := newCluster(t, pgtest.New(t, pgtest.Options{Control: true}))
	other := &cluster{Server: pgtest.New(t, pgtest.Options{Control: true}), t: t}
	other.role("asker", "IN ROLE pg_monitor")
	one.role("old")
	one.drained("-dsn", other.DSN(), "old", "-timeout", "0").is(t, statusOK, "servers without that role: 1 of 2")
	other.role("old")
	_, end := other.session("old")
	one.drained("-dsn", other.DSN(), "old", "-timeout", "0").is(t, statusFailed, fmt.Sprintf("%s:%d", other.Host(), other.Port()))
	end()
	if err := other.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	one.drained("-dsn", other.DSN(), "old", "-timeout", "0").is(t, statusUnknown, "connection refused")
}

func listed(t *testing.T, c *cluster) {
	c.role("app")
	c.role("plain")
	for _, version := range []string{"3", "3", "4"} {
		c.session("app", "application_name='"+sqlrotate.ApplicationName("billing", sqlrotate.Credential{Username: "app", Version: version})+"'")
	}
	c.session("app", "application_name=unknown")
	list := func(file string) (found map[string]versionSessions, r ran) {
		r = c.drainedAs(t.Context(), &transcript{}, "-dsn", c.DSN(), "-credential", file, "-list", "-json")
		r.is(t, statusOK)
		var all []versionSessions
		if err := json.Unmarshal([]byte(r.out), &all); err != nil {
			t.Fatal(err)
		}
		found = map[string]versionSessions{}
		for _, one := range all {
			if one.Role == "app" {
				found[one.Version] = one
			}
		}
		return found, r
	}
	version := func(version string) string {
		return strings.TrimPrefix(sqlrotate.ApplicationName("", sqlrotate.Credential{Username: "app", Version: version}), "sqlrotate:")
	}
	found, _ := list(c.file)
	for name, want := range map[string]int{version("3"): 2, version("4"): 1, "": 1} {
		if got := found[name]; got.Sessions != want || got.Oldest == nil || time.Since(*got.Oldest) > time.Minute || got.Clients != "127.0.0.1" {
			t.Errorf("%q: %+v", name, got)
		}
	}
	found, r := list(c.login("plain"))
	if got := found[version("3")]; got.Sessions != 2 || got.Oldest != nil || got.Clients != "" || !strings.Contains(r.errout, "pg_monitor only") {
		t.Errorf("%+v, %s", got, r.errout)
	}
	c.drained("-list").is(t, statusOK, "ROLE", version("4"))
}

// A session on a standby is seen only there.
func TestDrainedOfAStandby(t *testing.T) {
	primary := newCluster(t, pgtest.New(t, pgtest.Options{Control: true}))
	primary.role("old")
	server, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	standby := &cluster{Server: server, t: t}
	eventually(t, "the role is at the standby", func() bool {
		var there bool
		err := standby.Admin().QueryRowContext(t.Context(), "select exists (select from pg_roles where rolname = 'old')").Scan(&there)
		return err == nil && there
	})
	eventually(t, "the primary knows of the standby", func() bool {
		var known bool
		err := primary.Admin().QueryRowContext(t.Context(), "select exists (select from pg_stat_replication where state = 'streaming')").Scan(&known)
		return err == nil && known
	})
	_, end := standby.session("old")
	primary.drained("old", "-timeout", "0").is(t, statusOK, "standbys: 1, looked at: 0")
	r := primary.drained("old", "-timeout", "0", "-dsn", standby.DSN())
	r.is(t, statusFailed, "1 session is left", fmt.Sprintf("%s:%d", standby.Host(), standby.Port()))
	end()
	r = primary.drained("old", "-timeout", "0", "-dsn", standby.DSN())
	r.is(t, statusOK)
	if strings.Contains(r.out, "standbys") {
		t.Errorf("it has looked at all: %s", r.out)
	}
}

// Each process of a fleet reads the new login when it does, and the old role may go when the
// last has left it.
func fleet(t *testing.T, c *cluster) {
	c.role("old")
	c.role("new")
	var files []string
	for _, name := range []string{"billing", "orders", "reports"} {
		path := c.login("old")
		src, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Poll: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = src.Close() })
		opener, err := sqlrotate.LibPQ(c.DSN() + " application_name=" + name)
		if err != nil {
			t.Fatal(err)
		}
		connector, err := sqlrotate.New(sqlrotate.Config{
			Source: src, Opener: opener, TagVersion: true, DrainTime: -1, Logger: slog.New(slog.DiscardHandler),
			Window: sqlrotate.Window{Overlap: time.Minute, Lag: time.Second, MaxInUse: time.Second},
		})
		if err != nil {
			t.Fatal(err)
		}
		db := sqlrotate.OpenDB(connector)
		t.Cleanup(func() { _ = db.Close() })
		if err := db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	var said transcript
	done := make(chan ran)
	go func() {
		done <- c.drainedAs(t.Context(), &said, "-dsn", c.DSN(), "-credential", c.file, "-interval", "100ms", "-settle", "1s", "-timeout", "1m", "old")
	}()
	for i, path := range files {
		left := fmt.Sprintf(`"old": %d session`, len(files)-i)
		eventually(t, left, func() bool {
			said.mu.Lock()
			defer said.mu.Unlock()
			return strings.Contains(said.text.String(), left)
		})
		if err := os.Rename(c.login("new"), path); err != nil {
			t.Fatal(err)
		}
	}
	(<-done).is(t, statusOK, `"old": drained.`)
	if err := c.RevokeRole(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Sessions(t.Context(), "old"); err != nil || n != 0 {
		t.Errorf("%d sessions were left: %v", n, err)
	}
}

// documentedCommand runs what the docs have one type, by a shell.
func documentedCommand(t *testing.T, c *cluster) {
	text, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)\n```sh\n(sqlrotate drained.*?)```").FindStringSubmatch(strings.ReplaceAll(string(text), "\r\n", "\n"))
	if found == nil {
		t.Fatal("it is not there")
	}
	command := found[1]
	for was, is := range map[string]string{
		"host=db dbname=postgres sslmode=verify-full": c.DSN(), "/etc/rotator/login.json": c.file, "drained ": "drained -settle 100ms ",
	} {
		if !strings.Contains(command, was) {
			t.Fatalf("it has no %q", was)
		}
		command = strings.Replace(command, was, is, 1)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sqlrotate"), []byte("#!/bin/sh\nexec '"+program+"' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.role("app_2025")
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), asMain+"=main")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "app_2025 may be dropped") {
		t.Errorf("%v: %s", err, out)
	}
}

// The query in the docs is the one that -list runs.
func TestQueryIsAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	query := regexp.MustCompile("(?s)```sql\n(.*?)\n?```").FindStringSubmatch(strings.ReplaceAll(string(text), "\r\n", "\n"))
	if query == nil || strings.TrimSuffix(query[1], ";") != sessionsByVersion {
		t.Errorf("the docs have %q", query)
	}
}

func TestUsageOfDrained(t *testing.T) {
	for args, says := range map[string]string{
		"drained":                       "the name of one role",
		"drained a b":                   "the name of one role",
		"drained -list a":               "-list is about all roles",
		"drained a -version xyz":        "eight hexadecimal digits",
		"drained a -version 3f2a9c01aa": "eight hexadecimal digits",
		"drained a -before yesterday":   "cannot parse",
		"drained a -timeout 5s":         "-settle 10s does not fit into -timeout 5s",
		"drained a -timeout -5s":        "0 or more",
		"drained a -interval 1ms":       "from 100ms",
		"drained a -password x":         "not defined",
		"drained a -version 3f2a9c01 -before 2026-01-02T03:04:05Z": "not both",
	} {
		var out, errout bytes.Buffer
		ran{run(t.Context(), stdio{&out, &errout}, strings.Fields(args)), out.String(), errout.String()}.is(t, statusUsage, says)
	}
	var out, errout bytes.Buffer
	if status := run(t.Context(), stdio{&out, &errout}, []string{"drained", ""}); status != statusUsage {
		t.Errorf("without a name in $OLD: exit status %d", status)
	}
	if status := run(t.Context(), stdio{&out, &errout}, []string{"help", "drained"}); status != statusOK {
		t.Errorf("exit status %d", status)
	}
	narrow(t, out.String())
}

func TestSessionsSayWhatTheyAreFor(t *testing.T) {
	for dsn, want := range map[string]string{
		"":                                    "sqlrotate drained",
		"host=db":                             "sqlrotate drained",
		"host=db application_name=mine":       "mine",
		"fallback_application_name=mine":      "mine",
		"postgres://db":                       "sqlrotate drained",
		"postgres://db/app":                   "sqlrotate drained",
		"postgresql://db/app?sslmode=require": "sqlrotate drained",
		"postgres://db/app?application_name=mine": "mine",
	} {
		cfg, err := pq.NewConfig(named(dsn))
		if err != nil || cfg.ApplicationName != want {
			t.Errorf("%q: %q, %v", dsn, cfg.ApplicationName, err)
		}
	}
}

// act is what looks find, and until when.
type act struct {
	until time.Duration
	left  int
	err   error
}

func TestHowLongDrainedWaits(t *testing.T) {
	lost := errors.New("connection lost")
	for _, test := range []struct {
		name    string
		adjust  func(*drained)
		acts    []act
		drained bool
		waited  time.Duration
		quiet   time.Duration
		err     error
	}{
		{name: "nobody", acts: []act{{time.Hour, 0, nil}}, drained: true, waited: 10 * time.Second, quiet: 10 * time.Second},
		{name: "some leave", acts: []act{{30 * time.Second, 2, nil}, {time.Hour, 0, nil}}, drained: true, waited: 40 * time.Second, quiet: 10 * time.Second},
		{name: "one comes back", acts: []act{{5 * time.Second, 0, nil}, {6 * time.Second, 1, nil}, {time.Hour, 0, nil}}, drained: true, waited: 16 * time.Second, quiet: 10 * time.Second},
		{name: "some stay", acts: []act{{time.Hour, 2, nil}}, waited: 5 * time.Minute},
		{name: "it is quiet too late", acts: []act{{295 * time.Second, 2, nil}, {time.Hour, 0, nil}}, waited: 5 * time.Minute, quiet: 5 * time.Second},
		{name: "no connection at first", acts: []act{{time.Hour, 0, lost}}, err: lost},
		{name: "connection lost for a while", acts: []act{{5 * time.Second, 0, nil}, {20 * time.Second, 0, lost}, {time.Hour, 0, nil}}, drained: true, waited: 30 * time.Second, quiet: 10 * time.Second},
		{name: "connection lost at the end", acts: []act{{5 * time.Second, 1, nil}, {time.Hour, 0, lost}}, waited: 5 * time.Minute, err: lost},
		{name: "right lost", acts: []act{{5 * time.Second, 1, nil}, {time.Hour, 0, undecidable{lost}}}, waited: 5 * time.Second, err: lost},
		{name: "one look", adjust: func(d *drained) { d.timeout = 0 }, acts: []act{{time.Hour, 0, nil}}, drained: true},
		{name: "one look, and one is there", adjust: func(d *drained) { d.timeout = 0 }, acts: []act{{time.Hour, 1, nil}}},
		{name: "at once", adjust: func(d *drained) { d.settle = 0 }, acts: []act{{3 * time.Second, 1, nil}, {time.Hour, 0, nil}}, drained: true, waited: 3 * time.Second},
		{name: "seldom", adjust: func(d *drained) { d.interval = time.Hour }, acts: []act{{time.Minute, 1, nil}, {time.Hour, 0, nil}}, waited: 5 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := drained{role: "old", timeout: 5 * time.Minute, settle: 10 * time.Second, interval: time.Second}
				if test.adjust != nil {
					test.adjust(&d)
				}
				start := time.Now()
				f := d.wait(t.Context(), func(context.Context) (sight, error) {
					for _, a := range test.acts {
						if time.Since(start) < a.until {
							return sight{sessions: make([]session, a.left)}, a.err
						}
					}
					return sight{}, nil
				}, func(string) {})
				if f.drained != test.drained || f.waited != test.waited || f.quiet != test.quiet || !errors.Is(f.err, test.err) || (f.err == nil) != (test.err == nil) {
					t.Errorf("%+v", f)
				}
			})
		})
	}
}

func TestDrainedIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	d := drained{role: "old", timeout: time.Hour, settle: time.Minute, interval: time.Second}
	f := d.wait(ctx, func(context.Context) (sight, error) {
		cancel(interruption{os.Interrupt})
		return sight{}, nil
	}, func(string) {})
	if f.drained || f.err == nil || f.err.Error() != "interrupted: interrupt" {
		t.Errorf("%+v", f)
	}
}
