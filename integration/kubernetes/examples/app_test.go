package examples

import (
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
)

// build builds the application and returns its path.
func build(tb testing.TB) string {
	tb.Helper()
	binary := filepath.Join(tb.TempDir(), "orders")
	output(tb, "go", "build", "-C", filepath.Join(dir, "app"), "-trimpath", "-o", binary, ".")
	return binary
}

// output runs a program to its end, and returns what it says.
func output(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	cmd := command(tb.Context(), name, args...)
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// command is a program that ends with the test.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// readFlags asks the application which flags it has, and for their defaults.
func readFlags(tb testing.TB) map[string]string {
	tb.Helper()
	usage := output(tb, build(tb), "-h")
	flags := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^  -(\S+).*\n\s+.*?(?:\(default "?(.*?)"?\))?$`).FindAllStringSubmatch(usage, -1) {
		flags[match[1]] = match[2]
	}
	if len(flags) < 5 {
		tb.Fatalf("%v in %s", flags, usage)
	}
	return flags
}

// The application needs nothing else in its image, built as docs/deploy.md says.
func TestApplicationIsStatic(t *testing.T) {
	binary, err := elf.Open(build(t))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	libraries, err := binary.ImportedLibraries()
	if err != nil || len(libraries) > 0 {
		t.Errorf("%v, %v", libraries, err)
	}
	for _, part := range binary.Progs {
		if part.Type == elf.PT_INTERP {
			t.Error("it wants an interpreter")
		}
	}
}
