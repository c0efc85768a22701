// The same for MariaDB.

package openertest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/mariadbtest"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

// MariaDB is a MariaDB in the states that [sqlrotatetest.TestOpener] knows of, but for
// one: it listens when it is ready, and has no word for being about to be. All methods are
// safe for concurrent use.
type MariaDB struct {
	*mariadbtest.Server
	down  string // an address where nothing listens
	users atomic.Int64
}

// NewMariaDB starts a server that takes TLS as well.
func NewMariaDB(tb mariadbtest.TB) *MariaDB {
	tb.Helper()
	s := &MariaDB{Server: mariadbtest.New(tb, mariadbtest.Options{
		TLS: true, MaxConnections: 500, Settings: map[string]string{"performance_schema": "on"}, // for what sessions say of themselves
	})}
	for username, options := range map[string]string{
		"unable": "account lock", "expired": "password expire", "busy": "with max_user_connections 1", "anywhere": "",
	} {
		if err := s.CreateUser(tb.Context(), username, password, options); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	for _, statement := range []string{
		"create user forbidden@'192.0.2.1' identified by 'secret'",
		"grant select on *.* to anywhere",
		"create database closed",
	} {
		if _, err := s.Admin().ExecContext(tb.Context(), statement); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	s.down = unused(tb)
	return s
}

// Harness returns a harness for what open makes of a DSN without a login. parameters are its
// parameters. Two that are about one server must not be used at once.
func (s *MariaDB) Harness(tb mariadbtest.TB, open func(dsn string) (sqlrotate.Opener, error), parameters string) sqlrotatetest.OpenerHarness {
	tb.Helper()
	login := func() sqlrotate.Credential {
		n := s.users.Add(1)
		cred := sqlrotate.Credential{Username: fmt.Sprintf("one of %d", n), Password: sqlrotate.NewSecret(fmt.Sprint(password, n))}
		if err := s.CreateUser(tb.Context(), cred.Username, cred.Password.Reveal()); err != nil {
			tb.Fatalf("%v", err)
		}
		return cred
	}
	as := func(username string) sqlrotate.Credential {
		return sqlrotate.Credential{Username: username, Password: sqlrotate.NewSecret(password)}
	}
	opener := func(address, database string) sqlrotate.Opener {
		o, err := open("tcp(" + address + ")/" + database + "?" + parameters)
		if err != nil {
			tb.Fatalf("%v", err)
		}
		return o
	}
	one, two := login(), login()
	var release func() error
	occupy := func(username string) func() error {
		return func() (err error) {
			release, err = s.Occupy(context.Background(), username, password)
			return err
		}
	}
	free := func() error {
		if release == nil {
			return nil
		}
		return release()
	}
	set := func(variable, value string) func() error {
		return func() error { return s.Set(context.Background(), variable, value) }
	}
	const disconnect = "disconnect_on_expired_password"
	return sqlrotatetest.OpenerHarness{
		Opener: opener(s.Address(), s.Database()), Login: one, Other: two,
		UserQuery: "select substring_index(current_user(), '@', 1)",
		Cases: []sqlrotatetest.OpenerCase{
			{State: sqlrotatetest.WrongPassword, Credential: as(one.Username)},
			{State: sqlrotatetest.UnknownUser, Credential: as("nobody of that name")},
			{State: sqlrotatetest.LoginForbidden, Credential: as("unable")},
			{State: sqlrotatetest.PasswordExpired, Credential: as("expired")},
			{State: sqlrotatetest.PasswordExpired, Credential: as("expired"), Begin: set(disconnect, "on"), End: set(disconnect, "off")},
			{State: sqlrotatetest.HostForbidden, Credential: as("forbidden")},
			{State: sqlrotatetest.AccessRevoked, Opener: opener(s.Address(), "closed")},
			{State: sqlrotatetest.NoSuchDatabase, Opener: opener(s.Address(), "nowhere"), Credential: as("anywhere")},
			{State: sqlrotatetest.UserIsFull, Credential: as("busy"), Begin: occupy("busy"), End: free},
			{State: sqlrotatetest.ServerIsFull, Begin: occupy("anywhere"), End: free},
			{State: sqlrotatetest.ServerDown, Opener: opener(s.down, s.Database())},
		},
		EndSessions: func() error { return s.end(one.Username) },
		DropOther:   func() error { return s.DropUser(context.Background(), two.Username) },
		Delay:       10 * time.Second, // the machine may be busy
		Unchecked: func(what string) {
			if what != "what Refused says of: "+string(sqlrotatetest.ServerStarting) {
				tb.Errorf("not checked: %s", what)
			}
		},
		LooksAtSocket: true,
	}
}

// end ends a user's sessions.
func (s *MariaDB) end(username string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if n, err := s.Kill(ctx, username); err != nil || n == 0 {
		return fmt.Errorf("%d sessions: %w", n, err)
	}
	return s.AwaitSessions(ctx, username, 0)
}
