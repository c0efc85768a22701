package difftest

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// What is written here in the manner of a tool is what the tool itself writes, and what
// it reads is what the reader here reads.
func TestTheToolsDoAsIsSaid(t *testing.T) {
	r := rand.New(rand.NewPCG(seedOf(t, 1), 3))
	var texts []string
	for len(texts) < 3000 {
		if s := pick(r, passwords()).make(r); isText(login{password: s}) && s != "" {
			texts = append(texts, s)
		}
	}
	for _, tool := range []struct {
		name    string
		command []string
		script  string // reads a JSON array of texts, and writes one of its results
		same    func(string) string
		skip    func(string) bool // what is written in another way that means the same
	}{
		{name: "jq @sh", command: []string{"jq", "-c"}, script: "map(@sh)", same: shQuote},
		{name: "shlex.quote", command: []string{"python3", "-c"}, script: python("[shlex.quote(s) for s in texts]"), same: shlexQuote},
		{name: "json.dumps", command: []string{"python3", "-c"}, script: python("[json.dumps(s) for s in texts]"), same: asciiJSON},
		{name: "urllib.parse.quote", command: []string{"python3", "-c"}, script: python("[urllib.parse.quote(s, safe='') for s in texts]"), same: percent},
		{name: "python-dotenv", command: []string{"python3", "-c"}, script: python("[dotenv.dotenv_values(stream=io.StringIO(s), interpolate=False).get('password') or '' for s in texts]"), same: func(s string) string {
			l, err := readPythonDotenv(s)
			if err != nil {
				return ""
			}
			return l.password
		}, skip: func(s string) bool {
			return strings.Contains(s, "${") || strings.Contains(s, `\\`) || strings.Contains(s, `\$`) || strings.Count(folded(s), passwordKey) != 1 || !strings.Contains(s, passwordKey)
		}},
		{name: "printf %q", command: []string{"bash", "-c"}, script: `while IFS= read -r -d "" s; do printf "%q\0" "$s"; done`, same: bashQuote, skip: isOdd},
		{name: "export -p", command: []string{"bash", "-c"}, script: `while IFS= read -r -d "" s; do export s; q=$(declare -p s; echo .); printf "%s\0" "${q:13: -2}"; done`, same: declared, skip: isOdd},
	} {
		t.Run(tool.name, func(t *testing.T) {
			program := tool.command[0]
			if program == "python3" {
				program = pythonPath(t)
			} else if _, err := exec.LookPath(program); err != nil {
				giveUp(t, program)
			}
			texts := slices.Clone(texts)
			if tool.name == "python-dotenv" {
				c := newComparison(credfile.FormatDotenv, nil)
				for i := range texts {
					texts[i] = mutate(r, c.sample(r), c.sample)
					if !isText(login{password: texts[i]}) {
						texts[i] = "password=x"
					}
				}
			}
			input, err := json.Marshal(texts)
			if err != nil {
				t.Fatal(err)
			}
			if tool.command[0] == "bash" {
				input = []byte(strings.Join(texts, "\x00") + "\x00")
			}
			command := exec.CommandContext(t.Context(), program, append(tool.command[1:], tool.script)...)
			command.Stdin = bytes.NewReader(input)
			command.Env = append(command.Environ(), "LC_ALL=C.UTF-8")
			output, err := command.Output()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				t.Fatalf("%s", exit.Stderr)
			} else if err != nil {
				t.Fatal(err)
			}
			var results []string
			if tool.command[0] == "bash" {
				results = strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
			} else if err := json.Unmarshal(output, &results); err != nil {
				t.Fatal(err)
			}
			if len(results) != len(texts) {
				t.Fatalf("%d results for %d texts", len(results), len(texts))
			}
			for i, s := range texts {
				if got := tool.same(s); got != results[i] && (tool.skip == nil || !tool.skip(s)) {
					t.Fatalf("of %q it makes %q, and here is made %q", s, results[i], got)
				}
			}
		})
	}
}

// isOdd reports whether s has a character that is printed or not, depending on the
// age of Unicode.
func isOdd(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= 0x7f && !unicode.IsLetter(r) || r > 0x3000 })
}

// pythonPath returns a Python that has all that is needed: the first one in PATH needn't be
// the one that Debian's packages are for.
func pythonPath(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), path, "-c", "import dotenv").Run() == nil {
			return path
		}
	}
	giveUp(t, "python3 with python-dotenv")
	return ""
}

// giveUp skips a test that lacks what it needs, or fails it in CI.
func giveUp(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("there is no %s: internal/setup.sh references", what)
	}
	t.Skipf("there is no %s: internal/setup.sh references", what)
}

func python(expression string) string {
	imports := "import io, json, shlex, sys, urllib.parse\n"
	if strings.Contains(expression, "dotenv.") {
		imports += "import dotenv, logging\nlogging.disable()\n"
	}
	return imports + "texts = json.load(sys.stdin)\njson.dump(" + expression + ", sys.stdout)\n"
}
