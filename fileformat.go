// Credential files: what internal/credfile finds in them, as the API has it.

package sqlrotate

import (
	"errors"
	"fmt"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// Format is the format of a credential file. In all of them the following holds.
//
// Only the user name, the password and the end are taken; host, database and all
// else are left alone, so that a rotation can't move the application to another
// server. Keys are the usual names, in any letter case, "-" and "." being the same
// as "_":
//
//   - user name: username, user, PGUSER, DB_USER, DB_USERNAME, POSTGRES_USER
//   - password: password, pass, PGPASSWORD, DB_PASSWORD, DB_PASS, POSTGRES_PASSWORD
//   - both, as a postgres URL or libpq keywords: uri, url, dsn, DATABASE_URL
//   - end: expires_at, expiration; RFC 3339 or Unix seconds. A ttl or
//     lease_duration is not an end: an agent renews a lease without writing again.
//
// Two different values for one of them are an error; an empty value counts as none.
// A byte order mark and one trailing newline are not content, other white space is.
// What a template leaves behind when it fails is refused as the value of a key that
// is taken: "<no value>" anywhere in it, "{{" followed by "}}", or all of it
// "map[…]". A lone "{{" is legal in a password.
type Format string

const (
	// FormatAuto recognises the format by the content. A bare password is
	// recognised only on a single line, if [FileOptions].Username is set, and if
	// the content does not look like the beginning of another format; a generated
	// password can look like one by chance, and a torn file can look like a
	// password, so name [FormatPassword] for a file that holds nothing else.
	FormatAuto Format = ""

	// FormatJSON is a JSON object, flat or with the keys in data (a Vault
	// response) or data.data (KV version 2). Numbers are taken as they are written.
	FormatJSON Format = "json"

	// FormatDotenv is KEY=value lines, with or without export. Unquoted values end
	// at white space followed by "#", and are trimmed. Single quotes are verbatim;
	// in double quotes \" \\ \$ \` \n \r \t are escapes, and other backslashes stand
	// for themselves. Variables are not expanded and values don't span lines.
	FormatDotenv Format = "dotenv"

	// FormatYAML is flat "key: value" lines, such as the Vault Agent Injector
	// writes by default. That template does not quote, so an unquoted value is
	// taken verbatim, to the end of the line, with " #" and ": " in it; one wholly
	// in quotes is unquoted as YAML does. Anything nested is refused.
	FormatYAML Format = "yaml"

	// FormatURL is a postgres:// or postgresql:// URL on one line. Special
	// characters in user name and password are percent-encoded.
	FormatURL Format = "url"

	// FormatKeywords is a libpq connection string: user=app password='it\'s'.
	FormatKeywords Format = "keywords"

	// FormatPassfile is libpq's .pgpass: host:port:database:user:password. The
	// first line whose user is [FileOptions].Username or "*" counts; without
	// Username, the first line.
	FormatPassfile Format = "passfile"

	// FormatService is libpq's pg_service.conf with a single section.
	FormatService Format = "service"

	// FormatPassword is a bare password, all of one line. The user name is
	// [FileOptions].Username.
	FormatPassword Format = "password"
)

// DecodeError says why a credential file could not be used. It holds nothing of the
// file's values, only names of keys that are looked for.
type DecodeError struct {
	// Reason is one of a few words that stay the same, fit for a metric's label:
	// "empty", "nul", "not-utf8", "unrendered" (a template left its failure in
	// the file), "unknown-format", "syntax", "no-username", "no-password",
	// "conflict" (two values for one field), "bad-end" (expires_at is not an
	// instant) or "decoder" (the application's decoder failed).
	Reason string

	// Format is the format the file was read in; empty if it was not recognised,
	// and for a directory.
	Format Format

	// Line is the line at fault, from 1; 0 if there is no such line.
	Line int

	detail string
}

// Error says what is wrong and what to do about it.
func (e *DecodeError) Error() string {
	return (&credfile.Error{Format: credfile.Format(e.Format), Line: e.Line, Detail: e.detail}).Error()
}

const reasonDecoder = "decoder"

// decodeOptions are the parts of FileOptions that decoding needs.
type decodeOptions struct {
	credfile.Options
	decode func([]byte) (Credential, error)
}

// decodeFile returns the credential in the content of one file. The error is a
// *DecodeError.
func decodeFile(content []byte, opt decodeOptions) (found, error) {
	if opt.decode != nil {
		return custom(content, opt)
	}
	return asFound(credfile.Parse(content, opt.Options))
}

// decodeDir returns the credential in a directory of key files, given as the
// content of each by its name. The error is a *DecodeError.
func decodeDir(files map[string][]byte, opt decodeOptions) (found, error) {
	if opt.decode == nil {
		return asFound(credfile.ParseDir(files, opt.Options))
	}
	content, err := credfile.OnlyFile(files)
	if err != nil {
		return asFound(credfile.Login{}, err)
	}
	return custom(content, opt)
}

// custom runs the application's decoder. Neither its error nor what it panics with
// can be trusted to be free of secrets, so only their types are told.
func custom(content []byte, opt decodeOptions) (cred found, err error) {
	fail := func(format string, arg any) (found, error) {
		return asFound(credfile.Login{}, &credfile.Error{Reason: reasonDecoder, Detail: fmt.Sprintf(format, arg)})
	}
	defer func() {
		if r := recover(); r != nil {
			cred, err = fail("FileOptions.Decode panicked with a value of type %T", r)
		}
	}()
	c, err := opt.decode(content)
	if err != nil {
		return fail("FileOptions.Decode failed with an error of type %T", err)
	}
	login := credfile.Login{Username: c.Username, Password: c.Password.Reveal(), NotAfter: c.NotAfter}
	return asFound(credfile.Complete(login, opt.Options))
}

// found is a credential that was found, and what was found beside it.
type found struct {
	Credential
	format Format
	server server
}

// asFound gives what was found, or why there is nothing, the types of the API.
func asFound(login credfile.Login, err error) (found, error) {
	if e := (*credfile.Error)(nil); errors.As(err, &e) {
		return found{}, &DecodeError{Reason: string(e.Reason), Format: Format(e.Format), Line: e.Line, detail: e.Detail}
	}
	if err != nil {
		return found{}, err
	}
	cred := Credential{Username: login.Username, Password: NewSecret(login.Password), NotAfter: login.NotAfter}
	return found{cred, Format(login.Format), server{login.Host, login.Port, login.Database}}, nil
}
