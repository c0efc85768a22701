// Listener: LISTEN and NOTIFY across rotations. A goroutine has the session that listens and,
// for a moment, its successor; listening.go is one session.

package sqlrotate

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Notification is what somebody has sent with NOTIFY or pg_notify.
type Notification struct {
	Channel string
	Payload string
	PID     uint32 // of the server's process that sent it
}

// ListenerOptions say how a [Listener] listens. The zero value is fine.
type ListenerOptions struct {
	// Buffer is how many notifications wait for [Listener.Next] at the most. What comes on
	// top is dropped, and Next says so in its place. One takes up to 8 kB. Zero means 4096.
	Buffer int

	// KeepAlive is how long the server may say nothing before it is asked whether it is still
	// there. If it doesn't answer within 10 s, the session is lost. Zero means 30 s; negative
	// means that it isn't asked.
	KeepAlive time.Duration
}

func (o ListenerOptions) buffer() int {
	if o.Buffer <= 0 {
		return 4096
	}
	return o.Buffer
}

func (o ListenerOptions) keepAlive() time.Duration {
	return orDefault(o.KeepAlive, 30*time.Second)
}

// GapError is returned by [Listener.Next] in the place of notifications that may have been
// missed: the session was lost, or more came than were asked for. It is no end: whoever gets
// it looks at the tables, as at the start, and goes on with Next. All that was missed was
// sent before Next returned it.
type GapError struct {
	Since   time.Time // when the session was lost, or the first was dropped
	Dropped int       // how many came and were dropped, because ListenerOptions.Buffer was full
	err     error
}

func (e *GapError) Error() string {
	msg := fmt.Sprintf("sqlrotate: notifications may have been missed since %s", e.Since.UTC().Format(time.RFC3339))
	if e.Dropped > 0 {
		msg += fmt.Sprintf(", and %d were dropped because nobody took those before them", e.Dropped)
	}
	if e.err != nil {
		msg += ": " + e.err.Error()
	}
	return msg
}

// Unwrap returns what ended the session, or nil.
func (e *GapError) Unwrap() error { return e.err }

// ErrListenerClosed is returned by a [Listener] after its Close.
var ErrListenerClosed = errors.New("sqlrotate: listener is closed")

// Listener receives PostgreSQL's notifications, whatever happens to the login: at a rotation
// a new session listens before the old one goes, and each notification comes once, in the
// order of the commits. A session that is lost is replaced, and [Listener.Next] says what
// that may have cost, in its place. Make it with [NewListener]. All methods are safe for
// concurrent use.
//
// Its session is one of [Connector.Hold], beside those of the pools; for the moment of a
// rotation there are two, and at the start, when one sees whether it hears the other. It needs
// sessions of its own at the server: PgBouncer in transaction mode has none, and Listen fails
// there after 10 s. A standby can't LISTEN.
type Listener struct {
	c         *Connector
	opt       ListenerOptions
	notifier  notifier        // one of these two is nil
	waiter    waiter          //
	private   string          // the channel of the tokens
	ctx       context.Context //nolint:containedctx // the life of the listener, done when closed
	cancel    context.CancelFunc
	start     sync.Once
	commands  chan command
	ready     chan struct{} // poked when there is something for Next
	ended     chan struct{} // closed when run has returned
	sessions  sync.WaitGroup
	channels  []string // listened to; of run
	listening *listening

	mu    sync.Mutex // guards what follows; nothing is called under it
	inbox inbox
	live  *listening // whose notifications are passed on
	next  *listening // whose notifications are kept until it is its turn
	stats ListenerStats
	err   error // set before ended is closed
}

// ListenerStats is a snapshot of a [Listener].
type ListenerStats struct {
	Connected bool   // there is a session that listens
	Err       error  // why there is none, or why the last attempt at another one failed
	Waiting   int    // notifications that wait for Next
	Received  uint64 // notifications so far, but for those that were dropped
	Handovers uint64 // to another session, without a gap
	Gaps      uint64 // errors for Next that say so
	Dropped   uint64 // notifications that were dropped because too many waited
}

// command is what a caller has the listener do.
type command struct {
	ctx      context.Context //nolint:containedctx // the caller's, who waits
	channels []string
	unlisten bool
	done     chan error // takes one
}

// NewListener returns a listener on the server that c logs in to. It does no I/O: the first
// call of [Listener.Listen] logs in. The Opener must be [LibPQ] or have the method
// WaitForNotification that [Opener] tells of, as that of pgxopener has; else that is the
// error. Close the listener when it is not needed any more; it ends with c, too.
func NewListener(c *Connector, opt ListenerOptions) (*Listener, error) {
	if err := plausible("ListenerOptions.KeepAlive", opt.KeepAlive); err != nil {
		return nil, err
	}
	l := &Listener{
		c: c, opt: opt,
		private:  "sqlrotate_" + strings.ToLower(rand.Text()),
		commands: make(chan command),
		ready:    make(chan struct{}, 1),
		ended:    make(chan struct{}),
	}
	l.inbox.max = opt.buffer()
	switch o := c.cfg.Opener.(type) {
	case notifier:
		l.notifier = o
	case waiter:
		l.waiter = o
	default:
		return nil, fmt.Errorf("sqlrotate: the Opener, a %T, has no method WaitForNotification", o)
	}
	l.ctx, l.cancel = context.WithCancel(c.ctx)
	return l, nil
}

// Listen listens to channels as well. It returns when all that is committed from then on will
// come. The names are taken as they are, upper and lower case included, and have 63 bytes at
// the most. The first call logs in, and its error is that of [Connector.Hold] or the server's;
// it may be called again. While a lost session is being replaced later calls wait for that.
// If ctx is done first, the channels may be listened to or not.
func (l *Listener) Listen(ctx context.Context, channels ...string) error {
	return l.command(ctx, command{channels: channels})
}

// Unlisten listens to channels no more. Notifications of theirs that have come are not taken
// back.
func (l *Listener) Unlisten(ctx context.Context, channels ...string) error {
	return l.command(ctx, command{channels: channels, unlisten: true})
}

// maxChannel is the longest name of a channel, in bytes: LISTEN cuts a longer one short.
const maxChannel = 63

func (l *Listener) command(ctx context.Context, cmd command) error {
	for _, name := range cmd.channels {
		if name == "" || len(name) > maxChannel || strings.ContainsRune(name, 0) {
			return fmt.Errorf("sqlrotate: %q is no name of a channel: it has 1 to %d bytes, and no NUL", name, maxChannel)
		}
	}
	l.start.Do(func() { l.c.tasks.start(l.run) })
	cmd.ctx, cmd.done = ctx, make(chan error, 1)
	select {
	case l.commands <- cmd:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended:
		return l.over()
	}
	select {
	case err := <-cmd.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended:
		return l.over()
	}
}

// Next returns the next notification, and waits for it. The error is a [*GapError] where some
// may have been missed, and then there is more to come; that of ctx; [ErrListenerClosed] after
// Close; or [ErrClosed] when the connector is closed and there is nothing left.
//
// It should be called again soon: see ListenerOptions.Buffer. Of several callers each gets
// some.
func (l *Listener) Next(ctx context.Context) (Notification, error) {
	for {
		l.mu.Lock()
		first, ok := l.inbox.take()
		more := len(l.inbox.letters) > 0
		l.mu.Unlock()
		if more {
			poke(l.ready)
		}
		switch {
		case ok && first.gap != nil:
			return Notification{}, first.gap
		case ok:
			return first.Notification, nil
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			return Notification{}, ctx.Err()
		case <-l.ctx.Done():
			l.start.Do(l.end) // or it has run
			select {
			case <-l.ended:
			case <-ctx.Done():
				return Notification{}, ctx.Err()
			}
			if l.empty() {
				return Notification{}, l.over()
			}
		}
	}
}

func (l *Listener) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inbox.letters) == 0
}

// over says why the listener has ended.
func (l *Listener) over() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Stats returns a snapshot.
func (l *Listener) Stats() ListenerStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Connected, s.Waiting = l.live != nil, len(l.inbox.letters)
	return s
}

// Close ends the listener and waits for that, a few seconds at the most. Notifications that
// nobody has taken are dropped. More calls do nothing. The error is always nil.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.err == nil {
		l.err = ErrListenerClosed
	}
	l.mu.Unlock()
	l.cancel()
	l.start.Do(l.end)
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inbox.letters = nil
	return nil
}

// run has the session, until the listener is closed.
func (l *Listener) run() {
	defer l.end()
	failures, retryAt := 0, time.Time{}
	for l.ctx.Err() == nil {
		x := l.listening
		if x == nil { // nobody has listened yet
			select {
			case cmd := <-l.commands:
				cmd.done <- l.begin(cmd)
			case <-l.ctx.Done():
			}
			continue
		}
		look := x.held.Superseded()
		var retry <-chan time.Time
		if closed(look) {
			better, changed := l.c.better(x.held)
			wait := time.Until(retryAt)
			if better && wait <= 0 {
				if l.handOver(x) {
					failures = 0
				} else {
					failures++
					retryAt = time.Now().Add(backoff(failures, listenRetryMin, listenRetryMax))
				}
				continue
			}
			if better {
				look, retry = nil, time.After(wait)
			} else {
				look = changed
			}
		}
		select {
		case cmd := <-l.commands:
			cmd.done <- l.change(x, cmd)
		case <-x.lost:
			l.replace(x)
		case <-look:
		case <-retry:
		case <-l.ctx.Done():
		}
	}
}

const (
	// listenRetryMin and listenRetryMax are how long a listener waits for another attempt at
	// a session.
	listenRetryMin = 250 * time.Millisecond
	listenRetryMax = 10 * time.Second
)

// closed reports whether c is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// better reports whether a session that is held now would last longer than h, and returns
// what is closed when that may have changed.
func (c *Connector) better(h *Held) (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	current := c.rules.Current()
	v, _ := c.rules.View(current)
	return !c.rules.Recalls(current, now) && (current == h.s.version.id || v.Proven), c.changed
}

// end is the end of run.
func (l *Listener) end() {
	l.cancel()
	l.sessions.Wait()
	l.mu.Lock()
	if l.err == nil {
		l.err = ErrClosed
	}
	if l.err == ErrListenerClosed { //nolint:errorlint // it is not wrapped
		l.inbox.letters = nil
	}
	l.live, l.next = nil, nil
	l.mu.Unlock()
	close(l.ended)
}

// begin is the first call of Listen.
func (l *Listener) begin(cmd command) error {
	if cmd.unlisten || len(cmd.channels) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(cmd.ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	l.channels = slices.Compact(slices.Sorted(slices.Values(cmd.channels)))
	x, err := l.connect(ctx, nil)
	if err != nil {
		l.channels = nil
		return err
	}
	l.turn(x, nil)
	return nil
}

// change has a session listen to other channels.
func (l *Listener) change(x *listening, cmd command) error {
	word := "LISTEN"
	names := slices.Compact(slices.Sorted(slices.Values(cmd.channels)))
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(l.channels, name) != cmd.unlisten })
	if cmd.unlisten {
		word = "UNLISTEN"
		l.channels = slices.DeleteFunc(l.channels, func(name string) bool { return slices.Contains(names, name) })
	}
	if len(names) == 0 {
		return nil
	}
	err := x.exec(statements(word, names))
	switch {
	case err == nil && !cmd.unlisten:
		l.channels = append(l.channels, names...)
	case closed(x.lost) && cmd.unlisten:
		return nil // nor will another one listen to them
	}
	return err
}

// statements returns one statement for each name.
func statements(word string, names []string) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s %s;", word, quoted(name))
	}
	return b.String()
}

// quoted returns a name as an identifier.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// connect has another session listen, and waits until it does: until a token has come that
// was sent on it. What comes before that is the business of before, the session that listens
// now, if there is one: it gets the token as well.
//
// The notifications of a database have one order, that of the commits, and each session gets
// them in it. So the token cuts both streams at the same place.
func (l *Listener) connect(ctx context.Context, before *listening) (*listening, error) {
	x, err := l.attempt(ctx, before)
	if err == nil {
		return x, nil
	}
	if x != nil {
		x.stop()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = nil
	l.stats.Err = err
	if before != nil { // it goes on
		before.ends, before.ended = "", nil
		l.passAllLocked(&before.kept)
	}
	return nil, err
}

// attempt is connect without what follows from a failure.
func (l *Listener) attempt(ctx context.Context, before *listening) (*listening, error) {
	held, err := l.c.Hold(ctx)
	if err != nil {
		return nil, err
	}
	x := newListening(l, held)
	x.begins = rand.Text()
	token := x.begins
	l.mu.Lock()
	l.next = x
	if before != nil {
		before.ends, before.ended = token, make(chan struct{})
	}
	l.mu.Unlock()
	l.sessions.Add(1)
	l.c.tasks.start(func() { //nolint:contextcheck // it lives on
		defer l.sessions.Done()
		x.run()
	})
	return x, l.listen(ctx, x, token)
}

// listen has a session listen and waits for the token.
func (l *Listener) listen(ctx context.Context, x *listening, token string) error {
	err := x.exec(statements("LISTEN", append([]string{l.private}, l.channels...)))
	send := "NOTIFY " + quoted(l.private) + ", '" + token + "'"
	switch {
	case err != nil:
	case l.listening == nil: // for the first time: see whether it hears others
		err = l.execElsewhere(ctx, send)
	default:
		err = x.exec(send)
	}
	if err != nil {
		return fmt.Errorf("sqlrotate: the session can't listen: %w", err)
	}
	t := time.NewTimer(answerTimeout)
	defer t.Stop()
	select {
	case <-x.begun:
		return nil
	case <-x.lost:
		return x.err
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return fmt.Errorf("sqlrotate: a session that listens has not heard within %v what was sent to it: there may be a pooler before the server that keeps no session for it", answerTimeout)
	}
}

// execElsewhere runs a statement on a session that is closed again.
func (l *Listener) execElsewhere(ctx context.Context, statement string) error {
	held, err := l.c.Hold(ctx)
	if err != nil {
		return err
	}
	defer held.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, held.s.abort)()
	_, err = guarded("the driver", func() (struct{}, error) { return struct{}{}, execute(held.Conn(), statement) }) //nolint:contextcheck // see there
	return err
}

// handOver has another session take the place of x, and reports whether that has come to
// pass. If x is lost meanwhile there may be a gap.
func (l *Listener) handOver(x *listening) bool {
	next, err := l.connect(l.ctx, x)
	if err != nil {
		if l.ctx.Err() == nil {
			l.c.notices.log(slog.LevelWarn, "sqlrotate: a listener that should move to another session can't, and stays on its own", "err", err)
		}
		return false
	}
	t := time.NewTimer(answerTimeout)
	defer t.Stop()
	var gap *GapError
	select {
	case <-x.ended:
	case <-x.lost:
		gap = &GapError{Since: time.Now(), err: x.err}
	case <-t.C:
		gap = &GapError{Since: time.Now(), err: fmt.Errorf("sqlrotate: the server has not sent within %v what it sent on another session", answerTimeout)}
	case <-l.ctx.Done():
		return true
	}
	if closed(x.ended) {
		gap = nil
	}
	l.turn(next, gap)
	x.cancel()
	if gap == nil {
		l.c.notices.log(slog.LevelInfo, "sqlrotate: a listener has moved to another session and missed nothing", "user", next.user)
	} else {
		l.c.notices.log(slog.LevelWarn, "sqlrotate: a listener has lost its session while it moved to another one: notifications may have been missed", "err", gap.err)
	}
	return true
}

// replace has another session take the place of x, which is lost, as soon as there is one.
func (l *Listener) replace(x *listening) {
	gap := &GapError{Since: time.Now(), err: x.err}
	l.mu.Lock()
	l.live = nil
	l.stats.Err = x.err
	l.mu.Unlock()
	if l.ctx.Err() != nil {
		return
	}
	l.c.notices.log(slog.LevelWarn, "sqlrotate: a listener has lost its session: notifications may be missed", "user", x.user, "err", x.err)
	for n := 1; ; n++ {
		next, err := l.connect(l.ctx, nil)
		if err == nil {
			l.turn(next, gap)
			l.c.notices.log(slog.LevelInfo, "sqlrotate: a listener has a session again", "user", next.user, "after", time.Since(gap.Since).Round(time.Millisecond))
			return
		}
		if n == 1 && l.ctx.Err() == nil {
			l.c.notices.log(slog.LevelWarn, "sqlrotate: a listener has no session and goes on trying", "err", err)
		}
		t := time.NewTimer(backoff(n, listenRetryMin, listenRetryMax))
		select {
		case <-t.C:
		case <-l.ctx.Done():
			t.Stop()
			return
		}
	}
}

// turn has what x receives passed on from now on, after gap, if that is not nil.
func (l *Listener) turn(x *listening, gap *GapError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if gap != nil {
		l.markLocked(gap)
	} else if l.listening != nil {
		l.stats.Handovers++
	}
	l.passAllLocked(&x.kept)
	l.listening, l.live, l.next = x, x, nil
	l.stats.Err = nil
}

// received takes in what a session has received.
func (l *Listener) received(x *listening, n Notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case n.Channel == l.private:
		x.heardLocked(n.Payload)
	case x.begins != "": // that is its predecessor's
	case x == l.live && !closed(x.ended):
		l.passLocked(n)
	case x == l.live || x == l.next:
		x.kept.add(n)
	}
}

// heardLocked takes in a token.
func (x *listening) heardLocked(token string) {
	switch token {
	case "":
	case x.begins:
		x.begins = ""
		close(x.begun)
	case x.ends:
		x.ends = ""
		close(x.ended)
	}
}

// passAllLocked passes on what a session has kept.
func (l *Listener) passAllLocked(kept *inbox) {
	for _, letter := range kept.letters {
		if letter.gap != nil {
			l.markLocked(letter.gap)
		} else {
			l.passLocked(letter.Notification)
		}
	}
	kept.letters = nil
}

// passLocked passes a notification on to Next.
func (l *Listener) passLocked(n Notification) {
	switch fits, first := l.inbox.add(n); {
	case fits:
		l.stats.Received++
	case first:
		l.stats.Gaps++
		l.c.notices.log(slog.LevelWarn, "sqlrotate: a listener drops notifications, because too many wait to be taken", "waiting", len(l.inbox.letters))
		fallthrough
	default:
		l.stats.Dropped++
	}
	poke(l.ready)
}

// markLocked has Next say that some may have been missed.
func (l *Listener) markLocked(gap *GapError) {
	if l.inbox.mark(gap) {
		l.stats.Gaps++
	}
	l.stats.Dropped += uint64(gap.Dropped) //nolint:gosec // it is a count
	poke(l.ready)
}

// inbox is what waits for Next, in its order.
type inbox struct {
	letters []letter
	max     int
}

// letter is a notification, or says that some may be missing.
type letter struct {
	Notification
	gap *GapError
}

func (b *inbox) take() (letter, bool) {
	if len(b.letters) == 0 {
		return letter{}, false
	}
	first := b.letters[0]
	b.letters[0] = letter{}
	b.letters = b.letters[1:]
	return first, true
}

// add puts a notification at the end. If there is no room for it, a gap takes its place, and
// first reports whether that is a new one.
func (b *inbox) add(n Notification) (fits, first bool) {
	if len(b.letters) < b.max {
		b.letters = append(b.letters, letter{Notification: n})
		return true, false
	}
	return false, b.mark(&GapError{Since: time.Now(), Dropped: 1})
}

// mark puts a gap at the end, or adds it to the one that is there. It reports whether it is
// a new one.
func (b *inbox) mark(gap *GapError) bool {
	if n := len(b.letters); n > 0 && b.letters[n-1].gap != nil {
		last := b.letters[n-1].gap
		last.Dropped += gap.Dropped
		if last.err == nil {
			last.err = gap.err
		}
		return false
	}
	b.letters = append(b.letters, letter{gap: gap})
	return true
}

// waiter is an Opener whose connections can wait for a notification.
type waiter interface {
	WaitForNotification(ctx context.Context, conn driver.Conn) (Notification, error)
}

// notifier is an Opener whose connections hand over a notification when they read it, which
// they do while they wait for an answer.
type notifier interface {
	notify(conn driver.Conn, f func(Notification))
}
