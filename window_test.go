package sqlrotate

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
)

func TestMaxLifetime(t *testing.T) {
	const s, m = time.Second, time.Minute
	for _, test := range []struct {
		window Window
		want   time.Duration
		err    string
	}{
		{Window{Overlap: 10 * m}, 8 * m, ""},
		{Window{Overlap: 10 * m, Lag: m, MaxInUse: 2 * m}, 7 * m, ""},
		{Window{Overlap: 10 * m, Lag: -1, MaxInUse: -1}, 10 * m, ""},
		{Window{Overlap: 2*m + 1}, 1, ""},
		{Window{Overlap: 2 * m}, 0, "overlap 2m0s - lag 1m30s (default) - max in use 30s (default) = 0s"},
		{Window{Overlap: m, Lag: 50 * s, MaxInUse: 20 * s}, 0, "overlap 1m0s - lag 50s - max in use 20s = -10s"},
		{Window{Overlap: m, Lag: m, MaxInUse: -1}, 0, "overlap 1m0s - lag 1m0s - max in use 0s = 0s"},
		{Window{}, 0, "set Window.Overlap"},
		{Window{Overlap: -m}, 0, "overlap is -1m0s"},
		{Window{Lag: s, MaxInUse: s}, 0, "InPlace()"},
		{InPlace(), 0, ""},
		{Window{Overlap: 10 * m, Lag: math.MaxInt64, MaxInUse: math.MaxInt64}, 0, "nothing is left"},
		{Window{Overlap: 10 * m, Lag: math.MaxInt64}, 0, "nothing is left"},
		{Window{Overlap: 1 << 62, Lag: math.MaxInt64, MaxInUse: math.MaxInt64}, 0, "nothing is left"},
		{Window{Overlap: math.MaxInt64, Lag: math.MinInt64, MaxInUse: math.MinInt64}, math.MaxInt64, ""},
		{Window{Overlap: math.MaxInt64, Lag: math.MaxInt64 - 1, MaxInUse: -1}, 1, ""},
		{Window{Overlap: math.MinInt64, Lag: math.MaxInt64, MaxInUse: math.MaxInt64}, 0, "set Window.Overlap"},
		{Window{Overlap: 600, Lag: -1, MaxInUse: -1}, 0, "Window.Overlap is 600ns: give it a unit, as in 600*time.Second"},
		{Window{Overlap: time.Millisecond - 1, Lag: -1, MaxInUse: -1}, 0, "Window.Overlap"},
		{Window{Overlap: time.Millisecond, Lag: -1, MaxInUse: -1}, time.Millisecond, ""},
		{Window{Overlap: 10 * m, Lag: 90, MaxInUse: 30}, 0, "Window.MaxInUse is 30ns"},
		{Window{Overlap: 10 * m, Lag: 1}, 0, "Window.Lag is 1ns"},
	} {
		got, err := test.window.MaxLifetime()
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%+v: %v, %v; want %v, %q", test.window, got, err, test.want, test.err)
		}
	}
}

// A window that makes each query log in is refused, and one that makes many do so is
// warned of.
func TestConnectorAndAWindowThatLeavesLittleToLive(t *testing.T) {
	for _, test := range []struct {
		left time.Duration
		says string // the error or the log
	}{
		{1, "= 1ns: that is too short"},
		{leastLifetime - 1, "too short"},
		{leastLifetime, "level=WARN"},
		{time.Second, "max_lifetime=1s"},
		{shortLifetime - 1, "level=WARN"},
		{shortLifetime, ""},
	} {
		var log bytes.Buffer
		c, err := New(Config{
			Source: StaticSource(login("v1", time.Time{})), Opener: newFakeServer(), Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Window: Window{Overlap: 2*time.Minute + test.left},
		})
		if err == nil {
			_ = c.Close() // which flushes the log
		}
		said := log.String()
		if err != nil {
			said += err.Error()
		}
		if (err != nil) != (test.left < leastLifetime) || (said == "") != (test.says == "") || !strings.Contains(said, test.says) {
			t.Errorf("%v left: %q", test.left, said)
		}
	}
}
