package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hold holds a connection until the test is over.
func (r *rig) hold() *Held {
	r.Helper()
	h, err := r.c.Hold(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = h.Close() })
	return h
}

// superseded reports whether whoever has h has been told that it should go.
func superseded(h *Held) bool {
	select {
	case <-h.Superseded():
		return true
	default:
		return false
	}
}

// use runs a query on a held connection.
func (r *rig) use(h *Held) error {
	rows, err := h.Conn().(driver.QueryerContext).QueryContext(context.Background(), "0s", nil)
	if err == nil {
		_ = rows.Close()
	}
	return err
}

// A held connection is told of a successor when that has proven itself, stays as long as
// its credential, and is cut off then: the drain does without it.
func TestHeldConnectionOutsideOfTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := r.hold()
		time.Sleep(time.Hour)
		r.fill(3)
		if got := r.c.Stats(); superseded(h) || got.Held != 1 || got.Versions[0].Open != 4 || !h.Until().IsZero() {
			t.Fatalf("after an hour without a rotation: %v, %v; %+v", superseded(h), h.Until(), got)
		}
		r.server.set(func(s *fakeServer) { s.latency = time.Second })
		r.rotate("v2")
		rotated := time.Now()
		time.Sleep(900 * time.Millisecond)
		if superseded(h) {
			t.Error("it is to go before its successor has proven itself")
		}
		time.Sleep(time.Second)
		if !superseded(h) || time.Until(h.Until()).Round(time.Second) != 9*time.Minute-2*time.Second {
			t.Errorf("%v after the rotation: %v, until %v", time.Since(rotated), superseded(h), h.Until())
		}
		time.Sleep(8 * time.Minute)
		got := r.c.Stats()
		if got.Drains != 1 || got.LastDrainSize != 3 || got.Held != 1 || r.server.open("v1") != 1 {
			t.Errorf("%+v", got)
		}
		if err := r.use(h); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Until(h.Until()) - time.Millisecond)
		if r.server.open("v1") != 1 {
			t.Error("it is gone before the end")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got := r.c.Stats(); r.server.open("v1") != 0 || got.Held != 0 || got.Outlived != 1 || got.Closed[CloseExpired] != 1 {
			t.Errorf("after the end: %+v", got)
		}
		if err := r.use(h); err == nil {
			t.Error("it works after the end")
		}
	})
}

// A connector that has no pool, but connections that are held.
func TestHeldConnectionWithoutAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		r := newRig(t, func(cfg *Config) { cfg.Logger = log.logger() })
		c, err := New(r.c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r.c = c
		h := r.hold()
		r.rotate("v2")
		time.Sleep(time.Second)
		if !superseded(h) {
			t.Fatal("it is not told of its successor")
		}
		if err := c.CheckHealth(); err != nil {
			t.Error(err)
		}
		if text := log.String(); !strings.Contains(text, "a held connection should go") || strings.Contains(text, "managed") {
			t.Errorf("the log says: %s", text)
		}
		next := r.hold()
		if superseded(next) || r.server.open("v2") != 1 {
			t.Errorf("the next one is to go as well, or isn't of the successor: %+v", c.Stats())
		}
		_ = h.Close()
		if got := c.Stats(); got.Held != 1 || r.server.open("v1") != 0 {
			t.Errorf("%+v", got)
		}
		// A spare would be a session for nobody.
		time.Sleep(time.Hour)
		if n := r.server.open(""); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// Whoever holds a connection is told before a credential ends that has no successor, and a
// lease that is renewed before that puts it off.
func TestHeldConnectionOfALeaseThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		lease := func(d time.Duration) {
			r.source.set(Credential{Username: "v1", Password: NewSecret("p1"), NotAfter: time.Now().Add(d)}, nil)
		}
		lease(10 * time.Minute)
		h := r.hold()
		time.Sleep(8 * time.Minute)
		lease(10 * time.Minute)
		time.Sleep(9*time.Minute - time.Second)
		if superseded(h) {
			t.Error("it is to go though more than Window.MaxInUse is left")
		}
		time.Sleep(2 * time.Second)
		if left := time.Until(h.Until()); !superseded(h) || left != 59*time.Second {
			t.Errorf("%v, with %v left", superseded(h), left)
		}
		if late := r.hold(); !superseded(late) {
			t.Error("one that is held now is not to go")
		}
	})
}

// A predecessor that is fallen back to, because its successor is refused, goes before its end.
func TestHeldConnectionWhoseSuccessorIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := r.hold()
		r.source.publish("v2", "nobody has granted it")
		time.Sleep(7 * time.Minute)
		fallback := r.hold()
		if superseded(h) || superseded(fallback) || r.server.open("v1") != 2 {
			t.Errorf("%v, %v; %+v", superseded(h), superseded(fallback), r.c.Stats())
		}
		time.Sleep(time.Minute)
		if !superseded(h) || !superseded(fallback) {
			t.Error("they are not told of their end")
		}
	})
}

// Close of the connector lets nobody hold anything, and has those go who do, who may
// finish what they do.
func TestHeldConnectionAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := r.hold()
		_ = r.db.Close()
		if !superseded(h) {
			t.Error("it is not told of Close")
		}
		if _, err := r.c.Hold(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Hold after Close: %v", err)
		}
		if err := r.use(h); err != nil {
			t.Error(err)
		}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { _ = h.Close() })
		}
		all.Wait()
		if got := r.c.Stats(); got.Held != 0 || got.ConnectFailures[FailedClosed] != 1 || r.server.open("") != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// Where a connection's end can't be seen, Close of what holds it says so, and others of its
// version stay on the books.
func TestHeldConnectionWithoutASocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			s := cfg.Opener.(*fakeServer)
			cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, _ DialFunc) (driver.Conn, error) {
				return s.Open(ctx, cred, s.dial)
			}}
		})
		one, two := r.hold(), r.hold()
		if got := r.c.Stats(); got.Held != 2 {
			t.Errorf("%+v", got)
		}
		_ = one.Close()
		_ = one.Close()
		if got := r.c.Stats(); got.Held != 1 || got.Closed[CloseOther] != 1 {
			t.Errorf("%+v", got)
		}
		three := r.hold()
		db, other := three.OpenDB(), three.OpenDB()
		if err := db.PingContext(t.Context()); err != nil {
			t.Error(err)
		}
		_ = other.Close()
		if got := r.c.Stats(); got.Held != 2 {
			t.Errorf("%+v", got)
		}
		_ = db.Close()
		if got := r.c.Stats(); got.Held != 1 || got.Closed[CloseOther] != 2 {
			t.Errorf("the *sql.DB that had it is closed: %+v", got)
		}
		r.rotate("v2")
		time.Sleep(time.Second)
		if !superseded(two) {
			t.Error("it is not told of its successor")
		}
	})
}

// A held connection is the only one of a *sql.DB, and there is no other after it.
func TestHeldConnectionAsADB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := r.hold()
		db := h.OpenDB()
		query := func(db *sql.DB) error {
			rows, err := db.QueryContext(t.Context(), "1ms")
			if err == nil {
				err = errors.Join(rows.Close(), rows.Err())
			}
			return err
		}
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if err := query(db); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := r.server.open(""); n != 1 {
			t.Errorf("%d sessions", n)
		}
		other := h.OpenDB()
		if err := query(other); !errors.Is(err, errHeldGone) {
			t.Errorf("another *sql.DB has it as well: %v", err)
		}
		_ = other.Close()
		_ = db.Close()
		if got := r.c.Stats(); got.Held != 0 || r.server.open("") != 0 {
			t.Errorf("%+v", got)
		}

		h = r.hold()
		db = h.OpenDB()
		_ = h.Close()
		if err := query(db); !errors.Is(err, errHeldGone) {
			t.Errorf("after Close: %v", err)
		}
		_ = db.Close()

		h = r.hold()
		_ = h.OpenDB().Close()
		if r.c.Stats().Held != 0 {
			t.Error("a *sql.DB that was never used keeps it")
		}
	})
}
