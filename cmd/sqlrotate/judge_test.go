package main

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

// good are facts in which nothing is wrong, far from this machine.
func good() facts {
	f := facts{now: time.Unix(1_800_000_000, 0), pool: 10}
	f.file = fileFacts{
		path: "/vault/secrets/db", poll: 5 * time.Second, owners: true, uid: 1000,
		parsed: parsed{Login: credfile.Login{
			Username: "app", Format: "json", Why: "it begins with {",
			From: credfile.Origins{Username: credfile.Origin{Key: `"username"`, Line: 1}, Password: credfile.Origin{Key: `"password"`, Line: 1}},
		}},
		status: sqlrotate.FileStatus{Events: true},
		volume: disk.Volume{Point: "/vault/secrets", Root: "/", Kind: "tmpfs"},
		modes:  []access{{path: "/vault/secrets/db", mode: 0o640, uid: 100, gid: 1000}},
		dirs:   []access{{path: "/", mode: 0o755}, {path: "/vault/secrets", mode: 0o755}},
	}
	f.dsn = dsnFacts{given: true, host: "db.example.org", port: "5432", database: "shop", sslmode: "verify-full"}
	f.server = serverFacts{asked: true, took: 9 * time.Millisecond, role: roleFacts{
		version: "17.2", user: "app", database: "shop", tls: "TLSv1.3", roleLimit: -1, databaseLimit: -1, maxConnections: 100, reserved: 3, checkInterval: "10s",
	}}
	f.window = windowFacts{given: true, kind: overlapping, WindowStats: sqlrotate.WindowStats{
		MaxLifetime: 8 * time.Minute, Overlap: 10 * time.Minute, Lag: 90 * time.Second, MaxInUse: 30 * time.Second, RetryTimeout: 30 * time.Second, DrainTime: 2 * time.Minute,
	}}
	return f
}

func TestJudgeFindsNothingWrongWithGoodFacts(t *testing.T) {
	for _, f := range judge(good()) {
		if f.Level != levelOK {
			t.Error(f)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*facts)
		level  level
		check  string
		text   string
	}{
		{"polled", func(f *facts) { f.file.deaf, f.file.status.Events = true, false }, levelNote, "events", "they are switched off: the file is read every 5s"},
		{"a network file system", func(f *facts) { f.file.volume.Remote, f.file.status.Events = "NFS", false }, levelNote, "events", "there are none on NFS: the file is read every 5s"},
		{"no watch", func(f *facts) { f.file.status.Events, f.file.status.EventsErr = false, syscall.ENOSPC }, levelWarning, "events", "none arrive: no space left on device"},
		{"an event that doesn't come", func(f *facts) { f.file.wasTouched, f.file.touchErr = true, errors.New("no event came") }, levelWarning, "events", "no event came: changes are found by the poll every 5s"},
		{"lag below the poll", func(f *facts) {
			f.file.volume.Remote, f.file.status.Events = "NFS", false
			f.window.Lag, f.window.MaxLifetime = time.Second, 569*time.Second
		}, levelWarning, "lag", "1s is too short: no events arrive, and the file is read every 5s"},
		{"no lag in place", func(f *facts) {
			f.file.volume.Remote, f.file.status.Events = "NFS", false
			f.window.kind, f.window.Lag = inPlace, 0
		}, levelNote, "events", "there are none on NFS"},
		{"no table of mounts", func(f *facts) { f.file.volume = disk.Volume{} }, levelOK, "mount", "this system doesn't say"},
		{"nothing is mounted", func(f *facts) { f.file.volume = disk.Volume{Point: "/", Root: "/", Kind: "overlay"} }, levelNote, "mount", "the container's own file system"},
		{"a volume", func(f *facts) { f.file.version = "..2026_11_26" }, levelOK, "mount", "a volume with versions (..data)"},
		{"a directory keeps others out", func(f *facts) { f.file.modes[0].mode, f.file.dirs[1].mode = 0o644, 0o750 }, levelOK, "permissions", "but nobody else gets there"},
		{"a sticky directory", func(f *facts) { f.file.dirs[1].mode = 0o777 | fs.ModeSticky }, levelOK, "permissions", "is 0640"},
		{"one key that all may read", func(f *facts) {
			f.file.modes = append(f.file.modes, access{path: "/vault/secrets/password", mode: 0o644})
		}, levelWarning, "permissions", `"/vault/secrets/password" is 0644`},
		{"a file that all may write", func(f *facts) { f.file.modes[0].mode = 0o662 }, levelWarning, "permissions", "anybody can put another credential there"},
		{"root", func(f *facts) { f.file.uid = 0 }, levelNote, "user", "run check as the application's user"},
		{"the end is far", func(f *facts) { f.file.parsed.NotAfter = f.now.Add(time.Hour) }, levelOK, "end", "it ends in 1h0m0s"},
		{"the end is near", func(f *facts) { f.file.parsed.NotAfter = f.now.Add(10*time.Minute - time.Second) }, levelWarning, "end", "it ends in 9m59s"},
		{"the end is just far enough", func(f *facts) { f.file.parsed.NotAfter = f.now.Add(10 * time.Minute) }, levelOK, "end", "it ends in 10m0s"},
		{"the end is near, in place", func(f *facts) {
			f.window.kind, f.file.parsed.NotAfter = inPlace, f.now.Add(time.Minute)
		}, levelOK, "end", "it ends in 1m0s"},
		{"ended, and no login was tried", func(f *facts) {
			f.dsn, f.server, f.file.parsed.NotAfter = dsnFacts{}, serverFacts{}, f.now.Add(-time.Minute)
		}, levelFail, "end", "it has ended, 1m0s ago"},
		{"hosts in another case", func(f *facts) { f.file.parsed.Host = "DB.example.org" }, levelOK, "dsn", "db.example.org"},
		{"another database", func(f *facts) { f.file.parsed.Database = "test" }, levelWarning, "elsewhere", `database "test" where the DSN has "shop"`},

		{"a password that is normalised, and works", func(f *facts) { f.file.parsed.normalised = true }, levelNote, "password", "it works as long as this server doesn't ask for that"},
		{"a password that is normalised, and wasn't tried", func(f *facts) {
			f.file.parsed.normalised, f.dsn, f.server = true, dsnFacts{}, serverFacts{}
		}, levelWarning, "password", "use pgxopener, or a password of ASCII"},

		{"what stands in", func(f *facts) { f.dsn.used = []string{"PGHOST"} }, levelNote, "environment", "PGHOST: stands in for what the DSN doesn't say"},
		{"what is ignored", func(f *facts) { f.dsn.ignored = []string{"PGUSER", "PGSERVICE"} }, levelNote, "environment", "PGUSER, PGSERVICE: ignored"},
		{"no TLS on a network", func(f *facts) { f.dsn.sslmode = "disable" }, levelWarning, "tls", "can be read on the way to \"db.example.org\""},
		{"no TLS here", func(f *facts) { f.dsn.sslmode, f.dsn.local = "disable", true }, levelOK, "tls", "to this machine"},
		{"TLS if it likes", func(f *facts) { f.dsn.sslmode = "prefer" }, levelWarning, "tls", "goes without TLS"},
		{"nothing verified", func(f *facts) { f.dsn.sslmode = "require" }, levelWarning, "tls", "encrypts and verifies nothing"},
		{"nothing verified here", func(f *facts) { f.dsn.sslmode, f.dsn.local = "require", true }, levelNote, "tls", "encrypts and verifies nothing"},
		{"require with authorities", func(f *facts) { f.dsn.sslmode, f.dsn.roots = "require", "/ca.crt" }, levelNote, "tls", "from the authorities in /ca.crt, whatever host it is for"},
		{"verify-ca", func(f *facts) { f.dsn.sslmode = "verify-ca" }, levelNote, "tls", "from the system's authorities, whatever host it is for"},
		{"a Unix socket", func(f *facts) { f.dsn.socket, f.dsn.local = true, true }, levelOK, "tls", "over a Unix socket"},
		{"registered", func(f *facts) { f.dsn.sslmode = "pqgo-mine" }, levelNote, "tls", "is the application's own"},

		{"a pooler", func(f *facts) { f.server.role.user = "pool" }, levelNote, "role", `the session is of "pool"`},
		{"owner in place", func(f *facts) { f.server.role.owns, f.window.kind = 3, inPlace }, levelOK, "role", `"app"`},
		{"member", func(f *facts) { f.server.role.memberOf = []string{"shop_rw"} }, levelOK, "role", "a member of shop_rw"},
		{"no answer about the role", func(f *facts) { f.server.queryErr = errors.New("sqlrotate: no pg_roles") }, levelNote, "role", "doesn't say what the role may: no pg_roles"},
		{"a standby", func(f *facts) { f.server.role.standby = true }, levelNote, "standby", "gets there later"},
		{"one of several hosts", func(f *facts) { f.dsn.others, f.file.parsed.Host = 1, "db2.example.org" }, levelNote, "dsn", "and 1 host more"},
		{"several hosts", func(f *facts) { f.dsn.others = 2 }, levelNote, "dsn", "and 2 hosts more"},
		{"no limits for superusers", func(f *facts) { f.server.role.super, f.server.role.maxConnections = true, 10 }, levelWarning, "role", "is a superuser"},
		{"room for one more", func(f *facts) { f.server.role.roleLimit = 11 }, levelOK, "role-limit", "with room for the pool's 10 and one more"},
		{"no room for one more", func(f *facts) { f.server.role.databaseLimit = 10 }, levelWarning, "database-limit", "a rotation needs one more"},
		{"reserved", func(f *facts) { f.server.role.maxConnections, f.server.role.reserved = 13, 4 }, levelFail, "server-limit", "is 9, less than the pool's 10"},
		{"others' connections are in the way", func(f *facts) { f.server.role.sessions = 87 }, levelWarning, "server-limit", "of which 87 are in use now"},
		{"others' connections are not in the way", func(f *facts) { f.server.role.sessions = 86 }, levelOK, "server-limit", "with room"},
		{"no interval", func(f *facts) { f.server.role.checkInterval = "0" }, levelNote, "interval", "goes on at the server"},

		{"a short life", func(f *facts) {
			f.window.Overlap, f.window.MaxLifetime = 129999*time.Millisecond, 9999*time.Millisecond
		}, levelWarning, "window", "MaxLifetime 9.999s"},
		{"a life that isn't short", func(f *facts) { f.window.Overlap, f.window.MaxLifetime = 130*time.Second, 10*time.Second }, levelOK, "window", "MaxLifetime 10s"},
		{"a life cut short", func(f *facts) { f.window.MaxLifetime = time.Minute }, levelOK, "window", "and 1m0s by -conn-max-lifetime"},
		{"logins", func(*facts) {}, levelOK, "logins", "up to 0.021 logins a second; after a rotation it is replaced within 2m0s"},
		{"in place", func(f *facts) { f.window.kind = inPlace }, levelOK, "window", "refused logins wait 30s for the new one"},
		{"no window", func(f *facts) { f.window = windowFacts{} }, levelNote, "window", "not checked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := good()
			c.change(&f)
			found := judge(f)
			for _, each := range found {
				switch {
				case each.Check == c.check:
					if each.Level != c.level || !strings.Contains(each.Text, c.text) {
						t.Errorf("%vwant %s with %q", each, c.level, c.text)
					}
					c.check = ""
				case each.Level == levelFail || each.Level == levelWarning:
					t.Error(each)
				}
			}
			if c.check != "" {
				t.Errorf("nothing of %s:\n%s", c.check, found)
			}
		})
	}
}

// Each kind of failure has words of its own, and no finding is more than a line, whatever
// is quoted in it.
func TestEachFailedLoginIsALineOfItsOwn(t *testing.T) {
	seen := map[string]loginFailure{}
	for _, failure := range []loginFailure{
		failedRefused, failedExpired, failedDatabase, failedPrivilege, failedNoLogin, failedFull, failedStarting, failedNoTLS,
		failedAuthority, failedHostname, failedTLS, failedFile, failedDown, failedUnknown, failedEnded, failedSilent, failedOther,
	} {
		f := good()
		f.dsn.database, f.file.parsed.Username = "two\nlines", "one\u2028more"
		f.server.err, f.server.failure = &pq.Error{Message: "what\nthe server says", Code: "28P01"}, failure
		found := judge(f)
		if text := found.String(); strings.Count(text, "\n") != len(found) || strings.ContainsAny(text, "\u2028\r") {
			t.Errorf("%s: more than one line:\n%s", failure, text)
		}
		for _, each := range found {
			if each.Check != "login" {
				continue
			}
			if each.Level != levelFail || seen[each.Text] != "" {
				t.Errorf("%s is as %s: %v", failure, seen[each.Text], each)
			}
			seen[each.Text] = failure
		}
	}
}

// The kinds that no test makes for real.
func TestFailedLoginsAreToldApart(t *testing.T) {
	for want, err := range map[loginFailure]error{
		failedRefused:  &pq.Error{Code: "28000", Message: "no pg_hba.conf entry for host"},
		failedStarting: &pq.Error{Code: "57P03", Message: "the database system is starting up"},
		failedOther:    &pq.Error{Code: "58000", Message: "system error"},
	} {
		if got, code := whyFailed(err); got != want || code == "" {
			t.Errorf("%v: %s %s, want %s", err, got, code, want)
		}
	}
}
