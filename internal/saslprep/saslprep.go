// Package saslprep tells which passwords PostgreSQL normalises before it checks them with
// SCRAM, without normalising any: that takes tables which the root module goes without.
package saslprep

import (
	"unicode"
	"unicode/utf8"
)

// MayChange reports whether SASLprep (RFC 4013), as PostgreSQL does it, may make another
// password of this one: characters such as a no-break space, a combining accent or a
// ligature. If it is false, PostgreSQL takes the password as it is: ASCII, composed accents,
// most scripts' letters; and what is no UTF-8 or has what SASLprep prohibits, such as emoji.
// It says true of a few that don't change: of two marks in a row, of a mark that has nothing
// to be composed with, and where directions of writing are mixed.
func MayChange(password string) bool {
	if !utf8.ValidString(password) {
		return false
	}
	changes, mark := false, false
	for _, r := range password {
		if in(prohibited, r) {
			return false
		}
		before := mark
		mark = unicode.Is(unicode.M, r)
		changes = changes || mark && before || in(normalised, r)
	}
	return changes
}

// in reports whether a table of ranges, the first and the last character of each, has r.
func in(ranges string, r rune) bool {
	for ranges != "" {
		first, n := utf8.DecodeRuneInString(ranges)
		last, m := utf8.DecodeRuneInString(ranges[n:])
		if first <= r && r <= last {
			return true
		}
		ranges = ranges[n+m:]
	}
	return false
}
