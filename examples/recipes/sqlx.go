package recipes

import (
	"database/sql"

	"github.com/jmoiron/sqlx"
)

// SQLX returns db for sqlx. The name is that of lib/pq, by which sqlx knows that parameters
// are $1, $2; with pgx it is "pgx".
func SQLX(db *sql.DB) *sqlx.DB {
	return sqlx.NewDb(db, "postgres")
}
