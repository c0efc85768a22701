package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/jail"
)

// bind mounts a file or directory on another, which it makes.
func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s: %v", to, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(to, syscall.MNT_DETACH) })
}

func TestCheckKnowsAMountThatCannotChange(t *testing.T) {
	if !jail.RunAs(t, "root") {
		return
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, s *site, mounted string)
		level   level
		text    string
	}{
		"a single file": {func(t *testing.T, s *site, mounted string) {
			bind(t, s.path, mounted)
		}, levelWarning, "it is a mount of a single file (docker -v, subPath)"},
		"removed outside": {func(t *testing.T, s *site, mounted string) {
			bind(t, s.path, mounted)
			remove(t, s.path)
			s.content(t, `{"username":"app","password":"another"}`)
		}, levelFail, "another one has taken the place of"},
		"replaced outside": {func(t *testing.T, s *site, mounted string) {
			bind(t, s.path, mounted)
			was := s.path
			s.path = filepath.Join(s.dir, "new")
			s.content(t, `{"username":"app","password":"another"}`)
			if err := os.Rename(s.path, was); err != nil {
				t.Fatal(err)
			}
		}, levelFail, "another one has taken the place of"},
		"a subPath": {func(t *testing.T, s *site, mounted string) {
			s.volume(t)
			s.path = filepath.Join(s.path, "..2026_11_26", "login")
			s.content(t, `{"username":"app","password":"`+s.password+`"}`)
			bind(t, s.path, mounted)
		}, levelFail, "it is a subPath, which shows one version of the volume for ever"},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(t, nil)
			mounted := filepath.Join(t.TempDir(), "mounted")
			c.prepare(t, s, mounted)
			s.path = mounted
			found, status := s.check(t)
			wantOnly(t, found, status, c.level, "mount", c.text)
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestCheckSaysWhatKeepsItOut(t *testing.T) {
	if !jail.RunAs(t, "user") {
		return
	}
	for name, c := range map[string]struct {
		close func(s *site) string // what it closes
		text  string
	}{
		"a file":            {func(s *site) string { return s.path }, "/login\" is 0000, of uid 1000"},
		"its directory":     {func(s *site) string { return s.dir }, "\" is 0000, of uid 1000"},
		"a directory above": {func(s *site) string { return filepath.Dir(s.dir) }, "\" is 0000, of uid 1000"},
		"a file of a directory": {func(s *site) string {
			s.path = filepath.Join(s.dir, "volume")
			return filepath.Join(s.path, "..2026_11_26", "password")
		}, "/password\" is 0000, of uid 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(t, nil)
			s.volume(t)
			s.path = filepath.Join(s.dir, "login")
			path := c.close(s)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			chmod(t, path, 0)
			defer chmod(t, path, info.Mode().Perm())
			found, status := s.check(t)
			wantOnly(t, found, status, levelFail, "file", c.text)
		})
	}
}
