// Command orders takes orders over HTTP and keeps them in PostgreSQL, with a login that
// is rotated under it. It is what the examples beside it deploy.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/health"
	"github.com/sqlrotate/sqlrotate/prometheus"
)

// name is the connector's and its source's, in the log, in metrics and on the page.
const name = "orders"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

// options are what a deployment says. None of them is a secret.
type options struct {
	credential string
	waitFor    time.Duration
	dsn        string
	window     sqlrotate.Window
	listen     string
	observe    string
}

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("orders", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&o.credential, "credential", "", "the `path` of the login: a file, or the directory of a mounted Secret")
	flags.DurationVar(&o.waitFor, "wait-for", time.Minute, "how long the login may be late at the start")
	flags.StringVar(&o.dsn, "dsn", "", "the database, as libpq `keywords`, without a user and a password")
	flags.DurationVar(&o.window.Overlap, "overlap", 0, "how long an old login works after its successor is published")
	flags.DurationVar(&o.window.Lag, "lag", 0, "how long after that the file has it, at the most (default 90s)")
	flags.DurationVar(&o.window.MaxInUse, "max-in-use", 0, "the longest query or transaction (default 30s)")
	flags.StringVar(&o.listen, "listen", ":8080", "the `address` for orders")
	flags.StringVar(&o.observe, "observe", ":9090", "the `address` for /readyz, /metrics and /sqlrotate")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("what is %q?", flags.Arg(0))
	}
	return o, nil
}

// run serves until ctx is done, and then finishes what it has begun.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(out, nil))

	src, err := sqlrotate.NewFileSource(o.credential, sqlrotate.FileOptions{WaitFor: o.waitFor, Logger: log}) //nolint:contextcheck // Close ends it
	if err != nil {
		return err
	}
	defer src.Close()
	pg, err := sqlrotate.LibPQ(o.dsn)
	if err != nil {
		return err
	}
	metrics, page := prometheus.NewCollector(), health.NewPage()
	c, err := sqlrotate.New(sqlrotate.Config{
		Name: name, Source: src, Opener: pg, Window: o.window, Logger: log,
		Trace: sqlrotate.JoinTraces(metrics.Trace(name), page.Trace(name)),
	})
	if err != nil {
		return err
	}
	db := sqlrotate.OpenDB(c)
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(10)
	db.SetMaxIdleConns(10)
	if err := db.PingContext(ctx); err != nil { // the first login
		return err
	}

	registry := client.NewRegistry()
	err = errors.Join(registry.Register(metrics), registry.Register(collectors.NewDBStatsCollector(db, name)),
		metrics.AddConnector(name, c), metrics.AddFile(name, src), page.AddConnector(name, c), page.AddFile(name, src))
	if err != nil {
		return err
	}
	observe := http.NewServeMux()
	observe.Handle("GET /readyz", page.Ready())
	observe.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	observe.Handle("GET /sqlrotate", page)
	orders := http.NewServeMux()
	orders.HandleFunc("GET /orders", list(db, log))
	orders.HandleFunc("POST /orders", add(db, log))
	return serve(ctx, log, map[string]http.Handler{o.listen: orders, o.observe: observe})
}

// serve serves each handler at its address until ctx is done, and gives requests ten
// seconds to end.
func serve(ctx context.Context, log *slog.Logger, handlers map[string]http.Handler) error {
	failed := make(chan error, len(handlers))
	for address, handler := range handlers {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
		go func() { failed <- server.Serve(listener) }()
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if err := server.Shutdown(ctx); err != nil {
				log.Error("requests are cut off", "error", err)
			}
		}()
		log.Info("serving", "address", address, "at", listener.Addr().String())
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// list says how many orders there are, and as whom it asked.
func list(db *sql.DB, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var answer struct {
			Orders int    `json:"orders"`
			Role   string `json:"role"`
		}
		if err := db.QueryRowContext(r.Context(), "select count(*), session_user from orders").Scan(&answer.Orders, &answer.Role); err != nil {
			fail(w, log, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func add(db *sql.DB, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := db.ExecContext(r.Context(), "insert into orders (item) values ($1)", r.FormValue("item")); err != nil {
			fail(w, log, err)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}
}

// fail leaves the reason to the log.
func fail(w http.ResponseWriter, log *slog.Logger, err error) {
	log.Error("a request failed", "error", err)
	http.Error(w, "try again later", http.StatusServiceUnavailable)
}
