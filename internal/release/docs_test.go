package main

import (
	"slices"
	"strings"
	"testing"
)

func TestPrograms(t *testing.T) {
	const root, nested = "example.com/lib", "example.com/lib/nested"
	ours := map[string]string{"lib": root, "nested": nested}
	for name, test := range map[string]struct {
		readme string
		want   string // of the only program, or of the error
		uses   []string
		runs   bool
	}{
		"imports what is named": {
			readme: "```go\nc := lib.New(context.Background(), time.Second)\nlog.Print(c.Name)\n```\n", uses: []string{root},
			want: "import \"context\"\nimport \"example.com/lib\"\nimport \"log\"\nimport \"time\"\n\nfunc main() {\nc := ",
		},
		"a variable is no package": {readme: "```go\nlog := lib.Log()\nlog.Print()\n```\n", uses: []string{root}, want: "package main\n\nimport \"example.com/lib\"\n\nfunc"},
		"has another file and server": {
			readme: "```go\nlib.LibPQ(\"host=db\")\nlib.NewFileSource(\"/a\", lib.Options{Name: \"/a\"})\n```\n", uses: []string{root}, runs: true,
			want: "lib.LibPQ(\"the server\")\nlib.NewFileSource(\"the file\", lib.Options{Name: \"/a\"})\n",
		},
		"of two modules":               {readme: "```go\nnested.New(lib.New())\n```\n", uses: []string{root, nested}, want: "nested.New(lib.New())"},
		"lines without us are no such": {readme: "```go\nx.Open()\n```\n```go\nlib.New()\n```\n", uses: []string{root}, want: "lib.New()"},
		"a package that nobody knows":  {readme: "```go\nlib.New(pgx.New())\n```\n", want: "pgx"},
		"what is no Go":                {readme: "```go\nlib.New(\n```\n", want: "expected"},
		"a recipe":                     {readme: "```go\npackage recipes\n\nimport \"example.com/other\"\n```\n```go\nlib.New()\n```\n", uses: []string{root}, want: "lib.New()"},
		"a whole file": {
			readme: "```go\npackage main\n\nimport \"example.com/lib\"\n\nvar x = lib.New()\n```\n", uses: []string{root},
			want: "var x = lib.New()\n\nfunc main() {}\n",
		},
		"a whole program": {
			readme: "```go\npackage main\n\nimport \"example.com/lib\"\n\nfunc main() { lib.New() }\n```\n", uses: []string{root},
			want: "func main() { lib.New() }\n",
		},
		"a file that is no Go": {readme: "```go\npackage main\n\nfunc\n```\n", want: "expected"},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := programs(test.readme, ours, "the file", "the server")
			if err != nil {
				if test.uses != nil || !strings.Contains(err.Error(), test.want) {
					t.Error(err)
				}
				return
			}
			if len(list) != 1 || !strings.Contains(list[0].text, test.want) || !slices.Equal(list[0].uses, test.uses) || list[0].runs != test.runs {
				t.Errorf("%+v", list)
			}
		})
	}
}

func TestProgramsAreMadeOfGoAlone(t *testing.T) {
	if list, err := programs("```sh\nlib.New()\n```\n", map[string]string{"lib": "example.com/lib"}, "", ""); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}
