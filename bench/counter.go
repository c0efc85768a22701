// Who counts the tenants' sessions: the server, in another process than the one that is
// measured.

package main

import (
	"context"
	"net"
	"net/rpc"
	"sync"

	"github.com/sqlrotate/sqlrotate/internal/pgstub"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// stubCounter is the stub's own, which is exact.
type stubCounter struct{ server *pgstub.Server }

func (c stubCounter) reset() error {
	c.server.Reset()
	return nil
}

func (c stubCounter) count(suffix string) (pgstub.Count, error) {
	return c.server.Count("t", suffix), nil
}

// realCounter asks PostgreSQL. Its peaks are of the moments at which it was asked, and it
// knows of no logins.
type realCounter struct {
	server *pgtest.Server

	mu    sync.Mutex // guards what follows
	peaks map[string]int
}

func (c *realCounter) reset() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peaks = map[string]int{}
	return nil
}

func (c *realCounter) count(suffix string) (n pgstub.Count, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows, err := c.server.Admin().QueryContext(context.Background(),
		"select split_part(usename, '_', 1), count(*), count(*) filter (where right(usename, length($1)) = $1)"+
			" from pg_stat_activity where usename like 't%\\_%' group by 1", suffix)
	if err != nil {
		return n, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			name        string
			all, chosen int
		)
		if err := rows.Scan(&name, &all, &chosen); err != nil {
			return n, err
		}
		n.Sessions, n.Chosen = n.Sessions+all, n.Chosen+chosen
		c.peaks[name] = max(c.peaks[name], all)
	}
	n.Peaks = map[int]int{}
	for _, peak := range c.peaks {
		n.Peaks[peak]++
	}
	return n, rows.Err()
}

// Counter is a counter as another process may ask for it.
type Counter struct{ counter }

// Reset has it begin anew. (What is called from afar has a parameter and a result.)
func (c Counter) Reset(bool, *bool) error { return c.reset() }

// Count counts.
func (c Counter) Count(suffix string, n *pgstub.Count) (err error) {
	*n, err = c.count(suffix)
	return err
}

// offer has other processes ask, at the address that is returned, until stop is called.
func offer(c counter) (address string, stop func(), err error) {
	server := rpc.NewServer()
	if err := server.Register(Counter{c}); err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it waits for nothing
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(conn)
		}
	}()
	return l.Addr().String(), func() { _ = l.Close() }, nil
}

// remoteCounter is asked of the process that offers it.
type remoteCounter struct{ client *rpc.Client }

func (c remoteCounter) reset() error {
	return c.client.Call("Counter.Reset", true, new(bool))
}

func (c remoteCounter) count(suffix string) (n pgstub.Count, err error) {
	err = c.client.Call("Counter.Count", suffix, &n)
	return n, err
}
