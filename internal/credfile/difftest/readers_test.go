package difftest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/dotenv"
	goccy "github.com/goccy/go-yaml"
	"github.com/jackc/pgpassfile"
	"github.com/jackc/pgservicefile"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/joho/godotenv"
	"github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"go.yaml.in/yaml/v3"

	"github.com/sqlrotate/sqlrotate/internal/credfile/difftest/libpq"
)

// reader reads a format as a program or library does that is commonly used for it. Its
// error is that it refuses the text, or finds no password in it.
type reader struct {
	name string
	read func(text string) (login, error)
}

var (
	errNothing = errors.New("no password in it")
	errSeveral = errors.New("several values")
)

// The keys of the login in files that have any. Others are not looked for.
const (
	userKey     = "username"
	passwordKey = "password"
)

// readers returns those of each format, in a process that has no settings for them.
func readers(tb testing.TB) map[credfile.Format][]reader {
	tb.Helper()
	if err := libpq.Load(); err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			tb.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				tb.Fatal(err)
			}
		}
	}
	tb.Setenv("HOME", dir)
	tb.Setenv("PGSERVICEFILE", filepath.Join(dir, "service"))
	tb.Setenv("PGSYSCONFDIR", dir)
	connection := []reader{{"libpq", readLibpq}, {"pgconn", readPgconn}, {"lib/pq", readPq}}
	return map[credfile.Format][]reader{
		credfile.FormatJSON: {{"encoding/json", readJSON}},
		credfile.FormatYAML: {{"yaml.v3", readYAML}, {"goccy", readGoccy}},
		credfile.FormatDotenv: {
			{"godotenv", asLibrary(readGodotenv)},
			{"compose", asLibrary(readCompose)},
			{"dotenv of node", asLibrary(readNodeDotenv)},
			{"python-dotenv", asLibrary(readPythonDotenv)},
			{"bash", newShell(tb).read},
		},
		credfile.FormatURL:      append(connection, reader{"net/url", readNetURL}),
		credfile.FormatKeywords: connection,
		credfile.FormatPassfile: {{"libpq", passfileReader(dir)}, {"pgpassfile", readPgpassfile}},
		credfile.FormatService:  {{"libpq", serviceReader(dir)}, {"pgservicefile", readPgservicefile}},
	}
}

// folded makes the spellings of a key the same, as documented.
func folded(key string) string {
	return strings.ToLower(strings.NewReplacer("-", "_", ".", "_").Replace(key))
}

// finding collects the values under the keys that are looked for.
type finding struct{ user, password []string }

func (f *finding) add(key, value string) {
	switch folded(key) {
	case userKey:
		f.user = append(f.user, value)
	case passwordKey:
		f.password = append(f.password, value)
	}
}

func (f *finding) login() (login, error) {
	one := func(values []string) (string, error) {
		found := ""
		for _, v := range values {
			switch {
			case v == "" || v == found:
			case found == "":
				found = v
			default:
				return "", errSeveral
			}
		}
		return found, nil
	}
	user, err := one(f.user)
	password, err2 := one(f.password)
	if err = errors.Join(err, err2); err == nil && password == "" {
		err = errNothing
	}
	return login{user, password}, err
}

// trimmed is what a file of that content is taken for.
func trimmed(content []byte) string {
	s := strings.TrimPrefix(string(content), "\ufeff")
	if line, ok := strings.CutSuffix(s, "\n"); ok {
		return strings.TrimSuffix(line, "\r")
	}
	return s
}

func readJSON(text string) (login, error) {
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(text, "\ufeff")))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return login{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return login{}, errors.New("more after it")
	}
	var f finding
	if data, ok := object["data"].(map[string]any); ok && object["kind"] == "Secret" {
		f.members(data, 0)
		return f.decoded()
	}
	f.members(object, 2)
	if inner, ok := object["SecretString"].(string); ok {
		if f.user != nil || f.password != nil || strings.Count(text, "SecretString") > 1 {
			return login{}, errNothing // which of the two it is, is nobody's business
		}
		return readJSON(inner)
	}
	return f.login()
}

// decoded returns the login that is in base64 in the data of a Secret of Kubernetes.
func (f *finding) decoded() (login, error) {
	l, err := f.login()
	if err != nil {
		return l, err
	}
	user, err := base64.StdEncoding.DecodeString(l.user)
	password, err2 := base64.StdEncoding.DecodeString(l.password)
	return login{trimmed(user), trimmed(password)}, errors.Join(err, err2)
}

// members adds those of an object, and of Vault's objects in it.
func (f *finding) members(object map[string]any, depth int) {
	for key, value := range object {
		switch v := value.(type) {
		case string:
			f.add(key, v)
		case json.Number:
			f.add(key, v.String())
		case map[string]any:
			if folded(key) == "data" && depth > 0 {
				f.members(v, depth-1)
			}
		}
	}
}

// hasComment reports whether text may have a comment behind a value. In a file that has no
// sign of YAML but “key: value” that is taken for a part of the value, which is what the
// injector of Vault's agent means by it.
func hasComment(text string) bool { return strings.Contains(text, " #") }

func readYAML(text string) (login, error) {
	if hasComment(text) {
		return login{}, errNothing
	}
	var document struct {
		Kind string
		Data map[string]yaml.Node
		Rest map[string]yaml.Node `yaml:",inline"`
	}
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return login{}, err
	}
	var f finding
	members, login := document.Rest, f.login
	if document.Kind == "Secret" {
		members, login = document.Data, f.decoded
	}
	for key, node := range members {
		var value string
		if node.Kind == yaml.ScalarNode && node.Tag != "!!null" {
			if err := node.Decode(&value); err != nil {
				return f.login()
			}
			f.add(key, value)
		}
	}
	return login()
}

func readGoccy(text string) (_ login, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panics: %v", p)
		}
	}()
	if hasComment(text) {
		return login{}, errNothing
	}
	var document map[string]any
	if err := goccy.Unmarshal([]byte(text), &document); err != nil {
		return login{}, err
	}
	var f finding
	members, result := document, f.login
	if document["kind"] == "Secret" {
		members, _ = document["data"].(map[string]any)
		result = f.decoded
	}
	for key, value := range members {
		s, ok := value.(string)
		if k := folded(key); !ok && value != nil && (k == userKey || k == passwordKey) {
			return login{}, errNothing // a number or the like: what it was in the text is lost
		}
		f.add(key, s)
	}
	return result()
}

func readGodotenv(text string) (login, error) { return fromMap(godotenv.Unmarshal(text)) }

func readCompose(text string) (login, error) {
	return fromMap(dotenv.UnmarshalWithLookup(strings.TrimPrefix(text, "\ufeff"), func(string) (string, bool) { return "", false }))
}

// shellOnly has what only shells read. What else is in such a file is theirs.
var shellOnly = regexp.MustCompile(`(?m)^\s*(set -|declare -x|typeset -x|export -p|#!/)`)

// asLibrary reads with a library for dotenv.
func asLibrary(read func(string) (login, error)) func(string) (login, error) {
	return func(text string) (login, error) {
		if shellOnly.MatchString(text) {
			return login{}, errNothing
		}
		return read(text)
	}
}

func fromMap(m map[string]string, err error) (login, error) {
	var f finding
	for key, value := range m {
		f.add(key, value)
	}
	l, err2 := f.login()
	return l, errors.Join(err, err2)
}

// nodeLine is LINE of motdotla/dotenv 16.
var nodeLine = regexp.MustCompile("(?m)^[\\s\u00a0\ufeff\u2028\u2029]*(?:export\\s+)?([\\w.-]+)(?:\\s*=\\s*?|:\\s+?)(\\s*'(?:\\\\'|[^'])*'|\\s*\"(?:\\\\\"|[^\"])*\"|\\s*`(?:\\\\`|[^`])*`|[^#\r\n]+)?\\s*(?:#.*)?$")

// readNodeDotenv is parse of motdotla/dotenv 16, from which others descend.
func readNodeDotenv(text string) (login, error) {
	m := map[string]string{}
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	for _, match := range nodeLine.FindAllStringSubmatch(text, -1) {
		value := strings.TrimSpace(match[2])
		quote := ""
		if value != "" {
			quote = value[:1]
		}
		if n := len(value); n > 0 && strings.Contains("'\"", quote) && (n == 1 || !strings.HasSuffix(value, quote)) {
			return login{}, errNothing
		} else if n > 1 && strings.Contains("'\"`", quote) && strings.HasSuffix(value, quote) {
			value = value[1 : n-1]
			if strings.Contains(value, quote) || quote == `"` && strings.Contains(value, `\`) {
				return login{}, errNothing // it takes for text what is none, and \" and \\ as they stand
			}
		}
		if quote == `"` {
			value = strings.NewReplacer(`\n`, "\n", `\r`, "\r").Replace(value)
		}
		if quote != "" && !strings.Contains("'\"`", quote) && strings.HasSuffix(match[0], "#") || strings.Contains(match[0], value+"#") {
			return login{}, errNothing // a # ends a value wherever it is, which no other does
		}
		m[match[1]] = value
	}
	return fromMap(m, nil)
}

// readPythonDotenv is the parser of python-dotenv 1, without expansion of variables: it
// expands ${...} wherever it is, which is refused here.
func readPythonDotenv(text string) (login, error) {
	const space = `\t\v\f\x1c-\x1f \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}` // on a line
	var (
		blank   = regexp.MustCompile(`^[` + space + `\r\n]*`)
		export  = regexp.MustCompile(`^(?:export[` + space + `]+)?`)
		single  = regexp.MustCompile(`^'([^']+)'`)
		bare    = regexp.MustCompile(`^([^=\#` + space + `\r\n]+)`)
		blanks  = regexp.MustCompile(`^[` + space + `]*`)
		equal   = regexp.MustCompile(`^(=[` + space + `]*)`)
		quoted1 = regexp.MustCompile(`^'((?:\\'|[^'])*)'`)
		quoted2 = regexp.MustCompile(`^"((?:\\"|[^"])*)"`)
		plain   = regexp.MustCompile(`^[^\r\n]*`)
		comment = regexp.MustCompile(`^(?:[` + space + `]*#[^\r\n]*)?`)
		end     = regexp.MustCompile(`^[` + space + `]*(?:\r\n|\n|\r|$)`)
		rest    = regexp.MustCompile(`^[^\r\n]*(?:\r|\n|\r\n)?`)
		note    = regexp.MustCompile(`[` + space + `]+#.*`)
		last    = regexp.MustCompile(`[` + space + `]+$`)
	)
	cut := func(re *regexp.Regexp, s *string) (string, bool) {
		m := re.FindStringSubmatch(*s)
		if m == nil {
			return "", false
		}
		*s = (*s)[len(m[0]):]
		return m[len(m)-1], true
	}
	binding := func(s string) (key, value, after string, ok bool) {
		cut(export, &s)
		if key, ok = cut(single, &s); !ok {
			if key, ok = cut(bare, &s); !ok {
				return "", "", s, false
			}
		}
		cut(blanks, &s)
		if _, ok = cut(equal, &s); ok {
			switch {
			case strings.HasPrefix(s, "'"):
				if value, ok = cut(quoted1, &s); !ok {
					return "", "", s, false
				}
				value = regexp.MustCompile(`\\[\\']`).ReplaceAllStringFunc(value, func(m string) string { return m[1:] })
			case strings.HasPrefix(s, `"`):
				if value, ok = cut(quoted2, &s); !ok {
					return "", "", s, false
				}
				value = regexp.MustCompile(`\\[\\'"abfnrtv]`).ReplaceAllStringFunc(value, func(m string) string {
					if i := strings.IndexByte("abfnrtv", m[1]); i >= 0 {
						return "\a\b\f\n\r\t\v"[i : i+1]
					}
					return m[1:]
				})
			case s != "" && !strings.HasPrefix(s, "\n") && !strings.HasPrefix(s, "\r"):
				value, _ = cut(plain, &s)
				value = last.ReplaceAllString(note.ReplaceAllString(value, ""), "")
			}
		}
		cut(comment, &s)
		if _, ok = cut(end, &s); !ok {
			return "", "", s, false
		}
		return key, value, s, true
	}
	m := map[string]string{}
	for s := strings.TrimPrefix(text, "\ufeff"); ; {
		if cut(blank, &s); s == "" {
			return fromMap(m, nil)
		}
		if strings.HasPrefix(s, "#") {
			cut(rest, &s)
			continue
		}
		key, value, after, ok := binding(s)
		if s = after; !ok {
			cut(rest, &s)
			continue
		}
		if strings.Contains(value, "${") || strings.Contains(text, `\\`) || strings.Contains(text, `\$`) {
			return login{}, errNothing // it takes \\ for one in single quotes, and \$ for two, as no other does
		}
		m[key] = value
	}
}

func readLibpq(text string) (login, error) {
	l, err := libpq.Parse(text)
	return found(l.Username, l.Password, err)
}

// capitals are those of a keyword that drivers pass on to the server, and libpq refuses.
var capitals = regexp.MustCompile(`(?i)\b(user|password)\s*=`)

func hasCapitals(text string) bool {
	return slices.ContainsFunc(capitals.FindAllString(text, -1), func(s string) bool { return strings.ToLower(s) != s })
}

func readPgconn(text string) (login, error) {
	if hasCapitals(text) {
		return login{}, errNothing
	}
	c, err := pgconn.ParseConfig(text)
	if err != nil {
		return login{}, err
	}
	return found(c.User, c.Password, nil)
}

func readPq(text string) (login, error) {
	if hasCapitals(text) {
		return login{}, errNothing
	}
	c, err := pq.NewConfig(text)
	return found(c.User, c.Password, err)
}

func readNetURL(text string) (login, error) {
	u, err := url.Parse(text)
	if err != nil {
		return login{}, err
	}
	password, _ := u.User.Password()
	user := u.User.Username()
	if q := u.Query(); q.Has("user") || q.Has("password") {
		return login{}, errNothing // that is for drivers to know
	}
	return found(user, password, nil)
}

func found(user, password string, err error) (login, error) {
	if err == nil && password == "" {
		err = errNothing
	}
	return login{user, password}, err
}

// Entries of password files are for this host and port, where nobody listens.
const (
	passfileUser  = "app"
	passfileEntry = "h:1:d:"
)

func passfileReader(dir string) func(string) (login, error) {
	path := filepath.Join(dir, "passfile")
	return func(text string) (login, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return login{}, err
		}
		l, _ := libpq.Start("host=h hostaddr=127.0.0.1 port=1 dbname=d user=" + passfileUser + " passfile=" + path)
		return found(l.Username, l.Password, nil)
	}
}

func readPgpassfile(text string) (login, error) {
	f, err := pgpassfile.ParsePassfile(strings.NewReader(text))
	if err != nil {
		return login{}, err
	}
	return found(passfileUser, f.FindPassword("h", "1", "d", passfileUser), nil)
}

func serviceReader(dir string) func(string) (login, error) {
	path := filepath.Join(dir, "service")
	return func(text string) (login, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return login{}, err
		}
		l, message := libpq.Start("service=app host=" + dir + " hostaddr='' port=1")
		if !strings.HasPrefix(message, "connection to server on socket") {
			return login{}, errors.New(message)
		}
		return found(l.Username, l.Password, nil)
	}
}

func readPgservicefile(text string) (login, error) {
	f, err := pgservicefile.ParseServicefile(strings.NewReader(text))
	if err != nil {
		return login{}, err
	}
	s, err := f.GetService("app")
	if err != nil {
		return login{}, err
	}
	return found(s.Settings["user"], s.Settings["password"], nil)
}
