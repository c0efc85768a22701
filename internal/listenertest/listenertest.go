// Package listenertest tries a [sqlrotate.Listener] against a real PostgreSQL, for the
// openers of this repository.
//
// Nothing here imports testing.
package listenertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// Open makes an opener of a DSN without a login.
type Open func(dsn string) (sqlrotate.Opener, error)

// A Case is one trial. Several may go on at one server.
type Case struct {
	Name string
	Run  func(tb pgtest.TB, server *pgtest.Server, open Open)
}

// Cases returns all there are.
func Cases() []Case {
	return []Case{
		{"ten rotations under load", tenRotations},
		{"a session that is killed", killed},
		{"a slow consumer", slowConsumer},
		{"names of channels", channels},
		{"what can't be listened to", cantListen},
		{"no session to move to", noRoom},
		{"an old session that falls silent", oldFallsSilent},
		{"a new session that falls silent", newFallsSilent},
		{"a server that vanishes", serverVanishes},
		{"close", closes},
	}
}

// patience is how long anything may take on a machine that is busy.
const patience = time.Minute

// Rig is a connector, and most often a listener, over a login that can be rotated.
type Rig struct {
	pgtest.TB
	ctx     context.Context //nolint:containedctx // of the test
	server  *pgtest.Server
	source  *source
	C       *sqlrotate.Connector
	l       *sqlrotate.Listener
	network *network
	roles   []string
}

// New makes one that hasn't logged in yet. Window may be zero.
func New(tb pgtest.TB, server *pgtest.Server, open Open, window sqlrotate.Window) *Rig {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*patience)
	tb.Cleanup(cancel)
	r := &Rig{TB: tb, ctx: ctx, server: server, source: &source{changed: make(chan struct{})}, network: &network{}}
	r.Rotate()
	opener, err := open(server.DSN())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	if window == (sqlrotate.Window{}) {
		window = sqlrotate.Window{Overlap: 2 * time.Minute, Lag: time.Second, MaxInUse: 10 * time.Second}
	}
	r.C, err = sqlrotate.New(sqlrotate.Config{
		Source: r.source, Opener: opener, Dial: r.network.dial, Window: window, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = r.C.Close() })
	return r
}

// newRig makes one with a listener.
func newRig(tb pgtest.TB, server *pgtest.Server, open Open, opt sqlrotate.ListenerOptions) *Rig {
	tb.Helper()
	r := New(tb, server, open, sqlrotate.Window{})
	var err error
	if r.l, err = sqlrotate.NewListener(r.C, opt); err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = r.l.Close() })
	return r
}

// channel returns the name of a channel that nobody else uses.
func channel() string { return strings.ToLower(rand.Text()) }

// Rotate makes a role and publishes it. It returns the one before.
func (r *Rig) Rotate(options ...string) (old string) {
	r.Helper()
	role, password := "listener_"+strings.ToLower(rand.Text()), rand.Text()
	if err := r.server.CreateRole(r.ctx, role, password, options...); err != nil {
		r.Fatalf("%v", err)
	}
	if len(r.roles) > 0 {
		old = r.roles[len(r.roles)-1]
	}
	r.roles = append(r.roles, role)
	r.source.publish(sqlrotate.Credential{Username: role, Password: sqlrotate.NewSecret(password)})
	return old
}

// Eventually waits until f is true.
func (r *Rig) Eventually(what string, f func() bool) {
	r.Helper()
	for end := time.Now().Add(patience); !f(); {
		if time.Now().After(end) {
			var stats sqlrotate.ListenerStats
			if r.l != nil {
				stats = r.l.Stats()
			}
			r.Fatalf("not within %v: %s; %+v; %+v", patience, what, stats, r.C.Stats())
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Leave waits until a role has no session, and drops it.
func (r *Rig) Leave(role string) {
	r.Helper()
	r.Eventually("the old role is left", func() bool {
		n, err := r.server.Sessions(r.ctx, role)
		return err == nil && n == 0
	})
	if err := r.server.RevokeRole(r.ctx, role); err != nil {
		r.Errorf("%v", err)
	}
}

func (r *Rig) listen(names ...string) {
	r.Helper()
	if err := r.l.Listen(r.ctx, names...); err != nil {
		r.Fatalf("Listen: %v", err)
	}
}

// notify sends a payload.
func (r *Rig) notify(channel, payload string) {
	r.Helper()
	if _, err := r.server.Admin().ExecContext(r.ctx, "select pg_notify($1, $2)", channel, payload); err != nil {
		r.Fatalf("%v", err)
	}
}

// wants checks that these payloads come next.
func (r *Rig) wants(channel string, payloads ...string) {
	r.Helper()
	for _, want := range payloads {
		n, err := r.l.Next(r.ctx)
		if err != nil || n.Channel != channel || n.Payload != want || n.PID == 0 {
			r.Fatalf("%+v, %v; want %s", n, err, want)
		}
	}
}

// wantsGap checks that it is said that some may have been missed.
func (r *Rig) wantsGap() *sqlrotate.GapError {
	r.Helper()
	var gap *sqlrotate.GapError
	if n, err := r.l.Next(r.ctx); !errors.As(err, &gap) {
		r.Fatalf("%+v, %v; want a gap", n, err)
	}
	return gap
}

// wantsNothing checks that nothing is there to be had.
func (r *Rig) wantsNothing() {
	r.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	if n, err := r.l.Next(ctx); !errors.Is(err, context.Canceled) {
		r.Errorf("%+v, %v; want nothing", n, err)
	}
}

// The listener hears what a session hears that is never rotated, in the same order: from
// many that commit at the same time, of which some roll back, while ten roles come and go.
func tenRotations(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	const each, rotations, committers = 1000, 10, 4
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{Buffer: 1_000_000, KeepAlive: 50 * time.Millisecond})
	one, other := channel(), channel()
	want := reference(r, one, other)
	r.listen(one, other)

	sent, stop := r.commitAllTheTime(committers, one, other)
	for range rotations {
		before := sent()
		r.Leave(r.Rotate())
		r.Eventually("more is sent", func() bool { return sent() >= before+each })
	}
	stop()
	r.notify(one, last)
	n := r.hearsTheSame(want)
	if got := r.l.Stats(); n < rotations*each || got.Handovers != rotations || got.Gaps != 0 || got.Received != uint64(n) || !got.Connected || got.Err != nil {
		r.Errorf("%d notifications; %+v", n, got)
	}
	if got := r.C.Stats(); got.Outlived > 0 || got.Held != 1 {
		r.Errorf("%+v", got)
	}
}

// last is the payload of the last notification.
const last = "last"

// hearsTheSame checks that the listener has heard what the reference has, each once, and
// returns how many.
func (r *Rig) hearsTheSame(want <-chan *pq.Notification) int {
	r.Helper()
	heard := map[string]bool{}
	for {
		got, err := r.l.Next(r.ctx)
		if err != nil {
			r.Fatalf("after %d: %v; %+v", len(heard), err, r.l.Stats())
		}
		text := got.Channel + got.Payload
		if heard[text] {
			r.Fatalf("notification %d, %+v, has come before", len(heard), got)
		}
		heard[text] = true
		if ref := <-want; got.Channel != ref.Channel || got.Payload != ref.Extra || int64(got.PID) != int64(ref.BePid) {
			r.Fatalf("notification %d is %+v, and %+v for one who was never rotated", len(heard), got, *ref)
		}
		if got.Payload == last {
			return len(heard)
		}
	}
}

// commitAllTheTime has several send to the channels until they are stopped.
func (r *Rig) commitAllTheTime(committers int, channels ...string) (sent func() int64, stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.Cleanup(cancel)
	var n atomic.Int64
	var working sync.WaitGroup
	for worker := range committers {
		working.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				few, err := commit(context.WithoutCancel(ctx), r.server, channels, worker, i)
				if err != nil {
					r.Errorf("%v", err)
					return
				}
				n.Add(few)
			}
		})
	}
	return n.Load, func() { cancel(); working.Wait() }
}

// commit sends a few notifications to one of the channels and returns how many; now and then
// it sends some in a transaction that is rolled back.
func commit(ctx context.Context, server *pgtest.Server, channels []string, worker, n int) (sent int64, err error) {
	const send = "select pg_notify($1, $2 || i) from generate_series(1, $3::int) i"
	channel, few := channels[n%len(channels)], n%5+1
	if n%10 == 0 {
		tx, err := server.Admin().BeginTx(ctx, nil)
		if err != nil {
			return 0, err
		}
		_, err = tx.ExecContext(ctx, send, channel, "never ", few)
		if err = errors.Join(err, tx.Rollback()); err != nil {
			return 0, err
		}
	}
	_, err = server.Admin().ExecContext(ctx, send, channel, fmt.Sprintf("%d %d ", worker, n), few)
	return int64(few), err
}

// reference returns what a listener of lib/pq's own hears, which is never rotated.
func reference(r *Rig, channels ...string) <-chan *pq.Notification {
	r.Helper()
	role, password := "reference_"+strings.ToLower(rand.Text()), rand.Text()
	if err := r.server.CreateRole(r.ctx, role, password); err != nil {
		r.Fatalf("%v", err)
	}
	heard := make(chan *pq.Notification, 1_000_000)
	l, err := pq.NewListenerConn(r.server.DSN()+" user="+role+" password="+password, heard)
	if err != nil {
		r.Fatalf("%v", err)
	}
	r.Cleanup(func() { _ = l.Close() })
	for _, name := range channels {
		if _, err := l.Listen(name); err != nil {
			r.Fatalf("%v", err)
		}
	}
	return heard
}

// A session that is killed is a gap, at its place; nothing is lost before it and after it.
func killed(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{})
	name := channel()
	r.listen(name)
	for n := range 3 {
		r.notify(name, "before")
		r.Eventually("it has come", func() bool { return r.l.Stats().Waiting == 1 })
		if _, err := server.Terminate(r.ctx, r.roles[0]); err != nil {
			r.Fatalf("%v", err)
		}
		r.Eventually("it is noticed and mended", func() bool { return r.l.Stats().Waiting == 2 })
		r.notify(name, "after")
		r.wants(name, "before")
		if gap := r.wantsGap(); gap.Dropped != 0 || errors.Unwrap(gap) == nil || time.Since(gap.Since) > 2*patience {
			r.Errorf("%+v", gap)
		}
		r.wants(name, "after")
		if got := r.l.Stats(); got.Gaps != uint64(n)+1 || !got.Connected || got.Err != nil {
			r.Errorf("%+v", got)
		}
	}
}

// Who is slow misses what comes on top, is told how much, and doesn't hold up a rotation.
func slowConsumer(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{Buffer: 10})
	name := channel()
	r.listen(name)
	for n := range 100 {
		r.notify(name, strconv.Itoa(n))
	}
	r.Leave(r.Rotate())
	r.notify(name, "more")
	r.Eventually("all has come", func() bool { return r.l.Stats().Dropped == 91 })
	r.wants(name, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	if gap := r.wantsGap(); gap.Dropped != 91 || errors.Unwrap(gap) != nil || !strings.Contains(gap.Error(), "91 were dropped") {
		r.Errorf("%v", gap)
	}
	r.notify(name, "again")
	r.wants(name, "again")
	if got := r.l.Stats(); got.Gaps != 1 || got.Received != 11 || got.Handovers != 1 {
		r.Errorf("%+v", got)
	}
}

// Channels come and go, and their names are taken as they are.
func channels(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{})
	salt := channel()[:8]
	names := []string{
		`"; drop table entry; --` + salt, "Upper" + salt, "upper" + salt, "select", strings.Repeat("é", 31) + "x", salt + `'\`, salt + " ", "*",
	}
	for i, name := range names {
		if i%3 == 2 {
			r.Leave(r.Rotate())
		}
		r.listen(name, name)
	}
	for _, name := range names {
		r.notify(name, salt)
		for { // others may use a name that is no secret
			n, err := r.l.Next(r.ctx)
			if err != nil || n.Channel == name && n.Payload == salt {
				break
			}
			if n.Channel != "select" && n.Channel != "*" {
				r.Fatalf("%+v, %v; want %q", n, err, name)
			}
		}
	}
	if err := r.l.Unlisten(r.ctx, names[1], "never listened to"); err != nil {
		r.Errorf("%v", err)
	}
	r.Leave(r.Rotate())
	long := strings.Repeat("x", 7990) // about as long as they get
	r.notify(names[1], "unwanted")
	r.notify(names[2], long)
	r.wants(names[2], long)
	for _, name := range []string{"", strings.Repeat("x", 64), "a\x00b"} {
		if err := r.l.Listen(r.ctx, name); err == nil {
			r.Errorf("%q is listened to", name)
		}
	}
	r.wantsNothing()
}

// Errors of the first Listen, and of others: it may be called again.
func cantListen(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{})
	r.network.fails.Store(true)
	if err := r.l.Listen(r.ctx, "jobs"); !errors.Is(err, errUnreachable) {
		r.Errorf("%v", err)
	}
	r.network.fails.Store(false)
	r.network.silent.Store(true)
	ctx, cancel := context.WithTimeout(r.ctx, 50*time.Millisecond)
	defer cancel()
	if err := r.l.Listen(ctx, "jobs"); !errors.Is(err, context.DeadlineExceeded) {
		r.Errorf("%v", err)
	}
	r.network.silent.Store(false)
	// Neither is a write.
	if _, err := server.Admin().ExecContext(r.ctx, "alter role "+r.roles[0]+" set default_transaction_read_only = on"); err != nil {
		r.Fatalf("%v", err)
	}
	name := channel()
	r.listen(name)
	r.notify(name, "x")
	r.wants(name, "x")
}

// While there is no session to move to, the old one goes on.
func noRoom(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{})
	name := channel()
	r.listen(name)
	one, err := r.C.Hold(r.ctx)
	if err != nil {
		r.Fatalf("%v", err)
	}
	defer one.Close()
	old := r.Rotate("connection limit 1")
	<-one.Superseded()
	taken, err := r.C.Hold(r.ctx)
	if err != nil {
		// The listener was quicker.
		r.Eventually("it has moved", func() bool { return r.l.Stats().Handovers == 1 })
	} else {
		r.Eventually("it has tried or has moved", func() bool { s := r.l.Stats(); return s.Err != nil || s.Handovers == 1 })
		r.notify(name, "meanwhile")
		r.wants(name, "meanwhile")
		_ = taken.Close()
	}
	r.Eventually("it has moved", func() bool { return r.l.Stats().Handovers == 1 })
	r.notify(name, "then")
	r.wants(name, "then")
	_ = one.Close()
	r.Leave(old)
	if got := r.l.Stats(); got.Gaps != 0 || got.Err != nil {
		r.Errorf("%+v", got)
	}
}

// The old session falls silent just before its successor listens, and breaks: what it has not
// delivered is a gap, and nothing is lost after it.
func oldFallsSilent(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{KeepAlive: -1})
	name := channel()
	r.listen(name)
	r.notify(name, "before")
	r.wants(name, "before")
	r.network.freeze()
	r.notify(name, "missed")
	old := r.Rotate()
	r.nextListens()
	r.notify(name, "after")
	r.network.breakFrozen()
	_ = r.wantsGap()
	r.wants(name, "after")
	r.Leave(old)
	r.wantsNothing()
}

// nextListens waits until a session of the latest role listens and has sent its token.
func (r *Rig) nextListens() {
	r.Helper()
	r.Eventually("the next one listens", func() bool {
		var n int
		err := r.server.Admin().QueryRowContext(r.ctx, "select count(*) from pg_stat_activity where usename = $1 and query like 'NOTIFY %' and state = 'idle'",
			r.roles[len(r.roles)-1]).Scan(&n)
		return err == nil && n == 1
	})
}

// The new session falls silent when it has sent what ends the old one, which then goes on.
func newFallsSilent(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	plain := func(dsn string) (sqlrotate.Opener, error) { return open(dsn + " sslmode=disable") }
	r := newRig(tb, server, plain, sqlrotate.ListenerOptions{})
	name := channel()
	r.listen(name)
	r.network.losesTokens.Store(true)
	old := r.Rotate()
	r.nextListens()
	r.notify(name, "meanwhile")
	r.Eventually("it has given up", func() bool { return r.l.Stats().Err != nil })
	if got := r.l.Stats(); got.Waiting != 1 {
		r.Fatalf("what has come meanwhile is lost: %+v", got)
	}
	r.wants(name, "meanwhile")
	r.network.losesTokens.Store(false)
	r.Leave(old)
	r.notify(name, "then")
	r.wants(name, "then")
	if got := r.l.Stats(); got.Gaps != 0 || got.Handovers != 1 || got.Err != nil {
		r.Errorf("%+v", got)
	}
}

// A server that is gone without a word is noticed because it is asked.
func serverVanishes(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	r := newRig(tb, server, open, sqlrotate.ListenerOptions{KeepAlive: 10 * time.Millisecond})
	name := channel()
	r.listen(name)
	r.network.freeze()
	r.notify(name, "missed")
	_ = r.wantsGap()
	r.notify(name, "after")
	r.wants(name, "after")
}

// Close ends all there is, and so does Close of the connector, whatever the network does.
func closes(tb pgtest.TB, server *pgtest.Server, open Open) {
	tb.Helper()
	for how, end := range map[string]func(r *Rig){
		"the listener":              func(r *Rig) { _ = r.l.Close() },
		"the connector":             func(r *Rig) { _ = r.C.Close() },
		"over a frozen network":     func(r *Rig) { r.network.freeze(); _ = r.l.Close() },
		"the pool":                  func(r *Rig) { _ = sqlrotate.OpenDB(r.C).Close() },
		"the listener, never used":  func(r *Rig) { _ = r.l.Close() },
		"the connector, never used": func(r *Rig) { _ = r.C.Close() },
	} {
		r := newRig(tb, server, open, sqlrotate.ListenerOptions{})
		name := channel()
		unused := strings.HasSuffix(how, "never used")
		if !unused {
			r.listen(name)
			r.notify(name, "x")
			r.Eventually("it has come", func() bool { return r.l.Stats().Waiting == 1 })
		}
		end(r)
		want := sqlrotate.ErrListenerClosed
		if !strings.HasPrefix(how, "the listener") && how != "over a frozen network" {
			want = sqlrotate.ErrClosed
			if !unused {
				r.wants(name, "x")
			}
		}
		if _, err := r.l.Next(r.ctx); !errors.Is(err, want) {
			r.Errorf("%s: Next: %v", how, err)
		}
		if err := r.l.Listen(r.ctx, name); !errors.Is(err, want) {
			r.Errorf("%s: Listen: %v", how, err)
		}
		_ = r.l.Close()
		r.Eventually("the sockets are closed", func() bool { return r.network.open.Load() == 0 })
		r.Eventually("nothing is held", func() bool { return r.C.Stats().Held == 0 })
	}
}

// Goroutines returns the stacks of those that a listener has.
func Goroutines() []string {
	text := make([]byte, 1<<24)
	text = text[:runtime.Stack(text, true)]
	return slices.DeleteFunc(strings.Split(string(text), "\n\n"), func(stack string) bool {
		return !strings.Contains(stack, "sqlrotate.(*Listener).run") && !strings.Contains(stack, "sqlrotate.(*listening)")
	})
}

// source is what a test publishes.
type source struct {
	mu      sync.Mutex
	cred    sqlrotate.Credential
	changed chan struct{}
}

func (s *source) publish(cred sqlrotate.Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cred = cred
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) Credential(context.Context) (sqlrotate.Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cred, nil
}

func (s *source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

var errUnreachable = errors.New("listenertest: the network is unreachable")

// network dials, and may lose what comes on connections that it has dialled.
type network struct {
	fails       atomic.Bool // each dial
	silent      atomic.Bool // nothing is received on what is dialled
	losesTokens atomic.Bool // nothing is received where a token was sent
	open        atomic.Int64

	mu    sync.Mutex
	conns []*link
}

func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if n.fails.Load() {
		return nil, errUnreachable
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.open.Add(1)
	l := &link{Conn: conn, network: n}
	l.frozen.Store(n.silent.Load())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, l)
	return l, nil
}

// freeze has the connections that are open receive nothing any more.
func (n *network) freeze() { n.each(func(l *link) { l.frozen.Store(true) }) }

// breakFrozen breaks those that receive nothing.
func (n *network) breakFrozen() {
	n.each(func(l *link) {
		if l.frozen.Load() {
			_ = l.Conn.Close()
		}
	})
}

func (n *network) each(f func(*link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.conns {
		f(l)
	}
}

// link is a connection. While it is frozen a read takes what has come and gives nothing.
type link struct {
	net.Conn
	network *network
	frozen  atomic.Bool
	closed  atomic.Bool
}

func (l *link) Read(b []byte) (int, error) {
	for {
		n, err := l.Conn.Read(b)
		if err != nil || !l.frozen.Load() {
			return n, err
		}
	}
}

func (l *link) Write(b []byte) (int, error) {
	if l.network.losesTokens.Load() && bytes.Contains(b, []byte("NOTIFY ")) {
		l.frozen.Store(true)
	}
	return l.Conn.Write(b)
}

func (l *link) Close() error {
	if !l.closed.Swap(true) {
		l.network.open.Add(-1)
	}
	return l.Conn.Close()
}
