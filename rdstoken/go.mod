module github.com/sqlrotate/sqlrotate/rdstoken

go 1.25.0

require (
	github.com/aws/aws-sdk-go-v2 v1.48.0
	github.com/aws/aws-sdk-go-v2/feature/rds/auth v1.7.12
	github.com/sqlrotate/sqlrotate v0.1.0
)

require (
	github.com/aws/smithy-go v1.28.9 // indirect
	github.com/fsnotify/fsnotify v1.10.1 // indirect
	github.com/lib/pq v1.12.3 // indirect
	golang.org/x/sys v0.13.0 // indirect
)
