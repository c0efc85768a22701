// PgBouncer between the application and the server: it says the same code for everything,
// and may accept logins by itself.

package integration

import (
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// bouncer is a PgBouncer in front of a server.
type bouncer struct {
	*process
	tb   testing.TB
	dir  string
	port int
}

// newBouncer starts one. byQuery says that it asks the server for passwords; else it has a
// file of them, and accepts logins by itself.
func newBouncer(d *database, mode string, byQuery bool) *bouncer {
	d.tb.Helper()
	dir, err := d.TempDir(d.tb.Context())
	if err != nil {
		d.tb.Fatal(err)
	}
	give(d.tb, dir)
	b := &bouncer{tb: d.tb, dir: dir, port: freePort(d.tb)}
	database, auth := "", ""
	users := map[string]string{"nobody": "of that name"}
	if byQuery {
		const user = "pgbouncer"
		if err := d.CreateRole(d.tb.Context(), user, "made-up"); err != nil {
			d.tb.Fatal(err)
		}
		for _, q := range []string{
			"create function app.lookup(n text) returns table(usename name, passwd text) language sql security definer as 'select usename, passwd from pg_catalog.pg_shadow where usename = $1'",
			"grant usage on schema app to pgbouncer",
		} {
			if _, err := d.Admin().ExecContext(d.tb.Context(), q); err != nil {
				d.tb.Fatal(err)
			}
		}
		users = map[string]string{user: "made-up"}
		database, auth = "auth_user="+user, "auth_query = SELECT usename, passwd FROM app.lookup($1)"
	}
	b.write("users", quoted(users))
	b.write("ini", fmt.Sprintf(`[databases]
%[1]s = host=127.0.0.1 port=%[2]d dbname=%[1]s %[3]s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[4]d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %[5]s/users
%[6]s
pool_mode = %[7]s
max_client_conn = 400
default_pool_size = 60
logfile = %[5]s/log
server_login_retry = 1
`, d.Database(), d.Port(), database, b.port, dir, auth, mode))
	args := []string{filepath.Join(dir, "ini")}
	if os.Geteuid() == 0 { // which it refuses to be
		args = append([]string{"-u", "postgres"}, args...)
	}
	b.process = start(d.tb, pgbouncer(d.tb), args...)
	d.tb.Cleanup(func() {
		if d.tb.Failed() {
			d.tb.Logf("PgBouncer: %s%s", b.output(), b.log())
		}
	})
	eventually(d.tb, 20*time.Second, "PgBouncer listens", func() bool {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return b
}

// pgbouncer returns the path of the program.
func pgbouncer(tb testing.TB) string {
	tb.Helper()
	for _, path := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	giveUp(tb, "no pgbouncer: internal/setup.sh pgbouncer installs it")
	return ""
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func (b *bouncer) write(name, content string) {
	b.tb.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		b.tb.Fatal(err)
	}
	give(b.tb, path+".new")
	if err := os.Rename(path+".new", path); err != nil {
		b.tb.Fatal(err)
	}
}

// give lets the user that PgBouncer runs as in root's place have a file.
func give(tb testing.TB, path string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		return
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		tb.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		tb.Fatal(err)
	}
}

func quoted(users map[string]string) string {
	var lines strings.Builder
	for name, password := range users {
		fmt.Fprintf(&lines, "%q %q\n", name, password)
	}
	return lines.String()
}

// knows has it take these logins from now on.
func (b *bouncer) knows(users map[string]string) {
	b.tb.Helper()
	b.write("users", quoted(users))
	b.reload()
}

// reload has it read its files again.
func (b *bouncer) reload() {
	b.tb.Helper()
	before := b.log()
	b.signal(syscall.SIGHUP)
	eventually(b.tb, 10*time.Second, "PgBouncer has read its files", func() bool {
		return strings.Contains(strings.TrimPrefix(b.log(), before), "re-reading")
	})
}

func (b *bouncer) log() string {
	log, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(log)
}

// dsn is the DSN of a database behind it.
func (b *bouncer) dsn(database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s sslmode=disable binary_parameters=yes", b.port, database)
}

// pooled is an application behind a pooler, with a file that this test writes.
type pooled struct {
	*app
	b     *bouncer
	path  string
	users map[string]string
}

func newPooled(t *testing.T, mode string, byQuery bool, adjust func(*sqlrotate.Config)) *pooled {
	t.Helper()
	d := &database{Server: pgtest.New(t, pgtest.Options{Control: true, MaxConnections: 200}), tb: t}
	if err := ledger.Create(t.Context(), d.Admin()); err != nil {
		t.Fatal(err)
	}
	p := &pooled{b: newBouncer(d, mode, byQuery), path: filepath.Join(t.TempDir(), "db.json"), users: map[string]string{}}
	p.create(d, "app_1", byQuery)
	p.publish("app_1")
	log := &logbook{}
	source, err := sqlrotate.NewFileSource(p.path, sqlrotate.FileOptions{Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	opener, err := sqlrotate.LibPQ(p.b.dsn(d.Database()))
	if err != nil {
		t.Fatal(err)
	}
	cfg := sqlrotate.Config{
		Source: source, Opener: opener, Logger: log.logger(), DrainTime: 3 * time.Second,
		Window: sqlrotate.Window{Overlap: 30 * time.Second, Lag: time.Second, MaxInUse: 2 * time.Second},
	}
	if adjust != nil {
		adjust(&cfg)
	}
	p.app = startApp(d, log, cfg)
	return p
}

// create makes a role that the server knows, and the pooler, if it has a file.
func (p *pooled) create(d *database, name string, byQuery bool) {
	d.tb.Helper()
	if err := d.CreateRole(d.tb.Context(), name, "made-up-"+name); err != nil {
		d.tb.Fatal(err)
	}
	if !byQuery {
		p.announce(name)
	}
}

// announce tells the pooler of a login.
func (p *pooled) announce(name string) {
	p.users[name] = "made-up-" + name
	p.b.knows(p.users)
}

// publish writes a login to the application's file.
func (p *pooled) publish(name string) {
	p.b.tb.Helper()
	content := fmt.Sprintf(`{"username": %q, "password": %q}`, name, "made-up-"+name)
	if err := os.WriteFile(p.path+".new", []byte(content), 0o600); err != nil {
		p.b.tb.Fatal(err)
	}
	if err := os.Rename(p.path+".new", p.path); err != nil {
		p.b.tb.Fatal(err)
	}
}

// only waits until no connection of an older login is left.
func (p *pooled) only(limit time.Duration) time.Duration {
	p.Helper()
	return eventually(p, limit, "no connection of an older login is left", func() bool {
		versions := p.c.Stats().Versions
		open := 0
		for _, v := range versions[1:] {
			open += v.Open
		}
		return open == 0 && versions[0].Proven
	})
}

// Rotations behind a pooler fail nothing. When the server behind it is down the pooler says
// 08P01, as for a wrong password: the service is back as soon as the server is, and health
// doesn't blame the credential for certain.
func TestServerBehindAPoolerGoesAway(t *testing.T) {
	t.Attr("needs", "quiet")
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			p := newPooled(t, mode, true, nil)
			p.more(200)
			for _, name := range []string{"app_2", "app_3"} {
				p.create(p.d, name, true)
				p.publish(name)
				eventually(t, 10*time.Second, "the new login is read", func() bool { return p.c.Stats().Versions[0].Username == name })
				p.only(20 * time.Second)
			}
			p.more(200)
			if failures := p.ledger.Failures(); len(failures) > 0 {
				p.meter.Blame(failures[0].From.Add(-time.Second), failures[0].To, p.bearable(), "%d operations failed in rotations: %v", len(failures), failures[0].Err)
			}
			if err := p.d.Stop(pgtest.Fast); err != nil {
				t.Fatal(err)
			}
			time.Sleep(25 * time.Second)
			// The pooler may keep the first login waiting for LoginTimeout, which is 30 s.
			var health error
			eventually(t, 90*time.Second, "health says that it may be the pooler", func() bool {
				health = p.c.CheckHealth()
				return health != nil && strings.Contains(health.Error(), "pooler")
			})
			if err := p.d.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			up := time.Now()
			good := p.ledger.Done() - len(p.ledger.Failures())
			took := eventually(t, 60*time.Second, "operations succeed again", func() bool {
				return p.ledger.Done()-len(p.ledger.Failures()) > good+100
			})
			t.Logf("operations succeed %v after the server is back; health said: %v", took.Round(time.Millisecond), health)
			if took > 5*time.Second {
				p.meter.Blame(up, up.Add(took), p.bearable(), "operations succeed only %v after the server is back", took)
			}
			p.whole(30 * time.Second)
			p.finish()
		})
	}
}

// A credential that has never worked is not waited for when the pooler's no may mean
// anything, such as a database that it doesn't know.
func TestDatabaseThatAPoolerDoesNotKnow(t *testing.T) {
	p := newPooled(t, "session", true, nil)
	p.ledger.Stop()
	opener, err := sqlrotate.LibPQ(p.b.dsn("no_such_database"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := sqlrotate.New(sqlrotate.Config{Source: p.source, Opener: opener, Window: p.window, Logger: p.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	defer func() { _ = db.Close() }()
	start := time.Now()
	err = db.PingContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "08P01") {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(start); took > 10*time.Second { // RetryTimeout is 30 s
		t.Errorf("it took %v to say so", took)
	}
}

// PgBouncer normalises passwords as PostgreSQL does, and has a code of its own for those that
// lib/pq doesn't.
func TestPasswordThatAPoolerNormalises(t *testing.T) {
	d := &database{Server: pgtest.New(t, pgtest.Options{Control: true}), tb: t}
	b := newBouncer(d, "session", true)
	opener, err := sqlrotate.LibPQ(b.dsn(d.Database()))
	if err != nil {
		t.Fatal(err)
	}
	for user, password := range map[string]string{"composed": "p\u00e4ss", "combining": "pa\u0308ss"} {
		if err := d.CreateRole(t.Context(), user, password); err != nil {
			t.Fatal(err)
		}
		c, err := sqlrotate.New(sqlrotate.Config{
			Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: user, Password: sqlrotate.NewSecret(password)}),
			Opener: opener, Window: sqlrotate.InPlace(), RetryTimeout: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		db := sqlrotate.OpenDB(c)
		err = db.PingContext(t.Context())
		if said := err != nil && strings.Contains(err.Error(), "PostgreSQL normalises for SCRAM and lib/pq does not"); said != (user == "combining") {
			t.Errorf("%s: %v", user, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A listener needs a session of its own at the server: a pooler keeps one for it, or it says
// that nothing arrives.
func TestListenerBehindAPooler(t *testing.T) {
	for mode, listens := range map[string]bool{"session": true, "transaction": false} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPooled(t, mode, true, nil)
			p.ledger.Stop()
			l, err := sqlrotate.NewListener(p.c, sqlrotate.ListenerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			switch err = l.Listen(t.Context(), "jobs"); {
			case listens && err != nil, !listens && (err == nil || !strings.Contains(err.Error(), "pooler")):
				t.Errorf("Listen: %v", err)
			case listens:
				if _, err := p.d.Admin().ExecContext(t.Context(), "notify jobs, 'one'"); err != nil {
					t.Fatal(err)
				}
				if n, err := l.Next(t.Context()); err != nil || n.Payload != "one" {
					t.Errorf("%+v, %v", n, err)
				}
			}
		})
	}
}

// A pooler that has the passwords itself accepts logins whose role the server doesn't have.
// With a probe query a login that is published too early fails nothing, and an old role
// that is dropped early is noticed all the same: the question runs a query.
func TestPoolerThatAcceptsLoginsByItself(t *testing.T) {
	t.Attr("needs", "quiet")
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			p := newPooled(t, mode, false, func(cfg *sqlrotate.Config) { cfg.ProbeQuery = "select 1" })
			p.more(200)
			p.announce("app_2")
			p.publish("app_2")
			eventually(t, 10*time.Second, "the new login is tried", func() bool { return p.c.Stats().Refused > 0 })
			p.more(100)
			p.create(p.d, "app_2", false)
			p.only(30 * time.Second)
			p.more(200)
			if failures := p.ledger.Failures(); len(failures) > 0 {
				p.meter.Blame(failures[0].From.Add(-time.Second), failures[0].To, p.bearable(), "%d operations failed: %v", len(failures), failures[0].Err)
			}
			p.create(p.d, "app_3", false)
			p.publish("app_3")
			eventually(t, 10*time.Second, "the new login is accepted", func() bool {
				v := p.c.Stats().Versions[0]
				return v.Username == "app_3" && v.Proven
			})
			dropped := time.Now()
			if err := p.d.RevokeRole(t.Context(), "app_2"); err != nil {
				t.Fatal(err)
			}
			took := p.only(30 * time.Second)
			t.Logf("the dropped role is left after %v", took.Round(time.Millisecond))
			if took > 12*time.Second { // DrainTime, and a question that hangs
				p.meter.Blame(dropped, dropped.Add(took), p.bearable(), "the dropped role is left only after %v", took)
			}
			p.whole(30 * time.Second)
			p.finish()
		})
	}
}

// A session of the server's has the name of the version of the client that it works for, also
// if the pooler adds something.
func TestNameOfTheVersionThroughAPooler(t *testing.T) {
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			d := &database{Server: pgtest.New(t, pgtest.Options{Control: true}), tb: t}
			if err := d.CreateRole(t.Context(), "app", "made-up"); err != nil {
				t.Fatal(err)
			}
			b := newBouncer(d, mode, false)
			b.knows(map[string]string{"app": "made-up"})
			ask := func(want string, pools ...*sql.DB) {
				t.Helper()
				pids := map[int]bool{}
				for n := range 6 {
					var got string
					var pid int
					err := pools[n%len(pools)].QueryRowContext(t.Context(), "select application_name, pid from pg_stat_activity where pid = pg_backend_pid()").Scan(&got, &pid)
					if err != nil {
						t.Fatal(err)
					}
					pids[pid] = true
					if want := fmt.Sprintf(want, n%len(pools)); !strings.HasPrefix(got, want) {
						t.Errorf("%q, want %q", got, want)
					}
				}
				if shared := len(pids) == 1; shared != (mode == "transaction") {
					t.Errorf("the two share a session: %v", shared)
				}
			}
			var pools []*sql.DB
			open := func(name string) *sql.DB {
				opener, err := sqlrotate.LibPQ(b.dsn(d.Database()) + " application_name=" + name)
				if err != nil {
					t.Fatal(err)
				}
				c, err := sqlrotate.New(sqlrotate.Config{
					Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("made-up"), Version: "3"}),
					Opener: opener, Window: sqlrotate.InPlace(), TagVersion: true,
				})
				if err != nil {
					t.Fatal(err)
				}
				db := sqlrotate.OpenDB(c)
				t.Cleanup(func() { _ = db.Close() })
				pools = append(pools, db)
				return db
			}
			tag := sqlrotate.ApplicationName("", sqlrotate.Credential{Username: "app", Version: "3"})
			ask("billing%d "+tag, open("billing0"), open("billing1"))

			// What the pooler keeps is the old role's, with the name of the last in transactions.
			for _, db := range pools {
				_ = db.Close()
			}
			kept := map[string]string{"session": "", "transaction": "billing1 " + tag}[mode]
			eventually(t, 10*time.Second, "the pooler keeps a session of that name", func() bool {
				var all, named int
				err := d.Admin().QueryRowContext(t.Context(), "select count(*), count(*) filter (where application_name = $1) from pg_stat_activity where usename = 'app'", kept).Scan(&all, &named)
				return err == nil && all > 0 && named == all
			})

			ini, err := os.ReadFile(filepath.Join(b.dir, "ini"))
			if err != nil {
				t.Fatal(err)
			}
			b.write("ini", string(ini)+"application_name_add_host = 1\n")
			b.reload()
			ask("hosted%d "+tag+" - 127.0.0.1:", open("hosted0"), open("hosted1"))
		})
	}
}

// A session that a pooler keeps is one of the role's, whether the server is asked or the
// pooler.
func TestDrainedCountsWhatAPoolerKeeps(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sqlrotate")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/sqlrotate")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "login.json")
	if err := os.WriteFile(file, []byte(`{"username": "watcher", "password": "made-up"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			d := &database{Server: pgtest.New(t, pgtest.Options{Control: true}), tb: t}
			b := newBouncer(d, mode, false)
			users := map[string]string{}
			for role, option := range map[string]string{"app": "", "watcher": "IN ROLE pg_monitor"} {
				if err := d.CreateRole(t.Context(), role, "made-up", option); err != nil {
					t.Fatal(err)
				}
				users[role] = "made-up"
			}
			b.knows(users)
			opener, err := sqlrotate.LibPQ(b.dsn(d.Database()))
			if err != nil {
				t.Fatal(err)
			}
			c, err := sqlrotate.New(sqlrotate.Config{
				Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("made-up")}),
				Opener: opener, Window: sqlrotate.InPlace(),
			})
			if err != nil {
				t.Fatal(err)
			}
			db := sqlrotate.OpenDB(c)
			if err := db.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			ask := func(status int, timeout, says string) {
				t.Helper()
				for _, dsn := range []string{d.DSN(), b.dsn(d.Database())} {
					cmd := exec.CommandContext(t.Context(), program, "drained", "-dsn", dsn, "-credential", file, "-timeout", timeout, "-settle", "1s", "app")
					out, _ := cmd.CombinedOutput()
					if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(string(out), says) {
						t.Errorf("%s: exit status %d, want %d: %s", dsn, got, status, out)
					}
				}
			}
			ask(1, "2s", "1 session is left")
			if _, err := d.Terminate(t.Context(), "app"); err != nil {
				t.Fatal(err)
			}
			ask(0, "30s", "drained. No session for 1s")
		})
	}
}
