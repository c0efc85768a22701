package sqlrotate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
	"github.com/sqlrotate/sqlrotate/internal/rotation/sim"
)

var (
	ledgersFrom = flag.Uint64("ledgers.from", 1, "the first of the simulator's seeds to play")         //nolint:gochecknoglobals // a flag
	ledgersN    = flag.Uint64("ledgers.n", 200, "how many to play with the other tests")               //nolint:gochecknoglobals // a flag
	ledgersSay  = flag.Bool("ledgers.trace", false, "say what happens, with one schedule and with -v") //nolint:gochecknoglobals // a flag
)

// The schedules that the simulator runs with a model of database/sql are played to the
// real one, and a whole connector. What the core has in its ledger is at any settled
// moment what the server, the network and the pools have in theirs. (One again, as far as
// goroutines let it be the same: -run TestSoakLedgersAgree -ledgers.from 4711 -ledgers.n 1
// -ledgers.trace -v.)
func TestSoakLedgersAgree(t *testing.T) {
	t.Parallel()
	var seeds atomic.Uint64
	seeds.Store(*ledgersFrom)
	last := *ledgersFrom + *ledgersN
	length := soakFor(t, 0)
	if length > 0 {
		seeds.Store(soakSeed(t))
	}
	end := time.Now().Add(length)
	for worker := range 2 {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			for !t.Failed() {
				seed := seeds.Add(1) - 1
				if length > 0 && !time.Now().Before(end) || length == 0 && seed >= last {
					return
				}
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { play(t, sim.New(seed)) })
				})
			}
		})
	}
}

// stage is where a schedule of the simulator is played.
type stage struct {
	*testing.T
	sim.Schedule
	c      *Connector
	server *fakeServer
	pools  []*stagedPool
	hard   hardships
	start  time.Time
	asleep atomic.Int64 // how long the machine has slept in all
	set    atomic.Int64 // by how much its wall clock is wrong

	mu      sync.Mutex // guards what follows; nothing of the connector's is called under it
	outside *sim.Outside
	excuses sim.Excuses
	random  *rand.Rand
	changed chan struct{}
	quiet   time.Duration
	shut    bool            // everything is about to be closed
	over    bool            // and is
	odd     []time.Duration // when logins failed by chance
	books   outsideBooks
}

// hardships are what a schedule of the simulator knows nothing of: each is there in every
// fourth run or so.
type hardships struct {
	naps     bool // callbacks take their time, and ask the connector how it does
	panics   bool // the source does, now and then
	oddities bool // single logins fail for odd reasons
	spurious bool // single logins are refused for none
	idleTime bool // the pools close what is idle for long
	endless  bool // the pools may be of any size
	cached   bool // the source has a cache
}

// endure chooses hardships.
func (s *stage) endure() {
	for _, h := range []*bool{&s.hard.naps, &s.hard.panics, &s.hard.oddities, &s.hard.spurious, &s.hard.idleTime, &s.hard.endless, &s.hard.cached} {
		*h = s.chance(4)
	}
}

// outsideBooks are what the server has seen.
type outsideBooks struct {
	begun    int         // logins that went to the server
	refused  int         // logins and probe queries that it refused
	conns    []*fakeConn // that it let in
	sessions int         // that the connector says have ended
}

// stagedPool is a pool, with what database/sql asked of its connector and got.
type stagedPool struct {
	*sql.DB
	sim.Pool
	face *face

	mu      sync.Mutex
	opening int // calls of Connect
	got     int // connections
	has     []*fakeConn
	closed  bool
}

// doorman is a pool's connector, which notes what it is asked for and what it gives.
type doorman struct {
	*face
	pool *stagedPool
}

// Connect implements [driver.Connector].
func (w doorman) Connect(ctx context.Context) (driver.Conn, error) {
	if ctx.Value(borrowing{}) != nil {
		return w.face.Connect(ctx)
	}
	p := w.pool
	p.mu.Lock()
	p.opening++
	p.mu.Unlock()
	conn, err := w.face.Connect(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	if err == nil {
		p.got++
		p.has = append(p.has, conn.(*fakeConn))
	}
	return conn, err
}

// play plays a schedule.
func play(t *testing.T, plan sim.Schedule) {
	t.Helper()
	s := &stage{
		T: t, Schedule: plan, server: newFakeServer(), start: time.Now(),
		random: rand.New(rand.NewPCG(plan.Seed, 3)), changed: make(chan struct{}),
	}
	s.excuses.Schedule = plan
	s.mu.Lock()
	s.outside = sim.NewOutside(plan, s)
	s.mu.Unlock()
	s.server.takes, s.server.judge, s.server.runs = s.takes, s.judge, s.runs
	s.endure()
	s.connect()
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for _, p := range s.pools {
		for range p.Workers {
			workers.Go(func() { s.work(ctx, p) })
		}
	}
	for _, m := range plan.Moves {
		time.AfterFunc(m.At, func() { s.make(m) })
	}
	for s.now() < sim.Length && !t.Failed() {
		time.Sleep(s.between(50*time.Millisecond, 500*time.Millisecond))
		synctest.Wait()
		s.compare()
	}
	s.mu.Lock()
	s.shut = true
	s.outside.Calm()
	s.mu.Unlock()
	if s.chance(2) { // in the middle of everything
		s.closePools()
		stop()
		workers.Wait()
	} else {
		stop()
		workers.Wait()
		synctest.Wait()
		s.compare()
		s.closePools()
	}
	time.Sleep(20 * time.Second) // whatever is kept, a login that nobody answers included
	synctest.Wait()
	s.over = true
	s.compare()
	s.empty()
	if t.Failed() {
		t.Logf("%v%+v", plan, s.hard)
	}
}

// connect makes the connector and its pools.
func (s *stage) connect() {
	plan := s.Config
	cfg := Config{
		Source: s, Opener: openerOf(s), Dial: s.server.dial, Logger: slog.New(slog.DiscardHandler),
		DrainTime: orNegative(plan.DrainTime), RetryTimeout: plan.RetryTimeout, RoleCheck: plan.AskAfter, LoginTimeout: 5 * time.Second,
		Trace: s.trace(),
	}
	switch plan.Kind {
	case rotation.InPlace:
		cfg.Window, cfg.ConnMaxLifetime = InPlace(), plan.MaxLifetime
	case rotation.LoginTokens:
		cfg.Window, cfg.ConnMaxLifetime = LoginTokens(), plan.MaxLifetime
	default:
		cfg.Window = Window{Overlap: plan.Overlap, Lag: plan.Lag}
	}
	cfg.Window.MaxInUse = plan.MaxInUse
	if !plan.Notified {
		cfg.Source = SourceFunc(s.Credential)
	}
	if s.hard.cached {
		cached, err := NewCachedSource(cfg.Source, CacheOptions{MaxAge: 300 * time.Millisecond, Logger: cfg.Logger})
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { _ = cached.Close() })
		cfg.Source = cached
	}
	c, err := New(cfg)
	if err != nil {
		s.Fatal(err)
	}
	s.c = c
	now := c.now
	c.now = func() rotation.Now {
		n := now()
		n.Wall = n.Wall.Add(time.Duration(s.asleep.Load() + s.set.Load()))
		return n
	}
	for _, p := range s.Pools {
		w := &stagedPool{face: &face{c: c, id: c.newPoolID()}, Pool: p}
		w.DB = sql.OpenDB(doorman{w.face, w})
		if !s.hard.endless {
			w.SetMaxOpenConns(p.Size)
		}
		w.SetMaxIdleConns(p.Idle)
		if s.hard.idleTime {
			w.SetConnMaxIdleTime(s.between(500*time.Millisecond, 10*time.Second))
		}
		c.manage(w.DB, w.face.id)
		s.pools = append(s.pools, w)
	}
}

// trace counts the sessions that the connector says have ended.
func (s *stage) trace() *Trace {
	look := func() {
		if !s.hard.naps {
			return
		}
		_, _, _ = s.c.Stats(), s.c.CheckHealth(), s.c.Problems()
		time.Sleep(s.between(0, 20*time.Millisecond))
	}
	return &Trace{
		Login: func(LoginInfo) { look() },
		Closed: func(VersionStats, CloseReason, time.Duration) {
			look()
			s.mu.Lock()
			defer s.mu.Unlock()
			s.books.sessions++
		},
		Rotated:  func(v VersionStats) { s.say("rotated: %s", v.Username); look() },
		Proven:   func(v VersionStats) { s.say("proven: %s", v.Username); look() },
		Refused:  func(v VersionStats, err error) { s.say("refused: %s: %v", v.Username, err); look() },
		Outlived: func(VersionStats, time.Duration) { look() },
		Drained:  func(int, time.Duration) { look() },
	}
}

func orNegative(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// openerOf returns the opener of a stage, which has a question after roles if the schedule
// says so.
func openerOf(s *stage) Opener {
	o := &openerFunc{fakeServer: s.server, open: s.open}
	if s.Config.AskByQuery {
		return o
	}
	return struct{ Opener }{o}
}

// open logs in.
func (s *stage) open(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
	s.mu.Lock()
	s.books.begun++
	s.mu.Unlock()
	if now := s.c.now().Wall; !cred.NotAfter.IsZero() && now.Sub(cred.NotAfter) > 25*time.Millisecond {
		s.bad("a login of %s begins %v after its NotAfter", cred.Username, now.Sub(cred.NotAfter))
	}
	conn, err := s.server.Open(ctx, cred, dial)
	s.say("login of %s: %v", cred.Username, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.books.conns = append(s.books.conns, conn.(*fakeConn))
	} else if s.server.Refused(err) {
		s.books.refused++
	}
	return conn, err
}

// bad fails the test, with what is found first.
func (s *stage) bad(format string, args ...any) {
	if !s.Failed() {
		s.Errorf("seed %d: %.4f: "+format, append([]any{s.Seed, s.now().Seconds()}, args...)...)
	}
}

// say says what happens, if anybody wants to know.
func (s *stage) say(format string, args ...any) {
	if *ledgersSay {
		s.Logf("%9.4f "+format, append([]any{s.now().Seconds()}, args...)...)
	}
}

func (s *stage) now() time.Duration { return time.Since(s.start) }

// Truth is the server's time.
func (s *stage) Truth() time.Duration { return s.now() + time.Duration(s.asleep.Load()) }

// After calls f in d, under the lock.
func (s *stage) After(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	})
}

// UpTo is a time by chance. It is called under the lock.
func (s *stage) UpTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(s.random.Int64N(int64(d)))
}

func (s *stage) between(from, to time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return from + s.UpTo(to-from)
}

func (s *stage) chance(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n) == 0
}

// Credential implements [Source]: by turns as slow and as unreadable as the schedule says.
func (s *stage) Credential(ctx context.Context) (Credential, error) {
	hangs := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.outside.Hangs() }
	for hangs() {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return Credential{}, err
		}
	}
	s.mu.Lock()
	d := s.UpTo(2 * time.Millisecond)
	if s.outside.SlowReads() {
		d = 100*time.Millisecond + s.UpTo(900*time.Millisecond)
	}
	s.mu.Unlock()
	if err := pause(ctx, d/2); err != nil {
		return Credential{}, err
	}
	s.mu.Lock()
	i, until, ok := s.outside.Give()
	panics := s.hard.panics && s.random.IntN(10) == 0 && len(s.books.conns) > 0
	s.mu.Unlock()
	if panics {
		panic("the source")
	}
	if err := pause(ctx, d/2); err != nil {
		return Credential{}, err
	}
	if !ok {
		return Credential{}, errors.New("the source fails")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	cred := Credential{Username: fmt.Sprint("u", s.outside.User(i)), Password: NewSecret(fmt.Sprintf("%d/%d", i, until))}
	if end := max(s.outside.End(i), until); end > 0 {
		cred.NotAfter = s.start.Add(end).Round(0)
	}
	return cred, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Changed implements [Notifier].
func (s *stage) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Tells is called under the lock.
func (s *stage) Tells() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// loginOf tells which login a password belongs to, and until when it is good.
func loginOf(password string) (i int, until time.Duration) {
	number, end, _ := strings.Cut(password, "/")
	i, _ = strconv.Atoi(number)
	n, _ := time.ParseDuration(end)
	return i, n
}

func (s *stage) takes() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.outside.Slow(); d > 0 {
		return d
	}
	return 2*time.Millisecond + s.UpTo(18*time.Millisecond)
}

// judge is what the server says to a login.
func (s *stage) judge(cred Credential) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := s.outside.Answer(loginOf(cred.Password.Reveal()))
	if s.hard.oddities && s.random.IntN(20) == 0 {
		s.odd = append(s.odd, s.now())
		answer = sim.Fails
	}
	if s.hard.spurious && s.random.IntN(25) == 0 {
		s.excuses.Move(sim.Move{Kind: sim.Refusing}, s.now())
		answer = sim.Refuses
	}
	switch answer {
	case sim.Succeeds:
		return nil
	case sim.Refuses:
		return stateError("28P01")
	case sim.RefusesUnclearly:
		return stateError("08P01")
	case sim.IsFull:
		return stateError("53300")
	}
	failures := []error{stateError("57P03"), net.ErrClosed, io.EOF, driver.ErrBadConn, context.DeadlineExceeded, errors.New("odd")}
	return failures[s.random.IntN(len(failures))]
}

// runs is what the server says to a query.
func (s *stage) runs(c *fakeConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := loginOf(c.pass)
	if s.outside.Dropped(i) {
		s.books.refused++
		return stateError("42501")
	}
	return nil
}

// work has a worker query a pool now and then.
func (s *stage) work(ctx context.Context, p *stagedPool) {
	for {
		s.mu.Lock()
		rest := max(s.UpTo(p.Think), s.quiet-s.now())
		hold := time.Millisecond + s.UpTo(39*time.Millisecond)
		if s.random.IntN(30) == 0 {
			hold = s.UpTo(s.Config.MaxInUse)
		}
		s.mu.Unlock()
		if pause(ctx, rest) != nil {
			return
		}
		s.query(p, 10*time.Second, hold, false)
	}
}

// query runs a query that takes so long.
func (s *stage) query(p *stagedPool, patience, hold time.Duration, impatient bool) {
	began := s.now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rows, err := p.QueryContext(ctx, hold.String())
	if err == nil {
		_ = rows.Close()
		err = rows.Err()
	}
	gaveUp := ctx.Err() != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	odd := slices.ContainsFunc(s.odd, func(at time.Duration) bool { return at >= began })
	if err == nil || impatient && gaveUp || s.shut || p.isClosed() || odd || s.excuses.Excused(began, s.now()) {
		return
	}
	s.bad("a query that began %v ago fails: %v", s.now()-began, err)
}

func (w *stagedPool) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// make has a move happen.
func (s *stage) make(m sim.Move) {
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		return
	}
	s.say("move: %v for %v by %v n %d", m.Kind, m.For, m.By, m.N)
	s.excuses.Move(m, s.now())
	done := s.outside.Make(m)
	if m.Kind == sim.Quiet {
		s.quiet = max(s.quiet, s.now()+m.For)
	}
	s.mu.Unlock()
	if done {
		return
	}
	p := s.pools[0]
	switch m.Kind {
	case sim.Suspend:
		s.asleep.Add(int64(m.For))
	case sim.WallStep:
		s.set.Add(int64(m.By))
	case sim.Crash:
		s.crash(m.N)
	case sim.Burst:
		for range m.N {
			time.AfterFunc(s.between(0, 5*time.Millisecond), func() {
				s.query(p, 10*time.Second, s.between(time.Millisecond, 40*time.Millisecond), false)
			})
		}
	case sim.Impatient:
		for i := range m.N {
			time.AfterFunc(time.Duration(i)*m.For/time.Duration(m.N), func() { s.query(p, m.By, time.Millisecond, true) })
		}
	case sim.Resize:
		p.resize(m.N)
		time.AfterFunc(m.For, func() { p.resize(p.Size) })
	case sim.Hold, sim.Keep:
		s.hold(p, m)
	case sim.ClosePool:
		if n := len(s.pools); n > 1 {
			s.pools[n-1].end()
		}
	}
}

// crash ends some of ten sessions at the server.
func (s *stage) crash(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.books.conns {
		if l := conn.link(); !l.shut.Load() && s.random.IntN(10) < n {
			_ = l.far.Close()
		}
	}
}

func (w *stagedPool) resize(n int) {
	w.SetMaxOpenConns(n)
	poke(w.face.c.wake) // the pool can't tell: it is seen when the loop looks next
}

func (w *stagedPool) end() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	_ = w.Close()
}

// hold keeps a connection for long, and perhaps out of the drain.
func (s *stage) hold(p *stagedPool, m sim.Move) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := p.Conn(ctx)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	var kept rotation.SessionID
	_ = conn.Raw(func(raw any) error {
		if x := s.c.sessionOf(raw); x != nil {
			kept = x.id
		}
		return nil
	})
	time.Sleep(m.By)
	if m.Kind == sim.Keep {
		s.c.step(rotation.Held{Session: kept})
	}
	time.Sleep(m.For - m.By)
	if m.Kind == sim.Keep {
		s.c.step(rotation.Released{Session: kept})
	}
}

func (s *stage) closePools() {
	for _, p := range s.pools {
		p.end()
	}
}

// compare holds the core's ledger against those of the server, the network and the pools.
// Nothing else is running, and time stands still.
func (s *stage) compare() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compareSessions()
	s.comparePools()
	s.compareCounts()
}

// compareSessions holds each session against what there is of it on the network.
func (s *stage) compareSessions() {
	open := map[rotation.SessionID]*fakeConn{}
	for _, conn := range s.books.conns {
		if l := conn.link(); !l.shut.Load() {
			open[conn.nc.(*socket).session.id] = conn
		}
	}
	current, now := s.c.rules.Current(), s.c.now()
	over := map[rotation.VersionID]bool{}
	for _, e := range s.c.rules.AppendEnds(nil) {
		over[e.Version] = e.End.Mono != 0 && now.Mono.Sub(e.End.Mono) > 25*time.Millisecond
	}
	inCore := 0
	for id, conn := range open {
		x := s.c.rules.Session(id)
		v := s.c.book.get(x.Version)
		switch {
		case x.State == rotation.NoSession:
			s.bad("session %d of %s is open, and not on the core's books", id, conn.user)
		case v == nil:
			s.bad("session %d is of version %d, of which nothing is known", id, x.Version)
		case v.cred.Username != conn.user || s.Config.Kind != rotation.LoginTokens && v.cred.Password.Reveal() != conn.pass:
			s.bad("session %d has logged in as %s, and by the core's books as %s", id, conn.user, v.cred.Username)
		case over[x.Version]:
			s.bad("session %d outlives version %d: it is %v", id, x.Version, x.State)
		case x.Version == current && (x.Reason == rotation.Superseded || x.Reason == rotation.Revoked) && x.State.InPool():
			s.bad("session %d of the latest version is %v, because it is %v", id, x.State, x.Reason)
		}
	}
	for id := range s.c.sessions {
		if x := s.c.rules.Session(id); x.State > rotation.LoggingIn {
			inCore++
			if open[id] == nil {
				s.bad("session %d is closed, and by the core's books it is %v", id, x.State)
			}
		}
	}
	states := s.c.rules.Snapshot(now).States
	n := 0
	for st, k := range states {
		if rotation.SessionState(st) > rotation.LoggingIn {
			n += k
		}
	}
	if n != inCore {
		s.bad("the core has %d sessions, and the connector %d: %v", n, inCore, states)
	}
}

// comparePools holds the core's pools against those of database/sql.
func (s *stage) comparePools() {
	seen := s.c.rules.Snapshot(s.c.now())
	for _, p := range s.pools {
		p.mu.Lock()
		p.has = slices.DeleteFunc(p.has, func(conn *fakeConn) bool { return conn.closed.Load() })
		has, opening := len(p.has), p.opening
		alive := 0
		for _, conn := range p.has {
			if !conn.link().shut.Load() {
				alive++
			}
		}
		p.mu.Unlock()
		// A pool opens those for whom somebody waits one after the other, and counts them first;
		// one that is closed forgets about them.
		if n := p.Stats().OpenConnections; !p.closed && (n < has+opening || opening == 0 && n != has) {
			s.bad("pool %d has %d connections by its own account, was given %d and asks for %d", p.face.id, n, has, opening)
		}
		i := slices.IndexFunc(seen.Pools, func(v rotation.PoolView) bool { return v.Pool == p.face.id })
		if i < 0 {
			continue
		}
		if n := seen.Pools[i].Sessions; n < alive || n > alive+opening || p.closed && n > alive {
			s.bad("pool %d has %d open connections, asks for %d, and has %d by the core's books", p.face.id, alive, opening, n)
		}
	}
}

// compareCounts holds what the core has counted against what was seen to happen.
func (s *stage) compareCounts() {
	seen := s.c.rules.Snapshot(s.c.now())
	n := seen.Counts
	underWay := 0
	for id := range s.c.sessions {
		if s.c.rules.Session(id).State == rotation.LoggingIn {
			underWay++
		}
	}
	if all := int(n.Logins+n.Refused+n.Failed+n.Abandoned) + underWay; all != s.books.begun {
		s.bad("%d logins were begun, and by the core's books %d: %d succeeded, %d refused, %d failed, %d given up, %d under way",
			s.books.begun, all, n.Logins, n.Refused, n.Failed, n.Abandoned, underWay)
	}
	if int(n.Logins) > len(s.books.conns) || int(n.Refused) > s.books.refused {
		s.bad("the server let in %d and refused %d, and by the core's books %d and %d", len(s.books.conns), s.books.refused, n.Logins, n.Refused)
	}
	open, pooled, got, opening := 0, 0, 0, 0
	for st, k := range seen.States {
		if rotation.SessionState(st) > rotation.LoggingIn {
			open += k
		}
		if rotation.SessionState(st).InPool() {
			pooled += k
		}
	}
	unsaid := int(n.Logins) - open - s.books.sessions
	late := s.hard.naps && (!s.over || unsaid <= int(s.c.notices.drops())) // who naps is told late, and not of everything
	if unsaid < 0 || unsaid > 0 && !late {
		s.bad("%d logins succeeded, and %d sessions are open, but %d were said to have ended", n.Logins, open, s.books.sessions)
	}
	ended := 0
	for _, k := range n.Ended {
		ended += int(k)
	}
	for _, p := range s.pools {
		p.mu.Lock()
		got, opening = got+p.got, opening+p.opening
		p.mu.Unlock()
	}
	if handed := pooled + ended; handed < got || handed > got+opening {
		s.bad("the pools got %d connections and ask for %d, and by the core's books they have %d and had %d: %v", got, opening, pooled, ended, n.Ended)
	}
}

// empty looks at what is left when everything is closed.
func (s *stage) empty() {
	if n := s.server.open(""); n > 0 {
		s.bad("%d sessions are open at the server", n)
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if n := len(s.c.sessions); n > 0 || s.c.waiting > 0 {
		s.bad("%d sessions are remembered, %d callers wait", n, s.c.waiting)
	}
	for st, n := range s.c.rules.Snapshot(s.c.now()).States {
		if n > 0 {
			s.bad("%d sessions are %v at the end", n, rotation.SessionState(st))
		}
	}
}
