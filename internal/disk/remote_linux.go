package disk

import "syscall"

// remote returns the name of the file system of path if it is one that may hang, and
// that doesn't tell what others change in it; else nothing.
func remote(path string) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return ""
	}
	switch uint32(st.Type) { //nolint:gosec // a magic number of 32 bits, that some architectures extend with its sign
	case 0x6969:
		return "NFS"
	case 0x65735546: // virtiofs too
		return "FUSE"
	case 0xFF534D42, 0xFE534D42, 0x517B:
		return "SMB"
	case 0x01021997:
		return "9p"
	case 0x00C36400:
		return "Ceph"
	case 0x5346414F, 0x6B414653:
		return "AFS"
	case 0x0BD00BD0:
		return "Lustre"
	case 0x47504653:
		return "GPFS"
	case 0x0187:
		return "autofs"
	}
	return ""
}
