// A fleet: as many processes as there is memory for, a pool each, that are told of a
// rotation by one volume, and what their logins are to the server.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

// formation is a fleet, and the window that it has.
type formation struct {
	processes, conns int
	think            time.Duration // between uses of all connections at once
	window           sqlrotate.Window
}

// The volume is swapped at once, but who has no events polls it every five seconds. Queries
// are short.
func newFormation(processes int, overlap time.Duration) formation {
	return formation{
		processes: processes, conns: 5, think: 2 * time.Second,
		window: sqlrotate.Window{Overlap: overlap, Lag: 6 * time.Second, MaxInUse: 3 * time.Second},
	}
}

// lifetime is the longest that a connection lives, and drain the time that a drain has by
// default.
func (f formation) lifetime() time.Duration {
	return f.window.Overlap - f.window.Lag - f.window.MaxInUse
}
func (f formation) drain() time.Duration { return min(f.lifetime()/3, 2*time.Minute) }

// sessions is how many connections there are in all.
func (f formation) sessions() int { return f.processes * f.conns }

// renewal is how many logins a second it takes to renew them all when their time is over:
// up to a tenth earlier than the window says.
func (f formation) renewal() float64 { return float64(f.sessions()) / (0.95 * f.lifetime().Seconds()) }

// act is one rotation of a fleet.
type act struct {
	name      string
	drainTime time.Duration // Config's; zero: the default
	flip      bool          // a lifetime flip in place of sqlrotate
	early     bool          // the old role is dropped in mid-drain
	lead      time.Duration // for which the fleet is watched before
	drop      time.Duration // when the old role is dropped
	end       time.Duration // until when the fleet is watched
}

// acts are what one fleet goes through, one after the other.
type acts struct {
	ramp time.Duration // over which the processes start
	acts []act
}

// What a fleet is watched for when all is over within moments.
const (
	briefRamp = 10 * time.Second
	briefLead = 5 * time.Second
	briefEnd  = 15 * time.Second
)

func (f formation) programme() []acts {
	drain := f.drain()
	early := func(at time.Duration) act {
		return act{
			name: fmt.Sprintf("revoked after %.0f s", at.Seconds()), early: true,
			lead: briefLead, drop: at, end: at + drain,
		}
	}
	return []acts{
		{f.lifetime(), []act{ // so that some are renewed at any time
			{name: nameSQLRotate, lead: (f.lifetime() / 4).Truncate(time.Second), drop: f.window.Overlap, end: f.window.Overlap + 3*time.Second},
			early((drain * 2 / 3).Round(time.Second)), early((drain / 6).Round(time.Second)),
		}},
		{briefRamp, []act{{name: "DrainTime: -1", drainTime: -1, lead: briefLead, drop: briefEnd - 2*time.Second, end: briefEnd}}},
		{briefRamp, []act{{name: nameFlip, flip: true, lead: briefLead, drop: briefEnd - 2*time.Second, end: briefEnd}}},
	}
}

// seen is what was seen of an act. Times count from when the new login was published.
type seen struct {
	act
	formation
	start    time.Time
	logins   []time.Duration // that succeeded, at the server
	refused  int             // logins, from the rotation on
	sessions []census
	gone     time.Duration // when the last old session was; less than zero: it wasn't
	samples  []sample
	failed   []time.Time
	err      string
	noEvents int           // processes that the file system tells nothing
	calm     [2]float64    // CPUs that clients and server used before
	busy     [2]float64    // and while old sessions were left
	busyFor  time.Duration // how long that was
}

// during counts the logins from and until.
func (s *seen) during(from, to time.Duration) int { return during(s.logins, from, to) }

func during(sorted []time.Duration, from, to time.Duration) int {
	i, _ := slices.BinarySearch(sorted, from)
	j, _ := slices.BinarySearch(sorted, to)
	return max(0, j-i)
}

// steady is the logins per second before the rotation.
func (s *seen) steady() float64 { return float64(s.during(-s.lead, 0)) / s.lead.Seconds() }

// peak is the most logins within so long from the rotation on, for each second of it.
func (s *seen) peak(within time.Duration) float64 {
	return mostWithin(s.logins[during(s.logins, -time.Hour, 0):], within)
}

// mostWithin returns the highest rate a second of what happens in any span of that length.
func mostWithin(sorted []time.Duration, span time.Duration) float64 {
	most, first := 0, 0
	for i, at := range sorted {
		for sorted[first] <= at-span {
			first++
		}
		most = max(most, i-first+1)
	}
	return float64(most) / span.Seconds()
}

// performFleet has a fleet go through its acts.
func (e *env) performFleet(ctx context.Context, f formation, p acts, progress func(string)) (all []*seen, err error) {
	first, err := e.newRole(ctx)
	if err != nil {
		return nil, err
	}
	volume := filepath.Join(e.dir, "volume-"+first.user)
	if err := errors.Join(os.Mkdir(volume, 0o700), publishKeys(volume, first)); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	order := errand{
		DSN: e.server.DSN(), Volume: volume, Conns: f.conns, Think: f.think, Window: f.window,
		Flip: p.acts[0].flip, Drain: p.acts[0].drainTime,
	}
	progress(fmt.Sprintf("%s: %d processes start within %v", p.acts[0].name, f.processes, p.ramp.Round(time.Second)))
	pods, err := muster(ctx, order, f.processes, p.ramp)
	defer func() {
		stop()
		for _, pod := range pods {
			_ = pod.cmd.Wait() // all that can be learnt was, unless something failed already
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, a := range p.acts {
		progress(fmt.Sprintf("%s: %v", a.name, (a.lead + a.end).Round(time.Second)))
		s := &seen{act: a, formation: f, gone: -1}
		if first, err = e.act(ctx, s, volume, first, pods); err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		all = append(all, s)
	}
	for _, pod := range pods {
		account, err := pod.finish()
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			s.take(account)
		}
	}
	return all, nil
}

// withEvents is how many processes have events of the file system. Linux gives a user 128
// instances of inotify as a rule, and others need some.
const withEvents = 100

// muster starts so many processes, and waits until all have their connections.
func muster(ctx context.Context, order errand, n int, ramp time.Duration) (pods []*pod, err error) {
	start := time.Now()
	for i := range n {
		order.Polls = i >= withEvents
		pause(ctx, time.Until(start.Add(ramp*time.Duration(i)/time.Duration(n))))
		p, err := startPod(ctx, order)
		if err != nil {
			return pods, err
		}
		pods = append(pods, p)
	}
	for _, p := range pods {
		if err := p.ready(); err != nil {
			return pods, err
		}
	}
	pause(ctx, time.Until(start.Add(ramp)))
	return pods, ctx.Err()
}

// take adds what a process has done in the time of the act.
func (s *seen) take(a podAccount) {
	from, to := s.start.Add(-s.lead), s.start.Add(s.end)
	for _, x := range a.Samples {
		if done := time.UnixMicro(x[0]); !done.Before(from) && done.Before(to) {
			s.samples = append(s.samples, sample{done, time.Duration(x[1]) * time.Microsecond})
		}
	}
	for _, t := range a.Failed {
		if !t.Before(from) && t.Before(to) {
			s.failed, s.err = append(s.failed, t), a.Err
		}
	}
	if !a.Events {
		s.noEvents++
	}
}

// act rotates the fleet's login, and watches.
func (e *env) act(ctx context.Context, s *seen, volume string, old login, pods []*pod) (next login, err error) {
	if next, err = e.newRole(ctx); err != nil {
		return next, err
	}
	cpu := e.meter(ctx, pods)
	began, before := time.Now(), cpu()
	s.start = began.Add(s.lead)
	counting, stop := context.WithCancel(ctx)
	defer stop()
	counted := make(chan error, 1)
	over := make(chan struct{})
	go func() { counted <- e.take(counting, s, old, next, over) }()

	pause(ctx, s.lead)
	after := cpu()
	s.calm = rate(before, after, time.Since(began))
	rotated := time.Now()
	if err := publishKeys(volume, next); err != nil {
		return next, err
	}
	dropped := make(chan error, 1)
	if s.drop > s.end {
		dropped <- nil
	} else {
		go func() {
			pause(ctx, time.Until(s.start.Add(s.drop)))
			dropped <- e.server.RevokeRole(ctx, old.user)
		}()
	}
	select {
	case <-over:
	case <-ctx.Done():
	case <-time.After(time.Until(s.start.Add(s.end))):
	}
	s.busyFor = time.Since(rotated)
	s.busy = rate(after, cpu(), s.busyFor)
	pause(ctx, time.Until(s.start.Add(s.end)))
	stop()
	if err := errors.Join(<-dropped, <-counted, ctx.Err()); err != nil {
		return next, err
	}
	return next, e.readLogins(s, old, next)
}

// take takes the census until ctx is done. over is closed when no old session is left.
func (e *env) take(ctx context.Context, s *seen, old, next login, over chan struct{}) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		o, err := e.server.Sessions(ctx, old.user)
		n, err2 := e.server.Sessions(ctx, next.user)
		switch err := errors.Join(err, err2); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		at := time.Since(s.start)
		s.sessions = append(s.sessions, census{at, o, n})
		if o == 0 && at > 0 && s.gone < 0 {
			s.gone = at
			close(over)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// readLogins reads in the server's log what it has decided.
func (e *env) readLogins(s *seen, roles ...login) error {
	for _, role := range roles {
		logins, err := e.server.Logins(role.user)
		if err != nil {
			return err
		}
		for _, l := range logins {
			at := l.Time.Sub(s.start)
			switch {
			case at < -s.lead || at >= s.end:
			case l.SQLState == "":
				s.logins = append(s.logins, at)
			case l.Refused():
				s.refused++
			}
		}
	}
	slices.Sort(s.logins)
	return nil
}

func rate(before, after [2]time.Duration, d time.Duration) (cpus [2]float64) {
	for i := range cpus {
		cpus[i] = float64(after[i]-before[i]) / float64(d)
	}
	return cpus
}

// runFleet measures the fleet and simulates others, and prints what came of it; with a
// directory it writes it there, and draws it.
func runFleet(ctx context.Context, f formation, pods int, dir string) error {
	began := time.Now()
	progress := func(what string) {
		fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(began).Seconds(), what)
	}
	progress("what a login costs the server")
	costs, err := loginCosts(ctx)
	if err != nil {
		return err
	}
	all, version, err := f.measure(ctx, progress)
	if err != nil {
		return err
	}
	progress("the same fleet, simulated")
	twin := f.twin()
	progress(fmt.Sprintf("%s pods, simulated", thousands(pods)))
	big := simulateBig(pods)
	progress("done")

	results := new(bytes.Buffer)
	fmt.Fprintf(results, "# Results of the fleet\n\n%s. [What this is, and how to run it](../fleet.md).\n", version)
	fleetTables(results, all, twin, big, costs)
	fmt.Print(results.String())
	if err := save(results, dir); err != nil || dir == "" {
		return err
	}
	return drawFleet(dir, all, big, version)
}

// measure has fleets go through the programme on a server of their own.
func (f formation) measure(ctx context.Context, progress func(string)) (all []*seen, version string, err error) {
	e, err := startEnv(ctx, pgtest.Options{MaxConnections: f.processes*(f.conns+1) + 20})
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, e.close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	if version, err = machine(ctx, e.server); err != nil {
		return nil, "", err
	}
	for _, p := range f.programme() {
		seen, err := e.performFleet(ctx, f, p, progress)
		if err != nil {
			return nil, "", err
		}
		all = append(all, seen...)
	}
	return all, version, nil
}

// loginCost is what a login takes the server.
type serverCost struct {
	tls       bool
	cpu       time.Duration // of the server
	perSecond float64       // on this machine, with the clients on it
}

// loginCosts has four clients log in and out for some seconds, without TLS and with it.
func loginCosts(ctx context.Context) (costs []serverCost, err error) {
	for _, tls := range []bool{false, true} {
		c, err := loginsFor(ctx, tls, 3*time.Second)
		if err != nil {
			return nil, err
		}
		costs = append(costs, c)
	}
	return costs, nil
}

func loginsFor(ctx context.Context, tls bool, d time.Duration) (c serverCost, err error) {
	e, err := startEnv(ctx, pgtest.Options{Control: true, TLS: tls})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, e.close()) }() //nolint:contextcheck // it is cleaned up whatever has been interrupted
	role, err := e.newRole(ctx)
	if err != nil {
		return c, err
	}
	l := load{conns: 4, workers: 4, fresh: true}
	p, err := newFlip(e, l, role)
	if err != nil {
		return c, err
	}
	defer p.close()
	cpu := e.meter(ctx, nil)
	before, start, n := cpu(), time.Now(), p.logins()
	r := l.start(ctx, p)
	pause(ctx, d)
	r.finish()
	took, done := time.Since(start), float64(p.logins()-n)
	pause(ctx, 100*time.Millisecond) // the last sessions end
	after := cpu()
	return serverCost{tls, time.Duration(float64(after[1]-before[1]) / done), done / took.Seconds()}, r.err
}

// fleetTables writes what was measured and simulated.
func fleetTables(w *bytes.Buffer, all []*seen, twin *curve, big []*curve, costs []serverCost) {
	f := all[0].formation
	fmt.Fprintf(w, "\n## %d processes, measured\n\n", f.processes)
	fmt.Fprintf(w, "A pool of %d each. All its connections are used at once by transactions of %v, then there is a pause of %v to %v. Overlap %v, Lag %v, MaxInUse %v: MaxLifetime is %v, and DrainTime %v by default. ",
		f.conns, transaction, f.think/2, f.think*3/2, f.window.Overlap, f.window.Lag, f.window.MaxInUse, f.lifetime(), f.drain())
	fmt.Fprintf(w, "To renew %s connections in their time takes %s logins a second, rotation or not. ", thousands(f.sessions()), short(f.renewal()))
	fmt.Fprintf(w, "%d of the processes had events of the file system; the others look every five seconds.\n\n", f.processes-all[0].noEvents)
	picture(w, "fleet", "logins a second and sessions of the fleet over time: sqlrotate, all at once, and a lifetime flip")
	fmt.Fprintln(w, "| | logins a second before | logins from the rotation until no old session was left | in the busiest second | in the busiest ten, a second | last old session gone | operations | failed | longest ms | CPUs of clients, before and meanwhile | of the server |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, s := range all {
		gone, until := "not in time", s.end
		if s.gone >= 0 {
			gone, until = fmt.Sprintf("%.1f s", s.gone.Seconds()), s.gone
		}
		d := worst(s.sorted(), s.start, s.start.Add(s.end))
		fmt.Fprintf(w, "| %s | %s | %d | %s | %s | %s | %s | %d | %s | %.2f, %.2f | %.2f, %.2f |\n", s.name, short(s.steady()), s.during(0, until),
			short(s.peak(time.Second)), short(s.peak(10*time.Second)), gone, thousands(len(s.samples)), len(s.failed), short(d.maxms()), s.calm[0], s.busy[0], s.calm[1], s.busy[1])
	}
	for _, s := range all {
		if s.err != "" {
			fmt.Fprintf(w, "\n- %s, a failure: %s", s.name, s.err)
		}
	}
	fmt.Fprintln(w)
	earlyTable(w, all)
	fmt.Fprintf(w, "\n## The same fleet, simulated\n\n| | logins a second before | logins from the rotation to the end of the overlap | in the busiest second | in the busiest ten, a second |\n|---|--:|--:|--:|--:|\n")
	s := all[0]
	fmt.Fprintf(w, "| measured | %s | %d | %s | %s |\n", short(s.steady()), s.during(0, s.window.Overlap), short(s.peak(time.Second)), short(s.peak(10*time.Second)))
	fmt.Fprintf(w, "| simulated | %s | %d | %s | %s |\n", short(twin.before()), twin.sum(0, s.window.Overlap), short(twin.most(1)), short(twin.most(10)))
	bigTable(w, big)
	fmt.Fprintf(w, "\n## What a login costs the server\n\n| | CPU of the server | logins a second that one core bears | logins a second here, clients included |\n|---|--:|--:|--:|\n")
	for _, c := range costs {
		name := "SCRAM"
		if c.tls {
			name = "SCRAM, TLS"
		}
		fmt.Fprintf(w, "| %s | %.1f ms | %.0f | %.0f |\n", name, ms(c.cpu), 1/c.cpu.Seconds(), c.perSecond)
	}
}

func picture(w *bytes.Buffer, name, alt string) {
	fmt.Fprintf(w, "<picture><source media=\"(prefers-color-scheme: dark)\" srcset=\"%s-dark.svg\"><img src=\"%s.svg\" alt=\"%s\"></picture>\n\n", name, name, alt)
}

func (s *seen) sorted() []sample {
	slices.SortFunc(s.samples, func(a, b sample) int { return a.done.Compare(b.done) })
	return s.samples
}

// left is how many old sessions there were when the role was dropped.
func (s *seen) left() (n int) {
	for i, c := range s.sessions {
		if i == 0 || c.at <= s.drop {
			n = c.old
		}
	}
	return n
}

// noticed is how long after the old role was dropped the last operation failed.
func (s *seen) noticed() time.Duration {
	last := time.Duration(0)
	for _, t := range s.failed {
		last = max(last, t.Sub(s.start)-s.drop)
	}
	return last
}

// earlyTable says what came of dropping the old role too early.
func earlyTable(w *bytes.Buffer, all []*seen) {
	fmt.Fprintf(w, "\n## Revoked too early, measured\n\n")
	picture(w, "early", "logins a second and sessions of the fleet over time, the old role dropped in mid-drain")
	fmt.Fprintln(w, "| | old sessions left when the role was dropped | operations that failed | the last one after | last old session gone after | refused logins | logins in the busiest second from then on |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|")
	for _, s := range all {
		if !s.early {
			continue
		}
		gone := "not in time"
		if s.gone >= 0 {
			gone = fmt.Sprintf("%.1f s", (s.gone - s.drop).Seconds())
		}
		fmt.Fprintf(w, "| %s | %d | %d | %.1f s | %s | %d | %s |\n", s.name, s.left(), len(s.failed), s.noticed().Seconds(), gone, s.refused,
			short(mostWithin(s.logins[during(s.logins, -time.Hour, s.drop):], time.Second)))
	}
}
