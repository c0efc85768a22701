// Package sqlrotate rotates a database login under a live *sql.DB.
package sqlrotate
