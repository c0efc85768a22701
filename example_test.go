package sqlrotate_test

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"
	"testing"
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
	pg, err := sqlrotate.LibPQ("host=db dbname=app sslmode=verify-full")
	if err != nil {
		log.Fatal(err)
	}
	c, err := sqlrotate.New(sqlrotate.Config{
		Source: src,
		Opener: pg,
		Window: sqlrotate.Window{Overlap: 10 * time.Minute}, // how long the old login outlives its successor
	})
	if err != nil {
		log.Fatal(err)
	}
	db := sqlrotate.OpenDB(c) // a *sql.DB, yours but for SetConnMaxLifetime
	defer db.Close()
	if err := db.PingContext(context.Background()); err != nil { // the first login
		log.Fatal(err)
	}
}

// What README shows is the example above, which compiles.
func TestReadmeShowsTheExample(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	_, body, _ := strings.Cut(read("example_test.go"), "func Example() {")
	_, body, _ = strings.Cut(body, "\n")
	body, _, ok := strings.Cut(body, "\n}\n")
	if !ok {
		t.Fatal("there is no example")
	}
	body = strings.ReplaceAll("\n"+body, "\n\t", "\n")
	if !strings.Contains(read("README.md"), "```go"+body+"\n```") {
		t.Errorf("it does not show:%s", body)
	}
}

// A DSN for a driver that the connector doesn't know names the version of the login, too.
func ExampleApplicationName() {
	dsn := func(cred sqlrotate.Credential) string {
		u := url.URL{
			Scheme: "postgres", Host: "db", Path: "/app",
			User:     url.UserPassword(cred.Username, cred.Password.Reveal()),
			RawQuery: url.Values{"application_name": {sqlrotate.ApplicationName("billing", cred)}}.Encode(),
		}
		return u.String()
	}
	fmt.Println(dsn(sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("made-up")}))
	// Output: postgres://app:made-up@db/app?application_name=billing+sqlrotate%3Aa172cedc
}
