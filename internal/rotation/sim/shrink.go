// Shrinking: the shortest schedule with the same violation.

package sim

import (
	"regexp"
	"slices"
)

var numbers = regexp.MustCompile(`[0-9.]+(µs|ms|s)?`)

// kind is a violation without its numbers.
func kind(violation string) string { return numbers.ReplaceAllString(violation, "#") }

// Shrink returns the shortest schedule it finds that still shows a violation of the same
// kind: moves, pools and workers are left out one after the other, as long as that helps.
// Renewals stay: they are how the world is.
func Shrink(s Schedule, violation string) Schedule {
	shows := func(s Schedule) bool { return kind(Run(s, false).Violation) == kind(violation) }
	for again := true; again; {
		again = false
		for i := range slices.Backward(s.Moves) {
			if s.Moves[i].Kind == Renew {
				continue
			}
			less := s
			less.Moves = slices.Delete(slices.Clone(s.Moves), i, i+1)
			if shows(less) {
				s, again = less, true
			}
		}
		if len(s.Pools) > 1 {
			less := s
			less.Pools = s.Pools[:1]
			if shows(less) {
				s, again = less, true
			}
		}
		for i, p := range s.Pools {
			if p.Workers <= 1 {
				continue
			}
			less := s
			less.Pools = slices.Clone(s.Pools)
			less.Pools[i].Workers /= 2
			if shows(less) {
				s, again = less, true
			}
		}
	}
	return s
}
