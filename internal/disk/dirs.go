// Directories: which ones must be watched to hear of a change of a path, links included.

package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Abs makes path absolute, and leaves the rest of it as it is: link/../file, for one, is
// not the file beside link.
func Abs(path string) (string, error) {
	if runtime.GOOS == "windows" {
		return filepath.Abs(path)
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	return join(wd, path), err
}

// join is [filepath.Join] without Clean.
func join(dir, name string) string { return dir + string(filepath.Separator) + name }

// maxLinks is how many symlinks are followed before they are taken for a loop, as
// Linux does.
const maxLinks = 40

// place is a directory in which a change matters.
type place struct {
	info  fs.FileInfo
	names []string // those that matter in it; anyName is among them if all do
}

// anyName stands for every name in a directory.
const anyName = ""

// watchDirs returns the directories in which a change can make one of paths another file
// or give it other content: the directory of the file, of every symlink on the way
// to it, the directory itself if it is one, and for what does not exist the
// nearest directory that does. All by their real names, so that one directory is
// not watched under two.
func watchDirs(paths ...string) map[string]place {
	w := newWalk()
	for _, path := range paths {
		w.add(path)
	}
	return w.dirs
}

// walk follows paths at one moment.
type walk struct {
	dirs map[string]place
	seen map[string]fs.FileInfo // all that is no symlink
}

func newWalk() walk { return walk{dirs: map[string]place{}, seen: map[string]fs.FileInfo{}} }

func (w *walk) add(path string) {
	final := w.follow(path)
	if final == "" || !w.addDir(final, anyName) {
		return
	}
	data := join(final, dataLink)
	if _, err := os.Lstat(data); err == nil {
		w.addDir(w.follow(data), anyName)
		return
	}
	for _, entry := range entries(final) {
		if entry.Type()&fs.ModeSymlink != 0 {
			w.follow(join(final, entry.Name()))
		}
	}
}

// entries returns what is in a directory, and nothing if that is more than is read.
func entries(path string) []fs.DirEntry {
	f, err := open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxKeys + 1)
	if len(entries) > maxKeys {
		return nil
	}
	return entries
}

// realName returns the name that path, which is absolute, has without symlinks: empty if
// there is nothing.
func realName(path string) string {
	w := newWalk()
	return w.follow(path)
}

// follow walks an absolute path, adds the directory of each symlink on the
// way and of the end, and returns the end's real name: empty if there is none.
func (w *walk) follow(path string) string {
	dir, rest := splitRoot(path)
	links := maxLinks
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = filepath.Dir(dir)
			continue
		}
		at := filepath.Join(dir, name)
		info, err := w.lstat(at)
		if err != nil {
			if !w.addDir(dir, name) { // a file on the way
				w.addDir(filepath.Dir(dir), filepath.Base(dir))
			}
			return ""
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			dir = at
			continue
		}
		w.addDir(dir, name)
		target, err := os.Readlink(at)
		if err != nil || links == 0 {
			return ""
		}
		links--
		if filepath.IsAbs(target) {
			var more []string
			dir, more = splitRoot(target)
			rest = append(more, rest...)
		} else {
			rest = append(strings.Split(filepath.ToSlash(target), "/"), rest...)
		}
	}
	w.addDir(filepath.Dir(dir), filepath.Base(dir))
	return dir
}

func (w *walk) lstat(path string) (fs.FileInfo, error) {
	if info, ok := w.seen[path]; ok {
		return info, nil
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		w.seen[path] = info
	}
	return info, err
}

// splitRoot splits an absolute path into its root and its components.
func splitRoot(path string) (root string, components []string) {
	vol := filepath.VolumeName(path)
	return vol + string(filepath.Separator), strings.Split(filepath.ToSlash(path[len(vol):]), "/")
}

// addDir adds a name in path, which is a real name, and reports whether that is a directory.
func (w *walk) addDir(path, name string) bool {
	if path == "" {
		return false
	}
	info, err := w.lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	names := w.dirs[path].names
	if !slices.Contains(names, name) {
		names = append(names, name)
	}
	w.dirs[path] = place{info, names}
	return true
}
