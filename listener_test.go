package sqlrotate_test

import (
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/listenertest"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

func TestListener(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{})
	t.Run("cases", func(t *testing.T) {
		for _, c := range listenertest.Cases() {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				c.Run(t, server, sqlrotate.LibPQ)
			})
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		left := listenertest.Goroutines()
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines are left: %s", len(left), left[0])
		}
	}
}
