// The watch: one inotify instance for all sources, which hear of their own files alone.

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// slow is how long the system may take to watch a directory. One that takes longer
	// is polled for a while, because fsnotify passes on no event meanwhile.
	slow      = time.Second
	slowPause = time.Minute

	// addAgain is how often what is watched is added again.
	addAgain = 30 * time.Second

	// maxHung is how many inotify instances may hang before no other is opened.
	maxHung = 4

	// limitForgotten is how long a limit must not have been met to be news again.
	limitForgotten = time.Hour
)

var (
	errSlow = errors.New("the file system takes too long to answer, it is polled")
	errGone = errors.New("another directory has been too slow")
	errHung = fmt.Errorf("%d inotify instances hang in a file system, it is polled", maxHung)
)

// limitError is for a limit of the system's, which all watches of a process run into.
type limitError struct {
	limit string
	err   error
	known bool // another watch has met it before, not long ago
}

func (e *limitError) Error() string { return fmt.Sprintf("%s: %v", e.limit, e.err) }
func (e *limitError) Unwrap() error { return e.err }

// IsKnownLimit reports whether err, which Arm has returned, is of a limit that another watch
// of the process has met before, within the hour: one need not be told of it again.
func IsKnownLimit(err error) bool {
	var limit *limitError
	return errors.As(err, &limit) && limit.known
}

// Watch tells when one of its paths may have changed. Its methods are not called
// concurrently.
type Watch struct {
	hub   *hub
	paths []string
	wake  chan<- struct{}
	in    *instance           // where it is registered; nil: nowhere
	dirs  map[string][]string // for what: names, by directory

	armed time.Time // when all that matters was last found to be watched; zero if it isn't
	ends  []end     // where paths led to then
	told  bool      // of an event since; guarded by in.mu
}

// end is what a path leads to.
type end struct {
	info    fs.FileInfo
	version string // where ..data points to; empty without one
}

func endOf(path string) (e end) {
	e.info, _ = os.Stat(path)
	if e.info != nil && e.info.IsDir() {
		e.version, _ = os.Readlink(join(path, dataLink))
	}
	return e
}

func (e end) same(other end) bool {
	return e.info != nil && other.info != nil && e.version == other.version && os.SameFile(e.info, other.info)
}

// NewWatch makes a watch of paths, which are absolute; it watches nothing yet. That one
// of them may have changed arrives as a value in wake, which holds at least one.
//
// All watches of a process share one inotify instance (kqueue, ReadDirectoryChangesW
// elsewhere), which is opened with the first and closed with the last.
func NewWatch(wake chan<- struct{}, paths ...string) *Watch {
	return process.newWatch(wake, paths...)
}

// Arm watches the directories that matter now: what changes after it has returned is an
// event. On an error as much is watched as can be. There are no events on network file
// systems and FUSE, and none past the user's limits on inotify (ENOSPC for directories,
// EMFILE for instances); and none for a while if the file system has been slow.
func (w *Watch) Arm() error {
	ends := make([]end, len(w.paths))
	for i, path := range w.paths {
		ends[i] = endOf(path)
	}
	if w.isArmed(ends) {
		return nil
	}
	w.armed = time.Time{}
	var err error
	// A link can change between being followed and being watched; then what it
	// leads to has changed as well.
	for range 4 {
		w.forget()
		now := time.Now()
		var changed bool
		changed, err = w.arm()
		if err == nil && !changed {
			w.armed, w.ends = now, ends
			return nil
		}
		if err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return err
}

// isArmed reports whether there is nothing to do: the paths lead to where they led to, no
// event says that anything is new, and a watch can't have died unseen for long.
func (w *Watch) isArmed(ends []end) bool {
	if w.in == nil || time.Since(w.armed) >= addAgain || !slices.EqualFunc(ends, w.ends, end.same) {
		return false
	}
	select {
	case <-w.in.gone:
		return false
	default:
	}
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	return !w.told
}

// forget forgets events, because what they may have changed is looked at next.
func (w *Watch) forget() {
	if w.in == nil {
		return
	}
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	w.told = false
}

// arm watches the directories that matter, and no others. It reports whether that changed
// what is watched, in which case others may matter already.
func (w *Watch) arm() (changed bool, err error) {
	in, err := w.hub.join(w.in)
	if err != nil {
		return false, err // before anything is looked at: it may be so at each poll
	}
	dirs := watchDirs(w.paths...)
	if in != w.in {
		w.in, w.dirs = in, map[string][]string{}
	}
	for path, p := range dirs {
		if names, ok := w.dirs[path]; ok && slices.Equal(names, p.names) && in.knows(path, p.info) {
			continue
		}
		kind := remote(path)
		switch {
		case kind != "":
			err = errors.Join(err, fmt.Errorf("watch %s: no events on %s, it is polled", quote(path), kind))
			delete(dirs, path)
		case w.hub.isSlow(path):
			err = errors.Join(err, fmt.Errorf("watch %s: %w", quote(path), errSlow))
			delete(dirs, path)
		default:
			added, aerr := w.add(path, p)
			changed = changed || added
			if aerr != nil && !errors.Is(aerr, fs.ErrNotExist) { // gone meanwhile
				err = errors.Join(err, fmt.Errorf("watch %s: %w", quote(path), w.hub.limit(aerr)))
			}
		}
	}
	for path := range w.dirs {
		if _, ok := dirs[path]; !ok {
			w.remove(path)
		}
	}
	return changed, err
}

// add watches names in a directory.
func (w *Watch) add(path string, p place) (added bool, err error) {
	err = w.in.call(path, func() error {
		w.in.mu.Lock()
		d := w.in.dirs[path]
		w.in.mu.Unlock()
		moved := d != nil && !os.SameFile(d.info, p.info)
		if moved {
			// Another directory has taken the place, with or without an event; the
			// old watch, if it still lives, is of no use.
			_ = w.in.fs.Remove(path)
		}
		// Also for one that is known: a watch can die unseen, when its file system is
		// unmounted.
		if err := w.in.fs.Add(path); err != nil {
			return err
		}
		w.in.mu.Lock()
		defer w.in.mu.Unlock()
		if d == nil {
			d = &watchedDir{watches: map[string]map[*Watch]struct{}{}}
			w.in.dirs[path] = d
		}
		d.info, d.added = p.info, time.Now()
		was, known := w.dirs[path]
		added = moved || !known || !slices.Equal(was, p.names)
		d.forget(w, was)
		d.tell(w, p.names)
		w.dirs[path] = p.names
		return nil
	})
	return added, err
}

func (w *Watch) remove(path string) {
	names := w.dirs[path]
	delete(w.dirs, path)
	_ = w.in.call(path, func() error {
		w.in.mu.Lock()
		d := w.in.dirs[path]
		d.forget(w, names)
		unused := len(d.watches) == 0
		if unused {
			delete(w.in.dirs, path)
		}
		w.in.mu.Unlock()
		if !unused {
			return nil
		}
		return w.in.fs.Remove(path) // fails if the directory is gone, and its watch with it
	})
}

// Close ends the watch. It waits for no file system, but for slow at the most.
func (w *Watch) Close() {
	if w.in == nil {
		return
	}
	for path := range w.dirs {
		w.remove(path)
	}
	w.hub.leave(w.in)
	w.in = nil
}

// hub has the inotify instances of a process: the one in use, and those that hang.
type hub struct {
	open func() (events, error)

	mu    sync.Mutex // never held while the system is called, but to open and close
	in    *instance  // the one in use; nil: none
	hung  int
	slows map[string]time.Time // directories that were too slow, and when
	met   time.Time            // when a limit was met last
}

// process is the hub of this process: a user has 128 instances by default, and so each
// source can't have its own.
//
//nolint:gochecknoglobals // what a process has one of
var process = &hub{open: openEvents}

func (h *hub) newWatch(wake chan<- struct{}, paths ...string) *Watch {
	return &Watch{hub: h, wake: wake, paths: paths}
}

// join returns the instance to be used in place of old, which may be nil.
func (h *hub) join(old *instance) (*instance, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case old != nil && old == h.in:
		return old, nil
	case h.in != nil:
	case h.hung >= maxHung:
		return nil, errHung
	default:
		events, err := h.open()
		if err != nil {
			return nil, h.limitLocked(err)
		}
		h.in = newInstance(h, events)
	}
	h.in.users++
	return h.in, nil
}

// limit marks an error that is one of a limit.
func (h *hub) limit(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.limitLocked(err)
}

func (h *hub) limitLocked(err error) error {
	e := &limitError{err: err, known: time.Since(h.met) < limitForgotten}
	switch {
	case errors.Is(err, syscall.EMFILE):
		e.limit = "the user has no inotify instance left (fs.inotify.max_user_instances), or the process no file (ulimit -n)"
	case errors.Is(err, syscall.ENOSPC):
		e.limit = "the user has no inotify watch left (fs.inotify.max_user_watches)"
	default:
		return err
	}
	h.met = time.Now()
	return e
}

func (h *hub) leave(in *instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if in != h.in {
		return // given up
	}
	if in.users--; in.users == 0 {
		h.in = nil
		in.close()
	}
}

// giveUp has everybody leave an instance in which a call for path hangs.
func (h *hub) giveUp(in *instance, path string) {
	h.mu.Lock()
	if h.in == in {
		h.in = nil
	}
	h.hung++
	now := time.Now()
	for path, since := range h.slows {
		if now.Sub(since) >= slowPause {
			delete(h.slows, path)
		}
	}
	if h.slows == nil {
		h.slows = map[string]time.Time{}
	}
	h.slows[path] = now
	h.mu.Unlock()
	close(in.gone)
	in.notifyAll()
}

// bury closes an instance that was given up and whose call has returned.
func (h *hub) bury(in *instance) {
	in.close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hung--
}

func (h *hub) isSlow(path string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok := h.slows[path]
	return ok && time.Since(since) < slowPause
}

// instance is an inotify instance, and who wants to hear of what.
type instance struct {
	hub   *hub
	fs    events
	users int // guarded by hub.mu

	turn chan struct{} // taken by the one who calls fs, which has a lock of its own
	gone chan struct{} // closed when it is given up, because a call of fs hangs
	done chan struct{} // closed when dispatch has ended

	// mu guards dirs. It is never held across a call of fs.
	mu   sync.Mutex
	dirs map[string]*watchedDir
}

// watchedDir is one directory and who wants to hear of what in it. A directory may hold the
// files of thousands, and each event is for few of them.
type watchedDir struct {
	info    fs.FileInfo // which directory it was when the watch was set
	added   time.Time   // when that was last; zero if it may have died
	watches map[string]map[*Watch]struct{}
}

// tell has w hear of names.
func (d *watchedDir) tell(w *Watch, names []string) {
	for _, name := range names {
		if d.watches[name] == nil {
			d.watches[name] = map[*Watch]struct{}{}
		}
		d.watches[name][w] = struct{}{}
	}
}

// forget has w hear of names no more.
func (d *watchedDir) forget(w *Watch, names []string) {
	for _, name := range names {
		delete(d.watches[name], w)
		if len(d.watches[name]) == 0 {
			delete(d.watches, name)
		}
	}
}

// events is what is needed of an [fsnotify.Watcher].
type events interface {
	Add(path string) error
	Remove(path string) error
	Close() error
	Channels() (<-chan fsnotify.Event, <-chan error)
}

type fsEvents struct{ *fsnotify.Watcher }

func (e fsEvents) Channels() (<-chan fsnotify.Event, <-chan error) { return e.Events, e.Errors }

func openEvents() (events, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	return fsEvents{w}, nil
}

func newInstance(h *hub, events events) *instance {
	in := &instance{
		hub: h, fs: events, dirs: map[string]*watchedDir{},
		turn: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{}),
	}
	go in.dispatch()
	return in
}

// close ends the watching and waits for it.
func (in *instance) close() {
	_ = in.fs.Close()
	<-in.done
}

// call calls f, which calls in.fs for path, when it is its turn. If the system takes too
// long to answer, the instance is given up: what f has done is worth nothing then.
func (in *instance) call(path string, f func() error) error {
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-in.gone:
	}
	select {
	case <-in.gone:
		return errGone
	default:
	}
	late := time.AfterFunc(slow, func() { in.hub.giveUp(in, path) })
	err := f()
	if !late.Stop() {
		<-in.gone
		in.hub.bury(in)
		return errSlow
	}
	return err
}

// knows reports whether a directory has been added, and not so long ago that it is to be
// added again.
func (in *instance) knows(path string, info fs.FileInfo) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	d := in.dirs[path]
	return d != nil && os.SameFile(d.info, info) && time.Since(d.added) < addAgain
}

// dispatch passes on that something happened, not what: who hears of it reads again.
func (in *instance) dispatch() {
	defer close(in.done)
	events, errs := in.fs.Channels()
	for events != nil || errs != nil {
		select {
		case ev, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			in.mu.Lock()
			in.dirs[filepath.Dir(ev.Name)].notify(filepath.Base(ev.Name))
			if d := in.dirs[ev.Name]; d != nil { // the directory itself: what is there next may have its inode
				d.added = time.Time{}
				d.notifyAll()
			}
			in.mu.Unlock()
		case _, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			in.notifyAll() // an overflow, mostly
		}
	}
}

// notifyAll is for when it isn't known what has happened.
func (in *instance) notifyAll() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, d := range in.dirs {
		d.added = time.Time{}
		d.notifyAll()
	}
}

// notify tells of an event of one name in the directory. Elsewhere than on Linux a name may
// be written in several ways, so there it may be anybody's.
func (d *watchedDir) notify(name string) {
	switch {
	case d == nil:
	case runtime.GOOS != "linux":
		d.notifyAll()
	default:
		notify(d.watches[name])
		notify(d.watches[anyName])
	}
}

func (d *watchedDir) notifyAll() {
	for _, watches := range d.watches {
		notify(watches)
	}
}

func notify(watches map[*Watch]struct{}) {
	for w := range watches {
		w.told = true
		select {
		case w.wake <- struct{}{}:
		default: // there is one already
		}
	}
}
