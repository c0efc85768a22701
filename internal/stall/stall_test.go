package stall

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

const ms = time.Millisecond

// recorder is a test that fails without consequences.
type recorder struct {
	*testing.T
	failures []string
	ended    bool
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) FailNow()     { r.ended = true; runtime.Goexit() }
func (r *recorder) Failed() bool { return len(r.failures) > 0 }

// run calls f in a goroutine of its own, which it may end.
func (r *recorder) run(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
}

// proves fails the test unless the last of n failures says these words.
func (r *recorder) proves(n int, words ...string) {
	r.Helper()
	if len(r.failures) != n {
		r.Fatalf("%d failures, not %d: %q", len(r.failures), n, r.failures)
	}
	for _, word := range words {
		if !strings.Contains(r.failures[n-1], word) {
			r.Errorf("%q does not say %q", r.failures[n-1], word)
		}
	}
}

// blames fails the test unless the last of n failures is that of what was tested.
func (r *recorder) blames(n int, words ...string) {
	r.Helper()
	r.proves(n, words...)
	if strings.Contains(r.failures[n-1], "nothing is proven") {
		r.Errorf("excused: %q", r.failures[n-1])
	}
}

func TestVerdicts(t *testing.T) {
	for _, test := range []struct {
		name             string
		limit, got, lost time.Duration
		want             verdict
	}{
		{"on time", 100 * ms, 100 * ms, 0, onTime},
		{"late on a quiet machine", 100 * ms, 101 * ms, 0, late},
		{"late on a machine that lost a little", 100 * ms, 150 * ms, 49 * ms, late},
		{"by no more than the machine stalled", 100 * ms, 150 * ms, 50 * ms, onTime},
		{"on time though the machine stalled", 100 * ms, 90 * ms, 89 * ms, onTime},
		{"a window widened fourfold", 100 * ms, 400 * ms, 300 * ms, onTime},
		{"and no further", 100 * ms, 401 * ms, 301 * ms, unknown},
		{"late, and more than the stall explains", 100 * ms, 1000 * ms, 500 * ms, late},
		{"on a machine that stalls more than it works", 100 * ms, 1000 * ms, 501 * ms, unknown},
		{"much too late on a quiet machine", 100 * ms, time.Hour, time.Minute, late},
		{"no time at all", 0, 50 * ms, 50 * ms, unknown},
	} {
		if got := judge(test.limit, test.got, test.lost); got != test.want {
			t.Errorf("%s: verdict %d, not %d", test.name, got, test.want)
		}
	}
}

// What a machine loses does not hide a fault that is greater.
func TestNoFaultIsExcusedByLessThanItself(t *testing.T) {
	for limit := 10 * ms; limit < time.Minute; limit *= 3 {
		for lost := time.Duration(0); lost <= limit/4; lost += limit / 40 {
			for fault := limit/4 + 1; fault < 3*limit; fault += limit / 20 {
				if v := judge(limit, limit+fault, lost); v != late {
					t.Fatalf("limit %v, %v too late, %v lost: verdict %d", limit, fault, lost, v)
				}
			}
		}
	}
}

func TestTimeThatIsLost(t *testing.T) {
	base := time.Now()
	spans := func(ends ...int) (ss []span) {
		for i := 0; i < len(ends); i += 2 {
			ss = append(ss, span{base.Add(time.Duration(ends[i]) * ms), base.Add(time.Duration(ends[i+1]) * ms)})
		}
		return ss
	}
	for _, test := range []struct {
		name        string
		from, to    int
		stalls      [][]span
		lost, worst int
	}{
		{"none", 0, 100, nil, 0, 0},
		{"no stalls", 0, 100, [][]span{nil, nil}, 0, 0},
		{"one", 0, 100, [][]span{spans(20, 50)}, 30, 30},
		{"two", 0, 100, [][]span{spans(20, 50, 60, 70)}, 40, 30},
		{"before and after", 30, 60, [][]span{spans(0, 20, 70, 90)}, 0, 0},
		{"touching", 20, 70, [][]span{spans(0, 20, 70, 90)}, 0, 0},
		{"over the start", 30, 60, [][]span{spans(20, 50)}, 20, 20},
		{"over the end", 30, 60, [][]span{spans(50, 90)}, 10, 10},
		{"over both", 30, 60, [][]span{spans(20, 90)}, 30, 30},
		{"two things at once", 0, 100, [][]span{spans(20, 50), spans(30, 60)}, 40, 30},
		{"one within the other", 0, 100, [][]span{spans(20, 80), spans(30, 60, 70, 90)}, 70, 60},
		{"the same", 0, 100, [][]span{spans(20, 80), spans(20, 80)}, 60, 60},
		{"in turn", 0, 100, [][]span{spans(10, 20, 50, 60), spans(30, 40, 70, 90)}, 50, 20},
	} {
		lost, worst := lostIn(span{base.Add(time.Duration(test.from) * ms), base.Add(time.Duration(test.to) * ms)}, test.stalls...)
		if lost != time.Duration(test.lost)*ms || worst != time.Duration(test.worst)*ms {
			t.Errorf("%s: lost %v, %v at once, not %d and %d ms", test.name, lost, worst, test.lost, test.worst)
		}
	}
}

// A machine that is on time loses nothing, and a fault stays what it is.
func TestQuietMachineExcusesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{T: t}
		m := Watch(r)
		m.Ask(func(context.Context) error { time.Sleep(noise); return nil })
		start := time.Now()
		time.Sleep(time.Second)
		if !m.Within(time.Second, time.Since(start), "it") || m.Worst() != 0 || m.Lost(start, time.Now()) != 0 {
			t.Errorf("lost %v, %v at once; %q", m.Lost(start, time.Now()), m.Worst(), r.failures)
		}
		time.Sleep(time.Nanosecond)
		if m.Within(time.Second, time.Since(start), "the answer") {
			t.Error("late, and not told")
		}
		r.blames(1, "the answer took 1.000000001s, more than 1s")
		if !m.Blame(start, time.Now(), 0, "%d failed", 7) {
			t.Error("a failure was excused")
		}
		r.blames(2, "7 failed")
		if took := m.Eventually(time.Second, "it", func() bool { return time.Since(start) >= 1500*ms }); took != 500*ms {
			t.Errorf("it came after %v", took)
		}
		start = time.Now()
		r.run(func() {
			m.Eventually(time.Second, "the other", func() bool { return false }, func() string { return "it is ill" })
		})
		r.blames(3, "not within 1s: the other; it is ill")
		if took := time.Since(start); !r.ended || took > time.Second+5*ms {
			t.Errorf("ended: %t, after %v", r.ended, took)
		}
		m.stop()
	})
}

// stalling is a question that is answered late at times.
func stalling(every, late time.Duration) func(context.Context) error {
	var last time.Time
	return func(ctx context.Context) error {
		if time.Since(last) < every {
			return nil
		}
		select {
		case <-time.After(late):
		case <-ctx.Done():
		}
		last = time.Now()
		return nil
	}
}

func TestWindowIsWidenedByWhatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{T: t}
		m := Watch(r)
		start := time.Now()
		m.Ask(stalling(time.Hour, 300*ms))
		time.Sleep(200 * ms) // in the middle of it
		if lost := m.Lost(start, time.Now()); lost != 190*ms {
			t.Errorf("so far %v were lost", lost)
		}
		time.Sleep(500 * ms)
		if m.Worst() != 300*ms || m.Lost(start, time.Now()) != 300*ms {
			t.Errorf("lost %v, %v at once", m.Lost(start, time.Now()), m.Worst())
		}
		m.Within(400*ms, time.Since(start), "it")
		r.run(func() { m.Eventually(0, "nothing more", func() bool { return true }) })
		if r.Failed() {
			t.Errorf("%q", r.failures)
		}
		m.Within(399*ms, time.Since(start), "it")
		r.blames(1, "it took 700ms, more than 399ms; this machine stalled for 300ms of that")
		m.Between(50*ms, start.Add(10*ms), start.Add(310*ms), "the first half")
		r.proves(2, "the first half took 300ms, more than 50ms: this machine stalls by 300 ms, nothing is proven")

		if !m.Blame(start, time.Now(), 300*ms, "it failed") {
			t.Error("a failure was excused by a stall that it must bear")
		}
		r.blames(3, "it failed")
		if m.Blame(start, time.Now(), 299*ms, "%d failed", 7) {
			t.Error("a failure was not excused")
		}
		r.proves(4, "this machine stalls by 300 ms, nothing is proven: 7 failed")
		m.stop()
	})
}

func TestMachineThatDoesNothingButStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{T: t}
		m := Watch(r)
		m.Ask(stalling(0, 90*ms)) // nine tenths of the time
		start := time.Now()
		time.Sleep(3 * time.Second)
		m.Within(500*ms, time.Since(start), "it")
		r.proves(1, "it took 3s, more than 500ms: this machine stalls by 90 ms, nothing is proven")
		if m.Blame(start, time.Now(), time.Second, "it failed") {
			t.Error("a failure was not excused")
		}
		r.proves(2, "nothing is proven")

		start = time.Now()
		m.Eventually(time.Second, "it", func() bool { return time.Since(start) > 9*time.Second })
		r.proves(2)
		start = time.Now()
		r.run(func() { m.Eventually(time.Second, "the other", func() bool { return false }) })
		r.proves(3, "not within 10s: the other: this machine stalls by 90 ms, nothing is proven")
		if took := time.Since(start); !r.ended || took > 10*time.Second+5*ms {
			t.Errorf("ended: %t, after %v", r.ended, took)
		}
		m.stop()
	})
}

func TestQuestionsThatFailAreNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := Watch(&recorder{T: t})
		m.Ask(func(context.Context) error { time.Sleep(time.Second); return errors.New("no server") })
		time.Sleep(5 * time.Second)
		m.stop() // one of them is under way
		synctest.Wait()
		time.Sleep(2 * time.Second)
		if stalls := m.samplers[1].stalls; len(stalls) > 0 {
			t.Errorf("%v", stalls)
		}
	})
}

func TestWorstIsInTheLogOfATestThatFails(t *testing.T) {
	for _, fails := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			logged := &logs{recorder: recorder{T: t}}
			m := Watch(logged)
			m.Ask(stalling(time.Hour, 70*ms))
			time.Sleep(time.Second)
			if fails {
				logged.Errorf("it fails")
			}
			logged.cleanup()
			if got := strings.Contains(logged.said, "stalled by up to 70 ms"); got != fails {
				t.Errorf("fails: %t, said: %q", fails, logged.said)
			}
		})
	}
}

type logs struct {
	recorder
	cleanup func()
	said    string
}

func (l *logs) Cleanup(f func())                { l.cleanup = f }
func (l *logs) Logf(format string, args ...any) { l.said += fmt.Sprintf(format, args...) }

// A server that is stopped for a while has stalled, and one that was restarted is
// asked again.
func TestServerThatStalls(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Control: true})
	m := Watch(t)
	m.AskServer(server.Admin())
	for range 2 {
		m.Eventually(10*time.Second, "an answer", func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.samplers[1].answers > 0
		}, nil)
		start := time.Now()
		if err := server.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * ms)
		if err := server.Resume(); err != nil {
			t.Fatal(err)
		}
		m.Eventually(10*time.Second, "the stall is noticed", func() bool { return m.Lost(start, time.Now()) >= 250*ms })
		if err := server.Restart(t.Context(), pgtest.Fast); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		m.samplers[1].answers = 0
		m.mu.Unlock()
	}
}

// What a test does to the machine itself is taken out of what the machine loses, and the
// rest of a stall is not.
func TestStopThatTheTestOwns(t *testing.T) {
	base := time.Now()
	at := func(n int) time.Time { return base.Add(time.Duration(n) * ms) }
	for _, test := range []struct {
		name   string
		due    int // of what is expected; 0: nothing is
		stalls []span
		want   []span
		left   int // when it is due then
	}{
		{"before and after", 0, []span{{at(10), at(90)}, {at(210), at(300)}}, []span{{at(10), at(90)}, {at(210), at(300)}}, 0},
		{"within", 0, []span{{at(110), at(190)}}, nil, 0},
		{"the same", 0, []span{{at(100), at(200)}}, nil, 0},
		{"touching", 0, []span{{at(50), at(100)}, {at(200), at(250)}}, []span{{at(50), at(100)}, {at(200), at(250)}}, 0},
		{"over the start", 0, []span{{at(50), at(150)}}, []span{{at(50), at(100)}}, 0},
		{"over the end", 0, []span{{at(150), at(250)}}, []span{{at(200), at(250)}}, 0},
		{"over both", 0, []span{{at(50), at(250)}}, []span{{at(50), at(100)}, {at(200), at(250)}}, 0},
		{"one that goes on since then", 110, nil, nil, 200},
		{"one that goes on since before", 50, nil, []span{{at(50), at(100)}}, 200},
		{"since just before", 97, nil, nil, 200},
		{"one that comes later", 210, nil, nil, 210},
	} {
		s := &sampler{stalls: test.stalls}
		if test.due > 0 {
			s.due = at(test.due)
		}
		s.except(span{at(100), at(200)})
		if !slices.Equal(s.stalls, test.want) || test.left > 0 && !s.due.Equal(at(test.left)) {
			t.Errorf("%s: left %v, due %v", test.name, s.stalls, s.due.Sub(base))
		}
	}
}

// What is long over is forgotten, and the worst of it is not.
func TestStallsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := Watch(&recorder{T: t})
		start := time.Now()
		m.Ask(stalling(time.Second, 300*ms))
		time.Sleep(4 * time.Second)
		before, worst := m.Lost(start, time.Now()), m.Worst()
		middle := start.Add(2 * time.Second)
		late := m.Lost(middle, time.Now())
		m.Forget(middle)
		if got := m.Lost(start, time.Now()); got < late || got >= before || m.Lost(middle, time.Now()) != late || m.Worst() != worst {
			t.Errorf("lost %v of %v, %v lately; the worst was %v and is %v", got, before, late, worst, m.Worst())
		}
		m.Forget(time.Now())
		if n := len(m.samplers[1].stalls); n > 1 {
			t.Errorf("%d stalls are remembered", n)
		}
		if got := m.Own(start, time.Now().Add(time.Second)); m.Lost(start, time.Now()) != 0 || m.Worst() != worst {
			t.Errorf("%v were the test's own; the worst was %v", got, m.Worst())
		}
		m.stop()
	})
}
