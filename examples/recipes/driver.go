package recipes

import (
	"net/url"

	"github.com/XSAM/otelsql"
	"github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate"
)

// TracedDriver is an opener for a driver that something else is wrapped around: here
// github.com/XSAM/otelsql, which then traces sqlrotate's own logins, too. server is a URL
// without a login, such as postgres://db/app?sslmode=verify-full.
//
// What wraps a driver hides its connections: they are retired by their age, all of a version
// together, and not closed when their login ends. Prefer OpenTraced.
func TracedDriver(server *url.URL) sqlrotate.Opener {
	return sqlrotate.FromDriver(otelsql.WrapDriver(&pq.Driver{}), func(cred sqlrotate.Credential) string {
		dsn := *server
		dsn.User = url.UserPassword(cred.Username, cred.Password.Reveal())
		return dsn.String()
	})
}
