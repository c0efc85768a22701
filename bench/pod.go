// One process of a fleet: this program again, with an errand.

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/lib/pq"
	"github.com/sqlrotate/sqlrotate"
)

// errand is what a process of a fleet is to do: open a pool over the login in a volume,
// and use it until its standard input ends.
type errand struct {
	DSN    string // without a login
	Volume string
	Polls  bool // the volume every few seconds: it has no events of the file system
	Flip   bool // a lifetime flip in place of sqlrotate
	Conns  int
	Think  time.Duration
	Window sqlrotate.Window
	Drain  time.Duration
}

// errandWord as the only argument says that the errand is the first line of the standard
// input.
const errandWord = "errand"

// podAccount is what a process of a fleet has done.
type podAccount struct {
	Samples [][2]int64 // when an operation was done, in microseconds since 1970, and how long it took
	Failed  []time.Time
	Err     string // of the first that failed
	Events  bool   // the file system told of changes, when it began
}

// runErrand does the errand that this process was started for.
func runErrand(ctx context.Context) error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var e errand
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	return e.run(ctx, in, os.Stdout)
}

// run opens the pool, says so with a line, works until in ends, and writes its account.
func (e errand) run(ctx context.Context, in io.Reader, out io.Writer) error {
	l := load{conns: e.Conns, open: transaction, longest: 2 * transaction}
	if e.Flip {
		l.age = e.Window.Overlap - e.Window.Lag - e.Window.MaxInUse
	}
	p, source, err := e.open(l) //nolint:contextcheck // it lives until it is closed
	if err != nil {
		return err
	}
	defer p.close()
	if err := l.fill(ctx, p); err != nil {
		return err
	}
	events := source.Status().Events
	r := e.work(ctx, l, p)
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, in) // until it ends, for whatever reason
	a := podAccount{Events: events}
	for _, s := range r.finish() {
		a.Samples = append(a.Samples, [2]int64{s.done.UnixMicro(), s.latency.Microseconds()})
	}
	a.Failed = r.failed
	if r.err != nil {
		a.Err = r.err.Error()
	}
	return json.NewEncoder(out).Encode(a)
}

// transaction is how long each is open.
const transaction = 100 * time.Millisecond

// work uses all connections at once, and rests, until it is stopped: so none of them is
// idle for so long that the pool could do without.
func (e errand) work(ctx context.Context, l load, p pool) *running {
	ctx, stop := context.WithCancel(ctx)
	r := &running{stop: stop, samples: make([][]sample, 1)}
	use := func() {
		took, err := l.once(ctx, p)
		r.mu.Lock()
		defer r.mu.Unlock()
		now := time.Now()
		r.samples[0] = append(r.samples[0], sample{now, took})
		if err != nil {
			r.failed, r.err = append(r.failed, now), cmp.Or(r.err, err)
		}
	}
	r.wg.Go(func() {
		for ctx.Err() == nil {
			var wg sync.WaitGroup
			for range e.Conns {
				wg.Go(use)
			}
			wg.Wait()
			pause(ctx, around(e.Think, 1))
		}
	})
	return r
}

func (e errand) open(l load) (pool, *sqlrotate.FileSource, error) {
	if e.Flip {
		return e.openFlip(l)
	}
	opener, err := sqlrotate.LibPQ(e.DSN)
	if err != nil {
		return nil, nil, err
	}
	p, err := openVolume(l, terms{window: e.Window, drain: e.Drain}, e.Volume, e.Polls, opener)
	if err != nil {
		return nil, nil, err
	}
	return p, p.source, nil
}

// follower is a lifetime flip that is told of a change as soon as sqlrotate would be.
type follower struct {
	*flip
	source *sqlrotate.FileSource
	stop   context.CancelFunc
	done   chan struct{}
}

func (e errand) openFlip(l load) (pool, *sqlrotate.FileSource, error) {
	cfg, err := pq.NewConfig(e.DSN)
	if err != nil {
		return nil, nil, err
	}
	source, err := sqlrotate.NewFileSource(e.Volume, sqlrotate.FileOptions{Logger: slog.New(slog.DiscardHandler), PollOnly: e.Polls})
	if err != nil {
		return nil, nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &follower{source: source, stop: stop, done: make(chan struct{})}
	latest := func() (login, error) {
		c, err := source.Credential(ctx)
		return login{c.Username, c.Password.Reveal()}, err
	}
	first, err := latest()
	if err != nil {
		stop()
		return nil, nil, errors.Join(err, source.Close())
	}
	p.flip = newFlipOver(cfg, l, first)
	go func() {
		defer close(p.done)
		for last := first; ; {
			select {
			case <-source.Changed():
			case <-ctx.Done():
				return
			}
			if next, err := latest(); err == nil && next != last {
				last = next
				_ = p.rotate(next) // it can't fail
			}
		}
	}()
	return p, source, nil
}

func (p *follower) close() {
	p.stop()
	<-p.done
	p.flip.close()
	_ = p.source.Close()
}

// pod is a process of a fleet, as the one that has started it sees it.
type pod struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

// startPod starts a process of the fleet. It ends with ctx, or when this process does.
func startPod(ctx context.Context, e errand) (*pod, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, errandWord) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, _ = in.Write(append(text, '\n')) // one that doesn't hear it is never ready
	return &pod{cmd, in, bufio.NewReader(out)}, nil
}

// ready waits until the pool has all its connections.
func (p *pod) ready() error {
	line, err := p.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		return fmt.Errorf("a process of the fleet said %q: %w", line, err)
	}
	return nil
}

// finish ends the process and returns its account.
func (p *pod) finish() (a podAccount, err error) {
	_ = p.in.Close()
	err = json.NewDecoder(p.out).Decode(&a)
	return a, errors.Join(err, p.cmd.Wait())
}
