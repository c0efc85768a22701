package mysqlopener_test

import (
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/mariadbtest"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
)

// overMySQL is the opener with a server of its own, and the driver's log.
func overMySQL(t *testing.T) (openertest.Suite, *recorder) {
	t.Helper()
	server := mariadbtest.New(t, mariadbtest.Options{})
	opener, log := quiet(t, server)
	return openertest.Suite{Database: openertest.OnMariaDB(t, server), Opener: opener, CutOff: openertest.CutOffIsMute}, log
}

func TestBehaviour(t *testing.T) {
	t.Attr("needs", "quiet")
	suite, _ := overMySQL(t)
	openertest.Together(func(b openertest.Behaviour) {
		t.Run(b.Name, func(t *testing.T) { b.Check(t, suite) })
	})
}

// Twenty connections, and a rotation every two seconds.
func TestSoakRotations(t *testing.T) {
	t.Attr("needs", "quiet")
	suite, log := overMySQL(t)
	openertest.Rotations(20, openertest.SoakFor(t, 3*time.Second)).Check(t, suite)
	if said := log.String(); said != "" {
		t.Errorf("the driver's log: %s", said)
	}
}
