// Watching one process of a fleet: when it logs in.

package sim

import (
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Attempt is a login as the server sees it.
type Attempt struct {
	At      time.Duration // when the server has decided it
	Login   int           // which login of the source it is, the first being 0
	Purpose rotation.Purpose
	Outcome Outcome
}

// Watch runs a schedule of any length, and tells of each login that the server decides. It
// keeps the books of what it counts, and holds nothing against them: their bounds are for
// schedules of half a minute, and looking at everything after each step takes its time.
func Watch(s Schedule, length time.Duration, decided func(Attempt)) (r Result) {
	w := newWorld(s)
	w.books.lenient = true
	w.decided = decided
	w.after(length-1, func() { w.books.report(&r) }) // what is closed under them fails
	w.run(length)
	return r
}
