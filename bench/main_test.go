package main

import (
	"errors"
	"flag"
	"path/filepath"
	"strings"
	"testing"
)

// What isn't understood is said, and nothing is measured: a run takes minutes.
func TestArgumentsAreChecked(t *testing.T) {
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "drains, fleet, race, rotations, tenants"},
		{[]string{"races"}, "drains, fleet, race, rotations, tenants"},
		{[]string{"-race"}, "drains, fleet, race, rotations, tenants"},
		{[]string{"race", "revoked"}, "revoked is no flag of race"},
		{[]string{"rotations", "-drain", "soon"}, "-drain"},
		{[]string{"drains", "-out", "here"}, "-out"},
		{[]string{"drains", "-rounds", "0"}, "at least 1"},
		{[]string{"rotations", "-drain", "0"}, "at least 1s"},
		{[]string{"rotations", "-load", "light"}, "there are think, saturated, long"},
		{[]string{"rotations", "-contenders", "nobody"}, "sqlrotate; sqlrotate, pgx;"},
		{[]string{"race", "-story", "none"}, "revoked, "},
		{[]string{"race", "-contenders", "nobody; else"}, "bare lib/pq; "},
		{[]string{"fleet", "-processes", "0"}, "at least 1"},
		{[]string{"fleet", "-overlap", "10s"}, "at least 30s"},
		{[]string{"tenants", "-only", "nothing"}, "no name holds it"},
	} {
		if err := run(t.Context(), test.args); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q: %v; want %q", test.args, err, test.says)
		}
	}
	if err := run(t.Context(), []string{"race", "-help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
	if err := run(t.Context(), []string{"race", "-story", "none", "-out", filepath.Join("main_test.go", "dir")}); err == nil {
		t.Error("results have nowhere to go, and it has begun")
	}
}
