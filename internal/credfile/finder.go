// The finder: it collects the fields of a login and says what is wrong with them.

package credfile

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// finder makes a login of pairs.
type finder struct {
	opt      Options
	format   Format
	why      string
	text     string // of the file that is read, if it is one
	enclosed bool   // it was in an envelope, so that it is whole

	user, password, end  field
	host, port, database place
	notAfter             time.Time

	token           field         // the password, if there is no other one
	lifetime, lease time.Duration // of what was printed; the lease counts if it has a name
	leased          bool

	blank   string   // a key of user name or password that has no value
	nested  int      // the line of one that is nested in something
	foreign string   // a key of a URL that is not PostgreSQL's
	hidden  *problem // what is wrong with its value
}

// field is a value and the key it came from.
type field struct {
	key, value string
	line       int // 0 if there are no lines
}

func (f field) origin() Origin { return Origin{Key: f.key, Line: f.line} }

// place is a value that is told of, and needn't be there. Of two that differ, none is.
type place struct {
	value   string
	several bool
}

func (p *place) take(value string) {
	p.several = p.several || p.value != "" && p.value != value
	if p.value = value; p.several {
		p.value = ""
	}
}

func (f *finder) fail(reason Reason, line int, format string, args ...any) error {
	return &Error{Reason: reason, Format: f.format, Why: f.why, Line: line, Detail: fmt.Sprintf(format, args...)}
}

// failValue says what is wrong with the value of a key.
func (f *finder) failValue(key string, line int, p *problem) error {
	return f.fail(p.reason, line, "the value of %s %s", key, p.detail)
}

// quote makes a name from a file fit for a message.
func quote(name string) string {
	const longest = 64
	if len(name) > longest {
		name = strings.ToValidUTF8(name[:longest], "") + "…"
	}
	return strconv.Quote(name)
}

func (f *finder) addAll(pairs []pair) error {
	for _, p := range pairs {
		if err := f.add(p); err != nil {
			return err
		}
	}
	return nil
}

// add takes the value of a pair, if its key is one that matters.
func (f *finder) add(p pair) error {
	role := f.opt.role(p.path)
	switch role {
	case roleNone:
		return f.pass(p)
	case roleHost, rolePort, roleDatabase:
		f.locate(role, p)
		return nil
	case roleLifetime, roleLease, roleLeaseID:
		return f.last(role, p)
	}
	key := quote(strings.Join(p.path, "."))
	switch {
	case p.null:
		f.blank = key
		return nil
	case p.problem != nil && (role != roleEnd || p.value == ""):
		return f.problem(role, key, p)
	}
	switch role {
	case roleUser:
		return f.take(&f.user, key, p.value, p.line)
	case rolePassword:
		return f.take(&f.password, key, p.value, p.line)
	case roleToken:
		return f.take(&f.token, key, p.value, p.line)
	case roleURL:
		return f.putURL(key, p.value, p.line)
	default:
		return f.putEnd(key, p.value, p.line)
	}
}

// problem says why the value of a key can't be taken. A URL of something else than
// PostgreSQL needn't be.
func (f *finder) problem(role role, key string, p pair) error {
	switch {
	case role == roleURL && isURL(p.value) && !isPostgresURL(p.value):
		f.foreign = key
		return nil
	case isVariable(p.value):
		return f.failValue(key, p.line, suspect(p.value))
	}
	return f.failValue(key, p.line, p.problem)
}

// pass leaves a pair alone that nobody asks for.
func (f *finder) pass(p pair) error {
	last := p.path[len(p.path)-1]
	if p.problem != nil && p.problem.torn && f.opt.begins(last) {
		return f.fail(ReasonSyntax, p.line, "it ends within a key: perhaps it is not yet written to its end")
	}
	if r := usualRole(fold(last)); len(p.path) > 1 && (r == roleUser || r == rolePassword) {
		f.nested = max(p.line, 1)
	}
	return nil
}

// locate takes what says where the server is.
func (f *finder) locate(role role, p pair) {
	if p.problem != nil || p.value == "" || p.value == "*" || suspect(p.value) != nil {
		return
	}
	switch role {
	case roleHost:
		f.host.take(p.value)
	case rolePort:
		f.port.take(p.value)
	case roleDatabase:
		f.database.take(p.value)
	}
}

// take sets to, which must be empty or the same: two values are a conflict.
func (f *finder) take(to *field, key, value string, line int) error {
	switch {
	case value == "":
		f.blank = key
		return nil
	case to.value == "":
		if err := f.check(key, value, line, to != &f.user); err != nil {
			return err
		}
		*to = field{key, value, line}
		return nil
	case to.value == value:
		return nil
	case to.key == key:
		return f.fail(ReasonConflict, line, "two different values for %s", key)
	}
	option := "UsernameKey"
	if to != &f.user {
		option = "PasswordKey"
	}
	return f.fail(ReasonConflict, line, "the values of %s and %s differ: name the one to take in FileOptions.%s", to.key, key, option)
}

// check refuses what can't be a user name or a password.
func (f *finder) check(key, value string, line int, password bool) error {
	switch p := suspect(value); {
	case password && isConnection(value):
		return f.failValue(key, line, broken("is a connection string, or has one in it, and is not a password"))
	case p != nil:
		return f.failValue(key, line, p)
	case !password && strings.TrimSpace(value) != value:
		return f.failValue(key, line, broken("begins or ends with white space: a user name has none there"))
	}
	return nil
}

// putURL takes user name and password from the value of a URL's key. A URL of something
// else than PostgreSQL is no error if both are found elsewhere.
func (f *finder) putURL(key, value string, line int) error {
	switch {
	case strings.Trim(value, blanks) == "":
		return nil
	case unrendered(value):
		return f.failValue(key, line, suspect(value))
	case isPostgresURL(strings.Trim(value, blanks)):
		return f.connection(parseURL, key, value, line)
	case isConnectionString(value):
		return f.connection(parseKeywords, key, value, line)
	}
	f.foreign = key
	if p := suspect(value); p != nil && (p.reason == ReasonEncrypted || p.reason == ReasonUnrendered) {
		f.hidden = p
	}
	return nil
}

// connection takes what is in a URL or connection string that is the value of key, or, if
// key is empty, all of the file.
func (f *finder) connection(parse func(string) ([]pair, *problem), key, value string, line int) error {
	pairs, p := parse(value)
	if p != nil && key == "" {
		return f.fail(p.reason, line, "it %s", p.detail)
	}
	if p != nil {
		return f.failValue(key, line, p)
	}
	for _, p := range pairs {
		if err := f.addParameter(p, key, line); err != nil {
			return err
		}
	}
	return nil
}

// addParameter takes a parameter of the connection that is the value of key.
func (f *finder) addParameter(p pair, key string, line int) error {
	label := p.path[0]
	if key != "" {
		label += " in " + key
	}
	var to *field
	switch role := connectionRole(p.path[0]); {
	case role >= roleHost:
		f.locate(role, p)
		return nil
	case role == roleUser && (key == "" || f.opt.UsernameKey == ""):
		to = &f.user
	case role == rolePassword && (key == "" || f.opt.PasswordKey == ""):
		to = &f.password
	default:
		return nil
	}
	if p.problem != nil {
		return f.failValue(label, line, p.problem)
	}
	return f.take(to, label, p.value, line)
}

// connectionRole returns what a parameter of a connection is for.
func connectionRole(key string) role {
	switch key {
	case "user":
		return roleUser
	case "password":
		return rolePassword
	case "host":
		return roleHost
	case "port":
		return rolePort
	case "dbname":
		return roleDatabase
	}
	return roleNone
}

func (f *finder) putEnd(key, value string, line int) error {
	t, ok := parseInstant(value)
	if !ok {
		return f.fail(ReasonBadEnd, line, "the value of %s is not an instant: write it as RFC 3339 (2006-01-02T15:04:05Z) or in Unix seconds", key)
	}
	if f.end.key != "" && !t.Equal(f.notAfter) {
		return f.fail(ReasonConflict, line, "the values of %s and %s differ", f.end.key, key)
	}
	f.end.key, f.end.line, f.notAfter = key, line, t
	return nil
}

// last takes what says how long what was printed is good.
func (f *finder) last(role role, p pair) error {
	if p.null || role == roleLeaseID {
		f.leased = f.leased || p.value != ""
		return nil
	}
	seconds, err := strconv.ParseInt(p.value, 10, 64)
	if err != nil || seconds < 0 || seconds > int64(longestLifetime/time.Second) {
		return f.fail(ReasonBadEnd, p.line, "the value of %s is not a number of seconds", quote(strings.Join(p.path, ".")))
	}
	d := time.Duration(seconds) * time.Second
	if role == roleLease {
		f.lease = d
	} else {
		f.lifetime = d
	}
	return nil
}

// longestLifetime is the longest that is believed, and that a duration holds.
const longestLifetime = 100 * 365 * 24 * time.Hour

// parseInstant reads RFC 3339 or Unix seconds. The latter are from 2001 to 5138,
// which tells them from years, durations and milliseconds.
func parseInstant(s string) (time.Time, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0).UTC(), 1e9 <= n && n < 1e11
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.UTC(), err == nil
}

// login makes a login of what was found, unless err says why there is none.
func (f *finder) login(err error) (Login, error) {
	if err == nil {
		err = f.complete()
	}
	if err != nil {
		return Login{}, f.explain(err)
	}
	return Login{
		Username: f.user.value, Password: f.password.value, NotAfter: f.notAfter, Lifetime: f.lifetime, Format: f.format, Why: f.why,
		From: Origins{Username: f.user.origin(), Password: f.password.origin(), NotAfter: f.end.origin()},
		Host: f.host.value, Port: f.port.value, Database: f.database.value,
	}, nil
}

// complete adds the user name of the options, and says what is missing.
func (f *finder) complete() error {
	if f.password.value == "" {
		f.password = f.token
	}
	if f.leased && f.lifetime == 0 {
		f.lifetime = f.lease
	}
	encoded := isEncoded(f.user.value) && isEncoded(f.password.value)
	if user := f.opt.Username; user != "" {
		if err := f.check("FileOptions.Username", user, 0, false); err != nil {
			return err
		}
		if f.user.value != "" && f.user.value != user {
			return f.fail(ReasonConflict, 0, "%s is another user name than FileOptions.Username", f.user.key)
		}
		if f.user.value == "" {
			f.user = field{key: "FileOptions.Username", value: user}
		}
	}
	switch {
	case f.user.value == "" || f.password.value == "":
		return f.missing(f.user.value == "")
	case encoded:
		return f.fail(ReasonAmbiguous, 0, "the values of %s and %s both look as if they were still base64, as in a Kubernetes Secret: write them decoded", f.user.key, f.password.key)
	}
	return nil
}

// missing says what there is in place of a user name or password.
func (f *finder) missing(user bool) error {
	if f.hidden != nil {
		return f.failValue(f.foreign, 0, f.hidden)
	}
	hint := ""
	if f.foreign != "" {
		hint = "; the value of " + f.foreign + " is neither a postgres URL nor a libpq connection string"
	}
	if f.blank != "" {
		hint += "; the value of " + f.blank + " is empty"
	}
	if f.nested > 0 {
		hint += fmt.Sprintf("; what is nested, as in line %d, is found if FileOptions.UsernameKey and PasswordKey name its path, with dots", f.nested)
	}
	what, reason, key, option := "password", ReasonNoPassword, "password, DB_PASSWORD or the like", f.opt.PasswordKey
	if user {
		what, reason, key, option = "user name", ReasonNoUsername, "username, user, DB_USER or the like", f.opt.UsernameKey
		hint = "; if there can't be, set FileOptions.Username" + hint
	}
	if option != "" {
		key = quote(option)
	}
	return f.fail(reason, 0, "no %s: there is no value for %s%s", what, key, hint)
}

// isEncoded reports whether s is base64 of printable text, which plain words and
// generated passwords hardly ever are.
func isEncoded(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return false
	}
	for _, c := range b {
		if c < ' ' && !isBlank(c) || c >= utf8.RuneSelf {
			return false
		}
	}
	return s != ""
}

// explain blames a failure on a template if the text, or the line at fault, shows that one
// has failed.
func (f *finder) explain(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Reason {
	case ReasonSyntax, ReasonAmbiguous, ReasonUnknown, ReasonNoUsername, ReasonNoPassword:
	default:
		return err
	}
	text := f.text
	for n, line := range lines(f.text) {
		if n == e.Line {
			text = line
		}
	}
	_, inMap, found := strings.Cut(text, "map[")
	if unrendered(text) || found && strings.Contains(inMap, "]") {
		return f.fail(ReasonUnrendered, e.Line, "it %s", templateHint)
	}
	return err
}
