// Keys: which names mean user, password and end.

package credfile

import (
	"slices"
	"strings"
)

// role is what a key is good for.
type role int

const (
	roleNone role = iota
	roleUser
	rolePassword
	roleURL
	roleEnd
	roleHost
	rolePort
	roleDatabase

	// Of what a program has printed.
	roleToken
	roleLifetime
	roleLease
	roleLeaseID
)

// longestKey is that of the longest path that is looked at, in bytes.
const longestKey = 256

// fold makes the spellings of a key the same.
func fold(key string) string {
	if len(key) > longestKey {
		return "" // no key of ours, and it may be a secret at the wrong place
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == '.':
			return '_'
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return r
		}
	}, key)
}

// role returns what the pair at path is good for: in a path within the “data” of Vault's
// answers, or in that of its second version, which has another one in it.
func (o Options) role(path []string) role {
	r := roleNone
	for level := range 3 {
		if level > 0 {
			if len(path) < 2 || fold(path[0]) != "data" {
				break
			}
			path = path[1:]
		}
		folded := fold(strings.Join(path, "."))
		if r := o.namedRole(folded); r != roleNone {
			return r
		}
		if len(path) == 1 {
			r = o.unnamedRole(folded, level)
		}
	}
	if o.UsernameKey != "" && (r == roleUser || r == roleURL && o.PasswordKey != "") || o.PasswordKey != "" && (r == rolePassword || r == roleToken) {
		return roleNone
	}
	return r
}

// namedRole returns what the options say that a key is for.
func (o Options) namedRole(folded string) role {
	switch {
	case folded == "":
		return roleNone
	case o.UsernameKey != "" && folded == fold(o.UsernameKey):
		return roleUser
	case o.PasswordKey != "" && folded == fold(o.PasswordKey):
		return rolePassword
	}
	return roleNone
}

// prefixes are those of environment variables, the longer ones first.
func prefixes() [9]string {
	return [...]string{"spring_datasource_", "postgresql_", "postgres_", "database_", "db_", "pg_", "db", "pg", ""}
}

// usualRole returns what a key is for that has one of the usual names.
func usualRole(folded string) role {
	if folded == "pgpass" { // a passfile
		return roleNone
	}
	for _, prefix := range prefixes() {
		if name, ok := strings.CutPrefix(folded, prefix); ok {
			if r := prefixedRole(name, prefix != ""); r != roleNone {
				return r
			}
		}
	}
	return roleNone
}

func prefixedRole(name string, prefixed bool) role {
	switch name {
	case "username", "user_name", "user", "login":
		return roleUser
	case "password", "pass":
		return rolePassword
	case "uri", "url", "dsn", "connection_string", "connectionstring":
		return roleURL
	case "host", "hostname":
		return roleHost
	case "port":
		return rolePort
	case "dbname", "database":
		return roleDatabase
	}
	switch {
	case prefixed && (name == "name" || name == "db"):
		return roleDatabase
	case !prefixed && (name == "expires_at" || name == "expiration"):
		return roleEnd
	}
	return roleNone
}

// unnamedRole returns what a key is for that the options don't name.
func (o Options) unnamedRole(folded string, level int) role {
	r := usualRole(folded)
	if r == roleNone && o.Printed {
		r = printedRole(folded, level)
	}
	return r
}

// printedRole returns what a key is for in what a program has printed just now.
func printedRole(folded string, level int) role {
	switch folded {
	case "token", "access_token", "accesstoken":
		return roleToken
	case "expires_on", "expiration_time", "expire_time", "expiretime":
		return roleEnd
	}
	if level > 0 {
		return roleNone
	}
	switch folded {
	case "expires_in":
		return roleLifetime
	case "lease_duration":
		return roleLease
	case "lease_id":
		return roleLeaseID
	}
	return roleNone
}

// companions are keys that producers write beside those we take.
func companions() []string {
	return []string{
		"data", "metadata", "lease_id", "lease_duration", "renewable", "request_id", "last_vault_rotation", "rotation_period", "ttl",
		"engine", "type", "provider", "sslmode", "export", "apiversion", "kind", "stringdata",
	}
}

// familiar reports whether key is one that credential files have.
func (o Options) familiar(key string) bool {
	folded := fold(key)
	return o.role([]string{key}) != roleNone || usualRole(folded) != roleNone || slices.Contains(companions(), folded)
}

// beginnings are keys, and what else a file may begin with, in full.
func (o Options) beginnings() []string {
	all := append(companions(), "postgres://", "postgresql://", "expires_at", "expiration", fold(o.UsernameKey), fold(o.PasswordKey))
	for _, prefix := range prefixes() {
		for _, name := range []string{"username", "password", "url", "uri", "dsn", "login", "host", "port", "dbname", "database", "name", "connection_string"} {
			all = append(all, prefix+name)
		}
	}
	return all
}

// begins reports whether text may be a key that is cut off.
func (o Options) begins(text string) bool {
	begun := fold(strings.TrimPrefix(strings.TrimRight(text, blanks+":"), "export "))
	return begun != "" && slices.ContainsFunc(o.beginnings(), func(b string) bool { return strings.HasPrefix(b, begun) })
}
