// How logins lie on disk: those of many tenants, and volumes as the kubelet writes them.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// layout is how logins lie on disk.
type layout string

const (
	fixedLogin  layout = ""            // nowhere: they stay as they are
	files       layout = "files"       // a file each, in one directory, replaced by rename
	directories layout = "directories" // the same in a directory each
	volumes     layout = "volumes"     // a volume each, of two keys, as the kubelet writes it
	oneVolume   layout = "volume"      // one such volume, with a key for each
	oneLogin    layout = "login"       // one file for all, who have the same login
)

// store has the logins of all tenants.
type store struct {
	layout   layout
	tenants  int
	dir      string
	versions []int // by tenant
}

// newStore writes everybody's first login.
func newStore(l layout, tenants int) (*store, error) {
	dir, err := os.MkdirTemp("", "sqlrotate-tenants-")
	if err != nil {
		return nil, err
	}
	s := &store{layout: l, tenants: tenants, dir: dir, versions: make([]int, tenants)}
	for i := range tenants {
		if l == directories || l == volumes {
			err = errors.Join(err, os.Mkdir(filepath.Join(dir, tenant(i)), 0o700))
		}
	}
	if err = errors.Join(err, s.publish(1)); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *store) close() error { return os.RemoveAll(s.dir) }

// sources returns how many there are to be read.
func (s *store) sources() int {
	if s.layout == oneLogin {
		return 1
	}
	return s.tenants
}

// path is where a tenant's login is read.
func (s *store) path(i int) string {
	switch s.layout {
	case directories:
		return filepath.Join(s.dir, tenant(i), "login.json")
	case volumes:
		return filepath.Join(s.dir, tenant(i))
	}
	return filepath.Join(s.dir, tenant(i)+".json")
}

// login is a tenant's at present.
func (s *store) login(i int) login {
	user := tenantUser(i, s.versions[i])
	return login{user, tenantPassword(user)}
}

// publish changes the logins of all tenants.
func (s *store) publish(version int) error {
	for i := range s.versions {
		s.versions[i] = version
	}
	switch s.layout {
	case fixedLogin:
		return nil
	case oneVolume:
		return s.swapAll()
	}
	var err error
	for i := range s.sources() {
		err = errors.Join(err, s.write(i))
	}
	return err
}

// publishOne changes one tenant's login.
func (s *store) publishOne(i, version int) error {
	s.versions[i] = version
	if s.layout == oneVolume {
		return s.swapAll()
	}
	return s.write(i)
}

func (s *store) write(i int) error {
	l := s.login(i)
	if s.layout == volumes {
		return publishKeys(s.path(i), l)
	}
	return publish(s.path(i), l)
}

func (s *store) swapAll() error {
	keys := make(map[string][]byte, s.tenants)
	for i := range s.tenants {
		l := s.login(i)
		content, err := json.Marshal(map[string]string{"username": l.user, "password": l.password})
		if err != nil {
			return err
		}
		keys[tenant(i)+".json"] = content
	}
	return swap(s.dir, keys)
}

// publishKeys writes a login into a volume of two keys.
func publishKeys(volume string, l login) error {
	return swap(volume, map[string][]byte{"username": []byte(l.user), "password": []byte(l.password)})
}

// swap writes a volume's keys as the kubelet does: all of them into a new directory, which
// then becomes what the link ..data leads to.
func swap(volume string, keys map[string][]byte) error {
	data := filepath.Join(volume, "..data")
	old, err := os.Readlink(data)
	first := errors.Is(err, os.ErrNotExist)
	if err != nil && !first {
		return err
	}
	dir, err := os.MkdirTemp(volume, "..")
	if err != nil {
		return err
	}
	for name, content := range keys {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	if err := os.Symlink(filepath.Base(dir), data+"_tmp"); err != nil {
		return err
	}
	if err := os.Rename(data+"_tmp", data); err != nil {
		return err
	}
	if !first {
		return os.RemoveAll(filepath.Join(volume, old))
	}
	for name := range keys {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(volume, name)); err != nil {
			return fmt.Errorf("a key: %w", err)
		}
	}
	return nil
}
