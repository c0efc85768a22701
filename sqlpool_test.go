package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// wrapper is a connector over another one that is no io.Closer, as tracing libraries make
// them.
type wrapper struct{ driver.Connector }

func (w wrapper) Connect(ctx context.Context) (driver.Conn, error) { return w.Connector.Connect(ctx) }

// A pool over a connector that wraps ours can't tell when it is closed.
func TestPoolOverAWrapperIsFoundToBeClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c, err := New(r.c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(wrapper{c})
		c.Manage(db)
		for range 3 {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
		}
		r.rotate("v2")
		time.Sleep(2 * time.Second)
		_ = db.Close()
		time.Sleep(time.Minute)
		before, _ := r.server.attempts("v2")
		time.Sleep(time.Hour)
		if after, _ := r.server.attempts("v2"); after != before {
			t.Errorf("%d logins for a pool that is closed", after-before)
		}
		if _, err := c.Connect(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("the connector of the pool that is closed says %v", err)
		}
	})
}

// Each pool is retired for itself, and the connector ends with the last of them.
func TestPoolsOfOneConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		other := OpenDB(r.c)
		r.fill(3)
		for range 4 {
			conn, err := other.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
		}
		_ = other.Close()
		r.rotate("v2")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
		if n := r.server.open("v2"); n < 3 {
			t.Errorf("%d new sessions in a pool of 3", n)
		}
		_ = r.db.Close()
		if _, err := r.c.Connect(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after the last pool was closed: %v", err)
		}
	})
}

func TestManageTakesNoNil(t *testing.T) {
	r := newRigOutside(t, nil)
	r.c.Manage(nil)
}

// What Manage takes over can be said in Config, for each kind of window.
func TestConnMaxLifetimeIsKept(t *testing.T) {
	for name, window := range map[string]Window{
		"overlap": {Overlap: time.Hour, Lag: time.Minute, MaxInUse: time.Minute}, "in place": InPlace(), "tokens": LoginTokens(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var oldest time.Duration
				r := newRig(t, func(cfg *Config) {
					cfg.Window, cfg.ConnMaxLifetime = window, 5*time.Minute
					cfg.Trace = &Trace{Closed: func(_ VersionStats, _ CloseReason, age time.Duration) { oldest = max(oldest, age) }}
				})
				r.fill(5)
				stop := r.load(5, "10ms", 100*time.Millisecond)
				time.Sleep(2 * time.Minute)
				r.rotate("v1") // another password
				time.Sleep(20 * time.Minute)
				stop()
				_ = r.db.Close()
				synctest.Wait()
				if oldest < 3*time.Minute || oldest > 5*time.Minute+20*time.Millisecond {
					t.Errorf("the oldest connection became %v", oldest)
				}
			})
		})
	}
}
