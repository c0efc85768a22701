// The YAML format, as far as a login needs it: a tree of keys.

package credfile

import (
	"slices"
	"strconv"
	"strings"
)

// parseYAML yields the scalars of a block mapping and of those nested in it. Sequences
// and flow collections are passed over.
//
// The Vault Agent Injector's default template writes “key: value” and doesn't quote. So a
// value is verbatim to the end of its line unless YAML reads another string there: where
// YAML would read none, or fail, it can't have been meant.
func parseYAML(text string) ([]pair, *fault) {
	body, f := yamlDocument(text)
	if f != nil {
		return nil, f
	}
	y := yamlParser{body: body, mixed: strings.Contains(text, "\r\n") && strings.Count(text, "\r\n") < strings.Count(text, "\n")}
	if len(body) > 0 && !strings.HasSuffix(text, "\n") {
		y.torn = body[len(body)-1].n
	}
	y.strict = len(body) > 0 && body[0].n > 1 || slices.ContainsFunc(body, yamlLine.isSyntax)
	y.mapping(body, nil)
	return y.pairs, nil
}

type yamlLine struct {
	n      int // from 1
	indent int
	text   string // without the indentation
}

func (l yamlLine) blank() bool { return l.text == "" }

// isSyntax reports whether the line is one that a template without quotes doesn't write.
func (l yamlLine) isSyntax() bool {
	_, value, ok := yamlPair(l.text)
	value = strings.Trim(value, blanks)
	quoted := len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0]
	return !l.blank() && (l.indent > 0 || l.text[0] == '#' || ok && quoted)
}

// yamlDocument returns the lines of the only document in text.
func yamlDocument(text string) ([]yamlLine, *fault) {
	var body []yamlLine
	begun, over := false, false
	for n, line := range lines(text) {
		mark, after := yamlMark(line)
		start := mark == "---" && !begun && len(body) == 0
		switch {
		case mark != "" && !ignored(after):
			return nil, faulty(n, "there is something after "+mark+": write it on a line of its own")
		case mark != "":
			begun, over = true, over || !start
		case !begun && len(body) == 0 && (ignored(line) || strings.HasPrefix(line, "%")):
		case over && !ignored(line):
			return nil, faulty(n, "there are several YAML documents: write one")
		default:
			rest := strings.TrimLeft(line, " ")
			body = append(body, yamlLine{n: n, indent: len(line) - len(rest), text: rest})
		}
	}
	return body, nil
}

// yamlMark cuts what a line has at its beginning that begins or ends a document.
func yamlMark(line string) (mark, after string) {
	for _, mark := range []string{"---", "..."} {
		if after, ok := strings.CutPrefix(line, mark); ok && (after == "" || isBlank(after[0])) {
			return mark, after
		}
	}
	return "", ""
}

type yamlParser struct {
	body   []yamlLine
	torn   int  // the line that has no end; 0 if the last one has
	within int  // the last line of what may be a value in quotes that began before
	mixed  bool // some lines end with a carriage return, too, and others don't
	strict bool // something that only YAML has was seen

	overhang bool // a line of blanks that is further in follows the value
	pairs    []pair
}

func (y *yamlParser) yield(path []string, value string, n int, p *problem) {
	if n <= y.within && p == nil {
		p = doubt("is between two quotes, where YAML has one value of several lines: close the quote on the line that it begins on")
	}
	y.pairs = append(y.pairs, pair{path: path, value: value, line: n, problem: p})
}

// mapping reads the lines of a block mapping.
func (y *yamlParser) mapping(body []yamlLine, path []string) {
	base := -1
	for len(body) > 0 {
		line := body[0]
		body = body[1:]
		if ignored(line.text) {
			continue
		}
		more := deeper(body, line.indent)
		body = body[len(more):]
		y.overhang = overhangs(more, body)
		if base < 0 {
			base = line.indent
		}
		key, value, ok := yamlPair(line.text)
		y.pairs = append(y.pairs, oddPairs(line.text, line.n, yamlPair)...)
		switch {
		case line.text == "-" || strings.HasPrefix(line.text, "- "):
		case !ok || line.indent != base:
			y.noPair()
		case len(path) < deepest:
			y.value(append(slices.Clone(path), key), value, line, more)
		}
	}
}

// overhangs reports whether a line of nothing but blanks, further in than those of a value,
// follows them: to some readers it belongs to a block.
func overhangs(more, after []yamlLine) bool {
	for _, line := range after {
		if len(more) == 0 || !line.blank() {
			return false
		}
		if line.indent > more[0].indent {
			return true
		}
	}
	return false
}

// deeper returns the first lines that are indented more than indent, with what is blank
// or a comment between them.
func deeper(body []yamlLine, indent int) []yamlLine {
	n := 0
	for i, line := range body {
		switch {
		case line.blank() || line.indent <= indent && line.text[0] == '#':
		case line.indent > indent:
			n = i + 1
		default:
			return body[:n]
		}
	}
	return body[:n]
}

// noPair doubts the value before a line that may belong to it.
func (y *yamlParser) noPair() {
	if last := len(y.pairs) - 1; last >= 0 && y.pairs[last].problem == nil {
		y.pairs[last].problem = doubt("is followed by a line that is not “key: value”: it may be a part of the value")
	}
}

// yamlPair cuts “key: value”. The value begins after exactly one blank.
func yamlPair(line string) (key, value string, ok bool) {
	if line == "" {
		return "", "", false
	}
	if line[0] == '"' || line[0] == '\'' {
		end := yamlQuoteEnd(line)
		if end < 0 {
			return "", "", false
		}
		rest, found := strings.CutPrefix(strings.TrimLeft(line[end+1:], " "), ":")
		key, p := yamlUnquote(line[:end+1])
		return key, strings.TrimPrefix(rest, " "), found && p == nil && (rest == "" || rest[0] == ' ')
	}
	if key, value, ok = strings.Cut(line, ": "); !ok {
		key, ok = strings.CutSuffix(strings.TrimRight(line, blanks), ":")
	}
	key = strings.TrimRight(key, " ")
	return key, value, ok && key != "" && !strings.ContainsAny(key, oddBreaks) && strings.IndexByte(blanks+"-?[]{}&*!|>%@`#", key[0]) < 0
}

// value reads what follows a key, on its line and on the deeper ones after it.
func (y *yamlParser) value(path []string, s string, line yamlLine, more []yamlLine) {
	trimmed := strings.Trim(s, blanks)
	tag, tagged := yamlTag(trimmed)
	empty := trimmed == "" || trimmed[0] == '#' || tagged && tag == trimmed
	switch {
	case isYAMLNull(trimmed) && len(more) == 0:
		y.pairs = append(y.pairs, pair{path: path, null: true, line: line.n})
	case empty && len(more) > 0:
		y.yield(path, "", line.n, broken("is nested, or on the next line, and not a value on its own line"))
		y.mapping(more, path)
	case trimmed == "":
		y.yield(path, "", line.n, nil)
	case tagged:
		y.yield(path, "", line.n, doubt("begins with a tag or an anchor to YAML: put it in quotes"))
	default:
		value, p := y.scalar(s, line, more)
		y.yield(path, value, line.n, p)
	}
}

// scalar reads a value that begins on the line of its key.
func (y *yamlParser) scalar(s string, line yamlLine, more []yamlLine) (string, *problem) {
	trimmed := strings.Trim(s, blanks)
	switch {
	case len(more) > 0 && y.isTangled(more):
		return "", doubt("spans lines that readers join in different ways: put it in quotes, on one line")
	case isBlockHeader(trimmed) && y.overhang:
		return "", doubt(blockBlanks)
	case isBlockHeader(trimmed):
		return yamlBlock(trimmed, more, line.indent)
	case trimmed[0] == '"' || trimmed[0] == '\'':
		value, p := y.quoted(trimmed, line, more)
		if p == nil && value == trimmed && s != trimmed { // verbatim after all
			p = doubt(outerBlanks)
		}
		return value, p
	case s != trimmed:
		return "", doubt(outerBlanks)
	default:
		return y.plain(s, more)
	}
}

const outerBlanks = "begins or ends with white space, which some readers drop: put it in quotes, or leave one blank after the colon and none at the end"

// isTangled reports whether the further lines of a value are too many to be looked at, or
// end in ways that only some readers know.
func (y *yamlParser) isTangled(more []yamlLine) bool {
	const most = 100
	if y.mixed {
		return true
	}
	for i, line := range more {
		if i > most || strings.ContainsAny(line.text, oddBreaks) || line.blank() && (line.indent > 0 || i > 0 && more[i-1].blank()) {
			return true
		}
	}
	return false
}

func isYAMLNull(s string) bool { return s == "~" || s == "null" || s == "Null" || s == "NULL" }

// yamlTag cuts the tag or the anchor that s begins with, if more follows or it is all.
func yamlTag(s string) (string, bool) {
	if s == "" || s[0] != '!' && s[0] != '&' {
		return "", false
	}
	tag, _, found := strings.Cut(s, " ")
	n := 1
	for n < len(s) && (isAlnum(s[n]) || s[n] == '-' || s[n] == '_') {
		n++
	}
	return tag, found || n == len(s) || s[0] == '&' && strings.IndexByte("?:,]}%@`'\"", s[n]) >= 0
}

// isOddNumber reports whether s is a number to YAML that some readers write in another way.
func isOddNumber(s string) bool {
	digits := strings.ReplaceAll(strings.TrimLeft(s, "+-"), "_", "")
	if digits == "" || digits[0] != '.' && (digits[0] < '0' || digits[0] > '9') {
		return false
	}
	_, float := strconv.ParseFloat(digits, 64)
	_, integer := strconv.ParseUint(digits, 0, 64)
	canonical := s == digits && strings.Trim(s, "0123456789") == "" && (s[0] != '0' || s == "0")
	return (float == nil || integer == nil) && !canonical
}

// plain reads a value without quotes. In a file that is YAML by its looks, and on several
// lines, it is one that all readers of YAML read in the same way.
func (y *yamlParser) plain(s string, more []yamlLine) (string, *problem) {
	for len(more) > 0 && ignored(more[len(more)-1].text) {
		more = more[:len(more)-1]
		y.strict = true
	}
	switch {
	case isFlow(s):
		return "", broken("is a list or a map to YAML: put it in quotes")
	case hasOddBlank(s):
		return "", doubt("has white space in it that only some readers know: put it in quotes")
	case isOddNumber(s) && (y.strict || strings.Trim(s, "0123456789") != ""):
		return "", doubt("is a number to YAML, which readers write in different ways: put it in quotes")
	case strings.Contains(s, "\t") || slices.ContainsFunc(more, func(l yamlLine) bool { return strings.Contains(l.text, "\t") }):
		return "", doubt("has a tab in it, which some readers of YAML drop: put it in quotes")
	case !y.strict && len(more) == 0:
		return s, nil
	case strings.Contains(s, " #"):
		return "", doubt("has a # after a blank, which begins a comment in YAML: put it in quotes")
	case strings.IndexByte(",[]{}#&*!|>%@`", s[0]) >= 0:
		return "", doubt("begins with a sign that YAML has a use for: put it in quotes")
	case slices.ContainsFunc(more, isNoContinuation):
		return "", broken("spans lines that are not of one value")
	}
	return yamlFold(s, more), nil
}

// isFlow reports whether s is a list or a map on one line.
func isFlow(s string) bool {
	return s[0] == '[' && s[len(s)-1] == ']' || s[0] == '{' && s[len(s)-1] == '}'
}

// isNoContinuation reports whether a line can't be, or not to all readers, a further one
// of a value without quotes.
func isNoContinuation(l yamlLine) bool {
	return !l.blank() && strings.IndexByte("-?:,[]{}#&*!|>%@`'\"", l.text[0]) >= 0 ||
		strings.Contains(l.text, ": ") || strings.HasSuffix(l.text, ":") || strings.Contains(l.text, " #")
}

// yamlFold joins the lines of a value: a break is a blank, and blank lines are breaks.
func yamlFold(s string, more []yamlLine) string {
	var b strings.Builder
	b.WriteString(strings.TrimRight(s, " \t"))
	breaks := 0
	for _, line := range more {
		if line.blank() {
			breaks++
			continue
		}
		if breaks == 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strings.Repeat("\n", breaks))
		b.WriteString(strings.Trim(line.text, " \t"))
		breaks = 0
	}
	return b.String()
}
