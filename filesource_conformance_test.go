package sqlrotate_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

// A FileSource keeps the promises of a Source, whether its file is replaced or
// written in place, with events or without, and as a Secret volume.
func TestFileSourceConforms(t *testing.T) {
	asJSON := func(cred sqlrotate.Credential) []byte {
		data, err := json.Marshal(map[string]string{"username": cred.Username, "password": cred.Password.Reveal()})
		if err != nil {
			panic(err)
		}
		return data
	}
	writeFile := func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }
	byRename := func(path string, cred sqlrotate.Credential) error {
		if err := writeFile(path+".tmp", asJSON(cred)); err != nil {
			return err
		}
		return os.Rename(path+".tmp", path)
	}
	inPlace := func(path string, cred sqlrotate.Credential) error { return writeFile(path, asJSON(cred)) }
	version := 0
	volume := func(dir string, cred sqlrotate.Credential) error {
		version++
		name := fmt.Sprint("..", version)
		data := filepath.Join(dir, name)
		if err := os.MkdirAll(data, 0o700); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(data, "username"), []byte(cred.Username)); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(data, "password"), []byte(cred.Password.Reveal())); err != nil {
			return err
		}
		if err := os.Symlink(name, filepath.Join(dir, "..tmp")); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(dir, fmt.Sprint("..", version-1)))
	}
	spoilFile := func(path string) error { return writeFile(path, []byte("{")) }
	removeKey := func(dir string) error { return os.Remove(filepath.Join(dir, "..data", "password")) }

	for _, c := range []struct {
		name    string
		publish func(path string, cred sqlrotate.Credential) error
		spoil   func(path string) error
		opt     sqlrotate.FileOptions
	}{
		{"renamed", byRename, spoilFile, sqlrotate.FileOptions{}},
		{"renamed, polling only", byRename, spoilFile, sqlrotate.FileOptions{PollOnly: true, Poll: 50 * time.Millisecond}},
		{"written in place", inPlace, spoilFile, sqlrotate.FileOptions{Settle: 100 * time.Millisecond}},
		{"Secret volume", volume, removeKey, sqlrotate.FileOptions{Settle: 100 * time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := c.publish(path, sqlrotate.Credential{Username: "first", Password: sqlrotate.NewSecret("first")}); err != nil {
				t.Fatal(err)
			}
			var log lockedBuilder
			c.opt.Logger = slog.New(slog.NewTextHandler(&log, nil))
			src, err := sqlrotate.NewFileSource(path, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			err = sqlrotatetest.TestSource(sqlrotatetest.Harness{
				Source:  src,
				Publish: func(cred sqlrotate.Credential) error { return c.publish(path, cred) },
				Break:   func() error { return c.spoil(path) },
				Output:  log.String,
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
