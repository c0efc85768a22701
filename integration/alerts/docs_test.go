package alerts

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// What docs/operate.md has one run with promtool succeeds.
func TestDocumentedCommands(t *testing.T) {
	text, err := os.ReadFile(filepath.FromSlash("../../docs/operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("(?m)^promtool .*$").FindAllString(string(text), -1)
	if len(commands) == 0 {
		t.Error("there is none")
	}
	for _, command := range commands {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = filepath.FromSlash("../..")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}
