package jail

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// TB is what is needed of a *testing.T.
type TB interface {
	Context() context.Context
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Helper()
	Name() string
	Output() io.Writer
	Skipf(format string, args ...any)
}

// childEnv is set in a test process that another one has started.
const childEnv = "SQLROTATE_TEST_CHILD"

// RunAs runs the calling test in a process of its own, and reports whether that is this one:
// as "user", to whom file permissions apply even if this is root, or as "root" of a user and
// mount namespace, who may mount and has inotify limits of his own. Where there are no user
// namespaces the test is skipped, and fails in CI.
func RunAs(t TB, as string) (inside bool) {
	t.Helper()
	if os.Getenv(childEnv) != "" {
		return true
	}
	uid, flags := 0, uintptr(syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS)
	if as == "user" {
		uid, flags = 1000, syscall.CLONE_NEWUSER
	}
	names := strings.Split(t.Name(), "/")
	for i := range names {
		names[i] = "^" + names[i] + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run="+strings.Join(names, "/"))
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getegid(), Size: 1}},
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("no user namespaces here: %v", err)
		}
		t.Fatalf("no user namespaces here: %v", err)
	}
	err := cmd.Wait()
	_, _ = t.Output().Write(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "--- PASS: "+t.Name()) {
		t.Fatal("the test did not run in the child process")
	}
	return false
}
