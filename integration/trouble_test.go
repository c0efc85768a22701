// What goes wrong: agents that die, Vaults that are sealed or away, tokens that are
// revoked, templates that are broken.

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// windowOf20 fits the overlap that an agent leaves of a lease of 20 s.
func windowOf20() sqlrotate.Window {
	return sqlrotate.Window{Overlap: 3 * time.Second, Lag: 200 * time.Millisecond, MaxInUse: 500 * time.Millisecond}
}

// An agent that is killed and started again gets a lease of its own; a Vault that is
// sealed for a while makes it wait. Neither is noticed, unless a lease ends meanwhile.
func TestAgentRestartsAndVaultIsSealed(t *testing.T) {
	t.Attr("needs", "quiet")
	t.Parallel()
	d := newDatabase(t)
	d.dynamicRole(20*time.Second, 20*time.Second)
	path := filepath.Join(t.TempDir(), "db.json")
	agent := newAgent(d.v, path, dynamicTemplate, time.Hour)
	a := newFileApp(d, path, windowOf20())
	o := observe(d, path)
	rotated := func(what string, limit time.Duration) {
		t.Helper()
		n := a.c.Stats().Rotations
		eventually(t, limit, what, func() bool { return a.c.Stats().Rotations > n })
	}

	agent.kill()
	a.more(500)
	agent.start()
	rotated("a login for the new agent", 15*time.Second)
	d.v.seal()
	a.more(500)
	time.Sleep(2 * time.Second)
	d.v.unseal()
	rotated("a rotation after the seal", 25*time.Second)
	rotated("another one", 25*time.Second)
	a.more(500)
	a.mustNotFail()
	o.finish()
	report(t, o)
	if err := a.c.CheckHealth(); err != nil {
		t.Error(err)
	}
}

// The lease ends while there is no agent: nothing can be done about that without a
// NotAfter, but to say so, not to hammer the server, and to be whole as soon as
// there is a login again.
func TestLeaseEndsWhileVaultIsAway(t *testing.T) {
	t.Attr("needs", "quiet")
	t.Parallel()
	d := newDatabase(t)
	d.dynamicRole(20*time.Second, 20*time.Second)
	path := filepath.Join(t.TempDir(), "db.json")
	agent := newAgent(d.v, path, dynamicTemplate, time.Hour)
	a := newFileApp(d, path, windowOf20())
	o := observe(d, path)
	a.more(500)
	agent.kill()
	eventually(t, 30*time.Second, "the lease has ended", func() bool { return len(o.revoked()) > 0 })
	ended := time.Now()
	said := eventually(t, 10*time.Second, "CheckHealth says so", func() bool { return a.c.CheckHealth() != nil })
	t.Logf("%v after the lease ended, CheckHealth says: %v", said.Round(time.Millisecond), a.c.CheckHealth())
	before := a.ledger.Failures()
	time.Sleep(5 * time.Second)
	t.Logf("%d operations failed in the first %v, the last with: %v", len(a.ledger.Failures()), time.Since(ended).Round(time.Second), last(a))
	if len(a.ledger.Failures()) == len(before) && a.c.CheckHealth() == nil {
		t.Error("nobody noticed")
	}
	agent.start()
	n := a.c.Stats().Rotations
	eventually(t, 20*time.Second, "a login for the new agent", func() bool { return a.c.Stats().Rotations > n })
	file := time.Now()
	a.whole(10 * time.Second)
	failures := a.ledger.Failures()
	took := failures[len(failures)-1].To.Sub(file)
	t.Logf("the last failure came %v after the new login; attempts with the dead role: %d refused", took.Round(time.Millisecond), a.c.Stats().Refused)
	if took > time.Second {
		t.Errorf("whole again only %v after the file", took)
	}
	a.finish()
}

// Vault hangs while the lease ends, so nobody drops the role, but PostgreSQL lets it
// log in no longer (VALID UNTIL). Queries that need a new connection wait.
func TestVaultHangsWhileALeaseEnds(t *testing.T) {
	t.Attr("needs", "quiet")
	t.Parallel()
	d := newDatabase(t)
	d.dynamicRole(20*time.Second, 20*time.Second)
	path := filepath.Join(t.TempDir(), "db.json")
	newAgent(d.v, path, dynamicTemplate, time.Hour)
	a := newFileApp(d, path, windowOf20())
	a.more(500)
	d.v.signal(syscall.SIGSTOP)
	eventually(t, 40*time.Second, "logins are refused", func() bool { return a.c.Stats().Refused > 0 })
	refused := time.Now()
	eventually(t, 10*time.Second, "CheckHealth says so", func() bool { return a.c.CheckHealth() != nil })
	time.Sleep(10 * time.Second)
	t.Logf("%v after the first refusal %d operations have failed, and CheckHealth says: %v", time.Since(refused).Round(time.Second), len(a.ledger.Failures()), a.c.CheckHealth())
	n := a.c.Stats().Rotations
	d.v.signal(syscall.SIGCONT)
	took := eventually(t, 20*time.Second, "a new login", func() bool { return a.c.Stats().Rotations > n })
	whole := a.whole(10 * time.Second)
	a.more(500)
	a.mustNotFail()
	t.Logf("a new login %v after Vault went on, whole %v later; the slowest operation took %v; %d logins refused",
		took.Round(time.Millisecond), max(0, whole).Round(time.Millisecond), a.ledger.Slowest().Round(time.Millisecond), a.c.Stats().Refused)
}

// The agent's token is revoked, and with it, at once, the role in use. The agent logs
// in again by itself.
func TestTokenIsRevoked(t *testing.T) {
	t.Attr("needs", "quiet")
	t.Parallel()
	d := newDatabase(t)
	d.dynamicRole(20*time.Second, 20*time.Second)
	path := filepath.Join(t.TempDir(), "db.json")
	agent := newAgent(d.v, path, dynamicTemplate, 10*time.Second)
	a := newFileApp(d, path, windowOf20())
	a.more(1000)
	o := observe(d, path)
	a.more(200)
	if n := agent.revokeTokens(); n == 0 {
		t.Fatal("the agent has no token")
	}
	revoked := time.Now()
	n := a.c.Stats().Rotations
	arrived := eventually(t, 30*time.Second, "a login for the agent's new token", func() bool { return a.c.Stats().Rotations > n })
	file := revoked.Add(arrived)
	a.whole(10 * time.Second)
	failures := a.ledger.Failures()
	after := 0
	for _, f := range failures {
		if f.From.After(file) {
			after++
		}
	}
	var whole time.Duration
	if len(failures) > 0 {
		whole = failures[len(failures)-1].To.Sub(file)
	}
	t.Logf("new login %v after the revocation; %d operations failed until then, %d that began later; whole %v after the new login",
		arrived.Round(time.Millisecond), len(failures)-after, after, whole.Round(time.Millisecond))
	if whole > time.Second {
		t.Errorf("whole again only %v after the new login", whole)
	}
	a.finish()
	o.finish()
}

// Vault's own login to the database is changed, and so is everything that isn't the
// application's.
func TestRootCredentialIsRotated(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.dynamicRole(20*time.Second, 20*time.Second)
	path := filepath.Join(t.TempDir(), "db.json")
	newAgent(d.v, path, dynamicTemplate, time.Hour)
	a := newFileApp(d, path, windowOf20())
	a.more(500)
	d.v.write("database/rotate-root/pg", nil)
	n := a.c.Stats().Rotations
	eventually(t, 60*time.Second, "two rotations", func() bool { return a.c.Stats().Rotations >= n+2 })
	a.more(500)
	a.mustNotFail()
}

// A template that can't be parsed stops the agent, and one that renders nothing
// empties the file. The application goes on with what it has, and with the next one
// that is whole.
func TestBrokenTemplates(t *testing.T) {
	for _, test := range []struct{ name, template string }{
		{"syntax error", `{{ with secret "database/creds/app" }`},
		{"renders nothing", `{{ if false }}{{ end }}`},
		{"renders half", `{{ with secret "database/creds/app" }}{"username":"{{ .Data.username }}","password":{{ end }}`},
		{"key that isn't there", `{{ with secret "database/creds/app" }}{"username":"{{ .Data.username }}","password":"{{ .Data.passwort }}"}{{ end }}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			d.dynamicRole(time.Minute, time.Minute)
			path := filepath.Join(t.TempDir(), "db.json")
			agent := newAgent(d.v, path, dynamicTemplate, time.Hour)
			a := newFileApp(d, path, windowOf20())
			a.more(500)
			agent.kill()
			agent.render(test.template)
			agent.start()
			time.Sleep(3 * time.Second)
			content, err := os.ReadFile(path)
			t.Logf("the agent is running: %t; the file has %d bytes (%v); healthy: %v", agent.running(), len(content), err, a.source.(*sqlrotate.FileSource).CheckHealth())
			agent.kill()
			agent.render(dynamicTemplate)
			n := a.c.Stats().Rotations
			agent.start()
			eventually(t, 30*time.Second, "the next login", func() bool { return a.c.Stats().Rotations > n })
			a.more(500)
			a.mustNotFail()
			if err := a.c.CheckHealth(); err != nil {
				t.Error(err)
			}
		})
	}
}

// last returns the error of the last operation that failed.
func last(a *app) string {
	failures := a.ledger.Failures()
	if len(failures) == 0 {
		return "none"
	}
	return strings.TrimSpace(failures[len(failures)-1].Err.Error())
}
