package pgxopener_test

import (
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"

	"github.com/sqlrotate/sqlrotate/pgxopener"
)

// What it costs to acquire and to release a connection of a pool that rotates, beside
// pgxpool alone.
func BenchmarkAcquire(b *testing.B) {
	server := pgtest.New(b, pgtest.Options{})
	if err := server.CreateRole(b.Context(), "bench", "secret"); err != nil {
		b.Fatal(err)
	}
	cfg, err := pgxopener.ParsePool(server.DSN())
	if err != nil {
		b.Fatal(err)
	}
	rotating, err := pgxopener.NewPool(b.Context(), cfg, sqlrotate.Config{
		Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "bench", Password: sqlrotate.NewSecret("secret")}),
		Window: sqlrotate.InPlace(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(rotating.Close)
	cfg.ConnConfig.User, cfg.ConnConfig.Password = "bench", "secret"
	alone, err := pgxpool.NewWithConfig(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(alone.Close)
	for name, pool := range map[string]*pgxpool.Pool{"pgxpool": alone, "rotating": rotating.Pool} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				conn, err := pool.Acquire(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				conn.Release()
			}
		})
	}
}
