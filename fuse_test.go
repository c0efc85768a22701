//go:build linux

package sqlrotate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fuse is a file system with one file, "secret", whose server hangs on demand: it speaks
// as much of the kernel's protocol, linux/fuse.h, as reading that takes.
type fuse struct {
	fd int

	mu      sync.Mutex
	content string
	modTime time.Time
	hanging bool
	held    []fuseRequest // what has come while it hangs
	polls   int           // requests to poll a file
}

type fuseRequest struct {
	op           uint32
	unique, node uint64
	body         []byte
}

const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseOpen        = 14
	fuseRead        = 15
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseFlush       = 25
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReaddir     = 28
	fuseReleasedir  = 29
	fuseAccess      = 34
	fuseInterrupt   = 36
	fusePoll        = 40
	fuseBatchForget = 42
)

// mountFuse mounts a file system over dir. Only root may, of some namespace.
func mountFuse(t *testing.T, dir, content string) *fuse {
	t.Helper()
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("no FUSE here: %v", err)
		}
		t.Fatalf("no FUSE here: %v", err)
	}
	f := &fuse{fd: fd}
	f.put(content)
	if err := syscall.Mount("sqlrotate-test", dir, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		t.Fatalf("mount FUSE: %v", err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		f.serve(t)
	}()
	t.Cleanup(func() {
		f.hang(false)
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		<-served
		_ = syscall.Close(fd)
	})
	return f
}

func (f *fuse) put(content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content, f.modTime = content, time.Now()
}

// hang has requests wait until they are answered, after hang(false).
func (f *fuse) hang(is bool) {
	f.mu.Lock()
	f.hanging = is
	var held []fuseRequest
	if !is {
		held, f.held = f.held, nil
	}
	f.mu.Unlock()
	for _, r := range held {
		f.answer(r)
	}
}

// waiting returns how many requests wait, and how often a file was polled.
func (f *fuse) waiting() (requests, polls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held), f.polls
}

func (f *fuse) serve(t *testing.T) {
	buf := make([]byte, 1<<17)
	for {
		n, err := syscall.Read(f.fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOENT):
			continue
		case errors.Is(err, syscall.ENODEV): // unmounted
			return
		case err != nil:
			t.Errorf("FUSE: %v", err)
			return
		}
		e := binary.NativeEndian
		r := fuseRequest{op: e.Uint32(buf[4:]), unique: e.Uint64(buf[8:]), node: e.Uint64(buf[16:]), body: append([]byte(nil), buf[40:n]...)}
		f.mu.Lock()
		if r.op == fusePoll {
			f.polls++
		}
		hangs := f.hanging
		if hangs {
			f.held = append(f.held, r)
		}
		f.mu.Unlock()
		if !hangs {
			f.answer(r)
		}
	}
}

func (f *fuse) answer(r fuseRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := binary.NativeEndian
	reply := func(code syscall.Errno, fields ...any) {
		var body []byte
		for _, field := range fields {
			body, _ = binary.Append(body, e, field)
		}
		out := e.AppendUint32(nil, uint32(16+len(body)))
		out = e.AppendUint32(out, uint32(-int32(code)))
		out = e.AppendUint64(out, r.unique)
		_, _ = syscall.Write(f.fd, append(out, body...)) // ENOENT: who asked waits no more
	}
	switch r.op {
	case fuseInit:
		reply(0, []uint32{7, 31, 1 << 16, 0, 0, 1 << 16, 1, 0, 0}, make([]byte, 28))
	case fuseLookup:
		if string(r.body) != "secret\x00" {
			reply(syscall.ENOENT)
			return
		}
		reply(0, []uint64{2, 0, 0, 0}, []uint32{0, 0}, f.attr(2)) // to be asked for each time
	case fuseGetattr:
		reply(0, []uint64{0, 0}, f.attr(r.node))
	case fuseOpen, fuseOpendir:
		reply(0, []uint64{0, 1}) // nothing is cached
	case fuseRead:
		from := min(e.Uint64(r.body[8:]), uint64(len(f.content)))
		reply(0, []byte(f.content[from:]))
	case fuseStatfs:
		reply(0, make([]byte, 80))
	case fuseReaddir, fuseRelease, fuseReleasedir, fuseFlush, fuseAccess:
		reply(0)
	case fuseForget, fuseBatchForget, fuseInterrupt: // no answer is expected
	default:
		reply(syscall.ENOSYS)
	}
}

// attr is a struct fuse_attr.
func (f *fuse) attr(node uint64) []byte {
	mode, size := uint32(syscall.S_IFDIR|0o700), 0
	if node == 2 {
		mode, size = syscall.S_IFREG|0o600, len(f.content)
	}
	sec, nsec := uint64(f.modTime.Unix()), uint32(f.modTime.Nanosecond())
	var attr []byte
	for _, field := range []any{
		[]uint64{node, uint64(size), 0, sec, sec, sec},
		[]uint32{nsec, nsec, nsec, mode, 1, 0, 0, 0, 4096, 0},
	} {
		attr, _ = binary.Append(attr, binary.NativeEndian, field)
	}
	return attr
}
