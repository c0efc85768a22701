// What makes a value suspicious: a placeholder, a template that nobody filled in, garbled bytes.

package credfile

import (
	"strings"
	"unicode/utf8"
)

// suspicion is a kind of value that is no credential, in any format.
type suspicion struct {
	reason Reason
	is     func(string) bool
	detail string // follows “the value of KEY ”
}

// suspicions are in the order in which they are looked for.
func suspicions() []suspicion {
	return []suspicion{
		{ReasonNUL, func(s string) bool { return strings.IndexByte(s, 0) >= 0 }, "has a NUL in it"},
		{ReasonNotUTF8, isGarbled, "is not valid UTF-8, or was not before it was put here"},
		{ReasonUnrendered, unrendered, templateHint},
		{ReasonUnrendered, isVariable, "is a variable that was not replaced by its value"},
		{ReasonUnrendered, isNothing, "is what a tool writes for a value that there is not, or hides: a password of that kind can't be told from it"},
		{ReasonUnrendered, isPage, "is an HTML or XML page, such as a server's error"},
		{ReasonEncrypted, isEncrypted, "is encrypted or hashed: write what it is made from"},
		{ReasonReference, isReference, "says where a secret is: write the secret itself"},
	}
}

const templateHint = "holds what a template leaves behind when it was not rendered (“{{”), when its field does not exist (“<no value>”) or when that is a map (“map[”): in a template for KV version 2 the fields are in .Data.data"

// suspect returns what is wrong with value as a user name or a password, if anything is.
func suspect(value string) *problem {
	for _, s := range suspicions() {
		if s.is(value) {
			return &problem{reason: s.reason, detail: s.detail}
		}
	}
	return nil
}

func isGarbled(s string) bool { return !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) }

// unrendered reports whether s is what a template leaves behind when it fails.
func unrendered(s string) bool {
	if strings.Contains(s, "<no value>") || strings.HasPrefix(s, "map[") && strings.HasSuffix(s, "]") {
		return true
	}
	for _, mark := range [][2]string{{"{{", "}}"}, {"{%", "%}"}, {"<%", "%>"}} {
		if _, after, found := strings.Cut(s, mark[0]); found && strings.Contains(after, mark[1]) {
			return true
		}
	}
	return isBadVerb(s)
}

// isBadVerb reports whether s holds what Go's fmt writes for a verb and a value that
// don't go together.
func isBadVerb(s string) bool {
	for {
		_, after, found := strings.Cut(s, "%!")
		if !found {
			return false
		}
		if hasAnyPrefix(after, "(EXTRA ", "(NOVERB)", "(BADINDEX)", "(BADWIDTH)", "(BADPREC)") ||
			len(after) > 1 && isLetter(after[0]) && after[1] == '(' {
			return true
		}
		s = after
	}
}

// isVariable reports whether s holds the name of a variable, as shells, Kubernetes and
// deployment tools write it.
func isVariable(s string) bool {
	for _, mark := range [][2]string{{"${", "}"}, {"$(", ")"}, {"#{", "}"}, {"((", "))"}, {"%(", ")s"}, {"$[", "]"}} {
		if holdsName(s, mark[0], mark[1]) {
			return true
		}
	}
	for _, mark := range [][2]string{{"$", ""}, {"%", "%"}, {"@", "@"}, {"__", "__"}, {"$", "$"}} {
		name, begins := strings.CutPrefix(s, mark[0])
		name, ends := strings.CutSuffix(name, mark[1])
		if begins && ends && len(name) > 1 && isLetter(name[0]) && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == "" {
			return true
		}
	}
	return false
}

// holdsName reports whether s holds a name between open and end.
func holdsName(s, open, end string) bool {
	const longest = 80
	for {
		_, after, found := strings.Cut(s, open)
		if !found {
			return false
		}
		name, _, closed := strings.Cut(after[:min(longest, len(after))], end)
		name = strings.Trim(name, " ")
		if closed && name != "" && (len(name) > 1 || open == "${") && (isLetter(name[0]) || name[0] == '_') && isName(strings.NewReplacer(":", "_", "/", "_", "[", "_", "]", "_").Replace(name)) {
			return true
		}
		s = after
	}
}

// isNothing reports whether s is a word for no value, or stands for one that is hidden.
func isNothing(s string) bool {
	s = strings.Trim(s, blanks)
	switch strings.ToLower(s) {
	case "null", "nil", "none", "undefined", "redacted":
		return true
	}
	if len(s) >= 3 && strings.Trim(s, "*•") == "" {
		return true
	}
	for _, mark := range [][2]string{{"<", ">"}, {"[", "]"}, {"(", ")"}} {
		word, begins := strings.CutPrefix(s, mark[0])
		word, ends := strings.CutSuffix(word, mark[1])
		if begins && ends && len(word) > 1 && isWords(word) {
			return true
		}
	}
	return false
}

// isWords reports whether s is of nothing but letters, and what is between words.
func isWords(s string) bool {
	for i := range len(s) {
		if !isLetter(s[i]) && strings.IndexByte(" _-:.", s[i]) < 0 {
			return false
		}
	}
	return s != "" && isLetter(s[0])
}

// isPage reports whether s begins as HTML or XML does.
func isPage(s string) bool {
	s = strings.TrimLeft(s, blanks)
	if hasAnyPrefix(strings.ToLower(s[:min(16, len(s))]), "<!doctype", "<html", "<?xml", "<head>", "<body") {
		return true
	}
	return len(s) > 1 && s[0] == '<' && isLetter(s[1]) && (strings.Contains(s, "</") || strings.Contains(s, "/>"))
}

// isEncrypted reports whether s is what a well-known tool encrypts to, or what a server
// keeps in place of a password.
func isEncrypted(s string) bool {
	s = strings.TrimLeft(s, blanks)
	if hasAnyPrefix(s, "ENC[", "ENC(", "DEC::", "DEC(") && strings.ContainsAny(s[4:], "])") {
		return true
	}
	return hasAnyPrefix(s, "-----BEGIN ", "$ANSIBLE_VAULT;", "age-encryption.org/", "{cipher}", "vault:v1:", "U2FsdGVkX1", "AQICAH", "SCRAM-SHA-256$", "!vault ", "secret:v1:") ||
		strings.HasPrefix(s, "vault:v") && strings.Count(s[:min(16, len(s))], ":") == 2 ||
		strings.HasPrefix(s, "md5") && len(s) == 35 && strings.Trim(s[3:], "0123456789abcdef") == ""
}

// isReference reports whether s is an address of a secret, or of anything.
func isReference(s string) bool {
	s = strings.Trim(s, blanks)
	if hasAnyPrefix(s, "arn:aws", "ref+", "secretref+", "secretref:", "vault:secret/", "vault:kv/", "@Microsoft.KeyVault(", "projects/", "ssm:/", "aws-ssm:", "keyring:", "{{resolve:") {
		return !strings.HasPrefix(s, "projects/") || strings.Contains(s, "/secrets/")
	}
	scheme, _, ok := strings.Cut(s, "://")
	return ok && len(scheme) > 1 && isLetter(scheme[0]) && isName(strings.NewReplacer("+", "_", ":", "_").Replace(scheme))
}

// isConnection reports whether s is more than a password: it holds one, and says so.
func isConnection(s string) bool {
	if before, after, ok := strings.Cut(s, "://"); ok && before != "" && isAlnum(before[len(before)-1]) && strings.Contains(after, "@") {
		return true
	}
	lower := strings.ToLower(s)
	if hasAnyPrefix(strings.TrimLeft(lower, blanks), "postgres:", "postgresql:", "jdbc:") {
		return true
	}
	for _, word := range []string{"password", "passwd", "pwd"} {
		for rest := lower; ; {
			i := strings.Index(rest, word)
			if i < 0 {
				break
			}
			begins := i == 0 || !isAlnum(rest[i-1])
			rest = rest[i+len(word):]
			if begins && hasAnyPrefix(strings.TrimLeft(rest[:min(8, len(rest))], " "), "=", ": ") {
				return true
			}
		}
	}
	return strings.Contains(lower, "@tcp(") || strings.Contains(lower, "@unix(")
}
