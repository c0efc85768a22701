// The server's log, and what it says about logins.

package pgtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// logPrefix is what each line begins with: Unix time, process, SQLSTATE, the
// client's address and the role, before a line such as
//
//	LOG:  connection authorized: user=app database=postgres
const logPrefix = "%n %p %e %h [%u] "

// Login is one attempt to log in that the server decided.
type Login struct {
	Time     time.Time // of the decision, by the server's clock
	PID      int       // the server's process for this connection
	SQLState string    // why it was refused; empty: the role is in
}

// Refused reports whether the server turned the credential down: SQLSTATE class
// 28, or 42501 for a role that may not connect. Other reasons, such as too many
// sessions (53300), say nothing about it.
func (l Login) Refused() bool {
	return strings.HasPrefix(l.SQLState, "28") || l.SQLState == "42501"
}

// Log returns the server's log so far. There is no password in it.
func (s *Server) Log() (string, error) {
	if s.proc == nil {
		return "", ErrNotOurs
	}
	content, err := os.ReadFile(s.proc.logFile())
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	return string(content), nil
}

// Logins returns the logins that the server decided for a role, existing or not,
// in order. The server logs a decision before it sends it. A client that goes
// away in the middle of a login is not in the list.
func (s *Server) Logins(role string) ([]Login, error) {
	log, err := s.Log()
	if err != nil {
		return nil, err
	}
	return parseLogins(log, role), nil
}

// LoginAttempts counts the logins of a role that succeeded, and those that were
// refused as in [Login.Refused].
func (s *Server) LoginAttempts(role string) (ok, refused int, err error) {
	logins, err := s.Logins(role)
	for _, l := range logins {
		switch {
		case l.SQLState == "":
			ok++
		case l.Refused():
			refused++
		}
	}
	return ok, refused, err
}

// parseLogins finds the logins of a role. "Authorized" is said of a role with the
// right password; that it may not log in, or not here, or that there are too many
// of it, comes right after, as a FATAL of the same process. Once it is in, a FATAL
// with such a code can't happen: those are what LOGIN is checked for.
func parseLogins(log, role string) []Login {
	var logins []Login
	open := make(map[int]int) // process to index in logins, while it is connected
	for line := range strings.Lines(log) {
		fields := strings.SplitN(line, " ", 5)
		if len(fields) < 5 {
			continue
		}
		message, found := strings.CutPrefix(fields[4], "["+role+"] ")
		pid, err := strconv.Atoi(fields[1])
		if !found || err != nil {
			continue
		}
		seconds, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			continue
		}
		at, state := time.UnixMilli(int64(seconds*1000+0.5)), fields[2]
		i, connected := open[pid]
		switch {
		case strings.HasPrefix(message, "LOG:  connection authorized: "):
			open[pid] = len(logins)
			logins = append(logins, Login{Time: at, PID: pid})
		case strings.HasPrefix(message, "LOG:  disconnection: "):
			delete(open, pid)
		case !strings.HasPrefix(message, "FATAL:  "):
		case !connected:
			logins = append(logins, Login{Time: at, PID: pid, SQLState: state})
		case loginOnly(state):
			logins[i].SQLState = state
			delete(open, pid)
		}
	}
	return logins
}

// loginOnly reports whether a FATAL with this SQLSTATE is the end of a login, and
// not of a session.
func loginOnly(state string) bool {
	switch state {
	case "42501", "3D000", "53300", "55000":
		return true
	}
	return strings.HasPrefix(state, "28")
}
