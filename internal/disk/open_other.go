//go:build !unix

package disk

import (
	"io/fs"
	"os"
)

func open(path string) (*os.File, error) { return os.Open(path) }

// links returns how many names a file has, where that is known.
func links(fs.FileInfo) (n uint64, ok bool) { return 0, false }
