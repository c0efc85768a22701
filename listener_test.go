package sqlrotate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/listenertest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// A standby can't listen, and says so; what is listened to later is another matter.
func TestListenerOnAStandby(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{Control: true})
	standby, err := server.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	r := listenertest.New(t, server, func(string) (sqlrotate.Opener, error) { return sqlrotate.LibPQ(standby.DSN()) }, sqlrotate.Window{})
	l, err := sqlrotate.NewListener(r.C, sqlrotate.ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.Eventually("it says why", func() bool {
		err = l.Listen(t.Context(), "jobs")
		return !sqlrotate.SQLStateRefused(err) // the role may not have come yet
	})
	var state *pq.Error
	if !errors.As(err, &state) || state.Code != "25006" {
		t.Errorf("%v", err)
	}
	if got := r.C.Stats(); got.Held != 0 {
		t.Errorf("%+v", got)
	}
}

// Without a way to wait for notifications there is no listener; nor is there one that is
// told to be quick by somebody who has forgotten the unit.
func TestNewListener(t *testing.T) {
	t.Parallel()
	pg, err := sqlrotate.LibPQ("host=db")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		opener sqlrotate.Opener
		opt    sqlrotate.ListenerOptions
	}{
		{sqlrotate.FromDriver(nil, nil), sqlrotate.ListenerOptions{}},
		{struct{ sqlrotate.Opener }{pg}, sqlrotate.ListenerOptions{}},
		{pg, sqlrotate.ListenerOptions{KeepAlive: 30}},
	} {
		c, err := sqlrotate.New(sqlrotate.Config{Source: sqlrotate.StaticSource(sqlrotate.Credential{}), Opener: test.opener, Window: sqlrotate.InPlace()})
		if err != nil {
			t.Fatal(err)
		}
		if l, err := sqlrotate.NewListener(c, test.opt); err == nil || l != nil {
			t.Errorf("%T: %v", test.opener, err)
		}
		_ = c.Close()
	}
}

func TestListener(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	t.Run("cases", func(t *testing.T) {
		for _, c := range listenertest.Cases() {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				c.Run(t, server, sqlrotate.LibPQ)
			})
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		left := listenertest.Goroutines()
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines are left: %s", len(left), left[0])
		}
	}
}
