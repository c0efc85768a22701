// The dotenv format.

package credfile

import "strings"

// parseDotenv yields KEY=value lines. Who reads such files are shells and the dotenv
// libraries of a dozen languages, which agree on little; a value is taken if those that
// read it at all read the same.
func parseDotenv(text string) []pair {
	d := dotenvParser{text: text, shell: isShellScript(text)}
	for d.next() {
		d.statement()
	}
	return d.pairs
}

type dotenvParser struct {
	text  string // what follows the line
	rest  string // the line, and what follows it
	n     int    // of the line, from 1
	line  string
	shell bool // no other than a shell reads the file
	ended bool // the line has an end
	pairs []pair
}

func (d *dotenvParser) next() bool {
	if d.text == "" {
		return false
	}
	d.n++
	d.rest = d.text
	d.line, d.text, d.ended = strings.Cut(d.text, "\n")
	d.line = strings.TrimSuffix(d.line, "\r")
	return true
}

func (d *dotenvParser) yield(key, value string, line int, p *problem) {
	d.pairs = append(d.pairs, pair{path: []string{key}, value: value, line: line, problem: p})
}

func (d *dotenvParser) statement() {
	d.pairs = append(d.pairs, oddPairs(d.line, d.n, assignment)...)
	if ignored(d.line) || isComment(d.line) {
		return
	}
	key, value, ok := assignment(d.line)
	if !ok {
		d.noAssignment()
		return
	}
	n, declared := d.n, isDeclaration(d.line)
	value = strings.TrimLeft(value, blanks)
	switch {
	case value == "" || value[0] != '"' && value[0] != '\'':
		d.furtherWords(value)
		value, p := d.unquoted(value, declared)
		d.yield(key, value, n, p)
	case quoteEnd(value) < 0:
		d.skipQuoted(len(d.line) - len(value))
		d.yield(key, "", n, broken("has a quote that is not closed on its line"))
	default:
		d.furtherWords("_" + value[quoteEnd(value):])
		value, p := d.quoted(strings.TrimRight(value, blanks), declared)
		d.yield(key, value, n, p)
	}
}

// noAssignment passes over a line that sets nothing. One that seems to be about a key is
// in doubt, and so is what may be the second line of a value.
func (d *dotenvParser) noAssignment() {
	line := withoutExport(d.line)
	name, after := line, ""
	if i := strings.IndexAny(line, ":"+blanks); i >= 0 {
		name, after = line[:i], line[i:]
	}
	d.furtherWords(line)
	switch {
	case name == "set" || name == "unset" || name == "export" || len(line) < len(d.line) && !strings.Contains(after, ":"):
		return
	case isName(name):
		p := doubt("is not set with KEY=value: readers make different things of such a line")
		p.torn = !d.ended && after == ""
		d.yield(name, "", d.n, p)
		if isUpper(name) {
			return
		}
	}
	doubtBefore(d.pairs, d.n)
}

// furtherWords doubts what a shell finds set by the further words of a line.
func (d *dotenvParser) furtherWords(s string) {
	s, _, _ = strings.Cut(s, " #")
	for i, word := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(blanks+";", r) }) {
		key, _, ok := assignment(word)
		shells := isUpper(key) || len(withoutExport(d.line)) < len(d.line)
		if name, _, appends := strings.Cut(word, "+="); appends && isName(name) {
			key, ok, shells = name, true, true // nothing else writes that
		}
		if ok && i > 0 && shells {
			d.yield(key, "", d.n, doubt("is set on the line of another: write it on a line of its own"))
		}
	}
}

// skipQuoted passes over the lines of a value that spans several, if its quote ends. The
// value begins at an index of the line.
func (d *dotenvParser) skipQuoted(at int) {
	end := quoteEnd(d.rest[at:])
	if end < 0 {
		return
	}
	d.n += strings.Count(d.rest[at:at+end], "\n")
	_, d.text, _ = strings.Cut(d.rest[at+end:], "\n")
}

// assignment cuts “export KEY=value”.
func assignment(line string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(withoutExport(line), "=")
	key = strings.TrimRight(key, blanks)
	return key, value, ok && isName(key)
}

func withoutExport(line string) string {
	line = strings.TrimLeft(line, blanks)
	for _, prefix := range []string{"export", "declare -x", "typeset -x"} {
		if rest, found := strings.CutPrefix(line, prefix); found && rest != "" && isBlank(rest[0]) {
			return strings.TrimLeft(rest, blanks)
		}
	}
	return line
}

// isDeclaration reports whether line is as bash's export -p writes it.
func isDeclaration(line string) bool {
	return hasAnyPrefix(strings.TrimLeft(line, blanks), "declare -x ", "typeset -x ")
}

// isShellScript reports whether there is a line that dotenv libraries refuse, and shells
// do not.
func isShellScript(text string) bool {
	for _, line := range lines(text) {
		if isDeclaration(line) || hasAnyPrefix(strings.TrimLeft(line, blanks), "set -", "export -p", "#!/") {
			return true
		}
	}
	return false
}

// isComment reports whether line is a comment in some readers' files, and can be
// nothing else.
func isComment(line string) bool { return hasAnyPrefix(strings.TrimLeft(line, blanks), ";", "//") }

// isUpper reports whether name is one as environment variables have it.
func isUpper(name string) bool {
	return name != "" && (name[0] < '0' || name[0] > '9') && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// unquoted reads a value that doesn't begin with a quote.
func (d *dotenvParser) unquoted(s string, declared bool) (string, *problem) {
	if s != "" && s[0] == '#' {
		return "", doubt("begins with an unquoted #, which some readers take for a comment, and others don't: put it in single quotes")
	}
	if d.shell || declared {
		return d.shellWord(strings.TrimRight(s, blanks))
	}
	value, comment, _ := strings.Cut(s, " #")
	switch value = strings.TrimRight(value, blanks); {
	case strings.Contains(comment, " #") || strings.Contains(value, "\t#"):
		return "", doubt("is followed by what some readers take for a comment, and others don't: put it in quotes")
	case strings.ContainsAny(value, "\"'`\\$;<>"+blanks):
		return value, doubt("has white space, a quote, a backslash or one of $ ` ; < > in it, which readers understand differently without quotes: put it in single quotes")
	case strings.HasPrefix(value, "~") || strings.Contains(value, ":~"):
		return "", doubt("has a ~ that a shell replaces: put it in single quotes")
	case hasOddBlank(value):
		return "", doubt("has white space in it that only some readers know: put it in single quotes")
	}
	return value, nil
}

// quoted reads a value that begins with a quote and has another one. rest of the file is
// looked at because libraries go on to the next quote where they take one to be escaped.
func (d *dotenvParser) quoted(s string, declared bool) (string, *problem) {
	quote, end := s[0], quoteEnd(s)
	inner, after := s[1:end], s[end+1:]
	switch {
	case d.shell || declared:
		return d.shellWord(s)
	case ignored(after) && (after == "" || isBlank(after[0])):
	default: // no library reads it
		return quoteByQuote(s)
	}
	if strings.HasSuffix(inner, `\`) && (strings.IndexByte(after, quote) >= 0 || goesOn(d.text, s[:1])) {
		return "", doubt("has a backslash before its closing quote, which some readers take for an escape and others don't")
	}
	if quote == '\'' {
		return inner, nil
	}
	return doubleQuoted(inner)
}

// goesOn reports whether a library that has missed the end of a value finds another one in
// the text after it: at the next quote, unless what follows that is a name and one more
// quote, where all of them give up.
func goesOn(text, quote string) bool {
	missed, text, found := strings.Cut(text, quote)
	next, _, closed := strings.Cut(text, quote)
	return found && (!closed || !isName(next) || strings.Contains(missed, `\`))
}

// quoteEnd returns the index of the quote that closes the one s begins with, as shells
// find it; -1 if there is none.
func quoteEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return i
		case s[i] == '\\' && s[0] == '"':
			i++
		}
	}
	return -1
}

const quoteHint = ": put the value in single quotes"

// doubleQuoted reads what is between double quotes. Only \\, \" and \$ mean the same to
// all readers, and some don't see the last quote of \"".
func doubleQuoted(s string) (string, *problem) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$' || c == '`':
			return s, doubt("has a $ or ` in double quotes, which stand for something else to some readers" + quoteHint)
		case c != '\\':
			b.WriteByte(c)
		case i+1 < len(s) && strings.IndexByte(`\"$`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		default:
			return "", doubt("has a backslash in double quotes that readers understand differently" + quoteHint + `, or write \\ for it`)
		}
	}
	if strings.HasSuffix(s, `"`) {
		return "", doubt(`ends with \" in double quotes, which some readers lose` + quoteHint)
	}
	return b.String(), nil
}

// quoteByQuote reads a value with quotes in it as jq's @sh, Python's shlex and bash write
// it: all is in single quotes, but for a quote, which is \' or "'" between two parts.
func quoteByQuote(s string) (string, *problem) {
	for rest := s; ; {
		n := quoteEnd(rest) + 1
		if rest[0] != '\'' || n == 0 || strings.HasSuffix(rest[:n], `\'`) {
			break
		}
		if rest = rest[n:]; ignored(rest) && (rest == "" || isBlank(rest[0])) {
			return shellWord(s)
		}
		after, escaped := strings.CutPrefix(rest, `\'`)
		if !escaped {
			after, escaped = strings.CutPrefix(rest, `"'"`)
		}
		if rest = after; !escaped || rest == "" {
			break
		}
	}
	return "", doubt(`goes on after the closing quote: write '\'' for a quote in single quotes, or \" in double ones`)
}

// shellWord reads one word of a file that is a shell's: a return before the end of its
// line is a part of the word.
func (d *dotenvParser) shellWord(s string) (string, *problem) {
	if line, _, _ := strings.Cut(d.rest, "\n"); strings.HasSuffix(line, "\r") {
		return "", doubt("ends with a carriage return, which is a part of it to a shell: end lines with a newline only")
	}
	return shellWord(s)
}

// shellWord reads one word as a shell does: quoted and unquoted parts in a row.
func shellWord(s string) (string, *problem) {
	var b strings.Builder
	for s != "" {
		switch c := s[0]; {
		case c == '\'' || c == '"':
			end := quoteEnd(s)
			switch {
			case end < 0:
				return "", broken("has a quote that is not closed on its line")
			case c == '"':
				part, p := shellDouble(s[1:end])
				if p != nil {
					return "", p
				}
				b.WriteString(part)
			case strings.HasPrefix(s[end+1:], "'") && end > 1:
				return "", doubt(`has '' in single quotes, which is nothing to a shell, and a quote to others: write '\''`)
			default:
				b.WriteString(s[1:end])
			}
			s = s[end+1:]
		case c == '\\' && len(s) > 1:
			b.WriteByte(s[1])
			s = s[2:]
		case isBlank(c) && ignored(s):
			return b.String(), nil
		case isBlank(c) || strings.IndexByte("\\$`;&|<>()~", c) >= 0:
			return "", doubt("has white space, or a character that shells act on, outside of quotes" + quoteHint)
		default:
			b.WriteByte(c)
			s = s[1:]
		}
	}
	return b.String(), nil
}

// shellDouble reads what is between a shell's double quotes.
func shellDouble(s string) (string, *problem) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$' || c == '`':
			return "", doubt("has a $ or ` in double quotes, which a shell replaces" + quoteHint)
		case c == '\\' && i+1 < len(s) && strings.IndexByte("\\\"$`", s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}
