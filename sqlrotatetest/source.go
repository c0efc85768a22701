// Source: a scripted sqlrotate.Source.

package sqlrotatetest

import (
	"context"
	"sync"

	"github.com/sqlrotate/sqlrotate"
)

// Source is a [sqlrotate.Source], [sqlrotate.Notifier] and [sqlrotate.Refresher]
// that returns what a test tells it to. It is safe for concurrent use, and works
// in a bubble of testing/synctest.
type Source struct {
	mu       sync.Mutex
	cred     sqlrotate.Credential
	err      error
	hold     chan struct{}
	changed  chan struct{}
	reads    int
	rejected []sqlrotate.Credential
}

var (
	_ sqlrotate.Notifier  = (*Source)(nil)
	_ sqlrotate.Refresher = (*Source)(nil)
)

// NewSource returns a source of cred.
func NewSource(cred sqlrotate.Credential) *Source {
	return &Source{cred: cred, changed: make(chan struct{})}
}

// Set makes cred what the source returns from now on, in place of an error as
// well, and closes the channel of Changed.
func (s *Source) Set(cred sqlrotate.Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cred, s.err = cred, nil
	close(s.changed)
	s.changed = make(chan struct{})
}

// Fail makes every read return err until Set, or until Fail(nil).
func (s *Source) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Hold makes reads wait from now on, each until release is called or its context
// is done. What they return is decided then.
func (s *Source) Hold() (release func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.hold == hold {
			s.hold = nil
		}
		close(hold)
	})
}

// Credential implements [sqlrotate.Source].
func (s *Source) Credential(ctx context.Context) (sqlrotate.Credential, error) {
	s.mu.Lock()
	s.reads++
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return sqlrotate.Credential{}, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return sqlrotate.Credential{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return sqlrotate.Credential{}, s.err
	}
	return s.cred, nil
}

// Refresh implements [sqlrotate.Refresher]: it remembers refused and reads, if it
// does not hold another credential.
func (s *Source) Refresh(ctx context.Context, refused sqlrotate.Credential) (sqlrotate.Credential, error) {
	s.mu.Lock()
	s.rejected = append(s.rejected, refused)
	cred, held := s.cred, s.err == nil && !s.cred.SameLogin(refused)
	s.mu.Unlock()
	if held {
		return cred, nil
	}
	return s.Credential(ctx)
}

// Changed implements [sqlrotate.Notifier].
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Reads returns how often the credential has been read.
func (s *Source) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Refused returns the credentials that Refresh was called with.
func (s *Source) Refused() []sqlrotate.Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sqlrotate.Credential(nil), s.rejected...)
}
