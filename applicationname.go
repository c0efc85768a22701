// The name of a credential's version, and how a session carries it.

package sqlrotate

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

const (
	// versionPrefix goes before the name of a version.
	versionPrefix = "sqlrotate:"

	// maxApplicationName is how many bytes of an application_name PostgreSQL shows.
	maxApplicationName = 63
)

// ApplicationName returns the application_name of a session that logs in with cred, where
// the application calls itself name: that, a space, and the name of the credential's
// version, such as "billing sqlrotate:3f2a9c01". It is what Config.TagVersion has LibPQ
// use, and is there for a function that is given to [FromDriver], and for an [Opener] of
// one's own.
//
// The name of a version is the same in every process, and says nothing of the password,
// which has no part in it. It is the beginning of a hash of the user name, and of
// Credential.Version if there is one. That of a [FileSource] is left out, because it means
// nothing to another process: so a password that is changed in place under the same user
// name doesn't change the name of the version there. It does with a source such as
// vaultsource, whose Version every process reads alike.
//
// PostgreSQL shows 63 bytes. Should the two be longer, name is shortened, to 44 bytes of
// ASCII at the least. Other characters count as they do in PostgreSQL 16, which shows each
// of their bytes as \xNN.
func ApplicationName(name string, cred Credential) string {
	tag := versionPrefix + versionName(cred)
	name = strings.ReplaceAll(name, "\x00", "?") // it would end the parameter
	name = name[:shownWithin(name, maxApplicationName-len(" ")-len(tag))]
	if name == "" {
		return tag
	}
	return name + " " + tag
}

// versionName names the version of a login to whoever looks at its sessions.
func versionName(cred Credential) string {
	text := cred.Username
	if cred.Version != "" && !cred.versionIsLocal {
		text += "\x00" + cred.Version // no user name has a NUL
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// shownWithin returns how many bytes of name, in whole characters, PostgreSQL shows within
// a number of bytes.
func shownWithin(name string, room int) int {
	for at := 0; at < len(name); {
		_, size := utf8.DecodeRuneInString(name[at:])
		if c := name[at]; c < ' ' || c > '~' {
			room -= len(`\xNN`) * size
		} else {
			room--
		}
		if room < 0 {
			return at
		}
		at += size
	}
	return len(name)
}
