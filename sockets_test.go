package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// blindDriver is a driver that dials for itself.
type blindDriver struct {
	mu    sync.Mutex
	open  int
	total int
}

func (d *blindDriver) Open(string) (driver.Conn, error) {
	time.Sleep(5 * time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total++
	d.open++
	return &blindConn{d: d}, nil
}

type blindConn struct {
	d    *blindDriver
	once sync.Once
}

func (c *blindConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *blindConn) Begin() (driver.Tx, error)           { return fakeTx{}, nil }
func (c *blindConn) Ping(context.Context) error          { return nil }
func (c *blindConn) Close() error { // by the pool, or by the connector
	c.once.Do(func() { c.d.mu.Lock(); c.d.open--; c.d.mu.Unlock() })
	return nil
}

func (c *blindConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return noRows{}, nil
}

func newBlindRig(t *testing.T) (*rig, *blindDriver) {
	d := &blindDriver{}
	r := newRig(t, func(cfg *Config) {
		cfg.Opener = FromDriver(d, func(c Credential) string { return c.Username })
		cfg.Window = Window{Overlap: 2 * time.Minute, Lag: 10 * time.Second, Checkout: 20 * time.Second}
	})
	return r, d
}

// Sessions of FromDriver that the connector itself closes.
func TestBlindSessionsThatTheConnectorClosesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := newBlindRig(t)
		r.fill(5)
		time.Sleep(time.Second)
		for _, u := range []string{"v2", "v3", "v4", "v5"} {
			r.source.publish(u, "p")
			for range 300 {
				time.Sleep(time.Second)
				if err := r.query("0s"); err != nil {
					t.Error(err)
				}
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		r.c.mu.Lock()
		sessions, versions := len(r.c.sessions), len(r.c.versions)
		r.c.mu.Unlock()
		d.mu.Lock()
		defer d.mu.Unlock()
		if sessions > 2 || versions > 1 || r.c.Stats().Overran > 0 {
			t.Errorf("%d sessions and %d versions are remembered; %d connections open at the driver, %d logins in all; overran %d",
				sessions, versions, d.open, d.total, r.c.Stats().Overran)
		}
		if err := r.c.Healthy(); err != nil {
			t.Error(err)
		}
	})
}

// Sessions of FromDriver that are open at the end of their credential.
func TestBlindSessionsThatAreSeveredAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newBlindRig(t)
		lease := func(user string) {
			r.source.set(Credential{Username: user, Password: NewSecret("p"), NotAfter: time.Now().Add(time.Minute)}, nil)
		}
		lease("v2")
		r.fill(2)
		time.Sleep(50 * time.Second) // its checkout: what is born now goes at the end
		r.fill(2)
		conn, err := r.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		_ = conn.Close()
		r.source.publish("v3", "p")
		for range 600 {
			time.Sleep(time.Second)
			if err := r.query("0s"); err != nil {
				t.Error(err)
			}
		}
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		if len(r.c.versions) > 1 || r.c.keeper.held || !r.c.keeper.drain.from.IsZero() {
			t.Errorf("%d sessions, %d versions, line held %t, drain %v", len(r.c.sessions), len(r.c.versions), r.c.keeper.held, r.c.keeper.drain)
		}
	})
}

// A login whose credential ends between its last byte and its return.
func TestSessionThatIsSeveredAtTheEndOfItsLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			s := cfg.Opener.(*fakeServer)
			cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, n int, cred Credential, dial Dial) (driver.Conn, error) {
				conn, err := s.Open(ctx, cred, dial)
				if n == 1 {
					time.Sleep(2 * time.Second)
				}
				return conn, err
			}}
		})
		r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(time.Second)}, nil)
		go func() { time.Sleep(1500 * time.Millisecond); r.rotate("v2") }()
		if err := r.query("0s"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		for s := range r.c.sessions {
			if s.version.cred.Username == "v1" {
				t.Error("a session that is over is remembered for ever")
			}
		}
		if len(r.c.versions) > 1 {
			t.Errorf("%d versions", len(r.c.versions))
		}
	})
}
