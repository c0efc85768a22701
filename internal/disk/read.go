// Package disk reads a file, or a directory of files, whoever writes it and however,
// and tells when it may have changed. It knows nothing of what is in it.
package disk

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	maxSize = 1 << 20 // of a file, and of all keys of a directory together
	maxKeys = 1024    // entries of a directory

	// dataLink is the symlink by which the kubelet, and whoever uses its atomic
	// writer, publishes a version of a directory.
	dataLink = "..data"
)

// ErrNotRegular is the error for a path that is neither a regular file nor a directory.
var ErrNotRegular = errors.New("not a regular file")

var (
	errTooLarge = fmt.Errorf("larger than %d bytes", maxSize)
	errNotDir   = errors.New("not a directory")
	errBusy     = errors.New("changed each time it was read")
)

// Snapshot is what one look found on disk.
type Snapshot struct {
	ID      Identity
	Sum     Digest
	ModTime time.Time // the newest of all that was read

	Data    []byte            // the content of a file; good until the next read
	Keys    map[string][]byte // the content of a directory
	Skipped error             // what is in the directory but could not be read
}

// Wipe forgets the content.
func (s Snapshot) Wipe() {
	clear(s.Data)
	for _, data := range s.Keys {
		clear(data)
	}
}

// Identity is which file or directory a snapshot is of.
type Identity struct {
	Info    fs.FileInfo
	Version string // where ..data points to; empty without one
}

// Same reports whether two snapshots are of the same file or directory, so that a
// difference between them was written in place.
func (id Identity) Same(other Identity) bool {
	return id.Info != nil && other.Info != nil && id.Version == other.Version && os.SameFile(id.Info, other.Info)
}

// Digest stands for content that is kept nowhere.
type Digest [sha256.Size]byte

// Reader reads one path. It is not safe for concurrent use.
type Reader struct {
	path  string
	isDir bool // it was, the last time
	buf   []byte
	hash  hash.Hash // keyed, so that a digest in a core dump or a log can't be guessed from
}

// NewReader returns a reader of the file or directory at path, which it does not touch.
func NewReader(path string) *Reader {
	return &Reader{path: path, hash: newKeyedHash()}
}

func newKeyedHash() hash.Hash {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return hmac.New(sha256.New, key)
}

// Read takes a snapshot of the path: of a file, or of a directory of key files.
func (r *Reader) Read() (Snapshot, error) {
	if r.isDir {
		if s, err := r.readDir(); !errors.Is(err, errNotDir) {
			return s, err
		}
	}
	f, err := os.OpenFile(r.path, readFlags, 0)
	if err != nil {
		return Snapshot{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Snapshot{}, err
	}
	if r.isDir = info.IsDir(); r.isDir {
		return r.readDir()
	}
	r.buf, err = readFile(f, info, r.buf[:0], maxSize)
	if err != nil {
		clear(r.buf)
		return Snapshot{}, err
	}
	// Looked at after the read: whatever was written until now shows in it.
	if info, err = f.Stat(); err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{ID: Identity{Info: info}, ModTime: info.ModTime(), Data: r.buf}
	r.hash.Reset()
	r.hash.Write(s.Data)
	r.hash.Sum(s.Sum[:0])
	return s, nil
}

// readFlags opens anything without waiting for it: a FIFO without a writer would
// block for ever.
const readFlags = os.O_RDONLY | syscall.O_NONBLOCK

// readFile appends what is in f to buf, which may grow by limit bytes.
func readFile(f *os.File, info fs.FileInfo, buf []byte, limit int) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return buf, ErrNotRegular
	}
	if info.Size() > int64(limit) {
		return buf, errTooLarge
	}
	limit += len(buf)
	buf = slices.Grow(buf, int(info.Size())+1)
	for {
		n, err := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return buf, err
		case len(buf) > limit:
			return buf, errTooLarge
		case len(buf) == cap(buf):
			buf = slices.Grow(buf, 1)
		}
	}
}

// readDir takes a snapshot of a directory of key files. If the directory holds a
// ..data link, everything is read through the directory that the link named at
// one moment, and the read counts only if it still names it afterwards: before
// that, the kubelet removes nothing.
func (r *Reader) readDir() (Snapshot, error) {
	for range 20 {
		at, version, err := r.version()
		if err != nil {
			return Snapshot{}, err
		}
		dir := r.path
		switch {
		case filepath.IsAbs(version):
			dir = version
		case version != "":
			dir = filepath.Join(r.path, version)
		}
		s, err := r.readKeys(dir)
		s.ID.Version = version
		atEnd, versionAtEnd, eerr := r.version()
		if eerr == nil && versionAtEnd == version && os.SameFile(at, atEnd) {
			return s, err
		}
		s.Wipe()
	}
	return Snapshot{}, errBusy
}

// version returns which directory the path is, and what its ..data link names:
// nothing in a plain directory.
func (r *Reader) version() (fs.FileInfo, string, error) {
	info, err := os.Stat(r.path)
	if err != nil {
		return nil, "", err
	}
	if !info.IsDir() {
		return nil, "", errNotDir
	}
	version, err := os.Readlink(filepath.Join(r.path, dataLink))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) {
		return info, "", nil
	}
	return info, version, err
}

// readKeys reads the files in a directory. A file that can't be read is left out
// and reported in skipped: it may be none that matters.
func (r *Reader) readKeys(path string) (Snapshot, error) {
	dir, err := os.Open(path) //nolint:gosec // to read the path that was given is the job
	if err != nil {
		return Snapshot{}, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxKeys + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return Snapshot{}, err
	}
	if len(names) > maxKeys {
		return Snapshot{}, fmt.Errorf("more than %d files in the directory", maxKeys)
	}

	s := Snapshot{Keys: make(map[string][]byte, len(names))}
	limit := maxSize
	for _, name := range names {
		if strings.HasPrefix(name, "..") {
			continue // the atomic writer's own
		}
		data, modTime, err := readKey(filepath.Join(path, name), limit)
		if errors.Is(err, ErrNotRegular) {
			continue
		}
		if err != nil {
			s.Skipped = errors.Join(s.Skipped, err)
			continue
		}
		limit -= len(data)
		s.Keys[name] = data
		s.ModTime = latest(s.ModTime, modTime)
	}

	// Looked at last: a file put in the place of one read before shows in it.
	info, err := dir.Stat()
	if err != nil {
		return Snapshot{}, err
	}
	s.ID.Info = info
	s.ModTime = latest(s.ModTime, info.ModTime())
	r.hash.Reset()
	for _, name := range slices.Sorted(maps.Keys(s.Keys)) {
		hashField(r.hash, []byte(name))
		hashField(r.hash, s.Keys[name])
	}
	r.hash.Sum(s.Sum[:0])
	return s, nil
}

func readKey(path string, limit int) ([]byte, time.Time, error) {
	f, err := os.OpenFile(path, readFlags, 0) //nolint:gosec // as above
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	data, err := readFile(f, info, nil, limit)
	if err != nil {
		clear(data)
		return nil, time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	if info, err = f.Stat(); err != nil {
		return nil, time.Time{}, err
	}
	return data, info.ModTime(), nil
}

// hashField writes data so that no two lists of fields look alike.
func hashField(h hash.Hash, data []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(data)))
	h.Write(n[:])
	h.Write(data)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
