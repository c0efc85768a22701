package sqlrotate_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate"
)

// What docs/formats.md says of each format is what a file source does.
func TestFormatsAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(text), "\n## ")
	names := formats(t)
	for _, section := range sections[1:] {
		title, body, _ := strings.Cut(section, "\n")
		t.Run(title, func(t *testing.T) {
			switch {
			case title == "Keys":
				documentedKeys(t, body)
			case title == "A directory":
				dir := t.TempDir()
				for _, row := range regexp.MustCompile("(?m)^\\| `(.*)` \\| `(.*)` \\|$").FindAllStringSubmatch(body, -1) {
					write(t, filepath.Join(dir, row[1]), row[2])
				}
				readsDocumented(t, dir, sqlrotate.FileOptions{})
			case strings.Contains(title, ": `Format"):
				_, name, _ := strings.Cut(strings.Trim(title, "`"), "`")
				format, ok := names[name]
				if !ok {
					t.Fatalf("there is no %s", name)
				}
				delete(names, name)
				if !strings.Contains(sections[0], "`"+name+"`") {
					t.Error("it is not in the table at the top")
				}
				documentedSamples(t, body, format)
			}
		})
	}
	for name := range names {
		t.Errorf("%s is not documented", name)
	}
}

// Each alert has a page in docs/runbook.md that says what it takes, its severity included,
// and is in both files.
func TestAlertsHaveARunbook(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.FromSlash(name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "\r\n", "\n")
	}
	rules := read("examples/prometheus/rules.yaml")
	_, groups, _ := strings.Cut(rules, "\ngroups:\n")
	_, spec, _ := strings.Cut(read("examples/prometheus/prometheusrule.yaml"), "\nspec:\n  groups:\n")
	if indented := regexp.MustCompile("(?m)^(.)").ReplaceAllString(groups, "  $1"); groups == "" || spec != indented {
		t.Error("prometheusrule.yaml has other rules than rules.yaml")
	}
	pages := map[string]string{}
	for _, page := range strings.Split(read("docs/runbook.md"), "\n## ")[1:] {
		title, body, _ := strings.Cut(page, "\n")
		pages[title] = body
	}
	for _, rule := range strings.Split(rules, "- alert: ")[1:] {
		alert, body, _ := strings.Cut(rule, "\n")
		page, ok := pages[alert]
		if !ok {
			t.Errorf("%s has no page", alert)
			continue
		}
		delete(pages, alert)
		severity := regexp.MustCompile("severity: (.*)").FindStringSubmatch(body)
		if severity == nil || !strings.HasPrefix(strings.TrimSpace(page), severity[1]+",") {
			t.Errorf("the page of %s doesn't begin with its severity, %v", alert, severity)
		}
		if !strings.Contains(body, "docs/runbook.md#"+strings.ToLower(alert)+"\n") {
			t.Errorf("%s doesn't lead to its page", alert)
		}
		for _, part := range []string{"**You see**", "**It means**", "**Do**", "**It is over**"} {
			if !strings.Contains(page, part) {
				t.Errorf("the page of %s lacks %s", alert, part)
			}
		}
	}
	for alert := range pages {
		t.Errorf("there is no alert %s", alert)
	}
}

// documentedSamples reads the fenced blocks of body, with the format named and not.
func documentedSamples(t *testing.T, body string, format sqlrotate.Format) {
	t.Helper()
	blocks := regexp.MustCompile("(?s)\n```[a-z]*\n(.*?)```").FindAllStringSubmatch(body, -1)
	if len(blocks) == 0 {
		t.Fatal("there is no sample")
	}
	for _, block := range blocks {
		opt := sqlrotate.FileOptions{}
		if format == sqlrotate.FormatPassword {
			opt.Username = "app"
		}
		path := filepath.Join(t.TempDir(), "sample")
		write(t, path, block[1])
		readsDocumented(t, path, opt)
		opt.Format = format
		readsDocumented(t, path, opt)
	}
}

// documentedKeys reads a file with each of the keys in the table of body.
func documentedKeys(t *testing.T, body string) {
	t.Helper()
	for line := range strings.Lines(body) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			key := strconv.Quote(match[1])
			content, end := "", false
			switch strings.TrimSpace(cells[1]) {
			case "user name":
				content = `{` + key + `:"app","password":"it's:5#x"}`
			case "password":
				content = `{"username":"app",` + key + `:"it's:5#x"}`
			case "both, in a URL or libpq keywords":
				content = `{` + key + `:"postgres://app:it%27s%3A5%23x@db/app"}`
			case "end":
				content, end = `{"username":"app","password":"it's:5#x",`+key+`:4102444800}`, true
			default:
				t.Fatalf("what is %s", cells[1])
			}
			path := filepath.Join(t.TempDir(), "sample")
			write(t, path, content)
			if got := readsDocumented(t, path, sqlrotate.FileOptions{}); got.NotAfter.IsZero() == end {
				t.Errorf("with %s it ends at %v", key, got.NotAfter)
			}
		}
	}
}

// readsDocumented fails unless what is at path is the login of all samples.
func readsDocumented(t *testing.T, path string, opt sqlrotate.FileOptions) sqlrotate.Credential {
	t.Helper()
	opt.PollOnly = true
	src, err := sqlrotate.NewFileSource(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, err := src.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Username != "app" || got.Password.Reveal() != "it's:5#x" {
		t.Errorf("as %q it is %q, %q", opt.Format, got.Username, got.Password.Reveal())
	}
	return got
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// formats returns the formats that there are by the names of their constants, but
// for the one that stands for all. Each is a constant of the API, too.
func formats(t *testing.T) map[string]sqlrotate.Format {
	t.Helper()
	found := make(map[string]sqlrotate.Format)
	files, err := filepath.Glob("internal/credfile/*.go")
	if err != nil {
		t.Fatal(err)
	}
	api, err := os.ReadFile("fileformat.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for n := range ast.Preorder(file) {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				continue
			}
			if of, ok := spec.Type.(*ast.Ident); !ok || of.Name != "Format" {
				continue
			}
			for i, value := range spec.Values {
				literal, ok := value.(*ast.BasicLit)
				if !ok {
					continue
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				name := spec.Names[i].Name
				if !strings.Contains(string(api), "\t"+name+" = Format(credfile."+name+")\n") {
					t.Errorf("%s is no constant of the API", name)
				}
				found[name] = sqlrotate.Format(text)
			}
		}
	}
	delete(found, "FormatAuto")
	if len(found) == 0 {
		t.Fatal("the constants are not found")
	}
	return found
}

// Each command that the documentation has one type is run in CI, where this says; a command
// that isn't in the list is one that nobody has thought of running.
func TestCommandsInDocsAreRun(t *testing.T) {
	run := []struct{ command, where, by string }{
		{`go get github\.com/sqlrotate/sqlrotate( |$|@|/)`, "internal/release/fetch.go", `get := []string{"get"}`},
		{`go install github\.com/sqlrotate/sqlrotate/cmd/sqlrotate@latest$`, "internal/release/fetch.go", `w.goTool(ctx, dir, "build", "-o", filepath.Join(w.tmp, "command"), path)`},
		{`cd "\$\(mktemp -d\)" && go mod init try$`, "internal/release/rehearse.go", "fetchTagged"},
		{`git (tag|push) `, "internal/release/rehearse.go", "commitAndTag"},
		{`make (test|lint|soak|integration)\b`, ".ci/run", "for part in test lint soak integration; do"},
		{`make demo\b`, "Makefile", "demo-short:\n\tgo run ./cmd/sqlrotate demo"},
		{`sqlrotate drained `, "cmd/sqlrotate/drained_test.go", `exec.CommandContext(t.Context(), "sh", "-ec", command)`},
		{`go run \./bench race `, "bench/race_test.go", `e.run(t.Context(), s, "", shortLead)`},
		{`go run \./bench tenants `, "bench/tenants_test.go", `h.rotate(t.Context(), stubCounter{stub}, &f)`},
		{`go run \./bench fleet `, "bench/fleet_test.go", `e.performFleet(t.Context(), f, p, `},
		{`promtool `, "integration/alerts/docs_test.go", `promtool .*$`},
		{`vault write database/roles/app `, "integration/docs_test.go", "../docs/vault.md"},
		{`vault write (database/roles|auth/kubernetes/role)/orders |printf .* \| vault policy write orders -$`, "integration/kubernetes/examples/vault_test.go", `"deploy.md"`},
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, name := range append(pages, "README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md") {
		if name == filepath.FromSlash("docs/formats.md") {
			continue // what is shell there is a credential file: see TestFormatsAreAsDocumented
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)\n *```sh\n(.*?)```").FindAllStringSubmatch(strings.ReplaceAll(string(text), "\r\n", "\n"), -1) {
			for line := range strings.Lines(joined(block[1])) {
				known := strings.TrimSpace(line) == ""
				for _, r := range run {
					if regexp.MustCompile("^" + r.command).MatchString(strings.TrimSpace(line)) {
						known, used[r.command] = true, true
						break
					}
				}
				if !known {
					t.Errorf("%s: who runs this?\n%s", name, line)
				}
			}
		}
	}
	for _, r := range run {
		text, err := os.ReadFile(filepath.FromSlash(r.where))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.ReplaceAll(string(text), "\r\n", "\n"), r.by) {
			t.Errorf("%s doesn't run %s: there is no %q", r.where, r.command, r.by)
		}
		if !used[r.command] {
			t.Errorf("nothing has one type %s", r.command)
		}
	}
}

// joined returns shell lines with one command in each: what is quoted or goes on in the next
// line is one.
func joined(lines string) string {
	var b strings.Builder
	quoted := false
	for line := range strings.Lines(lines) {
		line = strings.TrimRight(line, "\n")
		if n := strings.Count(line, `"`) - strings.Count(line, `\"`); n%2 != 0 {
			quoted = !quoted
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok || quoted || strings.HasSuffix(line, "&&") {
			b.WriteString(strings.TrimSpace(rest) + " ")
			continue
		}
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.String()
}

// A page that leans on tests names those that there are.
func TestTestsNamedInDocsExist(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range regexp.MustCompile("(?m)^func (Test[A-Za-z0-9_]+)").FindAllSubmatch(text, -1) {
			there[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"docs/failures.md", "docs/race.md"} {
		text, err := os.ReadFile(filepath.FromSlash(page))
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`(Test[A-Za-z0-9_]+)").FindAllStringSubmatch(string(text), -1)
		if len(named) == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, match := range named {
			if !there[match[1]] {
				t.Errorf("%s: there is no %s", page, match[1])
			}
		}
	}
}

// What docs/tokens.md says that a program prints is recorded, and read in a test.
func TestProgramsInDocsAreRecorded(t *testing.T) {
	page, err := os.ReadFile("docs/tokens.md")
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile("commandsource_test.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| [^|]+ \\| `([^`]+)` with ").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 5 {
		t.Fatalf("there are %d programs", len(rows))
	}
	for _, row := range rows {
		if program := row[1]; !strings.Contains(string(recorded), "\""+program+"\"") {
			t.Errorf("nothing that %s prints is in commandsource_test.go", program)
		}
	}
}
