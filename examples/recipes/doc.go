// Package recipes shows how to use what people put on top of database/sql with sqlrotate:
// a file for each, to copy. docs/recipes.md has them, and the tests run each of them on a
// real PostgreSQL while logins are rotated.
//
// Except for migrations and tracing they take a *sql.DB that sqlrotate.OpenDB has opened.
//
// It is a module of its own, as these are dependencies that nobody needs all of.
package recipes

// The code in ent is written by
//
//	go run -mod=mod entgo.io/ent/cmd/ent@v0.14.5 generate ./ent/schema
//
// and that in queries by sqlc generate, v1.31.1.
