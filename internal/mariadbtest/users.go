// Users and their sessions: what an agent such as Vault does to a server, and what the
// list of processes says about it.

package mariadbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

// CreateUser makes a user who can log in with password from anywhere, and read and write
// the tables of the database. Options are further words of CREATE USER, such as
// "account lock".
func (s *Server) CreateUser(ctx context.Context, name, password string, options ...string) error {
	return s.CreateUserVia(ctx, name, "by "+literal(password), options...)
}

// CreateUserVia is CreateUser with the words that follow IDENTIFIED in place of a password,
// such as "via ed25519 using password('secret')".
func (s *Server) CreateUserVia(ctx context.Context, name, identified string, options ...string) error {
	err := s.exec(ctx, "create user "+account(name)+" identified "+identified+" "+strings.Join(options, " "),
		"grant select, insert, update, delete on "+identifier(database)+".* to "+account(name))
	if err != nil {
		return fmt.Errorf("mariadbtest: create a user: %w", err)
	}
	return nil
}

// AlterPassword changes a user's password in place. Its sessions live on.
func (s *Server) AlterPassword(ctx context.Context, name, password string) error {
	if err := s.exec(ctx, "alter user "+account(name)+" identified by "+literal(password)); err != nil {
		return fmt.Errorf("mariadbtest: change a password: %w", err)
	}
	return nil
}

// DropUser drops a user as Vault's default revocation does, which revokes its privileges
// first. Sessions are not ended, and keep what they could do; see [Server.Kill].
func (s *Server) DropUser(ctx context.Context, name string) error {
	err := s.exec(ctx, "revoke all privileges, grant option from "+account(name), "drop user "+account(name))
	if err != nil {
		return fmt.Errorf("mariadbtest: drop a user: %w", err)
	}
	return nil
}

func (s *Server) exec(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := s.admin.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// Sessions returns how many sessions a user has, dropped or not.
func (s *Server) Sessions(ctx context.Context, name string) (int, error) {
	return s.count(ctx, "select count(*) from information_schema.processlist where user = ?", name)
}

// OrphanSessions returns how many sessions of dropped users there are.
func (s *Server) OrphanSessions(ctx context.Context) (int, error) {
	return s.count(ctx, "select count(*) from information_schema.processlist"+
		" where user not in (select user from mysql.global_priv) and user not in ('system user', 'unauthenticated user', 'event_scheduler')")
}

func (s *Server) count(ctx context.Context, query string, args ...any) (n int, err error) {
	if err := s.admin.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("mariadbtest: count sessions: %w", err)
	}
	return n, nil
}

// Kill ends the sessions of a user, dropped or not, and returns how many there were. They
// may take a moment.
func (s *Server) Kill(ctx context.Context, name string) (int, error) {
	rows, err := s.admin.QueryContext(ctx, "select id from information_schema.processlist where user = ?", name)
	if err != nil {
		return 0, fmt.Errorf("mariadbtest: sessions: %w", err)
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return 0, fmt.Errorf("mariadbtest: sessions: %w", err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("mariadbtest: sessions: %w", err)
	}
	var errs []error
	for _, id := range ids {
		_, err := s.admin.ExecContext(ctx, fmt.Sprintf("kill %d", id))
		if gone, lookErr := s.gone(ctx, id); err != nil && (lookErr != nil || !gone) {
			errs = append(errs, fmt.Errorf("mariadbtest: kill: %w", err))
		}
	}
	return len(ids), errors.Join(errs...)
}

// gone reports whether a session has ended by itself.
func (s *Server) gone(ctx context.Context, id int64) (bool, error) {
	n, err := s.count(ctx, "select count(*) from information_schema.processlist where id = ?", id)
	return n == 0, err
}

// AwaitSessions returns when a user has n sessions.
func (s *Server) AwaitSessions(ctx context.Context, name string, n int) error {
	return testserver.Poll(ctx, testserver.StopTimeout, func() (bool, error) {
		got, err := s.Sessions(ctx, name)
		return got == n, err
	})
}

// Set sets a variable of the server's, by which sessions go that begin from now on.
func (s *Server) Set(ctx context.Context, variable, value string) error {
	if _, err := s.admin.ExecContext(ctx, "set global "+variable+" = "+value); err != nil {
		return fmt.Errorf("mariadbtest: set %s: %w", variable, err)
	}
	return nil
}

// Occupy opens sessions of a user until the server takes no more, of that user or of
// anybody but Admin; it has room for ten meanwhile. release ends them, and
// returns when they have ended.
func (s *Server) Occupy(ctx context.Context, username, password string) (release func() error, err error) {
	db, err := open(username, password, s.Address())
	if err != nil {
		return nil, err
	}
	before, err := s.count(ctx, "select @@global.max_connections")
	if err == nil {
		err = s.Set(ctx, "max_connections", "10") // the least that it takes
	}
	var sessions []*sql.Conn
	release = func() error {
		for _, session := range sessions {
			_ = session.Close()
		}
		_ = db.Close()
		ctx := context.WithoutCancel(ctx)
		return errors.Join(s.Set(ctx, "max_connections", strconv.Itoa(before)), s.AwaitSessions(ctx, username, 0))
	}
	for err == nil {
		var session *sql.Conn
		if session, err = db.Conn(ctx); err == nil {
			sessions = append(sessions, session)
		}
	}
	if len(sessions) == 0 || ctx.Err() != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}
