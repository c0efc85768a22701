package difftest

import (
	"encoding/ascii85"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes up passwords or user names of one kind.
type generator struct {
	name   string
	common bool // producers make such ones, so few may be refused
	make   func(r *rand.Rand) string
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
	alnum  = lower + upper + digits
	marks  = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
)

func passwords() []generator {
	return []generator{
		{"AWS secretsmanager", true, func(r *rand.Rand) string { return chars(r, alnum+marks, 32) }},
		{"AWS for RDS", true, func(r *rand.Rand) string { return chars(r, alnum+without(marks, `/@"'\`), 40) }},
		{"Terraform", true, func(r *rand.Rand) string { return chars(r, alnum+"!@#$%&*()-_=+[]{}<>:?", 16+r.IntN(17)) }},
		{"printable ASCII", true, func(r *rand.Rand) string { return chars(r, alnum+marks, 12+r.IntN(20)) }},
		{"printable ASCII with blanks", true, func(r *rand.Rand) string {
			return chars(r, alnum+marks, 1) + chars(r, alnum+marks+" ", 14+r.IntN(10)) + chars(r, alnum+marks, 1)
		}},
		{"base64", true, func(r *rand.Rand) string { return base64.StdEncoding.EncodeToString(octets(r, 16+r.IntN(17))) }},
		{"base64url", true, func(r *rand.Rand) string { return base64.RawURLEncoding.EncodeToString(octets(r, 16+r.IntN(17))) }},
		{"ascii85", true, func(r *rand.Rand) string {
			b := make([]byte, 100)
			return string(b[:ascii85.Encode(b, octets(r, 16+r.IntN(9)))])
		}},
		{"hex", true, func(r *rand.Rand) string { return hex.EncodeToString(octets(r, 8+r.IntN(25))) }},
		{"Vault", true, func(r *rand.Rand) string { return chars(r, alnum+"-", 20) }},
		{"alphanumerics", true, func(r *rand.Rand) string { return chars(r, alnum, 10+r.IntN(54)) }},
		{"digits", true, func(r *rand.Rand) string { return chars(r, digits, 6+r.IntN(12)) }},
		{"letters of the world", true, func(r *rand.Rand) string {
			return runes(r, []rune("äöüßéèñøçłžőαβγабвжд中文字日本語한국어"+alnum+"-_!+"), 8+r.IntN(12))
		}},
		{"words", true, func(r *rand.Rand) string { return words(r, "-", 3+r.IntN(3)) }},
		{"any Unicode", false, func(r *rand.Rand) string { return anyRunes(r, 1+r.IntN(12)) }},
		{"control characters", false, func(r *rand.Rand) string { return chars(r, controls()+"ab", 1+r.IntN(6)) }},
		{"invalid UTF-8", false, func(r *rand.Rand) string { return string(octets(r, 1+r.IntN(8))) }},
		{"marks alone", false, func(r *rand.Rand) string { return chars(r, marks+" ", 1+r.IntN(5)) }},
		{"marks at the ends", false, func(r *rand.Rand) string {
			return pick(r, tokens()) + chars(r, alnum, r.IntN(6)) + pick(r, tokens())
		}},
		{"marks at the beginning", false, func(r *rand.Rand) string { return pick(r, tokens()) + chars(r, alnum, 4) }},
		{"marks at the end", false, func(r *rand.Rand) string { return chars(r, alnum, 4) + pick(r, tokens()) }},
		{"hostile", false, hostile},
		{"other formats", false, otherFormat},
	}
}

func usernames() []generator {
	return []generator{
		{"a word", true, func(r *rand.Rand) string {
			return pick(r, []string{"app", "billing", "api_rw", "readonly", "svc-orders", "postgres"})
		}},
		{"Vault's", true, func(r *rand.Rand) string {
			return "v-token-app-" + chars(r, alnum, 20) + fmt.Sprint("-", 1_700_000_000+r.IntN(100_000_000))
		}},
		{"alphanumerics", true, func(r *rand.Rand) string { return chars(r, lower, 1) + chars(r, alnum+"_", r.IntN(20)) }},
		{"an address", true, func(r *rand.Rand) string { return chars(r, lower, 6) + "@" + chars(r, lower, 5) + ".iam" }},
		{"any Unicode", false, func(r *rand.Rand) string { return anyRunes(r, 1+r.IntN(6)) }},
		{"marks at the ends", false, func(r *rand.Rand) string {
			return pick(r, tokens()) + chars(r, alnum, r.IntN(4)) + pick(r, tokens())
		}},
		{"hostile", false, hostile},
	}
}

// tokens mean something to one reader or another.
func tokens() []string {
	return []string{
		"", "'", `"`, "`", `\`, `\\`, "$", "$$", "#", " #", "# ", "=", " ", "  ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x00", "\x01", "\x1b", "\x7f",
		":", ": ", " :", "@", "?", "&", "%", "%41", "%2", "%zz", "%%", "/", "//", "://", ";", ",", "|", "|-", ">", ">+", "<", "!", "!!", "*", "~", "^", "+", "-", "- ", "---", "...", ".",
		"{", "}", "[", "]", "(", ")", "{{", "}}", "{%", "%}", "${X}", "$X", "$(x)", "`x`", "<no value>", "map[", "ENC[", "{}", "[]", `\n`, `\t`, `\x41`, `\u0041`, `\'`, `\"`, `\ `, `''`, `""`, `'\''`, `'"'"'`, "$'", `$"`,
		"null", "true", "yes", "no", "0x1F", "0o17", "1e3", "007", "1_000", "12:30:45", "2026-11-23", ".inf", "NaN",
		"export ", "user=", "password=", " password=", " user=x", "&user=x", "username: ", "postgres://", "host=h ", "jdbc:", "'='", "\u0085", "\u00a0", "\u2028", "\u2029", "\ufeff", "\ufffd", "é", "e\u0301", "\xff", "\xc3", "😀", "a", "B", "7",
	}
}

func hostile(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(6) {
		b.WriteString(pick(r, tokens()))
		if r.IntN(3) == 0 {
			b.WriteString(chars(r, alnum, 1+r.IntN(3)))
		}
	}
	return b.String()
}

// otherFormat makes up a password that is a whole file, or a line of one.
func otherFormat(r *rand.Rand) string {
	a, b := chars(r, alnum, 3), chars(r, alnum, 5)
	return fmt.Sprintf(pick(r, []string{
		`{"username":"%s","password":"%s"}`, "username: %s\npassword: %s\n", "postgres://%s:%s@h/d", "postgresql+asyncpg://%s:%s@h/d", "jdbc:postgresql://h/d?user=%s&password=%s",
		"user=%s password=%s", "keepalives=1 host=h user=%s password=%s", "Server=h;User Id=%s;Password=%s;", "h:5432:d:%s:%s", "*:*:*:%s:%s", "[%s]\nuser=u\npassword=%s\n",
		"DB_USER=%s\nDB_PASSWORD=%s\n", "DB_USER=%s DB_PASSWORD=%s", "export PGPASSWORD=%s%s", "password: %s%s", "%s:%s", "%s %s", "%s=%s", "%s: %s", "%s\n%s", "[%s]%s", "<%s>%s</x>", "%s://%s",
		"op://%s/%s", "arn:aws:secretsmanager:%s:%s", "vault:v1:%s%s", "#%s %s", "[\"%s\",\"%s\"]", `"%s%s"`, "'%s%s'", "<%s%s>", "$%s%s", "%%%s%s%%",
	}), a, b)
}

func controls() string {
	var b strings.Builder
	for c := range 32 {
		b.WriteByte(byte(c))
	}
	return b.String() + "\x7f"
}

func words(r *rand.Rand, between string, n int) string {
	var all []string
	for range n {
		all = append(all, chars(r, lower, 3+r.IntN(5)))
	}
	return strings.Join(all, between)
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func chars(r *rand.Rand, from string, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = from[r.IntN(len(from))]
	}
	return string(b)
}

func runes(r *rand.Rand, from []rune, n int) string {
	s := make([]rune, n)
	for i := range s {
		s[i] = pick(r, from)
	}
	return string(s)
}

func anyRunes(r *rand.Rand, n int) string {
	s := make([]rune, n)
	for i := range s {
		s[i] = rune(1 + r.IntN([]int{0x7f, 0x2ff, 0x3000, 0xd7fe, 0x10fffe}[r.IntN(5)]))
	}
	return string(s)
}

func octets(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func without(s, set string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(set, r) {
			return -1
		}
		return r
	}, s)
}
