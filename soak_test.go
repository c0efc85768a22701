//go:build linux

package sqlrotate

import (
	"context"
	cryptorand "crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// A bank keeps running while, at random and several at once, its login is rotated and the
// role before is dropped when its overlap ends, the password is changed in place, backends
// are terminated, the credential file is deleted or spoilt, the server is restarted, crashes
// or stands still, the process is stopped, and the source hangs. Its books are audited in
// rounds, and then begun anew.
//
// An operation may fail only if it was under way during a declared outage: while a backend is
// being terminated or the server is away. Of everything else it may become slow, and no more.
// What was acknowledged must be there exactly once, and the books must balance. How far that
// goes depends on the kind of operation, because lib/pq reports a session that is cut off in
// the middle of a statement as driver.ErrBadConn, and database/sql then runs a statement that
// is outside a transaction again, although the server may have committed it:
//
//   - A transfer is a transaction. database/sql retries its BEGIN and nothing
//     else, so whatever happens an acknowledged one is there once, and one that
//     failed once or not at all (its COMMIT may have been done).
//   - A statement with an id of its own, "on conflict do nothing", may run twice
//     and is there once all the same. If the run that is acknowledged has changed
//     no row, an earlier one had: those second runs are counted.
//   - A plain insert has nothing to protect it. Outside of the outages an
//     acknowledged one is there exactly once, which shows that no rotation makes
//     database/sql run anything twice. Within them it may be there again for each
//     retry, of which there are two.
//
// The process, which is the bank's own, needs no more at the end than at first, and nothing
// is left of it after Close. (An hour, with a line for each minute: SQLROTATE_SOAK=1h go test
// -race -count=1 -timeout=0 -v -run TestSoakBooksBalance .)
func TestSoakBooksBalance(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	stopper := apart(t)
	if stopper == nil {
		return
	}
	duration := soakFor(t, 10*time.Second)
	seed := soakSeed(t)
	t.Logf("seed %d", seed)

	server := pgtest.New(t, pgtest.Options{
		Control: true,
		// What a crash must not lose is what was acknowledged.
		Settings: map[string]string{"synchronous_commit": "on"},
	})
	b := openBank(t, server, stopper)
	b.work(20)
	b.disturb(rand.New(rand.NewPCG(seed, 0)), duration)
	b.close()
	b.audit()
	b.judge(duration)
	b.leave()
}

// bank is an application under way on a service, with a note of all that it did since its
// books were audited last.
type bank struct {
	*service
	t        *testing.T
	feed     *moody
	stopper  *stopper
	rest     needs // what the process needed before
	stop     context.CancelFunc
	workers  sync.WaitGroup
	declared declared

	mu    sync.Mutex // guards the next three
	done  []operation
	again int                 // keyed statements that were run twice
	tally map[string]*tallied // troubles

	books

	// In the order in which they are taken.
	hours      sync.RWMutex // read by each operation; held while the books are audited
	agent      sync.Mutex   // held by whoever rotates, and while nobody is to
	hanging    sync.Mutex   // held while the source hangs
	reach      sync.RWMutex // held while the server is away or audited; read by those who need it
	publishing sync.Mutex   // guards the file, what service knows of it, and the next two
	issue      int          // how often a login was published
	passwords  []string

	revokers sync.WaitGroup
}

// The overlap has a lag for a source that hangs and a file that is spoilt just when it was
// written, and a process that is stopped then; and a time in use for a server that is paused
// and a process that is stopped.
const (
	soakOverlap  = 16 * time.Second
	soakLag      = 7 * time.Second
	soakMaxInUse = 4 * time.Second

	longestSpoilt = time.Second
	longestHang   = 2500 * time.Millisecond // longer than FileSource and a login wait
	longestPause  = 2500 * time.Millisecond
	longestStop   = time.Second
	abandoned     = readTimeout + time.Second // longer than the connector waits

	longestOperation = time.Minute // limits are far from what a slow machine does
)

// moody is a source that hangs at times, and heeds its context then or doesn't.
type moody struct {
	plantedSource
	patient, deaf gate
}

func (m *moody) Credential(ctx context.Context) (Credential, error) {
	m.deaf.pass(nil)
	m.patient.pass(ctx.Done())
	return m.plantedSource.Credential(ctx)
}

func (m *moody) Refresh(ctx context.Context, refused Credential) (Credential, error) {
	m.deaf.pass(nil)
	m.patient.pass(ctx.Done())
	return m.plantedSource.Refresh(ctx, refused)
}

// tallied is how often there was a trouble, and how often something is known to have come of it.
type tallied struct{ times, felt int }

type operation struct {
	id string // its first letter is its kind: t, k or p
	span
	err error

	// Of one that was audited and may yet come through.
	old, outage bool
	there       int
}

// declared are the times at which operations may fail, or be slow.
type declared struct {
	mu     sync.Mutex
	spans  []declaredSpan
	outage time.Duration // in all
}

type declaredSpan struct {
	span
	fails bool
}

// grace is for what a session that has been ended still has under way.
const grace = 500 * time.Millisecond

// outageFor runs f in an outage.
func (d *declared) outageFor(f func()) { d.during(f, true) }

// slowFor runs f while operations may be slow.
func (d *declared) slowFor(f func()) { d.during(f, false) }

func (d *declared) during(f func(), fails bool) {
	from := time.Now()
	f()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := span{from, time.Now().Add(grace)}
	d.spans = append(d.spans, declaredSpan{s, fails})
	if fails {
		d.outage += s.to.Sub(s.from)
	}
}

// touch reports whether what took that long may have failed, or been slow.
func (d *declared) touch(s span) (fails, slow bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.spans {
		if s.from.Before(n.to) && s.to.After(n.from) {
			fails, slow = fails || n.fails, true
		}
	}
	return fails, slow
}

// forget forgets what was over before then.
func (d *declared) forget(before time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spans = slices.DeleteFunc(d.spans, func(n declaredSpan) bool { return n.to.Before(before) })
}

func openBank(t *testing.T, server *pgtest.Server, stopper *stopper) *bank {
	t.Helper()
	for _, statement := range []string{
		// As ledger.Create makes it, with what was there when the books were begun.
		"create table account (id int primary key, balance int not null, opening int not null default 100)",
		"create table transfer (id text not null, debit int not null, credit int not null, amount int not null)",
		"create table keyed (id text primary key)",
	} {
		if _, err := server.Admin().ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	b := &bank{t: t, stopper: stopper, tally: map[string]*tallied{}}
	b.rest = atRest(t, server)
	b.service = newService(t, server, func(cfg *Config) {
		b.feed = &moody{}
		b.feed.plantedSource, _ = cfg.Source.(plantedSource)
		cfg.Source = b.feed
		cfg.Window = Window{Overlap: soakOverlap, Lag: soakLag, MaxInUse: soakMaxInUse}
	})
	return b
}

// atRest returns what this process needs, without the superuser's idle sessions.
func atRest(t *testing.T, server *pgtest.Server) needs {
	t.Helper()
	server.Admin().SetMaxIdleConns(-1)
	defer server.Admin().SetMaxIdleConns(2)
	return needed(t)
}

// work sets workers to work until close.
func (b *bank) work(workers int) {
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.Cleanup(func() { stop(); b.workers.Wait() })
	for w := range workers {
		b.workers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				b.operate(fmt.Sprintf("%c%d.%d", "tkp"[n%3], w, n))
				select {
				case <-time.After(rand.N(10 * time.Millisecond)):
				case <-ctx.Done():
				}
			}
		})
	}
}

// operate does one operation, of the kind that its id says.
func (b *bank) operate(id string) {
	b.hours.RLock()
	defer b.hours.RUnlock()
	ctx, cancel := context.WithTimeout(context.Background(), longestOperation)
	defer cancel()
	op := operation{id: id, span: span{from: time.Now()}}
	again := false
	switch id[0] {
	case 't':
		op.err = b.transfer(ctx, id)
	case 'k':
		var r sql.Result
		if r, op.err = b.db.ExecContext(ctx, "insert into keyed values ($1) on conflict do nothing", id); op.err == nil {
			n, err := r.RowsAffected()
			again = err == nil && n == 0
		}
	default:
		_, op.err = b.db.ExecContext(ctx, "insert into entry values ($1)", id)
	}
	op.to = time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, op)
	if again {
		b.again++
	}
}

// transfer moves an amount between two accounts and notes that in the books.
func (b *bank) transfer(ctx context.Context, id string) error {
	debit, credit, amount := 1+rand.IntN(100), 1+rand.IntN(100), 1+rand.IntN(50)
	if debit == credit {
		credit = debit%100 + 1
	}
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	add := func(account, amount int) error {
		_, err := tx.ExecContext(ctx, "update account set balance = balance + $2 where id = $1", account, amount)
		return err
	}
	// In the order of their numbers: two transfers can't wait for one another.
	first, second := debit, credit
	if first > second {
		first, second = second, first
	}
	for _, account := range []int{first, second} {
		sign := 1
		if account == debit {
			sign = -1
		}
		if err := add(account, sign*amount); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "insert into transfer values ($1, $2, $3, $4)", id, debit, credit, amount); err != nil {
		return err
	}
	return tx.Commit()
}

// trouble is something that goes wrong in the life of a service.
type trouble struct {
	name string
	mean time.Duration                // from one to the next
	do   func(*rand.Rand) (felt bool) // reports whether something is known to have come of it
}

func (b *bank) troubles() []trouble {
	return []trouble{
		{"rotations", 3 * time.Second, b.rotateNow},
		{"passwords changed in place", 9 * time.Second, b.changePassword},
		{"files spoilt", 2 * time.Second, b.spoil},
		{"terminations", 4 * time.Second, b.terminate},
		{"restarts", 24 * time.Second, b.restart(pgtest.Fast)},
		{"crashes", 24 * time.Second, b.restart(pgtest.Immediate)},
		{"server paused", 10 * time.Second, b.pauseServer},
		{"process stopped", 8 * time.Second, b.stopProcess},
		{"source hung", 12 * time.Second, b.hang(&b.feed.patient)},
		{"source deaf", 12 * time.Second, b.hang(&b.feed.deaf)},
		{"disk hung", 12 * time.Second, b.hang(&b.disk)},
		{"read abandoned", 3 * time.Minute, b.abandonRead},
	}
}

// disturb does what goes wrong in the life of a service, several things at once, and audits
// the books meanwhile: until duration is over or something is wrong.
func (b *bank) disturb(r *rand.Rand, duration time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var under sync.WaitGroup
	for _, trouble := range b.troubles() {
		// Each has its own source of randomness, and comes between half and one and a half
		// times its mean pause after the last one.
		r, mean := rand.New(rand.NewPCG(r.Uint64(), 0)), trouble.mean
		if mean < time.Minute {
			mean = min(mean, duration/2)
		}
		b.tally[trouble.name] = &tallied{}
		under.Go(func() {
			for {
				select {
				case <-time.After(mean/2 + time.Duration(r.Int64N(int64(mean)))):
					b.note(trouble.name, trouble.do(r))
				case <-ctx.Done():
					return
				}
			}
		})
	}
	b.watchBooks(ctx, min(max(duration/15, 2*time.Second), time.Minute))
	cancel()
	under.Wait()
	b.revokers.Wait()
}

// note counts a trouble.
func (b *bank) note(trouble string, felt bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.tally[trouble]
	n.times++
	if felt {
		n.felt++
	}
}

// upTo returns a time by chance, which is not much shorter than the longest.
func upTo(r *rand.Rand, longest time.Duration) time.Duration {
	return longest/10 + time.Duration(r.Int64N(int64(longest-longest/10)))
}

// rotateNow publishes a new login, and has the one before dropped when its overlap
// has ended, as an agent would: whatever has become of the server and the file.
func (b *bank) rotateNow(*rand.Rand) bool {
	b.agent.Lock()
	defer b.agent.Unlock()
	b.reach.RLock()
	defer b.reach.RUnlock()
	next := b.newRole()
	old := b.issueNext(next)
	b.revokers.Go(func() {
		<-time.After(soakOverlap)
		b.reach.RLock()
		defer b.reach.RUnlock()
		b.revoke(old)
		b.ends.forget(old)
	})
	return true
}

// issueNext publishes a login and returns the role of the one before.
func (b *bank) issueNext(next roleLogin) (old string) {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	old = b.role
	b.issue++
	b.passwords = append(b.passwords, next.password)
	b.publish(next)
	return old
}

// changePassword gives the role in use another password, and publishes that a moment later.
// What logs in meanwhile is refused, and has to wait.
func (b *bank) changePassword(r *rand.Rand) bool {
	b.agent.Lock()
	defer b.agent.Unlock()
	b.reach.RLock()
	defer b.reach.RUnlock()
	before := b.c.Stats().Refused
	next := roleLogin{b.role, cryptorand.Text()}
	b.declared.slowFor(func() {
		if err := b.server.AlterPassword(context.Background(), next.name, next.password); err != nil {
			b.Error(err)
		}
		<-time.After(upTo(r, 500*time.Millisecond))
		b.issueNext(next)
	})
	return b.c.Stats().Refused > before
}

// spoil deletes the file or puts something else in its place, for up to a second.
// Nothing may fail for it.
func (b *bank) spoil(r *rand.Rand) bool {
	rubbish := func(text string) func() error {
		return func() error {
			if r.IntN(2) == 0 {
				return os.WriteFile(b.path, []byte(text), 0o600) // in place
			}
			b.write([]byte(text))
			return nil
		}
	}
	anew := func(do func() error) func() error {
		return func() error { return errors.Join(os.Remove(b.path), do()) }
	}
	ways := []func() error{
		func() error { return os.Remove(b.path) },
		rubbish(""), rubbish("\x00\x01\x02"), rubbish(`{"username": "bank", "password`), rubbish("<no value>"),
		anew(func() error { return syscall.Mkfifo(b.path, 0o600) }),
		anew(func() error { return os.Symlink(filepath.Base(b.path), b.path) }),
	}
	before := b.source.Status().FailedReads
	b.publishing.Lock()
	good, err := os.ReadFile(b.path)
	if err != nil {
		b.Error(err)
	}
	issue := b.issue
	if err := ways[r.IntN(len(ways))](); err != nil {
		b.Error(err)
	}
	b.publishing.Unlock()
	<-time.After(time.Duration(r.Int64N(int64(longestSpoilt))))
	b.publishing.Lock()
	defer b.publishing.Unlock()
	if b.issue == issue { // else whoever rotates has put it right
		b.write(good)
	}
	return b.source.Status().FailedReads > before
}

// terminate ends one to three backends, idle or in the middle of something.
func (b *bank) terminate(r *rand.Rand) bool {
	b.reach.RLock()
	defer b.reach.RUnlock()
	ended := 0
	b.declared.outageFor(func() {
		err := b.server.Admin().QueryRowContext(context.Background(), fmt.Sprintf("select count(*) filter (where pg_terminate_backend(pid, 1000)) from ("+
			"select pid from pg_stat_activity where datname = current_database() and usename like 'r%%' order by random() limit %d) x", 1+r.IntN(3))).Scan(&ended)
		if err != nil {
			b.Error(err)
		}
	})
	return ended > 0
}

// restart stops the server, in order or by a crash, and starts it again soon.
func (b *bank) restart(mode pgtest.StopMode) func(*rand.Rand) bool {
	return func(r *rand.Rand) bool {
		b.reach.Lock()
		defer b.reach.Unlock()
		before := b.c.Stats().Failed
		b.declared.outageFor(func() {
			if err := b.server.Stop(mode); err != nil {
				b.Error(err)
			}
			<-time.After(time.Duration(r.Int64N(int64(time.Second))))
			if err := b.server.Start(context.Background()); err != nil {
				b.Error(err)
			}
		})
		return b.c.Stats().Failed > before
	}
}

// pauseServer has all processes of the server stand still. What is under way takes as long,
// and doesn't fail.
func (b *bank) pauseServer(r *rand.Rand) bool {
	b.reach.Lock()
	defer b.reach.Unlock()
	d := upTo(r, longestPause)
	var took time.Duration
	b.declared.slowFor(func() {
		if err := b.server.Pause(context.Background()); err != nil {
			b.Error(err)
		}
		began, asked := time.Now(), make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), longestOperation)
			defer cancel()
			_, err := b.db.ExecContext(ctx, "select 1")
			took = time.Since(began)
			asked <- err
		}()
		<-time.After(d)
		if err := b.server.Resume(); err != nil {
			b.Error(err)
		}
		if err := <-asked; err != nil {
			b.meter.Blame(began.Add(-b.memory()), time.Now(), b.bearable(), "a query failed after %v, of a server that was paused for %v: %v", took, d, err)
		}
	})
	return took >= d/2
}

// stopProcess stops the bank's own process, its clock's ticks and all.
func (b *bank) stopProcess(r *rand.Rand) bool {
	d := upTo(r, longestStop)
	from := time.Now()
	b.declared.slowFor(func() {
		if err := b.stopper.stop(d); err != nil {
			b.Error(err)
		}
	})
	return b.meter.Own(from, time.Now()) >= d/2
}

// hang has reads hang, and leaves room for one before the next time.
func (b *bank) hang(g *gate) func(*rand.Rand) bool {
	return func(r *rand.Rand) bool {
		b.hanging.Lock()
		defer b.hanging.Unlock()
		held := 0
		b.declared.slowFor(func() { held = g.shut(upTo(r, longestHang)) })
		<-time.After(grace)
		return held > 0
	}
}

// abandonRead has the source hang for longer than the connector waits. Nobody rotates then:
// no window has room for that.
func (b *bank) abandonRead(*rand.Rand) bool {
	b.agent.Lock()
	defer b.agent.Unlock()
	b.hanging.Lock()
	defer b.hanging.Unlock()
	for start := time.Now(); !b.version(b.role).Current; <-time.After(10 * time.Millisecond) {
		if time.Since(start) > soakLag {
			return false
		}
	}
	before := b.c.Stats().SourceErrors
	b.declared.slowFor(func() { b.feed.deaf.shut(abandoned) })
	<-time.After(grace)
	return b.c.Stats().SourceErrors > before
}

// close lets the last rotation finish, and the workers.
func (b *bank) close() {
	b.Helper()
	if b.Failed() {
		b.stop()
		b.workers.Wait()
		return
	}
	b.eventually(time.Minute, "every session logged in with the last credential, and all well", func() bool {
		st := b.c.Stats()
		open := 0
		for _, v := range st.Versions {
			open += v.Open
		}
		return open > 0 && st.Versions[0].Open == open && b.c.CheckHealth() == nil
	})
	b.stop()
	b.workers.Wait()
}
