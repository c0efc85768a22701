//go:build unix

package disk

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// open opens anything without waiting for it: a FIFO without a writer would block for
// ever. Nor is the file registered with the runtime's poller, as [os.Open] does: the
// runtime asks the file system for that in a way that stops the whole process while it
// hangs.
func open(path string) (*os.File, error) {
	fd, err := 0, error(syscall.EINTR)
	for errors.Is(err, syscall.EINTR) {
		fd, err = syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	}
	if err == nil {
		if err = syscall.SetNonblock(fd, false); err != nil { // os.NewFile goes by it
			_ = syscall.Close(fd)
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// links returns how many names a file has.
func links(info fs.FileInfo) (n uint64, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(st.Nlink), true
}
