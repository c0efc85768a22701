// One story, as one contender lives through it.

package main

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"
)

// play is one story as one contender lives through it.
type play struct {
	env     *env
	pool    pool
	running *running
	first   login
	start   time.Time

	marks     []mark
	sessions  []census
	samples   []sample
	failed    []time.Time
	err       error // of the first operation that failed
	complaint error // of the pool itself, if it was asked
	refused   int   // logins, at the server
	logins    int   // that succeeded there, from the start
	orphans   int   // sessions of dropped roles, at the end
	before    dist
	worst     dist
}

// mark is something that happened.
type mark struct {
	at   time.Duration
	what string
}

// census is how many sessions there were, by login: those of the first, and others.
type census struct {
	at       time.Duration
	old, new int
}

func (p *play) publish(l login, what string) error {
	p.mark(time.Since(p.start), what)
	return p.pool.rotate(l)
}

func (p *play) tear(l login) error {
	f, ok := p.pool.(interface{ tear(l login) error })
	if !ok {
		return errors.New("it has no file")
	}
	return f.tear(l)
}

// ask has a pool say what is wrong, if it is one that does.
func (p *play) ask() {
	if h, ok := p.pool.(interface{ health() error }); ok {
		p.complaint = h.health()
	}
}

func (p *play) mark(at time.Duration, what string) { p.marks = append(p.marks, mark{at, what}) }

// until waits for a moment of the story.
func (p *play) until(ctx context.Context, at time.Duration) { pause(ctx, time.Until(p.start.Add(at))) }

// perform has a contender live through a story.
func (e *env) perform(ctx context.Context, c contender, s story, lead time.Duration) (*play, error) {
	first, err := e.newRole(ctx)
	if err != nil {
		return nil, err
	}
	firstRole := e.roles
	p := &play{env: e, first: first}
	if p.pool, err = c.open(e, s.load, s.terms, first); err != nil {
		return nil, err
	}
	defer p.pool.close()
	if err := s.load.fill(ctx, p.pool); err != nil {
		return nil, err
	}
	runtime.GC() // of what the one before has left
	p.running = s.load.start(ctx, p.pool)
	defer p.running.finish()
	counting, stop := context.WithCancel(ctx)
	defer stop()
	counted := make(chan error, 1)
	began := time.Now()
	go func() { counted <- p.count(counting, began) }()
	pause(ctx, lead)

	ok, refused, err := e.attempts(firstRole)
	if err != nil {
		return nil, err
	}
	p.start = time.Now()
	err = s.tell(ctx, p)
	p.until(ctx, s.end)
	stop()
	if err := errors.Join(err, <-counted, ctx.Err()); err != nil {
		return nil, err
	}
	for i := range p.sessions {
		p.sessions[i].at -= p.start.Sub(began)
	}
	p.sessions = slices.DeleteFunc(p.sessions, func(n census) bool { return n.at < -opening })
	if p.orphans, err = e.server.OrphanSessions(ctx); err != nil {
		return nil, err
	}
	p.samples = p.running.finish()
	p.failed, p.err = p.running.failures()
	p.before = over(p.samples, p.start.Add(-slice), p.start)
	p.worst = worst(p.samples, p.start, p.start.Add(s.end))
	okNow, refusedNow, err := e.attempts(firstRole)
	p.logins, p.refused = okNow-ok, refusedNow-refused
	return p, err
}

// count takes the census until ctx is done, by the time since began. A role that was dropped has no name any more.
func (p *play) count(ctx context.Context, began time.Time) error {
	tick := time.NewTicker(2 * sampling)
	defer tick.Stop()
	for {
		var n census
		row := p.env.server.Admin().QueryRowContext(ctx, "select count(*) filter (where usename is null or usename = $1), count(*) filter (where usename <> $1 and usename like 'bench%')"+
			" from pg_stat_activity where datname = current_database() and backend_type = 'client backend'", p.first.user)
		switch err := row.Scan(&n.old, &n.new); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		n.at = time.Since(began)
		p.sessions = append(p.sessions, n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// attempts counts the logins that the server has decided, of the roles from the first on.
func (e *env) attempts(first int) (ok, refused int, err error) {
	for n := first; n <= e.roles; n++ {
		o, r, err := e.server.LoginAttempts(roleName(n))
		if err != nil {
			return 0, 0, err
		}
		ok, refused = ok+o, refused+r
	}
	return ok, refused, nil
}
