// The flags that say how a file is read, as FileOptions has them.

package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/credfile"
	"github.com/sqlrotate/sqlrotate/internal/disk"
	"github.com/sqlrotate/sqlrotate/internal/saslprep"
)

// fileFlags are the options of a file source that a command has flags for.
type fileFlags struct {
	sqlrotate.FileOptions
	maxMode string
}

func (f *fileFlags) add(flags *flag.FlagSet) {
	flags.StringVar((*string)(&f.Format), "format", "", "format of the file: json, dotenv, yaml, url, keywords,\npassfile, service or password; empty means that it is\nrecognised")
	flags.StringVar(&f.Username, "username", "", "user name for what is read without one")
	flags.StringVar(&f.UsernameFile, "username-file", "", "file with the user name, if the other one holds nothing\nbut the password")
	flags.StringVar(&f.UsernameKey, "username-key", "", "key of the user name, with dots between those that are\nnested; empty means the usual ones")
	flags.StringVar(&f.PasswordKey, "password-key", "", "key of the password, likewise")
	flags.StringVar(&f.maxMode, "max-mode", "", "permissions that the file may have at the most, such as\n0640; empty means any")
}

// options returns the options of a source, checked as far as they can be without a file.
func (f *fileFlags) options() (sqlrotate.FileOptions, error) {
	opt := f.FileOptions
	if isContent(opt.UsernameFile) {
		return opt, fmt.Errorf("-username-file: %w", errContent)
	}
	if f.maxMode != "" {
		mode, err := strconv.ParseUint(f.maxMode, 8, 9)
		if err != nil || mode == 0 {
			return opt, errors.New("-max-mode: permissions in octal, from 0001 to 0777")
		}
		opt.MaxMode = fs.FileMode(mode)
	}
	return opt, nil
}

// parsing returns what the package that finds logins needs of the options.
func parsing(opt sqlrotate.FileOptions) credfile.Options {
	return credfile.Options{
		Format: credfile.Format(opt.Format), Username: opt.Username,
		UsernameKey: opt.UsernameKey, PasswordKey: opt.PasswordKey,
	}
}

// parsed is what was found in a file, without the password.
type parsed struct {
	credfile.Login
	files      []string // names of the key files, if it is a directory
	normalised bool     // the password may be another one for PostgreSQL's SCRAM
}

// parse finds the login in what was read from disk, as a file source does.
func parse(snap disk.Snapshot, opt sqlrotate.FileOptions) (p parsed, err error) {
	switch {
	case snap.Second != nil:
		p.Login, err = credfile.ParseDir(map[string][]byte{"username": snap.Second, "password": snap.Data}, credfile.Options{})
	case snap.Keys == nil:
		p.Login, err = credfile.Parse(snap.Data, parsing(opt))
	default:
		p.files = slices.Sorted(maps.Keys(snap.Keys))
		p.Login, err = credfile.ParseDir(snap.Keys, parsing(opt))
		if err != nil && snap.Skipped != nil {
			err = fmt.Errorf("%w (%w)", err, snap.Skipped)
		}
	}
	p.normalised = saslprep.MayChange(p.Password)
	p.Password = ""
	return p, err
}

// isContent reports whether what was given as a path may be what was to be in the file:
// it must not be repeated in a message.
func isContent(path string) bool {
	if _, err := os.Lstat(path); err == nil {
		return false
	}
	return strings.Contains(path, "://") || strings.ContainsAny(path, "\n{") || strings.Contains(strings.ToLower(path), "password=")
}

var errContent = errors.New("give the path of a file, not what is in it")
