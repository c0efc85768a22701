// Package openertest runs the conformance suite of [sqlrotatetest.TestOpener] against a
// real PostgreSQL or MariaDB, for the openers of this repository, and has a table of what a
// connector promises over each of them: [Behaviours].
//
// Nothing here imports testing.
package openertest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

// Server is a PostgreSQL in all states that [sqlrotatetest.TestOpener] knows of, at the
// same time. All methods are safe for concurrent use.
type Server struct {
	*pgtest.Server
	starting string // the address of a server that says it is starting
	down     string // an address where nothing listens
	roles    atomic.Int64
}

// password is what the roles of a harness log in with, but for a number: it has what is
// quoted and escaped in one place or another.
const password = `pa'ss "wo\rd" %41+&=/?#@:` //nolint:gosec // made up

// New starts a server that takes TLS as well.
func New(tb pgtest.TB) *Server {
	tb.Helper()
	s := &Server{Server: pgtest.New(tb, pgtest.Options{
		TLS: true,
		HBA: []string{"host all forbidden all reject", "hostnossl full_tls all all reject", "host all all all md5"}, // SCRAM for who has such a password
	})}
	for _, statement := range []string{
		"create role unable nologin password " + pq.QuoteLiteral(password),
		"create role expired login valid until '2001-01-01' password " + pq.QuoteLiteral(password),
		"create role forbidden login password " + pq.QuoteLiteral(password),
		"create role busy login connection limit 0 password " + pq.QuoteLiteral(password),
		"create database closed", "revoke connect on database closed from public",
		"create database full_up connection limit 0", "create database full_tls connection limit 0",
	} {
		if _, err := s.Admin().ExecContext(tb.Context(), statement); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	var err error
	if s.starting, err = starting(tb); err != nil {
		tb.Fatalf("%v", err)
	}
	s.down = unused(tb)
	return s
}

// Harness returns a harness for what open makes of a DSN. options are more of the DSN.
func (s *Server) Harness(tb pgtest.TB, open func(dsn string) (sqlrotate.Opener, error), options string) sqlrotatetest.OpenerHarness {
	tb.Helper()
	login := func() sqlrotate.Credential {
		n := s.roles.Add(1)
		cred := sqlrotate.Credential{Username: fmt.Sprintf("one of %d", n), Password: sqlrotate.NewSecret(fmt.Sprint(password, n))}
		if err := s.CreateRole(tb.Context(), cred.Username, cred.Password.Reveal()); err != nil {
			tb.Fatalf("%v", err)
		}
		return cred
	}
	as := func(username string) sqlrotate.Credential {
		return sqlrotate.Credential{Username: username, Password: sqlrotate.NewSecret(password)}
	}
	opener := func(more string) sqlrotate.Opener {
		o, err := open(s.DSN() + " " + options + " " + more)
		if err != nil {
			tb.Fatalf("%v", err)
		}
		return o
	}
	at := func(address string) sqlrotate.Opener {
		host, port, _ := net.SplitHostPort(address)
		return opener("host=" + host + " port=" + port + " sslmode=disable")
	}
	one, two := login(), login()
	full := "full_up"
	if strings.Contains(options, "sslmode=prefer") || strings.Contains(options, "sslmode=allow") {
		full = "full_tls" // 28000 without TLS, 53300 with it
	}
	return sqlrotatetest.OpenerHarness{
		Opener: opener(""), Login: one, Other: two,
		UserQuery: "select session_user",
		Cases: []sqlrotatetest.OpenerCase{
			{State: sqlrotatetest.WrongPassword, Credential: as(one.Username)},
			{State: sqlrotatetest.UnknownUser, Credential: as("nobody of that name")},
			{State: sqlrotatetest.LoginForbidden, Credential: as("unable")},
			{State: sqlrotatetest.PasswordExpired, Credential: as("expired")},
			{State: sqlrotatetest.HostForbidden, Credential: as("forbidden")},
			{State: sqlrotatetest.AccessRevoked, Opener: opener("dbname=closed")},
			{State: sqlrotatetest.NoSuchDatabase, Opener: opener("dbname=nowhere")},
			{State: sqlrotatetest.UserIsFull, Credential: as("busy")},
			{State: sqlrotatetest.ServerIsFull, Opener: opener("dbname=" + full)},
			{State: sqlrotatetest.ServerStarting, Opener: at(s.starting)},
			{State: sqlrotatetest.ServerDown, Opener: at(s.down)},
		},
		EndSessions: func() error { return s.end(one.Username) },
		DropOther:   func() error { return s.RevokeRole(context.Background(), two.Username) },
		Delay:       10 * time.Second, // the machine may be busy
		Unchecked:   func(what string) { tb.Errorf("not checked: %s", what) },
	}
}

// end ends a role's sessions.
func (s *Server) end(role string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if n, err := s.Terminate(ctx, role); err != nil || n == 0 {
		return fmt.Errorf("%d sessions: %w", n, err)
	}
	for {
		n, err := s.Sessions(ctx, role)
		if err != nil || n == 0 {
			return err
		}
		<-time.After(time.Millisecond)
	}
}

// unused returns an address where nothing listens.
func unused(tb pgtest.TB) string {
	tb.Helper()
	l, err := listen(tb.Context())
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return l.Addr().String()
}

func listen(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
}

// starting listens for the test as a server that is starting up, and returns its address.
func starting(tb pgtest.TB) (string, error) {
	l, err := listen(tb.Context())
	if err != nil {
		return "", err
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				size := make([]byte, 4)
				if _, err := io.ReadFull(conn, size); err != nil {
					return
				}
				if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(size))-4); err != nil {
					return
				}
				const said = "SFATAL\x00VFATAL\x00C57P03\x00Mthe database system is starting up\x00\x00"
				_, _ = conn.Write(append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(len(said)+4)), said...))
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return l.Addr().String(), nil
}
