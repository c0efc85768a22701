package health_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/health"
)

const password = "s3cret-of-the-test"

// A server knows some users.
type server struct {
	users atomic.Value // string, with their names
	down  atomic.Bool
}

func (s *server) Open(ctx context.Context, cred sqlrotate.Credential, dial sqlrotate.DialFunc) (driver.Conn, error) {
	switch {
	case s.down.Load():
		return nil, errors.New("connection reset")
	case !strings.Contains(s.users.Load().(string), cred.Username):
		return nil, refusal{}
	}
	socket, err := dial(ctx, "fake", "server")
	return &conn{socket}, err
}

func (*server) Refused(err error) bool { return sqlrotate.SQLStateRefused(err) }

type refusal struct{}

func (refusal) Error() string    { return "no such user" }
func (refusal) SQLState() string { return "28P01" }

// A conn has a socket, as far as the connector can see.
type conn struct{ socket net.Conn }

func dial(context.Context, string, string) (net.Conn, error) {
	socket, _ := net.Pipe()
	return socket, nil
}

func (*conn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("no statements") }
func (c *conn) Close() error                      { return c.socket.Close() }
func (*conn) Begin() (driver.Tx, error)           { return nil, errors.New("no transactions") }

// An app has a connector, a pool and a page.
type app struct {
	t      *testing.T
	server server
	user   atomic.Value // that the source gives
	old    atomic.Bool  // it gives what was published a minute ago
	c      *sqlrotate.Connector
	db     *sql.DB
	page   *health.Page
}

func start(t *testing.T, window sqlrotate.Window) *app {
	t.Helper()
	a := &app{t: t, page: health.NewPage()}
	a.user.Store("app1")
	a.server.users.Store("app1")
	var err error
	a.c, err = sqlrotate.New(sqlrotate.Config{
		Name: "orders", Opener: &a.server, Window: window, Trace: a.page.Trace("orders"), Logger: slog.New(slog.DiscardHandler), Dial: dial,
		Source: sqlrotate.SourceFunc(func(context.Context) (sqlrotate.Credential, error) {
			cred := sqlrotate.Credential{Username: a.user.Load().(string), Password: sqlrotate.NewSecret(password)}
			if a.old.Load() {
				cred.PublishedAt = time.Now().Add(-time.Minute)
			}
			return cred, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	a.db = sqlrotate.OpenDB(a.c)
	a.db.SetMaxIdleConns(5)
	t.Cleanup(func() { _ = a.db.Close() })
	if err := a.page.AddConnector("orders", a.c); err != nil {
		t.Fatal(err)
	}
	return a
}

func get(t *testing.T, h http.Handler, url string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))
	if strings.Contains(w.Body.String(), password) {
		t.Errorf("%s tells the password", url)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("an answer may be kept:", w.Header())
	}
	return w
}

// ready fails the test unless readiness has that status and says so.
func (a *app) ready(status int, says string) {
	a.t.Helper()
	if w := get(a.t, a.page.Ready(), "/readyz"); w.Code != status || !strings.Contains(w.Body.String(), says) {
		a.t.Errorf("readiness is %d, %q; want %d, %q", w.Code, w.Body, status, says)
	}
}

func (a *app) says(what ...string) {
	a.t.Helper()
	body := get(a.t, a.page, "/").Body.String()
	for _, what := range what {
		if !strings.Contains(body, what) {
			a.t.Errorf("there is no %q in\n%s", what, body)
		}
	}
}

func (a *app) report() health.Report {
	a.t.Helper()
	w := get(a.t, a.page, "/?format=json")
	var r health.Report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Header().Get("Content-Type") != "application/json" {
		a.t.Fatal(err, w.Header())
	}
	return r
}

func (a *app) rotate() {
	a.user.Store("app2")
	a.server.users.Store("app1 app2")
}

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t, sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: time.Second})
		a.ready(http.StatusServiceUnavailable, "orders: no login has succeeded yet")
		if err := a.db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.ready(http.StatusOK, "ready")

		// A server that is down is no reason.
		a.server.down.Store(true)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			c, err := a.c.Connect(ctx)
			if err == nil {
				t.Error("connected", c)
			}
			cancel()
		}
		a.ready(http.StatusOK, "ready")
		a.server.down.Store(false)
		time.Sleep(time.Minute)

		// A successor that is refused isn't, either, while its predecessor is good ...
		a.user.Store("app2")
		time.Sleep(10 * time.Second)
		if err := a.db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		a.ready(http.StatusOK, "ready")
		a.says("problem credential_refused", `version 2, current, user "app2": 0 sessions, not proven`)
		// ... and is when it has ended.
		time.Sleep(10 * time.Minute)
		a.ready(http.StatusServiceUnavailable, "orders: ")
		a.says("NOT READY")
		a.server.users.Store("app1 app2")
		time.Sleep(time.Minute)
		if err := a.db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.ready(http.StatusOK, "ready")
		_ = a.db.Close()
		a.ready(http.StatusServiceUnavailable, "orders: closed")
	})
}

func TestARotationIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t, sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: time.Second})
		var conns []*sql.Conn
		for range 5 {
			c, err := a.db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			_ = c.Close()
		}
		a.says("connector orders: ready", `version 1, current, user "app1": 5 sessions, proven`, "window: overlap 10m0s - lag 1s - in use 1s; a connection lives 9m58s")
		a.rotate()
		time.Sleep(10 * time.Second)
		a.db.SetMaxOpenConns(6)
		if c, err := a.c.Connect(t.Context()); err != nil { // it reads the source
			t.Fatal(err)
		} else if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if r := a.report().Connectors[0]; r.Drain == nil || len(r.Versions) != 2 || !r.Ready {
			t.Errorf("while it drains it says %+v", r)
		}
		a.says("drain: ")
		time.Sleep(9 * time.Minute)
		r := a.report().Connectors[0]
		if r.Drain != nil || r.Rotations != 1 || len(r.LastRotations) != 1 || r.Window.OverlapSeconds != 600 {
			t.Fatalf("after it, it says %+v", r)
		}
		if last := r.LastRotations[0]; last.Version != 2 || last.Username != "app2" || last.Drained != 5 || last.DrainSeconds <= 0 || last.ProvenAt.Before(last.At) || last.CutOff != 0 || last.Refusals != 0 {
			t.Errorf("the rotation is %+v", last)
		}
		a.says("rotations: 1", `to version 2, user "app2": 0 refusals, proven`, "5 connections replaced in")
	})
}

// The last ten rotations are kept, each with what it led to.
// A window that is too small is told of, with what to put in, and is no reason to take the
// application out of service.
func TestAdviceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t, sqlrotate.Window{Overlap: 10 * time.Minute, Lag: time.Second, MaxInUse: time.Second})
		if err := a.db.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.old.Store(true)
		a.rotate()
		time.Sleep(10 * time.Second)
		a.ready(http.StatusOK, "ready")
		a.says("connector orders: ready", "problem window_too_small, began ", "Window.Lag is 1s, but", "set it to 1m15s at least", "  observed, the worst since ", ": lag 1m0s (")
		r := a.report().Connectors[0]
		if len(r.Problems) != 1 || r.Problems[0].Kind != "window_too_small" || r.Observed.SourceLagSeconds != 60 || r.Observed.SourceLagAt.IsZero() || r.Observed.Since.IsZero() || !r.Observed.LongestUseAt.IsZero() {
			t.Errorf("%+v", r)
		}
	})
}

func TestLastRotations(t *testing.T) {
	a := start(t, sqlrotate.Window{Overlap: time.Hour})
	trace := a.page.Trace("orders")
	for n := uint64(2); n < 20; n++ {
		trace.Rotated(sqlrotate.VersionStats{Number: n, Username: "app"})
	}
	trace.Refused(sqlrotate.VersionStats{Number: 18}, refusal{})
	trace.Outlived(sqlrotate.VersionStats{Number: 18}, time.Minute)
	trace.Proven(sqlrotate.VersionStats{Number: 1}) // it is forgotten
	all := a.report().Connectors[0].LastRotations
	if len(all) != 10 || all[0].Version != 10 || all[9].Version != 19 || all[8].Refusals != 1 || all[9].CutOff != 1 {
		t.Errorf("%+v", all)
	}
}

func TestSourcesAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "creds.json")
	if err := os.WriteFile(path, []byte(`{"username":"app","password":"`+password+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	src, err := sqlrotate.NewFileSource(path, sqlrotate.FileOptions{PollOnly: true, Settle: -1, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	cached, err := sqlrotate.NewCachedSource(src, sqlrotate.CacheOptions{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer cached.Close()
	a := start(t, sqlrotate.InPlace())
	if err := errors.Join(a.page.AddFile("creds", src), a.page.AddCache("cache", cached)); err != nil {
		t.Fatal(err)
	}
	if a.page.AddCache("creds", cached) == nil || a.page.AddConnector("orders", a.c) == nil {
		t.Error("two of one name")
	}
	a.says("file creds ("+path+` json): user "app", `, "cache cache: ", "window: no overlap; a connection lives no limit")
	if err := os.WriteFile(path, []byte(`{"username":"app","password":"`+password), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _ = src.Credential(t.Context())                                      // it looks
	a.says("differs from what is loaded: refused", " failures, the first ") // the poll may have looked, too
	if r := a.report(); len(r.Sources) != 2 || r.Sources[0].Divergence != "refused" || r.Sources[0].DivergedSince.IsZero() || r.Sources[0].Err == "" {
		t.Errorf("%+v", r.Sources)
	}
}

// What others named adds no lines, and a page can't be changed.
func TestRequests(t *testing.T) {
	page := health.NewPage()
	a := start(t, sqlrotate.Window{Overlap: time.Hour})
	if err := page.AddConnector("a\nb\x1b[2J", a.c); err != nil {
		t.Fatal(err)
	}
	if body := get(t, page, "/").Body.String(); !strings.Contains(body, "connector a b [2J: NOT READY") {
		t.Error(body)
	}
	for _, h := range []http.Handler{page, page.Ready()} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Error("POST:", w.Code)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("Accept", "application/json")
	w := httptest.NewRecorder()
	page.ServeHTTP(w, r)
	if !json.Valid(w.Body.Bytes()) || strings.Contains(w.Body.String(), "null") || strings.Contains(w.Body.String(), "0001-01-01") {
		t.Error(w.Body)
	}
}
