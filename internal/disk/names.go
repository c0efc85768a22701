// Names of files in errors: quoted, and without what else an error may hold.

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
)

// quote makes a name fit for a message: what is in a directory may be called anything.
func quote(name string) string {
	const most = 128
	if len(name) > most {
		return strconv.Quote(name[:most]) + "…"
	}
	return strconv.Quote(name)
}

// named quotes the name in an error of package os.
func named(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fmt.Errorf("%s %s: %w", at.Op, quote(at.Path), at.Err)
	}
	return err
}

// cause takes the name out of an error of package os.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// failures are what a few files could not be read for, and how many more there are.
type failures struct {
	first []error
	more  int
}

func (f *failures) add(err error) {
	if len(f.first) == 3 {
		f.more++
		return
	}
	f.first = append(f.first, err)
}

func (f *failures) err() error {
	var err error
	for _, e := range f.first {
		if err == nil {
			err = e
		} else {
			err = fmt.Errorf("%w; %w", err, e)
		}
	}
	if f.more > 0 {
		err = fmt.Errorf("%w; and %d more", err, f.more)
	}
	return err
}
