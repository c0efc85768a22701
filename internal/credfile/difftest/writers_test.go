package difftest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	goccy "github.com/goccy/go-yaml"
	"github.com/joho/godotenv"
	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"go.yaml.in/yaml/v3"
)

type login struct{ user, password string }

// writer writes a login as a producer of files does.
type writer struct {
	name   string
	format credfile.Format // empty: a directory
	write  func(login) string
	dir    func(login) map[string]string

	// alone: it writes the password only.
	alone bool

	// means reports whether what is written is what was meant to anybody. Nil: always.
	// Who writes without quoting, or loses something, means something else for some.
	means func(login) bool

	// carries reports whether none of the readers should have doubts. Nil: always. Its
	// refusals count; others are right.
	carries func(login) bool
}

func (w writer) wellMeant(l login) bool { return w.means == nil || w.means(l) }

// carriesWell reports that of a login that is well meant.
func (w writer) carriesWell(l login) bool { return w.carries == nil || w.carries(l) }

func writers() []writer {
	return slicesConcat(jsonWriters(), yamlWriters(), dotenvWriters(), urlWriters(), keywordWriters(), lineWriters(), plainWriters())
}

func slicesConcat(all ...[]writer) []writer {
	var one []writer
	for _, w := range all {
		one = append(one, w...)
	}
	return one
}

func jsonWriters() []writer {
	object := func(l login) map[string]any { return map[string]any{"username": l.user, "password": l.password} }
	with := func(wrap func(login) any) func(login) string {
		return func(l login) string { return marshal(wrap(l)) + "\n" }
	}
	all := []writer{
		{name: "encoding/json", write: func(l login) string { return marshal(object(l)) }},
		{name: "encoding/json indented", write: func(l login) string {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			e.SetIndent("", "  ")
			must(e.Encode(object(l)))
			return b.String()
		}},
		{name: "json.dumps", means: isText, write: func(l login) string {
			return `{"username": ` + asciiJSON(l.user) + `, "password": ` + asciiJSON(l.password) + "}"
		}},
		{name: "RDS", write: with(func(l login) any {
			return map[string]any{"engine": "postgres", "host": "db", "port": 5432, "dbname": "d", "username": l.user, "password": l.password}
		})},
		{name: "vault read", write: with(func(l login) any {
			return map[string]any{"request_id": "1", "lease_id": "database/creds/app/x", "lease_duration": 3600, "renewable": true, "data": object(l), "warnings": nil}
		})},
		{name: "KV version 2", write: with(func(l login) any {
			return map[string]any{"data": map[string]any{"data": object(l), "metadata": map[string]any{"version": 3}}}
		})},
		{name: "aws get-secret-value", write: with(func(l login) any {
			return map[string]any{"ARN": "arn:aws:secretsmanager:eu-west-1:1:secret:x", "Name": "x", "VersionId": "1", "SecretString": marshal(object(l)), "VersionStages": []string{"AWSCURRENT"}}
		})},
		{name: "kubectl -o json", means: both(isWhole), write: with(func(l login) any { return secret(l) })},
		{name: "URL in JSON", write: with(func(l login) any {
			return map[string]any{"uri": (&url.URL{Scheme: "postgres", User: url.UserPassword(l.user, l.password), Host: "h:5432", Path: "/d"}).String()}
		})},
	}
	for i := range all {
		all[i].format = credfile.FormatJSON
	}
	return all
}

func secret(l login) map[string]any {
	encode := base64.StdEncoding.EncodeToString
	return map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{"name": "db", "namespace": "default"},
		"data":     map[string]any{"username": encode([]byte(l.user)), "password": encode([]byte(l.password))},
	}
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	must(err)
	return string(b)
}

// asciiJSON is Python's json.dumps.
func asciiJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case strings.ContainsRune("\b\f\n\r\t", r):
			b.WriteString(strings.Trim(strconv.Quote(string(r)), `"`))
		case ' ' <= r && r < 0x7f:
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b.String() + `"`
}

func yamlWriters() []writer {
	type file struct {
		Password string `yaml:"password"`
		Username string `yaml:"username"`
	}
	styled := func(style yaml.Style) func(login) string {
		return func(l login) string {
			node := func(s string) *yaml.Node {
				return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: style}
			}
			plain := func(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }
			return yamlV3(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{plain("username"), node(l.user), plain("password"), node(l.password)}})
		}
	}
	withGoccy := func(o ...goccy.EncodeOption) func(login) string {
		return func(l login) string {
			b, err := goccy.MarshalWithOptions(file{l.password, l.user}, o...)
			must(err)
			return string(b)
		}
	}
	// goccy loses blanks and breaks of values that it doesn't quote.
	readBack := func(write func(login) string) func(login) bool {
		return func(l login) bool {
			var f file
			if both(isASCII)(l) {
				return true // nearly all, and checking takes longest
			}
			return isText(l) && goccy.Unmarshal([]byte(write(l)), &f) == nil && f == file{l.password, l.user}
		}
	}
	all := []writer{
		{name: "Vault Agent's default template", write: injected, means: both(func(s string) bool { return isLine(s) && !isQuoted(strings.Trim(s, " ")) }), carries: both(lacks(" "))},
		{name: "yaml.v3", write: func(l login) string { return yamlV3(file{l.password, l.user}) }},
		{name: "yaml.v3 in double quotes", write: styled(yaml.DoubleQuotedStyle), means: isText},
		{name: "yaml.v3 in single quotes", write: styled(yaml.SingleQuotedStyle), means: isText},
		{name: "yaml.v3 literal", write: styled(yaml.LiteralStyle), means: isText},
		{name: "yaml.v3 folded", write: styled(yaml.FoldedStyle), means: isText},
		{name: "goccy", write: withGoccy(), means: readBack(withGoccy())},
		{name: "goccy in single quotes", write: withGoccy(goccy.UseSingleQuote(true)), means: readBack(withGoccy(goccy.UseSingleQuote(true)))},
		{name: "goccy JSON", write: withGoccy(goccy.JSON()), means: readBack(withGoccy(goccy.JSON()))},
		{name: "kubectl -o yaml", write: func(l login) string { return yamlV3(secret(l)) }, means: both(isWhole)},
		{name: "toJSON in YAML", write: func(l login) string {
			return "username: " + marshal(l.user) + "\npassword: " + marshal(l.password) + "\n"
		}},
		{name: "%q in YAML", means: isText, write: func(l login) string { return fmt.Sprintf("username: %q\npassword: %q\n", l.user, l.password) }},
		{name: "a template with double quotes in YAML", means: both(lacks("\"\\\n")), write: func(l login) string {
			return `username: "` + l.user + `"` + "\n" + `password: "` + l.password + `"` + "\n"
		}},
		{name: "a template with single quotes in YAML", means: both(lacks("'\n")), write: func(l login) string {
			return "username: '" + l.user + "'\npassword: '" + l.password + "'\n"
		}},
	}
	for i := range all {
		all[i].format = credfile.FormatYAML
		if all[i].name == "goccy JSON" {
			all[i].format = credfile.FormatJSON
		}
	}
	return all
}

func yamlV3(v any) string {
	b, err := yaml.Marshal(v)
	must(err)
	return string(b)
}

// injected is what the injector's default template makes: range $k, $v.
func injected(l login) string { return "password: " + l.password + "\nusername: " + l.user + "\n" }

func dotenvWriters() []writer {
	each := func(prefix string, quote func(string) string) func(login) string {
		return func(l login) string {
			return prefix + "DB_USERNAME=" + quote(l.user) + "\n" + prefix + "DB_PASSWORD=" + quote(l.password) + "\n"
		}
	}
	verbatim := func(s string) string { return s }
	around := func(q string) func(string) string { return func(s string) string { return q + s + q } }
	all := []writer{
		{name: "a template", write: each("", verbatim), means: both(func(s string) bool {
			return isLine(s) && !strings.Contains(s, " #") && strings.Trim(s, " \t\v\f\r") == s && !hasPrefix(s, `"`, "'")
		}), carries: both(func(s string) bool { return isText(login{password: s}) && lacks("'\"`\\$#;<>~&|()*?![]{} ")(s) })},
		{name: "a template with double quotes", write: each("", around(`"`)), means: both(lacks("\"\\\n")), carries: both(lacks("$`"))},
		{name: "a template with single quotes", write: each("", around("'")), means: both(lacks("'\n")), carries: both(lacks(`\`))},
		{name: "export and single quotes", write: each("export ", around("'")), means: both(lacks("'\n")), carries: both(lacks(`\`))},
		{name: "godotenv", write: func(l login) string {
			s, err := godotenv.Marshal(map[string]string{"DB_USERNAME": l.user, "DB_PASSWORD": l.password})
			must(err)
			return s
		}, means: both(func(s string) bool { n, err := strconv.Atoi(s); return err != nil || strconv.Itoa(n) == s }), carries: both(func(s string) bool {
			return lacks("$`!\n")(s) && !strings.HasSuffix(s, `"`) && !strings.HasSuffix(s, `\`)
		})},
		{name: "jq @sh", write: each("", shQuote), carries: both(func(s string) bool { return !strings.Contains(s, `\'`) })},
		{name: "shlex.quote", write: each("", shlexQuote)},
		{name: "shlex.quote and export", write: each("export ", shlexQuote)},
		{name: "printf %q", write: each("", bashQuote), means: isText, carries: both(lacks("\\'\"$`#&;|<>()*?![]{}^~!, \n"))},
		{name: "export -p", write: each("declare -x ", declared), means: isText},
		{name: "Shellwords.escape", write: each("", shellwords), carries: both(func(s string) bool { return isASCII(s) && lacks(without(marks, "-_.+:/@")+" ")(s) })},
		{name: "python-dotenv", write: each("", func(s string) string { return "'" + strings.ReplaceAll(s, "'", `\'`) + "'" }), carries: both(lacks(`\'`))},
		{name: "%q in dotenv", write: each("", strconv.Quote), means: isText, carries: both(func(s string) bool { return isASCII(s) && lacks("$`")(s) && !strings.HasSuffix(s, `"`) })},
		{name: "toJSON in dotenv", write: each("", func(s string) string { return marshal(s) }), carries: both(func(s string) bool { return isASCII(s) && lacks("$`<>&")(s) && !strings.HasSuffix(s, `"`) })},
		{name: "URL in dotenv", write: func(l login) string { return "DATABASE_URL=" + netURL(l) + "\n" }, carries: both(lacks("$;&'~"))},
	}
	for i := range all {
		all[i].format = credfile.FormatDotenv
	}
	return all
}

// shQuote is jq's @sh.
func shQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// shlexQuote is Python's shlex.quote.
func shlexQuote(s string) string {
	if s != "" && strings.Trim(s, alnum+"@%+=:,./-_") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'"
}

// bashQuote is bash's printf %q in a UTF-8 locale.
func bashQuote(s string) string {
	if s == "" {
		return "''"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return ansiQuote(s)
	}
	var b strings.Builder
	for i, r := range s {
		if strings.ContainsRune(" !\"$&'()*,;<>?[\\]^`{|}", r) || i == 0 && strings.ContainsRune("#~", r) || r == '~' && (s[i-1] == ':' || s[i-1] == '=') {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func ansiQuote(s string) string {
	var b strings.Builder
	b.WriteString("$'")
	for _, r := range s {
		switch i := strings.IndexRune("\a\b\x1b\f\n\r\t\v\\'", r); {
		case i >= 0:
			b.WriteString(`\` + `abEfnrtv\'`[i:i+1])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, c := range []byte(string(r)) {
				fmt.Fprintf(&b, `\%03o`, c)
			}
		}
	}
	return b.String() + "'"
}

// declared is bash's export -p in a UTF-8 locale.
func declared(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return ansiQuote(s)
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

// shellwords is Ruby's Shellwords.escape.
func shellwords(s string) string {
	if s == "" {
		return "''"
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("'\n'")
		case !strings.ContainsRune(alnum+"_-.,:+/@", r):
			b.WriteString(`\` + string(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func urlWriters() []writer {
	user := func(escape func(string) string) func(login) string {
		return func(l login) string {
			return "postgres://" + escape(l.user) + ":" + escape(l.password) + "@db:5432/app"
		}
	}
	parameters := func(escape func(string) string) func(login) string {
		return func(l login) string {
			return "postgres://db:5432/app?user=" + escape(l.user) + "&password=" + escape(l.password) + "&sslmode=require"
		}
	}
	all := []writer{
		{name: "net/url", write: netURL},
		{name: "url.PathEscape", write: user(url.PathEscape), means: func(l login) bool { return lacks(":")(l.user) }, carries: both(lacks("@:"))},
		{name: "urlquery", write: user(url.QueryEscape), means: both(lacks(" "))},
		{name: "urllib.parse.quote", write: user(percent)},
		{name: "urllib.parse.quote, lower case", write: user(func(s string) string { return strings.ToLower(percent(s)) }), means: both(lacks(upper))},
		{name: "postgresql+driver", write: func(l login) string { return strings.Replace(user(percent)(l), "postgres:", "postgresql+asyncpg:", 1) }},
		{name: "url.Values", write: parameters(url.QueryEscape), carries: both(lacks(" "))},
		{name: "percent in parameters", write: parameters(percent)},
		{name: "a template of a URL", write: user(func(s string) string { return s }), means: func(l login) bool {
			return strings.Trim(l.user, alnum+"-_") == "" && lacks("%\n")(l.password)
		}, carries: both(lacks("@/?#%:[] <>\"\\^`{|}'"))},
		{name: "the same with sslmode", write: func(l login) string {
			return "postgres://" + l.user + ":" + l.password + "@db:5432/app?sslmode=require"
		}, means: func(l login) bool {
			return strings.Trim(l.user, alnum+"-_") == "" && lacks("%\n")(l.password)
		}, carries: both(lacks("@/?#%:[] <>\"\\^`{|}'"))},
	}
	for i := range all {
		all[i].format = credfile.FormatURL
	}
	return all
}

func netURL(l login) string {
	return (&url.URL{Scheme: "postgres", User: url.UserPassword(l.user, l.password), Host: "db:5432", Path: "/app"}).String()
}

// percent is Python's quote with safe="".
func percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(alnum+"_.-~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func keywordWriters() []writer {
	escape := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	with := func(quote func(string) string) func(login) string {
		return func(l login) string {
			return "host=db port=5432 user=" + quote(l.user) + " password=" + quote(l.password) + " dbname=app"
		}
	}
	always := func(s string) string { return "'" + escape.Replace(s) + "'" }
	psycopg := func(s string) string { // its make_conninfo
		if s == "" {
			return "''"
		}
		if s = escape.Replace(s); strings.ContainsFunc(s, func(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) }) {
			return "'" + s + "'"
		}
		return s
	}
	further := regexp.MustCompile(`[ \t\r\v\f]+[A-Za-z_][\w.-]*[ \t\r\v\f]*=`)
	all := []writer{
		{name: "keywords in quotes", write: with(always)},
		{name: "make_conninfo", write: with(psycopg), carries: both(func(s string) bool { return !hasPrefix(s, `"`) })},
		{name: "keywords on lines", carries: both(lacks(`\'`)), write: func(l login) string {
			return "host=db\nport=5432\nuser=" + always(l.user) + "\npassword=" + always(l.password) + "\n"
		}},
		{name: "keywords in a dsn", write: func(l login) string { return marshal(map[string]string{"dsn": with(always)(l)}) }},
		{name: "a template of keywords", write: with(func(s string) string { return s }), means: both(func(s string) bool {
			return isLine(s) && lacks(`\`)(s) && !hasPrefix(s, "'") && strings.Trim(s, " \t\v\f\r") == s && !further.MatchString(s)
		}), carries: both(lacks(" \"'"))},
		{name: "a template of keywords with quotes", write: with(func(s string) string { return "'" + s + "'" }), means: both(lacks(`'\`))},
	}
	for i := range all {
		all[i].format = credfile.FormatKeywords
	}
	all[3].format = credfile.FormatJSON
	return all
}

func lineWriters() []writer {
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`)
	return []writer{
		{name: "passfile", format: credfile.FormatPassfile, means: both(isLine), write: func(l login) string {
			return "db:5432:*:" + escape.Replace(l.user) + ":" + escape.Replace(l.password) + "\n"
		}},
		{name: "passfile for all", format: credfile.FormatPassfile, means: both(isLine), write: func(l login) string {
			return "# for the app\n*:*:*:" + escape.Replace(l.user) + ":" + escape.Replace(l.password)
		}},
		{name: "a template of a passfile", format: credfile.FormatPassfile, means: func(l login) bool {
			return both(isLine)(l) && both(lacks(`\`))(l) && lacks(":")(l.user)
		}, carries: both(lacks(":")), write: func(l login) string { return "db:5432:app:" + l.user + ":" + l.password + "\n" }},
		{name: "service file", format: credfile.FormatService, means: both(func(s string) bool {
			return isLine(s) && strings.TrimRight(s, " \t\v\f\r") == s
		}), write: func(l login) string { return "[app]\nhost=db\nuser=" + l.user + "\npassword=" + l.password + "\n" }},
	}
}

func plainWriters() []writer {
	return []writer{
		{name: "Docker secret", format: credfile.FormatPassword, alone: true, means: func(l login) bool { return isWhole(l.password) }, write: func(l login) string { return l.password }},
		{name: "Docker secret with a newline", format: credfile.FormatPassword, alone: true, means: func(l login) bool { return isWhole(l.password) }, write: func(l login) string { return l.password + "\n" }},
		{name: "kubelet", means: both(isWhole), dir: func(l login) map[string]string {
			return map[string]string{"..data": "", "username": l.user, "password": l.password, "type": "postgresql"}
		}},
		{name: "kubelet, with newlines", means: both(isWhole), dir: func(l login) map[string]string {
			return map[string]string{"username": l.user + "\n", "password": l.password + "\r\n"}
		}},
		{name: "CloudNativePG", means: both(isWhole), dir: func(l login) map[string]string {
			return map[string]string{
				"username": l.user, "user": l.user, "password": l.password, "host": "db", "port": "5432", "dbname": "app", "uri": strings.Replace(netURL(l), "postgres:", "postgresql:", 1),
				"jdbc-uri": "jdbc:postgresql://db:5432/app?password=" + url.QueryEscape(l.password) + "&user=" + url.QueryEscape(l.user),
				"pgpass":   "db:5432:app:" + l.user + ":" + l.password + "\n",
			}
		}},
		{name: "servicebinding", dir: func(l login) map[string]string { return map[string]string{"type": "postgresql", "uri": netURL(l)} }},
	}
}

func both(is func(string) bool) func(login) bool {
	return func(l login) bool { return is(l.user) && is(l.password) }
}

func lacks(set string) func(string) bool {
	return func(s string) bool { return !strings.ContainsAny(s, set) }
}

// isText reports whether l can be written as text; what can't is garbled or cut.
func isText(l login) bool {
	return utf8.ValidString(l.user) && utf8.ValidString(l.password) && !strings.Contains(l.user+l.password, "\x00")
}

// isQuoted reports whether s is in quotes, which are YAML's then.
func isQuoted(s string) bool {
	return len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0]
}

// isLine: a return at the end is taken for a part of the line's.
func isLine(s string) bool { return !strings.Contains(s, "\n") && !strings.HasSuffix(s, "\r") }

// isWhole: an end of a line at the end of a file is taken for the file's, and a mark of
// the byte order too.
func isWhole(s string) bool {
	return !strings.HasSuffix(s, "\n") && !strings.HasSuffix(s, "\r") && !hasPrefix(s, "\ufeff")
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x7f || r < ' ' })
}

func hasPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
