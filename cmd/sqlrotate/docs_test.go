package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// What docs/check.md shows is what the commands print, but for what differs from one
// machine to another; its finding names are those that there are.
func TestDocumentedOutputIsWhatIsPrinted(t *testing.T) {
	content, err := os.ReadFile("../../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	document := strings.ReplaceAll(string(content), "\r\n", "\n")
	t.Setenv("HOME", t.TempDir()) // where lib/pq looks for certificates
	server := pgtest.New(t, pgtest.Options{TLS: true})
	s := healthy(t, server)
	s.content(t, fmt.Sprintf("{\n  \"username\": %q,\n  \"password\": %q\n}\n", s.user, s.password))
	s.pool = 10
	named := strings.NewReplacer(
		s.path, "/vault/secrets/db", s.user, "app-2026-11", "127.0.0.1", "db.example.org", server.Database(), "shop",
		fmt.Sprint(server.Port()), "5432", server.CAFile(), "/etc/ssl/db.pem",
	)
	differs := []struct {
		pattern *regexp.Regexp
		same    string
	}{
		{regexp.MustCompile(`(?m)^note     user .*\n`), ""}, // not everybody is root
		{regexp.MustCompile(`(?m)^(ok       mount          ).*$`), `${1}tmpfs, mounted at "/vault/secrets"`},
		{regexp.MustCompile(`, of uid \d+ and gid \d+`), ", of uid 100 and gid 1000"},
		{regexp.MustCompile(`took [\d.]+m?s: PostgreSQL [^,]*, TLSv1.\d`), "took 12ms: PostgreSQL 15.15, TLSv1.3"},
		{regexp.MustCompile(`; this process may write there, so -write can try it`), ""},
		{regexp.MustCompile(`reserved, is \d+`), "reserved, is 97"},
		{regexp.MustCompile(`, but nobody else gets there: .*`), ""},
	}
	for _, c := range []struct {
		command string
		args    []string
	}{
		{"check -credential /vault/secrets/db -dsn 'host=db.example.org dbname=shop sslmode=verify-full sslrootcert=/etc/ssl/db.pem' -overlap 10m -pool 10", s.args()},
		{"parse /vault/secrets/db", []string{"parse", s.path}},
	} {
		_, shown, _ := strings.Cut(document, "$ sqlrotate "+c.command+"\n")
		shown, _, _ = strings.Cut(shown, "```")
		_, printed := s.run(t, c.args)
		printed = named.Replace(printed)
		for _, d := range differs {
			printed = d.pattern.ReplaceAllString(printed, d.same)
		}
		if shown != printed {
			t.Errorf("sqlrotate %s is to be shown as\n%s", c.command, printed)
		}
	}
}

// Each finding and each flag that docs/check.md names is there, and each finding that check
// has is named.
func TestDocumentedNamesAreThere(t *testing.T) {
	content, err := os.ReadFile("../../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	var help bytes.Buffer
	run(t.Context(), stdio{&help, &help}, []string{"check", "-h"})
	for _, flag := range regexp.MustCompile("`(-[a-z-]+)`").FindAllStringSubmatch(string(content), -1) {
		if flag[1] != "-" && !strings.Contains(help.String(), "\n  "+flag[1]) {
			t.Errorf("there is no flag %s", flag[1])
		}
	}
	var sources strings.Builder
	for _, name := range []string{"judge.go", "judgeserver.go", "follow.go", "teller.go"} {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources.Write(source)
	}
	named := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z-]+`(?:, `[a-z-]+`)*) \\|").FindAllStringSubmatch(string(content), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			name = strings.Trim(name, "`")
			named[name] = true
			if !strings.Contains(sources.String(), `"`+name+`", `) {
				t.Errorf("there is no finding %s", name)
			}
		}
	}
	for _, name := range regexp.MustCompile(`(?:add|tell)\("([a-z-]+)"`).FindAllStringSubmatch(sources.String(), -1) {
		if !named[name[1]] {
			t.Errorf("%s isn't named", name[1])
		}
	}
}
