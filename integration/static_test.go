// Static roles: Vault changes one role's password in place.

package integration

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// Vault changes the password in the database first, and the agent writes the file
// when it next looks: in between nobody can log in. The shortest period that Vault
// allows, and then rotations by hand, which the agent isn't told of.
func TestStaticRole(t *testing.T) {
	t.Attr("needs", "quiet")
	for _, test := range []struct {
		name      string
		period    time.Duration
		rotations int
		byHand    bool
	}{
		{"shortest period", 5 * time.Second, 8, false},
		{"by hand", 15 * time.Second, 4, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			d.staticRole(test.period)
			path := filepath.Join(t.TempDir(), "db.json")
			newAgent(d.v, path, staticTemplate, time.Hour)
			a := newFileApp(d, path, sqlrotate.InPlace())
			a.db.SetMaxIdleConns(2) // so that some have to log in now and then
			if testing.Short() {
				test.rotations = 2
			}
			before := d.password(t)
			var gaps []time.Duration
			for range test.rotations {
				if test.byHand {
					d.v.write("database/rotate-role/app", nil)
				}
				var changed time.Time
				// Vault looks every five seconds, and the agent as often as it was told.
				limit := 2*test.period + 15*time.Second
				eventually(t, limit, "the password changes", func() bool {
					changed = time.Now()
					return d.password(t) != before
				})
				before = d.password(t)
				eventually(t, limit, "the new password is in use", func() bool {
					s := a.c.Stats()
					return s.Versions[0].Proven && s.Versions[0].SeenAt.After(changed)
				})
				gaps = append(gaps, a.c.Stats().Versions[0].SeenAt.Sub(changed))
				a.more(200)
			}
			a.mustNotFail()
			slices.Sort(gaps)
			t.Logf("nobody could log in for %.2f to %.2f s, median %.2f s; %d operations, the slowest took %v; %d of %d logins refused",
				gaps[0].Seconds(), gaps[len(gaps)-1].Seconds(), gaps[len(gaps)/2].Seconds(),
				a.ledger.Done(), a.ledger.Slowest().Round(time.Millisecond), a.c.Stats().Refused, a.c.Stats().Logins)
		})
	}
}

// password returns what the server keeps of the static role's password.
func (d *database) password(t *testing.T) (hash string) {
	t.Helper()
	if err := d.Admin().QueryRowContext(t.Context(), "select rolpassword from pg_authid where rolname = 'app_static'").Scan(&hash); err != nil {
		t.Fatal(err)
	}
	return hash
}
