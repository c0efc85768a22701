package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// What docs/vault.md says to write is written as it stands there: Vault takes the command,
// an agent renders the template, and what comes of it can log in.
func TestWhatTheDocsSayToWrite(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.FromSlash("../docs/vault.md"))
	if err != nil {
		t.Fatal(err)
	}
	only := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1)
		if len(found) != 1 {
			t.Fatalf("%d times %s", len(found), pattern)
		}
		return found[0][1]
	}
	command, template := only("(?s)\n```sh\n(.*?)```"), only("(?s)contents *= <<EOT\n(.*?)EOT")

	d := newDatabase(t)
	bin := t.TempDir()
	if err := os.Symlink(vaultBinary(t), filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", strings.ReplaceAll(command, "db_name=app", "db_name=pg"))
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "VAULT_ADDR="+d.v.address, "VAULT_TOKEN="+d.v.root.Token())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", command, err, out)
	}
	path := filepath.Join(t.TempDir(), "db")
	newAgent(d.v, path, template, time.Hour)
	src, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Format: sqlrotate.FormatJSON, WaitFor: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	a := newApp(d, src, sqlrotate.Window{Overlap: 14 * time.Minute}, &logbook{})
	a.more(20)
	a.mustNotFail()
}
