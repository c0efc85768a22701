package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module writes a module of one package and returns its directory.
func module(t *testing.T, code, test string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/p\n\ngo 1.25\n", "p.go": "package p\n\n" + code, "p_test.go": "package p\n\nimport \"testing\"\n\n" + test,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOWORK", "off")
	return dir
}

// mutants returns those of a package with what came of them.
func mutants(t *testing.T, code, test string) map[string]fate {
	t.Helper()
	p, err := load(t.Context(), module(t, code, test))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.test(t.Context(), regexp.MustCompile("")); err != nil {
		t.Fatal(err)
	}
	fates := map[string]fate{}
	for _, m := range p.mutants {
		fates[m.key] = m.fate
	}
	if len(fates) != len(p.mutants) {
		t.Errorf("%d mutants have %d keys", len(p.mutants), len(fates))
	}
	return fates
}

// Every kind of change is made, by itself, and told apart from what it was.
func TestWhatIsChanged(t *testing.T) {
	got := mutants(t, `import "time"

type Instant int64

const (
	limit = 10 // of things
	pause = 5 * time.Second
	unit  = time.Second
)

const (
	a = iota + 1
	b
)

type T struct{ n int }

func (t *T) f(x, y int, ok bool) int {
	if x < y && !ok {
		return 0
	}
	t.n++
	for i := range 3 {
		if i == 1 {
			continue
		}
		t.n += min(x, y)
	}
	switch {
	case ok:
		t.n = limit
	}
	return x - 7
}

func unused(at Instant) bool {
	return at != 0 && a < b && time.Duration(at) > pause
}
`, `func Test(t *testing.T) {}`)
	var keys []string
	for key, fate := range got {
		keys = append(keys, strings.TrimPrefix(key, "p."))
		if fate == killedByTests {
			t.Errorf("%s is killed by a test that tests nothing", key)
		}
	}
	slices.Sort(keys)
	want := []string{
		"T.f: case {ok → !(ok)}:",
		"T.f: for i := range {3 → 0} {",
		"T.f: for i := range {3 → 3+1} {",
		"T.f: for i := range {3 → 3-1} {",
		"T.f: if i == {1 → 1+1} {",
		"T.f: if i == {1 → 1-1} {",
		"T.f: if i {== → !=} 1 {",
		"T.f: if x < y && {! → }ok {",
		"T.f: if x < y {&& → ||} !ok {",
		"T.f: if x {< → <=} y && !ok {",
		"T.f: if {x < y && !ok → !(x < y && !ok)} {",
		"T.f: if {x < y → !(x < y)} && !ok {",
		"T.f: return x - {7 → 0}",
		"T.f: return x - {7 → 7+1}",
		"T.f: return x - {7 → 7-1}",
		"T.f: return {0 → 0+1}",
		"T.f: return {0 → 0-1}",
		"T.f: t.n += {min → max}(x, y)",
		"T.f: {continue → }",
		"T.f: {t.n += min(x, y) → }",
		"T.f: {t.n = limit → }",
		"T.f: {t.n++ → }",
		"limit: limit = {10 → 0}",
		"limit: limit = {10 → 10+1}",
		"limit: limit = {10 → 10-1}",
		"pause: pause = {5 → 0} * time.Second",
		"pause: pause = {5 → 5+1} * time.Second",
		"pause: pause = {5 → 5-1} * time.Second",
		"unit: unit = {time.Second → 0}",
		"unit: unit = {time.Second → 2*time.Second}",
		"unused: return at != 0 && a < b && {time.Duration(at) > pause → !(time.Duration(at) > pause)}",
		"unused: return at != 0 && a < b && time.Duration(at) {> → >=} pause",
		"unused: return at != 0 && a < b {&& → ||} time.Duration(at) > pause",
		"unused: return at != 0 {&& → ||} a < b && time.Duration(at) > pause",
		"unused: return at {!= → ==} 0 && a < b && time.Duration(at) > pause",
		"unused: return {at != 0 && a < b && time.Duration(at) > pause → !(at != 0 && a < b && time.Duration(at) > pause)}",
		"unused: return {at != 0 && a < b → !(at != 0 && a < b)} && time.Duration(at) > pause",
	}
	slices.Sort(want)
	if !slices.Equal(keys, want) {
		for _, key := range keys {
			if !slices.Contains(want, key) {
				t.Errorf("made up: %s", key)
			}
		}
		for _, key := range want {
			if !slices.Contains(keys, key) {
				t.Errorf("missing: %s", key)
			}
		}
	}
}

// A mutant is killed by a test that fails, panics or doesn't end; it survives if none does,
// and isn't reached where none goes.
func TestWhatKills(t *testing.T) {
	got := mutants(t, `func sum(n int) (s int) {
	for n > 0 {
		s += n
		n--
	}
	return s
}

func tell(ok bool) {
	if ok {
		println("ok")
	}
}

func never() {
	panic(0)
}
`, `func Test(t *testing.T) {
	if sum(3) != 6 {
		t.Error("wrong")
	}
	tell(true)
}
`)
	want := map[string]fate{
		"p.sum: for {n > 0 → !(n > 0)} {": killedByTests,
		"p.sum: for n {> → >=} 0 {":       survived, // it adds nothing
		"p.sum: for n > {0 → 0+1} {":      killedByTests,
		"p.sum: {s += n → }":              killedByTests,
		"p.sum: {n-- → }":                 killedByTests, // it never ends
		"p.tell: if {ok → !(ok)} {":       survived,
		"p.tell: {println(\"ok\") → }":    survived,
		"p.never: {panic(0) → }":          notReached,
		"p.never: panic({0 → 0+1})":       notReached,
		"p.never: panic({0 → 0-1})":       notReached,
	}
	for key, fate := range got {
		if fate != want[key] {
			t.Errorf("%s: %s, want %s", key, fate, want[key])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d mutants, want %d", len(got), len(want))
	}
}

func TestTestsThatFailWithoutAMutant(t *testing.T) {
	p, err := load(t.Context(), module(t, "func f() {}\n", `func Test(t *testing.T) { t.Error("as always") }`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.test(t.Context(), regexp.MustCompile("")); err == nil || !strings.Contains(err.Error(), "as always") {
		t.Error(err)
	}
}

func TestSurvivorsThatAreListed(t *testing.T) {
	got, err := readSurvivors("# a comment\n\np.f: {x → }\n\tIt does\n\tnothing.\n")
	if err != nil || len(got) != 1 || got["p.f: {x → }"] != "It does nothing." {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"\tA reason.\n", "p.f: {x → }\n", "p.f\n\tA.\np.f\n\tB.\n"} {
		if _, err := readSurvivors(text); err == nil {
			t.Errorf("no error for %q", text)
		}
	}
}

// What survives must be listed, what is listed survive, and there be few of both.
func TestJudgement(t *testing.T) {
	list := func(n int) map[string]string {
		listed := map[string]string{}
		for i := range n {
			listed["s"+string(rune('a'+i))] = "why"
		}
		return listed
	}
	for _, tt := range []struct {
		name             string
		killed, survives int
		listed           map[string]string
		want             string // of the error; empty: none
	}{
		{"all are killed", 5, 0, nil, ""},
		{"as listed", 97, 3, list(3), ""},
		{"one isn't listed", 97, 3, list(2), "not as listed"},
		{"one that is listed is killed", 98, 2, list(3), "not as listed"},
		{"too many", 96, 4, list(4), "4 of 100"},
		{"too many by number", 1000, 16, list(16), "15 is the most"},
	} {
		var all []*mutant
		for range tt.killed {
			all = append(all, &mutant{key: "k", fate: killedByTests})
		}
		for i := range tt.survives {
			all = append(all, &mutant{key: "s" + string(rune('a'+i)), fate: survived})
		}
		var out bytes.Buffer
		err := judge(&out, all, tt.listed, regexp.MustCompile(""))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v\n%s", tt.name, err, &out)
		}
	}
}

func TestPlantedDefects(t *testing.T) {
	dir := module(t, "func f() int { return 1 }\n\nfunc g() int { return 2 }\n", `func TestF(t *testing.T) {
	if f() != 1 {
		t.Error("wrong")
	}
}
`)
	f := defect{what: "f is 0", file: "p.go", old: "return 1", new: "if planted(N) { return 0 }; return 1", test: "^TestF$"}
	g := defect{what: "g is 0", file: "p.go", old: "return 2", new: "if planted(N) { return 0 }; return 2", test: "^TestF$"}
	none := f
	none.test = "^TestG$"
	for _, tt := range []struct {
		all  []defect
		want string // of what is printed or returned
	}{
		{[]defect{f}, "1 of 1 planted defects noticed"},
		{[]defect{f, g}, "no test notices that g is 0"},
		{[]defect{none}, "there is no test ^TestG$"},
		{[]defect{{what: "h is 0", file: "p.go", old: "return 3"}}, "is there 0 times"},
	} {
		var out bytes.Buffer
		err := plantAll(t.Context(), &out, dir, tt.all)
		if err != nil {
			out.WriteString(err.Error())
		}
		if !strings.Contains(out.String(), tt.want) || (err == nil) != (tt.all[0].what == "f is 0" && len(tt.all) == 1 && tt.all[0].test == "^TestF$") {
			t.Errorf("%v\n%s", err, &out)
		}
	}
}
