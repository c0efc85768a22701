// The format is recognised by how the text begins.

package credfile

import (
	"slices"
	"strings"
)

// sight is what recognition goes by.
type sight struct {
	opt      Options
	text     string
	first    string // the first line that tells anything, from its first character on
	single   bool   // there is one line only
	enclosed bool   // it is known to be whole
}

// row is one way to recognise a format, or something that is none.
type row struct {
	is     func(sight) bool
	why    string // what follows “because”
	format Format
	// If it has no format: why it can't be used.
	reason Reason
	detail string
}

// rows are in the order in which they are tried. Each format but the bare password has a
// beginning of its own; what begins so is that format, whole or not.
func rows() []row {
	return []row{
		{is: beginsWith("{{", "{%"), reason: ReasonUnrendered, detail: "it " + templateHint},
		{is: sight.isArmoured, reason: ReasonEncrypted, detail: "it is encrypted, or a key or certificate: write what is in it"},
		{is: func(s sight) bool { return isPage(s.first) }, reason: ReasonUnrendered, detail: "it is an HTML or XML page, such as a server's error"},
		{is: func(s sight) bool { return beginsJSON(s.first, '{', '}', `"`) }, format: FormatJSON, why: "it begins with {"},
		{is: func(s sight) bool { return beginsJSON(s.first, '[', ']', `"{[`) }, reason: ReasonSyntax, detail: "it is a JSON array: write an object with the keys username and password"},
		{is: beginsWith(`"{\"`), reason: ReasonSyntax, detail: "it is a JSON string with an object in it: write the object (aws: --output text)"},
		{is: func(s sight) bool { return beginsSection(s.first, s.single) }, format: FormatService, why: "it begins with a [section]"},
		{is: func(s sight) bool { return isPassfile(s.first) }, format: FormatPassfile, why: "it begins with host:port"},
		{is: func(s sight) bool { return isPostgresURL(s.first) }, format: FormatURL, why: "it begins with the scheme of a URL"},
		{is: func(s sight) bool { return isURL(s.first) }, reason: ReasonUnknown, detail: "it is a URL, but not a postgres:// one"},
		{is: sight.isKeywords, format: FormatKeywords, why: "several keyword=value are on a line"},
		{is: sight.isFlow, reason: ReasonUnknown, detail: "it is a map in YAML or Python: write JSON, with its keys in double quotes"},
		{is: func(s sight) bool { return s.single && isForeignConnection(s.first) }, reason: ReasonUnknown, detail: "it is a connection string of another kind: write a postgres:// URL, or libpq's keyword=value"},
		{is: beginsWith("--- ", "%YAML"), format: FormatYAML, why: "it begins as a YAML document does"},
		{is: func(s sight) bool { return s.first == "---" && !s.single }, format: FormatYAML, why: "it begins as a YAML document does"},
		{is: func(s sight) bool { return !s.single && strings.HasPrefix(s.first, "- ") }, reason: ReasonUnknown, detail: "it is a list in YAML: write “key: value” lines"},
		{is: sight.isDotenv, format: FormatDotenv, why: "it begins with KEY=value"},
		{is: sight.isYAML, format: FormatYAML, why: "it begins with “key: value”"},
		{is: sight.hasAssignment, format: FormatDotenv, why: "a line is KEY=value with a usual key"},
		{is: sight.hasYAML, format: FormatYAML, why: "a line is “key: value” with a usual key"},
		{is: func(s sight) bool { return !s.single }, reason: ReasonUnknown, detail: "its format is not recognised: write JSON, or name the format in FileOptions.Format"},
		{is: func(s sight) bool { return s.opt.Username == "" }, reason: ReasonUnknown, detail: "its format is not recognised: if it is a bare password, set FileOptions.Username; else write JSON, or name the format in FileOptions.Format"},
		{is: sight.isSentence, reason: ReasonUnknown, detail: "it has a space in it, as what a program tells people has, and no token: if it is a bare password, set FileOptions.Format to FormatPassword"},
		{is: sight.looksTorn, reason: ReasonUnknown, detail: "it looks like the beginning of a file in another format: if it is a bare password, set FileOptions.Format to FormatPassword"},
		{is: func(sight) bool { return true }, format: FormatPassword, why: "it is one line that looks like nothing else"},
	}
}

// recognise sets the format that text is in, or was to become.
func (f *finder) recognise(text string) error {
	s := sight{opt: f.opt, text: text, single: !strings.ContainsAny(text, "\r\n"), enclosed: f.enclosed}
	for _, line := range lines(text) {
		if !ignored(line) && (s.single || !isComment(line)) {
			s.first = strings.Trim(line, blanks)
			break
		}
	}
	if s.isListOfKeywords() {
		return f.fail(ReasonAmbiguous, 0, "a quote or a backslash in it means one thing in a list of libpq's keywords, and another in KEY=value lines: name the format in FileOptions.Format")
	}
	all := rows()
	r := all[slices.IndexFunc(all, func(r row) bool { return r.is(s) })]
	if r.format == FormatAuto {
		return f.fail(r.reason, 0, "%s", r.detail)
	}
	f.format, f.why = r.format, r.why
	return nil
}

func beginsWith(prefixes ...string) func(sight) bool {
	return func(s sight) bool { return hasAnyPrefix(s.first, prefixes...) }
}

// isArmoured reports whether it begins as what encryption tools write as text does.
func (s sight) isArmoured() bool {
	return hasAnyPrefix(s.first, "-----BEGIN ", "$ANSIBLE_VAULT;", "age-encryption.org/")
}

// beginsJSON reports whether s begins as a JSON object or array does: after open
// comes nothing, the closing brace or one of next.
func beginsJSON(s string, open, closing byte, next string) bool {
	if s == "" || s[0] != open {
		return false
	}
	rest := strings.TrimLeft(s[1:], blanks)
	return rest == "" && open == '{' || rest != "" && (rest[0] == closing || strings.IndexByte(next, rest[0]) >= 0)
}

// beginsSection reports whether line is, or on a single line may become, the
// heading of a section.
func beginsSection(line string, single bool) bool {
	if line == "" || line[0] != '[' {
		return false
	}
	name := strings.TrimSuffix(strings.TrimRight(line[1:], blanks), "]")
	return !single || name == "" || isName(strings.ReplaceAll(name, " ", "_"))
}

func isURL(line string) bool {
	scheme, _, ok := strings.Cut(line, "://")
	return ok && len(scheme) > 1 && isName(strings.NewReplacer(":", "_", "+", "_").Replace(scheme))
}

// isForeignConnection reports whether line holds a password and more, as JDBC, ADO.NET
// and the drivers of other databases write it.
func isForeignConnection(line string) bool {
	if _, _, ok := assignment(line); ok && strings.Count(line, "=") == 1 {
		return false
	}
	if key, value, ok := assignment(line); ok && usualRole(fold(key)) != roleNone && !strings.Contains(value, ";") {
		return false
	}
	if _, _, ok := yamlPair(line); ok {
		return false
	}
	return isConnection(line) || isBareUserinfo(line)
}

// isBareUserinfo reports whether line is user:password@host:port/database or shorter.
func isBareUserinfo(line string) bool {
	i := strings.LastIndexByte(line, '@')
	if i < 0 {
		return false
	}
	user, password, ok := strings.Cut(line[:i], ":")
	host, database, isPath := strings.Cut(line[i+1:], "/")
	host, port, hasPort := strings.Cut(host, ":")
	return ok && isName(user) && password != "" && isName(host) && isName(database) && isPath && (!hasPort || isPort(port))
}

// isKeywords reports whether a line of it, with user or password, begins with a keyword of
// libpq's and its value, and more follows; or whether all of one line is such a list, of
// whatever keywords. In double quotes no value is meant for libpq.
func (s sight) isKeywords() bool {
	found, quoted := false, false
	for _, line := range lines(s.text) {
		login := s.single || strings.Contains(line, "user") || strings.Contains(line, "password")
		found = found || login && isKeywords(line)
		key, value, ok := assignment(line)
		quoted = quoted || ok && s.opt.familiar(key) && strings.HasPrefix(strings.TrimLeft(value, blanks), `"`)
	}
	return found && !quoted || s.single && isConnectionString(s.text)
}

// isListOfKeywords reports whether it is a list of libpq's keywords, one on each line, and
// has in it what they read differently from KEY=value lines.
func (s sight) isListOfKeywords() bool {
	pairs, p := parseKeywords(s.text)
	if p != nil || s.single || len(pairs) < 2 || !strings.Contains(s.text, `\`) || s.isKeywords() {
		return false
	}
	return !slices.ContainsFunc(pairs, func(p pair) bool { return !isLibpqKeyword(p.path[0]) })
}

// isFlow reports whether it is a map on one line, and not JSON.
func (s sight) isFlow() bool {
	return s.single && strings.HasPrefix(s.first, "{") && strings.HasSuffix(s.first, "}") && strings.Contains(s.first, ": ")
}

// isDotenv reports whether it begins with an assignment, or with what may come before one.
func (s sight) isDotenv() bool {
	key, _, ok := assignment(s.first)
	return ok && (!s.single || s.opt.familiar(key) || !s.enclosed && isEnvironment(s.first))
}

func (s sight) isYAML() bool {
	key, value, ok := yamlPair(s.first)
	return ok && (!s.single || !s.enclosed && value != "" || s.opt.familiar(key))
}

// hasAssignment reports whether any line sets what is looked for.
func (s sight) hasAssignment() bool {
	return !s.single && s.anyLine(assignment)
}

func (s sight) hasYAML() bool {
	return !s.single && s.anyLine(func(line string) (key, value string, ok bool) { return yamlPair(strings.TrimLeft(line, " ")) })
}

func (s sight) anyLine(cut func(string) (key, value string, ok bool)) bool {
	for _, line := range lines(s.text) {
		if key, _, ok := cut(line); ok && s.opt.role([]string{key}) != roleNone {
			return true
		}
	}
	return false
}

// isEnvironment reports whether line sets an environment variable, by its looks.
func isEnvironment(line string) bool {
	name := withoutExport(line)
	exported := len(name) < len(line)
	name, _, _ = strings.Cut(name, "=")
	return exported || len(name) >= 3 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// isSentence reports whether a line that a program has printed may be for people to read. In
// the place of a token it would put an end to the last good one.
func (s sight) isSentence() bool {
	return s.opt.Printed && !s.enclosed && strings.ContainsAny(s.text, " \t")
}

// looksTorn reports whether a single line may be the beginning of a file in another
// format, cut off before the format shows, or a value that was quoted.
func (s sight) looksTorn() bool {
	text := s.text
	if c := text[0]; (c == '"' || c == '\'') && strings.HasSuffix(text, text[:1]) {
		return true
	}
	if s.enclosed {
		return false
	}
	return text == "#" || strings.HasPrefix(text, "# ") || strings.Contains(text, ": ") || s.opt.begins(text)
}
