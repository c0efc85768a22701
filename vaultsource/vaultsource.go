// Package vaultsource reads database logins from the HTTP API of HashiCorp Vault or
// OpenBao: what a service uses that has no agent beside it to write a file.
//
// A [Source] crosses the network with every call, so it goes behind a
// [sqlrotate.CachedSource], which fetches ahead of the end of a lease, keeps the last
// good login while Vault is away, and asks once for all logins that were refused:
//
//	source, err := sqlrotate.NewCachedSource(vaultsource.New(client, "database/creds/app"), sqlrotate.CacheOptions{})
//	if err != nil {
//		return err
//	}
//	defer source.Close()
//
// It is a module of its own: the root module does not depend on Vault's.
package vaultsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	vault "github.com/hashicorp/vault/api"
	"github.com/sqlrotate/sqlrotate"
)

// Source is a [sqlrotate.Source] and [sqlrotate.Refresher] over one path of Vault. It is
// safe for concurrent use; calls wait for one another. It holds nothing that needs
// closing.
type Source struct {
	client *vault.Client
	path   string
	turn   chan struct{} // guards lease and reads, and lets ctx end the wait for them
	lease  lease
	reads  uint64 // so far

	mu     sync.Mutex // guards status, which is there to be seen while Vault is waited for
	status Status
}

// lease is the login that Vault has issued last. Its id is empty if it isn't leased.
type lease struct {
	id       string
	cred     sqlrotate.Credential
	duration time.Duration // as issued
	read     time.Time
	renewed  time.Time // last
	renewals int
}

// New returns a source that reads path with client:
//
//   - database/creds/ROLE, a dynamic role: each read makes a login with a lease, whose
//     end is the credential's NotAfter. The lease is renewed at each call, until Vault
//     no longer gives it the whole time that it was issued for, because its max_ttl is
//     near: then a new login is read, and the old one is left to its end. Behind
//     a cache, and while Vault answers, the old one outlives its successor's arrival
//     by three tenths of the lease's duration at least: with a duration of ttl, the
//     window is sqlrotate.Window{Overlap: 3 * ttl / 10, Lag: -1}.
//   - database/static-creds/ROLE, a static role: one login whose password Vault
//     changes in place (see [sqlrotate.InPlace]). It has no NotAfter, because its
//     sessions survive that.
//   - a path of a KV engine, of either version, with the fields username and password.
//
// The Version of a static role's login is the time of its last rotation, and that of a
// secret in KV version 2 is its number there, so that every process names it alike. Other
// logins have none: a dynamic role is known by its user name.
//
// The client and its token are the caller's. The token needs "read" on path and, for
// leases, "update" on sys/leases/renew, which Vault's default policy grants. A lease
// dies with the token that it was made with: something must renew that, such as the
// API's LifetimeWatcher or a Vault Proxy's auto-auth.
func New(client *vault.Client, path string) *Source {
	return &Source{client: client, path: path, turn: make(chan struct{}, 1)}
}

// String names the path.
func (s *Source) String() string { return "vault " + s.path }

// Credential renews the lease at hand, or reads a new login. The error wraps what
// Vault's client returned, such as a [*vault.ResponseError].
func (s *Source) Credential(ctx context.Context) (sqlrotate.Credential, error) {
	if err := s.take(ctx); err != nil {
		return sqlrotate.Credential{}, err
	}
	defer s.release()
	before := s.lease.cred.NotAfter
	whole, err := s.renew(ctx)
	if err == nil && !whole {
		err = s.read(ctx)
	}
	s.note(err)
	// A renewal that still gives some time bridges a Vault that can't make logins.
	if err != nil && !s.lease.cred.NotAfter.After(before) {
		return sqlrotate.Credential{}, err
	}
	return s.lease.cred, nil
}

// Refresh reads a new login, unless there is another one than refused already. The
// lease of refused is left to its end.
func (s *Source) Refresh(ctx context.Context, refused sqlrotate.Credential) (sqlrotate.Credential, error) {
	if err := s.take(ctx); err != nil {
		return sqlrotate.Credential{}, err
	}
	defer s.release()
	if s.lease.cred.Username == "" || s.lease.cred.SameLogin(refused) {
		err := s.read(ctx)
		s.note(err)
		if err != nil {
			return sqlrotate.Credential{}, err
		}
	}
	return s.lease.cred, nil
}

func (s *Source) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return s.wrap(ctx.Err())
	}
}

func (s *Source) release() { <-s.turn }

// renew reports whether the lease at hand lives on for its whole duration. The error
// says that Vault can't be asked.
func (s *Source) renew(ctx context.Context) (whole bool, err error) {
	l := &s.lease
	now := time.Now()
	if l.id == "" || !now.Before(l.cred.NotAfter) {
		return false, nil
	}
	secret, err := s.client.Sys().RenewWithContext(ctx, l.id, int(l.duration.Seconds()))
	var refused *vault.ResponseError
	switch {
	case errors.As(err, &refused):
		return false, nil // the lease is revoked, or can't be renewed
	case err != nil:
		return false, s.wrap(err)
	case secret == nil: // an empty answer
		return false, nil
	}
	l.renewed, l.renewals = now, l.renewals+1
	d := seconds(secret.LeaseDuration)
	if end := wall(now.Add(d)); end.After(l.cred.NotAfter) {
		l.cred.NotAfter = end
	}
	return d > l.duration-l.duration/10, nil // Vault rounds to seconds
}

// read reads a new login.
func (s *Source) read(ctx context.Context) error {
	now := time.Now() // the lease begins later
	secret, err := s.client.Logical().ReadWithContext(ctx, s.path)
	if err != nil {
		return s.wrap(err)
	}
	if secret == nil {
		return s.wrap(errors.New("nothing is there: check the path, and what the token may read"))
	}
	data := secret.Data
	version, _ := data["last_vault_rotation"].(string) // of a static role
	if _, err := time.Parse(time.RFC3339, version); err != nil {
		version = ""
	}
	if inner, ok := data["data"].(map[string]any); ok { // KV version 2
		metadata, _ := data["metadata"].(map[string]any)
		number, _ := metadata["version"].(json.Number)
		data, version = inner, number.String()
	}
	username, _ := data["username"].(string)
	password, _ := data["password"].(string)
	if username == "" || password == "" {
		return s.wrap(errors.New("it has no username and password"))
	}
	l := lease{cred: sqlrotate.Credential{Username: username, Password: sqlrotate.NewSecret(password), Version: version}, read: now}
	if secret.LeaseID != "" && secret.LeaseDuration > 0 {
		l.id, l.duration = secret.LeaseID, seconds(secret.LeaseDuration)
		l.cred.NotAfter = wall(now.Add(l.duration))
	}
	s.lease = l
	s.reads++
	return nil
}

// seconds is n seconds, or as many as a duration holds.
func seconds(n int) time.Duration {
	return time.Duration(min(int64(n), math.MaxInt64/int64(time.Second))) * time.Second
}

// wall returns t without its monotonic reading, which stops while a machine sleeps.
func wall(t time.Time) time.Time { return t.Round(0) }

// Status is how a [Source] is doing, for metrics and status pages.
type Status struct {
	// Username is that of the login that was read last; empty: none was yet. ReadAt is
	// when that was, and Reads counts the logins read so far.
	Username string
	ReadAt   time.Time
	Reads    uint64

	// LeaseID, LeaseDuration (as issued) and NotAfter (as last renewed) are its
	// lease; empty, 0 and zero if it has none.
	LeaseID       string
	LeaseDuration time.Duration
	NotAfter      time.Time

	// Renewals counts the renewals of this lease, and RenewedAt is when the last one
	// was; 0 and zero if there was none.
	Renewals  int
	RenewedAt time.Time

	// Failures counts the calls that failed since the last good one, FailingSince is
	// when the first of them did, and Err is the last error; 0, zero and nil if the last
	// call was good. A call that renewed the lease for less than its whole time, and
	// could not read a new login, has failed, although it gave the old one. One that was
	// cancelled by its caller doesn't count.
	Failures     int
	FailingSince time.Time
	Err          error
}

// Status returns the state of the source. It doesn't wait for Vault.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// CheckHealth returns nil, or what is wrong with Vault or the lease, and since when.
// It doesn't ask Vault.
func (s *Source) CheckHealth() error {
	st, now := s.Status(), time.Now()
	ago := func(t time.Time) time.Duration { return now.Sub(t).Round(time.Second) }
	switch {
	case st.Err != nil && !st.NotAfter.IsZero():
		return fmt.Errorf("%w (failing for %v, failures: %d; the lease of user %q ends at %s)",
			st.Err, ago(st.FailingSince), st.Failures, st.Username, st.NotAfter.UTC().Format(time.RFC3339))
	case st.Err != nil:
		return fmt.Errorf("%w (failing for %v, failures: %d)", st.Err, ago(st.FailingSince), st.Failures)
	case !st.NotAfter.IsZero() && !now.Before(st.NotAfter):
		return s.wrap(fmt.Errorf("the lease of user %q ended %v ago, and no other login was asked for", st.Username, ago(st.NotAfter)))
	}
	return nil
}

// note makes the status that of the lease at hand, and of a call that ended with err.
func (s *Source) note(err error) {
	l := s.lease
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status
	s.status = Status{
		Username: l.cred.Username, ReadAt: l.read, Reads: s.reads,
		LeaseID: l.id, LeaseDuration: l.duration, NotAfter: l.cred.NotAfter,
		Renewals: l.renewals, RenewedAt: l.renewed,
	}
	st := &s.status
	switch {
	case err == nil:
		return
	case errors.Is(err, context.Canceled):
		st.Failures, st.FailingSince, st.Err = before.Failures, before.FailingSince, before.Err
	case before.Failures == 0:
		st.Failures, st.FailingSince, st.Err = 1, time.Now(), err
	default:
		st.Failures, st.FailingSince, st.Err = before.Failures+1, before.FailingSince, err
	}
}

func (s *Source) wrap(err error) error {
	var r *vault.ResponseError
	if errors.As(err, &r) {
		err = &responseError{r}
	}
	return fmt.Errorf("sqlrotate: vault %s: %w", s.path, err)
}

// responseError says in one line what a [vault.ResponseError] says in many, and
// nothing of a body that Vault didn't write.
type responseError struct{ *vault.ResponseError }

func (e *responseError) Error() string {
	if e.RawError || len(e.Errors) == 0 {
		return fmt.Sprintf("status %d", e.StatusCode)
	}
	return fmt.Sprintf("status %d: %s", e.StatusCode, strings.Join(e.Errors, "; "))
}

func (e *responseError) Unwrap() error { return e.ResponseError }
