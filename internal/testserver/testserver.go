// Package testserver is what the packages that run throwaway servers have in common: a
// directory that goes when we do, whoever runs the server in root's place, its process, a
// port and a certificate.
//
// Nothing here imports testing.
package testserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

const pollEvery = 10 * time.Millisecond

// Poll asks until the answer is yes or an error, or time is up.
func Poll(ctx context.Context, limit time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("testserver: waited in vain: %w", context.Cause(ctx))
		}
	}
}

// ErrPortTaken is what a server's start fails with if somebody else took its port.
var ErrPortTaken = errors.New("testserver: the port is taken")

// OnFreePort calls start with a free port of 127.0.0.1, and again with another one while
// it fails with [ErrPortTaken].
func OnFreePort(ctx context.Context, start func(port int) error) error {
	var err error
	for range 5 {
		var port int
		if port, err = freePort(ctx); err != nil {
			return err
		}
		if err = start(port); !errors.Is(err, ErrPortTaken) {
			return err
		}
	}
	return err
}

// freePort finds a port below those that the kernel hands to clients: there, a
// client could take it while the server is being restarted, or connect to itself.
func freePort(ctx context.Context) (int, error) {
	var listen net.ListenConfig
	var err error
	for range 100 {
		port := 20000 + rand.IntN(12000)
		var l net.Listener
		if l, err = listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("testserver: no free port: %w", err)
}

// Owner is the user who runs a server. Nil is ourselves.
type Owner struct{ uid, gid uint32 }

// Unprivileged returns who runs a server in root's place: the first of the users that there
// is, or nobody. It is nil when we are somebody else already.
func Unprivileged(users ...string) (*Owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil says that nobody has to take our place
	}
	for _, name := range append(users, "nobody") {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("testserver: user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("testserver: user %s: %w", name, err)
		}
		return &Owner{uint32(uid), uint32(gid)}, nil
	}
	return &Owner{65534, 65534}, nil
}

// TempDir makes a temporary directory that the owner can reach and owns.
func (o *Owner) TempDir(pattern string) (string, error) {
	parent := os.TempDir()
	if o != nil && !open(parent) {
		parent = "/tmp" // TMPDIR is root's own
	}
	dir, err := os.MkdirTemp(parent, pattern)
	if err == nil {
		err = o.chown(dir)
	}
	if err != nil {
		return "", fmt.Errorf("testserver: temporary directory: %w", err)
	}
	return dir, nil
}

// WriteFile puts a file where the owner alone will read it.
func (o *Owner) WriteFile(path, content string) error {
	err := os.WriteFile(path, []byte(content), 0o600)
	if err == nil {
		err = o.chown(path)
	}
	if err != nil {
		return fmt.Errorf("testserver: %w", err)
	}
	return nil
}

// Mkdir makes a directory that the owner alone may enter.
func (o *Owner) Mkdir(path string) error {
	err := os.Mkdir(path, 0o700)
	if err == nil {
		err = o.chown(path)
	}
	if err != nil {
		return fmt.Errorf("testserver: %w", err)
	}
	return nil
}

func (o *Owner) chown(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// open reports whether everybody may pass through dir and all above it.
func open(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
