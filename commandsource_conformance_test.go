//go:build unix

package sqlrotate_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

// A program's output keeps the promises of a Source.
func TestCommandSourceConforms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "login")
	src, err := sqlrotate.CommandSource([]string{"cat", path}, sqlrotate.CommandOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = sqlrotatetest.TestSource(sqlrotatetest.Harness{
		Source: src,
		Publish: func(cred sqlrotate.Credential) error {
			content, err := json.Marshal(map[string]string{"username": cred.Username, "password": cred.Password.Reveal()})
			if err != nil {
				return err
			}
			if err := os.WriteFile(path+".next", content, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".next", path)
		},
		Break: func() error { return os.Remove(path) },
	})
	if err != nil {
		t.Fatal(err)
	}
}
