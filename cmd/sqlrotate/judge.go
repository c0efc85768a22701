// What check makes of the facts: rules, and the words for them.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

const (
	// kubeletSync is how long the kubelet may take to write what is new into a volume.
	kubeletSync = 90 * time.Second

	// shortLifetime is what New warns below.
	shortLifetime = 10 * time.Second
)

// judge says what follows from the facts. It reads no clock and no disk.
func judge(f facts) (all findings) {
	judgeFile(&all, f)
	judgeDSN(&all, f.dsn)
	judgeServer(&all, f)
	judgeWindow(&all, f)
	return all
}

func judgeFile(all *findings, f facts) {
	if f.file.err != nil {
		d := decodeDetails(f.file.err)
		all.add("file", levelFail, d, "%s", unreadable(f.file))
		return
	}
	judgeFormat(all, f.file)
	judgePassword(all, f)
	judgeMount(all, f.file)
	judgePermissions(all, f.file)
	judgeEvents(all, f.file)
	judgeEnd(all, f)
	judgeElsewhere(all, f)
}

// unreadable says why there is no credential.
func unreadable(f fileFacts) string {
	switch err := f.err; {
	case f.nearest != "" && errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("there is no %q: the nearest directory that is there is %q", f.path, f.nearest)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("uid %d may not read %q: %s", f.uid, f.path, barrier(f))
	case f.isDir && reasonOf(err) == sqlrotate.DecodeEmpty:
		return plain(err) + " (docker -v makes an empty directory where the file to mount isn't there)"
	default:
		return plain(err)
	}
}

func reasonOf(err error) sqlrotate.DecodeReason {
	var e *sqlrotate.DecodeError
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// barrier names what keeps this process from reading, as far as that can be seen: a file,
// or the last of the directories that it gets to.
func barrier(f fileFacts) string {
	at := f.dirs
	for _, a := range f.modes {
		if a.closed {
			at = []access{a}
		}
	}
	if len(at) == 0 {
		return "a directory on the way keeps it out"
	}
	return fmt.Sprintf("%s; give it to that user, by its owner, its group (fsGroup) or its mode", at[len(at)-1])
}

func (a access) String() string {
	return fmt.Sprintf("%q is %04o, of uid %d and gid %d", a.path, a.mode.Perm(), a.uid, a.gid)
}

func judgeFormat(all *findings, f fileFacts) {
	p := f.parsed
	d := details{"path": f.path, "format": p.Format, "why": p.Why, "username": p.Username, "username_key": strings.Trim(p.From.Username.Key, `"`), "password_key": strings.Trim(p.From.Password.Key, `"`)}
	what := "the password and another file the user name"
	switch {
	case p.Format != "":
		what = formatOf(p)
	case p.files != nil:
		what = "a directory of key files"
		d["files"] = p.files
	}
	all.add("file", levelOK, d, "%q is %s; user %q %s, a password %s", f.path, what, p.Username, from(p.From.Username), from(p.From.Password))
}

// judgePassword says whether lib/pq sends what PostgreSQL expects.
func judgePassword(all *findings, f facts) {
	d := details{"may_be_normalised": true}
	switch {
	case !f.file.parsed.normalised:
	case f.server.asked && f.server.err == nil:
		all.add("password", levelNote, d, "it has characters that PostgreSQL normalises (SASLprep) where it asks for SCRAM, and lib/pq does not: it works as long as this server doesn't ask for that")
	default:
		all.add("password", levelWarning, d, "it has characters that PostgreSQL normalises (SASLprep) where it asks for SCRAM, and lib/pq does not: it may be refused although it is right, so use pgxopener, or a password of ASCII")
	}
}

func judgeMount(all *findings, f fileFacts) {
	d := details{"filesystem": f.volume.Kind, "mounted_at": f.volume.Point, "mounted_alone": f.mount.Alone}
	switch {
	case f.mount.Alone && (f.mount.Name == "" || !f.status.ReplacedSince.IsZero()):
		all.add("mount", levelFail, d, "it is a mount of a file that another one has taken the place of: it never shows that one, so mount the directory and start anew")
	case f.mount.Alone && hasVersion(f.volume.Root):
		all.add("mount", levelFail, d, "it is a subPath, which shows one version of the volume for ever: mount the volume as a directory")
	case f.mount.Alone:
		all.add("mount", levelWarning, d, "it is a mount of a single file (docker -v, subPath), which never shows another file that takes its place: mount the directory")
	case f.volume.Kind == "":
		all.add("mount", levelOK, nil, "this system doesn't say what is mounted where")
	case f.volume.Kind == "overlay" && f.volume.Point == "/":
		all.add("mount", levelNote, d, "nothing is mounted there: it is the container's own file system, which nobody outside writes to")
	default:
		text := fmt.Sprintf("%s, mounted at %q", f.volume.Kind, f.volume.Point)
		if f.version != "" {
			text += ", a volume with versions (..data), of which all is read from one"
			d["version"] = filepath.Base(f.version)
		}
		all.add("mount", levelOK, d, "%s", text)
	}
}

func judgePermissions(all *findings, f fileFacts) {
	if !f.owners || len(f.modes) == 0 {
		return
	}
	file, closed, writable := f.exposed()
	readable := file.mode.Perm()&0o004 != 0
	d := details{"mode": fmt.Sprintf("%04o", file.mode.Perm()), "uid": file.uid, "gid": file.gid, "world_readable": readable && closed == nil}
	switch {
	case writable != nil && closed == nil:
		all.add("permissions", levelWarning, d, "anybody can put another credential there: %s; take the right to write from others", writable)
	case readable && closed == nil:
		all.add("permissions", levelWarning, d, "any user that sees this file system can read the password: %s; make it 0640 or 0400 (defaultMode, the agent's perms), and have MaxMode refuse more", file)
	case readable:
		all.add("permissions", levelOK, d, "%s, but nobody else gets there: %s", file, closed)
	default:
		all.add("permissions", levelOK, d, "%s", file)
	}
	if f.uid == 0 {
		all.add("user", levelNote, details{"uid": 0}, "this is root, who may read everything: run check as the application's user")
	}
}

// exposed returns the file that most may read, the last directory that keeps others out,
// and what anybody may write to; nil if there is none.
func (f fileFacts) exposed() (file access, closed, writable *access) {
	file = f.modes[0]
	for _, a := range f.modes {
		if a.mode.Perm()&^file.mode.Perm() != 0 {
			file = a
		}
		if a.mode.Perm()&0o002 != 0 {
			writable = &a
		}
	}
	for _, dir := range f.dirs {
		if dir.mode.Perm()&0o001 == 0 {
			closed = &dir
		}
		if dir.mode.Perm()&0o002 != 0 && dir.mode&fs.ModeSticky == 0 {
			writable = &dir
		}
	}
	return file, closed, writable
}

func judgeEvents(all *findings, f fileFacts) {
	d := details{"events": f.status.Events, "writable": f.canWrite}
	hand := ""
	if f.canWrite {
		hand = "; this process may write there, so -write can try it"
	}
	switch {
	case f.deaf:
		all.add("events", levelNote, d, "they are switched off: the file is read every %v, and by each login", f.poll)
	case f.wasTouched && f.touchErr != nil && f.status.Events:
		all.add("events", levelWarning, d, "%s: changes are found by the poll every %v, and by each login", plain(f.touchErr), f.poll)
	case f.wasTouched && f.status.Events:
		all.add("events", levelOK, d, "a file that was made there was an event after %v", f.touched.Round(time.Microsecond))
	case f.status.Events:
		all.add("events", levelOK, d, "the directory is watched; whether events arrive is seen at a rotation, with -watch%s", hand)
	case f.volume.Remote != "":
		all.add("events", levelNote, d, "there are none on %s: the file is read every %v, and by each login", f.volume.Remote, f.poll)
	default:
		all.add("events", levelWarning, d, "none arrive: %s; the file is read every %v, and by each login", plain(f.status.EventsErr), f.poll)
	}
}

// judgeEnd compares the end that the file names with the window.
func judgeEnd(all *findings, f facts) {
	end := f.file.parsed.NotAfter
	if end.IsZero() {
		return
	}
	left := end.Sub(f.now).Round(time.Second)
	d := details{"not_after": end}
	switch {
	case left <= 0 && f.server.asked:
		// The login says so.
	case left <= 0:
		all.add("end", levelFail, d, "it has ended, %v ago, at %s, and has no successor: does whoever writes it still run?", -left, stamp(end))
	case tooSoon(f.window, left):
		all.add("end", levelWarning, d, "it ends in %v, at %s, and has no successor, which should have come %v before", left, stamp(end), f.window.Overlap)
	default:
		all.add("end", levelOK, d, "it ends in %v, at %s", left, stamp(end))
	}
}

// tooSoon reports whether a credential that ends in so long is one that should have a
// successor by now.
func tooSoon(w windowFacts, left time.Duration) bool {
	return w.given && w.kind == overlapping && left < w.Overlap
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

// judgeElsewhere compares where the file and the DSN say that the database is.
func judgeElsewhere(all *findings, f facts) {
	p, d := f.file.parsed, f.dsn
	if !d.given || d.err != nil {
		return
	}
	var differ []string
	for _, part := range []struct{ name, file, dsn string }{{"host", p.Host, d.host}, {"port", p.Port, d.port}, {"database", p.Database, d.database}} {
		if d.others > 0 && part.name != "database" {
			continue // it may be one of them
		}
		if part.file != "" && !strings.EqualFold(part.file, part.dsn) {
			differ = append(differ, fmt.Sprintf("%s %q where the DSN has %q", part.name, part.file, part.dsn))
		}
	}
	if differ != nil {
		all.add("elsewhere", levelWarning, details{"host": p.Host, "port": p.Port, "database": p.Database}, "the file names %s: the file isn't followed, logins go where the DSN says", strings.Join(differ, ", "))
	}
}

func judgeDSN(all *findings, d dsnFacts) {
	judgeEnvironment(all, d)
	if !d.given {
		return
	}
	if d.err != nil {
		all.add("dsn", levelFail, nil, "%s", plain(d.err))
		return
	}
	facts := details{"host": d.host, "port": d.port, "database": d.database, "further_hosts": d.others}
	if d.others > 0 {
		all.add("dsn", levelNote, facts, "%s, and %s more: what follows is about the one that lets the login in", whereabouts(d.host, d.port, d.database), many(d.others, "host"))
	} else {
		all.add("dsn", levelOK, facts, "%s", whereabouts(d.host, d.port, d.database))
	}
	judgeTLS(all, d)
}

func judgeEnvironment(all *findings, d dsnFacts) {
	if len(d.secrets) > 0 {
		all.add("pgpassword", levelWarning, details{"variables": d.secrets}, "%s is set: the library ignores it, but a password in the environment is inherited and shown by much: unset it", strings.Join(d.secrets, ", "))
	}
	var parts []string
	if len(d.ignored) > 0 {
		parts = append(parts, strings.Join(d.ignored, ", ")+": ignored, since the login comes from the file")
	}
	if len(d.used) > 0 {
		parts = append(parts, strings.Join(d.used, ", ")+": stands in for what the DSN doesn't say, so the application needs the same")
	}
	if parts != nil {
		all.add("environment", levelNote, details{"ignored": d.ignored, "used": d.used}, "%s", strings.Join(parts, "; "))
	}
}

func judgeTLS(all *findings, d dsnFacts) {
	facts := details{"sslmode": d.sslmode, "verifies": "nothing"}
	weak := levelWarning
	if d.local {
		weak = levelNote
	}
	authorities := "the system's authorities"
	if d.roots != "" {
		authorities = "the authorities in " + d.roots
	}
	switch {
	case d.socket:
		all.add("tls", levelOK, facts, "none, over a Unix socket")
	case d.sslmode == "disable" && d.local:
		all.add("tls", levelOK, facts, "none (sslmode=disable), to this machine")
	case d.sslmode == "disable":
		all.add("tls", weak, facts, "none (sslmode=disable): data, and a password if the server asks for it, can be read on the way to %q: use verify-full", d.host)
	case d.sslmode == "prefer":
		all.add("tls", weak, facts, "sslmode=prefer goes without TLS if somebody on the way says that the server has none: use verify-full")
	case d.sslmode == "require" && d.roots == "":
		all.add("tls", weak, facts, "sslmode=require encrypts and verifies nothing, so that anybody on the way can be the server: use verify-full")
	case d.sslmode == "verify-full":
		facts["verifies"] = "authority and host"
		all.add("tls", levelOK, facts, "verify-full: the server's certificate is for %q, and from %s", d.host, authorities)
	case d.sslmode == "require" || d.sslmode == "verify-ca":
		facts["verifies"] = "authority"
		all.add("tls", levelNote, facts, "sslmode=%s: the server's certificate is from %s, whatever host it is for: verify-full looks at that, too", d.sslmode, authorities)
	default:
		all.add("tls", levelNote, facts, "sslmode=%s is the application's own", d.sslmode)
	}
}
