// No agent: the application asks Vault itself, through the module vaultsource.

package integration

import (
	"syscall"
	"testing"
	"time"

	vault "github.com/hashicorp/vault/api"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/vaultsource"
)

// newAPIApp is newApp with what path of Vault says, asked for with a token that
// may do no more than an application's.
func newAPIApp(d *database, path string, window sqlrotate.Window) (*app, *sqlrotate.CachedSource) {
	d.tb.Helper()
	if err := d.v.root.Sys().PutPolicyWithContext(d.tb.Context(), "app", `path "`+path+`" { capabilities = ["read"] }`); err != nil {
		d.tb.Fatal(err)
	}
	token, err := d.v.root.Auth().Token().CreateWithContext(d.tb.Context(), &vault.TokenCreateRequest{Policies: []string{"default", "app"}, TTL: "1h"})
	if err != nil {
		d.tb.Fatal(err)
	}
	log := &logbook{}
	source, err := sqlrotate.NewCachedSource(vaultsource.New(d.v.client(token.Auth.ClientToken), path), sqlrotate.CacheOptions{Logger: log.logger()})
	if err != nil {
		d.tb.Fatal(err)
	}
	d.tb.Cleanup(func() { _ = source.Close() })
	return newApp(d, source, window, log), source
}

// A lease is renewed, then Vault hangs for longer than it takes until the next
// renewal is due, then the lease is replaced, because it has become too old to be
// renewed, and ends.
func TestDynamicRoleThroughTheAPI(t *testing.T) {
	t.Attr("needs", "quiet")
	t.Parallel()
	ttl, outage := 80*time.Second, time.Minute
	if testing.Short() {
		ttl, outage = 20*time.Second, 15*time.Second
	}
	d := newDatabase(t)
	d.dynamicRole(ttl, 2*ttl)
	o := observe(d, "")
	a, source := newAPIApp(d, "database/creds/app", sqlrotate.Window{Overlap: 3 * ttl / 10, Lag: -1, MaxInUse: 500 * time.Millisecond})
	a.more(500)
	first, err := source.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	took := eventually(t, ttl, "the lease is renewed", func() bool {
		cred, err := source.Credential(t.Context())
		return err == nil && cred.SameLogin(first) && cred.NotAfter.After(first.NotAfter)
	})
	t.Logf("renewed after %v", took.Round(time.Second))

	d.v.signal(syscall.SIGSTOP)
	hung := time.Now()
	said := eventually(t, outage, "CheckHealth says that Vault is away", func() bool { return a.c.CheckHealth() != nil })
	t.Logf("%v after Vault hung, CheckHealth says: %v", said.Round(time.Second), a.c.CheckHealth())
	time.Sleep(time.Until(hung.Add(outage)))
	d.v.signal(syscall.SIGCONT)

	took = eventually(t, ttl, "the lease is replaced", func() bool { return a.c.Stats().Rotations > 0 })
	t.Logf("replaced %v after Vault went on", took.Round(time.Second))
	eventually(t, 2*ttl, "the first role is dropped", func() bool { return len(o.revoked()) > 0 })
	a.more(500)
	a.mustNotFail()
	o.finish()
	for _, r := range o.revoked() {
		t.Logf("a role was dropped after %v, %v after its last session", r.gone.Sub(r.made).Round(time.Second), r.gone.Sub(r.idle).Round(100*time.Millisecond))
	}
	a.mustLeaveNoSession(o)
	if err := a.c.CheckHealth(); err != nil {
		t.Error(err)
	}
	if got := a.c.Stats(); got.Refused > 0 {
		t.Errorf("%+v", got)
	}
}

// A static role's password is read anew as soon as a login is refused.
func TestStaticRoleThroughTheAPI(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.staticRole(time.Hour)
	a, _ := newAPIApp(d, "database/static-creds/app", sqlrotate.InPlace())
	a.db.SetMaxIdleConns(2) // so that some have to log in now and then
	a.more(500)
	for range 5 {
		n := a.c.Stats().Rotations
		d.v.write("database/rotate-role/app", nil)
		took := eventually(t, 10*time.Second, "the new password is in use", func() bool { return a.c.Stats().Rotations > n })
		t.Logf("the new password is known %v after the change", took.Round(time.Millisecond))
		a.more(500)
	}
	a.mustNotFail()
	t.Logf("%d operations, the slowest took %v; %d logins refused", a.ledger.Done(), a.ledger.Slowest().Round(time.Millisecond), a.c.Stats().Refused)
}
