// A package under test: its mutants compiled into one binary, and run.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pkg is a package and its mutants.
type pkg struct {
	dir     string // absolute
	name    string
	fset    *token.FileSet
	info    *types.Info
	mutants []*mutant
	keys    map[string]int    // how many mutants would have each key
	files   map[string]string // the package's, with all mutants in them
	aliases []string          // of types, by which the mutated files call them
	imports map[string]string // what the aliases need, with its name
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	DepOnly                 bool
}

// load reads the package in dir and finds its mutants.
func load(ctx context.Context, dir string) (*pkg, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly", ".")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	exports := map[string]string{}
	var self listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		exports[l.ImportPath] = l.Export
		if !l.DepOnly {
			self = l
		}
	}
	p := &pkg{
		dir: self.Dir, fset: token.NewFileSet(), keys: map[string]int{}, files: map[string]string{}, imports: map[string]string{},
		info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}},
	}
	var files []*ast.File
	var texts [][]byte
	for _, name := range self.GoFiles {
		text, err := os.ReadFile(filepath.Join(self.Dir, name))
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(p.fset, filepath.Join(dir, name), text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files, texts = append(files, file), append(texts, text)
	}
	conf := types.Config{Importer: importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	if _, err := conf.Check(self.ImportPath, p.fset, files, p.info); err != nil {
		return nil, err
	}
	p.name = files[0].Name.Name
	for i, file := range files {
		f := &finder{p: p, file: p.fset.File(file.Pos()), text: texts[i]}
		ast.Walk(f, file)
		p.files[self.GoFiles[i]] = apply(f.text, f.edits)
	}
	return p, nil
}

// alias returns a name for a type that is good in every file.
func (p *pkg) alias(t types.Type) string {
	text := types.TypeString(t, func(other *types.Package) string {
		if other.Name() == p.name {
			return ""
		}
		p.imports[other.Path()] = other.Name()
		return other.Name()
	})
	i := slices.Index(p.aliases, text)
	if i < 0 {
		i = len(p.aliases)
		p.aliases = append(p.aliases, text)
	}
	return "mutType" + strconv.Itoa(i)
}

// typeInUse returns the type that a constant has where it is used; nil if it has several,
// or none.
func (p *pkg) typeInUse(name *ast.Ident) types.Type {
	c := p.info.Defs[name]
	if b, ok := c.Type().(*types.Basic); !ok || b.Info()&types.IsUntyped == 0 {
		return c.Type()
	}
	var used types.Type
	for id, obj := range p.info.Uses {
		if obj != c {
			continue
		}
		t := p.info.TypeOf(id)
		if used != nil && !types.Identical(t, used) {
			return nil
		}
		used = t
	}
	if b, ok := used.(*types.Basic); ok && b.Info()&types.IsUntyped != 0 {
		return nil
	}
	return used
}

// The environment of a test binary: which mutant it is, and a file to which it writes
// which ones it came by.
const (
	envMutant = "SQLROTATE_MUTANT"
	envReach  = "SQLROTATE_REACH"
)

// support is a file of a package with mutants: how they are chosen.
func (p *pkg) support() string {
	var b strings.Builder
	fmt.Fprintf(&b, "package %s\n\nimport (\n\t\"cmp\"\n\t\"os\"\n\t\"slices\"\n\t\"strconv\"\n", p.name)
	for path, name := range p.imports {
		fmt.Fprintf(&b, "\t%s %q\n", name, path)
	}
	b.WriteString(")\n\n")
	for i, t := range p.aliases {
		fmt.Fprintf(&b, "type mutType%d = %s\n", i, t)
	}
	fmt.Fprintf(&b, "\nvar mutant, _ = strconv.Atoi(os.Getenv(%q))\n\nvar mutReached [%d]bool\n", envMutant, len(p.mutants)+1)
	b.WriteString(`
func mut(n int) bool {
	mutReached[n] = true
	return n == mutant
}

func mutFlip(n int, b bool) bool { return b != mut(n) }

func mutAnd(n int, a bool, b func() bool) bool {
	if mut(n) {
		return a || b()
	}
	return a && b()
}

func mutOr(n int, a bool, b func() bool) bool {
	if mut(n) {
		return a && b()
	}
	return a || b()
}

func mutLess[T cmp.Ordered](n int, a, b T) bool        { return a < b || mut(n) && a == b }
func mutLessOrEqual[T cmp.Ordered](n int, a, b T) bool { return a < b || !mut(n) && a == b }
func mutMore[T cmp.Ordered](n int, a, b T) bool        { return a > b || mut(n) && a == b }
func mutMoreOrEqual[T cmp.Ordered](n int, a, b T) bool { return a > b || !mut(n) && a == b }

func mutMin[T cmp.Ordered](n int, all ...T) T { return mutExtreme(!mut(n), all) }
func mutMax[T cmp.Ordered](n int, all ...T) T { return mutExtreme(mut(n), all) }

func mutExtreme[T cmp.Ordered](least bool, all []T) T {
	if least {
		return slices.Min(all)
	}
	return slices.Max(all)
}

type mutInteger interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func mutNumber[T mutInteger](n int, how string, x T) T {
	for i, c := range how {
		switch {
		case !mut(n + i):
		case c == '+':
			return x + 1
		case c == '-':
			return x - 1
		default:
			return 0
		}
	}
	return x
}

func mutUnit[T mutInteger](n int, x T) T {
	switch {
	case mut(n):
		return 2 * x
	case mut(n + 1):
		return 0
	}
	return x
}
`)
	return b.String()
}

// supportTest limits what a mutant that runs wild may take of the machine.
const supportTest = `package %[1]s

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	for what, most := range map[int]uint64{syscall.RLIMIT_CPU: %[2]d, syscall.RLIMIT_AS: 2 << 30} {
		if err := syscall.Setrlimit(what, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if path := os.Getenv(%[3]q); path != "" {
		var b strings.Builder
		for _, reached := range mutReached {
			b.WriteString(map[bool]string{true: "+", false: "-"}[reached])
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			panic(err)
		}
	}
	os.Exit(code)
}
`

const (
	cpuLimit  = 2 // seconds, of a mutant
	wallLimit = time.Minute
)

// test compiles the mutants and tests each of them that the tests reach at all.
func (p *pkg) test(ctx context.Context, only *regexp.Regexp) error {
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	files := map[string]string{"mutate.go": p.support(), "mutate_test.go": fmt.Sprintf(supportTest, p.name, cpuLimit, envReach)}
	maps.Copy(files, p.files)
	program, err := compile(ctx, tmp, p.dir, files)
	if err != nil {
		return err
	}
	reach := filepath.Join(tmp, "reach")
	if out, err := p.run(ctx, program, envReach+"="+reach); err != nil {
		return fmt.Errorf("the tests fail without a mutant: %w\n%s", err, out)
	}
	reached, err := os.ReadFile(reach)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for _, m := range p.mutants {
		if !only.MatchString(m.String()) {
			continue
		}
		if reached[m.id] != '+' {
			m.fate = notReached
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			m.fate = survived
			if _, err := p.run(ctx, program, envMutant+"="+strconv.Itoa(m.id)); err != nil {
				m.fate = killedByTests
			}
			<-slots
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (p *pkg) run(ctx context.Context, program, env string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, "-test.failfast", "-test.timeout="+wallLimit.String())
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), env, "GOMAXPROCS=1")
	return cmd.CombinedOutput()
}

// compile builds the tests of the package in dir, with files in place of its own or
// beside them.
func compile(ctx context.Context, tmp, dir string, files map[string]string) (program string, err error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		changed := filepath.Join(tmp, name)
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(dir, name)] = changed
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	path, program := filepath.Join(tmp, "overlay.json"), filepath.Join(tmp, "mutants.test")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", path, "-o", program, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
}
