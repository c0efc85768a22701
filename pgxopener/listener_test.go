package pgxopener_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/listenertest"
	"github.com/sqlrotate/sqlrotate/internal/openertest"

	"github.com/sqlrotate/sqlrotate/pgxopener"
)

func listens(t *testing.T, server *openertest.Server) {
	for _, c := range listenertest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c.Run(t, server.Server, open)
		})
	}
	t.Run("notifications that somebody else takes", func(t *testing.T) {
		t.Parallel()
		takesNotifications(t, server)
	})
}

// With an OnNotification there is nothing to listen for.
func takesNotifications(t *testing.T, server *openertest.Server) {
	if err := server.CreateRole(t.Context(), "taken", "hunter2hunter2"); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgxopener.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	o, err := pgxopener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WaitForNotification(t.Context(), nil); err == nil {
		t.Error("a connection of somebody else's can wait")
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "taken", Password: sqlrotate.NewSecret("hunter2hunter2")}),
		Opener: o, Window: sqlrotate.InPlace(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := sqlrotate.NewListener(c, sqlrotate.ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Listen(context.Background(), "jobs"); err == nil || !strings.Contains(err.Error(), "OnNotification") {
		t.Errorf("Listen: %v", err)
	}
}
