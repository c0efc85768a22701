// The load: goroutines that query all the time, and what came of it.

package main

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// load runs single statements and transactions of three, and counts.
type load struct {
	db      *sql.DB
	workers int

	mu     sync.Mutex
	second tally // since it was last taken
	total  tally
	errs   map[string]int // by text
}

type tally struct {
	queries   int
	failed    int
	latencies []time.Duration
}

// run queries until ctx is done. What is under way then is finished.
func (l *load) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range l.workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				var err error
				if rand.IntN(4) == 0 {
					err = transfer(context.WithoutCancel(ctx), l.db)
				} else {
					err = balance(context.WithoutCancel(ctx), l.db)
				}
				l.note(time.Since(start), err)
				select {
				case <-ctx.Done():
				case <-time.After(rand.N(10 * time.Millisecond)):
				}
			}
		})
	}
}

func balance(ctx context.Context, db *sql.DB) error {
	var n int
	return db.QueryRowContext(ctx, "select balance from account where id = $1", 1+rand.IntN(accounts)).Scan(&n)
}

func transfer(ctx context.Context, db *sql.DB) error {
	from, to := 1+rand.IntN(accounts), 1+rand.IntN(accounts)
	if from > to {
		from, to = to, from // one order for all, so that no two wait for each other
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "update account set balance = balance - 1 where id = $1", from); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "update account set balance = balance + 1 where id = $1", to); err != nil {
		return err
	}
	return tx.Commit()
}

func (l *load) note(d time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.second.queries++
	l.second.latencies = append(l.second.latencies, d)
	if err != nil {
		l.second.failed++
		if l.errs == nil {
			l.errs = map[string]int{}
		}
		l.errs[err.Error()]++
	}
}

// take returns what has happened since it was last called.
func (l *load) take() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.second
	l.second = tally{}
	l.total.queries += t.queries
	l.total.failed += t.failed
	l.total.latencies = append(l.total.latencies, t.latencies...)
	slices.Sort(t.latencies)
	return t
}

// quantile returns the q-th quantile of sorted latencies.
func (t tally) quantile(q float64) time.Duration {
	if len(t.latencies) == 0 {
		return 0
	}
	return t.latencies[int(q*float64(len(t.latencies)-1))]
}
