module github.com/sqlrotate/sqlrotate/mysqlopener

go 1.25.0

require (
	github.com/go-sql-driver/mysql v1.10.1
	github.com/sqlrotate/sqlrotate v0.1.0
)

require (
	filippo.io/edwards25519 v1.2.0 // indirect
	github.com/fsnotify/fsnotify v1.10.1 // indirect
	github.com/lib/pq v1.12.3 // indirect
	golang.org/x/sys v0.13.0 // indirect
)
