// scene: an application at work over an opener, and whoever rotates its login.

package openertest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

type scene struct {
	TB
	Suite
	size    int
	census  *census
	meter   *stall.Meter
	sockets *sockets
	source  *sqlrotatetest.Source
	c       *sqlrotate.Connector
	pool    *sql.DB
	window  sqlrotate.Window
	log     logbook
	began   time.Time
	current sqlrotate.Credential // published last

	mu        sync.Mutex // guards what follows
	users     []string
	passwords []string
	retired   []time.Time // when connections were, as superseded
}

// newScene makes a scene with a login that exists and is published.
func newScene(tb TB, suite Suite, b Behaviour, c *census) *scene {
	tb.Helper()
	s := &scene{TB: tb, Suite: suite, size: b.size, census: c, began: time.Now(), sockets: newSockets(), window: b.config.Window}
	c.outside(func() { s.meter = stall.Watch(tb) })
	s.current = s.newLogin()
	s.source = sqlrotatetest.NewSource(s.current)
	cfg := b.config
	cfg.Source, cfg.Opener, cfg.Dial = s.source, s.sockets.watch(suite.Opener), s.sockets.dial
	cfg.Logger = slog.New(slog.NewTextHandler(&s.log, nil))
	cfg.Trace = &sqlrotate.Trace{Closed: func(_ sqlrotate.VersionStats, why sqlrotate.CloseReason, _ time.Duration) {
		if why == sqlrotate.CloseSuperseded {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.retired = append(s.retired, time.Now())
		}
	}}
	var err error
	if s.c, err = sqlrotate.New(cfg); err != nil {
		s.fatal("%v", err)
	}
	s.pool = sqlrotate.OpenDB(s.c)
	tb.Cleanup(func() { _ = s.pool.Close() })
	s.pool.SetMaxOpenConns(b.size)
	s.pool.SetMaxIdleConns(b.size)
	if b.idle != 0 {
		s.pool.SetMaxIdleConns(b.idle)
	}
	return s
}

func (s *scene) fatal(format string, args ...any) {
	s.Helper()
	s.Errorf(format, args...)
	s.FailNow()
}

// grave fails the test for what is no machine's fault.
func (s *scene) grave(format string, args ...any) {
	s.Helper()
	s.Attr("failure", "grave")
	s.Errorf(format, args...)
}

// admin does something at the server, whose goroutines are not the scene's.
func (s *scene) admin(f func(context.Context) error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	s.census.outside(func() { err = f(ctx) })
	if err != nil {
		s.fatal("the server: %v", err)
	}
}

// stranger returns a login that doesn't exist.
func (s *scene) stranger() sqlrotate.Credential {
	username := fmt.Sprintf("u%d_%s", len(s.users)+1, strings.ToLower(rand.Text()[:8]))
	s.mu.Lock()
	s.users = append(s.users, username)
	s.mu.Unlock()
	return s.newPassword(username)
}

// newPassword returns a login with a password that is made up.
func (s *scene) newPassword(username string) sqlrotate.Credential {
	password := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords = append(s.passwords, password)
	return sqlrotate.Credential{Username: username, Password: sqlrotate.NewSecret(password)}
}

func (s *scene) create(cred sqlrotate.Credential) {
	s.Helper()
	s.admin(func(ctx context.Context) error {
		return s.Database.CreateLogin(ctx, cred.Username, cred.Password.Reveal())
	})
}

func (s *scene) newLogin() sqlrotate.Credential {
	s.Helper()
	cred := s.stranger()
	s.create(cred)
	return cred
}

// change gives a user another password, which isn't published yet.
func (s *scene) change(username string) sqlrotate.Credential {
	s.Helper()
	cred := s.newPassword(username)
	s.admin(func(ctx context.Context) error {
		return s.Database.ChangePassword(ctx, username, cred.Password.Reveal())
	})
	return cred
}

// publish makes cred what the source gives.
func (s *scene) publish(cred sqlrotate.Credential) {
	s.source.Set(cred)
	s.current = cred
}

// rotate makes a login, publishes it, and returns the user of the one before.
func (s *scene) rotate() (old string) {
	s.Helper()
	old = s.current.Username
	s.publish(s.newLogin())
	return old
}

func (s *scene) drop(username string) {
	s.Helper()
	s.admin(func(ctx context.Context) error { return s.Database.DropLogin(ctx, username) })
}

// endSessions ends a user's sessions at the server, and returns how many there were.
func (s *scene) endSessions(username string) (n int) {
	s.Helper()
	s.admin(func(ctx context.Context) (err error) {
		n, err = s.Database.EndSessions(ctx, username)
		return err
	})
	return n
}

// sessions returns how many sessions a user has at the server.
func (s *scene) sessions(username string) (n int) {
	s.Helper()
	s.admin(func(ctx context.Context) (err error) {
		n, err = s.Database.Sessions(ctx, username)
		return err
	})
	return n
}

// version returns what the connector says of a user's latest login: nothing, once it has
// ended and has no session.
func (s *scene) version(username string) sqlrotate.VersionStats {
	for _, v := range s.c.Stats().Versions {
		if v.Username == username {
			return v
		}
	}
	return sqlrotate.VersionStats{}
}

// counted returns how many connections of a user the connector knows of.
func (s *scene) counted(username string) (n int) {
	for _, v := range s.c.Stats().Versions {
		if v.Username == username {
			n += v.Open
		}
	}
	return n
}

// gone reports whether a user has no connection, to anybody's knowledge. (Until its end the
// connector may ask after it once more, with a login.)
func (s *scene) gone(username string) bool {
	s.Helper()
	return s.sockets.of(username).open == 0 && s.counted(username) == 0 && s.ended(username)
}

// ended reports whether a user has no session at the server, which is not asked too often.
func (s *scene) ended(username string) bool {
	s.Helper()
	if s.sessions(username) == 0 {
		return true
	}
	<-time.After(20 * time.Millisecond)
	return false
}

// inUse waits until the login that was published last is.
func (s *scene) inUse() {
	s.Helper()
	s.eventually(s.Soon, "the new login in use", func() bool { v := s.version(s.current.Username); return v.Current && v.Proven })
}

// eventually waits until f is true, for at most limit, and returns how long that took.
func (s *scene) eventually(limit time.Duration, what string, f func() bool) time.Duration {
	s.Helper()
	return s.meter.Eventually(limit, what, f, s.state)
}

// state is what there is to say of a scene when something is wrong.
func (s *scene) state() string {
	return fmt.Sprintf("healthy: %v; %+v\n%s", s.c.CheckHealth(), s.c.Stats(), &s.log)
}

// blame fails the test for what went wrong since from, unless the machine broke the promises
// that the window relies on. It reports whether that is the connector's fault.
func (s *scene) blame(from time.Time, what string, args ...any) bool {
	s.Helper()
	return s.meter.Blame(from, time.Now(), s.bearable(), what, args...)
}

// bearable is for how long the machine may stall at once without excusing anything.
func (s *scene) bearable() time.Duration {
	const least = 200 * time.Millisecond
	if s.window.Lag <= 0 || s.window.MaxInUse <= 0 {
		return time.Second / 2
	}
	return max(least, min(s.window.Lag, s.window.MaxInUse, time.Second)/2)
}

// memory is for how long a stall may have consequences: for a window, or what of it there is.
func (s *scene) memory() time.Duration {
	return min(max(time.Second, s.window.Overlap), 10*time.Second)
}

// noticed is how s.Soon a server on a quiet machine has noticed that a client is gone.
const noticed = 250 * time.Millisecond

// revoke drops a user whose time is over, and complains about sessions that are open then: at
// this end, where the connector has to have closed them, or at the server's, if it was told
// long enough before.
func (s *scene) revoke(username string) {
	s.Helper()
	now := time.Now()
	if at := s.sockets.of(username); at.open > 0 {
		if s.blame(now.Add(-s.memory()), "%d sockets of %s are open when it is revoked; %s", at.open, username, s.state()) {
			s.Attr("failure", "grave")
		}
	} else if s.sessions(username) > 0 {
		s.eventually(s.Soon, fmt.Sprintf("no session of %s, which is revoked", username), func() bool { return s.ended(username) })
		s.meter.Between(noticed, at.closed, time.Now(), "the end of a session at the server, whose user is revoked")
	}
	s.drop(username)
}

// closedAt checks that the last socket of a user was closed when its login ended.
func (s *scene) closedAt(username string, end time.Time) {
	s.Helper()
	const prompt = 250 * time.Millisecond
	at := s.sockets.of(username)
	switch {
	case end.IsZero():
		s.blame(s.began, "the end of %s was over when it was asked for", username)
	case at.open > 0 || at.closed.Before(end):
		s.Errorf("%d sockets open, the last of the others closed %v after the end", at.open, at.closed.Sub(end))
	default:
		s.meter.Between(prompt, end, at.closed, "closing a session at its end")
	}
}

// balanced waits until the connector, the server and this end of the network agree on how
// many connections each user has.
func (s *scene) balanced(when string) {
	s.Helper()
	s.mu.Lock()
	users := s.users
	s.mu.Unlock()
	for _, username := range users {
		var counted, sessions, sockets int
		start := time.Now()
		for {
			counted, sessions, sockets = s.counted(username), s.sessions(username), s.sockets.of(username).open
			if counted == sessions && counted == sockets && counted == s.counted(username) {
				break
			}
			if time.Since(start) > s.Soon { // books are no machine's fault
				s.grave("books, %s: %s has %d connections by Stats, %d sessions at the server, and %d sockets; %s",
					when, username, counted, sessions, sockets, s.state())
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	}
}

// load is an application under way.
type load struct {
	*ledger.Ledger
	s *scene
}

// work starts one; each operation may take patience.
func (s *scene) work(workers int, think, patience time.Duration) *load {
	l := &load{ledger.Start(s.pool, ledger.Options{
		Workers: workers, Think: think, Patience: patience, Placeholder: s.Database.Traits().Placeholder,
	}), s}
	s.Cleanup(l.Stop)
	return l
}

// more waits until n more operations are done.
func (l *load) more(n int) {
	l.s.Helper()
	before := l.Done()
	l.s.eventually(2*l.s.Soon, "more load", func() bool { return l.Done() > before+n })
}

// finish stops the load and holds what it was told against what is there.
func (l *load) finish() {
	l.s.Helper()
	l.Stop()
	l.s.census.outside(func() {
		if err := l.Audit(context.Background(), l.s.Database.Admin()); err != nil {
			l.s.grave("%v", err)
		}
	})
	for _, f := range l.Failures() {
		l.s.log.say(f.Err)
	}
}

// mustNotFail stops the load and checks that nothing failed.
func (l *load) mustNotFail() {
	l.s.Helper()
	l.finish()
	if l.Done() == 0 {
		l.s.Errorf("the load did nothing")
	}
	failures := l.Failures()
	if len(failures) == 0 {
		return
	}
	s := l.s
	first := failures[0]
	for _, f := range failures { // one that the machine doesn't excuse comes first
		if !s.meter.Stalled(f.From.Add(-s.memory()), f.To, s.bearable()) {
			first = f
			break
		}
	}
	s.meter.Blame(first.From.Add(-s.memory()), first.To, s.bearable(), "%d of %d operations failed; one after %v: %v\n%s",
		len(failures), l.Done(), first.To.Sub(first.From), first.Err, s.state())
}

// query runs a query that needs a right, which may take as long as limit.
func (s *scene) query(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := s.pool.QueryRowContext(ctx, aQuery).Scan(new(int))
	if err != nil {
		s.log.say(err)
	}
	return err
}

// aQuery is a query that needs a right.
const aQuery = "select balance from account where id = 1"

// end closes the pool, and checks that nothing is left.
func (s *scene) end() {
	s.Helper()
	s.balanced("before Close")
	if err := s.pool.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
	s.eventually(s.Soon, "no socket is open after Close", func() bool { return s.sockets.count() == 0 })
	for _, v := range s.c.Stats().Versions {
		if v.Open > 0 {
			s.grave("books, after Close: %s has %d connections by Stats", v.Username, v.Open)
		}
	}
	for _, username := range s.users {
		s.eventually(s.Soon, "no session is left after Close", func() bool { return s.ended(username) })
	}
	s.silent()
	s.meter.Stop()
	s.census.leave()
	for start := time.Now(); ; <-time.After(5 * time.Millisecond) {
		n, where := s.census.count()
		if n == 0 {
			return
		}
		if time.Since(start) > s.Soon {
			s.grave("%d goroutines are left after Close:\n%s", n, where)
			return
		}
	}
}

// silent checks that no password was said.
func (s *scene) silent() {
	s.Helper()
	said := fmt.Sprintf("%s %v %+v %#v", &s.log, s.c.CheckHealth(), s.c.Stats(), s.c.Stats())
	for _, password := range s.passwords {
		if strings.Contains(said, password) {
			s.grave("a password was said: %s", strings.ReplaceAll(said, password, "[password]"))
		}
	}
}

// logbook keeps what is logged, and errors. It is safe for concurrent use.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements [io.Writer].
func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// say keeps an error as it may be printed.
func (l *logbook) say(err error) {
	_, _ = fmt.Fprintf(l, "%v\n%+v\n%#v\n", err, err, err)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
