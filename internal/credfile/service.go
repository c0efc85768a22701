// libpq's service file.

package credfile

import "strings"

// parseService yields the settings of libpq's service file, which must have a single
// section: which of several is meant is not known here.
func parseService(text string) ([]pair, *fault) {
	var pairs []pair
	sections := 0
	for n, line := range lines(text) {
		pairs = append(pairs, oddPairs(line, n, assignment)...)
		whole := strings.TrimLeft(line, blanks)
		line = strings.TrimRight(whole, blanks)
		switch {
		case ignored(line):
		case line[0] == '[' && !strings.HasSuffix(line, "]"):
			return nil, faulty(n, "not [section]")
		case line[0] == '[':
			if sections++; sections > 1 {
				return nil, &fault{problem{reason: ReasonConflict, detail: "there are several sections: write a file with one"}, n}
			}
		case !strings.Contains(line, "="):
			name, _, _ := strings.Cut(line, " ")
			pairs = append(pairs, pair{path: []string{strings.TrimRight(name, ":")}, line: n, problem: broken("is not set with key=value")})
			doubtBefore(pairs, n)
		default:
			pairs = append(pairs, servicePair(whole, n, sections > 0))
		}
	}
	return doubtRepeated(pairs), nil
}

// doubtRepeated doubts a key that is there again with another value: libpq takes the first,
// even if it is empty, and others the last.
func doubtRepeated(pairs []pair) []pair {
	first := map[string]string{}
	for i, p := range pairs {
		name := p.path[0]
		if value, ok := first[name]; ok && value != p.value && p.problem == nil {
			pairs[i].problem = doubt("is there again with another value, of which libpq takes the first, and others the last")
		} else if !ok {
			first[name] = p.value
		}
	}
	return pairs
}

// servicePair reads key=value. libpq allows no white space around the equals sign.
func servicePair(line string, n int, inSection bool) pair {
	key, value, _ := strings.Cut(line, "=")
	name := strings.TrimRight(key, blanks)
	p := pair{path: []string{name}, value: value, line: n}
	switch {
	case !inSection:
		p.problem = broken("stands before the first [section]")
	case name != key || strings.TrimLeft(value, blanks) != value:
		p.problem = broken("has white space around its “=”, which libpq doesn't allow")
	case strings.TrimRight(value, blanks) != value:
		p.problem = doubt("ends with white space, which libpq drops")
	case hasOddBlank(value):
		p.problem = doubt("has white space in it that only some readers know")
	case strings.Contains(value, " #") || strings.Contains(value, " ;"):
		p.problem = doubt("has a # or ; after a blank, which is a part of it to libpq, and a comment to readers of INI")
	case len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0]:
		p.problem = doubt("is in quotes, which are a part of it to libpq, and not to readers of INI or TOML")
	}
	return p
}
