// Where the server binaries are.

package pgtest

import (
	"fmt"
	"os"
	"os/exec"
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
