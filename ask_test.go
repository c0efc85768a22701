package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// Who borrows an idle connection to ask after a role fails no caller, and makes them wait no
// longer than for the question, if that: in a pool in which all connections are in use and callers
// queue, and in one in which now and then one is idle for a moment.
func TestBorrowingForAQuestionIsNoCallersConcern(t *testing.T) {
	for _, tt := range []struct {
		name    string
		workers int
	}{{"callers queue", 20}, {"hardly any is idle", 10}} {
		t.Run(tt.name, func(t *testing.T) {
			_, without := saturate(t, tt.workers, 0)
			answered, with := saturate(t, tt.workers, 10_000)
			t.Logf("10,000 questions, %d answered; a caller waited for %v on average, and %v without questions", answered, with, without)
			if most := without + questionTime; with > most {
				t.Errorf("a caller waited for %v on average, want %v at the most", with, most)
			}
			if answered == 0 && tt.workers <= 10 {
				t.Error("no connection was ever borrowed: nothing is shown")
			}
		})
	}
}

// Whether an old role lives is asked on any idle connection that it has, and takes no login,
// although the next caller would get one of the new role.
func TestAnOldRoleIsAskedAfterOnAnyIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.DrainTime = 6 * time.Minute })
		r.fill(10)
		r.rotate("v2")
		for range 80 {
			time.Sleep(5 * time.Second)
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					if err := r.query("100ms"); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		if s := r.c.Stats(); s.Drains != 1 {
			t.Fatalf("%d drains", s.Drains)
		}
		if n, _ := r.server.attempts("v1"); n > 12 {
			t.Errorf("%d logins with the old role, which had 10 sessions", n)
		}
	})
}

// resetConn is a connection of a driver that asks the server before one that was idle is
// used again, as pgx does, and gives it up if that takes longer than it may.
type resetConn struct {
	*fakeConn
	takes time.Duration
}

func (c *resetConn) ResetSession(ctx context.Context) error {
	select {
	case <-time.After(c.takes):
		return nil
	case <-ctx.Done():
		return driver.ErrBadConn
	}
}

// A question doesn't cost the connections that it is asked on, or that are only looked at,
// however long the driver needs to have them ready.
func TestQuestionsEndNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) {
			s := cfg.Opener.(*fakeServer)
			cfg.DrainTime = 5 * time.Minute
			cfg.Opener = &openerFunc{fakeServer: s, open: func(ctx context.Context, _ int, cred Credential, dial DialFunc) (driver.Conn, error) {
				conn, err := s.Open(ctx, cred, dial)
				if err != nil {
					return nil, err
				}
				return &resetConn{conn.(*fakeConn), 20 * time.Millisecond}, nil
			}}
		})
		asks := func() uint64 {
			r.c.mu.Lock()
			defer r.c.mu.Unlock()
			return r.c.rules.Counts().Asks
		}
		r.fill(5)
		stop := r.load(1, "1ms", time.Second)
		defer stop()
		time.Sleep(5 * time.Minute)
		n := asks()
		if logins := r.c.Stats().Logins; n < 5 || logins != 5 {
			t.Errorf("%d questions, and %d logins for a pool of 5", n, logins)
		}
		r.rotate("v2")
		time.Sleep(time.Minute)
		// The drain takes five minutes.
		if more, logins := asks()-n, r.c.Stats().Logins-5; more < 5 || logins > 3 {
			t.Errorf("a minute after a rotation: %d questions, and %d logins", more, logins)
		}
	})
}

// What the connector asks on an idle connection is no use of its pool, or it would never be
// idle again; nor is the login.
func TestQuestionsAreNoUse(t *testing.T) {
	t.Parallel()
	const often = 20 * time.Millisecond
	s := newService(t, pgtest.New(t, pgtest.Options{}), func(cfg *Config) { cfg.RoleCheck = often })
	asks := func() uint64 {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		return s.c.rules.Counts().Asks
	}
	if err := s.db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.eventually(10*time.Second, "a question", func() bool { return asks() > 0 })
	n := asks()
	time.Sleep(20 * often) // a machine that stalls asks less
	if more := asks() - n; more > 1 {
		t.Errorf("%d questions more about a role whose pool nobody uses", more)
	}
	s.eventually(30*time.Second, "another question, once it is used", func() bool {
		// If the idle connection is just being asked this logs in, and that is an answer.
		if err := s.db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return asks() > n
	})
}

// questionTime is how long a fake server takes for a question.
const questionTime = 100 * time.Microsecond

// saturate has workers query a pool of ten, while it is asked so often whether the role in
// use lives. It returns how often there was an answer, and how long callers waited for a
// connection on average.
func saturate(t *testing.T, workers, questions int) (answered int, wait time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(cfg *Config) { cfg.RoleCheck = -1 })
		r.db.SetMaxOpenConns(10)
		r.fill(10)
		var mu sync.Mutex // guards the next two
		var waits, callers time.Duration
		done := make(chan struct{})
		var running sync.WaitGroup
		for worker := range workers {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			running.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					took := time.Millisecond + time.Duration(random.Int64N(int64(5*time.Millisecond)))
					from := time.Now()
					if err := r.query(took.String()); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					waits, callers = waits+time.Since(from)-took, callers+1
					mu.Unlock()
					if workers <= 10 { // a moment in which the connection is idle
						time.Sleep(50 * time.Microsecond)
					}
				}
			})
		}
		r.c.mu.Lock()
		version := r.c.rules.Current()
		r.c.mu.Unlock()
		for range questions {
			if _, answer := r.c.askIdle(version); answer == rotation.Lives {
				answered++
			} else if answer != rotation.Unanswered {
				t.Errorf("the answer is %v", answer)
			}
			time.Sleep(317 * time.Microsecond)
		}
		if questions == 0 {
			time.Sleep(5 * time.Second)
		}
		close(done)
		running.Wait()
		wait = waits / callers
		if n := r.server.most(); n > 11 {
			t.Errorf("there were %d sessions at once", n)
		}
	})
	return answered, wait
}

// theirError is an error of a server that has codes of its own, and no SQLSTATE.
type theirError int

func (n theirError) Error() string { return fmt.Sprint("error ", int(n)) }

// theirs is an opener of such a server's.
type theirs struct{}

func (theirs) Open(context.Context, Credential, DialFunc) (driver.Conn, error) {
	return nil, theirError(1)
}

func (theirs) Refused(err error) bool {
	return errors.Is(err, theirError(1045)) || errors.Is(err, theirError(1141))
}
func (theirs) Full(err error) bool { return errors.Is(err, theirError(1040)) }

func (theirs) Code(err error) string {
	if n := theirError(0); errors.As(err, &n) {
		return fmt.Sprint(int(n))
	}
	return ""
}

func TestWhatAnAnswerMeans(t *testing.T) {
	pg := mustPostgres(t, "host=db")
	for _, test := range []struct {
		name   string
		opener Opener
		err    error
		want   rotation.Answer
	}{
		{"success", pg, nil, rotation.Lives},
		{"no such role", pg, stateError("42704"), rotation.Refuses},
		{"no right", pg, stateError("42501"), rotation.Refuses},
		{"wrong syntax", pg, stateError("42601"), rotation.Unasked},
		{"no word of the server's", pg, errors.New("no queryer"), rotation.Unasked},
		{"shutting down", pg, stateError("57P03"), rotation.Unanswered},
		{"a pooler's word for anything", pg, stateError("08P01"), rotation.Unanswered},
		{"a broken connection", pg, io.ErrUnexpectedEOF, rotation.Unanswered},
		{"a bad one", pg, driver.ErrBadConn, rotation.Unanswered},
		{"another server: no such user", theirs{}, theirError(1141), rotation.Refuses},
		{"another server: shutting down", theirs{}, theirError(1053), rotation.Unanswered},
		{"another server: no word of its", theirs{}, errors.New("no queryer"), rotation.Unasked},
		{"another server: a broken connection", theirs{}, net.ErrClosed, rotation.Unanswered},
	} {
		err := test.err
		if err != nil {
			err = newLoginError(test.opener, err)
		}
		if got := meaning(err); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// theirServer is a fake server that has codes of its own.
type theirServer struct {
	*fakeServer
	theirs
}

func (s theirServer) Open(ctx context.Context, cred Credential, dial DialFunc) (driver.Conn, error) {
	return s.fakeServer.Open(ctx, cred, dial)
}

func (s theirServer) Refused(err error) bool { return s.theirs.Refused(err) }

// A login that finds the server full waits a moment if a session has just ended, whatever
// word the server has for that.
func TestServersHaveTheirOwnWordForFull(t *testing.T) {
	for _, test := range []struct {
		theirs bool
		says   error
		waits  bool
	}{
		{false, stateError("53300"), true},
		{false, stateError("57P03"), false},
		{true, theirError(1040), true},
		{true, theirError(1053), false},
		{true, stateError("53300"), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) {
				if test.theirs {
					cfg.Opener = theirServer{fakeServer: cfg.Opener.(*fakeServer)}
				}
			})
			r.fill(1)
			r.db.SetMaxIdleConns(0) // ends it
			says := test.says
			r.server.set(func(s *fakeServer) {
				s.judge = func(Credential) error {
					defer func() { says = nil }()
					return says
				}
			})
			if err := r.db.PingContext(t.Context()); (err == nil) != test.waits {
				t.Errorf("%v, in their words %v: %v", test.says, test.theirs, err)
			}
		})
	}
}
