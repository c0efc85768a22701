//go:build linux

package sqlrotate

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/jail"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// Every file in testdata/filewatch is one way in which a secret changes on disk;
// its README describes the language. Each is run three times: with nothing but
// events, with nothing but polls, and with nothing but logins that read.
func TestFileSourceSeesEveryWayOfWriting(t *testing.T) {
	needsQuiet(t)
	scripts, err := filepath.Glob("testdata/filewatch/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			script := parseFileScript(t, string(text))
			if script.as != "" && !jail.RunAs(t, script.as) {
				return
			}
			for _, mode := range []string{"events", "polling", "reading"} {
				if script.modes != nil && !script.modes[mode] {
					continue
				}
				t.Run(mode, func(t *testing.T) {
					if script.as == "" {
						t.Parallel()
					}
					m := stall.Watch(t)
					began := time.Now()
					for range 5 {
						if script.run(t, m, mode) {
							return
						}
						t.Log("void: this machine stopped the writer for longer than the settle time; once more")
					}
					tooBusy(t, m, began, script.opt.Settle/4)
				})
			}
		})
	}
}

type fileScript struct {
	opt   FileOptions
	path  string
	as    string          // run in a process of this kind
	modes map[string]bool // nil: all
	steps []fileStep
	// The credentials that may ever be served.
	good map[[2]string]bool
}

type fileStep struct {
	line int
	text string
	args []string
}

func parseFileScript(t *testing.T, text string) *fileScript {
	t.Helper()
	s := &fileScript{path: "secret", opt: FileOptions{Settle: 100 * time.Millisecond}, good: map[[2]string]bool{}}
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		step := fileStep{line: i + 1, text: line, args: strings.Fields(line)}
		arg := func(i int) string {
			if i >= len(step.args) {
				t.Fatalf("line %d: %s: argument %d is missing", step.line, line, i)
			}
			return step.args[i]
		}
		switch arg(0) {
		case "source":
			s.path = arg(1)
		case "username":
			s.opt.Username = arg(1)
		case "settle":
			s.opt.Settle = duration(t, arg(1))
		case "waitfor":
			s.opt.WaitFor = duration(t, arg(1))
		case "as":
			s.as = arg(1)
		case "modes":
			s.modes = map[string]bool{}
			for _, mode := range step.args[1:] {
				s.modes[mode] = true
			}
		case "expect":
			s.good[[2]string{arg(1), arg(2)}] = true
			s.steps = append(s.steps, step)
		default:
			s.steps = append(s.steps, step)
		}
	}
	return s
}

// run runs the script in a directory of its own. It is not valid if the writer was
// held up so long between two steps that what it had written so far was to be
// believed.
func (script *fileScript) run(t *testing.T, m *stall.Meter, mode string) (valid bool) {
	dir := t.TempDir()
	in := func(name string) string {
		if rest, ok := strings.CutPrefix(name, "$DIR"); ok {
			return dir + rest
		}
		return filepath.Join(dir, name)
	}
	opt := script.opt
	opt.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	opt.Poll = time.Hour
	switch mode {
	case "polling":
		opt.Poll, opt.PollOnly = 50*time.Millisecond, true
	case "reading":
		opt.PollOnly = true
	}

	var (
		src     *FileSource
		mu      sync.Mutex
		accepts [][2]string
		stop    = make(chan struct{})
		readers sync.WaitGroup

		late   bool      // two steps of writing were further apart than the settle time
		writes time.Time // since when it has been writing
	)
	defer func() {
		close(stop)
		readers.Wait()
		if src != nil {
			if err := src.Close(); err != nil {
				t.Error(err)
			}
		}
		valid = true
		for _, login := range accepts {
			if !script.good[login] {
				if late {
					valid = false
					return
				}
				t.Errorf("%v was served: the script never makes it whole", login)
			}
		}
	}()

	for _, step := range script.steps {
		args := step.args
		switch args[0] {
		case "start", "alone", "expect", "healthy", "unhealthy", "watched", "unwatched":
			writes = time.Time{}
		case "pause":
		default:
			late = late || !writes.IsZero() && time.Since(writes) > opt.Settle/2
			writes = time.Now()
		}
		failed := func(err error) {
			if err != nil {
				t.Helper()
				t.Fatalf("line %d: %s: %v", step.line, step.text, err)
			}
		}
		rest := func(n int) []byte { // what follows the first n words, as it is
			text := step.text
			for range n {
				_, text, _ = strings.Cut(text, " ")
			}
			if text == "-" {
				return nil
			}
			return []byte(text)
		}
		switch args[0] {
		case "start":
			var err error
			src, err = newFileSource(in(script.path), opt)
			failed(err)
			plantInReads(src)
			mint := src.mint
			src.mint = func(cred Credential) string {
				mu.Lock()
				defer mu.Unlock()
				accepts = append(accepts, [2]string{cred.Username, cred.Password.Reveal()})
				return mint(cred)
			}
			began := time.Now()
			done := make(chan error, 1)
			go func() { done <- src.start() }()
			if len(args) > 1 && args[1] == "waiting" {
				// What follows happens while it waits.
				readers.Go(func() {
					if err := <-done; err != nil {
						t.Errorf("start: %v", err)
					}
				})
			} else {
				failed(<-done)
			}
			t.Logf("started after %v", time.Since(began))
			if mode == "reading" {
				readers.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						if _, err := src.Credential(t.Context()); err != nil {
							t.Errorf("Credential: %v", err)
							return
						}
					}
				})
			}
		case "expect":
			began := time.Now()
			want := Credential{Username: args[1], Password: NewSecret(args[2])}
			waitFor(t, m, fmt.Sprintf("line %d: %s", step.line, step.text), func() bool { return src.last().SameLogin(want) })
			t.Logf("%s: after %v", step.text, time.Since(began).Round(time.Millisecond))
		case "healthy":
			waitFor(t, m, step.text, func() bool { return src.CheckHealth() == nil })
		case "unhealthy":
			want := string(rest(1))
			waitFor(t, m, step.text, func() bool {
				err := src.CheckHealth()
				return err != nil && strings.Contains(err.Error(), want)
			})
		case "watched":
			if mode == "events" {
				waitFor(t, m, step.text, func() bool { return src.Status().Events })
			}
		case "unwatched":
			want := string(rest(1))
			if mode == "events" {
				waitFor(t, m, step.text, func() bool {
					st := src.Status()
					return !st.Events && strings.Contains(st.EventsErr.Error(), want)
				})
			}
		case "alone":
			if !src.Status().MountedAlone {
				t.Errorf("line %d: the source doesn't know that its file is a mount", step.line)
			}
		case "pause":
			<-time.After(duration(t, args[1]))
		case "polls": // whatever the mode, look now and then
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						poke(src.wake)
					}
				}
			})
		case "mkdir":
			failed(os.MkdirAll(in(args[1]), 0o700))
		case "write":
			failed(os.WriteFile(in(args[1]), rest(2), 0o600))
		case "append":
			failed(writeAt(in(args[1]), os.O_WRONLY|os.O_APPEND, -1, rest(2)))
		case "overwrite":
			at, err := strconv.ParseInt(args[2], 10, 64)
			failed(err)
			failed(writeAt(in(args[1]), os.O_WRONLY, at, rest(3)))
		case "truncate":
			size, err := strconv.ParseInt(args[2], 10, 64)
			failed(err)
			failed(os.Truncate(in(args[1]), size))
		case "sync":
			f, err := os.Open(in(args[1]))
			failed(err)
			failed(f.Sync())
			failed(f.Close())
		case "rename":
			failed(os.Rename(in(args[1]), in(args[2])))
		case "remove":
			failed(os.RemoveAll(in(args[1])))
		case "symlink":
			target := args[1]
			if strings.HasPrefix(target, "$DIR") {
				target = in(target)
			}
			failed(os.Symlink(target, in(args[2])))
		case "link":
			failed(os.Link(in(args[1]), in(args[2])))
		case "chmod":
			bits, err := strconv.ParseUint(args[1], 8, 32)
			failed(err)
			failed(os.Chmod(in(args[2]), os.FileMode(bits)))
		case "mtime":
			at, err := time.Parse(time.RFC3339, args[1])
			failed(err)
			failed(os.Chtimes(in(args[2]), at, at))
		case "mkfifo":
			failed(syscall.Mkfifo(in(args[1]), 0o600))
		case "sparse":
			failed(os.WriteFile(in(args[1]), nil, 0o600))
			failed(os.Truncate(in(args[1]), 2<<30))
		case "hold":
			f, err := os.Open(in(args[1]))
			failed(err)
			defer f.Close()
		case "run":
			cmd := exec.Command(args[1], args[2:]...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				failed(fmt.Errorf("%w: %s", err, out))
			}
		case "mount":
			path := in(args[1])
			failed(syscall.Mount("tmpfs", path, "tmpfs", 0, ""))
			defer func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) }() // the script may have done it
		case "bind": // a file
			path := in(args[2])
			failed(os.WriteFile(path, nil, 0o600))
			failed(syscall.Mount(in(args[1]), path, "", syscall.MS_BIND, ""))
			defer func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) }()
		case "umount":
			failed(syscall.Unmount(in(args[1]), syscall.MNT_DETACH))
		case "limit": // of this user namespace
			failed(os.WriteFile("/proc/sys/user/max_inotify_"+args[1], []byte(args[2]), 0))
		default:
			t.Fatalf("line %d: %s: unknown", step.line, step.text)
		}
	}
	return valid
}

// A mount hangs under one source that was polling it from the start, and over the
// directory of another that had watched it; and their neighbours notice nothing.
func TestSourceOfAHungMountDelaysNoNeighbour(t *testing.T) {
	if !jail.RunAs(t, "root") {
		return
	}
	m := stall.Watch(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name, "secret") }
	start := func(name string, opt FileOptions) *FileSource {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			replaceFile(t, path(name), loginJSON(1))
		}
		s := startFileSource(t, path(name), opt)
		t.Cleanup(func() { closeSource(t, s) })
		return s
	}
	byEvent := FileOptions{Poll: time.Hour}
	neighbours := make([]*FileSource, 10)
	for i := range neighbours {
		neighbours[i] = start(fmt.Sprint("local", i), byEvent)
	}
	covered := start("covered", FileOptions{Poll: 50 * time.Millisecond, ReadTimeout: 200 * time.Millisecond})
	if err := os.Mkdir(filepath.Join(dir, "remote"), 0o700); err != nil {
		t.Fatal(err)
	}
	far := mountFuse(t, filepath.Join(dir, "remote"), loginJSON(1))
	remote := start("remote", FileOptions{Poll: 50 * time.Millisecond, ReadTimeout: 200 * time.Millisecond, Settle: 50 * time.Millisecond})
	if st := remote.Status(); st.Events || !strings.Contains(st.EventsErr.Error(), "FUSE") {
		t.Errorf("the mount is watched: %+v", st)
	}
	far.put(loginJSON(2))
	waitFor(t, m, "a poll sees what is new on the mount", func() bool { return isLogin(remote.last(), 2) })

	near := mountFuse(t, filepath.Join(dir, "covered"), loginJSON(2))
	near.hang(true)
	far.hang(true)
	for _, s := range []*FileSource{remote, covered} {
		waitFor(t, m, "it is told of a mount that hangs", func() bool { return errors.Is(s.CheckHealth(), errHangs) })
	}
	var slowest time.Duration
	for n := 2; n < 12; n++ {
		began := time.Now()
		for i, s := range neighbours {
			replaceFile(t, path(fmt.Sprint("local", i)), loginJSON(n))
			if _, err := s.Credential(t.Context()); err != nil {
				t.Error(err)
			}
		}
		waitFor(t, m, "all neighbours are told", func() bool {
			for _, s := range neighbours {
				if !isLogin(s.last(), n) {
					return false
				}
			}
			return true
		})
		slowest = max(slowest, time.Since(began))
	}
	newcomer := start("newcomer", byEvent)
	replaceFile(t, path("newcomer"), loginJSON(2))
	waitFor(t, m, "a newcomer is told", func() bool { return isLogin(newcomer.last(), 2) })
	t.Logf("%d neighbours followed a change within %v", len(neighbours), slowest)
	if n, _ := near.waiting(); n == 0 {
		t.Error("nobody waits for the mount that was put over a directory")
	}

	far.hang(false)
	near.hang(false)
	waitFor(t, m, "all is well", func() bool {
		return remote.CheckHealth() == nil && covered.CheckHealth() == nil && isLogin(covered.last(), 2)
	})
	if _, polls := far.waiting(); polls > 0 {
		t.Error("the runtime's poller was asked for a file: while that hangs, nothing runs")
	}
}

// writeAt opens an existing file and writes once, at an offset if it is not
// negative.
func writeAt(path string, flags int, at int64, data []byte) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	if at >= 0 {
		_, err = f.WriteAt(data, at)
	} else {
		_, err = f.Write(data)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// tooBusy ends a test that was void each time because something was held up for longer
// than bearable.
func tooBusy(t *testing.T, m *stall.Meter, since time.Time, bearable time.Duration) {
	t.Helper()
	m.Blame(since, time.Now(), bearable, "void five times: the writer was too slow")
	t.FailNow()
}

// waitFor polls a condition. The time it allows is for a busy machine; how long
// things really take is measured by BenchmarkFileSourceDetection.
func waitFor(t *testing.T, m *stall.Meter, what string, cond func() bool) {
	t.Helper()
	m.Eventually(10*time.Second, what, cond)
}
