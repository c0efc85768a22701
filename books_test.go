//go:build linux

// The bank's books: what was done is held against what the server has.

package sqlrotate

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// books are what the audits have found so far.
type books struct {
	carried  []operation // audited once, and looked for once more
	said     string      // the log since the last audit but one
	audited  time.Time   // last
	outlived uint64      // connections, by then
	moments  []needs     // at the audits while all was under way
	round    account
	total    account
	doubled  int // plain inserts that are there more than once
}

// account is what operations came to.
type account struct {
	operations int
	failed     int
	slowest    time.Duration // of those outside of what is declared
	stalled    time.Duration // for how much of that the machine stalled
}

func (a account) String() string {
	return fmt.Sprintf("%d operations, %d failed in outages, else %v at the slowest (%v of that the machine stalled)",
		a.operations, a.failed, a.slowest.Round(time.Millisecond), a.stalled.Round(time.Millisecond))
}

func (a *account) add(other account) {
	a.operations += other.operations
	a.failed += other.failed
	if other.slowest > a.slowest {
		a.slowest, a.stalled = other.slowest, other.stalled
	}
}

// straggles is for how long a backend may go on whose client has gone.
const straggles = 10 * time.Second

// watchBooks audits the books in rounds until ctx is done, or something is wrong.
func (b *bank) watchBooks(ctx context.Context, round time.Duration) {
	b.Helper()
	for !b.Failed() {
		select {
		case <-time.After(round):
			b.moments = append(b.moments, b.audit())
		case <-ctx.Done():
			return
		}
	}
}

// audit holds what the workers were told against what the server has, when nothing is under
// way, and forgets it at both ends. It returns what the process needs then.
func (b *bank) audit() needs {
	b.Helper()
	b.hours.Lock()
	defer b.hours.Unlock()
	b.reach.Lock()
	defer b.reach.Unlock()
	quiet := time.Now()
	b.compare(b.takeNotes(), b.takeBooks(), quiet)
	b.total.add(b.round)
	b.outlived = b.mustNotOutlive(b.outlived, b.audited.Add(-b.memory()))
	b.mustBeNoOrphan()
	b.auditLog()
	b.audited = quiet
	b.declared.forget(quiet)
	b.meter.Forget(quiet.Add(-b.memory()))
	n := needed(b.t)
	n.sessions = b.customers()
	b.Logf("%4.0f s: %v; %v; %s", time.Since(b.began).Seconds(), b.round, n, b.troubled())
	return n
}

// takeNotes returns the operations that are to be found in the books.
func (b *bank) takeNotes() []operation {
	b.mu.Lock()
	defer b.mu.Unlock()
	ops := append(b.carried, b.done...)
	b.done, b.carried, b.round = nil, nil, account{}
	return ops
}

// takeBooks returns how often each operation is in the books, and begins them anew with the
// balances as they are.
func (b *bank) takeBooks() map[string]int {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tx, err := b.server.Admin().BeginTx(ctx, nil)
	must(err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, "lock table account, transfer, keyed, entry in access exclusive mode")
	must(err)
	there := map[string]int{}
	rows, err := tx.QueryContext(ctx, `select id, count(*) from (
		select id from transfer union all select id from keyed union all select id from entry) x group by id`)
	must(err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		var n int
		must(rows.Scan(&id, &n))
		there[id] = n
	}
	must(rows.Err())

	var total, wrong int
	must(tx.QueryRowContext(ctx, `select sum(balance), count(*) filter (where balance <> opening
			+ coalesce((select sum(amount) from transfer where credit = account.id), 0)
			- coalesce((select sum(amount) from transfer where debit = account.id), 0))
		from account`).Scan(&total, &wrong))
	if total != 100*100 || wrong != 0 {
		grave(b, "the balances sum up to %d, not 10000, and %d of 100 differ from the transfers", total, wrong)
	}
	_, err = tx.ExecContext(ctx, "update account set opening = balance; truncate transfer, keyed, entry")
	must(err)
	must(tx.Commit())
	return there
}

// compare holds operations against how often each of them is in the books.
func (b *bank) compare(ops []operation, there map[string]int, quiet time.Time) {
	b.Helper()
	for _, op := range ops {
		before := op.there
		op.there += there[op.id]
		delete(there, op.id)
		if !op.old {
			b.enter(&op)
		}
		least, most := 1, 1
		if op.err != nil {
			least = 0
		}
		if op.id[0] == 'p' && op.outage {
			most = 3 // database/sql tries a statement three times at the most
			if op.there > 1 && before <= 1 {
				b.doubled++
			}
		}
		if op.there < least || op.there > most {
			grave(b, "%s is there %d times, not %d to %d; its error is %v; in an outage: %t", op.id, op.there, least, most, op.err, op.outage)
		}
		if !op.old && op.outage && op.to.After(quiet.Add(-straggles)) {
			op.old = true
			b.carried = append(b.carried, op)
		}
	}
	for id, n := range there {
		grave(b, "%s, which nobody has asked for, is there %d times", id, n)
	}
}

// enter enters an operation in the round's account.
func (b *bank) enter(op *operation) {
	b.Helper()
	outage, slow := b.declared.touch(op.span)
	op.outage = outage
	b.round.operations++
	if op.err != nil {
		b.round.failed++
		if !outage {
			b.meter.Blame(op.from.Add(-b.memory()), op.to, b.bearable(), "%s failed after %v, with no outage: %v", op.id, op.to.Sub(op.from), op.err)
		}
	}
	if took := op.to.Sub(op.from); !slow && took > b.round.slowest {
		b.round.slowest, b.round.stalled = took, b.meter.Lost(op.from, op.to)
	}
}

// auditLog looks for passwords in the log.
func (b *bank) auditLog() {
	b.Helper()
	b.publishing.Lock()
	defer b.publishing.Unlock()
	log := b.log.cut()
	for _, password := range b.passwords {
		if strings.Contains(log, password) {
			grave(b, "a password is in the log")
		}
	}
	const known = 100 // those that are in use, and many that were
	b.passwords = append([]string(nil), b.passwords[max(0, len(b.passwords)-known):]...)
	if b.Failed() {
		b.Logf("%s%s", b.said, log)
	}
	b.said = log
}

// customers returns how many sessions the server has that are not the superuser's.
func (b *bank) customers() (n int) {
	b.Helper()
	err := b.server.Admin().QueryRowContext(context.Background(), "select count(*) from pg_stat_activity"+
		" where datname = current_database() and backend_type = 'client backend' and usename is distinct from current_user").Scan(&n)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// troubled tells of all troubles so far, in words.
func (b *bank) troubled() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var words []string
	for _, trouble := range b.troubles() {
		if n := b.tally[trouble.name]; n.times > 0 {
			words = append(words, fmt.Sprintf("%s %d (%d felt)", trouble.name, n.times, n.felt))
		}
	}
	return strings.Join(words, ", ")
}

// judge says what came of it all, and what should have been otherwise.
func (b *bank) judge(duration time.Duration) {
	b.Helper()
	st := b.c.Stats()
	b.Logf("%v: %v; outages of %v in all; statements run twice: %d keyed, %d plain; %s; %+v",
		duration, b.total, b.declared.outage.Round(time.Second), b.again, b.doubled, b.troubled(), st)
	if b.Failed() { // it was cut short
		return
	}
	if b.total.operations == 0 || st.Rotations == 0 {
		b.Errorf("%d operations, %d rotations", b.total.operations, st.Rotations)
	}
	const enough, many = 5, 20
	for _, trouble := range b.troubles() {
		n := b.tally[trouble.name]
		if n.times == 0 && duration >= enough*trouble.mean {
			b.Errorf("in %v there was none of: %s", duration, trouble.name)
		}
		if n.felt == 0 && n.times >= many {
			b.Errorf("%s: %d times, and nothing ever came of it", trouble.name, n.times)
		}
	}
	if len(b.moments) >= fewest {
		if more := grown(b.moments); more != "" {
			grave(b, "in %v the process came to need more: %s", duration, more)
		}
	}
}

// leave closes everything, and sees that nothing is left of it.
func (b *bank) leave() {
	b.Helper()
	if err := b.db.Close(); err != nil {
		b.Error(err)
	}
	if err := b.source.Close(); err != nil {
		b.Error(err)
	}
	b.meter.Stop()
	goesAway(b.t, "sessions", b.customers, 0)
	goesAway(b.t, "goroutines", func() int { return atRest(b.t, b.server).goroutines }, b.rest.goroutines)
	goesAway(b.t, "file descriptors", func() int { return atRest(b.t, b.server).descriptors }, b.rest.descriptors)
}
