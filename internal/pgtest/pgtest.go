// Package pgtest runs a throwaway PostgreSQL for tests and for the demo.
//
// [Start] makes a cluster in a temporary directory and serves it on a free port
// of 127.0.0.1 until [Server.Close], or until the process ends for whatever
// reason: a watchdog process holds the other end of a pipe. It takes a second or
// two, so a package's tests may want to share one from TestMain.
//
// SQLROTATE_TEST_POSTGRES, if set, is the DSN of a superuser on a server to use
// instead. There a database and roles are created, and dropped by Close; roles
// are the server's, so the names that tests choose must not be in use there.
//
// The environment's PG variables are about servers of somebody else's, and lib/pq goes
// by them: [Start] removes them from this process. [ClearEnvironment] does that alone.
//
// Nothing here imports testing. Passwords are kept out of the server's log.
package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

// envServer names the environment variable with the DSN of a server to use.
const envServer = "SQLROTATE_TEST_POSTGRES"

// schema is where tables go: it is the database's search_path.
const schema = "app"

var (
	// ErrUnavailable is returned by [Start] when there is no PostgreSQL to start
	// and none is named, or none that can do what the options ask.
	ErrUnavailable = errors.New("pgtest: no PostgreSQL server")

	// ErrNotOurs is returned by methods that act on the server process, its
	// files or its log when the server is the one that the environment names.
	ErrNotOurs = errors.New("pgtest: the server named by " + envServer + " is not ours to control")
)

// Options say what kind of server is needed. The zero value is fine.
type Options struct {
	// Control says that the test stops, pauses or reconfigures the server, or
	// reads its log: the server that the environment names is not used. Any
	// other field that is not zero implies it.
	Control bool

	// MaxConnections is the number of sessions the server has for everybody but
	// a superuser, give or take: slots that Admin leaves are up for grabs, so
	// there may be a handful more. Zero is 100.
	MaxConnections int

	// TLS makes the server accept TLS as well, with a certificate for 127.0.0.1
	// and localhost that [Server.CAFile] signed. DSN then asks for verify-full.
	TLS bool

	// Settings are further settings of postgresql.conf.
	Settings map[string]string

	// HBA replaces the default lines of pg_hba.conf; see [Server.WriteHBA].
	HBA []string
}

func (o Options) control() bool {
	return o.Control || o.MaxConnections != 0 || o.TLS || o.Settings != nil || o.HBA != nil
}

func (o Options) maxConnections() int {
	if o.MaxConnections == 0 {
		return 100
	}
	return o.MaxConnections
}

// Server is a running PostgreSQL with one database for the tests. All methods
// are safe for concurrent use.
type Server struct {
	cfg   pq.Config // the superuser's login to the database
	admin *sql.DB
	proc  *process // nil: the server isn't ours

	// mu guards the fields below; it is never held across I/O.
	mu   sync.Mutex
	oids map[string][]int64     // of the roles made under each name
	temp []*testserver.Watchdog // of TempDir's directories

	closeOnce sync.Once
	closeErr  error
}

// ClearEnvironment removes the variables that lib/pq reads from the environment of
// this process: without a word, they would add to what a DSN says, or overrule it.
func ClearEnvironment() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "SSLPG") {
			_ = os.Unsetenv(name)
		}
	}
}

// Named reports whether the environment names a server for [Start] to use.
func Named() bool { return os.Getenv(envServer) != "" }

// Start starts a server, or connects to the one that the environment names. The
// context bounds the start only. The error is [ErrUnavailable] if there is none.
func Start(ctx context.Context, o Options) (*Server, error) {
	ClearEnvironment()
	named := os.Getenv(envServer)
	if named != "" && !o.control() {
		return attach(ctx, named)
	}
	p, err := launch(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Server{proc: p, cfg: p.login()}
	if err := s.createDatabase(ctx); err != nil {
		return nil, errors.Join(err, s.Close()) //nolint:contextcheck // what a context has cut short is cleaned up without it
	}
	return s, nil
}

func attach(ctx context.Context, dsn string) (*Server, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		// The parser's words may quote the password.
		return nil, errors.New("pgtest: " + envServer + " can't be parsed")
	}
	s := &Server{cfg: cfg}
	if err := s.createDatabase(ctx); err != nil {
		return nil, errors.Join(err, s.Close()) //nolint:contextcheck // what a context has cut short is cleaned up without it
	}
	return s, nil
}

// createDatabase makes the tests' database and points s.cfg and s.admin at it.
func (s *Server) createDatabase(ctx context.Context) error {
	name := "sqlrotate_" + strings.ToLower(rand.Text()[:8])
	first, err := openAdmin(s.cfg)
	if err != nil {
		return err
	}
	defer first.Close()
	if _, err := first.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return fmt.Errorf("pgtest: create the database: %w", err)
	}
	s.cfg.Database = name
	if s.admin, err = openAdmin(s.cfg); err != nil {
		return err
	}
	_, err = s.admin.ExecContext(ctx, "CREATE SCHEMA "+schema+"; ALTER DATABASE "+name+" SET search_path = "+schema)
	if err != nil {
		return fmt.Errorf("pgtest: create the schema: %w", err)
	}
	// The session that has just made the setting does not have it yet.
	_ = s.admin.Close()
	s.admin, err = openAdmin(s.cfg)
	return err
}

func openAdmin(cfg pq.Config) (*sql.DB, error) {
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(adminPool)
	return db, nil
}

// Close ends the server and removes what it left. It takes seconds at the most:
// a server that does not stop in order is killed. Later calls return the same.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		if s.proc != nil {
			if s.admin != nil {
				_ = s.admin.Close()
			}
			s.closeErr = s.proc.close()
		} else {
			s.closeErr = s.detach()
		}
		s.mu.Lock()
		temp := s.temp
		s.mu.Unlock()
		for _, w := range temp {
			s.closeErr = errors.Join(s.closeErr, w.End())
		}
	})
	return s.closeErr
}

// TempDir makes a directory that only this user can read. It is removed by Close, or
// when this process ends for whatever reason, so it may hold a credential.
func (s *Server) TempDir(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "sqlrotate-")
	if err != nil {
		return "", fmt.Errorf("pgtest: temporary directory: %w", err)
	}
	w, err := testserver.Watch(ctx, dir, "")
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.temp = append(s.temp, w)
	return dir, nil
}

// detach drops what was created on a server that isn't ours.
func (s *Server) detach() error {
	if s.admin == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	s.mu.Lock()
	names := make([]string, 0, len(s.oids))
	for name := range s.oids {
		names = append(names, name)
	}
	s.mu.Unlock()
	for _, name := range names {
		errs = append(errs, s.dropRole(ctx, name))
	}
	_ = s.admin.Close()

	cfg := s.cfg.Clone()
	cfg.Database = "postgres"
	last, err := openAdmin(cfg)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer last.Close()
	_, err = last.ExecContext(ctx, "DROP DATABASE "+pq.QuoteIdentifier(s.cfg.Database)+" WITH (FORCE)")
	return errors.Join(append(errs, err)...)
}

// dropRole drops a role, if it still exists, with all that it owns here.
func (s *Server) dropRole(ctx context.Context, name string) error {
	var exists bool
	err := s.admin.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name).Scan(&exists)
	if err != nil || !exists {
		return err
	}
	role := pq.QuoteIdentifier(name)
	_, err = s.admin.ExecContext(ctx, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role)
	return err
}

// Host is the server's address.
func (s *Server) Host() string { return s.cfg.Host }

// Port is the server's port. It stays the same when the server is restarted.
func (s *Server) Port() int { return int(s.cfg.Port) }

// Database is the name of the database that was made for the tests. Its
// search_path is the schema app, which is where tables go that name no schema.
func (s *Server) Database() string { return s.cfg.Database }

// CAFile is the path of the certificate that signed the server's, empty without
// [Options.TLS].
func (s *Server) CAFile() string {
	if s.proc == nil {
		return ""
	}
	return s.proc.caFile
}

// DSN says how to reach the database, in keywords, with no user name and no
// password. More can be appended; of two values for one keyword the last counts.
func (s *Server) DSN() string {
	dsn := fmt.Sprintf("host=%s port=%d dbname=%s sslmode=%s", s.cfg.Host, s.cfg.Port, s.cfg.Database, s.cfg.SSLMode)
	if s.cfg.SSLRootCert != "" {
		dsn += " sslrootcert='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.cfg.SSLRootCert) + "'"
	}
	return dsn
}

// Admin is a superuser's pool. Its sessions have slots of their own, which no
// other role can take. It belongs to the Server, which closes it.
func (s *Server) Admin() *sql.DB { return s.admin }

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
// is no PostgreSQL the test is skipped, or fails if CI is set.
func New(tb TB, o Options) *Server {
	tb.Helper()
	s, err := Start(tb.Context(), o)
	if err != nil {
		giveUp(tb, err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("pgtest: close: %v", err)
		}
	})
	return s
}

func giveUp(tb TB, err error) {
	tb.Helper()
	if errors.Is(err, ErrUnavailable) && os.Getenv("CI") == "" {
		tb.Skipf("%v", err)
	}
	tb.Fatalf("%v", err)
}
