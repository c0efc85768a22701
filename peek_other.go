//go:build !unix

package sqlrotate

import "syscall"

// peek can't look at a connection on this platform.
func peek(syscall.Conn) peeked { return peekUnknown }
