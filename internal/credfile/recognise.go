// Recognising the format of a credential file by how it begins.

package credfile

import (
	"slices"
	"strconv"
	"strings"
)

// recognise returns the format that text is in, or was to become. Each format but
// the bare password has a beginning of its own; what begins so is that format, whole
// or not.
func (f *fields) recognise(text string) (Format, error) {
	var line string // the first that counts
	keywords := false
	for _, l := range lines(text) {
		if ignored(l) {
			continue
		}
		if line == "" {
			line = l
		}
		keywords = keywords || isKeywords(l)
	}
	trimmed := strings.TrimLeft(line, blanks)
	single := !strings.ContainsAny(text, "\r\n")
	key, _, isAssignment := assignment(trimmed)
	yamlKey, _, isYAML := yamlPair(trimmed)
	switch {
	case hasAnyPrefix(trimmed, "{{", "{%"):
		return "", f.failUnrendered("it", 0)
	case beginsJSON(trimmed, '{', '}', "\""):
		return FormatJSON, nil
	case beginsJSON(trimmed, '[', ']', "\"{["):
		return "", f.fail(ReasonSyntax, 0, "it is a JSON array: write an object with the keys username and password")
	case beginsSection(trimmed, single):
		return FormatService, nil
	case isPostgresURL(trimmed):
		return FormatURL, nil
	case isURL(trimmed):
		return "", f.fail(ReasonUnknown, 0, "it is a URL, but not a postgres:// one")
	case isPassfile(trimmed):
		return FormatPassfile, nil
	case keywords:
		return FormatKeywords, nil
	case isAssignment && (!single || f.familiar(key) || isEnvironment(trimmed)):
		return FormatDotenv, nil
	case isYAML && (!single || strings.Contains(trimmed, ": ") || f.familiar(yamlKey)):
		return FormatYAML, nil
	case !single:
		return "", f.fail(ReasonUnknown, 0, "its format is not recognised: write JSON, or name the format in FileOptions.Format")
	case f.opt.Username == "":
		return "", f.fail(ReasonUnknown, 0, "its format is not recognised: if it is a bare password, set FileOptions.Username; else write JSON, or name the format in FileOptions.Format")
	case f.looksTorn(text):
		return "", f.fail(ReasonUnknown, 0, "it looks like the beginning of a file in another format: if it is a bare password, set FileOptions.Format to FormatPassword")
	}
	return FormatPassword, nil
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// beginsJSON reports whether s begins as a JSON object or array does: after open
// comes nothing, the closing brace or one of next.
func beginsJSON(s string, open, closing byte, next string) bool {
	if s == "" || s[0] != open {
		return false
	}
	rest := strings.TrimLeft(s[1:], blanks)
	return rest == "" && open == '{' || rest != "" && (rest[0] == closing || strings.IndexByte(next, rest[0]) >= 0)
}

// beginsSection reports whether line is, or on a single line may become, the
// heading of a section.
func beginsSection(line string, single bool) bool {
	if line == "" || line[0] != '[' {
		return false
	}
	name := strings.TrimSuffix(strings.TrimRight(line[1:], blanks), "]")
	return !single || name == "" || isName(strings.ReplaceAll(name, " ", "_"))
}

func isURL(line string) bool {
	scheme, _, ok := strings.Cut(line, "://")
	return ok && len(scheme) > 1 && isName(strings.ReplaceAll(scheme, ":", "_"))
}

// isPassfile reports whether line begins with host:port, which nothing else does.
func isPassfile(line string) bool {
	host, rest, ok := strings.Cut(strings.ReplaceAll(line, `\:`, "."), ":")
	port, _, _ := strings.Cut(rest, ":")
	_, err := strconv.ParseUint(port, 10, 16)
	return ok && (host == "*" || isName(strings.ReplaceAll(host, "/", "_"))) && (port == "*" || err == nil)
}

// isKeywords reports whether line begins with a keyword of libpq and its value, and
// more follows.
func isKeywords(line string) bool {
	key, value, ok := assignment(line)
	if !ok || !isLibpqKeyword(key) {
		return false
	}
	value = strings.Trim(value, blanks)
	if !strings.HasPrefix(value, "'") {
		i := strings.IndexAny(value, blanks)
		return i >= 0 && !ignored(value[i:])
	}
	for i := 1; i < len(value); i++ {
		switch value[i] {
		case '\\':
			i++
		case '\'':
			return !ignored(value[i+1:])
		}
	}
	return false
}

func isLibpqKeyword(key string) bool {
	switch key {
	case "host", "hostaddr", "port", "dbname", "user", "password", "service", "sslmode", "connect_timeout",
		"application_name", "options", "target_session_attrs", "sslrootcert", "sslcert", "sslkey", "passfile":
		return true
	}
	return false
}

// isEnvironment reports whether line sets an environment variable, by its looks.
func isEnvironment(line string) bool {
	name, exported := strings.CutPrefix(strings.TrimLeft(line, blanks), "export ")
	name, _, _ = strings.Cut(name, "=")
	return exported || len(name) >= 3 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// companions are keys that producers write beside those we take.
func companions() []string {
	return []string{
		"data", "metadata", "lease_id", "lease_duration", "renewable", "request_id", "last_vault_rotation", "rotation_period", "ttl",
		"engine", "type", "provider", "host", "port", "dbname", "database", "sslmode", "export",
		"db_host", "db_port", "db_name", "pghost", "pgport", "pgdatabase", "postgres_host", "postgres_port", "postgres_db",
	}
}

// familiar reports whether key is one that credential files have.
func (f *fields) familiar(key string) bool {
	key = fold(key)
	return f.role(key) != roleNone || usualRole(key) != roleNone || slices.Contains(companions(), key)
}

// looksTorn reports whether a single line may be the beginning of a file in another
// format, cut off before the format shows, or a value that was quoted.
func (f *fields) looksTorn(text string) bool {
	if c := text[0]; (c == '"' || c == '\'') && strings.HasSuffix(text, text[:1]) {
		return true
	}
	if text == "#" || strings.HasPrefix(text, "# ") || strings.Contains(text, ": ") {
		return true
	}
	begun := fold(strings.TrimPrefix(strings.TrimRight(text, blanks+":"), "export "))
	beginnings := append(companions(), "postgres://", "postgresql://",
		"username", "pguser", "db_username", "postgres_user", "password", "pgpassword", "db_password", "postgres_password",
		"uri", "url", "dsn", "database_url", "expires_at", "expiration", fold(f.opt.UsernameKey), fold(f.opt.PasswordKey))
	return slices.ContainsFunc(beginnings, func(b string) bool { return begun != "" && strings.HasPrefix(b, begun) })
}
