// Reading a secret from disk: regular files only, bounded in size, and every key
// of a directory from one version.

package sqlrotate

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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
	maxFileSize = 1 << 20 // of a file, and of all keys of a directory together
	maxKeys     = 1024    // entries of a directory

	// dataLink is the symlink by which the kubelet, and whoever uses its atomic
	// writer, publishes a version of a directory.
	dataLink = "..data"
)

var (
	errTooLarge   = fmt.Errorf("larger than %d bytes", maxFileSize)
	errNotRegular = errors.New("not a regular file")
	errNotDir     = errors.New("not a directory")
	errBusy       = errors.New("changed each time it was read")
)

// snapshot is what one look found on disk.
type snapshot struct {
	id      identity
	sum     digest
	modTime time.Time // the newest of all that was read

	data    []byte            // the content of a file; good until the next read
	keys    map[string][]byte // the content of a directory
	skipped error             // what is in the directory but could not be read
}

// wipe forgets the content.
func (s snapshot) wipe() {
	clear(s.data)
	for _, data := range s.keys {
		clear(data)
	}
}

// identity tells whether two snapshots are of the same file or directory, so
// that a difference between them was written in place.
type identity struct {
	info    fs.FileInfo
	version string // where ..data points to; empty without one
}

func (id identity) same(other identity) bool {
	return id.info != nil && other.info != nil && id.version == other.version && os.SameFile(id.info, other.info)
}

// digest stands for content that is kept nowhere.
type digest [sha256.Size]byte

// reader reads one path. It is not safe for concurrent use.
type reader struct {
	path  string
	isDir bool // it was, the last time
	buf   []byte
	hash  hash.Hash // keyed, so that a digest in a core dump or a log can't be guessed from
}

func newReader(path string) *reader {
	return &reader{path: path, hash: newKeyedHash()}
}

func newKeyedHash() hash.Hash {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return hmac.New(sha256.New, key)
}

// read takes a snapshot of the path: of a file, or of a directory of key files.
func (r *reader) read() (snapshot, error) {
	if r.isDir {
		if s, err := r.readDir(); !errors.Is(err, errNotDir) {
			return s, err
		}
	}
	f, err := os.OpenFile(r.path, readFlags, 0)
	if err != nil {
		return snapshot{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return snapshot{}, err
	}
	if r.isDir = info.IsDir(); r.isDir {
		return r.readDir()
	}
	r.buf, err = readFile(f, info, r.buf[:0], maxFileSize)
	if err != nil {
		clear(r.buf)
		return snapshot{}, err
	}
	// Looked at after the read: whatever was written until now shows in it.
	if info, err = f.Stat(); err != nil {
		return snapshot{}, err
	}
	s := snapshot{id: identity{info: info}, modTime: info.ModTime(), data: r.buf}
	r.hash.Reset()
	r.hash.Write(s.data)
	r.hash.Sum(s.sum[:0])
	return s, nil
}

// readFlags opens anything without waiting for it: a FIFO without a writer would
// block for ever.
const readFlags = os.O_RDONLY | syscall.O_NONBLOCK

// readFile appends what is in f to buf, which may grow by limit bytes.
func readFile(f *os.File, info fs.FileInfo, buf []byte, limit int) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return buf, errNotRegular
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
func (r *reader) readDir() (snapshot, error) {
	for range 20 {
		at, version, err := r.version()
		if err != nil {
			return snapshot{}, err
		}
		dir := r.path
		switch {
		case filepath.IsAbs(version):
			dir = version
		case version != "":
			dir = filepath.Join(r.path, version)
		}
		s, err := r.readKeys(dir)
		s.id.version = version
		atEnd, versionAtEnd, eerr := r.version()
		if eerr == nil && versionAtEnd == version && os.SameFile(at, atEnd) {
			return s, err
		}
		s.wipe()
	}
	return snapshot{}, errBusy
}

// version returns which directory the path is, and what its ..data link names:
// nothing in a plain directory.
func (r *reader) version() (fs.FileInfo, string, error) {
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
func (r *reader) readKeys(path string) (snapshot, error) {
	dir, err := os.Open(path) //nolint:gosec // to read the path that was given is the job
	if err != nil {
		return snapshot{}, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxKeys + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return snapshot{}, err
	}
	if len(names) > maxKeys {
		return snapshot{}, fmt.Errorf("more than %d files in the directory", maxKeys)
	}

	s := snapshot{keys: make(map[string][]byte, len(names))}
	limit := maxFileSize
	for _, name := range names {
		if strings.HasPrefix(name, "..") {
			continue // the atomic writer's own
		}
		data, modTime, err := readKey(filepath.Join(path, name), limit)
		if errors.Is(err, errNotRegular) {
			continue
		}
		if err != nil {
			s.skipped = errors.Join(s.skipped, err)
			continue
		}
		limit -= len(data)
		s.keys[name] = data
		s.modTime = latest(s.modTime, modTime)
	}

	// Looked at last: a file put in the place of one read before shows in it.
	info, err := dir.Stat()
	if err != nil {
		return snapshot{}, err
	}
	s.id.info = info
	s.modTime = latest(s.modTime, info.ModTime())
	r.hash.Reset()
	for _, name := range slices.Sorted(maps.Keys(s.keys)) {
		hashField(r.hash, []byte(name))
		hashField(r.hash, s.keys[name])
	}
	r.hash.Sum(s.sum[:0])
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

// fingerprint names a login without giving it away: it can't be computed, and so
// not be guessed from, without the key of h.
func fingerprint(h hash.Hash, cred Credential) string {
	h.Reset()
	hashField(h, []byte(cred.Username))
	hashField(h, []byte(cred.Password.Reveal()))
	return hex.EncodeToString(h.Sum(nil)[:4])
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
