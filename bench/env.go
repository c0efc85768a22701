// The server that all of it happens on, and the roles there.

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// env is the server, and the role that was made last.
type env struct {
	server *pgtest.Server
	owned  bool   // the server is closed with it
	dsn    string // for the contenders
	dir    string // of the credential files
	roles  int
}

// startEnv starts a server and prepares it. Close closes both.
func startEnv(ctx context.Context, o pgtest.Options) (*env, error) {
	server, err := pgtest.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	e, err := newEnv(ctx, server)
	if err != nil {
		return nil, errors.Join(err, server.Close()) //nolint:contextcheck // whatever has been interrupted
	}
	e.owned = true
	return e, nil
}

// newEnv prepares a server that is somebody else's to close.
func newEnv(ctx context.Context, server *pgtest.Server) (*env, error) {
	for _, statement := range []string{
		"create table account (id int primary key, balance int not null)",
		fmt.Sprintf("insert into account select n, 100 from generate_series(1, %d) n", accounts),
		"vacuum analyze account",
	} {
		if _, err := server.Admin().ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "sqlrotate-bench-")
	return &env{server: server, dsn: server.DSN(), dir: dir}, err
}

func (e *env) close() error {
	err := os.RemoveAll(e.dir)
	if e.owned {
		err = errors.Join(err, e.server.Close())
	}
	return err
}

// save writes what a run has found into its directory, if there is one.
func save(results *bytes.Buffer, dir string) error {
	if dir == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "results.md"), results.Bytes(), 0o644) //nolint:gosec // for everybody
}

// encrypt says whether the contenders use TLS, at a server that has it.
func (e *env) encrypt(tls bool) {
	e.dsn = e.server.DSN()
	if !tls {
		e.dsn += " sslmode=disable"
	}
}

// file returns the path of the file for a login, and those that replace it.
func (e *env) file(l login) string { return filepath.Join(e.dir, l.user+".json") }

func (e *env) newRole(ctx context.Context) (login, error) {
	e.roles++
	l := newPassword(login{user: roleName(e.roles)})
	return l, e.server.CreateRole(ctx, l.user, l.password)
}

func roleName(n int) string { return fmt.Sprintf("bench_%d", n) }

// newPassword returns the login with another password.
func newPassword(l login) login { return login{l.user, rand.Text()} }

// sessions returns how many sessions the contender has, and how many of them are
// not the latest role's.
func (e *env) sessions(ctx context.Context, latest login) (all, old int, err error) {
	err = e.server.Admin().QueryRowContext(ctx, "select count(*), count(*) filter (where usename <> $1)"+
		" from pg_stat_activity where usename like 'bench%'", latest.user).Scan(&all, &old)
	return all, old, err
}
