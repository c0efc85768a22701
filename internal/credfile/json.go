// The JSON format.

package credfile

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Members that are nested deeper, and elements that come later, are not yielded.
const (
	deepest      = 8
	mostElements = 64
)

// parseJSON yields the members of an object, those of objects in it, and elements of
// arrays under their numbers. encoding/json would keep the last of two members of one
// name, and say nothing.
func parseJSON(text string) ([]pair, *fault) {
	content := []byte(text)
	if !json.Valid(content) {
		line := 0
		var raw json.RawMessage
		if e := (*json.SyntaxError)(nil); errors.As(json.Unmarshal(content, &raw), &e) {
			line = 1 + strings.Count(text[:min(int(e.Offset), len(text))], "\n")
		}
		return nil, faulty(line, "it is not valid JSON: perhaps not yet written to its end")
	}
	s := jsonScanner{text: text, line: 1}
	if s.skip(blanks); s.text[0] != '{' {
		return nil, faulty(0, "it is JSON, but not an object with the keys username and password")
	}
	s.value()
	return s.pairs, nil
}

// jsonScanner goes through what is known to be valid.
type jsonScanner struct {
	text  string // what is left
	line  int
	path  []string
	pairs []pair
}

func (s *jsonScanner) skip(what string) {
	for s.text != "" && strings.IndexByte(what, s.text[0]) >= 0 {
		if s.text[0] == '\n' {
			s.line++
		}
		s.text = s.text[1:]
	}
}

// token cuts a string, or a word of which a number, true, false and null are made.
func (s *jsonScanner) token() string {
	n := strings.IndexAny(s.text, ",]}"+blanks)
	if n < 0 {
		n = len(s.text)
	}
	if s.text[0] == '"' {
		for n = 1; s.text[n] != '"'; n++ {
			if s.text[n] == '\\' {
				n++
			}
		}
		n++
	}
	token := s.text[:n]
	s.text = s.text[n:]
	return token
}

func (s *jsonScanner) value() {
	switch s.text[0] {
	case '{':
		s.yield(pair{problem: broken("is an object, and neither a string nor a number")})
		s.nested('}', func(int) (string, bool) {
			key := jsonString(s.token())
			s.skip(blanks + ":")
			return key, true
		})
	case '[':
		s.yield(pair{problem: broken("is an array, and neither a string nor a number")})
		s.nested(']', func(n int) (string, bool) { return strconv.Itoa(n), n < mostElements })
	case '"':
		s.yield(pair{value: jsonString(s.token())})
	case 'n':
		s.token()
		s.yield(pair{null: true})
	case 't', 'f':
		s.token()
		s.yield(pair{problem: broken("is true or false, and neither a string nor a number")})
	default:
		s.number(s.token())
	}
}

// number yields a number as it is written, if all readers keep that.
func (s *jsonScanner) number(token string) {
	p := pair{value: token}
	if strings.ContainsAny(token, "-.eE") {
		p.problem = doubt("is a number that readers write in different ways: put it in quotes")
	}
	s.yield(p)
}

// nested goes through the values up to end. Those without a name are passed over.
func (s *jsonScanner) nested(end byte, name func(n int) (string, bool)) {
	s.text = s.text[1:]
	for n := 0; ; n++ {
		if s.skip(blanks + ","); s.text[0] == end {
			s.text = s.text[1:]
			return
		}
		key, ok := name(n)
		before := len(s.pairs)
		s.path = append(s.path, key)
		s.value()
		s.path = s.path[:len(s.path)-1]
		if !ok {
			s.pairs = s.pairs[:before]
		}
	}
}

func (s *jsonScanner) yield(p pair) {
	if n := len(s.path); 0 < n && n <= deepest {
		p.path, p.line = slices.Clone(s.path), s.line
		s.pairs = append(s.pairs, p)
	}
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
