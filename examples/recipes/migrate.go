package recipes

import (
	"errors"
	"io/fs"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/sqlrotate/sqlrotate"
)

// Migrate applies migrations with golang-migrate, in a pool of their own: WithInstance keeps
// one connection until it is closed. longest is how long they may take, and cfg, the
// application's, must have an overlap that leaves room for it. sqlrotate.New says so if it
// hasn't. (With pgx it is database/pgx/v5 in place of database/postgres.)
func Migrate(cfg sqlrotate.Config, longest time.Duration, migrations fs.FS) error {
	cfg.Window.MaxInUse = longest
	c, err := sqlrotate.New(cfg)
	if err != nil {
		return err
	}
	source, err := iofs.New(migrations, ".")
	if err != nil {
		return err
	}
	db := sqlrotate.OpenDB(c)
	defer db.Close()
	driver, err := postgres.WithInstance(db, &postgres.Config{StatementTimeout: longest})
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("iofs", source, "postgres", driver)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Up(); !errors.Is(err, migrate.ErrNoChange) {
		return err
	}
	return nil
}
