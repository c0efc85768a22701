package sqlrotate_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// A credential was published when it came to be where it is read, whatever the modification
// time says: a copy may have its original's.
func TestFileSourceSaysWhenItWasPublished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "creds.json")
	write(t, path, `{"username":"first","password":"s3cret"}`)
	src, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Settle: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	credential := func(user string) sqlrotate.Credential {
		t.Helper()
		cred, err := src.Refresh(t.Context(), sqlrotate.Credential{Username: "nobody"})
		for err == nil && cred.Username != user { // one that is younger than 30 ms is read again
			cred, err = src.Credential(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return cred
	}
	const coarse = 50 * time.Millisecond // how exact a file system's clock is, and more
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	write(t, path+".new", `{"username":"second","password":"s3cret"}`)
	if err := os.Chtimes(path+".new", old, old); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * coarse) // it is written, and published later
	before := time.Now()
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	cred := credential("second")
	after := time.Now()
	if runtime.GOOS != "linux" { // where nothing else is known
		before, after = old, old.Add(2*time.Second)
	}
	if at := cred.PublishedAt; at.Before(before.Add(-coarse)) || at.After(after) {
		t.Errorf("published %v, and read %v later", before, at.Sub(before))
	}

	time.Sleep(2 * coarse)
	write(t, path, `{"username":"second","password":"s3cret","ttl":3600}`)
	for reads := src.Status().Reads; src.Status().Reads < reads+2; {
		if _, err := src.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if again := credential("second").PublishedAt; !again.Equal(cred.PublishedAt) {
		t.Errorf("the same login, written again %v later, is another publication", again.Sub(cred.PublishedAt))
	}
}
