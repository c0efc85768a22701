// The book of logins: what the rules know by a number, and the secrets that they
// don't know at all.

package sqlrotate

import (
	"fmt"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// version is one login that the source has given: a user name and a password, or,
// where passwords are tokens, a user name.
type version struct {
	id   rotation.VersionID // 1, 2, 3 … in the order in which they were first read
	user uint64             // a number for the user name
	seen time.Time          // when it was first read

	// Guarded by Connector.mu.
	cred    Credential // as last read
	refusal error      // what the server said when it last refused it
	failure error      // why a login with it failed last for another reason; nil once one succeeds
}

// label names the version in logs and errors. It reads what Connector.mu guards.
func (v *version) label() string {
	if v.cred.Version == "" {
		return fmt.Sprintf("#%d", v.id)
	}
	return fmt.Sprintf("#%d (%s)", v.id, v.cred.Version)
}

// refusalCode is the server's code of that refusal; empty if it gave none.
func (v *version) refusalCode() string {
	if refusal, ok := v.refusal.(*loginError); ok { //nolint:errorlint // it is not wrapped
		return refusal.code
	}
	return ""
}

// book numbers the logins that the source gives.
type book struct {
	tokens   bool // passwords are tokens: the user name alone makes a version
	versions []*version
	last     rotation.VersionID
	users    uint64
}

// find returns the version that cred is one of, or nil.
func (b *book) find(cred Credential) *version {
	for _, v := range b.versions {
		if v.cred.Username == cred.Username && (b.tokens || v.cred.Password.Equal(cred.Password)) {
			return v
		}
	}
	return nil
}

// next returns the version that cred would be if it were entered: a new one.
func (b *book) next(cred Credential, now time.Time) *version {
	v := &version{id: b.last + 1, user: b.users + 1, cred: cred, seen: now}
	for _, other := range b.versions {
		if other.cred.Username == cred.Username {
			v.user = other.user
		}
	}
	return v
}

// enter enters a version that next has returned.
func (b *book) enter(v *version) {
	b.versions = append(b.versions, v)
	b.last, b.users = v.id, max(b.users, v.user)
}

// get returns the version with that number, or nil.
func (b *book) get(id rotation.VersionID) *version {
	for _, v := range b.versions {
		if v.id == id {
			return v
		}
	}
	return nil
}

// forget strikes a version that nothing refers to any more.
func (b *book) forget(id rotation.VersionID) {
	b.versions = slices.DeleteFunc(b.versions, func(v *version) bool { return v.id == id })
}
