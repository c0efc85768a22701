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
	server  *pgtest.Server
	path    string // of the credential file
	every   time.Duration
	overlap time.Duration

	mu        sync.Mutex
	rotations int
	revoked   int
	outlived  int // sessions that were open when their role was revoked
	problems  []string
}

// role is a login that the agent has made.
type role struct{ name, password string }

// publish makes a role and writes its login to the file, by rename, as Vault Agent
// does.
func (a *agent) publish(ctx context.Context, n int) (role, error) {
	r := role{name: fmt.Sprintf("app_%03d_%s", n, rand.Text()[:6]), password: rand.Text()}
	if err := a.server.CreateRole(ctx, r.name, r.password); err != nil {
		return role{}, err
	}
	content, err := json.Marshal(map[string]string{"username": r.name, "password": r.password})
	if err != nil {
		return role{}, err
	}
	temp := filepath.Join(filepath.Dir(a.path), ".next")
	if err := os.WriteFile(temp, append(content, '\n'), 0o600); err != nil {
		return role{}, err
	}
	return r, os.Rename(temp, a.path)
}

// revoke does what Vault does by default: revoke everything, drop the role, and
// leave its sessions alone. It counts those first.
func (a *agent) revoke(ctx context.Context, r role) error {
	sessions, err := a.server.Sessions(ctx, r.name)
	if err != nil {
		return err
	}
	if err := a.server.RevokeRole(ctx, r.name); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked++
	a.outlived += sessions
	return nil
}

// run rotates until ctx is done, and returns when every revocation that was due
// has been carried out.
func (a *agent) run(ctx context.Context, current role) {
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
		a.mu.Lock()
		a.rotations++
		a.mu.Unlock()
		old := current
		current = next
		wg.Go(func() {
			select {
			case <-ctx.Done():
			case <-time.After(a.overlap):
				if err := a.revoke(context.WithoutCancel(ctx), old); err != nil {
					a.problem(err)
				}
			}
		})
	}
}

func (a *agent) problem(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.problems = append(a.problems, err.Error())
}
