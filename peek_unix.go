//go:build unix

package sqlrotate

import (
	"errors"
	"syscall"
)

// peek looks at what has been sent on an idle connection, without reading it and without
// waiting.
func peek(conn syscall.Conn) peeked {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peekUnknown
	}
	found := peekUnknown
	// Not raw.Read: that waits for whoever else reads. Sockets of package net don't block.
	err = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		switch {
		case n > 0:
			found = peekPending
		case err == nil:
			found = peekOver // the server has closed it
		case errors.Is(err, syscall.EAGAIN):
			found = peekQuiet
		case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.EINTR):
		default:
			found = peekOver
		}
	})
	if err != nil {
		return peekOver // it is closed here
	}
	return found
}
