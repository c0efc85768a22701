package disk

import (
	"io/fs"
	"syscall"
	"time"
)

// changed returns when a file was last changed in any way, by a rename too. Unlike the
// modification time nobody can set it: a copy that keeps its original's has its own.
func changed(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return latest(info.ModTime(), time.Unix(st.Ctim.Unix()))
	}
	return info.ModTime()
}
