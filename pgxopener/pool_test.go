package pgxopener_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"

	"github.com/sqlrotate/sqlrotate/pgxopener"
)

// statements runs what a ledger wants on a pool.
func statements(pool *pgxopener.Pool) ledger.Run {
	return func(ctx context.Context, statements ...ledger.Statement) error {
		if len(statements) == 1 {
			_, err := pool.Exec(ctx, statements[0].SQL, statements[0].Args...)
			return err
		}
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			for _, s := range statements {
				if _, err := tx.Exec(ctx, s.SQL, s.Args...); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func TestPool(t *testing.T) {
	server := openertest.New(t)
	if err := ledger.Create(t.Context(), server.Admin()); err != nil {
		t.Fatal(err)
	}
	t.Run("rotations with TLS", func(t *testing.T) { poolRotates(t, server, "tls", "") })
	t.Run("rotations without", func(t *testing.T) { poolRotates(t, server, "plain", "sslmode=disable") })
}

// A role is replaced every 1.5 s and dropped, as Vault does it, when its overlap is
// over, under an application that works on.
func poolRotates(t *testing.T, server *openertest.Server, prefix, options string) {
	t.Parallel()
	const overlap = 4 * time.Second
	role := func(n int) sqlrotate.Credential {
		cred := sqlrotate.Credential{Username: fmt.Sprint(prefix, n), Password: sqlrotate.NewSecret(fmt.Sprint("secret", n))}
		if err := server.CreateRole(t.Context(), cred.Username, cred.Password.Reveal()); err != nil {
			t.Fatal(err)
		}
		return cred
	}
	meter := stall.Watch(t)
	meter.AskServer(server.Admin())
	began := time.Now()
	source := sqlrotatetest.NewSource(role(0))
	poolCfg, err := pgxopener.ParsePool(server.DSN() + " pool_max_conns=10 " + options)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxopener.NewPool(t.Context(), poolCfg, sqlrotate.Config{
		Source: source,
		Window: sqlrotate.Window{Overlap: overlap, Lag: 500 * time.Millisecond, MaxInUse: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	work := ledger.StartRun(statements(pool), ledger.Options{Workers: 10, Think: time.Millisecond})

	const rotations = 3
	var revocations sync.WaitGroup
	tick := time.NewTicker(1500 * time.Millisecond)
	defer tick.Stop()
	for n := range rotations {
		<-tick.C
		source.Set(role(n + 1))
		revocations.Go(func() {
			old := fmt.Sprint(prefix, n)
			<-time.After(overlap)
			if sessions, err := server.Sessions(context.Background(), old); err != nil || sessions > 0 {
				meter.Blame(began, time.Now(), 250*time.Millisecond, "%d sessions of %s when it is revoked (%v); %+v", sessions, old, err, pool.Connector().Stats())
			}
			if err := server.RevokeRole(context.Background(), old); err != nil {
				t.Error(err)
			}
		})
	}
	revocations.Wait()
	work.Stop()
	stats := pool.Connector().Stats()
	for _, f := range work.Failures() {
		meter.Blame(began, time.Now(), 250*time.Millisecond, "an operation failed: %v", f.Err)
	}
	if stats.Rotations != rotations || stats.Refused > 0 || stats.Closed[sqlrotate.CloseOther] > 0 {
		t.Errorf("%+v", stats)
	}
	if stats.Outlived > 0 {
		meter.Blame(began, time.Now(), 250*time.Millisecond, "%d connections outlived their credential", stats.Outlived)
	}
	pool.Close()
	for _, v := range pool.Connector().Stats().Versions {
		if v.Open > 0 {
			t.Errorf("the books have sessions after Close: %+v", v)
		}
	}
	meter.Eventually(10*time.Second, "the sessions are over", func() bool {
		n, err := server.Sessions(context.Background(), fmt.Sprint(prefix, rotations))
		return err == nil && n == 0
	}, func() string { return fmt.Sprintf("%+v", pool.Connector().Stats()) })
	t.Logf("%d operations, the slowest %v; %+v", work.Done(), work.Slowest(), stats)
}
