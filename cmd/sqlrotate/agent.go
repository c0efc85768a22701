// The agent: it plays Vault and its agent. It makes roles, publishes the latest in
// a file, and revokes each when its overlap is over.

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

type agent struct {
	server      *pgtest.Server
	path        string // of the credential file
	every       time.Duration
	revokeAfter time.Duration // from the publication of a successor

	mu    sync.Mutex
	books books
}

// books are what the agent has done.
type books struct {
	rotations int
	revoked   int
	outlived  map[string]int // by application: sessions that were open when their role was revoked
	problems  []string
}

// login is what stands in the file.
type login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// publish makes a role and writes its login to the file, by rename, as Vault Agent
// does.
func (a *agent) publish(ctx context.Context, n int) (login, error) {
	next := login{fmt.Sprintf("app_%03d_%s", n, rand.Text()[:6]), rand.Text()}
	if err := a.server.CreateRole(ctx, next.Username, next.Password); err != nil {
		return login{}, err
	}
	content, err := json.Marshal(next) //nolint:gosec // the file is there to hold it
	if err != nil {
		return login{}, err
	}
	temp := filepath.Join(filepath.Dir(a.path), ".next")
	if err := os.WriteFile(temp, append(content, '\n'), 0o600); err != nil {
		return login{}, err
	}
	return next, os.Rename(temp, a.path)
}

// sessionsOf counts sessions by application, which is the name that each gave itself.
const sessionsOf = "select application_name, count(*) from pg_stat_activity where datname = current_database() and "

// revoke does what Vault does by default: revoke everything, drop the role, and
// leave its sessions alone. It counts those first.
func (a *agent) revoke(ctx context.Context, role string) error {
	sessions, err := a.sessions(ctx, sessionsOf+"usename = $1 group by 1", role)
	if err != nil {
		return err
	}
	if err := a.server.RevokeRole(ctx, role); err != nil {
		return err
	}
	a.note(func(b *books) {
		b.revoked++
		for application, n := range sessions {
			b.outlived[application] += n
		}
	})
	return nil
}

// survivors counts the sessions of roles that don't exist any more, by application.
func (a *agent) survivors(ctx context.Context) (map[string]int, error) {
	return a.sessions(ctx, sessionsOf+"usesysid is not null and usename is null group by 1")
}

func (a *agent) sessions(ctx context.Context, query string, args ...any) (map[string]int, error) {
	rows, err := a.server.Admin().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("counting sessions: %w", err)
	}
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var application string
		var n int
		if err := rows.Scan(&application, &n); err != nil {
			return nil, fmt.Errorf("counting sessions: %w", err)
		}
		counts[application] = n
	}
	return counts, rows.Err()
}

// run rotates until ctx is done, and returns when every revocation that was due
// has been carried out.
func (a *agent) run(ctx context.Context, current login) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for n := 2; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next, err := a.publish(ctx, n)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.problem(err)
			continue
		}
		a.note(func(b *books) { b.rotations++ })
		old := current.Username
		current = next
		wg.Go(func() {
			select {
			case <-ctx.Done():
			case <-time.After(a.revokeAfter):
				if err := a.revoke(context.WithoutCancel(ctx), old); err != nil {
					a.problem(err)
				}
			}
		})
	}
}

func (a *agent) problem(err error) {
	a.note(func(b *books) { b.problems = append(b.problems, err.Error()) })
}

func (a *agent) note(f func(*books)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.books.outlived == nil {
		a.books.outlived = map[string]int{}
	}
	f(&a.books)
}

// counts returns how many rotations and revocations there have been.
func (a *agent) counts() (rotations, revoked int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.books.rotations, a.books.revoked
}
