package mysqlopener_test

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/mariadbtest"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"

	"github.com/sqlrotate/sqlrotate/mysqlopener"
)

// quiet is an opener whose driver's log is recorded.
func quiet(t *testing.T, server *mariadbtest.Server) (sqlrotate.Opener, *recorder) {
	t.Helper()
	cfg, err := mysqlopener.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	log := new(recorder)
	cfg.Logger = log
	opener, err := mysqlopener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return opener, log
}

// A session of a user who was dropped keeps what it could do. It is cut off when its
// credential ends, also in the middle of a transaction.
func droppedUserIsCutOff(t *testing.T, server *openertest.MariaDB) {
	if _, err := server.Admin().ExecContext(t.Context(), "create table if not exists there (n int)"); err != nil {
		t.Fatal(err)
	}
	opener, log := quiet(t, server.Server)
	source := sqlrotatetest.NewSource(create(t, server.Server, "early", "secret"))
	db, c := pool(t, sqlrotate.Config{
		Source: source, Opener: opener, RoleCheck: -1,
		Window: sqlrotate.Window{Overlap: 3 * time.Second, Lag: 500 * time.Millisecond, MaxInUse: time.Second},
	}, 5)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	write := func() error {
		_, err := tx.ExecContext(t.Context(), "insert into there values (1)")
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	if err := server.DropUser(t.Context(), "early"); err != nil {
		t.Fatal(err)
	}
	source.Set(create(t, server.Server, "late", "secret"))
	if err := db.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
	if err := write(); err != nil {
		t.Errorf("the session has lost its rights: %v: say so in the documentation", err)
	}
	if err := server.AwaitSessions(t.Context(), "early", 0); err != nil {
		t.Errorf("the session lives on: %v; %+v", err, c.Stats())
	}
	if err := write(); !errors.Is(err, mysql.ErrInvalidConn) && !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("a statement after the end: %v", err)
	}
	if stats := c.Stats(); stats.Outlived != 1 {
		t.Errorf("%+v", stats)
	}
	if said := log.String(); said != "" {
		t.Errorf("the driver's log: %s", said)
	}
}

// A user who is dropped while its credential is in use counts as refused soon, though its
// sessions go on: one of them is asked, or else a login tells. Of several users at least one
// is told by a session.
func droppedUserIsNoticed(t *testing.T, server *openertest.MariaDB) {
	opener, _ := quiet(t, server.Server)
	codes, total := map[string]int{}, 0
	for ; codes["1141"] == 0 && total < 20; total++ {
		cred := create(t, server.Server, fmt.Sprint("gone", total), "secret")
		db, c := pool(t, sqlrotate.Config{
			Source: sqlrotate.StaticSource(cred), Opener: opener, Window: sqlrotate.InPlace(), RoleCheck: 50 * time.Millisecond,
		}, 1)
		if err := db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := server.DropUser(t.Context(), cred.Username); err != nil {
			t.Fatal(err)
		}
		wait(t, "a refusal", func() bool {
			if err := db.PingContext(t.Context()); err != nil { // a pool that nobody uses is not asked
				t.Fatal(err)
			}
			return c.Stats().RefusalCode != ""
		})
		codes[c.Stats().RefusalCode]++
	}
	if codes["1141"] == 0 || codes["1141"]+codes["1045"] != total {
		t.Errorf("refusals by their codes: %v", codes)
	}
}

// A server that has no room for one session more than the pool has: a login that finds it
// full waits for the session that is just going, and no query fails.
func TestServerThatIsFull(t *testing.T) {
	t.Parallel()
	const size = 10
	server := mariadbtest.New(t, mariadbtest.Options{MaxConnections: size})
	if err := ledger.Create(t.Context(), server.Admin()); err != nil {
		t.Fatal(err)
	}
	opener, _ := quiet(t, server)
	source := sqlrotatetest.NewSource(create(t, server, "app0", "secret"))
	db, c := pool(t, sqlrotate.Config{
		Source: source, Opener: opener, DrainTime: time.Second,
		Window: sqlrotate.Window{Overlap: 8 * time.Second, Lag: -1, MaxInUse: 2 * time.Second},
	}, size)
	work := ledger.Start(db, ledger.Options{Workers: 2 * size, Think: time.Millisecond, Placeholder: "?"})
	wait(t, "operations", func() bool { return work.Done() > 500 })
	source.Set(create(t, server, "app1", "secret"))
	wait(t, "the old user's sessions are gone", func() bool {
		n, err := server.Sessions(t.Context(), "app0")
		return err == nil && n == 0
	})
	work.Stop()
	for _, f := range work.Failures() {
		t.Errorf("an operation failed: %v", f.Err)
	}
	if stats := c.Stats(); stats.Failed == 0 {
		t.Errorf("no login found the server full: nothing is shown: %+v", stats)
	}
}
