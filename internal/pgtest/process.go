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

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

const (
	superuser    = "postgres"
	adminPool    = 5  // sessions that Admin may have at once
	reserved     = 10 // sessions that only a superuser can have
	startTimeout = 60 * time.Second
	stopTimeout  = testserver.StopTimeout
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
	owner    *testserver.Owner
	password string // the superuser's
	port     int
	caFile   string

	watchdog *testserver.Watchdog

	// turn is held by whoever starts, stops, pauses or configures the server, and
	// guards the fields below. These take their time: they wait for each other.
	turn     sync.Mutex
	settings map[string]string
	hba      []string
	server   testserver.Process
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
	if p.owner, err = testserver.Unprivileged("postgres"); err != nil {
		return nil, err
	}
	if err := p.makeDir(ctx); err != nil {
		return nil, err
	}
	if err := p.initdb(ctx); err != nil {
		return nil, err
	}
	if o.TLS {
		if err := testserver.Certificate(p.owner, p.dir); err != nil {
			return nil, err
		}
		p.caFile = filepath.Join(p.dir, testserver.CAFile)
		p.settings["ssl"] = "on"
		p.settings["ssl_cert_file"] = filepath.Join(p.dir, testserver.CertFile)
		p.settings["ssl_key_file"] = filepath.Join(p.dir, testserver.KeyFile)
	}
	p.settings["max_connections"] = strconv.Itoa(o.maxConnections() + adminPool + reserved)
	return p, p.startOnFreePort(ctx)
}

// makeDir makes the directory that holds everything, and is removed with us.
func (p *process) makeDir(ctx context.Context) (err error) {
	if p.dir, err = p.owner.TempDir("sqlrotate-postgres-"); err != nil {
		return err
	}
	p.watchdog, err = testserver.Watch(ctx, p.dir, filepath.Join(p.data(), "postmaster.pid"))
	return err
}

// command is a server program, run by the owner with nothing of our environment:
// PGDATA and its like, a locale and secrets stay out.
func (p *process) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + p.bin + ":/usr/bin:/bin", "LC_ALL=C", "HOME=" + p.dir}
	cmd.SysProcAttr = testserver.Attributes(p.owner)
	return cmd
}

func (p *process) data() string    { return filepath.Join(p.dir, "data") }
func (p *process) logFile() string { return filepath.Join(p.dir, "log") }

func (p *process) initdb(ctx context.Context) error {
	passwords := filepath.Join(p.dir, "password")
	if err := p.owner.WriteFile(passwords, p.password+"\n"); err != nil {
		return err
	}
	out, err := p.command(ctx, "initdb", "--no-sync", "-D", p.data(), "-U", superuser, "--pwfile="+passwords,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgtest: initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Remove(passwords)
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
	if err := p.owner.WriteFile(filepath.Join(p.data(), "postgresql.conf"), conf.String()); err != nil {
		return err
	}
	lines := p.hba
	if lines == nil {
		lines = []string{"host all all 127.0.0.1/32 scram-sha-256"}
	}
	admin := "host all,replication " + superuser + " 127.0.0.1/32 scram-sha-256\n"
	if err := p.owner.WriteFile(filepath.Join(p.data(), "pg_hba.conf"), admin+strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	// Asked for one setting, the server reads them all and is not bothered by
	// another that runs.
	if out, err := p.command(ctx, "postgres", "-D", p.data(), "-C", "port").CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: the server refuses its configuration: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (p *process) startOnFreePort(ctx context.Context) error {
	return testserver.OnFreePort(ctx, func(port int) error {
		p.port = port
		return p.start(ctx)
	})
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

// start starts the server and returns when it lets the superuser in.
func (p *process) start(ctx context.Context) error {
	if p.server.Running() {
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
	if err := p.server.Start(cmd); err != nil {
		return err
	}
	err = testserver.Poll(ctx, startTimeout, func() (bool, error) {
		if !p.server.Running() {
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
		return testserver.ErrPortTaken
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
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}
	if mode == Immediate {
		signals = signals[1:]
	}
	return p.server.Stop(signals...)
}

// close ends the server and removes its directory.
func (p *process) close() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	return errors.Join(p.stop(Fast), p.watchdog.End())
}
