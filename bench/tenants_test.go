package main

import (
	"bytes"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgstub"
)

// All logins of many pools change at one moment: none of the pools ever has more than one
// session more than before, and when all is closed nothing is left. At rest a pool has four
// goroutines more than one of lib/pq alone: its source's, two of the connector's, and
// database/sql's that closes what is too old.
func TestTenantsRotateTogether(t *testing.T) {
	const (
		conns   = 2
		atRest  = 5
		process = 8 // those of the file system's events, and what just comes and goes
	)
	for l, pools := range map[layout]int{files: 200, oneVolume: 20, oneLogin: 20} {
		t.Run(string(l), func(t *testing.T) {
			stub, err := pgstub.Listen("unix", filepath.Join(t.TempDir(), ".s.PGSQL.5432"))
			if err != nil {
				t.Fatal(err)
			}
			defer stub.Close()
			s := site{
				Tenants: pools, Conns: conns, Layout: l, DSN: stub.DSN(), Other: stub.DSN() + " dbname=neighbour user=neighbour",
				Drain: 2 * time.Second,
			}
			h, err := newHouse(s)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := h.disk.close(); err != nil {
					t.Error(err)
				}
			}()
			defer h.close()
			var f figures
			f.Base = hold()
			if err := h.open(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
			began, fewest := time.Now(), 1<<30
			for most := f.Base.Goroutines + pools*(atRest+conns) + process; fewest > most; { // the stub has one for each session
				fewest = min(fewest, runtime.NumGoroutine())
				if time.Since(began) > 30*time.Second {
					t.Fatalf("%d goroutines, want %d at the most", fewest, most)
				}
				<-time.After(10 * time.Millisecond)
			}
			if err := h.rotate(t.Context(), stubCounter{stub}, &f); err != nil {
				t.Fatal(err)
			}
			n := 0
			for most, of := range f.Peaks {
				if n += of; most > conns+1 {
					t.Errorf("%d pools had %d sessions at once", of, most)
				}
			}
			if n != pools || f.Logins < pools*conns {
				t.Errorf("%d pools, %d logins", n, f.Logins)
			}
			if h.end(t.Context(), &f); f.Left > 0 {
				t.Errorf("%d goroutines are left", f.Left)
			}
			if f.Warnings != 0 {
				t.Errorf("%d warnings", f.Warnings)
			}
			var results bytes.Buffer
			tabulate(&results, []sighting{{s, f}})
			if !strings.Contains(results.String(), peaks(f.Peaks)) {
				t.Errorf("the table lacks the peaks:\n%s", &results)
			}
		})
	}
}
