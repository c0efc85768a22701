package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// watched is a check -watch under way.
type watched struct {
	*site
	out    transcript
	errout bytes.Buffer
	cancel context.CancelFunc
	done   chan int
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// watch starts one, and waits until it waits.
func watch(t *testing.T, s *site, flags ...string) *watched {
	t.Helper()
	s.flags = append(s.flags, "-watch")
	s.flags = append(s.flags, flags...)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	w := &watched{site: s, cancel: cancel, done: make(chan int, 1)}
	go func() { w.done <- run(ctx, stdio{&w.out, &w.errout}, s.args()) }()
	w.says(t, "waiting for a rotation")
	return w
}

// says waits until something was said.
func (w *watched) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, text, func() bool { return strings.Contains(w.out.String(), text) })
	if t.Failed() {
		t.Fatal(w.out.String())
	}
}

// end waits for the exit status, and fails if a secret was printed.
func (w *watched) end(t *testing.T) int {
	t.Helper()
	status := <-w.done
	for _, secret := range w.secrets {
		if strings.Contains(w.out.String()+w.errout.String(), secret) {
			t.Errorf("it prints the secret %s", secret)
		}
	}
	if w.errout.Len() > 0 {
		t.Errorf("on standard error: %s", w.errout.String())
	}
	return status
}

// successor makes another role, and returns what the file is to say of it.
func (s *site) successor(t *testing.T) (user, content string) {
	t.Helper()
	user, password := s.user+"_2", s.password+"2"
	if err := s.server.CreateRole(t.Context(), user, password); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.server.RevokeRole(context.Background(), user) })
	return user, fmt.Sprintf(`{"username":%q,"password":%q}`, user, password)
}

// publish puts another file in the place of the one with the login.
func (s *site) publish(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(s.path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFollowsARotation(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	short := []string{"-overlap", "20s", "-lag", "-1ns", "-max-in-use", "1s", "-drain-time", "200ms"}
	for _, c := range []struct {
		name  string
		flags []string
		by    string
	}{
		{"by events", nil, "an event told of it"},
		{"by polls", []string{"-poll-only", "-poll", "100ms"}, "no event came, it was found by a look"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := healthy(t, server)
			s.window, s.flags = short, c.flags
			user, content := s.successor(t)
			w := watch(t, s, "-once", "-for", "2m")
			s.publish(t, content)
			if status := w.end(t); status != statusOK {
				t.Errorf("exit status %d", status)
			}
			text := w.out.String()
			for _, want := range []string{
				"loaded         user \"" + user + "\"", c.by, "rotated        user \"" + user + "\"", "proven         a login as user \"" + user + "\"",
				"superseded\n", "drained        all connections of the old login (2) are gone", "ok       watch          rotations seen: 1; nothing failed",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("it doesn't say %q:\n%s", want, text)
				}
			}
		})
	}
	t.Run("in place", func(t *testing.T) {
		t.Parallel()
		s := healthy(t, server)
		s.window = []string{"-in-place", "-drain-time", "200ms"}
		w := watch(t, s, "-once", "-for", "2m", "-json")
		s.password += "2"
		s.alter(t, "password '"+s.password+"'")
		s.publish(t, fmt.Sprintf(`{"username":%q,"password":%q}`, s.user, s.password))
		if status := w.end(t); status != statusOK {
			t.Errorf("exit status %d", status)
		}
		var checks []string
		for line := range strings.Lines(w.out.String()) {
			var f finding
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Errorf("%v: %s", err, line)
			}
			checks = append(checks, f.Check)
		}
		for _, want := range []string{"loaded", "rotated", "proven", "drained", "watch"} {
			if !slices.Contains(checks, want) {
				t.Errorf("there is no %q in %q", want, checks)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		s := healthy(t, server)
		s.window = short
		w := watch(t, s)
		s.publish(t, fmt.Sprintf(`{"username":%q,"password":"wrong"}`, s.user+"_none"))
		w.says(t, "the server refuses user \""+s.user+"_none\"")
		w.cancel()
		if status := w.end(t); status != statusFailed || !strings.Contains(w.out.String(), "FAIL     watch          rotations seen: 1; the last one isn't over") {
			t.Errorf("exit status %d:\n%s", status, w.out.String())
		}
	})
	t.Run("torn", func(t *testing.T) {
		t.Parallel()
		s := healthy(t, server)
		s.window = short
		w := watch(t, s)
		s.publish(t, `{"username":"app","pass`)
		w.says(t, "perhaps not yet written to its end; the last good credential stays")
		s.publish(t, fmt.Sprintf(`{"username":%q,"password":%q}`, s.user, s.password))
		w.says(t, "it can be read again")
		w.cancel()
		if status := w.end(t); status != statusFailed || !strings.Contains(w.out.String(), "no rotation was seen") {
			t.Errorf("exit status %d:\n%s", status, w.out.String())
		}
	})
	t.Run("nothing happens", func(t *testing.T) {
		t.Parallel()
		s := healthy(t, server)
		s.window = short
		if status := watch(t, s, "-for", "2s").end(t); status != statusFailed {
			t.Errorf("exit status %d", status)
		}
	})
}

func TestWatchDoesNotBeginWithWhatIsBroken(t *testing.T) {
	s := healthy(t, nil)
	s.dsn = "host=127.0.0.1 password=hunter2"
	s.flags = []string{"-watch"}
	if status, text := s.run(t, s.args()); status != statusFailed || strings.Contains(text, "waiting") {
		t.Errorf("exit status %d:\n%s", status, text)
	}
}
