// Connection URLs.

package credfile

import (
	"net/url"
	"strings"
	"unicode"
)

// isPostgresURL reports whether s is a URL of PostgreSQL's, with the name of a driver
// behind its scheme or without, as SQLAlchemy and others have it.
func isPostgresURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	name, driver, named := strings.Cut(scheme, "+")
	return ok && (strings.EqualFold(name, "postgres") || strings.EqualFold(name, "postgresql")) && (!named || isName(driver))
}

const encodeHint = `encode special characters in user name and password with %, as encodeURIComponent or jq's @uri do (in a template: urlquery | replaceAll "+" "%20")`

// parseURL takes a URL apart as libpq does, and by hand: the errors of net/url quote what
// they are about. Whatever of it looks as if a special character was not encoded is
// refused, since it may have cut the password short. The keys are those of parameters.
func parseURL(s string) ([]pair, *problem) {
	line := strings.TrimRight(s, "\r\n")
	s = strings.Trim(s, blanks)
	if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '#' }) {
		return nil, broken("has white space, a control character or # in its URL: " + encodeHint)
	}
	_, rest, _ := strings.Cut(s, "://")
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	userinfo, host, found := strings.Cut(authority, "@")
	if !found {
		userinfo, host = "", authority
	}
	if strings.ContainsAny(host+path+query, "@") || strings.Contains(query, "?") {
		return nil, doubt("has an @ or a ? at the wrong place in its URL: " + encodeHint)
	}
	u := urlPairs{}
	user, password, _ := strings.Cut(userinfo, ":")
	u.add("user", user)
	u.add("password", password)
	u.addHost(host)
	u.add("dbname", path)
	if query != "" {
		for parameter := range strings.SplitSeq(query, "&") {
			u.addParameter(parameter)
		}
		if last := query[strings.LastIndexByte(query, '&')+1:]; !strings.HasSuffix(line, s) && hasAnyPrefix(last, "user=", "password=") {
			u.fail(doubt("has white space behind its URL, which some readers take for a part of the last parameter"))
		}
	}
	return u.pairs, u.problem
}

type urlPairs struct {
	pairs   []pair
	problem *problem // the first
}

func (u *urlPairs) fail(p *problem) {
	if u.problem == nil {
		u.problem = p
	}
}

func (u *urlPairs) add(key, escaped string) {
	value, err := url.PathUnescape(escaped)
	switch {
	case err != nil && isLoginParameter(key):
		u.fail(broken("has a % in its URL that encodes nothing: " + encodeHint))
	case err == nil && value != "":
		u.pairs = append(u.pairs, pair{path: []string{key}, value: value})
	}
}

func isLoginParameter(name string) bool { return name == "user" || name == "password" }

// addHost adds a single host and its port.
func (u *urlPairs) addHost(s string) {
	if strings.Contains(s, ",") {
		return
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
	}
	u.add("host", strings.Trim(host, "[]"))
	u.add("port", port)
}

func (u *urlPairs) addParameter(parameter string) {
	name, value, ok := strings.Cut(parameter, "=")
	name = strings.ToLower(name)
	switch {
	case !ok && isLoginParameter(name):
		u.fail(broken("has a parameter without a value in its URL"))
	case isLoginParameter(name) && value == "":
		u.fail(doubt("has an empty " + name + " in the parameters of its URL, which some readers take and others pass over"))
	case isLoginParameter(name) && strings.ContainsAny(value, "+;"):
		u.fail(doubt("has a + or ; in a parameter of its URL, which readers understand differently: write %2B, %20 or %3B"))
	default:
		u.add(name, value)
	}
}
