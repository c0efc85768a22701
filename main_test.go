package sqlrotate

import (
	"os"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// TestMain keeps the environment's PG variables out of the tests: lib/pq reads them.
func TestMain(m *testing.M) {
	pgtest.ClearEnvironment()
	os.Exit(m.Run())
}
