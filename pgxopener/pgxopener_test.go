package pgxopener_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"

	"github.com/sqlrotate/sqlrotate/pgxopener"
)

// TestMain keeps the environment's PG variables out of the tests: pgx reads them.
func TestMain(m *testing.M) {
	pgtest.ClearEnvironment()
	os.Exit(m.Run())
}

func open(dsn string) (sqlrotate.Opener, error) {
	cfg, err := pgxopener.Parse(dsn)
	if err != nil {
		return nil, err
	}
	return pgxopener.New(cfg)
}

func TestAtAServer(t *testing.T) {
	server := openertest.New(t)
	t.Run("conforms", func(t *testing.T) { conforms(t, server) })
	t.Run("a hook fails", func(t *testing.T) { afterConnectFails(t, server) })
	t.Run("names of versions", func(t *testing.T) { sessionsNameTheirVersion(t, server) })
	t.Run("passwords", func(t *testing.T) { passwordsArrive(t, server) })
	t.Run("notifications", func(t *testing.T) { listens(t, server) })
}

// overPgx is the opener with a server of its own.
func overPgx(t *testing.T, o pgtest.Options) openertest.Suite {
	t.Helper()
	server := pgtest.New(t, o)
	opener, err := open(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	return openertest.Suite{Database: openertest.OnPostgreSQL(t, server), Opener: opener, CutOff: openertest.CutOffSaysWhy}
}

func TestBehaviour(t *testing.T) {
	t.Attr("needs", "quiet")
	suite := overPgx(t, openertest.QuickLogins())
	openertest.Together(func(b openertest.Behaviour) {
		t.Run(b.Name, func(t *testing.T) { b.Check(t, suite) })
	})
}

// Twenty connections, and a rotation every two seconds.
func TestSoakRotations(t *testing.T) {
	t.Attr("needs", "quiet")
	openertest.Rotations(20, openertest.SoakFor(t, 3*time.Second)).Check(t, overPgx(t, pgtest.Options{}))
}

func conforms(t *testing.T, server *openertest.Server) {
	for name, options := range map[string]string{
		"TLS": "", "plain": "sslmode=disable", "prefer": "sslmode=prefer", "allow": "sslmode=allow",
		"simple protocol": "default_query_exec_mode=simple_protocol",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := server.Harness(t, open, options)
			if name == "plain" || name == "TLS" { // SASLprep changes them
				h.Login = change(t, server, h.Login)
				h.Other = change(t, server, h.Other)
			}
			if err := sqlrotatetest.TestOpener(h); err != nil {
				t.Error(err)
			}
		})
	}
}

// change has a ligature added to a password.
func change(t *testing.T, server *openertest.Server, cred sqlrotate.Credential) sqlrotate.Credential {
	t.Helper()
	password := cred.Password.Reveal() + "\ufb01"
	if err := server.AlterPassword(t.Context(), cred.Username, password); err != nil {
		t.Fatal(err)
	}
	cred.Password = sqlrotate.NewSecret(password)
	return cred
}

// Neither the environment nor a passfile nor a service brings a login, and a password in the
// DSN is an error that doesn't quote it.
func TestALoginComesFromNowhereElse(t *testing.T) {
	const secret = "hunter2hunter2"
	dir := t.TempDir()
	passfile, services := filepath.Join(dir, "pgpass"), filepath.Join(dir, "services")
	for path, text := range map[string]string{
		passfile: "*:*:*:*:" + secret + "\n", services: "[with]\nhost=elsewhere\nuser=me\npassword=" + secret + "\n",
		filepath.Join(dir, ".pgpass"): "*:*:*:*:" + secret + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, dsn, key, value string
		host                  string // empty: it is refused
		says                  string
	}{
		{"keywords", "host=db", "", "", "db", ""},
		{"URL", "postgres://db/app?application_name=x", "", "", "db", ""},
		{"URL without a query", "postgresql://somebody@db/app", "", "", "db", ""},
		{"URL of several hosts", "postgres://db:1,other:2", "", "", "db", ""},
		{"user name", "host=db user=somebody", "", "", "db", ""},
		{"user name in a query", "postgres://db/app?user=somebody", "", "", "db", ""},
		{"PGUSER", "host=db", "PGUSER", "somebody", "db", ""},
		{"PGPASSWORD", "host=db", "PGPASSWORD", secret, "db", ""},
		{"PGPASSWORD and a URL", "postgres://db", "PGPASSWORD", secret, "db", ""},
		{"PGPASSFILE", "host=db", "PGPASSFILE", passfile, "db", ""},
		{"~/.pgpass", "host=db", "HOME", dir, "db", ""},
		{"~/.pgpass and a URL", "postgres://db", "HOME", dir, "db", ""},
		{"PGHOST", "dbname=app", "PGHOST", "db", "db", ""},
		{"service", "service=with", "PGSERVICEFILE", services, "elsewhere", ""},
		{"service, and the DSN before it", "service=with host=db", "PGSERVICEFILE", services, "db", ""},
		{"password", "host=db password=" + secret, "", "", "", "has a password"},
		{"password in a URL", "postgres://me:" + secret + "@db", "", "", "", "has a password"},
		{"password in a query", "postgres://db?password=" + secret, "", "", "", "has a password"},
		{"passfile", "host=db passfile=" + passfile, "", "", "", "has a password"},
		{"bad port", "host=db port=many", "", "", "", "DSN can't be parsed: invalid port"},
		{"unknown sslmode", "host=db sslmode=maybe", "", "", "", "sslmode is invalid"},
		{"PGPORT", "host=db", "PGPORT", "many", "", "environment has what pgx can't use: invalid port"},
		{"quote in a password", "host=db password=" + secret + " 'x", "", "", "", "withheld"},
		{"password in two words", "host=db password = a " + secret, "", "", "", "withheld"},
		{"URL without slashes", "postgres:me:" + secret + "@db", "", "", "", "withheld"},
		{"URL without a host", "postgres://me:" + secret + "/app", "", "", "", "DSN can't be parsed: invalid port"},
		{"password with a slash", "postgres://me:" + secret + "/@db", "", "", "", "withheld"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.key != "" {
				t.Setenv(test.key, test.value)
			}
			cfg, err := pgxopener.Parse(test.dsn)
			if test.host != "" {
				if err != nil || cfg.Host != test.host || cfg.User != "" || cfg.Password != "" {
					t.Errorf("%+v: %v", cfg, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v does not say %q", err, test.says)
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				if strings.Contains(text, secret) {
					t.Errorf("the error holds the secret: %s", text)
				}
			}
		})
	}
}

func TestNewTakesWhatParseMakes(t *testing.T) {
	t.Setenv("PGPASSWORD", "secret")
	cfg, err := pgx.ParseConfig("host=db")
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*pgx.ConnConfig{"nil": nil, "a literal": {}, "a password": cfg} {
		if o, err := pgxopener.New(cfg); err == nil || o != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg, err = pgxopener.Parse("host=db")
	if err != nil {
		t.Fatal(err)
	}
	cfg.User = "somebody"
	o, err := pgxopener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host = "elsewhere"
	if got := o.Config(); got.Host != "db" || got.User != "" || got.Password != "" {
		t.Errorf("%+v", got)
	}
}

// Names are for the dial function, and a NUL for nobody.
func TestWhatIsDialled(t *testing.T) {
	o, err := open("host=db.example,::1 port=1,2 sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	var dialled []string
	dial := func(_ context.Context, network, address string) (net.Conn, error) {
		dialled = append(dialled, network+" "+address)
		return nil, net.ErrClosed
	}
	cred := sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("secret")}
	if _, err := o.Open(t.Context(), cred, dial); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	cred.Password = sqlrotate.NewSecret("sec\x00ret")
	if _, err := o.Open(t.Context(), cred, dial); err == nil || !strings.Contains(err.Error(), "NUL") {
		t.Errorf("%v", err)
	}
	if got := strings.Join(dialled, ", "); got != "tcp db.example:1, tcp [::1]:2" {
		t.Errorf("dialled: %s", got)
	}
}

func TestRefusedWalksTheWholeTreeOfErrors(t *testing.T) {
	o := new(pgxopener.Opener)
	state := func(code string) error { return &pgconn.PgError{Code: code} }
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{state("28P01"), true},
		{state("28000"), true},
		{state("42501"), true},
		{state("08P01"), true},
		{state("53300"), false},
		{state("57P03"), false},
		{state("08006"), false},
		{net.ErrClosed, false},
		{fmt.Errorf("host: %w", errors.Join(net.ErrClosed, fmt.Errorf("other: %w", state("08P01")))), true},
		{fmt.Errorf("host: %w", errors.Join(state("57P03"), fmt.Errorf("other: %w", state("28P01")))), true},
		{errors.Join(state("57P03"), state("53300")), false},
	} {
		if got := o.Refused(test.err); got != test.want {
			t.Errorf("Refused(%v) = %v", test.err, got)
		}
	}
}

// What a hook says of a login's configuration is withheld, and its session is over.
func afterConnectFails(t *testing.T, server *openertest.Server) {
	if err := server.CreateRole(t.Context(), "hooked", "hunter2hunter2"); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgxopener.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	fails := true
	o, err := pgxopener.New(cfg, stdlib.OptionAfterConnect(func(_ context.Context, conn *pgx.Conn) error {
		if fails {
			return fmt.Errorf("no: %+v", conn.Config().Password)
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "hooked", Password: sqlrotate.NewSecret("hunter2hunter2")}),
		Opener: o, Window: sqlrotate.InPlace(),
	})
	if err != nil {
		t.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	defer func() { _ = db.Close() }()
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	meter := stall.Watch(t)
	meter.Eventually(10*time.Second, "the session is over", func() bool {
		n, err := server.Sessions(t.Context(), "hooked")
		return err == nil && n == 0
	}, func() string { return fmt.Sprint(c.Stats()) })
	fails = false
	if err := db.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// With Config.TagVersion a session's application_name has the name of its version, after the
// application's own.
func sessionsNameTheirVersion(t *testing.T, server *openertest.Server) {
	for i, name := range []string{"", "billing"} {
		cred := sqlrotate.Credential{Username: fmt.Sprint("tagged", i), Password: sqlrotate.NewSecret("secret")}
		if err := server.CreateRole(t.Context(), cred.Username, cred.Password.Reveal()); err != nil {
			t.Fatal(err)
		}
		opener, err := open(server.DSN() + " application_name='" + name + "'")
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range []bool{true, false} {
			c, err := sqlrotate.New(sqlrotate.Config{Source: sqlrotate.StaticSource(cred), Opener: opener, Window: sqlrotate.InPlace(), TagVersion: tag})
			if err != nil {
				t.Fatal(err)
			}
			want := name
			if tag {
				want = sqlrotate.ApplicationName(name, cred)
			}
			db := sqlrotate.OpenDB(c)
			var got string
			if err := db.QueryRowContext(t.Context(), "show application_name").Scan(&got); err != nil || got != want {
				t.Errorf("%q, want %q: %v", got, want, err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
