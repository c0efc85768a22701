// Package sim runs the core through half a minute of somebody's bad day: a server, a
// source, pools as database/sql has them, callers, two clocks, and a shell that does what
// it is told a little late. It is deterministic: a number makes a Schedule, and a
// Schedule a run. After each step it holds the core's books against its own; what it
// finds it reduces to the shortest schedule that shows it.
//
// `go test ./internal/rotation/sim -sim.from 4711 -sim.n 100000` runs others than the usual
// ones, and `-sim.from 4711 -sim.trace -v` tells what happens in one.
//
// Only tests import it, and the benchmark of a fleet. A Schedule, the Outside that it happens
// to and its Excuses know nothing of how the connector and the pools are modelled:
// TestSoakLedgersAgree of the root package plays the same ones to a whole connector and
// database/sql.
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Length is how long a schedule runs.
const Length = 30 * time.Second

// Schedule is what happens in a run.
type Schedule struct {
	Seed   uint64
	Config rotation.Config
	Lease  time.Duration // how long a credential or a token is valid; zero: it has no end
	Shared bool          // two users in turn, rather than another one each time
	Pools  []Pool
	Moves  []Move // in order
}

// Pool is a pool and its callers.
type Pool struct {
	Size, Idle int
	Workers    int
	Think      time.Duration // the longest that a worker rests
	Busy       time.Duration // how long each query takes; zero: mostly not long
	ByAge      bool
}

// Kind is what a Move does.
type Kind uint8

// What may happen. What lasts, lasts For; By is how early or late, or how far.
const (
	Rotate      Kind = iota // a successor is published; By: the server has it that much later
	RotateDud               // one that the server refuses for For
	Back                    // the source goes back to the predecessor, for For
	Renew                   // the lease is renewed
	DropOld                 // the server drops the predecessor's role
	DropCurrent             // the server drops the latest role; its sessions fail their queries
	SourceFails
	SourceSlow
	SourceHangs
	Restless // the source gives another login at each read; N is 1 if the server accepts them
	Flaps    // the source alternates between the last two at each read
	ServerDown
	ServerSlow
	ServerFull
	Refusing  // the server refuses everything
	Unclear   // the same with a code that says no for other reasons as well
	Crash     // N of ten sessions break
	Burst     // N callers at once
	Impatient // callers who give up after By, N of them one after the other
	Resize    // the first pool's limit becomes N, for For
	Hold      // one caller keeps a connection for For
	Keep      // the same, and after By it is held out of the drain
	Suspend   // the machine sleeps for For
	WallStep  // the wall clock is set, by By
	ClosePool // the last pool is closed, if there are two
	Quiet     // nobody asks for anything for For
	numKinds
)

var kindNames = [numKinds]string{ //nolint:gochecknoglobals // a table
	"Rotate", "RotateDud", "Back", "Renew", "DropOld", "DropCurrent", "SourceFails", "SourceSlow", "SourceHangs", "Restless",
	"Flaps", "ServerDown", "ServerSlow", "ServerFull", "Refusing", "Unclear", "Crash", "Burst", "Impatient", "Resize", "Hold",
	"Keep", "Suspend", "WallStep", "ClosePool", "Quiet",
}

// String names the kind.
func (k Kind) String() string { return kindNames[k] }

// Move is one thing that happens.
type Move struct {
	At   time.Duration
	Kind Kind
	For  time.Duration
	By   time.Duration
	N    int
}

// String describes a schedule so that it can be understood without running it.
func (s Schedule) String() string {
	var b strings.Builder
	c := s.Config
	fmt.Fprintf(&b, "seed %d: kind %d overlap %v lag %v in use %v lifetime %v drain %v retry %v notified %v query %v ask %v lease %v shared %v\n",
		s.Seed, c.Kind, c.Overlap, c.Lag, c.MaxInUse, c.MaxLifetime, c.DrainTime, c.RetryTimeout, c.Notified, c.AskByQuery, c.AskAfter, s.Lease, s.Shared)
	for _, p := range s.Pools {
		fmt.Fprintf(&b, "  pool of %d, idle %d, by age %v; %d workers, think %v\n", p.Size, p.Idle, p.ByAge, p.Workers, p.Think)
	}
	for _, m := range s.Moves {
		fmt.Fprintf(&b, "  %8v %v for %v by %v n %d\n", m.At.Round(time.Millisecond), m.Kind, m.For.Round(time.Millisecond), m.By.Round(time.Millisecond), m.N)
	}
	return b.String()
}

const (
	ms  = time.Millisecond
	sec = time.Second
)

// New makes the schedule of a number: at least one rotation and two faults.
func New(seed uint64) Schedule {
	g := gen{rand.New(rand.NewPCG(seed, 1))}
	s := Schedule{Seed: seed, Config: g.config(seed), Shared: g.one(3)}
	switch {
	case s.Config.Kind == rotation.LoginTokens:
		s.Lease = g.between(2*sec, 10*sec)
	case s.Config.Kind == rotation.Overlapping && g.one(4):
		s.Lease = g.between(9*sec, 14*sec)
	}
	for range 1 + g.IntN(2) {
		size := 1 + g.IntN(20)
		s.Pools = append(s.Pools, Pool{
			Size: size, Idle: 1 + g.IntN(size), Workers: 1 + g.IntN(size+3), ByAge: !g.one(4),
			Think: g.between(50*ms, 5*sec/2),
		})
	}
	least := 5 * sec
	if s.Shared {
		least = s.Config.Overlap + 2*sec // until then the other user's password isn't changed
	}
	for t := g.between(sec, 6*sec); t < Length-4*sec; t += g.between(least, 12*sec) {
		s.Moves = append(s.Moves, g.rotation(s, t))
	}
	for range 2 + g.IntN(5) {
		s.Moves = append(s.Moves, g.fault(s))
	}
	if s.Lease > 0 && s.Config.Kind == rotation.Overlapping {
		for t := s.Lease / 2; t < Length; t += s.Lease / 3 {
			s.Moves = append(s.Moves, Move{At: t, Kind: Renew})
		}
	}
	slices.SortStableFunc(s.Moves, func(a, b Move) int { return int(a.At - b.At) })
	return s
}

type gen struct{ *rand.Rand }

// one is true once in n times.
func (g gen) one(n int) bool { return g.IntN(n) == 0 }

func (g gen) between(from, to time.Duration) time.Duration {
	return from + time.Duration(g.Int64N(int64(to-from)))
}

func (g gen) config(seed uint64) rotation.Config {
	c := rotation.Config{
		Kind: rotation.Overlapping, Overlap: 8 * sec, Lag: sec, MaxInUse: sec, MaxLifetime: 6 * sec,
		DrainTime: g.between(0, 4*sec), RetryTimeout: 6 * sec, Notified: g.one(2), AskAfter: g.between(sec, 6*sec), AskByQuery: !g.one(4), Seed: seed,
	}
	switch g.IntN(5) {
	case 0:
		c.Kind, c.Overlap, c.Lag, c.MaxLifetime = rotation.InPlace, 0, 0, 0
	case 1:
		c.Kind, c.Overlap, c.Lag, c.MaxLifetime = rotation.LoginTokens, 0, 0, 0
	}
	if c.MaxLifetime == 0 && g.one(2) {
		c.MaxLifetime = g.between(5*sec, 20*sec)
	}
	return c
}

func (g gen) rotation(s Schedule, at time.Duration) Move {
	m := Move{At: at, Kind: Rotate}
	if s.Config.Kind == rotation.InPlace {
		m.By = g.between(-3*sec, 2*sec) // the secret first, or the server
		return m
	}
	switch g.IntN(8) {
	case 0:
		m.By = g.between(0, 2*sec)
	case 1:
		m.Kind, m.For = RotateDud, g.between(sec, 6*sec)
	case 2:
		m.Kind, m.For = Back, g.between(100*ms, 3*sec)
	}
	return m
}

func (g gen) faultKind() Kind {
	k := DropOld
	for range g.IntN(int(numKinds - DropOld)) {
		k++
	}
	return k
}

func (g gen) fault(s Schedule) Move {
	m := Move{At: g.between(sec, Length-3*sec), Kind: g.faultKind()}
	m.For = g.between(100*ms, 5*sec)
	switch m.Kind {
	case Crash:
		m.N = 1 + g.IntN(10)
	case Burst:
		m.N = 5 + g.IntN(40)
	case Impatient:
		m.N, m.By = 1+g.IntN(30), g.between(0, 30*ms)
	case Resize:
		m.N = 1 + g.IntN(s.Pools[0].Size)
	case Restless:
		m.N = g.IntN(2)
	case Hold, Keep:
		m.For = g.between(sec, 10*sec)
		m.By = g.between(0, m.For)
	case WallStep:
		m.By = g.between(-20*sec, 20*sec)
	case Quiet:
		m.For = g.between(3*sec, 20*sec)
	case ServerSlow:
		m.By = g.between(500*ms, 3*sec)
	}
	return m
}
