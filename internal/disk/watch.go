package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// shared is the watcher of this process while anything is watched: a user has 128
// inotify instances by default.
//
//nolint:gochecknoglobals // one for a process is what it is for
var shared struct {
	sync.Mutex
	w     *watcher
	users int
}

func acquire() (*watcher, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.w == nil {
		w, err := newWatcher()
		if err != nil {
			return nil, err
		}
		shared.w = w
	}
	shared.users++
	return shared.w, nil
}

func release() {
	shared.Lock()
	defer shared.Unlock()
	if shared.users--; shared.users == 0 {
		shared.w.close()
		shared.w = nil
	}
}

// watcher is an inotify instance (kqueue, ReadDirectoryChangesW elsewhere) that any
// number of watches share. It is safe for concurrent use.
type watcher struct {
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
	subs map[*Watch]struct{}
}

func newWatcher() (*watcher, error) {
	fsw, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{fs: fsw, dirs: map[string]*watchedDir{}, done: make(chan struct{})}
	go w.dispatch()
	return w, nil
}

// close ends the watching and waits for it.
func (w *watcher) close() {
	_ = w.fs.Close()
	<-w.done
}

// dispatch passes on that something happened, not what: a subscriber reads again.
func (w *watcher) dispatch() {
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

// Watch tells when a path may have changed. Its methods are not called concurrently.
type Watch struct {
	path string
	w    *watcher
	wake chan<- struct{}
	dirs map[string]bool // what it is registered for
}

// NewWatch makes a watch that watches nothing yet. That path may have changed arrives as
// a value in wake, which holds at least one. All watches of a process share one inotify
// instance; past the limit of the user (fs.inotify.max_user_instances) NewWatch fails
// with "too many open files".
func NewWatch(path string, wake chan<- struct{}) (*Watch, error) {
	w, err := acquire()
	if err != nil {
		return nil, err
	}
	return &Watch{path: path, w: w, wake: wake, dirs: map[string]bool{}}, nil
}

// Arm watches the directories that matter now: whatever changes after it has returned
// is an event. On an error as much is watched as can be.
func (s *Watch) Arm() error {
	// A link can change between being followed and being watched; then what it
	// leads to has changed as well.
	for range 4 {
		changed, err := s.watch(watchDirs(s.path))
		if err != nil || !changed {
			return err
		}
	}
	return nil
}

// watch makes dirs the watched directories. It reports whether that changed what
// is watched, in which case dirs may be out of date already. On an error as much
// is watched as can be.
func (s *Watch) watch(dirs map[string]fs.FileInfo) (changed bool, err error) {
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

func (s *Watch) add(dir string, info fs.FileInfo) (added bool, err error) {
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
		d = &watchedDir{subs: map[*Watch]struct{}{}}
		s.w.dirs[dir] = d
	}
	d.info = info
	added = moved || !s.dirs[dir]
	d.subs[s] = struct{}{}
	s.dirs[dir] = true
	return added, nil
}

func (s *Watch) remove(dir string) {
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

// Close ends the watch, and the inotify instance if this was the last.
func (s *Watch) Close() {
	s.w.arming.Lock()
	for dir := range s.dirs {
		s.remove(dir)
	}
	s.w.arming.Unlock()
	release()
}
