package sqlrotatetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"
)

func harness(src *sqlrotatetest.Source) sqlrotatetest.Harness {
	return sqlrotatetest.Harness{
		Source:  src,
		Publish: func(cred sqlrotate.Credential) error { src.Set(cred); return nil },
		Break:   func() error { src.Fail(errors.New("broken")); return nil },
		Delay:   time.Second,
	}
}

func TestTheScriptedSourceConforms(t *testing.T) {
	if err := sqlrotatetest.TestSource(harness(sqlrotatetest.NewSource(sqlrotate.Credential{}))); err != nil {
		t.Fatal(err)
	}
}

// broken is a source with one fault.
type broken struct {
	*sqlrotatetest.Source
	credential func(context.Context) (sqlrotate.Credential, error)
}

func (b broken) Credential(ctx context.Context) (sqlrotate.Credential, error) {
	return b.credential(ctx)
}

func TestTestSourceFindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		want  string
		fault func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error)
	}{
		"reads once and keeps it": {"1 (latest)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			var once sync.Once
			var cred sqlrotate.Credential
			return func(ctx context.Context) (_ sqlrotate.Credential, err error) {
				once.Do(func() { cred, err = src.Credential(ctx) })
				return cred, nil
			}
		}},
		"goes back": {"2 (in order)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			var mu sync.Mutex
			var calls int
			var before, last sqlrotate.Credential
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				cred, err := src.Credential(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && !cred.SameLogin(last) {
					before, last = last, cred
				}
				if calls++; calls%5 == 0 && before.Username != "" {
					return before, nil
				}
				return cred, err
			}
		}},
		"mixes two versions": {"3 (whole)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				user, err := src.Credential(ctx)
				if err != nil {
					return user, err
				}
				<-time.After(time.Millisecond)
				cred, err := src.Credential(ctx)
				cred.Username = user.Username
				return cred, err
			}
		}},
		"returns half a credential when broken": {"3 (whole)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				cred, err := src.Credential(ctx)
				if err != nil && ctx.Err() == nil {
					return sqlrotate.Credential{Username: "sqlrotatetest-1"}, nil
				}
				return cred, err
			}
		}},
		"never recovers": {"4 (last good)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			var dead atomic.Pointer[error]
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				cred, err := src.Credential(ctx)
				if err != nil && ctx.Err() == nil {
					dead.Store(&err)
				}
				if err := dead.Load(); err != nil {
					return sqlrotate.Credential{}, *err
				}
				return cred, err
			}
		}},
		"ignores the context": {"5 (bounded)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				cred, err := src.Credential(context.Background())
				if err != nil && ctx.Done() != nil {
					<-time.After(2 * time.Second)
				}
				return cred, err
			}
		}},
		"quotes the password": {"6 (silent)", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			var last atomic.Pointer[sqlrotate.Credential]
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				cred, err := src.Credential(ctx)
				if err == nil {
					last.Store(&cred)
				} else if cred := last.Load(); cred != nil {
					err = fmt.Errorf("after %s: %w", cred.Password.Reveal(), err)
				}
				return cred, err
			}
		}},
		"counts reads as versions": {"version", func(src *sqlrotatetest.Source) func(context.Context) (sqlrotate.Credential, error) {
			var n atomic.Int64
			return func(ctx context.Context) (sqlrotate.Credential, error) {
				cred, err := src.Credential(ctx)
				cred.Version = fmt.Sprint(n.Add(1))
				return cred, err
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := sqlrotatetest.NewSource(sqlrotate.Credential{})
			h := harness(src)
			h.Delay = 300 * time.Millisecond
			h.Source = broken{src, c.fault(src)}
			err := sqlrotatetest.TestSource(h)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want a violation of %s, got %v", c.want, err)
			}
		})
	}
}

func TestTestSourceFindsANotifierThatIsSilent(t *testing.T) {
	src := sqlrotatetest.NewSource(sqlrotate.Credential{})
	h := harness(src)
	h.Delay = 100 * time.Millisecond
	h.Source = mute{src}
	if err := sqlrotatetest.TestSource(h); err == nil || !strings.Contains(err.Error(), "Notifier") {
		t.Errorf("%v", err)
	}
}

type mute struct{ *sqlrotatetest.Source }

func (mute) Changed() <-chan struct{} { return make(chan struct{}) }

func TestTestSourceSaysWhatTheHarnessLacks(t *testing.T) {
	if err := sqlrotatetest.TestSource(sqlrotatetest.Harness{}); err == nil {
		t.Error("no error")
	}
}

func TestScriptedSourceDoesAsItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := sqlrotate.Credential{Username: "one"}
		two := sqlrotate.Credential{Username: "two"}
		src := sqlrotatetest.NewSource(one)

		release := src.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := src.Credential(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("held: %v", err)
		}
		time.AfterFunc(time.Hour, func() { src.Set(two); release() })
		if cred, err := src.Credential(t.Context()); err != nil || cred.Username != "two" {
			t.Errorf("released: %s %v", cred.Username, err)
		}

		boom := errors.New("boom")
		src.Fail(boom)
		if _, err := src.Refresh(t.Context(), two); !errors.Is(err, boom) {
			t.Errorf("%v", err)
		}
		changed := src.Changed()
		src.Set(one)
		<-changed
		if cred, err := src.Refresh(t.Context(), two); err != nil || cred.Username != "one" {
			t.Errorf("%s %v", cred.Username, err)
		}
		if src.Reads() != 3 || len(src.Refused()) != 2 {
			t.Errorf("%d reads, %d rejected", src.Reads(), len(src.Refused()))
		}
	})
}
