package sqlrotate_test

import (
	"fmt"

	"github.com/DATA-DOG/go-sqlmock"

	"github.com/sqlrotate/sqlrotate"
)

// A service that takes a Connector can be tested without a database: sqlmock goes
// behind the connector like any other driver.
func ExampleFromDriver_sqlmock() {
	mockDB, mock, err := sqlmock.NewWithDSN("example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mockDB.Close()
	mock.ExpectQuery("select name from users").WillReturnRows(sqlmock.NewRows([]string{"name"}).AddRow("ada"))

	c, err := sqlrotate.New(sqlrotate.Config{
		Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("s3cret")}),
		Opener: sqlrotate.FromDriver(mockDB.Driver(), func(sqlrotate.Credential) string { return "example" }),
		Window: sqlrotate.InPlace(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	db := sqlrotate.OpenDB(c)

	var name string
	err = db.QueryRow("select name from users").Scan(&name)
	fmt.Println(name, err, mock.ExpectationsWereMet())
	// Output: ada <nil> <nil>
}
