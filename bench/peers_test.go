package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// What the documentation says of lib/pq and pgx, and no story shows: docs/race.md names these
// tests.

const (
	envChildDSN = "SQLROTATE_BENCH_CHILD_DSN"
	madeUp      = "made-up-secret"
)

// TestMain logs in with lib/pq, in a process of which nothing else is asked, or is one that
// this program has started.
func TestMain(m *testing.M) {
	if had, err := beChild(); had {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	dsn := os.Getenv(envChildDSN)
	if dsn == "" {
		os.Exit(m.Run())
	}
	if err := logInOnce("postgres", dsn); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func logInOnce(driver, dsn string) error {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return db.PingContext(ctx)
}

// logInApart has a process of its own log in with lib/pq. It returns what that writes to
// standard error, and the error that it fails with.
func logInApart(t *testing.T, dsn string, env ...string) (stderr, failure string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), envChildDSN+"="+dsn), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); (err != nil) != (out.Len() > 0) {
		t.Fatalf("%v\n%s\n%s", err, &out, &errs)
	}
	return errs.String(), out.String()
}

func newRoleAndServer(t *testing.T) (*pgtest.Server, string) {
	t.Helper()
	s := pgtest.New(t, pgtest.Options{Control: true})
	if err := s.CreateRole(t.Context(), "bench_peer", madeUp); err != nil {
		t.Fatal(err)
	}
	return s, s.DSN() + " user=bench_peer"
}

// With a passfile that others may read, lib/pq logs in without a password, and says why on
// standard error alone. (A group's right to read is enough: what a mounted Secret with an
// fsGroup has.)
func TestLibPQIgnoresAPassfileThatOthersMayRead(t *testing.T) {
	t.Parallel()
	_, dsn := newRoleAndServer(t)
	path := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(path, []byte("*:*:*:*:"+madeUp+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dsn += " passfile=" + path
	if stderr, failure := logInApart(t, dsn); stderr != "" || failure != "" {
		t.Errorf("with the right permissions: %s%s", stderr, failure)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	stderr, failure := logInApart(t, dsn)
	if !strings.Contains(stderr, "WARNING: password file") || !strings.Contains(failure, "28P01") || strings.Contains(failure, "file") {
		t.Errorf("it says\n%s\nand fails with\n%s", stderr, failure)
	}
}

// PQGO_DEBUG=1 has lib/pq print the password.
func TestLibPQDebugPrintsThePassword(t *testing.T) {
	t.Parallel()
	_, dsn := newRoleAndServer(t)
	dsn += " password=" + madeUp
	if stderr, failure := logInApart(t, dsn, "PQGO_DEBUG=1"); !strings.Contains(stderr, madeUp) || failure != "" {
		t.Errorf("it says\n%s\nand fails with\n%s", stderr, failure)
	}
	if stderr, _ := logInApart(t, dsn); stderr != "" {
		t.Errorf("without it says\n%s", stderr)
	}
}

// PostgreSQL takes a password for SCRAM as SASLprep has it. lib/pq sends it as it is, and
// pgx as another rule has it, so that each is refused with some that are right.
func TestDriversAloneNormaliseOtherwise(t *testing.T) {
	t.Parallel()
	s, _ := newRoleAndServer(t)
	for i, test := range []struct {
		name, password string
		refused        []string
	}{
		{"composed accent", "p\u00e4ssword", nil},
		{"no-break space", "no\u00a0break", []string{"postgres"}},
		{"ligature", "\ufb01sh", []string{"postgres", "pgx"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			user := fmt.Sprintf("bench_prep_%d", i)
			if err := s.CreateRole(t.Context(), user, test.password); err != nil {
				t.Fatal(err)
			}
			for _, driver := range []string{"postgres", "pgx"} {
				err := logInOnce(driver, s.DSN()+" user="+user+" password='"+test.password+"'")
				if refused := err != nil && strings.Contains(err.Error(), "28P01"); refused != slices.Contains(test.refused, driver) || !refused && err != nil {
					t.Errorf("%s: %v", driver, err)
				}
			}
		})
	}
}

// breaking dials connections that can be broken.
type breaking struct{ made chan net.Conn }

func (b breaking) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		b.made <- conn
	}
	return conn, err
}

// A statement without arguments whose connection breaks while it runs is run again:
// pgx says driver.ErrBadConn of it, and database/sql believes that.
func TestAStatementIsRunAgainBehindPgx(t *testing.T) {
	t.Parallel()
	s, dsn := newRoleAndServer(t)
	for _, statement := range []string{"create sequence runs", "grant usage on sequence runs to bench_peer"} {
		if _, err := s.Admin().ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := pgx.ParseConfig(dsn + " password=" + madeUp)
	if err != nil {
		t.Fatal(err)
	}
	b := breaking{make(chan net.Conn, 10)}
	cfg.DialFunc = b.dial
	db := stdlib.OpenDB(*cfg)
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	runs := func() (n int, err error) {
		err = s.Admin().QueryRowContext(t.Context(), "select case when is_called then last_value else 0 end from runs").Scan(&n)
		return n, err
	}
	const lock = "pg_advisory_lock(1)"
	holder, err := s.Admin().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close() }()
	if _, err := holder.ExecContext(t.Context(), "select "+lock); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := db.ExecContext(t.Context(), "select nextval('runs'), "+lock)
		done <- err
	}()
	for n := 0; n == 0; { // until it waits for the lock
		if n, err = runs(); err != nil {
			t.Fatal(err)
		}
	}
	_ = (<-b.made).Close()
	for n := 0; n < 2; {
		select {
		case err := <-done:
			t.Fatalf("it has failed, and was not run again: %v", err)
		default:
		}
		if n, err = runs(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := holder.ExecContext(t.Context(), "select pg_advisory_unlock(1)"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A pq.Listener that has lost its connection tries the login that it was opened with, again
// and again.
func TestPQListenerReconnectsWithItsOldLogin(t *testing.T) {
	t.Parallel()
	s, dsn := newRoleAndServer(t)
	connected, refused := make(chan struct{}, 1), make(chan struct{}, 100)
	l := pq.NewListener(dsn+" password="+madeUp, time.Millisecond, 10*time.Millisecond, func(event pq.ListenerEventType, err error) {
		switch {
		case event == pq.ListenerEventConnected:
			connected <- struct{}{}
		case event == pq.ListenerEventConnectionAttemptFailed && strings.Contains(err.Error(), "28P01"):
			select {
			case refused <- struct{}{}:
			default:
			}
		}
	})
	defer func() { _ = l.Close() }()
	if err := l.Listen("jobs"); err != nil {
		t.Fatal(err)
	}
	<-connected
	if err := s.AlterPassword(t.Context(), "bench_peer", "another"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Terminate(t.Context(), "bench_peer"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		<-refused
	}
	if _, n, err := s.LoginAttempts("bench_peer"); err != nil || n < 5 {
		t.Errorf("%d refused, %v", n, err)
	}
}
