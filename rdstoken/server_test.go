package rdstoken

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/tokentest"
)

// TestMain keeps the environment's PG variables out of the tests: lib/pq reads them.
func TestMain(m *testing.M) {
	pgtest.ClearEnvironment()
	os.Exit(m.Run())
}

// patience is how long a test waits for what takes a moment on a machine that keeps up.
const patience = time.Minute

// A real PostgreSQL asks at each login whether the password is a token that RDS takes, and
// the connector's logins have one: over TLS, under load, and through credentials that
// are revoked. What RDS doesn't take is refused, and said to be.
func TestLoginsAtAServer(t *testing.T) {
	rds, sts := newFakes(0)
	var logins, refused atomic.Int64
	var mu sync.Mutex
	tokens := map[string]bool{}
	hba := tokentest.Serve(t, username, func(token string) bool {
		if err := rds.check(token, time.Now()); err != nil {
			refused.Add(1)
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		tokens[token] = true
		logins.Add(1)
		return true
	})
	server := pgtest.New(t, pgtest.Options{TLS: true, HBA: []string{strings.Replace(hba, "host ", "hostssl ", 1), "host all all all scram-sha-256"}})
	if err := ledger.Create(t.Context(), server.Admin()); err != nil {
		t.Fatal(err)
	}
	if err := server.CreateRole(t.Context(), username, "of no use"); err != nil {
		t.Fatal(err)
	}
	open := func(opt Options, retry time.Duration) (*sqlrotate.Connector, func()) {
		t.Helper()
		opt.Cache.Logger = slog.New(slog.DiscardHandler)
		source, err := New(sts.config(), opt)
		if err != nil {
			t.Fatal(err)
		}
		opener, err := sqlrotate.LibPQ(server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		c, err := sqlrotate.New(sqlrotate.Config{
			Source: source, Opener: opener, Window: sqlrotate.LoginTokens(), ConnMaxLifetime: 200 * time.Millisecond,
			RetryTimeout: retry, Logger: opt.Cache.Logger,
		})
		if err != nil {
			t.Fatal(err)
		}
		return c, func() {
			_ = c.Close()
			_ = source.Close()
		}
	}

	c, end := open(Options{Endpoint: endpoint, Username: username}, patience)
	defer end()
	db := sqlrotate.OpenDB(c)
	defer db.Close()
	db.SetMaxOpenConns(4)
	load := ledger.Start(db, ledger.Options{Workers: 4, Think: 5 * time.Millisecond, Patience: 2 * patience})
	eventually := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("there are never %s", what)
			}
		}
	}
	eventually("ten logins", func() bool { return logins.Load() >= 10 })
	rds.revoke()
	before := logins.Load()
	eventually("ten logins with new credentials", func() bool { return logins.Load() >= before+10 })
	load.Stop()
	for _, f := range load.Failures() {
		t.Errorf("failed: %v", f.Err)
	}
	if err := load.Audit(t.Context(), server.Admin()); err != nil {
		t.Error(err)
	}
	mu.Lock()
	if refused.Load() == 0 || sts.issued.Load() != 2 || len(tokens) < 2 || len(tokens) > 4 {
		t.Errorf("%d tokens for %d logins, %d refused, %d times credentials", len(tokens), logins.Load(), refused.Load(), sts.issued.Load())
	}
	mu.Unlock()

	for what, opt := range map[string]Options{
		"an alias":     {Endpoint: "db.example.com:5432", Username: username},
		"another port": {Endpoint: strings.Replace(endpoint, "5432", "6432", 1), Username: username},
	} {
		c, end := open(opt, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := c.Connect(ctx)
		cancel()
		if err == nil {
			_ = conn.Close()
		}
		if e := (*sqlrotate.RefusedError)(nil); !errors.As(err, &e) || strings.Contains(err.Error(), "X-Amz") {
			t.Errorf("%s: %v", what, err)
		}
		end()
	}
}
