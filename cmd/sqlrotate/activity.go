// What a server says of the sessions of a role.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
)

// viewTimeout bounds one look at one server.
const viewTimeout = 10 * time.Second

// sessionsByVersion is the query of docs/operate.md: who is still on which version.
const sessionsByVersion = `select coalesce(usename, '(dropped)') as role,
       substring(application_name from '.*sqlrotate:([0-9a-f]{8})') as version,
       count(*) as sessions,
       min(backend_start) as oldest,
       string_agg(distinct host(client_addr), ', ') as clients
from pg_stat_activity
where usesysid is not null
  and coalesce(backend_type, 'client backend') in ('client backend', 'walsender')
group by usesysid, 1, 2
order by 1, 4`

// aboutRole tells of the role $1, and of who asks. What a server hides of sessions, it
// hides from whoever is neither in pg_read_all_stats nor in the role.
const aboutRole = `select coalesce(r.oid, 0), coalesce(r.rolcanlogin, false),
       case when isfinite(r.rolvaliduntil) then r.rolvaliduntil end,
       session_user, current_user, pg_has_role('pg_read_all_stats', 'usage') or coalesce(pg_has_role(r.oid, 'usage'), false),
       coalesce((select min(rolname::text) from pg_roles where lower(rolname) = lower($1) and rolname <> $1), ''),
       current_setting('max_identifier_length')::int, pg_is_in_recovery(),
       (select count(*) from pg_stat_replication s where s.state in ('startup', 'catchup', 'streaming')
          and not exists (select from pg_replication_slots l where l.active_pid = s.pid and l.slot_type = 'logical'))
from (select) one left join pg_roles r on r.rolname = $1`

// processesOf lists the processes of the role $1, which has had the oids $2, and those of
// dropped roles.
const processesOf = `select pid, usesysid, usename is null, coalesce(datname, ''), coalesce(application_name, ''),
       coalesce(substring(application_name from '.*sqlrotate:([0-9a-f]{8})'), ''),
       coalesce(host(client_addr), ''), coalesce(state, ''), coalesce(backend_type, ''), backend_start,
       extract(epoch from clock_timestamp() - backend_start)
from pg_stat_activity
where usename = $1 or usesysid = any($2) or usesysid is not null and usename is null
order by backend_start, pid`

const preparedOf = `select gid, database, prepared from pg_prepared_xacts where owner = $1 order by prepared`

// session is a session of the role.
type session struct {
	Server      string    `json:"server"`
	PID         int       `json:"pid"`
	Database    string    `json:"database"`
	Application string    `json:"application_name"`
	Version     string    `json:"version"` // that application_name has; empty: none
	Client      string    `json:"client"`  // address; empty: a local socket
	State       string    `json:"state"`
	Backend     string    `json:"backend_type"`
	Start       time.Time `json:"backend_start"`
	Age         float64   `json:"age_seconds"`
}

// prepared is a prepared transaction of the role, which waits for whoever ends it.
type prepared struct {
	Server   string    `json:"server"`
	GID      string    `json:"gid"`
	Database string    `json:"database"`
	Prepared time.Time `json:"prepared"`
}

// view is what one look at a server finds.
type view struct {
	asker      string // the role that asks
	exists     bool
	canLogin   bool
	validUntil *time.Time // nil: for ever
	standby    bool       // the server is one
	standbys   int        // that the server has
	sessions   []session
	prepared   []prepared
	background []string // kinds of processes that run as the role and have not logged in
	strangers  int      // sessions of dropped roles of which nothing says whose they are
}

// undecidable is an error that another look would only repeat.
type undecidable struct{ error }

func (u undecidable) Unwrap() error { return u.error }

// server is one that is looked at, through one connection.
type server struct {
	db    *sql.DB
	limit time.Duration  // of a look
	oids  map[int64]bool // that the role has had

	mu    sync.Mutex
	name  string    // the address that was dialled; empty: none was
	until time.Time // when what is read from the server and written to it fails
}

// newServer returns a server that isn't connected to yet. The login comes from source, or,
// if that is nil, from where libpq looks for it.
func newServer(dsn string, source sqlrotate.Source) (*server, error) {
	dsn = named(dsn)
	opener, err := sqlrotate.LibPQ(dsn) // it takes none with a password
	if err != nil {
		return nil, err
	}
	s := &server{limit: viewTimeout, oids: map[int64]bool{}}
	open := func(ctx context.Context) (driver.Conn, error) {
		cred, err := source.Credential(ctx)
		if err != nil {
			return nil, err
		}
		return opener.Open(ctx, cred, s.dial)
	}
	if source == nil {
		if os.Getenv("PGPASSWORD") != "" {
			return nil, errors.New("sqlrotate: PGPASSWORD is set, and the environment is no place for a password: give a file with -credential, or as PGPASSFILE")
		}
		cfg, err := pq.NewConfig(dsn)
		if err != nil {
			return nil, fmt.Errorf("sqlrotate: %s", strings.TrimPrefix(err.Error(), "pq: "))
		}
		open = func(ctx context.Context) (driver.Conn, error) {
			c, err := pq.NewConnectorConfig(cfg)
			if err != nil {
				return nil, err
			}
			c.Dialer(dialer(s.dial))
			conn, err := c.Connect(ctx)
			if err != nil {
				return nil, err // conn is not nil
			}
			return conn, nil
		}
	}
	s.db = sql.OpenDB(connectorFunc(open))
	s.db.SetMaxOpenConns(1)
	return s, nil
}

// named has sessions say what they are for, unless something else is said.
func named(dsn string) string {
	isURL := strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
	switch {
	case strings.Contains(dsn, "fallback_application_name"):
		return dsn
	case !isURL:
		return "fallback_application_name='sqlrotate drained' " + dsn
	case strings.Contains(dsn, "?"):
		return dsn + "&fallback_application_name=sqlrotate+drained"
	}
	return dsn + "?fallback_application_name=sqlrotate+drained"
}

// connectorFunc is a driver.Connector.
type connectorFunc func(context.Context) (driver.Conn, error)

func (f connectorFunc) Connect(ctx context.Context) (driver.Conn, error) { return f(ctx) }
func (connectorFunc) Driver() driver.Driver                              { return &pq.Driver{} }

// dialer makes a pq.Dialer of a DialFunc.
type dialer sqlrotate.DialFunc

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d(ctx, network, address)
}

// dial connects to the address that was dialled first: another server's sessions would be
// others.
func (s *server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	if s.name == "" {
		s.name = address
	}
	first := s.name
	s.mu.Unlock()
	if address != first {
		return nil, fmt.Errorf("it is not asked, because %s was, and each look must be at the same server: name each by a -dsn of its own", first)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return bounded{conn, s}, nil
}

// bounded is a connection that is used within a look. lib/pq leaves a query to a server
// that has stopped answering.
type bounded struct {
	net.Conn
	s *server
}

func (b bounded) Read(p []byte) (int, error) {
	_ = b.SetReadDeadline(b.s.deadline())
	return b.Conn.Read(p)
}

func (b bounded) Write(p []byte) (int, error) {
	_ = b.SetWriteDeadline(b.s.deadline())
	return b.Conn.Write(p)
}

func (s *server) deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until
}

func (s *server) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name == "" {
		return "the server"
	}
	return s.name
}

// within runs f in a transaction that only reads, and bounds it.
func (s *server) within(ctx context.Context, f func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	s.mu.Lock()
	s.until, _ = ctx.Deadline()
	s.mu.Unlock()
	err := func() error {
		tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("set local statement_timeout = %d", s.limit.Milliseconds())); err != nil {
			return err
		}
		return f(ctx, tx)
	}()
	var state interface{ SQLState() string }
	var late net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &state) && state.SQLState() == "42501":
		return undecidable{fmt.Errorf("%v: %w", s, err)}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return fmt.Errorf("%v: no answer within %v", s, s.limit)
	}
	return fmt.Errorf("%v: %w", s, err)
}

// look looks at the sessions of a role. tags are the names of versions by which a session is
// known to be the role's after it was dropped.
func (s *server) look(ctx context.Context, role string, tags []string) (v view, err error) {
	err = s.within(ctx, func(ctx context.Context, tx *sql.Tx) error {
		v = view{}
		if err := s.lookAtRole(ctx, tx, role, &v); err != nil {
			return err
		}
		if err := s.lookAtSessions(ctx, tx, role, tags, &v); err != nil {
			return err
		}
		return s.lookAtPrepared(ctx, tx, role, &v)
	})
	return v, err
}

func (s *server) lookAtRole(ctx context.Context, tx *sql.Tx, role string, v *view) error {
	var (
		oid, longest     int64
		as, alike        string
		permitted, known = false, len(s.oids) > 0
	)
	if err := tx.QueryRowContext(ctx, aboutRole, role).Scan(&oid, &v.canLogin, &v.validUntil, &v.asker, &as, &permitted, &alike,
		&longest, &v.standby, &v.standbys); err != nil {
		return err
	}
	switch {
	case !permitted:
		return undecidable{fmt.Errorf("the role %q may not see the sessions of others: grant it pg_read_all_stats or pg_monitor", as)}
	case int64(len(role)) > longest:
		return undecidable{fmt.Errorf("no role has a name of %d bytes: the server cuts it to %d", len(role), longest)}
	case oid == 0 && !known && alike != "":
		return undecidable{fmt.Errorf("there is no role %q, but there is %q", role, alike)}
	}
	if v.exists = oid != 0; v.exists {
		s.oids[oid] = true
	}
	return nil
}

func (s *server) lookAtSessions(ctx context.Context, tx *sql.Tx, role string, tags []string, v *view) error {
	oids := pq.Int64Array{}
	for oid := range s.oids {
		oids = append(oids, oid)
	}
	rows, err := tx.QueryContext(ctx, processesOf, role, oids)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		one := session{Server: s.String()}
		var (
			oid     int64
			dropped bool
			start   sql.NullTime
			age     sql.NullFloat64
		)
		if err := rows.Scan(&one.PID, &oid, &dropped, &one.Database, &one.Application, &one.Version, &one.Client, &one.State,
			&one.Backend, &start, &age); err != nil {
			return err
		}
		one.Start, one.Age = start.Time, age.Float64
		switch {
		case dropped && !s.oids[oid] && !slices.Contains(tags, one.Version):
			v.strangers++
		case slices.Contains([]string{"client backend", "walsender", "parallel worker", ""}, one.Backend):
			v.sessions = append(v.sessions, one) // also if it is hidden what it is
		default:
			v.background = append(v.background, one.Backend)
		}
	}
	return rows.Err()
}

func (s *server) lookAtPrepared(ctx context.Context, tx *sql.Tx, role string, v *view) error {
	rows, err := tx.QueryContext(ctx, preparedOf, role)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		one := prepared{Server: s.String()}
		if err := rows.Scan(&one.GID, &one.Database, &one.Prepared); err != nil {
			return err
		}
		v.prepared = append(v.prepared, one)
	}
	return rows.Err()
}

// versionSessions are the sessions of a role that carry the same name of a version.
type versionSessions struct {
	Server   string     `json:"server"`
	Role     string     `json:"role"`
	Version  string     `json:"version"` // empty: they carry none
	Sessions int        `json:"sessions"`
	Oldest   *time.Time `json:"oldest_backend_start"` // nil: hidden from whoever asks
	Clients  string     `json:"clients"`              // addresses, but for local sockets
}

// list lists the sessions of all roles by version. hidden says that since when and from
// where is not shown to whoever asks.
func (s *server) list(ctx context.Context) (found []versionSessions, hidden bool, err error) {
	err = s.within(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, "select not pg_has_role('pg_read_all_stats', 'usage')").Scan(&hidden); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, sessionsByVersion)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			one := versionSessions{Server: s.String()}
			var version, clients sql.NullString
			if err := rows.Scan(&one.Role, &version, &one.Sessions, &one.Oldest, &clients); err != nil {
				return err
			}
			one.Version, one.Clients = version.String, clients.String
			found = append(found, one)
		}
		return rows.Err()
	})
	return found, hidden, err
}
