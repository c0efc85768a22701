package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// soon bounds what must happen without being asked for.
const soon = 30 * time.Second

// needServer skips the test, or fails it in CI, if a demo said that it found none.
func needServer(t *testing.T, said string) {
	t.Helper()
	if strings.Contains(said, pgtest.ErrUnavailable.Error()) && os.Getenv("CI") == "" {
		t.Skip(said)
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("waited in vain for %s", what)
			return
		}
	}
}

// transcript keeps what is written, and when that began.
type transcript struct {
	mu    sync.Mutex
	first time.Time
	text  bytes.Buffer
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first.IsZero() {
		w.first = time.Now()
	}
	return w.text.Write(p)
}

// A short demo, with an environment that means another server.
func TestDemoConvinces(t *testing.T) {
	for _, variable := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGOPTIONS", "PGSSLMODE", "PGREQUIRESSL"} {
		t.Setenv(variable, "elsewhere")
	}
	var out, errout transcript
	start := time.Now()
	status := run(t.Context(), stdio{&out, &errout}, strings.Fields("demo -duration 7s -every 1s -overlap 4s -connections 5 -workers 5"))
	needServer(t, errout.text.String())
	text := out.text.String()
	flat := strings.Join(strings.Fields(text), " ")
	if _, rest, found := strings.Cut(flat, "sessions open when their login went "); found && !strings.HasPrefix(rest, "0 ") {
		t.Attr("failure", "grave") // no machine is to blame for that
	} else if strings.Contains(flat, "This machine stalls") {
		t.Fatalf("this machine stalls, nothing is proven:\n%s", text)
	}
	if status != statusOK || errout.text.Len() > 0 {
		t.Fatalf("exit status %d, and %s\n%s", status, errout.text.String(), text)
	}
	narrow(t, text)
	if d := out.first.Sub(start); d > 5*time.Second {
		t.Errorf("the first line came after %v", d)
	}
	for _, want := range []string{" 1s 1 0 ", " 7s ", "no request failed", "in lib/pq fixed and lib/pq reads: pq: relation \"account\" does not exist", "(42P01). The table is there.", "What next:"} {
		if !strings.Contains(flat, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}

// A login that is dropped as soon as it has a successor takes sessions by surprise.
func TestDemoFailsWhenSqlrotateDoes(t *testing.T) {
	t.Parallel()
	var out, errout transcript
	status := run(t.Context(), stdio{&out, &errout}, strings.Fields("demo -duration 2s -every 1s -overlap 2s -revoke-after 1ms -connections 5 -workers 5"))
	needServer(t, errout.text.String())
	text := strings.Join(strings.Fields(out.text.String()), " ")
	if status != statusFailed || !strings.Contains(text, "The agent broke its promise: it dropped logins after 1ms") {
		t.Errorf("exit status %d, and %s\n%s", status, errout.text.String(), out.text.String())
	}
}

func TestServerWithoutRoomIsRefusedWithTheNumber(t *testing.T) {
	t.Parallel()
	d := defaults(t)
	server := pgtest.New(t, pgtest.Options{MaxConnections: d.sessions() - 10})
	err := d.prepare(t.Context(), server)
	if err == nil || !strings.Contains(err.Error(), "3 applications with 20 connections each need 61") {
		t.Error(err)
	}
	d.connections = 10
	if err := d.prepare(t.Context(), server); err != nil {
		t.Error(err)
	}
}

// However it ends, it leaves no process and no file, least of all the credential.
func TestDemoLeavesNothingBehind(t *testing.T) {
	signalled := func(s syscall.Signal) func(*testing.T, *child) {
		return func(t *testing.T, c *child) {
			t.Helper()
			if err := c.cmd.Process.Signal(s); err != nil {
				t.Error(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		mode   string // of the child
		when   string // the line that is waited for, and initdb if it is the first
		end    func(*testing.T, *child)
		status int // -1: killed
	}{
		{"interrupted", "main", "   1s ", signalled(syscall.SIGINT), 128 + int(syscall.SIGINT)},
		{"interrupted as it starts", "main", "Starting", signalled(syscall.SIGINT), 128 + int(syscall.SIGINT)},
		{"terminated", "main", "   1s ", signalled(syscall.SIGTERM), 128 + int(syscall.SIGTERM)},
		{"killed", "main", "   1s ", signalled(syscall.SIGKILL), -1},
		{"killed as it starts", "main", "Starting", signalled(syscall.SIGKILL), -1},
		{"hung up", "main", "   1s ", signalled(syscall.SIGHUP), -1},
		{"nobody reads on", "main", "   1s ", func(_ *testing.T, c *child) { _ = c.out.Close() }, statusFailed},
		{"panic", "panic", "panics next", func(_ *testing.T, c *child) { _ = c.in.Close() }, 2},
		{"panic in a goroutine", "panic elsewhere", "panics next", func(_ *testing.T, c *child) { _ = c.in.Close() }, 2},
	} {
		if test.name == "hung up" && signal.Ignored(syscall.SIGHUP) {
			continue // as under nohup: the demo goes on then, as it should
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := start(t, test.mode)
			c.waitFor(t, test.when)
			if test.when == "Starting" {
				eventually(t, "initdb at work", func() bool { return len(c.files(t, "PG_VERSION")) > 0 })
			} else if files, processes := c.files(t, "login.json"), c.processes(t); len(files) != 1 || len(processes) < 3 {
				t.Errorf("the credential and the server are not where this test looks: %q and %q", files, processes)
			}
			test.end(t, c)
			_ = c.cmd.Wait()
			if test.status >= 0 && test.mode == "main" {
				if files, processes := c.files(t, ""), c.processes(t); len(files)+len(processes) > 0 {
					t.Errorf("when it has ended there are %q and %q", files, processes)
				}
			}
			if got := c.cmd.ProcessState.ExitCode(); got != test.status {
				t.Errorf("exit status %d, want %d: %s", got, test.status, c.errout.String())
			}
			eventually(t, "nothing left", func() bool { return len(c.files(t, ""))+len(c.processes(t)) == 0 })
			if t.Failed() {
				t.Logf("left: %q and %q", c.files(t, ""), c.processes(t))
			}
		})
	}
}

// child is a demo in a process of its own, with a directory for temporary files.
type child struct {
	cmd    *exec.Cmd
	in     io.Closer
	out    *os.File
	errout bytes.Buffer
	temp   string
}

func start(t *testing.T, mode string) *child {
	t.Helper()
	temp, err := os.MkdirTemp("", "demo-test-") //nolint:usetesting // t.TempDir is in a directory that lets nobody else in
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o755); err != nil { // the server's user has to get in
		t.Fatal(err)
	}
	out, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	c := &child{cmd: exec.Command(os.Args[0], "demo", "-connections", "2", "-workers", "2"), out: out, temp: temp}
	c.cmd.Env = append(os.Environ(), asMain+"="+mode, "TMPDIR="+temp, "SQLROTATE_TEST_POSTGRES=")
	c.cmd.Stdout, c.cmd.Stderr = write, &c.errout
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	return c
}

// waitFor reads on until a line begins with prefix, and drops what comes after it.
func (c *child) waitFor(t *testing.T, prefix string) {
	t.Helper()
	var said []byte
	for buffer := make([]byte, 4096); ; {
		n, err := c.out.Read(buffer)
		said = append(said, buffer[:n]...)
		if bytes.HasPrefix(said, []byte(prefix)) || bytes.Contains(said, []byte("\n"+prefix)) {
			return
		}
		if err != nil {
			_ = c.cmd.Wait()
			needServer(t, c.errout.String())
			t.Fatalf("it said %s%s", said, c.errout.String())
		}
	}
}

// files are those in its directory whose name ends so.
func (c *child) files(t *testing.T, suffix string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(c.temp, func(path string, _ fs.DirEntry, err error) error {
		if path != c.temp && strings.HasSuffix(path, suffix) {
			found = append(found, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// processes are those that work in its directory or name it.
func (c *child) processes(t *testing.T) (found []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		if os.Getenv("CI") == "" {
			t.Skip("there is no /proc to find processes in")
		}
		t.Fatal("there is no /proc to find processes in")
	}
	for _, dir := range dirs {
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		if bytes.Contains(command, []byte(c.temp)) || strings.HasPrefix(cwd, c.temp) {
			found = append(found, dir+" "+string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
		}
	}
	return found
}
