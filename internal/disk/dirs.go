package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxLinks is how many symlinks are followed before they are taken for a loop, as
// Linux does.
const maxLinks = 40

// watchDirs returns the directories in which a change can make path another file
// or give it other content: the directory of the file, of every symlink on the way
// to it, the directory itself if path is one, and for what does not exist the
// nearest directory that does. All by their real names, so that one directory is
// not watched under two.
func watchDirs(path string) map[string]fs.FileInfo {
	dirs := map[string]fs.FileInfo{}
	links := maxLinks
	final := followLinks(path, dirs, &links)
	if final == "" || !addDir(dirs, final) {
		return dirs
	}
	data := filepath.Join(final, dataLink)
	if _, err := os.Lstat(data); err == nil {
		addDir(dirs, followLinks(data, dirs, &links))
		return dirs
	}
	entries, err := os.ReadDir(final)
	if err != nil || len(entries) > maxKeys {
		return dirs
	}
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink != 0 {
			links := maxLinks
			followLinks(filepath.Join(final, entry.Name()), dirs, &links)
		}
	}
	return dirs
}

// followLinks walks an absolute path, adds the directory of each symlink on the
// way and of the end, and returns the end's real name: empty if there is none.
func followLinks(path string, dirs map[string]fs.FileInfo, links *int) string {
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
			if len(rest) == 0 {
				addDir(dirs, dir)
			}
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
	return dir
}

// splitRoot splits an absolute path into its root and its components.
func splitRoot(path string) (root string, components []string) {
	vol := filepath.VolumeName(path)
	return vol + string(filepath.Separator), strings.Split(filepath.ToSlash(path[len(vol):]), "/")
}

// addDir reports whether dir is a directory.
func addDir(dirs map[string]fs.FileInfo, dir string) bool {
	if dir == "" {
		return false
	}
	if _, ok := dirs[dir]; ok {
		return true
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	dirs[dir] = info
	return true
}
