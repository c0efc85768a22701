//go:build linux

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
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
	snap, err := NewReader(dir).Read()
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
	r := NewReader(path)
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
	if snap, err := NewReader("/proc/self/status").Read(); err != nil || len(snap.Data) == 0 {
		t.Errorf("/proc: %d bytes, %v", len(snap.Data), err)
	}
}

// Names are anybody's to choose.
func TestReaderQuotesAndCutsNames(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("n", 200)
	for _, name := range []string{"a\nlevel=ERROR msg=x", long} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), maxSize+1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if err := os.Symlink("nowhere\nat all", filepath.Join(dir, fmt.Sprintf("%03d\n", i))); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := NewReader(dir).Read()
	if err != nil {
		t.Fatal(err)
	}
	said := snap.Skipped.Error()
	if strings.Contains(said, "\n") || strings.Contains(said, long) || len(said) > 1000 || !strings.Contains(said, "and 99 more") {
		t.Errorf("it says %q", said)
	}

	// The path itself, and what ..data leads to.
	_, err = NewReader(filepath.Join(dir, "not\nthere")).Read()
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "\n") {
		t.Errorf("it says %q", err)
	}
	if err := os.Symlink("no\nversion", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	_, err = NewReader(dir).Read()
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "\n") {
		t.Errorf("it says %q", err)
	}
}

func TestReaderStopsAtTheLimitOfNames(t *testing.T) {
	dir := t.TempDir()
	for i := range 6_000 {
		if err := os.Symlink("x", filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(dir)
	look := func() {
		if _, err := r.Read(); err == nil || !strings.Contains(err.Error(), "more than 1024") {
			t.Fatal(err)
		}
		watchDirs(dir)
	}
	look()
	// All the names would be 6,000 allocations and more, for each of the two.
	if n := testing.AllocsPerRun(3, look); n > 8*maxKeys {
		t.Errorf("%.0f allocations to look at the directory", n)
	}
}

func TestReaderOpensWhatTheKernelOpens(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "far", "away"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"secret": "beside the link", "far/secret": "beside what it leads to"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("far/away", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, path := range []string{"link/../secret", dir + "/link/../secret", "./link/.././secret"} {
		abs, err := Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		snap, err := NewReader(abs).Read()
		if err != nil || string(snap.Data) != "beside what it leads to" {
			t.Errorf("%s: %q, %v", path, snap.Data, err)
		}
	}
}

func TestReaderTellsThatAFileHasLostItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	held := NewReader(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) // as a mount holds it
	byName := NewReader(path)
	for _, r := range []*Reader{held, byName} {
		if snap, err := r.Read(); err != nil || snap.Replaced {
			t.Fatalf("%v, %v", snap.Replaced, err)
		}
	}
	if err := os.WriteFile(path+".new", []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if snap, err := held.Read(); err != nil || !snap.Replaced || string(snap.Data) != "x" {
		t.Errorf("%v, %v", snap.Replaced, err)
	}
	if snap, err := byName.Read(); err != nil || snap.Replaced || string(snap.Data) != "y" {
		t.Errorf("%v, %v", snap.Replaced, err)
	}
}

func TestReaderGoesByPermissionsIfAsked(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode, most fs.FileMode
		good       bool
	}{
		{0o600, 0o600, true},
		{0o400, 0o600, true},
		{0o640, 0o600, false},
		{0o640, 0o640, true},
		{0o604, 0o640, false},
		{0o777, 0, true},
	} {
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		file, all := NewReader(path), NewReader(dir)
		file.MaxMode, all.MaxMode = c.most, c.most
		if _, err := file.Read(); (err == nil) != c.good {
			t.Errorf("%#o where %#o is allowed: %v", c.mode, c.most, err)
		}
		if snap, err := all.Read(); err != nil || (snap.Skipped == nil) != c.good || (len(snap.Keys) == 1) != c.good {
			t.Errorf("%#o where %#o is allowed, in a directory: %v, %v", c.mode, c.most, snap.Skipped, err)
		}
	}
}

// Two files that are replaced one after the other, all the time: what is read was on disk
// at one moment.
func TestReaderOfTwoFilesIsNeverTorn(t *testing.T) {
	dir := t.TempDir()
	user, password := filepath.Join(dir, "user"), filepath.Join(dir, "password")
	put := func(path string, n int) {
		if err := os.WriteFile(path+".new", fmt.Append(nil, n), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Error(err)
		}
	}
	put(user, 0)
	put(password, 0)
	r := NewReader(password, user)
	done := make(chan struct{})
	go func() { // the password is that of the user, or of the one before
		defer close(done)
		for n := range 500 {
			put(user, n)
			put(password, n)
		}
	}()
	number := func(data []byte) (n int) { _, _ = fmt.Sscan(string(data), &n); return n }
	reads := 0
	for {
		select {
		case <-done:
			if reads == 0 {
				t.Error("nothing was read")
			}
			return
		default:
		}
		snap, err := r.Read()
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		reads++
		if u, p := number(snap.Second), number(snap.Data); p != u && p != u-1 {
			t.Fatalf("user %d, password %d", u, p)
		}
	}
}

// mountTable is one of proc_pid_mountinfo(5).
const mountTable = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 254:0 /srv/a\040b/cred /run/secrets/db\040login ro - ext4 /dev/vda rw
41 27 254:0 /srv/cred//deleted /run/secrets/gone ro - ext4 /dev/vda rw
42 27 0:40 / /vault/secrets rw - tmpfs tmpfs rw
43 27 0:40 /..2026_11_26_03_14_31.1/sub /vault/sub rw - tmpfs tmpfs rw
44 27 0:41 / /twice rw - tmpfs tmpfs rw
45 27 254:0 /srv/cred /twice rw - ext4 /dev/vda rw
`

func TestMountOf(t *testing.T) {
	for _, c := range []struct {
		path  string
		isDir bool
		want  Mount
	}{
		{"/etc/secret", false, Mount{}},
		{"/run/secrets/db login", false, Mount{Alone: true, Name: "cred"}},
		{"/run/secrets/gone", false, Mount{Alone: true}},
		{"/vault/secrets", true, Mount{Name: "/"}},
		{"/vault/sub", true, Mount{Alone: true, Name: "sub"}},
		{"/twice", false, Mount{Alone: true, Name: "cred"}},
	} {
		if got := mountOf([]byte(mountTable), c.path, c.isDir); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.path, got, c.want)
		}
	}
}

func TestVolumeOf(t *testing.T) {
	for path, want := range map[string]Volume{
		"/etc/secret":               {Point: "/", Root: "/", Kind: "ext4"},
		"/run/secrets/db login":     {Point: "/run/secrets/db login", Root: "/srv/a b/cred", Kind: "ext4", ReadOnly: true},
		"/vault/secrets":            {Point: "/vault/secrets", Root: "/", Kind: "tmpfs"},
		"/vault/secrets/db/user":    {Point: "/vault/secrets", Root: "/", Kind: "tmpfs"},
		"/vault/secrets-not/db":     {Point: "/", Root: "/", Kind: "ext4"},
		"/vault/sub/user":           {Point: "/vault/sub", Root: "/..2026_11_26_03_14_31.1/sub", Kind: "tmpfs"},
		"/twice/covered/by/another": {Point: "/twice", Root: "/srv/cred", Kind: "ext4"},
	} {
		if got := volumeOf([]byte(mountTable), path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	if got := VolumeOf(t.TempDir()); got.Kind == "" || got.Point == "" {
		t.Errorf("a temporary directory: %+v", got)
	}
	if got := VolumeOf("/no/such/path"); got != (Volume{}) {
		t.Errorf("what doesn't exist: %+v", got)
	}
}
