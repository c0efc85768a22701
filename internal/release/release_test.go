package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fixture returns a repository like ours, with a library, a module that requires it and
// one for itself, and with what is planted in it: a text that is empty removes the file.
func fixture(t *testing.T, planted map[string]string) string {
	t.Helper()
	t.Setenv("GOPROXY", "off") // it needs nobody else's modules
	dir := t.TempDir()
	if _, err := git(t.Context(), dir, "init", "-q"); err != nil {
		t.Fatal(err)
	}
	plant(t, dir, map[string]string{
		"CHANGELOG.md": "# Changelog\n\n## v0.3.0 - unreleased\n\n- Something.\n\n## v0.2.0 - 2026-02-01\n",
		"LICENSE":      "Do what you like.\n",
		"README.md": "```go\ndb := sql.Open()\n```\n\nor\n\n```go\nsrc := lib.NewFileSource(\"/not/there\")\n" +
			"if err := src.Err(lib.LibPQ(\"host=db\")); err != nil {\n\tlog.Fatal(err)\n}\n```\n",
		".gitignore": "/con/\n",
		"con/x":      "ignored, as what was built would be\n",
		"go.mod":     "module github.com/example/lib\n\ngo 1.25.0\n",
		"lib.go": "package lib\n\nimport \"os\"\n\ntype Source struct{ Path string }\n\nfunc NewFileSource(path string) Source { return Source{path} }\n\n" +
			"func LibPQ(dsn string) string { return dsn }\n\nfunc (s Source) Err(string) error {\n\t_, err := os.ReadFile(s.Path)\n\treturn err\n}\n",
		"cmd/lib/main.go":         "package main\n\nfunc main() {}\n",
		"internal/secret/hide.go": "package secret\n",
		"nested/go.mod":           "module github.com/example/lib/nested\n\ngo 1.25.0\n\nrequire github.com/example/lib v0.3.0\n",
		"nested/nested.go":        "package nested\n\nimport \"github.com/example/lib\"\n\nvar Source = lib.NewFileSource(\"\")\n",
		"nested/nested_test.go":   "package nested\n\nimport \"testing\"\n\nfunc Test(t *testing.T) { _ = Source }\n",
		"bench/go.mod": "module github.com/example/lib/bench\n\ngo 1.25.0\n\nrequire github.com/example/lib v0.3.0\n\n" +
			"replace github.com/example/lib => ../\n",
		"bench/aux.txt": "nobody fetches this\n",
		"examples/app/go.mod": "module github.com/example/lib/examples/app\n\ngo 1.25.0\n\nrequire github.com/example/lib v0.3.0\n\n" +
			"replace github.com/example/lib => ../../\n",
	})
	plant(t, dir, planted)
	return dir
}

// ours returns a copy of the repository that this is, with what is planted in it.
func ours(t *testing.T, planted map[string]string) string {
	t.Helper()
	c, err := open(t.Context(), filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := git(t.Context(), dir, "init", "-q"); err != nil {
		t.Fatal(err)
	}
	for _, name := range c.files {
		info, err := os.Lstat(c.at(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(c.at(name))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, filepath.FromSlash(name)), string(text))
		}
	}
	plant(t, dir, planted)
	return dir
}

// plant writes files below dir, and removes those whose text is empty.
func plant(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if text != "" {
			write(t, path, text)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// read returns the text of a file below dir.
func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// commit has git commit all that is in dir.
func commit(t *testing.T, dir string) {
	t.Helper()
	for _, args := range [][]string{{"add", "-A"}, {"-c", "user.name=T", "-c", "user.email=t@localhost", "commit", "-q", "-m", "all"}} {
		if _, err := git(t.Context(), dir, args...); err != nil {
			t.Fatal(err)
		}
	}
}

// checkFails runs the fetch check on dir, and expects an error that says why.
func checkFails(t *testing.T, dir, why string) {
	t.Helper()
	c, err := open(t.Context(), dir)
	if err == nil {
		err = fetch(t.Context(), c)
	}
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("it found %v, and not %q", err, why)
	}
}

func TestWhatCanBeFetchedIsFetched(t *testing.T) {
	c, err := open(t.Context(), fixture(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := fetch(t.Context(), c); err != nil {
		t.Error(err)
	}
}

func TestARehearsalReleases(t *testing.T) {
	dir := fixture(t, nil)
	commit(t, dir)
	c, err := open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := rehearse(t.Context(), c); err != nil {
		t.Error(err)
	}
	plant(t, dir, map[string]string{"forgotten.go": "package lib\n"})
	if err := rehearse(t.Context(), c); err == nil || !strings.Contains(err.Error(), "forgotten.go") {
		t.Errorf("with a file that isn't committed: %v", err)
	}
}

// The sums of our own modules are in go.sum from the release on, and not before.
func TestVersionsAreWritten(t *testing.T) {
	dir := fixture(t, map[string]string{
		"CHANGELOG.md":  "## v1.0.0 - 2026-03-01\n",
		"nested/go.sum": "github.com/example/lib v0.3.0 h1:AAAA\ngithub.com/example/lib v0.3.0/go.mod h1:AAAA\n",
	})
	versions := func() {
		t.Helper()
		c, err := open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeVersions(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	versions()
	for _, name := range []string{"nested/go.mod", "bench/go.mod", "examples/app/go.mod"} {
		if text := read(t, dir, name); !strings.Contains(text, "require github.com/example/lib v1.0.0\n") {
			t.Errorf("%s has no v1.0.0:\n%s", name, text)
		}
	}
	if text := read(t, dir, "nested/go.sum"); strings.Count(text, "github.com/example/lib v1.0.0") != 2 || strings.Contains(text, "v0.3.0") {
		t.Errorf("the sums of a released version:\n%s", text)
	}
	plant(t, dir, map[string]string{"CHANGELOG.md": "## v1.0.1 - unreleased\n"})
	versions()
	if text := read(t, dir, "nested/go.sum"); text != "" {
		t.Errorf("the sums of what is not released:\n%s", text)
	}
}

func TestWhatCannotBeFetchedIsFound(t *testing.T) {
	nested := func(require string) string {
		return "module github.com/example/lib/nested\n\ngo 1.25.0\n\nrequire " + require + "\n"
	}
	for name, test := range map[string]struct {
		planted map[string]string
		why     string
	}{
		"a name that Windows reserves":           {map[string]string{"docs/aux.txt": "x"}, `"aux"`},
		"names that differ in their case":        {map[string]string{"docs/A.md": "x", "docs/a.md": "x"}, "case-insensitive"},
		"a name that no zip may hold":            {map[string]string{"docs/a:b": "x"}, "a:b"},
		"such a name in a nested module":         {map[string]string{"nested/NUL": "x"}, "nested can't be fetched"},
		"a version that isn't there":             {map[string]string{"nested/go.mod": nested("github.com/example/lib v0.2.0")}, "v0.2.0, which isn't there"},
		"a module that isn't there":              {map[string]string{"nested/go.mod": nested("github.com/example/lib/other v0.3.0")}, "other@v0.3.0, which isn't there"},
		"a module that isn't for users":          {map[string]string{"nested/go.mod": nested("github.com/example/lib/bench v0.3.0")}, "bench@v0.3.0, which isn't there"},
		"a replacement that users don't have":    {map[string]string{"nested/go.mod": nested("github.com/example/lib v0.3.0\n\nreplace github.com/example/lib => ../")}, "replaces"},
		"no licence":                             {map[string]string{"LICENSE": ""}, "LICENSE"},
		"a package that isn't in the module":     {map[string]string{"lib.go": "package lib\n\nimport _ \"github.com/example/lib/bench\"\n"}, "bench"},
		"a nested module that isn't tidy":        {map[string]string{"nested/nested.go": "package nested\n"}, "- require github.com/example/lib v0.3.0"},
		"sums of what isn't released":            {map[string]string{"nested/go.sum": "github.com/example/lib v0.3.0 h1:AAAA\n"}, "- github.com/example/lib v0.3.0 h1:AAAA"},
		"none of what is":                        {map[string]string{"CHANGELOG.md": "## v0.3.0 - 2026-03-01\n"}, "+ github.com/example/lib v0.3.0/go.mod h1:"},
		"a test that doesn't compile by itself":  {map[string]string{"nested/nested_test.go": "package nested\n\nvar _ = missing\n"}, "undefined: missing"},
		"a newer Go than is said to be enough":   {map[string]string{"nested/go.mod": strings.Replace(nested("github.com/example/lib v0.3.0"), "1.25.0", "1.25.1", 1)}, "needs Go 1.25.1"},
		"lines in README that don't compile":     {map[string]string{"README.md": "```go\nlib.Missing()\n```\n"}, "undefined: lib.Missing"},
		"lines in docs that don't compile":       {map[string]string{"docs/more.md": "```go\nnested.Missing()\n```\n"}, "undefined: nested.Missing"},
		"lines in README that fail when run":     {map[string]string{"README.md": "```go\nlib.NewFileSource(\"/\")\nlib.LibPQ(\"\")\nlog.Fatal(\"no such thing\")\n```\n"}, "no such thing"},
		"no lines in README":                     {map[string]string{"README.md": "# lib\n"}, "no Go lines"},
		"a changelog that names no version":      {map[string]string{"CHANGELOG.md": "# Changelog\n"}, "no heading"},
		"a command that needs a missing package": {map[string]string{"cmd/lib/main.go": "package main\n\nimport \"github.com/example/lib/cmd/gone\"\n\nfunc main() { gone.Run() }\n"}, "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			checkFails(t, fixture(t, test.planted), test.why)
		})
	}
}

func TestWhatIsPlantedInOursIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		planted map[string]string
		why     string
	}{
		"aux.txt":           {map[string]string{"testdata/formats/refused/aux.txt": "x"}, `"aux"`},
		"a missing version": {map[string]string{"vaultsource/go.mod": strings.Replace(read(t, "../..", "vaultsource/go.mod"), "sqlrotate/sqlrotate v0.", "sqlrotate/sqlrotate v9.", 1)}, "v9."},
	} {
		t.Run(name, func(t *testing.T) {
			checkFails(t, ours(t, test.planted), test.why)
		})
	}
}

func TestNewestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"# Changelog\n\n## v0.1.0 - unreleased\n":          "v0.1.0 false",
		"## v1.2.3 - 2026-01-31\n\n## v1.2.2 - unreleased": "v1.2.3 true",
		"## v1.2.3 - 2026-02-30\n":                         "date",
		"## v1.2.3 - soon\n":                               "date",
		"## v1.2 - unreleased\n":                           "no version",
		"## 1.2.3 - unreleased\n":                          "no version",
		"## Unreleased\n":                                  "no heading",
		"":                                                 "no heading",
	} {
		version, released, err := newestVersion(text)
		if got := strings.TrimSpace(version + map[bool]string{false: " false", true: " true"}[released]); err == nil && got != want {
			t.Errorf("%q: %s, not %s", text, got, want)
		} else if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestDateNewest(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"# C\n\n## v0.2.0 - unreleased\n\n## v0.1.0 - 2026-01-31\n": "# C\n\n## v0.2.0 - 2026-05-04\n\n## v0.1.0 - 2026-01-31\n",
		"## v0.1.0 - 2026-01-31\n":                                  "## v0.1.0 - 2026-01-31\n",
	} {
		write(t, filepath.Join(dir, changelog), text)
		if err := dateNewest(dir, time.Date(2026, time.May, 4, 0, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, dir, changelog); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
