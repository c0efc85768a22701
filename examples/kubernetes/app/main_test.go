package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// volume is a mounted Secret, as the kubelet keeps it: a symbolic link to the directory
// of a version is replaced, and then the old directory removed.
type volume struct {
	testing.TB
	dir     string
	version int
}

func (v *volume) publish(username, password string) {
	v.Helper()
	old := fmt.Sprintf("..version%d", v.version)
	v.version++
	dir := fmt.Sprintf("..version%d", v.version)
	do := func(err error) {
		v.Helper()
		if err != nil {
			v.Fatal(err)
		}
	}
	do(os.Mkdir(filepath.Join(v.dir, dir), 0o755))
	do(os.WriteFile(filepath.Join(v.dir, dir, "username"), []byte(username), 0o440))
	do(os.WriteFile(filepath.Join(v.dir, dir, "password"), []byte(password), 0o440))
	do(os.Symlink(dir, filepath.Join(v.dir, "..data_tmp")))
	do(os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	if v.version == 1 {
		do(os.Symlink("..data/username", filepath.Join(v.dir, "username")))
		do(os.Symlink("..data/password", filepath.Join(v.dir, "password")))
		return
	}
	do(os.RemoveAll(filepath.Join(v.dir, old)))
}

// application is run, under way.
type application struct {
	testing.TB
	address map[string]string // by what was asked for
	stop    context.CancelFunc
	ended   chan error
}

// start runs the application and waits until it serves orders at :0 and the rest at
// localhost:0.
func start(t *testing.T, args ...string) *application {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	a := &application{TB: t, address: map[string]string{}, stop: stop, ended: make(chan error, 1)}
	read, write := io.Pipe()
	go func() {
		a.ended <- run(ctx, append(args, "-listen=127.0.0.1:0", "-observe=localhost:0"), write)
		_ = write.Close()
	}()
	lines := bufio.NewScanner(read)
	for len(a.address) < 2 && lines.Scan() {
		var line struct{ Msg, Address, At string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		if line.Msg == "serving" {
			a.address[line.Address] = line.At
		}
	}
	if len(a.address) < 2 {
		t.Fatal(<-a.ended)
	}
	go func() { _, _ = io.Copy(io.Discard, read) }()
	t.Cleanup(stop)
	return a
}

// ask returns an answer's status and body.
func (a *application) ask(method, url string) (int, string, error) {
	request, err := http.NewRequestWithContext(a.Context(), method, url, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func (a *application) observed(path string) (int, string) {
	a.Helper()
	status, body, err := a.ask(http.MethodGet, "http://"+a.address["localhost:0"]+path)
	if err != nil {
		a.Fatal(err)
	}
	return status, body
}

func (a *application) orders() string { return "http://" + a.address["127.0.0.1:0"] + "/orders" }

// role returns who the application is to the server.
func (a *application) role() string {
	_, body, err := a.ask(http.MethodGet, a.orders())
	var answer struct{ Role string }
	if err != nil || json.Unmarshal([]byte(body), &answer) != nil {
		return body
	}
	return answer.Role
}

// Three logins come and go in a mounted Secret, and each role is dropped once its
// successor is in use. No order fails, and the probe and the metrics are there.
func TestOrdersThroughRotations(t *testing.T) {
	ctx := t.Context()
	server := pgtest.New(t, pgtest.Options{})
	if _, err := server.Admin().ExecContext(ctx, "create table app.orders (item text)"); err != nil {
		t.Fatal(err)
	}
	create := func(role string) {
		if err := server.CreateRole(ctx, role, "password of "+role); err != nil {
			t.Fatal(err)
		}
	}
	secret := &volume{TB: t, dir: t.TempDir()}
	create("orders_1")
	secret.publish("orders_1", "password of orders_1")

	a := start(t, "-credential="+secret.dir, "-dsn="+server.DSN(), "-overlap=10s", "-lag=1s", "-max-in-use=5s")
	if status, body := a.observed("/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}

	var orders atomic.Int64
	ctx, stop := context.WithCancel(ctx)
	var customers sync.WaitGroup
	defer customers.Wait()
	defer stop()
	for range 4 {
		customers.Go(func() {
			for ctx.Err() == nil {
				if status, body, err := a.ask(http.MethodPost, a.orders()+"?item=lamp"); err != nil || status != http.StatusCreated {
					t.Errorf("%d %s %v", status, body, err)
					return
				}
				orders.Add(1)
			}
		})
	}
	for n := 2; n <= 4; n++ {
		role, before := fmt.Sprintf("orders_%d", n), fmt.Sprintf("orders_%d", n-1)
		create(role)
		secret.publish(role, "password of "+role)
		stall.Watch(t).Eventually(30*time.Second, "no session of "+before+" is left", func() bool {
			sessions, err := server.Sessions(t.Context(), before)
			return err == nil && sessions == 0 && a.role() == role
		})
		if err := server.RevokeRole(t.Context(), before); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	customers.Wait()

	var kept int64
	if err := server.Admin().QueryRowContext(t.Context(), "select count(*) from app.orders").Scan(&kept); err != nil || kept != orders.Load() || kept == 0 {
		t.Errorf("%d orders are kept of %d (%v)", kept, orders.Load(), err)
	}
	if status, body := a.observed("/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	_, metrics := a.observed("/metrics")
	for _, want := range []string{`sqlrotate_rotations_total{connector="orders"} 3`, `sqlrotate_can_connect{connector="orders"} 1`, `go_sql_max_open_connections{db_name="orders"} 10`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if _, page := a.observed("/sqlrotate"); !strings.Contains(page, "orders_4") {
		t.Errorf("no orders_4 in\n%s", page)
	}
	a.stop()
	if err := <-a.ended; err != nil {
		t.Error(err)
	}
}

// What can't work ends the application with an error that says why, and no password.
func TestWhatEndsItAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.json")
	if err := os.WriteFile(path, []byte(`{"username":"nobody","password":"made up"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"an unknown flag", "not defined: -password", []string{"-password=made up"}},
		{"an argument", `"serve"`, []string{"serve"}},
		{"no credential", "no such file", []string{"-credential=" + path + ".none", "-wait-for=0", "-overlap=10m"}},
		{"no window", "window", []string{"-credential=" + path, "-dsn=host=127.0.0.1"}},
		{"a window that the lag fills", "nothing is left", []string{"-credential=" + path, "-dsn=host=127.0.0.1", "-overlap=90s"}},
		{"a login in the DSN", "password", []string{"-credential=" + path, "-dsn=host=127.0.0.1 password='made up'", "-overlap=10m"}},
		{"no server", "refused", []string{"-credential=" + path, "-dsn=host=127.0.0.1 port=1 sslmode=disable", "-overlap=10m"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := run(t.Context(), test.args, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "made up") {
				t.Error(err)
			}
		})
	}
}
