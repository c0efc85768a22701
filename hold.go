// Held: a connection outside of the pools, for what keeps one for long.

package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Held is a connection that no pool has: for a migration, a session's lock, LISTEN, or
// what else keeps one connection for long. Make it with [Connector.Hold], and close it
// when it is not needed any more. All methods are safe for concurrent use; the connection
// is not.
type Held struct {
	c          *Connector
	s          *session
	superseded chan struct{}
	opened     atomic.Bool // by the pool of OpenDB
}

// Hold logs in as [Connector.Connect] does, with the same waits and errors, and returns a
// connection that no pool has. It is left out of the drain and of the connections'
// lifetime: whoever holds it is told when it should go (see [Held.Superseded]), and it is
// cut off at the end of its credential, as every connection is. One of the latest
// credential lives until that ends, or for Overlap less Lag from when its successor is read,
// where a pool's connection is good for MaxInUse and no more.
//
// A Held that is never closed stays open until then: Stats.Held counts them. The connector
// may be closed before; then Superseded says so, and nothing cuts it off any more.
func (c *Connector) Hold(ctx context.Context) (*Held, error) {
	s, err := c.session(ctx, rotation.Outside)
	if err != nil {
		return nil, err
	}
	return s.held, nil
}

// Conn returns the driver's own connection, with nothing wrapped around it. It is for one
// goroutine at a time.
func (h *Held) Conn() driver.Conn { return h.s.conn }

// Superseded returns a channel that is closed when the connection should go: as soon as a
// successor of its credential has proven itself or its role is found to be dead; when it
// ends in less than Window.MaxInUse (30 s where there is none), successor or not; and when
// the connector is closed. How long is left says [Held.Until]. One that was Held at such a
// moment has a channel that is closed already.
func (h *Held) Superseded() <-chan struct{} { return h.superseded }

// Until returns when the connection is cut off, as far as is known now: when its
// credential ends at the earliest. Zero means that no end is known. The end comes into
// sight with a successor, and a lease may be renewed, so ask again.
func (h *Held) Until() time.Time {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return h.c.endLocked(h.s.version.id)
}

// username returns who is logged in.
func (h *Held) username() string {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return h.s.version.cred.Username
}

// Close closes the connection, and waits for that for a second at the most. Nothing may use
// it meanwhile. More calls do nothing. The error is always nil.
func (h *Held) Close() error {
	h.c.discard(h.s)
	return nil
}

// OpenDB returns a *sql.DB whose only connection is this one: for libraries that take nothing
// else. What needs two connections at a time waits for ever, so give it a context. When the
// connection breaks or is cut off, all else fails: another one has to be held, and opened. Of
// several calls the first *sql.DB that is used gets the connection. Close closes both.
func (h *Held) OpenDB() *sql.DB {
	db := sql.OpenDB(&heldConnector{h: h})
	db.SetMaxOpenConns(1)
	return db
}

// heldConnector gives the held connection, once.
type heldConnector struct {
	h   *Held
	has atomic.Bool // it has given it
}

var errHeldGone = errors.New("sqlrotate: the held connection is gone or in use by another *sql.DB: hold another one")

func (c *heldConnector) Connect(context.Context) (driver.Conn, error) {
	if c.h.s.connClosed.Load() || c.h.opened.Swap(true) {
		return nil, errHeldGone
	}
	c.has.Store(true)
	return c.h.s.conn, nil
}

// Close is called by the pool's own Close, which closes what the pool has got.
func (c *heldConnector) Close() error {
	switch {
	case !c.h.opened.Swap(true):
		return c.h.Close()
	case c.has.Load() && c.h.s.untracked():
		c.h.c.sessionEnded(c.h.s) // its socket doesn't tell
	}
	return nil
}

func (c *heldConnector) Driver() driver.Driver { return c.h.c.Driver() }

// recallLocked tells whoever holds a session that it should go.
func (c *Connector) recallLocked(id rotation.SessionID) {
	if s := c.sessions[id]; s != nil && s.held != nil {
		close(s.held.superseded)
	}
}
