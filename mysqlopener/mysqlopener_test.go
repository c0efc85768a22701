package mysqlopener_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/mariadbtest"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"

	"github.com/sqlrotate/sqlrotate/mysqlopener"
)

// TestMain has the driver not talk of connections that tests end.
func TestMain(m *testing.M) {
	if err := mysql.SetLogger(new(mysql.NopLogger)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func open(dsn string) (sqlrotate.Opener, error) {
	cfg, err := mysqlopener.Parse(dsn)
	if err != nil {
		return nil, err
	}
	return mysqlopener.New(cfg)
}

// verified opens with TLS, by the authority that a server has.
func verified(server *openertest.MariaDB) func(dsn string) (sqlrotate.Opener, error) {
	return func(dsn string) (sqlrotate.Opener, error) {
		cfg, err := mysqlopener.Parse(dsn)
		if err != nil {
			return nil, err
		}
		ca, err := os.ReadFile(server.CAFile())
		if err != nil {
			return nil, err
		}
		cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		cfg.TLS.RootCAs.AppendCertsFromPEM(ca)
		return mysqlopener.New(cfg)
	}
}

func TestAtAServer(t *testing.T) {
	t.Parallel()
	server := openertest.NewMariaDB(t)
	t.Run("conforms", func(t *testing.T) { conforms(t, server) })
	t.Run("passwords", func(t *testing.T) { passwordsArrive(t, server) })
	t.Run("names of versions", func(t *testing.T) { sessionsNameTheirVersion(t, server) })
	t.Run("a hook fails", func(t *testing.T) { beforeConnectFails(t, server) })
	t.Run("too many wrong passwords", func(t *testing.T) { blockedUserIsRefused(t, server) })
	t.Run("codes", func(t *testing.T) { loginsAreRefusedByCode(t, server) })
	t.Run("rights of a dropped user", func(t *testing.T) { droppedUserKeepsMostRights(t, server) })
	t.Run("over time", func(t *testing.T) {
		t.Run("idle connections", func(t *testing.T) { idleConnectionsAreReplaced(t, server) })
		t.Run("hard end", func(t *testing.T) { t.Parallel(); droppedUserIsCutOff(t, server) })
		t.Run("role check", func(t *testing.T) { t.Parallel(); droppedUserIsNoticed(t, server) })
	})
	if n, err := server.OrphanSessions(t.Context()); n > 0 || err != nil {
		t.Errorf("%d sessions of dropped users: %v", n, err)
	}
}

func conforms(t *testing.T, server *openertest.MariaDB) {
	for name, test := range map[string]struct {
		open       func(string) (sqlrotate.Opener, error)
		parameters string
	}{
		"plain":               {open, ""},
		"TLS":                 {verified(server), ""},
		"TLS if there is any": {open, "tls=preferred"},
		"compressed":          {open, "compress=true"},
		"all sorts":           {open, "charset=utf8mb4&parseTime=true&loc=UTC&maxAllowedPacket=0&time_zone=%27%2B00:00%27&readTimeout=20s&interpolateParams=true"},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: they fill the server
			if err := sqlrotatetest.TestOpener(server.Harness(t, test.open, test.parameters)); err != nil {
				t.Error(err)
			}
		})
	}
}

// create makes a user, and returns its credential.
func create(t *testing.T, server *mariadbtest.Server, username, password string) sqlrotate.Credential {
	t.Helper()
	if err := server.CreateUser(t.Context(), username, password); err != nil {
		t.Fatal(err)
	}
	return sqlrotate.Credential{Username: username, Password: sqlrotate.NewSecret(password)}
}

// pool opens a pool over a connector.
func pool(t *testing.T, cfg sqlrotate.Config, size int) (*sql.DB, *sqlrotate.Connector) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	c, err := sqlrotate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sqlrotate.OpenDB(c)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	t.Cleanup(func() { _ = db.Close() })
	return db, c
}

// A password that the server accepts is accepted, whatever is in it, by each of its ways to
// check one that comes with it.
func passwordsArrive(t *testing.T, server *openertest.MariaDB) {
	opener, err := open(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]string{"mysql_native_password": "via mysql_native_password using password(%s)"}
	var ed25519 int
	if err := server.Admin().QueryRowContext(t.Context(), "select count(*) from information_schema.plugins where plugin_name = 'ed25519'").Scan(&ed25519); err != nil {
		t.Fatal(err)
	}
	if ed25519 > 0 {
		methods["ed25519"] = "via ed25519 using password(%s)"
	}
	for method, identified := range methods {
		for i, password := range []string{
			`pa'ss "wo\rd" %41+&=/?#@:`, "p\u00e4ssw\u00f6rd", "pa\u0308ssword", "\U0001f511key", " a space at each end ", strings.Repeat("long", 50), "a\tb\x01",
		} {
			cred := sqlrotate.Credential{Username: fmt.Sprintf("%s %d", method, i), Password: sqlrotate.NewSecret(password)}
			quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password) + "'"
			if err := server.CreateUserVia(t.Context(), cred.Username, fmt.Sprintf(identified, quoted)); err != nil {
				t.Fatal(err)
			}
			db, _ := pool(t, sqlrotate.Config{Source: sqlrotate.StaticSource(cred), Opener: opener, Window: sqlrotate.InPlace(), RetryTimeout: -1}, 1)
			if err := db.PingContext(t.Context()); err != nil {
				t.Errorf("%s, %q: %v", method, password, err)
			}
		}
	}
}

// With Config.TagVersion a session's program_name has the name of its version, after the
// application's own: by the query of docs/operate.md.
func sessionsNameTheirVersion(t *testing.T, server *openertest.MariaDB) {
	operate, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	var query string
	for block := range strings.SplitSeq(string(operate), "```") {
		if statement, found := strings.CutPrefix(block, "sql\n"); found && strings.Contains(block, "session_connect_attrs") {
			query = statement
		}
	}
	for i, test := range []struct{ attributes, name string }{{"", ""}, {"program_name:billing,team:one", "billing"}, {"team:one", ""}} {
		cred := create(t, server.Server, fmt.Sprint("tagged", i), "secret")
		opener, err := open(server.DSN() + "?connectionAttributes=" + test.attributes)
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range []bool{true, false} {
			want := test.name
			if tag {
				want = sqlrotate.ApplicationName(test.name, cred)
			}
			db, _ := pool(t, sqlrotate.Config{Source: sqlrotate.StaticSource(cred), Opener: opener, Window: sqlrotate.InPlace(), TagVersion: tag}, 1)
			if err := db.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := programs(t, server, query)[cred.Username]; got != want {
				t.Errorf("%q, tagged %v: program %q, want %q", test.attributes, tag, got, want)
			}
			teams, err := server.Admin().QueryContext(t.Context(), "select 1 from performance_schema.session_connect_attrs where attr_name = 'team' and attr_value = 'one'")
			if err != nil {
				t.Fatal(err)
			}
			if teams.Next() != strings.Contains(test.attributes, "team") {
				t.Errorf("%q, tagged %v: another attribute is lost, or has come", test.attributes, tag)
			}
			if err := errors.Join(teams.Err(), teams.Close(), db.Close(), server.AwaitSessions(t.Context(), cred.Username, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// programs runs a query for users, programs and the number of their sessions.
func programs(t *testing.T, server *openertest.MariaDB, query string) map[string]string {
	t.Helper()
	rows, err := server.Admin().QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	by := map[string]string{}
	for rows.Next() {
		var user, program string
		var sessions int
		if err := rows.Scan(&user, &program, &sessions); err != nil {
			t.Fatal(err)
		}
		by[user] = program
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return by
}

// What a hook says of a login's configuration is withheld.
func beforeConnectFails(t *testing.T, server *openertest.MariaDB) {
	cred := create(t, server.Server, "hooked", "hunter2hunter2")
	cfg, err := mysqlopener.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	fails := true
	if err := cfg.Apply(mysql.BeforeConnect(func(_ context.Context, cfg *mysql.Config) error {
		if fails {
			return errors.New("no: " + cfg.FormatDSN())
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	opener, err := mysqlopener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db, _ := pool(t, sqlrotate.Config{Source: sqlrotate.StaticSource(cred), Opener: opener, Window: sqlrotate.InPlace()}, 1)
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	fails = false
	if err := db.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// A user who has been tried with too many wrong passwords is refused, even with the right one.
func blockedUserIsRefused(t *testing.T, server *openertest.MariaDB) {
	cred := create(t, server.Server, "guessed", "right")
	if err := server.Set(t.Context(), "max_password_errors", "2"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Set(context.Background(), "max_password_errors", "default"); err != nil {
			t.Error(err)
		}
	}()
	opener, err := open(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	login := func(password string) (code string, refused bool) {
		cred.Password = sqlrotate.NewSecret(password)
		conn, err := opener.Open(t.Context(), cred, new(net.Dialer).DialContext)
		if err == nil {
			_ = conn.Close()
			return "", false
		}
		return opener.(*mysqlopener.Opener).Code(err), opener.Refused(err)
	}
	for _, test := range []struct{ password, code string }{{"right", ""}, {"wrong", "1045"}, {"wrong", "1045"}, {"right", "4150"}} {
		if code, refused := login(test.password); code != test.code || refused != (code != "") {
			t.Errorf("with the %s password: %q, refused %v; want %q", test.password, code, refused, test.code)
		}
	}
}

// After the server has ended idle connections no query fails that the driver alone would
// save. Some do fail after a KILL if the driver can't look at its sockets, or is told not
// to. (After wait_timeout they are reset, so that even then nothing can be sent.)
func idleConnectionsAreReplaced(t *testing.T, server *openertest.MariaDB) {
	type way struct {
		name  string
		open  func(sqlrotate.Credential) *sql.DB
		fails bool
	}
	alone := func(cred sqlrotate.Credential) *sql.DB {
		db, err := sql.Open("mysql", cred.Username+":"+cred.Password.Reveal()+"@"+server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxIdleConns(idle)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	ours := func(open func(string) (sqlrotate.Opener, error), parameters string, dial sqlrotate.DialFunc) func(sqlrotate.Credential) *sql.DB {
		return func(cred sqlrotate.Credential) *sql.DB {
			opener, err := open(server.DSN() + "?" + parameters)
			if err != nil {
				t.Fatal(err)
			}
			db, _ := pool(t, sqlrotate.Config{Source: sqlrotate.StaticSource(cred), Opener: opener, Dial: dial, Window: sqlrotate.InPlace()}, idle)
			return db
		}
	}
	hidden := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return struct{ net.Conn }{conn}, err
	}
	for i, w := range []way{
		{"the driver alone", alone, false},
		{"ours", ours(open, "", nil), false},
		{"with TLS", ours(verified(server), "", nil), false},
		{"with compression and deadlines", ours(open, "compress=true&readTimeout=20s", nil), false},
		{"sockets can't be seen", ours(open, "", hidden), true},
		{"the driver doesn't look", ours(open, "checkConnLiveness=false", nil), true},
	} {
		for j, timeout := range []bool{false, true} {
			cred := create(t, server.Server, fmt.Sprint("idle", i, j), "secret")
			name, end := w.name+"/killed", func() error {
				_, err := server.Kill(t.Context(), cred.Username)
				return err
			}
			if timeout {
				name, end = w.name+"/wait_timeout", func() error { return nil }
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				db := w.open(cred)
				idleSessions(t, db, timeout)
				if err := errors.Join(end(), server.AwaitSessions(t.Context(), cred.Username, 0)); err != nil {
					t.Fatal(err)
				}
				switch err := queries(db); {
				case w.fails && !timeout && err == nil:
					t.Error("no query fails: nothing is shown")
				case err != nil && !w.fails:
					t.Error(err)
				}
			})
		}
	}
}

// idle is how many sessions are.
const idle = 10

// idleSessions gives a pool idle sessions, which the server ends in a second if timeout.
func idleSessions(t *testing.T, db *sql.DB, timeout bool) {
	t.Helper()
	sessions := make([]*sql.Conn, idle)
	for i := range sessions {
		var err error
		if sessions[i], err = db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, session := range sessions {
		if timeout {
			if _, err := session.ExecContext(t.Context(), "set wait_timeout = 1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := session.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// queries makes more queries at once than there are idle sessions.
func queries(db *sql.DB) error {
	var mu sync.Mutex
	var all sync.WaitGroup
	var errs []error
	for range 2 * idle {
		all.Go(func() {
			var one int
			if err := db.QueryRowContext(context.Background(), "select 1").Scan(&one); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func TestALoginComesFromNowhereElse(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, test := range []struct {
		name, dsn string
		address   string // empty: it is refused
		says      string
	}{
		{"address", "tcp(db:3307)/app", "db:3307", ""},
		{"address without a port", "tcp(db)/app?parseTime=true", "db:3306", ""},
		{"nothing", "/", "127.0.0.1:3306", ""},
		{"socket", "unix(/run/mysqld/mysqld.sock)/app", "/run/mysqld/mysqld.sock", ""},
		{"user name", "somebody@tcp(db)/app", "db:3306", ""},
		{"password", "somebody:" + secret + "@tcp(db)/app", "", "has a password"},
		{"password with a slash", "somebody:" + secret + "/x@tcp(db)/app", "", "has a password"},
		{"password as a parameter", "tcp(db)/app?password=" + secret, "", "has a password"},
		{"Password as a parameter", "tcp(db)/app?Password =" + secret, "", "has a password"},
		{"no slash", "tcp(db)", "", "missing the slash"},
		{"slash in a parameter", "tcp(db)/app?loc=Europe/London", "", "did you forget to escape"},
		{"bad parameter", "tcp(db)/app?parseTime=perhaps", "", "invalid bool value: perhaps"},
		{"unknown TLS", "tcp(db)/app?tls=none-of-that-name", "", "unknown config name"},
		{"bad parameter after a password", "me:" + secret + "@tcp(db)/app?parseTime=" + secret, "", "withheld"},
		{"password that can't be unescaped", "tcp(db)/app?password=%" + secret, "", "withheld"},
		{"password in the place of a network", secret + "/app", "", "withheld"},
		{"login without an address", "me:" + secret + "/app", "", "withheld"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, err := mysqlopener.Parse(test.dsn)
			if test.address != "" {
				if err != nil || cfg.Addr != test.address || cfg.User != "" || cfg.Passwd != "" {
					t.Errorf("%+v: %v", cfg, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v does not say %q", err, test.says)
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				if strings.Contains(text, secret) {
					t.Errorf("the error holds the secret: %s", text)
				}
			}
		})
	}
}

func TestNewTakesWhatItCanKeepTo(t *testing.T) {
	const secret = "hunter2hunter2"
	change := func(f func(*mysql.Config)) *mysql.Config {
		cfg := mysql.NewConfig()
		f(cfg)
		return cfg
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	for _, test := range []struct {
		name string
		cfg  *mysql.Config
		says string // empty: it is taken
	}{
		{"defaults", mysql.NewConfig(), ""},
		{"a literal", &mysql.Config{Addr: "db:3306"}, ""},
		{"nil", nil, "make one with Parse"},
		{"a password", change(func(c *mysql.Config) { c.User, c.Passwd = "me", secret }), "has a password"},
		{"a password as a parameter", change(func(c *mysql.Config) { c.Params = map[string]string{"PASSWORD": secret} }), "has a password"},
		{"a dial function", change(func(c *mysql.Config) { c.DialFunc = dial }), "sqlrotate.Config.Dial"},
		{"a registered network", change(func(c *mysql.Config) { c.Net, c.Addr = "cloud", "x" }), "sqlrotate.Config.Dial"},
		{"an unknown TLS", change(func(c *mysql.Config) { c.TLSConfig = "none-of-that-name" }), "unknown config name"},
	} {
		o, err := mysqlopener.New(test.cfg)
		if test.says == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err == nil || o != nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	cfg, err := mysqlopener.Parse("tcp(db)/app?time_zone=UTC")
	if err != nil {
		t.Fatal(err)
	}
	cfg.User = "somebody"
	o, err := mysqlopener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Addr, cfg.Params["time_zone"] = "elsewhere", "CET"
	if got := o.Config(); got.Addr != "db:3306" || got.Params["time_zone"] != "UTC" || got.User != "" || got.Passwd != "" {
		t.Errorf("%+v", got)
	}
}

// Names are for the dial function, and a NUL for nobody.
func TestWhatIsDialled(t *testing.T) {
	var dialled []string
	dial := func(_ context.Context, network, address string) (net.Conn, error) {
		dialled = append(dialled, network+" "+address)
		return nil, net.ErrClosed
	}
	cred := sqlrotate.Credential{Username: "app", Password: sqlrotate.NewSecret("secret")}
	for _, dsn := range []string{"tcp(db.example)/app", "tcp([::1]:3307)/", "/", "unix(/run/sock)/"} {
		o, err := open(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Open(t.Context(), cred, dial); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
		for _, cred := range []sqlrotate.Credential{
			{Username: "app", Password: sqlrotate.NewSecret("sec\x00ret")}, {Username: "a\x00pp", Password: cred.Password},
		} {
			if _, err := o.Open(t.Context(), cred, dial); err == nil || !strings.Contains(err.Error(), "NUL") {
				t.Errorf("%v", err)
			}
		}
	}
	if got := strings.Join(dialled, ", "); got != "tcp db.example:3306, tcp [::1]:3307, tcp 127.0.0.1:3306, unix /run/sock" {
		t.Errorf("dialled: %s", got)
	}
}

func TestCodes(t *testing.T) {
	o := new(mysqlopener.Opener)
	for _, test := range []struct {
		code          uint16
		refused, full bool
	}{
		{1045, true, false},
		{1044, true, false},
		{1130, true, false},
		{1141, true, false},
		{1142, true, false},
		{1143, true, false},
		{1370, true, false},
		{1698, true, false},
		{1820, true, false},
		{1862, true, false},
		{3118, true, false},
		{3955, true, false},
		{4150, true, false},
		{4151, true, false},
		{1040, false, true},
		{1203, false, true},
		{1226, false, true},
		{1049, false, false}, // no such database
		{1053, false, false}, // shutting down
		{1064, false, false}, // syntax
		{1129, false, false}, // host blocked, for logins that broke off
		{1227, false, false}, // a parameter that takes a privilege
	} {
		err := fmt.Errorf("login: %w", errors.Join(net.ErrClosed, &mysql.MySQLError{Number: test.code}))
		if refused, full, code := o.Refused(err), o.Full(err), o.Code(err); refused != test.refused || full != test.full || code != fmt.Sprint(test.code) {
			t.Errorf("%d: refused %v, full %v, code %s", test.code, refused, full, code)
		}
	}
	for _, err := range []error{nil, net.ErrClosed, mysql.ErrInvalidConn} {
		if o.Refused(err) || o.Full(err) || o.Code(err) != "" {
			t.Errorf("%v has a code", err)
		}
	}
}

// What the driver logs is passed on, but for what is the connector's doing.
func TestTheDriversLog(t *testing.T) {
	var log recorder
	cfg := mysql.NewConfig()
	cfg.Logger = &log
	o, err := mysqlopener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	logger := o.Config().Logger
	logger.Print("prefix", &net.OpError{Op: "read", Err: &sqlrotate.OutlivedError{}})
	logger.Print(&net.OpError{Op: "write", Err: net.ErrClosed})
	logger.Print("prefix", errors.New("packet for query is too large"))
	if got := log.String(); got != "prefix packet for query is too large\n" {
		t.Errorf("logged: %q", got)
	}
}

// recorder is a driver's log.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *recorder) Print(v ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(&r.text, v...)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// wait returns when done is true.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); <-time.After(5 * time.Millisecond) {
		if !time.Now().Before(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
