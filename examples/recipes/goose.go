package recipes

import (
	"context"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/sqlrotate/sqlrotate"
)

// Goose applies migrations, in a pool of their own. Goose keeps one connection for all of
// them, and while it waits for another process's: longest, some seconds at least, is how long
// that may take, and cfg, the application's, must have an overlap that leaves room for it.
// sqlrotate.New says so if it hasn't.
func Goose(ctx context.Context, cfg sqlrotate.Config, longest time.Duration, migrations fs.FS) error {
	cfg.Window.MaxInUse = longest
	c, err := sqlrotate.New(cfg)
	if err != nil {
		return err
	}
	db := sqlrotate.OpenDB(c)
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, uint64(longest.Seconds()))) // else 5 min
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations, goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}
