// Package pgstub serves as much of PostgreSQL's protocol as pools need that are hardly
// used: logins without a password, and queries whose answer is one row. It has no database,
// so thousands of sessions cost it next to nothing, and it counts them exactly.
//
// Nothing here imports testing.
package pgstub

import (
	"fmt"
	"net"
	"strings"
	"sync"
)

// Server is a listening stub. All methods are safe for concurrent use.
type Server struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	conns  map[net.Conn]struct{}
	pools  map[string]*pool // by database
}

// pool is what is known of the sessions of one database.
type pool struct {
	sessions        map[*session]struct{}
	peak            int
	logins, queries int
}

// Listen serves at an address of the network "tcp" or "unix" until [Server.Close]. On a
// Unix socket, whose path lib/pq wants to be a directory's and to end in /.s.PGSQL.5432, the
// end of a session is seen before the next one can begin, whatever the machine is busy with.
func Listen(network, address string) (*Server, error) {
	l, err := net.Listen(network, address) //nolint:noctx // it waits for nothing
	if err != nil {
		return nil, fmt.Errorf("pgstub: %w", err)
	}
	s := &Server{listener: l, conns: map[net.Conn]struct{}{}, pools: map[string]*pool{}}
	s.serving.Go(s.accept)
	return s, nil
}

// DSN says how to reach the server, in keywords, without a database, a user name and a
// password. Whoever has a database of its own is counted for itself.
func (s *Server) DSN() string {
	host, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil { // a Unix socket
		host, port = strings.TrimSuffix(s.listener.Addr().String(), "/.s.PGSQL.5432"), "5432"
	}
	return fmt.Sprintf("host=%s port=%s sslmode=disable", host, port)
}

// Close ends all sessions and waits for that.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	_ = s.listener.Close()
	s.serving.Wait()
	return nil
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil { // it is closed, or there are no more files to be had
			_ = s.listener.Close()
			return
		}
		s.mu.Lock()
		if s.closed {
			_ = conn.Close()
		} else {
			s.conns[conn] = struct{}{}
			s.serving.Go(func() { s.serve(conn) })
		}
		s.mu.Unlock()
	}
}

func (s *Server) serve(conn net.Conn) {
	x := newSession(s, conn)
	x.run()
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	if p := s.pools[x.database]; p != nil {
		delete(p.sessions, x)
	}
}

// enter counts a session that is about to be let in.
func (s *Server) enter(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[x.database]
	if p == nil {
		p = &pool{sessions: map[*session]struct{}{}}
		s.pools[x.database] = p
	}
	p.sessions[x] = struct{}{}
	p.logins++
	if len(p.sessions) > p.peak {
		p.peak = max(p.peak, p.open())
	}
}

// open returns how many sessions a pool has whose client is still there: one that has said
// goodbye may not have been listened to yet.
func (p *pool) open() int {
	n := 0
	for x := range p.sessions {
		if !left(x.conn) {
			n++
		}
	}
	return n
}

func (s *Server) queried(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[x.database].queries++
}

// Count is what there was to count since the last [Server.Reset].
type Count struct {
	Sessions int         // open now
	Chosen   int         // of them, those of the users who were asked for
	Logins   int         // that succeeded
	Queries  int         // that were answered
	Peaks    map[int]int // of how many databases so many sessions were open at once, at the most
}

// Count counts the sessions of all databases whose names begin with prefix, and those of them
// whose user name ends with suffix.
func (s *Server) Count(prefix, suffix string) Count {
	c := Count{Peaks: map[int]int{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.pools {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		c.Sessions += len(p.sessions)
		for x := range p.sessions {
			if strings.HasSuffix(x.user, suffix) {
				c.Chosen++
			}
		}
		c.Logins, c.Queries = c.Logins+p.logins, c.Queries+p.queries
		c.Peaks[p.peak]++
	}
	return c
}

// Reset has logins and queries counted from now on, and peaks from what is open now.
// Databases without a session are forgotten.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.pools {
		if len(p.sessions) == 0 {
			delete(s.pools, name)
			continue
		}
		p.peak, p.logins, p.queries = p.open(), 0, 0
	}
}
