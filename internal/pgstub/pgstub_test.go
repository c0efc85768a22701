package pgstub_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate/internal/pgstub"
)

// lib/pq takes it for a server: for queries of both kinds, transactions, prepared statements
// and pings.
func TestDriverIsContent(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), ".s.PGSQL.5432")} {
		t.Run(network, func(t *testing.T) {
			s := listen(t, network, address)
			db := open(t, s, "shop", "app")
			if err := db.PingContext(t.Context()); err != nil {
				t.Error(err)
			}
			var user string
			if err := db.QueryRowContext(t.Context(), "select current_user").Scan(&user); err != nil || user != "app" {
				t.Errorf("%q, %v", user, err)
			}
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			stmt, err := tx.PrepareContext(t.Context(), "select balance from account where id = $1 and kind = $2")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				var balance int
				if err := stmt.QueryRowContext(t.Context(), 7, "giro").Scan(&balance); err != nil || balance != 1 {
					t.Errorf("%d, %v", balance, err)
				}
			}
			if _, err := tx.ExecContext(t.Context(), "update account set balance = $1", 3); err != nil {
				t.Error(err)
			}
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
			if c := s.Count("", "app"); c.Logins != 1 || c.Sessions != 1 || c.Chosen != 1 || c.Queries < 6 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// Sessions are counted by database, and at their peak: one that its client has closed is none
// any more when the next one is let in, however late the server hears of it.
func TestPeaksAreExact(t *testing.T) {
	s := listen(t, "unix", filepath.Join(t.TempDir(), ".s.PGSQL.5432"))
	one, two := open(t, s, "one", "app_1"), open(t, s, "two", "app_2")
	one.SetMaxIdleConns(-1)
	for range 200 {
		if err := one.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		c, err := two.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c := s.Count("", "_2")
	if c.Logins != 203 || c.Chosen != 3 || len(c.Peaks) != 2 || c.Peaks[1] != 1 || c.Peaks[3] != 1 {
		t.Errorf("%+v", c)
	}
	if c := s.Count("t", ""); c.Logins != 3 || c.Sessions != 3 {
		t.Errorf("%+v", c)
	}
	s.Reset()
	if c := s.Count("two", ""); c.Logins != 0 || c.Sessions != 3 || c.Peaks[3] != 1 {
		t.Errorf("%+v", c)
	}
}

func listen(t *testing.T, network, address string) *pgstub.Server {
	t.Helper()
	s, err := pgstub.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func open(t *testing.T, s *pgstub.Server, database, user string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", s.DSN()+" dbname="+database+" user="+user)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
