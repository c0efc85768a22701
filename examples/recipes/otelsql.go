package recipes

import (
	"database/sql"

	"github.com/XSAM/otelsql"
	"github.com/sqlrotate/sqlrotate"
	"go.opentelemetry.io/otel/attribute"
)

// OpenTraced opens a pool over c whose calls are traced by github.com/XSAM/otelsql. As
// sqlrotate.OpenDB hasn't opened it, c is told to manage it.
func OpenTraced(c *sqlrotate.Connector) *sql.DB {
	db := otelsql.OpenDB(c, otelsql.WithAttributes(attribute.String("db.system.name", "postgresql")))
	c.Manage(db)
	return db
}
