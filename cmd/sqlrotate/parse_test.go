package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

// secret is the password of the samples.
const secret = "s3cr3tPassphrase"

// parseOf runs parse on a content, as a file, on the standard input and in JSON, and
// returns the lines.
func parseOf(t *testing.T, content string, flags ...string) (string, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "login")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	text, status := parsePath(t, path, "", flags...)
	if from, again := parsePath(t, "-", content, flags...); from != text || again != status {
		t.Errorf("from the standard input it says\n%snot\n%s", from, text)
	}
	return text, status
}

func parsePath(t *testing.T, path, in string, flags ...string) (string, int) {
	t.Helper()
	var out, asJSON, errout bytes.Buffer
	status := parseFrom(strings.NewReader(in), stdio{&out, &errout}, append(flags, path))
	again := parseFrom(strings.NewReader(in), stdio{&asJSON, &errout}, append(flags, "-json", path))
	if errout.Len() > 0 || again != status {
		t.Errorf("%d and %d: %s", status, again, errout.String())
	}
	var report struct{ Findings findings }
	if err := json.Unmarshal(asJSON.Bytes(), &report); err != nil || report.Findings.String() != out.String() {
		t.Errorf("%v: in JSON it is\n%snot\n%s", err, report.Findings, out.String())
	}
	if strings.Contains(out.String()+asJSON.String(), secret) {
		t.Errorf("it prints the password:\n%s%s", out.String(), asJSON.String())
	}
	return out.String(), status
}

func TestParseSaysHowAFileIsRead(t *testing.T) {
	for _, c := range []struct {
		name, content string
		flags         string
		status        int
		want          []string // lines begin so
	}{
		{"JSON", "{\n\"username\": \"app\",\n\"password\": \"" + secret + "\"}", "", statusOK, []string{
			"ok       format         json, because it begins with {\n", "ok       username       \"app\", from \"username\" in line 2\n", "ok       password       there is one, from \"password\" in line 3\n",
		}},
		{"a server is named", "postgres://app:" + secret + "@db.example.org:6432/shop", "", statusOK, []string{
			"ok       format         url, because", "note     server         host \"db.example.org\", port \"6432\", database \"shop\": it isn't followed",
		}},
		{"an end", "DB_USER=app\nDB_PASSWORD=" + secret + "\nexpires_at=4102444800\n", "", statusOK, []string{"ok       end            2100-01-01 00:00:00 UTC, from \"expires_at\" in line 3\n"}},
		{"named keys", `{"db":{"u":"app","p":"` + secret + `"}}`, "-format json -username-key db.u -password-key db.p", statusOK, []string{
			"ok       format         json, as -format says\n", "ok       username       \"app\", from \"db.u\" in line 1\n",
		}},
		{"a bare password", secret, "-username app", statusOK, []string{"ok       username       \"app\", from -username\n", "ok       password       there is one, which is all of it\n"}},
		{"torn", "{\"username\":\"app\",\n\"password\":\"" + secret, "", statusFailed, []string{"FAIL     file           no credential in it: as json (it begins with {): line 2: "}},
		{"a template", "{{ with secret }}", "", statusFailed, []string{"FAIL     file           no credential in it: it holds what a template leaves behind"}},
		{"two values", `{"username":"app","password":"` + secret + `","DB_PASSWORD":"other"}`, "", statusFailed, []string{"FAIL     file           no credential in it: as json"}},
		{"an unknown format", "username=app", "-format ini", statusFailed, []string{"FAIL     file           no credential in it: FileOptions.Format is \"ini\", which is none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, status := parseOf(t, c.content, strings.Fields(c.flags)...)
			if status != c.status {
				t.Errorf("exit status %d, want %d", status, c.status)
			}
			for _, want := range c.want {
				if !strings.Contains("\n"+text, "\n"+want) {
					t.Errorf("no line begins with %q:\n%s", want, text)
				}
			}
		})
	}
}

func TestParseReadsADirectory(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"username": "app\n", "password": secret, "ca.crt": "-----BEGIN CERTIFICATE-----"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, status := parsePath(t, dir, "")
	if status != statusOK || !strings.Contains(text, `a directory of key files: ["ca.crt" "password" "username"]`) || !strings.Contains(text, "from \"password\"\n") {
		t.Errorf("exit status %d:\n%s", status, text)
	}
	two, status := parsePath(t, filepath.Join(dir, "password"), "", "-username-file", filepath.Join(dir, "username"))
	if status != statusOK || !strings.Contains(two, "two files, which hold one value each") {
		t.Errorf("exit status %d:\n%s", status, two)
	}
	none, status := parsePath(t, filepath.Join(dir, "nothing"), "")
	if status != statusFailed || !strings.Contains(none, "no such file") && !strings.Contains(none, "cannot find") {
		t.Errorf("exit status %d:\n%s", status, none)
	}
}

// Not even how long it is.
func TestParseTellsNothingOfThePassword(t *testing.T) {
	if p, err := parse(disk.Snapshot{Data: []byte(`{"username":"app","password":"` + secret + `"}`)}, sqlrotate.FileOptions{}); err != nil || p.Password != "" {
		t.Errorf("it keeps %q, %v", p.Password, err)
	}
	short, _ := parseOf(t, `{"username":"app","password":"x1"}`)
	long, _ := parseOf(t, `{"username":"app","password":"`+strings.Repeat("x1", 500)+`"}`)
	if short != long {
		t.Errorf("a short password is seen as\n%sand a long one as\n%s", short, long)
	}
}

// What is no path, or no flag, may be a secret at the wrong place.
func TestArgumentsAreNotRepeated(t *testing.T) {
	for _, args := range [][]string{
		{"parse", "postgres://app:" + secret + "@db/app"},
		{"parse", `{"password":"` + secret + `"}`},
		{"parse", "-username-file", `{"password":"` + secret + `"}`, "login"},
		{"parse", "-", secret},
		{"check", "-credential", "postgres://app:" + secret + "@db/app"},
		{"check", "-credential", "login", "-dsn", "host=db", "password=" + secret},
		{"check", "postgres://app:" + secret + "@db/app"},
		{"check", "-credential", "login", "-max-mode", secret},
		{"parse", "-password=" + secret, "login"},
	} {
		var out, errout bytes.Buffer
		if status := run(t.Context(), stdio{&out, &errout}, args); status != statusUsage || out.Len() > 0 || strings.Contains(errout.String(), secret) {
			t.Errorf("%q: exit status %d\n%s%s", args, status, out.String(), errout.String())
		}
	}
}
