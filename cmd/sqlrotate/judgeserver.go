// What check makes of the server's answers, and of the window.

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

func judgeServer(all *findings, f facts) {
	s := f.server
	switch {
	case !f.dsn.given:
		all.add("login", levelNote, nil, "not tried: no -dsn was given")
	case !s.asked:
		all.add("login", levelNote, nil, "not tried: what is wrong above comes first")
	case s.err != nil:
		all.add("login", levelFail, details{"failure": s.failure, "sqlstate": s.code}, "%s", whyNot(f))
	default:
		all.add("login", levelOK, details{"seconds": s.took.Seconds(), "version": s.role.version, "tls": s.role.tls}, "it works, and took %v: PostgreSQL %s%s", s.took.Round(time.Millisecond), s.role.version, protocol(s.role.tls))
		judgeRole(all, f)
		judgeProbe(all, s)
	}
}

func judgeProbe(all *findings, s serverFacts) {
	switch {
	case !s.probed:
	case s.probeErr != nil:
		all.add("probe", levelFail, nil, "the query fails, so that the credential would count as refused: %s", said(s.probeErr))
	default:
		all.add("probe", levelOK, nil, "the query works")
	}
}

func protocol(tls string) string {
	if tls == "" {
		return ", without TLS"
	}
	return ", " + tls
}

// whyNot says why a login failed, and what to do.
func whyNot(f facts) string {
	user := f.file.parsed.Username
	switch f.server.failure {
	case failedExpired:
		return fmt.Sprintf("the credential has ended at %s, as the file says, and has no successor: does whoever writes it still run?", stamp(f.file.parsed.NotAfter))
	case failedRefused:
		return fmt.Sprintf("the server refuses user %q (%s): another password, a role that isn't there, one whose VALID UNTIL has passed, or no line in pg_hba.conf: its log says which", user, said(f.server.err))
	case failedNoLogin:
		return fmt.Sprintf("role %q may not log in: ALTER ROLE … LOGIN", user)
	case failedDatabase:
		return fmt.Sprintf("there is no database %q", f.dsn.database)
	case failedPrivilege:
		return fmt.Sprintf("role %q lacks the privilege CONNECT on database %q: GRANT it", user, f.dsn.database)
	case failedFull:
		return fmt.Sprintf("there is no room for one more session of %q (%s): see CONNECTION LIMIT of the role and of the database, and max_connections", user, said(f.server.err))
	}
	return whyNoServer(f.dsn, f.server)
}

// whyNoServer says why a login didn't get as far as the credential.
func whyNoServer(d dsnFacts, s serverFacts) string {
	at := fmt.Sprintf("%q port %s", d.host, d.port)
	switch s.failure {
	case failedStarting:
		return fmt.Sprintf("the server at %s is starting or stopping: ask again", at)
	case failedNoTLS:
		return fmt.Sprintf("the server at %s has no TLS, and sslmode=%s asks for it: set ssl=on there", at, d.sslmode)
	case failedAuthority:
		return fmt.Sprintf("the certificate of the server at %s is from an authority that isn't known here: name its file in sslrootcert", at)
	case failedHostname:
		return fmt.Sprintf("the certificate of the server isn't for %q, which verify-full asks for: put the name that it is for into the DSN", d.host)
	case failedTLS:
		return fmt.Sprintf("TLS with the server at %s fails: %s", at, said(s.err))
	case failedFile:
		return fmt.Sprintf("a file of certificates can't be used: %s", said(s.err))
	case failedDown:
		return fmt.Sprintf("no server listens at %s", at)
	case failedUnknown:
		return fmt.Sprintf("the name of host %q isn't known", d.host)
	case failedEnded:
		return fmt.Sprintf("what listens at %s ends the connection during the login: is it PostgreSQL?", at)
	case failedSilent:
		return fmt.Sprintf("there was no answer from %s within %v: is a firewall on the way, or the server overloaded?", at, s.took.Round(10*time.Millisecond))
	}
	return said(s.err)
}

// said is what the server, or else the library, says of a failed login.
func said(err error) string {
	var refused *pq.Error
	if errors.As(err, &refused) {
		return fmt.Sprintf("%s, %s", refused.Message, refused.Code)
	}
	return plain(err)
}

func judgeRole(all *findings, f facts) {
	r, user := f.server.role, f.file.parsed.Username
	if err := f.server.queryErr; err != nil {
		all.add("role", levelNote, nil, "the server doesn't say what the role may: %s", said(err))
		return
	}
	d := details{"role": r.user, "database": r.database, "superuser": r.super, "member_of": r.memberOf, "owns": r.owns}
	switch {
	case r.super:
		all.add("role", levelWarning, d, "%q is a superuser, whom no limit and no privilege holds: give the application a role of its own", r.user)
	case r.user != user:
		all.add("role", levelNote, d, "the session is of %q: a pooler on the way has a login of its own, and what follows is about that", r.user)
	case r.owns > 0 && f.window.kind == overlapping:
		all.add("role", levelWarning, d, "%q owns %s, so that DROP ROLE will fail: have it SET ROLE to the role that is to own them", r.user, many(r.owns, "object"))
	default:
		all.add("role", levelOK, d, "%q%s", r.user, membership(r.memberOf))
	}
	if r.standby {
		all.add("standby", levelNote, nil, "the server is a standby: a login that is made at the primary gets there later, which is a part of the lag")
	}
	judgeValidity(all, f)
	judgeLimits(all, f)
	judgeInterval(all, f)
}

func membership(roles []string) string {
	if len(roles) == 0 {
		return ", a member of no other role"
	}
	return ", a member of " + strings.Join(roles, ", ")
}

func judgeValidity(all *findings, f facts) {
	until := f.server.role.validUntil
	if until.IsZero() {
		all.add("valid-until", levelOK, nil, "the role's password has no end at the server")
		return
	}
	left := until.Sub(f.now).Round(time.Second)
	d := details{"valid_until": until}
	if tooSoon(f.window, left) {
		all.add("valid-until", levelWarning, d, "VALID UNTIL is %s, in %v: the file should have had a successor %v before that, so that the overlap isn't what the window says", stamp(until), left, f.window.Overlap)
		return
	}
	all.add("valid-until", levelOK, d, "VALID UNTIL is %s, in %v", stamp(until), left)
}

// judgeLimits compares the pool, and the one session more that it has during a rotation,
// with what there is room for.
func judgeLimits(all *findings, f facts) {
	r := f.server.role
	if r.super {
		return
	}
	for _, limit := range []struct {
		check, name string
		most, taken int
		raise       string
	}{
		{"role-limit", fmt.Sprintf("CONNECTION LIMIT of role %q", r.user), r.roleLimit, r.roleSessions, "ALTER ROLE"},
		{"database-limit", fmt.Sprintf("CONNECTION LIMIT of database %q", r.database), r.databaseLimit, r.dataSessions, "ALTER DATABASE"},
		{"server-limit", "max_connections, without those that are reserved,", r.maxConnections - r.reserved, r.sessions, "max_connections"},
	} {
		d := details{"limit": limit.most, "sessions": limit.taken, "pool": f.pool}
		free := limit.most - limit.taken
		switch {
		case limit.most < 0:
			all.add(limit.check, levelOK, d, "%s: there is none", limit.name)
		case f.pool == 0:
			all.add(limit.check, levelOK, d, "%s is %d, of which others have %d", limit.name, limit.most, limit.taken)
		case limit.most < f.pool:
			all.add(limit.check, levelFail, d, "%s is %d, less than the pool's %d: make it %d or more (%s), since a rotation needs one more", limit.name, limit.most, f.pool, f.pool+1, limit.raise)
		case limit.most == f.pool:
			all.add(limit.check, levelWarning, d, "%s is %d, as large as the pool: a rotation needs one more (%s)", limit.name, limit.most, limit.raise)
		case limit.check == "server-limit" && free < f.pool+1:
			all.add(limit.check, levelWarning, d, "%s is %d, of which %d are in use now, and leave less than the pool's %d and one more for a rotation (%s)", limit.name, limit.most, limit.taken, f.pool, limit.raise)
		default:
			all.add(limit.check, levelOK, d, "%s is %d, with room for the pool's %d and one more", limit.name, limit.most, f.pool)
		}
	}
}

func judgeInterval(all *findings, f facts) {
	interval := f.server.role.checkInterval
	if interval == "" {
		return
	}
	d := details{"client_connection_check_interval": interval}
	if interval == "0" {
		all.add("interval", levelNote, d, "client_connection_check_interval is 0: a query whose connection is closed, because it outlived its credential, goes on at the server; 10s ends it")
		return
	}
	all.add("interval", levelOK, d, "client_connection_check_interval is %s: the server ends queries whose connection is closed", interval)
}

func judgeWindow(all *findings, f facts) {
	w := f.window
	if !w.given {
		all.add("window", levelNote, nil, "not checked: give -overlap, -in-place or -login-tokens")
		return
	}
	if w.err != nil {
		all.add("window", levelFail, nil, "%s", strings.TrimPrefix(plain(w.err), "window: "))
		return
	}
	d := details{
		"kind": w.kind, "overlap_seconds": w.Overlap.Seconds(), "lag_seconds": w.Lag.Seconds(), "max_in_use_seconds": w.MaxInUse.Seconds(),
		"max_lifetime_seconds": w.MaxLifetime.Seconds(), "drain_seconds": w.DrainTime.Seconds(), "retry_seconds": w.RetryTimeout.Seconds(),
	}
	switch {
	case w.kind == inPlace:
		all.add("window", levelOK, d, "passwords are changed in place: sessions live on, and refused logins wait %v for the new one", w.RetryTimeout)
	case w.kind == loginTokens:
		all.add("window", levelOK, d, "tokens are for logins only: sessions live on")
	case w.MaxLifetime < shortLifetime:
		all.add("window", levelWarning, d, "%s: each connection logs in again that often: is the overlap longer, or the lag shorter?", sum(w))
	default:
		all.add("window", levelOK, d, "%s", sum(w))
	}
	judgeRate(all, f)
	judgeLag(all, f)
}

// sum shows what the lifetime of a connection follows from.
func sum(w windowFacts) string {
	text := fmt.Sprintf("MaxLifetime %v = overlap %v - lag %v%s - max in use %v%s", w.Overlap-w.Lag-w.MaxInUse, w.Overlap, w.Lag, byDefault(w.lagDefault), w.MaxInUse, byDefault(w.useDefault))
	if w.MaxLifetime != w.Overlap-w.Lag-w.MaxInUse {
		text += fmt.Sprintf(", and %v by -conn-max-lifetime", w.MaxLifetime)
	}
	return text
}

func byDefault(is bool) string {
	if is {
		return " (default)"
	}
	return ""
}

// judgeRate says what the window costs.
func judgeRate(all *findings, f facts) {
	w := f.window
	if f.pool == 0 {
		return
	}
	var parts []string
	d := details{"pool": f.pool, "drain_seconds": w.DrainTime.Seconds()}
	if w.MaxLifetime > 0 {
		rate := float64(f.pool) / w.MaxLifetime.Seconds()
		d["logins_per_second"] = rate
		parts = append(parts, fmt.Sprintf("a pool of %d makes up to %.2g logins a second", f.pool, rate))
	}
	parts = append(parts, fmt.Sprintf("after a rotation it is replaced within %v, one connection after the other", w.DrainTime))
	all.add("logins", levelOK, d, "%s", strings.Join(parts, "; "))
}

// judgeLag compares the lag with how the file comes to be read.
func judgeLag(all *findings, f facts) {
	w := f.window
	if f.file.err != nil {
		return
	}
	least, why := time.Duration(0), ""
	if !f.file.status.Events {
		least, why = f.file.poll, "no events arrive, and the file is read every"
	}
	if f.file.version != "" && kubeletSync > least {
		least, why = kubeletSync, "a volume of Kubernetes is written with a delay of up to"
	}
	d := details{"least_seconds": least.Seconds()}
	switch {
	case w.kind == overlapping && w.Lag < least:
		all.add("lag", levelWarning, d, "%v is too short: %s %v", w.Lag, why, least)
	case w.kind == inPlace && w.RetryTimeout < least:
		all.add("lag", levelWarning, d, "refused logins wait %v, which is too short: %s %v: see -retry-timeout", w.RetryTimeout, why, least)
	}
}
