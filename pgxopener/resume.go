// A session that is logged in already, for who would log in.

package pgxopener

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/sqlrotate/sqlrotate"
)

// resume has the login with cfg, which follows, lead to s.
//
// pgxpool can't be given a connection, it makes each by itself. So it is left to do so, and
// dials one that is logged in: its startup message goes no further, and is answered as the
// server has answered the real one. What there was to check or to protect at the login has
// been, and is left out.
//
// If ctx is done before the login begins the session is closed.
func resume(ctx context.Context, s *sqlrotate.Session, cfg *pgx.ConnConfig) error {
	conn, ok := s.Conn().(*stdlib.Conn)
	if !ok {
		return errors.New("pgxopener: the connection is not the Opener's")
	}
	login, err := hijack(ctx, conn.Conn().PgConn())
	if err != nil {
		_ = conn.Close()
		return err
	}
	answer, err := startupAnswer(login)
	if err != nil {
		_ = login.Conn.Close()
		return err
	}
	r := &resumed{Conn: login.Conn, session: s, answer: answer, idleSince: time.Now()}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	var begun atomic.Bool
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if begun.CompareAndSwap(false, true) {
			stop()
			return r, nil
		}
		return &cancelling{addr: r.Conn, request: func() error { return cancelQuery(ctx, login) }}, nil
	}
	cfg.User, cfg.Password = s.Username(), ""
	cfg.LookupFunc, cfg.Fallbacks = asItIs, nil
	cfg.TLSConfig, cfg.SSLCertMode = nil, ""
	cfg.RequireAuth, cfg.ChannelBinding = "", ""
	cfg.AfterNetConnect, cfg.ValidateConnect = nil, nil
	return nil
}

// hijack takes what conn is made of, without the password.
func hijack(ctx context.Context, conn *pgconn.PgConn) (*pgconn.HijackedConn, error) {
	if err := conn.SyncConn(ctx); err != nil {
		return nil, err
	}
	login, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	login.Config.Password, login.Frontend = "", nil
	return login, nil
}

// startupAnswer is what the server has said after it accepted the login, as of now.
func startupAnswer(login *pgconn.HijackedConn) (answer []byte, err error) {
	messages := []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}
	for name, value := range login.ParameterStatuses {
		messages = append(messages, &pgproto3.ParameterStatus{Name: name, Value: value})
	}
	if len(login.SecretKey) > 0 {
		messages = append(messages, &pgproto3.BackendKeyData{ProcessID: login.PID, SecretKey: login.SecretKey})
	}
	messages = append(messages, &pgproto3.ReadyForQuery{TxStatus: login.TxStatus})
	for _, m := range messages {
		if answer, err = m.Encode(answer); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// resumed is a network connection to a server that has accepted a login, for a client that
// hasn't yet begun one.
type resumed struct {
	net.Conn
	session *sqlrotate.Session
	swept   atomic.Bool // it is the pool's own that is released next

	idleSince time.Time // when the application last gave it back; for whoever has acquired it

	begun   bool   // the startup message is over
	startup []byte // what has been written of it
	answer  []byte // what hasn't been read of the answer
}

// resumedOf returns what the network connection of a pool's connection is.
func resumedOf(conn *pgx.Conn) *resumed {
	return conn.PgConn().Conn().(*resumed) //nolint:forcetypeassert // see resume
}

// Write writes to the connection what follows the startup message.
func (r *resumed) Write(b []byte) (int, error) {
	if r.begun {
		return r.Conn.Write(b)
	}
	r.startup = append(r.startup, b...)
	if n := len(r.startup); n >= 4 && n >= int(binary.BigEndian.Uint32(r.startup)) {
		r.begun, r.startup = true, nil
	}
	return len(b), nil
}

// Read reads the answer to the startup message, and then from the connection.
func (r *resumed) Read(b []byte) (int, error) {
	if len(r.answer) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.answer)
	r.answer = r.answer[n:]
	return n, nil
}

// NetConn returns the connection that is wrapped, a *tls.Conn where there is TLS.
func (r *resumed) NetConn() net.Conn { return r.Conn }

// cancelQuery asks the server to cancel what login is doing, over TLS if login is.
func cancelQuery(ctx context.Context, login *pgconn.HijackedConn) error {
	conn, err := pgconn.Construct(login)
	if err != nil {
		return err
	}
	return conn.CancelRequest(ctx)
}

// cancelling is what a resumed connection's client dials to cancel a query: another request
// goes out in place of its own, because it doesn't know how the server is dialled.
type cancelling struct {
	addr    net.Conn
	request func() error
}

// cancelCode is where a request to cancel has the version of the protocol.
const cancelCode = 80877102

// Write makes the request, once b is one.
func (c *cancelling) Write(b []byte) (int, error) {
	if len(b) < 8 || binary.BigEndian.Uint32(b[4:]) != cancelCode {
		return 0, errors.New("pgxopener: a connection of a pool can be used for no other one")
	}
	if err := c.request(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read says that the server has closed the connection, as it does after such a request.
func (*cancelling) Read([]byte) (int, error) { return 0, io.EOF }

func (*cancelling) Close() error                     { return nil }
func (c *cancelling) LocalAddr() net.Addr            { return c.addr.LocalAddr() }
func (c *cancelling) RemoteAddr() net.Addr           { return c.addr.RemoteAddr() }
func (*cancelling) SetDeadline(time.Time) error      { return nil }
func (*cancelling) SetReadDeadline(time.Time) error  { return nil }
func (*cancelling) SetWriteDeadline(time.Time) error { return nil }
