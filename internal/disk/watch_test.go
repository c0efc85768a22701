//go:build linux

package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// fakeEvents stands in for an inotify instance. Like fsnotify it holds a lock across
// each call of the system, and passes on no event meanwhile.
type fakeEvents struct {
	system *fakeSystem
	mu     sync.Mutex // fsnotify's
	events chan fsnotify.Event
	errs   chan error
	dirs   map[string]bool
	added  map[string]int
	closed bool
}

// fakeSystem has the instances that were opened, and the directories that hang.
type fakeSystem struct {
	mu        sync.Mutex
	instances []*fakeEvents
	hang      map[string]chan struct{}
	openErr   error
}

func (s *fakeSystem) open() (events, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openErr != nil {
		return nil, s.openErr
	}
	e := &fakeEvents{system: s, events: make(chan fsnotify.Event), errs: make(chan error), dirs: map[string]bool{}, added: map[string]int{}}
	s.instances = append(s.instances, e)
	return e, nil
}

// hangs makes dir hang until it is released.
func (s *fakeSystem) hangs(dir string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{})
	s.hang[dir] = c
	return func() {
		s.mu.Lock()
		delete(s.hang, dir)
		s.mu.Unlock()
		close(c)
	}
}

// state returns how many instances have been opened, and how many of them are closed.
func (s *fakeSystem) state() (opened, closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.instances {
		if e.closed {
			closed++
		}
	}
	return len(s.instances), closed
}

// adds returns how often a directory has been added to the first instance.
func (s *fakeSystem) adds(dir string) int {
	e := s.instances[0]
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.added[dir]
}

func (e *fakeEvents) call(dir string) {
	e.system.mu.Lock()
	hang := e.system.hang[dir]
	e.system.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

func (e *fakeEvents) Add(dir string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.call(dir)
	e.dirs[dir] = true
	e.added[dir]++
	return nil
}

func (e *fakeEvents) Remove(dir string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.dirs, dir)
	return nil
}

func (e *fakeEvents) Close() error {
	e.system.mu.Lock()
	defer e.system.mu.Unlock()
	e.closed = true
	close(e.events)
	close(e.errs)
	return nil
}

func (e *fakeEvents) Channels() (<-chan fsnotify.Event, <-chan error) { return e.events, e.errs }

// happens passes on an event of each directory's file, as soon as fsnotify can.
func (s *fakeSystem) happens(dirs ...string) {
	s.mu.Lock()
	last := s.instances[len(s.instances)-1]
	s.mu.Unlock()
	for _, dir := range dirs {
		last.mu.Lock()
		known := last.dirs[dir]
		last.mu.Unlock()
		if known {
			last.events <- fsnotify.Event{Name: join(dir, "file")}
		}
	}
}

// watched is a watch of one directory, and how it is told.
type watched struct {
	*Watch
	dir  string
	wake chan struct{}
}

func newHub(t *testing.T) (*fakeSystem, func(name string) watched) {
	t.Helper()
	system := &fakeSystem{hang: map[string]chan struct{}{}}
	h := &hub{open: system.open}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return system, func(name string) watched {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		wake := make(chan struct{}, 1)
		return watched{h.newWatch(wake, filepath.Join(dir, "file")), dir, wake}
	}
}

func (w watched) told() bool {
	select {
	case <-w.wake:
		return true
	default:
		return false
	}
}

// A directory hangs while it is being watched: for a second at the most its neighbours
// hear nothing, and wait; then they go on without it.
func TestDirectoryThatHangsBlindsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		good, late, bad := watch("good"), watch("late"), watch("bad")
		if err := good.Arm(); err != nil {
			t.Fatal(err)
		}
		release := system.hangs(bad.dir)
		hung := make(chan error, 1)
		go func() { hung <- bad.Arm() }()
		synctest.Wait()

		began := time.Now()
		if err := late.Arm(); err != nil || time.Since(began) > slow {
			t.Errorf("a neighbour is watched after %v: %v", time.Since(began), err)
		}
		synctest.Wait()
		if !good.told() {
			t.Error("who was watched before isn't told that it may have missed something")
		}
		if err := good.Arm(); err != nil {
			t.Error(err)
		}
		for range 3 {
			system.happens(good.dir, late.dir)
			synctest.Wait()
			if !good.told() || !late.told() {
				t.Error("no events any more")
			}
		}

		release()
		if err := <-hung; !errors.Is(err, errSlow) {
			t.Errorf("the one that hung: %v", err)
		}
		if opened, closed := system.state(); opened != 2 || closed != 1 {
			t.Errorf("%d instances opened, %d closed", opened, closed)
		}
		if err := bad.Arm(); !errors.Is(err, errSlow) {
			t.Errorf("right after it hung: %v", err)
		}
		time.Sleep(slowPause)
		if err := bad.Arm(); err != nil {
			t.Errorf("after a while: %v", err)
		}
		system.happens(bad.dir)
		synctest.Wait()
		if !bad.told() {
			t.Error("no event")
		}
		for _, w := range []watched{good, late, bad} {
			w.Close()
		}
		if opened, closed := system.state(); opened != 2 || closed != 2 {
			t.Errorf("%d instances opened, %d closed in the end", opened, closed)
		}
	})
}

func TestNoMoreThanFourInstancesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		var releases []func()
		var flights sync.WaitGroup
		for i := range maxHung {
			w := watch(fmt.Sprint(i))
			releases = append(releases, system.hangs(w.dir))
			flights.Go(func() {
				if err := w.Arm(); !errors.Is(err, errSlow) {
					t.Error(err)
				}
				w.Close()
			})
			time.Sleep(2 * slow)
		}
		w := watch("good")
		if err := w.Arm(); !errors.Is(err, errHung) {
			t.Errorf("with %d that hang: %v", maxHung, err)
		}
		releases[0]()
		synctest.Wait()
		if err := w.Arm(); err != nil {
			t.Errorf("with %d that hang: %v", maxHung-1, err)
		}
		w.Close()
		for _, release := range releases[1:] {
			release()
		}
		flights.Wait()
		if opened, closed := system.state(); opened != maxHung+1 || closed != opened {
			t.Errorf("%d instances opened, %d closed", opened, closed)
		}
	})
}

// A directory may hold the files of many: an event tells those who wait for that name, and
// who reads the whole directory.
func TestEachIsToldOfItsOwnFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		one := watch("dir")
		beside := func(path string) watched {
			wake := make(chan struct{}, 1)
			return watched{one.hub.newWatch(wake, path), one.dir, wake}
		}
		if err := os.Symlink("target", join(one.dir, "link")); err != nil {
			t.Fatal(err)
		}
		other, link, missing, all := beside(join(one.dir, "other")), beside(join(one.dir, "link")), beside(join(one.dir, "none/file")), beside(one.dir)
		watches := map[string]watched{"file": one, "other": other, "link": link, "missing": missing, "all": all}
		for name, w := range watches {
			if err := w.Arm(); err != nil {
				t.Fatal(name, err)
			}
			defer w.Close()
		}
		for event, want := range map[string]string{
			"file": "file all", "other": "other all", "link": "link all", "target": "link all", "none": "missing all", "file.next": "all",
		} {
			system.instances[0].events <- fsnotify.Event{Name: join(one.dir, event)}
			synctest.Wait()
			for name, w := range watches {
				if told := w.told(); told != slices.Contains(strings.Fields(want), name) {
					t.Errorf("%s is told of %s: %v", name, event, told)
				}
			}
		}
		system.instances[0].events <- fsnotify.Event{Name: one.dir, Op: fsnotify.Remove}
		synctest.Wait()
		for name, w := range watches {
			if !w.told() {
				t.Errorf("%s is not told that the directory is gone", name)
			}
		}
	})
}

// A path that comes to lead to another name in the same directory is told of that one.
func TestWatchOfALinkThatIsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		w := watch("dir")
		for _, target := range []string{"one", "two"} {
			if err := os.Symlink(target, join(w.dir, "next")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(join(w.dir, "next"), join(w.dir, "file")); err != nil {
				t.Fatal(err)
			}
			if len(system.instances) > 0 {
				system.happens(w.dir)
				synctest.Wait()
				if !w.told() {
					t.Error("the link is changed, and nobody is told")
				}
			}
			if err := w.Arm(); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"one", "two"} {
				system.instances[0].events <- fsnotify.Event{Name: join(w.dir, name)}
				synctest.Wait()
				if told := w.told(); told != (name == target) {
					t.Errorf("while it leads to %s it is told of %s: %v", target, name, told)
				}
			}
		}
		w.Close()
	})
}

// A directory that is removed, and made again with the same inode, has lost its watch.
func TestDirectoryIsWatchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		w := watch("dir")
		adds := func() int {
			if err := w.Arm(); err != nil {
				t.Fatal(err)
			}
			return system.adds(w.dir)
		}
		if n := adds(); n != 1 {
			t.Errorf("added %d times", n)
		}
		if n := adds(); n != 1 {
			t.Errorf("added %d times without a reason", n)
		}
		if err := os.WriteFile(join(w.dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := adds(); n != 1 {
			t.Errorf("added %d times for what is no event of its own", n)
		}
		system.instances[0].events <- fsnotify.Event{Name: w.dir, Op: fsnotify.Remove}
		synctest.Wait()
		if n := adds(); n != 2 || !w.told() {
			t.Errorf("added %d times after it was removed", n)
		}
		system.instances[0].errs <- fsnotify.ErrEventOverflow
		synctest.Wait()
		if n := adds(); n != 3 || !w.told() {
			t.Errorf("added %d times after an overflow", n)
		}
		time.Sleep(addAgain) // an unmount says nothing
		if n := adds(); n != 4 {
			t.Errorf("added %d times after a while", n)
		}
		w.Close()
	})
}

// What replaces a directory without an event, such as a mount, leads the path elsewhere.
func TestWatchFollowsAPathThatLeadsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		w := watch("dir")
		arm := func() {
			t.Helper()
			if err := w.Arm(); err != nil {
				t.Fatal(err)
			}
		}
		put := func() {
			t.Helper()
			if err := os.MkdirAll(w.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(join(w.dir, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put()
		arm()
		arm()
		if n := system.adds(w.dir); n != 1 {
			t.Errorf("added %d times", n)
		}
		if err := os.Rename(w.dir, w.dir+".old"); err != nil {
			t.Fatal(err)
		}
		put()
		arm()
		if n := system.adds(w.dir); n != 2 {
			t.Errorf("added %d times after another directory has taken the place", n)
		}
		w.Close()
	})
}

func TestWatchThatFindsNoInstanceTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		system, watch := newHub(t)
		w := watch("dir")
		system.openErr = syscall.EMFILE
		if err := w.Arm(); !errors.Is(err, syscall.EMFILE) || IsKnownLimit(err) {
			t.Error(err)
		}
		time.Sleep(limitForgotten - 1)
		if err := watch("another").Arm(); !errors.Is(err, syscall.EMFILE) || !IsKnownLimit(err) {
			t.Errorf("who meets the limit next: %v", err)
		}
		time.Sleep(limitForgotten)
		if err := watch("late").Arm(); !errors.Is(err, syscall.EMFILE) || IsKnownLimit(err) {
			t.Errorf("who meets it when that is forgotten: %v", err)
		}
		system.openErr = errors.New("another error")
		if err := w.Arm(); err != system.openErr || IsKnownLimit(err) { //nolint:errorlint // nothing is added
			t.Error(err)
		}
		system.openErr = nil
		if err := w.Arm(); err != nil {
			t.Error(err)
		}
		w.Close()
		w.Close()
		if opened, closed := system.state(); opened != 1 || closed != 1 {
			t.Errorf("%d instances opened, %d closed", opened, closed)
		}
	})
}
