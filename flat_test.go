//go:build linux

// What a test that goes on for long needs of its process, and whether that grows.

package sqlrotate

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// needs is what a process needs at one moment.
type needs struct {
	heap        int // bytes in use, after a collection of garbage
	goroutines  int
	descriptors int
	sessions    int // at the server
}

func (n needs) String() string {
	return fmt.Sprintf("heap %d KiB, %d goroutines, %d descriptors, %d sessions", n.heap>>10, n.goroutines, n.descriptors, n.sessions)
}

// needed returns what this process needs now, but for its sessions.
func needed(t *testing.T) needs {
	t.Helper()
	runtime.GC()
	runtime.GC() // what the first one has finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return needs{heap: int(m.HeapAlloc), goroutines: runtime.NumGoroutine(), descriptors: openFiles(t)}
}

const (
	// fewest is how many moments it takes to see what grows.
	fewest = 9

	// A process may need so much more than at first: of memory a tenth and what is the
	// test's own, of everything else what happens to be under way.
	heapSlack, otherSlack = 512 << 10, 6
)

// grown returns in words what a process needs more of in the last third of its time than in the
// first one; nothing if it needs no more. The least of each counts, because what is under way
// comes and goes and what leaks stays: at first once it has warmed up. There must be fewest
// moments or more.
func grown(moments []needs) string {
	third := len(moments) / 3
	first, last := moments[third/2:third], moments[len(moments)-third:]
	var words []string
	for _, need := range []struct {
		name  string
		of    func(needs) int
		slack func(before int) int
	}{
		{"bytes of heap", func(n needs) int { return n.heap }, func(before int) int { return before/10 + heapSlack }},
		{"goroutines", func(n needs) int { return n.goroutines }, func(int) int { return otherSlack }},
		// A server that has just crashed has few sessions. Those that leak are there after Close.
		{"descriptors but for sessions", func(n needs) int { return n.descriptors - n.sessions }, func(int) int { return otherSlack }},
	} {
		least := func(moments []needs) int {
			least := need.of(moments[0])
			for _, n := range moments {
				least = min(least, need.of(n))
			}
			return least
		}
		if before, now := least(first), least(last); now > before+need.slack(before) {
			words = append(words, fmt.Sprintf("%d %s at the least, and %d at first", now, need.name, before))
		}
	}
	return strings.Join(words, "; ")
}

// What leaks is found, however little at a time, and what comes and goes is not.
func TestLeaksAreSeen(t *testing.T) {
	const n = 60
	steady := func(i int) needs {
		return needs{heap: 4<<20 + i*7919%5*200<<10, goroutines: 40 + i*31%7, descriptors: 50 + i*17%9, sessions: 20 + i%2}
	}
	for _, test := range []struct {
		name string
		at   func(i int, n *needs)
		want string
	}{
		{"nothing", func(int, *needs) {}, ""},
		{"it needs more at first", func(i int, n *needs) { n.heap += (60 - i) << 17; n.goroutines += 60 - i }, ""},
		{"it warms up", func(i int, n *needs) { n.heap += min(i, 10) << 18; n.descriptors += min(i, 10) * 3 }, ""},
		{"every other moment is dear", func(i int, n *needs) { n.heap *= 1 + i%2; n.goroutines *= 1 + i%2 }, ""},
		{"two kilobytes with each of 20 rotations a minute", func(i int, n *needs) { n.heap += i * 40 << 10 }, "heap"},
		{"a goroutine in three minutes", func(i int, n *needs) { n.goroutines += i / 3 }, "goroutines"},
		{"a descriptor in three minutes", func(i int, n *needs) { n.descriptors += i / 3 }, "descriptors"},
		{"sessions that are gone for a moment at first", func(i int, n *needs) {
			if i < 20 {
				n.descriptors, n.sessions = n.descriptors-20, n.sessions-20
			}
		}, ""},
	} {
		moments := make([]needs, n)
		for i := range moments {
			moments[i] = steady(i)
			test.at(i, &moments[i])
		}
		got := grown(moments)
		if test.want == "" && got != "" || test.want != "" && !strings.Contains(got, test.want) {
			t.Errorf("%s: grown: %q", test.name, got)
		}
	}
	if got := grown(slices.Repeat([]needs{steady(0)}, fewest)); got != "" {
		t.Errorf("the same all the time: %q", got)
	}
}
