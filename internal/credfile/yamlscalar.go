// Values in YAML: quoted, in blocks, plain.

package credfile

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// quoted reads a value that begins with a quote. One whose quote doesn't close is
// verbatim: a password may begin with a quote.
func (y *yamlParser) quoted(s string, line yamlLine, more []yamlLine) (string, *problem) {
	if len(more) > 0 {
		if s[0] == '"' {
			s = joinEscaped(s, more)
		} else {
			s = yamlFold(s, more)
		}
	}
	end := yamlQuoteEnd(s)
	if end < 0 {
		y.seekQuote(s[:1], line.n)
	}
	switch {
	case end == len(s)-1 && end > 0:
		return yamlUnquote(s)
	case end > 0 && strings.HasPrefix(strings.TrimLeft(s[end+1:], blanks), "#"):
		return "", doubt("has a comment after its closing quote: write it on a line of its own")
	case len(more) > 0 || y.strict && end < 0:
		return "", broken("has a quote that is not closed")
	case y.strict:
		return "", broken("goes on after its closing quote")
	case len(s) > 1 && s[len(s)-1] == s[0]:
		return "", broken("has another quote in its quotes, or an unknown escape")
	case line.n == y.torn:
		return "", broken("has a quote that is not closed: perhaps it is not yet written to its end")
	}
	return s, nil
}

// seekQuote looks for the quote that closes one of line n. YAML goes on to it whatever the
// indentation, if nothing follows it.
func (y *yamlParser) seekQuote(quote string, n int) {
	for _, line := range y.body[n-y.body[0].n+1:] {
		text := quote + line.text
		if end := yamlQuoteEnd(text); end >= 0 {
			if ignored(text[end+1:]) {
				y.within = line.n
			}
			return
		}
	}
}

// yamlQuoteEnd returns the index of the quote that closes the one s begins with; -1 if
// there is none.
func yamlQuoteEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[0] == '"' && s[i] == '\\':
			i++
		case s[0] == '\'' && strings.HasPrefix(s[i:], "''"):
			i++
		case s[i] == s[0]:
			return i
		}
	}
	return -1
}

// joinEscaped folds the lines of a value in double quotes, where a backslash at the end
// of a line joins it to the next.
func joinEscaped(s string, more []yamlLine) string {
	for len(more) > 0 {
		before := strings.TrimRight(s, `\`)
		if (len(s)-len(before))%2 == 0 {
			n := 0
			for n < len(more)-1 && more[n].blank() {
				n++
			}
			s = yamlFold(s, more[:n+1])
			more = more[n+1:]
			continue
		}
		s = s[:len(s)-1] + strings.TrimLeft(more[0].text, " \t")
		more = more[1:]
	}
	return s
}

// yamlUnquote reads a value that is in quotes from its first byte to its last.
func yamlUnquote(s string) (string, *problem) {
	inner := s[1 : len(s)-1]
	if s[0] == '\'' {
		return strings.ReplaceAll(inner, "''", "'"), nil
	}
	var b strings.Builder
	for inner != "" {
		before, _, found := strings.Cut(inner, `\`)
		b.WriteString(before)
		if inner = inner[len(before):]; !found {
			break
		}
		char, n := yamlEscape(inner[1:])
		if n == 0 {
			return "", broken("has an escape that YAML doesn't know, or that stands for half a character")
		}
		b.WriteRune(char)
		inner = inner[1+n:]
	}
	return b.String(), nil
}

// yamlEscape reads what follows a backslash, and how long it is: 0 if it is no escape.
func yamlEscape(s string) (rune, int) {
	if s == "" {
		return 0, 0
	}
	const names, values = "0abt\tnvfre \"/\\N_LP", "\x00\a\b\t\t\n\v\f\r\x1b \"/\\\u0085\u00a0\u2028\u2029"
	if i := strings.IndexByte(names, s[0]); i >= 0 {
		return []rune(values)[i], 1
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]
	if digits == 0 || len(s) <= digits {
		return 0, 0
	}
	n, err := strconv.ParseUint(s[1:1+digits], 16, 31)
	if err != nil || !utf8.ValidRune(rune(n)) {
		return 0, 0
	}
	return rune(n), 1 + digits
}

// isBlockHeader reports whether s announces a value on the next lines.
func isBlockHeader(s string) bool {
	return (s[0] == '|' || s[0] == '>') && ignored(strings.TrimLeft(s[1:], "0123456789+-"))
}

const blockBlanks = "has white space at an end of a line, which some readers of YAML drop: put it in quotes"

// yamlBlock reads the lines after a header, | or >, of a key that is indented by indent.
func yamlBlock(header string, more []yamlLine, indent int) (string, *problem) {
	indicators, _, _ := strings.Cut(header[1:], " ")
	switch {
	case len(more) == 0:
		return "", broken("is only the beginning of a value of several lines in YAML: put it in quotes")
	case !strings.Contains(indicators, "-"):
		return "", broken("ends with a newline in YAML: write |- in place of |, or put it in quotes")
	case strings.Trim(indicators, "-") != "":
		return "", broken("has an indentation of its own: write |- before it, or put it in quotes")
	}
	first := more[0]
	rest := more[1:]
	for _, line := range more {
		if strings.Trim(line.text, blanks) != line.text || line.blank() && line.indent > first.indent {
			return "", doubt(blockBlanks)
		}
		if first.blank() || !line.blank() && (line.indent != first.indent || line.indent <= indent) {
			return "", broken("has lines that are blank or indented differently: put it in quotes")
		}
	}
	if header[0] == '>' {
		return yamlFold(first.text, rest), nil
	}
	var b strings.Builder
	b.WriteString(first.text)
	for _, line := range rest {
		b.WriteString("\n" + line.text)
	}
	return b.String(), nil
}
