// Package mariadbtest runs a throwaway MariaDB for tests, as internal/pgtest runs a
// PostgreSQL.
//
// [Start] makes a data directory in a temporary one and serves it on a free port of
// 127.0.0.1 until [Server.Close], or until the process ends for whatever reason. It takes
// two or three seconds, so a package's tests may want to share one.
//
// It talks to the server through the driver that is registered as "mysql" with
// database/sql: whoever uses this package imports github.com/go-sql-driver/mysql, which the
// root module doesn't depend on.
//
// Nothing here imports testing. Passwords are kept out of the server's log.
package mariadbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

// ErrUnavailable is returned by [Start] when there is no MariaDB to start.
var ErrUnavailable = errors.New("mariadbtest: no MariaDB server")

// Options say what kind of server is needed. The zero value is fine.
type Options struct {
	// MaxConnections is the number of sessions that the server has for everybody but
	// Admin, who has some of its own. Zero is 100.
	MaxConnections int

	// TLS makes the server accept TLS as well, with a certificate for 127.0.0.1 and
	// localhost that [Server.CAFile] signed.
	TLS bool

	// Settings are further settings, as in a file of options: "wait_timeout".
	Settings map[string]string
}

func (o Options) maxConnections() int {
	if o.MaxConnections == 0 {
		return 100
	}
	return o.MaxConnections
}

// Server is a running MariaDB with one database for the tests. All methods are safe for
// concurrent use.
type Server struct {
	proc      *process
	admin     *sql.DB
	closeOnce sync.Once
	closeErr  error
}

// Start starts a server. The context bounds the start only. The error is
// [ErrUnavailable] if there is none.
func Start(ctx context.Context, o Options) (*Server, error) {
	p, err := launch(ctx, o)
	if err != nil {
		return nil, err
	}
	admin, err := p.openAdmin()
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return &Server{proc: p, admin: admin}, nil
}

// Close ends the server and removes what it left. Later calls return the same.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		_ = s.admin.Close()
		s.closeErr = s.proc.close()
	})
	return s.closeErr
}

// Address is the server's host and port. It stays the same when the server is restarted.
func (s *Server) Address() string { return address(s.proc.port) }

// Database is the name of the database that was made for the tests.
func (s *Server) Database() string { return database }

// CAFile is the path of the certificate that signed the server's, empty without
// [Options.TLS].
func (s *Server) CAFile() string {
	if !s.proc.tls {
		return ""
	}
	return filepath.Join(s.proc.dir, testserver.CAFile)
}

// DSN says how to reach the database, with no user name, no password and no parameters:
// they can be put before and behind it.
func (s *Server) DSN() string { return dsn(s.Address()) }

func dsn(address string) string { return "tcp(" + address + ")/" + database }

func address(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// Admin is the pool of a user who may do everything. It has sessions of its own, which no
// other user can take. It belongs to the Server, which closes it.
func (s *Server) Admin() *sql.DB { return s.admin }

// Log returns the server's log so far. There is no password in it.
func (s *Server) Log() (string, error) {
	content, err := os.ReadFile(s.proc.logFile())
	if err != nil {
		return "", fmt.Errorf("mariadbtest: %w", err)
	}
	return string(content), nil
}

// StopMode is how [Server.Stop] ends a server.
type StopMode int

const (
	// Fast ends the sessions and shuts down in order.
	Fast StopMode = iota
	// Immediate is a crash: sessions break off and the next start recovers.
	Immediate
)

// own takes a turn at the server process.
func (s *Server) own(f func(*process) error) error {
	s.proc.turn.Lock()
	defer s.proc.turn.Unlock()
	return f(s.proc)
}

// Stop ends the server, if it runs, and returns when it has ended.
func (s *Server) Stop(mode StopMode) error {
	return s.own(func(p *process) error { return p.stop(mode) })
}

// Start starts a stopped server on the same port.
func (s *Server) Start(ctx context.Context) error {
	return s.own(func(p *process) error { return p.start(ctx) })
}

// Restart stops the server and starts it again.
func (s *Server) Restart(ctx context.Context, mode StopMode) error {
	return s.own(func(p *process) error {
		if err := p.stop(mode); err != nil {
			return err
		}
		return p.start(ctx)
	})
}

// Pause freezes the server and all its sessions (SIGSTOP): connections to it are
// accepted by the kernel, and nothing is ever answered. It works on Linux only.
func (s *Server) Pause(ctx context.Context) error {
	return s.own(func(p *process) error { return p.server.Pause(ctx) })
}

// Resume ends a Pause.
func (s *Server) Resume() error {
	return s.own(func(p *process) error { return p.server.Resume() })
}

// TB is the part of testing.TB that [New] needs.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// New starts a server for a test and closes it when the test ends. Where there
// is no MariaDB the test is skipped, or fails if CI is set.
func New(tb TB, o Options) *Server {
	tb.Helper()
	s, err := Start(tb.Context(), o)
	switch {
	case errors.Is(err, ErrUnavailable) && os.Getenv("CI") == "":
		tb.Skipf("%v", err)
	case err != nil:
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("mariadbtest: close: %v", err)
		}
	})
	return s
}
