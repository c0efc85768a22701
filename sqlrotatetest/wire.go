// What TestOpener puts between a driver and its server: sockets that are counted and can
// fall silent.

package sqlrotatetest

import (
	"context"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// wire is one login's sockets.
type wire struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	stallAt int    // the number of the read at which the server falls silent; 0: never
	stalled func() // called then

	mu      sync.Mutex
	calls   int       // of open
	reads   int       // that were begun, until settled
	silent  bool      // the server has fallen silent
	settled bool      // the login is done
	closed  bool      // and so is what is dialled from now on
	looked  int       // how often the driver looked at a socket
	sockets []*socket // open ones
	last    *socket   // the one that was read from last
}

// open is the dial function that an Opener is given.
func (w *wire) open(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.calls++
	w.mu.Unlock()
	conn, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.settled {
		return conn, nil // the driver's own, as for a cancellation
	}
	if w.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	s := &socket{Conn: conn, wire: w, ended: make(chan struct{})}
	w.sockets = append(w.sockets, s)
	if raw, ok := conn.(syscall.Conn); ok {
		return rawSocket{s, raw}, nil
	}
	return s, nil
}

// settle ends the login as the connector does: of several sockets the one that was read
// from last is the session's, and the others are closed.
func (w *wire) settle() {
	w.mu.Lock()
	w.settled = true
	kept := w.last
	if n := len(w.sockets); n > 0 && !slices.Contains(w.sockets, kept) {
		kept = w.sockets[n-1] // the server has not said a word yet
	}
	left := slices.DeleteFunc(slices.Clone(w.sockets), func(s *socket) bool { return s == kept })
	w.mu.Unlock()
	for _, s := range left {
		_ = s.Close()
	}
}

// closeAll closes the sockets that are open, and those to come.
func (w *wire) closeAll() {
	w.mu.Lock()
	w.closed = true
	sockets := slices.Clone(w.sockets)
	w.mu.Unlock()
	for _, s := range sockets {
		_ = s.Close()
	}
}

// awaitClosed reports whether all sockets are closed within d.
func (w *wire) awaitClosed(d time.Duration) bool {
	for end := time.Now().Add(d); ; <-time.After(time.Millisecond) {
		w.mu.Lock()
		open := len(w.sockets)
		w.mu.Unlock()
		if open == 0 {
			return true
		}
		if !time.Now().Before(end) {
			return false
		}
	}
}

func (w *wire) dials() int        { w.mu.Lock(); defer w.mu.Unlock(); return w.calls }
func (w *wire) loginReads() int   { w.mu.Lock(); defer w.mu.Unlock(); return w.reads }
func (w *wire) looks() int        { w.mu.Lock(); defer w.mu.Unlock(); return w.looked }
func (w *wire) interrupted() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.silent }

// begin notes a read, and reports whether the server has fallen silent.
func (w *wire) begin() (silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.settled {
		return false
	}
	if w.reads++; w.stallAt > 0 && w.reads >= w.stallAt {
		w.silent = true
	}
	return w.silent
}

// socket is a network connection of a wire.
type socket struct {
	net.Conn
	wire  *wire
	once  sync.Once
	ended chan struct{}
}

// Read reads, or waits until the socket is closed if the server has fallen silent.
func (s *socket) Read(b []byte) (int, error) {
	if s.wire.begin() {
		s.wire.stalled()
		<-s.ended
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}
	}
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.wire.mu.Lock()
		s.wire.last = s
		s.wire.mu.Unlock()
	}
	return n, err
}

// Close closes the socket, once.
func (s *socket) Close() (err error) {
	s.once.Do(func() {
		close(s.ended)
		err = s.Conn.Close()
		s.wire.mu.Lock()
		defer s.wire.mu.Unlock()
		s.wire.sockets = slices.DeleteFunc(s.wire.sockets, func(other *socket) bool { return other == s })
	})
	return err
}

// rawSocket is a socket that can be looked at.
type rawSocket struct {
	*socket
	raw syscall.Conn
}

// SyscallConn implements [syscall.Conn].
func (s rawSocket) SyscallConn() (syscall.RawConn, error) {
	s.wire.mu.Lock()
	s.wire.looked++
	s.wire.mu.Unlock()
	return s.raw.SyscallConn()
}
