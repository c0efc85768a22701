// Package ledger is an application for tests: workers that write to a database
// through a pool, and the books that say afterwards whether every write that was
// acknowledged is there exactly once.
//
// Nothing here imports testing.
package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Options say what the application does. Workers must be given.
type Options struct {
	// Workers is how many goroutines work.
	Workers int

	// Think is how long each rests between two operations. Zero: not at all.
	Think time.Duration

	// Patience bounds each operation. Zero means 30 s.
	Patience time.Duration

	// Placeholder stands for a value in a statement. Empty means $1.
	Placeholder string
}

// Run runs statements: one by itself, several in a transaction.
type Run func(ctx context.Context, statements ...Statement) error

// Statement is one that changes a table, or whose rows are discarded.
type Statement struct {
	SQL  string
	Args []any
}

// Ledger is the application under way. All methods are safe for concurrent use.
type Ledger struct {
	run      Run
	name     string // what all it writes begins with
	think    time.Duration
	patience time.Duration
	cancel   context.CancelFunc
	workers  sync.WaitGroup

	insert, update string // statements

	mu       sync.Mutex
	done     int
	acked    []string
	unknown  map[string]bool // failed: may or may not be there
	failures []Failure
	slowest  time.Duration
}

// Failure is an operation that failed.
type Failure struct {
	From, To time.Time
	Err      error
}

// Create makes the tables that the application writes to, unless they are there.
// Roles that the application logs in with need to read and write them.
func Create(ctx context.Context, admin *sql.DB) error {
	for _, statement := range []string{
		"create table if not exists account (id int primary key, balance int not null)",
		"create table if not exists entry (id text not null)",
	} {
		if _, err := admin.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	var accounts int
	if err := admin.QueryRowContext(ctx, "select count(*) from account").Scan(&accounts); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if accounts > 0 {
		return nil
	}
	values := make([]string, 100)
	for n := range values {
		values[n] = fmt.Sprintf("(%d, 100)", n+1)
	}
	if _, err := admin.ExecContext(ctx, "insert into account values "+strings.Join(values, ", ")); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// Start sets the workers to work on db: autocommit statements, and every third time
// a transaction of three. Stop ends that.
func Start(db *sql.DB, o Options) *Ledger {
	return StartRun(func(ctx context.Context, statements ...Statement) error { return run(ctx, db, statements) }, o)
}

// StartRun is Start for another pool than database/sql's.
func StartRun(run Run, o Options) *Ledger {
	ctx, cancel := context.WithCancel(context.Background())
	value := o.Placeholder
	if value == "" {
		value = "$1"
	}
	l := &Ledger{
		run: run, name: rand.Text(), think: o.Think, patience: o.Patience, cancel: cancel, unknown: map[string]bool{},
		insert: "insert into entry values (" + value + ")",
		update: "update account set balance = balance + 1 where id = " + value,
	}
	if l.patience == 0 {
		l.patience = 30 * time.Second
	}
	for w := range o.Workers {
		l.workers.Go(func() {
			for n := w; ctx.Err() == nil; n++ {
				l.operate(context.WithoutCancel(ctx), n)
				if l.think > 0 {
					select {
					case <-time.After(l.think):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	return l
}

func (l *Ledger) operate(ctx context.Context, n int) {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	id, from := l.name+rand.Text(), time.Now()
	var err error
	insert := Statement{l.insert, []any{id}}
	if n%3 == 0 {
		err = l.run(ctx, Statement{l.update, []any{n%100 + 1}}, Statement{"select count(*) from account", nil}, insert)
	} else {
		err = l.run(ctx, insert)
	}
	to := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	l.slowest = max(l.slowest, to.Sub(from))
	if err == nil {
		l.acked = append(l.acked, id)
		return
	}
	l.unknown[id] = true
	l.failures = append(l.failures, Failure{from, to, err})
}

func run(ctx context.Context, db *sql.DB, statements []Statement) error {
	if len(statements) == 1 {
		_, err := db.ExecContext(ctx, statements[0].SQL, statements[0].Args...)
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s.SQL, s.Args...); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Done returns how many operations have been done, failed ones included.
func (l *Ledger) Done() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// Failures returns the operations that have failed.
func (l *Ledger) Failures() []Failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Failure(nil), l.failures...)
}

// Slowest returns how long the slowest operation took.
func (l *Ledger) Slowest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slowest
}

// Stop lets the workers finish what they are doing.
func (l *Ledger) Stop() {
	l.cancel()
	l.workers.Wait()
}

// Audit holds what the workers were told, once stopped, against what is in the
// database: every acknowledged write is there exactly once, those that failed at
// most once, and nothing more of this ledger's.
func (l *Ledger) Audit(ctx context.Context, admin *sql.DB) error {
	rows, err := admin.QueryContext(ctx, "select id, count(*) from entry where id like '"+l.name+"%' group by id")
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	defer func() { _ = rows.Close() }()
	there := map[string]int{}
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		there[id] = n
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, id := range l.acked {
		if there[id] != 1 {
			errs = append(errs, fmt.Errorf("ledger: an acknowledged write is there %d times", there[id]))
		}
		delete(there, id)
	}
	for id, n := range there {
		if n != 1 || !l.unknown[id] {
			errs = append(errs, fmt.Errorf("ledger: a write that was not acknowledged is there %d times", n))
		}
	}
	return errors.Join(errs...)
}
