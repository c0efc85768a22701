package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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

// dir is a directory in which a change matters.
type dir struct {
	info   fs.FileInfo
	remote string // see there
}

// watchDirs returns the directories in which a change can make one of paths another file
// or give it other content: the directory of the file, of every symlink on the way
// to it, the directory itself if it is one, and for what does not exist the
// nearest directory that does. All by their real names, so that one directory is
// not watched under two.
func watchDirs(paths ...string) map[string]dir {
	dirs := map[string]dir{}
	for _, path := range paths {
		addDirs(dirs, path)
	}
	return dirs
}

func addDirs(dirs map[string]dir, path string) {
	links := maxLinks
	final := followLinks(path, dirs, &links)
	if final == "" || !addDir(dirs, final) {
		return
	}
	data := join(final, dataLink)
	if _, err := os.Lstat(data); err == nil {
		addDir(dirs, followLinks(data, dirs, &links))
		return
	}
	for _, entry := range entries(final) {
		if entry.Type()&fs.ModeSymlink != 0 {
			links := maxLinks
			followLinks(join(final, entry.Name()), dirs, &links)
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

// followLinks walks an absolute path, adds the directory of each symlink on the
// way and of the end, and returns the end's real name: empty if there is none.
func followLinks(path string, dirs map[string]dir, links *int) string {
	dir, rest := splitRoot(path)
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
		info, err := os.Lstat(at)
		if err != nil {
			if !addDir(dirs, dir) { // a file on the way
				addDir(dirs, filepath.Dir(dir))
			}
			return ""
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			dir = at
			continue
		}
		addDir(dirs, dir)
		target, err := os.Readlink(at)
		if err != nil || *links == 0 {
			return ""
		}
		*links--
		if filepath.IsAbs(target) {
			var more []string
			dir, more = splitRoot(target)
			rest = append(more, rest...)
		} else {
			rest = append(strings.Split(filepath.ToSlash(target), "/"), rest...)
		}
	}
	addDir(dirs, filepath.Dir(dir))
	return dir
}

// splitRoot splits an absolute path into its root and its components.
func splitRoot(path string) (root string, components []string) {
	vol := filepath.VolumeName(path)
	return vol + string(filepath.Separator), strings.Split(filepath.ToSlash(path[len(vol):]), "/")
}

// addDir reports whether path is a directory.
func addDir(dirs map[string]dir, path string) bool {
	if path == "" {
		return false
	}
	if _, ok := dirs[path]; ok {
		return true
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	dirs[path] = dir{info: info, remote: remote(path)}
	return true
}
