package difftest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// Whatever is read of a file that was well-formed, until something was changed in it, is
// what each common reader of its format reads that accepts it.
func TestMutantsAreReadAsByOthers(t *testing.T) {
	all := readers(t)
	seed := seedOf(t, 1)
	for _, format := range formats() {
		t.Run(string(format), func(t *testing.T) {
			n := 30_000
			if format == credfile.FormatPassfile || format == credfile.FormatService {
				n = 6_000 // libpq reads files
			}
			c := newComparison(format, all[format])
			r := rand.New(rand.NewPCG(seed, 1))
			for range n {
				c.mutant(r)
			}
			c.report(t)
		})
	}
}

// The same for as long as SQLROTATE_SOAK says.
func TestSoakMutantsAreReadAsByOthers(t *testing.T) {
	all := readers(t)
	seed := seedOf(t, rand.Uint64())
	each := soakFor(t, 2*time.Second) / time.Duration(len(formats()))
	for n, format := range formats() {
		t.Run(string(format), func(t *testing.T) {
			c := newComparison(format, all[format])
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			for end := time.Now().Add(each); time.Now().Before(end); {
				c.mutant(r)
			}
			c.report(t)
		})
	}
}

func formats() []credfile.Format {
	return []credfile.Format{
		credfile.FormatJSON, credfile.FormatYAML, credfile.FormatDotenv, credfile.FormatURL,
		credfile.FormatKeywords, credfile.FormatPassfile, credfile.FormatService,
	}
}

// comparison is of mutants of one format.
type comparison struct {
	format   credfile.Format
	readers  []reader
	verdicts map[string]int
	failures map[string][]string // by the verdict
	writers  []writer
}

func newComparison(format credfile.Format, readers []reader) *comparison {
	c := &comparison{format: format, readers: readers, verdicts: map[string]int{}, failures: map[string][]string{}}
	for _, w := range writers() {
		if w.format == format && w.dir == nil {
			c.writers = append(c.writers, w)
		}
	}
	return c
}

func (c *comparison) mutant(r *rand.Rand) {
	text := c.sample(r)
	for range 1 + r.IntN(3)*r.IntN(2) {
		text = mutate(r, text, c.sample)
	}
	for _, named := range []bool{true, false} {
		verdict, what := c.compare(text, named)
		c.verdicts[verdict]++
		const most = 5
		if what == "" || len(c.failures[verdict]) >= most {
			continue
		}
		small := shrink(text, func(s string) bool {
			v, _ := c.compare(s, named)
			return v == verdict
		})
		if _, what = c.compare(small, named); !slices.Contains(c.failures[verdict], what) {
			c.failures[verdict] = append(c.failures[verdict], what)
		}
		break
	}
}

// compare returns what became of text, in a word, and in full if it was read wrongly.
func (c *comparison) compare(text string, named bool) (verdict, what string) {
	if c.format == credfile.FormatPassfile && !isForAll(text) {
		return "for another host", ""
	}
	opt := options(c.format, named)
	got, err := credfile.Parse([]byte(text), opt)
	if err != nil {
		return "refused", ""
	}
	if !named && got.Format != c.format {
		return "recognised as " + string(got.Format), ""
	}
	agree := 0
	for _, by := range c.readers {
		want, err := by.read(text)
		switch {
		case errors.Is(err, errSeveral):
		case err != nil:
			continue
		case (want.user == got.Username || want.user == "") && want.password == got.Password:
			agree++
			continue
		}
		return "not as by " + by.name, fmt.Sprintf("%q (format %q): read user %q, password %q; by %s: user %q, password %q %v",
			text, opt.Format, got.Username, got.Password, by.name, want.user, want.password, err)
	}
	if agree == 0 {
		return "read by nobody else", ""
	}
	return "read alike", ""
}

// isForAll reports whether each line of a password file is for the host that readers are
// asked about: nobody else is told of one.
func isForAll(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if !hasPrefix(line, "#", passfileEntry, "*:*:*:") && strings.Contains(line, ":") {
			return false
		}
	}
	return true
}

func options(format credfile.Format, named bool) credfile.Options {
	var opt credfile.Options
	switch format {
	case credfile.FormatPassfile:
		opt.Username = passfileUser
	case credfile.FormatJSON, credfile.FormatYAML, credfile.FormatDotenv:
		opt.UsernameKey, opt.PasswordKey = userKey, passwordKey
	}
	if named {
		opt.Format = format
	}
	return opt
}

func (c *comparison) report(t *testing.T) {
	t.Helper()
	for _, those := range c.failures {
		for _, f := range those {
			t.Error(f)
		}
	}
	t.Logf("mutants: %v", c.verdicts)
	if c.verdicts["read alike"] == 0 {
		t.Error("nothing was read")
	}
}

// sample returns a well-formed file.
func (c *comparison) sample(r *rand.Rand) string {
	for {
		l := login{pick(r, usernames()[:3]).make(r), pick(r, passwords()).make(r)}
		if r.IntN(3) == 0 {
			l.password = chars(r, alnum, 3) + pick(r, tokens()) + chars(r, alnum, 2)
		}
		if c.format == credfile.FormatPassfile {
			l.user = passfileUser
		}
		w := pick(r, c.writers)
		if l.password == "" || !w.wellMeant(l) {
			continue
		}
		text := c.renamed(w.write(l))
		if c.format == credfile.FormatPassfile && r.IntN(3) == 0 {
			text = passfileEntry + "other:first\n" + text + "\n*:*:*:*:last\n"
		}
		return text
	}
}

// renamed returns text with the names in it that readers are asked for.
func (c *comparison) renamed(text string) string {
	switch c.format {
	case credfile.FormatDotenv:
		return strings.NewReplacer("DB_USERNAME", userKey, "DB_PASSWORD", passwordKey).Replace(text)
	case credfile.FormatPassfile:
		return strings.NewReplacer("db:5432:*:", passfileEntry, "db:5432:app:", passfileEntry).Replace(text)
	}
	return text
}

// mutate changes something, mostly to what means something.
func mutate(r *rand.Rand, s string, other func(*rand.Rand) string) string {
	at := r.IntN(len(s) + 1)
	to := min(len(s), at+r.IntN(8))
	switch r.IntN(9) {
	case 0:
		return s[:at] + s[to:]
	case 1:
		return s[:at] + s[at:to] + s[at:]
	case 2:
		return s[:at]
	case 3:
		o := other(r)
		return s[:at] + o[r.IntN(len(o)+1):]
	case 4:
		if len(s) == 0 {
			return s
		}
		b := []byte(s)
		b[r.IntN(len(b))] = byte(r.IntN(128))
		return string(b)
	case 5: // beside what has a meaning already
		if i := strings.IndexAny(s[at:], "'\"\\:=@#?%{}\n$ "); i >= 0 {
			at += i + r.IntN(2)
		}
		fallthrough
	default:
		return s[:at] + pick(r, tokens()) + s[at:]
	}
}
