package difftest

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// A string that connects to something is read, or refused: it never is the password.
func TestAConnectionStringIsNoPassword(t *testing.T) {
	seed := seedOf(t, 1)
	r := rand.New(rand.NewPCG(seed, 2))
	read := 0
	for range 40_000 {
		l := login{pick(r, usernames()).make(r), pick(r, passwords()).make(r)}
		if r.IntN(2) == 0 {
			l = login{"app", chars(r, alnum, 12)}
		}
		if l.user == "" || l.password == "" {
			continue
		}
		text := connection(r, l)
		for _, opt := range []credfile.Options{{Username: l.user}, {Username: l.user, Format: credfile.FormatPassword}} {
			got, err := credfile.Parse([]byte(text), opt)
			switch {
			case err != nil:
			case got.Format == credfile.FormatPassword:
				t.Fatalf("%q is the password (format %q)", text, opt.Format)
			default:
				read++
			}
		}
	}
	if read == 0 {
		t.Error("none was read")
	}
}

// connection returns a string that a driver connects with, though perhaps not one of
// PostgreSQL, and not always a well-formed one.
func connection(r *rand.Rand, l login) string {
	quote := func(s string) string {
		if strings.ContainsAny(s, ` \'`) || r.IntN(3) == 0 {
			return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
		}
		return s
	}
	at := percent(l.user) + ":" + percent(l.password) + "@"
	switch r.IntN(4) {
	case 0:
		scheme := pick(r, []string{"postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2", "POSTGRES", "pgx", "cockroachdb", "mysql", "amqp", "jdbc:postgresql", "redshift"})
		return scheme + "://" + pick(r, []string{at + "db:5432/app", at + "/app?host=/run", at + "db", "db/app?user=" + percent(l.user) + "&password=" + percent(l.password), "db/app?sslmode=require&password=" + percent(l.password) + "&user=" + percent(l.user)})
	case 1:
		pairs := []string{"user=" + quote(l.user), "password=" + quote(l.password)}
		for _, p := range []string{
			"host=db", "hostaddr=10.0.0.1", "port=5432", "dbname=app", "keepalives=1", "sslmode=verify-full", "sslnegotiation=direct", "channel_binding=require", "connect_timeout=3", "application_name=x", "options='-c x=1'",
			"fallback_application_name=y", "client_encoding=UTF8", "target_session_attrs=any", "gssencmode=disable", "krbsrvname=p", "require_auth=scram-sha-256", "sslrootcert=system", "tcp_user_timeout=1", "load_balance_hosts=random",
			"min_protocol_version=3.0", "binary_parameters=yes", "pool_max_conns=4", "search_path=a", "default_query_exec_mode=exec", "statement_cache_capacity=9", "timezone=UTC", "passfile=/x", "service=s", "replication=database",
		} {
			if r.IntN(6) == 0 {
				pairs = append(pairs, p)
			}
		}
		r.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		return strings.Join(pairs, pick(r, []string{" ", "  ", "\t"}))
	case 2:
		return pick(r, []string{"Server=db;Port=5432;User Id=", "Host=db;Username=", "Data Source=db;uid=", "User="}) + l.user +
			pick(r, []string{";Password=", ";Pwd=", "; password = "}) + l.password + pick(r, []string{"", ";", ";Database=app;SSL Mode=Require"})
	default:
		return at + pick(r, []string{"tcp(db:3306)/app", "unix(/run/sock)/app", "tcp(db)/"})
	}
}
