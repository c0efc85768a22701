// The rehearsal of a release, in a clone.

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// rehearse does in a clone what RELEASING.md says, except for what can't be undone:
// dates the newest version, writes it everywhere, commits, tags. The modules are then
// fetched from the clone by their tags.
func rehearse(ctx context.Context, c *checkout) error {
	if err := unchanged(ctx, c.dir); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "sqlrotate-rehearsal-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	dir := filepath.Join(tmp, "clone")
	if _, err := git(ctx, tmp, "clone", "-q", c.dir, dir); err != nil {
		return err
	}
	if err := dateNewest(dir, time.Now()); err != nil {
		return err
	}
	clone, err := open(ctx, dir)
	if err != nil {
		return err
	}
	clone.log = c.log
	if err := writeVersions(ctx, clone); err != nil {
		return err
	}
	if err := commitAndTag(ctx, clone); err != nil {
		return err
	}
	if clone, err = open(ctx, dir); err != nil {
		return err
	}
	clone.log = c.log
	return fetchTagged(ctx, clone)
}

// commitAndTag commits all that has changed, and gives the commit the tag of each
// module that is for users.
func commitAndTag(ctx context.Context, c *checkout) error {
	c.log("git commit and tag of %s", c.version)
	if _, err := git(ctx, c.dir, "add", "-A"); err != nil {
		return err
	}
	args := []string{"-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@localhost", "-c", "commit.gpgSign=false", "-c", "core.hooksPath=/dev/null"}
	if _, err := git(ctx, c.dir, append(args, "commit", "-q", "--allow-empty", "-m", c.version)...); err != nil {
		return err
	}
	for _, m := range c.public() {
		if _, err := git(ctx, c.dir, "-c", "tag.gpgSign=false", "tag", m.tag(c.version)); err != nil {
			return err
		}
	}
	return nil
}

// tag returns the tag that has a version of the module.
func (m *mod) tag(version string) string {
	if m.dir == "." {
		return version
	}
	return m.dir + "/" + version
}

// fetchTagged fetches the modules from the repository by their tags, and builds each of
// them where it is, with the sums that it was released with.
func fetchTagged(ctx context.Context, c *checkout) error {
	if err := c.checkVersions(); err != nil {
		return err
	}
	w, err := c.gitWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	for _, m := range c.public() {
		if err := w.download(ctx, m); err != nil {
			return err
		}
		w.log("go build in %s, as tagged", m.path)
		if _, err := w.goTool(ctx, c.at(m.dir), "build", "-mod=readonly", "./..."); err != nil {
			return err
		}
	}
	if err := unchanged(ctx, c.dir); err != nil {
		return err
	}
	return w.useAll(ctx)
}

// unchanged returns an error if something in dir isn't committed.
func unchanged(ctx context.Context, dir string) error {
	changed, err := git(ctx, dir, "status", "--porcelain")
	if err == nil && changed != "" {
		err = errors.New("this isn't committed:\n" + changed)
	}
	return err
}
