package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// The worst of a night is remembered until the next one, and not for ever.
func TestObservedIsForgotten(t *testing.T) {
	synctest.Test(t, forgets) // where the clock stands still
}

func forgets(t *testing.T) {
	const hour = time.Hour
	begin := time.Now()
	at := func(d time.Duration) rotation.Instant { return rotation.Instant(1 + d) }
	o := newObserved(begin)
	use := func(d time.Duration) (Worst, time.Duration) {
		seen, _ := o.all(rotation.Now{Wall: begin.Add(d), Mono: at(d)})
		return seen.LongestUse, seen.Since.Sub(begin).Round(time.Second)
	}
	expect := func(now, took, seen, since time.Duration) {
		t.Helper()
		got, from := use(now)
		if got.Took != took || from != since || took > 0 && got.At.Sub(begin).Round(time.Second) != seen {
			t.Errorf("after %v it is %v of %v, since %v; want %v of %v, since %v", now, got.Took, got.At.Sub(begin), from, took, seen, since)
		}
	}
	expect(0, 0, 0, 0)
	o.note(useSeen, time.Minute, at(23*hour))
	o.note(useSeen, time.Second, at(23*hour+time.Minute))
	expect(23*hour+time.Hour/2, time.Minute, 23*hour, 0)
	o.note(useSeen, 2*time.Second, at(25*hour)) // less than before, and it counts for the second day
	o.note(useSeen, time.Second, at(26*hour))
	expect(47*hour, time.Minute, 23*hour, 0)
	expect(48*hour, 2*time.Second, 25*hour, 24*hour)
	o.note(useSeen, time.Minute, at(49*hour))
	expect(95*hour, time.Minute, 49*hour, 48*hour)
	expect(96*hour, 0, 0, 72*hour)

	o.note(useSeen, time.Minute, at(100*hour))
	expect(148*hour, 0, 0, 148*hour) // nobody has looked for two days
	o.note(useSeen, time.Second, at(149*hour))
	expect(149*hour, time.Second, 149*hour, 148*hour)
}

// Rotations may be a month apart: the lag of the last one is remembered until the next.
func TestTheLastLagIsRemembered(t *testing.T) {
	begin := time.Now()
	o := newObserved(begin)
	lag := func(day int) Worst {
		at := time.Duration(day) * 24 * time.Hour
		seen, _ := o.all(rotation.Now{Wall: begin.Add(at), Mono: rotation.Instant(1 + at)})
		return seen.SourceLag
	}
	on := func(day int) rotation.Instant { return rotation.Instant(1 + time.Duration(day)*24*time.Hour) }
	o.lagged(time.Minute, on(1))
	o.lagged(time.Second, on(1))
	if got := lag(1); got.Took != time.Minute {
		t.Errorf("on the day of two rotations: %v", got)
	}
	if got := lag(30); got.Took != time.Second {
		t.Errorf("of the last rotation: %v", got)
	}
	o.lagged(0, on(30))
	if got := lag(60); got.Took != 0 || got.At.IsZero() {
		t.Errorf("of one that was read at once: %v", got)
	}
}

func TestLag(t *testing.T) {
	wall := time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)
	last := rotation.Now{Wall: wall, Mono: rotation.Instant(time.Hour)}
	after := func(byWall, byMono time.Duration) rotation.Now {
		return rotation.Now{Wall: wall.Add(byWall), Mono: last.Mono.Add(byMono)}
	}
	for _, c := range []struct {
		what      string
		published time.Time
		last, now rotation.Now
		want      time.Duration
		unknown   bool
	}{
		{what: "nobody knows when it was published", last: last, now: after(time.Minute, time.Minute), unknown: true},
		{what: "the first one", published: wall, now: after(time.Minute, time.Minute), unknown: true},
		{what: "after the last read", published: wall.Add(20 * time.Second), last: last, now: after(time.Minute, time.Minute), want: 40 * time.Second},
		{what: "before the last read", published: wall.Add(-time.Minute), last: last, now: after(time.Minute, time.Minute), want: 2 * time.Minute},
		{what: "by a clock that is ahead", published: wall.Add(time.Hour), last: last, now: after(time.Minute, time.Minute)},
		{what: "the machine slept", published: wall.Add(20 * time.Second), last: last, now: after(8*time.Hour, time.Minute), unknown: true},
		{what: "the clock was set back", published: wall.Add(20 * time.Second), last: last, now: after(-time.Hour, time.Minute), unknown: true},
		{what: "the clock was slewed for a day", published: wall.Add(24 * time.Hour), last: last, now: after(24*time.Hour+time.Minute, 24*time.Hour), want: time.Minute},
	} {
		got, known := lag(c.published, c.last, c.now)
		if got != c.want || known == c.unknown {
			t.Errorf("%s: %v, %v", c.what, got, known)
		}
	}
}

// All timers of a process that stands still are late, which counts once, and those that are
// late by what says nothing aren't counted.
func TestLatenessIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newObserved(time.Now())
		fire := func(late ...time.Duration) {
			time.Sleep(time.Minute)
			for _, late := range late {
				o.fired(o.now().Add(-late))
			}
		}
		fire(3*time.Second, 100*time.Millisecond, 0, -time.Second)
		fire(time.Second, 2*time.Second, 101*time.Millisecond) // at one time, of which the first tells a part
		fire(time.Second)
		seen, late := o.all(rotation.Now{Wall: time.Now(), Mono: o.now()})
		if seen.TimerLateness.Took != 3*time.Second || late != 5*time.Second {
			t.Errorf("at the worst %v, all together %v", seen.TimerLateness, late)
		}
	})
}

// speaker is a driver whose server takes as long to answer as a query says.
type speaker struct{}

func (speaker) Open(ctx context.Context, _ Credential, dial DialFunc) (driver.Conn, error) {
	nc, err := dial(ctx, "", "")
	return &speakerConn{nc}, err
}

func (speaker) Refused(error) bool { return false }

// dialSpeaker reaches a server that answers each query with a byte after the time that it
// says, once for each part between commas.
func dialSpeaker(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		b := make([]byte, 100)
		for {
			n, err := server.Read(b)
			if err != nil {
				return
			}
			for part := range strings.SplitSeq(string(b[:n]), ",") {
				if d, err := time.ParseDuration(part); err == nil {
					time.Sleep(d)
					if _, err := server.Write([]byte("x")); err != nil {
						return
					}
				}
			}
		}
	}()
	return client, nil
}

type speakerConn struct{ nc net.Conn }

func (c *speakerConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *speakerConn) Begin() (driver.Tx, error)           { return nil, errors.ErrUnsupported }
func (c *speakerConn) ResetSession(context.Context) error  { return nil }

func (c *speakerConn) Close() error {
	_, _ = c.nc.Write([]byte("bye")) // it has no answer
	return c.nc.Close()
}

func (c *speakerConn) ExecContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Result, error) {
	if _, err := c.nc.Write([]byte(query)); err != nil {
		return nil, err
	}
	for range strings.Count(query, ",") + 1 {
		if _, err := c.nc.Read(make([]byte, 1)); err != nil {
			return nil, err
		}
	}
	return driver.ResultNoRows, nil
}

// newSpeaker returns a rig whose server takes as long as a query says.
func newSpeaker(t *testing.T, adjust func(*Config)) *rig {
	t.Helper()
	return newRig(t, func(cfg *Config) {
		cfg.Opener, cfg.Dial, cfg.RoleCheck = speaker{}, dialSpeaker, -1
		if adjust != nil {
			adjust(cfg)
		}
	})
}

func (r *rig) exec(query string) {
	r.Helper()
	if _, err := r.db.ExecContext(context.Background(), query); err != nil {
		r.Error(err)
	}
}

// A use is at least as long as a statement: from its first byte to the last of its answer.
// Nothing between two statements is, for the pool may have had the connection back.
func TestUseIsSeenAtTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSpeaker(t, nil)
		longest := func() time.Duration { return r.c.Stats().Observed.LongestUse.Took }
		r.exec("2s")
		if got := longest(); got != 2*time.Second {
			t.Errorf("a statement of 2s: %v", got)
		}
		for range 20 {
			time.Sleep(time.Minute)
			r.exec("1s")
		}
		if got := longest(); got != 2*time.Second {
			t.Errorf("after short ones, a minute apart: %v", got)
		}
		r.exec("1s,2s,3s")
		if got := longest(); got != 6*time.Second {
			t.Errorf("an answer in three pieces: %v", got)
		}
		conn, err := r.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Raw(func(dc any) error { _, err := dc.(*speakerConn).nc.Write([]byte("a note")); return err })
		if err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		time.Sleep(time.Minute)
		if got := longest(); got != 6*time.Second {
			t.Errorf("after what has no answer: %v", got)
		}
		time.Sleep(time.Hour) // that connection goes
		done := make(chan struct{})
		go func() { defer close(done); r.exec("30s") }()
		time.Sleep(20 * time.Second)
		if got := longest(); got != 20*time.Second {
			t.Errorf("one that goes on: %v", got)
		}
		<-done
		time.Sleep(time.Hour) // the pool closes connections, with a word that nobody answers
		if got := longest(); got != 30*time.Second {
			t.Errorf("at the end: %v", got)
		}
		if got := r.c.Stats(); got.Observed.TimerLateness.Took != 0 || got.TimersLate != 0 {
			t.Errorf("timers were late by %v, all together %v, on a machine that has time", got.Observed.TimerLateness, got.TimersLate)
		}
	})
}

// Some drivers send what has no answer, and look at the connection before they use it again.
func TestWhatHasNoAnswerIsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		s := &session{calls: newCalls(&tasks{}, 0), ended: func(*session) {}, observed: newObserved(time.Now())}
		k := &socket{Conn: client, session: s}
		s.sockets = []*socket{k}
		s.settle()
		buf := make([]byte, 1)
		talk := func() {
			go func() { _, _ = server.Read(buf); _, _ = server.Write(buf) }()
			_, _ = k.Write([]byte("q"))
			_, _ = k.Read(make([]byte, 1))
		}
		longest := func() time.Duration {
			seen, _ := s.observed.all(rotation.Now{Mono: s.observed.now()})
			return seen.LongestUse.Took
		}
		go func() { time.Sleep(time.Minute); talk() }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := longest(); got != 0 || s.sentAt.Load() != 0 {
			t.Errorf("of a connection that no pool has: %v", got)
		}
		s.lent.Store(true)
		talk()
		go func() { _, _ = server.Read(buf) }()
		_, _ = k.Write([]byte("c"))
		time.Sleep(time.Hour)
		s.looksAtIt()
		talk()
		if got := longest(); got != 0 {
			t.Errorf("an hour after what has no answer: %v", got)
		}
	})
}

// With lib/pq: the time that the server takes, with a round trip or two.
func TestUseOfARealConnectionIsSeen(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	if err := server.CreateRole(t.Context(), "app", "s3cret"); err != nil {
		t.Fatal(err)
	}
	opener, err := LibPQ(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{
		Source: StaticSource(Credential{Username: "app", Password: NewSecret("s3cret")}), Opener: opener,
		Window: Window{Overlap: 10 * time.Minute}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	db := OpenDB(c)
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	for i, query := range []func() error{
		func() error { _, err := db.ExecContext(t.Context(), "select pg_sleep(0.2)"); return err },
		func() error { _, err := db.ExecContext(t.Context(), "select pg_sleep($1)", 0.4); return err },
		func() error {
			var n int
			return db.QueryRowContext(t.Context(), "select count(pg_sleep(0.2)) from generate_series(1, $1)", 3).Scan(&n)
		},
	} {
		least := time.Duration(i+1) * 200 * time.Millisecond
		began := time.Now()
		if err := query(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if got := c.Stats().Observed.LongestUse.Took; got < least || got > took {
			t.Errorf("%v of a query that took %v, of which the server slept %v", got, took, least)
		}
	}
}

// What is held between two statements is seen when the connection is to be retired.
func TestUseIsSeenWhenAConnectionIsAwaited(t *testing.T) {
	for _, looked := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { awaited(t, looked) })
	}
}

func awaited(t *testing.T, looked bool) {
	r := newSpeaker(t, nil)
	conn, err := r.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "1s"); err != nil {
		t.Error(err)
	}
	r.source.publish("v2", "p2")
	time.Sleep(3 * time.Minute)
	if got := r.c.Stats(); got.Observed.LongestUse.Took != time.Second || got.DrainLeft != 1 {
		t.Errorf("while nobody can tell: %v, %d are left", got.Observed.LongestUse, got.DrainLeft)
	}
	if _, err := conn.ExecContext(t.Context(), "1s"); err != nil {
		t.Error(err)
	}
	least, most := 2*time.Minute+45*time.Second, 3*time.Minute+time.Second
	if looked {
		if got := r.c.Stats().Observed.LongestUse.Took; got < least || got > most {
			t.Errorf("while it goes on: %v", got)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	synctest.Wait()
	s := r.c.Stats()
	if got := s.Observed.LongestUse.Took; got < least || got > most || s.Closed[CloseSuperseded] != 1 {
		t.Errorf("it was in use for %v; closed %v", got, s.Closed)
	}
}

// How old a credential is when it is read is held against the window; of the first one it
// says nothing.
func TestSourceLagIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSpeaker(t, func(cfg *Config) {
			cfg.Source.(*fakeSource).set(Credential{Username: "v0", Password: NewSecret("p"), PublishedAt: time.Now().Add(-time.Hour)}, nil)
		})
		publish := func(user string, age time.Duration) {
			r.source.set(Credential{Username: user, Password: NewSecret("p"), PublishedAt: time.Now().Add(-age)}, nil)
			time.Sleep(10 * time.Second)
		}
		r.exec("0s")
		if got := r.c.Stats().Observed.SourceLag; !got.At.IsZero() {
			t.Errorf("of the first: %v", got)
		}
		publish("v1", 50*time.Second)
		if got := r.c.Stats().Observed.SourceLag; got.Took < 50*time.Second || got.Took > 55*time.Second {
			t.Errorf("of one that is 50s old: %v", got)
		}
		if p := r.c.Problems(); len(p) > 0 {
			t.Error("it fits, but", p)
		}
		publish("v2", 2*time.Minute)
		publish("v2", time.Hour) // renewed
		publish("v0", time.Hour) // back again
		if got := r.c.Stats().Observed.SourceLag; got.Took < 2*time.Minute || got.Took > 2*time.Minute+5*time.Second {
			t.Errorf("of one that is 2m old: %v", got)
		}
		p := r.c.Problems()
		if len(p) != 1 || p[0].Kind != ProblemWindow || !p[0].CanConnect || !strings.Contains(p[0].Text, "set it to 2m30s at least") {
			t.Error(p)
		}
	})
}

// The window turns out to be too small: it is said once, with the number to put in, new
// connections are made all the same, and in the end it is forgotten.
func TestWindowTooSmallIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &events{}
		r := newSpeaker(t, func(cfg *Config) {
			cfg.Logger = slog.New(eventHandler{slog.DiscardHandler, e})
			cfg.Window = Window{Overlap: 10 * time.Minute, Lag: time.Minute, MaxInUse: 30 * time.Second}
		})
		told := func() (n int) {
			time.Sleep(10 * time.Minute) // the loop looks when it does anyway
			for _, line := range e.all() {
				if strings.Contains(line, "the window is too small") {
					n++
				}
			}
			return n
		}
		r.exec("30s")
		if p, n := r.c.Problems(), told(); len(p) > 0 || n > 0 {
			t.Errorf("it fits, but %v, told %d times", p, n)
		}
		r.exec("2m10s")
		until := time.Now()
		for range 3 {
			r.exec("2m10s")
		}
		if n := told(); n != 1 {
			t.Errorf("told %d times", n)
		}
		p := r.c.Problems()
		if len(p) != 1 || p[0].Kind != ProblemWindow || !p[0].CanConnect || !p[0].Since.Equal(until.Round(0)) ||
			!strings.HasPrefix(p[0].Text, "Window.MaxInUse is 30s, but a connection was in use for 2m10s, until "+until.UTC().Format(time.RFC3339)) || !strings.Contains(p[0].Text, "set it to 3m0s at least") {
			t.Errorf("%+v", p)
		}
		if err := r.c.CheckHealth(); err != nil {
			t.Error("advice is no failure:", err)
		}
		r.exec("2m20s")
		if n := told(); n != 1 {
			t.Errorf("what is to be put in is the same, told %d times", n)
		}
		r.exec("4m")
		if n := told(); n != 1 {
			t.Errorf("less than twice as much is to be put in, told %d times", n)
		}
		r.exec("5m")
		if n := told(); n != 2 {
			t.Errorf("more than twice as much is to be put in, told %d times", n)
		}
		time.Sleep(48 * time.Hour)
		if p := r.c.Problems(); len(p) > 0 {
			t.Error("two days later:", p)
		}
	})
}
