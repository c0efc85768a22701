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
//   - user name: username, user, login
//   - password: password, pass
//   - both, as a postgres URL or libpq keywords: uri, url, dsn, connection_string
//   - any of these after PG, PG_, DB, DB_, DATABASE_, POSTGRES_, POSTGRESQL_ or
//     SPRING_DATASOURCE_, as in PGUSER and DATABASE_URL
//   - end: expires_at, expiration; RFC 3339 or Unix seconds. A ttl or
//     lease_duration is not an end: an agent renews a lease without writing again.
//
// Two different values for one of them are an error; an empty value counts as none.
// A byte order mark and one trailing newline are not content, other white space is,
// but for a user name, which has none around it.
//
// A value that two common readers of the format understand differently is refused, and
// the error says what to write instead. So is what is no login in any format: what a
// template leaves behind when it fails ("<no value>", "{{ … }}", "${NAME}", "map[…]"),
// what tools write for nothing or for what they hide (null, <nil>, ****), what is
// encrypted, and what only says where a secret is. A connection string is no password.
// Values of other keys are never looked at.
//
// The formats are the words "json", "dotenv", "yaml", "url", "keywords", "passfile",
// "service" and "password", fit for a configuration file.
type Format string

const (
	// FormatAuto recognises the format by the content. A bare password is
	// recognised only on a single line, if [FileOptions].Username is set, and if
	// the content does not look like the beginning of another format; a generated
	// password can look like one by chance, and a torn file can look like a
	// password, so name [FormatPassword] for a file that holds nothing else.
	FormatAuto = Format(credfile.FormatAuto)

	// FormatJSON is a JSON object, flat or with the keys in data (a Vault response)
	// or data.data (KV version 2); a Kubernetes Secret; or what the tools of AWS,
	// Azure and Google Cloud print for a secret, whose value is then read as a file
	// would be. Whole numbers are taken as they are written.
	FormatJSON = Format(credfile.FormatJSON)

	// FormatDotenv is KEY=value lines, with or without export. A value in single
	// quotes is verbatim, and '\'' is a quote in it; in double quotes \" \\ and \$ are
	// escapes, and all other use of \ $ and ` is refused. Without quotes a value ends at
	// white space followed by "#", and may hold no character that a shell or a
	// library acts on. Variables are not expanded and values don't span lines.
	FormatDotenv = Format(credfile.FormatDotenv)

	// FormatYAML is a YAML mapping, or "key: value" lines such as the Vault Agent
	// Injector writes by default. That template does not quote, so an unquoted value
	// is verbatim to the end of the line, with " #" and ": " in it, unless the file
	// has anything that only YAML has: a comment, an indented line, a value in quotes.
	// A Kubernetes Secret and the tools' output are read as in JSON.
	FormatYAML = Format(credfile.FormatYAML)

	// FormatURL is a postgres:// or postgresql:// URL on one line, which may name a
	// driver (postgresql+asyncpg://). Special characters in user name and password are
	// percent-encoded.
	FormatURL = Format(credfile.FormatURL)

	// FormatKeywords is a libpq connection string: user=app password='it\'s'.
	FormatKeywords = Format(credfile.FormatKeywords)

	// FormatPassfile is libpq's .pgpass: host:port:database:user:password. The
	// first line whose user is [FileOptions].Username or "*" counts; without
	// Username, the first line. Another line of that user with another password is a
	// conflict, unless the first one is for any host, port and database.
	FormatPassfile = Format(credfile.FormatPassfile)

	// FormatService is libpq's pg_service.conf with a single section.
	FormatService = Format(credfile.FormatService)

	// FormatPassword is a bare password, all of one line. The user name is
	// [FileOptions].Username.
	FormatPassword = Format(credfile.FormatPassword)
)

// DecodeError says why a credential file could not be used. It holds nothing of the
// file's values, only names of keys that are looked for.
type DecodeError struct {
	// Reason is the kind of failure, fit for a metric's label.
	Reason DecodeReason

	// Format is the format the file was read in; empty if it was not recognised,
	// and for a directory.
	Format Format

	// Line is the line at fault, from 1; 0 if there is no such line.
	Line int

	why    string // what the format was recognised by
	detail string
}

// DecodeReason is why a credential file could not be used, in a word that stays the same.
type DecodeReason string

// The reasons of a [DecodeError].
const (
	DecodeEmpty         = DecodeReason(credfile.ReasonEmpty)      // "empty": there is nothing in it
	DecodeNUL           = DecodeReason(credfile.ReasonNUL)        // "nul": it holds a NUL byte
	DecodeNotUTF8       = DecodeReason(credfile.ReasonNotUTF8)    // "not-utf8": it is not valid UTF-8
	DecodeUnrendered    = DecodeReason(credfile.ReasonUnrendered) // "unrendered": a template or a tool left its failure in it
	DecodeEncrypted     = DecodeReason(credfile.ReasonEncrypted)  // "encrypted": it is to be decrypted first
	DecodeReference     = DecodeReason(credfile.ReasonReference)  // "reference": it says where the secret is
	DecodeUnknownFormat = DecodeReason(credfile.ReasonUnknown)    // "unknown-format": its format is not recognised, or not supported
	DecodeSyntax        = DecodeReason(credfile.ReasonSyntax)     // "syntax": it is not of its format
	DecodeAmbiguous     = DecodeReason(credfile.ReasonAmbiguous)  // "ambiguous": common readers of the format disagree on it
	DecodeNoUsername    = DecodeReason(credfile.ReasonNoUsername) // "no-username": it has no user name
	DecodeNoPassword    = DecodeReason(credfile.ReasonNoPassword) // "no-password": it has no password
	DecodeConflict      = DecodeReason(credfile.ReasonConflict)   // "conflict": it has two values for one thing
	DecodeBadEnd        = DecodeReason(credfile.ReasonBadEnd)     // "bad-end": its expires_at is not an instant
	DecodeFailed        = DecodeReason("decoder")                 // "decoder": FileOptions.Decode failed
)

// Error says what is wrong and what to do about it.
func (e *DecodeError) Error() string {
	return (&credfile.Error{Format: credfile.Format(e.Format), Why: e.why, Line: e.Line, Detail: e.detail}).Error()
}

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
		return asFound(credfile.Login{}, &credfile.Error{Reason: credfile.Reason(DecodeFailed), Detail: fmt.Sprintf(format, arg)})
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
		return found{}, &DecodeError{Reason: DecodeReason(e.Reason), Format: Format(e.Format), Line: e.Line, why: e.Why, detail: e.Detail}
	}
	if err != nil {
		return found{}, err
	}
	cred := Credential{Username: login.Username, Password: NewSecret(login.Password), NotAfter: login.NotAfter}
	return found{cred, Format(login.Format), server{login.Host, login.Port, login.Database}}, nil
}
