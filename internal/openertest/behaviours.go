// The rows of the table.

package openertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// Rotations is an application at work on so many connections for so long, with a rotation
// every two seconds and an overlap of four, after which the old user is dropped.
func Rotations(connections int, duration time.Duration) Behaviour {
	const every, overlap = 2 * time.Second, 4 * time.Second
	return Behaviour{
		Name: "rotations under load", size: connections,
		config: sqlrotate.Config{Window: sqlrotate.Window{Overlap: overlap, Lag: 500 * time.Millisecond, MaxInUse: time.Second}},
		run: func(s *scene) {
			s.census.outside(func() { s.meter.AskServer(s.Database.Admin()) })
			l := s.work(connections, time.Millisecond, 30*time.Second)
			var revocations sync.WaitGroup
			s.Cleanup(revocations.Wait)
			tick := time.NewTicker(every)
			defer tick.Stop()
			rotations := uint64(0)
			for start := time.Now(); time.Since(start) < duration; rotations++ {
				<-tick.C
				old := s.rotate()
				revocations.Go(func() {
					<-time.After(overlap)
					s.revoke(old)
				})
				s.eventually(s.Soon, "the rotation is seen", func() bool { return s.c.Stats().Rotations == rotations+1 })
			}
			revocations.Wait()
			l.mustNotFail()
			got := s.c.Stats()
			if got.Rotations != rotations || got.Refused > 0 {
				s.Errorf("%d rotations; %+v", rotations, got)
			}
			if got.Outlived > 0 {
				s.blame(s.began, "%d connections outlived their login", got.Outlived)
			}
			if n := s.sockets.peak(); n > connections+1 {
				s.Errorf("%d sockets at once, more than the pool's %d and a spare", n, connections)
			}
			s.Logf("%d operations, %d failed, the slowest %v; %d rotations; %d logins", l.Done(), len(l.Failures()), l.Slowest(), rotations, got.Logins)
		},
	}
}

// rotationsWithinAnOverlap are three: each version keeps its own end.
func rotationsWithinAnOverlap() Behaviour {
	const overlap = 6 * time.Second
	return Behaviour{
		Name: "three rotations within one overlap", size: 5,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: overlap, Lag: time.Second, MaxInUse: time.Second},
			DrainTime: 3 * time.Second,
		},
		run: func(s *scene) {
			l := s.work(5, 5*time.Millisecond, 3*s.Soon)
			l.more(50)
			old, ends := make([]string, 3), make([]time.Time, 3)
			for i := range old {
				old[i], ends[i] = s.rotate(), time.Now().Add(overlap)
				l.more(50)
			}
			for i, username := range old {
				<-time.After(time.Until(ends[i]))
				s.revoke(username)
			}
			l.mustNotFail()
			if log := s.log.String(); strings.Contains(log, "outrun") || strings.Contains(log, "outlive") {
				s.blame(s.began, "warned of although each version kept its end:\n%s", log)
			}
		},
	}
}

// passwordChangedInPlace is the password that dies two seconds before the next one can be
// read.
func passwordChangedInPlace(name string, before, after, idle int) Behaviour {
	const workers = 6
	return Behaviour{
		Name: name, size: before, idle: idle,
		config: sqlrotate.Config{Window: sqlrotate.InPlace(), DrainTime: time.Second},
		run: func(s *scene) {
			if idle == 0 {
				s.pool.SetMaxIdleConns(after)
			}
			l := s.work(workers, 5*time.Millisecond, s.Soon)
			l.more(50)
			next := s.change(s.current.Username)
			s.pool.SetMaxOpenConns(after)
			<-time.After(2 * time.Second)
			s.publish(next)
			s.eventually(s.Soon, "the new password in use", func() bool {
				v := s.version(next.Username)
				return v.Number == 2 && v.Proven
			})
			l.more(50)
			l.mustNotFail()
			// Those that are under way when the password changes, and then one at 0.5 and 1.5 s.
			if n := s.sockets.of(next.Username).refused; n > workers+4 {
				s.Errorf("%d refused logins", n)
			}
		},
	}
}

// loginPublishedEarly is the login that is published two seconds before it exists.
func loginPublishedEarly(name string, workers, idle int) Behaviour {
	return Behaviour{
		Name: name, size: 5, idle: idle,
		config: sqlrotate.Config{
			// A minute is long before anything else retires its connections.
			Window:    sqlrotate.Window{Overlap: 2 * time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second},
			DrainTime: time.Second,
		},
		run: func(s *scene) {
			mustWork := func() {
				if err := s.query(s.Soon); err != nil {
					s.blame(s.began, "a query: %v", err)
				}
			}
			l := s.work(workers, 5*time.Millisecond, s.Soon)
			if mustWork(); workers > 0 {
				l.more(50)
			}
			old, next := s.current.Username, s.stranger()
			s.publish(next)
			s.eventually(s.Soon, "a refusal", func() bool { return s.c.Stats().Refused > 0 })
			<-time.After(2 * time.Second)
			if n := s.sockets.of(next.Username).dialled; n < 1 || n > 4 {
				s.Errorf("%d refused logins in 2 s", n)
			}
			got := s.c.Stats()
			if got.Versions[0].Proven || got.Closed[sqlrotate.CloseSuperseded] > 0 || got.RefusalCode == "" {
				s.Errorf("the old login is left before the new one works: %+v", got)
			}
			if err := s.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), next.Username) || !strings.Contains(err.Error(), "logins use #1") {
				s.Errorf("healthy: %v", err)
			}
			s.create(next)
			s.inUse()
			s.eventually(2*s.Soon, "no session of the old user", func() bool { return s.gone(old) })
			s.drop(old)
			if mustWork(); workers > 0 {
				l.mustNotFail()
			}
			if err := s.c.CheckHealth(); err != nil {
				s.Errorf("healthy: %v", err)
			}
		},
	}
}

// wrongPassword is the password that never worked: callers get an error that says so, and the
// server a handful of attempts.
func wrongPassword() Behaviour {
	const workers, duration = 10, 4 * time.Second
	return Behaviour{
		Name: "wrong password", size: workers,
		config: sqlrotate.Config{
			Window:       sqlrotate.Window{Overlap: 20 * time.Second, Lag: time.Second, MaxInUse: 5 * time.Second},
			RetryTimeout: time.Second,
		},
		run: func(s *scene) {
			right := s.current
			s.publish(s.newPassword(right.Username))
			var asking sync.WaitGroup
			var mu sync.Mutex
			told := 0
			end := time.Now().Add(duration)
			for range workers {
				asking.Go(func() {
					for time.Now().Before(end) {
						err := s.query(500 * time.Millisecond)
						var refused *sqlrotate.RefusedError
						switch {
						case errors.As(err, &refused) && refused.Username == right.Username && refused.Code != "":
							mu.Lock()
							told++
							mu.Unlock()
						case !errors.Is(err, context.DeadlineExceeded):
							s.Errorf("a query with a wrong password: %v", err)
							return
						}
						<-time.After(10 * time.Millisecond)
					}
				})
			}
			asking.Wait()
			if n := s.sockets.of(right.Username).dialled; n < 2 || n > 6 {
				s.Errorf("%d refused logins in %v", n, duration)
			}
			if told == 0 {
				s.Errorf("nobody was told that the login is refused")
			}
			s.publish(right)
			s.eventually(s.Soon, "a query works", func() bool { return s.query(time.Second) == nil })
		},
	}
}

// overTheEnd is the window of what is in use for longer than it may be.
func overTheEnd() sqlrotate.Window {
	return sqlrotate.Window{Overlap: 3 * time.Second, Lag: 500 * time.Millisecond, MaxInUse: time.Second}
}

// overrun begins a transaction that writes, rotates, and returns when the login of the
// transaction has ended.
func overrun(s *scene) (tx *sql.Tx, id, old string, end time.Time) {
	s.Helper()
	tx, err := s.pool.BeginTx(context.Background(), nil)
	if err != nil {
		s.fatal("%v", err)
	}
	id = s.current.Username
	s.write(tx, id)
	old = s.rotate()
	s.eventually(s.Soon, "the rotation is seen", func() bool { return s.c.Stats().Rotations == 1 })
	end = s.version(old).EndsAt
	s.eventually(s.Soon, "the end is noted", func() bool { return s.c.Stats().Outlived > 0 })
	return tx, id, old, end
}

// write makes an entry.
func (s *scene) write(tx *sql.Tx, id string) {
	s.Helper()
	statement := "insert into entry values (" + s.Database.Traits().Placeholder + ")"
	if _, err := tx.ExecContext(context.Background(), statement, id); err != nil {
		s.fatal("%v", err)
	}
}

// writes returns how many entries have an id.
func (s *scene) writes(id string) (n int) {
	s.Helper()
	s.admin(func(ctx context.Context) error {
		return s.Database.Admin().QueryRowContext(ctx, "select count(*) from entry where id = '"+id+"'").Scan(&n)
	})
	return n
}

// hardEnd is a transaction and two statements over the end of their login: they are cut there,
// once, and the statements' errors say why.
func hardEnd() Behaviour {
	return Behaviour{
		Name: "hard end", size: 5,
		config: sqlrotate.Config{Window: overTheEnd()},
		run: func(s *scene) {
			traits, began := s.Database.Traits(), time.Now()
			var cut []<-chan error
			for _, statement := range []func(*sql.Conn) error{
				func(c *sql.Conn) error {
					_, err := c.ExecContext(context.Background(), traits.Sleep, 5)
					return err
				},
				func(c *sql.Conn) error { // drivers may have another protocol for that
					_, err := c.ExecContext(context.Background(), strings.Replace(traits.Sleep, traits.Placeholder, "5", 1))
					return err
				},
			} {
				conn, err := s.pool.Conn(context.Background())
				if err != nil {
					s.fatal("%v", err)
				}
				defer func() { _ = conn.Close() }()
				failed := make(chan error, 1)
				go func() { failed <- statement(conn) }()
				cut = append(cut, failed)
			}
			tx, id, old, end := overrun(s)
			s.eventually(s.Soon, "no socket of the old user", func() bool { return s.sockets.of(old).open == 0 })
			s.closedAt(old, end)
			for _, failed := range cut {
				err := <-failed
				var outlived *sqlrotate.OutlivedError
				saysWhy := errors.As(err, &outlived) && outlived.Username == old
				if saysWhy != (s.CutOff == CutOffSaysWhy) || err == nil || errors.Is(err, driver.ErrBadConn) {
					s.blame(began, "a statement that was cut: %v (%T); but %s, and it must not be run again", err, err, s.CutOff)
				}
			}
			if err := tx.Commit(); err == nil {
				s.Errorf("the transaction was not cut")
			}
			s.eventually(s.Soon, "its session ends", func() bool { return s.gone(old) })
			if n := s.writes(id); n != 0 {
				s.grave("the transaction's write is there %d times", n)
			}
			if n := s.c.Stats().Outlived; n != 3 {
				s.Errorf("%d connections outlived their login, want 3", n)
			}
			if text := s.log.String(); !strings.Contains(text, "outlives its credential") {
				s.Errorf("the log does not say so: %s", text)
			}
		},
	}
}

// noHardEnd is a transaction that is left alone over the end of its login.
func noHardEnd() Behaviour {
	return Behaviour{
		Name: "no hard end", size: 5,
		config: sqlrotate.Config{Window: overTheEnd(), NoForceClose: true},
		run: func(s *scene) {
			tx, id, old, _ := overrun(s)
			if err := tx.Commit(); err != nil {
				s.Errorf("left alone, the transaction fails: %v", err)
			}
			s.eventually(s.Soon, "its session ends", func() bool { return s.gone(old) })
			if n := s.writes(id); n != 1 {
				s.grave("the transaction's write is there %d times", n)
			}
		},
	}
}

// drainOfBusyConnections leaves what is in use alone until it comes back.
func drainOfBusyConnections() Behaviour {
	const busy, rows = 3, 100_000
	return Behaviour{
		Name: "drain of busy connections", size: 6,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: time.Minute, Lag: time.Second, MaxInUse: 20 * time.Second},
			DrainTime: 500 * time.Millisecond,
		},
		run: func(s *scene) {
			ctx := context.Background()
			s.fill()
			tx, err := s.pool.BeginTx(ctx, nil)
			if err != nil {
				s.fatal("%v", err)
			}
			s.write(tx, s.current.Username)
			conn, err := s.pool.Conn(ctx)
			if err != nil {
				s.fatal("%v", err)
			}
			many, err := s.pool.QueryContext(ctx, "select a.id from account a, account b, account c where c.id <= 10")
			if err != nil {
				s.fatal("%v", err)
			}
			defer func() { _ = many.Close() }()
			old := s.rotate()
			s.eventually(s.Soon, "the idle ones are gone", func() bool { return s.c.Stats().DrainLeft == busy && s.counted(old) == busy })
			s.balanced("in a drain")
			until := s.c.Stats().DrainUntil
			<-time.After(time.Until(until))
			s.eventually(s.Soon, "those in use are left alone", func() bool { return s.sessions(old) == busy })
			n := 0
			for many.Next() {
				n++
			}
			if err := many.Err(); err != nil || n != rows {
				s.Errorf("read %d rows: %v", n, err)
			}
			_ = many.Close()
			if err := conn.QueryRowContext(ctx, aQuery).Scan(new(int)); err != nil {
				s.Errorf("a query on a connection in use: %v", err)
			}
			if err := conn.Close(); err != nil {
				s.Errorf("%v", err)
			}
			if err := tx.Commit(); err != nil {
				s.Errorf("a transaction in use: %v", err)
			}
			s.eventually(s.Soon, "all gone on return", func() bool { return s.gone(old) })
			s.drop(old)
		},
	}
}

// fill has the pool open all its connections.
func (s *scene) fill() {
	s.Helper()
	var conns []*sql.Conn
	for range s.size {
		conn, err := s.pool.Conn(context.Background())
		if err != nil {
			s.fatal("%v", err)
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		if err := conn.Close(); err != nil {
			s.Errorf("%v", err)
		}
	}
}

// drainIsSpreadOut has all connections of a pool that is always in use go one by one, each
// behind a spare. The revocation also ends sessions, and finds none.
func drainIsSpreadOut() Behaviour {
	const size, drain = 10, 3 * time.Second
	return Behaviour{
		Name: "drain is spread out", size: size,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second},
			DrainTime: drain,
		},
		run: func(s *scene) {
			s.fill()
			l := s.work(2*size, 5*time.Millisecond, 2*s.Soon)
			l.more(200)
			published := time.Now()
			old := s.rotate()
			s.eventually(2*s.Soon, "no session of the old user", func() bool { return s.gone(old) })
			if n := s.endSessions(old); n != 0 {
				s.blame(published, "%d sessions are ended at the revocation", n)
			}
			s.drop(old)
			l.more(200)
			l.mustNotFail()
			if n := s.sockets.peak(); n > size+1 {
				s.Errorf("%d sockets at once, more than the pool's %d and a spare", n, size)
			}
			var retired []time.Time
			s.eventually(s.Soon, "all connections retired", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				retired = s.retired
				return len(retired) >= size
			})
			if len(retired) != size {
				s.fatal("%d connections retired, want %d", len(retired), size)
			}
			crowd := 0
			for i, at := range retired {
				n := 0
				for _, other := range retired[i:] {
					if other.Sub(at) < 100*time.Millisecond {
						n++
					}
				}
				crowd = max(crowd, n)
			}
			if took := retired[size-1].Sub(retired[0]); crowd > size/2 || took < drain/4 {
				s.blame(published, "%d connections retired within %v, %d of them within 100 ms", size, took, crowd)
			}
		},
	}
}

// usersAlternate is user A, user B, and A again with a new password.
func usersAlternate() Behaviour {
	return Behaviour{
		Name: "users alternate", size: 5,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: 20 * time.Second, Lag: time.Second, MaxInUse: 5 * time.Second},
			DrainTime: 500 * time.Millisecond,
		},
		run: func(s *scene) {
			l := s.work(5, 5*time.Millisecond, s.Soon)
			this, other := s.current.Username, s.newLogin().Username
			for range 4 {
				l.more(50)
				s.publish(s.change(other))
				s.eventually(2*s.Soon, "the other user's sessions gone", func() bool { return s.gone(this) })
				this, other = other, this
			}
			l.mustNotFail()
			if n := s.c.Stats().Versions[0].Number; n != 5 {
				s.Errorf("version %d after four rotations", n)
			}
		},
	}
}

// preparedStatements are those of the pool, which its new connections prepare again.
func preparedStatements() Behaviour {
	return Behaviour{
		Name: "prepared statements", size: 5,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: 20 * time.Second, Lag: time.Second, MaxInUse: 5 * time.Second},
			DrainTime: 200 * time.Millisecond,
		},
		run: func(s *scene) {
			stmt, err := s.pool.PrepareContext(context.Background(), "select balance from account where id = "+s.Database.Traits().Placeholder)
			if err != nil {
				s.fatal("%v", err)
			}
			defer func() { _ = stmt.Close() }()
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			var running sync.WaitGroup
			began := time.Now()
			for range 5 {
				running.Go(func() {
					for n := 1; ctx.Err() == nil; n++ {
						if err := stmt.QueryRowContext(context.WithoutCancel(ctx), n%100+1).Scan(new(int)); err != nil {
							s.blame(began, "an execution fails: %v", err)
							return
						}
						<-time.After(5 * time.Millisecond)
					}
				})
			}
			for range 3 {
				old := s.rotate()
				s.eventually(2*s.Soon, "the old user's sessions gone", func() bool { return s.gone(old) })
				s.drop(old)
			}
			stop()
			running.Wait()
		},
	}
}

// oldLoginDroppedEarly is an old user who is dropped in the middle of a drain of twenty seconds: it
// is left at once. What fails until then is the server's doing.
func oldLoginDroppedEarly() Behaviour {
	return Behaviour{
		Name: "old login dropped early", size: 8,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second},
			DrainTime: 20 * time.Second,
		},
		run: func(s *scene) {
			s.fill()
			l := s.work(8, 5*time.Millisecond, s.Soon)
			l.more(100)
			old := s.rotate()
			s.inUse()
			if s.sessions(old) == 0 {
				s.blame(s.began, "nothing is left to drop")
			}
			s.drop(old)
			s.eventually(s.Soon, "no session of the dead user", func() bool { return s.gone(old) })
			if s.Database.Traits().AfterDrop == SessionsWorkOn {
				l.more(100)
				l.mustNotFail()
				return
			}
			l.more(16) // what was under way on them comes back
			failed := len(l.Failures())
			l.more(200)
			if n := len(l.Failures()) - failed; n > 0 {
				s.Errorf("%d operations failed after the last old connection had gone", n)
			}
			l.finish()
		},
	}
}

// loginDroppedInUse is an old user who is dropped while a session of it is in use: at its end
// it is closed, whatever it could do until then.
func loginDroppedInUse() Behaviour {
	return Behaviour{
		Name: "login dropped in use", size: 3,
		config: sqlrotate.Config{Window: overTheEnd()},
		run: func(s *scene) {
			conn, err := s.pool.Conn(context.Background())
			if err != nil {
				s.fatal("%v", err)
			}
			defer func() { _ = conn.Close() }()
			query := func() error { return conn.QueryRowContext(context.Background(), aQuery).Scan(new(int)) }
			if err := query(); err != nil {
				s.Errorf("%v", err)
			}
			old := s.rotate()
			s.eventually(s.Soon, "the rotation is seen", func() bool { return s.c.Stats().Rotations == 1 })
			s.drop(old)
			end := s.version(old).EndsAt
			err = query()
			works := s.Database.Traits().AfterDrop == SessionsWorkOn
			if works != (err == nil) && time.Now().Before(end) {
				s.Errorf("a query after its user was dropped: %v; but %s", err, s.Database.Traits().AfterDrop)
			}
			s.eventually(s.Soon, "the session is closed", func() bool { return s.gone(old) })
			s.closedAt(old, end)
			if err := query(); err == nil {
				s.Errorf("the connection still works")
			}
			if n := s.c.Stats().Outlived; n != 1 {
				s.Errorf("%d connections outlived their login, want 1", n)
			}
		},
	}
}

// idleSessionsEnded has the server end all sessions while they are idle, of the pool and of
// those that a drain has ready: no query fails for that, and the books follow.
func idleSessionsEnded() Behaviour {
	const size = 5
	return Behaviour{
		Name: "idle sessions ended by the server", size: size,
		config: sqlrotate.Config{
			Window:    sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: 5 * time.Second},
			DrainTime: 20 * time.Second,
		},
		run: func(s *scene) {
			for round := range 2 {
				if round == 1 {
					s.rotate()
					s.inUse()
				}
				s.fill() // database/sql asks no driver about a connection that was never used
				ended := 0
				for _, username := range s.users {
					ended += s.endSessions(username)
				}
				if ended < size {
					s.blame(s.began, "%d sessions were ended, want %d", ended, size)
				}
				<-time.After(1500 * time.Millisecond) // a driver may look only at what was idle for a second
				var asking sync.WaitGroup
				for range 2 * size {
					asking.Go(func() {
						if err := s.query(s.Soon); err != nil {
							s.blame(s.began, "a query after the server has ended idle sessions: %v", err)
						}
					})
				}
				asking.Wait()
				s.balanced(fmt.Sprintf("after sessions were ended, round %d", round+1))
			}
		},
	}
}
