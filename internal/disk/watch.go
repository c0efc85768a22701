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

// Watcher is an inotify instance (kqueue, ReadDirectoryChangesW elsewhere) that
// any number of watches share. A user has 128 instances by default on Linux; past that
// NewWatcher fails with "too many open files" (fs.inotify.max_user_instances), and
// what has none polls.
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
	subs map[*Watch]struct{}
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

// Watch tells when a path may have changed. Its methods are not called concurrently.
type Watch struct {
	path string
	w    *Watcher
	wake chan<- struct{}
	own  bool            // w is closed with the watch
	dirs map[string]bool // what it is registered for
}

// NewWatch joins w, or a Watcher of its own if w is nil. That path may have changed
// arrives as a value in wake, which holds at least one.
func NewWatch(w *Watcher, path string, wake chan<- struct{}) (*Watch, error) {
	own := w == nil
	if own {
		var err error
		if w, err = NewWatcher(); err != nil {
			return nil, err
		}
	}
	return &Watch{path: path, w: w, wake: wake, own: own, dirs: map[string]bool{}}, nil
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

// Close ends the watch, and the Watcher if nobody else has it.
func (s *Watch) Close() {
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
