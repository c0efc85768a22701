// The server process: its directory and its life.

package mariadbtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
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

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

const (
	host         = "127.0.0.1"
	database     = "app"
	superuser    = "administrator"
	adminPool    = 5 // sessions that Admin may have at once
	startTimeout = 60 * time.Second
)

type process struct {
	binary    string   // mariadbd
	tables    []string // files of statements that make the system's tables, in order
	dir       string   // holds everything; removed at the end
	owner     *testserver.Owner
	password  string // the superuser's
	port      int
	adminPort int // where there is room for Admin when the server is full
	tls       bool
	settings  map[string]string
	watchdog  *testserver.Watchdog

	// turn is held by whoever starts, stops or pauses the server, and guards the field
	// below. These take their time: they wait for each other.
	turn   sync.Mutex
	server testserver.Process
}

// launch makes a data directory and starts a server on it.
func launch(ctx context.Context, o Options) (_ *process, err error) {
	p := &process{password: rand.Text(), tls: o.TLS, settings: maps.Clone(o.Settings)}
	if p.binary, p.tables, err = find(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if p.settings == nil {
		p.settings = make(map[string]string)
	}
	p.settings["max_connections"] = strconv.Itoa(o.maxConnections())
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.owner, err = testserver.Unprivileged("mysql"); err != nil {
		return nil, err
	}
	if p.dir, err = p.owner.TempDir("sqlrotate-mariadb-"); err != nil {
		return nil, err
	}
	if p.watchdog, err = testserver.Watch(ctx, p.dir, p.pidFile()); err != nil {
		return nil, err
	}
	if p.tls {
		if err := testserver.Certificate(p.owner, p.dir); err != nil {
			return nil, err
		}
	}
	if err := p.bootstrap(ctx); err != nil {
		return nil, err
	}
	return p, testserver.OnFreePort(ctx, func(port int) error {
		p.adminPort = port
		return testserver.OnFreePort(ctx, func(port int) error {
			p.port = port
			return p.start(ctx)
		})
	})
}

// find returns where the server is, in PATH or where Debian has it, and the files of
// statements that make the system's tables, in order.
func find() (binary string, tables []string, err error) {
	for _, name := range []string{"mariadbd", "/usr/sbin/mariadbd"} {
		path, err := exec.LookPath(name)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			continue
		}
		share := filepath.Join(filepath.Dir(path), "..", "share")
		for _, before := range []string{"mysql/mysql", "mysql/mariadb", "mariadb/mariadb"} { // 10, 11 and beyond
			tables := make([]string, 0, 3)
			for _, name := range []string{"system_tables", "performance_tables", "system_tables_data"} {
				file := filepath.Join(share, before+"_"+name+".sql")
				if _, err := os.Stat(file); err == nil {
					tables = append(tables, file)
				}
			}
			if len(tables) == cap(tables) {
				return path, tables, nil
			}
		}
	}
	return "", nil, fmt.Errorf("%w: no mariadbd in PATH or /usr/sbin, or not the statements that make its tables (make test installs it)", ErrUnavailable)
}

func (p *process) data() string    { return filepath.Join(p.dir, "data") }
func (p *process) logFile() string { return filepath.Join(p.dir, "log") }
func (p *process) pidFile() string { return filepath.Join(p.dir, "pid") }

// command is the server, run by the owner with nothing of our environment and of the
// system's files of options.
func (p *process) command(ctx context.Context, settings map[string]string) *exec.Cmd {
	all := map[string]string{
		"datadir":         p.data(),
		"tmpdir":          p.dir,
		"pid_file":        p.pidFile(),
		"skip_log_bin":    "",
		"lc_messages":     "en_US",
		"skip_networking": "0",
		// Nothing here needs to survive the machine, or much room.
		"innodb_flush_log_at_trx_commit": "2", // a crash of the server loses nothing
		"innodb_flush_method":            "nosync",
		"innodb_doublewrite":             "0",
		"innodb_use_native_aio":          "0",
		"innodb_log_file_size":           "16M",
		"innodb_buffer_pool_size":        "32M",
		"innodb_autoextend_increment":    "1",
		"innodb_data_file_path":          "ibdata1:4M:autoextend",
		"innodb_temp_data_file_path":     "ibtmp1:4M:autoextend",
		"aria_pagecache_buffer_size":     "1M",
		"key_buffer_size":                "1M",
	}
	maps.Copy(all, settings)
	args := []string{"--no-defaults"}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		arg := "--" + key
		if value := all[key]; value != "" {
			arg += "=" + value
		}
		args = append(args, arg)
	}
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + p.dir}
	cmd.SysProcAttr = testserver.Attributes(p.owner)
	return cmd
}

// bootstrap makes the system's tables, the superuser, who is the only user, and the tests'
// database. (The script that comes with MariaDB makes twice as much, and needs more of its
// programs.)
func (p *process) bootstrap(ctx context.Context) error {
	if err := p.owner.Mkdir(p.data()); err != nil {
		return err
	}
	var statements bytes.Buffer
	statements.WriteString("create database mysql;\nuse mysql;\nset @auth_root_socket = null;\n")
	for _, file := range p.tables {
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("mariadbtest: %w", err)
		}
		statements.Write(content)
	}
	admin := account(superuser)
	fmt.Fprintf(&statements, "\ndelete from mysql.global_priv;\ndelete from mysql.proxies_priv;\nflush privileges;\n"+
		"create user %s identified by %s;\ngrant all on *.* to %s with grant option;\ncreate database %s;\n",
		admin, literal(p.password), admin, database)
	cmd := p.command(ctx, map[string]string{"bootstrap": "", "max_allowed_packet": "8M", "net_buffer_length": "16K"})
	cmd.Stdin = &statements
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadbtest: make the data directory: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// start starts the server and returns when it lets the superuser in.
func (p *process) start(ctx context.Context) error {
	if p.server.Running() {
		return nil
	}
	settings := map[string]string{
		"bind_address":          host,
		"port":                  strconv.Itoa(p.port),
		"extra_port":            strconv.Itoa(p.adminPort),
		"extra_max_connections": strconv.Itoa(2 * adminPool),
		"socket":                filepath.Join(p.dir, "socket"),
		"skip_name_resolve":     "",
	}
	if p.tls {
		settings["ssl_ca"] = filepath.Join(p.dir, testserver.CAFile)
		settings["ssl_cert"] = filepath.Join(p.dir, testserver.CertFile)
		settings["ssl_key"] = filepath.Join(p.dir, testserver.KeyFile)
	}
	maps.Copy(settings, p.settings)
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("mariadbtest: %w", err)
	}
	defer log.Close() // the server has its own
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("mariadbtest: %w", err)
	}
	cmd := p.command(context.WithoutCancel(ctx), settings) // it outlives the context of its start
	cmd.Stdout, cmd.Stderr = log, log
	if err := p.server.Start(cmd); err != nil {
		return err
	}
	err = testserver.Poll(ctx, startTimeout, func() (bool, error) {
		if !p.server.Running() {
			return false, p.startFailure(before)
		}
		return p.listens(before) && p.letsIn(ctx), nil
	})
	if err != nil {
		return errors.Join(err, p.stop(Immediate))
	}
	return nil
}

// listens reports whether a server says so that has written its log from offset on. Nobody
// knocks before: what answers may be somebody else's.
func (p *process) listens(offset int64) bool {
	content, err := os.ReadFile(p.logFile())
	return err == nil && bytes.Contains(content[min(offset, int64(len(content))):], []byte("ready for connections"))
}

func (p *process) letsIn(ctx context.Context) bool {
	db, err := p.openAdmin()
	if err != nil {
		return false
	}
	defer db.Close()
	return db.PingContext(ctx) == nil
}

// startFailure says why a server ended that has written its log from offset on.
func (p *process) startFailure(offset int64) error {
	content, err := os.ReadFile(p.logFile())
	if err != nil {
		return fmt.Errorf("mariadbtest: %w", err)
	}
	last := content[min(offset, int64(len(content))):]
	if bytes.Contains(last, []byte("Address already in use")) {
		return testserver.ErrPortTaken
	}
	return fmt.Errorf("mariadbtest: the server did not start: %s", bytes.TrimSpace(last))
}

// openAdmin opens a pool of the superuser's.
func (p *process) openAdmin() (*sql.DB, error) {
	db, err := open(superuser, p.password, address(p.adminPort))
	if err == nil {
		db.SetMaxOpenConns(adminPool)
	}
	return db, err
}

// open opens a pool of a user's. A password with a slash needs one behind it, as there is.
func open(username, password, address string) (*sql.DB, error) {
	const driver = "mysql"
	if !slices.Contains(sql.Drivers(), driver) {
		return nil, errors.New("mariadbtest: import github.com/go-sql-driver/mysql: no driver is registered as mysql")
	}
	db, err := sql.Open(driver, username+":"+password+"@"+dsn(address))
	if err != nil {
		return nil, errors.New("mariadbtest: a DSN can't be parsed") // which holds the password
	}
	return db, nil
}

// stop ends the server, more and more firmly, and returns when it has ended.
func (p *process) stop(mode StopMode) error {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}
	if mode == Immediate {
		signals = signals[1:]
	}
	return p.server.Stop(signals...)
}

// close ends the server and removes its directory.
func (p *process) close() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	return errors.Join(p.stop(Immediate), p.watchdog.End())
}

// literal quotes a string of a statement.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\x00", `\0`).Replace(s) + "'"
}

// identifier quotes a name of a statement.
func identifier(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

// account is a user as statements name it: one that comes from anywhere.
func account(user string) string { return literal(user) + "@'%'" }
