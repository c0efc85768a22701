package otel

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/metrics"
)

// What the package's documentation and docs/operate.md call an instrument or an attribute
// is one, and those of the conventions are all in the documentation.
func TestDocs(t *testing.T) {
	conventions := []string{
		"db.client.connection.count", "db.client.connection.max", "db.client.connection.create_time", "db.client.connection.pool.name", "db.client.connection.state",
	}
	known := append(slices.Clone(conventions), name(metrics.LoginDuration),
		"db.client.connection.pending_requests") // why there is none is said
	for _, one := range metrics.All() {
		known = append(known, name(one))
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.FromSlash(name))
		if os.IsNotExist(err) && os.Getenv("CI") == "" {
			t.Skip("this is not the repository, but the module alone")
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	of, _, _ := strings.Cut(read("otel.go"), "\npackage otel")
	for where, text := range map[string]string{"the package": of, "docs/operate.md": read("../docs/operate.md")} {
		for _, found := range regexp.MustCompile(`\b(?:db\.client|sqlrotate)\.[a-z][a-z_.]*[a-z]`).FindAllString(text, -1) {
			if !slices.Contains(known, found) && !strings.HasPrefix(found, "sqlrotate.json") {
				t.Errorf("%s: there is no %s", where, found)
			}
		}
		for _, one := range conventions {
			if !strings.Contains(text, one) {
				t.Errorf("%s doesn't tell of %s", where, one)
			}
		}
	}
}

// Where Prometheus makes its own name of an instrument's, that is the one in its module.
func TestNamesBecomeThoseOfPrometheus(t *testing.T) {
	for _, one := range append(metrics.All(), metrics.LoginDuration) {
		made := strings.ReplaceAll(name(one), ".", "_")
		if unit(one) == "s" {
			made += "_seconds"
		}
		if one.Counts {
			made += "_total"
		}
		if want := "sqlrotate_" + one.Name; made != want {
			t.Errorf("%s becomes %s, not %s", name(one), made, want)
		}
	}
}
