// The applications: three ways to open a pool over the login in the agent's file.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
)

// Names of the applications, which pg_stat_activity knows them by.
const (
	rotating = "sqlrotate"
	fixed    = "fixed"
	reading  = "reading"
)

// application is a pool and what its user puts it through.
type application struct {
	name  string
	load  load
	stats func() sqlrotate.Stats // nil for plain lib/pq
	close func()
}

// place is what an application is told about its database: everything but the login.
type place struct{ dsn, file string }

func (p place) named(application string) string {
	return p.dsn + " application_name=" + application
}

// open opens the applications and logs them in with all of their connections. What
// it returns is to be closed in any case.
func (d demo) open(ctx context.Context, p place, first login) ([]*application, error) {
	var apps []*application
	for _, open := range []func(place, login) (*application, error){d.openRotating, d.openFixed, d.openReading} {
		app, err := open(p, first)
		if err != nil {
			return apps, err
		}
		apps = append(apps, app)
		app.load.workers = d.workers
		db := app.load.db
		db.SetMaxOpenConns(d.connections)
		db.SetMaxIdleConns(d.connections)
		if err := fill(ctx, db, d.connections); err != nil {
			return apps, fmt.Errorf("the first logins of %s: %w", app.name, err)
		}
	}
	return apps, nil
}

// fill logs n connections in, and gives them to the pool.
func fill(ctx context.Context, db *sql.DB, n int) error {
	for range n {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
	}
	return nil
}

func (d demo) openRotating(p place, _ login) (*application, error) {
	quiet := slog.New(slog.DiscardHandler)
	source, err := sqlrotate.NewFileSource(p.file, sqlrotate.FileOptions{Logger: quiet})
	if err != nil {
		return nil, err
	}
	postgres, err := sqlrotate.LibPQ(p.named(rotating))
	if err != nil {
		_ = source.Close()
		return nil, err
	}
	c, err := sqlrotate.New(sqlrotate.Config{Source: source, Opener: postgres, Window: d.window(), Logger: quiet})
	if err != nil {
		_ = source.Close()
		return nil, err
	}
	db := sqlrotate.OpenDB(c)
	return &application{rotating, load{db: db}, c.Stats, func() { _, _ = db.Close(), source.Close() }}, nil
}

// openFixed does what everybody does who has never heard of rotation.
func (d demo) openFixed(p place, first login) (*application, error) {
	db, err := sql.Open("postgres", fmt.Sprintf("%s user=%s password=%s", p.named(fixed), first.Username, first.Password))
	if err != nil {
		return nil, err
	}
	return &application{fixed, load{db: db}, nil, func() { _ = db.Close() }}, nil
}

// openReading does the first half of what a rotation needs: whoever logs in does so
// with the latest login.
func (d demo) openReading(p place, _ login) (*application, error) {
	db := sql.OpenDB(fileConnector{p})
	db.SetConnMaxLifetime(d.lifetime)
	return &application{reading, load{db: db}, nil, func() { _ = db.Close() }}, nil
}

type fileConnector struct{ place }

func (c fileConnector) Connect(ctx context.Context) (driver.Conn, error) {
	content, err := os.ReadFile(c.file)
	if err != nil {
		return nil, err
	}
	var latest login
	if err := json.Unmarshal(content, &latest); err != nil {
		return nil, err
	}
	connector, err := pq.NewConnector(fmt.Sprintf("%s user=%s password=%s", c.named(reading), latest.Username, latest.Password))
	if err != nil {
		return nil, err
	}
	return connector.Connect(ctx)
}

func (fileConnector) Driver() driver.Driver { return &pq.Driver{} }
