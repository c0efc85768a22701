// What internal/mariadbtest promises: it has no driver to be tried with where it is.

package mysqlopener_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/mariadbtest"
	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

func TestMariaDB(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := mariadbtest.New(t, mariadbtest.Options{Settings: map[string]string{"wait_timeout": "1234"}})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	number := func(query string) (n int) {
		t.Helper()
		check(server.Admin().QueryRowContext(ctx, query).Scan(&n))
		return n
	}
	exec := func(statement string) {
		t.Helper()
		_, err := server.Admin().ExecContext(ctx, statement)
		check(err)
	}
	if n := number("select @@global.wait_timeout"); n != 1234 {
		t.Errorf("a setting is %d", n)
	}
	address := server.Address()
	exec("create table kept (n int primary key)")
	for n, mode := range []mariadbtest.StopMode{mariadbtest.Fast, mariadbtest.Immediate} {
		exec(fmt.Sprintf("insert into kept values (%d)", n))
		check(server.Restart(ctx, mode))
	}
	if n := number("select count(*) from kept"); n != 2 || server.Address() != address {
		t.Errorf("%d rows are left, at %s", n, server.Address())
	}

	check(server.Pause(ctx))
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	if err := server.Admin().PingContext(short); err == nil {
		t.Error("a server that is paused answers")
	}
	cancel()
	check(server.Resume())
	if n := number("select 1"); n != 1 {
		t.Error("a server that is resumed doesn't answer")
	}

	const name = "a 'name' with \\ and `"
	check(server.CreateUser(ctx, name, name))
	release, err := server.Occupy(ctx, name, name)
	check(err)
	if n, err := server.Sessions(ctx, name); n < 5 || err != nil {
		t.Errorf("%d sessions: %v", n, err)
	}
	check(server.DropUser(ctx, name))
	if n, err := server.OrphanSessions(ctx); n < 5 || err != nil {
		t.Errorf("%d sessions of dropped users: %v", n, err)
	}
	if n, err := server.Kill(ctx, name); n < 5 || err != nil {
		t.Errorf("%d sessions were killed: %v", n, err)
	}
	check(errors.Join(server.AwaitSessions(ctx, name, 0), release()))

	log, err := server.Log()
	check(err)
	if !strings.Contains(log, "ready for connections") {
		t.Errorf("the log: %s", log)
	}
	check(server.Stop(mariadbtest.Fast))
	if err := server.Admin().PingContext(ctx); err == nil {
		t.Error("a server that was stopped answers")
	}
	check(server.Close())
	check(server.Close())
}

func TestMariaDBThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	s, err := mariadbtest.Start(t.Context(), mariadbtest.Options{Settings: map[string]string{"no_such_setting": "1"}})
	if errors.Is(err, mariadbtest.ErrUnavailable) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err == nil || !strings.Contains(err.Error(), "no-such-setting") && !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("%v", err)
	}
	if err == nil {
		_ = s.Close()
	}
}

// TestMariaDBDiesWithAKilledParent runs itself as the parent.
func TestMariaDBDiesWithAKilledParent(t *testing.T) {
	t.Parallel()
	if os.Getenv("SQLROTATE_TEST_PARENT") != "" {
		server := mariadbtest.New(t, mariadbtest.Options{})
		var file string
		if err := server.Admin().QueryRowContext(t.Context(), "select @@pid_file").Scan(&file); err != nil {
			t.Fatal(err)
		}
		fmt.Println("ready", file)
		<-t.Context().Done() // never
	}
	parent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	parent.Env = append(os.Environ(), "SQLROTATE_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var file, said string
	for lines := bufio.NewScanner(out); file == "" && lines.Scan(); said += lines.Text() + "\n" {
		if rest, found := strings.CutPrefix(lines.Text(), "ready "); found {
			file = rest
		}
	}
	if file == "" && strings.Contains(said, "SKIP") && os.Getenv("CI") == "" {
		t.Skip(said)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; the parent said %q", err, said)
	}
	var pid int
	if _, err := fmt.Sscan(string(content), &pid); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	wait(t, "the directory is removed", func() bool {
		_, err := os.Stat(filepath.Dir(file))
		return os.IsNotExist(err)
	})
	wait(t, "the server ends", func() bool {
		all, err := testserver.Processes()
		of, there := all[pid]
		return err == nil && (!there || of.State == "Z")
	})
}
