// Notices: what the connector tells of, in the order in which it happened, without waiting
// for who is told.

package sqlrotate

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

const (
	// maxNotices is how many log lines and callbacks may wait for their turn.
	maxNotices = 1000

	// noticeTimeout is how long the next one waits for a log line or a callback.
	noticeTimeout = time.Second
)

// notices are log lines and callbacks of [Trace] that wait for their turn: they are made
// one after the other, in a goroutine that ends when there are no more. Telling never
// blocks, and so may be done under any lock. All methods are safe for concurrent use.
type notices struct {
	name   string // Config.Name
	logger *slog.Logger
	trace  Trace
	calls  *calls

	mu      sync.Mutex // guards what follows; nothing is called under it
	queue   []notice
	telling bool   // the goroutine runs
	dropped uint64 // because the queue was full, or what is called hangs
	unsaid  uint64 // of those, of how many the log has not said so
}

// notice is a log line or a callback.
type notice struct {
	line     *slog.Record
	callback func()
}

// newNotices returns notices for a logger, nil for slog.Default(), and for callbacks, if
// any.
func newNotices(name string, logger *slog.Logger, trace *Trace, calls *calls) *notices {
	n := &notices{name: name, logger: logger, calls: calls}
	if logger == nil {
		n.logger = slog.Default()
	}
	if trace != nil {
		n.trace = *trace
	}
	return n
}

// log has a line logged, with the time of the call.
func (n *notices) log(level slog.Level, msg string, args ...any) {
	n.tell(n.line(level, msg, args...))
}

func (n *notices) line(level slog.Level, msg string, args ...any) notice {
	var caller [1]uintptr
	runtime.Callers(3, caller[:]) // of log
	r := slog.NewRecord(time.Now(), level, msg, caller[0])
	r.Add(args...)
	if n.name != "" {
		r.Add("connector", n.name)
	}
	return notice{line: &r}
}

// handle passes a line to the logger.
func (n *notices) handle(r slog.Record) {
	if ctx := context.Background(); n.logger.Enabled(ctx, r.Level) {
		_ = n.logger.Handler().Handle(ctx, r) // there is nobody to tell of it
	}
}

func (n *notices) login(l LoginInfo) {
	if f := n.trace.Login; f != nil {
		n.callback(func() { f(l) })
	}
}

func (n *notices) rotated(v VersionStats) {
	if f := n.trace.Rotated; f != nil {
		n.callback(func() { f(v) })
	}
}

func (n *notices) proven(v VersionStats) {
	if f := n.trace.Proven; f != nil {
		n.callback(func() { f(v) })
	}
}

func (n *notices) refused(v VersionStats, err error) {
	if f := n.trace.Refused; f != nil {
		n.callback(func() { f(v, err) })
	}
}

func (n *notices) closed(v VersionStats, reason CloseReason, age time.Duration) {
	if f := n.trace.Closed; f != nil {
		n.callback(func() { f(v, reason, age) })
	}
}

func (n *notices) outlived(v VersionStats, age time.Duration) {
	if f := n.trace.Outlived; f != nil {
		n.callback(func() { f(v, age) })
	}
}

func (n *notices) drained(connections int, took time.Duration) {
	if f := n.trace.Drained; f != nil {
		n.callback(func() { f(connections, took) })
	}
}

func (n *notices) callback(f func()) { n.tell(notice{callback: f}) }

// tell queues a notice, or drops it if too many wait.
func (n *notices) tell(t notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queue) >= maxNotices {
		n.dropped, n.unsaid = n.dropped+1, n.unsaid+1
		return
	}
	n.queue = append(n.queue, t)
	if !n.telling {
		n.telling = true
		n.calls.tasks.start(n.run)
	}
}

// run makes the notices that wait.
func (n *notices) run() {
	for {
		n.mu.Lock()
		if len(n.queue) == 0 {
			n.telling, n.queue = false, nil
			n.mu.Unlock()
			return
		}
		t, unsaid := n.queue[0], n.unsaid
		n.queue, n.unsaid = n.queue[1:], 0
		n.mu.Unlock()
		if unsaid > 0 {
			n.make(n.line(slog.LevelWarn, "sqlrotate: the logger or a callback of Config.Trace is too slow: log lines and callbacks were dropped", "dropped", unsaid))
		}
		n.make(t)
	}
}

// make makes a notice. Those who are told may hang, and panic.
func (n *notices) make(t notice) {
	to, f := &n.calls.callbacks, t.callback
	if t.line != nil {
		to, f = &n.calls.logs, func() { n.handle(*t.line) }
	}
	err := callFor(noticeTimeout, to, func() error { f(); return nil })
	var hung *hungError
	var panicked *panicError
	switch {
	case errors.As(err, &hung):
		n.mu.Lock()
		n.dropped, n.unsaid = n.dropped+1, n.unsaid+1
		n.mu.Unlock()
	case errors.As(err, &panicked) && t.line == nil:
		n.log(slog.LevelError, "sqlrotate: a callback panicked", "err", err)
	}
}

// drops returns how many were dropped.
func (n *notices) drops() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dropped
}
