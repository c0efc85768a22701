// What docs/drivers.md says of a MySQL server: by which codes it refuses a login, and what is
// left to a session whose user was dropped.

package mysqlopener_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"

	"github.com/sqlrotate/sqlrotate/mysqlopener"
)

func run(t *testing.T, server *openertest.MariaDB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := server.Admin().ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func loginsAreRefusedByCode(t *testing.T, server *openertest.MariaDB) {
	run(
		t, server, "create database other", "create database third",
		"create user nothing identified by 'secret'", "grant all on third.* to nothing",
		"create user everything identified by 'secret'", "grant select on *.* to everything",
		"create user elsewhere@'192.0.2.1' identified by 'secret'",
		"create user socket identified via unix_socket",
		"create user encrypted identified by 'secret' require ssl",
		"create user barred identified by 'secret' account lock",
		"create user outdated identified by 'secret' password expire", "grant select on *.* to outdated",
	)
	ends := func(on string) {
		if err := server.Set(context.WithoutCancel(t.Context()), "disconnect_on_expired_password", on); err != nil {
			t.Fatal(err)
		}
	}
	defer ends("default")
	const unknown = "1045 or 1698" // it is treated as any user that there is
	for _, test := range []struct {
		user, password, database string
		code                     string
		refused                  bool
	}{
		{"everything", "secret", "other", "", false},
		{"everything", "wrong", "other", "1045", true},
		{"nobody", "secret", "other", unknown, true},
		{"elsewhere", "secret", "other", unknown, true},
		{"encrypted", "secret", "other", "1045", true},
		{"socket", "secret", "other", "1698", true},
		{"nothing", "secret", "other", "1044", true},
		{"nothing", "secret", "nowhere", "1044", true},
		{"everything", "secret", "nowhere", "1049", false},
		{"barred", "secret", "other", "4151", true},
		{"outdated", "secret", "other", "1820", true},
		{"outdated", "secret", "other", "1862", true},
	} {
		if test.code == "1862" {
			ends("1")
		}
		o, err := open(strings.TrimSuffix(server.DSN(), "/app") + "/" + test.database)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := o.Open(t.Context(), sqlrotate.Credential{Username: test.user, Password: sqlrotate.NewSecret(test.password)}, new(net.Dialer).DialContext)
		if err == nil {
			_ = conn.Close()
		}
		if code, refused := o.(*mysqlopener.Opener).Code(err), o.Refused(err); refused != test.refused || code != test.code && (code == "" || test.code != unknown || !strings.Contains(unknown, code)) {
			t.Errorf("%+v: %q, refused %v: %v", test, code, refused, err)
		}
	}
}

func droppedUserKeepsMostRights(t *testing.T, server *openertest.MariaDB) {
	run(t, server, "create database mine", "create database yours", "create table mine.t (n int)", "create table yours.t (n int)", "create table yours.single (n int)")
	for name, test := range map[string]struct {
		grants string
		keeps  []string
		loses  map[string]string // codes by statements
	}{
		"of a database": {
			"grant select, insert on mine.* to %[1]s; grant select on yours.* to %[1]s",
			[]string{"insert into mine.t values (1)", "select * from mine.t"},
			map[string]string{"show grants": "1141", "use yours": "1044"},
		},
		"of a table": {
			"grant select on mine.* to %[1]s; grant select on yours.single to %[1]s",
			[]string{"select * from mine.t"},
			map[string]string{"show grants": "1141", "select * from yours.single": "1142"},
		},
		"of all": {
			"grant select, insert on *.* to %[1]s",
			[]string{"insert into mine.t values (1)", "select * from mine.t", "select * from yours.single"},
			map[string]string{"show grants": "1141"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			user := strings.ReplaceAll(name, " ", "_")
			run(t, server, "create user "+user+" identified by 'secret'")
			run(t, server, strings.Split(fmt.Sprintf(test.grants, user), "; ")...)
			o, err := open(strings.TrimSuffix(server.DSN(), "/app") + "/mine")
			if err != nil {
				t.Fatal(err)
			}
			db, _ := pool(t, sqlrotate.Config{
				Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: user, Password: sqlrotate.NewSecret("secret")}),
				Opener: o, Window: sqlrotate.InPlace(), RoleCheck: -1,
			}, 1)
			session, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			for statement := range test.loses { // it had them
				if _, err := session.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := session.ExecContext(t.Context(), "use mine"); err != nil {
				t.Fatal(err)
			}
			if err := server.DropUser(t.Context(), user); err != nil {
				t.Fatal(err)
			}
			for _, statement := range test.keeps {
				if _, err := session.ExecContext(t.Context(), statement); err != nil {
					t.Errorf("%s: %v", statement, err)
				}
			}
			for statement, code := range test.loses {
				_, err := session.ExecContext(t.Context(), statement)
				if got := o.(*mysqlopener.Opener).Code(err); got != code {
					t.Errorf("%s: %v, want %s", statement, err, code)
				}
			}
		})
	}
}
