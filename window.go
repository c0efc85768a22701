// Window: the arithmetic of the overlap between a credential and its successor.

package sqlrotate

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

const (
	// least is the shortest duration that anybody can mean: what is shorter was
	// written without its unit, as in MaxAge: 30.
	least = time.Millisecond

	// A MaxLifetime below leastLifetime is refused: each query would log in. One below
	// shortLifetime is warned of.
	leastLifetime = 100 * time.Millisecond
	shortLifetime = 10 * time.Second
)

// Defaults of Window: the slowest usual way for a secret to reach a process, and a
// generous query.
const (
	defaultLag      = 90 * time.Second
	defaultMaxInUse = 30 * time.Second
)

// Window says how long an old credential outlives the publication of its
// successor, and what has to fit into that time:
//
//	|<----------------------- overlap ------------------------>|
//	published      read by the app                           revoked
//	|----- lag -----|                     |---- max in use ----|
//	                |<--- MaxLifetime --->|
//
// A connection opened with the old credential at the last moment, lag after the
// publication, is taken out of service at most MaxLifetime later, and is idle at
// most MaxInUse after that: before the revocation.
//
// A connection is replaced at least once per MaxLifetime, so a pool of N makes some
// N / MaxLifetime logins a second: [New] warns of less than 10 s, and refuses less than
// 100 ms.
//
// The zero Window is not valid: the overlap is a property of whoever rotates the
// credential, and has no default. Rotation without any overlap is asked for with
// [InPlace].
type Window struct {
	// Overlap is the time for which the old credential stays valid after its
	// successor is published. Required. If it varies, give its shortest.
	Overlap time.Duration

	// Lag is the longest time from the publication of a credential until this
	// process can read it. Zero means 90 s (the kubelet's sync takes up
	// to about 90 s; an agent that writes to a shared volume needs about a
	// second). Negative means none. It includes what the source adds:
	// FileOptions.Poll where no events arrive, FileOptions.Settle for files that are
	// written in place, CacheOptions.MaxAge in a [CachedSource] for credentials without
	// a NotAfter.
	Lag time.Duration

	// MaxInUse is the longest time for which one connection is in use: the
	// longest transaction, query or sql.Conn. Zero means 30 s.
	// Negative means none.
	MaxInUse time.Duration

	kind rotation.Kind
}

// InPlace is the window of a login whose password is changed in place: a Vault
// static role, ALTER ROLE … PASSWORD, single-user rotation in a cloud. The old
// password dies at the moment the new one is set, usually before the new one can
// be read here, and sessions that are already open live on. There is no overlap
// to keep: a superseded credential is never used again, no session is closed for
// its credential's sake, old connections are replaced at leisure after a
// rotation, and the wait for the new password to arrive is bounded by
// Config.RetryTimeout. A credential's NotAfter counts all the same: a source that gives
// one says that sessions end with it, too.
func InPlace() Window { return Window{kind: rotation.InPlace} }

// LoginTokens is the window of a login whose password is a token that is asked for at
// login only: cloud IAM (RDS, Cloud SQL, Entra). Each login uses the latest token; a
// token's NotAfter bounds logins and ends no session, and another token of the same
// user is no rotation. When the user name changes, the old user's connections are
// replaced over Config.DrainTime.
func LoginTokens() Window { return Window{kind: rotation.LoginTokens} }

// MaxLifetime returns Overlap - Lag - MaxInUse, the longest time for which a
// connection may be reused. It is an error if nothing is left, if Overlap is not
// positive, or if a field is so short that its unit must be missing (below 1 ms). For
// [InPlace] it is 0, which database/sql takes for no limit.
func (w Window) MaxLifetime() (time.Duration, error) {
	if w.kind != rotation.Overlapping {
		return 0, nil
	}
	if w.Overlap <= 0 {
		return 0, fmt.Errorf("sqlrotate: window: overlap is %v: set Window.Overlap to how long the old credential stays valid after its successor is published, or use InPlace()", w.Overlap)
	}
	err := errors.Join(plausible("Window.Overlap", w.Overlap), plausible("Window.Lag", w.Lag), plausible("Window.MaxInUse", w.MaxInUse))
	if err != nil {
		return 0, err
	}
	left := w.Overlap - w.lag()
	left = max(left, math.MinInt64+w.maxInUse()) - w.maxInUse() // doesn't overflow
	if left <= 0 {
		return 0, fmt.Errorf("sqlrotate: window: overlap %v - lag %v%s - max in use %v%s = %v: nothing is left for a connection to live",
			w.Overlap, w.lag(), isDefault(w.Lag), w.maxInUse(), isDefault(w.MaxInUse), left)
	}
	return left, nil
}

func (w Window) lag() time.Duration      { return orDefault(w.Lag, defaultLag) }
func (w Window) maxInUse() time.Duration { return orDefault(w.MaxInUse, defaultMaxInUse) }

// lifetime is MaxLifetime for a connector, and whether it is so short that somebody
// should be told.
func (w Window) lifetime() (d time.Duration, short bool, err error) {
	d, err = w.MaxLifetime()
	switch {
	case err != nil || w.kind != rotation.Overlapping:
		return d, false, err
	case d < leastLifetime:
		return 0, false, fmt.Errorf("sqlrotate: window: overlap %v - lag %v%s - max in use %v%s = %v: that is too short for a connection to live",
			w.Overlap, w.lag(), isDefault(w.Lag), w.maxInUse(), isDefault(w.MaxInUse), d)
	}
	return d, d < shortLifetime, nil
}

// plausible refuses a duration that can only be a number without its unit.
func plausible(field string, d time.Duration) error {
	if d <= 0 || d >= least {
		return nil
	}
	return fmt.Errorf("sqlrotate: %s is %v: give it a unit, as in %d*time.Second", field, d, d.Nanoseconds())
}

// orDefault reads a field whose zero means def and whose negative means none.
func orDefault(d, def time.Duration) time.Duration {
	switch {
	case d < 0:
		return 0
	case d == 0:
		return def
	default:
		return d
	}
}

func isDefault(d time.Duration) string {
	if d == 0 {
		return " (default)"
	}
	return ""
}
