// Package mysqlopener logs in with github.com/go-sql-driver/mysql, to MySQL or MariaDB:
//
//	cfg, err := mysqlopener.Parse("tcp(db:3306)/app?tls=true&parseTime=true")
//	if err != nil {
//		return err
//	}
//	opener, err := mysqlopener.New(cfg) // cfg is the driver's own: change it before
//	if err != nil {
//		return err
//	}
//	connector, err := sqlrotate.New(sqlrotate.Config{Opener: opener, …})
//
// The connections are the driver's own, with nothing wrapped around them.
//
// These servers let a session of a user who was dropped go on with most of what it could
// do, for as long as it lives: what ends it is the connector, when its credential ends.
//
// It is a module of its own: the root module does not depend on the driver.
package mysqlopener

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/sqlrotate/sqlrotate"
)

// Parse parses a DSN as mysql.ParseDSN does, but for the login, which comes from the
// source: a user name in dsn is left out, and a password in it is an error. No error holds
// the password.
func Parse(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	switch {
	case err != nil && mayHoldPassword(dsn, err):
		return nil, errors.New("mysqlopener: the DSN can't be parsed: the reason is withheld because it may hold a password: remove it, the credential comes from the Source")
	case err != nil:
		return nil, fmt.Errorf("mysqlopener: the DSN can't be parsed: %w", err)
	case hasPassword(cfg):
		return nil, errPassword
	}
	cfg.User = ""
	return cfg, nil
}

var errPassword = errors.New("mysqlopener: the DSN or the configuration has a password: remove it, the credential comes from the Source")

// hasPassword reports whether cfg brings a password, or a parameter that would change the
// user's: parameters are set as variables after the login.
func hasPassword(cfg *mysql.Config) bool {
	for name := range cfg.Params {
		if strings.EqualFold(strings.TrimSpace(name), "password") {
			return true
		}
	}
	return cfg.Passwd != ""
}

// mayHoldPassword reports whether err, which mysql.ParseDSN has returned, may quote a
// password: it quotes what it takes for a network, a database or a parameter.
func mayHoldPassword(dsn string, err error) bool {
	if strings.HasPrefix(err.Error(), "invalid DSN: ") {
		return false // they quote nothing
	}
	address, _, _ := strings.Cut(dsn[:max(strings.LastIndexByte(dsn, '/'), 0)], "(")
	return strings.Contains(dsn, "@") || strings.Contains(strings.ToLower(dsn), "pass") || !dialled(address)
}

// dialled reports whether network is one that any dial function knows.
func dialled(network string) bool {
	return slices.Contains([]string{"", "tcp", "tcp4", "tcp6", "unix"}, network)
}

// Opener is a [sqlrotate.Opener] for the driver. Make it with [New]. All methods are safe
// for concurrent use.
type Opener struct {
	cfg *mysql.Config
	tag bool // sessions carry the name of their version
}

var _ sqlrotate.Opener = (*Opener)(nil)

// New returns an opener that logs in as cfg says, which [Parse] or mysql.NewConfig has made,
// but for the user and the password. It takes a copy of cfg.
//
// cfg may be changed before, as for the driver, by its fields or by cfg.Apply. A function of
// mysql.BeforeConnect is given a login's configuration, password included, and must leave
// the user and the password alone.
//
// It is an error if cfg has a password, or dials in a way of its own: by DialFunc, or over
// a network that was registered with mysql.RegisterDialContext. Set sqlrotate.Config.Dial
// for that.
func New(cfg *mysql.Config) (*Opener, error) {
	switch {
	case cfg == nil:
		return nil, errors.New("mysqlopener: there is no configuration: make one with Parse")
	case hasPassword(cfg):
		return nil, errPassword
	case cfg.DialFunc != nil:
		return nil, errors.New("mysqlopener: the configuration has a DialFunc: set sqlrotate.Config.Dial in its place")
	case !dialled(cfg.Net):
		return nil, fmt.Errorf("mysqlopener: the network %q is not one of tcp, tcp4, tcp6 and unix: to dial in another way, set sqlrotate.Config.Dial", cfg.Net)
	}
	cfg = cfg.Clone()
	cfg.User = ""
	if cfg.Logger == nil {
		cfg.Logger = mysql.NewConfig().Logger
	}
	cfg.Logger = logger{cfg.Logger}
	if _, err := mysql.NewConnector(cfg); err != nil {
		return nil, fmt.Errorf("mysqlopener: %w", err)
	}
	return &Opener{cfg: cfg}, nil
}

// Open implements [sqlrotate.Opener]. After the login it runs a statement, because MariaDB
// lets a user in whose password has expired, and then fails all that it is asked.
func (o *Opener) Open(ctx context.Context, cred sqlrotate.Credential, dial sqlrotate.DialFunc) (driver.Conn, error) {
	password := cred.Password.Reveal()
	if strings.ContainsRune(cred.Username, 0) || strings.ContainsRune(password, 0) {
		// The protocol ends both with a NUL: the server would see a shorter one.
		return nil, errors.New("mysqlopener: the credential holds a NUL byte, which can't be sent")
	}
	cfg := *o.cfg // of which the driver makes a copy
	cfg.User, cfg.Passwd, cfg.DialFunc = cred.Username, password, dial
	if o.tag {
		cfg.ConnectionAttributes = tagged(cfg.ConnectionAttributes, cred)
	}
	connector, err := mysql.NewConnector(&cfg)
	if err != nil {
		return nil, fmt.Errorf("mysqlopener: %w", err)
	}
	conn, err := connector.Connect(ctx)
	if err == nil {
		err = obeys(ctx, conn)
	}
	if err != nil {
		return nil, withhold(err, password)
	}
	return conn, nil
}

// withhold returns err, or, if the password is in its text, an error that has the server's
// code and not the text: the password may be a word of that, such as the user's name.
func withhold(err error, password string) error {
	withheld := sqlrotate.Withhold(err, password)
	var failed *mysql.MySQLError
	if withheld == err || !errors.As(err, &failed) { //nolint:errorlint // the same one
		return withheld
	}
	return &mysql.MySQLError{Number: failed.Number, SQLState: failed.SQLState, Message: withheld.Error()}
}

// obeys closes conn and returns an error if the server does nothing for it.
func obeys(ctx context.Context, conn driver.Conn) error {
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		return nil
	}
	_, err := execer.ExecContext(ctx, "do 0", nil)
	if err != nil {
		_ = conn.Close()
	}
	return err
}

// number returns the server's code in err, zero if it has none.
func number(err error) uint16 {
	var failed *mysql.MySQLError
	if !errors.As(err, &failed) {
		return 0
	}
	return failed.Number
}

// Refused implements [sqlrotate.Opener], by the codes of MySQL and MariaDB. It knows those of
// the probe query, too. A database that does not exist counts as refused if the user has
// rights to some databases only: the servers don't tell it apart from one that is denied.
func (*Opener) Refused(err error) bool {
	switch number(err) {
	case 1045, 1698, // wrong password, unknown user, not from this host, no TLS
		1044,       // no right to the database
		1130,       // nobody may log in from this host
		1820, 1862, // the password has expired: MariaDB, MySQL
		3118, 4151, // the account is locked: MySQL, MariaDB
		3955, 4150, // for too many wrong passwords: MySQL, MariaDB
		1141,             // of the probe query: there is no such user
		1142, 1143, 1370: // of Config.ProbeQuery: no right to a table, a column, a routine
		return true
	}
	return false
}

// Full reports whether err says that the server or the user has no connection left.
func (*Opener) Full(err error) bool {
	switch number(err) {
	case 1040, 1203, 1226:
		return true
	}
	return false
}

// Code returns the server's code in err, such as 1045, or the empty string.
func (*Opener) Code(err error) string {
	if n := number(err); n > 0 {
		return strconv.Itoa(int(n))
	}
	return ""
}

// ProbeQuery is the query by which the server is asked whether a user lives: a session of a
// user who was dropped fails it with 1141, where a ping, "select current_user()" and most
// else succeed. (MariaDB 10.11 and 11.8.)
func (*Opener) ProbeQuery() string { return "show grants" }

// Tagged returns the opener for sqlrotate.Config.TagVersion: sessions have the name of their
// version in the connection attribute program_name, after the application's own, which is
// what the configuration's ConnectionAttributes have there. Servers show it in
// performance_schema.session_connect_attrs: MariaDB does if performance_schema is on, which
// it is not by default.
func (o *Opener) Tagged() sqlrotate.Opener {
	tagged := *o
	tagged.tag = true
	return &tagged
}

// tagged puts the name of a version into attributes.
func tagged(attributes string, cred sqlrotate.Credential) string {
	const programName = "program_name:"
	var name string
	var all []string
	for attribute := range strings.SplitSeq(attributes, ",") {
		if program, found := strings.CutPrefix(attribute, programName); found {
			name = program
		} else if attribute != "" {
			all = append(all, attribute)
		}
	}
	return strings.Join(append(all, programName+sqlrotate.ApplicationName(name, cred)), ",")
}

// Config returns a copy of the configuration: where logins go and how they are protected.
// It holds no login.
func (o *Opener) Config() *mysql.Config { return o.cfg.Clone() }

// logger leaves out what the driver says when the connector has closed a connection under
// it, which is not for the driver to report.
type logger struct{ mysql.Logger }

// Print implements [mysql.Logger].
func (l logger) Print(v ...any) {
	for _, v := range v {
		if err, ok := v.(error); ok && errors.Is(err, net.ErrClosed) {
			return
		}
	}
	l.Logger.Print(v...)
}
