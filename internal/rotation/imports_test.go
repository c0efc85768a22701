package rotation_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What decides imports nothing that does anything, and reads no clock.
func TestTheRulesImportNothingThatDoes(t *testing.T) {
	allowed := map[string][]string{
		".":       {"cmp", "math", "slices", "strconv", "time"},
		"../line": {"math", "slices", "time", "github.com/sqlrotate/sqlrotate/internal/rotation"},
	}
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}
	for dir, allowed := range allowed {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		files := 0
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			files++
			name := dir + "/" + e.Name()
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(allowed, path) {
					t.Errorf("%s imports %s", name, path)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
						t.Errorf("%s calls time.%s", name, n.Sel.Name)
					}
				case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt:
					t.Errorf("%s starts a goroutine or has a channel", name)
				}
				return true
			})
		}
		if files == 0 {
			t.Errorf("there are no files in %s", dir)
		}
	}
}
