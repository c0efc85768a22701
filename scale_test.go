//go:build linux

// What thousands of sources and connectors share in one process.

package sqlrotate

import (
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate/internal/jail"
	"github.com/sqlrotate/sqlrotate/internal/pgstub"
)

// A directory may hold the logins of thousands: when one is replaced, nobody else reads.
func TestSourcesOfOneDirectoryReadTheirOwnFile(t *testing.T) {
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	sources := make([]*FileSource, 50)
	for i := range sources {
		if err := replace(path(i), []byte(loginJSON(1))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sources {
		s, err := NewFileSource(path(i), FileOptions{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		sources[i] = s
	}
	reads := make([]uint64, len(sources)) // a young file is looked at twice
	for i, s := range sources {
		reads[i] = s.Status().Reads
	}
	changing := sources[:2]
	for i, s := range changing { // when the second has changed, who was told of the first has read
		changed := s.Changed()
		if err := replace(path(i), []byte(loginJSON(2))); err != nil {
			t.Fatal(err)
		}
		<-changed
	}
	for i, s := range sources {
		if n := s.Status().Reads; n != reads[i] && i >= len(changing) {
			t.Errorf("source %d has read again", i)
		}
	}
}

// When the system's limits on inotify are reached, sources are polled, and one of them says so
// for all.
func TestSourcesPastTheLimitsOfInotify(t *testing.T) {
	for name, limit := range map[string]string{"instances": "0", "watches": "10"} {
		t.Run(name, func(t *testing.T) {
			if !jail.RunAs(t, "root") {
				return
			}
			if err := os.WriteFile("/proc/sys/user/max_inotify_"+name, []byte(limit), 0); err != nil {
				t.Fatal(err)
			}
			var log logBuffer
			opt := FileOptions{Poll: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			root := t.TempDir()
			sources := make([]*FileSource, 100)
			for i := range sources {
				dir := filepath.Join(root, fmt.Sprint(i))
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := replace(filepath.Join(dir, "login"), []byte(loginJSON(1))); err != nil {
					t.Fatal(err)
				}
				s, err := NewFileSource(filepath.Join(dir, "login"), opt)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				sources[i] = s
			}
			polled := 0
			for i, s := range sources {
				if st := s.Status(); !st.Events {
					polled++
					if err := st.EventsErr.Error(); !strings.Contains(err, "fs.inotify.max_user_"+name) {
						t.Error(err)
					}
				}
				changed := s.Changed()
				if err := replace(filepath.Join(root, fmt.Sprint(i), "login"), []byte(loginJSON(2))); err != nil {
					t.Fatal(err)
				}
				<-changed
				if err := s.CheckHealth(); err != nil {
					t.Error(err)
				}
			}
			if polled < 90 {
				t.Errorf("%d sources are polled", polled)
			}
			if n := strings.Count(log.String(), "no file events"); n != 1 {
				t.Errorf("%d lines:\n%s", n, &log)
			}
		})
	}
}

// What it costs to have a pool of five connections that nobody uses: beside lib/pq alone,
// without the source. The server's side of the connections is in both.
func BenchmarkIdleConnector(b *testing.B) {
	server, err := pgstub.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	opener, err := LibPQ(server.DSN() + " dbname=app")
	if err != nil {
		b.Fatal(err)
	}
	source := StaticSource(Credential{Username: "app", Password: NewSecret("secret")})
	for name, open := range map[string]func() (*sql.DB, error){
		"sqlrotate": func() (*sql.DB, error) {
			c, err := New(Config{Source: source, Opener: opener, Window: Window{Overlap: 10 * time.Minute}, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return nil, err
			}
			return OpenDB(c), nil
		},
		"lib/pq": func() (*sql.DB, error) {
			c, err := pq.NewConnector(server.DSN() + " dbname=app user=app password=secret")
			if err != nil {
				return nil, err
			}
			return sql.OpenDB(c), nil
		},
	} {
		b.Run(name, func(b *testing.B) {
			const pools, conns = 100, 5
			var bytes, goroutines int
			for b.Loop() {
				before := held()
				dbs := make([]*sql.DB, pools)
				for i := range dbs {
					if dbs[i], err = open(); err != nil {
						b.Fatal(err)
					}
					dbs[i].SetMaxIdleConns(conns)
					taken := make([]*sql.Conn, conns)
					for i2 := range taken {
						if taken[i2], err = dbs[i].Conn(b.Context()); err != nil {
							b.Fatal(err)
						}
					}
					for _, c := range taken {
						_ = c.Close()
					}
				}
				after := held()
				bytes += after.bytes - before.bytes
				goroutines += after.goroutines - before.goroutines
				for _, db := range dbs {
					_ = db.Close()
				}
			}
			b.ReportMetric(float64(bytes)/1024/float64(b.N*pools), "KiB/pool")
			b.ReportMetric(float64(goroutines)/float64(b.N*pools), "goroutines/pool")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*pools), "µs/pool")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// holding is what a process holds.
type holding struct{ bytes, goroutines int }

func held() holding {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return holding{int(m.HeapInuse + m.StackInuse), runtime.NumGoroutine()}
}
