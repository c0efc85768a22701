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
	Changed time.Time // when the last of it came to be there as it is; not before ModTime

	Data    []byte            // the content of a file; good until the next read
	Second  []byte            // of the second file, where there are two
	Keys    map[string][]byte // the content of a directory
	Skipped error             // what is in the directory but could not be read

	// Replaced says that what was read is at its path for this process only: a mount
	// keeps what it was made of, and something else has taken its place outside.
	Replaced bool
}

// Wipe forgets the content.
func (s Snapshot) Wipe() {
	clear(s.Data)
	clear(s.Second)
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

// Reader reads one path, or two that belong together. It is not safe for concurrent use.
type Reader struct {
	// MaxMode has all permissions that a file may have; 0 means any.
	MaxMode fs.FileMode

	path, second    string
	isDir           bool // it was, the last time
	linked, linked2 bool // has been seen with a link
	buf, buf2       []byte
	hash            hash.Hash // keyed, so that a digest in a core dump or a log can't be guessed from
}

// NewReader returns a reader of one path, a file or a directory, or of two files that
// belong together. It touches nothing.
func NewReader(paths ...string) *Reader {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	r := &Reader{path: paths[0], hash: hmac.New(sha256.New, key)}
	if len(paths) > 1 {
		r.second = paths[1]
	}
	return r
}

// Read takes a snapshot: of a file, of two, or of a directory of key files. Names in its
// errors are quoted and cut.
func (r *Reader) Read() (Snapshot, error) {
	s, err := r.read()
	if err != nil {
		clear(r.buf)
		clear(r.buf2)
		return Snapshot{}, named(err)
	}
	return s, nil
}

func (r *Reader) read() (Snapshot, error) {
	if r.second != "" {
		return r.readTwo()
	}
	if r.isDir {
		if s, err := r.readDir(); !errors.Is(err, errNotDir) {
			return s, err
		}
	}
	data, info, err := r.readFile(r.path, r.buf[:0], maxSize)
	r.buf = data
	if r.isDir = errors.Is(err, errIsDir); r.isDir {
		return r.readDir()
	}
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{ID: Identity{Info: info}, ModTime: info.ModTime(), Changed: changed(info), Data: data, Replaced: replaced(r.path, info, &r.linked)}
	r.hash.Reset()
	r.hash.Write(s.Data)
	r.hash.Sum(s.Sum[:0])
	return s, nil
}

// errIsDir is for a path that is a directory.
var errIsDir = fmt.Errorf("%w: a directory", ErrNotRegular)

// readFile appends what is in a regular file to buf, which may grow by limit bytes. The
// FileInfo is of after the read: whatever was written until then shows in it.
func (r *Reader) readFile(path string, buf []byte, limit int) ([]byte, fs.FileInfo, error) {
	f, err := open(path)
	if err != nil {
		return buf, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return buf, nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return buf, nil, errIsDir
	case !mode.IsRegular():
		return buf, nil, ErrNotRegular
	case r.MaxMode != 0 && mode.Perm()&^r.MaxMode != 0:
		return buf, nil, fmt.Errorf("its permissions are %#o, more than FileOptions.MaxMode %#o allows", mode.Perm(), r.MaxMode)
	case info.Size() > int64(limit):
		return buf, nil, errTooLarge
	}
	if buf, err = readAll(f, slices.Grow(buf, int(info.Size())+1), limit); err != nil {
		return buf, nil, err
	}
	info, err = f.Stat()
	return buf, info, err
}

func readAll(f *os.File, buf []byte, limit int) ([]byte, error) {
	limit += len(buf)
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

// readTwo reads the second file before and after the first: if it has not changed, there
// was a moment at which both were on disk like that.
func (r *Reader) readTwo() (Snapshot, error) {
	for range 20 {
		second, _, err := r.readFile(r.second, r.buf2[:0], maxSize)
		r.buf2 = second
		if err != nil {
			return Snapshot{}, fmt.Errorf("%s: %w", quote(r.second), cause(err))
		}
		before := r.digest(second)
		data, info, err := r.readFile(r.path, r.buf[:0], maxSize)
		r.buf = data
		if err != nil {
			return Snapshot{}, err
		}
		second, info2, err := r.readFile(r.second, r.buf2[:0], maxSize)
		r.buf2 = second
		if err != nil {
			return Snapshot{}, fmt.Errorf("%s: %w", quote(r.second), cause(err))
		}
		if r.digest(second) == before {
			return Snapshot{
				ID: Identity{Info: info}, Sum: r.digest(second, data), ModTime: latest(info.ModTime(), info2.ModTime()),
				Changed: latest(changed(info), changed(info2)), Data: data, Second: second,
				Replaced: replaced(r.path, info, &r.linked) || replaced(r.second, info2, &r.linked2),
			}, nil
		}
	}
	return Snapshot{}, errBusy
}

func (r *Reader) digest(fields ...[]byte) (sum Digest) {
	r.hash.Reset()
	for _, field := range fields {
		hashField(r.hash, field)
	}
	r.hash.Sum(sum[:0])
	return sum
}

// replaced reports whether what info is of is at path for this process only: a mount
// keeps what it was made of, whatever takes its place outside. seen is whether it has had
// a link before: not all file systems count them.
func replaced(path string, info fs.FileInfo, seen *bool) bool {
	n, ok := links(info)
	*seen = *seen || n > 0
	if !ok || n > 0 || !*seen {
		return false
	}
	at, err := os.Stat(path) // it may have been replaced just now, under our eyes
	return err == nil && os.SameFile(at, info)
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
			dir = join(r.path, version)
		}
		s, err := r.readKeys(dir)
		s.ID.Version = version
		atEnd, versionAtEnd, eerr := r.version()
		if eerr == nil && versionAtEnd == version && os.SameFile(at, atEnd) {
			s.Replaced = replaced(r.path, atEnd, &r.linked)
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
	version, err := os.Readlink(join(r.path, dataLink))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) {
		return info, "", nil
	}
	return info, version, err
}

// readKeys reads the files in a directory. A file that can't be read is left out
// and reported in Skipped: it may be none that matters.
func (r *Reader) readKeys(path string) (Snapshot, error) {
	dir, err := open(path)
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
	var skipped failures
	for _, name := range names {
		if strings.HasPrefix(name, "..") {
			continue // the atomic writer's own
		}
		data, info, err := r.readFile(join(path, name), nil, limit)
		switch {
		case errors.Is(err, ErrNotRegular):
		case err != nil:
			clear(data)
			skipped.add(fmt.Errorf("%s: %w", quote(name), cause(err)))
		default:
			limit -= len(data)
			s.Keys[name] = data
			s.ModTime, s.Changed = latest(s.ModTime, info.ModTime()), latest(s.Changed, changed(info))
		}
	}
	s.Skipped = skipped.err()

	// Looked at last: a file put in the place of one read before shows in it.
	info, err := dir.Stat()
	if err != nil {
		return Snapshot{}, err
	}
	s.ID.Info = info
	s.ModTime, s.Changed = latest(s.ModTime, info.ModTime()), latest(s.Changed, changed(info))
	r.hash.Reset()
	for _, name := range slices.Sorted(maps.Keys(s.Keys)) {
		hashField(r.hash, []byte(name))
		hashField(r.hash, s.Keys[name])
	}
	r.hash.Sum(s.Sum[:0])
	return s, nil
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
