package difftest

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// What is read of any text is what each common reader of its format reads that accepts
// it. Seeds are the samples of the package, and a login by each writer.

func FuzzAsOthersJSON(f *testing.F)     { fuzz(f, credfile.FormatJSON) }
func FuzzAsOthersYAML(f *testing.F)     { fuzz(f, credfile.FormatYAML) }
func FuzzAsOthersDotenv(f *testing.F)   { fuzz(f, credfile.FormatDotenv) }
func FuzzAsOthersURL(f *testing.F)      { fuzz(f, credfile.FormatURL) }
func FuzzAsOthersKeywords(f *testing.F) { fuzz(f, credfile.FormatKeywords) }
func FuzzAsOthersPassfile(f *testing.F) { fuzz(f, credfile.FormatPassfile) }
func FuzzAsOthersService(f *testing.F)  { fuzz(f, credfile.FormatService) }

func fuzz(f *testing.F, format credfile.Format) {
	samples := os.DirFS("../testdata/formats")
	err := fs.WalkDir(samples, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(samples, name)
		f.Add(string(content))
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	c := newComparison(format, readers(f)[format])
	for _, w := range c.writers {
		f.Add(c.renamed(w.write(login{passfileUser, `a'b\"c$d#e f:g`})))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "\x00") {
			return
		}
		for _, named := range []bool{true, false} {
			if _, what := c.compare(text, named); what != "" {
				t.Error(what)
			}
		}
	})
}
