package sqlrotate

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// What docs/failures.md says that a retirement takes with it is left behind on the only
// connection of a pool, and looked for after a rotation; and so is what stays.
func TestWhatARetirementTakesWithIt(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n## What a retirement takes with it\n")
	documented := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.+?) \| (gone|stays) \|`).FindAllStringSubmatch(section, -1) {
		documented[row[1]] = row[2]
	}

	server := pgtest.New(t, pgtest.Options{})
	s := newService(t, server, func(cfg *Config) {
		opener, err := LibPQ(server.DSN() + " statement_timeout=54321")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Opener, cfg.DrainTime = opener, 100*time.Millisecond
	})
	s.db.SetMaxOpenConns(1)
	owner := s.newRole()
	s.exec("grant " + owner.name + " to " + s.role)
	session := func() (pid int) {
		if err := s.db.QueryRowContext(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	stmt, err := s.db.PrepareContext(t.Context(), "select true")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Close() }()

	checks := []struct {
		what, left, leave, find string
	}{
		{"temporary tables", "gone", "create temporary table mine (n int)", "select exists (select from pg_class where relname = 'mine' and pg_table_is_visible(oid))"},
		{"`SET`", "gone", "set lock_timeout = 12345", "select current_setting('lock_timeout') = '12345ms'"},
		{"what the DSN sets", "stays", "", "select current_setting('statement_timeout') = '54321ms'"},
		{"advisory locks of the session", "gone", "select pg_advisory_lock(4711)", "select exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"},
		{"`PREPARE`", "gone", "prepare mine as select 1", "select exists (select from pg_prepared_statements where name = 'mine')"},
		{"cursors `WITH HOLD`", "gone", "declare mine cursor with hold for select 1", "select exists (select from pg_cursors where name = 'mine')"},
		{"`LISTEN`", "gone", "listen mine", "select exists (select from pg_listening_channels() c where c = 'mine')"},
		{"`SET ROLE`", "gone", "set role " + owner.name, "select current_user <> session_user"},
	}
	for _, c := range checks {
		if _, err := s.db.ExecContext(t.Context(), c.leave); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
	}
	find := func(when, query, what string, want bool) {
		t.Helper()
		var found bool
		if err := s.db.QueryRowContext(t.Context(), query).Scan(&found); err != nil || found != want {
			t.Errorf("%s the rotation: %s: %v, %v", when, what, found, err)
		}
	}
	for _, c := range checks {
		find("before", c.find, c.what, true)
	}
	before := session()
	old := s.rotate()
	s.eventually(10*time.Second, "the old role's session gone", func() bool { return s.sessions(old) == 0 })
	if session() == before {
		t.Fatal("it is the same session")
	}
	for _, c := range checks {
		find("after", c.find, c.what, c.left == "stays")
		if documented[c.what] != c.left {
			t.Errorf("%s: %s, documented as %q", c.what, c.left, documented[c.what])
		}
		delete(documented, c.what)
	}
	var found bool
	if err := stmt.QueryRowContext(t.Context()).Scan(&found); err != nil || documented["a `*sql.Stmt`"] != "stays" {
		t.Errorf("a *sql.Stmt: %v, documented as %q", err, documented["a `*sql.Stmt`"])
	}
	delete(documented, "a `*sql.Stmt`")
	for what := range documented {
		t.Errorf("%s is documented, and not tried", what)
	}
}
