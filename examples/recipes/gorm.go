package recipes

import (
	"database/sql"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// Gorm returns db for gorm. With lib/pq the driver's name is "postgres": without one, gorm's
// migrator takes the connections for pgx's. With pgx leave it empty.
func Gorm(db *sql.DB, driverName string) (*gorm.DB, error) {
	return gorm.Open(postgres.New(postgres.Config{Conn: db, DriverName: driverName}))
}
