package containers

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/docker/go-connections/nat"
	_ "github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
	"github.com/testcontainers/testcontainers-go/wait"
)

// Ten rotations under load, on every PostgreSQL that can be had in a container: no
// query fails, and no session is open when its role is dropped.
func TestRotation(t *testing.T) {
	t.Attr("needs", "quiet")
	for _, name := range images(t) {
		t.Run(name, func(t *testing.T) { testRotation(t, name) })
	}
}

func testRotation(t *testing.T, name string) {
	password := rand.Text()
	container, err := postgres.Run(t.Context(), name,
		postgres.WithUsername("admin"), postgres.WithPassword(password), postgres.WithDatabase("app"),
		testcontainers.WithWaitStrategy(wait.ForSQL("5432/tcp", "postgres", func(host string, port nat.Port) string {
			return fmt.Sprintf("host=%s port=%s dbname=app user=admin password=%s sslmode=disable", host, port.Port(), password)
		})),
	)
	testcontainers.CleanupContainer(t, container)
	if err != nil {
		t.Fatal(err)
	}
	dsn, err := container.ConnectionString(t.Context(), "sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SQLROTATE_TEST_POSTGRES", dsn)
	server := pgtest.New(t, pgtest.Options{})
	if err := ledger.Create(t.Context(), server.Admin()); err != nil {
		t.Fatal(err)
	}

	path := filepath.Join(t.TempDir(), "db.json")
	roles := 0
	publish := func() string {
		t.Helper()
		roles++
		role, password := fmt.Sprintf("app_%d", roles), rand.Text()
		if err := server.CreateRole(t.Context(), role, password); err != nil {
			t.Fatal(err)
		}
		content, err := json.Marshal(map[string]string{"username": role, "password": password})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".tmp", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
		return role
	}
	current := publish()

	log := slog.New(slog.DiscardHandler)
	source, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	opener, err := sqlrotate.LibPQ(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	const overlap = 4 * time.Second
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: source, Opener: opener, Logger: log,
		Window: sqlrotate.Window{Overlap: overlap, Lag: 500 * time.Millisecond, MaxInUse: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	defer db.Close()
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	load := ledger.Start(db, ledger.Options{Workers: 20, Think: 2 * time.Millisecond})
	defer load.Stop()

	var revocations sync.WaitGroup
	defer revocations.Wait() // also if publish ends the test
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		old := current
		current = publish()
		revocations.Go(func() {
			<-time.After(overlap)
			if n, err := server.Sessions(t.Context(), old); n > 0 || err != nil {
				t.Attr("failure", "grave")
				t.Errorf("%d sessions of %s are open when it is revoked (%v)", n, old, err)
			}
			if err := server.RevokeRole(t.Context(), old); err != nil {
				t.Error(err)
			}
		})
	}
	revocations.Wait()
	load.Stop()
	if failures := load.Failures(); len(failures) > 0 {
		t.Errorf("%d of %d operations failed; first: %v", len(failures), load.Done(), failures[0].Err)
	}
	if err := load.Audit(t.Context(), server.Admin()); err != nil {
		t.Attr("failure", "grave")
		t.Error(err)
	}
	stats := c.Stats()
	if stats.Rotations != 10 || stats.Outlived > 0 || stats.Refused > 0 || load.Done() == 0 {
		t.Errorf("%d operations, %+v", load.Done(), stats)
	}
	t.Logf("%d operations, the slowest took %v; %d logins, %d connections retired because of a rotation",
		load.Done(), load.Slowest().Round(time.Millisecond), stats.Logins, stats.Closed[sqlrotate.CloseSuperseded])
}
