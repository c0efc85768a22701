// Lines and characters, as several formats see them.

package credfile

import (
	"iter"
	"strings"
	"unicode"
)

const blanks = " \t\r\n\v\f"

// oddBreaks end a line for some readers, but not for all.
const oddBreaks = "\r\v\f\u0085\u2028\u2029"

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

// ignored reports whether line is blank or a comment.
func ignored(line string) bool {
	line = strings.TrimLeft(line, blanks)
	return line == "" || line[0] == '#'
}

// hasOddBlank reports whether s has in it what is white space to some readers only.
func hasOddBlank(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f && unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f })
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
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

func isAlnum(c byte) bool { return isLetter(c) || '0' <= c && c <= '9' }

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isBlank(c byte) bool { return strings.IndexByte(blanks, c) >= 0 }

// oddPairs yields the keys, cut from lines by cut, that some readers find on a line with
// a break in it that others don't know.
func oddPairs(line string, n int, cut func(string) (key, value string, ok bool)) []pair {
	if !strings.ContainsAny(line, oddBreaks) {
		return nil
	}
	var pairs []pair
	for segment := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune(oddBreaks, r) }) {
		if key, _, ok := cut(segment); ok {
			p := doubt("is on a line with a break that only some readers know, such as a lone carriage return")
			pairs = append(pairs, pair{path: []string{key}, line: n, problem: p})
		}
	}
	return pairs
}
