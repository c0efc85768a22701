// Versions in go.mod and go.sum.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// writeVersions writes the checkout's version to each of its go.mod and go.sum.
func writeVersions(ctx context.Context, c *checkout) error {
	w, err := c.fileWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	for _, m := range c.public() {
		if err := w.settle(ctx, m, c.at(m.dir)); err != nil {
			return err
		}
		// There may be a go.sum where there was none.
		if err := c.list(ctx); err != nil {
			return err
		}
		if err := w.serve(m); err != nil {
			return err
		}
	}
	for _, m := range c.modules {
		if !m.isPublic() {
			if err := c.require(c.at(m.dir, "go.mod")); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkVersions returns an error if a module requires one of ours that isn't there, or
// replaces what it requires though users won't.
func (c *checkout) checkVersions() error {
	there := map[string]bool{}
	for _, m := range c.public() {
		there[m.path] = true
	}
	for _, m := range c.modules {
		for _, r := range m.file.Require {
			if c.isOurs(r.Mod.Path) && (!there[r.Mod.Path] || r.Mod.Version != c.version) {
				return fmt.Errorf("%s requires %s, which isn't there; the version is %s (%s), and `make versions` writes it", m.path, r.Mod, c.version, changelog)
			}
		}
		if len(m.file.Replace) > 0 && m.isPublic() {
			return fmt.Errorf("%s replaces %s: that is not so for whoever fetches it", m.path, m.file.Replace[0].Old.Path)
		}
	}
	return nil
}

// settle has the go.mod and go.sum of a public module, which is in dir, require this
// version of our other modules, and tidies them. go.sum has the sums of our modules only
// once the version is released: until then each change of a file would change them.
func (w *world) settle(ctx context.Context, m *mod, dir string) error {
	if err := w.require(filepath.Join(dir, "go.mod")); err != nil {
		return err
	}
	if !w.requiresOurs(m) {
		return nil // `make modules` tidies it
	}
	sums := filepath.Join(dir, "go.sum")
	if err := w.withoutOurs(sums); err != nil {
		return err
	}
	w.log("go mod tidy in %s", m.path)
	if _, err := w.goTool(ctx, dir, "mod", "tidy"); err != nil {
		return err
	}
	if w.released {
		return nil
	}
	return w.withoutOurs(sums)
}

// require has a go.mod require this version of our modules.
func (c *checkout) require(goMod string) error {
	file, err := readModFile(goMod)
	if err != nil {
		return err
	}
	before, err := file.Format()
	if err != nil {
		return err
	}
	for _, r := range file.Require {
		if c.isOurs(r.Mod.Path) {
			if err := file.AddRequire(r.Mod.Path, c.version); err != nil {
				return err
			}
		}
	}
	after, err := file.Format()
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	return os.WriteFile(goMod, after, 0o644)
}

func (c *checkout) requiresOurs(m *mod) bool {
	for _, r := range m.file.Require {
		if c.isOurs(r.Mod.Path) {
			return true
		}
	}
	return false
}

// withoutOurs removes the lines of our modules from a go.sum.
func (c *checkout) withoutOurs(goSum string) error {
	before, err := readIfThere(goSum)
	if err != nil {
		return err
	}
	after := c.othersSums(before)
	if after == before {
		return nil
	}
	return os.WriteFile(goSum, []byte(after), 0o644)
}

// othersSums returns the lines of a go.sum that aren't about our modules.
func (c *checkout) othersSums(goSum string) string {
	var others strings.Builder
	for line := range strings.Lines(goSum) {
		if path, _, _ := strings.Cut(line, " "); !c.isOurs(path) {
			others.WriteString(line)
		}
	}
	return others.String()
}

// readIfThere returns the text of a file, and none if there is no such file.
func readIfThere(name string) (string, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}
