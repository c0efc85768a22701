package prometheus

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics in docs and rules exist.
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
	}
}
