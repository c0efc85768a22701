package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	"k8s.io/kubernetes/pkg/volume/util"
)

// volume is a mounted Secret. Version n has the user name userN and the password
// passwordN, and every third has another key beside them.
type volume struct {
	dir    string
	writer *util.AtomicWriter
}

func newVolume(t *testing.T) *volume {
	t.Helper()
	dir := t.TempDir()
	w, err := util.NewAtomicWriter(dir, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return &volume{dir: dir, writer: w}
}

// publish does what the kubelet does when it has seen that the Secret is changed.
func (v *volume) publish(n int) error {
	payload := map[string]util.FileProjection{
		"username": {Data: fmt.Appendf(nil, "user%d", n), Mode: 0o400},
		"password": {Data: fmt.Appendf(nil, "password%d", n), Mode: 0o440},
	}
	if n%3 == 0 {
		payload["notes"] = util.FileProjection{Data: []byte("of no concern"), Mode: 0o444}
	}
	return v.writer.Write(payload, func(dir string) error {
		return os.Chmod(filepath.Join(v.dir, dir), 0o750) // as for an fsGroup
	})
}

// number returns the version of a login, and false if it is of two.
func number(username, password string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(username, "user"))
	return n, err == nil && password == fmt.Sprintf("password%d", n)
}

// Every 50 ms for a minute (five seconds in short mode) the pair of keys is replaced.
// Nobody ever gets a mixed pair, or an older one than before, and the source follows.
// A reader that opens one key after the other does get mixed pairs.
func TestSecretVolume(t *testing.T) {
	length := time.Minute
	if testing.Short() {
		length = 5 * time.Second
	}
	v := newVolume(t)
	if err := v.publish(1); err != nil {
		t.Fatal(err)
	}
	source, err := sqlrotate.NewFileSource(v.dir, sqlrotate.FileOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()

	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var reads, naiveReads, naiveMixed atomic.Int64
	for range 3 {
		readers.Go(func() {
			newest := 0
			for ctx.Err() == nil {
				cred, err := source.Credential(ctx)
				n, whole := number(cred.Username, cred.Password.Reveal())
				if ctx.Err() != nil {
					return
				}
				if err != nil || !whole || n < newest {
					t.Errorf("after %d: %s with %s (%v)", newest, cred.Username, cred.Password.Reveal(), err)
					return
				}
				newest = n
				reads.Add(1)
			}
		})
	}
	readers.Go(func() {
		for ctx.Err() == nil {
			username, err1 := os.ReadFile(filepath.Join(v.dir, "username"))
			password, err2 := os.ReadFile(filepath.Join(v.dir, "password"))
			if _, whole := number(string(username), string(password)); !whole || err1 != nil || err2 != nil {
				naiveMixed.Add(1)
			}
			naiveReads.Add(1)
		}
	})

	// The follower learns of changes from the source alone.
	var mu sync.Mutex
	published := map[int]time.Time{}
	var lags []time.Duration
	readers.Go(func() {
		for newest := 1; ctx.Err() == nil; {
			changed := source.Changed()
			cred, err := source.Credential(ctx)
			n, _ := number(cred.Username, cred.Password.Reveal())
			now := time.Now()
			if err == nil && n > newest {
				mu.Lock()
				// Of several versions at once, the oldest has waited longest.
				lags = append(lags, now.Sub(published[newest+1]))
				mu.Unlock()
				newest = n
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})

	last := 1
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); {
		<-tick.C
		last++
		mu.Lock()
		published[last] = time.Now()
		mu.Unlock()
		if err := v.publish(last); err != nil {
			t.Fatal(err)
		}
	}
	stall.Watch(t).Eventually(10*time.Second, fmt.Sprintf("user%d, the last, is served", last), func() bool {
		cred, err := source.Credential(ctx)
		return err == nil && cred.Username == fmt.Sprintf("user%d", last)
	}, func() string { return fmt.Sprintf("%+v", source.Status()) })
	stop()
	readers.Wait()

	if err := source.CheckHealth(); err != nil {
		t.Error(err)
	}
	if reads.Load() == 0 || len(lags) == 0 {
		t.Fatalf("%d reads, %d changes seen", reads.Load(), len(lags))
	}
	if !testing.Short() && naiveMixed.Load() == 0 {
		t.Error("not even a naive reader has seen a mixed pair: this test shows nothing")
	}
	slices.Sort(lags)
	t.Logf("%d versions, %d reads, none mixed (a naive reader: %d of %d); %d changes followed, after %v in the median, %v at p99, %v at most",
		last, reads.Load(), naiveMixed.Load(), naiveReads.Load(), len(lags),
		lags[len(lags)/2].Round(time.Microsecond), lags[len(lags)*99/100].Round(time.Microsecond), lags[len(lags)-1].Round(time.Microsecond))
}

// A pod may start before its Secret is there.
func TestVolumeIsFilledLater(t *testing.T) {
	v := newVolume(t)
	var published sync.WaitGroup
	defer published.Wait()
	published.Go(func() {
		<-time.After(500 * time.Millisecond)
		if err := v.publish(1); err != nil {
			t.Error(err)
		}
	})
	source, err := sqlrotate.NewFileSource(v.dir, sqlrotate.FileOptions{WaitFor: 30 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if cred, err := source.Credential(t.Context()); err != nil || cred.Username != "user1" {
		t.Errorf("%s, %v", cred.Username, err)
	}
}
