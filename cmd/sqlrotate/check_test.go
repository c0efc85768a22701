package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// site is what check is asked about. A test makes it healthy, and then breaks one thing.
type site struct {
	server         *pgtest.Server // nil: none
	dir, path      string
	user, password string
	dsn            string
	window         []string
	pool           int
	flags          []string // further ones
	secrets        []string // what must not be printed
}

// healthy makes a site in which nothing is wrong.
func healthy(t *testing.T, server *pgtest.Server) *site {
	t.Helper()
	s := &site{
		server: server, dir: t.TempDir(), user: "check_" + strings.ToLower(rand.Text()[:8]), password: "s3cr3t" + rand.Text(),
		window: []string{"-overlap", "10m"}, pool: 5,
	}
	s.secrets = []string{s.password}
	s.path = filepath.Join(s.dir, "login")
	s.content(t, fmt.Sprintf(`{"username":%q,"password":%q}`, s.user, s.password))
	if server != nil {
		s.dsn = server.DSN()
		if err := server.CreateRole(t.Context(), s.user, s.password); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.RevokeRole(context.Background(), s.user) }) // it may be gone
	}
	return s
}

// alter changes the role.
func (s *site) alter(t *testing.T, options string) {
	t.Helper()
	s.admin(t, "alter role "+s.user+" "+options)
}

func (s *site) admin(t *testing.T, statement string) {
	t.Helper()
	if _, err := s.server.Admin().ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// database makes another database with the role's privileges, and names it in the DSN.
func (s *site) database(t *testing.T, options string) string {
	t.Helper()
	name := "check_" + strings.ToLower(rand.Text()[:8])
	s.admin(t, "create database "+name+" "+options)
	t.Cleanup(func() {
		_, _ = s.server.Admin().ExecContext(context.Background(), "drop database "+name+" with (force)")
	})
	s.dsn += " dbname=" + name
	return name
}

func (s *site) content(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// volume puts the login into a directory as the kubelet does.
func (s *site) volume(t *testing.T) {
	t.Helper()
	s.path = filepath.Join(s.dir, "volume")
	version := filepath.Join(s.path, "..2026_11_26")
	if err := os.MkdirAll(version, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"username": s.user, "password": s.password} {
		if err := os.WriteFile(filepath.Join(version, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/"+name, filepath.Join(s.path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..2026_11_26", filepath.Join(s.path, "..data")); err != nil {
		t.Fatal(err)
	}
}

func (s *site) args() []string {
	args := append([]string{"check", "-credential", s.path, "-pool", fmt.Sprint(s.pool), "-login-timeout", "20s"}, s.window...)
	if s.dsn != "" {
		args = append(args, "-dsn", s.dsn)
	}
	return append(args, s.flags...)
}

// check runs the command, as text and as JSON, and returns what it found.
func (s *site) check(t *testing.T) (findings, int) {
	t.Helper()
	status, text := s.run(t, s.args())
	again, asJSON := s.run(t, append(s.args(), "-json"))
	if again != status {
		t.Errorf("with -json the exit status is %d, not %d", again, status)
	}
	var report struct {
		Level    level
		Findings findings
	}
	if err := json.Unmarshal([]byte(asJSON), &report); err != nil {
		t.Fatalf("%v: %s", err, asJSON)
	}
	if lines := strings.Count(text, "\n"); lines != len(report.Findings) {
		t.Errorf("%d lines for %d findings:\n%s", lines, len(report.Findings), text)
	}
	for _, f := range report.Findings {
		if !strings.Contains(text, fmt.Sprintf(" %-14s ", f.Check)) {
			t.Errorf("%s is in the JSON and not in the text:\n%s", f.Check, text)
		}
	}
	if report.Level != report.Findings.worst() {
		t.Errorf("the level is %q, and the findings' %q", report.Level, report.Findings.worst())
	}
	if t.Failed() {
		t.Log(text)
	}
	return report.Findings, status
}

// run runs a command and fails if it prints a secret.
func (s *site) run(t *testing.T, args []string) (int, string) {
	t.Helper()
	var out, errout bytes.Buffer
	status := run(t.Context(), stdio{&out, &errout}, args)
	for _, secret := range s.secrets {
		if strings.Contains(out.String()+errout.String(), secret) {
			t.Errorf("it prints the secret %s:\n%s%s", secret, out.String(), errout.String())
		}
	}
	if errout.Len() > 0 {
		t.Errorf("on standard error: %s", errout.String())
	}
	return status, out.String()
}

// wantOnly fails unless one finding is a failure or a warning, the one that is wanted.
func wantOnly(t *testing.T, found findings, status int, l level, check, text string) {
	t.Helper()
	var bad findings
	for _, f := range found {
		if f.Level == levelFail || f.Level == levelWarning {
			bad = append(bad, f)
		}
	}
	if len(bad) != 1 || bad[0].Level != l || bad[0].Check != check || !strings.Contains(bad[0].Text, text) {
		t.Errorf("want one %s of %s with %q, got:\n%sof\n%s", l, check, text, bad, found)
	}
	if want := map[level]int{levelFail: statusFailed, levelWarning: statusOK}[l]; status != want {
		t.Errorf("exit status %d, want %d", status, want)
	}
}

func wantHealthy(t *testing.T, found findings, status int) {
	t.Helper()
	if w := found.worst(); status != statusOK || w == levelFail || w == levelWarning {
		t.Errorf("exit status %d, %s:\n%s", status, w, found)
	}
}

func TestCheckFindsNothingWrongWithWhatIsHealthy(t *testing.T) {
	t.Setenv("HOME", t.TempDir()) // where lib/pq looks for certificates
	server := pgtest.New(t, pgtest.Options{TLS: true, Settings: map[string]string{"client_connection_check_interval": "10s"}})
	for name, prepare := range map[string]func(*testing.T, *site){
		"a file":       func(*testing.T, *site) {},
		"events tried": func(_ *testing.T, s *site) { s.flags = []string{"-write"} },
		"a volume":     func(t *testing.T, s *site) { s.volume(t) },
		"others may read what is no password": func(t *testing.T, s *site) {
			s.volume(t)
			open(t, s.dir)
			chmod(t, s.path, 0o755)
			chmod(t, filepath.Join(s.path, "..data"), 0o755)
			ca := filepath.Join(s.path, "..data", "ca.crt")
			if err := os.WriteFile(ca, []byte("for everybody"), 0o600); err != nil {
				t.Fatal(err)
			}
			chmod(t, ca, 0o644)
			if err := os.Symlink("..data/ca.crt", filepath.Join(s.path, "ca.crt")); err != nil {
				t.Fatal(err)
			}
		},
		"in place":       func(_ *testing.T, s *site) { s.window = []string{"-in-place"} },
		"tokens":         func(_ *testing.T, s *site) { s.window = []string{"-login-tokens"} },
		"a query":        func(_ *testing.T, s *site) { s.flags = []string{"-probe-query", "select 1"} },
		"no window":      func(_ *testing.T, s *site) { s.window = nil },
		"no database":    func(_ *testing.T, s *site) { s.dsn = "" },
		"no pool":        func(_ *testing.T, s *site) { s.pool = 0 },
		"valid for long": func(t *testing.T, s *site) { s.alter(t, "valid until 'tomorrow' connection limit 6") },
		"two files": func(t *testing.T, s *site) {
			second := filepath.Join(s.dir, "user")
			s.content(t, s.password)
			if err := os.WriteFile(second, []byte(s.user), 0o600); err != nil {
				t.Fatal(err)
			}
			s.flags = []string{"-username-file", second}
		},
		"a bare password": func(t *testing.T, s *site) {
			s.content(t, s.password)
			s.flags = []string{"-username", s.user, "-format", "password", "-max-mode", "0600"}
		},
		"the same server named in the file": func(t *testing.T, s *site) {
			s.content(t, fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s", server.Port(), s.user, s.password))
		},
		// What lib/pq trusts when it isn't told.
		"authorities at home": func(t *testing.T, s *site) {
			trustAtHome(t, server)
			s.dsn = fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s sslmode=verify-full", server.Port(), server.Database())
		},
		"authorities at home that aren't asked for": func(t *testing.T, s *site) {
			trustAtHome(t, server)
			s.dsn = fmt.Sprintf("host=127.0.0.1 port=%d dbname=%s sslmode=require", server.Port(), server.Database())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(t, server)
			if strings.HasPrefix(name, "authorities") {
				t.Setenv("HOME", t.TempDir())
			} else {
				t.Parallel()
			}
			prepare(t, s)
			found, status := s.check(t)
			wantHealthy(t, found, status)
			if strings.HasPrefix(name, "authorities") && !strings.Contains(found.String(), "from the authorities in "+home()) {
				t.Errorf("it doesn't know whom lib/pq trusts:\n%s", found)
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, "..sqlrotate*")); len(left) > 0 {
				t.Errorf("it leaves %q", left)
			}
		})
	}
}

// trustAtHome puts the server's authority where lib/pq looks.
func trustAtHome(t *testing.T, server *pgtest.Server) {
	t.Helper()
	ca, err := os.ReadFile(server.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(home(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home(), "root.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What is wrong is said in one line, and nothing else is called wrong.
func TestCheckNamesWhatIsBroken(t *testing.T) {
	t.Setenv("HOME", t.TempDir()) // where lib/pq looks for certificates
	plain := pgtest.New(t, pgtest.Options{})
	secure := pgtest.New(t, pgtest.Options{TLS: true, MaxConnections: 60})
	for _, c := range []struct {
		name    string
		server  *pgtest.Server
		prepare func(*testing.T, *site)
		level   level
		check   string
		text    string
	}{
		{"wrong path", plain, func(_ *testing.T, s *site) { s.path = filepath.Join(s.dir, "secrets", "login") }, levelFail, "file", "the nearest directory that is there is"},
		{"no second file", plain, func(t *testing.T, s *site) {
			s.content(t, s.password)
			s.flags = []string{"-username-file", filepath.Join(s.dir, "user")}
		}, levelFail, "file", "/user\": no such file"},
		{"a key that all may read", plain, func(t *testing.T, s *site) {
			s.volume(t)
			open(t, s.dir)
			chmod(t, s.path, 0o755)
			chmod(t, filepath.Join(s.path, "..data"), 0o755)
			chmod(t, filepath.Join(s.path, "password"), 0o644)
		}, levelWarning, "permissions", "/password\" is 0644"},
		{"a directory that docker has made", plain, func(t *testing.T, s *site) { s.path = t.TempDir() }, levelFail, "file", "docker -v makes an empty directory"},
		{"a directory of something else", plain, func(t *testing.T, s *site) {
			s.path = t.TempDir()
			for _, name := range []string{"tls.crt", "tls.key"} {
				if err := os.WriteFile(filepath.Join(s.path, name), []byte(s.password), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, levelFail, "file", "no user name: there is no value for username"},
		{"torn", plain, func(t *testing.T, s *site) { s.content(t, `{"username":"app","password":"`+s.password) }, levelFail, "file", "not yet written to its end"},
		{"a template's remainder", plain, func(t *testing.T, s *site) { s.content(t, `{"username":"app","password":"<no value>"}`) }, levelFail, "file", "in a template for KV version 2 the fields are in .Data.data"},
		{"empty", plain, func(t *testing.T, s *site) { s.content(t, "") }, levelFail, "file", "it is empty: perhaps not yet written"},
		{"no password", plain, func(t *testing.T, s *site) { s.content(t, `{"username":"app","password":""}`) }, levelFail, "file", `the value of "password" is empty`},
		{"a bare password without a name", plain, func(t *testing.T, s *site) { s.content(t, s.password) }, levelFail, "file", "if it is a bare password, set FileOptions.Username"},
		{"encrypted", plain, func(t *testing.T, s *site) { s.content(t, "-----BEGIN PGP MESSAGE-----\n"+s.password) }, levelFail, "file", "it is encrypted"},
		{"the wrong format", plain, func(_ *testing.T, s *site) { s.flags = []string{"-format", "dotenv"} }, levelFail, "file", "as dotenv"},
		{"more than MaxMode", plain, func(t *testing.T, s *site) {
			s.flags = []string{"-max-mode", "0600"}
			chmod(t, s.path, 0o640)
		}, levelFail, "file", "its permissions are 0640, more than FileOptions.MaxMode 0600 allows"},
		{"readable by the world", plain, func(t *testing.T, s *site) { chmod(t, s.path, 0o644); open(t, s.dir) }, levelWarning, "permissions", "any user that sees this file system can read the password"},
		{"writable by the world", plain, func(t *testing.T, s *site) { open(t, s.dir); chmod(t, s.dir, 0o777) }, levelWarning, "permissions", "anybody can put another credential there"},
		{"ended", plain, func(t *testing.T, s *site) { s.ends(t, -time.Minute) }, levelFail, "login", "the credential has ended at"},
		{"ends before its successor comes", plain, func(t *testing.T, s *site) { s.ends(t, time.Minute) }, levelWarning, "end", "has no successor, which should have come 10m0s before"},
		{"the file names another server", plain, func(t *testing.T, s *site) {
			s.content(t, fmt.Sprintf(`{"username":%q,"password":%q,"host":"db.example.org"}`, s.user, s.password))
		}, levelWarning, "elsewhere", `host "db.example.org" where the DSN has "127.0.0.1"`},

		{"a password in the DSN", plain, func(_ *testing.T, s *site) {
			s.dsn += " password=hunter2"
			s.secrets = append(s.secrets, "hunter2")
		}, levelFail, "dsn", "has a password: remove it"},
		{"a password in a URL", plain, func(_ *testing.T, s *site) {
			s.dsn = "postgres://app:hunter2@127.0.0.1/db"
			s.secrets = append(s.secrets, "hunter2")
		}, levelFail, "dsn", "has a password: remove it"},
		{"a password that breaks a URL", plain, func(_ *testing.T, s *site) {
			s.dsn = "postgres://app:hunter2/db"
			s.secrets = append(s.secrets, "hunter2")
		}, levelFail, "dsn", "the reason is withheld"},
		{"a password that became a part of the path", plain, func(_ *testing.T, s *site) {
			s.dsn = "postgres://app/hunter2@127.0.0.1/db"
			s.secrets = append(s.secrets, "hunter2")
		}, levelFail, "dsn", "leave user name and password out of the DSN"},
		{"a DSN that isn't one", plain, func(_ *testing.T, s *site) { s.dsn = "127.0.0.1" }, levelFail, "dsn", "the DSN can't be parsed"},

		{"server down", plain, func(t *testing.T, s *site) { s.dsn += fmt.Sprintf(" port=%d", freePort(t)) }, levelFail, "login", `no server listens at "127.0.0.1" port`},
		{"no such host", plain, func(_ *testing.T, s *site) { s.dsn += " host=db.invalid sslmode=verify-full" }, levelFail, "login", `the name of host "db.invalid" isn't known`},
		{"what listens is no PostgreSQL", plain, func(t *testing.T, s *site) { s.dsn += fmt.Sprintf(" port=%d", listener(t, "SSH-2.0-OpenSSH_9.2\r\n")) }, levelFail, "login", "ends the connection during the login: is it PostgreSQL?"},
		{"no answer", plain, func(t *testing.T, s *site) {
			s.dsn += fmt.Sprintf(" port=%d", listener(t, ""))
			s.flags = []string{"-login-timeout", "200ms"}
		}, levelFail, "login", "there was no answer"},
		{"a password that lib/pq doesn't normalise", plain, func(t *testing.T, s *site) {
			s.password += "\u00a0"
			s.secrets = append(s.secrets, s.password)
			s.content(t, fmt.Sprintf("{\"username\":\"%s\",\"password\":\"%s\"}", s.user, s.password))
			s.dsn = ""
		}, levelWarning, "password", "it may be refused although it is right"},
		{"wrong password", plain, func(t *testing.T, s *site) { s.alter(t, "password 'another'") }, levelFail, "login", "the server refuses user"},
		{"no such role", plain, func(t *testing.T, s *site) {
			if err := s.server.RevokeRole(t.Context(), s.user); err != nil {
				t.Fatal(err)
			}
		}, levelFail, "login", "the server refuses user"},
		{"expired", plain, func(t *testing.T, s *site) { s.alter(t, "valid until 'yesterday'") }, levelFail, "login", "one whose VALID UNTIL has passed"},
		{"role without login", plain, func(t *testing.T, s *site) { s.alter(t, "nologin") }, levelFail, "login", "may not log in: ALTER ROLE … LOGIN"},
		{"wrong database", plain, func(_ *testing.T, s *site) { s.dsn += " dbname=nowhere" }, levelFail, "login", `there is no database "nowhere"`},
		{"no privilege", plain, func(t *testing.T, s *site) {
			s.admin(t, "revoke connect on database "+s.database(t, "")+" from public")
		}, levelFail, "login", "lacks the privilege CONNECT on database"},
		{"no room at all", plain, func(t *testing.T, s *site) { s.alter(t, "connection limit 0") }, levelFail, "login", "there is no room for one more session"},
		{"no TLS at the server", plain, func(_ *testing.T, s *site) { s.dsn += " sslmode=verify-full" }, levelFail, "login", "has no TLS, and sslmode=verify-full asks for it"},
		{"a certificate for another host", secure, func(_ *testing.T, s *site) { s.dsn += " host=db.example.org hostaddr=127.0.0.1" }, levelFail, "login", `the certificate of the server isn't for "db.example.org"`},
		{"an unknown authority", secure, func(_ *testing.T, s *site) { s.dsn += " sslrootcert=system" }, levelFail, "login", "from an authority that isn't known here"},

		{"no file of authorities", secure, func(_ *testing.T, s *site) { s.dsn += " sslrootcert=" + filepath.Join(s.dir, "ca.crt") }, levelFail, "login", "a file of certificates can't be used"},
		{"no socket", plain, func(_ *testing.T, s *site) { s.dsn += " host=" + s.dir }, levelFail, "login", "no server listens at"},
		{"a query that fails", plain, func(_ *testing.T, s *site) { s.flags = []string{"-probe-query", "select 1 from account"} }, levelFail, "probe", `relation "account" does not exist`},

		{"valid for less than the window", plain, func(t *testing.T, s *site) {
			s.alter(t, "valid until '"+time.Now().Add(5*time.Minute).Format(time.RFC3339)+"'")
		}, levelWarning, "valid-until", "the file should have had a successor 10m0s before that"},
		{"superuser", plain, func(t *testing.T, s *site) { s.alter(t, "superuser") }, levelWarning, "role", "is a superuser"},
		{"owner of objects", plain, func(t *testing.T, s *site) {
			name := "owned_" + s.user
			s.admin(t, "create table "+name+" (id int); alter table "+name+" owner to "+s.user)
			t.Cleanup(func() { _, _ = s.server.Admin().ExecContext(context.Background(), "drop table "+name) })
		}, levelWarning, "role", "owns 1 object, so that DROP ROLE will fail"},
		{"the role's limit below the pool", plain, func(t *testing.T, s *site) { s.alter(t, "connection limit 4") }, levelFail, "role-limit", "is 4, less than the pool's 5: make it 6 or more"},
		{"the role's limit as large as the pool", plain, func(t *testing.T, s *site) { s.alter(t, "connection limit 5") }, levelWarning, "role-limit", "as large as the pool: a rotation needs one more"},
		{"the database's limit", plain, func(t *testing.T, s *site) { s.database(t, "connection limit 4") }, levelFail, "database-limit", "is 4, less than the pool's 5"},
		{"max_connections below the pool", secure, func(_ *testing.T, s *site) { s.pool = 100 }, levelFail, "server-limit", "less than the pool's 100"},
		{"others have the connections", secure, func(t *testing.T, s *site) {
			s.pool = 60
			occupy(t, s, 10)
		}, levelWarning, "server-limit", "are in use now, and leave less than the pool's 60"},

		{"window too small", plain, func(_ *testing.T, s *site) { s.window = []string{"-overlap", "2m"} }, levelFail, "window", "overlap 2m0s - lag 1m30s (default)"},
		{"a window without a unit", plain, func(_ *testing.T, s *site) { s.window = []string{"-overlap", "30ns"} }, levelFail, "window", "give it a unit"},
		{"lifetime too short", plain, func(_ *testing.T, s *site) { s.window = []string{"-overlap", "2m5s"} }, levelWarning, "window", "MaxLifetime 5s = overlap 2m5s - lag 1m30s (default) - max in use 30s (default)"},
		{"lag below the kubelet's", plain, func(t *testing.T, s *site) {
			s.volume(t)
			s.window = []string{"-overlap", "10m", "-lag", "1s"}
		}, levelWarning, "lag", "1s is too short: a volume of Kubernetes is written with a delay of up to 1m30s"},
		{"in place behind the kubelet", plain, func(t *testing.T, s *site) {
			s.volume(t)
			s.window = []string{"-in-place", "-retry-timeout", "10s"}
		}, levelWarning, "lag", "refused logins wait 10s, which is too short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := healthy(t, c.server)
			c.prepare(t, s)
			found, status := s.check(t)
			wantOnly(t, found, status, c.level, c.check, c.text)
		})
	}
}

func TestCheckFindsAPasswordInTheEnvironment(t *testing.T) {
	s := healthy(t, nil)
	t.Setenv("PGPASSWORD", "hunter2")
	s.secrets = append(s.secrets, "hunter2")
	found, status := s.check(t)
	wantOnly(t, found, status, levelWarning, "pgpassword", "PGPASSWORD is set")
}

// ends has the file say when its login ends.
func (s *site) ends(t *testing.T, in time.Duration) {
	t.Helper()
	s.content(t, fmt.Sprintf(`{"username":%q,"password":%q,"expires_at":%d}`, s.user, s.password, time.Now().Add(in).Unix()))
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// open lets everybody into a test's directory.
func open(t *testing.T, dir string) {
	t.Helper()
	chmod(t, dir, 0o755)
	chmod(t, filepath.Dir(dir), 0o755)
}

// freePort returns a port that nobody listens at.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// listener accepts connections until the test ends, and answers what it is told, or
// nothing.
func listener(t *testing.T, says string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if says == "" {
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				_, _ = conn.Read(make([]byte, 1024))
				_, _ = io.WriteString(conn, says)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// occupy keeps n sessions of the site's role until the test ends.
func occupy(t *testing.T, s *site, n int) {
	t.Helper()
	for range n {
		c, err := pq.NewConnector(s.dsn + " user=" + s.user + " password=" + s.password)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}
