package sqlrotate_test

import (
	"log"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// The login is in a file that an agent keeps rewriting, and the old one lives on for
// ten minutes after each rotation.
func Example() { //nolint:testableexamples // it needs a server; that it compiles is what is tested
	src, err := sqlrotate.NewFileSource("/vault/secrets/db", sqlrotate.FileOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	pg, err := sqlrotate.Postgres("host=db dbname=app sslmode=verify-full")
	if err != nil {
		log.Fatal(err)
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: src,
		Opener: pg,
		Window: sqlrotate.Window{Overlap: 10 * time.Minute},
	})
	if err != nil {
		log.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	defer db.Close()
}
