// The server process: its directory and its life.

package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lib/pq"
)

const (
	superuser    = "postgres"
	adminPool    = 5  // sessions that Admin may have at once
	reserved     = 10 // sessions that only a superuser can have
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
	pollEvery    = 10 * time.Millisecond
)

// StopMode is how [Server.Stop] ends a server.
type StopMode int

const (
	// Fast ends the sessions (57P01) and shuts down in order.
	Fast StopMode = iota
	// Immediate is a crash: sessions break off and the next start recovers.
	Immediate
)

type process struct {
	bin      string // directory of the server's binaries
	dir      string // holds everything; removed at the end
	owner    *owner
	password string // the superuser's
	port     int
	caFile   string

	watchdog *watchdog

	// turn is held by whoever starts, stops, pauses or configures the server, and
	// guards the fields below. These take their time: they wait for each other.
	turn     sync.Mutex
	settings map[string]string
	hba      []string
	cmd      *exec.Cmd
	exited   chan struct{} // closed when cmd has ended; nil before the first start
	paused   []int         // stopped processes, the postmaster first
}

// launch makes a cluster and starts a server on it.
func launch(ctx context.Context, o Options) (_ *process, err error) {
	bin, err := findBinaries("/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := &process{bin: bin, password: rand.Text(), settings: maps.Clone(o.Settings), hba: o.HBA}
	if p.settings == nil {
		p.settings = make(map[string]string)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.owner, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := p.makeDir(ctx); err != nil {
		return nil, err
	}
	if err := p.initdb(ctx); err != nil {
		return nil, err
	}
	if o.TLS {
		if err := p.enableTLS(); err != nil {
			return nil, err
		}
	}
	p.settings["max_connections"] = strconv.Itoa(o.maxConnections() + adminPool + reserved)
	return p, p.startOnFreePort(ctx)
}

// makeDir makes the directory that holds everything, and is removed with us.
func (p *process) makeDir(ctx context.Context) (err error) {
	if p.dir, err = p.owner.tempDir(); err != nil {
		return fmt.Errorf("pgtest: temporary directory: %w", err)
	}
	p.watchdog, err = watch(ctx, p.dir)
	return err
}

// command is a server program, run by the owner with nothing of our environment:
// PGDATA and its like, a locale and secrets stay out.
func (p *process) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + p.bin + ":/usr/bin:/bin", "LC_ALL=C", "HOME=" + p.dir}
	cmd.SysProcAttr = attributes(p.owner)
	return cmd
}

func (p *process) data() string    { return filepath.Join(p.dir, "data") }
func (p *process) logFile() string { return filepath.Join(p.dir, "log") }

func (p *process) initdb(ctx context.Context) error {
	passwords := filepath.Join(p.dir, "password")
	if err := p.write(passwords, p.password+"\n"); err != nil {
		return err
	}
	out, err := p.command(ctx, "initdb", "--no-sync", "-D", p.data(), "-U", superuser, "--pwfile="+passwords,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgtest: initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Remove(passwords)
}

// write puts a file where the server will read it.
func (p *process) write(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := p.owner.chown(path); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// writeConfig writes postgresql.conf and pg_hba.conf, and has the server check the
// former.
func (p *process) writeConfig(ctx context.Context) error {
	all := map[string]string{
		"listen_addresses":               "127.0.0.1",
		"port":                           strconv.Itoa(p.port),
		"unix_socket_directories":        "",
		"superuser_reserved_connections": strconv.Itoa(reserved),
		"password_encryption":            "scram-sha-256",
		"timezone":                       "UTC",
		// Nothing here needs to survive the machine.
		"fsync":              "off",
		"synchronous_commit": "off",
		"full_page_writes":   "off",
		// The log is read by Logins, and must not have passwords in it: no
		// statement is ever logged, not even one that fails.
		"log_destination":         "stderr",
		"logging_collector":       "off",
		"log_timezone":            "UTC",
		"log_line_prefix":         logPrefix,
		"log_connections":         "on",
		"log_disconnections":      "on",
		"log_statement":           "none",
		"log_min_error_statement": "panic",
	}
	maps.Copy(all, p.settings)
	var conf strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `''`)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", key, quote.Replace(all[key]))
	}
	if err := p.write(filepath.Join(p.data(), "postgresql.conf"), conf.String()); err != nil {
		return err
	}
	lines := p.hba
	if lines == nil {
		lines = []string{"host all all 127.0.0.1/32 scram-sha-256"}
	}
	admin := "host all,replication " + superuser + " 127.0.0.1/32 scram-sha-256\n"
	if err := p.write(filepath.Join(p.data(), "pg_hba.conf"), admin+strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	// Asked for one setting, the server reads them all and is not bothered by
	// another that runs.
	if out, err := p.command(ctx, "postgres", "-D", p.data(), "-C", "port").CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: the server refuses its configuration: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

var errPortTaken = errors.New("pgtest: the port is taken")

func (p *process) startOnFreePort(ctx context.Context) error {
	var err error
	for range 5 {
		if p.port, err = freePort(ctx); err != nil {
			return err
		}
		if err = p.start(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// freePort finds a port below those that the kernel hands to clients: there, a
// client could take it while the server is being restarted, or connect to itself.
func freePort(ctx context.Context) (int, error) {
	var listen net.ListenConfig
	var err error
	for range 100 {
		port := 20000 + mathrand.IntN(12000)
		var l net.Listener
		if l, err = listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("pgtest: no free port: %w", err)
}

// login is the superuser's.
func (p *process) login() pq.Config {
	cfg := pq.Config{
		Host: "127.0.0.1", Port: uint16(p.port), Database: "postgres", //nolint:gosec // freePort's are small
		User: superuser, Password: p.password, SSLMode: pq.SSLModeDisable,
		ConnectTimeout: stopTimeout,
	}
	if p.caFile != "" {
		cfg.SSLMode, cfg.SSLRootCert = pq.SSLModeVerifyFull, p.caFile
	}
	return cfg
}

func (p *process) running() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// start starts the server and returns when it lets the superuser in.
func (p *process) start(ctx context.Context) error {
	if p.running() {
		return nil
	}
	if err := p.writeConfig(ctx); err != nil {
		return err
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close() // the server has its own
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}

	// The server outlives the context of its start.
	cmd := p.command(context.WithoutCancel(ctx), "postgres", "-D", p.data())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pgtest: start the server: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	p.cmd, p.exited = cmd, exited

	err = poll(ctx, startTimeout, func() (bool, error) {
		if !p.running() {
			return false, p.startFailure(before)
		}
		return p.letsIn(ctx), nil
	})
	if err != nil {
		return errors.Join(err, p.stop(Immediate))
	}
	return nil
}

// startFailure says why a server ended that has written its log from offset on.
func (p *process) startFailure(offset int64) error {
	content, err := os.ReadFile(p.logFile())
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	last := content[min(offset, int64(len(content))):]
	if bytes.Contains(last, []byte("could not bind")) {
		return errPortTaken
	}
	return fmt.Errorf("pgtest: the server did not start: %s", bytes.TrimSpace(last))
}

func (p *process) letsIn(ctx context.Context) bool {
	db, err := openAdmin(p.login())
	if err != nil {
		return false
	}
	defer db.Close()
	return db.PingContext(ctx) == nil
}

// stop ends the server, more and more firmly, and returns when it has ended.
func (p *process) stop(mode StopMode) error {
	if !p.running() {
		return nil
	}
	if err := p.resume(); err != nil {
		return err
	}
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}
	if mode == Immediate {
		signals = signals[1:]
	}
	for _, sig := range signals {
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("pgtest: stop the server: %w", err)
		}
		select {
		case <-p.exited:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	return errors.New("pgtest: the server does not stop")
}

// close ends the server and removes its directory.
func (p *process) close() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	return errors.Join(p.stop(Fast), p.watchdog.end())
}

// pause stops the postmaster, so that there can be no new children, and then
// those it has: a network that swallows everything, as far as clients can tell.
func (p *process) pause(ctx context.Context) error {
	if len(p.paused) > 0 || !p.running() {
		return nil
	}
	postmaster := p.cmd.Process.Pid
	p.paused = []int{postmaster}
	if err := signal(postmaster, sigStop); err != nil {
		return err
	}
	err := poll(ctx, stopTimeout, func() (bool, error) {
		all, err := processes()
		return all[postmaster].state == "T", err
	})
	if err != nil {
		return errors.Join(err, p.resume())
	}
	all, err := processes()
	for pid, of := range all {
		if of.parent == postmaster {
			p.paused = append(p.paused, pid)
			err = errors.Join(err, signal(pid, sigStop))
		}
	}
	return err
}

func (p *process) resume() error {
	var errs []error
	for _, pid := range slices.Backward(p.paused) {
		errs = append(errs, signal(pid, sigCont))
	}
	p.paused = nil
	return errors.Join(errs...)
}

// signal sends a signal to a process that may have ended.
func signal(pid int, sig syscall.Signal) error {
	proc, err := os.FindProcess(pid)
	if err == nil {
		err = proc.Signal(sig)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pgtest: signal: %w", err)
	}
	return nil
}

type processInfo struct {
	state  string // T: stopped
	parent int
}

// processes lists the machine's processes from /proc, which Linux has.
func processes() (map[int]processInfo, error) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	if len(files) == 0 {
		return nil, fmt.Errorf("pgtest: no processes in /proc: %w", errors.ErrUnsupported)
	}
	all := make(map[int]processInfo)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent ..., where the name may hold anything
		pid, _, _ := strings.Cut(string(content), " ")
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		n, err1 := strconv.Atoi(pid)
		parent, err2 := strconv.Atoi(fields[1])
		if err1 == nil && err2 == nil {
			all[n] = processInfo{state: fields[0], parent: parent}
		}
	}
	return all, nil
}

// poll asks until the answer is yes or an error, or time is up.
func poll(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("pgtest: waited in vain: %w", context.Cause(ctx))
		}
	}
}
