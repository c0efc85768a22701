// The checkout and its modules.

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
)

// A checkout is the repository as git sees it, with what isn't committed yet.
type checkout struct {
	dir      string
	files    []string // slash-separated, below dir
	version  string   // of all its modules
	released bool
	modules  []*mod // in the order of their files; the root is the first
	log      func(format string, args ...any)
}

// A mod is a module of the checkout.
type mod struct {
	path string
	dir  string // slash-separated, below the checkout's; "." for the root
	file *modfile.File
}

// isPublic reports whether a module is for users. All are that aren't in one of the
// directories for our own use or among the examples, so none is forgotten.
func (m *mod) isPublic() bool {
	top, _, _ := strings.Cut(m.dir, "/")
	return !slices.Contains([]string{"bench", "examples", "integration", "internal"}, top)
}

// open reads the checkout in dir, whose CHANGELOG.md names its version.
func open(ctx context.Context, dir string) (*checkout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &checkout{dir: dir, log: func(string, ...any) {}}
	if err := c.list(ctx); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, changelog))
	if err != nil {
		return nil, err
	}
	if c.version, c.released, err = newestVersion(string(text)); err != nil {
		return nil, err
	}
	for _, name := range c.files {
		if path.Base(name) != "go.mod" {
			continue
		}
		file, err := readModFile(c.at(name))
		if err != nil {
			return nil, err
		}
		c.modules = append(c.modules, &mod{path: file.Module.Mod.Path, dir: path.Dir(name), file: file})
	}
	slices.SortStableFunc(c.modules, func(a, b *mod) int { return strings.Compare(a.dir, b.dir) })
	if len(c.modules) == 0 || c.modules[0].dir != "." {
		return nil, errors.New("there is no go.mod at the top of " + dir)
	}
	return c, nil
}

// list asks git which files there are.
func (c *checkout) list(ctx context.Context) error {
	names, err := git(ctx, c.dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return err
	}
	c.files = nil
	for name := range strings.SplitSeq(strings.TrimRight(names, "\x00"), "\x00") {
		// What was removed and not yet committed is still listed.
		if _, err := os.Lstat(c.at(name)); err == nil {
			c.files = append(c.files, name)
		}
	}
	return nil
}

// at returns the file or directory of the checkout with that slash-separated name.
func (c *checkout) at(elem ...string) string {
	return filepath.Join(c.dir, filepath.FromSlash(path.Join(elem...)))
}

// root returns the module at the top.
func (c *checkout) root() *mod { return c.modules[0] }

// isOurs reports whether the path is that of a module of this repository, there or not.
func (c *checkout) isOurs(path string) bool {
	return path == c.root().path || strings.HasPrefix(path, c.root().path+"/")
}

// public returns the modules that are for users, each after those of them that it requires.
func (c *checkout) public() []*mod {
	var list []*mod
	seen := map[*mod]bool{}
	var add func(m *mod)
	add = func(m *mod) {
		if seen[m] || !m.isPublic() {
			return
		}
		seen[m] = true
		for _, r := range m.file.Require {
			for _, other := range c.modules {
				if other.path == r.Mod.Path {
					add(other)
				}
			}
		}
		list = append(list, m)
	}
	for _, m := range c.modules {
		add(m)
	}
	return list
}

// zip writes the zip of a module, as whoever serves it makes it from the repository:
// without the modules below it, and with the repository's LICENSE if it has none.
func (c *checkout) zip(w io.Writer, m *mod) error {
	var files []modzip.File
	license := false
	for _, name := range c.files {
		inside, ok := strings.CutPrefix(name, m.dir+"/")
		if m.dir == "." {
			inside, ok = name, true
		}
		if ok {
			files = append(files, zipFile{name: inside, path: c.at(name)})
			license = license || inside == "LICENSE"
		}
	}
	if !license {
		if !slices.Contains(c.files, "LICENSE") {
			return errors.New("there is no LICENSE")
		}
		files = append(files, zipFile{name: "LICENSE", path: c.at("LICENSE")})
	}
	return modzip.Create(w, module.Version{Path: m.path, Version: c.version}, files)
}

type zipFile struct {
	name string
	path string
}

func (f zipFile) Path() string                 { return f.name }
func (f zipFile) Lstat() (os.FileInfo, error)  { return os.Lstat(f.path) }
func (f zipFile) Open() (io.ReadCloser, error) { return os.Open(f.path) }

// git runs git in dir, and returns what it prints.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	return command(ctx, dir, nil, "git", args...)
}

// command runs a program in dir, with env if there is one, and returns what it prints.
func command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out), nil
}

// readModFile reads a go.mod.
func readModFile(name string) (*modfile.File, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return modfile.Parse(name, data, nil)
}
