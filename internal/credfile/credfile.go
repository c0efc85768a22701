// Package credfile finds the login in the content of a file, or of a directory of key
// files, in any of the formats that producers of credentials write. It is pure: bytes in,
// a login or a reason out. No error made here contains anything that was read.
package credfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Format is the format of a credential file.
type Format string

// The formats, as the package sqlrotate documents them. FormatAuto is recognised.
const (
	FormatAuto     Format = ""
	FormatJSON     Format = "json"
	FormatDotenv   Format = "dotenv"
	FormatYAML     Format = "yaml"
	FormatURL      Format = "url"
	FormatKeywords Format = "keywords"
	FormatPassfile Format = "passfile"
	FormatService  Format = "service"
	FormatPassword Format = "password"
)

// Options say how content is read. The names in messages are those of
// sqlrotate.FileOptions.
type Options struct {
	// Format is the format of the content. Empty: it is recognised.
	Format Format

	// Username is the user name for what is read without one; what holds another one
	// is refused. Empty: what is read must hold one.
	Username string

	// UsernameKey and PasswordKey are the keys under which the two are found. Empty:
	// the usual keys.
	UsernameKey, PasswordKey string
}

// Login is what was found.
type Login struct {
	Username, Password string

	// NotAfter is when it ends; zero if that isn't said.
	NotAfter time.Time

	// Format is the format that was named or recognised; empty for a directory.
	Format Format

	// Host, Port and Database are what the content names beside the login; empty if it
	// names none, or several.
	Host, Port, Database string
}

// Error says why there is no login. It holds nothing of the values that were read, only
// names of keys that are looked for.
type Error struct {
	Reason Reason

	// Format is the format the content was read in; empty if it was not recognised,
	// and for a directory.
	Format Format

	// Line is the line at fault, from 1; 0 if there is no such line.
	Line int

	// Detail says what is wrong and what to do about it.
	Detail string
}

// Reason is one of a few words that stay the same.
type Reason string

// The reasons.
const (
	ReasonEmpty      Reason = "empty"
	ReasonNUL        Reason = "nul"
	ReasonNotUTF8    Reason = "not-utf8"
	ReasonUnrendered Reason = "unrendered"
	ReasonUnknown    Reason = "unknown-format"
	ReasonSyntax     Reason = "syntax"
	ReasonNoUsername Reason = "no-username"
	ReasonNoPassword Reason = "no-password"
	ReasonConflict   Reason = "conflict"
	ReasonBadEnd     Reason = "bad-end"
)

// Error says what is wrong and what to do about it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("no credential in it: ")
	if e.Format != FormatAuto {
		b.WriteString("as " + string(e.Format) + ": ")
	}
	if e.Line > 0 {
		b.WriteString("line " + strconv.Itoa(e.Line) + ": ")
	}
	b.WriteString(e.Detail)
	return b.String()
}

// Parse returns the login in the content of one file. The error is an [*Error].
func Parse(content []byte, opt Options) (Login, error) {
	f := fields{opt: opt, format: opt.Format}
	if bytes.IndexByte(content, 0) >= 0 {
		return Login{}, f.fail(ReasonNUL, 0, "there is a NUL byte in it: it is not text, or not yet written")
	}
	if !utf8.Valid(content) {
		return Login{}, f.fail(ReasonNotUTF8, 0, "it is not valid UTF-8: binary, or in another encoding")
	}
	f.terminated = bytes.HasSuffix(content, []byte("\n"))
	text := trimFile(string(content))
	if strings.TrimSpace(text) == "" {
		return Login{}, f.fail(ReasonEmpty, 0, "it is empty: perhaps not yet written")
	}
	cred, err := f.decode(text)
	if err != nil {
		return Login{}, f.explain(err, text)
	}
	return cred, nil
}

// ParseDir returns the login in a directory of key files, given as the content of each
// by its name. The error is an [*Error].
//
// A format is for the content of one file, so it makes sense for a directory with one
// file only, such as a CSI driver's object.
func ParseDir(files map[string][]byte, opt Options) (Login, error) {
	f := fields{opt: opt}
	names := keyFiles(files)
	known := false
	for _, name := range names {
		switch f.role(fold(name)) {
		case roleUser, rolePassword, roleURL:
			known = true
		}
	}
	named := opt.Format != FormatAuto
	switch {
	case len(names) == 0:
		return Login{}, f.fail(ReasonEmpty, 0, "the directory holds no files")
	case len(names) == 1 && (named || !known):
		return Parse(files[names[0]], opt)
	case named:
		return Login{}, f.failSeveral()
	}
	for _, name := range names {
		key := fold(name)
		role := f.role(key)
		if role == roleNone {
			continue
		}
		value := trimFile(string(files[name]))
		if role != roleURL && strings.ContainsAny(value, "\r\n") {
			return Login{}, f.fail(ReasonSyntax, 0, "the file %s has several lines: it should hold one value", key)
		}
		if strings.HasPrefix(value, "{") && json.Valid([]byte(value)) {
			return Login{}, f.fail(ReasonSyntax, 0, "the file %s holds a JSON object: it should hold one value (map a property of the secret to it, not the whole)", key)
		}
		if err := f.put(key, value, 0); err != nil {
			return Login{}, err
		}
	}
	return f.credential()
}

// OnlyFile returns the content of the one file of a directory. The error is an [*Error].
func OnlyFile(files map[string][]byte) ([]byte, error) {
	f := fields{}
	switch names := keyFiles(files); len(names) {
	case 0:
		return nil, f.fail(ReasonEmpty, 0, "the directory holds no files")
	case 1:
		return files[names[0]], nil
	default:
		return nil, f.failSeveral()
	}
}

// keyFiles returns the names of files in order, without the kubelet's own.
func keyFiles(files map[string][]byte) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasPrefix(name, "..") {
			names = append(names, name)
		}
	}
	return names
}

func (f *fields) failSeveral() error {
	return f.fail(ReasonUnknown, 0, "a format or decoder is for one file, and the directory holds several: give the path of the file")
}

// Complete returns a login that was found by other means, checked as one that was found
// here. The error is an [*Error].
func Complete(found Login, opt Options) (Login, error) {
	f := fields{opt: opt, notAfter: found.NotAfter}
	if err := f.take(&f.user, "Credential.Username", found.Username, 0); err != nil {
		return Login{}, err
	}
	if err := f.take(&f.password, "Credential.Password", found.Password, 0); err != nil {
		return Login{}, err
	}
	switch {
	case found.Username == "" && opt.Username == "":
		return Login{}, f.fail(ReasonNoUsername, 0, "FileOptions.Decode returned no user name")
	case found.Password == "":
		return Login{}, f.fail(ReasonNoPassword, 0, "FileOptions.Decode returned no password")
	}
	return f.credential()
}

// trimFile removes what an editor or echo adds to a value: a byte order mark and
// one newline.
func trimFile(s string) string {
	s = strings.TrimPrefix(s, "\ufeff")
	if t, ok := strings.CutSuffix(s, "\n"); ok {
		return strings.TrimSuffix(t, "\r")
	}
	return s
}

// fields collects what a decoder finds.
type fields struct {
	opt        Options
	format     Format
	user       field
	password   field
	end        field
	terminated bool // the file ends with a newline
	notAfter   time.Time
	blank      string // a key of user name or password that was empty
	foreign    string // a key of a URL that is not PostgreSQL's
}

// field is a value and the key it came from: one of ours, or of the options, never
// a word from the file.
type field struct{ key, value string }

// role is what a key is good for.
type role int

const (
	roleNone role = iota
	roleUser
	rolePassword
	roleURL
	roleEnd
)

// fold makes the spellings of a key the same.
func fold(key string) string {
	if len(key) > 64 {
		return "" // no key of ours, and it may be a secret at the wrong place
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == '.':
			return '_'
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return r
		}
	}, key)
}

func (f *fields) role(folded string) role {
	pinnedUser, pinnedPassword := f.opt.UsernameKey != "", f.opt.PasswordKey != ""
	switch {
	case folded == "":
		return roleNone
	case pinnedUser && folded == fold(f.opt.UsernameKey):
		return roleUser
	case pinnedPassword && folded == fold(f.opt.PasswordKey):
		return rolePassword
	}
	r := usualRole(folded)
	if r == roleUser && pinnedUser || r == rolePassword && pinnedPassword || r == roleURL && pinnedUser && pinnedPassword {
		return roleNone
	}
	return r
}

func usualRole(folded string) role {
	switch folded {
	case "username", "user", "pguser", "db_user", "db_username", "postgres_user":
		return roleUser
	case "password", "pass", "pgpassword", "db_password", "db_pass", "postgres_password":
		return rolePassword
	case "uri", "url", "dsn", "database_url":
		return roleURL
	case "expires_at", "expiration":
		return roleEnd
	default:
		return roleNone
	}
}

func (f *fields) fail(reason Reason, line int, format string, args ...any) error {
	return &Error{Reason: reason, Format: f.format, Line: line, Detail: fmt.Sprintf(format, args...)}
}

// explain blames a failure on the template if the text shows that it failed.
func (f *fields) explain(err error, text string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Reason {
	case ReasonSyntax, ReasonUnknown, ReasonNoUsername, ReasonNoPassword:
		_, inMap, found := strings.Cut(text, "map[")
		if unrendered(text) || found && strings.Contains(inMap, "]") {
			return f.failUnrendered("it", e.Line)
		}
	}
	return err
}

// unrendered reports whether s is what a template leaves behind when it fails.
func unrendered(s string) bool {
	if strings.Contains(s, "<no value>") {
		return true
	}
	if strings.HasPrefix(s, "map[") && strings.HasSuffix(s, "]") {
		return true
	}
	_, after, found := strings.Cut(s, "{{")
	return found && strings.Contains(after, "}}")
}

func (f *fields) failUnrendered(what string, line int) error {
	return f.fail(ReasonUnrendered, line, "%s holds what a template leaves behind when it was not rendered (“{{”), when its field does not exist (“<no value>”) or when that is a map (“map[”): in a template for KV version 2 the fields are in .Data.data", what)
}

// put takes the value of a key, if the key is one that matters.
func (f *fields) put(folded, value string, line int) error {
	switch f.role(folded) {
	case roleUser:
		return f.take(&f.user, folded, value, line)
	case rolePassword:
		return f.take(&f.password, folded, value, line)
	case roleURL:
		return f.putURL(folded, value, line)
	case roleEnd:
		return f.putEnd(folded, value, line)
	default:
		return nil
	}
}

// check refuses what can't be a user name or a password.
func (f *fields) check(key, value string, line int) error {
	switch {
	case strings.IndexByte(value, 0) >= 0:
		return f.fail(ReasonNUL, line, "there is a NUL in the value of %s", key)
	case !utf8.ValidString(value) || strings.ContainsRune(value, utf8.RuneError):
		return f.fail(ReasonNotUTF8, line, "the value of %s is not valid UTF-8, or was not before it was put here", key)
	case unrendered(value):
		return f.failUnrendered("the value of "+key, line)
	}
	return nil
}

// take sets to, which must be empty or the same: two values are a conflict.
func (f *fields) take(to *field, key, value string, line int) error {
	switch {
	case value == "":
		f.blank = key
		return nil
	case to.value == "":
		if err := f.check(key, value, line); err != nil {
			return err
		}
		*to = field{key, value}
		return nil
	case to.value == value:
		return nil
	}
	option := "UsernameKey"
	if to == &f.password {
		option = "PasswordKey"
	}
	if to.key == key {
		return f.fail(ReasonConflict, line, "two different values for %s", key)
	}
	return f.fail(ReasonConflict, line, "the values of %s and %s differ: name the one to take in FileOptions.%s", to.key, key, option)
}

// putURL takes user name and password from the value of a URL's key. A URL of
// something else than PostgreSQL is no error if both are found elsewhere.
func (f *fields) putURL(key, value string, line int) error {
	if value == "" {
		return nil
	}
	if unrendered(value) {
		return f.failUnrendered("the value of "+key, line)
	}
	if isPostgresURL(value) {
		return f.fromURL(key, value, line)
	}
	pairs, problem := parseKeywords(value)
	if problem != "" || !slices.ContainsFunc(pairs, func(p pair) bool { return p.key == "user" || p.key == "password" }) {
		f.foreign = key
		return nil
	}
	for _, p := range pairs {
		if err := f.fromConnection(key, p.key, p.value, line); err != nil {
			return err
		}
	}
	return nil
}

// fromConnection takes a parameter of a URL or connection string that is the value
// of key, or, if key is empty, all of the file.
func (f *fields) fromConnection(key, param, value string, line int) error {
	label := param
	if key != "" {
		label = param + " in " + key
	}
	switch {
	case param == "user" && (key == "" || f.opt.UsernameKey == ""):
		return f.take(&f.user, label, value, line)
	case param == "password" && (key == "" || f.opt.PasswordKey == ""):
		return f.take(&f.password, label, value, line)
	default:
		return nil
	}
}

func (f *fields) putEnd(key, value string, line int) error {
	t, ok := parseInstant(value)
	if !ok {
		return f.fail(ReasonBadEnd, line, "the value of %s is not an instant: write it as RFC 3339 (2006-01-02T15:04:05Z) or in Unix seconds", key)
	}
	if f.end.key != "" && !t.Equal(f.notAfter) {
		return f.fail(ReasonConflict, line, "the values of %s and %s differ", f.end.key, key)
	}
	f.end.key, f.notAfter = key, t
	return nil
}

// parseInstant reads RFC 3339 or Unix seconds. The latter are from 2001 to 5138,
// which tells them from years, durations and milliseconds.
func parseInstant(s string) (time.Time, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0).UTC(), 1e9 <= n && n < 1e11
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.UTC(), err == nil
}

// credential makes a credential of what was found.
func (f *fields) credential() (Login, error) {
	user, password := f.user.value, f.password.value
	if f.opt.Username != "" {
		if err := f.check("FileOptions.Username", f.opt.Username, 0); err != nil {
			return Login{}, err
		}
		if user != "" && user != f.opt.Username {
			return Login{}, f.fail(ReasonConflict, 0, "%s is another user name than FileOptions.Username", f.user.key)
		}
		user = f.opt.Username
	}
	if user != "" && password != "" {
		return Login{Username: user, Password: password, NotAfter: f.notAfter, Format: f.format}, nil
	}
	hint := ""
	if f.foreign != "" {
		hint = "; the value of " + f.foreign + " is neither a postgres URL nor a libpq connection string"
	}
	if f.blank != "" {
		hint += "; the value of " + f.blank + " is empty"
	}
	if user == "" {
		key := "username, user, DB_USER or the like"
		if f.opt.UsernameKey != "" {
			key = f.opt.UsernameKey
		}
		return Login{}, f.fail(ReasonNoUsername, 0, "no user name: there is no value for %s; if there can't be, set FileOptions.Username%s", key, hint)
	}
	key := "password, DB_PASSWORD or the like"
	if f.opt.PasswordKey != "" {
		key = f.opt.PasswordKey
	}
	return Login{}, f.fail(ReasonNoPassword, 0, "no password: there is no value for %s%s", key, hint)
}

// decode reads text in the format that is set, or that it has.
func (f *fields) decode(text string) (Login, error) {
	if f.format == FormatAuto {
		format, err := f.recognise(text)
		if err != nil {
			return Login{}, err
		}
		f.format = format
	}
	var err error
	switch f.format {
	case FormatJSON:
		err = f.json(text)
	case FormatDotenv:
		err = f.dotenv(text)
	case FormatYAML:
		err = f.yaml(text)
	case FormatURL:
		err = f.url(text)
	case FormatKeywords:
		err = f.keywords(text)
	case FormatPassfile:
		err = f.passfile(text)
	case FormatService:
		err = f.service(text)
	case FormatPassword:
		err = f.bare(text)
	default:
		f.format = FormatAuto
		err = f.fail(ReasonUnknown, 0, "FileOptions.Format is %q, which is none of the formats", f.opt.Format)
	}
	if err != nil {
		return Login{}, err
	}
	return f.credential()
}
