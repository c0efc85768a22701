package alerts

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/prometheus"
)

// A program has a pool, is collected, and queries all the time.
type program struct {
	src       *sqlrotate.FileSource
	connector *sqlrotate.Connector
	db        *sql.DB
	collector *prometheus.Collector
	metrics   http.Handler
	failed    atomic.Int64 // queries
	stop      func() error // may be called again
}

// begin begins a program that goes by the file at path. One that is idle logs in once and
// queries no more.
func begin(ctx context.Context, dsn, path string, idle bool, adjust func(*sqlrotate.Config, *sqlrotate.FileOptions)) (*program, error) {
	quiet := slog.New(slog.DiscardHandler)
	opt := sqlrotate.FileOptions{Poll: 50 * time.Millisecond, Logger: quiet}
	cfg := sqlrotate.Config{
		Name: "orders", Window: sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: time.Second}, DrainTime: time.Second, RoleCheck: 200 * time.Millisecond, Logger: quiet,
	}
	metrics := prometheus.NewCollector()
	cfg.Trace = metrics.Trace(cfg.Name)
	if adjust != nil {
		adjust(&cfg, &opt)
	}
	src, err := sqlrotate.NewFileSource(path, opt)
	if err != nil {
		return nil, err
	}
	cfg.Source = src
	cfg.Opener, err = sqlrotate.LibPQ(dsn)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	c, err := sqlrotate.New(cfg)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	p := &program{src: src, connector: c, db: sqlrotate.OpenDB(c), collector: metrics}
	p.db.SetMaxOpenConns(3)
	registry := client.NewPedanticRegistry()
	p.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	err = errors.Join(registry.Register(metrics), metrics.AddConnector(cfg.Name, c), metrics.AddFile(cfg.Name, src), p.db.PingContext(ctx))

	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !idle {
			p.query(ctx)
		}
	}()
	p.stop = sync.OnceValue(func() error {
		cancel()
		<-done
		return errors.Join(p.db.Close(), c.Close(), src.Close())
	})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// query queries until ctx is done.
func (p *program) query(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if _, err := p.db.ExecContext(ctx, "select current_user"); err != nil && ctx.Err() == nil {
			p.failed.Add(1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// What a process of its own is told: it is this test's program, started again.
const childDSN, childPath, childIdle = "SQLROTATE_ALERTS_DSN", "SQLROTATE_ALERTS_PATH", "SQLROTATE_ALERTS_IDLE"

func TestMain(m *testing.M) {
	if os.Getenv(childDSN) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child runs a program until its input ends, and says where its metrics are.
func child() error {
	p, err := begin(context.Background(), os.Getenv(childDSN), os.Getenv(childPath), os.Getenv(childIdle) == "true", nil)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = (&http.Server{Handler: p.metrics, ReadHeaderTimeout: time.Second}).Serve(listener) }()
	fmt.Printf("http://%s\n", listener.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin) // until whoever started it is gone
	return p.stop()
}

// spawn starts the app as a process of its own, which ends with the test.
func (a *app) spawn(idle bool) *os.Process {
	a.Helper()
	cmd := exec.CommandContext(a.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDSN+"="+a.server.DSN(), childPath+"="+a.path, fmt.Sprintf("%s=%v", childIdle, idle))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	a.must(err)
	stdout, err := cmd.StdoutPipe()
	a.must(err)
	a.must(cmd.Start())
	a.Cleanup(func() { _, _ = stdin.Close(), cmd.Wait() }) // it is killed by now, stopped or not
	url, err := bufio.NewReader(stdout).ReadString('\n')
	a.must(err)
	a.scrapes = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, strings.TrimSpace(url), nil)
		a.must(err)
		answer, err := http.DefaultClient.Do(req)
		a.must(err)
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		_, err = io.Copy(w, answer.Body)
		a.must(err)
	})
	return cmd.Process
}
