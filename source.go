// Secret, Credential and Source: what a login is and where the latest one comes
// from.

package sqlrotate

import (
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// redacted is what a Secret looks like to everything but Reveal.
const redacted = "REDACTED"

// Secret is an opaque password. It prints, logs and marshals as "REDACTED"
// whatever the verb, the encoder or the struct it sits in; [Secret.Reveal] is
// the only way to its value, so that every use of it can be found by its name.
//
// The zero Secret is the empty password. Secrets can't be compared with ==; use
// [Secret.Equal]. A Secret is immutable and safe for concurrent use.
type Secret struct {
	// A closure, not a string: fmt, reflection-based dumpers and encoders walk
	// unexported fields, but none of them calls a function it finds there.
	reveal func() string
}

// NewSecret makes s opaque.
func NewSecret(s string) Secret {
	return Secret{reveal: func() string { return s }}
}

// Reveal returns the password itself.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// Equal reports whether s and other hold the same password. The time it takes
// does not depend on where they differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Format implements [fmt.Formatter]; it prints "REDACTED" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns "REDACTED".
func (s Secret) String() string { return redacted }

// LogValue implements [slog.LogValuer]; it logs "REDACTED".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler]; it encodes "REDACTED".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Credential is one version of a login.
type Credential struct {
	// Username is the role that logs in. It is not treated as secret: it appears
	// in logs, errors and statistics.
	Username string

	// Password is what it logs in with.
	Password Secret

	// NotAfter is the instant at which the credential is revoked, where the
	// source really knows it. It is compared with the wall clock. Zero means
	// unknown: the credential is good until a successor has been published and
	// the overlap window has passed.
	NotAfter time.Time

	// PublishedAt is when the credential was written to where it was read, if the source
	// knows: the connector holds Window.Lag against it. Zero means unknown.
	PublishedAt time.Time

	// Version names this version of the login in logs and metrics. It is not
	// secret and must not be derived from the password in a way that lets it be
	// guessed. Empty is allowed. Where processes that read the same login should
	// name it alike, as [ApplicationName] does, they must be given the same Version.
	Version string

	// versionIsLocal says that Version was made up in this process, and means nothing
	// to another one.
	versionIsLocal bool
}

// SameLogin reports whether c and other are the same version of a login: the
// same user name and the same password. Nothing else makes a version; an agent
// that renders the same login again with another NotAfter has not rotated it.
func (c Credential) SameLogin(other Credential) bool {
	return c.Username == other.Username && c.Password.Equal(other.Password)
}

// Source is where the latest credential comes from.
//
// The connector calls Credential for every connection that it opens, and every few
// seconds if the source is no [Notifier]: as often as Window.Lag says, between one and
// five seconds. Connections that are opened at the same time share a call that began after
// each of them was asked for. A call fails if it takes longer than 10 s, or 30 s while
// there is no credential yet; a login that has a last good credential to go on with waits
// 2 s for it. If each call gives another login, the connector's own calls come up to 10 s
// apart. A connector makes one call at a time, but several may share a source. An
// implementation promises:
//
//  1. Latest. Credential returns the newest credential that the caller could use,
//     not one remembered from an earlier call, unless a newer one can't be had.
//     A source that needs longer than some milliseconds, or that crosses a
//     network, is put behind a [CachedSource].
//  2. In order. A call that starts after another one has returned a credential
//     never returns an older one. (Otherwise a connection could log in with a
//     credential that its neighbour has already seen replaced, and the connector
//     would take that for a rotation back.)
//  3. Whole. User name and password belong together. A source that reads them
//     from two places makes sure that no rotation fell between the reads.
//  4. Last good. When the newest credential can't be read (missing, torn, empty,
//     unparsable, forbidden), Credential returns either the last good one or an
//     error; never a partial credential. The connector carries on with the last
//     good credential in both cases.
//  5. Bounded. Credential returns soon after ctx is done, and its failure for
//     one caller's ctx does not fail other callers.
//  6. Silent. No error, log line or panic contains a password or the content of
//     what was read.
//
// The package sqlrotatetest checks an implementation against these.
type Source interface {
	Credential(ctx context.Context) (Credential, error)
}

// SourceFunc makes a [Source] of a function. The function keeps the promises of
// Source.
type SourceFunc func(ctx context.Context) (Credential, error)

// Credential calls f.
func (f SourceFunc) Credential(ctx context.Context) (Credential, error) { return f(ctx) }

// StaticSource returns a source whose credential never changes.
func StaticSource(cred Credential) Source {
	return SourceFunc(func(context.Context) (Credential, error) { return cred, nil })
}

// Notifier is implemented by a [Source] that notices changes by itself. It lets
// the connector begin a rotation when the credential changes rather than at the
// next login. It is an optimisation: nothing that is promised rests on it. If the channel
// is closed again and again without a pause, the connector listens once a second.
type Notifier interface {
	// Changed returns a channel that is closed when the credential, its NotAfter
	// included, has changed since the call, or may have. The caller then calls
	// Changed again, before it calls Credential, so that no change falls between the
	// two. Like a context's Done, the channel may be shared by all callers, and
	// waiting on it costs the source nothing.
	Changed() <-chan struct{}
}

// Refresher is implemented by a [Source] that can be told that a credential was
// refused by the server.
type Refresher interface {
	// Refresh returns a credential read afresh, past every cache. A source that
	// already holds another one than refused returns that at once: of many
	// callers whose logins were refused together, only one causes a fetch. It is
	// asked again and again while logins are refused, and bounds what that costs.
	Refresh(ctx context.Context, refused Credential) (Credential, error)
}
