// Package tokentest stands in for a cloud's token service: a directory (LDAP) that a real
// PostgreSQL asks whether a password is right, at each login and never again, as it asks
// PAM in RDS. A test says which passwords are.
//
// Nothing here imports testing.
package tokentest

import (
	"bufio"
	"context"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// TB is the part of testing.TB that Serve needs.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// prefix begins the names that PostgreSQL asks for.
const prefix = "cn="

// Serve starts a directory that lives until the test ends, and returns the line of
// pg_hba.conf that has PostgreSQL ask it about the logins of role. Passwords arrive
// there in the clear. right may be called from several goroutines at a time.
func Serve(tb TB, role string, right func(password string) bool) (hba string) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("tokentest: %v", err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				if err := serve(conn, role, right); err != nil {
					tb.Errorf("tokentest: %v", err)
				}
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		conns.Wait() // until PostgreSQL has hung up, which it does at the end of each login
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return fmt.Sprintf(`host all %s all ldap ldapserver=127.0.0.1 ldapport=%s ldapprefix="%s"`, role, port, prefix)
}

// message is an LDAPMessage of RFC 4511.
type message struct {
	ID int
	Op asn1.RawValue
}

// Operations and results of RFC 4511.
const (
	bindRequest        = 0
	bindResponse       = 1
	unbindRequest      = 2
	success            = 0
	invalidCredentials = 49
)

func serve(conn net.Conn, role string, right func(string) bool) error {
	r := bufio.NewReader(conn)
	for {
		m, err := read(r)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.Op.Class != asn1.ClassApplication || m.Op.Tag == unbindRequest:
			return nil
		case m.Op.Tag != bindRequest:
			return fmt.Errorf("operation %d is not known", m.Op.Tag)
		}
		name, password, err := bind(m.Op.Bytes)
		if err != nil {
			return err
		}
		code := invalidCredentials
		if strings.EqualFold(name, prefix+role) && right(password) {
			code = success
		}
		answer, err := response(m.ID, code)
		if err != nil {
			return err
		}
		if _, err := conn.Write(answer); err != nil {
			return nil //nolint:nilerr // the client that asks has gone: it gave its login up
		}
	}
}

// read reads a message.
func read(r *bufio.Reader) (message, error) {
	var m message
	head, err := r.Peek(2)
	if err != nil {
		return m, io.EOF
	}
	size := 2 + int(head[1])
	if n := int(head[1]) - 0x80; n > 0 { // the length is in the next n bytes
		if head, err = r.Peek(2 + n); err != nil {
			return m, err
		}
		size = 0
		for _, b := range head[2:] {
			size = size<<8 | int(b)
		}
		size += 2 + n
	}
	whole := make([]byte, size)
	if _, err := io.ReadFull(r, whole); err != nil {
		return m, err
	}
	_, err = asn1.Unmarshal(whole, &m)
	return m, err
}

// bind returns what a BindRequest holds.
func bind(request []byte) (name, password string, err error) {
	var version int
	rest, err := asn1.Unmarshal(request, &version)
	if err != nil {
		return "", "", err
	}
	var dn []byte
	if rest, err = asn1.Unmarshal(rest, &dn); err != nil {
		return "", "", err
	}
	var simple asn1.RawValue
	if _, err = asn1.Unmarshal(rest, &simple); err != nil {
		return "", "", err
	}
	return string(dn), string(simple.Bytes), nil
}

// response returns a BindResponse.
func response(id, code int) ([]byte, error) {
	body, err := asn1.Marshal(struct {
		Code    asn1.Enumerated
		DN      []byte
		Message []byte
	}{Code: asn1.Enumerated(code)})
	if err != nil {
		return nil, err
	}
	body[0] = byte(asn1.ClassApplication<<6 | 0x20 | bindResponse)
	return asn1.Marshal(message{ID: id, Op: asn1.RawValue{FullBytes: body}})
}
