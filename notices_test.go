package sqlrotate

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// events keeps what it is told, in its order.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

func (e *events) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

// handler is a slog.Handler that adds messages to it.
type eventHandler struct {
	slog.Handler
	*events
}

func (h eventHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h eventHandler) Handle(_ context.Context, r slog.Record) error {
	h.add("%s", r.Message)
	return nil
}

// trace adds the callbacks to it.
func (e *events) trace() *Trace {
	return &Trace{
		Rotated:  func(v VersionStats) { e.add("Rotated %d", v.Number) },
		Proven:   func(v VersionStats) { e.add("Proven %d", v.Number) },
		Refused:  func(v VersionStats, _ error) { e.add("Refused %d", v.Number) },
		Closed:   func(v VersionStats, reason CloseReason, _ time.Duration) { e.add("Closed %d %s", v.Number, reason) },
		Outlived: func(v VersionStats, _ time.Duration) { e.add("Outlived %d", v.Number) },
	}
}

// Log lines and callbacks come in one order, that of what happened, and all of it has been
// told when Close returns.
func TestNoticesComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &events{}
		r := newRig(t, func(cfg *Config) {
			cfg.Logger = slog.New(eventHandler{slog.DiscardHandler, e})
			cfg.Trace = e.trace()
			cfg.RetryTimeout = -1
		})
		end := time.Now().Add(time.Minute)
		r.lease(end)
		conn, err := r.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		time.Sleep(time.Until(end) + time.Second)
		r.rotate("v2")
		if err := r.query("0s"); err != nil {
			t.Fatal(err)
		}
		r.source.publish("nobody", "of that name")
		if conn, err := r.c.Connect(t.Context()); err == nil { // with v2
			_ = conn.Close()
		}
		_ = r.db.Close()
		want := []string{
			"sqlrotate: the credential is accepted", "Proven 1",
			"sqlrotate: closing a connection that outlives its credential", "Outlived 1", "Closed 1 expired",
			"sqlrotate: new credential", "Rotated 2", "sqlrotate: the credential is accepted", "Proven 2",
			"sqlrotate: new credential", "Rotated 3", "sqlrotate: the server refuses the credential", "Refused 3",
		}
		got := e.all()
		i := 0
		for _, event := range got {
			if i < len(want) && event == want[i] {
				i++
			}
		}
		if i < len(want) {
			t.Errorf("%q is missing, or comes too early:\n%s", want[i], strings.Join(got, "\n"))
		}
	})
}

// A logger or callback that hangs holds up nothing: not logins, queries, rotations, the hard
// end, nor Close; and it is known.
func TestNoticesHoldUpNobody(t *testing.T) {
	for name, hang := range map[string]func(*Config, <-chan struct{}){
		"Logger": func(cfg *Config, released <-chan struct{}) {
			cfg.Logger = slog.New(stuckHandler{slog.DiscardHandler, released})
		},
		"Trace": func(cfg *Config, released <-chan struct{}) {
			cfg.Trace = &Trace{
				Rotated:  func(VersionStats) { <-released },
				Proven:   func(VersionStats) { <-released },
				Refused:  func(VersionStats, error) { <-released },
				Closed:   func(VersionStats, CloseReason, time.Duration) { <-released },
				Outlived: func(VersionStats, time.Duration) { <-released },
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				released := make(chan struct{})
				r := newRig(t, func(cfg *Config) {
					cfg.Window = Window{Overlap: 2 * time.Minute, Lag: 10 * time.Second, MaxInUse: 20 * time.Second}
					hang(cfg, released)
				})
				defer synctest.Wait()
				defer close(released)
				r.fill(5)
				for i := range 10 {
					user := fmt.Sprint("v", i+2)
					start := time.Now()
					r.rotate(user)
					conn, err := r.c.Connect(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if err := r.query("1ms"); err != nil {
						t.Error(err)
					}
					if took := time.Since(start); took > 100*time.Millisecond {
						t.Errorf("a login and a query took %v", took)
					}
					_ = conn.Close()
					time.Sleep(30 * time.Second)
					if n := r.server.open(fmt.Sprint("v", i+1)); n > 0 {
						t.Errorf("%d old sessions", n)
					}
				}
				if n := r.c.Stats().NoticesDropped; n == 0 {
					t.Error("none was dropped")
				}
				if err := r.c.CheckHealth(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "hangs") {
					t.Errorf("the health report says %v", err)
				}
				start := time.Now()
				_ = r.db.Close()
				if took := time.Since(start); took > time.Second {
					t.Errorf("Close took %v", took)
				}
			})
		})
	}
}

// Those who are slow are told of what they have missed.
func TestNoticesThatAreTooManyAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &events{}
		calls := newCalls(&tasks{}, 0)
		n := newNotices("", slog.New(eventHandler{slog.DiscardHandler, e}), nil, calls)
		n.callback(func() { time.Sleep(noticeTimeout / 2) })
		synctest.Wait()
		for i := range maxNotices + 10 {
			n.log(slog.LevelInfo, fmt.Sprint("line ", i))
		}
		if got := n.drops(); got != 10 {
			t.Errorf("%d were dropped", got)
		}
		calls.tasks.wait(time.Minute)
		got := e.all()
		if len(got) != maxNotices+1 || !strings.Contains(got[0], "were dropped") || got[1] != "line 0" || got[maxNotices] != fmt.Sprint("line ", maxNotices-1) {
			t.Errorf("%d lines: %q, %q, ..., %q", len(got), got[0], got[1], got[len(got)-1])
		}
	})
}

// Callbacks may use the connector and the pool, even Close, and a panic in one is no more
// than a line in the log.
func TestCallbacksMayDoAnything(t *testing.T) {
	for name, do := range map[string]func(r *rig){
		"Stats":   func(r *rig) { _ = r.c.Stats() },
		"Healthy": func(r *rig) { _ = r.c.CheckHealth() },
		"Ping":    func(r *rig) { _ = r.db.PingContext(context.Background()) },
		"Close":   func(r *rig) { _ = r.c.Close() },
		"close":   func(r *rig) { _ = r.db.Close() },
		"panic":   func(*rig) { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &logbook{}
				returned := make(chan struct{}, 100)
				var r *rig
				ready := make(chan struct{})
				r = newRig(t, func(cfg *Config) {
					cfg.Logger = log.logger()
					f := func() {
						<-ready
						defer func() { returned <- struct{}{} }()
						do(r)
					}
					cfg.Trace = &Trace{
						Rotated: func(VersionStats) { f() },
						Proven:  func(VersionStats) { f() },
						Closed:  func(VersionStats, CloseReason, time.Duration) { f() },
					}
				})
				close(ready)
				_ = r.db.PingContext(t.Context()) // closed meanwhile, perhaps
				select {
				case <-returned:
				case <-time.After(2 * time.Second):
					t.Fatal("the callback does not return")
				}
				if strings.HasPrefix(strings.ToLower(name), "close") {
					return
				}
				r.rotate("v2")
				time.Sleep(time.Minute)
				if err := r.query("0s"); err != nil || r.server.open("v1") > 0 {
					t.Errorf("%v; %d old sessions", err, r.server.open("v1"))
				}
				if said := strings.Contains(log.String(), "panicked with a value of type string"); said != (name == "panic") || strings.Contains(log.String(), "boom") {
					t.Errorf("the log:\n%s", log)
				}
			})
		})
	}
}
