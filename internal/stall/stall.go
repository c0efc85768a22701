// Package stall tells a test about time whether what came late is the fault of what
// it tests or of the machine.
//
// A [Meter] watches the machine while the test runs: how late its own timers are, and
// how late a server answers a trivial question, though neither has to do with what is
// tested. What takes longer than it should is then one of three:
//
//   - late by no more than the machine has stalled: the window was widened by that;
//   - late although the machine was on time: the fault of what is tested;
//   - late while the machine stalled so much that nobody can say: a failure of its
//     own kind, "this machine stalls by 90 ms, nothing is proven".
//
// A machine that is quiet loses next to no time, so that there nothing is excused.
//
// Nothing here imports testing.
package stall

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// beat is how long the meter's own timers run.
	beat = 10 * time.Millisecond

	// noise is by how much timers and answers may be late without counting.
	noise = 5 * time.Millisecond

	// widest is to how many times its size a window is widened at the most.
	widest = 4

	// patience is how many times a limit is waited for, by the clock on the wall,
	// when the machine stalls.
	patience = 10
)

// TB is the part of testing.TB that a [Meter] needs.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	FailNow()
	Failed() bool
	Logf(format string, args ...any)
}

// Meter measures how much the machine stalls while a test runs. All methods are safe
// for concurrent use but Eventually, which may end the test.
type Meter struct {
	tb   TB
	ctx  context.Context //nolint:containedctx // the meter's life
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex // guards the samplers' fields, and what follows
	samplers []*sampler
	worst    time.Duration // at once, of what is forgotten
}

// Watch returns a meter that measures the machine's timers until the test ends. If
// the test has failed by then, the meter says in its log by how much the machine has
// stalled.
func Watch(tb TB) *Meter {
	tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	m := &Meter{tb: tb, ctx: ctx, stop: stop}
	tb.Cleanup(func() {
		if m.ctx.Err() != nil {
			return // stopped before
		}
		m.Stop()
		if worst := m.Worst(); tb.Failed() && worst > 0 {
			tb.Logf("this machine stalled by up to %d ms", worst.Milliseconds())
		}
	})
	m.sample(nil)
	return m
}

// Ask makes the meter measure a server, too, by how late its answers are. ask puts a
// question that takes it no time, on a connection that nothing else uses, and reports
// whether it was answered: what fails is not measured. It returns when ctx is done.
//
// A test that stops or pauses the server must not have it asked.
func (m *Meter) Ask(ask func(ctx context.Context) error) { m.sample(ask) }

// AskServer has a server asked through one of db's connections, which it keeps.
func (m *Meter) AskServer(db *sql.DB) {
	var conn *sql.Conn
	leave := func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	m.tb.Cleanup(func() {
		m.Stop()
		leave()
	})
	m.Ask(func(ctx context.Context) error {
		if conn == nil {
			var err error
			if conn, err = db.Conn(ctx); err != nil {
				return err
			}
			return errors.New("a login takes its time")
		}
		err := conn.PingContext(ctx)
		if err != nil {
			leave() // for another one
		}
		return err
	})
}

// Stop ends the measuring before the test does.
func (m *Meter) Stop() {
	m.stop()
	m.done.Wait()
}

// sample starts a sampler.
func (m *Meter) sample(ask func(ctx context.Context) error) {
	timer := time.NewTimer(beat)
	s := &sampler{due: time.Now().Add(beat)} // or else a stall right now would be missed
	m.mu.Lock()
	m.samplers = append(m.samplers, s)
	m.mu.Unlock()
	m.done.Go(func() {
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
			case <-m.ctx.Done():
				m.expect(s, time.Time{})
				return
			}
			m.met(s, time.Now())
			if ask != nil {
				m.expect(s, time.Now())
				if err := ask(m.ctx); err == nil {
					m.met(s, time.Now())
				}
			}
			timer.Reset(beat)
			m.expect(s, time.Now().Add(beat))
		}
	})
}

func (m *Meter) expect(s *sampler, due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.due = due
}

func (m *Meter) met(s *sampler, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.stalls = s.until(at)
	s.answers++
}

// Worst returns by how much the machine has stalled at once, at the most.
func (m *Meter) Worst() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, worst := m.lostLocked(time.Time{}, time.Now())
	return max(worst, m.worst)
}

// Forget has the meter forget what was over before then, but for Worst: in a test that
// takes hours the stalls are many.
func (m *Meter) Forget(before time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, worst := m.lostLocked(time.Time{}, before)
	m.worst = max(m.worst, worst)
	for _, s := range m.samplers {
		s.forget(before)
	}
}

// Own says that the test itself has stopped the process, or whatever is asked, at some time
// between from and to: what was late then is not the machine's fault, and doesn't count any
// longer. It returns for how much of the time something was late.
func (m *Meter) Own(from, to time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	lost, _ := m.lostLocked(from, to)
	for _, s := range m.samplers {
		s.except(span{from, to})
	}
	return lost
}

// Lost returns for how much of the time between from and to the machine has stalled.
func (m *Meter) Lost(from, to time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	lost, _ := m.lostLocked(from, to)
	return lost
}

// lostLocked returns for how long the machine has stalled between from and to, in all
// and at once.
func (m *Meter) lostLocked(from, to time.Time) (lost, worst time.Duration) {
	now := time.Now()
	var stalls [][]span
	for _, s := range m.samplers {
		stalls = append(stalls, s.until(now))
	}
	return lostIn(span{from, to}, stalls...)
}

// Within fails the test if something that has just ended took longer than limit, and
// reports whether it didn't. got is how long it took, what its name: "the answer".
func (m *Meter) Within(limit, got time.Duration, what string) bool {
	m.tb.Helper()
	now := time.Now()
	return m.Between(limit, now.Add(-got), now, what)
}

// Between is Within for something that began at from and ended at to.
func (m *Meter) Between(limit time.Duration, from, to time.Time, what string) bool {
	m.tb.Helper()
	got, lost := to.Sub(from), m.Lost(from, to)
	switch judge(limit, got, lost) {
	case onTime:
		return true
	case unknown:
		m.tb.Errorf("%s took %v, more than %v: %s", what, got, limit, m.excuse())
	default:
		m.tb.Errorf("%s took %v, more than %v; this machine stalled for %v of that", what, got, limit, lost)
	}
	return false
}

// Stalled reports whether the machine stalled so much between from and to that what
// went wrong then says nothing: for more than most at once, or half of the time.
func (m *Meter) Stalled(from, to time.Time, most time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	lost, worst := m.lostLocked(from, to)
	return worst > most || hopeless(lost, to.Sub(from))
}

// Blame fails the test because of what went wrong between from and to, and reports
// whether that is the fault of what is tested: not if the machine had stalled, as in
// Stalled. It is for promises that hold on condition that the machine keeps its own.
func (m *Meter) Blame(from, to time.Time, most time.Duration, what string, args ...any) bool {
	m.tb.Helper()
	what = fmt.Sprintf(what, args...)
	if m.Stalled(from, to, most) {
		m.tb.Errorf("%s: %s", m.excuse(), what)
		return false
	}
	m.tb.Errorf("%s", what)
	return true
}

// Eventually waits until f returns true and returns how long that took. After limit it
// ends the test; what the machine stalls doesn't count. f is called every five
// milliseconds. what is what is waited for, and diagnosis is asked for more words when
// it doesn't come.
func (m *Meter) Eventually(limit time.Duration, what string, f func() bool, diagnosis ...func() string) time.Duration {
	m.tb.Helper()
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		now := time.Now()
		took := now.Sub(start)
		switch v := judge(limit, took, m.Lost(start, now)); {
		case v == onTime, v == unknown && took < patience*limit:
			<-tick.C
			continue
		case v == unknown:
			m.tb.Errorf("not within %v: %s: %s", took, what, m.excuse())
		default:
			for _, more := range diagnosis {
				what += "; " + more()
			}
			m.tb.Errorf("not within %v: %s", limit, what)
		}
		m.tb.FailNow()
	}
	return time.Since(start)
}

// excuse is what says that the machine is to blame. Whoever runs the tests knows
// those that have proven nothing by the last words of it.
func (m *Meter) excuse() string {
	return fmt.Sprintf("this machine stalls by %d ms, nothing is proven", m.Worst().Milliseconds())
}

// verdict is whose fault it is that something took so long.
type verdict int

const (
	onTime  verdict = iota // nobody's: the window is widened by what the machine has stalled
	late                   // of what is tested
	unknown                // the machine's, as far as one can see
)

// judge says so of what took got, and for lost of that the machine stalled.
func judge(limit, got, lost time.Duration) verdict {
	switch excused := got-lost <= limit; {
	case got <= limit, excused && got <= widest*limit:
		return onTime
	case excused, hopeless(lost, got):
		return unknown
	}
	return late
}

// hopeless reports whether a machine that has stalled for lost of a time was less than
// half as fast as it should be. Then timers tell little of how long it takes to do what
// needs the processor.
func hopeless(lost, of time.Duration) bool { return 2*lost > of }
