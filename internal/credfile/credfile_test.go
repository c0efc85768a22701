// The formats of credential files, by samples of what producers write.

package credfile

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const formatSamples = "testdata/formats"

// sample is a file or directory of testdata/formats and what it holds.
type sample struct {
	name           string
	format         Format // as recognised; empty for a directory
	opt            Options
	user, password string
	end            string // RFC 3339
}

// samples has an entry for each sample that is good. No test but the ones for
// refusals uses another password that begins with "fake-".
func samples() []sample {
	user := Options{Username: "app"}
	return []sample{
		{name: "vault-agent-injector-default.txt", format: FormatYAML, user: "v-kubernet-app-injector-1763", password: `fake-Injector: map #1 "x`},
		{name: "vault-agent-injector-static.txt", format: FormatYAML, user: "app-static", password: "fake-Static-e7c1"},
		{name: "vault-agent-injector-json.json", format: FormatJSON, user: "v-kubernet-app-json-1763", password: "fake-InjectorJSON-93a"},
		{name: "vault-read.json", format: FormatJSON, user: "v-root-app-read", password: `fake-VaultRead-"quoted"\x`},
		{name: "kv2.json", format: FormatJSON, user: "app-kv2", password: "fake-KV2-0b7"},
		{name: "kv2-data.json", format: FormatJSON, user: "app-kv2-data", password: "fake-KV2data-{{-77"},
		{name: "rds.json", format: FormatJSON, user: "app_rds", password: "fake-RDS-<no>&=+4"},
		{name: "agent-expires-at.json", format: FormatJSON, user: "app-expires", password: "fake-Expires-5d1", end: "2026-11-23T18:00:00Z"},
		{name: "agent-unix-seconds.json", format: FormatJSON, user: "app-unix", password: "fake-Unix-8e2", end: "2026-11-23T18:00:00Z"},
		{name: "agent-numeric.json", format: FormatJSON, user: "app-numeric", password: "31415926535897932384626433832795"},
		{name: "agent-url-key.json", format: FormatJSON, user: "app-urlkey", password: "fake-URLkey-@/:6"},
		{name: "agent-dsn-key.json", format: FormatJSON, user: "app-dsnkey", password: "fake-DSN key-6"},
		{name: "agent-nested-other.json", format: FormatJSON, user: "app-nested", password: "fake-Nested-19"},
		{name: "agent-dotenv.env", format: FormatDotenv, user: "app-dotenv", password: "fake-Dotenv#4=x"},
		{name: "agent-dotenv-export.env", format: FormatDotenv, user: "app-export", password: `fake-Export "q" \ $x`},
		{name: "agent-dotenv-single.env", format: FormatDotenv, user: "app-single", password: `fake-Single \n "5" # $x `},
		{name: "agent-dotenv-numeric.env", format: FormatDotenv, user: "app-zeros", password: "0012345678901234567890"},
		{name: "agent-dotenv-crlf.env", format: FormatDotenv, user: "app-crlf", password: "fake-CRLF-31"},
		{name: "agent-dotenv-url.env", format: FormatDotenv, user: "app-envurl", password: "fake-EnvURL#5"},
		{name: "agent-yaml.yaml", format: FormatYAML, user: "app-yaml", password: "fake-YAML: it's #2", end: "2026-11-23T18:00:00Z"},
		{name: "agent-yaml-double.yaml", format: FormatYAML, user: "app-yaml-double", password: `fake-YAML2 "q" é`},
		{name: "agent-url.txt", format: FormatURL, user: "app-url", password: "fake-URL %:-12"},
		{name: "agent-url-parameters.txt", format: FormatURL, user: "app-urlparam", password: "fake-Param&+3"},
		{name: "agent-keywords.txt", format: FormatKeywords, user: "app-kw", password: `fake-Keywords it's \ 7`},
		{name: "agent-keywords-plain.txt", format: FormatKeywords, user: "app-kwplain", password: "fake-Plain kw-8"},
		{name: "libpq.pgpass", format: FormatPassfile, user: "app-pgpass", password: `fake-Pass:file\:8`},
		{name: "libpq.pgpass", format: FormatPassfile, opt: Options{Username: "other-pgpass"}, user: "other-pgpass", password: "fake-OtherPass-2"},
		{name: "libpq.pgpass", format: FormatPassfile, opt: user, user: "app", password: "fake-AnyPass-3"},
		{name: "libpq-wildcard.pgpass", format: FormatPassfile, opt: user, user: "app", password: "fake-Wildcard-44"},
		{name: "libpq-service.conf", format: FormatService, user: "app-service", password: "fake-Service =#9"},
		{name: "docker-secret.txt", format: FormatPassword, opt: user, user: "app", password: "fake-Docker-1f= "},
		{name: "compose-secret.txt", format: FormatPassword, opt: user, user: "app", password: "fake-Compose-2e"},
		{name: "systemd-credential.txt", format: FormatPassword, opt: user, user: "app", password: "fake-Systemd-3d"},

		{name: "aws-secretsmanager-get-secret-value.json", format: FormatJSON, user: "app_awsrds", password: `fake-AWS!RDS"'\#7`},
		{name: "aws-secretsmanager-get-secret-value.yaml", format: FormatYAML, user: "app_awsrds", password: `fake-AWS!RDS"'\#7`},
		{name: "aws-secretsmanager-binary.json", format: FormatJSON, user: "app_awsbinary", password: "fake-AWSbinary-9"},
		{name: "aws-secretsmanager-plain.json", format: FormatJSON, opt: user, user: "app", password: "fake-AWSplain: {it's} #8"},
		{name: "aws-ssm-get-parameter.json", format: FormatJSON, opt: user, user: "app", password: "fake-SSM-x%10"},
		{name: "az-keyvault-secret-show.json", format: FormatJSON, opt: user, user: "app", password: "fake-Azure~Bare=11"},
		{name: "az-keyvault-secret-show-url.json", format: FormatJSON, user: "app-azure", password: "fake-Azure@URL:12"},
		{name: "gcloud-secrets-versions-access.json", format: FormatJSON, user: "app-gcp", password: "fake-GCP-??>>13"},
		{name: "gcloud-secrets-versions-access.yaml", format: FormatYAML, user: "app-gcp", password: "fake-GCP-??>>13"},
		{name: "kubectl-get-secret.json", format: FormatJSON, user: "app-kubectl", password: "fake-Kubectl: #14"},
		{name: "kubectl-get-secret.yaml", format: FormatYAML, user: "app-kubectl", password: "fake-Kubectl: #14"},
		{name: "kubectl-get-secret-one-file.json", format: FormatJSON, user: "app-onefile", password: "fake-OneFile $16"},
		{name: "kubernetes-secret-stringdata.yaml", format: FormatYAML, user: "app-stringdata", password: "fake-StringData it's #15"},
		{name: "sqlalchemy-url.txt", format: FormatURL, user: "app-sqlalchemy", password: "fake-SQLA@/17"},
		{name: "spring-datasource.env", format: FormatDotenv, user: "app-spring", password: `fake-Spring\18`},
		{
			name: "cloudfoundry-vcap-services.json", format: FormatJSON, user: "app-vcap", password: "fake-VCAP-19",
			opt: Options{UsernameKey: "postgresql.0.credentials.username", PasswordKey: "postgresql.0.credentials.password"},
		},
		{name: "python-shlex.env", format: FormatDotenv, user: "app-shlex", password: `fake-Shell it's "q" \ $20!`},
		{name: "jq-sh.env", format: FormatDotenv, user: "app-jq", password: `fake-JQ it's "q" $25`},
		{name: "bash-export-p.env", format: FormatDotenv, user: "app-bash", password: "fake-Bash it's \"q\" `x` \\ $26"},
		{name: "bash-printf-q.sh", format: FormatDotenv, user: "app-printf", password: `fake-Printf it's "q" $27 \`},
		{name: "dotenv-foreign.env", format: FormatDotenv, user: "app-foreign", password: "fake-Foreign-28"},
		{name: "pyyaml.yaml", format: FormatYAML, user: "app-pyyaml", password: "fake-PyYAML: it's #21 é\a"},
		{name: "pyyaml-folded.yaml", format: FormatYAML, user: "app-folded", password: "fake-Folded " + words("word%d's ", 20) + "22"},
		{name: "pyyaml-quoted.yaml", format: FormatYAML, user: "app-dquoted", password: `fake-DQuoted \ ` + strings.TrimSuffix(words("wörd%d ", 20), " ")},
		{name: "pyyaml-literal.yaml", format: FormatYAML, user: "app-literal", password: "fake-Literal #: 24"},
		{name: "yaml-v3.yaml", format: FormatYAML, user: "app-yaml-v3", password: `fake-YAMLv3: 'q' "d" #29`},
		{name: "goccy.yaml", format: FormatYAML, user: "app-goccy", password: `fake-Goccy: 'q' "d" \ #30`},

		{name: "kubernetes-basic-auth", user: "app-basic", password: "fake-Basic-51"},
		{name: "servicebinding", user: "app-binding", password: "fake-Binding+52"},
		{name: "servicebinding-uri", user: "app-bindinguri", password: "fake-BindingURI-60"},
		{name: "cloudnativepg-app", user: "app-cnpg", password: "fake-CNPG-53"},
		{name: "crunchy-pguser-app", user: "app-crunchy", password: "fake-Crunchy^(;54"},
		{name: "bitnami", opt: Options{Username: "app", PasswordKey: "password"}, user: "app", password: "fake-BitnamiApp-55"},
		{name: "bitnami", opt: Options{Username: "postgres", PasswordKey: "Postgres.Password"}, user: "postgres", password: "fake-BitnamiAdmin-56"},
		{name: "vault-secrets-operator", user: "app-vso", password: "fake-VSO-57"},
		{name: "external-secrets", user: "app-eso", password: "fake-ESO-58"},
		{name: "csi-object", user: "app-csi", password: "fake-CSI-59"},
		{name: "csi-object", opt: Options{Format: FormatJSON}, user: "app-csi", password: "fake-CSI-59"},
		{name: "compose-password", opt: user, user: "app", password: "fake-ComposeDir-61"},
		{name: "compose-password", opt: Options{Username: "app", Format: FormatPassword}, user: "app", password: "fake-ComposeDir-61"},
	}
}

// words returns n words of a form.
func words(form string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, form, i)
	}
	return b.String()
}

// refusals says why each file of testdata/formats/refused is refused.
func refusals() map[string]string {
	return map[string]string{
		"empty.txt": "empty", "newline.txt": "empty", "bom-only.txt": "empty",
		"nul-byte.txt": "nul", "nul-filled.json": "nul", "password-escaped-nul.json": "nul", "utf16.json": "nul",
		"latin1.txt": "not-utf8", "password-surrogate.json": "not-utf8",
		"no-value.txt": "unrendered", "no-value.json": "unrendered", "no-value-url.txt": "unrendered", "no-value-dotenv.env": "unrendered",
		"kv2-injector-default.txt": "unrendered", "map.txt": "unrendered",
		"template.txt": "unrendered", "template.json": "unrendered", "template.env": "unrendered",
		"unclosed.json": "syntax", "trailing.json": "syntax", "two-objects.json": "syntax", "array.json": "syntax",
		"string.json": "unknown-format", "aws-query-output-json.json": "syntax",
		"duplicate-key.json": "conflict", "aliases-differ.json": "conflict", "levels-differ.json": "conflict", "url-differs.json": "conflict",
		"password-null.json": "no-password", "password-empty.json": "no-password", "no-password.json": "no-password",
		"password-object.json": "syntax", "password-bool.json": "syntax",
		"no-username.json": "no-username",
		"end-words.json":   "bad-end", "end-milliseconds.json": "bad-end", "end-float.json": "bad-end", "end-empty.json": "bad-end",
		"ends-differ.json":   "conflict",
		"unclosed-quote.env": "syntax", "after-quote.env": "ambiguous", "torn-key.env": "syntax",
		"differ.env":  "conflict",
		"nested.yaml": "no-username", "list.yaml": "unknown-format", "block.yaml": "syntax", "comment-after-quote.yaml": "ambiguous",
		"aligned.yaml": "ambiguous", "unclosed-quote.yaml": "syntax",
		"at.txt": "ambiguous", "slash.txt": "ambiguous", "hash.txt": "syntax", "percent.txt": "syntax", "two-lines-url.txt": "syntax",
		"no-password-url.txt": "no-password", "no-user-url.txt": "no-username",
		"mysql-url.txt": "unknown-format", "jdbc-url.txt": "unknown-format",
		"unclosed-quote-keywords.txt": "syntax", "empty-value-keywords.txt": "syntax", "spaces-keywords.txt": "syntax",
		"differ-keywords.txt": "conflict",
		"four-fields.pgpass":  "syntax", "any-user.pgpass": "no-username",
		"two-sections.conf": "conflict", "spaces.conf": "syntax",
		"words.txt": "unknown-format", "bare.txt": "unknown-format",
	}
}

func readSample(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(formatSamples, name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// decodeSample decodes a sample as the file source would.
func decodeSample(tb testing.TB, name string, opt Options) (Login, error) {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(formatSamples, name))
	if err != nil {
		return Parse(readSample(tb, name), opt)
	}
	files := map[string][]byte{"..data": []byte("fake-dotdot")}
	for _, e := range entries {
		files[e.Name()] = readSample(tb, filepath.Join(name, e.Name()))
	}
	return ParseDir(files, opt)
}

func TestDecodingReadsWhatProducersWrite(t *testing.T) {
	for _, s := range samples() {
		formats := []Format{s.opt.Format}
		if s.format != FormatAuto {
			formats = append(formats, s.format)
		}
		for _, format := range formats {
			s.opt.Format = format
			t.Run(s.name+" as "+cmp.Or(string(format), "recognised"), func(t *testing.T) {
				cred, err := decodeSample(t, s.name, s.opt)
				if err != nil {
					t.Fatal(err)
				}
				if cred.Username != s.user || cred.Password != s.password {
					t.Errorf("got %q %q, want %q %q", cred.Username, cred.Password, s.user, s.password)
				}
				end := ""
				if !cred.NotAfter.IsZero() {
					end = cred.NotAfter.Format(time.RFC3339)
				}
				if end != s.end {
					t.Errorf("NotAfter is %q, want %q", end, s.end)
				}
			})
		}
	}
}

func TestRecognitionFindsTheFormatOfEachSample(t *testing.T) {
	for _, s := range samples() {
		if s.format == FormatAuto {
			continue
		}
		got, err := Parse(readSample(t, s.name), s.opt)
		if err != nil || got.Format != s.format || got.Why == "" {
			t.Errorf("%s: recognised as %q because %q (%v), want %q", s.name, got.Format, got.Why, err, s.format)
		}
	}
}

func TestAssignmentsOnOneLineAreKeywordsAndOnePerLineAreDotenv(t *testing.T) {
	for content, want := range map[string]Format{
		"password='a b' user=x": FormatKeywords, `password='it\'s' user=x`: FormatKeywords, "user=x\npassword=a host=b": FormatKeywords,
		"user=x password": FormatKeywords, "password=a use": FormatKeywords,
		"user=x\npassword=y": FormatDotenv, "password='a b'\nuser=x": FormatDotenv, "password=a # new\nuser=x": FormatDotenv,
		"password='a": FormatDotenv, "DB_PASSWORD=a b": FormatDotenv, `password='a\`: FormatDotenv,
	} {
		f := finder{opt: Options{Username: "x"}}
		if err := f.recognise(content); f.format != want {
			t.Errorf("%q: recognised as %q (%v), want %q", content, f.format, err, want)
		}
	}
}

func TestEverySampleIsInATable(t *testing.T) {
	var named []string
	for _, s := range samples() {
		named = append(named, s.name)
	}
	entries, err := os.ReadDir(formatSamples)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(named, e.Name()) && e.Name() != "refused" && e.Name() != ".gitattributes" {
			t.Errorf("%s is in no table", e.Name())
		}
	}
	entries, err = os.ReadDir(filepath.Join(formatSamples, "refused"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if refusals()[e.Name()] == "" {
			t.Errorf("refused/%s is in no table", e.Name())
		}
	}
}

func TestDecodingRefusesWhatIsNoCredential(t *testing.T) {
	for name, reason := range refusals() {
		t.Run(name, func(t *testing.T) {
			cred, err := decodeSample(t, "refused/"+name, Options{})
			wantRefusal(t, cred, err, reason)
			t.Log(err)
		})
	}
}

// A user name in the options must not turn what is refused without it into a bare
// password, unless it is one.
func TestAUsernameDoesNotMakeAPasswordOfABrokenFile(t *testing.T) {
	for name, reason := range refusals() {
		cred, err := decodeSample(t, "refused/"+name, Options{Username: "app"})
		switch name {
		case "bare.txt", "no-username.json", "any-user.pgpass":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		case "no-user-url.txt", "nested.yaml":
			reason = "no-password"
		}
		wantRefusal(t, cred, err, reason)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func wantRefusal(t *testing.T, cred Login, err error, reason string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %q %q, %v; want a Error", cred.Username, cred.Password, err)
	}
	if string(e.Reason) != reason {
		t.Errorf("Reason is %q, want %q (%v)", e.Reason, reason, err)
	}
	if cred.Username != "" || cred.Password != "" {
		t.Errorf("a credential comes with the error")
	}
	if !strings.HasPrefix(err.Error(), "no credential in it: ") {
		t.Errorf("error %q lacks the prefix", err)
	}
	wantNoSecret(t, err, "fake-")
}

// wantNoSecret checks every usual rendering of err.
func wantNoSecret(t *testing.T, err error, secret string) {
	t.Helper()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		text := fmt.Sprintf(format, err)
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s of the error contains %q: %s", format, secret, text)
		}
	}
}

// A file that is being written in place ends anywhere. Formats with an end of their
// own never give a wrong credential then. In those without, the last value can be
// too short, and nothing in the file tells: the file source looks twice.
func TestACutOffFileGivesNoWrongCredential(t *testing.T) {
	for _, s := range samples() {
		if s.format == FormatAuto {
			continue
		}
		whole := readSample(t, s.name)
		for _, format := range []Format{FormatAuto, s.format} {
			opt := s.opt
			opt.Format = format
			for n := range whole {
				cut := whole[:n]
				cred, err := Parse(cut, opt)
				if err != nil {
					wantNoSecret(t, err, "fake-")
					continue
				}
				user, password := cred.Username, cred.Password
				if user == s.user && password == s.password {
					continue
				}
				if bareByAccident(format, s, cut) {
					continue
				}
				shorter := user == s.user && strings.HasPrefix(s.password, password) ||
					password == s.password && strings.HasPrefix(s.user, user)
				if !openEnded(s, cut) || !shorter {
					t.Errorf("%s as %q, cut after %d bytes, gives %q %q", s.name, format, n, user, password)
				}
			}
		}
	}
}

// openEnded reports whether cut may end within a value of a format that does not say
// where values end.
func openEnded(s sample, cut []byte) bool {
	switch s.format {
	case FormatJSON:
		return false
	case FormatURL:
		return strings.Contains(string(cut), "?")
	case FormatYAML:
		return !strings.HasSuffix(string(cut), "\n") || s.name == "pyyaml-folded.yaml" // whose value goes on
	default:
		return !strings.HasSuffix(string(cut), "\n")
	}
}

// bareByAccident reports whether cut is so little of a file that nothing tells it
// from a bare password, which the options allow.
func bareByAccident(format Format, s sample, cut []byte) bool {
	return format == FormatAuto && s.opt.Username != "" && s.format == FormatPassfile &&
		!strings.ContainsAny(string(cut), "\n") && (strings.HasPrefix(string(cut), "#") || strings.Count(string(cut), ":") < 2)
}

func TestBarePasswordsMayContainNearlyAnything(t *testing.T) {
	for _, password := range []string{
		"x", "0042", "p=q==", "aGVsbG8gd29ybGQ=", "a:b", "ab{{cd", "{cd", "[Zx!", "}}{{", "#hash", "-dash", `"half`, "'half", "a b", " lead", "trail ",
		"100%", "a/b@c", "$x", "*", "&", "|", "é", "pass word", "A1_b=c", "map[", "no value", `\`,
	} {
		cred, err := Parse([]byte(password+"\n"), Options{Username: "app"})
		if err != nil || cred.Password != password {
			t.Errorf("%q: got %q, %v", password, cred.Password, err)
		}
	}
	for _, password := range []string{
		"", "user", "DB_PASSW", "DB_PASSWORD=", "export ", "export DB_", "password:", "postgres:/", "{", `{"us`, "{ ", "[app", "[", `["x`,
		`"whole"`, "# rendered", "key: value", "db:5432", "db:*:x", "host=a", "APP_ENV=prod", "https://x", "lease_id:", "<no value>", "map[a:b]", "{{ .Data.x }}", "{{ wi",
	} {
		cred, err := Parse([]byte(password), Options{Username: "app"})
		if err == nil {
			t.Errorf("%q is taken for the password %q", password, cred.Password)
		}
		if cred, err = Parse([]byte(password), Options{Username: "app", Format: FormatPassword}); suspect(password) == nil && !isConnection(password) && password != "" && (err != nil || cred.Password != password) {
			t.Errorf("%q as %q: got %q, %v", password, FormatPassword, cred.Password, err)
		}
	}
}

func TestOneNewlineIsTrimmedAndNothingElse(t *testing.T) {
	for in, want := range map[string]string{
		"x": "x", "x\n": "x", "x\r\n": "x", " x \n": " x ", "\ufeffx": "x", "\tx\t\r\n": "\tx\t", "x\u00a0": "x\u00a0",
	} {
		cred, err := Parse([]byte(in), Options{Username: "app", Format: FormatPassword})
		if err != nil || cred.Password != want {
			t.Errorf("%q: got %q, %v, want %q", in, cred.Password, err, want)
		}
	}
	for _, in := range []string{"x\n\n", "x\r\r\n", "x\ny"} {
		_, err := Parse([]byte(in), Options{Username: "app", Format: FormatPassword})
		wantRefusal(t, Login{}, err, "syntax")
	}
}

func TestKeysAreRecognisedInAllSpellings(t *testing.T) {
	for _, user := range []string{"username", "user", "PGUSER", "DB_USER", "DB_USERNAME", "POSTGRES_USER", "Db-User", "db.username", "USERNAME"} {
		for _, password := range []string{"password", "pass", "PGPASSWORD", "DB_PASSWORD", "DB_PASS", "POSTGRES_PASSWORD", "Postgres.Password", "db-pass"} {
			for format, content := range map[Format]string{
				FormatJSON:    fmt.Sprintf("{%q:\"u\",%q:\"p\"}", user, password),
				FormatDotenv:  fmt.Sprintf("%s=u\n%s=p\n", user, password),
				FormatYAML:    fmt.Sprintf("%s: u\n%s: p\n", user, password),
				FormatService: fmt.Sprintf("[x]\n%s=u\n%s=p\n", user, password),
			} {
				cred, err := Parse([]byte(content), Options{})
				if err != nil || cred.Username != "u" || cred.Password != "p" {
					t.Errorf("%s %s as %s: got %q %q, %v", user, password, format, cred.Username, cred.Password, err)
				}
			}
			cred, err := ParseDir(map[string][]byte{user: []byte("u"), password: []byte("p\n"), "other": []byte("\x00")}, Options{})
			if err != nil || cred.Username != "u" || cred.Password != "p" {
				t.Errorf("%s %s in a directory: got %q %q, %v", user, password, cred.Username, cred.Password, err)
			}
		}
	}
}

func TestKeysInTheOptionsAreTheOnlyOnes(t *testing.T) {
	content := []byte(`{"username":"u","password":"p","app-user":"u2","app_password":"p2","uri":"postgres://u3:p3@h"}`)
	for _, c := range []struct {
		userKey, passwordKey, user, password, reason string
	}{
		{"App.User", "APP_PASSWORD", "u2", "p2", ""},
		{"username", "app_password", "u", "p2", ""},
		{"app_user", "", "", "", "conflict"}, // password and uri
		{"", "app_password", "", "", "conflict"},
		{"nobody", "app_password", "", "", "no-username"},
		{"app_user", "nothing", "", "", "no-password"},
	} {
		cred, err := Parse(content, Options{UsernameKey: c.userKey, PasswordKey: c.passwordKey})
		if c.reason != "" {
			wantRefusal(t, cred, err, c.reason)
		} else if err != nil || cred.Username != c.user || cred.Password != c.password {
			t.Errorf("%+v: got %q %q, %v", c, cred.Username, cred.Password, err)
		}
	}
}

func TestAnotherUserThanInTheOptionsIsAConflict(t *testing.T) {
	for _, content := range []string{
		`{"username":"other","password":"p"}`, "DB_USER=other\nDB_PASSWORD=p", "username: other\npassword: p", "postgres://other:p@h/d",
		"host=h user=other password=p", "[a]\nuser=other\npassword=p",
	} {
		cred, err := Parse([]byte(content), Options{Username: "app"})
		wantRefusal(t, cred, err, "conflict")
		if _, err := Parse([]byte(content), Options{Username: "other"}); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyAnInstantIsAnEnd(t *testing.T) {
	for value, want := range map[string]string{
		`"2026-11-23T18:00:00Z"`: "2026-11-23T18:00:00Z", `"2026-11-23T18:00:00.5+02:00"`: "2026-11-23T16:00:00.5Z",
		"1795456800": "2026-11-23T18:00:00Z", `"1795456800"`: "2026-11-23T18:00:00Z",
		"null": "", `"0001-01-01T00:00:00Z"`: "",
		"3600": "-", "2026": "-", "-1795456800": "-", "1795456800000": "-", "1.7954568e9": "-", `""`: "-", `"1h"`: "-", `"2026-11-23"`: "-",
		`"2026-11-23 18:00:00 +0000 UTC"`: "-", "true": "-", "[]": "-",
	} {
		cred, err := Parse([]byte(`{"username":"u","password":"p","Expires-At":`+value+`,"ttl":5,"lease_duration":7}`), Options{})
		switch {
		case want == "-" && err == nil:
			t.Errorf("%s is accepted", value)
		case want == "-":
		case err != nil:
			t.Errorf("%s: %v", value, err)
		case want == "" && !cred.NotAfter.IsZero(), want != "" && cred.NotAfter.Format(time.RFC3339Nano) != want:
			t.Errorf("%s: NotAfter is %v, want %v", value, cred.NotAfter, want)
		}
	}
}

func TestDirectoriesAreRefusedForAReason(t *testing.T) {
	type files map[string]string
	for name, c := range map[string]struct {
		files  files
		opt    Options
		reason string
	}{
		"nothing":                 {files{}, Options{}, "empty"},
		"nothing but ..data":      {files{"..data": "x", "..2026": "x"}, Options{}, "empty"},
		"no keys":                 {files{"a": "fake-A", "b": "fake-B"}, Options{Username: "app"}, "no-password"},
		"no user":                 {files{"password": "fake-A", "b": "fake-B"}, Options{}, "no-username"},
		"no password":             {files{"username": "u", "b": "fake-B"}, Options{}, "no-password"},
		"empty password":          {files{"username": "u", "password": "\n"}, Options{}, "no-password"},
		"two passwords":           {files{"username": "u", "password": "fake-A", "postgres-password": "fake-B"}, Options{}, "conflict"},
		"uri differs":             {files{"username": "u", "password": "fake-A", "uri": "postgres://u:fake-B@h"}, Options{}, "conflict"},
		"uri of another user":     {files{"username": "u", "password": "fake-A", "uri": "postgres://v:fake-A@h"}, Options{}, "conflict"},
		"uri not encoded":         {files{"username": "u", "password": "fake-A", "uri": "postgres://u:fake-A/@h"}, Options{}, "ambiguous"},
		"NUL":                     {files{"username": "u", "password": "fake-A\x00"}, Options{}, "nul"},
		"latin 1":                 {files{"username": "u", "password": "fake-\xe9"}, Options{}, "not-utf8"},
		"two lines":               {files{"username": "u", "password": "fake-A\n\n"}, Options{}, "syntax"},
		"an object as a password": {files{"username": "u", "password": `{"password":"fake-A"}`}, Options{}, "syntax"},
		"no value":                {files{"username": "u", "password": "<no value>"}, Options{}, "unrendered"},
		"map":                     {files{"username": "map[fake-A:b]", "password": "x"}, Options{}, "unrendered"},
		"another user":            {files{"username": "u", "password": "fake-A"}, Options{Username: "app"}, "conflict"},
		"end is no instant":       {files{"username": "u", "password": "fake-A", "expiration": "fake-soon"}, Options{}, "bad-end"},
		"format for two files":    {files{"username": "u", "password": "fake-A"}, Options{Format: FormatJSON}, "unknown-format"},
		"one broken file":         {files{"app.json": `{"username":"u","password":"fake-A`}, Options{}, "syntax"},
		"one password, no user":   {files{"password": "fake-A"}, Options{}, "no-username"},
		"foreign URL only":        {files{"uri": "mysql://u:fake-A@h", "host": "h"}, Options{}, "no-username"},
	} {
		t.Run(name, func(t *testing.T) {
			in := map[string][]byte{}
			for k, v := range c.files {
				in[k] = []byte(v)
			}
			cred, err := ParseDir(in, c.opt)
			wantRefusal(t, cred, err, c.reason)
			t.Log(err)
		})
	}
}

// libpq takes all before the @ for the password, other parsers do not.
func TestAQuestionMarkInTheUserinfoOfAURLIsRefused(t *testing.T) {
	for _, username := range []string{"", "u"} {
		cred, err := Parse([]byte("postgres://u:fake-A?password=fake-B@h"), Options{Username: username})
		wantRefusal(t, cred, err, "ambiguous")
	}
}

func TestAURLOfAnotherKindIsIgnoredBesideUserAndPassword(t *testing.T) {
	for _, uri := range []string{"jdbc:postgresql://h/d?user=x&password=y", "https://console.example.com/?a=b", "tcp(db:3306)/x", "postgres://h:5432/d", "host=h dbname=d"} {
		cred, err := ParseDir(map[string][]byte{"username": []byte("u"), "password": []byte("p"), "uri": []byte(uri)}, Options{})
		if err != nil || cred.Username != "u" || cred.Password != "p" {
			t.Errorf("%s: got %q %q, %v", uri, cred.Username, cred.Password, err)
		}
	}
}

func TestAUserNameInTheOptionsIsCheckedAsOneInTheFile(t *testing.T) {
	for user, reason := range map[string]string{"a\x00": "nul", "a\xff": "not-utf8", "{{ .user }}": "unrendered"} {
		for _, format := range []Format{FormatAuto, FormatPassword, FormatPassfile} {
			cred, err := Parse([]byte("*:*:*:*:fake-A"), Options{Username: user, Format: format})
			wantRefusal(t, cred, err, reason)
		}
		cred, err := ParseDir(map[string][]byte{"password": []byte("fake-A")}, Options{Username: user})
		wantRefusal(t, cred, err, reason)
	}
}

// The largest file that is read must not cost quadratic time.
func BenchmarkDecodeFileLargest(b *testing.B) {
	for _, unit := range []string{"{", "[", `{"data":`, `{"a":"b"},`, "a=b ", "a=", "user='x' ", "user=\\", "a: b\n", " a:\n", "a: \"x\n", "a: |\n b\n", "- a\n", "#\n ", "A=b\n", "A=\"x", "A=\"x\n", "A='x\ny'\n", "A='\\'\n", "x\n", "h:1:d:u:p\n", "${", "%!", "((", "password", "pwd=", "!a b\n", "\r", ":", "#\n", "\n", "\r\n", "%", "@", "&a=b", "{{", "map[", " ", "x"} {
		for _, prefix := range []string{"", "postgres://u:p@h/?a=b", `{"username":"u","password":"p","x":[`, "user=u password=p ", "x:1:d:u:", "[s]\n", "A=b\n", "a: b\n", "kind: Secret\ndata:\n a: "} {
			content := []byte(prefix + strings.Repeat(unit, (1<<20)/len(unit)))
			b.Run(fmt.Sprintf("%q then %q", prefix, unit), func(b *testing.B) {
				for b.Loop() {
					_, _ = Parse(content, Options{})
				}
			})
		}
	}
}

func TestAFormatThatDoesNotExistIsRefused(t *testing.T) {
	cred, err := Parse([]byte("fake-A"), Options{Format: "toml", Username: "app"})
	wantRefusal(t, cred, err, "unknown-format")
}

func TestUnrenderedTemplatesAreToldFromPasswords(t *testing.T) {
	for s, want := range map[string]bool{
		"<no value>": true, "x<no value>y": true, "map[a:b]": true, "map[]": true, "{{ .x }}": true, "a{{b}}c": true,
		"{{": false, "}}{{": false, "a{{b}c": false, "map[": false, "map]": false, "xmap[a]": false, "no value": false, "": false,
	} {
		if unrendered(s) != want {
			t.Errorf("unrendered(%q) = %v", s, !want)
		}
	}
}

func BenchmarkDecodeFileJSON(b *testing.B) { benchmarkDecode(b, "vault-read.json") }
func BenchmarkDecodeFileFlat(b *testing.B) { benchmarkDecode(b, "vault-agent-injector-json.json") }
func BenchmarkDecodeFileYAML(b *testing.B) { benchmarkDecode(b, "vault-agent-injector-static.txt") }

func benchmarkDecode(b *testing.B, name string) {
	content := readSample(b, name)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(content, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// fuzzFormat fuzzes one format, or the recognition, with all samples as seeds. Each
// input is tried as it is and with a secret in its middle.
func fuzzFormat(f *testing.F, format Format) {
	for _, s := range samples() {
		if s.format == FormatAuto {
			continue
		}
		content := readSample(f, s.name)
		at := max(strings.Index(string(content), "fake-"), 0)
		f.Add(content[:at], content[at:], s.opt.Username)
	}
	for name := range refusals() {
		content := readSample(f, "refused/"+name)
		f.Add(content[:len(content)/2], content[len(content)/2:], "")
	}
	const secret = "Zq7vX9kW"
	f.Fuzz(func(t *testing.T, before, after []byte, username string) {
		for _, planted := range []string{"", secret, secret + ":" + secret, secret + "=" + secret} {
			content := slices.Concat(before, []byte(planted), after)
			checkDecode(t, content, Options{Format: format, Username: username}, secret)
		}
	})
}

// checkDecode checks what holds for any content.
func checkDecode(t *testing.T, content []byte, opt Options, secret string) {
	cred, err := Parse(content, opt)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Reason == "" || e.Error() == "" {
			t.Fatalf("%#v is no Error", err)
		}
		if !strings.Contains(opt.Username, secret) {
			wantNoSecret(t, err, secret)
		}
		return
	}
	user, password := cred.Username, cred.Password
	if user == "" || password == "" || strings.Contains(user+password, "\x00") || !utf8.ValidString(password) {
		t.Fatalf("%q gives %q %q", content, user, password)
	}
	if suspect(user) != nil || suspect(password) != nil || isConnection(password) {
		t.Fatalf("%q gives %q %q, which is no login", content, user, password)
	}
	if opt.Username != "" && user != opt.Username {
		t.Fatalf("%q gives user %q, not %q", content, user, opt.Username)
	}
	if opt.Format == FormatJSON {
		compareJSON(t, trimNewline(strings.TrimPrefix(string(content), "\ufeff")))
	}
	again, err := Parse(content, opt)
	if err != nil || again != cred {
		t.Fatalf("%q gives another credential the second time", content)
	}
}

// compareJSON compares the scalars that parseJSON finds with those of encoding/json.
func compareJSON(t *testing.T, text string) {
	t.Helper()
	pairs, fault := parseJSON(text)
	if fault != nil {
		t.Fatalf("%q: %v", text, fault)
	}
	var got []string
	for _, p := range pairs {
		if p.problem == nil && !p.null {
			got = append(got, strings.Join(p.path, "\x00")+"="+p.value)
		}
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if want := scalars(t, dec, nil); !slices.Equal(got, want) {
		t.Fatalf("%q: got %q, encoding/json has %q", text, got, want)
	}
}

// scalars reads a value and returns the strings and the whole numbers in it.
func scalars(t *testing.T, dec *json.Decoder, path []string) (found []string) {
	t.Helper()
	token, err := dec.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch token := token.(type) {
	case json.Delim:
		for n := 0; dec.More(); n++ {
			key := fmt.Sprint(n)
			if token == '{' {
				name, err := dec.Token()
				if err != nil {
					t.Fatal(err)
				}
				key = name.(string)
			}
			inner := scalars(t, dec, append(slices.Clone(path), key))
			if token == '{' || n < mostElements {
				found = append(found, inner...)
			}
		}
		_, _ = dec.Token()
	case json.Number:
		if !strings.ContainsAny(token.String(), "-.eE") && 0 < len(path) && len(path) <= deepest { // others are refused
			found = append(found, strings.Join(path, "\x00")+"="+token.String())
		}
	case string:
		if 0 < len(path) && len(path) <= deepest {
			found = append(found, strings.Join(path, "\x00")+"="+token)
		}
	}
	return found
}

func TestLoginSaysWhereItWasFound(t *testing.T) {
	for _, c := range []struct {
		content string
		opt     Options
		from    Origins
		format  string
	}{
		{"{\n\"username\": \"app\",\n\"password\": \"pw\"\n}", Options{}, Origins{Username: Origin{`"username"`, 2}, Password: Origin{`"password"`, 3}}, "json"},
		{"# made by hand\nDB_USER=app\nDB_PASSWORD=pw\n", Options{}, Origins{Username: Origin{`"DB_USER"`, 2}, Password: Origin{`"DB_PASSWORD"`, 3}}, "dotenv"},
		{"{\"db\": {\"u\": \"app\",\n\"p\": \"pw\"}, \"expires_at\": 4102444800}", Options{UsernameKey: "db.u", PasswordKey: "db.p"}, Origins{Origin{`"db.u"`, 1}, Origin{`"db.p"`, 2}, Origin{`"expires_at"`, 2}}, "json"},
		{"postgres://app:pw@db/app", Options{}, Origins{Username: Origin{"user", 1}, Password: Origin{"password", 1}}, "url"},
		{"DATABASE_URL=postgres://app:pw@db/app", Options{}, Origins{Username: Origin{`user in "DATABASE_URL"`, 1}, Password: Origin{`password in "DATABASE_URL"`, 1}}, "dotenv"},
		{"pw", Options{Username: "app", Format: FormatPassword}, Origins{Username: Origin{"FileOptions.Username", 0}, Password: Origin{"the password", 0}}, "password"},
		{"{\"ARN\": \"a\",\n\"SecretString\": \"{\\\"username\\\":\\\"app\\\",\\\"password\\\":\\\"pw\\\"}\"}", Options{}, Origins{Username: Origin{`"username" in "SecretString"`, 2}, Password: Origin{`"password" in "SecretString"`, 2}}, "json"},
	} {
		got, err := Parse([]byte(c.content), c.opt)
		if err != nil || got.From != c.from || string(got.Format) != c.format {
			t.Errorf("%q: %v %+v, %v; want %+v", c.content, got.Format, got.From, err, c.from)
		}
	}
	dir, err := ParseDir(map[string][]byte{"username": []byte("app\n"), "password": []byte("pw")}, Options{})
	if want := (Origins{Username: Origin{`"username"`, 0}, Password: Origin{`"password"`, 0}}); err != nil || dir.From != want {
		t.Errorf("a directory: %+v, %v", dir.From, err)
	}
}
