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

// goBlock matches the Go lines that README shows.
var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// standard has the import paths of what README's lines name of the standard library.
func standard() map[string]string {
	return map[string]string{
		"context": "context", "errors": "errors", "fmt": "fmt", "http": "net/http", "log": "log", "os": "os",
		"slog": "log/slog", "sql": "database/sql", "time": "time",
	}
}

// A program is made of lines that README shows.
type program struct {
	text string
	uses []string // paths of our modules
	runs bool     // it reads a credential, and so far needs no more
}

// programs makes a program of each of README's Go lines that name one of our packages,
// ours by their names. Where such a program looks for a file and a server, it is given
// the ones named here.
func programs(readme string, ours map[string]string, credential, dsn string) ([]program, error) {
	var list []program
	for _, block := range goBlock.FindAllStringSubmatch(readme, -1) {
		p, err := newProgram(block[1], ours, credential, dsn)
		if err != nil {
			return nil, fmt.Errorf("in README's lines\n%s\n%w", block[1], err)
		}
		if len(p.uses) > 0 {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("README has no Go lines that name the library")
	}
	return list, nil
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

// reading is what is found in README's lines.
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
		r.unknown = fmt.Errorf("nobody knows what %s is; a package may be added to those in readme.go", of)
	}
}

// useReadme builds and vets what README shows, with the modules that it uses, and runs
// it as far as it goes without a database.
func (w *world) useReadme(ctx context.Context) error {
	readme, err := os.ReadFile(w.at("README.md"))
	if err != nil {
		return err
	}
	credential := filepath.Join(w.tmp, "credential")
	if err := os.WriteFile(credential, []byte(`{"username": "app", "password": "made-up"}`), 0o600); err != nil {
		return err
	}
	ours, byPath := map[string]string{}, map[string]*mod{}
	for _, m := range w.public() {
		ours[path.Base(m.path)], byPath[m.path] = m.path, m
	}
	// Nobody listens there.
	list, err := programs(string(readme), ours, credential, "host=127.0.0.1 port=1 dbname=app sslmode=disable")
	if err != nil {
		return err
	}
	for _, p := range list {
		var uses []*mod
		for _, path := range p.uses {
			uses = append(uses, byPath[path])
		}
		dir, err := w.user(ctx, uses...)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(p.text), 0o644); err != nil {
			return err
		}
		w.log("go build and vet of README's lines with %s", strings.Join(p.uses, " and "))
		if _, err := w.goTool(ctx, dir, "vet", "."); err != nil {
			return fmt.Errorf("%w\n%s", err, p.text)
		}
		if _, err := w.goTool(ctx, dir, "build", "-o", "program", "."); err != nil {
			return fmt.Errorf("%w\n%s", err, p.text)
		}
		if p.runs {
			if err := runWithoutServer(ctx, dir); err != nil {
				return fmt.Errorf("%w\n%s", err, p.text)
			}
		}
	}
	return nil
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
