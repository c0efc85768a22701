package disk

import (
	"bytes"
	"os"
	"path/filepath"
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

// mountOf looks real up in a table of mounts, proc_pid_mountinfo(5).
func mountOf(table []byte, real string, isDir bool) (m Mount) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range bytes.Lines(table) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 || unescape.Replace(fields[4]) != real {
			continue
		}
		root, gone := strings.CutSuffix(fields[3], "//deleted")
		// The kubelet's versions of a volume have names like ..2026_11_26.
		m = Mount{Alone: !isDir || strings.Contains(root, "/.."), Name: filepath.Base(unescape.Replace(root))}
		if gone {
			m.Name = ""
		}
	}
	return m
}
