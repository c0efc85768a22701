// The shell: it does what the core says, as the connector does.

package sim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const (
	loginTimeout = 5 * sec
	readTimeout  = 2 * sec
)

// shell does what the core says, each thing a little later, by what holds then.
type shell struct {
	w        *world
	versions map[string]rotation.VersionID // by login
	latest   map[rotation.VersionID]token  // what a version logs in with
	next     rotation.VersionID
	conns    map[rotation.SessionID]*conn
	wake     time.Duration
	heeds    bool      // it looks again as soon as a pool is used
	callers  []*caller // that wait
	waiting  int
	read1    bool // a read is under way
	queued   []func()
	ends     []rotation.VersionEnd
}

// token is what a version logs in with: a login, and until when it is good if it is one
// that isn't good for ever.
type token struct {
	login int
	until time.Duration // the server's time; 0: as long as the login
}

// conn is a connection, from the login on.
type conn struct {
	id        rotation.SessionID
	version   rotation.VersionID
	token     token
	pool      *pool
	began     time.Duration
	loggingIn bool
	unproven  bool // its login began when none with its version had succeeded lately
	abort     func()
	alive     bool
	broken    bool // the client's end of it is unusable
	pooled    bool
	inUse     bool
	long      bool                  // somebody keeps it longer than MaxInUse
	created   time.Duration         // by database/sql's account
	taken     time.Duration         // when it was last taken from the pool
	state     rotation.SessionState // by the core's books, when they were last looked at
	outdated  time.Duration         // since when it is to be replaced, by the books; 0: it isn't
}

type caller struct {
	pool     *pool
	deadline time.Duration
	began    time.Duration
	counted  bool
	waits    int // tells one wait from the next
	done     func(*conn, error)
}

var (
	errGaveUp   = errors.New("the caller's context is done")
	errRefused  = errors.New("refused")
	errExpired  = errors.New("expired")
	errEmpty    = errors.New("empty")
	errFailed   = errors.New("the login failed")
	errPoolFull = errors.New("the pool has had nothing for so long")
	errBroken   = errors.New("the connection is broken")
)

func (s *shell) init(w *world) {
	s.w = w
	s.versions, s.latest, s.conns = map[string]rotation.VersionID{}, map[rotation.VersionID]token{}, map[rotation.SessionID]*conn{}
	var wall func()
	wall = func() { // the hard end, by the wall clock
		s.cut()
		w.after(sec, wall)
	}
	w.after(0, func() {
		s.read(false, func() {})
		wall()
	})
}

// step tells the core something and does what follows.
func (s *shell) step(ev rotation.Event) {
	w := s.w
	w.books.before(ev)
	fx := w.core.Step(ev, w.clock())
	if _, ok := ev.(rotation.Tick); !ok {
		w.trace("%T%+v", ev, ev)
	}
	w.books.effects(fx)
	for _, l := range fx.Logins {
		w.trace("  log in %+v", l)
		w.after(w.jitter(), func() { s.ownLogin(l) })
	}
	for _, a := range fx.Asks {
		w.trace("  ask %+v", a)
		w.after(w.jitter(), func() { s.ask(a) })
	}
	for _, id := range fx.Close {
		w.trace("  close %d", id)
		w.after(w.jitter(), func() { s.end(s.conns[id]) })
	}
	for _, v := range fx.Forget {
		for k, id := range s.versions {
			if id == v {
				delete(s.versions, k)
			}
		}
		delete(s.latest, v)
	}
	for _, n := range fx.Tell {
		w.trace("  tell %+v", n)
	}
	if fx.Read != rotation.DontRead {
		w.books.backgroundRead()
		w.after(w.jitter(), func() { s.read(fx.Read == rotation.ReadAfresh, func() {}) })
	}
	if fx.Stale {
		w.after(0, func() { s.read(false, func() {}) })
	}
	if fx.Look {
		for _, c := range s.callers {
			s.look(c)
		}
		s.callers = s.callers[:0]
	}
	if fx.Marks {
		for _, p := range w.pools {
			w.after(w.jitter(), p.retire)
		}
	}
	if fx.Ends {
		s.arm()
	}
	s.heeds = fx.Heed
	s.stir()
	s.wakeAt(fx.Wake)
	w.books.after()
}

func (s *shell) wakeAt(at rotation.Instant) {
	w := s.w
	s.wake = forever
	if at == rotation.Never {
		return
	}
	t := max(time.Duration(at)-1, w.now+1)
	s.wake = t
	w.after(t-w.now, func() {
		if s.wake == t {
			w.books.tick()
			s.turn()
		}
	})
}

// turn is what the loop does when it is woken.
func (s *shell) turn() {
	w := s.w
	for _, p := range w.pools {
		if p.used {
			p.used = false
			s.step(rotation.PoolUsed{Pool: p.id})
		}
	}
	if w.tracing {
		snap := w.core.Snapshot(w.clock())
		w.trace("tick: states %v pools %+v", snap.States, snap.Pools)
	}
	s.step(rotation.Tick{})
}

// stir wakes the loop if that is how it learns that a pool is used again.
func (s *shell) stir() {
	if s.heeds && slices.ContainsFunc(s.w.pools, func(p *pool) bool { return p.used }) {
		s.heeds = false
		s.w.after(s.w.jitter(), s.turn)
	}
}

func (s *shell) arm() {
	w := s.w
	s.ends = w.core.AppendEnds(s.ends[:0])
	for _, e := range s.ends {
		if at := e.End.Instant(w.clock()); at != rotation.Never {
			w.after(at.Sub(w.clock().Mono)+w.UpTo(2*ms), s.cut)
		}
	}
}

// cut cuts off what has outlived its version.
func (s *shell) cut() {
	w := s.w
	s.ends = w.core.AppendEnds(s.ends[:0])
	var over []*conn
	for _, c := range s.conns {
		if slices.ContainsFunc(s.ends, func(e rotation.VersionEnd) bool { return e.Version == c.version && e.End.Past(w.clock()) }) {
			over = append(over, c)
		}
	}
	slices.SortFunc(over, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	for _, c := range over {
		w.trace("cut %d", c.id)
		c.broken = true
		if c.loggingIn {
			c.abort()
			continue
		}
		w.books.cut(c)
		s.end(c)
	}
}

func (s *shell) sorted() []*conn {
	all := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	return all
}

// end closes a connection's socket: the core hears of it at once.
func (s *shell) end(c *conn) {
	if c == nil || !c.alive {
		return
	}
	c.alive = false
	delete(s.conns, c.id)
	if c.pool != nil {
		c.pool.line.Ended(c.id)
	}
	s.step(rotation.Ended{Session: c.id})
}

// read reads the source: one read at a time, and whoever comes meanwhile shares the next.
func (s *shell) read(afresh bool, then func()) {
	if s.read1 {
		s.queued = append(s.queued, then)
		return
	}
	w := s.w
	s.read1 = true
	w.books.sourceRead()
	epoch := w.core.Epoch()
	d := w.UpTo(2 * ms)
	if w.outside.SlowReads() {
		d = w.between(100*ms, sec)
	}
	finish := func(ev rotation.Event) {
		s.read1 = false
		queued := s.queued
		s.queued = nil
		s.step(ev)
		then()
		if len(queued) > 0 {
			s.read(false, func() {
				for _, f := range queued {
					f()
				}
			})
		}
	}
	if w.outside.Hangs() {
		w.after(readTimeout, func() { finish(rotation.ReadFailed{}) })
		return
	}
	w.after(d/2, func() {
		i, until, ok := w.outside.Give()
		w.after(d/2, func() {
			if !ok {
				finish(rotation.ReadFailed{})
				return
			}
			finish(s.found(i, until, epoch))
		})
	})
}

// found makes an event of what was read.
func (s *shell) found(i int, until time.Duration, at uint64) rotation.CredentialRead {
	w := s.w
	user := w.outside.User(i)
	key := fmt.Sprint("login ", i)
	if w.Config.Kind == rotation.LoginTokens {
		key = fmt.Sprint("user ", user)
	}
	id := s.versions[key]
	if id == 0 {
		s.next++
		id = s.next
		s.versions[key] = id
	}
	s.latest[id] = token{i, until}
	ev := rotation.CredentialRead{Version: id, User: user, Epoch: at}
	if end := max(w.outside.End(i), until); end > 0 {
		ev.NotAfter = epoch.Add(end)
	}
	return ev
}

// ownLogin is a login of the connector's own.
func (s *shell) ownLogin(l rotation.Login) {
	s.read(false, func() {
		w := s.w
		w.books.pairs.note(w.core, bind, l.Session)
		v := w.core.Bind(l.Session, w.clock())
		if v != 0 {
			w.books.ownLogin()
			s.login(l.Session, v, l.Purpose != rotation.Replace && l.Purpose != rotation.Refill, forever, func(*conn, Outcome) {})
		}
		s.step(rotation.Tick{})
	})
}

// login logs in at the server. A probe query goes with it if that is called for.
func (s *shell) login(id rotation.SessionID, v rotation.VersionID, probe bool, deadline time.Duration, done func(*conn, Outcome)) {
	w := s.w
	c := &conn{id: id, version: v, token: s.latest[v], began: w.now, loggingIn: true, alive: true}
	s.conns[id] = c
	w.books.login(c)
	d := w.between(2*ms, 20*ms)
	if slow := w.outside.Slow(); slow > 0 {
		d = slow
	}
	var out Outcome
	w.after(d/2, func() {
		out = w.outside.Answer(c.token.login, c.token.until)
		w.decided(Attempt{At: w.now, Login: c.token.login, Purpose: w.core.Session(id).Purpose, Outcome: out})
	})
	over := func(ev rotation.Event, out Outcome) {
		if !c.loggingIn {
			return
		}
		c.loggingIn = false
		w.books.loggedIn(c)
		if out != Succeeds {
			c.alive = false
			delete(s.conns, id)
		}
		s.step(ev)
		done(c, out)
	}
	c.abort = func() { over(rotation.LoginAbandoned{Session: id}, Refuses) }
	if limit := min(deadline, w.now+loginTimeout); limit < w.now+d {
		w.after(limit-w.now, func() {
			if limit == deadline {
				over(rotation.LoginAbandoned{Session: id}, Fails)
			} else {
				over(rotation.LoginFailed{Session: id}, Fails)
			}
		})
		return
	}
	w.after(d, func() {
		switch {
		case !c.loggingIn:
		case out == Refuses || out == RefusesUnclearly:
			w.books.refused(c)
			over(rotation.LoginRefused{Session: id, Ambiguous: out == RefusesUnclearly}, out)
		case out != Succeeds:
			over(rotation.LoginFailed{Session: id}, out)
		default:
			w.books.succeeded(c)
			over(rotation.LoginSucceeded{Session: id}, Succeeds)
		}
	})
}

// ask puts a question.
func (s *shell) ask(a rotation.Ask) {
	w := s.w
	c := s.conns[a.Session]
	if a.How == rotation.OnIdle {
		c = w.borrow(a.Version)
	}
	answer := rotation.Unanswered
	if c != nil && c.alive {
		a.Version = c.version
		answer = rotation.Lives
		if w.outside.Dropped(c.token.login) {
			answer = rotation.Refuses
		}
	}
	took := w.UpTo(300 * ms)
	if slow := w.outside.Slow(); slow > 0 {
		took = slow
	}
	w.after(took, func() { s.step(rotation.Asked{Ask: a, Answer: answer}) })
}

// borrow returns an idle connection of a pool, if there is one to be had: one of the version,
// but for the last one of a pool, or else the one that would be taken next.
func (w *world) borrow(version rotation.VersionID) *conn {
	for _, p := range w.pools {
		if n := len(p.idle); n > 0 && (w.books.lenient || w.random.IntN(2) > 0) {
			for _, c := range slices.Backward(p.idle[min(1, n-1):]) {
				if c.version == version {
					return c
				}
			}
			return p.idle[n-1]
		}
	}
	return nil
}

// connect is Connect.
func (s *shell) connect(p *pool, deadline time.Duration, done func(*conn, error)) {
	c := &caller{pool: p, deadline: deadline, began: s.w.now, done: done}
	s.readFor(c, false)
}

// readFor reads the source for a caller, who Chooses then, and gives up at its deadline.
func (s *shell) readFor(c *caller, afresh bool) {
	over := false
	s.read(afresh, func() {
		if !over {
			over = true
			s.try(c)
		}
	})
	if c.deadline < forever {
		s.w.after(c.deadline-s.w.now, func() {
			if !over {
				over = true
				s.finish(c, nil, errGaveUp)
			}
		})
	}
}

func (s *shell) try(c *caller) {
	w := s.w
	if w.now >= c.deadline {
		s.finish(c, nil, errGaveUp)
		return
	}
	v := w.core.Choose(c.pool.id, w.clock())
	w.trace("choose %+v", v)
	w.books.verdict(v)
	s.count(c, v.Kind == rotation.Wait)
	switch v.Kind {
	case rotation.Take:
		s.step(rotation.Tick{})
		look := w.jitter()
		if v.Check {
			look += w.UpTo(100 * ms)
		}
		w.after(look, func() { s.hand(c, s.conns[v.Session], v.Session) })
	case rotation.LogIn:
		s.login(v.Session, v.Version, false, c.deadline, func(x *conn, out Outcome) { s.loggedIn(c, x, out) })
		s.step(rotation.Tick{})
	case rotation.Wait:
		s.step(rotation.Tick{})
		s.wait(c, v.Until)
	case rotation.FailRefused:
		s.step(rotation.Tick{})
		s.finish(c, nil, errRefused)
	case rotation.FailExpired:
		s.step(rotation.Tick{})
		s.finish(c, nil, errExpired)
	default:
		s.step(rotation.Tick{})
		s.finish(c, nil, errEmpty)
	}
}

func (s *shell) loggedIn(c *caller, x *conn, out Outcome) {
	w := s.w
	switch out {
	case Succeeds:
		s.hand(c, x, x.id)
	case Refuses, RefusesUnclearly:
		s.readFor(c, true)
	case IsFull:
		if until, ok := w.core.Full(w.clock()); ok {
			s.count(c, true)
			s.wait(c, until)
			return
		}
		s.finish(c, nil, errFailed)
	default:
		if w.now >= c.deadline {
			s.finish(c, nil, errGaveUp)
			return
		}
		s.finish(c, nil, errFailed)
	}
}

// count keeps the number of callers who wait.
func (s *shell) count(c *caller, waits bool) {
	if c.counted == waits {
		return
	}
	c.counted = waits
	if waits {
		s.waiting++
	} else {
		s.waiting--
	}
	s.step(rotation.Waiting{N: s.waiting})
}

func (s *shell) wait(c *caller, until rotation.Instant) {
	w := s.w
	c.waits++
	n := c.waits
	s.callers = append(s.callers, c)
	t := c.deadline
	if until != rotation.Never {
		t = min(t, time.Duration(until)-1)
	}
	if t >= forever {
		return
	}
	w.after(max(1, t-w.now), func() {
		if c.waits == n {
			s.callers = slices.DeleteFunc(s.callers, func(x *caller) bool { return x == c })
			s.look(c)
		}
	})
}

// look has a caller who waits Choose again.
func (s *shell) look(c *caller) {
	c.waits++
	s.w.after(s.w.UpTo(100*time.Microsecond), func() { s.try(c) })
}

func (s *shell) finish(c *caller, x *conn, err error) {
	s.count(c, false)
	s.w.books.finished(c, err)
	c.done(x, err)
}

// hand hands a session out.
func (s *shell) hand(c *caller, x *conn, id rotation.SessionID) {
	w := s.w
	if w.now >= c.deadline && x != nil && !x.broken {
		s.step(rotation.GivenBack{Session: id})
		s.finish(c, nil, errGaveUp)
		return
	}
	w.books.pairs.note(w.core, handOut, id)
	ok := w.core.HandOut(id, w.clock())
	s.step(rotation.Tick{})
	if !ok || x == nil || x.broken {
		if ok && x != nil {
			s.end(x)
		}
		w.after(0, func() { s.try(c) })
		return
	}
	x.pool = c.pool
	wait := c.pool.line.HandedOut(id, w.clock().Mono)
	w.after(wait+w.UpTo(1500*time.Microsecond), func() { s.finish(c, x, nil) })
}
