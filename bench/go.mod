module github.com/sqlrotate/sqlrotate/bench

go 1.25.0

require (
	github.com/jackc/pgx/v5 v5.12.0
	github.com/lib/pq v1.12.3
	github.com/sqlrotate/sqlrotate v0.1.0
	github.com/sqlrotate/sqlrotate/pgxopener v0.1.0
)

require (
	github.com/fsnotify/fsnotify v1.10.1 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/xdg-go/stringprep v1.0.4 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.13.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace (
	github.com/sqlrotate/sqlrotate => ../
	github.com/sqlrotate/sqlrotate/pgxopener => ../pgxopener
)
