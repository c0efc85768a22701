package recipes

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/sqlrotate/sqlrotate"
	"go.nhat.io/otelsql"
)

// OpenTracedByNhat opens a pool over c whose calls are traced by go.nhat.io/otelsql, which
// wraps drivers only. As sqlrotate.OpenDB hasn't opened it, c is told to manage it.
func OpenTracedByNhat(c *sqlrotate.Connector) (*sql.DB, error) {
	traced, ok := otelsql.Wrap(asDriver{c}, otelsql.TraceQueryWithoutArgs()).(driver.DriverContext)
	if !ok {
		return nil, errors.New("otelsql hides what the driver can do")
	}
	connector, err := traced.OpenConnector("")
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	c.Manage(db)
	return db, nil
}

// asDriver is a driver that has one connector, whatever the DSN.
type asDriver struct{ c *sqlrotate.Connector }

func (d asDriver) Open(string) (driver.Conn, error) { return d.c.Connect(context.Background()) }

func (d asDriver) OpenConnector(string) (driver.Connector, error) { return d.c, nil }
