package testserver

import (
	"os/exec"
	"testing"
)

func TestSignalToAnEndedProcessIsNoError(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := signal(cmd.Process.Pid, sigCont); err != nil {
		t.Error(err)
	}
}
