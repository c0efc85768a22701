//go:build linux

package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReaderLeavesOutWhatItCantReadOfADirectory(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"username": "u1", "password": "p1", ".hidden": "h", "..data_tmp": "x", "big": strings.Repeat("x", maxSize+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	snap, err := NewReader(dir, "").Read()
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Keys) != 3 || string(snap.Keys["username"]) != "u1" || string(snap.Keys["password"]) != "p1" {
		t.Errorf("%d keys: %v", len(snap.Keys), snap.Keys)
	}
	for _, want := range []string{"big", "dangling"} {
		if snap.Skipped == nil || !strings.Contains(snap.Skipped.Error(), want) {
			t.Errorf("%s is not reported: %v", want, snap.Skipped)
		}
	}
}

func TestReaderTakesAFileOfOneMebibyteAndNotAByteMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	r := NewReader(path, "")
	for size, want := range map[int]error{0: nil, 1: nil, 511: nil, 512: nil, 513: nil, maxSize: nil, maxSize + 1: errTooLarge} {
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		snap, err := r.Read()
		if !errors.Is(err, want) || (err == nil && len(snap.Data) != size) {
			t.Errorf("%d bytes: read %d, %v", size, len(snap.Data), err)
		}
	}
	// A file whose size is not known beforehand.
	if snap, err := NewReader("/proc/self/status", "").Read(); err != nil || len(snap.Data) == 0 {
		t.Errorf("/proc: %d bytes, %v", len(snap.Data), err)
	}
}
