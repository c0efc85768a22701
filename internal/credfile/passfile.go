// libpq's passfile.

package credfile

import (
	"strconv"
	"strings"
)

// passfileColumn are the keys of a passfile's columns.
func passfileKeys() [5]string { return [5]string{"host", "port", "dbname", "user", "password"} }

// parsePassfile yields the five columns of each line, one after the other. Lines of
// another kind are passed over, as libpq does; bad is the first of them.
func parsePassfile(text string) (rows [][]pair, bad int) {
	for n, line := range lines(text) {
		if line == "" || line[0] == '#' {
			continue
		}
		columns, p := passfileColumns(line)
		if columns == nil {
			if ignored(line) {
				continue
			}
			if bad == 0 {
				bad = n
			}
			if len(rows) > 0 {
				doubtBefore(rows[len(rows)-1], n)
			}
			continue
		}
		var row []pair
		for i, key := range passfileKeys() {
			row = append(row, pair{path: []string{key}, value: columns[i], line: n})
		}
		row[4].problem = p
		rows = append(rows, row)
	}
	return rows, bad
}

// passfileColumns splits a line at its colons; nil if there are too few. A password that
// libpq, lib/pq and pgx read differently is a problem.
func passfileColumns(line string) ([]string, *problem) {
	var columns []string
	var b strings.Builder
	var p *problem
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && (i+1 == len(line) || line[i+1] != ':' && line[i+1] != '\\'):
			p = doubt(`has a backslash that readers understand differently: write \\ for a backslash`)
			b.WriteByte(c)
		case c == '\\':
			i++
			b.WriteByte(line[i])
		case c == ':' && len(columns) < 4:
			columns = append(columns, b.String())
			b.Reset()
		case c == ':':
			p = doubt(`has a colon that some readers take for its end, and others refuse: write \: for it`)
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	if len(columns) < 4 {
		return nil, nil
	}
	if strings.Trim(line, blanks) != line || hasOddBlank(line) || strings.ContainsAny(line, oddBreaks) {
		p = doubt("is on a line that begins or ends with white space, which some readers drop, or with a line break in it that only some know")
	}
	return append(columns, b.String()), p
}

// isPassfile reports whether line begins with host:port, which nothing else does.
func isPassfile(line string) bool {
	host, rest, ok := strings.Cut(strings.ReplaceAll(line, `\:`, "."), ":")
	port, _, _ := strings.Cut(rest, ":")
	return ok && (host == "*" || isName(strings.ReplaceAll(host, "/", "_"))) && (port == "*" || isPort(port))
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}
