// Package credfile finds the login in the content of a file, or of a directory of key
// files, in any of the formats that producers of credentials write. It is pure: bytes in,
// a login or a reason out. No error made here contains anything that was read.
//
// Recognition says which format a content is in, and why. The parser of the format yields
// pairs of keys and values, and knows nothing of what becomes of them. A finder makes a
// login of the pairs: it alone knows which keys matter, and what is no credential in any
// format.
//
// A value that two common readers of a format understand differently is refused, and a
// pair that nobody asks for never is.
package credfile

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Format is the format of a credential file.
type Format string

// The formats, as the package sqlrotate documents them. FormatAuto is recognised.
const (
	FormatAuto     Format = ""
	FormatJSON     Format = "json"
	FormatDotenv   Format = "dotenv"
	FormatYAML     Format = "yaml"
	FormatURL      Format = "url"
	FormatKeywords Format = "keywords"
	FormatPassfile Format = "passfile"
	FormatService  Format = "service"
	FormatPassword Format = "password"
)

// Options say how content is read. The names in messages are those of
// sqlrotate.FileOptions.
type Options struct {
	// Format is the format of the content. Empty: it is recognised.
	Format Format

	// Username is the user name for what is read without one; what holds another one
	// is refused. Empty: what is read must hold one.
	Username string

	// UsernameKey and PasswordKey are the keys under which the two are found, with
	// dots between those that are nested. Empty: the usual keys.
	UsernameKey, PasswordKey string

	// Printed says that a program has printed it just now: a token is a password, if
	// there is no other one, and how long it is good counts from now.
	Printed bool
}

// Login is what was found.
type Login struct {
	Username, Password string

	// NotAfter is when it ends; zero if that isn't said.
	NotAfter time.Time

	// Lifetime is how long what was printed is good; 0 if that isn't said.
	Lifetime time.Duration

	// Format is the format that was named or recognised; empty for a directory. Why is
	// what it was recognised by; empty if it was named.
	Format Format
	Why    string

	// From says where each was found.
	From Origins

	// Host, Port and Database are what the content names beside the login; empty if it
	// names none, or several.
	Host, Port, Database string
}

// Origins are where the parts of a [Login] were found. What was not found has none.
type Origins struct{ Username, Password, NotAfter Origin }

// Origin is where a value was found.
type Origin struct {
	// Key is the key, in quotes, or what stands in its place in words.
	Key string

	// Line is from 1; 0 if there are no lines.
	Line int
}

// Parse returns the login in the content of one file. The error is an [*Error].
func Parse(content []byte, opt Options) (Login, error) {
	f := finder{opt: opt, format: opt.Format}
	return f.login(f.content(content))
}

// ParseDir returns the login in a directory of key files, given as the content of each
// by its name. The error is an [*Error].
//
// A format is for the content of one file, so it makes sense for a directory with one
// file only, such as a CSI driver's object.
func ParseDir(files map[string][]byte, opt Options) (Login, error) {
	f := finder{opt: opt}
	return f.login(f.dir(files))
}

// OnlyFile returns the content of the one file of a directory. The error is an [*Error].
func OnlyFile(files map[string][]byte) ([]byte, error) {
	f := finder{}
	switch names := keyFiles(files); len(names) {
	case 0:
		return nil, f.fail(ReasonEmpty, 0, "the directory holds no files")
	case 1:
		return files[names[0]], nil
	default:
		return nil, f.failSeveral()
	}
}

// Complete returns a login that was found by other means, checked as one that was found
// here. The error is an [*Error].
func Complete(found Login, opt Options) (Login, error) {
	opt.UsernameKey, opt.PasswordKey = "", ""
	f := finder{opt: opt, notAfter: found.NotAfter}
	if err := f.take(&f.user, "Credential.Username", found.Username, 0); err != nil {
		return Login{}, err
	}
	if err := f.take(&f.password, "Credential.Password", found.Password, 0); err != nil {
		return Login{}, err
	}
	switch {
	case found.Username == "" && opt.Username == "":
		return Login{}, f.fail(ReasonNoUsername, 0, "FileOptions.Decode returned no user name")
	case found.Password == "":
		return Login{}, f.fail(ReasonNoPassword, 0, "FileOptions.Decode returned no password")
	}
	return f.login(nil)
}

// content finds what there is in the content of one file.
func (f *finder) content(content []byte) error {
	switch {
	case bytes.IndexByte(content, 0) >= 0:
		return f.fail(ReasonNUL, 0, "there is a NUL byte in it: it is not text, or not yet written")
	case !utf8.Valid(content):
		return f.fail(ReasonNotUTF8, 0, "it is not valid UTF-8: binary, or in another encoding")
	}
	f.text = strings.TrimPrefix(string(content), "\ufeff")
	if strings.TrimSpace(f.text) == "" {
		return f.fail(ReasonEmpty, 0, "it is empty: perhaps not yet written")
	}
	if f.format == FormatAuto {
		if err := f.recognise(trimNewline(f.text)); err != nil {
			return err
		}
	}
	return f.read(f.text, trimNewline(f.text))
}

// read finds what there is in a text of f's format.
func (f *finder) read(text, trimmed string) error {
	switch f.format {
	case FormatJSON:
		return f.tree(parseJSON(trimmed))
	case FormatDotenv:
		return f.addAll(parseDotenv(text))
	case FormatYAML:
		return f.tree(parseYAML(text))
	case FormatURL:
		return f.url(text)
	case FormatKeywords:
		return f.keywords(trimmed)
	case FormatPassfile:
		return f.passfile(trimmed)
	case FormatService:
		return f.service(trimmed)
	case FormatPassword:
		return f.bare(trimmed)
	}
	named := f.format
	f.format = FormatAuto
	return f.fail(ReasonUnknown, 0, "FileOptions.Format is %s, which is none of the formats", quote(string(named)))
}

// dir finds what there is in a directory of key files.
func (f *finder) dir(files map[string][]byte) error {
	names := keyFiles(files)
	known := slices.ContainsFunc(names, func(name string) bool {
		r := f.opt.role([]string{name})
		return r == roleUser || r == rolePassword || r == roleURL
	})
	named := f.opt.Format != FormatAuto
	switch {
	case len(names) == 0:
		return f.fail(ReasonEmpty, 0, "the directory holds no files")
	case len(names) == 1 && (named || !known):
		f.format = f.opt.Format
		return f.content(files[names[0]])
	case named:
		return f.failSeveral()
	}
	for _, name := range names {
		value := trimNewline(strings.TrimPrefix(string(files[name]), "\ufeff"))
		if err := f.add(pair{path: []string{name}, value: value, problem: f.fileProblem(name, value)}); err != nil {
			return err
		}
	}
	return nil
}

// fileProblem says why the content of a key file is not one value.
func (f *finder) fileProblem(name, value string) *problem {
	switch {
	case f.opt.role([]string{name}) == roleURL:
		return nil
	case strings.ContainsAny(value, "\r\n"):
		return broken("has several lines: the file should hold one value")
	case beginsJSON(value, '{', '}', `"`) && isJSON(value):
		return broken("is a JSON object: the file should hold one value (map a property of the secret to it, not the whole)")
	}
	return nil
}

// keyFiles returns the names of files in order, without the kubelet's own.
func keyFiles(files map[string][]byte) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasPrefix(name, "..") {
			names = append(names, name)
		}
	}
	return names
}

func (f *finder) failSeveral() error {
	return f.fail(ReasonUnknown, 0, "a format or decoder is for one file, and the directory holds several: give the path of the file")
}

// trimNewline removes the one newline that an editor or echo adds.
func trimNewline(s string) string {
	if t, ok := strings.CutSuffix(s, "\n"); ok {
		return strings.TrimSuffix(t, "\r")
	}
	return s
}
