// Roles and their sessions: what an agent such as Vault does to a server, and
// what pg_stat_activity says about it.

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lib/pq"
)

// lockACL begins a statement that changes privileges. Two that change those of
// one table at once make the server fail one of them ("tuple concurrently
// updated"), so they queue for an advisory lock until their transaction ends.
const lockACL = "SELECT pg_advisory_xact_lock(7370172); "

// CreateRole makes a role that can log in with password and read and write the
// tables that are in the schema app by now, so create those first. Options are
// further words of CREATE ROLE, such as "CONNECTION LIMIT 5" or "IN ROLE owner".
//
// Name and password may hold whatever PostgreSQL stores: anything that is UTF-8
// and has no NUL. An error wraps the server's *pq.Error, without the statement.
func (s *Server) CreateRole(ctx context.Context, name, password string, options ...string) error {
	role := pq.QuoteIdentifier(name)
	err := s.setPassword(ctx, name, password,
		lockACL+"CREATE ROLE "+role+" LOGIN",
		strings.Join(options, " ")+"; "+
			"GRANT USAGE ON SCHEMA "+schema+" TO "+role+"; "+
			"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "+schema+" TO "+role+"; "+
			"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "+schema+" TO "+role)
	if err != nil {
		return fmt.Errorf("pgtest: create role: %w", err)
	}
	var oid int64
	if err := s.admin.QueryRowContext(ctx, "SELECT oid FROM pg_roles WHERE rolname = $1", name).Scan(&oid); err != nil {
		return fmt.Errorf("pgtest: find the role just made: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.oids == nil {
		s.oids = make(map[string][]int64)
	}
	s.oids[name] = append(s.oids[name], oid)
	return nil
}

// AlterPassword changes a role's password in place. Its sessions live on.
func (s *Server) AlterPassword(ctx context.Context, name, password string) error {
	if err := s.setPassword(ctx, name, password, "ALTER ROLE "+pq.QuoteIdentifier(name), ""); err != nil {
		return fmt.Errorf("pgtest: alter role: %w", err)
	}
	return nil
}

// setPassword runs a statement with "PASSWORD 'password'" between its two parts.
func (s *Server) setPassword(ctx context.Context, name, password, before, after string) error {
	if strings.ContainsRune(name+password, 0) {
		return errors.New("a NUL in a name or password") // quoting would cut it off there
	}
	_, err := s.admin.ExecContext(ctx, before+" PASSWORD "+pq.QuoteLiteral(password)+" "+after)
	var refused *pq.Error
	if errors.As(err, &refused) {
		// The original keeps the statement, and with it the password.
		return &pq.Error{Severity: refused.Severity, Code: refused.Code, Message: refused.Message}
	}
	return err
}

// RevokeRole drops a role as Vault's default revocation does: its privileges are
// revoked first, and stay revoked if the role can't be dropped because it owns
// something (SQLSTATE 2BP01). Sessions are not ended; see [Server.Terminate].
func (s *Server) RevokeRole(ctx context.Context, name string) error {
	role := pq.QuoteIdentifier(name)
	_, err := s.admin.ExecContext(ctx, lockACL+
		"REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA "+schema+" FROM "+role+"; "+
		"REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA "+schema+" FROM "+role+"; "+
		"REVOKE USAGE ON SCHEMA "+schema+" FROM "+role+"; "+
		"REVOKE CONNECT ON DATABASE "+pq.QuoteIdentifier(s.cfg.Database)+" FROM "+role)
	if err != nil {
		return fmt.Errorf("pgtest: revoke privileges: %w", err)
	}
	if _, err := s.admin.ExecContext(ctx, "DROP ROLE "+role); err != nil {
		return fmt.Errorf("pgtest: drop role: %w", err)
	}
	return nil
}

// ofRole selects the sessions of a role, also if it has been dropped since: then
// only its oid is left of it. $1 is its name, $2 the oids it has had.
const ofRole = " FROM pg_stat_activity WHERE datname = current_database() AND (usename = $1 OR usesysid = ANY($2))"

func (s *Server) oidsOf(name string) pq.Int64Array {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(pq.Int64Array{}, s.oids[name]...)
}

// Terminate ends the sessions of a role, dropped or not, and returns how many it
// told to end. They may take a moment.
func (s *Server) Terminate(ctx context.Context, name string) (int, error) {
	return s.count(ctx, "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))"+ofRole, name, s.oidsOf(name))
}

// Sessions returns how many sessions a role has in the database, also if it has
// been dropped since and was made by [Server.CreateRole].
func (s *Server) Sessions(ctx context.Context, name string) (int, error) {
	return s.count(ctx, "SELECT count(*)"+ofRole, name, s.oidsOf(name))
}

// OrphanSessions returns how many sessions of dropped roles are in the database.
func (s *Server) OrphanSessions(ctx context.Context) (int, error) {
	return s.count(ctx, "SELECT count(*) FROM pg_stat_activity"+
		" WHERE datname = current_database() AND usesysid IS NOT NULL AND usename IS NULL")
}

func (s *Server) count(ctx context.Context, query string, args ...any) (n int, err error) {
	if err = s.admin.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("pgtest: count sessions: %w", err)
	}
	return n, nil
}
