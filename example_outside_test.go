package sqlrotate_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/listenertest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// lead waits for the lock, and then has work done for as long as this session has it. It
// returns when the session is to go: whoever still wants to lead calls it again.
func lead(ctx context.Context, c *sqlrotate.Connector, lock int64, work func(context.Context)) error {
	held, err := c.Hold(ctx)
	if err != nil {
		return err
	}
	defer held.Close() // and the lock is free
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-held.Superseded(): // MaxInUse is left, at the least
		case <-ctx.Done():
		}
	}()
	db := held.OpenDB() // of this connection and no other
	defer db.Close()
	if _, err := db.ExecContext(ctx, "select pg_advisory_lock($1)", lock); err != nil {
		return err
	}
	silence := time.AfterFunc(10*time.Second, cancel) // the server says nothing any more
	defer silence.Stop()
	go func() {
		defer cancel() // the session is lost
		for db.PingContext(ctx) == nil {
			silence.Reset(10 * time.Second)
			time.Sleep(time.Second)
		}
	}()
	work(ctx)
	return nil
}

// consume does what there is to do, and then whenever somebody says so.
func consume(ctx context.Context, c *sqlrotate.Connector, channel string, work func(context.Context) error) error {
	l, err := sqlrotate.NewListener(c, sqlrotate.ListenerOptions{})
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Listen(ctx, channel); err != nil {
		return err
	}
	for {
		if err := work(ctx); err != nil { // not before Listen has returned
			return err
		}
		_, err := l.Next(ctx)
		var gap *sqlrotate.GapError // some may have been missed: there may be work
		if err != nil && !errors.As(err, &gap) {
			return err
		}
	}
}

// What docs/outside.md shows are the functions above.
func TestTheFunctionsOutsideAreDocumented(t *testing.T) {
	text := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "\r\n", "\n")
	}
	source, page := text("example_outside_test.go"), text("docs/outside.md")
	for _, name := range []string{"// lead ", "// consume "} {
		i := strings.Index(source, name)
		function, _, _ := strings.Cut(source[i:], "\n}\n")
		if !strings.Contains(page, function+"\n}\n```") {
			t.Errorf("the page does not show:\n%s\n}", function)
		}
	}
}

// There is one leader at the most while logins are rotated and sessions killed under those who
// want to lead, and there always is one soon.
func TestLeaders(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	rigs := []*listenertest.Rig{
		listenertest.New(t, server, sqlrotate.LibPQ, sqlrotate.Window{}), listenertest.New(t, server, sqlrotate.LibPQ, sqlrotate.Window{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var terms, leading atomic.Int64
	var all sync.WaitGroup
	for _, r := range rigs {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = lead(ctx, r.C, 4711, func(ctx context.Context) {
					if n := leading.Add(1); n != 1 {
						t.Errorf("%d lead at once", n)
					}
					terms.Add(1)
					<-ctx.Done()
					leading.Add(-1)
				})
			}
		})
	}
	led := func() { rigs[0].Eventually("somebody leads", func() bool { return leading.Load() == 1 }) }
	led()
	for range 3 {
		for _, r := range rigs {
			r.Leave(r.Rotate())
			led()
		}
	}
	cancel()
	all.Wait()
	if n := terms.Load(); n < 4 {
		t.Errorf("%d terms", n) // each rotation ends the one of whoever has it
	}
	for _, r := range rigs {
		if got := r.C.Stats(); got.Held != 0 || got.Outlived != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// What is sent is consumed, rotations or not.
func TestConsumers(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	r := listenertest.New(t, server, sqlrotate.LibPQ, sqlrotate.Window{})
	if _, err := server.Admin().ExecContext(t.Context(), "create table todo (id int)"); err != nil {
		t.Fatal(err)
	}
	done := errors.New("all is done")
	consumed, rounds := 0, 0
	var all sync.WaitGroup
	all.Go(func() {
		err := consume(t.Context(), r.C, "todo", func(ctx context.Context) error {
			gone, err := server.Admin().ExecContext(ctx, "delete from todo")
			if err != nil {
				return err
			}
			n, err := gone.RowsAffected()
			consumed, rounds = consumed+int(n), rounds+1
			if consumed == 100 {
				return done
			}
			return err
		})
		if !errors.Is(err, done) {
			t.Errorf("%d consumed in %d rounds: %v", consumed, rounds, err)
		}
	})
	for n := range 100 {
		if _, err := server.Admin().ExecContext(t.Context(), "with new as (insert into todo values ($1)) select pg_notify('todo', '')", n); err != nil {
			t.Fatal(err)
		}
		if n%25 == 10 {
			r.Eventually("it listens", func() bool { return r.C.Stats().Held == 1 })
			r.Leave(r.Rotate())
		}
	}
	all.Wait()
}

// A held connection is cut off at its end, under what runs on it, which is told why.
func TestHeldConnectionThatStaysTooLong(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	r := listenertest.New(t, server, sqlrotate.LibPQ, sqlrotate.Window{Overlap: 2 * time.Second, Lag: 200 * time.Millisecond, MaxInUse: 200 * time.Millisecond})
	held, err := r.C.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	db := held.OpenDB()
	defer db.Close()
	conn, err := db.Conn(t.Context()) // as those have it who keep one
	if err != nil {
		t.Fatal(err)
	}
	old := r.Rotate()
	<-held.Superseded()
	if until := time.Until(held.Until()); until > 1800*time.Millisecond || until < -time.Minute {
		t.Errorf("%v is left", until)
	}
	_, err = conn.ExecContext(t.Context(), "select pg_sleep(300)")
	var outlived *sqlrotate.OutlivedError
	if !errors.As(err, &outlived) || outlived.Username != old {
		t.Errorf("%v", err)
	}
	_ = conn.Close()
	if err := db.PingContext(t.Context()); err == nil || errors.Is(err, sql.ErrConnDone) {
		t.Errorf("afterwards: %v", err)
	}
	r.Eventually("it is off the books", func() bool { got := r.C.Stats(); return got.Outlived == 1 && got.Held == 0 })
}
