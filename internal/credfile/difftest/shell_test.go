package difftest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// shell is a bash that runs texts one after the other, and can do nothing else.
type shell struct {
	in   io.Writer
	out  *bufio.Reader
	mark string // between what it says and what the text does
}

func newShell(tb testing.TB) *shell {
	tb.Helper()
	s := &shell{mark: fmt.Sprintf("<%016x>", rand.Uint64())}
	const script = `enable -n kill suspend
while IFS= read -r -d "" text; do
	(set -er; eval "$text"; printf "%s%s\0%s\0" "$1" "$username" "$password") </dev/null
	printf "%send\n" "$1"
done`
	bash, err := exec.LookPath("bash")
	if err != nil {
		tb.Fatal(err)
	}
	c := exec.CommandContext(tb.Context(), bash, "--norc", "-c", script, "bash", s.mark)
	c.Env = []string{"PATH=", "LC_ALL=C.UTF-8"}
	c.Dir = tb.TempDir()
	in, err := c.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
	})
	s.in, s.out = in, bufio.NewReader(out)
	return s
}

// read runs text, each command of which must succeed.
func (s *shell) read(text string) (login, error) {
	if strings.ContainsAny(text, "\x00\x01\x7f") {
		return login{}, errors.New("there is a NUL in it, or what bash itself uses, and loses")
	}
	if strings.Contains(text+"\n", "\r\n") && !strings.Contains(text, "declare") {
		return login{}, errors.New("it is written for others than shells")
	}
	if _, err := io.WriteString(s.in, text+"\x00"); err != nil {
		return login{}, err
	}
	var said strings.Builder
	for !strings.HasSuffix(said.String(), s.mark+"end\n") {
		line, err := s.out.ReadString('\n')
		if err != nil {
			return login{}, err
		}
		said.WriteString(line)
	}
	_, result, ok := strings.Cut(strings.TrimSuffix(said.String(), s.mark+"end\n"), s.mark)
	values := strings.Split(result, "\x00")
	if !ok || len(values) != 3 {
		return login{}, errors.New("a command in it fails")
	}
	return found(values[0], values[1], nil)
}
