package sqlrotate

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// A pool whose connections are all in use, by transactions of a second, is drained in the
// DrainTime and a second, or in little more than the time of the logins that it takes.
func TestSoakBusyPoolIsDrainedInTime(t *testing.T) {
	needsQuiet(t)
	type drain struct {
		connections int
		time        time.Duration
	}
	drains := []drain{{50, 3 * time.Second}}
	if soakFor(t, 0) > 0 {
		drains = []drain{{500, 10 * time.Second}, {500, 30 * time.Second}}
	}
	for _, d := range drains {
		t.Run(fmt.Sprintf("%d connections in %v", d.connections, d.time), func(t *testing.T) {
			drained := make(chan time.Duration, 1)
			s := newService(t, pgtest.New(t, pgtest.Options{MaxConnections: d.connections + 100}), func(cfg *Config) {
				cfg.Window = Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second}
				cfg.DrainTime = d.time
				cfg.Trace = &Trace{Drained: func(_ int, took time.Duration) { drained <- took }}
			})
			s.db.SetMaxOpenConns(d.connections)
			s.db.SetMaxIdleConns(d.connections)
			stop := s.transactions(d.connections)
			defer stop()
			s.eventually(time.Minute, "all connections in use", func() bool { return s.sessions(s.role) == d.connections })

			old := s.rotate()
			var took time.Duration
			select {
			case took = <-drained:
			case <-time.After(5 * d.time):
				t.Fatalf("not drained after %v: %+v", 5*d.time, s.c.Stats())
			}
			logins := s.loginTime(d.connections)
			most := max(d.time+time.Second, logins*13/10)
			if d.connections == 50 { // beside other tests; one at a time they would take half a minute
				most = 3 * d.time
			}
			t.Logf("drained in %v; as many logins took %v", took.Round(10*time.Millisecond), logins.Round(10*time.Millisecond))
			s.meter.Within(most, took, "the drain")
			s.eventually(10*time.Second, "no session of the old role", func() bool { return s.gone(old) })
		})
	}
}

// transactions has workers run transactions of a second, one after the other.
func (s *service) transactions(workers int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for ctx.Err() == nil {
				tx, err := s.db.BeginTx(context.Background(), nil)
				if err == nil {
					_, err = tx.ExecContext(context.Background(), "select pg_sleep(1)")
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	return func() { cancel(); running.Wait() }
}

// loginTime returns how long so many logins take that are made one after the other, as
// things are.
func (s *service) loginTime(n int) time.Duration {
	s.Helper()
	cred, err := s.source.Credential(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	opener, err := LibPQ(s.server.DSN())
	if err != nil {
		s.Fatal(err)
	}
	from := time.Now()
	for range n {
		conn, err := opener.Open(s.Context(), cred, new(net.Dialer).DialContext)
		if err != nil {
			s.Fatal(err)
		}
		_ = conn.Close()
	}
	return time.Since(from)
}
