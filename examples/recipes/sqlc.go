package recipes

import (
	"database/sql"

	"github.com/sqlrotate/sqlrotate/examples/recipes/queries" // yours
)

// SQLC returns db for what sqlc generates with sql_package: database/sql, its default.
func SQLC(db *sql.DB) *queries.Queries {
	return queries.New(db)
}
