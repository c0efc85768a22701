// Package sqlrotatetest checks implementations of [sqlrotate.Source] and of
// [sqlrotate.Opener], and provides a source whose answers a test decides.
package sqlrotatetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// Harness is a [sqlrotate.Source] with the strings to pull on it.
type Harness struct {
	// Source is what is checked: itself, not behind a [sqlrotate.CachedSource], which
	// remembers. It is used from many goroutines, and not closed.
	// If it is a [sqlrotate.Notifier] or a [sqlrotate.Refresher], that is checked
	// as well.
	Source sqlrotate.Source

	// Publish makes the user name and password of cred the newest there is, as
	// whoever rotates it would: it writes the file, or sets the secret at the
	// server. User names change from one to the next. It also ends what Break began.
	// Required.
	Publish func(cred sqlrotate.Credential) error

	// Break makes the newest credential unreadable: it corrupts the file, or stops
	// the server. Nil: what happens then is not checked.
	Break func() error

	// Delay is how long after Publish the source may go on returning the previous
	// credential. Zero means 5 s.
	Delay time.Duration

	// Output returns all that the source has logged so far. Nil: only its errors
	// are searched for passwords.
	Output func() string
}

// prompt is how soon a call must return once its context is done.
const prompt = time.Second

// TestSource checks a source against the numbered obligations of
// [sqlrotate.Source]. It returns nil, or every violation that it found, each with
// the number of the obligation and what it is for. A typical test:
//
//	func TestMySource(t *testing.T) {
//		vault := newFakeVault(t)
//		src := NewMySource(vault.URL)
//		err := sqlrotatetest.TestSource(sqlrotatetest.Harness{Source: src, Publish: vault.Set, Break: vault.Stop})
//		if err != nil {
//			t.Fatal(err)
//		}
//	}
func TestSource(h Harness) error {
	if h.Source == nil || h.Publish == nil {
		return errors.New("sqlrotatetest: Harness.Source and Harness.Publish are required")
	}
	if h.Delay <= 0 {
		h.Delay = 5 * time.Second
	}
	c := &check{Harness: h, number: map[login]int{}, versions: map[login]string{}}
	if cred, err := h.Source.Credential(context.Background()); err == nil {
		c.number[loginOf(cred)] = 0 // what it held before
	}
	for _, step := range []func(*check) error{
		(*check).latest, (*check).inOrder, (*check).lastGood, (*check).bounded, (*check).notifies, (*check).refreshes, (*check).silent,
	} {
		if err := step(c); err != nil { // the harness failed
			return c.joined(err)
		}
	}
	return c.joined(nil)
}

// login identifies a credential by what makes its version.
type login struct{ username, password string }

func loginOf(cred sqlrotate.Credential) login {
	return login{cred.Username, cred.Password.Reveal()}
}

type check struct {
	Harness
	violations

	mu        sync.Mutex // guards what follows
	published []sqlrotate.Credential
	number    map[login]int // of what was published, from 1
	versions  map[login]string
	newest    int     // the highest number that a finished call returned
	errs      []error // that the source returned
}

// publish publishes the next login and returns its number.
func (c *check) publish() (int, error) {
	c.mu.Lock()
	n := len(c.published) + 1
	cred := sqlrotate.Credential{
		Username: fmt.Sprintf("sqlrotatetest-%d", n),
		Password: sqlrotate.NewSecret(fmt.Sprintf("pw%dvery-secret%d", n, n)),
	}
	c.published = append(c.published, cred)
	c.number[loginOf(cred)] = n
	c.mu.Unlock()
	if err := c.Publish(cred); err != nil {
		return n, fmt.Errorf("publish: %w", err)
	}
	return n, nil
}

// read calls the source once and checks what is true of every answer. It returns
// the number of the login, 0 after an error.
func (c *check) read(ctx context.Context) (int, error) {
	c.mu.Lock()
	before := c.newest
	c.mu.Unlock()
	cred, err := c.Source.Credential(ctx)
	return c.judge(before, cred, err), err
}

// judge checks an answer to a call that began when number before had been
// returned.
func (c *check) judge(before int, cred sqlrotate.Credential, err error) int {
	if err != nil {
		c.mu.Lock()
		c.errs = append(c.errs, err)
		c.mu.Unlock()
		return 0
	}
	l := loginOf(cred)
	c.mu.Lock()
	n, published := c.number[l]
	c.newest = max(c.newest, n)
	version, known := c.versions[l]
	c.versions[l] = cred.Version
	c.mu.Unlock()
	switch {
	case !published:
		c.violated("3 (whole)", "user name and password don't belong together, or were never published: a login with them is refused")
	case n < before:
		c.violated("2 (in order)", "a call that began after another had returned a credential returned an older one: the connector takes that for a rotation back")
	}
	if known && version != cred.Version {
		c.violated("version", "the same login has two versions: logs and metrics show a rotation that never was")
	}
	if cred.Version != "" && strings.Contains(cred.Version, l.password) {
		c.violated("6 (silent)", "the version holds the password")
	}
	return n
}

// await reads until number n is returned.
func (c *check) await(n int) bool {
	deadline := time.Now().Add(c.Delay)
	for {
		got, _ := c.read(context.Background())
		if got >= n {
			return true
		}
		if !time.Now().Before(deadline) {
			return false
		}
		<-time.After(time.Millisecond)
	}
}

func (c *check) latest() error {
	for range 3 {
		n, err := c.publish()
		if err != nil {
			return err
		}
		if !c.await(n) {
			c.violated("1 (latest)", "what was published is not returned within %v: new connections log in with a credential that is about to be revoked", c.Delay)
			return nil
		}
	}
	return nil
}

func (c *check) inOrder() error {
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for !stop.Load() {
				_, _ = c.read(context.Background())
			}
		})
	}
	defer readers.Wait()
	defer stop.Store(true)
	last := 0
	for i := range 50 {
		n, err := c.publish()
		if err != nil {
			return err
		}
		last = n
		if i%10 == 0 {
			c.await(n)
		}
	}
	if !c.await(last) {
		c.violated("1 (latest)", "what was published while others read is not returned within %v", c.Delay)
	}
	return nil
}

func (c *check) lastGood() error {
	if c.Break == nil {
		return nil
	}
	if err := c.Break(); err != nil {
		return fmt.Errorf("break: %w", err)
	}
	for range 100 {
		_, _ = c.read(context.Background()) // the last good one or an error: judge sees
		<-time.After(time.Millisecond)
	}
	n, err := c.publish()
	if err != nil {
		return err
	}
	if !c.await(n) {
		c.violated("4 (last good)", "after a failure, what was published is not returned within %v: the source does not recover", c.Delay)
	}
	return nil
}

func (c *check) bounded() error {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	var calls sync.WaitGroup
	for i := range 30 {
		ctx := []context.Context{done, short, context.Background()}[i%3]
		calls.Go(func() {
			returned := make(chan error, 1)
			go func() {
				_, err := c.read(ctx)
				returned <- err
			}()
			select {
			case err := <-returned:
				if ctx.Err() == nil && err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
					c.violated("5 (bounded)", "a call failed because the context of another was done")
				}
			case <-time.After(c.Delay + prompt):
				c.violated("5 (bounded)", "a call did not return within %v", c.Delay+prompt)
			}
		})
	}
	calls.Wait()

	if c.Break == nil {
		return nil
	}
	// Nothing can be had: now a call with a context must not wait for it.
	if err := c.Break(); err != nil {
		return fmt.Errorf("break: %w", err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), prompt/10)
	defer cancel()
	_, _ = c.read(ctx)
	if time.Since(began) > prompt+prompt/10 {
		c.violated("5 (bounded)", "a call returned more than %v after its context was done: it holds up every connection of the pool", prompt)
	}
	n, err := c.publish()
	if err != nil {
		return err
	}
	c.await(n)
	return nil
}

func (c *check) notifies() error {
	src, ok := c.Source.(sqlrotate.Notifier)
	if !ok {
		return nil
	}
	for range 3 {
		changed := src.Changed()
		if changed == nil {
			c.violated("Notifier", "Changed returned nil, which is never closed")
			return nil
		}
		n, err := c.publish()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-time.After(c.Delay):
			c.violated("Notifier", "the channel is not closed within %v of a change: rotations wait for the next login", c.Delay)
		}
		c.await(n)
	}
	return nil
}

func (c *check) refreshes() error {
	src, ok := c.Source.(sqlrotate.Refresher)
	if !ok {
		return nil
	}
	old, err := c.Source.Credential(context.Background())
	if err != nil {
		c.violated("Refresher", "no credential to begin with: %v", err)
		return nil
	}
	n, err := c.publish()
	if err != nil {
		return err
	}
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			for deadline := time.Now().Add(c.Delay); ; {
				c.mu.Lock()
				before := c.newest
				c.mu.Unlock()
				cred, err := src.Refresh(context.Background(), old)
				if c.judge(before, cred, err) >= n {
					return
				}
				if !time.Now().Before(deadline) {
					c.violated("Refresher", "a refused credential is not replaced by what was published, within %v", c.Delay)
					return
				}
				<-time.After(time.Millisecond)
			}
		})
	}
	calls.Wait()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	c.mu.Lock()
	newest := c.published[len(c.published)-1]
	c.mu.Unlock()
	_, _ = src.Refresh(ctx, newest)
	if time.Since(began) > prompt {
		c.violated("Refresher", "Refresh returned more than %v after its context was done", prompt)
	}
	return nil
}

func (c *check) silent() error {
	var out strings.Builder
	c.mu.Lock()
	for _, err := range c.errs {
		fmt.Fprintf(&out, "%v\n%+v\n%#v\n", err, err, err)
	}
	published := c.published
	c.mu.Unlock()
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if s, ok := c.Source.(fmt.Stringer); ok {
			fmt.Fprintf(&out, verb, s.String())
		}
	}
	if c.Output != nil {
		out.WriteString(c.Output())
	}
	for _, cred := range published {
		if strings.Contains(out.String(), cred.Password.Reveal()) {
			c.violated("6 (silent)", "an error, the log or String holds the password of %q", cred.Username)
			return nil
		}
	}
	return nil
}
