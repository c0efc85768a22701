package sqlrotate_test

import (
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// overLibPQ is lib/pq's opener with a server of its own.
func overLibPQ(t *testing.T, o pgtest.Options) openertest.Suite {
	t.Helper()
	server := pgtest.New(t, o)
	opener, err := sqlrotate.LibPQ(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	return openertest.Suite{Database: openertest.OnPostgreSQL(t, server), Opener: opener, CutOff: openertest.CutOffSaysWhy}
}

func TestBehaviour(t *testing.T) {
	t.Attr("needs", "quiet")
	suite := overLibPQ(t, openertest.QuickLogins())
	openertest.Together(func(b openertest.Behaviour) {
		t.Run(b.Name, func(t *testing.T) { b.Check(t, suite) })
	})
}

// Twenty connections, and a rotation every two seconds.
func TestSoakRotations(t *testing.T) {
	t.Attr("needs", "quiet")
	openertest.Rotations(20, openertest.SoakFor(t, 3*time.Second)).Check(t, overLibPQ(t, pgtest.Options{}))
}
