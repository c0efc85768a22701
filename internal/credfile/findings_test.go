package credfile

import "testing"

// What the tests in difftest found, so that it stays found: each was read as nobody meant
// it, or as only some read it.
func TestWhatWasReadWronglyIsRefused(t *testing.T) {
	for _, tc := range []struct {
		format Format
		text   string
		why    string
	}{
		{FormatDotenv, "DB_USERNAME='a'\nDB_PASSWORD='\\'\\'\n", "python-dotenv escapes quotes in single quotes, shells don't"},
		{FormatDotenv, "DB_USERNAME='a'\nDB_PASSWORD='\\'\\' #'\n", "the same, with what looks like a comment"},
		{FormatDotenv, "DB_USERNAME='a'\nDB_PASSWORD='\\'\"\"\\'\n", "the same, with other quotes"},
		{FormatDotenv, "DB_USERNAME='a'\nDB_PASSWORD='\\'\\''=a'\n", "the same"},
		{FormatDotenv, "declare -x DB_USERNAME=\"a\"\ndeclare -x a DB_USERNAME='g'\nexport DB_PASSWORD='a'\n", "a shell sets each word"},
		{FormatDotenv, "DB_USERNAME=a\nDB_PASSWORD=a\nexport a DB_PASSWORD='aaa'\n", "the same"},
		{FormatDotenv, "username='a'\npassword='a'\na='' password+='a'", "a shell appends to it"},
		{FormatDotenv, "DB_USERNAME='a'\nDB_PASSWORD='a'\nA='' DB_PASSWORD='b'", "a shell sets each word"},
		{FormatDotenv, "DB_USERNAME=a\nDB_PASSWORD=a\x1d", "U+001D is white space to Python"},
		{FormatDotenv, "declare -x DB_USERNAME=\"a\"\r\ndeclare -x DB_PASSWORD=\"a\"", "to a shell a return is a part of the value"},
		{"", "host=db\nport=5432\nuser='a'\npassword='aa\\\\aa'\n", "lines of keywords are not dotenv, but look so"},
		{FormatKeywords, "host=db port=5432 user=a password=a 0=a dbname=app", "0 is no keyword: a blank was not quoted"},
		{FormatURL, "postgres://db/app?user=a&password=a+b", "+ is a blank to some and a plus to libpq"},
		{FormatURL, "postgres://?user=&user=a&password=a", "lib/pq takes the empty one"},
		{FormatURL, "postgres://?user=a&password=a ", "the blank is a part of it to libpq"},
		{FormatService, "[app]\nhost=\nuser=\nuser=a\npassword=a", "libpq takes the first, pgservicefile the last"},
		{FormatService, "[app]\nuser=a\npassword= a\n", "pgservicefile trims, libpq doesn't"},
		{FormatYAML, "username: |-\n    a\npassword: |-\n    a\u2029    a\n", "U+2029 ends a line in YAML 1.1 only"},
		{FormatYAML, "username: aaaaa\npassword: |-\n a ", "goccy trims a blank at the end"},
		{FormatYAML, "username: aaaaa\npassword: >-\n a ", "the same, folded"},
		{FormatYAML, "username: a\npassword: |-\n a\n  ", "yaml.v3 keeps the last line and its blank"},
		{FormatYAML, "username: a\npassword: |-\n a\n  \n a\n", "the same between two lines"},
		{FormatYAML, "username: aaaaa\npassword: |-\n \t a", "goccy trims a blank after a tab"},
		{FormatYAML, "username: >-\n    a\npassword: >-\n    a\t\n", "yaml.v3 keeps a tab at the end"},
		{FormatYAML, "password: |-\n  a\n  \f\nusername: a\n", "a form feed is no blank"},
		{FormatYAML, "password: '\na: '\nusername: a", "a quote may be closed further on"},
		{FormatYAML, "username: a\npassword: a\n a\ta", "goccy loses the tab"},
		{FormatJSON, `{"SecretString":"{\"username\":\"a\",\"password\":\"a\"}","SecretString":"{\"password\":\"b\"}"}`, "encoding/json takes the last"},
		{FormatYAML, "data:\n  password: NmFhYQ==\n  username: YWFh\nkind:  Secret\n", "it may be a Secret, though two blanks are before its kind"},
		{FormatYAML, "username: a\npassword: a\ta", "goccy loses the tab"},
		{FormatYAML, "apiVersion: v1\nkind:\u2028 Secret\ndata:\n    password: NmFhYQ==\n    username: YWFh\n", "it may be a Secret"},
	} {
		for _, opt := range []Options{{Format: tc.format}, {}} {
			if got, err := Parse([]byte(tc.text), opt); err == nil {
				t.Errorf("%q (format %q): user %q, password %q: %s", tc.text, opt.Format, got.Username, got.Password, tc.why)
			}
		}
	}
}

// A Secret is one however its kind is written.
func TestASecretIsDecoded(t *testing.T) {
	for _, kind := range []string{"Secret", "Secret ", `"Secret"`, "'Secret'", "Secret # a comment", " Secret"} {
		text := "apiVersion: v1\nkind: " + kind + "\ndata:\n  password: NmFhYQ==\n  username: YWFh\n"
		got, err := Parse([]byte(text), Options{})
		if err == nil && (got.Username != "aaa" || got.Password != "6aaa") {
			t.Errorf("%q: user %q, password %q", text, got.Username, got.Password)
		}
	}
}

// A line of a passfile that may be the user's is not passed over.
func TestALineOfThePassfileInDoubtIsRefused(t *testing.T) {
	text := "*:*:*:\\app:a\n*:*:*:*:t"
	if got, err := Parse([]byte(text), Options{Format: FormatPassfile, Username: "app"}); err == nil {
		t.Errorf("%q: user %q, password %q; libpq drops the backslash, and takes the first", text, got.Username, got.Password)
	}
}
