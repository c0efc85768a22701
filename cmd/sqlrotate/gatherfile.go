// What check finds out about the credential file.

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

const (
	// eventTimeout is how long an event may take to arrive, and lookTimeout a file system
	// to answer.
	eventTimeout = 2 * time.Second
	lookTimeout  = 5 * time.Second

	// The defaults of FileOptions.
	defaultPoll   = 5 * time.Second
	defaultSettle = 500 * time.Millisecond
)

// gatherFile opens the source as an application does. It returns nothing if there is no
// credential.
func (c *check) gatherFile(ctx context.Context, f *fileFacts) *sqlrotate.FileSource {
	opt := c.file.FileOptions
	opt.Logger = quiet()
	src, err := sqlrotate.NewFileSource(c.credential, opt) //nolint:contextcheck // it lives until it is closed
	looked := make(chan fileFacts, 1)
	go func() { looked <- look(c.credential, opt) }() // a file system may hang
	select {
	case *f = <-looked:
	case <-time.After(lookTimeout):
		f.err = errors.New("its file system doesn't answer")
	}
	if f.poll = opt.Poll; f.poll == 0 {
		f.poll = defaultPoll
	}
	f.path, f.deaf = c.credential, opt.PollOnly
	if err != nil {
		f.err = err
		return nil
	}
	f.status = src.Status()
	if c.write && f.err == nil {
		f.wasTouched = true
		f.touched, f.touchErr = touch(ctx, f.dir)
	}
	return src
}

// look finds out what is at a path, and who may read it. Why it is read as it is is asked
// once more: if there was a rotation in between, another login was read in the same way.
func look(path string, opt sqlrotate.FileOptions) (f fileFacts) {
	f.uid = os.Getuid()
	f.owners = f.uid >= 0
	abs, err := disk.Abs(path)
	if err != nil {
		f.err = err
		return f
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		f.nearest = nearest(abs)
		f.dirs = chain(f.nearest)
		f.err = err
		return f
	}
	info, err := os.Stat(real)
	if err != nil {
		f.err = err
		return f
	}
	f.volume, f.mount = disk.VolumeOf(abs), disk.MountOf(abs)
	paths := []string{real}
	if f.isDir = info.IsDir(); f.isDir {
		f.dir = real
		f.version, _ = os.Readlink(filepath.Join(abs, "..data"))
		paths = keyFiles(real)
	} else {
		f.dir = filepath.Dir(real)
		f.version, _ = os.Readlink(filepath.Join(filepath.Dir(abs), "..data"))
	}
	if second, err := filepath.EvalSymlinks(opt.UsernameFile); err == nil && opt.UsernameFile != "" {
		paths = append(paths, second)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			a := accessOf(path, info)
			a.closed = !readable(path)
			f.modes = append(f.modes, a)
		}
	}
	f.dirs = chain(f.dir)
	f.canWrite = writable(f.dir)
	if f.parsed, f.err = readFrom(path, opt); f.isDir && f.err == nil {
		f.modes = holding(f.modes, f.parsed.From)
	}
	return f
}

// holding returns those of a directory's files that hold the login: what else is there may
// be for all to read. If none has the name of a key, the only one holds it all.
func holding(files []access, from credfile.Origins) []access {
	named := slices.DeleteFunc(slices.Clone(files), func(a access) bool {
		name := strconv.Quote(filepath.Base(a.path))
		return !strings.HasSuffix(from.Username.Key, name) && !strings.HasSuffix(from.Password.Key, name)
	})
	if len(named) == 0 {
		return files
	}
	return named
}

// keyFiles returns the files of a directory, by their real names.
func keyFiles(dir string) (paths []string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, entry.Name()))
		if info, serr := os.Stat(real); err == nil && serr == nil && info.Mode().IsRegular() {
			paths = append(paths, real)
		}
	}
	return paths
}

// nearest returns the nearest directory above path that can be seen.
func nearest(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

// chain returns a directory and those above it, the root first.
func chain(dir string) (all []access) {
	for {
		if info, err := os.Stat(dir); err == nil {
			all = append([]access{accessOf(dir, info)}, all...)
		}
		above := filepath.Dir(dir)
		if above == dir {
			return all
		}
		dir = above
	}
}

func accessOf(path string, info fs.FileInfo) access {
	uid, gid := owner(info)
	return access{path: path, mode: info.Mode(), uid: uid, gid: gid}
}

// touch makes a file in dir and removes it, and returns how long it took until that was an
// event. Its name is one that a directory of key files may have without harm.
func touch(ctx context.Context, dir string) (time.Duration, error) {
	wake := make(chan struct{}, 1)
	name := filepath.Join(dir, "..sqlrotate-check")
	watch := disk.NewWatch(wake, name)
	defer watch.Close()
	if err := watch.Arm(); err != nil {
		return 0, err
	}
	start := time.Now()
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // in the directory that the caller has named
	if err != nil {
		return 0, err
	}
	defer os.Remove(name) //nolint:errcheck // it was ours
	if err := file.Close(); err != nil {
		return 0, err
	}
	timer := time.NewTimer(eventTimeout)
	defer timer.Stop()
	select {
	case <-wake:
		return time.Since(start), nil
	case <-timer.C:
		return 0, errors.New("no event came for a file that was made there, within " + eventTimeout.String())
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// hasVersion reports whether a path has the name of a version of a Kubernetes volume in it.
func hasVersion(path string) bool { return strings.Contains(path, "/..") }
