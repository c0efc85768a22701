// The programs that the pages show.

package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// goBlock matches the Go lines that a page shows.
var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// standard has the import paths of what lines name of the standard library.
func standard() map[string]string {
	return map[string]string{
		"context": "context", "errors": "errors", "fmt": "fmt", "http": "net/http", "log": "log", "os": "os",
		"slog": "log/slog", "sql": "database/sql", "time": "time",
	}
}

// A program is made of lines that a page shows.
type program struct {
	text string
	uses []string // paths of our packages
	runs bool     // it reads a credential, and so far needs no more
}

// programs makes a program of each of a page's Go blocks that name one of our packages,
// ours by their names: of a whole file, or of lines. A file of package recipes is none. Where a program of lines looks for a
// file and a server, it is given the ones named here.
func programs(page string, ours map[string]string, credential, dsn string) ([]program, error) {
	var list []program
	for _, block := range goBlock.FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(block[1], "package recipes\n") {
			continue // a file of examples/recipes, whose tests compare the two
		}
		build := newProgram
		if strings.HasPrefix(block[1], "package ") {
			build = wholeProgram
		}
		p, err := build(block[1], ours, credential, dsn)
		if err != nil {
			return nil, fmt.Errorf("in the lines\n%s\n%w", block[1], err)
		}
		if len(p.uses) > 0 {
			list = append(list, p)
		}
	}
	return list, nil
}

// wholeProgram makes a program of a file of package main, which need not have a main.
func wholeProgram(text string, ours map[string]string, _, _ string) (program, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", text, 0)
	if err != nil {
		return program{}, err
	}
	p := program{text: text}
	known := slices.Collect(maps.Values(ours))
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return program{}, err
		}
		if slices.Contains(known, name) {
			p.uses = append(p.uses, name)
		}
	}
	if file.Scope.Lookup("main") == nil {
		p.text += "\nfunc main() {}\n"
	}
	return p, nil
}

func newProgram(lines string, ours map[string]string, credential, dsn string) (program, error) {
	const head = "package main\n\nfunc main() {\n"
	text := head + lines + "}\n"
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "main.go", text, 0)
	if err != nil {
		return program{}, err
	}
	r := reading{
		ours: ours, stands: map[string]string{"NewFileSource": credential, "LibPQ": dsn},
		undeclared: map[string]bool{}, imports: map[string]bool{}, uses: map[string]bool{}, literals: map[*ast.BasicLit]string{},
	}
	for _, name := range file.Unresolved {
		r.undeclared[name.Name] = true
	}
	ast.Inspect(file, r.visit)
	if len(r.uses) == 0 {
		return program{}, nil // what is done without the library
	}
	if r.unknown != nil {
		return program{}, r.unknown
	}
	// From the last to the first, so that offsets stay what they are.
	inOrder := slices.SortedFunc(maps.Keys(r.literals), func(a, b *ast.BasicLit) int { return int(b.Pos() - a.Pos()) })
	for _, literal := range inOrder {
		from, to := fset.Position(literal.Pos()).Offset, fset.Position(literal.End()).Offset
		text = text[:from] + strconv.Quote(r.literals[literal]) + text[to:]
	}
	var whole strings.Builder
	whole.WriteString("package main\n\n")
	for _, path := range slices.Sorted(maps.Keys(r.imports)) {
		fmt.Fprintf(&whole, "import %q\n", path)
	}
	whole.WriteString(strings.TrimPrefix(text, "package main\n"))
	return program{text: whole.String(), uses: slices.Sorted(maps.Keys(r.uses)), runs: len(r.literals) == 2}, nil
}

// reading is what is found in lines.
type reading struct {
	ours       map[string]string // packages by the name that they go by
	stands     map[string]string // what stands in for the argument of a function
	undeclared map[string]bool

	imports, uses map[string]bool
	literals      map[*ast.BasicLit]string // what stands in for each
	unknown       error
}

// visit is called for each node.
func (r *reading) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		if name, ok := n.X.(*ast.Ident); ok && r.undeclared[name.Name] {
			r.name(name.Name)
		}
	case *ast.CallExpr:
		called, ok := n.Fun.(*ast.SelectorExpr)
		if !ok || len(n.Args) == 0 {
			break
		}
		literal, ok := n.Args[0].(*ast.BasicLit)
		if stands := r.stands[called.Sel.Name]; ok && stands != "" {
			r.literals[literal] = stands
		}
	}
	return true
}

// name notes that a package is named.
func (r *reading) name(of string) {
	switch {
	case r.ours[of] != "":
		r.imports[r.ours[of]], r.uses[r.ours[of]] = true, true
	case standard()[of] != "":
		r.imports[standard()[of]] = true
	default:
		r.unknown = fmt.Errorf("nobody knows what %s is; a package may be added to those in docs.go", of)
	}
}

// useDocs builds and vets what README and the pages in docs show, with the modules that it
// uses, and runs lines as far as they go without a database.
func (w *world) useDocs(ctx context.Context) error {
	credential := filepath.Join(w.tmp, "credential")
	if err := os.WriteFile(credential, []byte(`{"username": "app", "password": "made-up"}`), 0o600); err != nil {
		return err
	}
	ours := w.packages()
	for _, name := range w.files {
		if name != "README.md" && path.Dir(name) != "docs" || path.Ext(name) != ".md" {
			continue
		}
		page, err := os.ReadFile(w.at(name))
		if err != nil {
			return err
		}
		// Nobody listens there.
		list, err := programs(string(page), ours, credential, "host=127.0.0.1 port=1 dbname=app sslmode=disable")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(list) == 0 && name == "README.md" {
			return errors.New("README.md has no Go lines that name the library")
		}
		for _, p := range list {
			w.log("go build and vet of lines in %s with %s", name, strings.Join(p.uses, " and "))
			if err := w.useProgram(ctx, p); err != nil {
				return fmt.Errorf("%s: %w\n%s", name, err, p.text)
			}
		}
	}
	return nil
}

func (w *world) useProgram(ctx context.Context, p program) error {
	var uses []*mod
	for _, path := range p.uses {
		if m := w.moduleOf(path); !slices.Contains(uses, m) {
			uses = append(uses, m)
		}
	}
	dir, err := w.user(ctx, uses...)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(p.text), 0o644); err != nil {
		return err
	}
	if _, err := w.goTool(ctx, dir, "vet", "."); err != nil {
		return err
	}
	if _, err := w.goTool(ctx, dir, "build", "-o", "program", "."); err != nil || !p.runs {
		return err
	}
	return runWithoutServer(ctx, dir)
}

// packages returns the paths of what users can import of us, by the packages' names.
func (c *checkout) packages() map[string]string {
	ours := map[string]string{}
	for _, name := range c.files {
		dir := path.Dir(name)
		if path.Ext(name) != ".go" || slices.ContainsFunc(strings.Split(dir, "/"), func(elem string) bool { return elem == "internal" || elem == "cmd" || elem == "testdata" }) {
			continue
		}
		if at := path.Join(c.root().path, dir); c.moduleOf(at).isPublic() {
			ours[path.Base(at)] = at
		}
	}
	return ours
}

// moduleOf returns the module that has a package: of those whose path its begins with, the
// longest. (A module's directory is where its path says.)
func (c *checkout) moduleOf(path string) *mod {
	of := c.root()
	for _, m := range c.modules {
		if strings.HasPrefix(path+"/", m.path+"/") && len(m.path) > len(of.path) {
			of = m
		}
	}
	return of
}

// runWithoutServer runs the program in dir, which may end well or because nobody
// listens where it was told that a server is.
func runWithoutServer(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// With nothing in its environment that lib/pq would take.
	_, err := command(ctx, dir, []string{"HOME=" + dir}, filepath.Join(dir, "program"))
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil && strings.Contains(err.Error(), "connection refused") {
		return nil
	}
	return err
}
