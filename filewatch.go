// Watching directories: which ones decide what a path is, and one inotify
// instance for any number of sources. The only importer of fsnotify.

package sqlrotate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// Watcher is an inotify instance (kqueue, ReadDirectoryChangesW elsewhere) that
// any number of [FileSource] share: make one and put it into each
// [FileOptions].Watcher. A user has 128 instances by default on Linux; past that
// NewWatcher fails with "too many open files" (fs.inotify.max_user_instances), and
// a source without one polls.
//
// A Watcher is safe for concurrent use.
type Watcher struct {
	fs *fsnotify.Watcher

	// arming admits one Add or Remove at a time. It is not taken to dispatch an
	// event: fs may hold its own lock until its event has been taken.
	arming sync.Mutex

	// mu guards dirs. It is never held across a call of fs.
	mu   sync.Mutex
	dirs map[string]*watchedDir

	done chan struct{} // closed when dispatch has ended
}

// watchedDir is one directory and who wants to hear of it.
type watchedDir struct {
	info fs.FileInfo // which directory it was when the watch was set
	subs map[*subscription]struct{}
}

// NewWatcher makes an inotify instance. Whoever made it closes it, after the
// sources that use it.
func NewWatcher() (*Watcher, error) {
	fsw, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("sqlrotate: watcher: %w", err)
	}
	w := &Watcher{fs: fsw, dirs: map[string]*watchedDir{}, done: make(chan struct{})}
	go w.dispatch()
	return w, nil
}

// Close ends the watching and waits for it. Sources that still use the Watcher go
// on by polling. Close can be called more than once.
func (w *Watcher) Close() error {
	err := w.fs.Close()
	<-w.done
	if err != nil {
		return fmt.Errorf("sqlrotate: watcher: %w", err)
	}
	return nil
}

// dispatch passes on that something happened, not what: a subscriber reads again.
func (w *Watcher) dispatch() {
	defer close(w.done)
	events, errs := w.fs.Events, w.fs.Errors
	for events != nil || errs != nil {
		select {
		case ev, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			w.mu.Lock()
			w.dirs[filepath.Dir(ev.Name)].notify() // something in a directory
			w.dirs[ev.Name].notify()               // the directory itself
			w.mu.Unlock()
		case _, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			// An overflow, mostly: what was lost is unknown.
			w.mu.Lock()
			for _, d := range w.dirs {
				d.notify()
			}
			w.mu.Unlock()
		}
	}
}

func (d *watchedDir) notify() {
	if d == nil {
		return
	}
	for s := range d.subs {
		poke(s.wake)
	}
}

// poke makes c readable without waiting.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// subscription is what one source watches through a Watcher. Its methods are not
// called concurrently.
type subscription struct {
	w    *Watcher
	wake chan<- struct{}
	own  bool            // w is closed with the subscription
	dirs map[string]bool // what this subscription is registered for
}

// subscribe joins w, or a Watcher of its own if w is nil. Events arrive as a value
// in wake.
func subscribe(w *Watcher, wake chan<- struct{}) (*subscription, error) {
	own := w == nil
	if own {
		var err error
		if w, err = NewWatcher(); err != nil {
			return nil, err
		}
	}
	return &subscription{w: w, wake: wake, own: own, dirs: map[string]bool{}}, nil
}

// watch makes dirs the watched directories. It reports whether that changed what
// is watched, in which case dirs may be out of date already. On an error as much
// is watched as can be.
func (s *subscription) watch(dirs map[string]fs.FileInfo) (changed bool, err error) {
	s.w.arming.Lock()
	defer s.w.arming.Unlock()
	for dir, info := range dirs {
		added, aerr := s.add(dir, info)
		changed = changed || added
		if aerr != nil && !errors.Is(aerr, fs.ErrNotExist) { // gone meanwhile
			err = errors.Join(err, fmt.Errorf("watch %s: %w", dir, aerr))
		}
	}
	for dir := range s.dirs {
		if _, ok := dirs[dir]; !ok {
			s.remove(dir)
		}
	}
	return changed, err
}

func (s *subscription) add(dir string, info fs.FileInfo) (added bool, err error) {
	s.w.mu.Lock()
	d := s.w.dirs[dir]
	s.w.mu.Unlock()
	moved := d != nil && !os.SameFile(d.info, info)
	if moved {
		// Another directory has taken the place, with or without an event; the
		// old watch, if it still lives, is of no use.
		_ = s.w.fs.Remove(dir)
	}
	// Also for one that is known: a watch can die unseen, when its file system is
	// unmounted, and to add it again costs a microsecond.
	if err := s.w.fs.Add(dir); err != nil {
		return false, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if d == nil {
		d = &watchedDir{subs: map[*subscription]struct{}{}}
		s.w.dirs[dir] = d
	}
	d.info = info
	added = moved || !s.dirs[dir]
	d.subs[s] = struct{}{}
	s.dirs[dir] = true
	return added, nil
}

func (s *subscription) remove(dir string) {
	delete(s.dirs, dir)
	s.w.mu.Lock()
	d := s.w.dirs[dir]
	delete(d.subs, s)
	unused := len(d.subs) == 0
	if unused {
		delete(s.w.dirs, dir)
	}
	s.w.mu.Unlock()
	if unused {
		_ = s.w.fs.Remove(dir) // fails if the directory is gone, and its watch with it
	}
}

// close ends the subscription, and the Watcher if nobody else has it.
func (s *subscription) close() {
	if s.own {
		_ = s.w.Close()
		return
	}
	s.w.arming.Lock()
	defer s.w.arming.Unlock()
	for dir := range s.dirs {
		s.remove(dir)
	}
}

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
