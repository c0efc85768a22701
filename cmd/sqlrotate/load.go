// The load: goroutines that work on a database all the time, and what came of it.

package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lib/pq"
)

const (
	accounts = 10000           // rows that are worked on
	patience = 5 * time.Second // of a request
)

// load makes requests, each a query or a transaction, and counts.
type load struct {
	db      *sql.DB
	workers int

	mu     sync.Mutex
	second tally // since it was last taken
	total  totals
}

// tally is what happened in some time.
type tally struct {
	requests int
	failed   int
	slowest  time.Duration // wait for the database, of those that didn't fail
	longest  time.Duration // the same of all
}

// totals are what happened since the beginning.
type totals struct {
	tally
	failures map[string]failure // by SQLSTATE, empty where there is none
}

// failure is a kind of error: how often it came, and what it said first.
type failure struct {
	n    int
	text string
}

// run makes requests until ctx is done. Those under way then are finished.
func (l *load) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range l.workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := l.request(ctx); err != nil {
					pause(ctx, ownWork()) // rather than ask a hundred times as often
				}
				pause(ctx, rand.N(20*time.Millisecond))
			}
		})
	}
}

// request works on the database, and notes how long that took, less what the
// application did meanwhile.
func (l *load) request(ctx context.Context) error {
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	start, own := time.Now(), time.Duration(0)
	var err error
	if rand.IntN(2) == 0 {
		own, err = transfer(within, l.db)
	} else {
		err = balance(within, l.db)
	}
	l.note(time.Since(start)-own, err)
	return err
}

// ownWork is how long the application is busy with its own in a transaction.
func ownWork() time.Duration { return 20*time.Millisecond + rand.N(60*time.Millisecond) }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

const readBalance = "select balance from account where id = $1"

func balance(ctx context.Context, db *sql.DB) error {
	var n int
	return db.QueryRowContext(ctx, readBalance, 1+rand.IntN(accounts)).Scan(&n)
}

// transfer holds its connection while the application is busy with its own, and
// returns for how long that was.
func transfer(ctx context.Context, db *sql.DB) (own time.Duration, err error) {
	from, to := 1+rand.IntN(accounts), 1+rand.IntN(accounts)
	if from > to {
		from, to = to, from // one order for all, so that no two wait for each other
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	var n int
	if err := tx.QueryRowContext(ctx, readBalance, from).Scan(&n); err != nil {
		return 0, err
	}
	busy := time.Now()
	pause(ctx, ownWork())
	own = time.Since(busy)
	if _, err := tx.ExecContext(ctx, "update account set balance = balance - 1 where id = $1", from); err != nil {
		return own, err
	}
	if _, err := tx.ExecContext(ctx, "update account set balance = balance + 1 where id = $1", to); err != nil {
		return own, err
	}
	return own, tx.Commit()
}

func (l *load) note(wait time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.second.count(wait, err)
	l.total.count(wait, err)
	if err == nil {
		return
	}
	if l.total.failures == nil {
		l.total.failures = map[string]failure{}
	}
	state := ""
	var refused *pq.Error
	if errors.As(err, &refused) {
		state = string(refused.Code)
	}
	f := l.total.failures[state]
	if f.n++; f.n == 1 {
		f.text = err.Error()
	}
	l.total.failures[state] = f
}

func (t *tally) count(wait time.Duration, err error) {
	t.requests++
	t.longest = max(t.longest, wait)
	if err != nil {
		t.failed++
	} else {
		t.slowest = max(t.slowest, wait)
	}
}

// take returns what has happened since it was last called.
func (l *load) take() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.second
	l.second = tally{}
	return t
}
