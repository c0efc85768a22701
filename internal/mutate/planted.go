// Planted defects: compiled into the tests, one at work at a time.

package main

import (
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// defect is one that was made by hand, where no rule says how: in the shell around the
// rules, or where the two meet. planted(N) is true if it is the one that is at work.
type defect struct {
	what, file, old, new string
	test                 string // which has to fail; empty: any of the package's
}

const (
	rules = "internal/rotation/"

	// envPlanted says to a test binary which defect is at work.
	envPlanted = "SQLROTATE_PLANTED"

	plantedLimit = 20 * time.Second
)

// plantAll compiles all defects into the tests of their packages, and runs for each the
// test that has to notice it. The files' names are relative to root.
func plantAll(ctx context.Context, w io.Writer, root string, all []defect) error {
	start := time.Now()
	byDir := map[string][]int{}
	for i, d := range all {
		byDir[filepath.Dir(d.file)] = append(byDir[filepath.Dir(d.file)], i)
	}
	missed := 0
	for dir, which := range byDir {
		err := plant(ctx, filepath.Join(root, dir), all, which, func(d defect, noticed bool) {
			if !noticed {
				missed++
				say(w, "%s: no test notices that %s", d.file, d.what)
			}
		})
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	say(w, "%d of %d planted defects noticed in %.0f s", len(all)-missed, len(all), time.Since(start).Seconds())
	if missed > 0 {
		return errors.New("not all planted defects are noticed")
	}
	return nil
}

// plant tests those defects of one package.
func plant(ctx context.Context, dir string, all []defect, which []int, tell func(d defect, noticed bool)) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	files, err := withDefects(dir, all, which)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	program, err := compile(ctx, tmp, dir, files)
	if err != nil {
		return err
	}
	run := func(test string, n int) ([]byte, error) {
		cmd := exec.CommandContext(ctx, program, "-test.failfast", "-test.timeout="+plantedLimit.String(), "-test.run="+test)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), envPlanted+"="+strconv.Itoa(n))
		return cmd.CombinedOutput()
	}
	var tests []string
	for _, i := range which {
		tests = append(tests, all[i].test)
	}
	if out, err := run(strings.Join(tests, "|"), 0); err != nil {
		return fmt.Errorf("the tests fail without a defect: %w\n%s", err, out)
	}
	for _, i := range which {
		out, err := run(all[i].test, i+1)
		if err == nil && strings.Contains(string(out), "no tests to run") {
			return fmt.Errorf("there is no test %s", all[i].test)
		}
		tell(all[i], err != nil)
	}
	return nil
}

// withDefects returns the changed files of the package in dir.
func withDefects(dir string, all []defect, which []int) (map[string]string, error) {
	files := map[string]string{}
	for _, i := range which {
		d := all[i]
		name := filepath.Base(d.file)
		if _, ok := files[name]; !ok {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			files[name] = string(text)
		}
		if n := strings.Count(files[name], d.old); n != 1 {
			return nil, fmt.Errorf("%s: %q is there %d times in %s", d.what, d.old, n, d.file)
		}
		files[name] = strings.Replace(files[name], d.old, strings.ReplaceAll(d.new, "planted(N)", "planted("+strconv.Itoa(i+1)+")"), 1)
	}
	name, err := packageName(files)
	files["planted.go"] = fmt.Sprintf(`package %s

import (
	"os"
	"strconv"
)

var thePlanted, _ = strconv.Atoi(os.Getenv(%q))

func planted(n int) bool { return n == thePlanted }
`, name, envPlanted)
	return files, err
}

// packageName returns the name in the package clauses of files.
func packageName(files map[string]string) (string, error) {
	for _, text := range files {
		f, err := parser.ParseFile(token.NewFileSet(), "", text, parser.PackageClauseOnly)
		if err != nil {
			return "", err
		}
		return f.Name.Name, nil
	}
	return "", errors.New("there are no files")
}
