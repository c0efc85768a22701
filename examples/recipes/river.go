package recipes

import (
	"database/sql"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
)

// River returns a client of river that keeps its jobs in db. Over database/sql it polls for
// jobs, every Config.FetchPollInterval, and needs no connection that listens.
func River(db *sql.DB, cfg *river.Config) (*river.Client[*sql.Tx], error) {
	return river.NewClient(riverdatabasesql.New(db), cfg)
}
