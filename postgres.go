// Postgres: the Opener for github.com/lib/pq, and the only file that imports it.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Postgres returns an [Opener] for github.com/lib/pq. dsn says everything about
// the database but the login: a URL or a keyword string as pq.NewConfig takes it,
// parsed once. Environment variables such as PGHOST count as they do for lib/pq.
// A user name in it is replaced by the credential's.
//
// It is an error if dsn can't be parsed, if a password stands in it, in
// PGPASSWORD or in the service file (the credential comes from the [Source]), and
// for two settings under which lib/pq can't be made safe:
//
//   - sslmode=allow hides a refused password behind "SSL is not enabled on the
//     server" and logs in twice. Use require, verify-ca, verify-full or disable.
//   - target_session_attrs=prefer-standby never returns when no host lets it in,
//     and logs in again without end. Use standby, with a second *sql.DB for any.
//
// A login counts as rejected for class 28, for 42501 (CONNECT was revoked) and for
// 08P01, which is what PgBouncer says. (It may say so as well when it is full, at
// max_client_conn: then logins wait as they do for a refused credential.)
func Postgres(dsn string) (Opener, error) {
	cfg, err := pq.NewConfig(withUser(dsn))
	if err != nil {
		return nil, fmt.Errorf("sqlrotate: the DSN can't be parsed: %s", dsnProblem(dsn, err))
	}
	if cfg.Password != "" {
		return nil, errors.New("sqlrotate: the DSN, PGPASSWORD or the service file has a password: remove it, the credential comes from the Source")
	}
	if cfg.SSLMode == pq.SSLModeAllow {
		return nil, errors.New("sqlrotate: sslmode=allow hides a refused password: use require, verify-ca, verify-full or disable")
	}
	if cfg.TargetSessionAttrs == pq.TargetSessionAttrsPreferStandby {
		return nil, errors.New("sqlrotate: target_session_attrs=prefer-standby logs in without end when no host lets it in: use standby, with a second *sql.DB for any")
	}
	return postgres{cfg}, nil
}

// withUser puts a user name before those that dsn may have. Without any, lib/pq asks
// the operating system for one, and fails in a container that holds nothing but a
// static program.
func withUser(dsn string) string {
	scheme, rest, isURL := strings.Cut(dsn, "://")
	if !isURL || scheme != "postgres" && scheme != "postgresql" {
		return "user=sqlrotate " + dsn
	}
	authority, _, _ := strings.Cut(rest, "?")
	authority, _, _ = strings.Cut(authority, "/")
	if strings.Contains(authority, "@") {
		return dsn
	}
	return scheme + "://sqlrotate@" + rest
}

// dsnProblem is what can be said about a malformed DSN. The parsers quote what
// they choke on, so their words are kept only where no password can be in them.
func dsnProblem(dsn string, err error) string {
	// In postgres://app:secret/db, where the host is missing, the password is
	// quoted as a port.
	var badURL *url.Error
	if strings.Contains(strings.ToLower(dsn), "pass") || strings.Contains(dsn, "@") || errors.As(err, &badURL) {
		return "the reason is withheld because the DSN may hold a password: remove it, the credential comes from the Source"
	}
	return strings.TrimPrefix(err.Error(), "pq: ")
}

type postgres struct{ cfg pq.Config }

func (p postgres) Open(ctx context.Context, cred Credential, dial Dial) (_ driver.Conn, err error) {
	// lib/pq panics when a message is shorter than it should be: what listens at
	// the port may be no PostgreSQL.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("sqlrotate: the server's answer to the login makes no sense: lib/pq panicked with a value of type %T", r)
		}
	}()
	password := cred.Password.Reveal()
	if strings.ContainsRune(cred.Username, 0) || strings.ContainsRune(password, 0) {
		// The protocol ends both with a NUL: the server would see a shorter one.
		return nil, errors.New("sqlrotate: the credential holds a NUL byte, which PostgreSQL can't be sent")
	}
	cfg := p.cfg.Clone()
	cfg.User, cfg.Password = cred.Username, password
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	c.Dialer(pqDialer(dial))
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, err // conn is not nil: it holds a nil pointer
	}
	return conn, nil
}

func (postgres) Rejected(err error) bool {
	return anySQLState(err, func(state string) bool {
		return credentialRefused(state) || state == "08P01"
	})
}

// pqDialer makes a pq.Dialer and pq.DialerContext of a Dial.
type pqDialer Dial

func (d pqDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

func (d pqDialer) Dial(network, address string) (net.Conn, error) {
	return d(context.Background(), network, address)
}

func (d pqDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d(ctx, network, address)
}
