//go:build linux

// Tests that have a process of their own.

package sqlrotate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// apartEnv tells a test that it is in a process of its own.
const apartEnv = "SQLROTATE_TEST_APART"

// stopper is what stops the process of a test that has one of its own.
type stopper struct {
	mu     sync.Mutex // one stop at a time
	ask    io.Writer
	answer *bufio.Reader
}

// stop stops this process for d (SIGSTOP), and returns when it goes on.
func (s *stopper) stop(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintln(s.ask, d); err != nil {
		return fmt.Errorf("ask to be stopped: %w", err)
	}
	_, err := s.answer.ReadString('\n')
	return err
}

// apart runs a test in a process of its own: its memory, goroutines and descriptors are
// nobody else's, and it can be stopped while other tests go on. There it returns what stops
// the process; here it passes on what that says, and returns nil when it has ended.
func apart(t *testing.T) *stopper {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		syscall.CloseOnExec(3)
		syscall.CloseOnExec(4)
		return &stopper{ask: os.NewFile(3, "ask"), answer: bufio.NewReader(os.NewFile(4, "answer"))}
	}
	// The process ends with the thread that began it, even if that is killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok { // then it says where it is, before we are ended
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-10*time.Second))
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(os.Environ(), apartEnv+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	asked, ask, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, answer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{ask, answers}
	err = cmd.Start()
	_, _ = ask.Close(), answers.Close()
	defer answer.Close()
	if err != nil {
		_ = asked.Close()
		t.Fatal(err)
	}
	var stops sync.WaitGroup
	stops.Go(func() {
		defer asked.Close()
		stopWhenAsked(t, cmd.Process, asked, answer)
	})
	verdict := passOn(t, said)
	stops.Wait()
	if err := cmd.Wait(); err != nil {
		t.Errorf("in a process of its own: %v", err)
		return nil
	}
	switch {
	case verdict == "PASS":
	case verdict == "SKIP" && os.Getenv("CI") == "":
		t.Skip("in a process of its own")
	default:
		t.Errorf("it was not run in a process of its own: %q", verdict)
	}
	return nil
}

// stopWhenAsked stops a process for as long as it asks for, until it asks no more.
func stopWhenAsked(t *testing.T, process *os.Process, asked io.Reader, answer io.Writer) {
	t.Helper()
	for requests := bufio.NewScanner(asked); requests.Scan(); {
		d, err := time.ParseDuration(requests.Text())
		if err != nil {
			t.Error(err)
		}
		if err := process.Signal(syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
		<-time.After(d)
		if err := process.Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprintln(answer)
	}
}

// passOn says what a test says in a process of its own, and returns what became of it.
func passOn(t *testing.T, said io.Reader) (verdict string) {
	t.Helper()
	for lines := bufio.NewReader(said); ; {
		line, err := lines.ReadString('\n')
		text, result := strings.TrimSpace(line), ""
		switch {
		case strings.HasPrefix(text, "=== ATTR") && strings.HasSuffix(text, "failure grave"):
			t.Attr("failure", "grave")
		case strings.HasPrefix(text, "=== "), text == "PASS", text == "FAIL", text == "":
		case strings.HasPrefix(line, "--- "):
			result, _, _ = strings.Cut(strings.TrimPrefix(text, "--- "), ":")
			verdict = result
		default:
			_, _ = io.WriteString(t.Output(), line)
		}
		if err != nil {
			return verdict
		}
	}
}
