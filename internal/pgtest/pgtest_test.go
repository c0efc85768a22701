package pgtest

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

// patience bounds what must happen soon.
const patience = 20 * time.Second

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	err := testserver.Poll(t.Context(), patience, func() (bool, error) { return done(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// login opens a pool of one for a role. Whether it gets in shows in its use.
func login(t *testing.T, s *Server, role, password string) *sql.DB {
	t.Helper()
	cfg, err := pq.NewConfig(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.User, cfg.Password = role, password
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func ping(t *testing.T, s *Server, role, password string) error {
	t.Helper()
	db := login(t, s, role, password)
	defer db.Close()
	return db.PingContext(t.Context())
}

func sqlState(err error) string {
	var refused *pq.Error
	if errors.As(err, &refused) {
		return string(refused.Code)
	}
	return fmt.Sprint(err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustExec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), query)
	must(t, err)
}

func wantSessions(t *testing.T, s *Server, role string, want int) {
	t.Helper()
	got, err := s.Sessions(t.Context(), role)
	must(t, err)
	if got != want {
		t.Errorf("%d sessions of %s, want %d", got, role, want)
	}
}

func wantOrphans(t *testing.T, s *Server, want int) {
	t.Helper()
	got, err := s.OrphanSessions(t.Context())
	must(t, err)
	if got != want {
		t.Errorf("%d orphan sessions, want %d", got, want)
	}
}

func TestOneServer(t *testing.T) {
	s := New(t, Options{Control: true})
	mustExec(t, s.Admin(), "CREATE TABLE notes (id serial PRIMARY KEY, body text)")
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Server)
	}{
		{"RolesOfAnyNameAndPasswordReadAndWrite", rolesOfAnyName},
		{"PasswordsReachNoLogAndNoError", passwordsReachNoLog},
		{"RevokedRoleKeepsItsSessionsUntilTheyAreTerminated", revokedRole},
		{"ReusedNameCountsTheSessionsOfBothRoles", reusedName},
		{"RoleThatOwnsSomethingLosesItsGrantsAndStays", owningRole},
		{"PasswordChangesInPlace", alterPassword},
		{"RolesComeAndGoAtOnce", concurrentRoles},
		{"LogTellsHowLoginsEnded", loginOutcomes},
		{"HBADecidesWhoMayLogIn", hba},
		{"ConfigTakesEffectOrIsRefused", config},
		{"PausedServerAnswersNobody", pause},
		{"RestartKeepsPortAndData", restart},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

func rolesOfAnyName(t *testing.T, s *Server) {
	for _, role := range []struct{ name, password string }{
		{"plain", "plain"},
		{`O'Neill "the" \n`, `'"\ ' = \' ; -- %s`},
		{"rôle with spaces", "пароль\n\t\x01"},
		{"user:@/?#[]", "$$;DROP ROLE postgres;$$%s%d"},
		{"long", strings.Repeat("é'\\", 100)},
	} {
		must(t, s.CreateRole(t.Context(), role.name, role.password))
		db := login(t, s, role.name, role.password)
		mustExec(t, db, "INSERT INTO notes (body) VALUES ('hello')")
		mustExec(t, db, "UPDATE notes SET body = 'hello again'")
		mustExec(t, db, "DELETE FROM notes")
		if got := sqlState(ping(t, s, role.name, role.password+"x")); got != "28P01" {
			t.Errorf("%s: a wrong password gives %s", role.name, got)
		}
		wantSessions(t, s, role.name, 1)
		must(t, db.Close())
		eventually(t, "the session is gone", func() bool {
			n, err := s.Sessions(t.Context(), role.name)
			must(t, err)
			return n == 0
		})
		must(t, s.RevokeRole(t.Context(), role.name))
	}
	for _, role := range []struct{ name, password string }{{"nul\x00", "x"}, {"x", "nul\x00"}} {
		if err := s.CreateRole(t.Context(), role.name, role.password); err == nil || strings.ContainsRune(err.Error(), 0) {
			t.Errorf("a NUL gives %q", err)
		}
	}
}

func passwordsReachNoLog(t *testing.T, s *Server) {
	const password = "hunter2-hunter2"
	must(t, s.CreateRole(t.Context(), "discreet", password))
	errs := []error{
		s.CreateRole(t.Context(), "discreet", password),
		s.CreateRole(t.Context(), "indiscreet", password, "NO SUCH OPTION"),
		s.CreateRole(t.Context(), "indiscreet", password+"\xff"),
		s.AlterPassword(t.Context(), "nobody there", password),
		ping(t, s, "discreet", password+"x"),
	}
	for _, err := range errs {
		var inner *pq.Error
		if !errors.As(err, &inner) {
			t.Fatalf("%v is not the server's", err)
		}
		if text := fmt.Sprintf("%v %+v %#v %s", err, inner, *inner, inner.ErrorWithDetail()); strings.Contains(text, password) {
			t.Errorf("password in %s", text)
		}
	}
	must(t, s.RevokeRole(t.Context(), "discreet"))
	log, err := s.Log()
	must(t, err)
	if strings.Contains(log, password) {
		t.Error("password in the log")
	}
}

func revokedRole(t *testing.T, s *Server) {
	must(t, s.CreateRole(t.Context(), "leased", "secret"))
	db := login(t, s, "leased", "secret")
	conn, err := db.Conn(t.Context())
	must(t, err)
	wantSessions(t, s, "leased", 1)
	wantOrphans(t, s, 0)

	must(t, s.RevokeRole(t.Context(), "leased"))
	must(t, conn.PingContext(t.Context()))
	for query, want := range map[string]string{
		"SELECT FROM notes":     "42P01",
		"SELECT FROM app.notes": "42501",
		"SELECT current_user":   "42704",
	} {
		if _, err := conn.ExecContext(t.Context(), query); sqlState(err) != want {
			t.Errorf("%s gives %v, want %s", query, err, want)
		}
	}
	if got := sqlState(ping(t, s, "leased", "secret")); got != "28P01" {
		t.Errorf("a dropped role's login gives %s", got)
	}
	wantSessions(t, s, "leased", 1)
	wantOrphans(t, s, 1)

	n, err := s.Terminate(t.Context(), "leased")
	must(t, err)
	if n != 1 {
		t.Errorf("terminated %d, want 1", n)
	}
	eventually(t, "no orphan session", func() bool {
		n, err := s.OrphanSessions(t.Context())
		return err == nil && n == 0
	})
	wantSessions(t, s, "leased", 0)
}

func reusedName(t *testing.T, s *Server) {
	var pools []*sql.DB
	for _, password := range []string{"first", "second"} {
		must(t, s.CreateRole(t.Context(), "again", password))
		db := login(t, s, "again", password)
		must(t, db.PingContext(t.Context()))
		pools = append(pools, db)
		if password == "first" {
			must(t, s.RevokeRole(t.Context(), "again"))
		}
	}
	wantSessions(t, s, "again", 2)
	wantOrphans(t, s, 1)
	for _, db := range pools {
		must(t, db.Close())
	}
	eventually(t, "no session", func() bool {
		n, err := s.Sessions(t.Context(), "again")
		return err == nil && n == 0
	})
	must(t, s.RevokeRole(t.Context(), "again"))
}

func owningRole(t *testing.T, s *Server) {
	must(t, s.CreateRole(t.Context(), "owning", "secret"))
	mustExec(t, s.Admin(), "CREATE TABLE owned (); ALTER TABLE owned OWNER TO owning")
	if err := s.RevokeRole(t.Context(), "owning"); sqlState(err) != "2BP01" {
		t.Errorf("got %v, want 2BP01", err)
	}
	db := login(t, s, "owning", "secret")
	if _, err := db.ExecContext(t.Context(), "SELECT FROM app.notes"); sqlState(err) != "42501" {
		t.Errorf("a query gives %v, want 42501", err)
	}
	mustExec(t, s.Admin(), "DROP TABLE owned")
	must(t, s.RevokeRole(t.Context(), "owning"))
}

func alterPassword(t *testing.T, s *Server) {
	must(t, s.CreateRole(t.Context(), "static", "before"))
	db := login(t, s, "static", "before")
	must(t, db.PingContext(t.Context()))
	must(t, s.AlterPassword(t.Context(), "static", "it's after"))
	must(t, db.PingContext(t.Context()))
	if got := sqlState(ping(t, s, "static", "before")); got != "28P01" {
		t.Errorf("the old password gives %s", got)
	}
	must(t, ping(t, s, "static", "it's after"))
}

func concurrentRoles(t *testing.T, s *Server) {
	errs := make(chan error)
	for i := range 8 {
		go func() {
			name := fmt.Sprintf("together%d", i)
			err := s.CreateRole(t.Context(), name, "secret")
			if err == nil {
				err = s.RevokeRole(t.Context(), name)
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func loginOutcomes(t *testing.T, s *Server) {
	ctx := t.Context()
	must(t, s.CreateRole(ctx, "counted", "secret", "CONNECTION LIMIT 1"))
	for range 3 {
		must(t, ping(t, s, "counted", "secret"))
		eventually(t, "the session is gone", func() bool {
			n, err := s.Sessions(ctx, "counted")
			return err == nil && n == 0
		})
	}
	_ = ping(t, s, "counted", "wrong")
	db := login(t, s, "counted", "secret")
	must(t, db.PingContext(ctx))
	_ = ping(t, s, "counted", "secret") // one too many
	_, err := s.Terminate(ctx, "counted")
	must(t, err)
	mustExec(t, s.Admin(), "ALTER ROLE counted NOLOGIN")
	_ = ping(t, s, "counted", "secret")
	mustExec(t, s.Admin(), "ALTER ROLE counted LOGIN CONNECTION LIMIT -1; REVOKE CONNECT ON DATABASE "+s.Database()+" FROM PUBLIC")
	_ = ping(t, s, "counted", "secret")
	mustExec(t, s.Admin(), "GRANT CONNECT ON DATABASE "+s.Database()+" TO PUBLIC")
	_ = ping(t, s, "uncounted", "secret")

	logins, err := s.Logins("counted")
	must(t, err)
	var got []string
	for _, l := range logins {
		got = append(got, l.SQLState)
		if age := time.Since(l.Time); age < 0 || age > time.Minute {
			t.Errorf("a login %v ago", age)
		}
	}
	if want := []string{"", "", "", "28P01", "", "53300", "28000", "42501"}; !slices.Equal(got, want) {
		t.Errorf("logins ended %q, want %q", got, want)
	}
	ok, refused, err := s.LoginAttempts("counted")
	must(t, err)
	if ok != 4 || refused != 3 {
		t.Errorf("%d ok and %d refused, want 4 and 3", ok, refused)
	}
	ok, refused, err = s.LoginAttempts("uncounted")
	must(t, err)
	if ok != 0 || refused != 1 {
		t.Errorf("unknown role: %d ok and %d refused, want 0 and 1", ok, refused)
	}
}

func hba(t *testing.T, s *Server) {
	ctx := t.Context()
	must(t, s.CreateRole(ctx, "barred", "secret"))
	must(t, s.WriteHBA(ctx, "host all barred 127.0.0.1/32 reject", "host all all 127.0.0.1/32 trust"))
	if got := sqlState(ping(t, s, "barred", "secret")); got != "28000" {
		t.Errorf("a barred role gets %s, want 28000", got)
	}
	if err := s.WriteHBA(ctx, "host all all nonsense"); err == nil {
		t.Error("nonsense is accepted")
	}
	if got := sqlState(ping(t, s, "barred", "secret")); got != "28000" {
		t.Errorf("after nonsense a barred role gets %s, want 28000", got)
	}
	must(t, s.WriteHBA(ctx))
	must(t, ping(t, s, "barred", "secret"))
}

func config(t *testing.T, s *Server) {
	ctx := t.Context()
	show := func(key string) (value string) {
		t.Helper()
		must(t, s.Admin().QueryRowContext(ctx, "SELECT current_setting($1)", key).Scan(&value))
		return value
	}
	must(t, s.Config(ctx, "application_name", `it's a \`))
	eventually(t, "the setting", func() bool { return show("application_name") == `it's a \` })
	for key, value := range map[string]string{"work_mem": "nonsense", "no_such_setting": "1", "max_connections": "many"} {
		if err := s.Config(ctx, key, value); err == nil {
			t.Errorf("%s = %s is accepted", key, value)
		}
	}
	must(t, s.Config(ctx, "max_prepared_transactions", "7"))
	if got := show("max_prepared_transactions"); got != "0" {
		t.Errorf("before the restart: %s", got)
	}
	must(t, s.Restart(ctx, Fast))
	if got := show("max_prepared_transactions"); got != "7" {
		t.Errorf("after the restart: %s", got)
	}
}

func pause(t *testing.T, s *Server) {
	must(t, s.CreateRole(t.Context(), "patient", "secret"))
	db := login(t, s, "patient", "secret")
	must(t, db.PingContext(t.Context()))
	must(t, s.Pause(t.Context()))
	answered := make(chan error, 1)
	go func() { answered <- db.PingContext(context.WithoutCancel(t.Context())) }()
	select {
	case err := <-answered:
		t.Errorf("a paused server answered: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	must(t, s.Resume())
	must(t, <-answered)
}

func restart(t *testing.T, s *Server) {
	ctx := t.Context()
	must(t, s.CreateRole(ctx, "faithful", "secret"))
	for _, mode := range []StopMode{Fast, Immediate} {
		port := s.Port()
		db := login(t, s, "faithful", "secret")
		conn, err := db.Conn(ctx)
		must(t, err)
		must(t, s.Stop(mode))
		if conn.PingContext(ctx) == nil {
			t.Error("a session outlived its server")
		}
		if ping(t, s, "faithful", "secret") == nil {
			t.Error("a stopped server lets a role in")
		}
		must(t, s.Start(ctx))
		must(t, db.PingContext(ctx))
		mustExec(t, s.Admin(), "SELECT FROM notes")
		if s.Port() != port {
			t.Errorf("port %d became %d", port, s.Port())
		}
	}
}

func TestTLSServerIsVerified(t *testing.T) {
	t.Parallel()
	s := New(t, Options{TLS: true})
	must(t, s.CreateRole(t.Context(), "tls", "secret"))
	db := login(t, s, "tls", "secret")
	var encrypted bool
	must(t, db.QueryRowContext(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted))
	if !encrypted || s.CAFile() == "" || !strings.Contains(s.DSN(), "sslmode=verify-full") {
		t.Errorf("encrypted %v, CA %q, DSN %s", encrypted, s.CAFile(), s.DSN())
	}
}

func TestAdminGetsInWhenTheServerIsFull(t *testing.T) {
	t.Parallel()
	s := New(t, Options{MaxConnections: 3})
	must(t, s.CreateRole(t.Context(), "many", "secret"))
	db := login(t, s, "many", "secret")
	db.SetMaxOpenConns(0)
	var held int
	var err error
	for ; err == nil && held < 20; held++ {
		_, err = db.Conn(t.Context())
	}
	held-- // the last one failed
	if sqlState(err) != "53300" || held < 3 || held > 3+adminPool {
		t.Errorf("%d sessions, then %v; want about 3, then 53300", held, err)
	}
	wantSessions(t, s, "many", held)
}

func TestStandbyFollows(t *testing.T) {
	s := New(t, Options{Control: true})
	standby, err := s.Standby(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, standby.Close()) })
	must(t, s.CreateRole(t.Context(), "late", "made-up"))
	eventually(t, "the role is there", func() bool {
		db := login(t, standby, "late", "made-up")
		return db.PingContext(t.Context()) == nil
	})
	var follows bool
	must(t, standby.Admin().QueryRowContext(t.Context(), "select pg_is_in_recovery()").Scan(&follows))
	if !follows || standby.Database() != s.Database() || standby.Port() == s.Port() {
		t.Errorf("it is no standby: %v, %s, %d", follows, standby.DSN(), s.Port())
	}
}

func TestCloseRemovesEverything(t *testing.T) {
	t.Parallel()
	s := New(t, Options{Control: true})
	file := tempFile(t, s)
	must(t, s.Pause(t.Context())) // a Close must cope
	must(t, s.Close())
	must(t, s.Close())
	if s.proc.server.Running() {
		t.Error("the server runs")
	}
	for _, path := range []string{s.proc.dir, filepath.Dir(file)} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("directory: %v", err)
		}
	}
	if s.proc.watchdog.StandsBy() {
		t.Error("the watchdog stands by")
	}
}

// tempFile is in a directory of the server's that nobody else may enter.
func tempFile(t *testing.T, s *Server) string {
	t.Helper()
	dir, err := s.TempDir(t.Context())
	must(t, err)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the temporary directory is %v, %v", info.Mode(), err)
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	return file
}

// TestServerDiesWithAKilledParent runs itself as the parent.
func TestServerDiesWithAKilledParent(t *testing.T) {
	t.Parallel()
	if os.Getenv("SQLROTATE_TEST_PARENT") != "" {
		s := New(t, Options{Control: true})
		must(t, s.Pause(t.Context()))
		fmt.Println("ready", s.proc.server.PID(), s.proc.dir, tempFile(t, s))
		<-t.Context().Done() // never
	}
	parent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	parent.Env = append(os.Environ(), "SQLROTATE_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	must(t, err)
	must(t, parent.Start())
	var pid int
	var dir, file, said string
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); said += lines.Text() + "\n" {
		_, _ = fmt.Sscan(strings.TrimPrefix(lines.Text(), "ready "), &pid, &dir, &file)
	}
	if pid == 0 && strings.Contains(said, "SKIP") && os.Getenv("CI") == "" {
		t.Skip(said)
	}
	if pid == 0 {
		t.Fatalf("the parent said %q", said)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	must(t, parent.Process.Kill())
	_ = parent.Wait()
	for _, path := range []string{dir, filepath.Dir(file)} {
		eventually(t, "the directory is removed", func() bool {
			_, err := os.Stat(path)
			return os.IsNotExist(err)
		})
	}
	eventually(t, "the server ends", func() bool {
		all, err := testserver.Processes()
		of, there := all[pid]
		return err == nil && (!there || of.State == "Z")
	})
	for _, of := range func() map[int]testserver.ProcessInfo { all, _ := testserver.Processes(); return all }() {
		if of.Parent == pid {
			t.Error("the server left a child behind")
		}
	}
}

func TestNamedServerIsUsedAndLeftAsItWas(t *testing.T) {
	host := New(t, Options{Control: true})
	cfg := host.cfg
	dsn := url.URL{
		Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Path: "/postgres",
		Host: fmt.Sprintf("%s:%d", cfg.Host, cfg.Port), RawQuery: "sslmode=disable",
	}
	t.Setenv(envServer, dsn.String())
	inventory := func() (names string) {
		const query = "SELECT string_agg(name, ' ' ORDER BY name) FROM (SELECT rolname FROM pg_roles UNION ALL SELECT datname FROM pg_database) all_of(name)"
		must(t, host.Admin().QueryRowContext(t.Context(), query).Scan(&names))
		return names
	}
	before := inventory()

	s := New(t, Options{})
	if s.Port() != host.Port() || s.Database() == host.Database() {
		t.Errorf("port %d and database %s, the host's: %d and %s", s.Port(), s.Database(), host.Port(), host.Database())
	}
	must(t, s.CreateRole(t.Context(), "guest", "secret"))
	must(t, s.CreateRole(t.Context(), "left", "secret"))
	must(t, s.RevokeRole(t.Context(), "left"))
	mustExec(t, s.Admin(), "CREATE TABLE owned (); ALTER TABLE owned OWNER TO guest")
	must(t, ping(t, s, "guest", "secret"))
	file := tempFile(t, s)
	_, logErr := s.Log()
	for _, err := range []error{s.Stop(Fast), s.Pause(t.Context()), s.Config(t.Context(), "a", "b"), logErr} {
		if !errors.Is(err, ErrNotOurs) {
			t.Errorf("got %v, want ErrNotOurs", err)
		}
	}
	if s.CAFile() != "" {
		t.Error("a CA from nowhere")
	}
	must(t, s.Close())
	if _, err := os.Stat(filepath.Dir(file)); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
	if after := inventory(); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}

	t.Setenv(envServer, "postgres://x:hunter2@bad port/")
	if _, err := Start(t.Context(), Options{}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a bad DSN gives %v", err)
	}
}

func TestEnvironmentSaysNothingAboutTheServer(t *testing.T) {
	for _, variable := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGOPTIONS", "PGSSLMODE", "PGREQUIRESSL", "PGDATA"} {
		t.Setenv(variable, "elsewhere")
	}
	s := New(t, Options{})
	must(t, s.CreateRole(t.Context(), "undisturbed", "secret"))
	must(t, ping(t, s, "undisturbed", "secret"))
	must(t, s.RevokeRole(t.Context(), "undisturbed"))
}

func TestStartIsBoundByItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Start(ctx, Options{Control: true}); err == nil {
		_ = s.Close()
		t.Error("started")
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	_, err := Start(t.Context(), Options{Settings: map[string]string{"shared_buffers": "nonsense"}})
	if errors.Is(err, ErrUnavailable) {
		giveUp(t, err)
	}
	if err == nil || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("got %v", err)
	}
}

func TestBinariesAreFoundNewestFirstAfterPATH(t *testing.T) {
	root := t.TempDir()
	install := func(dir string) string {
		bin := filepath.Join(root, dir, "bin")
		must(t, os.MkdirAll(bin, 0o755))
		for _, name := range []string{"postgres", "initdb"} {
			must(t, os.WriteFile(filepath.Join(bin, name), nil, 0o755))
		}
		return bin
	}
	pattern := filepath.Join(root, "*", "bin")
	t.Setenv("PATH", t.TempDir())
	if _, err := findBinaries(pattern); !errors.Is(err, ErrUnavailable) {
		t.Errorf("with none: %v", err)
	}
	install("9.6")
	install("15")
	newest := install("100")
	if got, err := findBinaries(pattern); got != newest || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, newest)
	}
	inPath := install("of-PATH")
	links := t.TempDir()
	must(t, os.Symlink(filepath.Join(inPath, "postgres"), filepath.Join(links, "postgres")))
	t.Setenv("PATH", links)
	if got, err := findBinaries(pattern); got != inPath || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, inPath)
	}
}

// verdict records what New would do to a test.
type verdict struct {
	TB
	said string
}

func (v *verdict) Helper()               {}
func (v *verdict) Skipf(string, ...any)  { v.said += "skip " }
func (v *verdict) Fatalf(string, ...any) { v.said += "fail " }

func TestMissingServerSkipsButFailsInCI(t *testing.T) {
	for _, test := range []struct {
		ci   string
		err  error
		want string
	}{
		{"", ErrUnavailable, "skip "},
		{"true", ErrUnavailable, "fail "},
		{"", errors.New("broken"), "fail "},
	} {
		t.Setenv("CI", test.ci)
		var v verdict
		giveUp(&v, test.err)
		if got, _, _ := strings.Cut(v.said+".", "."); !strings.HasPrefix(got, test.want) {
			t.Errorf("CI=%q, %v: %s, want %s", test.ci, test.err, got, test.want)
		}
	}
}
