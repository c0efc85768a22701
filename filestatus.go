// What a FileSource says of itself.

package sqlrotate

import (
	"fmt"
	"os"
	"time"
)

// FileStatus is what a [FileSource] knows of itself at one moment.
type FileStatus struct {
	Path     string
	Username string // of the loaded credential
	Version  string // of the loaded credential

	// Loaded is when that version was loaded, Checked when the path was last read
	// and found good: its age is the heartbeat.
	Loaded, Checked time.Time

	// ModTime is the modification time on disk; of a directory, the newest of it
	// and its files.
	ModTime time.Time

	// Diverged is since when the disk has moved on, in content or modification
	// time, and the loaded version has not; zero if it has not moved. Divergence
	// says in what way.
	Diverged   time.Time
	Divergence Divergence

	// Failures counts the failed reads since the last good one, Failing is when
	// the first of them was, and Err is the last; 0, zero and nil if the path is
	// fine. Err quotes nothing of what was read.
	Failures int
	Failing  time.Time
	Err      error

	// Events reports whether the file system's events arrive. If not, EventsErr
	// says why; polling carries on.
	Events    bool
	EventsErr error

	// Unmoved is for how long nothing has changed on disk, as seen by this source.
	Unmoved time.Duration
}

// Divergence is how what is on disk differs from what is loaded.
type Divergence string

const (
	// DivergedNot: it does not.
	DivergedNot Divergence = ""
	// DivergedRewritten: the same login was written again. This is harmless.
	DivergedRewritten Divergence = "same login written again"
	// DivergedSettling: there is new content, which must stay as it is for
	// [FileOptions].Settle to be believed.
	DivergedSettling Divergence = "being written"
	// DivergedRefused: there is new content, which holds no credential.
	DivergedRefused Divergence = "not accepted"
)

// Status returns the state of the source, computed at the call.
func (s *FileSource) Status() FileStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statusLocked(time.Now())
}

func (s *FileSource) statusLocked(now time.Time) FileStatus {
	st := FileStatus{
		Path: s.path, Version: s.good.Version, Username: s.good.Username,
		Loaded: s.loaded, Checked: s.checked, ModTime: s.modTime,
		Failures: s.failures, Failing: s.failing, Err: s.err,
		Events: s.eventsErr == nil, EventsErr: s.eventsErr, Unmoved: now.Sub(s.moved),
	}
	switch c := s.candidate; {
	case c != nil && c.refused != nil:
		st.Diverged, st.Divergence = c.since, DivergedRefused
	case c != nil:
		st.Diverged, st.Divergence = c.since, DivergedSettling
	case !s.rewritten.IsZero():
		st.Diverged, st.Divergence = s.rewritten, DivergedRewritten
	}
	return st
}

// Healthy returns nil, or what is wrong with the file in words an operator can act
// on. To have no events is not wrong: polling carries on.
func (s *FileSource) Healthy() error {
	s.mu.Lock()
	now, closed := time.Now(), s.closed
	st := s.statusLocked(now)
	s.mu.Unlock()
	if closed {
		return s.wrap(os.ErrClosed)
	}
	return s.health(st, now)
}

// health judges a status.
func (s *FileSource) health(st FileStatus, now time.Time) error {
	ago := func(t time.Time) time.Duration { return now.Sub(t).Round(time.Millisecond) }
	inUse := fmt.Sprintf("version %s (user %q), loaded %v ago, stays in use", st.Version, st.Username, ago(st.Loaded))
	switch unchecked := ago(st.Checked); {
	case st.Divergence == DivergedRefused:
		return fmt.Errorf("sqlrotate: %v changed %v ago and is not accepted; %s: %w", s, ago(st.Diverged), inUse, st.Err)
	case st.Err != nil:
		return fmt.Errorf("sqlrotate: %v can't be read for %v (%d failures); %s: %w", s, ago(st.Failing), st.Failures, inUse, st.Err)
	case unchecked > 3*s.opt.poll()+s.opt.settle()+s.opt.readTimeout():
		why := "nothing has been read"
		if st.Divergence == DivergedSettling {
			why = "it is being written all the time"
		}
		return fmt.Errorf("sqlrotate: %v was last read whole %v ago, %s; %s", s, unchecked, why, inUse)
	case s.opt.MaxAge > 0 && st.Unmoved > s.opt.MaxAge:
		return fmt.Errorf("sqlrotate: %v has not changed for %v, longer than FileOptions.MaxAge (%v): does whoever writes it still run, and is it a mount that is updated (a subPath is not)?",
			s, st.Unmoved.Round(time.Second), s.opt.MaxAge)
	}
	return nil
}
