// Opener and DialFunc: the seam to a database driver.

package sqlrotate

import (
	"context"
	"database/sql/driver"
	"fmt"
	"net"
	"slices"
	"strings"
)

// DialFunc opens a network connection, as [net.Dialer.DialContext] does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Opener logs in to a database: the seam to a driver. [LibPQ] is the one for
// github.com/lib/pq; [FromDriver] makes one of any driver that takes a DSN.
// Its methods are called from many goroutines at once. The package sqlrotatetest
// checks an Opener against a server.
//
// It may have five more methods. ProbeQuery() string gives the query by which the server is
// asked whether a role lives; Refused is then asked of its errors as well, unless they have
// a method SQLState() string. Code(error) string gives the server's code in an error, for
// RefusedError and Stats; without it that is the SQLSTATE of an error which has such a
// method. Full(error) bool reports whether the server or the user
// has no connection left: during a rotation a login then waits for one that is about to end.
// Without it that is SQLSTATE 53300. Tagged() Opener gives the Opener that takes its place
// with Config.TagVersion. WaitForNotification(ctx context.Context, conn driver.Conn)
// (Notification, error) is for [NewListener]: it returns the next notification that one of
// its connections has received or receives, and leaves the connection as good as before when
// ctx is done.
type Opener interface {
	// Open logs in with cred and returns the driver's own connection.
	//
	// Every network connection is opened with dial. That is how the connector
	// aborts a login whose context is done, counts what is open by credential
	// version, and closes what outlives its credential; a connection for which
	// dial was never called can only be retired by its age. Of several network
	// connections that are open when Open returns, the one that was read from
	// last is the session's, and the others are closed. When Open fails it
	// may leave to the caller what it dialled: it is closed. The driver may keep
	// dial and call it later, for example to cancel a query. What dial returns is
	// a [syscall.Conn] if the connection that Config.Dial has made is one.
	//
	// Open may ignore ctx: the connector does not wait for it any longer than that
	// says, and closes a connection that comes too late. It calls Open no more while
	// four calls that nobody waits for have not returned within LoginTimeout.
	//
	// Errors hold no password.
	Open(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error)

	// Refused reports whether err, returned by Open, says that the server
	// refused the credential: as opposed to a server that is down, full, starting
	// or out of reach, or a database that does not exist. It goes by codes, never
	// by texts, which servers translate.
	Refused(err error) bool
}

// FromDriver returns an [Opener] for any driver that takes a DSN. dsn renders
// one for a credential; it is called for each login, and its result is never
// logged.
//
// The driver dials for itself, so the connector doesn't see these connections
// close: they are retired by age alone, a version at a time rather than one by
// one, and are not closed at the end of their credential, whatever the log says. Of
// those that the pool has, Stats counts one of each version at the most, and
// Trace.Closed is called for none; it is for those that the connector closes itself.
//
// A refusal is recognised if the error, or one that it wraps, has a method SQLState()
// string that gives a class 28 code or 42501. An error whose text contains the
// password or the DSN is replaced by one that names its type alone. Write an Opener
// where that is not enough.
func FromDriver(d driver.Driver, dsn func(Credential) string) Opener {
	return driverOpener{d, dsn}
}

type driverOpener struct {
	driver driver.Driver
	dsn    func(Credential) string
}

// Open does not return when ctx is done: driver.Driver.Open knows no context.
func (o driverOpener) Open(_ context.Context, cred Credential, _ DialFunc) (driver.Conn, error) {
	dsn := o.dsn(cred)
	conn, err := o.driver.Open(dsn)
	return conn, Withhold(err, dsn, cred.Password.Reveal())
}

func (driverOpener) Refused(err error) bool {
	return SQLStateRefused(err)
}

// SQLStateRefused reports whether err says that the server refused the credential, by
// PostgreSQL's codes: whether it, or any error that it wraps, has a method SQLState() string
// that gives one of class 28 (wrong password, unknown role, passed VALID UNTIL, NOLOGIN,
// pg_hba, PAM), or 42501, which a login gets when CONNECT was revoked. It is for an
// Opener's Refused.
// See https://www.postgresql.org/docs/current/errcodes-appendix.html.
func SQLStateRefused(err error) bool { return anySQLState(err, credentialRefused) }

func credentialRefused(state string) bool {
	return strings.HasPrefix(state, "28") || state == "42501"
}

// anySQLState reports whether any error in the tree of err has a SQLSTATE for
// which f is true. errors.As won't do: it stops at the first of several joined
// errors, and lib/pq joins those of all hosts.
func anySQLState(err error, f func(state string) bool) bool {
	if e, ok := err.(interface{ SQLState() string }); ok && f(e.SQLState()) {
		return true
	}
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case interface{ Unwrap() error }:
		return anySQLState(e.Unwrap(), f)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if anySQLState(err, f) {
				return true
			}
		}
	}
	return false
}

// sqlState returns the SQLSTATE in the tree of err: of several hosts' errors, one that is
// about the credential. Empty if there is none.
func sqlState(err error) (code string) {
	anySQLState(err, func(state string) bool {
		refused := credentialRefused(state)
		if code == "" || refused {
			code = state
		}
		return refused
	})
	return code
}

// Withhold returns err, or, if its text contains any of secrets, an error that only names
// its type, and has its SQLSTATE, if it has one: a password may be a word of what the server
// says, such as the user's name. It is for an Opener whose driver quotes what it was given,
// such as a DSN. Empty secrets are left out.
func Withhold(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if !slices.ContainsFunc(secrets, func(s string) bool { return s != "" && strings.Contains(text, s) }) {
		return err
	}
	withheld := fmt.Errorf("sqlrotate: login failed with an error of type %T, whose text is withheld because it holds a secret", err)
	if state := sqlState(err); state != "" {
		return &withheldError{withheld, state}
	}
	return withheld
}

// withheldError is an error whose text is withheld, and its SQLSTATE is not.
type withheldError struct {
	error
	state string
}

// SQLState returns the SQLSTATE.
func (e *withheldError) SQLState() string { return e.state }
