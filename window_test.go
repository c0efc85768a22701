package sqlrotate

import (
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
		{Window{Overlap: 10 * m, Lag: m, Checkout: 2 * m}, 7 * m, ""},
		{Window{Overlap: 10 * m, Lag: -1, Checkout: -1}, 10 * m, ""},
		{Window{Overlap: 2*m + 1}, 1, ""},
		{Window{Overlap: 2 * m}, 0, "overlap 2m0s - lag 1m30s (default) - checkout 30s (default) = 0s"},
		{Window{Overlap: m, Lag: 50 * s, Checkout: 20 * s}, 0, "overlap 1m0s - lag 50s - checkout 20s = -10s"},
		{Window{Overlap: m, Lag: m, Checkout: -1}, 0, "overlap 1m0s - lag 1m0s - checkout 0s = 0s"},
		{Window{}, 0, "set Window.Overlap"},
		{Window{Overlap: -m}, 0, "overlap is -1m0s"},
		{Window{Lag: s, Checkout: s}, 0, "InPlace()"},
		{InPlace(), 0, ""},
	} {
		got, err := test.window.MaxLifetime()
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%+v: %v, %v; want %v, %q", test.window, got, err, test.want, test.err)
		}
	}
}

func TestEndOfTheWindowCountsFromThePublication(t *testing.T) {
	seen := time.Now()
	for _, test := range []struct {
		window Window
		want   time.Time
	}{
		{Window{Overlap: time.Minute, Lag: 10 * time.Second}, seen.Add(50 * time.Second)},
		{Window{Overlap: time.Hour}, seen.Add(time.Hour - DefaultLag)},
		{Window{Overlap: time.Minute, Lag: -1}, seen.Add(time.Minute)},
		{InPlace(), time.Time{}},
	} {
		if got := test.window.end(seen); !got.Equal(test.want) {
			t.Errorf("%+v: %v, want %v", test.window, got, test.want)
		}
	}
}
