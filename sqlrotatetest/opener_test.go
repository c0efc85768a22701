package sqlrotatetest_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

func TestTestOpener(t *testing.T) {
	server := openertest.New(t)
	t.Run("lib/pq conforms", func(t *testing.T) { libPQConforms(t, server) })
	t.Run("finds", func(t *testing.T) { findsWhatIsWrong(t, server) })
	t.Run("sockets", func(t *testing.T) { handsOverSocketsThatCanBeLookedAt(t, server) })
}

func libPQConforms(t *testing.T, server *openertest.Server) {
	for name, options := range map[string]string{"TLS": "", "plain": "sslmode=disable", "prefer": "sslmode=prefer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := sqlrotatetest.TestOpener(server.Harness(t, sqlrotate.LibPQ, options)); err != nil {
				t.Error(err)
			}
		})
	}
}

// faulty is lib/pq's opener with a fault in what is not nil.
type faulty struct {
	sqlrotate.Opener
	open    func(context.Context, sqlrotate.Opener, sqlrotate.Credential, sqlrotate.DialFunc) (driver.Conn, error)
	refused func(sqlrotate.Opener, error) bool
	probe   string

	mu   sync.Mutex
	kept string
}

func (f *faulty) Open(ctx context.Context, cred sqlrotate.Credential, dial sqlrotate.DialFunc) (driver.Conn, error) {
	if f.open == nil {
		return f.Opener.Open(ctx, cred, dial)
	}
	return f.open(ctx, f.Opener, cred, dial)
}

func (f *faulty) Refused(err error) bool {
	if f.refused == nil {
		return f.Opener.Refused(err)
	}
	return f.refused(f.Opener, err)
}

func (f *faulty) ProbeQuery() string {
	if f.probe == "" {
		return "select current_user"
	}
	return f.probe
}

// conn is a connection that is lib/pq's but for its fault.
type conn struct {
	driver.Conn
	close func(driver.Conn) error
	ping  func(context.Context, driver.Conn) error
}

func (c conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c conn) Close() error {
	if c.close == nil {
		return c.Conn.Close()
	}
	return c.close(c.Conn)
}

func (c conn) Ping(ctx context.Context) error {
	if c.ping == nil {
		return c.Conn.(driver.Pinger).Ping(ctx)
	}
	return c.ping(ctx, c.Conn)
}

// wordy is an error with more in it than it says.
type wordy struct {
	error
	config map[string]any
}

func (w wordy) Unwrap() error { return w.error }

func findsWhatIsWrong(t *testing.T, server *openertest.Server) {
	if err := server.Config(t.Context(), "password_encryption", "md5"); err != nil { // SCRAM costs, and that by the thousand
		t.Fatal(err)
	}
	type (
		opener = sqlrotate.Opener
		cred   = sqlrotate.Credential
		dial   = sqlrotate.DialFunc
	)
	direct := func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	for name, c := range map[string]struct {
		want  string // what the violation begins with
		fault func(f *faulty)
	}{
		"nothing": {"", func(*faulty) {}},
		"dials for itself": {"dial: a connection came about without", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, _ dial) (driver.Conn, error) {
				return o.Open(ctx, c, direct)
			}
		}},
		"dials for itself when it must": {"dial: a connection came about although", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				return o.Open(ctx, c, func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := d(ctx, network, address)
					if err != nil && ctx.Err() == nil {
						return direct(ctx, network, address)
					}
					return conn, err
				})
			}
		}},
		"logs in as whoever was first": {"login: the session is that of", func(f *faulty) {
			var first atomic.Pointer[cred]
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				first.CompareAndSwap(nil, &c)
				return o.Open(ctx, *first.Load(), d)
			}
		}},
		"finds a password elsewhere": {"login: a credential without a password", func(f *faulty) {
			var last atomic.Pointer[cred]
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				if c.Password.Reveal() == "" {
					return o.Open(ctx, *last.Load(), d)
				}
				if c.Username != "unable" {
					last.Store(&c)
				}
				return o.Open(ctx, c, d)
			}
		}},
		"returns nothing": {"login: Open returned neither", func(f *faulty) {
			f.open = func(context.Context, opener, cred, dial) (driver.Conn, error) { return nil, nil } //nolint:nilnil // the fault
		}},
		"says nothing is refused": {"refused: wrong password", func(f *faulty) {
			f.refused = func(opener, error) bool { return false }
		}},
		"withholds what a name is in": {"refused: wrong password: the error doesn't count as refused", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				conn, err := o.Open(ctx, c, d)
				if err != nil && strings.Contains(err.Error(), c.Password.Reveal()) {
					err = errors.New("withheld")
				}
				return conn, err
			}
		}},
		"forgets that a right may be revoked": {"refused: access revoked", func(f *faulty) {
			f.refused = func(o opener, err error) bool {
				var coded interface{ SQLState() string }
				return o.Refused(err) && errors.As(err, &coded) && strings.HasPrefix(coded.SQLState(), "28")
			}
		}},
		"takes whatever the server says for a refusal": {"refused: no such database", func(f *faulty) {
			f.refused = func(_ opener, err error) bool {
				var coded interface{ SQLState() string }
				return errors.As(err, &coded)
			}
		}},
		"takes all for a refusal": {"refused: server down", func(f *faulty) {
			f.refused = func(opener, error) bool { return true }
		}},
		"quotes the password": {"silent: an error of Open, of type *fmt.wrapError, holds the password in its text", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				conn, err := o.Open(ctx, c, d)
				if err != nil {
					err = fmt.Errorf("with %q: %w", c.Password.Reveal(), err)
				}
				return conn, err
			}
		}},
		"has the password in a field": {"silent: an error of Open, of type *sqlrotatetest_test.wordy, holds the password", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				conn, err := o.Open(ctx, c, d)
				if err != nil {
					secret := c.Password.Reveal()
					err = &wordy{err, map[string]any{"password": &secret}}
				}
				return conn, err
			}
		}},
		"keeps the password": {"silent: the Opener keeps a password", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				if c.Username != "unable" && c.Password.Reveal() != "" {
					f.mu.Lock()
					f.kept = c.Password.Reveal()
					f.mu.Unlock()
				}
				return o.Open(ctx, c, d)
			}
		}},
		"dials without a context": {"context: Open has not returned 300ms after its context was done and its sockets were closed, while dialling", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				return o.Open(ctx, c, func(ctx context.Context, network, address string) (net.Conn, error) {
					ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
					defer cancel()
					type result struct {
						conn net.Conn
						err  error
					}
					dialled := make(chan result, 1)
					go func() { conn, err := d(context.WithoutCancel(ctx), network, address); dialled <- result{conn, err} }()
					select {
					case r := <-dialled:
						return r.conn, r.err
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				})
			}
		}},
		"logs in again for three seconds": {"context: Open has not returned 300ms after its context was done and its sockets were closed, at read 1", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				conn, err := o.Open(ctx, c, d)
				if errors.Is(err, net.ErrClosed) {
					<-time.After(3 * time.Second)
				}
				return conn, err
			}
		}},
		"returns before the login is done": {"login: a login succeeds that should fail", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				conn, err := o.Open(ctx, c, d)
				if err != nil && ctx.Err() == nil {
					return lazy{}, nil
				}
				return conn, err
			}
		}},
		"ends with its context": {"context: the connection doesn't survive", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, c cred, d dial) (driver.Conn, error) {
				var last net.Conn
				conn, err := o.Open(ctx, c, func(ctx context.Context, network, address string) (_ net.Conn, err error) {
					last, err = d(ctx, network, address)
					return last, err
				})
				if err == nil {
					context.AfterFunc(ctx, func() { _ = last.Close() })
				}
				return conn, err
			}
		}},
		"leaves its socket open": {"ends: the connection's socket is open", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, cr cred, d dial) (driver.Conn, error) {
				c, err := o.Open(ctx, cr, d)
				if err != nil {
					return nil, err
				}
				return conn{Conn: c, close: func(driver.Conn) error { return nil }}, nil
			}
		}},
		"counts what is dead as good": {"liveness: an idle connection counts as good although the server has ended it", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, cr cred, d dial) (driver.Conn, error) {
				c, err := o.Open(ctx, cr, d)
				if err != nil {
					return nil, err
				}
				return conn{Conn: c, ping: func(context.Context, driver.Conn) error { return nil }}, nil
			}
		}},
		"has its own word for what is dead": {"liveness: an idle connection fails with another error", func(f *faulty) {
			f.open = func(ctx context.Context, o opener, cr cred, d dial) (driver.Conn, error) {
				c, err := o.Open(ctx, cr, d)
				if err != nil {
					return nil, err
				}
				return conn{Conn: c, ping: func(ctx context.Context, c driver.Conn) error {
					if c.(driver.Pinger).Ping(ctx) != nil {
						return errors.New("dead")
					}
					return nil
				}}, nil
			}
		}},
		"asks what anybody may ask": {"probe: the probe query succeeds in a session whose user was dropped", func(f *faulty) { f.probe = "select 1" }},
		"asks what nobody may ask":  {"probe: the probe query fails in a session of a user that lives", func(f *faulty) { f.probe = "select nonsense" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := server.Harness(t, sqlrotate.LibPQ, "sslmode=disable")
			if strings.HasPrefix(c.want, "context: Open") || strings.HasPrefix(c.want, "ends:") || strings.Contains(c.want, "counts as good") {
				h.Delay = 300 * time.Millisecond
			}
			f := &faulty{Opener: h.Opener}
			c.fault(f)
			h.Opener = f
			for i := range h.Cases {
				if o := h.Cases[i].Opener; o != nil {
					h.Cases[i].Opener = &faulty{Opener: o, open: f.open, refused: f.refused}
				}
			}
			err := sqlrotatetest.TestOpener(h)
			switch {
			case c.want == "":
				if err != nil {
					t.Error(err)
				}
			case err == nil || !strings.Contains(err.Error(), "sqlrotatetest: "+c.want):
				t.Errorf("want a violation that begins %q, got %v", c.want, err)
			}
		})
	}
}

// lazy is a connection that has yet to log in.
type lazy struct{ driver.Conn }

func (lazy) Close() error { return nil }

// A driver that looks at its socket must get to see it.
func handsOverSocketsThatCanBeLookedAt(t *testing.T, server *openertest.Server) {
	h := server.Harness(t, sqlrotate.LibPQ, "sslmode=disable")
	h.LooksAtSocket, h.DropOther, h.Cases = true, nil, nil
	var unchecked []string
	h.Unchecked = func(what string) { unchecked = append(unchecked, what) }
	err := sqlrotatetest.TestOpener(h)
	if err == nil || !strings.Contains(err.Error(), "look at its socket") { // lib/pq doesn't
		t.Errorf("%v", err)
	}
	if all := strings.Join(unchecked, "\n"); len(unchecked) != 12 || !strings.Contains(all, "wrong password") || !strings.Contains(all, "dropped") {
		t.Errorf("unchecked: %q", unchecked)
	}
}

func TestTestOpenerSaysWhatTheHarnessLacks(t *testing.T) {
	if err := sqlrotatetest.TestOpener(sqlrotatetest.OpenerHarness{}); err == nil {
		t.Error("no error")
	}
}
