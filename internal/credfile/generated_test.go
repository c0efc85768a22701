// Passwords as generators make them, in files as they are rightly written.

package credfile

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const (
	alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	punctuation  = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
)

// generators are what makes the passwords of databases.
func generators(r *rand.Rand) map[string]func() string {
	from := func(alphabet string, n int) func() string {
		return func() string {
			b := make([]byte, n)
			for i := range b {
				b[i] = alphabet[r.IntN(len(alphabet))]
			}
			return string(b)
		}
	}
	var ascii85 strings.Builder
	for c := byte('!'); c <= 'u'; c++ {
		ascii85.WriteByte(c)
	}
	return map[string]func() string{
		"aws secretsmanager get-random-password": from(alphanumeric+punctuation, 32),
		"rds":                                    from(strings.NewReplacer("/", "", "@", "", `"`, "").Replace(alphanumeric+punctuation), 28),
		"vault":                                  from(alphanumeric+"-", 20),
		"hex":                                    from("0123456789abcdef", 32),
		"base64": func() string {
			return base64.StdEncoding.EncodeToString([]byte(from("\x00\x7f\xff"+alphanumeric, 32)()))
		},
		"ascii85":       from(ascii85.String(), 30),
		"printable, 32": from(alphanumeric+punctuation, 32),
		"printable, 12": from(alphanumeric+punctuation, 12),
	}
}

// writers are right ways to write the login of app in each format.
func writers() map[string]func(password string) string {
	shell := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")
	return map[string]func(string) string{
		"json": func(s string) string {
			b, _ := json.Marshal(map[string]string{"username": "app", "password": s})
			return string(b)
		},
		"aws get-secret-value": func(s string) string {
			b, _ := json.Marshal(map[string]string{"username": "app", "password": s})
			return fmt.Sprintf(`{"ARN":"arn:aws:secretsmanager:x","SecretString":%q}`, b)
		},
		"kubectl get secret": func(s string) string {
			return fmt.Sprintf(`{"kind":"Secret","data":{"username":"YXBw","password":%q}}`, base64.StdEncoding.EncodeToString([]byte(s)))
		},
		"yaml, single quotes": func(s string) string {
			return "username: app\npassword: '" + strings.ReplaceAll(s, "'", "''") + "'\n"
		},
		"yaml, double quotes": func(s string) string {
			return "password: \"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + "\"\nusername: app\n"
		},
		"vault agent injector": func(s string) string { return "password: " + s + "\nusername: app\n" },
		"dotenv by jq @sh": func(s string) string {
			return "DB_USER='app'\nDB_PASSWORD='" + strings.ReplaceAll(s, "'", `'\''`) + "'\n"
		},
		"dotenv by jq @sh, password first": func(s string) string {
			return "DB_PASSWORD='" + strings.ReplaceAll(s, "'", `'\''`) + "'\nDB_USER='app'\n"
		},
		"dotenv by python shlex": func(s string) string {
			return "DB_USER=app\nDB_PASSWORD='" + strings.ReplaceAll(s, "'", `'"'"'`) + "'\n"
		},
		"dotenv by bash export -p": func(s string) string {
			return "declare -x DB_PASSWORD=\"" + shell.Replace(s) + "\"\ndeclare -x DB_USER=\"app\"\n"
		},
		"url": func(s string) string { return "postgres://app:" + percentEncode(s) + "@h/d\n" },
		"url by net/url": func(s string) string {
			return (&url.URL{Scheme: "postgres", User: url.UserPassword("app", s), Host: "h"}).String()
		},
		"url in dotenv":       func(s string) string { return "DATABASE_URL=postgres://app:" + percentEncode(s) + "@h/d\n" },
		"url with parameters": func(s string) string { return "postgres://h/d?user=app&password=" + percentEncode(s) },
		"keywords": func(s string) string {
			return "host=h user=app password='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'\n"
		},
		"passfile": func(s string) string {
			return "h:1:d:app:" + strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(s) + "\n"
		},
		"service":  func(s string) string { return "[s]\nuser=app\npassword=" + s + "\n" },
		"password": func(s string) string { return s + "\n" },
	}
}

func TestGeneratedPasswordsAreReadAndHardlyEverRefused(t *testing.T) {
	const n = 2000
	r := rand.New(rand.NewPCG(1, 2))
	generators, writers := generators(r), writers()
	for _, generator := range slices.Sorted(maps.Keys(generators)) {
		for _, writer := range slices.Sorted(maps.Keys(writers)) {
			generate, write := generators[generator], writers[writer]
			refused, wrong := 0, 0
			for range n {
				password := generate()
				content := write(password)
				got, err := Parse([]byte(content), Options{Username: "app"})
				switch {
				case err != nil:
					refused++
				case got.Username != "app" || got.Password != password:
					wrong++
					t.Logf("%q is read as %q", content, got.Password)
				}
			}
			// The injector's template doesn't quote: what it writes has two meanings if the
			// password is in quotes from its first character to its last.
			if wrong > 0 && (writer != "vault agent injector" || wrong > 3) {
				t.Errorf("%s by %s: %d of %d are read wrongly", generator, writer, wrong, n)
			}
			if refused*100 >= n {
				t.Errorf("%s by %s: %d of %d are refused", generator, writer, refused, n)
			}
			if refused > 0 {
				t.Logf("%-40s %-34s %.2f %% refused", generator, writer, 100*float64(refused)/n)
			}
		}
	}
}
