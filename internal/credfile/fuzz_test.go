// A fuzz target for each format. Seeds are the samples in testdata/formats.

package credfile

import (
	"bytes"
	"testing"
)

func FuzzParseRecognised(f *testing.F) { fuzzFormat(f, FormatAuto) }
func FuzzParseJSON(f *testing.F)       { fuzzFormat(f, FormatJSON) }
func FuzzParseDotenv(f *testing.F)     { fuzzFormat(f, FormatDotenv) }
func FuzzParseYAML(f *testing.F)       { fuzzFormat(f, FormatYAML) }
func FuzzParseURL(f *testing.F)        { fuzzFormat(f, FormatURL) }
func FuzzParseKeywords(f *testing.F)   { fuzzFormat(f, FormatKeywords) }
func FuzzParsePassfile(f *testing.F)   { fuzzFormat(f, FormatPassfile) }
func FuzzParseService(f *testing.F)    { fuzzFormat(f, FormatService) }
func FuzzParsePassword(f *testing.F)   { fuzzFormat(f, FormatPassword) }

func FuzzParseDir(f *testing.F) {
	f.Add("username", []byte("u\n"), "password", []byte("p\n"), "uri", []byte("postgres://u:p@h/d"), "")
	f.Add("DB_USER", []byte("u"), "postgres-password", []byte("p"), "expires-at", []byte("2026-11-23T18:00:00Z"), "u")
	f.Add("..data", []byte("x"), "app.json", []byte(`{"username":"u","password":"p"}`), "..x", []byte(""), "")
	f.Add("secret.json", []byte(`{"kind":"Secret","data":{"username":"YXBw","password":"czNjcjN0"}}`), "..data", []byte("x"), "..x", []byte(""), "")
	f.Add("dsn", []byte("user=u password='p q'"), "pass", []byte("p q"), "pgpass", []byte("h:1:d:u:p"), "")
	const secret = "Zq7vX9kW"
	f.Fuzz(func(t *testing.T, n1 string, c1 []byte, n2 string, c2 []byte, n3 string, c3 []byte, username string) {
		if bytes.Contains([]byte(n1+n2+n3+username), []byte(secret)) {
			return
		}
		for _, planted := range []string{"", secret} {
			files := map[string][]byte{n1: append([]byte(planted), c1...), n2: append(bytes.Clone(c2), planted...), n3: append([]byte(planted), c3...)}
			cred, err := ParseDir(files, Options{Username: username})
			if err != nil {
				wantNoSecret(t, err, secret)
				continue
			}
			user, password := cred.Username, cred.Password
			if user == "" || password == "" || suspect(user) != nil || suspect(password) != nil || isConnection(password) {
				t.Fatalf("%q gives %q %q, which is no login", files, user, password)
			}
		}
	})
}
