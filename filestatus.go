// What a FileSource says of itself.

package sqlrotate

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// FileStatus is what a [FileSource] knows of itself at one moment.
type FileStatus struct {
	Path string

	// Username and Version are the loaded credential's, and Format is the format that
	// it was in, named or recognised; empty if it came from a directory or from two
	// files, or through [FileOptions].Decode.
	Username string
	Version  string
	Format   Format

	// Host, Port and Database are what the loaded file names beside the login; empty if
	// it names none, or several. They are told of, and not followed: where the database
	// is, the DSN says. MovedSince is since when the file has named another one of them
	// than when it was first read; zero if it doesn't.
	Host, Port, Database string
	MovedSince           time.Time

	// Reads counts the looks at the path so far, FailedReads those of them that found
	// nothing to be used, and Loads the versions that were loaded.
	Reads, FailedReads, Loads uint64

	// TimersLate is for how long polls were overdue that were late by more than 100 ms, as in
	// [Stats].
	TimersLate time.Duration

	// LoadedAt is when that version was loaded, CheckedAt when the path was last read
	// and found good: its age is the heartbeat.
	LoadedAt, CheckedAt time.Time

	// ModTime is the modification time on disk; of a directory, the newest of it
	// and its files.
	ModTime time.Time

	// Divergence says how what is on disk differs from what is loaded, and
	// DivergedSince since when; zero if it doesn't.
	Divergence    Divergence
	DivergedSince time.Time

	// Failures counts the failed reads since the last good one, FailingSince is when
	// the first of them was, and Err is the last error; 0, zero and nil if the path is
	// fine. Err quotes nothing of what was read.
	Failures     int
	FailingSince time.Time
	Err          error

	// Events reports whether the file system's events arrive. If not, EventsErr
	// says why; polling carries on.
	Events    bool
	EventsErr error

	// UnchangedFor is for how long this source has seen no change on disk, of content
	// or modification time, and MaxAge is [FileOptions].MaxAge; 0: no limit.
	UnchangedFor time.Duration
	MaxAge       time.Duration

	// MountedAlone says that, at the start, a path was a mount of a single file (such
	// as docker -v makes of one), or of one version of a volume (a Kubernetes subPath).
	// Such a mount shows what is written into the file, but never another file that
	// takes its place. ReplacedSince is when that was found to have happened; zero if
	// it has not.
	MountedAlone  bool
	ReplacedSince time.Time
}

// Divergence is how what is on disk differs from what is loaded. The values don't change:
// they are fit for a metric's label.
type Divergence string

// Ways in which what is on disk differs from what is loaded.
const (
	DivergedNot       Divergence = ""          // not at all
	DivergedRewritten Divergence = "rewritten" // the same login was written again, which is harmless
	DivergedSettling  Divergence = "settling"  // new content is to be believed when it has been left alone for [FileOptions].Settle
	DivergedRefused   Divergence = "refused"   // new content holds no credential
)

// Status returns the state of the source, computed at the call.
func (s *FileSource) Status() FileStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statusLocked(time.Now())
}

func (s *FileSource) statusLocked(now time.Time) FileStatus {
	st := FileStatus{
		Path: s.path, Version: s.good.Version, Username: s.good.Username, Format: s.format,
		Reads: s.reads, FailedReads: s.failed, Loads: s.serial, TimersLate: s.late,
		LoadedAt: s.loaded, CheckedAt: s.checked, ModTime: s.modTime,
		Failures: s.failures, FailingSince: s.failing, Err: s.err,
		Events: s.eventsErr == nil, EventsErr: s.eventsErr, UnchangedFor: now.Sub(s.moved), MaxAge: max(s.opt.MaxAge, 0),
		Host: s.server.host, Port: s.server.port, Database: s.server.database, MovedSince: s.movedAway,
		MountedAlone: s.mountedAlone, ReplacedSince: s.replaced,
	}
	switch c := s.candidate; {
	case c != nil && c.refused != nil:
		st.DivergedSince, st.Divergence = c.since, DivergedRefused
	case c != nil:
		st.DivergedSince, st.Divergence = c.since, DivergedSettling
	case !s.rewritten.IsZero():
		st.DivergedSince, st.Divergence = s.rewritten, DivergedRewritten
	}
	return st
}

// server is where a file says that its database is.
type server struct{ host, port, database string }

// elsewhere returns in what other differs, of what both name, in words; nothing if in none
// of it.
func (s server) elsewhere(other server) string {
	var all []string
	for _, part := range []struct{ name, here, there string }{
		{"host", strings.ToLower(s.host), strings.ToLower(other.host)},
		{"port", s.port, other.port},
		{"database", s.database, other.database},
	} {
		if part.here != part.there && part.here != "" && part.there != "" {
			all = append(all, fmt.Sprintf("%s %.100q in place of %.100q", part.name, part.there, part.here))
		}
	}
	return strings.Join(all, ", ")
}

// CheckHealth returns nil, or what is wrong with the file in words an operator can act
// on. To have no events is not wrong: polling carries on.
func (s *FileSource) CheckHealth() error {
	s.mu.Lock()
	now, closed := time.Now(), s.closed
	st, elsewhere := s.statusLocked(now), s.first.elsewhere(s.server)
	s.mu.Unlock()
	if closed {
		return s.wrap(os.ErrClosed)
	}
	return s.health(st, elsewhere, now)
}

// health judges a status. elsewhere says where the file has the database now, if that is
// not where it was.
func (s *FileSource) health(st FileStatus, elsewhere string, now time.Time) error {
	ago := func(t time.Time) time.Duration { return now.Sub(t).Round(time.Millisecond) }
	inUse := fmt.Sprintf("version %s (user %q), loaded %v ago, stays in use", st.Version, st.Username, ago(st.LoadedAt))
	switch unchecked := ago(st.CheckedAt); {
	case st.Divergence == DivergedRefused:
		return fmt.Errorf("sqlrotate: %v changed %v ago and is not accepted; %s: %w", s, ago(st.DivergedSince), inUse, st.Err)
	case st.Err != nil:
		return fmt.Errorf("sqlrotate: %v can't be read for %v (%d failures); %s: %w", s, ago(st.FailingSince), st.Failures, inUse, st.Err)
	case !st.ReplacedSince.IsZero():
		return fmt.Errorf("sqlrotate: %v is a mount of what another file has taken the place of, %v ago or before, and never shows that one: mount its directory, not the file (nor a subPath); %s",
			s, ago(st.ReplacedSince), inUse)
	case unchecked > 3*s.opt.poll()+s.opt.settle()+s.opt.readTimeout():
		why := "nothing has been read"
		if st.Divergence == DivergedSettling {
			why = "it is being written all the time"
		}
		return fmt.Errorf("sqlrotate: %v was last read whole %v ago, %s; %s", s, unchecked, why, inUse)
	case elsewhere != "":
		return fmt.Errorf("sqlrotate: %v has named %s for %v: logins go where the DSN says, so the application may have to be told and started again", s, elsewhere, ago(st.MovedSince))
	case s.opt.MaxAge > 0 && st.UnchangedFor > s.opt.MaxAge:
		return fmt.Errorf("sqlrotate: %v has not changed for %v, longer than FileOptions.MaxAge (%v): does whoever writes it still run, and is it a mount that is updated (a subPath is not)?",
			s, st.UnchangedFor.Round(time.Second), s.opt.MaxAge)
	}
	return nil
}
