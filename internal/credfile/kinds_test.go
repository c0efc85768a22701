// Kinds of content that were once served as another login than the writer meant, or
// refused though they were right.

package credfile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// reading is a content, and the password in it or the reason why there is none.
type reading struct {
	content string
	want    string // the password; the user name is app
	reason  Reason
	says    string // a part of the message
}

func readings(t *testing.T, opt Options, all []reading) {
	t.Helper()
	for _, r := range all {
		got, err := Parse([]byte(r.content), opt)
		if r.reason != "" {
			var e *Error
			if !errors.As(err, &e) || e.Reason != r.reason || !strings.Contains(e.Error(), r.says) {
				t.Errorf("%q: got %q %q, %v; want the reason %s and %q", r.content, got.Username, got.Password, err, r.reason, r.says)
			}
			wantNoSecret(t, err, "fake-")
			continue
		}
		if err != nil || got.Username != "app" || got.Password != r.want {
			t.Errorf("%q: got %q %q, %v; want %q", r.content, got.Username, got.Password, err, r.want)
		}
	}
}

// A special character that is not encoded must not cut a password short, wherever the
// URL is.
func TestAURLThatIsNotEncodedIsRefused(t *testing.T) {
	for _, url := range []string{
		"postgres://app:fake-A@b?c@h:5432/d?sslmode=require", "postgres://app:fake-A?b@h/d", "postgres://app:fake-A?b@h/d?x=y",
		"postgres://app:fake-A@b@h/d", "postgres://app:fake-A/b@h/d", "postgres://app:fake-A#b@h/d", "postgres://app:fake-A b@h/d",
		"postgres://app:fake-A%zz@h/d", "postgres://app:fake-A/b?c@h/d", "postgres://h/d?user=app&password=fake-A?b", "postgres://h/d?user=app&password=fake-A+b",
		"postgres://h/d?user=app&password=fake-A;b", "postgres://app:fake-A@h/d?password=fake-B", "postgres://app:fake-A\u2028b@h/d",
	} {
		for _, content := range []string{url, "DATABASE_URL='" + url + "'\n", "url: " + url + "\n", fmt.Sprintf(`{"dsn":%q}`, url)} {
			for _, opt := range []Options{{}, {Username: "app"}} {
				got, err := Parse([]byte(content), opt)
				if err == nil {
					t.Errorf("%q: got %q", content, got.Password)
				}
				wantNoSecret(t, err, "fake-")
			}
		}
		if got, err := ParseDir(map[string][]byte{"uri": []byte(url), "host": []byte("h")}, Options{}); err == nil {
			t.Errorf("%q in a directory: got %q", url, got.Password)
		}
	}
	readings(t, Options{}, []reading{
		{content: "postgres://app:fake-A@b/c@h", reason: ReasonAmbiguous, says: `urlquery | replaceAll "+" "%20"`},
		{content: "postgres://app:a%40b%3Fc%20d+@h:5432/d?sslmode=require&x&y=%zz", want: "a@b?c d+"},
		{content: "postgres://h/d?user=app&password=a%2Bb%20c%3B", want: "a+b c;"},
	})
}

func TestAURLMayHaveBlanksAndCommentsAroundIt(t *testing.T) {
	readings(t, Options{}, []reading{
		{content: "\n\n  postgres://app:p@h/d  \n\n", want: "p"},
		{content: "# by the agent\n\tpostgresql://app:p@h/d\r\n# end\n", want: "p"},
		{content: "postgresql+asyncpg://app:p@h/d", want: "p"},
		{content: "POSTGRES+psycopg2://app:p@h/d", want: "p"},
		{content: "postgres://app:fake-A@h/d\npostgres://app:fake-B@h/d\n", reason: ReasonSyntax, says: "line 2: there is something after the URL"},
	})
	got, err := ParseDir(map[string][]byte{"username": []byte("app"), "password": []byte("p"), "uri": []byte("\npostgres://app:p@h/d\n\n")}, Options{})
	if err != nil || got.Password != "p" {
		t.Errorf("got %q, %v", got.Password, err)
	}
}

func TestValuesInDoubleQuotesAreNotForLibpq(t *testing.T) {
	readings(t, Options{}, []reading{
		{content: "username=\"app\"\npassword=\"a b=c\"\n", want: "a b=c"},
		{content: "user=\"app\"\npassword=\"pw\"\noptions=-c x=1\n", want: "pw"},
		{content: "host=h\nuser = \"app\"\npassword = \"pw\"\n", want: "pw"},
		{content: "user=app password=\"fake-A\"", reason: ReasonAmbiguous, says: `"password" begins with a double quote`},
		{content: "user=\"app\" password=\"fake-A\"", reason: ReasonAmbiguous, says: "write single quotes"},
		{content: "host=h user=app password='\"a'", want: `"a`},
		{content: "[db]\nuser=app\npassword=\"fake-A\"\n", reason: ReasonAmbiguous, says: `line 3: the value of "password" is in quotes`},
		{content: "[db]\nuser=app\npassword='fake-A'\n", reason: ReasonAmbiguous},
		{content: "[db]\nuser=app\npassword=fake-A ; x\n", reason: ReasonAmbiguous},
		{content: "[db]\nuser=app\npassword=fake-A\nb\n", reason: ReasonAmbiguous, says: "line 3"},
		{content: "[db]\nuser=app\npassword=fake-A \n", reason: ReasonAmbiguous},
		{content: "[db]\nuser=app\npassword=a;b #c\n", reason: ReasonAmbiguous},
		{content: "[db]\nuser = \"app\"\npassword = \"fake-A\"\n", reason: ReasonSyntax, says: `line 2: the value of "user" has white space around`},
	})
	readings(t, Options{Format: FormatKeywords}, []reading{
		{content: "user=\"app\"\npassword=\"fake-A\"\n", reason: ReasonAmbiguous}, {content: "user=app\npassword=fake-A\u00a0b\n", reason: ReasonAmbiguous},
	})
}

func TestASecretOfKubernetesIsDecodedOrRefused(t *testing.T) {
	const data = "data:\n  username: YXBw\n  password: czNjcjN0\n"
	readings(t, Options{}, []reading{
		{content: `{"kind":"Secret","data":{"username":"YXBw","password":"czNjcjN0"}}`, want: "s3cr3t"},
		{content: "kind: Secret\n" + data, want: "s3cr3t"},
		{content: data + "kind: Secret\n", want: "s3cr3t"},
		{content: "---\napiVersion: v1\n" + data + "kind: Secret\n", want: "s3cr3t"},
		{content: "kind: Secret\n" + data + "stringData:\n  password: 'it''s'\n", want: "it's"},
		{content: `{"kind":"Secret","stringData":{"password":"p"},"data":{"username":"YXBw","password":"czNjcjN0","x":"?"}}`, want: "p"},
		{content: `{"kind":"Secret","data":{"uri":"cG9zdGdyZXM6Ly9hcHA6cEBoL2Q="}}`, want: "p"},
		{content: `{"kind":"Secret","data":{"username":"YXBw","password":"fake-A!"}}`, reason: ReasonSyntax, says: `"data.password" is not base64`},
		{content: `{"kind":"Secret","data":{"username":"YXBw","password":""}}`, reason: ReasonNoPassword},
		{content: "kind: Secret\nstringData: {username: app, password: fake-A}\n", reason: ReasonNoPassword, says: "lines of its own"},
		{content: `{"kind":"List","items":[{"kind":"Secret","data":{"username":"YXBw","password":"czNjcjN0"}}]}`, reason: ReasonSyntax, says: "kubectl get secret NAME"},
		{content: `{"kind":"SealedSecret","spec":{"encryptedData":{"username":"fake-A","password":"fake-B"}}}`, reason: ReasonEncrypted},
		{content: `{"apiVersion":"v1",` + `"data":{"username":"YXBw","password":"czNjcjN0"}}`, reason: ReasonSyntax, says: "without a kind"},
		{content: `{"username":"YXBw","password":"czNjcjN0"}`, reason: ReasonAmbiguous, says: "still base64"},
		{content: data, reason: ReasonAmbiguous},
		{content: `{"username":"app","password":"czNjcjN0"}`, want: "czNjcjN0"},
	})
}

func TestDotenvIsReadAsAllItsReadersRead(t *testing.T) {
	const user = "DB_USER=app\n"
	readings(t, Options{}, []reading{
		{content: user + `DB_PASSWORD="a\"b\\c\$d"`, want: `a"b\c$d`},
		{content: user + `DB_PASSWORD='a$b\c"#'`, want: `a$b\c"#`},
		{content: user + "DB_PASSWORD='a`b'", want: "a`b"},
		{content: user + `DB_PASSWORD="fake-A\!b"`, reason: ReasonAmbiguous, says: `line 2: the value of "DB_PASSWORD" has a backslash`},
		{content: user + `DB_PASSWORD="fake-A\nb"`, reason: ReasonAmbiguous},
		{content: user + `DB_PASSWORD="fake-A\d"`, reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=\"fake-A\\`b\"", reason: ReasonAmbiguous},
		{content: user + `DB_PASSWORD="fake-A$b"`, reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=\"fake-A`b`\"", reason: ReasonAmbiguous},
		{content: user + `DB_PASSWORD="fake-A\""`, reason: ReasonAmbiguous, says: "lose"},
		{content: user + "DB_PASSWORD=\"fake-A\\\\\"\nX=\"y: z\"", reason: ReasonAmbiguous},
		{content: user + `DB_PASSWORD="a\\"`, want: `a\`},
		{content: user + `DB_PASSWORD='fake-it\' #x'`, reason: ReasonAmbiguous, says: "backslash before its closing quote"},
		{content: user + "DB_PASSWORD='fake-A\\'\nX='y=z'", reason: ReasonAmbiguous},
		{content: "DB_PASSWORD='a\\'\nDB_USER='app'\n", want: `a\`},
		{content: user + `DB_PASSWORD='a\'`, want: `a\`},
		{content: user + "DB_PASSWORD=#fake-A", reason: ReasonAmbiguous, says: "unquoted #"},
		{content: user + "DB_PASSWORD= #fake-A", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=a#b # new", want: "a#b"},
		{content: user + "DB_PASSWORD=fake-A #b #c", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=fake-A\t#b", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=fake-A$b", reason: ReasonAmbiguous},
		{content: user + `DB_PASSWORD=fake-A\b`, reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=fake-A;b", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=fake-it's", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=fake-A b", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=~/fake-A", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD=fake-A\u00a0#b", reason: ReasonAmbiguous},
		{content: user + "DB_PASSWORD: fake-A", reason: ReasonAmbiguous, says: "KEY=value"},
		{content: "FOO=x DB_PASSWORD=fake-A\n" + user + "DB_PASSWORD=fake-B", reason: ReasonAmbiguous, says: "line 1"},
		{content: user + "DB_PASSWORD=fake-A\nfake-B\n", reason: ReasonAmbiguous, says: "a part of the value"},
	})
}

func TestDotenvIsReadAsShellsQuote(t *testing.T) {
	const user = "PGUSER='app'\n"
	readings(t, Options{}, []reading{
		{content: user + `PGPASSWORD='it'\''s'`, want: "it's"},
		{content: user + `PGPASSWORD='it'"'"'s'`, want: "it's"},
		{content: user + `PGPASSWORD=''\''it'`, want: "'it"},
		{content: user + `PGPASSWORD='it'\'''`, want: "it'"},
		{content: user + `export PGPASSWORD='it'\''s' # new`, want: "it's"},
		{content: user + `PGPASSWORD='it''s fake-A'`, reason: ReasonAmbiguous, says: `'\''`},
		{content: user + `PGPASSWORD='fake-A'b`, reason: ReasonAmbiguous},
		{content: user + `PGPASSWORD='fake-A'\b'c'`, reason: ReasonAmbiguous},
		{content: user + `PGPASSWORD='fake-A'\'`, reason: ReasonAmbiguous},
		{content: user + `PGPASSWORD='fake-A'"b"'c'`, reason: ReasonAmbiguous},
		{content: user + `PGPASSWORD=fake-it\'s`, reason: ReasonAmbiguous},
		{content: "set -a\n" + user + `PGPASSWORD=it\'s\ \$x\\`, want: `it's $x\`},
		{content: "#!/bin/sh\n" + user + `PGPASSWORD="a"b'c'\d`, want: "abcd"},
		{content: "set -a\n" + user + `PGPASSWORD="a\!b"`, want: `a\!b`},
		{content: "set -a\n" + user + "PGPASSWORD=fake-A$x", reason: ReasonAmbiguous},
		{content: "set -a\n" + user + "PGPASSWORD=$'fake-A'", reason: ReasonAmbiguous},
		{content: "set -a\n" + user + "PGPASSWORD=fake-A&b", reason: ReasonAmbiguous},
		{content: user + `declare -x PGPASSWORD="a\"b\` + "`" + `"`, want: "a\"b`"},
	})
}

func TestWhatIsNoneOfOursDoesNotBlock(t *testing.T) {
	const env = "DB_USER=app\nDB_PASSWORD=p\n"
	readings(t, Options{}, []reading{
		{content: "CERT=\"-----BEGIN\nDB_PASSWORD=x\n-----END\"\n" + env, want: "p"},
		{content: "CERT=-----BEGIN\nMII/+=\n-----END\n" + env, want: "p"},
		{content: env + "HOME\n", want: "p"},
		{content: "DB_USER=app\nDB_PASSWORD=fake-A\n1234\n", reason: ReasonAmbiguous},
		{content: "HOME\n" + env, want: "p"},
		{content: "export -p\nset -a\n; comment\n" + env + "set +a\nexport DB_USER DB_PASSWORD\n", want: "p"},
		{content: env + "MOTD='it is\n", want: "p"},
		{content: env + "X=\"\\q $y\"z\n", want: "p"},
		{content: env + "A=b c; d\n", want: "p"},
		{content: env + "SPRING_DATASOURCE_URL=jdbc:sqlserver://h;databaseName=x\nURL=\"https://h/$x\"\n", want: "p"},
		{content: "# x\nDB_USER=app\n# y\nDB_PASSWORD=p\noptions=-c x=1\n", want: "p"},
		{content: "ca: -----BEGIN\nMII+/=\n-----END\npassword: p\nusername: app\n", want: "p"},
		{content: "username: app\nlist:\n- password: x\n- y\npassword: p\n", want: "p"},
		{content: "username: app\nmap: {a: b,\n  password: x}\npassword: p\n", want: "p"},
		{content: "username: app\ntls: |\n  password: x\n\n  y\nmap:\n  password: x\n# z\n  list: [\npassword: p\n", want: "p"},
		{content: "username: app\nx: &a !!str |8\npassword: p\ny: \"\\q\"\n", want: "p"},
		{content: `{"username":"app","password":"p","x":{"password":["y",null]},"z":true}`, want: "p"},
		{content: "[db]\nuser=app\npassword=p\nssl = on\njunk\n", want: "p"},
		{content: "h:1:d\nh:5432:d:app:p\n", want: "p"},
		{content: "DB_USER=app\nDB_PASSWORD=fake-A\nDB_PASSW", reason: ReasonSyntax, says: "line 3: it ends within a key"},
	})
}

func TestWhatIsLeftOverIsNoCredentialInAnyFormat(t *testing.T) {
	for _, value := range []string{
		"%!s(<nil>)", "<nil>", "%!s(MISSING)", "%!d(string=fake-A)", "<no value>", "map[fake-A:b]", "{{ .fake-A }}", "{% fake-A %}", "${U}", "x${DB_PASSWORD}", "${file:/run/x}", "$(DB_PASSWORD)", "$DB_PASSWORD", "%DB_PASSWORD%", "#{Db.Password}", "((db-password))", "__DB_PASSWORD__",
		"null", "NULL", "nil", "None", "undefined", "<redacted>", "[REDACTED]", "REDACTED", "(sensitive value)", "(known after apply)", "[object Object]", "***", "********",
		"ENC[AES256_GCM,data:fake-A]", "ENC(fake-A)", "vault:v1:fake-A", "{cipher}fake-A", "SCRAM-SHA-256$4096:fake-A", "md5" + strings.Repeat("0a", 16), "-----BEGIN PGP MESSAGE-----", "$ANSIBLE_VAULT;1.1;AES256", "U2FsdGVkX1fake-A",
		"op://fake-A/db/password", "vault:secret/data/fake-A#password", "arn:aws:secretsmanager:eu:1:secret:fake-A", "ref+vault://fake-A", "projects/1/secrets/fake-A/versions/1", "@Microsoft.KeyVault(SecretUri=fake-A)", "https://fake-A",
		"<!DOCTYPE html><html>fake-A", "<html>fake-A</html>", "<?xml version='1.0'?>", "<Error><Code>fake-A</Code></Error>",
		"postgres://u:fake-A@h/d", "user=u password=fake-A", "Server=h;User Id=u;Password=fake-A;", "jdbc:postgresql://h/d?user=u&password=fake-A", "u:fake-A@tcp(h:3306)/d", "PWD = fake-A",
	} {
		escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(value)
		for format, content := range map[Format]string{
			FormatJSON: fmt.Sprintf(`{"username":"app","password":%q}`, value), FormatDotenv: "DB_USER=app\nDB_PASSWORD='" + strings.ReplaceAll(value, "'", "") + "'\n",
			FormatYAML: "username: app\npassword: '" + strings.ReplaceAll(value, "'", "''") + "'\n", FormatURL: "postgres://app:" + percentEncode(value) + "@h/d",
			FormatKeywords: "host=h user=app password='" + strings.ReplaceAll(value, "'", `\'`) + "'", FormatPassfile: "h:1:d:app:" + escaped, FormatService: "[s]\nuser=app\npassword=" + value + "\n", FormatPassword: value,
		} {
			for _, named := range []Format{FormatAuto, format} {
				got, err := Parse([]byte(content), Options{Username: "app", Format: named})
				if err == nil && got.Format == format && got.Password == strings.ReplaceAll(value, "'", "") || err == nil && got.Format == FormatPassword {
					t.Errorf("%q as %q is served as %q", content, named, got.Password)
				}
				wantNoSecret(t, err, "fake-")
			}
		}
		files := map[string][]byte{"username": []byte("app"), "password": []byte(value)}
		if got, err := ParseDir(files, Options{}); err == nil {
			t.Errorf("%q in a directory is served as %q", value, got.Password)
		}
		if got, err := Complete(Login{Username: "app", Password: value}, Options{}); err == nil {
			t.Errorf("%q of a decoder is served as %q", value, got.Password)
		}
	}
	readings(t, Options{}, []reading{
		{content: "postgres://${U}:${P}@h/d", reason: ReasonUnrendered, says: "the value of user is a variable"},
		{content: "username: app\npassword: null\n", reason: ReasonNoPassword},
		{content: "username: app\npassword: ~\n", reason: ReasonNoPassword},
		{content: `{"username":"app","password":null}`, reason: ReasonNoPassword, says: `"password" is empty`},
		{content: "DB_USER=app\nDB_PASSWORD=${PW}\n", reason: ReasonUnrendered, says: "variable"},
		{content: "DB_USER=app\nDB_PASSWORD=\"${PW}\"\n", reason: ReasonUnrendered},
		{content: "DATABASE_URL='ENC[AES256_GCM,fake-A]'\n", reason: ReasonEncrypted},
		{content: "-----BEGIN PGP MESSAGE-----\n\nfake-A\n", reason: ReasonEncrypted},
		{content: "age-encryption.org/v1\n-> X25519 fake-A\n", reason: ReasonEncrypted},
		{content: "<html>\n<a href='fake-A'/>\n", reason: ReasonUnrendered, says: "HTML"},
	})
}

func TestATemplateIsBlamedForItsOwnLineOnly(t *testing.T) {
	readings(t, Options{}, []reading{
		{content: "username: app\npassword: {{ .x }}\n", reason: ReasonUnrendered, says: "line 2"},
		{content: "x: map[a:b]\n", reason: ReasonUnrendered},
		{content: "X='{{ y }}'\nDB_USER=app\nDB_PASSWORD=fake-A$b\n", reason: ReasonAmbiguous, says: "line 3"},
	})
}

func percentEncode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

func TestAConnectionStringIsNoPasswordAndNoPasswordAConnectionString(t *testing.T) {
	readings(t, Options{Username: "app"}, []reading{
		{content: "keepalives=1 host=h user=app password=p", want: "p"},
		{content: "pool_max_conns=4 user=app password=p", want: "p"},
		{content: "binary_parameters=yes user=app password=p", want: "p"},
		{content: "unheard_of=1 user=app password=p", want: "p"},
		{content: "postgresql+asyncpg://app:p@h/d", want: "p"},
		{content: "password=p", want: "p"},
		{content: "password='a b'", want: "a b"},
		{content: "Server=h;User Id=app;Password=fake-A;", reason: ReasonUnknown, says: "another kind"},
		{content: "Host=h;Username=app;Password=fake-A", reason: ReasonUnknown},
		{content: "jdbc:postgresql://h/d?user=app&password=fake-A", reason: ReasonUnknown},
		{content: "mysql://app:fake-A@h/d", reason: ReasonUnknown},
		{content: "app:fake-A@tcp(h:3306)/d", reason: ReasonUnknown},
		{content: "app:fake-A@h:5432/d", reason: ReasonUnknown},
		{content: "postgres:/app:fake-A@h", reason: ReasonUnknown},
		{content: "{username: app, password: fake-A}", reason: ReasonUnknown, says: "write JSON"},
		{content: "{'username': 'app', 'password': 'fake-A'}", reason: ReasonUnknown, says: "write JSON"},
		{content: "a:b@c", want: "a:b@c"},
		{content: "a=b=c://", want: "a=b=c://"},
		{content: "passwordless", want: "passwordless"},
		{content: "my.password", want: "my.password"},
		{content: "x@y://z", want: "x@y://z"},
		{content: "h.rds.amazonaws.com:5432/?Action=connect&DBUser=app&X-Amz-Signature=0a", want: "h.rds.amazonaws.com:5432/?Action=connect&DBUser=app&X-Amz-Signature=0a"},
	})
}

func TestYAMLIsReadAsItsReadersRead(t *testing.T) {
	const user = "username: app\n"
	readings(t, Options{}, []reading{
		{content: "---\n" + user + "password: p\n...\n", want: "p"},
		{content: "%YAML 1.2\n--- # x\n" + user + "password: p\n", want: "p"},
		{content: "  username: app\n\n  password: p\n", want: "p"},
		{content: "\"username\": \"app\"\n'password' : 'p'\n", want: "p"},
		{content: user + `password: "p\xE9\u263a\U0001F600\e\t\/\_"` + "\n", want: "pé☺😀\x1b\t/\u00a0"},
		{content: user + "password: \"a\n  b\n\n  c\\\n  \\ d\"\n", want: "a b\nc d"},
		{content: user + "password: 'a\n  it''s'\n", want: "a it's"},
		{content: user + "password: a\n  b\n", want: "a b"},
		{content: user + "password: >-\n  a\n  b\n", want: "a b"},
		{content: user + "password: |-\n  a\n", want: "a"},
		{content: user + "password:   'a'\n", want: "a"},
		{content: user + "password: |4+\n", reason: ReasonSyntax, says: "line 2"},
		{content: user + "password: |\n  fake-A\n", reason: ReasonSyntax, says: "write |-"},
		{content: user + "password: |-\n  fake-A\n    b\n", reason: ReasonSyntax},
		{content: user + "password: |2-\n   fake-A\n", reason: ReasonSyntax},
		{content: user + "password: fake-A\n---\n" + user + "password: fake-B\n", reason: ReasonSyntax, says: "several YAML documents"},
		{content: user + "password:\n  fake-A\n", reason: ReasonSyntax},
		{content: user + "password: \"fake-A", reason: ReasonSyntax, says: "not yet written"},
		{content: user + "password: \"a\n", want: `"a`},
		{content: "# x\n" + user + "password: \"fake-A\n", reason: ReasonSyntax},
		{content: "# x\n" + user + "password: fake-A # b\n", reason: ReasonAmbiguous, says: "comment in YAML"},
		{content: user + "password: a # b\n", want: "a # b"},
		{content: "# x\n" + user + "password: *fake-A\n", reason: ReasonAmbiguous},
		{content: user + "password: *a\n", want: "*a"},
		{content: "# x\n" + user + "password: 007\n", reason: ReasonAmbiguous, says: "number"},
		{content: user + "password: 007\n", want: "007"},
		{content: user + "password: +7\n", reason: ReasonAmbiguous},
		{content: "# x\n" + user + "password: 70\n", want: "70"},
		{content: user + "password: &x fake-A\n", reason: ReasonAmbiguous, says: "anchor"},
		{content: user + "password: !!str fake-A\n", reason: ReasonAmbiguous},
		{content: user + "password: !vault |\n  fake-A\n", reason: ReasonAmbiguous, says: "tag"},
		{content: user + "password: [fake-A]\n", reason: ReasonSyntax},
		{content: user + "password: fake-A \n", reason: ReasonAmbiguous, says: "white space"},
		{content: user + "password: \"fake-\\ud83d\\ude00\"\n", reason: ReasonSyntax},
		{content: user + "password: fake-A\n\nb\n", reason: ReasonAmbiguous, says: "part of the value"},
		{content: "x: \"a\npassword: fake-A\nusername: app\ny: b\"\n", reason: ReasonAmbiguous, says: "line 2"},
		{content: "x: 'a\npassword: p\nusername: app\ny: b' c\n", want: "p"},
		{content: user + "password: \"fake-A\nx: y\"\n", reason: ReasonAmbiguous},
		{content: user + "password: |-\n  fake-A\n\u2028  b:\n", reason: ReasonAmbiguous},
	})
}

func TestALineBreakThatOnlySomeKnowIsRefused(t *testing.T) {
	for _, odd := range []string{"\r", "\u0085", "\u2028", "\u2029", "\v", "\f"} {
		for _, content := range []string{
			"username: app\npassword: fake-A" + odd + "b\n", "username: app" + odd + "password: fake-A\n", "username: app\nx: y" + odd + "password: fake-A\npassword: fake-B\n", "username: app\npassword: 'a\n  fake-A" + odd + "'\n",
			"DB_USER=app\nDB_PASSWORD=fake-A" + odd + "b\n", "DB_USER=app" + odd + "DB_PASSWORD=fake-A\n", "DB_USER=app\nX=y" + odd + "DB_PASSWORD=fake-A\nDB_PASSWORD=fake-B\n",
			"[s]\nuser=app\npassword=fake-A" + odd + "b\n", "[s]\nuser=app\nx=y" + odd + "password=fake-A\npassword=fake-B\n", "h:1:d:app:fake-A" + odd + "b\n",
		} {
			got, err := Parse([]byte(content), Options{})
			if err == nil {
				t.Errorf("%q: got %q %q", content, got.Username, got.Password)
			}
			wantNoSecret(t, err, "fake-")
		}
	}
}

func TestAPassfileIsReadAsItsReadersRead(t *testing.T) {
	readings(t, Options{}, []reading{
		{content: `h:5432:d:app:a\://b`, want: "a://b"},
		{content: `h:5432:d:app:a\\b`, want: `a\b`},
		{content: `h\:1:5432:d:app:p`, want: "p"},
		{content: "*:*:*:app:p\n*:*:*:app:q\n", want: "p"},
		{content: "h:1:d:app:p\nh:1:d:other:q\n*:*:*:*:r\n", want: "p"},
		{content: "h:5432:d:app:fake-A://b", reason: ReasonAmbiguous, says: `line 1: the value of "password" has a colon`},
		{content: `h:5432:d:app:fake-A\b`, reason: ReasonAmbiguous},
		{content: `h:5432:d:app:fake-A\`, reason: ReasonAmbiguous},
		{content: "h:5432:d:app:fake-A\nb\n", reason: ReasonAmbiguous, says: "line 1"},
		{content: "h:5432:d:app:fake-A ", reason: ReasonAmbiguous},
		{content: "h:1:d:app:fake-A\ni:1:d:app:fake-B\n", reason: ReasonConflict, says: "line 2: a second line of the same user"},
	})
}

func TestANumberIsReadAsItIsWrittenIfAllReadersDo(t *testing.T) {
	readings(t, Options{}, []reading{
		{content: `{"username":"app","password":31415926535897932384626433832795}`, want: "31415926535897932384626433832795"},
		{content: `{"username":"app","password":0}`, want: "0"},
		{content: `{"username":"app","password":1.50,"password":"p"}`, reason: ReasonAmbiguous},
		{content: `{"username":"app","password":1e3}`, reason: ReasonAmbiguous, says: "put it in quotes"},
		{content: `{"username":"app","password":-1}`, reason: ReasonAmbiguous},
		{content: `{"username":"app","password":"p","port":5e3,"x":-1.0}`, want: "p"},
	})
}

func TestAUserNameHasNoWhiteSpaceAroundIt(t *testing.T) {
	for _, content := range []string{
		"username: app \npassword: p\n", "username: 'app '\npassword: p\n", `{"username":"app ","password":"p"}`, `{"username":"app\n","password":"p"}`, "DB_USER=' app'\nDB_PASSWORD=p\n", "postgres://app%20:p@h/d",
		"user='app ' password=p", "h:1:d:app :p", "[s]\nuser=app\u00a0\npassword=p\n",
	} {
		if got, err := Parse([]byte(content), Options{}); err == nil {
			t.Errorf("%q: got %q", content, got.Username)
		}
	}
	if got, err := ParseDir(map[string][]byte{"username": []byte("app \n"), "password": []byte("p")}, Options{}); err == nil {
		t.Errorf("in a directory: got %q", got.Username)
	}
	if _, err := Complete(Login{Username: "app ", Password: "p"}, Options{}); err == nil {
		t.Error("of a decoder it is taken")
	}
}

func TestMoreNamesAreKeys(t *testing.T) {
	for _, user := range []string{"DATABASE_USER", "DATABASE_USERNAME", "POSTGRESQL_USER", "POSTGRESQL_USERNAME", "DBUSER", "DBUSERNAME", "dbUsername", "LOGIN", "DB_LOGIN", "SPRING_DATASOURCE_USERNAME", "spring.datasource.username", "PG_USER", "user_name"} {
		for _, password := range []string{"DATABASE_PASSWORD", "DATABASE_PASS", "POSTGRESQL_PASSWORD", "DBPASSWORD", "dbPassword", "DBPASS", "SPRING_DATASOURCE_PASSWORD", "PG_PASSWORD", "POSTGRES_PASS"} {
			readings(t, Options{}, []reading{{content: user + "=app\n" + password + "=p\n", want: "p"}, {content: fmt.Sprintf(`{%q:"app",%q:"p"}`, user, password), want: "p"}})
		}
	}
	for _, url := range []string{"DATABASE_URI", "DB_URL", "DB_DSN", "POSTGRES_URL", "POSTGRES_DSN", "POSTGRESQL_URL", "PG_URL", "SPRING_DATASOURCE_URL", "connectionString", "CONNECTION_STRING"} {
		readings(t, Options{}, []reading{{content: url + "=postgres://app:p@h/d\n", want: "p"}})
	}
	readings(t, Options{}, []reading{{content: "PGPASSFILE=fake-A\npgpass=fake-B\nPOSTGRES_HOST_AUTH_METHOD=fake-C\nDB_USER=app\n", reason: ReasonNoPassword}})
}

func TestAKeyMayBeAPathIntoWhatIsNested(t *testing.T) {
	opt := Options{UsernameKey: "db.primary.name", PasswordKey: "db.primary.secret"}
	readings(t, opt, []reading{
		{content: `{"db":{"primary":{"name":"app","secret":"p"},"replica":{"name":"x","secret":"y"}},"username":"z","password":"z"}`, want: "p"},
		{content: `{"data":{"data":{"db":{"primary":{"name":"app","secret":"p"}}}}}`, want: "p"},
		{content: "db:\n  replica: {}\n  primary:\n    name: app\n    secret: p\n", want: "p"},
		{content: `{"db":{"primary":{"name":"app","secret":{"x":"fake-A"}}}}`, reason: ReasonSyntax, says: `"db.primary.secret" is an object`},
		{content: `{"db":{"name":"app","secret":"fake-A"}}`, reason: ReasonNoUsername, says: `"db.primary.name"`},
	})
	readings(t, Options{UsernameKey: "l.1.u", PasswordKey: "l.1.p"}, []reading{{content: `{"l":[{"u":"x","p":"y"},{"u":"app","p":"p"}]}`, want: "p"}})
	readings(t, Options{}, []reading{{content: `{"db":{"username":"app","password":"fake-A"}}`, reason: ReasonNoUsername, says: "nested, as in line 1"}})
}

func TestTheServerThatAFileNamesIsTold(t *testing.T) {
	for _, content := range []string{
		`{"username":"app","password":"p","host":"h","port":5432,"dbname":"d","engine":"postgres"}`, "postgres://app:p@h:5432/d?sslmode=require", "postgresql:///?user=app&password=p&host=h&port=5432&dbname=d",
		"host=h port=5432 dbname=d user=app password=p", "h:5432:d:app:p", "[s]\nhost=h\nport=5432\ndbname=d\nuser=app\npassword=p\n", "PGHOST=h\nPGPORT=5432\nPGDATABASE=d\nPGUSER=app\nPGPASSWORD=p\n",
		"POSTGRES_HOST=h\nPOSTGRES_PORT=5432\nPOSTGRES_DB=d\nPOSTGRES_USER=app\nPOSTGRES_PASSWORD=p\n", "DB_HOST=h\nDB_PORT=5432\nDB_NAME=d\nDATABASE_URL=postgres://app:p@h:5432/d\n", "host: h\nport: 5432\ndatabase: d\nusername: app\npassword: p\n",
	} {
		got, err := Parse([]byte(content), Options{})
		if err != nil || got.Host != "h" || got.Port != "5432" || got.Database != "d" {
			t.Errorf("%q: %q %q %q, %v", content, got.Host, got.Port, got.Database, err)
		}
	}
	got, err := ParseDir(map[string][]byte{"user": []byte("app"), "password": []byte("p"), "host": []byte("h\n"), "port": []byte("5432"), "dbname": []byte("d"), "uri": []byte("postgres://app:p@other/d")}, Options{})
	if err != nil || got.Host != "" || got.Port != "5432" || got.Database != "d" {
		t.Errorf("in a directory: %q %q %q, %v", got.Host, got.Port, got.Database, err)
	}
	for _, content := range []string{"postgres://app:p@h1,h2/d", "*:*:*:app:p", "username: app\npassword: p\nhost: ${HOST}\n", `{"username":"app","password":"p","host":{"x":"y"},"port":null}`} {
		if got, err := Parse([]byte(content), Options{}); err != nil || got.Host+got.Port != "" {
			t.Errorf("%q: %q %q, %v", content, got.Host, got.Port, err)
		}
	}
}

func TestNamesInMessagesAreQuotedAndCut(t *testing.T) {
	long := strings.Repeat("k", 200)
	for _, opt := range []Options{{UsernameKey: "x\nlevel=ERROR", PasswordKey: long}, {Username: "app", PasswordKey: "x\nlevel=ERROR"}, {Format: Format("x\n" + long)}} {
		_, err := Parse([]byte(`{"x\nlevel=ERROR":["a"],"password":"p"}`), opt)
		if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), long) {
			t.Errorf("%+v: %v", opt, err)
		}
		_, err = ParseDir(map[string][]byte{"x\nlevel=ERROR": []byte("a\nb"), "y": nil}, opt)
		if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), long) {
			t.Errorf("%+v in a directory: %v", opt, err)
		}
	}
}
