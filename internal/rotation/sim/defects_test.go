//go:build !race

package sim

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// defect is one that can be planted in a file: planted(N) says whether it is at work.
type defect struct{ what, file, old, new string }

// defects are planted in the core, one at a time: the simulator has to find each. They are
// defects of books and bounds; what is a rule has its table beside it.
var defects = []defect{ //nolint:gochecknoglobals // a table
	{
		"one session too many", "room.go",
		"return peak - len(s.byID), ready",
		"if planted(N) { peak++ }\nreturn peak - len(s.byID), ready",
	},
	{
		"two of the connector's own logins at once", "room.go",
		"ready = false",
		"ready = planted(N)",
	},
	{
		"sessions are retired for a version that has not worked", "version.go",
		"return v.proven && !v.dead && !s.hardEnd",
		"return (v.proven || planted(N)) && !v.dead && !s.hardEnd",
	},
	{
		"what was said isn't taken back when a version comes back", "drain.go",
		"case x.need == stay:\n",
		"case x.need == stay && planted(N) && x.state != Pooled:\ncase x.need == stay:\n",
	},
	{
		"hard ends aren't announced", "end.go",
		"if end != v.armed {",
		"if end != v.armed && !planted(N) {",
	},
	{
		"leases have no end", "version.go",
		"func (v *version) loginEnd() End { return v.overlap.earlier(v.lease) }",
		"func (v *version) loginEnd() End { if planted(N) { return v.overlap }; return v.overlap.earlier(v.lease) }",
	},
	{
		"an overlap's end forgets the lag", "version.go",
		"last.overlap = endAfter(s.cfg.Overlap-s.cfg.Lag, now)",
		"last.overlap = endAfter(s.cfg.Overlap-s.cfg.Lag, now)\nif planted(N) { last.overlap = endAfter(s.cfg.Overlap, now) }",
	},
	{
		"ends go by the monotonic clock alone", "clock.go",
		"(now.Mono >= e.Mono || !now.Wall.Before(e.Wall))",
		"(now.Mono >= e.Mono || !planted(N) && !now.Wall.Before(e.Wall))",
	},
	{
		"logins with a credential that is over", "version.go",
		"if end.Past(now) {\n\t\treturn false\n\t}\n\tif v == s.current()",
		"if end.Past(now) && !planted(N) {\n\t\treturn false\n\t}\n\tif v == s.current()",
	},
	{
		"logins with a role that is known to be dead", "version.go",
		"if !v.proven || v.dead {",
		"if !v.proven || v.dead && !planted(N) {",
	},
	{
		"a refused credential is asked about without a pause", "episode.go",
		"e.next = now.Mono.Add(backoff(e.n, retryMin, retryMax))\n\t}",
		"e.next = now.Mono.Add(backoff(e.n, retryMin, retryMax))\n\t}\n\tif planted(N) { e.next = now.Mono }",
	},
	{
		"predecessors that are refused are tried without a pause", "episode.go",
		"f.next = max(step, now.Mono.Add(backoff(f.n, retryMin, retryMax)))",
		"f.next = max(step, now.Mono.Add(backoff(f.n, retryMin, retryMax)))\nif planted(N) { f.next = 0 }",
	},
	{
		"each new version begins with new patience", "episode.go",
		"if s.ep.on {\n\t\ts.ep.fresh++",
		"if planted(N) { s.ep = episode{} }\n\tif s.ep.on {\n\t\ts.ep.fresh++",
	},
	{
		"everybody logs in at once", "admit.go",
		"n, youngest := s.ahead(v)",
		"n, youngest := s.ahead(v)\nif planted(N) { n = 0 }",
	},
	{
		"the connector's own logins don't back off", "spares.go",
		"at = max(at, s.retry(p))",
		"if !planted(N) { at = max(at, s.retry(p)) }",
	},
	{
		"the source is read at each step", "reads.go",
		"s.readTried = now.Mono // a read",
		"if planted(N) { s.readTried = 0 } else { s.readTried = now.Mono } // a read",
	},
	{
		"a wake-up that is past", "drain.go",
		"if at > now.Mono {",
		"if at > now.Mono || planted(N) && at == now.Mono {",
	},
	{
		"a session is forgotten that is given back", "ledger.go",
		"x.purpose = Refill",
		"x.purpose = Refill\nif planted(N) { s.drop(x); return }",
	},
	{
		"a session is remembered that is over", "ledger.go",
		"s.tell(Notice{Kind: SessionEnded,",
		"if planted(N) && x.state == Spare { return }\ns.tell(Notice{Kind: SessionEnded,",
	},
	{
		"connections live too long", "drain.go",
		"by = x.born.Add(s.lifetime)",
		"by = x.born.Add(s.lifetime)\nif planted(N) { by = by.Add(s.lifetime) }",
	},
	{
		"sessions are retired that are held", "drain.go",
		"case x.held:",
		"case x.held && !planted(N):",
	},
	{
		"only one session of a drain goes", "drain.go",
		"if x.state == Pooled && (x.need == aging || x.need == leaving) {",
		"if x.state == Pooled && (x.need == aging || x.need == leaving) && !(planted(N) && p.drain.gone > 0) {",
	},
}

// ledgerDefects are planted in the core and in the shell. The core can't tell the simulator
// of them, but a server, a network and a pool can.
var ledgerDefects = []defect{ //nolint:gochecknoglobals // a table
	{
		"a session is never booked out", "login.go",
		"	c.stepLocked(rotation.Ended{Session: s.id})\n",
		"	if !planted(N) || s.id%7 != 3 { c.stepLocked(rotation.Ended{Session: s.id}) }\n",
	},
	{
		"a close is booked twice", "internal/rotation/ledger.go",
		"		s.left(x, why, now)\n		s.counts.Ended[why]++\n	}\n",
		"		s.left(x, why, now)\n		s.counts.Ended[why]++\n		if planted(N) && x.id%5 == 0 { s.counts.Ended[why]++ }\n	}\n",
	},
	{
		"a current session is told to go", "internal/rotation/drain.go",
		"		case x.v.outdated:\n			x.need, x.why = leaving, Superseded",
		"		case x.v.outdated || planted(N) && x.id%11 == 5 && len(s.versions) > 1:\n			x.need, x.why = leaving, Superseded",
	},
	{
		"a login that is given up is counted twice", "internal/rotation/ledger.go",
		"	s.counts.Abandoned++\n",
		"	s.counts.Abandoned++\n	if planted(N) { s.counts.Abandoned++ }\n",
	},
	{
		"what is to be closed stays open", "loop.go",
		"			c.tasks.start(func() { c.discard(s) })\n",
		"			if !planted(N) || s.id%3 > 0 { c.tasks.start(func() { c.discard(s) }) }\n",
	},
	{
		"what outlives its credential stays open", "deadline.go",
		"		c.tasks.start(func() { s.expire(reason); s.abort() })\n",
		"		if !planted(N) { c.tasks.start(func() { s.expire(reason); s.abort() }) }\n",
	},
}

// Each planted defect is found within 2,000 schedules.
func TestPlantedDefectsAreFound(t *testing.T) {
	if len(defects) < 20 {
		t.Fatalf("there are %d defects, want 20 at least", len(defects))
	}
	mustFind(t, defects, "..", ".", "-test.run=^TestSchedulesHoldTheBooks$", "-sim.n=2000", "-sim.first")
}

// Each is found in the 200 schedules that drive database/sql.
func TestPlantedDefectsOfLedgersAreFound(t *testing.T) {
	mustFind(t, ledgerDefects, "../../..", "../../..", "-test.run=^TestSoakLedgersAgree$")
}

// mustFind plants defects in files of a directory, and runs the tests of a package with each.
// They are compiled into one program, from changed copies of the files, and only one of them
// is at work at a time.
func mustFind(t *testing.T, defects []defect, dir, pkg string, flags ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes a while")
	}
	program := plant(t, defects, dir, pkg)
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, d := range defects {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			cmd := exec.Command(program, flags...)
			cmd.Dir = pkg
			cmd.Env = append(os.Environ(), "PLANTED="+strconv.Itoa(i+1), "GOMAXPROCS=1", "SQLROTATE_SOAK=")
			out, err := cmd.CombinedOutput()
			_, found, _ := strings.Cut(string(out), "_test.go:")
			_, found, _ = strings.Cut(found, ": ")
			found, _, _ = strings.Cut(found, "\n")
			if err == nil || found == "" {
				t.Errorf("not found: %s", d.what)
				return
			}
			t.Logf("%s: %s", d.what, found)
		})
	}
	wg.Wait()
}

// plant compiles a package's tests with all defects planted.
func plant(t *testing.T, defects []defect, dir, pkg string) string {
	t.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for i, d := range defects {
		name := filepath.Join(dir, d.file)
		text, ok := files[name]
		if !ok {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if n := strings.Count(text, d.old); n != 1 {
			t.Fatalf("%s: %q is there %d times in %s", d.what, d.old, n, d.file)
		}
		files[name] = strings.Replace(text, d.old, strings.ReplaceAll(d.new, "planted(N)", "planted("+strconv.Itoa(i+1)+")"), 1)
	}
	for name, text := range files {
		files[filepath.Join(filepath.Dir(name), "planted.go")] = packageClause.FindString(text) + `

import (
	"os"
	"strconv"
)

var theDefect, _ = strconv.Atoi(os.Getenv("PLANTED"))

func planted(n int) bool { return n == theDefect }
`
	}
	temp := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		changed := filepath.Join(temp, strconv.Itoa(len(overlay.Replace))+".go")
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[name] = changed
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list, program := filepath.Join(temp, "overlay.json"), filepath.Join(temp, "defects.test")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", list, "-o", program, pkg).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

var packageClause = regexp.MustCompile(`(?m)^package \w+$`)
