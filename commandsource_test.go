//go:build unix

package sqlrotate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what takes a moment on a machine that keeps up.
const patience = time.Minute

// sh is a command that runs script, with args as $1 and so on.
func sh(script string, args ...string) []string {
	return append([]string{"/bin/sh", "-c", script, "sh"}, args...)
}

func commandSourceOf(t *testing.T, command []string, opt CommandOptions) *commandSource {
	t.Helper()
	s, err := newCommandSource(command, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What the tools of clouds and vaults print, as their documentation has it, is read; how
// long it is good counts from before the program was started.
func TestWhatToolsPrintIsRead(t *testing.T) {
	const rds = "aurmysql-test.cdgmuqiadpid.us-west-2.rds.amazonaws.com:3306/?Action=connect&DBUser=jane_doe&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIESZCNJ3O4KG2KUA%2F20180731%2Fus-east-1%2Frds-db%2Faws4_request&X-Amz-Date=20180731T235209Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=5a8753ebcfc29a1a2c724e566779721ae6c49d6ec6e3f427191fa41aeb32f0b4"
	const jwt = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6Ik1uQ19WWmNBVGZNNXBPWWlKSE1iYTlnb0VLWSJ9.eyJhdWQiOiJodHRwczovL29zc3JkYm1zLWFhZC5kYXRhYmFzZS53aW5kb3dzLm5ldCJ9.c2ln"
	end := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		tool, output   string
		opt            CommandOptions
		user, password string
		end            time.Time     // if the output says when
		lasts          time.Duration // if it says for how long
	}{
		{
			tool: "aws rds generate-db-auth-token", output: rds + "\n", opt: CommandOptions{Username: "jane_doe", Lifetime: 15 * time.Minute},
			user: "jane_doe", password: rds, lasts: 15 * time.Minute,
		},
		{tool: "gcloud sql generate-login-token", output: "ya29.c.c0ASRK0GaJ-9x_Zk.Q\n", opt: CommandOptions{Username: "app@project.iam"}, user: "app@project.iam", password: "ya29.c.c0ASRK0GaJ-9x_Zk.Q"},
		{
			tool: "az account get-access-token", opt: CommandOptions{Username: "app-identity"},
			output: `{
  "accessToken": "` + jwt + `",
  "expiresOn": "2100-01-02 05:04:05.000000",
  "expires_on": 4102542245,
  "subscription": "00000000-0000-0000-0000-000000000000",
  "tenant": "00000000-0000-0000-0000-000000000000",
  "tokenType": "Bearer"
}
`, user: "app-identity", password: jwt, end: end,
		},
		{
			tool: "az account get-access-token, before 2.54", opt: CommandOptions{Username: "app-identity"},
			output: `{"accessToken": "` + jwt + `", "expiresOn": "2100-01-02 05:04:05.000000", "tokenType": "Bearer"}`,
			user:   "app-identity", password: jwt,
		},
		{
			tool: "Azure's metadata", opt: CommandOptions{Username: "app-identity"},
			output: `{"access_token":"` + jwt + `","client_id":"x","expires_in":"86399","expires_on":"4102542245","ext_expires_in":"86399","not_before":"1495184574","resource":"https://ossrdbms-aad.database.windows.net","token_type":"Bearer"}`,
			user:   "app-identity", password: jwt, lasts: 86399 * time.Second,
		},
		{
			tool: "Google's metadata", opt: CommandOptions{Username: "app@project.iam"},
			output: `{"access_token":"ya29.c.x","expires_in":3599,"token_type":"Bearer"}`,
			user:   "app@project.iam", password: "ya29.c.x", lasts: 3599 * time.Second,
		},
		{
			tool: "databricks database generate-database-credential", opt: CommandOptions{Username: "app@example.com"},
			output: `{"expiration_time":"2100-01-02T03:04:05Z","token":"` + jwt + `"}`,
			user:   "app@example.com", password: jwt, end: end,
		},
		{
			tool:   "aws redshift get-cluster-credentials",
			output: `{"DbUser": "IAM:adminuser", "DbPassword": "AMAFUyyuros/QjxPTtgzcsuQsqzIasdzJEN04aCtWDzXx1O9d6UmpkBtvEeqFly/EXAMPLE==", "Expiration": "2100-01-02T03:04:05Z"}`,
			user:   "IAM:adminuser", password: "AMAFUyyuros/QjxPTtgzcsuQsqzIasdzJEN04aCtWDzXx1O9d6UmpkBtvEeqFly/EXAMPLE==", end: end,
		},
		{
			tool: "vault read -format=json database/creds/app",
			output: `{
  "request_id": "4f0a5b6e-3a3c-4b2e-9d3f-0a6c6a4e7d11",
  "lease_id": "database/creds/app/8uBqdHJjYQlqA5NOIZ0tyRGm",
  "lease_duration": 3600,
  "renewable": true,
  "data": {
    "password": "b-yT5mSl1xNRHrqYBWJF",
    "username": "v-root-app-ZtL3zYpa1mxC2Aoh5yEV-1700000000"
  },
  "warnings": null
}
`, user: "v-root-app-ZtL3zYpa1mxC2Aoh5yEV-1700000000", password: "b-yT5mSl1xNRHrqYBWJF", lasts: time.Hour,
		},
		{
			tool:   "vault read kv/app", // no lease: the number is a hint
			output: `{"request_id":"x","lease_id":"","lease_duration":2764800,"renewable":false,"data":{"password":"secret-1","username":"app"},"warnings":null}`,
			user:   "app", password: "secret-1",
		},
		{
			tool:   "vault read database/static-creds/app",
			output: `{"request_id":"x","lease_id":"","lease_duration":0,"renewable":false,"data":{"last_vault_rotation":"2026-01-01T00:00:00Z","password":"secret-1","rotation_period":86400,"ttl":3600,"username":"app"}}`,
			user:   "app", password: "secret-1",
		},
		{
			tool:   "aws secretsmanager get-secret-value",
			output: `{"ARN":"arn:aws:secretsmanager:us-west-2:123456789012:secret:app-a1b2c3","Name":"app","VersionId":"EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE","SecretString":"{\"username\":\"app\",\"password\":\"secret-1\"}","VersionStages":["AWSCURRENT"],"CreatedDate":1523477145.713}`,
			user:   "app", password: "secret-1",
		},
		{tool: "heroku config:get DATABASE_URL", output: "postgres://app:secret%2D1@host:5432/db\n", user: "app", password: "secret-1"},
		{
			tool: "one of your own", output: `{"username":"app","password":"secret-1","token":"another","expires_at":"2100-01-02T03:04:05Z"}`,
			user: "app", password: "secret-1", end: end,
		},
		{tool: "a passphrase in JSON", output: `{"Name":"app","SecretString":"correct horse battery staple"}`, opt: CommandOptions{Username: "app"}, user: "app", password: "correct horse battery staple"},
		{tool: "a passphrase", output: "correct horse battery staple\n", opt: CommandOptions{Username: "app", Format: FormatPassword}, user: "app", password: "correct horse battery staple"},
		{tool: "a nested token", output: `{"status":{"token":"secret-1"}}`, opt: CommandOptions{Username: "app", PasswordKey: "status.token"}, user: "app", password: "secret-1"},
	} {
		t.Run(c.tool, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "output")
			if err := os.WriteFile(path, []byte(c.output), 0o600); err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			got, err := commandSourceOf(t, []string{"cat", path}, c.opt).Credential(t.Context())
			after := time.Now()
			if err != nil {
				t.Fatal(err)
			}
			if got.Username != c.user || got.Password.Reveal() != c.password {
				t.Errorf("%q, %q", got.Username, got.Password.Reveal())
			}
			from, to := c.end, c.end
			if c.lasts > 0 {
				from, to = before.Add(c.lasts).Round(0), after.Add(c.lasts).Round(0)
			}
			if got.NotAfter.Before(from) || got.NotAfter.After(to) {
				t.Errorf("it ends at %v, and not from %v to %v", got.NotAfter, from, to)
			}
		})
	}
}

// life is a pipe that processes hold which are started with its path as $1, by "exec 9>"$1"".
type life struct {
	path string
	pids chan int      // what they write, a line each
	over chan struct{} // closed when none of them is left
}

func newLife(t *testing.T) *life {
	t.Helper()
	l := &life{path: filepath.Join(t.TempDir(), "life"), pids: make(chan int, 8), over: make(chan struct{})}
	if err := syscall.Mkfifo(l.path, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.over)
		f, err := os.Open(l.path) // waits for the first of them
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			pid, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Error(err)
			}
			l.pids <- pid
		}
	}()
	return l
}

func (l *life) pid(t *testing.T) int {
	t.Helper()
	select {
	case pid := <-l.pids:
		return pid
	case <-time.After(patience):
		t.Fatal("the program doesn't start")
		return 0
	}
}

func (l *life) mustEnd(t *testing.T) {
	t.Helper()
	// Whoever waits for the first of them has waited long enough.
	if f, err := os.OpenFile(l.path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
		_ = f.Close()
	}
	select {
	case <-l.over:
	case <-time.After(patience):
		t.Error("something of it lives on")
	}
}

// Whatever a program does, it is bounded, says why, and leaves nothing behind in its
// group.
func TestProgramsAreBounded(t *testing.T) {
	const (
		start   = `exec 9>"$1"; `
		started = `echo $$ >&9; ` // then its time is over
	)
	for _, c := range []struct {
		does, script string
		is           error
		says         string
	}{
		{does: "hangs", script: started + `sleep 1000`, is: context.Canceled},
		{does: "hangs in a child", script: `sleep 1000 & sleep 1000 & ` + started + `wait`, is: context.Canceled},
		{does: "ignores signals", script: `trap "" TERM INT HUP; ` + started + `sleep 1000; sleep 1000`, is: context.Canceled},
		{does: "closes its output and hangs", script: `exec >/dev/null 2>&1; ` + started + `sleep 1000`, is: context.Canceled},
		{does: "complains endlessly", script: `yes 'what now' | head -n 50000 >&2; ` + started + `yes 'what now' >&2`, is: context.Canceled, says: `what now\nwhat now`},
		{does: "reads", script: `cat; echo nothing to read >&2; exit 3`, says: "exit status 3; it says \"nothing to read\""},
		{does: "asks", script: `read answer </dev/tty`, says: "exit status"},
		{does: "prints endlessly", script: `while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done`, is: errMuchOutput},
		{does: "prints endlessly in a child", script: `yes & wait`, is: errMuchOutput},
		{does: "leaves a child with its output", script: `sleep 1000 & echo token`, is: errOutputHeld},
		{does: "leaves a child with its errors", script: `sleep 1000 >/dev/null & echo token`, is: errOutputHeld},
		{does: "fails and leaves a child", script: `sleep 1000 >/dev/null 2>&1 & echo token; exit 2`, says: "exit status 2"},
		{does: "is killed", script: `kill -KILL $$`, says: "signal: killed"},
	} {
		t.Run(c.does, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			life := newLife(t)
			if errors.Is(c.is, context.Canceled) {
				go func() {
					select {
					case <-life.pids:
						cancel()
					case <-ctx.Done():
					}
				}()
			}
			s := commandSourceOf(t, sh(start+c.script, life.path), CommandOptions{Username: "app"})
			_, err := s.Credential(ctx)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("it says %v", err)
			}
			if len(err.Error()) > 3*maxSaid {
				t.Errorf("it says %d bytes", len(err.Error()))
			}
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.Error("it took all of its time")
			}
			life.mustEnd(t)
		})
	}
}

// A program that takes longer than the cache allows is killed, and CheckHealth says so.
func TestProgramThatTakesTooLong(t *testing.T) {
	life := newLife(t)
	s, err := NewCommandSource(sh(`exec 9>"$1"; sleep 1000`, life.path), CommandOptions{
		Username: "app", Cache: CacheOptions{Timeout: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Credential(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who waits gets %v", err)
	}
	if err := s.CheckHealth(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "command sh: it was killed while it ran") {
		t.Errorf("CheckHealth says %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	life.mustEnd(t)
}

// What a program leaves behind outside of its group can't be killed, and holds nobody up.
// If it doesn't hold the output, it is no concern of ours at all.
func TestDaemonThatAProgramLeavesBehind(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		output string
		is     error
	}{{"", errOutputHeld}, {">/dev/null 2>&1", nil}} {
		life := newLife(t)
		started := filepath.Join(t.TempDir(), "started")
		s := commandSourceOf(t, sh(`exec 9>"$1"
			setsid sh -c 'echo $$ >&9; : >"$1"; exec sleep 1000' sh "$2" `+c.output+` &
			until [ -e "$2" ]; do sleep 0.01; done
			echo token`, life.path, started), CommandOptions{Username: "app"})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := s.Credential(ctx); !errors.Is(err, c.is) {
			t.Errorf("with %q: %v", c.output, err)
		}
		if err := syscall.Kill(life.pid(t), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		life.mustEnd(t)
	}
}

// What can't be run is an error that a caller can tell from others, at the start where
// that is possible.
func TestCommandsThatCantBeRun(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\necho token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		command []string
		opt     CommandOptions
		is      error
		says    string
	}{
		{command: nil, says: "there is no command"},
		{command: []string{""}, says: "there is no command"},
		{command: []string{"./plain"}, says: "relative path"},
		{command: []string{"bin/plain"}, says: "relative path"},
		{command: []string{"sqlrotate-no-such-program"}, is: exec.ErrNotFound},
		{command: []string{filepath.Join(dir, "missing")}, is: fs.ErrNotExist},
		{command: []string{plain}, is: fs.ErrPermission},
		{command: []string{dir}, says: "is a directory"},
		{command: []string{"true"}, opt: CommandOptions{Cache: CacheOptions{Timeout: -1}}, says: "Cache.Timeout"},
		{command: []string{"true"}, opt: CommandOptions{Cache: CacheOptions{MaxAge: 30}}, says: "CacheOptions.MaxAge"},
		{command: []string{"true"}, opt: CommandOptions{Lifetime: -1}, says: "Lifetime"},
		{command: []string{"true"}, opt: CommandOptions{Lifetime: 900}, says: "give it a unit"},
	} {
		s, err := NewCommandSource(c.command, c.opt)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "sqlrotate: ") {
			t.Errorf("%q: %v", c.command, err)
		}
	}
}

// A program in PATH's own directory is not what a name means, whatever PATH says.
func TestCommandsAreNotLookedForInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/bin/true", filepath.Join(dir, "sqlrotate-here")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("PATH", ".")
	if _, err := newCommandSource([]string{"sqlrotate-here"}, CommandOptions{}); !errors.Is(err, exec.ErrDot) {
		t.Errorf("it is %v", err)
	}
}

// A program may be replaced, by another or by nothing, between two runs; each run says
// what became of it, and nothing is kept from the last one.
func TestProgramIsReplacedBetweenRuns(t *testing.T) {
	dir := t.TempDir()
	program, token := filepath.Join(dir, "program"), filepath.Join(dir, "token")
	become := func(target string) {
		t.Helper()
		next := filepath.Join(dir, "next")
		if err := os.Symlink(target, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, program); err != nil {
			t.Fatal(err)
		}
	}
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("the-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	become(cat)
	s := commandSourceOf(t, []string{program, token}, CommandOptions{Username: "app"})
	want := func(what string, is error, says string) {
		t.Helper()
		cred, err := s.Credential(t.Context())
		switch {
		case is == nil && says == "":
			if err != nil || cred.Password.Reveal() != "the-token" {
				t.Errorf("%s: %q, %v", what, cred.Password.Reveal(), err)
			}
		case err == nil || is != nil && !errors.Is(err, is) || !strings.Contains(err.Error(), says) || cred.Username != "":
			t.Errorf("%s: %v", what, err)
		}
	}
	want("as it was", nil, "")
	become("/bin/false")
	want("false", nil, "exit status 1")
	become("/bin/true")
	want("true", nil, "no credential in it: the program prints nothing")
	become(token)
	want("no program", fs.ErrPermission, "")
	become(filepath.Join(dir, "nothing"))
	want("nothing", fs.ErrNotExist, "")
	become(cat)
	want("as before", nil, "")
}

// Output that is no credential is a DecodeError in the words of CommandOptions.
func TestOutputThatIsNoCredential(t *testing.T) {
	for _, c := range []struct {
		output string
		opt    CommandOptions
		reason DecodeReason
		says   string
	}{
		{"", CommandOptions{Username: "app"}, DecodeEmpty, "prints nothing"},
		{"\n", CommandOptions{Username: "app"}, DecodeEmpty, "prints nothing"},
		{"token", CommandOptions{}, DecodeUnknownFormat, "set CommandOptions.Username"},
		{"Updates are available for some components", CommandOptions{Username: "app"}, DecodeUnknownFormat, "set CommandOptions.Format to FormatPassword"},
		{"token \n", CommandOptions{Username: "app"}, DecodeUnknownFormat, "a space in it"},
		{"two\nlines", CommandOptions{Username: "app"}, DecodeUnknownFormat, "CommandOptions.Format"},
		{`{"accessToken": "eyJ`, CommandOptions{Username: "app"}, DecodeSyntax, "not valid JSON"},
		{`{"token": "one", "access_token": "two"}`, CommandOptions{Username: "app"}, DecodeConflict, "CommandOptions.PasswordKey"},
		{`{"token": "one", "expires_in": "soon"}`, CommandOptions{Username: "app"}, DecodeBadEnd, "number of seconds"},
		{`{"token": "one", "expires_in": -5}`, CommandOptions{Username: "app"}, DecodeBadEnd, "number of seconds"},
		{`{"token": "one", "expires_in": 99999999999}`, CommandOptions{Username: "app"}, DecodeBadEnd, "number of seconds"},
		{`{"token": "one", "expires_on": "tomorrow"}`, CommandOptions{Username: "app"}, DecodeBadEnd, "is not an instant"},
		{`{"token": "one"}`, CommandOptions{}, DecodeNoUsername, "CommandOptions.Username"},
		{`{"token": "one"}`, CommandOptions{Username: "app", PasswordKey: "key"}, DecodeNoPassword, `"key"`},
		{`{"username": "other", "token": "one"}`, CommandOptions{Username: "app"}, DecodeConflict, "CommandOptions.Username"},
		{"\x00\x01", CommandOptions{Username: "app"}, DecodeNUL, ""},
	} {
		path := filepath.Join(t.TempDir(), "output")
		if err := os.WriteFile(path, []byte(c.output), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := commandSourceOf(t, []string{"cat", path}, c.opt).Credential(t.Context())
		var e *DecodeError
		if !errors.As(err, &e) || e.Reason != c.reason || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v", c.output, err)
		}
		if err != nil && (strings.Contains(err.Error(), "FileOptions") || !strings.HasPrefix(err.Error(), "sqlrotate: command cat: ")) {
			t.Errorf("%q: %v", c.output, err)
		}
	}
}

// What a program writes to standard error is told when it fails, as far as it may be.
func TestStandardErrorIsToldWithoutSecrets(t *testing.T) {
	const (
		token = "7f3Kq9-short"
		jwt   = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhcHAifQ.c2lnbmF0dXJl"
	)
	t.Setenv("SQLROTATE_TEST_TOKEN", "hunter2")
	for _, c := range []struct {
		does, script string
		says         string   // if anything
		not          []string // must not be said
	}{
		{does: "says why", script: `echo 'An error occurred (ExpiredToken): the security token is expired' >&2; exit 254`, says: `exit status 254; it says "An error occurred (ExpiredToken): the security token is expired"`},
		{does: "says why in control characters", script: `printf 'no\033[1m login\r\n' >&2; exit 1`, says: `it says "no\x1b[1m login"`},
		{does: "names paths and addresses", script: `echo 'see /usr/lib/google-cloud-sdk/lib/googlecloudsdk/core/credentials/store.py and https://docs.example.com/a/rather/long/address/of/a/page' >&2; exit 1`, says: `store.py and https://docs.example.com/a/rather/long/address/of/a/page"`},
		{does: "prints and complains", script: `echo ` + token + `; echo 'too late' >&2; exit 1`, says: `it says "too late"`, not: []string{token}},
		{does: "repeats its output", script: `echo ` + token + `; echo "got ` + token + `, too late" >&2; exit 1`, says: "is withheld", not: []string{token, "too late"}},
		{does: "repeats a part of its output", script: `echo '{"user":"app","password":"` + token + `"'; echo "got ` + token + `" >&2`, says: "is withheld", not: []string{token}},
		{does: "traces with a token", script: `set -x; curl=true; : -H "Authorization: Bearer ` + jwt + `"; exit 1`, says: `Bearer …`, not: []string{jwt, "eyJ", "c2ln"}},
		{does: "ends with half a token", script: `printf 'a%.0s' $(seq 100) >&2; printf '` + token + `%.0s' $(seq 200) >&2; echo ' is no good' >&2; exit 1`, says: `it says "is no good"`, not: []string{token}},
		{does: "is one long word", script: `printf '` + token + `%.0s' $(seq 200) >&2; exit 1`, says: "exit status 1", not: []string{token, "it says"}},
		{does: "repeats a value of its output", script: `echo PGPASSWORD=hunter2; echo 'hunter2?' >&2; exit 1`, says: "is withheld", not: []string{"hunter2"}},
		{does: "repeats a part of a URL", script: `echo postgres://app:hunter2@db/app; echo 'no login (hunter2)' >&2; exit 1`, says: "is withheld", not: []string{"hunter2"}},
		{does: "repeats a half of its output", script: `echo 7f3Kq9-0123456789; echo '7f3Kq9-0…' >&2; exit 1`, says: "is withheld", not: []string{"7f3Kq9"}},
		{does: "repeats what its output stands for", script: `echo '{"username":"app","password":"a\u0026b!c"}'; echo 'a&b!c' >&2; exit 1`, says: "is withheld", not: []string{"a&b"}},
		{does: "repeats an argument", script: `echo "unknown option --key=$1 or '$1'" >&2; exit 2`, says: `unknown option --key=… or '…'`},
		{does: "repeats its environment", script: `set -x; : "$SQLROTATE_TEST_TOKEN" $HOME; exit 2`, says: `: … /`, not: []string{"hunter2"}},
		{does: "complains of a token that looks like a path", script: `echo 'bad token /9j4AAQSkZJRgABAQAAAQABAAD2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBw/MCgwMCw==' >&2; exit 2`, says: "bad token …", not: []string{"9j4A", "MCgw"}},
		{does: "fails silently", script: `exit 1`, says: "exit status 1", not: []string{"it says"}},
		{does: "fails to be understood", script: `echo "two lines"; echo of it; echo 'deprecated: use the other one' >&2`, says: `it says "deprecated: use the other one"`},
	} {
		t.Run(c.does, func(t *testing.T) {
			s := commandSourceOf(t, sh(c.script, "argument-secret"), CommandOptions{Username: "app"})
			_, err := s.Credential(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("it says %v", err)
			}
			for _, secret := range append(c.not, "argument-secret") {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
					t.Errorf("it says %v", err)
				}
			}
		})
	}
	// The last password isn't told either.
	dir := t.TempDir()
	s := commandSourceOf(t, sh(`if [ -e "$1" ]; then echo `+token+` is used up >&2; exit 1; fi; : >"$1"; echo `+token, filepath.Join(dir, "used")), CommandOptions{Username: "app"})
	if _, err := s.Credential(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Credential(t.Context())
	if err == nil || strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "withheld") {
		t.Errorf("it says %v", err)
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || len(exit.Stderr) > 0 {
		t.Errorf("it is %#v", err)
	}
	if s.String() != "command sh" {
		t.Errorf("it is called %q", s)
	}
}

// A program gets nothing to read, its own environment if it is given one, and its
// arguments as they are, which no shell sees.
func TestWhatAProgramGets(t *testing.T) {
	t.Setenv("SQLROTATE_TEST_INHERITED", "yes")
	const script = `cat; printf '%s|%s|%s' "$SQLROTATE_TEST_INHERITED" "$ONLY" "$1"`
	for _, c := range []struct {
		env  []string
		want string
	}{
		{nil, "yes||`id` * ; id"},
		{[]string{"ONLY=this"}, "|this|`id` * ; id"},
		{[]string{}, "||`id` * ; id"},
	} {
		s := commandSourceOf(t, sh(script, "`id` * ; id"), CommandOptions{Username: "app", Env: c.env, Format: FormatPassword})
		got, err := s.Credential(t.Context())
		if err != nil || got.Password.Reveal() != c.want {
			t.Errorf("with %q: %q, %v", c.env, got.Password.Reveal(), err)
		}
	}
}

// Many logins that need a credential at once cost one run; so do those that are refused
// together.
func TestManyLoginsRunAProgramOnce(t *testing.T) {
	runs := filepath.Join(t.TempDir(), "runs")
	s, err := NewCommandSource(sh(`echo run >>"$1"; echo token-$(wc -l <"$1")`, runs), CommandOptions{Username: "app", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := func(call func(context.Context) (Credential, error)) Credential {
		t.Helper()
		var wg sync.WaitGroup
		got := make([]Credential, 50)
		for i := range got {
			wg.Go(func() {
				cred, err := call(t.Context())
				if err != nil {
					t.Error(err)
				}
				got[i] = cred
			})
		}
		wg.Wait()
		return got[0]
	}
	first := all(s.Credential)
	second := all(func(ctx context.Context) (Credential, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for {
			cred, err := s.Refresh(ctx, first)
			if err != nil || !cred.SameLogin(first) {
				return cred, err
			}
			time.Sleep(10 * time.Millisecond) // the pause after the first run
		}
	})
	if first.Password.Reveal() != "token-1" || second.Password.Reveal() != "token-2" {
		t.Errorf("%q and %q", first.Password.Reveal(), second.Password.Reveal())
	}
	if st := s.Status(); st.Fetches != 2 || s.String() != "command sh" {
		t.Errorf("%s: %+v", s, st)
	}
}

// Close kills a program that runs, and fails those who wait for it.
func TestCloseKillsAProgramThatRuns(t *testing.T) {
	life := newLife(t)
	s, err := NewCommandSource(sh(`trap "" TERM; exec 9>"$1"; echo $$ >&9; sleep 1000 & wait`, life.path), CommandOptions{Username: "app"})
	if err != nil {
		t.Fatal(err)
	}
	life.pid(t)
	failed := make(chan error, 1)
	go func() {
		_, err := s.Credential(t.Context())
		failed <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	life.mustEnd(t)
	if err := <-failed; !errors.Is(err, os.ErrClosed) {
		t.Errorf("who waits gets %v", err)
	}
}

// A program that fails, or takes too long, leaves the last good credential in use.
func TestProgramThatFailsLeavesTheLastToken(t *testing.T) {
	dir := t.TempDir()
	fails := filepath.Join(dir, "fails")
	s, err := NewCommandSource(sh(`[ ! -e "$1" ] || { echo no login >&2; exit 1; }; echo token`, fails), CommandOptions{
		Username: "app", Lifetime: time.Hour, Cache: CacheOptions{MaxAge: time.Second, Logger: slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, err := s.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fails, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); s.CheckHealth() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never fails")
		}
	}
	if again, err := s.Credential(t.Context()); err != nil || !again.SameLogin(first) {
		t.Errorf("then it gives %v, %v", again, err)
	}
	if err := s.CheckHealth(); err == nil || !strings.Contains(err.Error(), `command sh: exit status 1; it says "no login"`) {
		t.Errorf("its health is %v", err)
	}
}
