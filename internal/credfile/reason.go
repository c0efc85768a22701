// Why there is no login: typed errors that never hold a value.

package credfile

import (
	"strconv"
	"strings"
)

// Error says why there is no login. It holds nothing of the values that were read, only
// the names of keys that are looked for.
type Error struct {
	Reason Reason

	// Format is the format the content was read in; empty if it was not recognised,
	// and for a directory.
	Format Format

	// Why is what Format was recognised by; empty if it was named.
	Why string

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
	ReasonUnrendered Reason = "unrendered" // a template or a tool left its failure
	ReasonEncrypted  Reason = "encrypted"  // to be decrypted by somebody else first
	ReasonReference  Reason = "reference"  // says where the value is
	ReasonUnknown    Reason = "unknown-format"
	ReasonSyntax     Reason = "syntax"
	ReasonAmbiguous  Reason = "ambiguous" // common readers of the format disagree
	ReasonNoUsername Reason = "no-username"
	ReasonNoPassword Reason = "no-password"
	ReasonConflict   Reason = "conflict" // two values for one thing
	ReasonBadEnd     Reason = "bad-end"
)

// Error says what is wrong and what to do about it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("no credential in it: ")
	if e.Format != FormatAuto {
		b.WriteString("as " + string(e.Format))
		if e.Why != "" {
			b.WriteString(" (" + e.Why + ")")
		}
		b.WriteString(": ")
	}
	if e.Line > 0 {
		b.WriteString("line " + strconv.Itoa(e.Line) + ": ")
	}
	b.WriteString(e.Detail)
	return b.String()
}
