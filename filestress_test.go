//go:build linux

package sqlrotate

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// wayOfWriting publishes numbered logins over and over in one way.
type wayOfWriting struct {
	name string
	opt  FileOptions
	path string                                    // of the source, in dir
	set  func(dir string, n int) error             // publish login n, from 1
	read func(cred Credential) (n int, whole bool) // what was served
}

// numbered reads the number of a login, and whether it is of one piece.
func numbered(cred Credential) (n int, whole bool) {
	_, _ = fmt.Sscanf(cred.Username, "u%d", &n)
	return n, n > 0 && cred.Password.Reveal() == fmt.Sprintf("p%d.", n)
}

// barePassword is numbered for a source whose user name is fixed.
func barePassword(cred Credential) (n int, whole bool) {
	_, _ = fmt.Sscanf(cred.Password.Reveal(), "p%d.", &n)
	return n, n > 0 && cred.Password.Reveal() == fmt.Sprintf("p%d.", n)
}

// padded is login n at a length that differs from one to the next.
func padded(n int) []byte {
	return fmt.Appendf(nil, `{"pad":%q,"username":"u%d","password":"p%d."}`, strings.Repeat("x", n*37%200), n, n)
}

func write(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }

func replace(path string, data []byte) error {
	if err := write(path+".tmp", data); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func swapLink(target, link string) error {
	if err := os.Symlink(target, link+".tmp"); err != nil {
		return err
	}
	return os.Rename(link+".tmp", link)
}

// kubelet publishes a version of a volume as its atomic writer does.
func kubelet(vol string, n int) error {
	version := fmt.Sprintf("..2026_%d", n)
	if err := os.MkdirAll(filepath.Join(vol, version), 0o700); err != nil {
		return err
	}
	for key, value := range map[string]string{"username": "u%d", "password": "p%d."} {
		if err := write(filepath.Join(vol, version, key), fmt.Appendf(nil, value, n)); err != nil {
			return err
		}
	}
	if err := swapLink(version, filepath.Join(vol, "..data")); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(vol, fmt.Sprintf("..2026_%d", n-1)))
}

// waysOfWriting returns them all. Those that put whole files in place need not let
// anything settle, so that ten thousand versions are not taken for one that never
// does.
func waysOfWriting() []wayOfWriting {
	atOnce := FileOptions{Settle: -1}
	return []wayOfWriting{
		{name: "rename", opt: atOnce, set: func(dir string, n int) error {
			return replace(filepath.Join(dir, "secret"), padded(n))
		}},
		{name: "rename with backup", opt: atOnce, set: func(dir string, n int) error {
			path := filepath.Join(dir, "secret")
			_ = os.Remove(path + ".bak")
			_ = os.Link(path, path+".bak")
			return replace(path, padded(n))
		}},
		{name: "kubelet", path: "vol", set: func(dir string, n int) error {
			return kubelet(filepath.Join(dir, "vol"), n)
		}},
		{name: "symlink", opt: atOnce, set: func(dir string, n int) error {
			target := fmt.Sprint("v", n)
			if err := write(filepath.Join(dir, target), padded(n)); err != nil {
				return err
			}
			_ = os.Remove(filepath.Join(dir, fmt.Sprint("v", n-2)))
			return swapLink(target, filepath.Join(dir, "secret"))
		}},
		{name: "truncate and write", set: func(dir string, n int) error {
			return write(filepath.Join(dir, "secret"), padded(n))
		}},
		{name: "truncate and write in pieces", opt: FileOptions{Username: "app"}, read: barePassword, set: func(dir string, n int) error {
			f, err := os.Create(filepath.Join(dir, "secret"))
			if err != nil {
				return err
			}
			defer f.Close()
			for _, c := range fmt.Sprintf("p%d.", n) {
				if _, err := f.WriteString(string(c)); err != nil {
					return err
				}
			}
			return nil
		}},
		// Only with a format that shows its end: nothing tells a file that has been
		// replaced unseen by one that is half written from one that is complete.
		{name: "remove and create in pieces", set: func(dir string, n int) error {
			path := filepath.Join(dir, "secret")
			_ = os.Remove(path)
			data := padded(n)
			if err := write(path, data[:len(data)/2]); err != nil {
				return err
			}
			return writeAt(path, os.O_WRONLY|os.O_APPEND, -1, data[len(data)/2:])
		}},
		{name: "overwrite without truncating", set: func(dir string, n int) error {
			path := filepath.Join(dir, "secret")
			data := fmt.Appendf(nil, `{"username":"u%06d","password":"p%d.",%s"":""}`, n, n, strings.Repeat(" ", 6-len(fmt.Sprint(n))))
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := f.WriteAt(data[:22], 0); err != nil { // the user name
				return err
			}
			_, err = f.WriteAt(data[22:], 22)
			return err
		}},
		{name: "plain directory", path: "dir", set: func(dir string, n int) error {
			dir = filepath.Join(dir, "dir")
			_ = os.Mkdir(dir, 0o700)
			if err := replace(filepath.Join(dir, "username"), fmt.Append(nil, "u", n)); err != nil {
				return err
			}
			return replace(filepath.Join(dir, "password"), fmt.Appendf(nil, "p%d.", n))
		}},
	}
}

// Hundreds of rewrites in each way, or ten thousand again and again, readers flat out:
// every credential that is served is one that was written, none is older than one
// served before, and when the writer pauses its latest is served.
func TestSoakFileSourceIsNeverTorn(t *testing.T) {
	needsQuiet(t)
	ways := waysOfWriting()
	rewrites, length := 800, soakFor(t, 0)/time.Duration(len(ways))
	if length > 0 {
		rewrites = 10_000
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for end := time.Now().Add(length); ; {
				way.mustNeverBeTorn(t, rewrites)
				if time.Now().After(end) {
					return
				}
			}
		})
	}
}

func (way wayOfWriting) mustNeverBeTorn(t *testing.T, rewrites int) {
	t.Helper()
	m := stall.Watch(t)
	began := time.Now()
	for range 5 {
		if way.neverTorn(t, m, rewrites, rewrites/2) {
			return
		}
		t.Log("void: this machine stopped the writer for longer than the settle time; once more")
	}
	tooBusy(t, m, began, way.settle()/4)
}

// settle is the settle time of the source, negative for none.
func (way wayOfWriting) settle() time.Duration {
	if way.opt.Settle == 0 {
		return time.Second
	}
	return way.opt.Settle
}

// neverTorn is not valid if the writer was held up so long within a rewrite that
// what it had written so far was to be believed.
func (way wayOfWriting) neverTorn(t *testing.T, m *stall.Meter, rewrites, pauseEach int) (valid bool) {
	t.Helper()
	dir := t.TempDir()
	if way.path == "" {
		way.path = "secret"
	}
	if way.read == nil {
		way.read = numbered
	}
	if err := way.set(dir, 1); err != nil {
		t.Fatal(err)
	}
	opt := way.opt
	opt.Settle = way.settle()
	s := startFileSource(t, filepath.Join(dir, way.path), opt)
	defer closeSource(t, s)

	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	var reads, versions int
	var wrong string
	readers.Go(func() {
		newest := 0
		for ctx.Err() == nil {
			cred, err := s.Credential(context.Background())
			n, whole := way.read(cred)
			if err != nil || !whole || n < newest {
				wrong = fmt.Sprintf("served user %q, password %q after number %d; error %v", cred.Username, cred.Password.Reveal(), newest, err)
				return
			}
			if n > newest {
				versions++
			}
			reads, newest = reads+1, n
		}
	})
	var slowest time.Duration
	for n := 2; n <= rewrites; n++ {
		began := time.Now()
		if err := way.set(dir, n); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
		if n%pauseEach == 0 {
			waitFor(t, m, fmt.Sprintf("number %d is served", n), func() bool { got, _ := way.read(s.last()); return got == n })
		}
	}
	cancel()
	readers.Wait()
	if wrong != "" && opt.Settle > 0 && slowest > opt.Settle/2 {
		return false
	}
	if wrong != "" {
		t.Error(wrong)
	}
	t.Logf("%d rewrites, %d reads, %d versions served", rewrites, reads, versions)
	return true
}

func BenchmarkFileSourceCredential(b *testing.B) {
	for _, way := range waysOfWriting() {
		if way.name != "rename" && way.name != "kubelet" && way.name != "symlink" {
			continue
		}
		b.Run(way.name, func(b *testing.B) {
			s := benchSource(b, way, FileOptions{})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Credential(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchSource(b *testing.B, way wayOfWriting, opt FileOptions) *FileSource {
	b.Helper()
	dir := b.TempDir()
	if way.path == "" {
		way.path = "secret"
	}
	if err := way.set(dir, 1); err != nil {
		b.Fatal(err)
	}
	opt.Logger = slog.New(slog.DiscardHandler)
	s, err := NewFileSource(filepath.Join(dir, way.path), opt)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeSource(b, s) })
	return s
}

// From the moment a writer is done until the source, by events alone, serves it.
func BenchmarkFileSourceDetection(b *testing.B) {
	for _, way := range waysOfWriting() {
		if way.read != nil {
			continue
		}
		b.Run(way.name, func(b *testing.B) {
			if way.path == "" {
				way.path = "secret"
			}
			dir := b.TempDir()
			if err := way.set(dir, 1); err != nil {
				b.Fatal(err)
			}
			s, err := NewFileSource(filepath.Join(dir, way.path), FileOptions{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			var worst time.Duration
			for n := 2; b.Loop(); n++ {
				if err := way.set(dir, n); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				for {
					changed := s.Changed()
					if got, _ := numbered(s.last()); got == n {
						break
					}
					<-changed
				}
				worst = max(worst, time.Since(began))
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/change")
			b.ReportMetric(float64(worst.Milliseconds()), "ms-worst")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// From one rewrite of a file until 2,000 sources of it, by events alone, serve what is new.
func BenchmarkFileSourceFleet(b *testing.B) {
	path := filepath.Join(b.TempDir(), "secret")
	if err := replace(path, padded(1)); err != nil {
		b.Fatal(err)
	}
	sources := make([]*FileSource, 2000)
	for i := range sources {
		s, err := NewFileSource(path, FileOptions{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { closeSource(b, s) })
		sources[i] = s
	}
	var worst time.Duration
	for n := 2; b.Loop(); n++ {
		if err := replace(path, padded(n)); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for _, s := range sources {
			for {
				changed := s.Changed()
				if got, _ := numbered(s.last()); got == n {
					break
				}
				<-changed
			}
		}
		worst = max(worst, time.Since(began))
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/change")
	b.ReportMetric(float64(worst.Milliseconds()), "ms-worst")
	b.ReportMetric(float64(instances(b)), "instances")
	b.ReportMetric(0, "ns/op")
}

// A thousand sources that poll every 5 s, of files and of volumes: CPU time per second.
func BenchmarkFileSourceIdle(b *testing.B) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for _, way := range waysOfWriting() {
		if way.name != "rename" && way.name != "kubelet" {
			continue
		}
		b.Run(way.name, func(b *testing.B) {
			for range 1000 {
				benchSource(b, way, FileOptions{})
			}
			before, began := used(), time.Now()
			for b.Loop() {
				<-time.After(2 * defaultPoll)
			}
			b.ReportMetric(100*float64(used()-before)/float64(time.Since(began)), "%cpu")
			b.ReportMetric(float64(instances(b)), "instances")
			b.ReportMetric(0, "ns/op")
		})
	}
}
