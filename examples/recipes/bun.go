package recipes

import (
	"database/sql"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
)

// Bun returns db for bun.
func Bun(db *sql.DB) *bun.DB {
	return bun.NewDB(db, pgdialect.New())
}
