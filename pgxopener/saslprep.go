// Passwords outside of ASCII: what PostgreSQL makes of them for SCRAM.

package pgxopener

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/stringprep"
)

// saslprep returns what a password is for SCRAM: normalised by SASLprep (RFC 4013), or, if
// it is not UTF-8 or has what that prohibits, as it is. PostgreSQL does the same when a
// password is set. (pgx normalises by another, newer rule, which leaves some of them as
// they are.)
func saslprep(password string) string {
	if !utf8.ValidString(password) {
		return password
	}
	profile := stringprep.SASLprep
	// As PostgreSQL has it, a zero-width space is a space before it is nothing.
	profile.Mappings = append([]stringprep.Mapping{spaces()}, profile.Mappings...)
	prepared, err := profile.Prepare(password)
	if err != nil || prepared == "" {
		return password
	}
	return prepared
}

// spaces maps the spaces of RFC 3454, table C.1.2, to a space.
func spaces() stringprep.Mapping {
	m := stringprep.Mapping{}
	for _, r := range "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u202f\u205f\u3000" {
		m[r] = []rune{' '}
	}
	return m
}

// prepareForSCRAM has a login use prepared in place of its password if the server asks for
// SCRAM, and only then: for md5 and in clear text the password goes as it is.
func prepareForSCRAM(cfg *pgconn.Config, prepared string) {
	password, connected, build := cfg.Password, cfg.AfterNetConnect, cfg.BuildFrontend
	var attempt *pgconn.Config // under way: pgx has made a copy
	cfg.AfterNetConnect = func(ctx context.Context, cfg *pgconn.Config, conn net.Conn) (net.Conn, error) {
		attempt, cfg.Password = cfg, password
		if connected != nil {
			return connected(ctx, cfg, conn)
		}
		return conn, nil
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		cfg := attempt
		return build(&authentication{Reader: r, sasl: func() { cfg.Password = prepared }}, w)
	}
}

// authentication reads what a server says, and calls sasl when it asks for it. It looks at
// each message up to the first request for authentication.
type authentication struct {
	io.Reader
	sasl func()

	head [9]byte // of the message: kind, length, and the kind of request
	n    int     // bytes of head that are there
	skip int     // bytes of the message that follow
	done bool
}

// Read implements [io.Reader].
func (a *authentication) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	for rest := p[:n]; len(rest) > 0 && !a.done; {
		rest = a.look(rest)
	}
	return n, err
}

// look looks at some bytes, and returns those after them.
func (a *authentication) look(b []byte) []byte {
	if skipped := min(a.skip, len(b)); skipped > 0 {
		a.skip -= skipped
		return b[skipped:]
	}
	a.head[a.n] = b[0]
	a.n++
	b = b[1:]
	if a.n < 5 {
		return b
	}
	const request, sasl = 'R', 10
	length := int(binary.BigEndian.Uint32(a.head[1:]))
	switch {
	case a.head[0] != request || length < 8:
		a.n, a.skip = 0, max(0, length-4)
	case a.n == len(a.head):
		a.done = true
		if binary.BigEndian.Uint32(a.head[5:]) == sasl {
			a.sasl()
		}
	}
	return b
}
