// NewCommandSource: logins that a program prints, such as a cloud's command line tool.

package sqlrotate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

// CommandOptions says how [NewCommandSource] runs a program and reads what it prints.
type CommandOptions struct {
	// Username is the user name for output that has none, such as a bare token. Output
	// with another one is refused. Empty: the output must hold one.
	Username string

	// Lifetime is how long what the program prints is good, counted from when the program
	// was started, such as 15 min for a token of RDS. If the output says that, too, the
	// earlier end counts. Zero means that only the output says it.
	Lifetime time.Duration

	// Format is the format of the output. Empty: it is recognised, as that of a file.
	// Name [FormatPassword] for a password that is generated or has spaces in it.
	Format Format

	// UsernameKey and PasswordKey are as in [FileOptions]. Empty: the usual names.
	UsernameKey, PasswordKey string

	// Env is the environment of the program, as "KEY=value". Nil means that of this
	// process.
	Env []string

	// Cache is the cache's: when the program is run again, for how long it may run
	// (Timeout, 30 s if it is zero; it can't be negative), and the logger.
	Cache CacheOptions
}

const (
	// maxOutput bounds what a program may print, as a file's size is bounded.
	maxOutput = 1 << 20
	// maxSaid bounds what is kept, and told, of what it writes to standard error.
	maxSaid = 1 << 10
	// outputDelay is how long output may be held open by what a program has left behind.
	// It is less than the cache waits for a call to heed its context.
	outputDelay = fetchGrace / 2
	// longWord is from how many characters on a word is a secret by its looks.
	longWord = 40
)

var (
	errMuchOutput = fmt.Errorf("it was killed because it prints more than %d bytes", maxOutput)
	errOutputHeld = errors.New("something that it has left running holds its output open: have that redirect standard output and standard error")
)

// NewCommandSource returns a source whose credential is what a program prints, behind a
// cache: command is its name and its arguments, and no shell is involved. The program is
// run at once, ahead of the credential's end, at CacheOptions.MaxAge if that isn't known,
// and when a login was refused; once for all logins, and never twice at a time.
//
// The output is a bare token or password, for which CommandOptions.Username is needed, or
// any other of the formats of a file ([Format]). As this output is fresh, "token" or
// "access_token" stands for a password that there isn't, and an end is also
// "expires_on" or "expiration_time", "expires_in" (in seconds, from when the program
// was started), and the lease_duration of a lease, which nobody renews.
//
// A name without a slash is looked for in this process's PATH, once and now; a relative
// path is refused. The program has this process's directory and, unless
// CommandOptions.Env is given, its environment, and nothing to read. It is killed if it
// runs for longer than CacheOptions.Timeout, prints more than 1 MiB, or runs when the
// source is closed, and with it what it has started, unless that has left its process
// group (on Windows it is killed alone).
//
// An exit status other than zero is an error, whatever was printed, that wraps an
// [*exec.ExitError]; output that is no credential is a [*DecodeError]. No error has
// anything of the output in it, nor an argument. It has the end of what a program that
// failed wrote to standard error, up to 1 KiB, without the arguments that it repeats, the
// values of environment variables with PASS, SECRET, TOKEN or KEY in their names, and words
// of 40 characters and more that are no paths, and nothing of that if it repeats something of
// the output or of the last password. The program should write no secret there all the same.
func NewCommandSource(command []string, opt CommandOptions) (*CachedSource, error) {
	s, err := newCommandSource(command, opt)
	if err != nil {
		return nil, err
	}
	return NewCachedSource(s, opt.Cache)
}

// commandSource runs a program at each call.
type commandSource struct {
	path string
	args []string
	env  []string

	decode   credfile.Options
	lifetime time.Duration

	mu   sync.Mutex // guards last
	last Secret     // that was printed
}

func newCommandSource(command []string, opt CommandOptions) (*commandSource, error) {
	switch {
	case len(command) == 0 || command[0] == "":
		return nil, errors.New("sqlrotate: NewCommandSource: there is no command")
	case filepath.Base(command[0]) != command[0] && !filepath.IsAbs(command[0]):
		return nil, fmt.Errorf("sqlrotate: NewCommandSource: %q is a relative path: give an absolute one, or a name that is in PATH", command[0])
	case opt.Cache.Timeout < 0:
		return nil, errors.New("sqlrotate: CommandOptions.Cache.Timeout is negative: a program can't run without a bound")
	case opt.Lifetime < 0:
		return nil, fmt.Errorf("sqlrotate: CommandOptions.Lifetime is %v: zero means that it isn't known", opt.Lifetime)
	}
	if err := plausible("CommandOptions.Lifetime", opt.Lifetime); err != nil {
		return nil, err
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, fmt.Errorf("sqlrotate: NewCommandSource: %w", err)
	}
	return &commandSource{
		path: path, args: slices.Clone(command[1:]), env: slices.Clone(opt.Env), lifetime: opt.Lifetime,
		decode: credfile.Options{
			Format: credfile.Format(opt.Format), Username: opt.Username,
			UsernameKey: opt.UsernameKey, PasswordKey: opt.PasswordKey, Printed: true,
		},
	}, nil
}

// String names the program, without its arguments.
func (s *commandSource) String() string { return "command " + filepath.Base(s.path) }

// Credential implements [Source].
func (s *commandSource) Credential(ctx context.Context) (Credential, error) {
	began := time.Now()
	var stdout head
	var stderr tail
	err := s.run(ctx, &stdout, &stderr)
	var cred Credential
	if err == nil {
		cred, err = s.read(stdout.buf, began)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("sqlrotate: %s: %w%s", s, err, s.said(stdout.buf, stderr.text()))
	}
	s.mu.Lock()
	s.last = cred.Password
	s.mu.Unlock()
	return cred, nil
}

// run runs the program to its end.
func (s *commandSource) run(ctx context.Context, stdout *head, stderr *tail) error {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdout.full = func() { cancel(errMuchOutput) }
	cmd := exec.CommandContext(within, s.path, s.args...) //nolint:gosec // it is what the application says
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = s.env, stdout, stderr, outputDelay
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	if err == nil {
		return nil
	}
	// What it has started goes with it. No other group can have the number while something
	// is left of this one, and hardly another has it so soon if nothing is.
	killGroup(cmd)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it was killed while it ran: %w", ctx.Err())
	case within.Err() != nil:
		return context.Cause(within)
	case errors.Is(err, exec.ErrWaitDelay):
		return errOutputHeld
	}
	return err
}

// environ returns the environment that the program runs in.
func (s *commandSource) environ() []string { return (&exec.Cmd{Env: s.env}).Environ() }

// read returns the credential in what a program has printed that was started at began.
func (s *commandSource) read(content []byte, began time.Time) (Credential, error) {
	login, err := credfile.Parse(content, s.decode)
	if e := (*credfile.Error)(nil); errors.As(err, &e) {
		e.Detail = strings.ReplaceAll(e.Detail, "FileOptions.", "CommandOptions.")
		if e.Reason == credfile.ReasonEmpty {
			e.Detail = "the program prints nothing"
		}
	}
	got, err := asFound(login, err)
	if err != nil {
		return Credential{}, err
	}
	cred := got.Credential
	for _, d := range []time.Duration{login.Lifetime, s.lifetime} {
		if end := began.Add(d).Round(0); d > 0 && (cred.NotAfter.IsZero() || end.Before(cred.NotAfter)) {
			cred.NotAfter = end
		}
	}
	return cred, nil
}

// said returns what may be told of what a program has written to standard error, which is
// text.
func (s *commandSource) said(stdout []byte, text string) string {
	if text == "" {
		return ""
	}
	s.mu.Lock()
	last := s.last.Reveal()
	s.mu.Unlock()
	found, _ := credfile.Parse(stdout, s.decode) // whatever its exit status says of it
	for _, password := range []string{last, found.Password} {
		if password != "" && strings.Contains(text, password) {
			return withheldText
		}
	}
	if repeats(text, string(stdout)) || repeats(text, last) {
		return withheldText
	}
	return "; it says " + strconv.Quote(maskLongWords(maskGiven(text, s.args, s.environ())))
}

const withheldText = "; what it wrote to standard error is withheld, because something of its output is in there"

const (
	// shortestWord is from how many bytes on a word may be a secret, or a part of one.
	shortestWord = 4
	// shortestPart is of how many bytes in a row the same holds, whatever they are.
	shortestPart = 8
)

// repeats reports whether a text has a word of an output, or a part of it. What a word is,
// formats don't agree on: what is between spaces and brackets, or the value of a key and the
// parts of a URL as well.
func repeats(text, output string) bool {
	for _, ends := range []string{" \t\r\n\"'`,;{}[]", " \t\r\n\"'`,;{}[]=:@/?&"} {
		for word := range strings.FieldsFuncSeq(output, func(r rune) bool { return strings.ContainsRune(ends, r) }) {
			if len(word) >= shortestWord && strings.Contains(text, word) {
				return true
			}
		}
	}
	parts := map[string]bool{}
	for i := range len(text) - shortestPart + 1 {
		parts[text[i:i+shortestPart]] = true
	}
	for i := range len(output) - shortestPart + 1 {
		if parts[output[i:i+shortestPart]] {
			return true
		}
	}
	return false
}

// maskGiven replaces what in a text the program was given: its arguments, and what its
// environment has under a name that is a secret's.
func maskGiven(text string, args, env []string) string {
	given := slices.Clone(args)
	for _, arg := range args {
		_, value, _ := strings.Cut(arg, "=")
		given = append(given, value)
	}
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		name = strings.ToUpper(name)
		if slices.ContainsFunc([]string{"PASS", "SECRET", "TOKEN", "KEY"}, func(s string) bool { return strings.Contains(name, s) }) {
			given = append(given, value)
		}
	}
	slices.SortFunc(given, func(a, b string) int { return len(b) - len(a) }) // one may be a part of another one
	for _, s := range given {
		if len(s) >= shortestWord {
			text = strings.ReplaceAll(text, s, "…")
		}
	}
	return text
}

// maskLongWords replaces what is as long as tokens are, but for paths and addresses.
func maskLongWords(text string) string {
	const of = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_=.%~-"
	var b strings.Builder
	for text != "" {
		n := len(text) - len(strings.TrimLeft(text, of))
		switch {
		case n >= longWord && !isPath(text[:n]):
			b.WriteString("…")
		default:
			n = max(n, 1)
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// isPath reports whether a word is a path, or what follows the scheme of a URL, by its looks:
// base64 may begin with a slash as well, but has no short words between signs.
func isPath(word string) bool {
	const longest = 20
	if word[0] != '/' {
		return false
	}
	for part := range strings.FieldsFuncSeq(word, func(r rune) bool { return strings.ContainsRune("/._-~=%", r) }) {
		if len(part) >= longest {
			return false
		}
	}
	return true
}

// head keeps what a program writes, and calls full when that is too much.
type head struct {
	buf  []byte
	full func()
}

// Write implements [io.Writer].
func (h *head) Write(p []byte) (int, error) {
	if len(h.buf)+len(p) > maxOutput {
		h.full()
		return 0, errMuchOutput
	}
	h.buf = append(h.buf, p...)
	return len(p), nil
}

// tail keeps the end of what a program writes.
type tail struct {
	buf []byte
	cut bool // there was more
}

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if more := len(t.buf) - maxSaid; more > 0 {
		t.buf, t.cut = append(t.buf[:0], t.buf[more:]...), true
	}
	return len(p), nil
}

// text returns it, in whole words.
func (t *tail) text() string {
	text := t.buf
	if t.cut {
		text = bytes.TrimLeftFunc(text, func(r rune) bool { return !unicode.IsSpace(r) })
	}
	return strings.TrimSpace(string(text))
}
