// Excuses: when a query may fail, because a move has made it impossible not to.

package sim

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Excuses are the times at which queries may fail.
type Excuses struct {
	Schedule
	spans    []span
	episodes int  // of refusals
	restless bool // the source gave another login each time, for a while
	dropped  bool // the role in use was
	quiet    time.Duration
}

type span struct{ from, to time.Duration }

// Move notes what a move excuses, and for how long.
func (e *Excuses) Move(m Move, now time.Duration) {
	from := now
	if e.Config.Kind == rotation.LoginTokens { // they are read at logins only: nothing is learnt while nobody asks
		if m.Kind == Quiet {
			e.quiet = max(e.quiet, now+m.For)
			for i := range e.spans {
				if e.spans[i].to > now {
					e.spans[i].to += m.For
				}
			}
		}
		from = max(now, e.quiet)
	}
	if lasts := e.lasts(m); lasts > 0 {
		e.spans = append(e.spans, span{now, from + lasts})
	}
}

// lasts returns for how long a move excuses failures.
func (e *Excuses) lasts(m Move) time.Duration {
	place := e.Config.Kind == rotation.InPlace
	switch m.Kind {
	case Rotate:
		if !place && m.By <= 0 {
			return 0
		}
		e.episodes++
		if e.episodes > 1 || e.Lease > 0 {
			return 14 * sec // callers have waited before, and that counts; and a lease doesn't wait
		}
		return 0
	case RotateDud, Back:
		e.episodes++
		switch {
		case place:
			return m.For + 12*sec
		case m.Kind == RotateDud && (m.For > 3*sec || e.episodes > 1 || e.Lease > 0): // a lease may end meanwhile
			return m.For + 12*sec // the last step of the backoff, and a little
		}
		return 0
	case Renew, Burst, Impatient, Resize, Hold, Keep, ClosePool, Quiet:
		return 0
	case DropOld:
		return 12 * sec
	case Suspend:
		if e.Config.Kind == rotation.Overlapping && e.Lease > 0 && m.For > e.Lease/4 {
			return Length // nobody has renewed it meanwhile
		}
		return 12 * sec
	case WallStep:
		if e.Lease > 0 {
			return Length
		}
		return 3 * sec
	case Crash:
		return sec
	case SourceFails, SourceSlow, SourceHangs:
		if e.episodes > 0 {
			return m.For + 12*sec
		}
		return m.For + 9*sec
	case Unclear:
		e.episodes++
		return m.For + 3*sec
	case ServerDown, ServerFull:
		return m.For + 5*sec/2 // in an episode it is asked again within two seconds
	case ServerSlow:
		return m.For + m.By + 2*sec
	case Restless, DropCurrent:
		e.restless = e.restless || m.Kind == Restless
		e.dropped = e.dropped || m.Kind == DropCurrent
		e.episodes++
		if e.restless && e.dropped {
			return Length // sessions of the dead role wait for logins that such a source puts off by ten seconds each
		}
		return m.For + 14*sec
	default:
		e.episodes++
		return m.For + 14*sec
	}
}

// Excused reports whether what went on from then till then may have failed.
func (e *Excuses) Excused(from, to time.Duration) bool {
	for _, s := range e.spans {
		if from < s.to && s.from <= to {
			return true
		}
	}
	return false
}
