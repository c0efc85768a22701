//go:build unix

package stall

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// childEnv tells the test below that it is the process that is to be stopped.
const childEnv = "SQLROTATE_TEST_STALL"

// A process that is stopped for a while sees that its timers were late.
func TestStoppedProcessKnowsIt(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		m := Watch(t)
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		fmt.Println(m.Worst().Milliseconds())
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestStoppedProcessKnowsIt$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	out := bufio.NewReader(stdout)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q: %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const stopped = 300 * ms
	time.Sleep(stopped)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	var worst int
	if _, err := fmt.Fscan(out, &worst); err != nil {
		t.Fatal(err)
	}
	if least := (stopped - beat - noise).Milliseconds(); int64(worst) < least {
		t.Errorf("it noticed %d ms, not %d", worst, least)
	}
}
