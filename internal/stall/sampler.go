// sampler: when something that was due didn't come. Pure: it never reads a clock.

package stall

import (
	"slices"
	"sort"
	"time"
)

type span struct{ from, to time.Time }

// sampler expects one thing after another.
type sampler struct {
	due     time.Time // of the thing that is expected; zero: none
	stalls  []span    // when things were late, in order
	answers int       // things that came
}

// until returns the stalls up to now, when what was expected came or hasn't come yet.
func (s *sampler) until(now time.Time) []span {
	if s.due.IsZero() || now.Sub(s.due) <= noise {
		return s.stalls
	}
	return append(s.stalls, span{s.due, now})
}

// forget drops the stalls that were over before then.
func (s *sampler) forget(before time.Time) {
	s.stalls = slices.Clone(slices.DeleteFunc(s.stalls, func(stall span) bool { return stall.to.Before(before) }))
}

// except takes a span out of the stalls, and out of one that goes on.
func (s *sampler) except(own span) {
	var left []span
	for _, stall := range s.stalls {
		if !stall.to.After(own.from) || !stall.from.Before(own.to) {
			left = append(left, stall)
			continue
		}
		if stall.from.Before(own.from) {
			left = append(left, span{stall.from, own.from})
		}
		if stall.to.After(own.to) {
			left = append(left, span{own.to, stall.to})
		}
	}
	s.stalls = left
	if !s.due.IsZero() && s.due.Before(own.to) {
		s.stalls = s.until(own.from)
		s.due = own.to
	}
}

// lostIn returns for how much of the window any of several things was late, and how
// late the latest was. The window counts in it, for what lasted longer.
func lostIn(window span, stalls ...[]span) (lost, worst time.Duration) {
	at := window.from // until then it has been counted
	for at.Before(window.to) {
		// The earliest that is left.
		next := -1
		for i, s := range stalls {
			s = s[sort.Search(len(s), func(i int) bool { return s[i].to.After(at) }):]
			stalls[i] = s
			if len(s) > 0 && (next < 0 || s[0].from.Before(stalls[next][0].from)) {
				next = i
			}
		}
		if next < 0 {
			return lost, worst
		}
		s := stalls[next][0]
		if s.from.Before(window.from) {
			s.from = window.from
		}
		if s.to.After(window.to) {
			s.to = window.to
		}
		if !s.to.After(s.from) {
			return lost, worst // it and all that follow are after the window
		}
		worst = max(worst, s.to.Sub(s.from))
		if s.from.Before(at) {
			s.from = at
		}
		lost += max(0, s.to.Sub(s.from))
		at = s.to
	}
	return lost, worst
}
