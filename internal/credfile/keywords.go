// libpq's keyword=value strings.

package credfile

import (
	"slices"
	"strings"
)

// parseKeywords reads a connection string as libpq's conninfo_parse does, except that it
// refuses what that reads in a surprising way, or lib/pq differently.
func parseKeywords(s string) ([]pair, *problem) {
	var pairs []pair
	for {
		s = strings.TrimLeft(s, blanks)
		if s == "" {
			return pairs, nil
		}
		key, rest, ok := strings.Cut(s, "=")
		name := strings.TrimRight(key, blanks)
		if !ok || !isName(name) || !isLetter(name[0]) && name[0] != '_' {
			return nil, broken("is not a list of keyword=value: quote values that contain white space")
		}
		s = strings.TrimLeft(rest, blanks)
		if len(s) < len(rest) && name == key && !strings.HasPrefix(s, "'") {
			return nil, broken("has white space after “=”: write an empty value as ''")
		}
		n := keywordEnd(s)
		if n < 0 {
			return nil, broken("has a quote that is not closed, or a backslash at its end")
		}
		value, p := keywordValue(s[:n])
		pairs = append(pairs, pair{path: []string{name}, value: value, problem: p})
		s = s[n:]
	}
}

// keywordEnd returns the length of the value that s begins with; -1 if it has no end.
func keywordEnd(s string) int {
	quoted := strings.HasPrefix(s, "'")
	i := 0
	if quoted {
		i = 1
	}
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case quoted && c == '\'':
			return i + 1
		case !quoted && isBlank(c):
			return i
		}
	}
	if quoted || i > len(s) {
		return -1
	}
	return len(s)
}

// keywordValue reads a value with its quotes. A backslash stands for the byte after it.
func keywordValue(s string) (string, *problem) {
	switch {
	case strings.HasPrefix(s, `"`):
		return "", doubt("begins with a double quote, which libpq takes for a part of it: write single quotes")
	case strings.HasPrefix(s, "'"):
		s = s[1 : len(s)-1]
	case hasOddBlank(s):
		return "", doubt("has white space that only some readers know: write single quotes")
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}

// isKeywords reports whether line begins with a keyword and its value, and more follows.
func isKeywords(line string) bool {
	key, value, ok := assignment(line)
	if !ok || !isLibpqKeyword(key) {
		return false
	}
	value = strings.Trim(value, blanks)
	if strings.HasPrefix(value, `"`) {
		return false
	}
	n := keywordEnd(value)
	return n >= 0 && !ignored(value[n:])
}

// isConnectionString reports whether s is a list of keywords that has a login in it.
func isConnectionString(s string) bool {
	pairs, p := parseKeywords(s)
	return p == nil && len(pairs) > 1 && slices.ContainsFunc(pairs, func(p pair) bool {
		return p.path[0] == "user" || p.path[0] == "password"
	})
}

// isLibpqKeyword reports whether key is one of libpq's, lib/pq's or pgx's.
func isLibpqKeyword(key string) bool {
	switch key {
	case "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "servicefile", "options", "application_name", "fallback_application_name",
		"connect_timeout", "client_encoding", "channel_binding", "require_auth", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
		"tcp_user_timeout", "replication", "gssencmode", "gssdelegation", "gsslib", "krbsrvname", "krbspn", "requiressl", "requirepeer", "target_session_attrs",
		"load_balance_hosts", "scram_client_key", "scram_server_key",
		"sslmode", "sslnegotiation", "sslcompression", "sslcert", "sslkey", "sslkeylogfile", "sslpassword", "sslcertmode", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "sslinline",
		"ssl_min_protocol_version", "ssl_max_protocol_version", "min_protocol_version", "max_protocol_version",
		"oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
		"binary_parameters", "disable_prepared_binary_result", "datestyle", "timezone", "search_path", "statement_timeout",
		"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity", "min_read_buffer_size",
		"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter", "pool_max_conn_idle_time", "pool_health_check_period":
		return true
	}
	return false
}
