package recipes

import (
	"database/sql"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/sqlrotate/sqlrotate/examples/recipes/ent" // yours
)

// Ent returns db for ent's generated client.
func Ent(db *sql.DB) *ent.Client {
	return ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db)))
}
