// Coverage: what has happened to sessions in which states.

package sim

import (
	"fmt"
	"strings"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// happening is what can happen to a session: an event that names it, a method that is
// called for it, or an event that concerns all.
type happening uint8

const (
	loginSucceeded happening = iota
	loginRefused
	loginFailed
	loginAbandoned
	givenBack
	ended
	asked
	held
	released
	handOut
	bind
	credentialRead
	readFailed
	poolLimit
	poolClosed
	connectorClosed
	numHappenings
)

var happeningNames = [numHappenings]string{ //nolint:gochecknoglobals // a table
	"login succeeded", "login refused", "login failed", "login abandoned", "given back", "ended", "asked", "held", "released",
	"hand out", "bind", "credential read", "read failed", "pool limit", "pool closed", "closed",
}

const numStates = int(rotation.Closing) + 1

// Pairs counts what happened to sessions in which states.
type Pairs [numStates][numHappenings]int

// Add adds other's counts.
func (p *Pairs) Add(other *Pairs) {
	for i := range p {
		for j := range p[i] {
			p[i][j] += other[i][j]
		}
	}
}

func (p *Pairs) note(s *rotation.State, h happening, id rotation.SessionID) {
	p[s.Session(id).State][h]++
}

// event notes an event that the core is about to be told of.
func (p *Pairs) event(w *world, ev rotation.Event) {
	one := func(h happening, id rotation.SessionID) { p.note(w.core, h, id) }
	all := func(h happening) {
		for id := range w.shell.conns {
			one(h, id)
		}
	}
	switch ev := ev.(type) {
	case rotation.LoginSucceeded:
		one(loginSucceeded, ev.Session)
	case rotation.LoginRefused:
		one(loginRefused, ev.Session)
	case rotation.LoginFailed:
		one(loginFailed, ev.Session)
	case rotation.LoginAbandoned:
		one(loginAbandoned, ev.Session)
	case rotation.GivenBack:
		one(givenBack, ev.Session)
	case rotation.Ended:
		one(ended, ev.Session)
	case rotation.Asked:
		if ev.Ask.Session != 0 {
			one(asked, ev.Ask.Session)
		}
	case rotation.Held:
		one(held, ev.Session)
	case rotation.Released:
		one(released, ev.Session)
	case rotation.CredentialRead:
		all(credentialRead)
	case rotation.ReadFailed:
		all(readFailed)
	case rotation.PoolLimit:
		all(poolLimit)
	case rotation.PoolClosed:
		all(poolClosed)
	case rotation.Closed:
		all(connectorClosed)
	}
}

// reachable says which pairs a shell that keeps its word can bring about. What it learns
// of a login it says once; a session that is over may still be told of.
func reachable(s rotation.SessionState, h happening) bool {
	switch h {
	case loginSucceeded, loginRefused, loginFailed, loginAbandoned, bind:
		return s == rotation.LoggingIn
	case givenBack:
		return s == rotation.Promised
	case handOut:
		return s == rotation.Promised || s == rotation.NoSession
	case ended:
		return s != rotation.LoggingIn && s != rotation.NoSession
	case asked:
		return s == rotation.Asking || s == rotation.NoSession
	case held:
		return s.InPool()
	case released: // a session that is held isn't told to go
		return s == rotation.Pooled || s == rotation.NoSession
	default:
		return s != rotation.NoSession
	}
}

// Coverage returns how many of the reachable pairs were reached, and says which were not.
func (p *Pairs) Coverage() (share float64, missing []string) {
	reached, all := 0, 0
	for i := range p {
		for h := range numHappenings {
			s := rotation.SessionState(i)
			if !reachable(s, h) {
				continue
			}
			all++
			if p[i][h] > 0 {
				reached++
			} else {
				missing = append(missing, fmt.Sprintf("%v: %s", s, happeningNames[h]))
			}
		}
	}
	return float64(reached) / float64(all), missing
}

// String is a table.
func (p *Pairs) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s", "")
	for i := range p {
		fmt.Fprintf(&b, "%11v", rotation.SessionState(i))
	}
	for h := range numHappenings {
		fmt.Fprintf(&b, "\n%-16s", happeningNames[h])
		for i := range p {
			switch n := p[i][h]; {
			case n > 0:
				fmt.Fprintf(&b, "%11d", n)
			case reachable(rotation.SessionState(i), h):
				fmt.Fprintf(&b, "%11s", "never")
			default:
				fmt.Fprintf(&b, "%11s", "")
			}
		}
	}
	return b.String()
}
