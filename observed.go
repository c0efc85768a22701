// Observed: what the window rests on, as it was seen to be.

package sqlrotate

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Worst is the longest that something was seen to take.
type Worst struct {
	Took time.Duration
	At   time.Time // when it was over, or was last seen not to be; zero: nothing was seen
}

// Observed is the worst that a connector has seen of what its window rests on. It is
// forgotten after one to two days, so that what happens once a night is always remembered
// and what happened once is not for ever. The time that a suspended machine sleeps doesn't
// count.
type Observed struct {
	// Since is since when these are the worst.
	Since time.Time

	// LongestUse is of one connection, as far as its socket tells: a statement, from its
	// first byte to the last one of its answer; or from when a connection was to be retired
	// to the last answer before the pool gave it up. A transaction may have begun before
	// that, so this is what is known for certain. Of a [Pool]'s connection it is from when that
	// was lent until it came back. It is compared with Window.MaxInUse.
	LongestUse Worst

	// SourceLag is from Credential.PublishedAt to the read of that credential by the
	// connector, for rotations that it has seen; the last one is remembered until the next.
	// It is compared with Window.Lag.
	SourceLag Worst

	// LongestLogin is of those that succeeded.
	LongestLogin Worst

	// TimerLateness is how late a timer of the connector fired. Stats.TimersLate has the sum.
	TimerLateness Worst
}

// sight is something that is observed.
type sight int

const (
	useSeen sight = iota
	lagSeen
	loginSeen
	latenessSeen
	sights
)

const (
	// memory is how long the worst is remembered at the least, and twice that at the most.
	memory = 24 * time.Hour

	// punctual is how late a timer may be without anything being wrong: a busy machine, a
	// container that has used up its share of a period.
	punctual = 100 * time.Millisecond
)

// observed remembers the worst of each sight, in two halves: the younger one becomes the
// older one when it is a day old. All methods are safe for concurrent use.
type observed struct {
	origin time.Time // what instants count from

	// What goes on all the time is held against these, without the lock.
	most  [sights]atomic.Int64 // of the younger half
	until atomic.Int64         // when that is a day old

	mu      sync.Mutex // guards what follows
	began   [2]rotation.Instant
	halves  [2][sights]worst
	lastLag worst
	late    time.Duration    // for how long some timer was overdue
	lateTo  rotation.Instant // when the last of that was
	news    bool             // since tidings was last called
}

type worst struct {
	took time.Duration
	at   rotation.Instant
}

// newObserved returns an observed whose instants are those of a [rotation.Clock] of that
// origin.
func newObserved(origin time.Time) *observed {
	o := &observed{origin: origin}
	now := o.now()
	o.began = [2]rotation.Instant{now, now}
	o.until.Store(int64(now.Add(memory)))
	return o
}

// now reads the monotonic clock alone, which is half the price of both.
func (o *observed) now() rotation.Instant { return rotation.Instant(time.Since(o.origin) + 1) }

// note notes that something took so long, until now.
func (o *observed) note(what sight, took time.Duration, now rotation.Instant) {
	if int64(took) <= o.most[what].Load() && int64(now) < o.until.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turnLocked(now)
	o.noteLocked(what, worst{took, now})
}

func (o *observed) noteLocked(what sight, w worst) {
	if half := &o.halves[0][what]; w.took > half.took {
		*half, o.news = w, true
		o.most[what].Store(int64(w.took))
	}
}

// lagged notes how old a new credential was when it was read.
func (o *observed) lagged(lag time.Duration, now rotation.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turnLocked(now)
	o.lastLag = worst{lag, now}
	o.noteLocked(lagSeen, o.lastLag)
}

// fired notes that a timer that was due then has fired.
func (o *observed) fired(due rotation.Instant) {
	now := o.now()
	late := max(now.Sub(due), 0)
	o.note(latenessSeen, late, now)
	if late <= punctual {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.late += now.Sub(max(due, min(o.lateTo, now))) // several are late together
	o.lateTo = max(o.lateTo, now)
}

// turnLocked begins a new half when the younger one is a day old.
func (o *observed) turnLocked(now rotation.Instant) {
	age := now.Sub(o.began[0])
	if age < memory {
		return
	}
	o.halves[1], o.began[1] = o.halves[0], o.began[0]
	o.halves[0], o.began[0] = [sights]worst{}, o.began[0].Add(memory)
	if age >= 2*memory { // and that one is over, too
		o.halves[1], o.began = [sights]worst{}, [2]rotation.Instant{now, now}
	}
	for what := range o.most {
		o.most[what].Store(0)
	}
	o.until.Store(int64(o.began[0].Add(memory)))
}

// all returns what was observed, and for how long some timer was overdue.
func (o *observed) all(now rotation.Now) (Observed, time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turnLocked(now.Mono)
	most := func(what sight, more worst) Worst {
		for _, half := range o.halves {
			if half[what].took > more.took {
				more = half[what]
			}
		}
		return Worst{more.took, now.Time(more.at)}
	}
	return Observed{
		Since:      now.Time(o.began[1]),
		LongestUse: most(useSeen, worst{}), SourceLag: most(lagSeen, o.lastLag),
		LongestLogin: most(loginSeen, worst{}), TimerLateness: most(latenessSeen, worst{}),
	}, o.late
}

// tidings reports whether something is worse than when it was last called.
func (o *observed) tidings() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	news := o.news
	o.news = false
	return news
}

// exchange is how far a session is with what a pool sends on it.
type exchange int32

const (
	silent   exchange = iota // all is answered
	sent                     // something isn't
	awaiting                 // and the driver waits for the answer
)

// sends notes that something is about to be sent.
func (s *session) sends() {
	if s.lent.Load() && s.exchange.Load() == int32(silent) {
		s.sentAt.Store(int64(s.observed.now()))
		s.exchange.Store(int32(sent))
	}
}

// awaits notes that the driver reads.
func (s *session) awaits() {
	if s.exchange.Load() == int32(sent) {
		s.exchange.Store(int32(awaiting))
	}
}

// looksAtIt notes that the driver looks at its connection, as some do before they use it
// again: what it sent last had no answer.
func (s *session) looksAtIt() {
	if s.exchange.Load() == int32(sent) {
		s.exchange.Store(int32(silent))
	}
}

// answers notes that the server has answered, or goes on with it.
func (s *session) answers() {
	sentAt := rotation.Instant(s.sentAt.Load())
	if sentAt == 0 {
		return
	}
	now := s.observed.now()
	s.answeredAt.Store(int64(now))
	if s.exchange.Load() != int32(silent) {
		s.exchange.Store(int32(silent))
	}
	s.observed.note(useSeen, now.Sub(sentAt), now)
}

// noteUseLocked notes for how long a session has been in use for certain, so far: since a
// statement that awaits its answer, or, if the pool was to let it go and hasn't, from then to
// the last answer.
func (c *Connector) noteUseLocked(s *session, now rotation.Instant) {
	if s.exchange.Load() == int32(awaiting) {
		c.observed.note(useSeen, now.Sub(rotation.Instant(s.sentAt.Load())), now)
	}
	answered := rotation.Instant(s.answeredAt.Load())
	if answered == 0 {
		return
	}
	if info := c.rules.Session(s.id); info.State == rotation.Going {
		c.observed.note(useSeen, answered.Sub(info.Since), answered)
	}
}

// observedLocked returns what was observed, uses that go on included, and for how long some
// timer was overdue.
func (c *Connector) observedLocked(now rotation.Now) (Observed, time.Duration) {
	for _, s := range c.sessions {
		c.noteUseLocked(s, now.Mono)
	}
	return c.observed.all(now)
}

// rotatedLocked notes how long a new credential took to be read.
func (c *Connector) rotatedLocked(cred Credential, now rotation.Now) {
	if lag, known := lag(cred.PublishedAt, c.source.readAt, now); known {
		c.observed.lagged(lag, now.Mono)
	}
}

// lag returns how long what was published then took to be read, if that can be said: not of
// the first credential, which may have been there before the process was; and not if the
// wall clock was set since the last read, or the machine slept.
func lag(published time.Time, last, now rotation.Now) (time.Duration, bool) {
	if published.IsZero() || last.Mono == 0 {
		return 0, false
	}
	elapsed := now.Mono.Sub(last.Mono)
	jump := now.Wall.Sub(last.Wall) - elapsed
	if jump.Abs() > time.Second+elapsed/1000 { // clocks are slewed by as much
		return 0, false
	}
	return max(now.Wall.Sub(published), 0), true
}
