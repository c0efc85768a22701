package sim

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const forever = time.Duration(1) << 60

// login is a user and a password. Times are the server's.
type login struct {
	user     uint64
	from, to time.Duration // it is accepted between these
	dropped  time.Duration // from then on its sessions fail their queries
	end      time.Duration // what the source says of its end; 0: nothing
}

// server decides about logins.
type server struct {
	down, full, refusing, unclear int
	slow                          time.Duration
}

type outcome uint8

const (
	succeeds outcome = iota
	refuses
	unclearly
	fails
	isFull
)

// answer is what the server says to a login, with a token that is good until then.
func (w *world) answer(l *login, until time.Duration) outcome {
	t := w.truth()
	switch {
	case w.server.down > 0:
		return fails
	case w.server.unclear > 0:
		return unclearly
	case w.server.refusing > 0 || t < l.from || t >= l.to || t >= l.dropped || until > 0 && t >= until:
		return refuses
	case w.server.full > 0:
		return isFull
	}
	return succeeds
}

// source is where logins are published.
type source struct {
	w                  *world
	logins             []*login
	latest, last       int // of logins
	users              uint64
	fails, slow, hangs int
	flaps              int
	flip               bool
	restless, accepted bool
	back               int // times that the source is about to go back and forth
}

func (s *source) init(w *world) {
	s.w = w
	s.publish(&login{user: s.newUser(), to: forever, dropped: forever}, 0)
}

func (s *source) newUser() uint64 {
	s.users++
	return s.users
}

// publish adds a login and has the source give it after lag.
func (s *source) publish(l *login, lag time.Duration) {
	s.logins = append(s.logins, l)
	i := len(s.logins) - 1
	if s.w.Lease > 0 && s.w.Config.Kind == rotation.Overlapping {
		l.to = s.w.truth() + s.w.Lease
		l.dropped, l.end = l.to, l.to
	}
	s.w.after(lag, func() {
		s.last, s.latest = s.latest, i
		s.tells()
	})
}

// tells has a source that tells of changes do so.
func (s *source) tells() {
	if s.w.Config.Notified && s.w.core != nil {
		s.w.after(s.w.jitter(), func() { s.w.shell.read(false, func() {}) })
	}
}

// give is what a read finds: the number of a login, and false if the read fails.
func (s *source) give() (int, bool) {
	switch {
	case s.fails > 0:
		return 0, false
	case s.restless:
		l := &login{user: s.newUser(), to: forever, dropped: forever}
		if !s.accepted {
			l.to = 0
		}
		s.logins = append(s.logins, l)
		return len(s.logins) - 1, true
	case s.flaps > 0:
		s.flip = !s.flip
		if s.flip {
			return s.last, true
		}
	}
	return s.latest, true
}

// settle ends a restless time with a login that is good.
func (s *source) settle() { s.tells() }

// rotate has whoever rotates do something.
func (w *world) rotate(m Move) {
	s := &w.source
	cur, now := s.logins[s.latest], w.truth()
	switch m.Kind {
	case Renew:
		if cur.end > now {
			cur.end = now + w.Lease
			cur.to, cur.dropped = cur.end, cur.end
			s.tells()
		}
		return
	case DropOld:
		old := s.logins[s.last]
		if s.last != s.latest && s.back == 0 {
			old.to, old.dropped = min(old.to, now), min(old.dropped, now)
		}
		return
	case DropCurrent:
		cur.to, cur.dropped = now, now
		s.publish(&login{user: s.newUser(), from: now, to: forever, dropped: forever}, m.For)
		return
	}
	w.books.rotations++
	next := &login{user: s.newUser(), from: now + m.By, to: forever, dropped: forever}
	lag := w.upTo(20 * ms)
	switch w.Config.Kind {
	case rotation.InPlace:
		next.user = cur.user
		next.from = now + max(0, m.By)
		cur.to = min(cur.to, next.from)
		lag = max(lag, -m.By)
	case rotation.LoginTokens:
		cur.to = min(cur.to, now+m.By+20*sec)
	default:
		w.supersede(cur, next, m)
	}
	if m.Kind == RotateDud {
		next.from = now + m.For
	}
	s.publish(next, lag)
	if m.Kind == Back {
		back := func(from, to int) func() {
			return func() {
				if s.latest == from {
					s.last, s.latest = from, to
					s.tells()
				}
			}
		}
		i := len(s.logins) - 1
		old := s.latest
		s.back++
		w.after(lag+m.For, back(i, old))
		w.after(lag+2*m.For, func() { s.back--; back(old, i)() })
	}
}

// supersede gives a login its end, a little after the one that the window promises.
func (w *world) supersede(cur, next *login, m Move) {
	end := w.truth() + w.Config.Overlap + sec
	switch m.Kind {
	case RotateDud:
		end += m.For
	case Back:
		end += 2*m.For + sec
	}
	if w.Shared {
		// The other of the two users gets a new password; sessions live on.
		if n := len(w.source.logins); n > 1 {
			before := w.source.logins[n-2]
			next.user = before.user
			before.to = min(before.to, w.truth())
		}
		return
	}
	cur.to, cur.dropped = min(cur.to, end), min(cur.dropped, end)
}
