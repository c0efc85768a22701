package containers

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// report is what the application prints; see sidecar.
type report struct {
	Done     int
	Slowest  time.Duration
	Failures []struct {
		From, To time.Time
		Err      string
	}
	Username string
	Proven   bool
	Seen     time.Time
	Told     string
	ToldAt   time.Time
	Healthy  string
	Outlived uint64
	Books    string
}

// pod is an application and an agent, each in a container of its own with nothing
// but a static program in it, a volume that they share, and a database.
type pod struct {
	*testing.T
	name     string // prefix of everybody's
	image    string // of the database
	addr     string // of the database, in the network
	port     int    // and at the host
	admin    string // its password
	server   *pgtest.Server
	agent    io.WriteCloser
	role     string
	roles    int
	secrets  []string
	said     strings.Builder // by containers that are gone
	revoking sync.WaitGroup
	reach    sync.RWMutex // held while the database is away

	mu      sync.Mutex
	last    report
	outages [][2]time.Time
}

// podOverlap is what the application is told, with room for a pause of 5 s: a query
// that the pause holds past the end of its credential would be cut off.
const podOverlap = 12 * time.Second

// connectTimeout is how long after an outage a login that began in it may still fail,
// with those that wait for it.
const connectTimeout = 2 * time.Second

// An application and its agent as they are deployed: events cross from one container
// to the other, and the database's container may be paused, restarted and replaced
// in the middle of a rotation.
func TestSidecar(t *testing.T) {
	t.Attr("needs", "quiet")
	p := &pod{T: t, name: "sqlrotate-" + strings.ToLower(rand.Text()[:8]), image: images(t)[0], admin: rand.Text()}
	p.secrets = []string{p.admin}
	sidecar := scratch(t, "sidecar")
	// Docker lets only those choose an address who have chosen the network's.
	docker(t, "network", "create", p.name)
	subnet := docker(t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", p.name)
	docker(t, "network", "rm", p.name)
	docker(t, "network", "create", "--subnet", subnet, p.name)
	prefix, err := netip.ParsePrefix(subnet)
	if err != nil {
		t.Fatal(err)
	}
	// An address and no name: one that a stopped container has taken with it is
	// asked for elsewhere, and Go has later logins wait for that answer.
	ip := prefix.Masked().Addr().As4()
	ip[3] += 10
	p.addr = netip.AddrFrom4(ip).String()
	docker(t, "volume", "create", p.name+"-data")
	docker(t, "volume", "create", p.name+"-secret")
	t.Cleanup(func() {
		_ = exec.Command("docker", "rm", "--force", "--volumes", p.name+"-db", p.name+"-app", p.name+"-agent").Run()
		_ = exec.Command("docker", "volume", "rm", p.name+"-data", p.name+"-secret").Run()
		_ = exec.Command("docker", "network", "rm", p.name).Run()
	})
	p.port = freePort(t)
	p.startDatabase()
	t.Setenv("SQLROTATE_TEST_POSTGRES", fmt.Sprintf("host=127.0.0.1 port=%d user=admin password=%s dbname=app sslmode=disable", p.port, p.admin))
	p.server = pgtest.New(t, pgtest.Options{})
	p.server.Admin().SetMaxIdleConns(0) // none that an outage would have cut
	if err := ledger.Create(t.Context(), p.server.Admin()); err != nil {
		t.Fatal(err)
	}
	// A server that is killed may have written what it has not acknowledged, and
	// database/sql runs that again: the second one is to fail.
	if _, err := p.server.Admin().ExecContext(t.Context(), "alter table entry add primary key (id)"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.revoking.Wait)
	p.startPod(sidecar)

	var lags []time.Duration
	for range 4 {
		lags = append(lags, p.rotate(nil))
		p.more(1000)
	}
	if p.failures() > 0 {
		t.Error("operations failed in ordinary rotations")
	}
	t.Logf("events told the application of a new login %v after it was published", lags)
	p.revoking.Wait() // no connection of an older login is caught by the pause

	for _, trouble := range []struct {
		name string
		do   func()
	}{
		{"paused for 5 s", func() {
			docker(t, "pause", p.name+"-db")
			<-time.After(5 * time.Second)
			docker(t, "unpause", p.name+"-db")
		}},
		{"stopped for 2 s", func() {
			docker(t, "stop", p.name+"-db")
			<-time.After(2 * time.Second)
			docker(t, "start", p.name+"-db")
		}},
		{"replaced", func() {
			p.said.WriteString(p.logs(p.name + "-db"))
			docker(t, "rm", "--force", "--volumes", p.name+"-db")
			p.startDatabase()
		}},
	} {
		before := p.failures()
		from := time.Now()
		var up time.Time
		p.rotate(func() {
			trouble.do()
			p.awaitDatabase()
			up = time.Now()
		})
		p.more(500)
		p.mu.Lock()
		p.outages = append(p.outages, [2]time.Time{from, up.Add(connectTimeout)})
		p.mu.Unlock()
		t.Logf("database %s: away for %v, the application works %v after it is back, %d operations failed meanwhile",
			trouble.name, up.Sub(from).Round(time.Millisecond), time.Since(up).Round(time.Millisecond), p.failures()-before)
	}
	p.rotate(nil)
	p.revoking.Wait()
	p.finish()
}

// startDatabase starts the database's container, on the volume that there is.
func (p *pod) startDatabase() {
	p.Helper()
	docker(p, "run", "--detach", "--name", p.name+"-db", "--stop-signal", "SIGINT", "--network", p.name, "--ip", p.addr,
		"--publish", fmt.Sprintf("127.0.0.1:%d:5432", p.port), "--volume", p.name+"-data:/pgdata",
		"--env", "PGDATA=/pgdata/data", "--env", "POSTGRES_USER=admin", "--env", "POSTGRES_PASSWORD="+p.admin, "--env", "POSTGRES_DB=app",
		p.image)
	p.awaitDatabase()
}

func (p *pod) awaitDatabase() {
	p.Helper()
	dsn := fmt.Sprintf("postgres://admin:%s@127.0.0.1:%d/app?sslmode=disable", p.admin, p.port)
	for end := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		if ping(p.Context(), dsn) == nil {
			return
		}
		if time.Now().After(end) {
			p.Fatal("the database doesn't answer")
		}
	}
}

// startPod starts the two containers, with a login to begin with.
func (p *pod) startPod(image string) {
	p.Helper()
	agent := exec.Command("docker", "run", "--interactive", "--name", p.name+"-agent", "--volume", p.name+"-secret:/secret", image, "agent", "/secret/db.json")
	agent.Stderr = os.Stderr
	var err error
	if p.agent, err = agent.StdinPipe(); err != nil {
		p.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _, _ = p.agent.Close(), agent.Wait() })
	p.publish()

	log, err := os.Create(filepath.Join(p.TempDir(), "app"))
	if err != nil {
		p.Fatal(err)
	}
	app := exec.Command("docker", "run", "--name", p.name+"-app", "--network", p.name, "--volume", p.name+"-secret:/secret:ro",
		image, "app", "/secret/db.json", fmt.Sprintf("host=%s dbname=%s sslmode=disable connect_timeout=%d", p.addr, p.server.Database(), int(connectTimeout.Seconds())))
	app.Stderr = log
	out, err := app.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := app.Start(); err != nil {
		p.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.follow(out)
	}()
	p.Cleanup(func() {
		_ = exec.Command("docker", "stop", p.name+"-app").Run()
		<-read
		_ = app.Wait()
		if said, err := os.ReadFile(log.Name()); err == nil && p.Failed() {
			p.Logf("the application says:\n%s", said)
		}
		_ = log.Close()
	})
	p.more(100)
}

// follow reads the application's reports.
func (p *pod) follow(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			p.Errorf("%v: %s", err, lines.Text())
			return
		}
		p.mu.Lock()
		r.Failures = append(p.last.Failures, r.Failures...)
		p.last = r
		p.mu.Unlock()
	}
}

func (p *pod) get() report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *pod) failures() int { return len(p.get().Failures) }

func (p *pod) eventually(limit time.Duration, what string, f func() bool) {
	p.Helper()
	m := stall.Watch(p)
	defer m.Stop()
	m.Eventually(limit, what, f, func() string { return fmt.Sprintf("%+v", p.get()) })
}

// more waits until n more operations are done than have failed.
func (p *pod) more(n int) {
	p.Helper()
	r := p.get()
	good := r.Done - len(r.Failures)
	p.eventually(time.Minute, "more operations", func() bool { r := p.get(); return r.Done-len(r.Failures) > good+n })
}

// publish makes a role and gives its login to the agent.
func (p *pod) publish() (at time.Time) {
	p.Helper()
	p.roles++
	role, password := fmt.Sprintf("app_%d", p.roles), rand.Text()
	if err := p.server.CreateRole(p.Context(), role, password); err != nil {
		p.Fatal(err)
	}
	p.secrets = append(p.secrets, password)
	at = time.Now()
	if _, err := fmt.Fprintf(p.agent, `{"username":%q,"password":%q}`+"\n", role, password); err != nil {
		p.Fatal(err)
	}
	p.role = role
	return at
}

// rotate publishes a login, lets trouble happen, waits for the login to be in use,
// and returns how long it took an event to tell of it. The one before is dropped when
// its overlap is over.
func (p *pod) rotate(trouble func()) time.Duration {
	p.Helper()
	old := p.role
	at := p.publish()
	if trouble != nil {
		func() {
			p.reach.Lock()
			defer p.reach.Unlock()
			trouble()
		}()
	}
	p.revoking.Go(func() {
		<-time.After(time.Until(at.Add(podOverlap)))
		p.reach.RLock()
		defer p.reach.RUnlock()
		if n, err := p.server.Sessions(p.Context(), old); err != nil || n > 0 {
			p.Attr("failure", "grave")
			p.Errorf("%d sessions of %s are open when it is revoked (%v); %+v", n, old, err, p.get())
		}
		if err := p.server.RevokeRole(p.Context(), old); err != nil {
			p.Error(err)
		}
	})
	p.eventually(30*time.Second, "the new login is in use", func() bool {
		r := p.get()
		return r.Username == p.role && r.Proven
	})
	p.eventually(5*time.Second, "an event has told of the new login", func() bool { return p.get().Told == p.role })
	return p.get().ToldAt.Sub(at).Round(time.Microsecond)
}

// finish stops the application and looks at what there is.
func (p *pod) finish() {
	p.Helper()
	docker(p, "stop", p.name+"-app")
	p.eventually(10*time.Second, "the application's last report", func() bool { return p.get().Books != "" })
	r := p.get()
	if r.Books != "kept" {
		p.Attr("failure", "grave")
		p.Error(r.Books)
	}
	for _, f := range r.Failures {
		excused := false
		for _, o := range p.outages {
			excused = excused || f.From.Before(o[1]) && f.To.After(o[0])
		}
		if !excused {
			p.Errorf("failed from %v to %v: %s", f.From, f.To, f.Err)
		}
	}
	if r.Outlived > 0 {
		p.Attr("failure", "grave")
		p.Errorf("%d connections outlived their credential", r.Outlived)
	}
	p.Logf("%d operations, the slowest took %v; %d failed, all while the database was away", r.Done, r.Slowest.Round(time.Millisecond), len(r.Failures))

	app := p.logs(p.name + "-app")
	if !strings.Contains(app, p.role) {
		p.Error("the application's log isn't all there")
	}
	for what, text := range map[string]string{
		"logs":       app + p.logs(p.name+"-agent") + p.logs(p.name+"-db") + p.said.String(),
		"inspection": docker(p, "inspect", p.name+"-app", p.name+"-agent"), // the database's has its administrator's
		"history":    docker(p, "history", "--no-trunc", "sqlrotate-sidecar:test"),
	} {
		for _, secret := range p.secrets {
			if strings.Contains(text, secret) {
				p.Attr("failure", "grave")
				p.Errorf("a password is in the %s of the containers", what)
			}
		}
	}
}

// logs returns all that a container has printed.
func (p *pod) logs(container string) string {
	p.Helper()
	said, err := exec.Command("docker", "logs", container).CombinedOutput()
	if err != nil {
		p.Fatalf("docker logs %s: %v\n%s", container, err, said)
	}
	return string(said)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
