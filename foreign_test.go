package sqlrotate

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestForeignCallReturnsWhatIsReturned(t *testing.T) {
	p := &foreign{name: "the thing"}
	for name, test := range map[string]struct {
		f    func(context.Context) (int, error)
		want string // in the error
	}{
		"a value":    {func(context.Context) (int, error) { return 1, nil }, ""},
		"an error":   {func(context.Context) (int, error) { return 0, errors.ErrUnsupported }, errors.ErrUnsupported.Error()},
		"a panic":    {func(context.Context) (int, error) { panic("secret") }, "the thing panicked with a value of type string"},
		"ErrBadConn": {func(context.Context) (int, error) { return 0, fmt.Errorf("w: %w", driver.ErrBadConn) }, "the thing failed: w: driver: bad connection"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := call(t.Context(), p, test.f, nil)
			switch {
			case test.want == "" && (n != 1 || err != nil):
				t.Errorf("%d, %v", n, err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			case errors.Is(err, driver.ErrBadConn):
				t.Error("database/sql would retry it")
			}
		})
	}
}

// A call that does not return is left alone when its context is done, its result is
// handed to whom it may concern, and after four of them there is not a fifth.
func TestForeignCallThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &foreign{name: "the thing", bound: time.Second}
		release := make(chan struct{})
		var called atomic.Int64
		late := make(chan int, 100)
		hang := func(context.Context) (int, error) {
			called.Add(1)
			<-release
			return 7, nil
		}
		attempt := func() error {
			start := time.Now()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too long"))
			defer cancel()
			_, err := call(ctx, p, hang, func(n int) { late <- n })
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %v", took)
			}
			return err
		}
		for i := range maxHung {
			if err := attempt(); err == nil || err.Error() != "too long" {
				t.Errorf("call %d: %v", i, err)
			}
			if p.hangs(time.Now(), 1) == nil {
				t.Error("nobody knows that it hangs")
			}
		}
		time.Sleep(time.Minute)
		if err := attempt(); err == nil || !strings.Contains(err.Error(), "the thing hangs") || called.Load() != maxHung {
			t.Errorf("after %d calls: %v", called.Load(), err)
		}
		close(release)
		synctest.Wait()
		if len(late) != maxHung {
			t.Errorf("%d results came late, want %d", len(late), maxHung)
		}
		if err := p.hangs(time.Now(), 1); err != nil {
			t.Error(err)
		}
		if err := attempt(); err != nil {
			t.Errorf("it hangs no more, and yet: %v", err)
		}
	})
}

// Callers that give up soon are no sign that what they called hangs.
func TestForeignCallOfTheImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &foreign{name: "the thing", bound: time.Second}
		slow := func(context.Context) (int, error) { time.Sleep(200 * time.Millisecond); return 1, nil }
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := call(ctx, p, slow, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		if n, err := call(t.Context(), p, slow, nil); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}
