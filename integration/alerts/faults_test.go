package alerts

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// A minute of the rules is two seconds here.
const (
	scale    = 30
	every    = 200 * time.Millisecond
	interval = scale * every
	patience = 30 * time.Second
)

// Each fault is made and mended under load, and what the collector says all the while is
// played to the rules.
func TestFaults(t *testing.T) {
	t.Attr("needs", "quiet")
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Fatal("promtool is needed; Debian has it in the package prometheus: ", err)
	}
	server := pgtest.New(t, pgtest.Options{})
	meter := stall.Watch(t)
	for i, fault := range []struct {
		name string
		play func(a *app)
	}{
		{"what is written is no credential", notLoaded},
		{"the watcher is dead", notChecked},
		{"the file is gone", sourceFails},
		{"nobody writes the file any more", neglected},
		{"the new role is not there yet", refused},
		{"the role in use is dropped", roleDead},
		{"a connection is in use for too long", heldTooLong},
		{"no successor comes", overdue},
		{"the file arrives later than is meant", late},
		{"a connection is in use for longer than is meant", usedForTooLong},
		{"the process is stopped", func(a *app) { starved(a, false) }},
		{"the process of an idle application is stopped", func(a *app) { starved(a, true) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			a := &app{T: t, meter: meter, began: time.Now(), name: fmt.Sprintf("fault%d", i), server: server, path: filepath.Join(t.TempDir(), "creds.json"), recording: &Recording{Scale: scale, Interval: interval}}
			fault.play(a)
			a.play()
		})
	}
}

// An app is a process with a pool, as far as its metrics show.
type app struct {
	*testing.T
	meter     *stall.Meter
	began     time.Time
	server    *pgtest.Server
	path      string
	name      string // its roles begin with it
	roles     int
	role      string
	*program               // if it runs in this process
	scrapes   http.Handler // its metrics
	recording *Recording
	last      string // scrape
	expect    []Expectation
}

func (a *app) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// newRole makes a role that can log in.
func (a *app) newRole() string {
	a.roles++
	a.role = fmt.Sprintf("%s_%d", a.name, a.roles)
	a.must(a.server.CreateRole(a.Context(), a.role, "s3cret"))
	return a.role
}

func content(role string) string {
	return fmt.Sprintf(`{"username":%q,"password":"s3cret"}`, role)
}

func ending(role string, in time.Duration) string {
	return fmt.Sprintf(`{"username":%q,"password":"s3cret","expires_at":%q}`, role, time.Now().Add(in).Format(time.RFC3339Nano))
}

// replace puts a file in place as a whole.
func (a *app) replace(text string) {
	a.Helper()
	a.must(os.WriteFile(a.path+".new", []byte(text), 0o600))
	a.must(os.Rename(a.path+".new", a.path))
}

// start starts it, with queries all the time.
func (a *app) start(adjust func(*sqlrotate.Config, *sqlrotate.FileOptions)) {
	a.Helper()
	p, err := begin(a.Context(), a.server.DSN(), a.path, false, adjust)
	a.must(err)
	if old := a.program; old != nil {
		p.failed.Add(old.failed.Load())
	}
	a.program, a.scrapes = p, p.metrics
	a.Cleanup(func() { a.must(p.stop()) })
}

// scrape scrapes for so long, as the rules have it, and then until the last scrape says
// what is wanted.
func (a *app) scrape(d time.Duration, until func() bool) {
	a.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	for {
		<-tick.C
		reached := scale*time.Since(began) >= d && (until == nil || until()) // before the scrape, which so shows it
		at := time.Now()
		answer := httptest.NewRecorder()
		a.scrapes.ServeHTTP(answer, httptest.NewRequestWithContext(a.Context(), http.MethodGet, "/metrics", nil))
		if answer.Code != http.StatusOK {
			a.Fatal(answer.Body)
		}
		a.last = answer.Body.String()
		a.must(a.recording.Add(at, answer.Body))
		switch took := time.Since(began); {
		case reached:
			return
		case scale*took > d && took > patience:
			a.Fatalf("after %v it is still not as it should be", took)
		}
	}
}

// now expects of the last scrape that alert fires, or doesn't.
func (a *app) now(fires bool, alerts ...string) { a.at(a.recording.Len()-1, fires, alerts...) }

func (a *app) at(scrape int, fires bool, alerts ...string) {
	for _, alert := range alerts {
		a.expect = append(a.expect, Expectation{alert, scrape, fires})
	}
}

// in expects that an alert that waits for a minute fires 100 s after then, and not in the
// first 24 s.
func (a *app) in(then time.Time, alert string) {
	a.Helper()
	for _, x := range []struct {
		after time.Duration
		fires bool
	}{{0, false}, {24 * time.Second, false}, {100 * time.Second, true}} {
		scrape, ok := a.recording.Since(then, x.after)
		if !ok {
			a.Fatalf("nothing was recorded %v after the fault", x.after)
		}
		a.at(scrape, x.fires, alert)
	}
}

// unharmed fails the test if a query has failed.
func (a *app) unharmed() {
	a.Helper()
	if n := a.failed.Load(); n > 0 {
		a.Errorf("%d queries failed", n)
	}
}

// works says that the file's login is in use and has proven itself.
func (a *app) works() bool {
	v := a.connector.Stats().Versions[0]
	return v.Username == a.role && v.Proven && v.RefusedSince.IsZero()
}

// play has promtool say whether the rules do what is expected.
func (a *app) play() {
	a.Helper()
	rules, err := filepath.Abs("../../examples/prometheus/rules.yaml")
	a.must(err)
	name := filepath.Join(a.TempDir(), "test.yaml")
	f, err := os.Create(name)
	a.must(err)
	a.must(errors.Join(a.recording.Write(f, rules, a.expect), f.Close()))
	out, err := exec.CommandContext(a.Context(), "promtool", "test", "rules", name).CombinedOutput()
	if err != nil {
		text, _ := os.ReadFile(name)
		// What is expected stands a scrape away from what isn't.
		a.meter.Blame(a.began, time.Now(), every, "%v\n%s\nof\n%s", err, out, text)
	}
}

const (
	minute  = time.Minute
	settled = 45 * time.Second
)

// healthy starts the app and records that the alerts are quiet.
func (a *app) healthy(alerts ...string) {
	a.Helper()
	a.replace(content(a.newRole()))
	a.start(nil)
	a.scrape(settled, nil)
	a.now(false, alerts...)
}

// recovers publishes the login of a role, and expects that the alerts are quiet once it is
// in use, and that no query has failed.
func (a *app) recovers(role string, alerts ...string) {
	a.Helper()
	a.replace(content(role))
	a.isWell(alerts...)
}

// isWell expects that the file's login is in use, the alerts are quiet and no query has failed.
func (a *app) isWell(alerts ...string) {
	a.Helper()
	a.scrape(settled, a.works)
	a.now(false, alerts...)
	a.unharmed()
}

func notLoaded(a *app) {
	const alert = "SqlrotateFileNotLoaded"
	a.healthy(alert)
	a.replace(`{"username":"app"`)
	fault := time.Now()
	a.scrape(2*minute, nil)
	a.in(fault, alert)
	a.recovers(a.newRole(), alert)
}

func notChecked(a *app) {
	const alert = "SqlrotateFileNotChecked"
	a.healthy(alert)
	a.must(a.src.Close())
	fault := time.Now()
	a.replace(content(a.newRole())) // nobody sees it
	a.scrape(2*minute, nil)
	a.in(fault, alert)
	a.unharmed()
	a.must(a.stop())
	a.start(nil)
	a.isWell(alert)
}

func sourceFails(a *app) {
	const alert = "SqlrotateSourceFailing"
	a.healthy(alert)
	a.must(os.Remove(a.path))
	fault := time.Now()
	a.scrape(2*minute, nil)
	a.in(fault, alert)
	a.recovers(a.newRole(), alert)
}

func neglected(a *app) {
	const alert = "SqlrotateSourceUnwell"
	const maxAge = 3 * time.Second
	a.replace(content(a.newRole()))
	a.start(func(_ *sqlrotate.Config, opt *sqlrotate.FileOptions) { opt.MaxAge = maxAge })
	a.scrape(settled, nil)
	a.now(false, alert)
	late := time.Now().Add(maxAge - a.src.Status().UnchangedFor)
	a.scrape(0, func() bool { return time.Now().After(late) })
	a.scrape(2*minute, nil)
	a.in(late, alert)
	a.recovers(a.newRole(), alert)
}

func refused(a *app) {
	const alert = "SqlrotateCredentialRefused"
	a.healthy(alert)
	next := "next_" + a.role
	a.replace(content(next))
	fault := time.Now()
	a.scrape(2*minute, nil)
	a.in(fault, alert)
	a.must(a.server.CreateRole(a.Context(), next, "s3cret"))
	a.role = next
	a.isWell(alert)
}

func roleDead(a *app) {
	const dead, stuck = "SqlrotateRoleInUseDead", "SqlrotateCannotConnect"
	a.healthy(dead, stuck)
	a.must(a.server.RevokeRole(a.Context(), a.role))
	a.scrape(0, func() bool { return a.failed.Load() > 0 })
	a.scrape(3*minute, nil)
	a.now(true, dead, stuck)
	a.replace(content(a.newRole()))
	a.scrape(settled, a.works)
	a.now(false, dead, stuck)
}

// heldTooLong is two alerts: one before the connection is cut off, and one after it.
func heldTooLong(a *app) {
	const near, cut = "SqlrotateOldConnectionsNearEnd", "SqlrotateConnectionsCutOff"
	const overlap = 4 * time.Second
	a.replace(content(a.newRole()))
	a.start(func(cfg *sqlrotate.Config, _ *sqlrotate.FileOptions) {
		cfg.Window = sqlrotate.Window{Overlap: overlap, Lag: 100 * time.Millisecond, MaxInUse: 500 * time.Millisecond}
	})
	conn, err := a.db.Conn(a.Context())
	a.must(err)
	defer func() { _ = conn.Close() }()
	a.scrape(settled, nil)
	a.now(false, near, cut)
	a.replace(content(a.newRole()))
	fault := time.Now()
	a.scrape(settled, a.works)
	a.now(false, near, cut)
	a.scrape(0, func() bool { return time.Since(fault) > overlap-300*time.Millisecond })
	a.now(true, near)
	a.now(false, cut)
	a.scrape(settled, func() bool { return conn.PingContext(a.Context()) != nil })
	a.now(false, near)
	a.now(true, cut)
	a.scrape(6*minute, nil)
	a.now(false, near, cut)
	a.unharmed()
}

func overdue(a *app) {
	const alert = "SqlrotateSuccessorOverdue"
	a.replace(ending(a.newRole(), 12*time.Second))
	a.start(nil)
	loaded := a.src.Status().LoadedAt // the last quarter begins 9 s after it
	a.scrape(0, func() bool { return time.Since(loaded) > 7*time.Second })
	a.now(false, alert)
	a.scrape(0, func() bool { return time.Since(loaded) > 11*time.Second })
	a.now(true, alert)
	a.replace(content(a.newRole()))
	a.scrape(settled, a.works)
	a.now(false, alert)
}

func late(a *app) {
	const alert = "SqlrotateWindowTooSmall"
	a.replace(content(a.newRole()))
	a.start(func(cfg *sqlrotate.Config, opt *sqlrotate.FileOptions) {
		cfg.Window.Lag, opt.Settle = 500*time.Millisecond, 1500*time.Millisecond
	})
	a.scrape(settled, nil)
	a.now(false, alert)
	// A bare login that is written in place is believed when it has been left alone.
	a.must(os.WriteFile(a.path, []byte("username="+a.newRole()+"\npassword=s3cret\n"), 0o600))
	a.scrape(settled, a.works)
	a.scrape(settled, nil)
	a.now(true, alert)
	a.must(a.stop())
	a.start(func(cfg *sqlrotate.Config, opt *sqlrotate.FileOptions) {
		cfg.Window.Lag, opt.Settle = 5*time.Second, 1500*time.Millisecond
	})
	a.must(os.WriteFile(a.path, []byte("username="+a.newRole()+"\npassword=s3cret\n"), 0o600))
	a.isWell(alert)
}

func usedForTooLong(a *app) {
	const alert = "SqlrotateWindowTooSmall"
	a.healthy(alert) // with a MaxInUse of a second
	done := make(chan error, 1)
	db := a.db
	go func() { _, err := db.ExecContext(a.Context(), "select pg_sleep(2.5)"); done <- err }()
	a.scrape(settled, func() bool { return a.connector.Stats().Observed.LongestUse.Took > 1200*time.Millisecond })
	a.scrape(0, nil)
	a.now(true, alert)
	if len(done) > 0 {
		a.Error("it is told only when it is over")
	}
	a.must(<-done)
	a.scrape(settled, nil)
	a.now(true, alert)
	a.must(a.stop())
	a.start(func(cfg *sqlrotate.Config, _ *sqlrotate.FileOptions) { cfg.Window.MaxInUse = 5 * time.Second })
	if _, err := a.db.ExecContext(a.Context(), "select pg_sleep(2.5)"); err != nil {
		a.Error(err)
	}
	a.isWell(alert)
}

// starved is a process of its own, which is stopped.
func starved(a *app, idle bool) {
	const alert = "SqlrotateProcessStarved"
	a.replace(content(a.newRole()))
	child := a.spawn(idle)
	a.scrape(settled, nil)
	a.now(false, alert)
	a.must(child.Signal(syscall.SIGSTOP))
	time.Sleep(2 * time.Second) // that is the fault: a minute of the rules
	a.must(child.Signal(syscall.SIGCONT))
	a.scrape(settled, nil)
	a.now(true, alert)
	for _, metric := range []string{"timers_late_seconds_total", "file_timers_late_seconds_total", "observed_timer_lateness_seconds"} {
		match := regexp.MustCompile("(?m)^sqlrotate_" + metric + "{.*} (.*)$").FindStringSubmatch(a.last)
		if idle && !strings.HasPrefix(metric, "file_") {
			continue // a connector that is idle may have no timer
		}
		if match == nil {
			a.Errorf("there is no %s", metric)
		} else if late, err := strconv.ParseFloat(match[1], 64); err != nil || late < 1 {
			a.Errorf("%s is %s", metric, match[1])
		}
	}
	a.scrape(6*minute, nil)
	a.now(false, alert)
}
