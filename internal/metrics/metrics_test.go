package metrics

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// Whatever is declared is in All, once, and has what an exporter relies on.
func TestAll(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "metrics.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	for n := range ast.Preorder(file) {
		if call, ok := n.(*ast.CallExpr); ok {
			if made, ok := call.Fun.(*ast.Ident); ok && (made.Name == "gauge" || made.Name == "counter") {
				declared++
			}
		}
	}
	all := All()
	if declared != len(all) {
		t.Errorf("%d are declared, and %d in All", declared, len(all))
	}
	var names []string
	for _, m := range append(all, LoginDuration) {
		if slices.Contains(names, m.Name) {
			t.Error("twice:", m.Name)
		}
		names = append(names, m.Name)
		switch {
		case m.Counts != strings.HasSuffix(m.Name, "_total"):
			t.Error("not a counter's name, or one:", m.Name)
		case !slices.IsSorted(m.Labels) || len(m.Labels) == 0 || len(m.Labels) > MaxLabels:
			t.Error(m.Name, "has labels", m.Labels)
		case !strings.HasSuffix(m.Help, "."):
			t.Error(m.Name, "is not said in sentences:", m.Help)
		}
	}
}

type fixed struct{ stats sqlrotate.Stats }

func (f fixed) Stats() sqlrotate.Stats      { return f.stats }
func (fixed) Problems() []sqlrotate.Problem { return nil }

// What is read is valid text, and each series comes once, whatever names there are.
func TestRead(t *testing.T) {
	var s Set
	user := []sqlrotate.VersionStats{{Username: "a\xff", SeenAt: time.Unix(1, 5e8)}, {Username: "a"}, {Username: "a"}, {Username: "a"}}
	if err := errors.Join(
		s.AddConnector("x\xff", fixed{sqlrotate.Stats{Versions: user}}), s.AddConnector("y", fixed{}),
		s.AddFile("f\xff", func() sqlrotate.FileStatus { return sqlrotate.FileStatus{Path: "/\xff"} }),
		s.AddCache("c", func() sqlrotate.CacheStatus { return sqlrotate.CacheStatus{} }),
		s.AddSource("s", func() SourceStatus { return SourceStatus{} }),
	); err != nil {
		t.Fatal(err)
	}
	if s.AddConnector("x\xfe", fixed{}) == nil || s.AddSource("f\xfe", func() SourceStatus { return SourceStatus{} }) == nil {
		t.Error("two have the same label")
	}
	type series struct {
		*Metric
		Values
	}
	found := map[series]float64{}
	s.Read(func(m *Metric, value float64, labels Values) {
		if _, ok := found[series{m, labels}]; ok {
			t.Error("twice:", m.Name, labels)
		}
		found[series{m, labels}] = value
		for i, l := range labels {
			if l != Label(l) || (l == "") != (i >= len(m.Labels)) {
				t.Errorf("%s has the labels %q", m.Name, labels)
			}
		}
		if !slices.Contains(All(), m) {
			t.Error("not in All:", m.Name)
		}
	})
	if got := found[series{credentialSeen, Values{"x\uFFFD", "current"}}]; got != 1.5 {
		t.Error("it was first read at", got)
	}
	s.RemoveConnector("x\xfd")
	s.RemoveConnector("y")
	for _, name := range []string{"f\xfd", "c", "s"} {
		s.RemoveSource(name)
	}
	s.Read(func(m *Metric, _ float64, labels Values) { t.Error("it was removed:", m.Name, labels) })
}
