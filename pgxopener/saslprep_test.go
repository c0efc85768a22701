package pgxopener_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
)

// A password that PostgreSQL accepts is accepted, by each of its ways to check one: those
// that SASLprep changes, those that it prohibits, which are taken as they are, and those
// that only one of several rules would change.
func passwordsArrive(t *testing.T, server *openertest.Server) {
	methods := []string{"password", "scram-sha-256", "md5"}
	var hba []string
	for _, method := range methods {
		group := "by_" + strings.ReplaceAll(method, "-", "_")
		if _, err := server.Admin().ExecContext(t.Context(), "create role "+group+" nologin"); err != nil {
			t.Fatal(err)
		}
		hba = append(hba, "host all +"+group+" all "+method)
	}
	if err := server.WriteHBA(t.Context(), append(hba, "host all all all scram-sha-256")...); err != nil {
		t.Fatal(err)
	}
	opener, err := open(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range methods {
		if method == "md5" {
			if err := server.Config(t.Context(), "password_encryption", "md5"); err != nil {
				t.Fatal(err)
			}
		}
		for i, test := range []struct{ name, password string }{
			{"ASCII", `pa'ss "wo\rd" %41+&=/?#@:`},
			{"composed accents", "p\u00e4ssw\u00f6rd"},
			{"combining accent", "pa\u0308ssword"},
			{"no-break space", "no\u00a0break"},
			{"zero-width space", "zero\u200bwidth"},
			{"soft hyphen", "soft\u00adhyphen"},
			{"nothing but a soft hyphen", "\u00ad"},
			{"ligature", "\ufb01sh"},
			{"full width", "\uff50\uff41\uff53\uff53"},
			{"Roman numeral", "\u2168"},
			{"control characters and a ligature", "a\tb\x01\ufb01"},
			{"emoji", "\U0001f511key"},
			{"emoji and a ligature", "\U0001f511\ufb01"},
			{"both directions and a ligature", "\u05d0b\u05d1\ufb01"},
			{"right to left", "\u0627\u0031\u0628"},
			{"Chinese", "\u5bc6\u7801"},
			{"private use and a ligature", "\ue000\ufb01"},
		} {
			t.Run(method+"/"+test.name, func(t *testing.T) {
				user := fmt.Sprintf("%s %d", method, i)
				if err := server.CreateRole(t.Context(), user, test.password, "in role by_"+strings.ReplaceAll(method, "-", "_")); err != nil {
					t.Fatal(err)
				}
				c, err := sqlrotate.New(sqlrotate.Config{
					Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: user, Password: sqlrotate.NewSecret(test.password)}),
					Opener: opener, Window: sqlrotate.InPlace(), RetryTimeout: -1, Logger: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				db := sqlrotate.OpenDB(c)
				defer func() { _ = db.Close() }()
				if err := db.PingContext(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := server.Config(t.Context(), "password_encryption", "scram-sha-256"); err != nil {
		t.Fatal(err)
	}
}
