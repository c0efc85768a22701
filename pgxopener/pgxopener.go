// Package pgxopener logs in with github.com/jackc/pgx, for a native pgxpool (see [NewPool])
// and behind database/sql:
//
//	cfg, err := pgxopener.Parse("host=db dbname=app sslmode=verify-full")
//	if err != nil {
//		return err
//	}
//	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // or whatever pgx is to do otherwise
//	opener, err := pgxopener.New(cfg)
//	if err != nil {
//		return err
//	}
//	connector, err := sqlrotate.New(sqlrotate.Config{Opener: opener, …})
//
// The connections are *stdlib.Conn, with nothing wrapped around them: what pgx can do
// beyond database/sql is reached by sql.Conn.Raw, as ever.
//
// It is a module of its own: the root module does not depend on pgx.
package pgxopener

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/sqlrotate/sqlrotate"
)

// Parse parses a DSN as pgx.ParseConfig does, a URL or a keyword string, but for the login,
// which comes from the source: a user name in dsn is left out, and a password in it, or in
// a passfile that it names, is an error. No error holds the password.
//
// Environment variables such as PGHOST and PGSSLMODE, and a service, stand in for what dsn
// does not say, as they do for pgx. What they say of a login is ignored: PGUSER, PGPASSWORD,
// PGPASSFILE and ~/.pgpass, and the user and the password of a service.
func Parse(dsn string) (*pgx.ConnConfig, error) {
	var cfg *pgx.ConnConfig
	err := parse(dsn, func(settings string) (_ *pgx.ConnConfig, err error) {
		cfg, err = pgx.ParseConfig(settings)
		return cfg, err
	})
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

// parse has a DSN parsed without a login.
func parse(dsn string, parse func(settings string) (*pgx.ConnConfig, error)) error {
	settings, err := withoutLogin(dsn)
	if err != nil {
		return err
	}
	cfg, err := parse(settings)
	if err != nil {
		if _, environment := pgx.ParseConfig(noLogin); environment != nil {
			return fmt.Errorf("pgxopener: the environment has what pgx can't use: %s", reason(environment))
		}
		if strings.Contains(strings.ToLower(dsn), "pass") || strings.Contains(dsn, "@") {
			return errors.New("pgxopener: the DSN can't be parsed: the reason is withheld because it may hold a password: remove it, the credential comes from the Source")
		}
		return fmt.Errorf("pgxopener: the DSN can't be parsed: %s", reason(err))
	}
	if cfg.Password != "" {
		return errPassword
	}
	cfg.User = ""
	return nil
}

var errPassword = errors.New("pgxopener: the DSN or what it names has a password: remove it, the credential comes from the Source")

// noLogin goes before a DSN, and so before what the environment and a service say. Without
// any user name pgx asks the operating system for one.
const noLogin = "user=sqlrotate password='' passfile='' "

// withoutLogin returns the DSN with nothing that could bring a login but what the DSN says
// itself, in its keywords or in the query of a URL.
func withoutLogin(dsn string) (string, error) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		rest, found := strings.CutPrefix(dsn, scheme)
		if !found {
			continue
		}
		// Where pgx and libpq look for a login: only a slash ends the search.
		if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
			if _, password, _ := strings.Cut(rest[:i], ":"); password != "" {
				return "", errPassword
			}
			rest = rest[i+1:]
		}
		// Of two values the last one counts, and the query before the rest.
		rest, query, _ := strings.Cut(rest, "?")
		if query != "" {
			query = "&" + query
		}
		return scheme + rest + "?user=sqlrotate&password=&passfile=" + query, nil
	}
	return noLogin + dsn, nil
}

// reason is what pgx says of a DSN that it can't parse, without the DSN.
func reason(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	return text
}

// Opener is a [sqlrotate.Opener] for pgx. Make it with [New]. All methods are safe for
// concurrent use.
type Opener struct {
	cfg     *pgx.ConnConfig
	options []stdlib.OptionOpenDB
	tag     bool // sessions carry the name of their version
}

var _ sqlrotate.Opener = (*Opener)(nil)

// New returns an opener that logs in as cfg says, which [Parse] has made, but for the user
// and the password. It takes a copy of cfg.
//
// cfg may be changed before, as for pgx: its tracer, hooks and handlers, TLS, the mode in
// which queries are run. So may the options be given that stdlib.OpenDB takes, such as
// stdlib.OptionAfterConnect. Four fields belong to each login: User, Password, DialFunc and
// LookupFunc; what cfg has there is not used, and stdlib.OptionBeforeConnect must
// leave them alone. (Set sqlrotate.Config.Dial to dial in another way. It is given host
// names, which net.Dialer looks up.) A tracer and these hooks are given the password with the
// rest of the login's configuration.
//
// It is an error if cfg holds a password: pgx.ParseConfig takes one from PGPASSWORD and
// ~/.pgpass, Parse does not.
func New(cfg *pgx.ConnConfig, options ...stdlib.OptionOpenDB) (*Opener, error) {
	switch {
	case cfg == nil || cfg.BuildFrontend == nil:
		return nil, errors.New("pgxopener: the configuration was not made by Parse")
	case cfg.Password != "":
		return nil, errors.New("pgxopener: the configuration has a password: make it with Parse, the credential comes from the Source")
	}
	cfg = cfg.Copy()
	cfg.User, cfg.DialFunc, cfg.LookupFunc = "", nil, asItIs
	return &Opener{cfg: cfg, options: options}, nil
}

// asItIs leaves names to the dial function.
func asItIs(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

// Open implements [sqlrotate.Opener]. A password outside of ASCII is normalised for SCRAM as
// PostgreSQL does it, by SASLprep: one that the server accepts is accepted. If a hook fails
// after the login, the socket is left to the caller.
func (o *Opener) Open(ctx context.Context, cred sqlrotate.Credential, dial sqlrotate.DialFunc) (driver.Conn, error) {
	password := cred.Password.Reveal()
	if strings.ContainsRune(cred.Username, 0) || strings.ContainsRune(password, 0) {
		// The protocol ends both with a NUL: the server would see a shorter one.
		return nil, errors.New("pgxopener: the credential holds a NUL byte, which PostgreSQL can't be sent")
	}
	cfg := *o.cfg // a login changes nothing that it points to
	cfg.User, cfg.Password, cfg.DialFunc = cred.Username, password, pgconn.DialFunc(dial)
	prepared := saslprep(password)
	if prepared != password {
		prepareForSCRAM(&cfg.Config, prepared)
	}
	if o.tag {
		params := map[string]string{}
		maps.Copy(params, cfg.RuntimeParams)
		params[applicationName] = sqlrotate.ApplicationName(params[applicationName], cred)
		cfg.RuntimeParams = params
	}
	conn, err := stdlib.GetConnector(cfg, o.options...).Connect(ctx)
	if err != nil {
		return nil, sqlrotate.Withhold(withoutConfig(err), password, prepared)
	}
	return conn, nil
}

// withoutConfig returns err without the configuration that pgx puts into it, which has the
// password.
func withoutConfig(err error) error {
	var failed *pgconn.ConnectError
	if !errors.As(err, &failed) {
		return err
	}
	return fmt.Errorf("pgx: failed to connect to database %q as user %q: %w", failed.Config.Database, failed.Config.User, attempts(failed))
}

// attempts returns the errors of all attempts. With sslmode prefer, pgx's default, and allow
// there are two at each address, with TLS and without, and pg_hba.conf may turn one of them
// down for that alone, with 28000. If the server answers the other one with what is not about
// the credential, such as that it is full, 28000 is not either: its text is kept and not its
// code.
func attempts(failed *pgconn.ConnectError) error {
	joined, ok := failed.Unwrap().(interface{ Unwrap() []error })
	if !ok {
		return failed.Unwrap()
	}
	errs := slices.Clone(joined.Unwrap()) // in the order of the addresses
	cfg := failed.Config
	before := pgconn.FallbackConfig{Host: cfg.Host, Port: cfg.Port}
	for i, at := range cfg.Fallbacks {
		if i+1 == len(errs) {
			break
		}
		if at.Host == before.Host && at.Port == before.Port {
			one, other := errs[i], errs[i+1]
			errs[i], errs[i+1] = besides(one, other), besides(other, one)
		}
		before = *at
	}
	return errors.Join(errs...)
}

// besides returns err without its code if that is 28000 and the other attempt was answered
// with what is not about the credential.
func besides(err, other error) error {
	var refused, answer *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "28000" && errors.As(other, &answer) && !sqlrotate.SQLStateRefused(answer) {
		return errors.New(err.Error())
	}
	return err
}

// Refused implements [sqlrotate.Opener]. A login counts as refused for class 28, for 42501
// (CONNECT was revoked) and for 08P01, which is what PgBouncer says. (It may say so as
// well when it is full, at max_client_conn: then logins wait as they do for a refused
// credential.)
func (*Opener) Refused(err error) bool {
	return sqlrotate.SQLStateRefused(err) || saysPooler(err)
}

// saysPooler reports whether any error in the tree of err has the code 08P01.
func saysPooler(err error) bool {
	if failed, ok := err.(interface{ SQLState() string }); ok && failed.SQLState() == "08P01" {
		return true
	}
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case interface{ Unwrap() error }:
		return saysPooler(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), saysPooler)
	}
	return false
}

// WaitForNotification returns the next notification that conn, which Open has made, has
// received or receives: it is how a [sqlrotate.Listener] listens. It fails if the
// configuration has an OnNotification of its own, which takes them all.
func (o *Opener) WaitForNotification(ctx context.Context, conn driver.Conn) (sqlrotate.Notification, error) {
	c, ok := conn.(*stdlib.Conn)
	switch {
	case !ok:
		return sqlrotate.Notification{}, fmt.Errorf("pgxopener: a %T is no connection of pgx's", conn)
	case o.cfg.OnNotification != nil:
		return sqlrotate.Notification{}, errors.New("pgxopener: the configuration's OnNotification takes all notifications, so nobody else can listen")
	}
	n, err := c.Conn().WaitForNotification(ctx)
	if err != nil {
		return sqlrotate.Notification{}, err
	}
	return sqlrotate.Notification{Channel: n.Channel, Payload: n.Payload, PID: n.PID}, nil
}

// ProbeQuery is the query by which the server is asked whether a role lives: a session of
// a role that was dropped fails it with 42704, where a ping or "select 1" succeeds.
// (PostgreSQL 15.)
func (*Opener) ProbeQuery() string { return "select current_user" }

// applicationName is the parameter that Tagged is about.
const applicationName = "application_name"

// Tagged returns the opener for sqlrotate.Config.TagVersion. The application's own name is
// that of the DSN, else PGAPPNAME.
func (o *Opener) Tagged() sqlrotate.Opener {
	tagged := *o
	tagged.tag = true
	return &tagged
}

// Config returns a copy of the configuration: where logins go and how they are protected.
// It holds no login.
func (o *Opener) Config() *pgx.ConnConfig { return o.cfg.Copy() }
