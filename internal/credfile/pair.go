// Keys and values as parsers find them, and what parsers complain of.

package credfile

// pair is a key and its value, as a parser found them. Parsers know nothing of what
// becomes of them.
type pair struct {
	path    []string // the key, after the keys that it is nested in
	value   string   // if there is a problem: nothing, or what it is about
	null    bool     // there is a key and no value
	line    int      // from 1; 0 if there are no lines
	problem *problem
}

// problem says why the value of a pair can't be taken, or not for certain. It doesn't
// matter in a pair that nobody asks for.
type problem struct {
	reason Reason
	detail string // follows “the value of KEY ”
	torn   bool   // the key may be cut off
}

// doubtBefore doubts the last value before line n, if nothing is between them: a line that
// is none of its format may be a part of it.
func doubtBefore(pairs []pair, n int) {
	for i := len(pairs) - 1; i >= 0; i-- {
		if pairs[i].line == n {
			continue
		}
		if pairs[i].line == n-1 && pairs[i].problem == nil {
			pairs[i].problem = doubt("is followed by a line that sets nothing: it may be a part of the value, which can't span lines")
		}
		return
	}
}

// broken says what is wrong with a value.
func broken(detail string) *problem { return &problem{reason: ReasonSyntax, detail: detail} }

// doubt says what readers disagree on.
func doubt(detail string) *problem { return &problem{reason: ReasonAmbiguous, detail: detail} }

// fault is why a text as a whole can't be read.
type fault struct {
	problem
	line int
}

func faulty(line int, detail string) *fault {
	return &fault{problem: problem{reason: ReasonSyntax, detail: detail}, line: line}
}
