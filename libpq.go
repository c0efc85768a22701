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

	"github.com/sqlrotate/sqlrotate/internal/saslprep"
)

// LibPQ returns an [Opener] for github.com/lib/pq. dsn says everything about
// the database but the login: a URL or a keyword string as pq.NewConfig takes it,
// parsed once. A user name in it is replaced by the credential's.
//
// Environment variables such as PGHOST and PGSSLMODE stand in for what dsn does not
// say, as they do for lib/pq. Those that could bring another login than the
// [Source]'s are ignored: PGUSER, PGPASSWORD and PGPASSFILE; and so is PGSERVICE,
// since lib/pq prefers what a service says to what the DSN says. A service can be
// named in dsn, and PGSERVICEFILE is where it is looked up.
//
// It is an error if dsn can't be parsed, if a password stands in it or in the
// service that it names (the credential comes from the Source), and for three
// settings under which lib/pq can't be made safe:
//
//   - sslmode=allow hides a refused password behind "SSL is not enabled on the
//     server" and logs in twice. Use require, verify-ca, verify-full or disable.
//   - target_session_attrs=prefer-standby never returns when no host lets it in,
//     and logs in again without end. Use standby, with a second *sql.DB for any.
//   - PGHOST or PGHOSTADDR with several hosts beside a host in dsn: lib/pq would log
//     in at all but the first of the former as well.
//
// A login counts as refused for class 28, for 42501 (CONNECT was revoked) and for
// 08P01, which is what PgBouncer says. (It may say so as well when it is full, at
// max_client_conn: then logins wait as they do for a refused credential.)
//
// lib/pq sends a password as it is, where PostgreSQL normalises it for SCRAM (SASLprep). If
// a login is refused whose password is one that this may change (a no-break space, a
// combining accent, a ligature), the error says so: it may be right.
func LibPQ(dsn string) (Opener, error) {
	settings, err := withoutLogin(dsn)
	if err != nil {
		return nil, fmt.Errorf("sqlrotate: the DSN can't be parsed: %s", dsnProblem(dsn, err))
	}
	cfg, err := pq.NewConfig(settings)
	if err != nil {
		if _, environment := pq.NewConfig(noLogin); environment != nil {
			return nil, fmt.Errorf("sqlrotate: the environment has what lib/pq can't use: %s", strings.TrimPrefix(environment.Error(), "pq: "))
		}
		return nil, fmt.Errorf("sqlrotate: the DSN can't be parsed: %s", dsnProblem(dsn, err))
	}
	if cfg.Password != "" {
		return nil, errors.New("sqlrotate: the DSN or the service that it names has a password: remove it, the credential comes from the Source")
	}
	if cfg.SSLMode == pq.SSLModeAllow {
		return nil, errors.New("sqlrotate: sslmode=allow hides a refused password: use require, verify-ca, verify-full or disable")
	}
	if cfg.TargetSessionAttrs == pq.TargetSessionAttrsPreferStandby {
		return nil, errors.New("sqlrotate: target_session_attrs=prefer-standby logs in without end when no host lets it in: use standby, with a second *sql.DB for any")
	}
	if hostsAreMixed(settings) {
		return nil, errors.New("sqlrotate: PGHOST or PGHOSTADDR has several hosts, and lib/pq would add them to the DSN's: unset it")
	}
	return postgres{cfg: cfg}, nil
}

// noLogin goes before a DSN, and so before what the environment says. Without any
// user name lib/pq asks the operating system for one, and fails in a container that
// holds nothing but a static program.
const noLogin = "user=sqlrotate password='' passfile='' service='' "

// withoutLogin returns the DSN in keywords, with nothing of the environment's that
// could bring a login.
func withoutLogin(dsn string) (string, error) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return noLogin + dsn, nil
	}
	// In a URL a setting can't be empty, so it can't be overridden with nothing.
	//lint:ignore SA1019 Deprecated, as connecting no longer needs it.
	keywords, err := pq.ParseURL(dsn) //nolint:staticcheck // deprecated, as connecting no longer needs it
	return noLogin + keywords, err
}

// hostsAreMixed reports whether both the environment and the DSN name hosts, and
// lib/pq, which keeps the second and later ones of both, would try them all.
func hostsAreMixed(settings string) bool {
	environment, err := pq.NewConfig(noLogin)
	if err != nil || len(environment.Multi) == 0 {
		return false
	}
	unnamed := strings.Replace(settings, noLogin, noLogin+"host='' ", 1)
	cfg, err := pq.NewConfig(unnamed)
	return err != nil || cfg.Host != "" || cfg.Hostaddr != environment.Hostaddr
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

// poolerRefused is PgBouncer's SQLSTATE for a refused login.
const poolerRefused = "08P01"

type postgres struct {
	cfg pq.Config
	tag bool // sessions carry the name of their version
}

// Tagged returns the Opener for Config.TagVersion.
func (p postgres) Tagged() Opener {
	p.tag = true
	return p
}

func (p postgres) Open(ctx context.Context, cred Credential, dial DialFunc) (_ driver.Conn, err error) {
	// lib/pq panics when a message is shorter than it should be: what listens at
	// the port may be no PostgreSQL.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("sqlrotate: the server's answer to the login makes no sense: lib/pq panicked with a value of type %T", r)
		}
	}()
	password := cred.Password.Reveal()
	if password == "" {
		return nil, errors.New("sqlrotate: the credential has no password, and lib/pq would look for one in a passfile")
	}
	if strings.ContainsRune(cred.Username, 0) || strings.ContainsRune(password, 0) {
		// The protocol ends both with a NUL: the server would see a shorter one.
		return nil, errors.New("sqlrotate: the credential holds a NUL byte, which PostgreSQL can't be sent")
	}
	cfg := p.cfg.Clone()
	cfg.User, cfg.Password = cred.Username, password
	if p.tag {
		cfg.ApplicationName = ApplicationName(cfg.ApplicationName, cred)
	}
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, err
	}
	c.Dialer(pqDialer(dial))
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, explain(err, password) // conn is not nil: it holds a nil pointer
	}
	return conn, nil
}

// explain adds to a refusal that the password may be right.
func explain(err error, password string) error {
	refused := anySQLState(err, func(state string) bool { return state == "28P01" || state == poolerRefused })
	if !refused || !saslprep.MayChange(password) {
		return err
	}
	return fmt.Errorf("%w (the password has characters that PostgreSQL normalises for SCRAM and lib/pq does not, and may be refused for that alone: use pgxopener, or a password of ASCII)", err)
}

// Config returns what the DSN and the environment say: where logins go and how they are
// protected. It holds no login.
func (p postgres) Config() pq.Config {
	cfg := p.cfg.Clone()
	cfg.User = ""
	return cfg
}

// ProbeQuery asks whether a role still lives: a session of a role that was dropped fails
// it with 42704, where a ping or "select 1" succeeds. (PostgreSQL 15.)
func (postgres) ProbeQuery() string { return "select current_user" }

// notify has conn hand over notifications, in the goroutine that uses it.
func (postgres) notify(conn driver.Conn, f func(Notification)) {
	pq.SetNotificationHandler(conn, func(n *pq.Notification) {
		f(Notification{Channel: n.Channel, Payload: n.Extra, PID: uint32(n.BePid)}) //nolint:gosec // an int32 as the protocol has it
	})
}

func (postgres) Refused(err error) bool {
	return anySQLState(err, func(state string) bool {
		return credentialRefused(state) || state == poolerRefused
	})
}

// pqDialer makes a pq.Dialer and pq.DialerContext of a Dial.
type pqDialer DialFunc

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
