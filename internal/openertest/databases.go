// The databases of this repository's openers.

package openertest

import (
	"context"

	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/mariadbtest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// QuickLogins are options of a server whose logins cost next to nothing: SCRAM takes two
// cores 15 ms of each, and the behaviours log in by the hundred.
func QuickLogins() pgtest.Options {
	return pgtest.Options{
		MaxConnections: 200,
		Settings:       map[string]string{"password_encryption": "md5"}, HBA: []string{"host all all all md5"},
	}
}

// OnPostgreSQL makes a server one for the behaviours.
func OnPostgreSQL(tb pgtest.TB, server *pgtest.Server) Database {
	tb.Helper()
	if err := ledger.Create(tb.Context(), server.Admin()); err != nil {
		tb.Fatalf("%v", err)
	}
	return postgres{server}
}

type postgres struct{ *pgtest.Server }

// CreateLogin implements [Database].
func (p postgres) CreateLogin(ctx context.Context, username, password string) error {
	return p.CreateRole(ctx, username, password)
}

// ChangePassword implements [Database].
func (p postgres) ChangePassword(ctx context.Context, username, password string) error {
	return p.AlterPassword(ctx, username, password)
}

// DropLogin implements [Database].
func (p postgres) DropLogin(ctx context.Context, username string) error {
	return p.RevokeRole(ctx, username)
}

// EndSessions implements [Database].
func (p postgres) EndSessions(ctx context.Context, username string) (int, error) {
	return p.Terminate(ctx, username)
}

// Traits implements [Database].
func (postgres) Traits() Traits {
	return Traits{Placeholder: "$1", Sleep: "select pg_sleep($1)", AfterDrop: SessionsFail}
}

// OnMariaDB makes a server one for the behaviours.
func OnMariaDB(tb mariadbtest.TB, server *mariadbtest.Server) Database {
	tb.Helper()
	if err := ledger.Create(tb.Context(), server.Admin()); err != nil {
		tb.Fatalf("%v", err)
	}
	return mariaDB{server}
}

type mariaDB struct{ *mariadbtest.Server }

// CreateLogin implements [Database].
func (m mariaDB) CreateLogin(ctx context.Context, username, password string) error {
	return m.CreateUser(ctx, username, password)
}

// ChangePassword implements [Database].
func (m mariaDB) ChangePassword(ctx context.Context, username, password string) error {
	return m.AlterPassword(ctx, username, password)
}

// DropLogin implements [Database].
func (m mariaDB) DropLogin(ctx context.Context, username string) error {
	return m.DropUser(ctx, username)
}

// EndSessions implements [Database].
func (m mariaDB) EndSessions(ctx context.Context, username string) (int, error) {
	return m.Kill(ctx, username)
}

// Traits implements [Database].
func (mariaDB) Traits() Traits {
	return Traits{Placeholder: "?", Sleep: "select sleep(?)", AfterDrop: SessionsWorkOn}
}
