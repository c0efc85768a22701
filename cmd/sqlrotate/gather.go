// How check finds out: it reads files, logs in once, and judges nothing.

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
)

// gather finds out what there is to know. If there is a credential it returns the source,
// too, which the caller closes.
func (c *check) gather(ctx context.Context) (facts, *sqlrotate.FileSource) {
	f := facts{now: time.Now(), pool: c.pool, window: c.gatherWindow()}
	src := c.gatherFile(ctx, &f.file)
	opener := c.gatherDSN(&f.dsn)
	if src != nil && opener != nil {
		c.gatherServer(ctx, src, opener, &f.server)
	}
	return f, src
}

// quiet is the logger of what check builds: what it has to say are findings.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// gatherWindow has the library judge the window, and say what follows from it.
func (c *check) gatherWindow() windowFacts {
	w := windowFacts{given: c.windowed(), kind: overlapping, lagDefault: c.window.Lag == 0, useDefault: c.window.MaxInUse == 0}
	switch {
	case c.inPlace:
		w.kind = inPlace
	case c.tokens:
		w.kind = loginTokens
	}
	if !w.given {
		return w
	}
	cfg := c.config()
	cfg.Source, cfg.Opener, cfg.Logger = sqlrotate.StaticSource(sqlrotate.Credential{}), noOpener{}, quiet()
	connector, err := sqlrotate.New(cfg)
	if err != nil {
		w.err = err
		return w
	}
	w.WindowStats = connector.Stats().Window
	_ = connector.Close()
	return w
}

// noOpener is for a connector that nobody logs in with.
type noOpener struct{ sqlrotate.Opener }

// gatherDSN returns who logs in, or nothing.
func (c *check) gatherDSN(d *dsnFacts) sqlrotate.Opener {
	d.secrets = variables("PGPASSWORD")
	if d.given = c.dsn != ""; !d.given {
		return nil
	}
	d.ignored = variables("PGUSER", "PGPASSFILE", "PGSERVICE")
	d.used = variables("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS", "PGOPTIONS")
	opener, err := sqlrotate.LibPQ(c.dsn)
	if err != nil {
		d.err = err
		return nil
	}
	configured, ok := opener.(interface{ Config() pq.Config })
	if !ok {
		d.err = errors.New("its settings aren't known")
		return nil
	}
	cfg := configured.Config()
	d.host, d.port, d.database = cfg.Host, strconv.Itoa(int(cfg.Port)), cfg.Database
	if strings.ContainsAny(d.host+d.database, "@\n") && !strings.HasPrefix(d.host, "@") {
		d.err = errors.New("sqlrotate: the name of its host or database has an @ in it, so that a part of a password may stand there: leave user name and password out of the DSN")
		return nil
	}
	d.socket = strings.HasPrefix(d.host, "/") || strings.HasPrefix(d.host, "@")
	d.local = d.socket || isLoopback(cfg)
	d.others = len(cfg.Multi)
	if d.sslmode = string(cfg.SSLMode); d.sslmode == "" {
		d.sslmode = string(pq.SSLModeRequire)
	}
	d.roots = authorities(cfg)
	return opener
}

// authorities returns the file of those that lib/pq trusts; empty if it names none, or if
// sslmode=require passes over one that isn't there.
func authorities(cfg pq.Config) string {
	switch {
	case cfg.SSLInline:
		return "sslrootcert"
	case cfg.SSLRootCert == "system":
		return ""
	case cfg.SSLRootCert == "":
		file := filepath.Join(home(), "root.crt")
		if _, err := os.Stat(file); err != nil {
			return ""
		}
		return file
	}
	_, err := os.Stat(cfg.SSLRootCert)
	if err != nil && (cfg.SSLMode == pq.SSLModeRequire || cfg.SSLMode == "") {
		return ""
	}
	return cfg.SSLRootCert
}

// home returns where lib/pq looks for certificates.
func home() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("APPDATA"), "postgresql")
	}
	dir, _ := os.UserHomeDir()
	return filepath.Join(dir, ".postgresql")
}

// variables returns those of names that the environment has.
func variables(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return os.Getenv(name) == "" })
}

func isLoopback(cfg pq.Config) bool {
	if cfg.Hostaddr.IsValid() {
		return cfg.Hostaddr.IsLoopback()
	}
	ip := net.ParseIP(cfg.Host)
	return cfg.Host == "localhost" || ip != nil && ip.IsLoopback()
}

// gatherServer logs in once, as the library does, and asks the server about the role.
func (c *check) gatherServer(ctx context.Context, src sqlrotate.Source, opener sqlrotate.Opener, s *serverFacts) {
	s.asked = true
	connector, err := sqlrotate.New(sqlrotate.Config{
		Source: src, Opener: opener, Window: sqlrotate.InPlace(), RetryTimeout: -1, RoleCheck: -1, LoginTimeout: c.login, Logger: quiet(),
	})
	if err != nil {
		s.err, s.failure = err, failedOther
		return
	}
	db := sqlrotate.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	start := time.Now()
	conn, err := db.Conn(ctx)
	s.took = time.Since(start)
	if err != nil {
		s.err = err
		s.failure, s.code = whyFailed(err)
		return
	}
	defer conn.Close()
	s.queryErr = s.role.ask(ctx, conn)
	if c.probe != "" {
		s.probed = true
		s.probeErr = probe(ctx, conn, c.probe)
	}
}

// probe runs the application's query, as the library would.
func probe(ctx context.Context, conn *sql.Conn, query string) error {
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

// whyFailed returns the kind of a failed login, and the server's code.
func whyFailed(err error) (loginFailure, string) {
	var expired *sqlrotate.ExpiredError
	var refused *pq.Error
	switch {
	case errors.As(err, &expired):
		return failedExpired, ""
	case errors.As(err, &refused):
		return whyRefused(refused), string(refused.Code)
	}
	return whyUnreached(err), ""
}

// whyRefused goes by the server's code. See
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func whyRefused(err *pq.Error) loginFailure {
	switch err.Code {
	case "28000":
		// The code of a missing line in pg_hba.conf, too.
		if strings.Contains(err.Message, "not permitted to log in") {
			return failedNoLogin
		}
		return failedRefused
	case "28P01", "08P01":
		return failedRefused
	case "3D000":
		return failedDatabase
	case "42501":
		return failedPrivilege
	case "53300":
		return failedFull
	case "57P03":
		return failedStarting
	}
	return failedOther
}

func whyUnreached(err error) loginFailure {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		alert     tls.AlertError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		operation *net.OpError
		file      *os.PathError
		network   net.Error
	)
	switch {
	case errors.Is(err, pq.ErrSSLNotSupported):
		return failedNoTLS
	case errors.As(err, &authority):
		return failedAuthority
	case errors.As(err, &hostname):
		return failedHostname
	case errors.As(err, &invalid), errors.As(err, &verify), errors.As(err, &alert), errors.As(err, &record):
		return failedTLS
	case errors.As(err, &dns):
		return failedUnknown
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &operation) && errors.Is(err, os.ErrNotExist):
		return failedDown
	case errors.As(err, &file):
		return failedFile
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return failedEnded
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return failedSilent
	}
	return failedOther
}

// roleQuery asks what every role may know. Limits don't hold for superusers; of others'
// sessions a role sees little more than that they are there.
const roleQuery = `
select current_setting('server_version'), session_user, current_database(),
	coalesce((select version from pg_stat_ssl where pid = pg_backend_pid() and ssl), ''),
	r.rolsuper,
	array(select b.rolname::text from pg_auth_members m join pg_roles b on b.oid = m.roleid where m.member = r.oid order by 1),
	(select count(*) from pg_shdepend where refclassid = 'pg_authid'::regclass and refobjid = r.oid and deptype = 'o'
		and dbid in (0, (select oid from pg_database where datname = current_database()))),
	case when isfinite(r.rolvaliduntil) then r.rolvaliduntil end,
	r.rolconnlimit,
	(select datconnlimit from pg_database where datname = current_database()),
	(select count(*) from pg_stat_activity where usename = session_user and pid <> pg_backend_pid()),
	(select count(*) from pg_stat_activity where datname = current_database() and usename is not null and pid <> pg_backend_pid()),
	current_setting('max_connections')::int,
	current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true), '0')::int,
	(select count(*) from pg_stat_activity where usename is not null and datname is not null and pid <> pg_backend_pid()),
	coalesce(current_setting('client_connection_check_interval', true), ''), pg_is_in_recovery()
from pg_roles r where r.rolname = session_user`

func (r *roleFacts) ask(ctx context.Context, conn *sql.Conn) error {
	var until sql.NullTime
	err := conn.QueryRowContext(ctx, roleQuery).Scan(&r.version, &r.user, &r.database, &r.tls, &r.super, pq.Array(&r.memberOf), &r.owns, &until,
		&r.roleLimit, &r.databaseLimit, &r.roleSessions, &r.dataSessions, &r.maxConnections, &r.reserved, &r.sessions, &r.checkInterval, &r.standby)
	r.validUntil = until.Time
	return err
}
