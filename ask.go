// Questions whether a role still lives: a query on a session that nobody needs just now.

package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const (
	// questionTimeout bounds a question, and the wait for a connection to ask on.
	questionTimeout = 5 * time.Second

	// searchPause is how long idle connections are kept from callers at the most, while
	// another one is awaited.
	searchPause = time.Millisecond

	// searchDepth is how many idle connections are looked at for one of a version.
	searchDepth = 32
)

// borrowing marks the context by which an idle connection is borrowed from a pool: a
// pool that has none left must not log in for it.
type borrowing struct{}

var errNoneIdle = errors.New("sqlrotate: no idle connection to borrow")

// question is one that the connector puts on its own account.
type question struct {
	c *Connector
	rotation.Ask
}

// put puts the question to the server and tells the rules the answer.
func (q question) put() {
	c, a := q.c, q.Ask
	answer := rotation.Unanswered
	if a.How == rotation.OnSpare {
		c.mu.Lock()
		s := c.sessions[a.Session]
		c.mu.Unlock()
		if s != nil {
			answer = c.askSession(c.ctx, s)
		}
	} else {
		a.Version, answer = c.askIdle(a.Version)
	}
	c.step(rotation.Asked{Ask: a, Answer: answer})
}

// askIdle borrows an idle connection of each pool in turn, and asks on it, until one answers
// that has logged in with the version in question. It returns what the last one answered,
// and for which version.
func (c *Connector) askIdle(version rotation.VersionID) (asked rotation.VersionID, answer rotation.Answer) {
	asked = version
	heard := func(of rotation.VersionID, said rotation.Answer) (enough bool) {
		if said != rotation.Unanswered {
			asked, answer = of, said
		}
		return said != rotation.Unanswered && of == version
	}
	for _, db := range c.idlePools() {
		if heard(c.askPool(db, version)) {
			return asked, answer
		}
	}
	for _, ask := range c.askers() {
		if heard(c.askNative(ask)) {
			return asked, answer
		}
	}
	return asked, answer
}

// idlePools returns the pools that have an idle connection.
func (c *Connector) idlePools() (dbs []*sql.DB) {
	c.mu.Lock()
	for _, p := range c.pools {
		dbs = append(dbs, p.dbs...)
	}
	c.mu.Unlock()
	idle := dbs[:0]
	for _, db := range dbs {
		if db.Stats().Idle > 0 {
			idle = append(idle, db)
		}
	}
	return idle
}

// askPool asks on an idle connection that has logged in with the version in question, or else
// on the one that the pool would give to its next caller.
func (c *Connector) askPool(db *sql.DB, version rotation.VersionID) (asked rotation.VersionID, answer rotation.Answer) {
	conn := c.find(db, version)
	if conn == nil {
		return 0, rotation.Unanswered
	}
	defer func() { _ = conn.Close() }()
	_ = conn.Raw(func(raw any) error {
		if s := c.sessionOf(raw); s != nil {
			asked, answer = s.version.id, c.askSession(c.ctx, s)
			s.used.Store(false) // the question is no use, and says more than what was before it
		}
		return nil
	})
	return asked, answer
}

// find borrows an idle connection of the version, or else the first that the pool gives; nil:
// none is idle. It takes a number of them until it has one, and gives the others back; the
// last that is idle it leaves to callers.
func (c *Connector) find(db *sql.DB, version rotation.VersionID) *sql.Conn {
	var taken []*sql.Conn
	giveBack := func(but *sql.Conn) {
		for _, conn := range slices.Backward(taken) { // the one that was first is to be first again
			if conn != but {
				_ = conn.Close()
			}
		}
	}
	for len(taken) == 0 || len(taken) < searchDepth && db.Stats().Idle > 1 {
		borrowed := make(chan *sql.Conn, 1)
		go func() { borrowed <- c.borrow(db) }()
		var conn *sql.Conn
		select {
		case conn = <-borrowed:
		case <-time.After(searchPause):
			giveBack(nil)
			return <-borrowed
		}
		if conn == nil {
			break
		}
		taken = append(taken, conn)
		if c.versionOf(conn) == version {
			giveBack(conn)
			return conn
		}
	}
	if len(taken) == 0 {
		return nil
	}
	giveBack(taken[0])
	return taken[0]
}

// borrow takes an idle connection from the pool; nil: it has none. It may wait in the pool's
// queue, or for what the driver does to a connection that was idle: pgx asks the server, and
// to cut that short would be the end of the connection.
func (c *Connector) borrow(db *sql.DB) *sql.Conn {
	ctx, cancel := context.WithTimeout(context.WithValue(c.ctx, borrowing{}, true), questionTimeout)
	defer cancel()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil
	}
	return conn
}

// versionOf returns the version that a connection has logged in with; zero if it is unknown.
func (c *Connector) versionOf(conn *sql.Conn) (version rotation.VersionID) {
	_ = conn.Raw(func(raw any) error {
		if s := c.sessionOf(raw); s != nil {
			version = s.version.id
		}
		return nil
	})
	return version
}

// sessionOf returns the session whose driver's connection a pool has, or nil.
func (c *Connector) sessionOf(raw any) *session {
	conn, ok := raw.(driver.Conn)
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.sessions {
		// One that is still logging in has no connection yet.
		if c.rules.Session(id).State.InPool() && s.conn == conn {
			return s
		}
	}
	return nil
}

// askSession asks s whether its role lives.
func (c *Connector) askSession(ctx context.Context, s *session) rotation.Answer {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	return c.askAll(func(query string) rotation.Answer {
		err := s.query(ctx, query, func(err error) error { return newLoginError(c.cfg.Opener, err) })
		if over(ctx) {
			s.await(time.After(closeTimeout)) // the pool takes it back
			return rotation.Unanswered
		}
		return c.answered(s, err)
	})
}

// askAll puts each question until one is answered otherwise than that the role lives. A
// server that says that the query itself is wrong is not asked again.
func (c *Connector) askAll(put func(query string) rotation.Answer) rotation.Answer {
	answer := rotation.Unasked
	for _, query := range c.cfg.questions() {
		if answer = put(query); answer != rotation.Lives {
			break
		}
	}
	return answer
}

// answered returns what the outcome of the probe query on s means, and notes a refusal.
func (c *Connector) answered(s *session, err error) rotation.Answer {
	answer := meaning(err)
	if answer == rotation.Refuses {
		c.mu.Lock()
		s.version.refusal = err
		c.mu.Unlock()
	}
	return answer
}

// meaning says what the outcome of a probe query means.
func meaning(err error) rotation.Answer {
	var failure *loginError
	switch answered := errors.As(err, &failure); {
	case err == nil:
		return rotation.Lives
	case broken(err) || errors.Is(err, driver.ErrBadConn):
		return rotation.Unanswered
	case !answered || failure.code == "" || anySQLState(err, wrongQuery):
		return rotation.Unasked
	case anySQLState(err, roleRefused) || failure.refused && !anySQLState(err, anyState):
		return rotation.Refuses
	}
	return rotation.Unanswered // a server that is full, slow or shutting down
}

// anyState is for errors that have a SQLSTATE: codes of PostgreSQL's, and of no other
// server's.
func anyState(string) bool { return true }

// wrongQuery reports whether a query failed for its own syntax, whoever asks.
func wrongQuery(state string) bool { return state == "42601" }

// roleRefused reports whether a query failed because of what its role may do or see, or
// because there is no such role any more: class 28, and class 42, in which PostgreSQL
// says 42501, 42704 or 42P01 to a session of a role that was dropped.
func roleRefused(state string) bool {
	return credentialRefused(state) || strings.HasPrefix(state, "42") && !wrongQuery(state)
}
