package main

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"unicode/utf8"
)

// asMain is set for a child that is this program rather than its tests. What it is
// set to may plant a panic.
const asMain = "SQLROTATE_TEST_MAIN"

func TestMain(m *testing.M) {
	switch os.Getenv(asMain) {
	case "":
		os.Exit(m.Run())
	case "panic":
		os.Exit(run(context.Background(), stdio{panicker{}, os.Stderr}, os.Args[1:]))
	case "panic elsewhere":
		os.Exit(run(context.Background(), stdio{panicker{elsewhere: true}, os.Stderr}, os.Args[1:]))
	default:
		main()
	}
}

// panicker panics once the applications have been at work for a second.
type panicker struct{ elsewhere bool }

func (p panicker) Write(text []byte) (int, error) {
	if !strings.HasPrefix(string(text), "   1s ") {
		return os.Stdout.Write(text)
	}
	_, _ = os.Stdout.WriteString("panics next\n")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test has looked around
	if p.elsewhere {
		go panic("planted")
		select {}
	}
	panic("planted")
}

// narrow fails unless every line fits into 80 columns.
func narrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestCommandsAreListedAndFound(t *testing.T) {
	for _, test := range []struct {
		args        string
		status      int
		out, errout string // what is said there, nothing if empty
	}{
		{"", statusUsage, "", "usage: sqlrotate <command>"},
		{"help", statusOK, "usage: sqlrotate <command>", ""},
		{"--help", statusOK, "usage: sqlrotate <command>", ""},
		{"help demo", statusOK, "-overlap duration", ""},
		{"demo -h", statusOK, "usage: sqlrotate demo", ""},
		{"help nonsense", statusUsage, "", `no command "nonsense"`},
		{"nonsense", statusUsage, "", `no command "nonsense"`},
		{"-duration 1s", statusUsage, "", `no command "-duration"`},
		{"version", statusOK, "sqlrotate ", ""},
		{"version 2", statusUsage, "", "usage: sqlrotate version"},
		{"help check", statusOK, "-overlap duration", ""},
		{"help parse", statusOK, "usage: sqlrotate parse [flags] FILE", ""},
		{"parse", statusUsage, "", "it takes one path"},
		{"check", statusUsage, "", "-credential is missing"},
		{"check -credential x -max-mode 8", statusUsage, "", "-max-mode: permissions in octal"},
		{"check -credential x -pool -1", statusUsage, "", "-pool -1: zero or more"},
		{"check -credential x -for 1s", statusUsage, "", "-for and -once are for -watch"},
		{"check -credential x -watch -for -1s", statusUsage, "", "-for -1s: zero or more"},
		{"check -credential x -watch -overlap 1m", statusUsage, "", "-watch needs -dsn"},
		{"check -credential x -watch -login-tokens", statusUsage, "", "-watch is of no use with -login-tokens"},
		{"check -credential x -lag 1s", statusUsage, "", "give -overlap, too"},
		{"check -credential x -in-place -overlap 1m", statusUsage, "", "-overlap, -in-place and -login-tokens: give one"},
		{"check -credential x -in-place -login-tokens", statusUsage, "", "-login-tokens: give one"},
		{"demo now", statusUsage, "", `it takes flags only, not "now"`},
		{"demo -compare", statusUsage, "", "flag provided but not defined: -compare"},
		{"demo -every 0", statusUsage, "", "-every 0s: from 100ms"},
		{"demo -every soon", statusUsage, "", `invalid value "soon"`},
		{"demo -connections NaN", statusUsage, "", `invalid value "NaN"`},
	} {
		t.Run(test.args, func(t *testing.T) {
			var out, errout bytes.Buffer
			if status := run(t.Context(), stdio{&out, &errout}, strings.Fields(test.args)); status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			for _, said := range []struct{ got, want string }{{out.String(), test.out}, {errout.String(), test.errout}} {
				if !strings.Contains(said.got, said.want) || (said.got == "") != (said.want == "") {
					t.Errorf("%q, want %q", said.got, said.want)
				}
			}
			narrow(t, out.String())
			narrow(t, errout.String())
		})
	}
}

func TestVersionSaysWhatIsKnown(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	released, built := &debug.BuildInfo{}, &debug.BuildInfo{}
	released.Main.Version = "v1.2.3"
	built.Main.Version = "v1.2.4-0.20260101000000-0123456789ab+dirty"
	built.Settings = []debug.BuildSetting{setting("vcs.revision", "0123456789abcdef0123"), setting("vcs.modified", "true")}
	for want, info := range map[string]*debug.BuildInfo{
		"sqlrotate, version unknown, go": nil,
		"sqlrotate (devel), go":          {},
		"sqlrotate v1.2.3, go":           released,
		"sqlrotate v1.2.4-0.20260101000000-0123456789ab+dirty, commit 0123456789ab with changes, go": built,
	} {
		if got := version(info); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
