// What the go command is let see: proxies and caches of our own.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/module"
)

// A world is what the go command sees of a checkout's modules: only what it is told,
// with a module cache that was empty.
type world struct {
	*checkout
	tmp string // all of it
	env []string
}

// fileWorld returns a world in which a file-system proxy serves the modules that are
// for users, those that [world.serve] is called for.
func (c *checkout) fileWorld(ctx context.Context) (*world, error) {
	return c.newWorld(ctx, "GONOPROXY=none")
}

// gitWorld returns a world in which the go command fetches those modules from the
// repository itself, by its tags.
func (c *checkout) gitWorld(ctx context.Context) (*world, error) {
	return c.newWorld(ctx, "GONOPROXY="+c.root().path, "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=url."+fileURL(c.dir)+".insteadOf", "GIT_CONFIG_VALUE_0=https://"+c.root().path)
}

func (c *checkout) newWorld(ctx context.Context, env ...string) (*world, error) {
	text, err := command(ctx, c.dir, nil, "go", "env", "-json", "GOPROXY", "GOMODCACHE")
	if err != nil {
		return nil, err
	}
	var usual struct{ GOPROXY, GOMODCACHE string }
	if err := json.Unmarshal([]byte(text), &usual); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "sqlrotate-release-")
	if err != nil {
		return nil, err
	}
	w := &world{checkout: c, tmp: tmp}
	// What others publish needn't be downloaded again if this machine has it.
	downloaded := fileURL(filepath.Join(usual.GOMODCACHE, "cache", "download"))
	w.env = append(os.Environ(),
		"GOWORK=off", "GOFLAGS=-mod=mod -modcacherw -trimpath", "GOPRIVATE=", "GONOSUMDB="+c.root().path,
		"GOMODCACHE="+filepath.Join(tmp, "modcache"),
		"GOPROXY="+fileURL(filepath.Join(tmp, "proxy"))+","+downloaded+","+usual.GOPROXY)
	w.env = append(w.env, env...)
	return w, nil
}

func fileURL(path string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
}

// close removes all of it.
func (w *world) close() {
	if err := os.RemoveAll(w.tmp); err != nil {
		w.log("left behind: %v", err)
	}
}

// goTool runs the go command in dir, and returns what it prints.
func (w *world) goTool(ctx context.Context, dir string, args ...string) (string, error) {
	return command(ctx, dir, w.env, "go", args...)
}

// serve makes a module's zip and has the proxy serve it.
func (w *world) serve(m *mod) error {
	escaped, err := module.EscapePath(m.path)
	if err != nil {
		return err
	}
	dir := filepath.Join(w.tmp, "proxy", filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var zip bytes.Buffer
	if err := w.zip(&zip, m); err != nil {
		return fmt.Errorf("%s can't be fetched: %w", m.path, err)
	}
	goMod, err := os.ReadFile(w.at(m.dir, "go.mod"))
	if err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{w.version, time.Now().UTC()})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"list": []byte(w.version + "\n"), w.version + ".info": info, w.version + ".mod": goMod, w.version + ".zip": zip.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
