package prometheus

import (
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The Go in docs/operate.md compiles, and the metrics there and in the rules exist.
func TestDocs(t *testing.T) {
	ch := make(chan *prometheus.Desc, 100)
	NewCollector().Describe(ch)
	close(ch)
	names := map[string]bool{}
	for d := range ch {
		names[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	for _, name := range []string{"../docs/operate.md", "../docs/runbook.md", "../examples/prometheus/rules.yaml"} {
		text, err := os.ReadFile(filepath.FromSlash(name))
		if os.IsNotExist(err) && os.Getenv("CI") == "" {
			t.Skip("this is not the repository, but the module alone")
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range regexp.MustCompile(`sqlrotate_\w+`).FindAllString(string(text), -1) {
			if !names[metric] {
				t.Errorf("%s: there is no %s", name, metric)
			}
		}
		for _, block := range regexp.MustCompile("(?s)\n```go\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			compiles(t, block[1])
		}
	}
}

// compiles builds a file of package main that has no main.
func compiles(t *testing.T, source string) {
	t.Helper()
	if _, err := format.Source([]byte(source)); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "docs.go")
	if err := os.WriteFile(name, []byte(strings.Replace(source, "package main", "package docs", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
