// What is outside of the connector: the server and the source.

package sim

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const forever = time.Duration(1) << 60

// Outside is what a connector has no power over: the server and the source, as a Schedule
// has them. It does nothing by itself, but is asked. It is not safe for concurrent use.
type Outside struct {
	Schedule
	Host

	logins                        []*login
	latest, last                  int // of logins
	users                         uint64
	fails, slowReads, hangs       int
	flaps                         int
	flip                          bool
	restless, accepted            bool
	back                          int // times that the source is about to go back and forth
	down, full, refusing, unclear int
	slow                          time.Duration
}

// Host is where it all happens: a simulator, or a bubble of synctest's.
type Host interface {
	Truth() time.Duration               // the server's time, which doesn't stop while the connector's machine sleeps
	After(d time.Duration, f func())    // has f called in d
	UpTo(d time.Duration) time.Duration // a time by chance
	Tells()                             // the source has something else to give
}

// login is a user and a password. Times are the server's.
type login struct {
	user     uint64
	from, to time.Duration // it is accepted between these
	dropped  time.Duration // from then on its sessions fail their queries
	end      time.Duration // what the source says of its end; 0: nothing
}

// Outcome is what comes of a login.
type Outcome uint8

// What the server says to a login.
const (
	Succeeds Outcome = iota
	Refuses
	RefusesUnclearly // with a code that says no for other reasons as well
	Fails
	IsFull
)

// NewOutside returns a server and a source that has a first login to give.
func NewOutside(s Schedule, h Host) *Outside {
	o := &Outside{Schedule: s, Host: h}
	o.publish(&login{user: o.newUser(), to: forever, dropped: forever}, 0)
	return o
}

// Answer is what the server says to a login, with a token that is good until then; 0: it
// is as good as the login.
func (o *Outside) Answer(i int, until time.Duration) Outcome {
	l, t := o.logins[i], o.Truth()
	switch {
	case o.down > 0:
		return Fails
	case o.unclear > 0:
		return RefusesUnclearly
	case o.refusing > 0 || t < l.from || t >= l.to || t >= l.dropped || until > 0 && t >= until:
		return Refuses
	case o.full > 0:
		return IsFull
	}
	return Succeeds
}

// Slow is how long the server takes; 0: not long.
func (o *Outside) Slow() time.Duration { return o.slow }

// Dropped reports whether sessions of a login fail their queries.
func (o *Outside) Dropped(i int) bool { return o.Truth() >= o.logins[i].dropped }

// User is the number of a login's user.
func (o *Outside) User(i int) uint64 { return o.logins[i].user }

// Good reports whether a login is accepted now, as far as that depends on it.
func (o *Outside) Good(i int) bool {
	l, t := o.logins[i], o.Truth()
	return t >= l.from && t < l.to && t < l.dropped
}

// Give is what a read of the source finds: a login, and the end that goes with it, if any;
// false if the read fails.
func (o *Outside) Give() (i int, until time.Duration, ok bool) {
	if o.fails > 0 {
		return 0, 0, false
	}
	i = o.give()
	if o.Config.Kind == rotation.LoginTokens {
		until = o.Truth() + o.Lease
	}
	return i, until, true
}

func (o *Outside) give() int {
	switch {
	case o.restless:
		l := &login{user: o.newUser(), to: forever, dropped: forever}
		if !o.accepted {
			l.to = 0
		}
		o.logins = append(o.logins, l)
		return len(o.logins) - 1
	case o.flaps > 0:
		o.flip = !o.flip
		if o.flip {
			return o.last
		}
	}
	return o.latest
}

// End is until when a login is good, by what the source says; 0: it says nothing.
func (o *Outside) End(i int) time.Duration { return o.logins[i].end }

// SlowReads reports whether reads of the source take long.
func (o *Outside) SlowReads() bool { return o.slowReads > 0 }

// Hangs reports whether reads of the source don't return.
func (o *Outside) Hangs() bool { return o.hangs > 0 }

// Calm ends all troubles.
func (o *Outside) Calm() {
	o.down, o.full, o.refusing, o.unclear, o.slow, o.hangs = 0, 0, 0, 0, 0, 0
}

// Make has a move happen, and reports false if it is none of the server's or the source's.
func (o *Outside) Make(m Move) bool {
	switch m.Kind {
	case Rotate, RotateDud, Back, Renew, DropOld, DropCurrent:
		o.rotate(m)
	case SourceFails:
		o.lasts(m, &o.fails)
	case SourceSlow:
		o.lasts(m, &o.slowReads)
	case SourceHangs:
		o.lasts(m, &o.hangs)
	case Restless:
		o.restless, o.accepted = true, m.N == 1
		o.After(m.For, func() { o.restless = false; o.Tells() })
	case Flaps:
		o.lasts(m, &o.flaps)
	case ServerDown:
		o.lasts(m, &o.down)
	case ServerSlow:
		o.slow = m.By
		o.After(m.For, func() { o.slow = 0 })
	case ServerFull:
		o.lasts(m, &o.full)
	case Refusing:
		o.lasts(m, &o.refusing)
	case Unclear:
		o.lasts(m, &o.unclear)
	default:
		return false
	}
	return true
}

// lasts counts a trouble for as long as the move says.
func (o *Outside) lasts(m Move, trouble *int) {
	*trouble++
	o.After(m.For, func() { *trouble-- })
}

func (o *Outside) newUser() uint64 {
	o.users++
	return o.users
}

// publish adds a login and has the source give it after lag.
func (o *Outside) publish(l *login, lag time.Duration) {
	o.logins = append(o.logins, l)
	i := len(o.logins) - 1
	if o.Lease > 0 && o.Config.Kind == rotation.Overlapping {
		l.to = o.Truth() + o.Lease
		l.dropped, l.end = l.to, l.to
	}
	o.After(lag, func() {
		o.last, o.latest = o.latest, i
		o.Tells()
	})
}

// rotate has whoever rotates do something.
func (o *Outside) rotate(m Move) {
	cur, now := o.logins[o.latest], o.Truth()
	switch m.Kind {
	case Renew:
		if o.renew(cur) {
			o.Tells()
		}
		return
	case DropOld:
		old := o.logins[o.last]
		if o.last != o.latest && o.back == 0 {
			old.to, old.dropped = min(old.to, now), min(old.dropped, now)
		}
		return
	case DropCurrent:
		cur.to, cur.dropped = now, now
		o.publish(&login{user: o.newUser(), from: now, to: forever, dropped: forever}, m.For)
		return
	}
	next := &login{user: o.newUser(), from: now + m.By, to: forever, dropped: forever}
	lag := o.UpTo(20 * ms)
	switch o.Config.Kind {
	case rotation.InPlace:
		next.user = cur.user
		next.from = now + max(0, m.By)
		cur.to = min(cur.to, next.from)
		lag = max(lag, -m.By)
	case rotation.LoginTokens:
		cur.to = min(cur.to, now+m.By+20*sec)
	default:
		o.supersede(cur, next, m)
	}
	if m.Kind == RotateDud {
		next.from = now + m.For
	}
	o.publish(next, lag)
	if m.Kind == Back {
		back := func(from, to int) func() {
			return func() {
				if o.latest == from {
					o.last, o.latest = from, to
					o.renew(o.logins[to])
					o.Tells()
				}
			}
		}
		i := len(o.logins) - 1
		old := o.latest
		o.back++
		o.After(lag+m.For, back(i, old))
		o.After(lag+2*m.For, func() { o.back--; back(old, i)() })
	}
}

// renew renews a login's lease, if it has one that isn't over.
func (o *Outside) renew(l *login) bool {
	now := o.Truth()
	if l.end <= now {
		return false
	}
	l.end = now + o.Lease
	l.to, l.dropped = l.end, l.end
	return true
}

// supersede gives a login its end, a little after the one that the window promises.
func (o *Outside) supersede(cur, next *login, m Move) {
	end := o.Truth() + o.Config.Overlap + sec
	switch m.Kind {
	case RotateDud:
		end += m.For
	case Back:
		end += 2*m.For + sec
	}
	if o.Shared {
		// The other of the two users gets a new password; sessions live on.
		if n := len(o.logins); n > 1 {
			before := o.logins[n-2]
			next.user = before.user
			before.to = min(before.to, o.Truth())
		}
		return
	}
	cur.to, cur.dropped = min(cur.to, end), min(cur.dropped, end)
}
