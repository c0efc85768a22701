// Credential files: from bytes to a Credential. Pure; no error made here contains
// anything that was read.

package sqlrotate

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

// Format is the format of a credential file. In all of them the following holds.
//
// Only the user name, the password and the end are taken; host, database and all
// else are left alone, so that a rotation can't move the application to another
// server. Keys are the usual names, in any letter case, "-" and "." being the same
// as "_":
//
//   - user name: username, user, PGUSER, DB_USER, DB_USERNAME, POSTGRES_USER
//   - password: password, pass, PGPASSWORD, DB_PASSWORD, DB_PASS, POSTGRES_PASSWORD
//   - both, as a postgres URL or libpq keywords: uri, url, dsn, DATABASE_URL
//   - end: expires_at, expiration; RFC 3339 or Unix seconds. A ttl or
//     lease_duration is not an end: an agent renews a lease without writing again.
//
// Two different values for one of them are an error; an empty value counts as none.
// A byte order mark and one trailing newline are not content, other white space is.
// What a template leaves behind when it fails is refused as the value of a key that
// is taken: "<no value>" anywhere in it, "{{" followed by "}}", or all of it
// "map[…]". A lone "{{" is legal in a password.
type Format string

const (
	// FormatAuto recognises the format by the content. A bare password is
	// recognised only on a single line, if [FileOptions].Username is set, and if
	// the content does not look like the beginning of another format; a generated
	// password can look like one by chance, and a torn file can look like a
	// password, so name [FormatPassword] for a file that holds nothing else.
	FormatAuto Format = ""

	// FormatJSON is a JSON object, flat or with the keys in data (a Vault
	// response) or data.data (KV version 2). Numbers are taken as they are written.
	FormatJSON Format = "json"

	// FormatDotenv is KEY=value lines, with or without export. Unquoted values end
	// at white space followed by "#", and are trimmed. Single quotes are verbatim;
	// in double quotes \" \\ \$ \` \n \r \t are escapes, and other backslashes stand
	// for themselves. Variables are not expanded and values don't span lines.
	FormatDotenv Format = "dotenv"

	// FormatYAML is flat "key: value" lines, such as the Vault Agent Injector
	// writes by default. That template does not quote, so an unquoted value is
	// taken verbatim, to the end of the line, with " #" and ": " in it; one wholly
	// in quotes is unquoted as YAML does. Anything nested is refused.
	FormatYAML Format = "yaml"

	// FormatURL is a postgres:// or postgresql:// URL on one line. Special
	// characters in user name and password are percent-encoded.
	FormatURL Format = "url"

	// FormatKeywords is a libpq connection string: user=app password='it\'s'.
	FormatKeywords Format = "keywords"

	// FormatPassfile is libpq's .pgpass: host:port:database:user:password. The
	// first line whose user is [FileOptions].Username or "*" counts; without
	// Username, the first line.
	FormatPassfile Format = "passfile"

	// FormatService is libpq's pg_service.conf with a single section.
	FormatService Format = "service"

	// FormatPassword is a bare password, all of one line. The user name is
	// [FileOptions].Username.
	FormatPassword Format = "password"
)

// DecodeError says why a credential file could not be used. It holds nothing of the
// file's values, only names of keys that are looked for.
type DecodeError struct {
	// Reason is one of a few words that stay the same, fit for a metric's label:
	// "empty", "nul", "not-utf8", "unrendered" (a template left its failure in
	// the file), "unknown-format", "syntax", "no-username", "no-password",
	// "conflict" (two values for one field), "bad-end" (expires_at is not an
	// instant) or "decoder" (the application's decoder failed).
	Reason string

	// Format is the format the file was read in; empty if it was not recognised,
	// and for a directory.
	Format Format

	// Line is the line at fault, from 1; 0 if there is no such line.
	Line int

	detail string
}

const (
	reasonEmpty      = "empty"
	reasonNUL        = "nul"
	reasonNotUTF8    = "not-utf8"
	reasonUnrendered = "unrendered"
	reasonUnknown    = "unknown-format"
	reasonSyntax     = "syntax"
	reasonNoUsername = "no-username"
	reasonNoPassword = "no-password"
	reasonConflict   = "conflict"
	reasonBadEnd     = "bad-end"
	reasonDecoder    = "decoder"
)

// Error says what is wrong and what to do about it.
func (e *DecodeError) Error() string {
	var b strings.Builder
	b.WriteString("no credential in it: ")
	if e.Format != FormatAuto {
		b.WriteString("as " + string(e.Format) + ": ")
	}
	if e.Line > 0 {
		b.WriteString("line " + strconv.Itoa(e.Line) + ": ")
	}
	b.WriteString(e.detail)
	return b.String()
}

// decodeOptions are the parts of FileOptions that decoding needs.
type decodeOptions struct {
	format                   Format
	username                 string
	usernameKey, passwordKey string
	decode                   func([]byte) (Credential, error)
}

// decodeFile returns the credential in the content of one file. The error is a
// *DecodeError.
func decodeFile(content []byte, opt decodeOptions) (Credential, error) {
	f := fields{opt: opt, format: opt.format}
	if opt.decode != nil {
		return f.custom(content)
	}
	if bytes.IndexByte(content, 0) >= 0 {
		return Credential{}, f.fail(reasonNUL, 0, "there is a NUL byte in it: it is not text, or not yet written")
	}
	if !utf8.Valid(content) {
		return Credential{}, f.fail(reasonNotUTF8, 0, "it is not valid UTF-8: binary, or in another encoding")
	}
	f.terminated = bytes.HasSuffix(content, []byte("\n"))
	text := trimFile(string(content))
	if strings.TrimSpace(text) == "" {
		return Credential{}, f.fail(reasonEmpty, 0, "it is empty: perhaps not yet written")
	}
	cred, err := f.decode(text)
	if err != nil {
		return Credential{}, f.explain(err, text)
	}
	return cred, nil
}

// decodeDir returns the credential in a directory of key files, given as the
// content of each by its name. The error is a *DecodeError.
//
// A format or a decoder is for the content of one file, so it makes sense for a
// directory with one file only, such as a CSI driver's object.
func decodeDir(files map[string][]byte, opt decodeOptions) (Credential, error) {
	f := fields{opt: opt}
	var names []string
	known := false
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(name, "..") {
			continue
		}
		names = append(names, name)
		switch f.role(fold(name)) {
		case roleUser, rolePassword, roleURL:
			known = true
		}
	}
	named := opt.format != FormatAuto || opt.decode != nil
	switch {
	case len(names) == 0:
		return Credential{}, f.fail(reasonEmpty, 0, "the directory holds no files")
	case len(names) == 1 && (named || !known):
		return decodeFile(files[names[0]], opt)
	case named:
		return Credential{}, f.fail(reasonUnknown, 0, "a format or decoder is for one file, and the directory holds several: give the path of the file")
	}
	for _, name := range names {
		key := fold(name)
		role := f.role(key)
		if role == roleNone {
			continue
		}
		value := trimFile(string(files[name]))
		if role != roleURL && strings.ContainsAny(value, "\r\n") {
			return Credential{}, f.fail(reasonSyntax, 0, "the file %s has several lines: it should hold one value", key)
		}
		if strings.HasPrefix(value, "{") && json.Valid([]byte(value)) {
			return Credential{}, f.fail(reasonSyntax, 0, "the file %s holds a JSON object: it should hold one value (map a property of the secret to it, not the whole)", key)
		}
		if err := f.put(key, value, 0); err != nil {
			return Credential{}, err
		}
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
	opt        decodeOptions
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
	pinnedUser, pinnedPassword := f.opt.usernameKey != "", f.opt.passwordKey != ""
	switch {
	case folded == "":
		return roleNone
	case pinnedUser && folded == fold(f.opt.usernameKey):
		return roleUser
	case pinnedPassword && folded == fold(f.opt.passwordKey):
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

func (f *fields) fail(reason string, line int, format string, args ...any) error {
	return &DecodeError{Reason: reason, Format: f.format, Line: line, detail: fmt.Sprintf(format, args...)}
}

// explain blames a failure on the template if the text shows that it failed.
func (f *fields) explain(err error, text string) error {
	var e *DecodeError
	if !errors.As(err, &e) {
		return err
	}
	switch e.Reason {
	case reasonSyntax, reasonUnknown, reasonNoUsername, reasonNoPassword:
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
	return f.fail(reasonUnrendered, line, "%s holds what a template leaves behind when it was not rendered (“{{”), when its field does not exist (“<no value>”) or when that is a map (“map[”): in a template for KV version 2 the fields are in .Data.data", what)
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
		return f.fail(reasonNUL, line, "there is a NUL in the value of %s", key)
	case !utf8.ValidString(value) || strings.ContainsRune(value, utf8.RuneError):
		return f.fail(reasonNotUTF8, line, "the value of %s is not valid UTF-8, or was not before it was put here", key)
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
		return f.fail(reasonConflict, line, "two different values for %s", key)
	}
	return f.fail(reasonConflict, line, "the values of %s and %s differ: name the one to take in FileOptions.%s", to.key, key, option)
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
	case param == "user" && (key == "" || f.opt.usernameKey == ""):
		return f.take(&f.user, label, value, line)
	case param == "password" && (key == "" || f.opt.passwordKey == ""):
		return f.take(&f.password, label, value, line)
	default:
		return nil
	}
}

func (f *fields) putEnd(key, value string, line int) error {
	t, ok := parseInstant(value)
	if !ok {
		return f.fail(reasonBadEnd, line, "the value of %s is not an instant: write it as RFC 3339 (2006-01-02T15:04:05Z) or in Unix seconds", key)
	}
	if f.end.key != "" && !t.Equal(f.notAfter) {
		return f.fail(reasonConflict, line, "the values of %s and %s differ", f.end.key, key)
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
func (f *fields) credential() (Credential, error) {
	user, password := f.user.value, f.password.value
	if f.opt.username != "" {
		if err := f.check("FileOptions.Username", f.opt.username, 0); err != nil {
			return Credential{}, err
		}
		if user != "" && user != f.opt.username {
			return Credential{}, f.fail(reasonConflict, 0, "%s is another user name than FileOptions.Username", f.user.key)
		}
		user = f.opt.username
	}
	if user != "" && password != "" {
		return Credential{Username: user, Password: NewSecret(password), NotAfter: f.notAfter}, nil
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
		if f.opt.usernameKey != "" {
			key = f.opt.usernameKey
		}
		return Credential{}, f.fail(reasonNoUsername, 0, "no user name: there is no value for %s; if there can't be, set FileOptions.Username%s", key, hint)
	}
	key := "password, DB_PASSWORD or the like"
	if f.opt.passwordKey != "" {
		key = f.opt.passwordKey
	}
	return Credential{}, f.fail(reasonNoPassword, 0, "no password: there is no value for %s%s", key, hint)
}

// custom runs the application's decoder. Neither its error nor what it panics with
// can be trusted to be free of secrets, so only their types are told.
func (f *fields) custom(content []byte) (cred Credential, err error) {
	defer func() {
		if r := recover(); r != nil {
			cred, err = Credential{}, f.fail(reasonDecoder, 0, "FileOptions.Decode panicked with a value of type %T", r)
		}
	}()
	f.format = FormatAuto
	c, err := f.opt.decode(content)
	if err != nil {
		return Credential{}, f.fail(reasonDecoder, 0, "FileOptions.Decode failed with an error of type %T", err)
	}
	if err := f.take(&f.user, "Credential.Username", c.Username, 0); err != nil {
		return Credential{}, err
	}
	if err := f.take(&f.password, "Credential.Password", c.Password.Reveal(), 0); err != nil {
		return Credential{}, err
	}
	f.notAfter = c.NotAfter
	switch {
	case c.Username == "" && f.opt.username == "":
		return Credential{}, f.fail(reasonNoUsername, 0, "FileOptions.Decode returned no user name")
	case c.Password.Reveal() == "":
		return Credential{}, f.fail(reasonNoPassword, 0, "FileOptions.Decode returned no password")
	}
	return f.credential()
}

// decode reads text in the format that is set, or that it has.
func (f *fields) decode(text string) (Credential, error) {
	if f.format == FormatAuto {
		format, err := f.recognise(text)
		if err != nil {
			return Credential{}, err
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
		err = f.fail(reasonUnknown, 0, "FileOptions.Format is %q, which is none of the formats", f.opt.format)
	}
	if err != nil {
		return Credential{}, err
	}
	return f.credential()
}
