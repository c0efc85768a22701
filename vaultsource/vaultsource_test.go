package vaultsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	vault "github.com/hashicorp/vault/api"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

// fakeVault answers as Vault does (seen with version 1.21), and as a test wants.
// The tests in the module integration use a real one.
type fakeVault struct {
	mu       sync.Mutex
	body     map[string]any // of a read
	reads    int
	renewals []string // the leases
	duration int      // that a renewal gives
	status   int      // of all answers, unless zero
	renew    int      // status of renewals, unless zero
	raw      string   // answered with status, in place of errors
}

func newFakeVault(t *testing.T) (*fakeVault, *vault.Client) {
	t.Helper()
	f := &fakeVault{}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	cfg := vault.DefaultConfig()
	cfg.Address, cfg.MaxRetries = server.URL, 0
	client, err := vault.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f, client
}

func (f *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	status, answer := f.status, f.body
	if r.URL.Path == "/v1/sys/leases/renew" {
		var asked struct {
			Lease string `json:"lease_id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&asked)
		f.renewals = append(f.renewals, asked.Lease)
		answer = map[string]any{"lease_id": asked.Lease, "lease_duration": f.duration, "renewable": true}
		if f.renew > 0 {
			status = f.renew
		}
	} else {
		f.reads++
	}
	switch {
	case status >= 300 && f.raw != "":
		w.WriteHeader(status)
		_, _ = w.Write([]byte(f.raw))
		return
	case status >= 300:
		w.WriteHeader(status)
		answer = map[string]any{"errors": []string{"no"}}
	case answer == nil:
		w.WriteHeader(http.StatusNotFound)
		answer = map[string]any{"errors": []string{}}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// issue makes a read answer with a lease of ten minutes, or with none.
func (f *fakeVault) issue(username, password, lease string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.body = map[string]any{"lease_id": lease, "data": map[string]any{"username": username, "password": password}}
	f.status, f.raw = 0, ""
	if lease != "" {
		f.body["lease_duration"], f.body["renewable"] = 600, true
	}
}

func (f *fakeVault) set(change func(*fakeVault)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func TestSourceConforms(t *testing.T) {
	for _, lease := range []string{"", "database/creds/app/1"} {
		f, client := newFakeVault(t)
		if lease != "" {
			f.renew = http.StatusBadRequest // a new login at each call
		}
		err := sqlrotatetest.TestSource(sqlrotatetest.Harness{
			Source: New(client, "database/creds/app"),
			Publish: func(cred sqlrotate.Credential) error {
				f.issue(cred.Username, cred.Password.Reveal(), lease)
				return nil
			},
			Break: func() error {
				f.set(func(f *fakeVault) { f.status = http.StatusServiceUnavailable })
				return nil
			},
		})
		if err != nil {
			t.Errorf("lease %q: %v", lease, err)
		}
	}
}

func TestWhatIsRead(t *testing.T) {
	for name, test := range map[string]struct {
		body    string
		want    string // of an error
		life    time.Duration
		version string
	}{
		"dynamic role":                       {body: `{"lease_id":"l","lease_duration":3600,"renewable":true,"data":{"username":"u","password":"p"}}`, life: time.Hour},
		"static role":                        {body: `{"lease_id":"","lease_duration":0,"data":{"username":"u","password":"p","ttl":86399,"rotation_period":86400}}`},
		"static role, rotated":               {body: `{"data":{"username":"u","password":"p","last_vault_rotation":"2026-01-02T03:04:05.678Z"}}`, version: "2026-01-02T03:04:05.678Z"},
		"KV version 1, a field of that name": {body: `{"data":{"username":"u","password":"p","last_vault_rotation":"secret"}}`},
		"KV version 1":                       {body: `{"lease_id":"","lease_duration":2764800,"data":{"username":"u","password":"p"}}`},
		"KV version 2":                       {body: `{"lease_id":"","lease_duration":0,"data":{"data":{"username":"u","password":"p"},"metadata":{"version":3}}}`, version: "3"},
		"KV version 2, without a number":     {body: `{"data":{"data":{"username":"u","password":"p"},"metadata":null}}`},
		"no password":                        {body: `{"data":{"username":"u","password":""}}`, want: "no username and password"},
		"a number":                           {body: `{"data":{"username":"u","password":12345}}`, want: "no username and password"},
		"deleted from KV":                    {body: `{"data":{"data":null,"metadata":{"version":3}}}`, want: "no username and password"},
		"nothing":                            {want: "nothing is there"},
		"not a JSON value":                   {body: `"secret`, want: "vault path"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if test.body == "" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				_, _ = w.Write([]byte(test.body))
			}))
			defer server.Close()
			client, err := vault.NewClient(&vault.Config{Address: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			from := time.Now()
			cred, err := New(client, "path").Credential(t.Context())
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("%v, %v", cred, err)
				}
				return
			}
			if err != nil || cred.Username != "u" || cred.Password.Reveal() != "p" {
				t.Fatalf("%v, %v", cred, err)
			}
			if cred.Version != test.version {
				t.Errorf("its version is %q, want %q", cred.Version, test.version)
			}
			if test.life == 0 {
				if !cred.NotAfter.IsZero() {
					t.Errorf("it ends at %v", cred.NotAfter)
				}
			} else if early := time.Now().Add(test.life).Sub(cred.NotAfter); early < 0 || early > time.Since(from)+time.Millisecond {
				t.Errorf("it ends at %v, %v before it does at the server", cred.NotAfter, early)
			}
		})
	}
}

// A lease is renewed as long as it gets its whole time.
func TestLeaseIsRenewedAndThenReplaced(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	f.issue("u1", "p1", "lease1")
	first := credential(t, s)

	f.issue("u2", "p2", "lease2")
	f.set(func(f *fakeVault) { f.duration = 600 })
	renewed := credential(t, s)
	if !renewed.SameLogin(first) || !renewed.NotAfter.After(first.NotAfter) {
		t.Errorf("first %v, renewed %v", first, renewed)
	}
	f.set(func(f *fakeVault) { f.duration = 300 }) // max_ttl is near
	if next := credential(t, s); next.Username != "u2" {
		t.Errorf("%v", next)
	}
	f.set(func(f *fakeVault) {
		if fmt.Sprint(f.renewals) != "[lease1 lease1]" || f.reads != 2 {
			t.Errorf("renewals %v, %d reads", f.renewals, f.reads)
		}
	})
}

// What Vault no longer knows can't be renewed, and a database that makes no new
// login need not fail the old one.
func TestLeaseThatCannotBeRenewedIsReplaced(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	f.issue("u1", "p1", "lease1")
	first := credential(t, s)
	f.issue("u2", "p2", "lease2")
	f.set(func(f *fakeVault) { f.renew = http.StatusBadRequest })
	if next := credential(t, s); next.Username != "u2" {
		t.Errorf("after %v: %v", first, next)
	}
	f.set(func(f *fakeVault) { f.status, f.renew = http.StatusInternalServerError, 0 })
	if cred, err := s.Credential(t.Context()); err == nil {
		t.Errorf("with everything refused: %v", cred)
	}
	f.set(func(f *fakeVault) { f.renew, f.duration = http.StatusOK, 400 })
	if cred, err := s.Credential(t.Context()); err == nil {
		t.Errorf("a renewal that doesn't prolong anything hides that no login can be made: %v", cred)
	}
	s.lease.cred.NotAfter = time.Now().Add(100 * time.Second)
	if cred := credential(t, s); cred.Username != "u2" || time.Until(cred.NotAfter) < 300*time.Second {
		t.Errorf("a renewal that gives some time is of use: %v", cred)
	}
}

func TestRefreshReadsOnlyWhatIsNotKnown(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	f.issue("u1", "p1", "lease1")
	first := credential(t, s)
	f.issue("u2", "p2", "lease2")
	for range 3 {
		next, err := s.Refresh(t.Context(), first)
		if err != nil || next.Username != "u2" {
			t.Fatalf("%v, %v", next, err)
		}
	}
	f.set(func(f *fakeVault) {
		if f.reads != 2 || len(f.renewals) > 0 {
			t.Errorf("%d reads, renewals %v", f.reads, f.renewals)
		}
	})
}

func TestErrorsSayWhatVaultSaidAndNoMore(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	f.set(func(f *fakeVault) { f.status = http.StatusForbidden })
	_, err := s.Credential(t.Context())
	var refused *vault.ResponseError
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
		t.Fatalf("%v", err)
	}
	if want := "sqlrotate: vault database/creds/app: status 403: no"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	f.set(func(f *fakeVault) { f.status, f.raw = http.StatusBadGateway, "<html>hunter2" })
	_, err = s.Credential(t.Context())
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestStatusAndHealth(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	if st := s.Status(); st != (Status{}) || s.CheckHealth() != nil {
		t.Errorf("before the first call: %+v", st)
	}
	from := time.Now()
	f.issue("u1", "p1", "lease1")
	credential(t, s)
	st := s.Status()
	read := st.ReadAt
	want := Status{Username: "u1", ReadAt: read, Reads: 1, LeaseID: "lease1", LeaseDuration: 10 * time.Minute, NotAfter: st.NotAfter}
	if st != want || read.Before(from) || st.NotAfter.Sub(read.Round(0)) != 10*time.Minute {
		t.Errorf("a login is read: %+v", st)
	}

	f.set(func(f *fakeVault) { f.duration = 600 })
	credential(t, s)
	credential(t, s)
	if st := s.Status(); st.Renewals != 2 || st.RenewedAt.Before(read) || !st.NotAfter.After(want.NotAfter) || st.Reads != 1 || !st.ReadAt.Equal(read) {
		t.Errorf("renewed twice: %+v", st)
	}
	health(t, s, "")

	f.set(func(f *fakeVault) { f.status = http.StatusServiceUnavailable })
	for range 2 {
		if cred, err := s.Credential(t.Context()); err == nil {
			t.Errorf("a sealed Vault gave %v", cred)
		}
	}
	st = s.Status()
	if st.Failures != 2 || st.FailingSince.Before(from) || st.Err == nil || st.Renewals != 2 || st.Username != "u1" {
		t.Errorf("sealed: %+v", st)
	}
	health(t, s, `sqlrotate: vault database/creds/app: status 503: no (failing for 0s, failures: 2; the lease of user "u1" ends at `)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Refresh(ctx, s.lease.cred); err == nil {
		t.Error("cancelled, and it gave a login")
	}
	if now := s.Status(); now.Failures != 2 || !now.FailingSince.Equal(st.FailingSince) {
		t.Errorf("a caller gave up: %+v", now)
	}

	f.issue("u2", "p2", "lease2")
	if _, err := s.Refresh(t.Context(), s.lease.cred); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.Username != "u2" || st.Reads != 2 || st.Renewals != 0 || !st.RenewedAt.IsZero() || st.Failures != 0 || !st.FailingSince.IsZero() || st.Err != nil {
		t.Errorf("another login: %+v", st)
	}
	health(t, s, "")

	s.lease.cred.NotAfter = time.Now().Add(-time.Minute)
	s.note(nil)
	health(t, s, `the lease of user "u2" ended 1m0s ago`)
}

// A lease that is renewed, but not for its whole time, while no login can be made,
// hides from the application what an operator must know.
func TestHealthTellsOfALeaseThatIsOnlyBridged(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	f.issue("u1", "p1", "lease1")
	credential(t, s)
	s.lease.cred.NotAfter = time.Now().Add(100 * time.Second)
	f.set(func(f *fakeVault) { f.status, f.renew, f.duration = http.StatusInternalServerError, http.StatusOK, 400 })
	if cred := credential(t, s); cred.Username != "u1" {
		t.Errorf("%v", cred)
	}
	if st := s.Status(); st.Failures != 1 || st.Renewals != 1 {
		t.Errorf("%+v", st)
	}
	health(t, s, `status 500: no (failing for 0s, failures: 1; the lease of user "u1" ends at`)
}

// Status and CheckHealth are for when Vault hangs.
func TestStatusDoesNotWaitForVault(t *testing.T) {
	s := New(nil, "path")
	s.turn <- struct{}{}
	if st := s.Status(); st != (Status{}) || s.CheckHealth() != nil {
		t.Errorf("%+v", st)
	}
}

func TestLeaseLongerThanCanBe(t *testing.T) {
	f, client := newFakeVault(t)
	s := New(client, "database/creds/app")
	f.issue("u1", "p1", "lease1")
	f.set(func(f *fakeVault) { f.body["lease_duration"], f.duration = math.MaxInt64, math.MaxInt64 })
	for range 2 { // read, and renewed
		if cred := credential(t, s); time.Until(cred.NotAfter) < 290*365*24*time.Hour {
			t.Errorf("it ends at %v", cred.NotAfter)
		}
	}
	if st := s.Status(); st.Renewals != 1 || st.Reads != 1 {
		t.Errorf("%+v", st)
	}
}

// health checks what CheckHealth says; nothing if want is empty.
func health(t *testing.T, s *Source, want string) {
	t.Helper()
	if err := s.CheckHealth(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("health: %v; want %q", err, want)
	}
}

func TestCallersThatWaitGiveUpWithTheirContext(t *testing.T) {
	s := New(nil, "path")
	s.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Credential(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Refresh(ctx, sqlrotate.Credential{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func credential(t *testing.T, s *Source) sqlrotate.Credential {
	t.Helper()
	cred, err := s.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cred
}
