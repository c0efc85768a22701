// Mounts and volumes: who may have written a file, and whether its events arrive.

package disk

import (
	"bytes"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Mount is how a path is mounted.
type Mount struct {
	// Alone says that the path is a mount of a single file, or of one version of a
	// directory that has versions: this process never sees what takes its place.
	Alone bool
	// Name is the name, outside, of what was mounted; empty if that has none any more.
	Name string
}

// MountOf returns how path, which is absolute, is mounted, as far as the system tells.
func MountOf(path string) Mount {
	real := realName(path)
	info, err := os.Stat(path)
	if real == "" || err != nil {
		return Mount{}
	}
	table, err := os.ReadFile("/proc/self/mountinfo") // only Linux has it
	if err != nil {
		return Mount{}
	}
	return mountOf(table, real, info.IsDir())
}

// mountOf looks real up in a table of mounts.
func mountOf(table []byte, real string, isDir bool) (m Mount) {
	for e := range mounts(table) {
		if e.point != real {
			continue
		}
		// The kubelet's versions of a volume have names like ..2026_11_26.
		m = Mount{Alone: !isDir || strings.Contains(e.root, "/.."), Name: filepath.Base(e.root)}
		if e.gone {
			m.Name = ""
		}
	}
	return m
}

// Volume is the mounted file system that a path is in.
type Volume struct {
	// Point is where it is mounted, and Root which directory or file of its file system
	// is seen there: "/" if all of it is.
	Point, Root string
	// Kind is the kind of its file system, as the kernel names it.
	Kind string
	// ReadOnly says that nothing can be written to it here.
	ReadOnly bool
	// Remote is the name of a kind of file system that doesn't tell what others change
	// in it, such as NFS; empty for others.
	Remote string
}

// VolumeOf returns the volume of what path, which is absolute, leads to, as far as the
// system tells.
func VolumeOf(path string) Volume {
	real := realName(path)
	if real == "" {
		return Volume{}
	}
	table, _ := os.ReadFile("/proc/self/mountinfo") // only Linux has it
	v := volumeOf(table, real)
	v.Remote = remote(real)
	return v
}

// volumeOf looks for the mount nearest above real in a table of mounts. Of several at one
// point the last one covers the others.
func volumeOf(table []byte, real string) (v Volume) {
	for e := range mounts(table) {
		if len(e.point) < len(v.Point) || !within(real, e.point) {
			continue
		}
		v = Volume{Point: e.point, Root: e.root, Kind: e.kind, ReadOnly: e.readOnly}
	}
	return v
}

func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// entry is a line of a table of mounts.
type entry struct {
	root, point, kind string
	gone              bool // root has no name any more
	readOnly          bool
}

// mounts yields the lines of a table of mounts, proc_pid_mountinfo(5).
func mounts(table []byte) iter.Seq[entry] {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	return func(yield func(entry) bool) {
		for line := range bytes.Lines(table) {
			before, after, _ := strings.Cut(string(line), " - ")
			fields := strings.Fields(before)
			if len(fields) < 6 {
				continue
			}
			root, gone := strings.CutSuffix(fields[3], "//deleted")
			kind, _, _ := strings.Cut(after, " ")
			options := strings.Split(fields[5], ",")
			e := entry{unescape.Replace(root), unescape.Replace(fields[4]), kind, gone, slices.Contains(options, "ro")}
			if !yield(e) {
				return
			}
		}
	}
}
