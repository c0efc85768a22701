// census: the goroutines that somebody has started, among all others.

package openertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"runtime/pprof"
	"strconv"
	"strings"
)

// census counts the goroutines of one scene. They have a label, which each hands on to those
// that it starts. (One that a timer starts has none.)
type census struct {
	name string
	ctx  context.Context //nolint:containedctx // a label is a context's
}

// newCensus labels the goroutine that calls it.
func newCensus() *census {
	c := &census{name: rand.Text()}
	c.ctx = pprof.WithLabels(context.Background(), pprof.Labels("scene", c.name))
	pprof.SetGoroutineLabels(c.ctx)
	return c
}

// outside has a labelled goroutine call f without its label.
func (c *census) outside(f func()) {
	c.leave()
	defer pprof.SetGoroutineLabels(c.ctx)
	f()
}

// leave takes the label off the goroutine that calls it.
func (c *census) leave() { pprof.SetGoroutineLabels(context.Background()) }

// count returns how many goroutines have the label, and where they are.
func (c *census) count() (n int, where string) {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
	var stacks []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if !strings.Contains(stack, c.name) {
			continue
		}
		number, _, _ := strings.Cut(stack, " @")
		if _, last, ok := strings.Cut(number, "\n"); ok { // after the title
			number = last
		}
		same, _ := strconv.Atoi(number)
		n += same
		stacks = append(stacks, stack)
	}
	return n, strings.Join(stacks, "\n\n")
}
