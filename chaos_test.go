//go:build linux

// Chaos: whatever happens to a credential file, at random, the last good credential is
// in use, and the newest one soon after the file is good again.

package sqlrotate

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// vandal spoils a file and the directory that it is in.
type vandal struct {
	*testing.T
	random    *rand.Rand
	dir, path string
	done      map[string]int
}

func newVandal(t *testing.T, path string) *vandal {
	t.Helper()
	seed := soakSeed(t)
	t.Logf("seed %d", seed)
	return &vandal{T: t, random: rand.New(rand.NewPCG(seed, 0)), dir: filepath.Dir(path), path: path, done: map[string]int{}}
}

// clear removes whatever is where the file should be, and sees that its directory
// is there.
func (v *vandal) clear() {
	v.Helper()
	_ = os.Rename(v.dir+".away", v.dir)
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		v.Fatal(err)
	}
	if err := os.RemoveAll(v.path); err != nil {
		v.Fatal(err)
	}
}

// spoil does one thing, and leaves it so for a moment.
func (v *vandal) spoil() {
	v.Helper()
	anew := func(do func() error) func() error {
		return func() error { v.clear(); return do() }
	}
	acts := []struct {
		name string
		do   func() error
	}{
		{"deleted", anew(func() error { return nil })},
		{"truncated", func() error { _ = os.Truncate(v.path, 5); return nil }},
		{"corrupted", func() error { _ = writeAt(v.path, os.O_WRONLY|syscall.O_NONBLOCK, 3, []byte("}{\x00")); return nil }},
		{"chmod 000", func() error { _ = os.Chmod(v.path, 0); return nil }},
		{"a directory", anew(func() error { return os.Mkdir(v.path, 0o700) })},
		{"a fifo", anew(func() error { return syscall.Mkfifo(v.path, 0o600) })},
		{"a symlink loop", anew(func() error { return os.Symlink(filepath.Base(v.path), v.path) })},
		{"sparse, 2 GiB", anew(func() error {
			if err := write(v.path, nil); err != nil {
				return err
			}
			return os.Truncate(v.path, 2<<30)
		})},
		{"NULs", anew(func() error { return write(v.path, make([]byte, 1000)) })},
		{"directory away", func() error { return os.Rename(v.dir, v.dir+".away") }},
		{"directory removed", func() error { return os.RemoveAll(v.dir) }},
	}
	act := acts[v.random.IntN(len(acts))]
	if err := act.do(); err != nil {
		v.Fatalf("%s: %v", act.name, err)
	}
	v.done[act.name]++
	<-time.After(time.Duration(v.random.IntN(50)) * time.Millisecond)
	if _, err := os.Stat(v.dir); err != nil {
		if err := os.Rename(v.dir+".away", v.dir); err != nil {
			v.clear()
		}
	}
}

func TestSoakFileSourceSurvivesChaos(t *testing.T) {
	m := stall.Watch(t)
	v := newVandal(t, filepath.Join(t.TempDir(), "secret"))
	n := 1
	if err := replace(v.path, padded(n)); err != nil {
		t.Fatal(err)
	}
	s := startFileSource(t, v.path, FileOptions{Poll: 500 * time.Millisecond})
	defer s.Close()

	ctx, cancel := context.WithTimeout(t.Context(), soakFor(t, 5*time.Second))
	defer cancel()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			newest := 0
			for ctx.Err() == nil {
				cred, err := s.Credential(t.Context())
				n, whole := numbered(cred)
				if err != nil || !whole || n < newest {
					t.Errorf("served user %q, password %q after number %d: %v", cred.Username, cred.Password.Reveal(), newest, err)
					return
				}
				newest = n
				<-time.After(time.Millisecond)
			}
		})
	}
	for ctx.Err() == nil {
		if v.random.IntN(4) > 0 {
			v.spoil()
			continue
		}
		n++
		v.clear()
		put := replace
		if v.random.IntN(3) == 0 {
			put = write
		}
		if err := put(v.path, padded(n)); err != nil {
			t.Fatal(err)
		}
	}
	v.clear()
	n++
	began := time.Now()
	if err := replace(v.path, padded(n)); err != nil {
		t.Fatal(err)
	}
	readers.Wait()
	waitFor(t, m, "the last is served", func() bool { got, _ := numbered(s.last()); return got == n })
	took := time.Since(began)
	waitFor(t, m, "healthy", func() bool { return s.CheckHealth() == nil })
	t.Logf("%d versions, served %v after the end: %v", n, took, v.done)
}

// The same under an application at work, whose role is rotated meanwhile, and the role
// before dropped. Of every two credentials one is left alone until it is read, which
// takes less than the lag.
func TestSoakApplicationSurvivesChaos(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	const overlap, lag, poll = 8 * time.Second, 4 * time.Second, 200 * time.Millisecond
	s := newService(t, pgtest.New(t, pgtest.Options{}), func(cfg *Config) {
		cfg.Window = Window{Overlap: overlap, Lag: lag, MaxInUse: time.Second}
	})
	s.meter.AskServer(s.server.Admin())
	v := newVandal(t, s.path)
	l := s.startLoad(20, 2*time.Millisecond, 30*time.Second)
	var revocations sync.WaitGroup
	publish := func() {
		old := s.role
		v.clear()
		s.rotate()
		revocations.Go(func() {
			<-time.After(overlap)
			s.revoke(old)
		})
	}
	inUse := func() bool { return s.version(s.role).Current }
	rotations, slowest := 0, time.Duration(0)
	for end := time.Now().Add(soakFor(t, 5*time.Second)); time.Now().Before(end); rotations++ {
		publish()
		if rotations%2 == 0 {
			slowest = max(slowest, s.eventually(lag/2, "a login that is left alone is read", inUse))
		}
		for pause := time.Now().Add(time.Duration(1000+v.random.IntN(1500)) * time.Millisecond); time.Now().Before(pause); {
			v.spoil()
		}
	}
	publish()
	took := s.eventually(10*time.Second, "the newest login is in use", func() bool {
		newest := s.version(s.role)
		return newest.Current && newest.Proven
	})
	s.eventually(10*time.Second, "all is well", func() bool { return s.c.CheckHealth() == nil })
	revocations.Wait()
	l.mustNotFail()
	s.mustLeaveNoSession()
	if got := s.c.Stats(); got.Refused > 0 {
		t.Errorf("%+v", got)
	}
	t.Logf("%d rotations, of which %d were seen, after %v at the most if left alone; the last in use after %v (a poll: %v); %d operations; %v",
		rotations+1, s.c.Stats().Rotations, slowest, took, poll, l.Done(), v.done)
}
