// Behaviour: what a connector promises over any opener, as a table.

package openertest

import (
	"context"
	"database/sql"
	"os"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// Database is a server as those see it who rotate its logins. All methods are safe for
// concurrent use.
type Database interface {
	// Admin is the pool of a user who may do everything, in the database that logins get.
	Admin() *sql.DB

	// CreateLogin makes a user who reads and writes the tables that are there by now.
	CreateLogin(ctx context.Context, username, password string) error

	// ChangePassword changes a user's password in place. Its sessions live on.
	ChangePassword(ctx context.Context, username, password string) error

	// DropLogin drops a user as Vault's default revocation does. Its sessions are not ended.
	DropLogin(ctx context.Context, username string) error

	// EndSessions ends the sessions of a user, who may have been dropped since, and returns
	// how many there were. They may take a moment.
	EndSessions(ctx context.Context, username string) (int, error)

	// Sessions returns how many sessions a user has, who may have been dropped since.
	Sessions(ctx context.Context, username string) (int, error)

	// Traits are what differs between servers.
	Traits() Traits
}

// Traits are in what servers differ, in their language and in what they do.
type Traits struct {
	Placeholder string // of a value in a statement, and the only one there
	Sleep       string // a query that takes so many seconds

	// AfterDrop says what becomes of the sessions of a user who is dropped.
	AfterDrop AfterDrop
}

// AfterDrop is what becomes of the sessions of a user who is dropped.
type AfterDrop string

// What servers do.
const (
	SessionsFail   AfterDrop = "a dropped user's sessions are open and fail every query that needs a right" // PostgreSQL
	SessionsWorkOn AfterDrop = "a dropped user's sessions keep their rights until they end"                 // MariaDB, MySQL
)

// Suite is what the behaviours are checked with.
type Suite struct {
	Database Database
	Opener   sqlrotate.Opener // to that database
	CutOff   CutOff

	// Soon is how long is waited for what takes a second on a machine that is quiet. What
	// the machine stalls doesn't count. Zero means 10 s.
	Soon time.Duration
}

// CutOff is what a statement fails with whose connection is closed under it.
type CutOff string

// What drivers do.
const (
	CutOffSaysWhy CutOff = "the driver passes on what its socket says"                 // lib/pq, pgx
	CutOffIsMute  CutOff = "the driver has one error for whatever breaks a connection" // go-sql-driver/mysql
)

// TB is the part of testing.TB that a behaviour needs.
type TB interface {
	stall.TB
	Attr(key, value string)
}

// Behaviour is one row of the table: something that happens to logins while an application
// works, and what must hold then.
type Behaviour struct {
	Name string

	config sqlrotate.Config // but for what the scene brings
	size   int              // of the pool
	idle   int              // that it keeps; zero: all
	run    func(*scene)
}

// Behaviours is the table. It is complete with [Rotations].
func Behaviours() []Behaviour {
	return []Behaviour{
		passwordChangedInPlace("password changed in place, with new connections all the time", 5, 5, -1),
		passwordChangedInPlace("password changed in place, with a pool that must grow", 1, 6, 0),
		loginPublishedEarly("login published before it exists, with a pool", 5, 0),
		loginPublishedEarly("login published before it exists, with new connections all the time", 5, -1),
		loginPublishedEarly("login published before it exists, with nobody asking", 0, 0),
		wrongPassword(),
		hardEnd(),
		noHardEnd(),
		drainOfBusyConnections(),
		drainIsSpreadOut(),
		usersAlternate(),
		preparedStatements(),
		rotationsWithinAnOverlap(),
		oldLoginDroppedEarly(),
		loginDroppedInUse(),
		idleSessionsEnded(),
	}
}

// Together calls check for each behaviour, all at once: they wait most of the time.
func Together(check func(Behaviour)) {
	var all sync.WaitGroup
	for _, b := range Behaviours() {
		all.Go(func() { check(b) })
	}
	all.Wait()
}

// SoakFor returns for how long a test goes on whose name begins with TestSoak: for short, or,
// in `make soak`, for as long as SQLROTATE_SOAK says.
func SoakFor(tb TB, short time.Duration) time.Duration {
	tb.Helper()
	v := os.Getenv("SQLROTATE_SOAK")
	if v == "" {
		return short
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		tb.Errorf("SQLROTATE_SOAK: %v", err)
		tb.FailNow()
	}
	return d
}

// Check has what b is about happen to a connector over the suite's opener, and fails tb for
// each promise that is broken. Whatever it is, these hold in the end:
//
//   - no operation has failed, but for those that b says must; what was acknowledged is in
//     the database, once
//   - a user has no session when it is revoked
//   - the connector's count of connections is the server's of sessions, and that of the
//     sockets that were dialled, user by user
//   - after the pool's Close no socket is open, no session is left at the server, and no
//     goroutine
//   - no password was said
func (b Behaviour) Check(tb TB, s Suite) {
	tb.Helper()
	c := newCensus()
	defer c.leave()
	if s.Soon == 0 {
		s.Soon = 10 * time.Second
	}
	sc := newScene(tb, s, b, c)
	b.run(sc)
	sc.end()
}
