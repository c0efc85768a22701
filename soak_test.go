package sqlrotate

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// A bank keeps running while, at random, its login is rotated, the role before is
// dropped when its overlap ends, backends are terminated, the credential file is
// deleted or spoilt, and the server is restarted or crashes.
//
// An operation may fail only if it was under way during a declared outage: while a
// backend is being terminated or the server is away. What was acknowledged must be
// there exactly once, and the books must balance. How far that goes depends on the
// kind of operation, because lib/pq reports a session that is cut off in the middle
// of a statement as driver.ErrBadConn, and database/sql then runs a statement that
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
func TestSoakBooksBalance(t *testing.T) {
	needsQuiet(t)
	t.Parallel()
	duration := soakFor(t, 10*time.Second)
	seed := soakSeed(t)
	t.Logf("seed %d", seed)

	server := pgtest.New(t, pgtest.Options{
		Control: true,
		// What a crash must not lose is what was acknowledged.
		Settings: map[string]string{"synchronous_commit": "on"},
	})
	for _, statement := range []string{
		"create table transfer (id text not null, debit int not null, credit int not null, amount int not null)",
		"create table keyed (id text primary key)",
	} {
		if _, err := server.Admin().ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	s := newService(t, server, func(cfg *Config) {
		// The lag is that of a file that is spoilt just when it was written.
		cfg.Window = Window{Overlap: soakOverlap, Lag: 2 * time.Second, MaxInUse: time.Second}
	})
	b := &bank{service: s, tally: map[string]int{}}
	b.open(20)
	b.disturb(rand.New(rand.NewPCG(seed, 0)), duration)
	b.close()
	b.audit()
	t.Logf("%v: %v; %d operations, %d failed in outages of %v in all; statements run twice: %d keyed, %d plain; slowest outside of an outage %v; %+v",
		duration, b.tally, len(b.done), b.failed, b.outages.total().Round(time.Millisecond), b.again, b.doubled, b.slowest.Round(time.Millisecond), s.c.Stats())
}

const soakOverlap = 8 * time.Second

// bank is an application under way on a service, with a note of all that it did.
type bank struct {
	*service
	stop    context.CancelFunc
	workers sync.WaitGroup
	outages outages

	mu    sync.Mutex // guards the next three
	done  []operation
	again int            // keyed statements that were run twice
	tally map[string]int // troubles

	// What the audit finds.
	doubled int           // plain inserts that are there more than once
	failed  int           // operations
	slowest time.Duration // of those outside of outages

	reach      sync.RWMutex // held while the server is away; read by those who need it
	revokers   sync.WaitGroup
	publishing sync.Mutex // guards the file, what service knows of it, and passwords
	passwords  []string
}

type operation struct {
	id string // its first letter is its kind: t, k or p
	span
	err error
}

type span struct{ from, to time.Time }

// outages are the times at which operations may fail.
type outages struct {
	mu    sync.Mutex
	spans []span
}

// grace is for what a session that has been ended still has under way.
const grace = 500 * time.Millisecond

// during runs f in an outage.
func (o *outages) during(f func()) {
	from := time.Now()
	f()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spans = append(o.spans, span{from, time.Now().Add(grace)})
}

func (o *outages) touch(s span) bool {
	for _, outage := range o.spans {
		if s.from.Before(outage.to) && s.to.After(outage.from) {
			return true
		}
	}
	return false
}

// total returns how long there was an outage.
func (o *outages) total() (d time.Duration) {
	for _, s := range o.spans {
		d += s.to.Sub(s.from)
	}
	return d
}

func (b *bank) open(workers int) {
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.Cleanup(func() { stop(); b.workers.Wait() })
	for w := range workers {
		b.workers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				b.work(fmt.Sprintf("%c%d.%d", "tkp"[n%3], w, n))
				select {
				case <-time.After(rand.N(10 * time.Millisecond)):
				case <-ctx.Done():
				}
			}
		})
	}
}

// work does one operation, of the kind that its id says.
func (b *bank) work(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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

// disturb does what goes wrong in the life of a service, several things at once.
func (b *bank) disturb(r *rand.Rand, duration time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var troubles sync.WaitGroup
	// Each trouble has its own source of randomness, and comes between half and one
	// and a half times its mean pause after the last one.
	every := func(mean time.Duration, trouble func(*rand.Rand)) {
		r := rand.New(rand.NewPCG(r.Uint64(), 0))
		troubles.Go(func() {
			for {
				select {
				case <-time.After(mean/2 + time.Duration(r.Int64N(int64(mean)))):
					trouble(r)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	every(3*time.Second, func(*rand.Rand) { b.rotateNow() })
	every(2*time.Second, b.spoil)
	every(4*time.Second, b.terminate)
	every(min(12*time.Second, duration/3), b.restart)
	troubles.Wait()
	b.revokers.Wait()
}

// note counts a trouble.
func (b *bank) note(trouble string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tally[trouble]++
}

// rotateNow publishes a new login, and has the one before dropped when its overlap
// has ended, as an agent would: whatever has become of the server and the file.
func (b *bank) rotateNow() {
	b.reach.RLock()
	defer b.reach.RUnlock()
	b.publishing.Lock()
	defer b.publishing.Unlock()
	old := b.role
	next := b.newRole()
	b.passwords = append(b.passwords, next.password)
	b.publish(next)
	b.note("rotations")
	b.revokers.Go(func() {
		<-time.After(soakOverlap)
		b.reach.RLock()
		defer b.reach.RUnlock()
		b.revoke(old)
	})
}

// spoil deletes the file or puts something else in its place, for up to a second.
// Nothing may fail for it.
func (b *bank) spoil(r *rand.Rand) {
	rubbish := []string{"", "\x00\x01\x02", `{"username": "bank", "password`, "<no value>"}
	b.publishing.Lock()
	good, err := os.ReadFile(b.path)
	if err != nil {
		b.Error(err)
	}
	published := b.role
	if n := r.IntN(len(rubbish) + 1); n == len(rubbish) {
		err = os.Remove(b.path)
	} else if r.IntN(2) == 0 {
		err = os.WriteFile(b.path, []byte(rubbish[n]), 0o600) // in place
	} else {
		b.write([]byte(rubbish[n]))
	}
	if err != nil {
		b.Error(err)
	}
	b.publishing.Unlock()
	b.note("files spoilt")
	<-time.After(time.Duration(r.Int64N(int64(time.Second))))
	b.publishing.Lock()
	defer b.publishing.Unlock()
	if b.role == published { // else a rotation has put it right
		b.write(good)
	}
}

// terminate ends one to three backends, idle or in the middle of something.
func (b *bank) terminate(r *rand.Rand) {
	b.reach.RLock()
	defer b.reach.RUnlock()
	b.outages.during(func() {
		b.exec(fmt.Sprintf("select pg_terminate_backend(pid, 1000) from pg_stat_activity"+
			" where datname = current_database() and usename like 'r%%' order by random() limit %d", 1+r.IntN(3)))
	})
	b.note("terminations")
}

// restart stops the server, in order or by a crash, and starts it again soon.
func (b *bank) restart(r *rand.Rand) {
	mode, name := pgtest.Fast, "restarts"
	if r.IntN(2) == 0 {
		mode, name = pgtest.Immediate, "crashes"
	}
	b.reach.Lock()
	defer b.reach.Unlock()
	b.outages.during(func() {
		if err := b.server.Stop(mode); err != nil {
			b.Error(err)
		}
		<-time.After(time.Duration(r.Int64N(int64(time.Second))))
		if err := b.server.Start(context.Background()); err != nil {
			b.Error(err)
		}
	})
	b.note(name)
}

// close lets the last rotation finish, and the workers.
func (b *bank) close() {
	b.Helper()
	b.eventually(30*time.Second, "every session logged in with the last credential, and all well", func() bool {
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

// audit holds what the workers were told against what the server has.
func (b *bank) audit() {
	b.Helper()
	there := map[string]int{}
	rows, err := b.server.Admin().QueryContext(b.Context(), `select id, count(*) from (
		select id from transfer union all select id from keyed union all select id from entry) x group by id`)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			b.Fatal(err)
		}
		there[id] = n
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}

	for _, op := range b.done {
		n, outage := there[op.id], b.outages.touch(op.span)
		delete(there, op.id)
		least, most := 1, 1
		if op.err != nil {
			least = 0
		}
		if op.id[0] == 'p' && outage {
			most = 3 // database/sql tries a statement three times at the most
			if n > 1 {
				b.doubled++
			}
		}
		if n < least || n > most {
			grave(b, "%s is there %d times, not %d to %d; its error is %v; in an outage: %t", op.id, n, least, most, op.err, outage)
		}
		if op.err != nil {
			b.failed++
			if !outage {
				b.meter.Blame(op.from.Add(-b.memory()), op.to, b.bearable(), "%s failed after %v, with no outage: %v", op.id, op.to.Sub(op.from), op.err)
			}
		}
		if !outage {
			b.slowest = max(b.slowest, op.to.Sub(op.from))
		}
	}
	for id, n := range there {
		grave(b, "%s, which nobody has asked for, is there %d times", id, n)
	}

	var total, wrong int
	err = b.server.Admin().QueryRowContext(b.Context(), `select sum(balance), count(*) filter (where balance <> 100
			+ coalesce((select sum(amount) from transfer where credit = account.id), 0)
			- coalesce((select sum(amount) from transfer where debit = account.id), 0))
		from account`).Scan(&total, &wrong)
	if err != nil {
		b.Fatal(err)
	}
	if total != 100*100 || wrong != 0 {
		grave(b, "the balances sum up to %d, not 10000, and %d of 100 differ from the transfers", total, wrong)
	}

	st := b.c.Stats()
	if len(b.done) == 0 || st.Rotations == 0 {
		b.Errorf("%d operations, %d rotations", len(b.done), st.Rotations)
	}
	b.mustLeaveNoSession()
	log := b.log.String()
	for _, password := range b.passwords {
		if strings.Contains(log, password) {
			grave(b, "a password is in the log")
		}
	}
	if b.Failed() {
		b.Logf("%s", log)
	}
}
