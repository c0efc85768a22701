// The changelog: its newest version and its date.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/mod/semver"
)

const (
	changelog  = "CHANGELOG.md"
	unreleased = "unreleased"
)

// newest matches the headings of the versions, of which the newest is the first.
var newest = regexp.MustCompile(`(?m)^## (\S+) - (\S+)$`)

// newestVersion returns the version that the text of a changelog begins with, and
// whether it has been released: its heading then has the date in place of a word.
func newestVersion(text string) (version string, released bool, err error) {
	m := newest.FindStringSubmatch(text)
	if m == nil {
		return "", false, errors.New(changelog + ` has no heading "## v1.2.3 - unreleased", or with a date`)
	}
	version = m[1]
	if semver.Canonical(version) != version {
		return "", false, fmt.Errorf("%s: %q is no version, such as v1.2.3", changelog, version)
	}
	if m[2] == unreleased {
		return version, false, nil
	}
	if _, err := time.Parse(time.DateOnly, m[2]); err != nil {
		return "", false, fmt.Errorf("%s: %q is neither a date nor %q", changelog, m[2], unreleased)
	}
	return version, true, nil
}

// dateNewest gives the newest version in the changelog of dir a date, unless it has one.
func dateNewest(dir string, date time.Time) error {
	path := filepath.Join(dir, changelog)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m := newest.FindSubmatchIndex(text)
	if m == nil || string(text[m[4]:m[5]]) != unreleased {
		return nil
	}
	dated := string(text[:m[4]]) + date.Format(time.DateOnly) + string(text[m[5]:])
	return os.WriteFile(path, []byte(dated), 0o644)
}
