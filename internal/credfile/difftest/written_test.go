package difftest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// Whatever login whichever producer writes: what is read is what was written, or it is a
// refusal, with the format named and with the format recognised. Of what producers
// commonly write few are refused.
func TestWhatIsReadIsWhatWasWritten(t *testing.T) {
	seed := seedOf(t, 1)
	for _, w := range writers() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			s := newSurvey(w)
			s.run(rand.New(rand.NewPCG(seed, 0)), 100_000)
			s.report(t)
		})
	}
}

// The same for as long as SQLROTATE_SOAK says.
func TestSoakWhatIsReadIsWhatWasWritten(t *testing.T) {
	end := time.Now().Add(soakFor(t, 2*time.Second))
	seed := seedOf(t, rand.Uint64())
	var total atomic.Int64
	t.Run("writers", func(t *testing.T) {
		for n, w := range writers() {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				s := newSurvey(w)
				r := rand.New(rand.NewPCG(seed, uint64(n)))
				// In turn with the others: as many run at once as there are processors.
				share := time.Until(end) / time.Duration((len(writers())-n+1)/2+1)
				s.run(r, 1000) // however late it is
				for last := time.Now().Add(share); time.Now().Before(last); {
					s.run(r, 1000)
				}
				total.Add(s.tried)
				s.report(t)
			})
		}
	})
	t.Logf("%d logins were written and read", total.Load())
}

// survey counts what becomes of the logins that one writer writes.
type survey struct {
	writer   writer
	counts   map[string]*count // by the generator of the password
	failures []string
	tried    int64
}

type count struct{ written, refused int }

func newSurvey(w writer) *survey { return &survey{writer: w, counts: map[string]*count{}} }

func (s *survey) run(r *rand.Rand, n int) {
	all, users := passwords(), usernames()
	for i := range n {
		g := all[i%len(all)]
		u := pick(r, users)
		for g.common && !u.common {
			u = pick(r, users)
		}
		l := login{u.make(r), g.make(r)}
		if l.user == "" || l.password == "" || !s.writer.wellMeant(l) {
			continue
		}
		s.tried++
		files := s.writer.files(l)
		named, recognised := s.writer.read(l, files, true), s.writer.read(l, files, false)
		switch {
		case named.wrong():
			s.fail(l, named)
		case recognised.wrong() && !s.looksOther(l):
			s.fail(l, recognised)
		}
		if g.common && s.writer.carriesWell(l) {
			c := s.counts[g.name]
			if c == nil {
				c = &count{}
				s.counts[g.name] = c
			}
			c.written++
			if named.err != nil || recognised.err != nil {
				c.refused++
			}
		}
	}
}

// looksOther reports whether a file of a password alone is one in another format, by
// all that can be seen: its format has to be named.
func (s *survey) looksOther(l login) bool {
	return s.writer.alone && otherBeginning.MatchString(l.password)
}

var otherBeginning = regexp.MustCompile(`(?im)^\s*(export\s+)?[\w.-]+(=|\s*:\s)|^\s*\{|^[^:]*:(\d+|\*):|\s(user|password)\s*=`)

// fail notes a case after it was made as small as it gets.
func (s *survey) fail(l login, o outcome) {
	const most = 6
	if len(s.failures) >= most {
		return
	}
	l = reduce(l, func(l login) bool {
		return l.user != "" && l.password != "" && s.writer.wellMeant(l) && s.writer.try(l, o.named).wrong() && (o.named || !s.looksOther(l))
	})
	text := s.writer.try(l, o.named).String()
	if !slices.Contains(s.failures, text) {
		s.failures = append(s.failures, text)
	}
}

func (s *survey) report(t *testing.T) {
	t.Helper()
	for _, f := range s.failures {
		t.Error(f)
	}
	var rates []string
	written := 0
	for _, g := range passwords() {
		c := s.counts[g.name]
		if c == nil {
			continue
		}
		written += c.written
		rate := float64(c.refused) / float64(c.written)
		if c.refused > 0 {
			rates = append(rates, fmt.Sprintf("%s %.2f %%", g.name, 100*rate))
		}
		// Less than one in a hundred, and what chance adds to that in so few.
		expected := 0.01 * float64(c.written)
		if float64(c.refused) >= expected+4*math.Sqrt(expected) {
			t.Errorf("of %d passwords of the kind %q %d were refused", c.written, g.name, c.refused)
		}
	}
	if written == 0 {
		t.Error("it carries no common password")
	}
	t.Logf("%d logins; refused of %d common ones: %s", s.tried, written, strings.Join(rates, ", "))
}

// outcome is what was read of what was written.
type outcome struct {
	want  login
	files map[string]string // under an empty name if there is only one
	opt   credfile.Options
	named bool
	got   credfile.Login
	err   error
}

func (w writer) try(l login, named bool) outcome { return w.read(l, w.files(l), named) }

// files returns what is written, by name.
func (w writer) files(l login) map[string]string {
	if w.dir != nil {
		return w.dir(l)
	}
	return map[string]string{"": w.write(l)}
}

func (w writer) read(l login, written map[string]string, named bool) outcome {
	o := outcome{want: l, files: written, named: named}
	if named {
		o.opt.Format = w.format
	}
	if w.alone {
		o.opt.Username = l.user
	}
	if w.dir == nil {
		o.got, o.err = credfile.Parse([]byte(o.files[""]), o.opt)
		return o
	}
	files := map[string][]byte{}
	for name, content := range o.files {
		files[name] = []byte(content)
	}
	o.got, o.err = credfile.ParseDir(files, o.opt)
	return o
}

// wrong reports whether there is a third thing, or an error that isn't as it should be.
func (o outcome) wrong() bool {
	if o.err != nil {
		return !errors.As(o.err, new(*credfile.Error)) || len(o.want.password) > 12 && strings.Contains(o.err.Error(), o.want.password)
	}
	return o.got.Username != o.want.user || o.got.Password != o.want.password
}

func (o outcome) String() string {
	content := fmt.Sprintf("%q", o.files)
	if text, ok := o.files[""]; ok {
		content = strconv.Quote(text)
	}
	got := fmt.Sprintf("user %q, password %q as %q", o.got.Username, o.got.Password, o.got.Format)
	if o.err != nil {
		got = o.err.Error()
	}
	return fmt.Sprintf("%s (format %q, Username %q): read %s; written were user %q, password %q", content, o.opt.Format, o.opt.Username, got, o.want.user, o.want.password)
}

// reduce makes user and password smaller while fails holds.
func reduce(l login, fails func(login) bool) login {
	l.password = shrink(l.password, func(s string) bool { return fails(login{l.user, s}) })
	l.user = shrink(l.user, func(s string) bool { return fails(login{s, l.password}) })
	return l
}

// shrink returns a part of s for which fails still holds, with letters in place of what
// doesn't matter.
func shrink(s string, fails func(string) bool) string {
	for size := len(s) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(s); {
			if shorter := s[:at] + s[at+size:]; fails(shorter) {
				s = shorter
			} else {
				at += size
			}
		}
	}
	for at := 0; at < len(s); {
		_, size := utf8.DecodeRuneInString(s[at:])
		if plain := s[:at] + "a" + s[at+size:]; s[at] != 'a' && fails(plain) {
			s, size = plain, 1
		}
		at += size
	}
	return s
}

// seedOf returns the seed of SQLROTATE_SEED, or the one given, and logs it.
func seedOf(t *testing.T, seed uint64) uint64 {
	t.Helper()
	if v := os.Getenv("SQLROTATE_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SQLROTATE_SEED=%d", seed)
	return seed
}

func soakFor(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	if v := os.Getenv("SQLROTATE_SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return short
}
