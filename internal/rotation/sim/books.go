// The world's books: what should be, held against what is.

package sim

import (
	"fmt"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Bounds that hold in every run, whatever the source, the server and the clocks do.
const (
	// No session is alive so long after the end of its credential by the monotonic
	// clock, and by the wall clock, which is looked at once a second.
	monoGrace = 25 * ms
	wallGrace = sec + 25*ms

	window = 10 * sec

	// In any window of time: logins refused that began after it was known that logins
	// are refused; reads of the source by the connector itself; wake-ups in a second.
	maxRefused = 16
	maxReads   = 45
	maxTicks   = 150 // but see mostTicks

	// Logins under way at once that began when none with their version had succeeded
	// lately: some go ahead, and others may follow them each second.
	maxUnproven = 14

	// A caller with no deadline of its own is told something within this.
	maxCaller = 30 * sec
)

// books are what the world knows of what should be, by its own account.
type books struct {
	w         *world
	violation string
	lenient   bool // nothing is held against them
	versions  map[rotation.VersionID]*entry
	current   rotation.VersionID
	excuses   Excuses
	shut      bool

	rotations, faults, queries, failed, logins, refusals, steps, events, sessions int
	own                                                                           map[rotation.SessionID]bool // the connector's own logins, from the core's word to what comes of it

	refusedAt, reads, ticks, owns, taken rate
	heard                                time.Duration // when a refusal was last heard; 0: never
	pairs                                Pairs
	noted                                rotation.Event
	peakSize                             int
}

// entry is what the books have on a version.
type entry struct {
	user     uint64
	mono     rotation.Instant // end of its overlap
	wall     time.Time        // the same
	notAfter time.Time
	proven   bool
	worked   time.Duration // when a login last succeeded
	busy     int           // logins under way that began when none had lately
	dead     bool          // the core has heard that its role is
	wallPast time.Duration // when it was first seen to be past its end by the wall clock
}

// rate counts what happens in a window.
type rate struct{ at []time.Duration }

// add notes that something happens now and returns how often it has within d.
func (r *rate) add(now, d time.Duration) int {
	r.at = append(r.at, now)
	return r.count(now, d)
}

func (r *rate) count(now, d time.Duration) int {
	i := 0
	for i < len(r.at) && r.at[i] <= now-d {
		i++
	}
	r.at = r.at[i:]
	return len(r.at)
}

func (b *books) init(w *world) {
	b.w, b.excuses.Schedule = w, w.Schedule
	b.versions, b.own = map[rotation.VersionID]*entry{}, map[rotation.SessionID]bool{}
	for _, p := range w.Pools {
		b.peakSize += p.Size
	}
}

func (b *books) bad(format string, args ...any) {
	if b.violation == "" && !b.lenient {
		b.violation = fmt.Sprintf("%.4f: ", b.w.now.Seconds()) + fmt.Sprintf(format, args...)
		b.w.trace("VIOLATION %s", b.violation)
	}
}

// move notes what happens.
func (b *books) move(m Move) {
	b.excuses.Move(m, b.w.now)
	switch m.Kind {
	case Rotate, RotateDud, Back:
		b.rotations++
	default:
	}
	if m.Kind != Rotate && m.Kind != Renew {
		b.faults++
	}
}

// before notes an event that the core is about to be told of.
func (b *books) before(ev rotation.Event) {
	b.steps++
	if _, ok := ev.(rotation.Tick); !ok {
		b.events++
	}
	b.noted = ev
	if !b.lenient {
		b.pairs.event(b.w, ev)
	}
}

// effects takes in what the core has answered.
func (b *books) effects(fx rotation.Effects) {
	w := b.w
	ev, read := b.noted.(rotation.CredentialRead)
	if read && !fx.Stale {
		b.read(ev)
	}
	if (fx.Marks || read) && !b.lenient {
		b.marks()
	}
	for _, n := range fx.Tell {
		if n.Kind == rotation.RoleDead {
			if e := b.versions[n.Version]; e != nil && n.Version != b.current {
				e.dead = true
			}
		}
	}
	for _, l := range fx.Logins {
		b.own[l.Session] = true
	}
	for id := range b.own {
		if w.core.Session(id).State != rotation.LoggingIn {
			delete(b.own, id)
		}
	}
	if n := len(b.own); n > 1 {
		b.bad("%d logins of the connector's own are under way", n)
	}
	if at := fx.Wake; at <= w.clock().Mono {
		b.bad("the core wants to be woken at %v, which is past", at)
	}
}

func (b *books) read(ev rotation.CredentialRead) {
	now := b.w.clock()
	e := b.versions[ev.Version]
	if e == nil {
		e = &entry{user: ev.User}
		b.versions[ev.Version] = e
	}
	if ev.Version != b.current {
		if last := b.versions[b.current]; last != nil && b.w.Config.Kind == rotation.Overlapping {
			d := b.w.Config.Overlap - b.w.Config.Lag
			last.mono, last.wall = now.Mono.Add(d), now.Wall.Add(d)
		}
		e.mono, e.wall, e.dead = 0, time.Time{}, false
		b.current = ev.Version
	}
	e.notAfter = ev.NotAfter
	if got := b.w.core.Current(); got != b.current {
		b.bad("the current version is %d, and the core has %d", b.current, got)
	}
}

// late returns by how much a version is past its end, by either clock.
func (b *books) late(v rotation.VersionID, atLogin bool) (mono, wall time.Duration) {
	e := b.versions[v]
	if e == nil {
		return 0, 0
	}
	now := b.w.clock()
	if e.mono != 0 {
		mono, wall = now.Mono.Sub(e.mono), now.Wall.Sub(e.wall)
	}
	if !e.notAfter.IsZero() && (atLogin || b.w.Config.Kind != rotation.LoginTokens) {
		wall = max(wall, now.Wall.Sub(e.notAfter))
	}
	return mono, wall
}

// marks looks at who may go now.
func (b *books) marks() {
	for _, p := range b.w.pools {
		for _, id := range b.w.core.AppendGoing(nil, p.id) {
			x := b.w.core.Session(id)
			if c := b.w.shell.conns[id]; x.Reason == rotation.Aged && c != nil && c.pooled && b.w.now-c.created < b.w.Config.MaxLifetime*6/10 {
				b.bad("session %d is %v old, and retired for its age", id, b.w.now-c.created)
			}
			if x.Reason != rotation.Superseded && x.Reason != rotation.Revoked {
				continue
			}
			if x.Version == b.current {
				b.bad("session %d is superseded, and of the latest version", id)
			}
			other := false
			for v, e := range b.versions {
				other = other || v != x.Version && e.proven
			}
			if !other {
				b.bad("session %d of version %d is retired before another one has worked", id, x.Version)
			}
			if x.Held {
				b.bad("session %d is held, and retired", id)
			}
		}
	}
}

// login notes that a login goes out.
func (b *books) login(c *conn) {
	b.logins++
	mono, wall := b.late(c.version, true)
	if mono > 0 || wall > 0 {
		b.bad("session %d logs in with version %d, %v after its end", c.id, c.version, max(mono, wall))
	}
	if e := b.versions[c.version]; e != nil && e.dead {
		b.bad("session %d logs in with version %d, whose role is known to be dead", c.id, c.version)
	}
	e := b.versions[c.version]
	if e.worked == 0 || b.w.now-e.worked > sec {
		c.unproven = true
		if e.busy++; e.busy > maxUnproven {
			b.bad("%d logins with version %d are under way that began when none had succeeded lately", e.busy, c.version)
		}
	}
}

func (b *books) succeeded(c *conn) {
	e := b.versions[c.version]
	e.proven, e.dead, e.worked = true, false, b.w.now
}

// loggedIn notes that something has come of a login.
func (b *books) loggedIn(c *conn) {
	if c.unproven {
		b.versions[c.version].busy--
	}
}

func (b *books) refused(c *conn) {
	b.refusals++
	if b.heard != 0 && c.began > b.heard && b.w.now-b.heard < 2*window {
		if n := b.refusedAt.add(b.w.now, window); n > maxRefused {
			b.bad("%d logins were refused within %v that began when it was known that they would be", n, window)
		}
	}
	b.heard = b.w.now
}

// ownLogin notes a login of the connector's own.
func (b *books) ownLogin() {
	n := b.owns.add(b.w.now, window)
	// Over a source that goes back and forth between a dead login and a good one they stand
	// in for those of callers, and not every caller takes the one that was made for it.
	if n -= b.taken.count(b.w.now, window); n > 45+5*b.peakSize {
		b.bad("%d logins of the connector's own within %v", n, window)
	}
}

func (b *books) sourceRead() {}

func (b *books) backgroundRead() {
	if n := b.reads.add(b.w.now, window); n > maxReads {
		b.bad("%d reads of the source in the background within %v", n, window)
	}
}

func (b *books) tick() {
	if n := b.ticks.add(b.w.now, sec); n > b.mostTicks() {
		b.bad("the core was woken %d times in a second", n)
	}
}

// mostTicks is maxTicks, or more where a large pool has a short drain: each retirement wakes
// the core, and they have little more than half of DrainTime when chance begins it late. No pool retires more
// than it has.
func (b *books) mostTicks() int {
	most := maxTicks
	if drain := b.w.Config.DrainTime; drain > 0 {
		for _, p := range b.w.Pools {
			most = max(most, min(p.Size, int(2*time.Duration(p.Size)*sec/drain)))
		}
	}
	return most
}

// verdict looks at what a caller is told.
func (b *books) verdict(v rotation.Verdict) {
	if v.Kind == rotation.Take {
		b.taken.add(b.w.now, window)
	}
	if v.Kind == rotation.Wait && v.Until <= b.w.clock().Mono {
		b.bad("a caller is told to wait until %v, which is past", v.Until)
	}
}

// finished notes what a caller got.
func (b *books) finished(c *caller, err error) {
	switch took := b.w.now - c.began; {
	case c.deadline < forever && b.w.now > c.deadline+200*ms:
		b.bad("a caller was kept %v longer than it would wait", b.w.now-c.deadline)
	case took > maxCaller:
		b.bad("a caller was kept for %v", took)
	}
	_ = err
}

// closed notes that a pool lets a connection go.
func (b *books) closed(c *conn, p *pool) {
	limit := b.w.Config.MaxLifetime
	if limit == 0 || c.long || p.closed {
		return
	}
	if b.w.now-c.taken > b.w.Config.MaxInUse {
		return // somebody had it for too long
	}
	if age := b.w.now - c.created; age > limit+b.w.Config.MaxInUse+500*ms {
		b.bad("session %d went at the age of %v, and should at %v", c.id, age, limit)
	}
}

// cut notes that a connection is cut off.
func (b *books) cut(c *conn) {
	if c.pooled && !c.long && !b.excuses.Excused(c.created, b.w.now) && b.w.now-c.taken < b.w.Config.MaxInUse {
		b.bad("session %d of version %d is cut off in the pool", c.id, c.version)
	}
}

// query notes what came of a query.
func (b *books) query(p *pool, began time.Duration, c *conn, err error, impatient bool) {
	b.queries++
	if err == nil {
		return
	}
	b.failed++
	if impatient && err == errGaveUp || err == errPoolFull || p.closed || b.shut { //nolint:errorlint // they are made here
		return
	}
	if c != nil && c.long || b.excuses.Excused(began, b.w.now) {
		return
	}
	b.bad("a query that began %v ago fails: %v", b.w.now-began, err)
}

// after looks at everything.
func (b *books) after() {
	w := b.w
	n := len(w.shell.conns)
	b.sessions = max(b.sessions, n)
	peak := 1
	for _, p := range w.pools {
		peak += p.peak
	}
	if n > peak {
		b.bad("there are %d sessions, and the pools never had more than %d", n, peak-1)
	}
	if b.lenient || b.steps%8 != 0 {
		return
	}
	for _, c := range w.shell.conns {
		b.look(c)
	}
}

// look looks at one session.
func (b *books) look(c *conn) {
	w := b.w
	x := w.core.Session(c.id)
	if !legal(c.state, x.State) {
		b.bad("session %d came from %v to %v", c.id, c.state, x.State)
	}
	c.state = x.State
	switch {
	case x.State == rotation.NoSession:
		b.bad("session %d is open, and not on the core's books", c.id)
	case x.Version != c.version:
		b.bad("session %d is of version %d, and by the core's books of %d", c.id, c.version, x.Version)
	case c.loggingIn != (x.State == rotation.LoggingIn):
		b.bad("session %d is logging in: %v, and by the core's books %v", c.id, c.loggingIn, x.State)
	case c.pooled && !x.State.InPool():
		b.bad("session %d is in a pool, and by the core's books %v", c.id, x.State)
	}
	mono, wall := b.late(c.version, false)
	e := b.versions[c.version]
	switch {
	case wall <= 0:
		e.wallPast = 0
	case e.wallPast == 0:
		e.wallPast = w.now // the clock may have been set
	case w.now-e.wallPast > wallGrace, mono > monoGrace:
		b.bad("session %d is alive %v after the end of version %d", c.id, max(mono, wall), c.version)
	}
	if !c.pooled {
		return
	}
	cur := b.versions[b.current]
	if c.version == b.current || cur == nil || !cur.proven || x.Held || c.long || b.excuses.Excused(c.outdated, w.now) {
		c.outdated = 0
		return
	}
	if c.outdated == 0 {
		c.outdated = w.now
	}
	if most := w.Config.DrainTime + w.Config.MaxInUse + 3*sec; w.now-c.outdated > most {
		b.bad("session %d of version %d is still there, %v after %d has worked", c.id, c.version, w.now-c.outdated, b.current)
	}
}

// close closes the books: everything is closed, and nothing is left.
func (b *books) close() {
	if b.violation != "" {
		return
	}
	for _, c := range b.w.shell.sorted() {
		b.bad("session %d is open at the end", c.id)
	}
	for st, n := range b.w.core.Snapshot(b.w.clock()).States {
		if n > 0 {
			b.bad("%d sessions are %v by the core's books at the end", n, rotation.SessionState(st))
		}
	}
}

func (b *books) report(r *Result) {
	r.Events, r.Rotations, r.Faults, r.Queries, r.Failed = b.events, b.rotations, b.faults, b.queries, b.failed
	r.Drained = b.w.core.Snapshot(b.w.clock()).Counts.LastDrain
	r.Logins, r.Refused, r.Steps, r.Sessions, r.Pairs = b.logins, b.refusals, b.steps, b.sessions, &b.pairs
}

// legal reports whether a session may come from one state to another, perhaps through
// others.
func legal(from, to rotation.SessionState) bool {
	switch from {
	case to, rotation.NoSession, rotation.LoggingIn:
		return true
	case rotation.Spare, rotation.Asking, rotation.Promised:
		return to != rotation.LoggingIn
	case rotation.Pooled, rotation.Due, rotation.Going:
		return to.InPool()
	default:
		return false
	}
}
