//go:build linux

package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWatchDirsFollowsEverySymlink(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a", "b/c", "vol/..v1", "plain", "store"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"b/c/file", "vol/..v1/key", "store/key"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"a/up": "../b", "a/abs": filepath.Join(root, "a/up/c/./file"), "vol/..data": "..v1", "vol/key": "..data/key",
		"plain/key": "../store/key", "loop": "loop", "volume": "vol",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"b/c/file":   "b/c",
		"a/up/c":     "a b b/c",
		"a/abs":      "a b/c",
		"vol":        ". vol vol/..v1",
		"vol/key":    "vol vol/..v1",
		"volume/key": ". vol vol/..v1",
		"plain":      ". plain store",
		"plain/":     ". plain store",
		"b/./c/file": "b/c",
		// up leads to b, and .. from there to the root, not to a.
		"a/up/../vol/key": "a vol vol/..v1",
		"loop":            ".",
		"b/x/y/z":         "b",
		"b/c/file/x":      "b/c",
	} {
		wanted := map[string]bool{}
		for name := range strings.FieldsSeq(want) {
			wanted[filepath.Join(root, name)] = true
		}
		got := watchDirs(join(root, path))
		for dir := range got {
			if !wanted[dir] {
				t.Errorf("%s: %s is watched", path, dir)
			}
			delete(wanted, dir)
		}
		for dir := range wanted {
			t.Errorf("%s: %s is not watched", path, dir)
		}
	}
}
