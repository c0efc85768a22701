// Where the server binaries are, and who runs them.

package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
)

// findBinaries returns the directory that holds initdb and postgres: the one in
// PATH, symbolic links resolved, else the newest of those that match pattern, which
// is where Debian's packages put theirs.
func findBinaries(pattern string) (string, error) {
	var dirs []string
	for _, name := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(name); err == nil {
			if path, err = filepath.EvalSymlinks(path); err == nil {
				dirs = append(dirs, filepath.Dir(path))
			}
		}
	}
	packaged, _ := filepath.Glob(pattern) // a bad pattern finds nothing
	slices.SortFunc(packaged, func(a, b string) int { return version(b) - version(a) })
	for _, dir := range append(dirs, packaged...) {
		if isFile(filepath.Join(dir, "postgres")) && isFile(filepath.Join(dir, "initdb")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: no initdb and postgres in PATH or %s, and %s names no server (make postgres installs one)",
		ErrUnavailable, pattern, envServer)
}

// version is the 15 of /usr/lib/postgresql/15/bin.
func version(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // 9.6 sorts last, as it should
	return n
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// owner is the user who runs the server.
type owner struct{ uid, gid uint32 }

// unprivileged returns who runs the server in root's place: PostgreSQL refuses to
// be root. It is nil when we are somebody else already.
func unprivileged() (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil says that nobody has to take our place
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("pgtest: user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("pgtest: user %s: %w", name, err)
		}
		return &owner{uint32(uid), uint32(gid)}, nil
	}
	return &owner{65534, 65534}, nil
}

func (o *owner) chown(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// tempDir makes a temporary directory that the owner can reach and owns.
func (o *owner) tempDir() (string, error) {
	parent := os.TempDir()
	if o != nil && !open(parent) {
		parent = "/tmp" // TMPDIR is root's own
	}
	dir, err := os.MkdirTemp(parent, "sqlrotate-postgres-")
	if err != nil {
		return "", err
	}
	return dir, o.chown(dir)
}

// open reports whether everybody may pass through dir and all above it.
func open(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
