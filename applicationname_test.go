package sqlrotate

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// The beginning of a SHA-256, which anybody can compute: printf app | sha256sum.
const (
	appTag   = "sqlrotate:a172cedc" // of app
	appTagV3 = "sqlrotate:2dcad3b4" // of app, a NUL and 3
)

func TestApplicationNameKeepsTheVersionAndWhatItCan(t *testing.T) {
	app := Credential{Username: "app", Password: NewSecret("made up")}
	for _, test := range []struct{ name, want string }{
		{"", appTag},
		{"billing", "billing " + appTag},
		{"a b  c ", "a b  c  " + appTag},
		{strings.Repeat("x", 44), strings.Repeat("x", 44) + " " + appTag},
		{strings.Repeat("x", 45), strings.Repeat("x", 44) + " " + appTag},
		{strings.Repeat("é", 5), strings.Repeat("é", 5) + " " + appTag},         // \xc3\xa9: 40 bytes
		{strings.Repeat("é", 6), strings.Repeat("é", 5) + " " + appTag},         // 48
		{"1234" + strings.Repeat("€", 4), "1234€€€ " + appTag},                  // 12 bytes each
		{"\xff\xfe billing", "\xff\xfe billing " + appTag},                      // no UTF-8
		{"a\nb\tc", "a\nb\tc " + appTag},                                        // shown as \x0a, or ?
		{"billing\x00user\x00root", "billing?user?root " + appTag},              // no second parameter
		{strings.Repeat("x", 43) + "é", strings.Repeat("x", 43) + " " + appTag}, // no half of it
	} {
		if got := ApplicationName(test.name, app); got != test.want {
			t.Errorf("%q: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestNameOfAVersionIsThatOfTheLoginAndNotOfItsPassword(t *testing.T) {
	name := func(username, password, version string) string {
		return ApplicationName("", Credential{Username: username, Password: NewSecret(password), Version: version})
	}
	if got := name("app", "one", ""); got != appTag {
		t.Errorf("%q, want %q", got, appTag)
	}
	if got := name("app", "one", "3"); got != appTagV3 {
		t.Errorf("%q, want %q", got, appTagV3)
	}
	if name("app", "one", "3") != name("app", "other", "3") {
		t.Error("the password has a part in it")
	}
	if name("app", "one", "") == name("ap", "one", "p") || name("app", "one", "") == name("app2", "one", "") {
		t.Error("two versions have one name")
	}
}

// Of two processes that read one file, each has versions of its own, and one name for them.
func TestFilesVersionIsNotOfTheName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "login")
	var names []string
	for _, password := range []string{"one", "other"} {
		if err := os.WriteFile(path, fmt.Appendf(nil, `{"username":"app","password":%q}`, password), 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := NewFileSource(path, FileOptions{PollOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		cached, err := NewCachedSource(src, CacheOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer cached.Close()
		cred, err := cached.Credential(t.Context())
		if err != nil || cred.Version == "" {
			t.Fatalf("%+v, %v", cred, err)
		}
		names = append(names, ApplicationName("", cred))
	}
	if names[0] != appTag || names[1] != appTag {
		t.Errorf("%q, want %q", names, appTag)
	}
}

func FuzzApplicationNameFits(f *testing.F) {
	for _, name := range []string{"", "billing", strings.Repeat("é", 50), "\xff\x00é€🔑", strings.Repeat("x", 70)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := ApplicationName(name, Credential{Username: "app"})
		shown := 0
		for _, c := range []byte(got) {
			if c < ' ' || c > '~' {
				shown += len(`\xNN`) - 1
			}
			shown++
		}
		if shown > 63 || !strings.HasSuffix(got, appTag) || strings.Contains(got, "\x00") {
			t.Errorf("%q is shown in %d bytes", got, shown)
		}
		if utf8.ValidString(name) && !utf8.ValidString(got) {
			t.Errorf("%q was cut within a character: %q", name, got)
		}
	})
}

// What a server shows of it, wherever the application has its name from.
func TestSessionsCarryTheNameOfTheirVersion(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	if err := server.CreateRole(t.Context(), "app", "made-up"); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("postgres://%s:%d/%s?sslmode=disable", server.Host(), server.Port(), server.Database())
	for _, test := range []struct{ name, dsn, env, want string }{
		{"none", server.DSN(), "", appTag},
		{"keyword", server.DSN() + " application_name='the billing'", "", "the billing " + appTag},
		{"URL", url + "&application_name=the+billing", "", "the billing " + appTag},
		{"fallback", server.DSN() + " fallback_application_name=fallback", "", "fallback " + appTag},
		{"fallback in a URL", url + "&fallback_application_name=fallback", "", "fallback " + appTag},
		{"keyword before fallback", server.DSN() + " application_name=billing fallback_application_name=fallback", "", "billing " + appTag},
		{"empty before fallback", server.DSN() + " application_name='' fallback_application_name=fallback", "", appTag},
		{"PGAPPNAME", server.DSN(), "environment", "environment " + appTag},
		{"keyword before PGAPPNAME", server.DSN() + " application_name=billing", "environment", "billing " + appTag},
		{"PGAPPNAME before fallback", server.DSN() + " fallback_application_name=fallback", "environment", "environment " + appTag},
		{"options", server.DSN() + " options='-c application_name=options'", "", appTag},
		{"long", server.DSN() + " application_name=" + strings.Repeat("x", 80), "", strings.Repeat("x", 44) + " " + appTag},
		{"not ASCII", server.DSN() + " application_name=" + strings.Repeat("é", 80), "", strings.Repeat("?", 10) + " " + appTag},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.env != "" {
				t.Setenv("PGAPPNAME", test.env)
			}
			db := tagged(t, test.dsn, "app", "made-up")
			var got string
			if err := db.QueryRowContext(t.Context(), "select application_name from pg_stat_activity where pid = pg_backend_pid()").Scan(&got); err != nil {
				t.Fatal(err)
			}
			if strings.ReplaceAll(got, `\xc3\xa9`, "??") != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// tagged opens a pool whose sessions carry the name of their version.
func tagged(t *testing.T, dsn, username, password string) *sql.DB {
	t.Helper()
	c, err := New(Config{
		Source: StaticSource(Credential{Username: username, Password: NewSecret(password)}),
		Opener: mustPostgres(t, dsn), Window: InPlace(), TagVersion: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	db := OpenDB(c)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Two processes of a fleet name a login alike, and each session has the name of the one that
// it was opened with.
func TestNameOfTheVersionFollowsARotation(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	for _, role := range []string{"old", "new"} {
		if err := server.CreateRole(t.Context(), role, "made-up"); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "login.json")
	publish := func(role string) {
		if err := os.WriteFile(path+".new", fmt.Appendf(nil, `{"username":%q,"password":"made-up"}`, role), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	publish("old")
	for _, name := range []string{"billing", "orders"} {
		src, err := NewFileSource(path, FileOptions{Poll: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = src.Close() })
		c, err := New(Config{
			Source: src, Opener: mustPostgres(t, server.DSN()+" application_name="+name), TagVersion: true,
			Window: Window{Overlap: time.Minute, Lag: time.Second, MaxInUse: time.Second}, DrainTime: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		db := OpenDB(c)
		t.Cleanup(func() { _ = db.Close() })
		var held []*sql.Conn
		for range 2 {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
		}
		for _, conn := range held {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	sessions := func() string {
		var all string
		if err := server.Admin().QueryRowContext(t.Context(), `select coalesce(string_agg(distinct usename || '=' || application_name, ', '), '')
			from pg_stat_activity where usename in ('old', 'new')`).Scan(&all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	if got, want := sessions(), "old=billing sqlrotate:cba06b57, old=orders sqlrotate:cba06b57"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	publish("new")
	eventuallyIs(t, "new=billing sqlrotate:11507a0e, new=orders sqlrotate:11507a0e", sessions)
}

// eventuallyIs fails unless what is asked for comes to be want.
func eventuallyIs(t *testing.T, want string, ask func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for ask() != want {
		if time.Now().After(deadline) {
			t.Fatalf("it stays %q, want %q", ask(), want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestOpenerThatCannotTagIsRefused(t *testing.T) {
	_, err := New(Config{
		Source: StaticSource(Credential{}), Window: InPlace(), TagVersion: true,
		Opener: FromDriver(nil, func(Credential) string { return "" }),
	})
	if err == nil || !strings.Contains(err.Error(), "ApplicationName in the DSN") {
		t.Error(err)
	}
}
