// What tests have to do with the machine that they run on, and with the command
// internal/retest that runs them.

package sqlrotate

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// soakFor returns for how long a test goes on whose name begins with TestSoak: for
// short, or, in `make soak`, for as long as SQLROTATE_SOAK says.
func soakFor(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestSoak") {
		t.Fatal("make soak runs what is called TestSoak...")
	}
	if v := os.Getenv("SQLROTATE_SOAK"); v != "" {
		return duration(t, v)
	}
	return short
}

// soakSeed returns the seed of what a soaked test does at random: another one each time,
// unless SQLROTATE_SEED says which. CI does: there it is not the place to find a schedule
// that nobody has thought of, and to hold up what has nothing to do with it.
func soakSeed(t *testing.T) uint64 {
	t.Helper()
	v := os.Getenv("SQLROTATE_SEED")
	if v == "" {
		return rand.Uint64() >> 16
	}
	seed, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// needsQuiet marks a test that other work on the machine can make fail, because it
// measures time: in CI it is then run once more, alone.
func needsQuiet(t *testing.T) {
	t.Helper()
	t.Attr("needs", "quiet")
}

// grave fails a test for what is no machine's fault: lost books, a leaked secret, the
// session of a revoked role. It is not run again.
func grave(tb testing.TB, format string, args ...any) {
	tb.Helper()
	tb.Attr("failure", "grave")
	tb.Errorf(format, args...)
}

// noLeak waits until there are no more goroutines than before.
func noLeak(t *testing.T, before int) {
	t.Helper()
	goesAway(t, "goroutines", func() int { return runtime.NumGoroutine() }, before)
}

// goesAway waits until no more is left of something than there was. A leak is no
// machine's fault: that has all the time it needs.
func goesAway(t *testing.T, what string, count func() int, before int) {
	t.Helper()
	for start := time.Now(); count() > before; <-time.After(time.Millisecond) {
		if time.Since(start) > time.Minute {
			grave(t, "%d %s are left, more than %d\n%s", count(), what, before, stacks())
			return
		}
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
