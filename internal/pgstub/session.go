// A session: what it answers.

package pgstub

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
)

// The requests that come in place of a startup message.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

// maxMessage is the longest message that is taken.
const maxMessage = 1 << 20

// textOID is the type of every column and parameter.
const textOID = 25

// session is one connection. Its fields are set before it is let in.
type session struct {
	server         *Server
	conn           net.Conn
	in             *bufio.Reader
	out            []byte // what is to be sent
	user, database string

	prepared map[string]string // statements by their names
	bound    string            // the statement of the last Bind
	open     byte              // as ReadyForQuery says it: I, or T in a transaction
}

func newSession(s *Server, conn net.Conn) *session {
	return &session{server: s, conn: conn, in: bufio.NewReaderSize(conn, 512), open: 'I'}
}

// run answers until the client leaves, or says what isn't understood.
func (x *session) run() {
	if x.start() != nil {
		return
	}
	for {
		kind, body, err := x.receive()
		if err != nil || kind == 'X' || x.answer(kind, body) != nil {
			return
		}
	}
}

var errNotUnderstood = errors.New("pgstub: a message that isn't understood")

// start lets a client in.
func (x *session) start() error {
	for {
		body, err := x.body()
		switch {
		case err != nil:
			return err
		case len(body) < 4:
			return errNotUnderstood
		}
		switch binary.BigEndian.Uint32(body) {
		case sslRequest, gssRequest:
			if _, err := x.conn.Write([]byte{'N'}); err != nil {
				return err
			}
			continue
		case cancelRequest:
			return io.EOF
		}
		fields := strings.Split(string(body[4:]), "\x00")
		for i := 0; i+1 < len(fields); i += 2 {
			switch fields[i] {
			case "user":
				x.user = fields[i+1]
			case "database":
				x.database = fields[i+1]
			}
		}
		break
	}
	x.server.enter(x)
	x.say('R', be32(0)) // AuthenticationOk
	for _, parameter := range []string{
		"server_version\x0015.0 (stub)\x00", "client_encoding\x00UTF8\x00", "DateStyle\x00ISO, MDY\x00",
		"integer_datetimes\x00on\x00", "standard_conforming_strings\x00on\x00", "TimeZone\x00UTC\x00",
	} {
		x.say('S', []byte(parameter))
	}
	x.say('K', be32(1), be32(1)) // a key for cancellations
	return x.ready()
}

// answer answers one message.
func (x *session) answer(kind byte, body []byte) error {
	switch kind {
	case 'Q':
		query, _ := text(body)
		x.server.queried(x)
		if isEmpty(query) {
			x.say('I')
		} else {
			if rows(query) {
				x.columns()
			}
			x.execute(query)
		}
		return x.ready()
	case 'P': // Parse
		name, rest := text(body)
		query, _ := text(rest)
		if x.prepared == nil {
			x.prepared = map[string]string{}
		}
		x.prepared[name] = query
		x.say('1')
	case 'D': // Describe
		return x.describe(body)
	case 'B': // Bind
		_, rest := text(body)
		name, _ := text(rest)
		x.bound = x.prepared[name]
		x.say('2')
	case 'E': // Execute
		x.server.queried(x)
		x.execute(x.bound)
	case 'C': // Close
		x.say('3')
	case 'H': // Flush
		return x.flush()
	case 'S': // Sync
		return x.ready()
	default:
		return errNotUnderstood
	}
	return nil
}

// describe describes a prepared statement, or what is bound.
func (x *session) describe(body []byte) error {
	if len(body) == 0 {
		return errNotUnderstood
	}
	query := x.bound
	if body[0] == 'S' {
		name, _ := text(body[1:])
		query = x.prepared[name]
		n := strings.Count(query, "$") // as long as each is used once
		types := make([]byte, 0, 2+4*n)
		types = binary.BigEndian.AppendUint16(types, uint16(n)) //nolint:gosec // a handful
		for range n {
			types = append(types, be32(textOID)...)
		}
		x.say('t', types)
	}
	if rows(query) {
		x.columns()
	} else {
		x.say('n')
	}
	return nil
}

// execute says what comes of a statement: one row, with the user's name where that is asked
// for, or nothing.
func (x *session) execute(query string) {
	verb := strings.ToUpper(strings.TrimRight(strings.Fields(query + " ?")[0], ";"))
	switch verb {
	case "BEGIN":
		x.open = 'T'
	case "COMMIT", "ROLLBACK":
		x.open = 'I'
	}
	if !rows(query) {
		x.say('C', []byte(verb+"\x00"))
		return
	}
	value := "1"
	if strings.Contains(query, "current_user") {
		value = x.user
	}
	x.say('D', []byte{0, 1}, be32(uint32(len(value))), []byte(value)) //nolint:gosec // a name
	x.say('C', []byte("SELECT 1\x00"))
}

// columns describes the rows: one column, in text.
func (x *session) columns() {
	x.say('T', []byte{0, 1}, []byte("value\x00"), be32(0), []byte{0, 0}, be32(textOID), []byte{0xff, 0xff}, be32(0xffffffff), []byte{0, 0})
}

func rows(query string) bool {
	return len(query) >= 6 && strings.EqualFold(query[:6], "select")
}

func isEmpty(query string) bool { return strings.Trim(query, "; \t\n") == "" }

// ready says that the next query may come.
func (x *session) ready() error {
	x.say('Z', []byte{x.open})
	return x.flush()
}

// say adds a message to what is to be sent.
func (x *session) say(kind byte, parts ...[]byte) {
	n := 4
	for _, p := range parts {
		n += len(p)
	}
	x.out = append(append(x.out, kind), be32(uint32(n))...)
	for _, p := range parts {
		x.out = append(x.out, p...)
	}
}

func (x *session) flush() error {
	_, err := x.conn.Write(x.out)
	x.out = x.out[:0]
	return err
}

// receive returns the next message.
func (x *session) receive() (kind byte, body []byte, err error) {
	if kind, err = x.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	body, err = x.body()
	return kind, body, err
}

// body returns what follows a length.
func (x *session) body() ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(x.in, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < 4 || n > maxMessage {
		return nil, errNotUnderstood
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(x.in, body)
	return body, err
}

// text returns what is before the first NUL, and what is after it.
func text(body []byte) (string, []byte) {
	before, after, _ := bytes.Cut(body, []byte{0})
	return string(before), after
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
