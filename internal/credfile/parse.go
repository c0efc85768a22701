// One parser for each format of a credential file.

package credfile

import (
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"strings"
)

// json reads an object and, one in the other, up to two objects under data.
func (f *fields) json(text string) error {
	content := []byte(text)
	if !json.Valid(content) {
		line := 0
		var raw json.RawMessage
		if e := (*json.SyntaxError)(nil); errors.As(json.Unmarshal(content, &raw), &e) {
			line = 1 + strings.Count(text[:min(int(e.Offset), len(text))], "\n")
		}
		return f.fail(ReasonSyntax, line, "it is not valid JSON: perhaps not yet written to its end")
	}
	text = strings.TrimLeft(text, blanks)
	if text[0] != '{' {
		return f.fail(ReasonSyntax, 0, "it is JSON, but not an object with the keys username and password")
	}
	return f.object(text, 2)
}

// object reads the members of the object that s begins with. It is known to be valid,
// so only the ends of values have to be found. encoding/json would keep the last of
// two members of one name, and say nothing.
func (f *fields) object(s string, depth int) error {
	for s = s[1:]; ; {
		s = strings.TrimLeft(s, blanks+",")
		if s[0] == '}' {
			return nil
		}
		end := jsonEnd(s)
		key := fold(jsonString(s[:end]))
		s = strings.TrimLeft(s[end:], blanks+":")
		end = jsonEnd(s)
		value := s[:end]
		s = s[end:]

		role := f.role(key)
		var err error
		switch c := value[0]; {
		case role == roleNone && c == '{' && key == "data" && depth > 0:
			err = f.object(value, depth-1)
		case role == roleNone || value == "null":
		case c == '"':
			err = f.put(key, jsonString(value), 0)
		case c == '-' || '0' <= c && c <= '9':
			err = f.put(key, value, 0)
		default:
			err = f.fail(ReasonSyntax, 0, "the value of %s is neither a string nor a number", key)
		}
		if err != nil {
			return err
		}
	}
}

// jsonEnd returns the length of the value that s begins with.
func jsonEnd(s string) int {
	depth, inString := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			continue
		case depth > 0 && (c == '}' || c == ']'):
			depth--
		case depth == 0 && strings.IndexByte(",}]"+blanks, c) >= 0:
			return i
		default:
			continue
		}
		if depth == 0 && !inString {
			return i + 1
		}
	}
	return len(s)
}

// jsonString unquotes a valid string.
func jsonString(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s[1 : len(s)-1]
	}
	var value string
	_ = json.Unmarshal([]byte(s), &value)
	return value
}

// lines yields the lines of text, counted from 1, without their ends.
func lines(text string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		n := 0
		for line := range strings.SplitSeq(text, "\n") {
			n++
			if !yield(n, strings.TrimSuffix(line, "\r")) {
				return
			}
		}
	}
}

const blanks = " \t\r\n\v\f"

// ignored reports whether line is blank or a comment.
func ignored(line string) bool {
	line = strings.TrimLeft(line, blanks)
	return line == "" || line[0] == '#'
}

func (f *fields) dotenv(text string) error {
	for n, line := range lines(text) {
		if ignored(line) {
			continue
		}
		key, value, ok := assignment(line)
		if !ok {
			return f.fail(ReasonSyntax, n, "not KEY=value")
		}
		value, problem := dotenvValue(value)
		if problem != "" {
			return f.fail(ReasonSyntax, n, "%s", problem)
		}
		if err := f.put(fold(key), value, n); err != nil {
			return err
		}
	}
	return nil
}

// assignment cuts "export KEY=value".
func assignment(line string) (key, value string, ok bool) {
	line = strings.TrimLeft(line, blanks)
	if rest, found := strings.CutPrefix(line, "export"); found && rest != "" && strings.ContainsRune(blanks, rune(rest[0])) {
		line = strings.TrimLeft(rest, blanks)
	}
	key, value, ok = strings.Cut(line, "=")
	key = strings.TrimRight(key, blanks)
	return key, value, ok && isName(key)
}

// isName reports whether s has the form of a key.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return s != ""
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// dotenvValue reads what follows the equals sign.
func dotenvValue(s string) (value, problem string) {
	s = strings.Trim(s, blanks)
	if s == "" || s[0] == '#' {
		return "", ""
	}
	quote := s[0]
	if quote != '"' && quote != '\'' {
		for i := 1; i < len(s); i++ {
			if s[i] == '#' && strings.IndexByte(blanks, s[i-1]) >= 0 {
				return strings.TrimRight(s[:i], blanks), ""
			}
		}
		return s, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == quote:
			rest := s[i+1:]
			if rest != "" && (strings.IndexByte(blanks, rest[0]) < 0 || !ignored(rest)) {
				return "", "there is something after the closing quote: a quote inside the value needs an escape"
			}
			return b.String(), ""
		case s[i] == '\\' && quote == '"' && i+1 < len(s):
			i++
			switch s[i] {
			case '"', '\\', '$', '`':
				b.WriteByte(s[i])
			case 'n':
				b.WriteByte('\n')
			case 'r':
				b.WriteByte('\r')
			case 't':
				b.WriteByte('\t')
			default:
				b.WriteByte('\\')
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "a quote is not closed on its line"
}

func (f *fields) yaml(text string) error {
	last := 1 + strings.Count(text, "\n")
	for n, line := range lines(text) {
		if ignored(line) {
			continue
		}
		key, value, ok := yamlPair(line)
		if !ok {
			return f.fail(ReasonSyntax, n, "not a flat “key: value”: nested YAML and values of several lines are not supported, write JSON")
		}
		key = fold(key)
		if f.role(key) == roleNone {
			continue
		}
		value, problem := yamlValue(value, n < last || f.terminated)
		if problem != "" {
			return f.fail(ReasonSyntax, n, "%s", problem)
		}
		if err := f.put(key, value, n); err != nil {
			return err
		}
	}
	return nil
}

// yamlPair cuts "key: value". The value begins after exactly one blank.
func yamlPair(line string) (key, value string, ok bool) {
	if key, value, ok = strings.Cut(line, ": "); !ok {
		key, ok = strings.CutSuffix(line, ":")
	}
	first := byte(' ')
	if key != "" {
		first = key[0]
	}
	return key, value, ok && strings.IndexByte(blanks+"-?[]{}\"'&*!|>%@`", first) < 0
}

// yamlValue unquotes a value that is wholly in quotes. Others are verbatim: a
// password may begin with a quote. whole: the line had an end.
func yamlValue(s string, whole bool) (value, problem string) {
	switch {
	case s == "":
		return "", ""
	case s == "|" || s == ">" || s == "|-" || s == ">-" || s == "|+" || s == ">+":
		return "", "values of several lines are not supported, write JSON"
	case strings.IndexByte(blanks, s[0]) >= 0:
		return "", "more than one blank after the colon: quote a value that begins with a blank"
	case s[0] != '"' && s[0] != '\'':
		return s, ""
	}
	quote, quoted := s[:1], strings.TrimRight(s, blanks)
	switch {
	case strings.Contains(s, quote+" #"):
		return "", "a comment after a quoted value is not supported"
	case len(quoted) == 1 || !strings.HasSuffix(quoted, quote):
		if !whole {
			return "", "a quote is not closed: perhaps not yet written to its end"
		}
		return s, ""
	case quote == "'":
		value = strings.ReplaceAll(quoted[1:len(quoted)-1], "''", "\x00")
		if strings.Contains(value, "'") {
			return "", "a quote inside single quotes is not doubled"
		}
		return strings.ReplaceAll(value, "\x00", "'"), ""
	case json.Unmarshal([]byte(quoted), &value) != nil:
		return "", "the double quotes hold another quote or an unknown escape"
	}
	return value, ""
}

func isPostgresURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && (strings.EqualFold(scheme, "postgres") || strings.EqualFold(scheme, "postgresql"))
}

func (f *fields) url(text string) error {
	if !isPostgresURL(text) {
		return f.fail(ReasonSyntax, 0, "it does not begin with postgres:// or postgresql://")
	}
	return f.fromURL("", text, 0)
}

// fromURL takes the URL apart as libpq does, and by hand: the errors of net/url
// quote what they are about. Whatever of it looks as if a special character was not
// encoded is refused, since it may have cut the password short.
func (f *fields) fromURL(key, s string, line int) error {
	const encode = "encode special characters in user name and password with % (urlquery in a template)"
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) {
		return f.fail(ReasonSyntax, line, "white space, a control character or # in a URL: %s", encode)
	}
	_, rest, _ := strings.Cut(s, "://")
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	userinfo, host, found := strings.Cut(authority, "@")
	if strings.Contains(host, "@") || strings.Contains(path, "@") || !found && strings.Contains(query, "@") {
		return f.fail(ReasonSyntax, line, "an @ at the wrong place in a URL: %s", encode)
	}
	take := func(param, escaped string) error {
		value, err := url.PathUnescape(escaped)
		if err != nil {
			return f.fail(ReasonSyntax, line, "a %% in a URL that encodes nothing: %s", encode)
		}
		return f.fromConnection(key, param, value, line)
	}
	if found {
		user, password, _ := strings.Cut(userinfo, ":")
		if err := take("user", user); err != nil {
			return err
		}
		if err := take("password", password); err != nil {
			return err
		}
	}
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, ok := strings.Cut(parameter, "=")
		if !ok && query != "" {
			return f.fail(ReasonSyntax, line, "a parameter without a value in a URL")
		}
		if name == "user" || name == "password" {
			if err := take(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// pair is a keyword and its value.
type pair struct{ key, value string }

func (f *fields) keywords(text string) error {
	pairs, problem := parseKeywords(text)
	if problem != "" {
		return f.fail(ReasonSyntax, 0, "%s", problem)
	}
	for _, p := range pairs {
		if err := f.put(fold(p.key), p.value, 0); err != nil {
			return err
		}
	}
	return nil
}

// parseKeywords reads a connection string as libpq's conninfo_parse does, except
// that it refuses what that reads in a surprising way: an empty value takes the next
// word ("password= user=app"), and a trailing backslash is dropped.
func parseKeywords(s string) (pairs []pair, problem string) {
	for {
		s = strings.TrimLeft(s, blanks)
		if s == "" {
			return pairs, ""
		}
		key, rest, ok := strings.Cut(s, "=")
		name := strings.TrimRight(key, blanks)
		if !ok || !isName(name) {
			return nil, "not a list of keyword=value: quote values that contain white space"
		}
		s = strings.TrimLeft(rest, blanks)
		quoted := strings.HasPrefix(s, "'")
		if len(s) < len(rest) && name == key && !quoted {
			return nil, "white space after “=”: write an empty value as ''"
		}
		if quoted {
			s = s[1:]
		}
		var b strings.Builder
		closed := false
		for s != "" && !closed {
			c := s[0]
			switch {
			case quoted && c == '\'':
				closed = true
			case !quoted && strings.IndexByte(blanks, c) >= 0:
				closed = true
			case c == '\\' && len(s) == 1:
				return nil, "a backslash at the end escapes nothing"
			case c == '\\':
				s = s[1:]
				b.WriteByte(s[0])
			default:
				b.WriteByte(c)
			}
			s = s[1:]
		}
		if quoted && !closed {
			return nil, "a quote is not closed"
		}
		pairs = append(pairs, pair{name, b.String()})
	}
}

func (f *fields) passfile(text string) error {
	for n, line := range lines(text) {
		if line == "" || line[0] == '#' {
			continue
		}
		columns, problem := passfileColumns(line)
		if problem != "" {
			return f.fail(ReasonSyntax, n, "%s", problem)
		}
		user, password := columns[3], columns[4]
		if user == "*" {
			user = f.opt.Username
		}
		if f.opt.Username != "" && user != f.opt.Username {
			continue
		}
		if err := f.take(&f.user, "user", user, n); err != nil {
			return err
		}
		return f.take(&f.password, "password", password, n)
	}
	return nil
}

// passfileColumns splits a line at its first four colons that are not escaped. As
// with libpq, the password may contain more of them.
func passfileColumns(line string) (columns [5]string, problem string) {
	var b strings.Builder
	column := 0
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 == len(line):
			return columns, "a backslash at the end escapes nothing"
		case c == '\\':
			i++
			b.WriteByte(line[i])
		case c == ':' && column < 4:
			columns[column] = b.String()
			b.Reset()
			column++
		default:
			b.WriteByte(c)
		}
	}
	columns[column] = b.String()
	if column < 4 {
		return columns, "not host:port:database:user:password"
	}
	return columns, ""
}

func (f *fields) service(text string) error {
	sections := 0
	for n, line := range lines(text) {
		line = strings.Trim(line, blanks)
		if ignored(line) {
			continue
		}
		if line[0] == '[' {
			if !strings.HasSuffix(line, "]") {
				return f.fail(ReasonSyntax, n, "not [section]")
			}
			if sections++; sections > 1 {
				return f.fail(ReasonConflict, n, "there are several sections: write a file with one")
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		switch {
		case !ok || !isName(key) || value != strings.TrimLeft(value, blanks):
			return f.fail(ReasonSyntax, n, "not key=value (libpq allows no white space around “=”)")
		case sections == 0:
			return f.fail(ReasonSyntax, n, "a setting before the first [section]")
		}
		if err := f.put(fold(key), value, n); err != nil {
			return err
		}
	}
	return nil
}

func (f *fields) bare(text string) error {
	if strings.ContainsAny(text, "\r\n") {
		return f.fail(ReasonSyntax, 0, "it has several lines: a bare password has one")
	}
	if f.opt.Username == "" {
		return f.fail(ReasonNoUsername, 0, "a bare password: set FileOptions.Username")
	}
	return f.take(&f.password, "password", text, 0)
}
