// A fuzz target for each format. Seeds are the samples in testdata/formats.

package credfile

import (
	"bytes"
	"testing"
)

func FuzzDecodeRecognised(f *testing.F) { fuzzFormat(f, FormatAuto) }
func FuzzDecodeJSON(f *testing.F)       { fuzzFormat(f, FormatJSON) }
func FuzzDecodeDotenv(f *testing.F)     { fuzzFormat(f, FormatDotenv) }
func FuzzDecodeYAML(f *testing.F)       { fuzzFormat(f, FormatYAML) }
func FuzzDecodeURL(f *testing.F)        { fuzzFormat(f, FormatURL) }
func FuzzDecodeKeywords(f *testing.F)   { fuzzFormat(f, FormatKeywords) }
func FuzzDecodePassfile(f *testing.F)   { fuzzFormat(f, FormatPassfile) }
func FuzzDecodeService(f *testing.F)    { fuzzFormat(f, FormatService) }
func FuzzDecodePassword(f *testing.F)   { fuzzFormat(f, FormatPassword) }

func FuzzDecodeDirectory(f *testing.F) {
	f.Add("username", []byte("u\n"), "password", []byte("p\n"), "uri", []byte("postgres://u:p@h/d"), "")
	f.Add("DB_USER", []byte("u"), "postgres-password", []byte("p"), "expires-at", []byte("2026-11-23T18:00:00Z"), "u")
	f.Add("..data", []byte("x"), "app.json", []byte(`{"username":"u","password":"p"}`), "..x", []byte(""), "")
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
			if cred.Username == "" || cred.Password == "" {
				t.Fatalf("%q gives an empty credential", files)
			}
		}
	})
}
