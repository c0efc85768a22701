// FileSource: the latest credential in a file or a directory of key files,
// whoever writes it and however.

package sqlrotate

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

const (
	defaultPoll        = 5 * time.Second
	defaultSettle      = 500 * time.Millisecond
	defaultReadTimeout = 2 * time.Second

	// young is the age below which a file that has replaced another is looked at
	// twice: it could have been created under its name and not be complete.
	young = 30 * time.Millisecond
	// breath is the least time between two reads that events cause.
	breath = 20 * time.Millisecond
	// closeWait bounds Close when a read hangs.
	closeWait = time.Second
)

// FileOptions says how [NewFileSource] reads. The zero value is good for what the
// usual agents write.
type FileOptions struct {
	// Username is the user name for what is read without one, such as a bare
	// password. What holds another one is refused, so leave it empty for roles that
	// change. Empty: what is read must hold one.
	Username string

	// Format is the format of the file. Empty: it is recognised. Name it for a bare
	// password ([FormatPassword]): one that is generated may happen to look like
	// something else.
	Format Format

	// UsernameKey and PasswordKey are the names under which the two are found in
	// a file or directory of named values, with dots between those that are nested
	// in JSON or YAML: db.primary.password, or users.0.name for the first of an
	// array. Empty: the usual names.
	UsernameKey, PasswordKey string

	// UsernameFile is the path of a second file, which holds the user name; that of the
	// source then holds the password, and each of them nothing else, as with the
	// secrets of Docker and Compose. Whoever writes two files can't change both at one
	// moment: what is new is believed when both have been left alone for Settle, at the
	// start too. Username, Format (but for [FormatPassword]), the two keys and Decode
	// say how one file is read: with a second one they are an error. Empty: there is
	// one path.
	UsernameFile string

	// Decode, if set, decodes the content of the file in place of the formats. It
	// must not keep or change the slice. Of what it returns, Version and PublishedAt are
	// replaced by the source's own. Of an error or a panic only the type is told, because
	// its text may quote the content. Of directories it decodes those that hold one file
	// only.
	Decode func([]byte) (Credential, error)

	// Poll is how often the path is read without any event. All that is promised
	// holds by polling alone, so it can't be switched off. Zero means
	// 5 s; negative is an error. A poll costs some tens of microseconds.
	Poll time.Duration

	// Settle is how long content that was written in place must be left alone
	// before it is believed: longer than any pause within one rewrite. Until
	// then the last good credential is served. What was put in place as a whole,
	// by a rename or a change of a symlink, does not wait for it, and nor does JSON
	// where there was nothing before: it shows its end. A file that was removed and
	// created again between two looks can't be told from one that was renamed into
	// place, and is believed when it is 30 ms old: a bare password that is written in
	// that way, and in pieces, may be read in part. Zero means 500 ms;
	// negative means that everything is believed at first sight.
	Settle time.Duration

	// WaitFor is how long NewFileSource waits for a usable credential if there is
	// none at once, because the agent starts later. Zero or negative: not at all, but
	// for a file that is being written, which gets Settle to become whole.
	WaitFor time.Duration

	// ReadTimeout bounds one read, for file systems that hang. Past it the last
	// good credential is served, and no other read is begun until that one has
	// returned. Zero or negative means 2 s.
	ReadTimeout time.Duration

	// MaxAge is the longest time that may pass without any change on disk, of
	// content or modification time, before CheckHealth takes the producer for dead.
	// (A Kubernetes subPath mount, for one, never changes.) Zero or negative: no limit.
	MaxAge time.Duration

	// MaxMode is the permissions that a file may have at the most, such as 0o600 or
	// 0o640: with more than that it is not read, as libpq does with its passfile. Zero
	// means that they don't matter.
	MaxMode fs.FileMode

	// PollOnly leaves the file system's events alone.
	PollOnly bool

	// Logger gets one line for each new version and each change of state. Nil
	// means [slog.Default].
	Logger *slog.Logger
}

func (o FileOptions) poll() time.Duration   { return orDefault(o.Poll, defaultPoll) }
func (o FileOptions) settle() time.Duration { return orDefault(o.Settle, defaultSettle) }
func (o FileOptions) readTimeout() time.Duration {
	return orDefault(max(o.ReadTimeout, 0), defaultReadTimeout)
}

func (o FileOptions) logger() *slog.Logger {
	if o.Logger != nil {
		return o.Logger
	}
	return slog.Default()
}

// check returns what is wrong with the options.
func (o FileOptions) check() error {
	if o.Poll < 0 {
		return fmt.Errorf("FileOptions.Poll is %v: polling can't be switched off", o.Poll)
	}
	one := o.Username != "" || o.UsernameKey != "" || o.PasswordKey != "" || o.Decode != nil || (o.Format != FormatAuto && o.Format != FormatPassword)
	if o.UsernameFile != "" && one {
		return errors.New("FileOptions.UsernameFile is for two files that hold one value each: leave Username, Format, UsernameKey, PasswordKey and Decode empty")
	}
	return nil
}

func (o FileOptions) decoding() decodeOptions {
	return decodeOptions{
		Options: credfile.Options{
			Format: credfile.Format(o.Format), Username: o.Username,
			UsernameKey: o.UsernameKey, PasswordKey: o.PasswordKey,
		},
		decode: o.Decode,
	}
}

// FileSource is a [Source] that reads a file, or a directory of key files such as
// a mounted Kubernetes Secret. It is also a [Notifier] and a [Refresher].
//
// Each call of Credential reads the path, so nothing depends on an event. Content
// decides whether something has changed, never the modification time. Of a
// directory, all keys are of one version. A file that was put in place of another
// (renamed over it, or behind a symlink that was changed) is believed at once, or,
// if it is younger than 30 ms, when it is that old; a directory whose ..data link
// was changed is believed at once; whatever else was written, in place or where
// there was nothing, when it has been left alone for [FileOptions].Settle (JSON where
// there was nothing, at once).
//
// When the path can't be read, or holds no credential, the last good credential
// stays: the failure is in Status, in CheckHealth and in the log. Only regular files
// of at most 1 MiB are read.
//
// A FileSource is safe for concurrent use. It holds one goroutine until it is closed,
// and all of a process share one inotify instance. On network file systems and FUSE
// there are no events: a change is seen within one [FileOptions].Poll, and by each login.
type FileSource struct {
	path  string
	paths []string // path, and the user name's if that has one of its own
	opt   FileOptions
	log   *slog.Logger

	// The seams of the tests: the system calls.
	read   func() (disk.Snapshot, error)
	events watching

	wake chan struct{} // look again: an event, or something that has to settle
	stop chan struct{}
	done chan struct{} // closed when the loop has ended and let go of everything

	// Used by the one visit that runs, and by the loop after the last.
	mint   func(Credential) string // a fingerprint
	mounts []disk.Mount            // of paths, when there was a first credential

	// mu guards what follows. Nothing is read, decoded or logged under it.
	mu      sync.Mutex
	closed  bool
	running *visit
	next    *visit // starts when running is over

	good        *Credential // the last good one; nil until there is one
	format      Format      // that it was in
	server      server      // what was named beside it
	first       server      // what was named at first
	movedAway   time.Time   // since when that has been another
	goodSum     disk.Digest
	goodModTime time.Time // when good was loaded
	serial      uint64
	loaded      time.Time     // when good became the loaded version
	rewritten   time.Time     // since when good's login has been on disk with another mtime
	changed     chan struct{} // closed and replaced with each change of good

	seen      disk.Identity // what was found at the last look
	gone      bool          // nothing was found at the last look
	modTime   time.Time     // of what was found last
	moved     time.Time     // when content or mtime was last seen to change
	candidate *candidate    // content that is not good's, and not believed

	mountedAlone bool      // a path is a mount that can't be given another file
	outdated     bool      // and what it was made of has lost its name
	replaced     time.Time // since when that, or a file without a link, has been seen

	reads, failed uint64        // looks, and those of them that failed
	late          time.Duration // timers, all together

	checked   time.Time // the last look that ended well
	failures  int
	failing   time.Time // since when
	err       error     // the last failure; nil after a good look
	eventsErr error     // why there are no events; nil if there are

	eventsTold bool // that there are none, in the log, above the level Debug
}

// watching is what a source needs of the file system's events.
type watching interface {
	Arm() error // watches what matters now
	Close()
}

// visit is one look at the path. Callers share one that starts after they came.
type visit struct {
	arm     bool // set the watches first
	started time.Time
	overdue bool // has been counted as a failure
	done    chan struct{}
}

// candidate is content that waits to be believed, or has been refused.
type candidate struct {
	id      disk.Identity
	sum     disk.Digest
	since   time.Time
	wait    time.Duration // for which it must not change, counted from since
	refused error         // it was decoded, and is no credential
}

var (
	errPollOnly = errors.New("switched off by FileOptions.PollOnly")
	errHangs    = errors.New("reading it takes longer than FileOptions.ReadTimeout")

	// errLeased is for a file that another process has taken a lease on: opening it
	// makes that one give it back.
	errLeased error = syscall.EAGAIN
)

// NewFileSource reads the credential at path, a file or a directory of key files,
// and then watches it. It fails if there is no usable credential and none comes
// within [FileOptions].WaitFor: the error wraps what reading said, such as
// fs.ErrNotExist, or a [*DecodeError]. A negative Poll is an error, too.
func NewFileSource(path string, opt FileOptions) (*FileSource, error) {
	s, err := newFileSource(path, opt)
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

func newFileSource(path string, opt FileOptions) (*FileSource, error) {
	if path == "" {
		return nil, errors.New("sqlrotate: file: the path is empty")
	}
	if err := opt.check(); err != nil {
		return nil, fmt.Errorf("sqlrotate: file %q: %w", path, err)
	}
	paths := []string{path}
	if opt.UsernameFile != "" {
		paths = append(paths, opt.UsernameFile)
	}
	for i, path := range paths {
		var err error
		if paths[i], err = disk.Abs(path); err != nil {
			return nil, fmt.Errorf("sqlrotate: file %q: %w", path, err)
		}
	}
	s := &FileSource{
		path: paths[0], paths: paths, opt: opt, log: opt.logger(),
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	reader := disk.NewReader(paths...)
	reader.MaxMode = opt.MaxMode.Perm()
	s.read = reader.Read
	s.events = disk.NewWatch(s.wake, paths...)
	s.mint = newFingerprints()
	return s, nil
}

// start finds the first credential and leaves the loop running, or nothing.
func (s *FileSource) start() error {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		looked := time.Now()
		_ = s.look(context.Background(), true)
		s.mu.Lock()
		found := s.good != nil
		err, pending := s.err, s.candidate != nil
		settles := s.settlesLocked(looked)
		// A file that is being written gets the time to become whole.
		patience := max(s.opt.WaitFor, 0)
		if pending && time.Since(s.modTime) < s.opt.settle() || errors.Is(err, errLeased) {
			patience += s.opt.settle()
		}
		s.mu.Unlock()
		if found {
			go s.loop()
			return nil
		}
		if err == nil && pending {
			patience += s.opt.settle()
			err = errors.New("it is being written all the time")
		}
		// By when it looked, not by now: a process that is stalled has seen little.
		left := max(patience-looked.Sub(began), settles)
		if left <= 0 {
			go s.release()
			_ = s.Close()
			return s.wrap(err)
		}
		timer.Reset(min(left, young))
		select {
		case <-timer.C:
		case <-s.wake:
		}
	}
}

// settlesLocked returns how soon to look again at content that has not changed from one
// look to the next, which began at looked, and is about to be believed: 0 if there is
// none.
func (s *FileSource) settlesLocked(looked time.Time) time.Duration {
	c := s.candidate
	if c == nil || s.err != nil || !c.since.Before(looked) {
		return 0
	}
	return max(c.wait-time.Since(c.since), 1)
}

// Credential reads the path and returns the newest credential that is to be
// believed. When there is none, for whatever reason, it returns the last good
// one. It fails when ctx is done or the source is closed.
func (s *FileSource) Credential(ctx context.Context) (Credential, error) {
	if err := s.look(ctx, false); err != nil {
		return Credential{}, err
	}
	return s.last(), nil
}

// Refresh returns a credential other than refused if there is one. It waits for
// content that is about to be believed.
func (s *FileSource) Refresh(ctx context.Context, refused Credential) (Credential, error) {
	if cred := s.last(); !cred.SameLogin(refused) {
		return cred, nil
	}
	timer := time.NewTimer(s.opt.settle() + 2*young)
	defer timer.Stop()
	for {
		changed := s.Changed()
		cred, err := s.Credential(ctx)
		if err != nil || !cred.SameLogin(refused) || !s.undecided() {
			return cred, err
		}
		select {
		case <-changed:
		case <-timer.C:
			return s.Credential(ctx)
		case <-ctx.Done():
			return Credential{}, s.wrap(ctx.Err())
		case <-s.stop:
			return Credential{}, s.wrap(os.ErrClosed)
		}
	}
}

// Changed returns a channel that is closed at the next change of the credential,
// as [Notifier] says.
func (s *FileSource) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// String names the source in messages.
func (s *FileSource) String() string {
	if s.opt.UsernameFile != "" {
		return fmt.Sprintf("file %q with %q", s.path, s.opt.UsernameFile)
	}
	return fmt.Sprintf("file %q", s.path)
}

// Close ends the watching and waits for it, for at most a second if a read hangs.
// It can be called more than once.
func (s *FileSource) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
	s.mu.Unlock()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
	return nil
}

// last returns the last good credential; there is one once start has returned.
func (s *FileSource) last() Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good == nil {
		return Credential{}
	}
	return *s.good
}

// undecided reports whether there is content that time alone can make believable.
func (s *FileSource) undecided() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.candidate != nil && s.candidate.refused == nil
}

func (s *FileSource) wrap(err error) error { return fmt.Errorf("sqlrotate: %v: %w", s, err) }

// loop looks at the path at each poll, after each event, and when content that
// was seen has had its time to settle.
func (s *FileSource) loop() {
	defer s.release()
	last := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait := func(d time.Duration) (due time.Time) {
		timer.Reset(d)
		return time.Now().Add(max(d, 0))
	}
	for due := wait(s.pause(last)); ; {
		select {
		case <-s.stop:
			return
		case <-s.wake:
			// The first event is followed at once, a burst with a few reads.
			if left := breath - time.Since(last); left > 0 {
				due = wait(left)
				continue
			}
		case <-timer.C:
			s.fired(due)
		}
		_ = s.look(context.Background(), true)
		last = time.Now()
		due = wait(s.pause(last))
	}
}

// fired notes that the timer has fired that was due then.
func (s *FileSource) fired(due time.Time) {
	late := time.Since(due)
	if late <= punctual {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late += late
}

// pause returns how long after a look at now the next one is due.
func (s *FileSource) pause(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The polls of a process come together, so that it wakes less often.
	pause := s.opt.poll()
	pause = now.Add(pause).Truncate(max(pause/16, 1)).Sub(now.Round(0))
	hangs := s.running != nil && s.running.overdue
	if errors.Is(s.err, errLeased) && now.Sub(s.failing) < s.opt.settle() {
		pause = min(pause, max(s.opt.settle()/5, breath))
	}
	if c := s.candidate; c != nil && c.refused == nil && !hangs {
		pause = min(pause, max(c.since.Add(c.wait).Sub(now), breath))
	}
	return pause
}

// release waits for the last visit and lets go of the watches.
func (s *FileSource) release() {
	defer close(s.done)
	for {
		s.mu.Lock()
		f := s.running
		s.mu.Unlock()
		if f == nil {
			break
		}
		<-f.done
	}
	s.events.Close()
}

// look waits for a visit that started after the call, but not for ever: when it
// returns nil, s.last is as new as can be had.
func (s *FileSource) look(ctx context.Context, arm bool) error {
	if err := ctx.Err(); err != nil {
		return s.wrap(err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.wrap(os.ErrClosed)
	}
	f := s.joinLocked(arm)
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	timer := time.NewTimer(s.opt.readTimeout())
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
		s.overdue()
	case <-ctx.Done():
		return s.wrap(ctx.Err())
	}
	return nil
}

// joinLocked returns a visit that starts after now: nil if there can't be one
// because a read hangs.
func (s *FileSource) joinLocked(arm bool) *visit {
	switch {
	case s.running == nil:
		s.running = &visit{arm: arm, started: time.Now(), done: make(chan struct{})}
		go s.make(s.running)
		return s.running
	case time.Since(s.running.started) >= s.opt.readTimeout():
		return nil
	case s.next == nil:
		s.next = &visit{arm: arm, done: make(chan struct{})}
	}
	s.next.arm = s.next.arm || arm
	return s.next
}

// make looks once, and again as long as somebody has come meanwhile.
func (s *FileSource) make(f *visit) {
	for f != nil {
		if f.arm {
			s.arm()
			s.checkMounts()
		}
		s.observe(f)
		s.mu.Lock()
		done := f.done
		f = s.next
		s.running, s.next = f, nil
		if f != nil {
			f.started = time.Now()
		}
		s.mu.Unlock()
		close(done)
	}
}

// overdue counts a read that hangs as a failure, once.
func (s *FileSource) overdue() {
	s.mu.Lock()
	f := s.running
	hangs := f != nil && !f.overdue && time.Since(f.started) >= s.opt.readTimeout()
	if hangs {
		f.overdue = true
	}
	s.mu.Unlock()
	if hangs {
		s.fail(errHangs, nil)
	}
}

// arm watches the directories that matter now. It runs before the read, so that
// whatever changes afterwards is an event.
func (s *FileSource) arm() {
	err := s.rearm()
	s.mu.Lock()
	was := s.eventsErr
	s.eventsErr = err
	lost, back := err != nil && was == nil && !s.opt.PollOnly, err == nil && was != nil
	if lost {
		s.eventsTold = !disk.IsKnownLimit(err) // or else another source has said so, and there may be thousands
	}
	warn, info := s.log.Warn, s.log.Info
	if !s.eventsTold {
		warn, info = s.log.Debug, s.log.Debug
	}
	s.mu.Unlock()
	switch {
	case lost:
		warn("sqlrotate: no file events, polling only", "file", s.path, "poll", s.opt.poll(), "err", err)
	case back:
		info("sqlrotate: file events are back", "file", s.path)
	}
}

func (s *FileSource) rearm() error {
	if s.opt.PollOnly {
		return errPollOnly
	}
	return s.events.Arm()
}

// findMounts finds out, when there is a first credential, whether a path is a mount of its
// own.
func (s *FileSource) findMounts() {
	alone := false
	s.mounts = make([]disk.Mount, len(s.paths))
	for i, path := range s.paths {
		s.mounts[i] = disk.MountOf(path)
		alone = alone || s.mounts[i].Alone
	}
	if !alone {
		return
	}
	s.mu.Lock()
	s.mountedAlone = true
	s.mu.Unlock()
	s.log.Warn("sqlrotate: the file is a mount of its own, which shows what is written into it, but never another file that takes its place: mount the directory", "file", s.path)
}

// checkMounts finds out whether what is mounted is still what its name leads to outside.
func (s *FileSource) checkMounts() {
	outdated := false
	for i, was := range s.mounts {
		if !was.Alone {
			continue
		}
		is := disk.MountOf(s.paths[i])
		outdated = outdated || is.Alone && (is.Name == "" || is.Name != was.Name)
	}
	s.mu.Lock()
	s.outdated = outdated
	s.mu.Unlock()
}

// replacedLocked notes whether another file has taken the place of what is mounted.
func (s *FileSource) replacedLocked(is bool, now time.Time) {
	switch {
	case !is:
		s.replaced = time.Time{}
	case s.replaced.IsZero():
		s.replaced = now
	}
}

// observe reads the path and decides what to believe.
func (s *FileSource) observe(f *visit) {
	snap, err := s.read()
	defer snap.Wipe()
	now := time.Now()
	if err != nil {
		s.mu.Lock()
		s.reads++
		s.candidate = nil
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrNotRegular) || errors.Is(err, syscall.ELOOP) {
			s.gone, s.seen = true, disk.Identity{} // what comes next is another file
		}
		s.mu.Unlock()
		s.fail(err, nil)
		return
	}

	s.mu.Lock()
	s.reads++
	s.replacedLocked(snap.Replaced || s.outdated, now)
	verdict := s.judgeLocked(snap, now)
	c := s.candidate
	s.mu.Unlock()

	switch {
	case verdict == known:
		s.succeed(now)
	case verdict == settling:
		if !f.arm {
			poke(s.wake) // the loop comes back for it
		}
	case verdict == refused && !f.arm:
		s.fail(c.refused, c)
	default: // at a poll also what was refused: a decoder may have come round
		cred, err := s.decode(snap)
		if err != nil {
			s.fail(err, c)
			return
		}
		s.accept(cred, snap, now)
		s.succeed(now)
		if s.mounts == nil {
			s.findMounts()
		}
	}
}

type verdict int

const (
	known    verdict = iota // the content of the last good credential
	settling                // other content, perhaps not all of it
	refused                 // other content, decoded before and found bad
	complete                // other content, to be decoded
)

// judgeLocked compares what was read with what is known.
func (s *FileSource) judgeLocked(snap disk.Snapshot, now time.Time) verdict {
	inPlace, gone := s.seen.Same(snap.ID), s.gone
	if !snap.ModTime.Equal(s.modTime) {
		s.moved = now
	}
	s.seen, s.gone, s.modTime = snap.ID, false, snap.ModTime
	if s.good != nil && snap.Sum == s.goodSum {
		s.candidate = nil
		if s.rewritten.IsZero() && !snap.ModTime.Equal(s.goodModTime) {
			s.rewritten = now
		}
		return known
	}

	c := s.candidate
	if c == nil || c.sum != snap.Sum || !c.id.Same(snap.ID) {
		c = &candidate{id: snap.ID, sum: snap.Sum, since: now}
		c.wait = min(settleTime(snap, inPlace, gone, now, s.opt.settle()), s.opt.settle())
		s.candidate, s.moved = c, now
	}
	switch {
	case c.refused != nil:
		return refused
	case now.Sub(c.since) < c.wait:
		return settling
	default:
		return complete
	}
}

// settleTime returns for how long new content must not change before it is
// believed. inPlace: the same file had other content at the last look; gone: there
// was none, and what is there now may have been made a moment ago, to be filled.
func settleTime(snap disk.Snapshot, inPlace, gone bool, now time.Time, settle time.Duration) time.Duration {
	switch {
	case inPlace || snap.Second != nil: // the two may have been replaced one by one
		return settle
	case snap.ID.Version != "":
		return 0 // it was complete before ..data named it
	case gone && !showsItsEnd(snap.Data):
		return settle
	case age(snap.ModTime, now) >= young:
		return 0
	default:
		return young
	}
}

// showsItsEnd reports whether no part of data, from its beginning, could be taken for
// all of it.
func showsItsEnd(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) && json.Valid(data)
}

// age returns how long ago a file was modified, at the least: a file system that
// counts whole seconds, or every other one, rounds down.
func age(modTime, now time.Time) time.Duration {
	age := now.Sub(modTime)
	if modTime.Nanosecond() == 0 {
		age -= 2 * time.Second
	}
	return age
}

// published returns when what was read came to be there, at the latest of what the file
// system's count leaves open.
func published(snap disk.Snapshot, now time.Time) time.Time {
	at := snap.ModTime
	if snap.Changed.After(at) {
		at = snap.Changed
	}
	return now.Add(-age(at, now)).Round(0)
}

// newFingerprints returns a function that names a login without giving it away: the
// name can't be computed, and so not be guessed from, without a key that is made here.
func newFingerprints() func(Credential) string {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return func(cred Credential) string {
		h := hmac.New(sha256.New, key)
		_ = binary.Write(h, binary.BigEndian, uint64(len(cred.Username))) // no two logins look alike
		h.Write([]byte(cred.Username))
		h.Write([]byte(cred.Password.Reveal()))
		return hex.EncodeToString(h.Sum(nil)[:4])
	}
}

// accept makes cred the last good credential.
func (s *FileSource) accept(got found, snap disk.Snapshot, now time.Time) {
	cred := got.Credential
	cred.versionIsLocal = true
	mark := s.mint(cred)
	s.mu.Lock()
	s.goodSum, s.format, s.candidate = snap.Sum, got.format, nil
	elsewhere := s.locateLocked(got.server, now)
	again := s.good != nil && s.good.SameLogin(cred)
	if again {
		cred.Version, cred.PublishedAt = s.good.Version, s.good.PublishedAt
		if s.rewritten.IsZero() {
			s.rewritten = now
		}
	} else {
		s.serial++
		cred.Version, cred.PublishedAt = fmt.Sprintf("%d-%s", s.serial, mark), published(snap, now)
		s.loaded, s.goodModTime, s.rewritten = now, snap.ModTime, time.Time{}
	}
	if !again || !s.good.NotAfter.Equal(cred.NotAfter) {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.good = &cred
	s.mu.Unlock()
	if !again {
		s.log.Info("sqlrotate: credential loaded", "file", s.path, "user", cred.Username, "version", cred.Version)
	}
	if elsewhere != "" {
		s.log.Warn("sqlrotate: the file names another place for the database, and logins go on where the DSN says", "file", s.path, "names", elsewhere)
	}
}

// locateLocked notes where the database is said to be. It returns in what that is news,
// and not what it was at first; nothing if it isn't.
func (s *FileSource) locateLocked(at server, now time.Time) (elsewhere string) {
	if s.good == nil {
		s.first = at
	}
	news := s.server != at
	s.server = at
	elsewhere = s.first.elsewhere(at)
	switch {
	case elsewhere == "":
		s.movedAway = time.Time{}
	case !news:
		return ""
	default:
		s.movedAway = now
	}
	return elsewhere
}

// decode runs the decoder, which may be the application's.
func (s *FileSource) decode(snap disk.Snapshot) (got found, err error) {
	defer func() {
		if p := recover(); p != nil {
			// The value of the panic could quote the content.
			err = fmt.Errorf("the decoder panicked (%T)", p)
		}
	}()
	switch {
	case snap.Second != nil:
		return decodeDir(map[string][]byte{"username": snap.Second, "password": snap.Data}, decodeOptions{})
	case snap.Keys == nil:
		return decodeFile(snap.Data, s.opt.decoding())
	}
	got, err = decodeDir(snap.Keys, s.opt.decoding())
	if err != nil && snap.Skipped != nil {
		err = fmt.Errorf("%w (%w)", err, snap.Skipped)
	}
	return got, err
}

// succeed ends a run of failures.
func (s *FileSource) succeed(now time.Time) {
	s.mu.Lock()
	s.checked = now
	healed, failures, since := s.err != nil, s.failures, s.failing
	s.err, s.failures, s.failing = nil, 0, time.Time{}
	s.mu.Unlock()
	if healed {
		s.log.Info("sqlrotate: file readable again", "file", s.path, "failures", failures, "after", now.Sub(since))
	}
}

// fail counts a failure, and logs it if it is another than the last. If c is not
// nil, it was refused for err.
func (s *FileSource) fail(err error, c *candidate) {
	now := time.Now()
	s.mu.Lock()
	if c != nil {
		c.refused = err
	}
	same := s.err != nil && s.err.Error() == err.Error()
	s.err = err
	s.failures++
	s.failed++
	if s.failing.IsZero() {
		s.failing = now
	}
	stays := s.good != nil
	s.mu.Unlock()
	if !same && stays {
		s.log.Warn("sqlrotate: file not usable, the last good credential stays", "file", s.path, "err", err)
	}
}

// poke makes c readable without waiting.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
