//go:build linux

package sqlrotate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/disk"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// fakeDisk stands in for the system calls of a FileSource, so that what depends
// on time can be tested in a bubble.
type fakeDisk struct {
	mu       sync.Mutex
	content  string
	second   string // of the second file, if there is one
	err      error
	inode    fakeInode
	modTime  time.Time
	hang     chan struct{} // reads wait for it to be closed
	reads    int
	reading  int
	mostRead int // reads under way at once, at most

	watchErr error
	watches  int
	arming   time.Duration // how long it takes to set the watches
	closed   bool
}

// fakeInode names a directory whose inode the file pretends to have.
type fakeInode string

func (d *fakeDisk) read() (disk.Snapshot, error) {
	d.mu.Lock()
	d.reads++
	d.reading++
	d.mostRead = max(d.mostRead, d.reading)
	hang := d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading--
	if d.err != nil {
		return disk.Snapshot{}, d.err
	}
	s := disk.Snapshot{ModTime: d.modTime, Data: []byte(d.content)}
	s.ID.Info, _ = os.Stat(string(d.inode))
	copy(s.Sum[:], d.content+d.second)
	if d.second != "" {
		s.Second = []byte(d.second)
	}
	return s, nil
}

func (d *fakeDisk) Arm() error {
	time.Sleep(d.arming)
	d.arming = 0
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watches++
	return d.watchErr
}

func (d *fakeDisk) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// put replaces the file by another.
func (d *fakeDisk) put(content string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.content, d.err, d.modTime = content, nil, time.Now()
	if d.inode == "." {
		d.inode = ".."
	} else {
		d.inode = "."
	}
}

// write writes into the file.
func (d *fakeDisk) write(content string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.content, d.err, d.modTime = content, nil, time.Now()
}

func (d *fakeDisk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *fakeDisk) hangUp() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hang := make(chan struct{})
	d.hang = hang
	return func() {
		d.mu.Lock()
		d.hang = nil
		d.mu.Unlock()
		close(hang)
	}
}

func (d *fakeDisk) count() (reads, mostAtOnce int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads, d.mostRead
}

func loginJSON(n int) string { return fmt.Sprintf(`{"username":"u%d","password":"p%d"}`, n, n) }

func isLogin(cred Credential, n int) bool {
	return cred.SameLogin(Credential{Username: fmt.Sprint("u", n), Password: NewSecret(fmt.Sprint("p", n))})
}

// newFake starts a source over a fake disk that holds login 1.
func newFake(t *testing.T, opt FileOptions) (*FileSource, *fakeDisk, *logBuffer) {
	t.Helper()
	log := new(logBuffer)
	opt.Logger = slog.New(slog.NewTextHandler(log, nil))
	d := &fakeDisk{inode: "."}
	d.write(loginJSON(1))
	if opt.UsernameFile != "" {
		d.putTwo("u1", "p1")
	}
	s, err := newFileSource("/fake/secret", opt)
	if err != nil {
		t.Fatal(err)
	}
	s.read = d.read
	s.events = d
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSource(t, s) })
	return s, d, log
}

func closeSource(tb testing.TB, s *FileSource) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

// logBuffer is a bytes.Buffer that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// inBubble runs a test with a fake clock; a goroutine left behind fails it.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestFileSourceWaitsForContentWrittenInPlaceToSettle(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{})
		d.write(loginJSON(2))
		began := time.Now()
		if cred, _ := s.Credential(t.Context()); !isLogin(cred, 1) {
			t.Fatal("believed at first sight")
		}
		if st := s.Status(); st.Divergence != DivergedSettling || !st.DivergedSince.Equal(began) {
			t.Errorf("status %+v", st)
		}
		time.Sleep(400 * time.Millisecond)
		d.write(loginJSON(3)) // begins anew
		time.Sleep(499 * time.Millisecond)
		if cred, _ := s.Credential(t.Context()); !isLogin(cred, 1) {
			t.Fatalf("%s believed before it had settled", cred.Username)
		}
		<-s.Changed()
		if !isLogin(s.last(), 3) {
			t.Fatalf("%s served", s.last().Username)
		}
		// The loop was told at the first read, and saw the second write at the end
		// of the first wait: another wait from there.
		if took := time.Since(began); took > 1050*time.Millisecond {
			t.Errorf("settled after %v", took)
		}
	})
}

func TestFileSourceBelievesAReplacedFileWithin30Milliseconds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{})
		time.Sleep(time.Hour + time.Second) // not at a poll
		changed := s.Changed()
		began := time.Now()
		d.put(loginJSON(2))
		poke(s.wake)
		<-changed
		if took := time.Since(began); took != young {
			t.Errorf("took %v", took)
		}
		if cred, err := s.Credential(t.Context()); err != nil || !isLogin(cred, 2) {
			t.Errorf("%v %v", cred.Username, err)
		}
	})
}

func TestFileSourceFindsAChangeWithinOnePoll(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{PollOnly: true})
		time.Sleep(7 * time.Second)
		changed := s.Changed()
		began := time.Now()
		d.put(loginJSON(2))
		<-changed
		if took := time.Since(began); took > defaultPoll {
			t.Errorf("took %v", took)
		}
		if st := s.Status(); st.Events || st.EventsErr == nil || s.CheckHealth() != nil {
			t.Errorf("%+v, %v", st, s.CheckHealth())
		}
	})
}

func TestFileSourcesPollTogether(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, _, _ := newFake(t, FileOptions{Poll: 16 * time.Second})
		for range 100 {
			time.Sleep(37 * time.Millisecond)
			pause := s.pause(time.Now())
			if next := time.Now().Add(pause); pause <= 15*time.Second || pause > 16*time.Second || !next.Equal(next.Truncate(time.Second)) {
				t.Fatalf("%v after %v", pause, time.Now())
			}
		}
	})
}

func TestFileSourceReadsAFewTimesForABurstOfEvents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{Poll: time.Hour})
		time.Sleep(time.Minute)
		before, _ := d.count()
		for range 1000 { // over a tenth of a second
			poke(s.wake)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		if after, _ := d.count(); after-before > 7 {
			t.Errorf("%d reads", after-before)
		}
	})
}

func TestFileSourceServesTheLastGoodCredentialWhileAReadHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, log := newFake(t, FileOptions{})
		release := d.hangUp()
		began := time.Now()
		for i := range 20 {
			cred, err := s.Credential(t.Context())
			if err != nil || !isLogin(cred, 1) {
				t.Fatalf("read %d: %v %v", i, cred.Username, err)
			}
		}
		if took := time.Since(began); took != defaultReadTimeout {
			t.Errorf("20 logins took %v: only the first should wait", took)
		}
		time.Sleep(time.Minute)
		if reads, most := d.count(); most != 1 {
			t.Errorf("%d reads at once, %d in all", most, reads)
		}
		if err := s.CheckHealth(); !errors.Is(err, errHangs) {
			t.Errorf("CheckHealth: %v", err)
		}
		if st := s.Status(); time.Since(st.CheckedAt) < time.Minute || st.Failures != 1 {
			t.Errorf("%+v", st)
		}
		release()
		d.put(loginJSON(2))
		time.Sleep(defaultPoll + young)
		if cred, _ := s.Credential(t.Context()); !isLogin(cred, 2) {
			t.Errorf("%s after the read came back", cred.Username)
		}
		if err := s.CheckHealth(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "WARN"); n != 1 {
			t.Errorf("%d warnings:\n%s", n, log)
		}
	})
}

func TestFileSourceClosesWithinASecondWhileAReadHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{})
		release := d.hangUp()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := s.Credential(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
		began := time.Now()
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 2*closeWait {
			t.Errorf("closing twice took %v", took)
		}
		release()
		synctest.Wait()
		if !d.closed {
			t.Error("the watches have not been let go")
		}
		if _, err := s.Credential(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := s.CheckHealth(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("CheckHealth after Close: %v", err)
		}
	})
}

func TestFileSourceSharesOnlyAReadThatBeganAfterTheCall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{Settle: -1})
		release := d.hangUp()
		var early, late sync.WaitGroup
		early.Go(func() {
			if _, err := s.Credential(t.Context()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		before, _ := d.count()
		d.put(loginJSON(2)) // after the read began
		for range 100 {
			late.Go(func() {
				if cred, err := s.Credential(t.Context()); err != nil || !isLogin(cred, 2) {
					t.Errorf("%s %v", cred.Username, err)
				}
			})
		}
		synctest.Wait()
		release()
		early.Wait()
		late.Wait()
		if after, most := d.count(); after-before != 1 || most != 1 {
			t.Errorf("100 calls made %d reads, %d at once", after-before, most)
		}
	})
}

func TestFileSourceRefreshWaitsForContentThatIsSettling(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{})
		old := s.last()
		d.write(loginJSON(2))
		began := time.Now()
		cred, err := s.Refresh(t.Context(), old)
		if err != nil || !isLogin(cred, 2) || time.Since(began) > defaultSettle+young {
			t.Errorf("%s %v after %v", cred.Username, err, time.Since(began))
		}
		reads, _ := d.count()
		if cred, err := s.Refresh(t.Context(), old); err != nil || !isLogin(cred, 2) {
			t.Errorf("%s %v", cred.Username, err)
		}
		if again, _ := d.count(); again != reads {
			t.Error("it read although it held another credential than the rejected one")
		}
		began = time.Now()
		if got, err := s.Refresh(t.Context(), cred); err != nil || !isLogin(got, 2) || time.Since(began) != 0 {
			t.Errorf("nothing new: %s %v after %v", got.Username, err, time.Since(began))
		}
	})
}

func TestFileSourceRefreshEndsWithItsContextAndWithTheSource(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{Settle: time.Hour})
		d.write(loginJSON(2))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Refresh(ctx, s.last()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		time.AfterFunc(time.Minute, func() { closeSource(t, s) })
		if _, err := s.Refresh(t.Context(), s.last()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}

func TestFileSourceLogsEachChangeOfStateOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, log := newFake(t, FileOptions{})
		for _, err := range []error{fs.ErrNotExist, fs.ErrPermission} {
			d.fail(err)
			time.Sleep(time.Minute)
		}
		if st := s.Status(); st.Failures < 20 || !errors.Is(st.Err, fs.ErrPermission) || time.Since(st.FailingSince) < time.Minute {
			t.Errorf("%+v", st)
		}
		d.put("{")
		time.Sleep(time.Minute)
		if st := s.Status(); st.Divergence != DivergedRefused || time.Since(st.DivergedSince) < 50*time.Second {
			t.Errorf("%+v", st)
		}
		d.put(loginJSON(2))
		time.Sleep(time.Minute)
		if n := strings.Count(log.String(), "WARN"); n != 3 {
			t.Errorf("%d warnings, want 3:\n%s", n, log)
		}
		if n := strings.Count(log.String(), "INFO"); n != 3 { // two versions, one recovery
			t.Errorf("%d infos, want 3:\n%s", n, log)
		}
		if st := s.Status(); st.Failures != 0 || st.Err != nil || !st.FailingSince.IsZero() || st.Divergence != DivergedNot {
			t.Errorf("%+v", st)
		}
	})
}

func TestFileSourceOutlivesADecoderThatPanics(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var broken atomic.Bool
		s, d, log := newFake(t, FileOptions{Decode: func(data []byte) (Credential, error) {
			if broken.Load() {
				panic(string(data))
			}
			got, err := decodeFile(data, decodeOptions{})
			return got.Credential, err
		}})
		broken.Store(true)
		d.put(loginJSON(2))
		time.Sleep(time.Minute)
		st := s.Status()
		if st.Failures < 10 || st.Err == nil || !strings.Contains(st.Err.Error(), "panicked") {
			t.Errorf("%+v", st)
		}
		if cred, err := s.Credential(t.Context()); err != nil || !isLogin(cred, 1) {
			t.Errorf("%s %v", cred.Username, err)
		}
		broken.Store(false)
		time.Sleep(defaultPoll + 1)
		if !isLogin(s.last(), 2) {
			t.Errorf("%s: not decoded again", s.last().Username)
		}
		if strings.Contains(log.String()+st.Err.Error(), "p2") {
			t.Errorf("the content leaked:\n%s", log)
		}
	})
}

func TestFileSourceCountsWhatItDoes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{MaxAge: time.Hour})
		if st := s.Status(); st.Format != FormatJSON || st.MaxAge != time.Hour || st.Reads == 0 || st.Loads != 1 || st.FailedReads != 0 {
			t.Errorf("at the start %+v", st)
		}
		reads := s.Status().Reads
		time.Sleep(10*defaultPoll + time.Second)
		if st := s.Status(); st.Reads != reads+10 || st.Loads != 1 || st.FailedReads != 0 {
			t.Errorf("after ten polls %+v", st)
		}
		d.put("{")
		time.Sleep(10 * defaultPoll)
		if st := s.Status(); st.Loads != 1 || st.FailedReads < 10 || int(st.FailedReads) != st.Failures {
			t.Errorf("after ten that failed %+v", st)
		}
		d.put("username: u2\npassword: p2\n")
		time.Sleep(defaultPoll + time.Second)
		if st := s.Status(); st.Format != FormatYAML || st.Loads != 2 || st.FailedReads < 10 || st.Failures != 0 {
			t.Errorf("after another version %+v", st)
		}
	})
}

// A secret that names another server is told of, and not followed.
func TestFileSourceTellsThatTheFileNamesAnotherServer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, _, log := newFake(t, FileOptions{PollOnly: true, Poll: time.Hour})
		load := func(login int, at server) FileStatus {
			t.Helper()
			time.Sleep(time.Minute)
			cred := Credential{Username: fmt.Sprint("u", login), Password: NewSecret(fmt.Sprint("p", login))}
			s.accept(found{Credential: cred, server: at}, disk.Snapshot{}, time.Now())
			return s.Status()
		}
		blue := server{"Blue.example", "5432", "app"}
		s.mu.Lock()
		s.first, s.server = blue, blue
		s.mu.Unlock()
		for _, same := range []server{blue, {"blue.EXAMPLE", "5432", "app"}, {}, {database: "app"}} {
			if st := load(2, same); !st.MovedSince.IsZero() || s.CheckHealth() != nil || st.Host != same.host {
				t.Errorf("%v: %+v, %v", same, st, s.CheckHealth())
			}
		}
		green := server{"green.example\nx", "5433", "app"}
		moved := load(2, green).MovedSince // the same login, elsewhere
		load(3, green)
		time.Sleep(time.Minute)
		if st := s.Status(); !st.MovedSince.Equal(moved) || time.Since(moved) != 2*time.Minute || st.Host != green.host || st.Port != "5433" {
			t.Errorf("%+v", st)
		}
		err := s.CheckHealth()
		if err == nil || !strings.Contains(err.Error(), `host "green.example\nx" in place of "blue.example", port "5433" in place of "5432" for 2m0s`) {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "another place"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
		if st := load(4, blue); !st.MovedSince.IsZero() || s.CheckHealth() != nil {
			t.Errorf("back again: %+v, %v", st, s.CheckHealth())
		}
	})
}

// Who replaces two files leaves any time between the one and the other.
func TestFileSourceBelievesTwoFilesWhenBothAreLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{UsernameFile: "/fake/user"})
		if st := s.Status(); st.Username != "u1" || st.Version == "" {
			t.Errorf("%+v", st)
		}
		changed := s.Changed()
		d.putTwo("u2", "p1")
		poke(s.wake)
		time.Sleep(defaultSettle - 10*time.Millisecond)
		d.putTwo("u2", "p2")
		poke(s.wake)
		time.Sleep(defaultSettle - 10*time.Millisecond)
		if !isLogin(s.last(), 1) {
			t.Errorf("user %q, password %q", s.last().Username, s.last().Password.Reveal())
		}
		<-changed
		if !isLogin(s.last(), 2) {
			t.Errorf("user %q, password %q", s.last().Username, s.last().Password.Reveal())
		}
	})
}

// putTwo replaces both files by others, long ago, as a rename does.
func (d *fakeDisk) putTwo(user, password string) {
	d.put(password)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.second = user
	d.modTime = time.Now().Add(-time.Hour)
}

func TestFileSourceReadsTwoFilesAnywhere(t *testing.T) {
	m := stall.Watch(t)
	dir := t.TempDir()
	user, password := filepath.Join(dir, "a", "db_user"), filepath.Join(dir, "b", "db_password")
	for path, content := range map[string]string{user: "u1\n", password: "p1\n"} {
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		replaceFile(t, path, content)
	}
	s := startFileSource(t, password, FileOptions{UsernameFile: user, Poll: time.Hour, Settle: 100 * time.Millisecond})
	defer closeSource(t, s)
	if !isLogin(s.last(), 1) {
		t.Errorf("user %q, password %q", s.last().Username, s.last().Password.Reveal())
	}
	replaceFile(t, user, "u2\n")
	replaceFile(t, password, "p2\n")
	waitFor(t, m, "both are seen to change", func() bool { return isLogin(s.last(), 2) })
	replaceFile(t, password, "p3\nand more\n")
	waitFor(t, m, "two lines are refused", func() bool { return s.CheckHealth() != nil })
	if err := s.CheckHealth(); !strings.Contains(err.Error(), "db_user") || strings.Contains(err.Error(), "p3") {
		t.Error(err)
	}
	if err := os.Remove(user); err != nil {
		t.Fatal(err)
	}
	waitFor(t, m, "it says which of the two is missing", func() bool {
		return strings.Contains(fmt.Sprint(s.Status().Err), "db_user") && errors.Is(s.Status().Err, fs.ErrNotExist)
	})
	if !isLogin(s.last(), 2) {
		t.Errorf("user %q, password %q", s.last().Username, s.last().Password.Reveal())
	}
}

// Samba and NFS servers, for two, take leases. To open the file asks for them back.
func TestNewFileSourceWaitsForALeasedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(loginJSON(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	lease := func(f *os.File, kind int) {
		t.Helper()
		if _, _, err := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETLEASE, uintptr(kind)); err != 0 {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wanted := make(chan os.Signal, 1)
	signal.Notify(wanted, syscall.SIGIO)
	defer signal.Stop(wanted)
	lease(f, syscall.F_WRLCK)

	type result struct {
		s   *FileSource
		err error
	}
	started := make(chan result)
	go func() {
		s, err := NewFileSource(path, FileOptions{Settle: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		started <- result{s, err}
	}()
	<-wanted
	select {
	case r := <-started:
		t.Fatalf("it didn't wait: %v", r.err)
	case <-time.After(50 * time.Millisecond):
	}
	lease(f, syscall.F_UNLCK)
	r := <-started
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer closeSource(t, r.s)

	// Taken later, it costs some looks and not one poll.
	if st := r.s.Status(); !isLogin(r.s.last(), 1) || st.FailedReads == 0 || st.Err != nil {
		t.Errorf("%+v", st)
	}
}

func TestFileSourceComesBackSoonForALeasedFile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{})
		d.put(loginJSON(2))
		d.fail(syscall.EAGAIN)
		poke(s.wake)
		time.Sleep(defaultSettle / 2)
		d.fail(nil)
		time.Sleep(defaultSettle / 2)
		if !isLogin(s.last(), 2) || s.CheckHealth() != nil {
			t.Errorf("%s, %v", s.last().Username, s.CheckHealth())
		}
		before, _ := d.count()
		d.fail(syscall.EAGAIN)
		time.Sleep(time.Minute)
		if after, _ := d.count(); after-before > 25 {
			t.Errorf("%d looks in a minute", after-before)
		}
	})
}

func TestFileSourceTellsAStaleProducer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{MaxAge: time.Hour})
		time.Sleep(time.Hour - time.Minute)
		if err := s.CheckHealth(); err != nil {
			t.Fatal(err)
		}
		d.write(loginJSON(1)) // the same, but somebody wrote it
		time.Sleep(time.Hour - time.Minute)
		if err := s.CheckHealth(); err != nil {
			t.Fatal(err)
		}
		if st := s.Status(); st.Divergence != DivergedRewritten || time.Since(st.DivergedSince) < 58*time.Minute {
			t.Errorf("%+v", st)
		}
		time.Sleep(2 * time.Minute)
		if err := s.CheckHealth(); err == nil || !strings.Contains(err.Error(), "MaxAge") {
			t.Errorf("%v", err)
		}
	})
}

func TestFileSourceTellsAFileThatIsWrittenAllTheTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{Poll: time.Second})
		for i := range 100 {
			d.write(loginJSON(i + 2))
			poke(s.wake)
			time.Sleep(200 * time.Millisecond)
		}
		if !isLogin(s.last(), 1) {
			t.Errorf("%s served", s.last().Username)
		}
		if err := s.CheckHealth(); err == nil || !strings.Contains(err.Error(), "written all the time") {
			t.Errorf("%v", err)
		}
		time.Sleep(defaultSettle + breath)
		if !isLogin(s.last(), 101) || s.CheckHealth() != nil {
			t.Errorf("%s, %v", s.last().Username, s.CheckHealth())
		}
	})
}

func TestFileSourceVersionsAreOfTheLoginAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{Settle: -1})
		read := func() Credential {
			cred, err := s.Credential(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return cred
		}
		first := read()
		changed := s.Changed()
		d.put(`{"username":"u1","password":"p1","ttl":"59s"}`)
		if again := read(); again.Version != first.Version {
			t.Errorf("a new ttl made %s of %s", again.Version, first.Version)
		}
		select {
		case <-changed:
			t.Error("Changed, but no change")
		default:
		}
		d.put(loginJSON(2))
		second := read()
		select {
		case <-changed:
		default:
			t.Error("a change, but not Changed")
		}
		d.put(loginJSON(1))
		third := read()
		mark := func(version string) string { _, mark, _ := strings.Cut(version, "-"); return mark }
		if mark(first.Version) == mark(second.Version) || mark(first.Version) != mark(third.Version) {
			t.Errorf("fingerprints of %s, %s, %s", first.Version, second.Version, third.Version)
		}
		if !strings.HasPrefix(third.Version, "3-") {
			t.Errorf("third version %s", third.Version)
		}

		other, _, _ := newFake(t, FileOptions{})
		if cred := other.last(); mark(cred.Version) == mark(first.Version) {
			t.Error("two sources give a login the same fingerprint: it can be guessed from")
		}
	})
}

func TestFileSourceReArmsAtEachPoll(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, log := newFake(t, FileOptions{})
		d.mu.Lock()
		before := d.watches
		d.watchErr = errors.New("no space left on device")
		d.mu.Unlock()
		time.Sleep(time.Minute + 1)
		if st := s.Status(); st.Events || st.EventsErr == nil || s.CheckHealth() != nil {
			t.Errorf("%+v", st)
		}
		d.mu.Lock()
		if n := d.watches - before; n != 12 {
			t.Errorf("armed %d times in a minute", n)
		}
		d.watchErr = nil
		d.mu.Unlock()
		time.Sleep(defaultPoll)
		if st := s.Status(); !st.Events || st.EventsErr != nil {
			t.Errorf("%+v", st)
		}
		if n := strings.Count(log.String(), "polling only"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
	})
}

func TestFileSourceSurvivesJumpsOfTheClock(t *testing.T) {
	for name, c := range map[string]struct {
		modTime time.Duration // seen from now
		want    time.Duration
	}{
		"long ago":          {-2 * time.Hour, 0},
		"just":              {0, young},
		"in two hours":      {2 * time.Hour, young},
		"whole second":      {-1500 * time.Millisecond, young},
		"whole second, old": {-2500 * time.Millisecond, 0},
	} {
		now := time.Date(2026, 11, 1, 12, 0, 0, 7e6, time.UTC)
		at := now.Add(c.modTime)
		if strings.HasPrefix(name, "whole") {
			now = now.Truncate(time.Second).Add(500 * time.Millisecond)
			at = now.Add(c.modTime)
		}
		if got := settleTime(disk.Snapshot{ModTime: at}, false, false, now, time.Minute); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestSettleTimeDependsOnHowItWasWritten(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 7e6, time.UTC)
	const settle = time.Second
	for _, c := range []struct {
		what          string
		age           time.Duration
		version       string
		inPlace, gone bool
		data          string
		want          time.Duration
	}{
		{"replaced, old", young, "", false, false, "", 0},
		{"replaced, a nanosecond younger", young - 1, "", false, false, "", young},
		{"in place, however old", time.Hour, "", true, false, "", settle},
		{"where nothing was", time.Hour, "", false, true, "", settle},
		{"JSON where nothing was", young, "", false, true, " {}", 0},
		{"JSON where nothing was, young", 0, "", false, true, "{}\n", young},
		{"a beginning of JSON where nothing was", time.Hour, "", false, true, `{"username":`, settle},
		{"a number where nothing was", time.Hour, "", false, true, "12", settle},
		{"JSON in place", time.Hour, "", true, false, "{}", settle},
		{"another ..data", 0, "..v2", false, false, "", 0},
		{"another ..data where nothing was", 0, "..v2", false, true, "", 0},
		{"within one ..data", time.Hour, "..v2", true, false, "", settle},
	} {
		snap := disk.Snapshot{ModTime: now.Add(-c.age), ID: disk.Identity{Version: c.version}, Data: []byte(c.data)}
		if got := settleTime(snap, c.inPlace, c.gone, now, settle); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// What a process that is stalled finds late is not what goes on for long.
func TestNewFileSourceGivesContentItsTimeToSettle(t *testing.T) {
	const settle, stalled = 200 * time.Millisecond, time.Second // more than content gets to settle, and less than a read may take
	for name, gone := range map[string]bool{"a young file": false, "a file that appears": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s, err := newFileSource("/fake/secret", FileOptions{Username: "u1", Settle: settle, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				d := &fakeDisk{inode: "."}
				s.gone = gone // what is there now may be half of it
				looks := 0
				s.read = func() (disk.Snapshot, error) {
					if looks++; looks == 1 {
						d.write("p1")
					}
					return d.read()
				}
				d.arming, s.events = stalled, d // within the first look
				began := time.Now()
				if err := s.start(); err != nil {
					t.Fatalf("after %v and %d looks: %v", time.Since(began), looks, err)
				}
				defer closeSource(t, s)
				if !isLogin(s.last(), 1) || time.Since(began) > stalled+settle+2*young {
					t.Errorf("%s after %v", s.last().Username, time.Since(began))
				}
			})
		})
	}
}

func TestNewFileSourceSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	before := runtime.NumGoroutine()
	for _, c := range []struct {
		path string
		opt  FileOptions
		want string
		is   error
	}{
		{"", FileOptions{}, "the path is empty", nil},
		{filepath.Join(dir, "missing"), FileOptions{}, "no such file", fs.ErrNotExist},
		{filepath.Join(dir, "missing"), FileOptions{WaitFor: 50 * time.Millisecond}, "no such file", fs.ErrNotExist},
		{put("empty", ""), FileOptions{Settle: 500 * time.Millisecond}, "empty", nil},
		{put("torn", loginJSON(1)[:10]), FileOptions{Settle: 500 * time.Millisecond}, "torn", nil},
		{put("poll", loginJSON(1)), FileOptions{Poll: -1}, "Poll is -1ns", nil},
		{put("mode", loginJSON(1)), FileOptions{MaxMode: 0o400}, "0600, more than FileOptions.MaxMode 0400", nil},
		{put("pw", "p1"), FileOptions{UsernameFile: filepath.Join(dir, "missing")}, "missing\": no such file", fs.ErrNotExist},
		{put("pw", "p1"), FileOptions{UsernameFile: put("user", "u1"), Username: "u1"}, "leave Username", nil},
		{put("pw", "p1"), FileOptions{UsernameFile: put("user", "u1"), Format: FormatJSON}, "Format", nil},
		{put("pw", "p1"), FileOptions{UsernameFile: put("user", "u1"), Decode: func([]byte) (Credential, error) { return Credential{}, nil }}, "Decode", nil},
		{put("panic", loginJSON(1)), FileOptions{Settle: -1, Decode: func([]byte) (Credential, error) { panic("p1") }}, "panicked", nil},
	} {
		s, err := NewFileSource(c.path, c.opt)
		if err == nil || s != nil {
			t.Errorf("%s: source %v, error %v", c.path, s, err)
			continue
		}
		if msg := err.Error(); !strings.HasPrefix(msg, "sqlrotate: ") || !strings.Contains(msg, c.want) || strings.Contains(msg, "p1") {
			t.Errorf("%s: %v", c.path, err)
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v is not %v", c.path, err, c.is)
		}
	}
	noLeak(t, before)
}

func TestFileSourceNeverRendersItsSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	const password = "correct-horse-battery"
	if err := os.WriteFile(path, []byte(`{"username":"u1","password":"`+password+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := NewFileSource(path, FileOptions{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // reflection must not race with the loop
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&log, verb+"\n", s)
		fmt.Fprintf(&log, verb+"\n", s.Status())
		fmt.Fprintf(&log, verb+"\n", reflect.ValueOf(s).Elem())
	}
	if got := log.String(); strings.Contains(got, password) || strings.Contains(got, fmt.Sprintf("%x", password)) || strings.Contains(got, fmt.Sprintf("%d", []byte(password))) {
		t.Errorf("the password shows in:\n%s", got)
	}
}

func TestFileSourceLeavesNothingBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(loginJSON(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 50 {
		s, err := NewFileSource(path, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Credential(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	noLeak(t, goroutines)
	goesAway(t, "open files", func() int { return openFiles(t) }, files)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestFileSourcesShareAnInotifyInstance(t *testing.T) {
	m := stall.Watch(t)
	goroutines := runtime.NumGoroutine()
	dir := t.TempDir()
	const n = 20
	sources := make([]*FileSource, n)
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint("d", i/2), fmt.Sprint("secret", i)) } // two to a directory
	for i := range sources {
		if err := os.MkdirAll(filepath.Dir(path(i)), 0o700); err != nil {
			t.Fatal(err)
		}
		replaceFile(t, path(i), loginJSON(1))
		sources[i] = startFileSource(t, path(i), FileOptions{Poll: time.Hour})
		defer sources[i].Close()
	}
	if got := instances(t); got != 1 {
		t.Errorf("%d sources have %d inotify instances", n, got)
	}
	for i := range sources {
		replaceFile(t, path(i), loginJSON(2))
	}
	waitFor(t, m, "every source sees its change", func() bool {
		for _, s := range sources {
			if !isLogin(s.last(), 2) {
				return false
			}
		}
		return true
	})

	// One of two in a directory goes: the other still hears.
	if err := sources[0].Close(); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, path(1), loginJSON(3))
	waitFor(t, m, "the neighbour of a closed source sees its change", func() bool { return isLogin(sources[1].last(), 3) })

	for _, s := range sources {
		closeSource(t, s)
	}
	goesAway(t, "inotify instances", func() int { return instances(t) }, 0)
	noLeak(t, goroutines)

	// The next one opens it anew.
	s := startFileSource(t, path(0), FileOptions{Poll: time.Hour})
	defer closeSource(t, s)
	replaceFile(t, path(0), loginJSON(4))
	waitFor(t, m, "a source after the last sees its change", func() bool { return isLogin(s.last(), 4) })
}

// instances counts the inotify instances of this process.
func instances(tb testing.TB) (n int) {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	for _, entry := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + entry.Name()); target == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	if err := replace(path, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

// On a machine that has time, no poll is late, whatever events and reads come between.
func TestFileSourceIsPunctual(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, d, _ := newFake(t, FileOptions{})
		for n := range 50 {
			time.Sleep(time.Duration(n) * 37 * time.Millisecond)
			d.write(loginJSON(n))
			poke(s.wake)
		}
		time.Sleep(time.Minute)
		if got := s.Status().TimersLate; got != 0 {
			t.Errorf("late by %v", got)
		}
		s.fired(time.Now().Add(-3 * time.Second))
		s.fired(time.Now().Add(-punctual))
		if got := s.Status().TimersLate; got != 3*time.Second {
			t.Errorf("late by %v, want 3s", got)
		}
	})
}
