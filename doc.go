// Package sqlrotate changes the database login of a running service: one *sql.DB
// for the life of the process, and behind it a login that changes as often as
// security policy likes. No restart, no failed query, and no connection that
// outlives the credential it was opened with.
//
//	src, err := sqlrotate.NewFileSource("/vault/secrets/db", sqlrotate.FileOptions{})
//	pg, err := sqlrotate.LibPQ("host=db dbname=app sslmode=verify-full")
//	c, err := sqlrotate.New(sqlrotate.Config{
//		Source: src,
//		Opener: pg,
//		Window: sqlrotate.Window{Overlap: 10 * time.Minute},
//	})
//	db := sqlrotate.OpenDB(c) // *sql.DB, yours but for SetConnMaxLifetime
//
// # The two halves of a rotation
//
// PostgreSQL checks a password at login only. So new connections must log in with
// the latest credential, which the [Source] gives for each of them; and connections
// opened with the old one must be gone before it is revoked. The second half hangs
// on one number, the overlap: how long the old credential stays valid after its
// successor is published. [Window] is the arithmetic on it.
//
// Old connections leave in three ways, each a net under the one before:
//
//   - Drain. Once a login with the new credential has succeeded, the old
//     connections are replaced one at a time, oldest first: a spare logs in, then
//     database/sql is told to expire one connection, and takes the spare when it
//     asks for another.
//   - Lifetime. database/sql retires every connection at an age of at most
//     Window.MaxLifetime, whether or not anybody noticed a rotation. ([InPlace] has no
//     such age: there sessions outlive their password by design.)
//   - Hard end. A connection that is still open when its credential ends is closed.
//     With a window that holds this never happens.
//
// # What it relies on
//
// That the window is true: Overlap is kept by whoever rotates, and no connection is
// in use for longer than MaxInUse. A query that outruns the window is cut off at the
// end, or left alone with Config.NoForceClose. The server may go on executing a query
// whose connection was closed; client_connection_check_interval makes PostgreSQL
// notice.
//
// Nothing is wrapped around driver.Conn: what the application gets from sql.Conn.Raw
// is the driver's own connection, and a query costs what it costs without this
// package.
//
// # Errors
//
// Errors of this package begin with "sqlrotate:", where they are not a context's own,
// and never contain a secret. A login fails with a [*RefusedError] or an [*ExpiredError] where the credential is to
// blame, and otherwise mostly with the driver's own error: see [Connector.Connect].
// A statement whose connection is closed under it, because the credential has ended, fails
// with an [*OutlivedError] if the driver passes that on.
// A [*DecodeError] is wrapped by the errors of a [FileSource] whose content is no
// credential.
package sqlrotate
