// The command parse: how a file is read, and why.

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

const parseUsage = `usage: sqlrotate parse [flags] FILE

parse says how a credential file, or a directory of key files, is read: its
format and what that was recognised by, which keys gave user name and password,
or why it is no credential and what to write instead. FILE may be - for the
standard input. The password is not shown, nor how long it is.

The exit status is 0 if a file source would take what is in it, and 1 if not.

flags:
`

// maxInput is how much is read of the standard input: no credential file is larger.
const maxInput = 1 << 20

func runParse(_ context.Context, s stdio, args []string) int { return parseFrom(os.Stdin, s, args) }

func parseFrom(in io.Reader, s stdio, args []string) int {
	var file fileFlags
	flags := flag.NewFlagSet("sqlrotate parse", flag.ContinueOnError)
	file.add(flags)
	asJSON := flags.Bool("json", false, "say it in JSON: one object, with a list of findings")
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	var opt sqlrotate.FileOptions
	if err == nil {
		opt, err = file.options()
	}
	switch {
	case err != nil:
	case flags.NArg() != 1:
		err = errors.New("it takes one path, after the flags, or - for the standard input")
	case isContent(flags.Arg(0)):
		err = errContent
	}
	if err != nil {
		return badUsage(s, flags, parseUsage, err)
	}
	found := judgeParsed(readParsed(in, flags.Arg(0), opt))
	if err := found.write(s.out, *asJSON); err != nil {
		return statusFailed
	}
	return found.status()
}

// badUsage prints the usage of a command, if err is that somebody asked for it, or err.
func badUsage(s stdio, flags *flag.FlagSet, usage string, err error) int {
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(s.out, usage)
		flags.SetOutput(s.out)
		flags.PrintDefaults()
		return statusOK
	}
	command := flags.Name()
	_, _ = fmt.Fprintf(s.err, "%s: %v\n\"sqlrotate help %s\" lists the flags.\n", command, err, strings.TrimPrefix(command, "sqlrotate "))
	return statusUsage
}

func readParsed(in io.Reader, path string, opt sqlrotate.FileOptions) (parsed, error) {
	if path == "-" {
		data, err := io.ReadAll(io.LimitReader(bufio.NewReader(in), maxInput))
		if err != nil {
			return parsed{}, err
		}
		return parse(disk.Snapshot{Data: data}, opt)
	}
	return readFrom(path, opt)
}

// readFrom reads a path once.
func readFrom(path string, opt sqlrotate.FileOptions) (parsed, error) {
	paths := []string{path}
	if opt.UsernameFile != "" {
		paths = append(paths, opt.UsernameFile)
	}
	for i, path := range paths {
		var err error
		if paths[i], err = disk.Abs(path); err != nil {
			return parsed{}, err
		}
	}
	reader := disk.NewReader(paths...)
	reader.MaxMode = opt.MaxMode
	snap, err := reader.Read()
	if err != nil {
		return parsed{}, err
	}
	defer snap.Wipe()
	return parse(snap, opt)
}

// judgeParsed says how a file is read, or why it isn't.
func judgeParsed(p parsed, err error) (all findings) {
	if err != nil {
		all.add("file", levelFail, decodeDetails(err), "%s", plain(err))
		return all
	}
	switch {
	case p.Format != "":
		all.add("format", levelOK, details{"format": p.Format, "why": p.Why}, "%s", formatOf(p))
	case p.files != nil:
		all.add("format", levelOK, details{"files": p.files}, "a directory of key files: %s", quoted(p.files))
	default:
		all.add("format", levelOK, nil, "two files, which hold one value each")
	}
	all.add("username", levelOK, origin(p.From.Username, details{"username": p.Username}), "%q, %v", p.Username, from(p.From.Username))
	all.add("password", levelOK, origin(p.From.Password, details{}), "there is one, %v", from(p.From.Password))
	if !p.NotAfter.IsZero() {
		all.add("end", levelOK, origin(p.From.NotAfter, details{"not_after": p.NotAfter}), "%s, %v", p.NotAfter.Format("2006-01-02 15:04:05 MST"), from(p.From.NotAfter))
	}
	if at := whereabouts(p.Host, p.Port, p.Database); at != "" {
		all.add("server", levelNote, details{"host": p.Host, "port": p.Port, "database": p.Database}, "%s: it isn't followed, the DSN says where the database is", at)
	}
	return all
}

// formatOf says which format it is, and why.
func formatOf(p parsed) string {
	if p.Why == "" {
		return fmt.Sprintf("%s, as -format says", p.Format)
	}
	return fmt.Sprintf("%s, because %s", p.Format, p.Why)
}

// from says where a value was found.
func from(o credfile.Origin) string {
	text := "from " + o.Key
	switch o.Key {
	case "FileOptions.Username":
		text = "from -username"
	case "the password":
		text = "which is all of it"
	}
	if o.Line > 0 {
		text += fmt.Sprintf(" in line %d", o.Line)
	}
	return text
}

func origin(o credfile.Origin, d details) details {
	d["key"] = strings.Trim(o.Key, `"`)
	if o.Line > 0 {
		d["line"] = o.Line
	}
	return d
}

// decodeDetails are what is known of an error that says that a file holds no credential.
func decodeDetails(err error) details {
	var e *sqlrotate.DecodeError
	var inner *credfile.Error
	switch {
	case errors.As(err, &e):
		return details{"reason": e.Reason, "format": e.Format, "line": e.Line}
	case errors.As(err, &inner):
		return details{"reason": inner.Reason, "format": inner.Format, "line": inner.Line}
	}
	return nil
}

// plain is the text of an error, as one of several.
func plain(err error) string { return strings.TrimPrefix(err.Error(), "sqlrotate: ") }

func quoted(names []string) string { return fmt.Sprintf("%q", names) }

// whereabouts names a server, as far as it is known.
func whereabouts(host, port, database string) string {
	var parts []string
	for _, part := range []struct{ name, value string }{{"host", host}, {"port", port}, {"database", database}} {
		if part.value != "" {
			parts = append(parts, fmt.Sprintf("%s %q", part.name, part.value))
		}
	}
	return strings.Join(parts, ", ")
}
