// Formats that hold a login by themselves: a URL, keywords, a service file, a passfile.

package credfile

import (
	"slices"
	"strings"
)

func (f *finder) failFault(fault *fault) error {
	return f.fail(fault.reason, fault.line, "%s", fault.detail)
}

// url reads the one line that is neither blank nor a comment.
func (f *finder) url(text string) error {
	url, at := "", 0
	for n, line := range lines(text) {
		switch {
		case ignored(line):
		case url != "":
			return f.fail(ReasonSyntax, n, "there is something after the URL")
		default:
			url, at = strings.TrimLeft(line, blanks), n
		}
	}
	if !isPostgresURL(url) {
		return f.fail(ReasonSyntax, at, "it does not begin with postgres:// or postgresql://")
	}
	return f.connection(parseURL, "", url, at)
}

func (f *finder) keywords(text string) error {
	pairs, p := parseKeywords(text)
	if p != nil {
		return f.fail(p.reason, 0, "it %s", p.detail)
	}
	return f.addAll(pairs)
}

func (f *finder) service(text string) error {
	pairs, fault := parseService(text)
	if fault != nil {
		return f.failFault(fault)
	}
	return f.addAll(pairs)
}

// passfile takes the first line of the user. Another one of that user's with another
// password is a conflict, unless the first one is for any server: which of them is meant
// depends on a host that is not known here.
func (f *finder) passfile(text string) error {
	rows, bad := parsePassfile(text)
	var taken []pair
	for _, row := range rows {
		user := row[3].value
		if user == "*" {
			user = f.opt.Username
		}
		other := f.opt.Username != "" && user != f.opt.Username
		if row[4].problem != nil && strings.ReplaceAll(user, `\`, "") == f.opt.Username {
			other = false // to libpq a backslash is gone
		}
		switch {
		case other:
		case taken == nil:
			taken = slices.Clone(row)
			taken[3].value = user
			if err := f.addAll(taken); err != nil {
				return err
			}
		case row[3].value == taken[3].value && row[4].value != taken[4].value && !forAnyServer(taken):
			return f.fail(ReasonConflict, row[0].line, "a second line of the same user has another password: write a file with the one that is meant")
		}
	}
	if taken == nil && bad > 0 {
		return f.fail(ReasonSyntax, bad, "not host:port:database:user:password")
	}
	return nil
}

func forAnyServer(row []pair) bool {
	return row[0].value == "*" && row[1].value == "*" && row[2].value == "*"
}

func (f *finder) bare(text string) error {
	if strings.ContainsAny(text, "\r\n") {
		return f.fail(ReasonSyntax, 0, "it has several lines: a bare password has one")
	}
	if f.opt.Username == "" {
		return f.fail(ReasonNoUsername, 0, "a bare password: set FileOptions.Username")
	}
	return f.take(&f.password, "the password", text, 0)
}
