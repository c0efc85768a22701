// Fetching each module as users will.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"
)

// fetch fetches each module of the checkout that is for users as they will once its
// version is released, and builds what README and docs show with them.
func fetch(ctx context.Context, c *checkout) error {
	if err := c.checkVersions(); err != nil {
		return err
	}
	w, err := c.fileWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	for _, m := range c.public() {
		if err := w.serve(m); err != nil {
			return err
		}
	}
	for _, m := range c.public() {
		if err := w.download(ctx, m); err != nil {
			return err
		}
	}
	return w.useAll(ctx)
}

// download downloads a module, and checks that its go.mod and go.sum are as they will
// be released and that all of its packages and tests build with nothing else.
func (w *world) download(ctx context.Context, m *mod) error {
	w.log("go mod download %s@%s", m.path, w.version)
	text, err := w.goTool(ctx, w.tmp, "mod", "download", "-json", m.path+"@"+w.version)
	if err != nil {
		return err
	}
	var got struct{ Dir, Sum string }
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return err
	}
	sum, err := w.sum(m)
	if err != nil {
		return err
	}
	if got.Sum != sum {
		return fmt.Errorf("%s was fetched with the sum %s; the checkout's is %s", m.path, got.Sum, sum)
	}
	if !w.requiresOurs(m) {
		return nil // `make standalone` vets it
	}
	dir := filepath.Join(w.tmp, "download", filepath.FromSlash(m.dir))
	if err := os.CopyFS(dir, os.DirFS(got.Dir)); err != nil {
		return err
	}
	if err := w.settle(ctx, m, dir); err != nil {
		return err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		released, err := readIfThere(filepath.Join(got.Dir, name))
		if err != nil {
			return err
		}
		settled, err := readIfThere(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if released != settled {
			return fmt.Errorf("%s of %s is not as `make versions` writes it:\n%s", name, m.path, difference(released, settled))
		}
	}
	w.log("go vet in %s", m.path)
	_, err = w.goTool(ctx, dir, "vet", "./...")
	return err
}

// difference returns the lines that only one of the two texts has.
func difference(before, after string) string {
	only := func(mark, a, b string) (list string) {
		others := slices.Collect(strings.Lines(b))
		for line := range strings.Lines(a) {
			if !slices.Contains(others, line) {
				list += mark + line
			}
		}
		return list
	}
	return only("- ", before, after) + only("+ ", after, before)
}

// sum returns the sum of a module's files that go.sum has.
func (w *world) sum(m *mod) (string, error) {
	zip, err := os.Create(filepath.Join(w.tmp, "sum.zip"))
	if err != nil {
		return "", err
	}
	if err := errors.Join(w.zip(zip, m), zip.Close()); err != nil {
		return "", err
	}
	return dirhash.HashZip(zip.Name(), dirhash.DefaultHash)
}

// useAll uses the modules as their users do: each by itself, and as README and docs do.
func (w *world) useAll(ctx context.Context) error {
	for _, m := range w.public() {
		if err := w.use(ctx, m); err != nil {
			return err
		}
	}
	return w.useDocs(ctx)
}

// use gets a module alone, and builds all that can be imported of it and its commands.
func (w *world) use(ctx context.Context, m *mod) error {
	dir, err := w.user(ctx, m)
	if err != nil {
		return err
	}
	list, err := w.goTool(ctx, dir, "list", "-f", "{{.Name}} {{.ImportPath}}", m.path+"/...")
	if err != nil {
		return err
	}
	imports, commands := "package user\n\n", []string{}
	for line := range strings.Lines(list) {
		name, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "main":
			commands = append(commands, path)
		case !strings.Contains(path+"/", "/internal/"):
			imports += fmt.Sprintf("import _ %q\n", path)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "user.go"), []byte(imports), 0o644); err != nil {
		return err
	}
	w.log("go build and vet with %s", m.path)
	if _, err := w.goTool(ctx, dir, "build", "./..."); err != nil {
		return err
	}
	if _, err := w.goTool(ctx, dir, "vet", "./..."); err != nil {
		return err
	}
	for _, path := range commands {
		w.log("go build %s", path)
		if _, err := w.goTool(ctx, dir, "build", "-o", filepath.Join(w.tmp, "command"), path); err != nil {
			return err
		}
	}
	return nil
}

// user makes a module outside of the repository, and gets some of ours for it.
func (w *world) user(ctx context.Context, modules ...*mod) (dir string, err error) {
	if dir, err = os.MkdirTemp(w.tmp, "user-"); err != nil {
		return "", err
	}
	goVersion := w.root().file.Go.Version
	goMod, sums := "module example.com/user\n\ngo "+goVersion+"\n", ""
	get := []string{"get"}
	for _, m := range modules {
		get = append(get, m.path+"@"+w.version)
		// The sums of what others publish are as good from here as from the database.
		text, err := readIfThere(w.at(m.dir, "go.sum"))
		if err != nil {
			return "", err
		}
		sums += w.othersSums(text)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(goMod), 0o644); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.sum"), []byte(sums), 0o644); err != nil {
		return "", err
	}
	w.log("go %s", strings.Join(get, " "))
	if _, err := w.goTool(ctx, dir, get...); err != nil {
		return "", err
	}
	file, err := readModFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	if file.Go.Version != goVersion {
		return "", fmt.Errorf("%s needs Go %s, and %s is said to be enough", strings.Join(get[1:], " "), file.Go.Version, goVersion)
	}
	return dir, nil
}
