// The queue of what is to happen, by its time.

package sim

import (
	"container/heap"
	"time"
)

// queue runs functions at their times, those of the same time in the order in which they
// were put there.
type queue struct {
	now   time.Duration
	items items
	seq   int
}

type item struct {
	at  time.Duration
	seq int
	do  func()
}

func (q *queue) after(d time.Duration, do func()) {
	q.seq++
	heap.Push(&q.items, item{q.now + max(0, d), q.seq, do})
}

// next runs the next function; false if there is none before end.
func (q *queue) next(end time.Duration) bool {
	if len(q.items) == 0 || q.items[0].at >= end {
		return false
	}
	it, _ := heap.Pop(&q.items).(item)
	q.now = it.at
	it.do()
	return true
}

type items []item

func (q items) Len() int { return len(q) }
func (q items) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q items) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *items) Push(x any)   { *q = append(*q, x.(item)) } //nolint:forcetypeassert // heap's only user
func (q *items) Pop() any     { o := *q; x := o[len(o)-1]; *q = o[:len(o)-1]; return x }
