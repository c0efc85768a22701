// Mutants: the changes that are made to each expression and statement.

package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// mutant is one change to a package. Its key says which, and doesn't change with the
// lines around it.
type mutant struct {
	id   int
	pos  token.Position
	key  string
	fate fate
}

type fate string

const (
	notRun        fate = "not run"
	notReached    fate = "not reached"
	survived      fate = "survives"
	killedByTests fate = "killed"
)

func (m *mutant) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", m.pos.Filename, m.pos.Line, m.fate, m.key)
}

// edit replaces some bytes of a file: with nothing to replace it is an insertion. Of
// several at one place what ends something comes first, the inner one before the outer;
// then what begins something, the outer one before the inner.
type edit struct {
	at, end int
	order   int // negative: it ends something
	text    string
}

func apply(text []byte, edits []edit) string {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Or(a.at-b.at, a.order-b.order) })
	var b strings.Builder
	done := 0
	for _, e := range edits {
		b.Write(text[done:e.at])
		b.WriteString(e.text)
		done = e.end
	}
	b.Write(text[done:])
	return b.String()
}

// finder finds the mutants of a file, and the edits that compile them all in.
type finder struct {
	p        *pkg
	file     *token.File
	text     []byte
	path     []ast.Node // from the file to the node at hand
	name     string     // of the function or constant at hand
	constant types.Type // of the constant at hand
	edits    []edit
}

func (f *finder) offset(p token.Pos) int { return f.file.Offset(p) }

func (f *finder) source(n ast.Node) string {
	return string(f.text[f.offset(n.Pos()):f.offset(n.End())])
}

// mutant notes one that has a replacement for what is between two places, and returns its
// number.
func (f *finder) mutant(from, to token.Pos, replacement string) int {
	begin, end := f.line(from, to)
	text := func(from, to int) string { return string(f.text[from:to]) }
	key := oneLine(fmt.Sprintf("%s.%s: %s{%s → %s}%s", f.p.name, f.name,
		text(begin, f.offset(from)), text(f.offset(from), f.offset(to)), replacement, text(f.offset(to), end)))
	f.p.keys[key]++
	if n := f.p.keys[key]; n > 1 {
		key = fmt.Sprintf("%s #%d", key, n)
	}
	pos := f.p.fset.Position(from)
	m := &mutant{id: len(f.p.mutants) + 1, pos: pos, key: key, fate: notRun}
	f.p.mutants = append(f.p.mutants, m)
	return m.id
}

// line returns the offsets between which there are the lines of from and to, without
// indentation and comment.
func (f *finder) line(from, to token.Pos) (begin, end int) {
	begin, end = f.offset(from), f.offset(to)
	for begin > 0 && f.text[begin-1] != '\n' {
		begin--
	}
	for f.text[begin] == '\t' {
		begin++
	}
	rest, _, _ := strings.Cut(string(f.text[end:]), "\n")
	rest, _, _ = strings.Cut(rest, "//")
	return begin, end + len(strings.TrimRight(rest, " \t"))
}

// oneLine makes one blank of all white space.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// around inserts text before and after a node.
func (f *finder) around(n ast.Node, before, after string) {
	order := len(f.edits) + 1
	f.edits = append(f.edits,
		edit{f.offset(n.Pos()), f.offset(n.Pos()), order, before},
		edit{f.offset(n.End()), f.offset(n.End()), -order, after})
}

func (f *finder) replace(from token.Pos, length int, text string) {
	at := f.offset(from)
	f.edits = append(f.edits, edit{at, at + length, len(f.edits) + 1, text})
}

// Visit is called for each node of a file, outer ones first, and with nil at the end of
// each.
func (f *finder) Visit(n ast.Node) ast.Visitor {
	if n == nil {
		f.path = f.path[:len(f.path)-1]
		return nil
	}
	parent := ast.Node(nil)
	if len(f.path) > 0 {
		parent = f.path[len(f.path)-1]
	}
	if d, ok := n.(*ast.FuncDecl); ok {
		f.name = funcName(d)
	}
	if d, ok := n.(*ast.GenDecl); ok && d.Tok != token.VAR {
		if d.Tok == token.CONST {
			f.constants(d)
		}
		return nil
	}
	if _, ok := n.(*ast.ArrayType); ok {
		return nil
	}
	if s, ok := n.(ast.Stmt); ok && droppable(s) && inList(parent) {
		f.around(s, fmt.Sprintf("if !mut(%d) { ", f.mutant(s.Pos(), s.End(), "")), " }")
	}
	if e, ok := n.(ast.Expr); ok {
		f.expression(e, parent)
	}
	f.path = append(f.path, n)
	return f
}

func funcName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name + "." + d.Name.Name
	}
	return d.Name.Name
}

// droppable reports whether a statement can be left out and the rest still compiles.
func droppable(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.AssignStmt:
		return s.Tok != token.DEFINE
	case *ast.ExprStmt, *ast.IncDecStmt:
		return true
	case *ast.BranchStmt:
		return s.Label == nil && s.Tok != token.FALLTHROUGH
	case *ast.ReturnStmt:
		return len(s.Results) == 0
	}
	return false
}

func inList(parent ast.Node) bool {
	switch parent.(type) {
	case *ast.BlockStmt, *ast.CaseClause:
		return true
	}
	return false
}

// expression finds what can be changed in an expression itself.
func (f *finder) expression(e ast.Expr, parent ast.Node) {
	if f.negatable(e, parent) {
		f.around(e, fmt.Sprintf("mutFlip(%d, ", f.mutant(e.Pos(), e.End(), "!("+f.source(e)+")")), ")")
	}
	switch e := e.(type) {
	case *ast.BinaryExpr:
		f.binary(e)
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			id := f.mutant(e.OpPos, e.OpPos+1, "")
			f.around(e, fmt.Sprintf("mutFlip(%d, ", id), ")")
		}
	case *ast.CallExpr:
		f.minMax(e)
	case *ast.BasicLit:
		if e.Kind == token.INT {
			f.number(e, parent)
		}
	case *ast.Ident:
		if c, ok := f.p.info.Uses[e].(*types.Const); ok && c.Parent() == types.Universe && (e.Name == "true" || e.Name == "false") {
			other := map[string]string{"true": "false", "false": "true"}[e.Name]
			f.around(e, fmt.Sprintf("mutFlip(%d, ", f.mutant(e.Pos(), e.End(), other)), ")")
		}
	}
}

// negatable reports whether e is a condition, or a part of one, whose negation is no
// other mutant.
func (f *finder) negatable(e ast.Expr, parent ast.Node) bool {
	tv := f.p.info.Types[e]
	if tv.Type == nil || !tv.IsValue() || tv.Value != nil {
		return false
	}
	if b, ok := tv.Type.Underlying().(*types.Basic); !ok || b.Info()&types.IsBoolean == 0 {
		return false
	}
	switch e := e.(type) {
	case *ast.UnaryExpr:
		return false
	case *ast.BinaryExpr:
		if e.Op == token.EQL || e.Op == token.NEQ {
			return false
		}
	}
	return isCondition(e, parent)
}

// isCondition reports whether something is decided by e where it stands.
func isCondition(e ast.Expr, parent ast.Node) bool {
	switch parent := parent.(type) {
	case *ast.BinaryExpr:
		return parent.Op == token.LAND || parent.Op == token.LOR
	case *ast.IfStmt, *ast.ForStmt, *ast.CaseClause, *ast.ReturnStmt, *ast.ValueSpec:
		return true
	case *ast.AssignStmt:
		return slices.Contains(parent.Rhs, e) && len(parent.Lhs) == len(parent.Rhs)
	case *ast.CallExpr:
		return slices.Contains(parent.Args, e)
	case *ast.KeyValueExpr:
		return parent.Value == e
	}
	return false
}

func (f *finder) binary(e *ast.BinaryExpr) {
	others := map[token.Token]token.Token{
		token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
		token.EQL: token.NEQ, token.NEQ: token.EQL, token.LAND: token.LOR, token.LOR: token.LAND,
	}
	other, ok := others[e.Op]
	if !ok || f.p.info.Types[e].Value != nil {
		return
	}
	id := f.mutant(e.OpPos, e.OpPos+token.Pos(len(e.Op.String())), other.String())
	switch e.Op {
	case token.EQL, token.NEQ:
		f.around(e, fmt.Sprintf("mutFlip(%d, ", id), ")")
	case token.LAND, token.LOR:
		helper := map[token.Token]string{token.LAND: "mutAnd", token.LOR: "mutOr"}[e.Op]
		f.around(e, fmt.Sprintf("%s(%d, ", helper, id), ")})")
		f.replace(e.OpPos, 2, ", func() bool { return (")
	default:
		helper := map[token.Token]string{token.LSS: "mutLess", token.LEQ: "mutLessOrEqual", token.GTR: "mutMore", token.GEQ: "mutMoreOrEqual"}[e.Op]
		f.around(e, fmt.Sprintf("%s(%d, ", helper, id), ")")
		f.replace(e.OpPos, len(e.Op.String()), ",")
	}
}

func (f *finder) minMax(e *ast.CallExpr) {
	id, ok := e.Fun.(*ast.Ident)
	if !ok {
		return
	}
	if _, ok := f.p.info.Uses[id].(*types.Builtin); !ok || id.Name != "min" && id.Name != "max" || f.p.info.Types[e].Value != nil {
		return
	}
	helper, other := "mutMin", "max"
	if id.Name == "max" {
		helper, other = "mutMax", "min"
	}
	n := f.mutant(id.Pos(), id.End(), other)
	f.replace(id.Pos(), len(id.Name), fmt.Sprintf("%s[%s]", helper, f.p.alias(f.p.info.TypeOf(e))))
	f.replace(e.Lparen, 1, fmt.Sprintf("(%d, ", n))
}

// number is for a literal that need not be a constant: 1 more, 1 less, and 0; but not for
// what is the same as to shift a boundary, and not for the Instant or Duration 0, which
// stands for none: a nanosecond from it is nobody's.
func (f *finder) number(e *ast.BasicLit, parent ast.Node) {
	t := f.integer(e)
	if t == nil {
		return
	}
	more, less := true, true
	if c, ok := parent.(*ast.BinaryExpr); ok && c.Y == e {
		more = c.Op != token.LSS && c.Op != token.GEQ
		less = c.Op != token.GTR && c.Op != token.LEQ
	}
	how, first := "", 0
	add := func(as, text string) {
		id := f.mutant(e.Pos(), e.End(), text)
		if how += as; first == 0 {
			first = id
		}
	}
	if more {
		add("+", e.Value+"+1")
	}
	if less {
		add("-", e.Value+"-1")
	}
	if e.Value != "0" && e.Value != "1" {
		add("0", "0")
	}
	if how != "" {
		f.around(e, fmt.Sprintf("mutNumber[%s](%d, %q, ", f.p.alias(t), first, how), ")")
	}
}

// integer returns the type of a literal that is an integer; nil if it is none, or is the
// Instant or Duration that stands for none.
func (f *finder) integer(e *ast.BasicLit) types.Type {
	t := f.p.info.TypeOf(e)
	if b, ok := t.(*types.Basic); ok && b.Info()&types.IsUntyped != 0 && f.constant != nil {
		t = f.constant
	}
	basic, ok := t.Underlying().(*types.Basic)
	if !ok || basic.Info()&types.IsInteger == 0 || basic.Info()&types.IsUntyped != 0 {
		return nil
	}
	if named, ok := t.(*types.Named); ok && e.Value == "0" && (named.Obj().Name() == "Instant" || named.Obj().Name() == "Duration") {
		return nil
	}
	return t
}

// constants makes variables of constants that are given as numbers, and so as mutable as
// other numbers are.
func (f *finder) constants(d *ast.GenDecl) {
	var specs []*ast.ValueSpec
	for _, s := range d.Specs {
		s, ok := s.(*ast.ValueSpec)
		if !ok || !f.variable(s) {
			return
		}
		specs = append(specs, s)
	}
	f.replace(d.TokPos, len("const"), "var")
	for _, s := range specs {
		f.name, f.constant = s.Names[0].Name, f.p.typeInUse(s.Names[0])
		if s.Type == nil {
			f.around(s.Names[0], "", " "+f.p.alias(f.constant))
		}
		if unit, ok := s.Values[0].(*ast.SelectorExpr); ok && f.source(unit.X) == "time" { // 1 of it
			id := f.mutant(unit.Pos(), unit.End(), "2*"+f.source(unit))
			f.mutant(unit.Pos(), unit.End(), "0")
			f.around(unit, fmt.Sprintf("mutUnit(%d, ", id), ")")
		}
		f.path = append(f.path, d, s)
		ast.Walk(f, s.Values[0])
		f.path = f.path[:len(f.path)-2]
		f.constant = nil
	}
}

// variable reports whether a constant may as well be a variable.
func (f *finder) variable(s *ast.ValueSpec) bool {
	if len(s.Names) != 1 || len(s.Values) != 1 || f.p.typeInUse(s.Names[0]) == nil {
		return false
	}
	able := true
	ast.Inspect(s.Values[0], func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && id.Name == "iota" {
			able = false
		}
		return able
	})
	return able
}
