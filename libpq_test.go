package sqlrotate

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

func mustPostgres(tb testing.TB, dsn string) Opener {
	tb.Helper()
	o, err := LibPQ(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	return o
}

func TestRejectedWalksTheWholeTreeOfErrors(t *testing.T) {
	state := func(code pqerror.Code) error { return &pq.Error{Code: code, Message: "in any language"} }
	unreachable := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	hosts := func(errs ...error) error {
		return fmt.Errorf("pq: could not connect to any of the hosts:\n%w", errors.Join(errs...))
	}
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"wrong password", state("28P01"), true},
		{"NOLOGIN or pg_hba", state("28000"), true},
		{"a code of class 28 that nobody knows yet", state("28X99"), true},
		{"CONNECT revoked", state("42501"), true},
		{"PgBouncer", state("08P01"), true},
		{"full", state("53300"), false},
		{"no such database", state("3D000"), false},
		{"starting up", state("57P03"), false},
		{"shutting down", state("57P01"), false},
		{"connection failure", state("08006"), false},
		{"no such table", state("42P01"), false},
		{"no code", state(""), false},
		{"unreachable", unreachable, false},
		{"timeout", context.DeadlineExceeded, false},
		{"end of file", io.ErrUnexpectedEOF, false},
		{"only the text says so", errors.New("pq: password authentication failed for user (28P01)"), false},
		{"wrapped", fmt.Errorf("a: %w", fmt.Errorf("b: %w", state("28P01"))), true},
		{"the last of several hosts", hosts(unreachable, fmt.Errorf("connecting: %w", state("57P03")), fmt.Errorf("connecting: %w", state("28P01"))), true},
		{"the first of several hosts", hosts(state("28000"), unreachable), true},
		{"none of several hosts", hosts(state("57P03"), unreachable, state("53300")), false},
		{"a tree in a tree", errors.Join(unreachable, fmt.Errorf("%w and %w", io.EOF, errors.Join(io.EOF, state("28P01")))), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := mustPostgres(t, "").Refused(test.err); got != test.want {
				t.Errorf("Refused(%v) = %v", test.err, got)
			}
		})
	}
}

// What can't be made safe is refused wherever it stands: a DSN, the environment, a
// service file.
func TestUnsafeSettingsAreRefusedWhereverTheyStand(t *testing.T) {
	const secret = "hunter2hunter2"
	services := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(services, []byte("[with]\nhost=db\npassword="+secret+"\n[without]\nhost=db\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, dsn, key, value string
		says                  string // empty: it is accepted
	}{
		{"nothing", "", "", "", ""},
		{"a user name", "postgres://somebody@db/app", "", "", ""},
		{"sslmode=prefer", "sslmode=prefer", "", "", ""},
		{"standby", "target_session_attrs=standby", "", "", ""},
		{"service", "service=without", "PGSERVICEFILE", services, ""},
		{"service with a password", "service=with", "PGSERVICEFILE", services, "has a password"},
		{"user and password in a URL", "postgres://app:" + secret + "@db/app", "", "", "has a password"},
		{"PGSSLMODE=allow", "host=db", "PGSSLMODE", "allow", "sslmode=allow"},
		{"PGTARGETSESSIONATTRS=prefer-standby", "host=db", "PGTARGETSESSIONATTRS", "prefer-standby", "prefer-standby"},
		{"password in a query", "postgres://db/app?password=" + secret, "", "", "has a password"},
		{"URL that ends early", "postgres://app:" + secret + "/db", "", "", "DSN"},
		{"URL with a bad escape", "postgres://app:" + secret + "%zz@db/app", "", "", "DSN"},
		{"URL without slashes", "postgres:app:" + secret + "@db", "", "", "DSN"},
		{"quote in a password", "host=db password=" + secret + " 'x", "", "", "DSN"},
		{"password in two words", "host=db password = " + secret + " " + secret, "", "", "DSN"},
		{"unknown sslmode", "sslmode=maybe", "", "", "maybe"},
		{"bad port", "host=db port=many", "", "", "many"},
		{"PGREQUIRESSL", "postgres://me@db", "PGREQUIRESSL", "1", "environment has what lib/pq can't use: environment variable $PGREQUIRESSL"},
		{"PGPORT=many", "host=db", "PGPORT", "many", "environment has what lib/pq can't use"},
		{"several hosts in PGHOST", "sslmode=disable", "PGHOST", "a,b", ""},
		{"several hosts in PGHOST, one in the DSN", "host=c", "PGHOST", "a,b", "PGHOST or PGHOSTADDR has several hosts"},
		{"several hosts in PGHOST, its first in the DSN", "host=a", "PGHOST", "a,b", "PGHOST or PGHOSTADDR has several hosts"},
		{"several hosts in PGHOST, one in the URL", "postgres://c/app", "PGHOST", "a,b", "PGHOST or PGHOSTADDR has several hosts"},
		{"several addresses in PGHOSTADDR, one in the DSN", "hostaddr=10.0.0.3", "PGHOSTADDR", "10.0.0.1,10.0.0.2", "PGHOST or PGHOSTADDR has several hosts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.key != "" {
				t.Setenv(test.key, test.value)
			}
			_, err := LibPQ(test.dsn)
			switch {
			case test.says == "":
				if err != nil {
					t.Error(err)
				}
				return
			case err == nil:
				t.Fatal("accepted")
			case !strings.HasPrefix(err.Error(), "sqlrotate: ") || !strings.Contains(err.Error(), test.says):
				t.Errorf("%q does not say %q", err, test.says)
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				if strings.Contains(text, secret) {
					t.Errorf("the error holds the secret: %s", text)
				}
			}
		})
	}
}

func TestNULIsRefusedBeforeDialling(t *testing.T) {
	for _, cred := range []Credential{
		{Username: "app\x00", Password: NewSecret("secret")},
		{Username: "app", Password: NewSecret("\x00secret")},
		{Username: "app\x00options\x00-c log_statement=all", Password: NewSecret("secret")},
	} {
		_, err := mustPostgres(t, "sslmode=disable").Open(t.Context(), cred, func(context.Context, string, string) (net.Conn, error) {
			t.Error("dialled")
			return nil, net.ErrClosed
		})
		if err == nil || !strings.Contains(err.Error(), "NUL") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", cred.Username, err)
		}
	}
}

// authentication is a kind of request for a password.
type authentication uint32

const (
	cleartext authentication = 3
	md5Hash   authentication = 5
)

// seenLogin is what a server got to see.
type seenLogin struct{ user, answer string }

// impostor is the server's end of a login: it asks for a password in one way,
// notes what comes, and lets everybody in.
func impostor(conn net.Conn, ask authentication, salt string) (seen seenLogin, err error) {
	startup, err := readMessage(conn)
	if err != nil {
		return seen, err
	}
	params := strings.Split(string(startup[4:]), "\x00") // after the version of the protocol
	for i := 0; i+1 < len(params) && params[i] != ""; i += 2 {
		if params[i] == "user" {
			seen.user = params[i+1]
		}
	}
	request := binary.BigEndian.AppendUint32(nil, uint32(ask))
	if ask == md5Hash {
		request = append(request, salt...)
	}
	if err := writeMessage(conn, 'R', request); err != nil {
		return seen, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // 'p'
		return seen, err
	}
	answer, err := readMessage(conn)
	if err != nil {
		return seen, err
	}
	seen.answer = strings.TrimSuffix(string(answer), "\x00")
	if err := writeMessage(conn, 'R', make([]byte, 4)); err != nil {
		return seen, err
	}
	return seen, writeMessage(conn, 'Z', []byte("I"))
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	content := make([]byte, binary.BigEndian.Uint32(size[:])-4)
	_, err := io.ReadFull(r, content)
	return content, err
}

func writeMessage(w io.Writer, kind byte, content []byte) error {
	message := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(content)+4))
	_, err := w.Write(append(message, content...))
	return err
}

// expect is what an impostor must see of a login.
func expect(user, password string, ask authentication, salt string) seenLogin {
	if ask == cleartext {
		return seenLogin{user, password}
	}
	hash := func(s string) string {
		sum := md5.Sum([]byte(s))
		return hex.EncodeToString(sum[:])
	}
	return seenLogin{user, "md5" + hash(hash(password+user)+salt)}
}

// Any bytes arrive as they are, or nothing is dialled.
func FuzzLoginArrivesAsItIs(f *testing.F) {
	for _, s := range []string{
		"app", "", " ", "a b", `quo'te"s`, `back\slash`, "comma,equals=", "pa\u0308ss", "no\u00a0break", "soft\u00adhyphen", "🔑", "\xff\xfe",
		"\x00", "a\x00b", "$1%s%%20", "host=evil sslmode=disable", "user\nname", strings.Repeat("long", 20000),
	} {
		f.Add("app", s, false)
		f.Add(s, "secret", true)
		f.Add(s, s, false)
	}
	opener, err := LibPQ("host=db sslmode=disable")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, user, password string, hashed bool) {
		ask, salt := cleartext, "salt"
		if hashed {
			ask = md5Hash
		}
		seen, dials := make(chan seenLogin, 1), 0
		c, err := New(Config{
			Source: StaticSource(Credential{Username: user, Password: NewSecret(password)}),
			Opener: opener,
			Window: InPlace(),
			Logger: slog.New(slog.DiscardHandler),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				dials++
				client, server := net.Pipe()
				go func() {
					got, err := impostor(server, ask, salt)
					if err != nil {
						t.Error(err)
					}
					seen <- got
					_, _ = io.Copy(io.Discard, server)
				}()
				return client, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		conn, err := c.Connect(t.Context())
		impossible := user == "" || password == "" || strings.Contains(user+password, "\x00")
		if impossible {
			if err == nil || dials > 0 {
				t.Fatalf("dialled %d times: %v", dials, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if got := <-seen; got != expect(user, password, ask, salt) {
			t.Fatalf("%q, %q arrived as %q", user, password, got)
		}
	})
}

// Whatever a port that isn't PostgreSQL says, a login there fails or goes on; it
// doesn't take the process with it. Left out is what claims to be long: lib/pq makes
// room for all that a message claims, which for "HTTP/" is 1.4 GB.
func FuzzGibberishFromTheServerIsAnError(f *testing.F) {
	for _, s := range []string{
		"", "N", "S", "220", "J\x00\x00\x00\x0a8.0.33-mysql", "R\x00\x00\x00\x00", "R\x00\x00\x00\x04",
		"R\x00\x00\x00\x08\x00\x00\x00\x05", "E\x00\x00\x00\x0aSFATAL", "K\x00\x00\x00\x05x", "Z\x00\x00\x00\x04", "S\x00\x00\x00\x05x",
		"R\x00\x00\x00\x08\x00\x00\x00\x0aR\x00\x00\x00\x04", "R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	plain, err := LibPQ("host=db sslmode=disable")
	if err != nil {
		f.Fatal(err)
	}
	secure, err := LibPQ("host=db sslmode=require")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, says string, tls bool) {
		opener := plain
		if tls {
			opener = secure
		}
		for rest := says; len(rest) >= 5; {
			size := binary.BigEndian.Uint32([]byte(rest[1:]))
			if size > 1<<20 {
				return
			}
			rest = rest[min(len(rest), max(1, int(size)+1)):]
		}
		conn, err := opener.Open(t.Context(), Credential{Username: "app", Password: NewSecret("secret")},
			func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, server) }()
				go func() {
					_, _ = io.WriteString(server, says)
					_ = server.Close()
				}()
				return client, nil
			})
		if err == nil {
			_ = conn.Close()
		}
	})
}

// Passwords and user names that are known to get lost elsewhere, at a real server,
// by each of its ways to check a password.
//
// One kind gets lost here too: PostgreSQL normalises a password with SASLprep (RFC
// 4013) when it is set and for SCRAM, libpq does so when it logs in, and lib/pq does
// not. With a password that SASLprep changes (a no-break space, a soft hyphen, a
// combining accent, a ligature) SCRAM refuses the right password with 28P01. What
// SASLprep prohibits, such as emoji and control characters, all sides take as it is.
func TestNastyLoginsArriveAtARealServer(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{HBA: []string{
		`host all +cleartext 127.0.0.1/32 password`,
		`host all +md5 127.0.0.1/32 md5`,
		`host all all 127.0.0.1/32 scram-sha-256`,
	}})
	for _, group := range []string{"cleartext", "md5", "scram"} {
		if _, err := server.Admin().ExecContext(t.Context(), "create role "+group+" nologin"); err != nil {
			t.Fatal(err)
		}
	}
	passwords := []struct {
		name, password string
		changed        bool // by SASLprep
	}{
		{"spaces", "  two  spaces  ", false},
		{"quotes", `quo'te"s` + "`$$", false},
		{"backslashes", `back\slash\\'`, false},
		{"commas and equals", "comma,equals=,n=,,r=3D=2C", false},
		{"URL", "postgres://a:b@c/d?e=f&g#%20%zz", false},
		{"DSN", "x host=evil sslmode='disable", false},
		{"control characters", "a\tb\nc\rd\x7f\x01", false},
		{"composed accents", "p\u00e4ssw\u00f6rd", false},
		{"Cyrillic", "\u043f\u0430\u0440\u043e\u043b\u044c", false},
		{"Chinese", "\u5bc6\u7801", false},
		{"emoji", "\U0001f511key", false},
		{"emoji and a ligature", "\U0001f511\ufb01", false},
		{"both directions", "\u05d0b\u05d1", false},
		{"long", strings.Repeat("long ", 12000), false},
		{"looks like a hash", "md5" + strings.Repeat("0", 31), false},
		{"no-break space", "no\u00a0break", true},
		{"zero-width space", "zero\u200bwidth", true},
		{"soft hyphen", "soft\u00adhyphen", true},
		{"combining accent", "pa\u0308ssword", true},
		{"ligature", "\ufb01sh", true},
		{"full width", "\uff50\uff41\uff53\uff53", true},
		{"Roman numeral", "\u2168", true},
	}
	users := []string{
		"two words", `quo"te`, "O'Brien", `back\slash`, "MiXeD", "\u00fcn\u00ef", "pa\u0308ss", "all", "user=x,y", "a@b:c/d?e", "-c", "\U0001f511",
		strings.Repeat("x", 63),
	}
	opener := mustPostgres(t, server.DSN())
	// told is what else than the error tells of a failure.
	attempt := func(user, password string) (sessionUser string, told []string, err error) {
		var log strings.Builder
		c, err := New(Config{
			Source: StaticSource(Credential{Username: user, Password: NewSecret(password)}), Opener: opener, Window: InPlace(),
			RetryTimeout: -1, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			return "", nil, err
		}
		db := OpenDB(c)
		err = db.QueryRowContext(t.Context(), "select session_user").Scan(&sessionUser)
		if err != nil {
			told = append(told, fmt.Sprint(c.CheckHealth()))
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		return sessionUser, append(told, log.String()), err // Close has waited for the log
	}
	const hint = "PostgreSQL normalises for SCRAM and lib/pq does not"
	for _, method := range []string{"cleartext", "scram", "md5"} {
		if method == "md5" {
			if err := server.Config(t.Context(), "password_encryption", "md5"); err != nil {
				t.Fatal(err)
			}
		}
		for i, test := range passwords {
			t.Run(method+"/"+test.name, func(t *testing.T) {
				user := fmt.Sprintf("%s_%d", method, i)
				if err := server.CreateRole(t.Context(), user, test.password, "in role "+method); err != nil {
					t.Fatal(err)
				}
				_, told, err := attempt(user, test.password)
				if lost := method == "scram" && test.changed; lost != (err != nil) {
					t.Errorf("login: %v", err)
				}
				// Where it works nothing is said, and where another one doesn't, nothing
				// unless that is a possible reason.
				wrong := "another"
				if test.changed {
					wrong += "\ufb01"
				}
				_, toldOfAnother, another := attempt(user, wrong)
				if another == nil {
					t.Fatal("any password will do")
				}
				for _, failure := range []struct {
					err  error
					told []string
				}{{err, told}, {another, toldOfAnother}} {
					if failure.err == nil {
						continue
					}
					if !opener.Refused(failure.err) {
						t.Error(failure.err)
					}
					for _, text := range append(failure.told, failure.err.Error()) {
						if strings.Contains(text, hint) != test.changed || strings.Contains(text, test.password) {
							t.Errorf("it is said: %s", text)
						}
					}
				}
			})
		}
		for i, name := range users {
			t.Run(method+"/user "+name, func(t *testing.T) {
				name += map[string]string{"cleartext": "", "md5": "5", "scram": "s"}[method]
				name = name[max(0, len(name)-63):]
				if err := server.CreateRole(t.Context(), name, fmt.Sprint("secret", i), "in role "+method); err != nil {
					t.Fatal(err)
				}
				if got, _, err := attempt(name, fmt.Sprint("secret", i)); err != nil || got != name {
					t.Errorf("logged in as %q: %v", got, err)
				}
			})
		}
	}
	log, err := server.Log()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range passwords {
		if strings.Contains(log, test.password) {
			t.Errorf("%s: the password is in the server's log", test.name)
		}
	}
}

// With sslmode=prefer at a server without TLS, lib/pq logs in twice and forgets
// the first socket.
func TestPreferLeavesNoSocketBehind(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Control: true})
	role := roleLogin{"prefers", "correct horse"}
	if err := server.CreateRole(t.Context(), role.name, role.password); err != nil {
		t.Fatal(err)
	}
	dsn := server.DSN() + " sslmode=prefer"
	eventuallyOpen := func(d *dialCount, want int) {
		t.Helper()
		for start := time.Now(); d.open() != want; {
			if time.Since(start) > time.Minute {
				t.Fatalf("%d sockets are open, want %d", d.open(), want)
			}
			time.Sleep(time.Millisecond)
		}
	}

	plain := &dialCount{}
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.User, cfg.Password = role.name, role.password
	connector, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	connector.Dialer(pqDialer(plain.dial))
	conn, err := connector.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if plain.open() != 1 {
		t.Errorf("lib/pq itself leaves %d sockets open, not 1: has it been mended?", plain.open())
	}
	plain.closeAll()

	for _, test := range []struct {
		name, password string
		open           int
	}{
		{"accepted", role.password, 1},
		{"refused", "wrong", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours := &dialCount{}
			c, err := New(Config{
				Source: StaticSource(Credential{Username: role.name, Password: NewSecret(test.password)}),
				Opener: mustPostgres(t, dsn), Window: InPlace(), RetryTimeout: -1, Dial: ours.dial, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			db := OpenDB(c)
			defer func() { _ = db.Close() }()
			if err := db.PingContext(t.Context()); (err == nil) != (test.open == 1) {
				t.Error(err)
			}
			if n := ours.dials(); n != 2 {
				t.Errorf("%d dials: the server has TLS, or lib/pq has changed", n)
			}
			eventuallyOpen(ours, test.open)
			_ = db.Close()
			eventuallyOpen(ours, 0)
		})
	}
}

// elsewhere is a login in the environment, for another host, and those that the files
// which it names have.
func elsewhere(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"services": "[elsewhere]\nhost=elsewhere.invalid\nuser=elsewhere\npassword=elsewhere\nsslmode=disable\n[named]\ndbname=named\nuser=elsewhere\n",
		"passfile": "*:*:*:*:elsewhere\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range map[string]string{
		"PGUSER": "elsewhere", "PGPASSWORD": "elsewhere", "PGSERVICE": "elsewhere",
		"PGSERVICEFILE": filepath.Join(dir, "services"), "PGPASSFILE": filepath.Join(dir, "passfile"),
	} {
		t.Setenv(key, value)
	}
}

// A login in the environment is nobody's here, and a service there doesn't say where
// the Source's goes; what is no login counts where the DSN says nothing.
func TestEnvironmentBringsNoLogin(t *testing.T) {
	elsewhere(t)
	t.Setenv("PGHOST", "from-environment")
	t.Setenv("PGAPPNAME", "from-environment")
	for dsn, want := range map[string]pq.Config{
		"":                          {Host: "from-environment", SSLMode: ""},
		"host=db sslmode=require":   {Host: "db", SSLMode: pq.SSLModeRequire},
		"user=me host=db":           {Host: "db"},
		"service=named":             {Host: "from-environment", Database: "named"},
		"postgres://db/app":         {Host: "db", Database: "app"},
		"postgres://me@db/app":      {Host: "db", Database: "app"},
		"postgresql:///app":         {Host: "from-environment", Database: "app"},
		"postgres://":               {Host: "from-environment"},
		"postgres://?service=named": {Host: "from-environment", Database: "named"},
	} {
		got := mustPostgres(t, dsn).(postgres).cfg
		if got.Host != want.Host || got.Database != want.Database || got.SSLMode != want.SSLMode || got.ApplicationName != "from-environment" {
			t.Errorf("%q: host %q, database %q, sslmode %q, application %q", dsn, got.Host, got.Database, got.SSLMode, got.ApplicationName)
		}
		if got.User == "elsewhere" && !strings.Contains(dsn, "service=") || got.Password != "" || got.Passfile != "" {
			t.Errorf("%q: user %q, password %q, passfile %q", dsn, got.User, got.Password, got.Passfile)
		}
	}
}

// What reaches the wire is the Source's, whatever the environment has, and without a
// password nothing does.
func TestLoginIsTheSourcesWhateverTheEnvironmentHas(t *testing.T) {
	elsewhere(t)
	opener, seen := mustPostgres(t, "host=db sslmode=disable"), make(chan seenLogin, 1)
	var dialled []string
	dial := func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		client, server := net.Pipe()
		go func() {
			got, err := impostor(server, cleartext, "")
			if err != nil {
				t.Error(err)
			}
			seen <- got
			_, _ = io.Copy(io.Discard, server)
		}()
		return client, nil
	}
	conn, err := opener.Open(t.Context(), Credential{Username: "app", Password: NewSecret("secret")}, dial)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := <-seen; got != (seenLogin{"app", "secret"}) {
		t.Errorf("%q arrived", got)
	}
	if _, err := opener.Open(t.Context(), Credential{Username: "app"}, dial); err == nil || !strings.Contains(err.Error(), "no password") {
		t.Errorf("without a password: %v", err)
	}
	if len(dialled) != 1 || dialled[0] != "db:5432" {
		t.Errorf("dialled %q", dialled)
	}
}

// lib/pq asks the operating system for a user name when it has none, and there may be
// none.
func TestPostgresNeedsNoUserOfTheOperatingSystem(t *testing.T) {
	for _, dsn := range []string{
		"", "host=db", "postgres://", "postgres://db/app", "postgres:///app?host=/run", "postgresql://h1,h2/app?port=1,2&application_name=@", "postgres://db?application_name=@",
	} {
		if cfg := mustPostgres(t, dsn).(postgres).cfg; cfg.User != "sqlrotate" {
			t.Errorf("%q: user %q", dsn, cfg.User)
		}
	}
}

func TestLibPQSaysWhereLoginsGo(t *testing.T) {
	t.Setenv("PGUSER", "somebody")
	t.Setenv("PGPASSWORD", "else")
	opener, err := LibPQ("postgres://app@db.example.org:6432/shop?sslmode=verify-full")
	if err != nil {
		t.Fatal(err)
	}
	cfg := opener.(interface{ Config() pq.Config }).Config()
	if cfg.Host != "db.example.org" || cfg.Port != 6432 || cfg.Database != "shop" || cfg.SSLMode != pq.SSLModeVerifyFull || cfg.User != "" || cfg.Password != "" {
		t.Errorf("%+v", cfg)
	}
}
