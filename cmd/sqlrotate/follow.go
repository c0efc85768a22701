// check -watch: a small pool over the file, and what becomes of both in a rotation.

package main

import (
	"context"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

const (
	followPool  = 2                      // connections
	followTick  = 100 * time.Millisecond // between looks at the source's status
	followPing  = time.Second            // between queries
	followGrace = time.Second            // between an event and the look that it causes, at the most
)

// follow keeps a pool over the source, and tells of each change until ctx is done, the
// time is up, or a rotation is over if one is enough.
func (c *check) follow(ctx context.Context, s stdio, src *sqlrotate.FileSource) int {
	if c.lasting > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.lasting)
		defer cancel()
	}
	t := newTeller(s.out, c.json)
	err := c.pooled(ctx, src, t)
	switch {
	case err != nil && ctx.Err() == nil:
		t.tell("watch", levelFail, nil, "%s", plain(err))
		return statusFailed
	default:
		return t.sum()
	}
}

// pooled runs the pool, and looks at the source, until it is over.
func (c *check) pooled(ctx context.Context, src *sqlrotate.FileSource, t *teller) error {
	opener, err := sqlrotate.LibPQ(c.dsn)
	if err != nil {
		return err
	}
	cfg := c.config()
	cfg.Source, cfg.Opener, cfg.Logger, cfg.Trace = src, opener, quiet(), t.trace()
	connector, err := sqlrotate.New(cfg)
	if err != nil {
		return err
	}
	db := sqlrotate.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(followPool)
	db.SetMaxIdleConns(followPool)
	if err := fill(ctx, db, followPool); err != nil {
		return err
	}
	t.tell("watch", levelOK, nil, "%d connections are open, as user %q: waiting for a rotation", followPool, src.Status().Username)

	w := newFileWatch(src, c.credential, c.file.FileOptions)
	defer w.close()
	tick, ping := time.NewTicker(followTick), time.NewTicker(followPing)
	defer tick.Stop()
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.broken:
			return nil
		case <-t.over:
			if c.once {
				return nil
			}
		case <-w.wake:
			w.event(time.Now())
		case <-tick.C:
			select { // what told of what is seen now comes first
			case <-w.wake:
				w.event(time.Now())
			default:
			}
			w.look(t, time.Now())
		case <-ping.C:
			if err := db.PingContext(ctx); err != nil && ctx.Err() == nil {
				t.tell("query", levelFail, nil, "a query fails: %s", said(err))
			}
		}
	}
}

// fileWatch compares a source's status with what it was.
type fileWatch struct {
	src   *sqlrotate.FileSource
	grace time.Duration // for which an event may have preceded what it told of
	last  sqlrotate.FileStatus

	// A watch of one's own: the source doesn't say what made it look.
	wake    chan struct{}
	watch   *disk.Watch
	evented time.Time // when an event came last
}

func newFileWatch(src *sqlrotate.FileSource, path string, opt sqlrotate.FileOptions) *fileWatch {
	w := &fileWatch{src: src, grace: max(opt.Settle, defaultSettle) + followGrace, last: src.Status(), wake: make(chan struct{}, 1)}
	if path, err := disk.Abs(path); err == nil && !opt.PollOnly {
		w.watch = disk.NewWatch(w.wake, path)
		w.event(time.Time{})
	}
	return w
}

func (w *fileWatch) event(now time.Time) {
	w.evented = now
	if w.watch != nil {
		_ = w.watch.Arm() // if it can't, there are no events, as the status says
	}
}

func (w *fileWatch) close() {
	if w.watch != nil {
		w.watch.Close()
	}
}

// look tells of what is new.
func (w *fileWatch) look(t *teller, now time.Time) {
	st, was := w.src.Status(), w.last
	w.last = st
	if st.Loads != was.Loads {
		by := "an event told of it"
		if st.LoadedAt.Sub(w.evented) > w.grace {
			by = "no event came, it was found by a look"
		}
		late := st.LoadedAt.Sub(st.ModTime)
		t.tell("loaded", levelOK, details{"username": st.Username, "version": st.Version, "seconds_after_mtime": late.Seconds(), "event": strings.HasPrefix(by, "an")},
			"user %q, version %s, was loaded %v after the file's modification time: %s", st.Username, st.Version, late.Round(time.Millisecond), by)
	}
	if st.Divergence != was.Divergence && st.Divergence != sqlrotate.DivergedNot {
		l := levelNote
		if st.Divergence == sqlrotate.DivergedRefused {
			l = levelWarning
		}
		t.tell("diverged", l, details{"divergence": st.Divergence}, "what is on disk is not what is loaded: %s", st.Divergence)
	}
	switch {
	case st.Err != nil && (was.Err == nil || st.Err.Error() != was.Err.Error()):
		t.tell("file", levelWarning, decodeDetails(st.Err), "%s; the last good credential stays", plain(st.Err))
	case st.Err == nil && was.Err != nil:
		t.tell("file", levelOK, nil, "it can be read again, after %v", now.Sub(was.FailingSince).Round(time.Millisecond))
	}
	if !st.ReplacedSince.IsZero() && was.ReplacedSince.IsZero() {
		t.tell("mount", levelFail, nil, "another file has taken the place of the one that is mounted, and is not seen here: mount the directory")
	}
	if st.Events != was.Events {
		t.tell("events", levelNote, details{"events": st.Events}, "the file system's events arrive: %t", st.Events)
	}
}
