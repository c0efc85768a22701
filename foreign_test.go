package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

func TestForeignCallReturnsWhatIsReturned(t *testing.T) {
	p := &foreign{name: "the thing", tasks: &tasks{}}
	for name, test := range map[string]struct {
		f    func(context.Context) (int, error)
		want string // in the error
	}{
		"a value":    {func(context.Context) (int, error) { return 1, nil }, ""},
		"an error":   {func(context.Context) (int, error) { return 0, errors.ErrUnsupported }, errors.ErrUnsupported.Error()},
		"a panic":    {func(context.Context) (int, error) { panic("secret") }, "the thing panicked with a value of type string"},
		"ErrBadConn": {func(context.Context) (int, error) { return 0, fmt.Errorf("w: %w", driver.ErrBadConn) }, "the thing failed: w: driver: bad connection"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := call(t.Context(), p, test.f, nil)
			switch {
			case test.want == "" && (n != 1 || err != nil):
				t.Errorf("%d, %v", n, err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			case errors.Is(err, driver.ErrBadConn):
				t.Error("database/sql would retry it")
			}
		})
	}
}

// A call that does not return is left alone when its context is done, its result is
// handed to whom it may concern, and after four of them there is not a fifth.
func TestForeignCallThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &foreign{name: "the thing", bound: time.Second, tasks: &tasks{}}
		release := make(chan struct{})
		var called atomic.Int64
		late := make(chan int, 100)
		hang := func(context.Context) (int, error) {
			called.Add(1)
			<-release
			return 7, nil
		}
		attempt := func() error {
			start := time.Now()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too long"))
			defer cancel()
			_, err := call(ctx, p, hang, func(n int) { late <- n })
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %v", took)
			}
			return err
		}
		for i := range maxHung {
			if err := attempt(); err == nil || err.Error() != "too long" {
				t.Errorf("call %d: %v", i, err)
			}
			if p.hangs(time.Now(), 1) == nil {
				t.Error("nobody knows that it hangs")
			}
		}
		time.Sleep(time.Minute)
		if err := attempt(); err == nil || !strings.Contains(err.Error(), "the thing hangs") || called.Load() != maxHung {
			t.Errorf("after %d calls: %v", called.Load(), err)
		}
		close(release)
		synctest.Wait()
		if len(late) != maxHung {
			t.Errorf("%d results came late, want %d", len(late), maxHung)
		}
		if err := p.hangs(time.Now(), 1); err != nil {
			t.Error(err)
		}
		if err := attempt(); err != nil {
			t.Errorf("it hangs no more, and yet: %v", err)
		}
	})
}

// Callers that give up soon are no sign that what they called hangs.
func TestForeignCallOfTheImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &foreign{name: "the thing", bound: time.Second, tasks: &tasks{}}
		slow := func(context.Context) (int, error) { time.Sleep(200 * time.Millisecond); return 1, nil }
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := call(ctx, p, slow, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		if n, err := call(t.Context(), p, slow, nil); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// deafConn is a driver's connection whose methods hang while they are told to.
type deafConn struct {
	*fakeConn
	hang *hangs
}

func (c *deafConn) Close() error { c.hang.at("driver.Conn.Close"); return c.fakeConn.Close() }

func (c *deafConn) Ping(ctx context.Context) error { c.hang.at("Ping"); return c.fakeConn.Ping(ctx) }

func (c *deafConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if q == "probe" {
		c.hang.at("the probe query")
	}
	return c.fakeConn.QueryContext(ctx, q, args)
}

// hangs is one place that hangs, from a moment on until it is released.
type hangs struct {
	where    string
	on       atomic.Bool
	released chan struct{}
	hit      atomic.Int64
}

func (h *hangs) at(where string) {
	if h.where == where && h.on.Load() {
		h.hit.Add(1)
		<-h.released
	}
}

// adjust puts it between the connector and whatever it is given.
func (h *hangs) adjust(cfg *Config) {
	s := cfg.Opener.(*fakeServer)
	dial := cfg.Dial
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		h.at("Dial")
		conn, err := dial(ctx, network, address)
		return hangingNetConn{conn, h}, err
	}
	cfg.Opener = deafOpener{s, h}
	cfg.Source = deafSource{cfg.Source, h}
	cfg.ProbeQuery = "probe"
}

type hangingNetConn struct {
	net.Conn
	hang *hangs
}

func (c hangingNetConn) Close() error { c.hang.at("net.Conn.Close"); return c.Conn.Close() }

type deafOpener struct {
	*fakeServer
	hang *hangs
}

func (o deafOpener) Open(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error) {
	o.hang.at("Opener.Open")
	conn, err := o.fakeServer.Open(ctx, cred, dial)
	if err != nil {
		return nil, deafError{err, o.hang}
	}
	return &deafConn{conn.(*fakeConn), o.hang}, nil
}

func (o deafOpener) Refused(err error) bool {
	o.hang.at("Opener.Refused")
	return o.fakeServer.Refused(err)
}

type deafError struct {
	error
	hang *hangs
}

func (e deafError) Error() string { e.hang.at("error.Error"); return e.error.Error() }
func (e deafError) Unwrap() error { return e.error }

type deafSource struct {
	Source
	hang *hangs
}

func (s deafSource) Credential(ctx context.Context) (Credential, error) {
	s.hang.at("Source.Credential")
	return s.Source.Credential(ctx)
}

func (s deafSource) Changed() <-chan struct{} {
	s.hang.at("Notifier.Changed")
	return s.Source.(Notifier).Changed()
}

func (s deafSource) CheckHealth() error {
	s.hang.at("Source.CheckHealth")
	return nil
}

// Whatever of what was handed in knows no context and hangs: a caller waits no longer
// than his context says, Close a second, and Healthy as long and says what hangs.
func TestNothingHandedInHoldsUpAnybody(t *testing.T) {
	for _, where := range []string{
		"Source.Credential", "Notifier.Changed", "Source.CheckHealth", "Dial", "Opener.Open", "Opener.Refused", "error.Error",
		"the probe query", "Ping", "driver.Conn.Close", "net.Conn.Close",
	} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hangs{where: where, released: make(chan struct{})}
				r := newRig(t, h.adjust)
				defer synctest.Wait()
				defer close(h.released)
				r.fill(5)
				time.Sleep(time.Second)
				h.on.Store(true)
				switch where {
				case "Opener.Refused", "error.Error":
					r.source.publish("nobody", "of that name")
				default:
					r.rotate("v2")
				}
				for range 30 {
					start := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					conn, err := r.c.Connect(ctx)
					cancel()
					if took := time.Since(start); took > 5*time.Second {
						t.Fatalf("Connect took %v with a context of 5 s: %v", took, err)
					}
					if err == nil {
						closed := make(chan struct{})
						go func() { _ = conn.Close(); close(closed) }()
					}
					time.Sleep(2 * time.Second)
				}
				start := time.Now()
				err := r.c.CheckHealth()
				if took := time.Since(start); took > time.Second {
					t.Errorf("Healthy took %v", took)
				}
				if h.hit.Load() == 0 && where != "Ping" {
					t.Error("it was not reached")
				}
				switch where {
				case "Ping", "driver.Conn.Close", "net.Conn.Close": // not asked for in vain
				default:
					if err == nil {
						t.Error("healthy")
					}
				}
				start = time.Now()
				_ = r.c.Close()
				if took := time.Since(start); took > time.Second {
					t.Errorf("Close took %v", took)
				}
				go func() { _ = r.db.Close() }()
			})
		})
	}
}

// What hangs is not called for ever.
func TestHungCallsAreFew(t *testing.T) {
	for _, where := range []string{"Source.Credential", "Notifier.Changed", "Dial", "Opener.Open"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hangs{where: where, released: make(chan struct{})}
				r := newRig(t, h.adjust)
				defer synctest.Wait()
				r.fill(2)
				h.on.Store(true)
				r.rotate("v2")
				for range 200 {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					_ = r.db.PingContext(ctx)
					cancel()
					time.Sleep(5 * time.Second)
				}
				if n := h.hit.Load(); n > maxHung+2 { // some may begin before the first is known to hang
					t.Errorf("it was called %d times", n)
				}
				if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "hangs") {
					t.Errorf("the health report says %v", err)
				}
				h.on.Store(false)
				close(h.released)
				time.Sleep(time.Minute)
				if err := r.db.PingContext(t.Context()); err != nil {
					t.Errorf("it hangs no more: %v", err)
				}
				if err := r.c.CheckHealth(); err != nil {
					t.Errorf("it hangs no more: %v", err)
				}
			})
		})
	}
}

// What must not be returned, and panics, are errors; and nothing is left behind.
func TestWhatAnOpenerMustNotDo(t *testing.T) {
	for name, test := range map[string]struct {
		open func(ctx context.Context, dial DialFunc) (driver.Conn, error)
		dial DialFunc
		want string
	}{
		"no connection": {func(context.Context, DialFunc) (driver.Conn, error) { return nil, nil }, nil, "no connection"}, //nolint:nilnil // that is the case
		"a panic":       {func(context.Context, DialFunc) (driver.Conn, error) { panic("boom") }, nil, "panicked"},
		"ErrBadConn":    {func(context.Context, DialFunc) (driver.Conn, error) { return nil, driver.ErrBadConn }, nil, "bad connection"},
		"no network connection": {
			func(ctx context.Context, dial DialFunc) (driver.Conn, error) {
				_, err := dial(ctx, "", "")
				return nil, err
			},
			func(context.Context, string, string) (net.Conn, error) { return nil, nil }, "no connection", //nolint:nilnil // that is the case
		},
		"a panic in Dial": {
			func(ctx context.Context, dial DialFunc) (driver.Conn, error) {
				_, err := dial(ctx, "", "")
				return nil, err
			},
			func(context.Context, string, string) (net.Conn, error) { panic("boom") }, "panicked",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var wrong atomic.Bool
				r := newRig(t, func(cfg *Config) {
					s, dial := cfg.Opener.(*fakeServer), cfg.Dial
					cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
						if wrong.Load() {
							return test.open(ctx, dial)
						}
						return s.Open(ctx, cred, dial)
					}}
					cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
						if wrong.Load() {
							return test.dial(ctx, network, address)
						}
						return dial(ctx, network, address)
					}
				})
				r.fill(3)
				wrong.Store(true)
				_, err := r.c.Connect(t.Context())
				if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, driver.ErrBadConn) {
					t.Errorf("Connect: %v", err)
				}
				r.rotate("v2") // for the connector's own logins
				time.Sleep(time.Minute)
				wrong.Store(false)
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				r.c.mu.Lock()
				sessions, states := len(r.c.sessions), r.c.rules.Snapshot(r.c.now()).States
				r.c.mu.Unlock()
				known := states[rotation.Spare] + states[rotation.Pooled] + states[rotation.Due] + states[rotation.Going]
				if inflight := states[rotation.LoggingIn]; sessions != known || inflight != 0 {
					t.Errorf("%d sessions, of which %d are known; %d logins in flight", sessions, known, inflight)
				}
				if n := r.server.open("v1"); n != 0 {
					t.Errorf("%d old sessions", n)
				}
			})
		})
	}
}

// An error's own methods are not called where the connector can be locked by them.
func TestErrorThatAsksTheConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Connector
		r := newRig(t, func(cfg *Config) { cfg.RetryTimeout = -1 })
		c = r.c
		r.server.set(func(s *fakeServer) { s.down = curiousError{func() { _ = c.Stats(); _ = c.CheckHealth() }} })
		var refused *RefusedError
		if _, err := c.Connect(t.Context()); !errors.As(err, &refused) || refused.Code != "28P01" || !strings.Contains(err.Error(), "curious") {
			t.Errorf("%v", err)
		}
		if err := c.CheckHealth(); err == nil || !strings.Contains(err.Error(), "curious") {
			t.Errorf("the health report says %v", err)
		}
		r.source.fail(curiousError{func() { _ = c.Stats(); _ = c.CheckHealth() }})
		_, _ = c.Connect(t.Context())
		if err := c.CheckHealth(); err == nil || strings.Count(err.Error(), "curious") < 2 {
			t.Errorf("the health report says %v", err)
		}
	})
}

type curiousError struct{ ask func() }

func (e curiousError) Error() string    { e.ask(); return "curious" }
func (e curiousError) SQLState() string { e.ask(); return "28P01" }
