//go:build unix

package pgstub

import (
	"net"
	"syscall"
)

// left reports whether the client at the other end has closed the connection or said
// goodbye, whoever may be about to read that.
func left(conn net.Conn) (gone bool) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		var next [1]byte
		n, _, err := syscall.Recvfrom(int(fd), next[:], syscall.MSG_PEEK)
		switch {
		case n > 0:
			gone = next[0] == 'X'
		case err == nil:
			gone = true
		default:
			gone = err != syscall.EAGAIN && err != syscall.EINTR
		}
	})
	return gone || err != nil
}
