package recipes

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// docs/recipes.md shows each file as it is.
func TestDocsShowWhatRuns(t *testing.T) {
	page, err := os.ReadFile(filepath.FromSlash("../../docs/recipes.md"))
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, block := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		shown = append(shown, block[1])
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if name == "doc.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.Index(shown, string(text)); i >= 0 {
			shown = slices.Delete(shown, i, i+1)
		} else {
			t.Errorf("it doesn't show %s as it is", name)
		}
	}
	for _, block := range shown {
		t.Errorf("it shows what is no file here:\n%s", block)
	}
}

// What a migration may take must fit into the overlap.
func TestMigrationsHaveRoomInTheOverlap(t *testing.T) {
	opener, err := sqlrotate.LibPQ("host=db")
	if err != nil {
		t.Fatal(err)
	}
	cfg := sqlrotate.Config{
		Source: sqlrotate.StaticSource(sqlrotate.Credential{}), Opener: opener,
		Window: sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Minute},
	}
	for name, err := range map[string]error{
		"goose": Goose(t.Context(), cfg, 9*time.Minute, nil), "golang-migrate": Migrate(cfg, 9*time.Minute, nil),
	} {
		if err == nil || !strings.Contains(err.Error(), "9m0s") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
