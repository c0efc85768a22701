// Docker: the daemon, its command line, and an image of PostgreSQL.

package containers

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain uses the Docker daemon that there is, or, as root, one of its own.
// Without any the tests are skipped, and fail in CI.
func TestMain(m *testing.M) {
	// What is left behind is removed here, not by a container that would have to be
	// downloaded.
	_ = os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	// A daemon behind a socket is this machine's, even if it looks like a container.
	if host := os.Getenv("DOCKER_HOST"); host == "" || strings.HasPrefix(host, "unix:") {
		_ = os.Setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	}
	stop, err := startDocker()
	if err != nil {
		fmt.Fprintln(os.Stderr, "no Docker:", err)
		if os.Getenv("CI") != "" {
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "the tests with containers are skipped")
		os.Exit(0)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

// startDocker starts a daemon unless one answers.
func startDocker() (stop func(), err error) {
	answers := func() bool { return exec.Command("docker", "version").Run() == nil }
	if answers() {
		return func() {}, nil
	}
	if os.Getuid() != 0 {
		return nil, errors.New("no daemon answers, and only root can start one")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "dockerd")
	if err != nil {
		return nil, err
	}
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	// The pipe breaks however this process ends, and the daemon ends with it.
	cmd := exec.Command("sh", "-c", `trap : INT; dir=$1; shift; "$@" & read -r _; kill $!; wait $!; rm -rf "$dir"`,
		"sh", dir, "dockerd", "--host", socket, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = log, log
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = life.Close()
		_ = cmd.Wait()
	}
	_ = os.Setenv("DOCKER_HOST", socket)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if answers() {
			return stop, nil
		}
	}
	said, _ := os.ReadFile(log.Name())
	stop()
	return nil, fmt.Errorf("dockerd doesn't answer; it says:\n%s", said)
}

// docker runs a command of Docker's and returns what it prints.
func docker(tb testing.TB, args ...string) string {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		tb.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// images returns PostgreSQL 14 to 18, or, where none can be pulled, those versions
// that are installed on this machine.
func images(tb testing.TB) (names []string) {
	tb.Helper()
	for _, version := range []string{"18", "17", "16", "15", "14"} {
		name := "postgres:" + version
		err := pull(name)
		switch {
		case err == nil:
			names = append(names, name)
		case version == "18":
			tb.Logf("images of the PostgreSQL of this machine, as %v", err)
			return installed(tb)
		default:
			tb.Error(err) // that others could be pulled must not hide it
		}
	}
	return names
}

func pull(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "pull", "--quiet", name).CombinedOutput(); err != nil {
		return fmt.Errorf("%s can't be pulled: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// installed makes an image of each PostgreSQL that is installed on this machine.
func installed(tb testing.TB) (names []string) {
	tb.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		tb.Fatal("no PostgreSQL in /usr/lib/postgresql to make an image of")
	}
	for _, initdb := range found {
		names = append(names, local(tb, filepath.Dir(filepath.Dir(initdb))))
	}
	return names
}

// local makes an image of the PostgreSQL that is installed at a prefix, with no more
// of the machine than that needs. It honours the same variables as the official image.
func local(tb testing.TB, prefix string) string {
	tb.Helper()
	version := filepath.Base(prefix)
	const uid = 999
	img := newImage(tb)
	img.dir("tmp", 0o1777, 0)
	img.dir("var/lib/postgresql/data", 0o700, uid)
	img.dir("pgdata", 0o700, uid) // an empty volume gets its owner from here
	img.file("etc/passwd", 0o644, fmt.Appendf(nil, "postgres:x:%d:%d::/tmp:/bin/sh\n", uid, uid))
	img.program("/bin/sh")
	for _, tree := range []string{prefix + "/bin", prefix + "/lib", "/usr/share/postgresql/" + version, "/usr/share/zoneinfo"} {
		img.tree(tree)
	}
	img.file("entrypoint", 0o755, []byte(`#!/bin/sh
set -eu
export PATH=`+prefix+`/bin:/bin PGDATA="${PGDATA:-/var/lib/postgresql/data}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	echo "$POSTGRES_PASSWORD" > /tmp/password
	initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --no-locale
	: > /tmp/password
	echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
	echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -j postgres
fi
[ "${1:-}" != postgres ] || shift
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
`))
	return img.load("sqlrotate-postgres:"+version, "USER 999", `ENTRYPOINT ["/entrypoint"]`, `CMD ["postgres"]`)
}

// scratch makes an image of nothing but a static program of this module.
func scratch(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", path, "./"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	img := newImage(tb)
	img.file(name, 0o755, content)
	return img.load("sqlrotate-"+name+":test", `ENTRYPOINT ["/`+name+`"]`)
}

// image is a file system to be.
type image struct {
	testing.TB
	buf  bytes.Buffer
	tar  *tar.Writer
	have map[string]bool
}

func newImage(tb testing.TB) *image {
	tb.Helper()
	img := &image{TB: tb, have: map[string]bool{}}
	img.tar = tar.NewWriter(&img.buf)
	return img
}

func (img *image) put(h *tar.Header, content []byte) {
	img.Helper()
	h.Name = strings.TrimPrefix(h.Name, "/")
	if img.have[h.Name] {
		return
	}
	img.have[h.Name] = true
	if err := img.tar.WriteHeader(h); err != nil {
		img.Fatal(err)
	}
	if _, err := img.tar.Write(content); err != nil {
		img.Fatal(err)
	}
}

func (img *image) dir(name string, mode int64, uid int) {
	img.Helper()
	img.put(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: uid, Gid: uid}, nil)
}

func (img *image) file(name string, mode int64, content []byte) {
	img.Helper()
	img.put(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

// program copies an executable or a library, and the libraries that it needs.
func (img *image) program(path string) {
	img.Helper()
	content, err := os.ReadFile(path) // through links
	if err != nil {
		img.Fatal(err)
	}
	img.file(path, 0o755, content)
	if !bytes.HasPrefix(content, []byte("\x7fELF")) {
		return
	}
	libraries, err := exec.Command("ldd", path).Output()
	if err != nil {
		return // static
	}
	for word := range strings.FieldsSeq(string(libraries)) {
		if !filepath.IsAbs(word) || img.have[word[1:]] {
			continue
		}
		content, err := os.ReadFile(word)
		if err != nil {
			img.Fatal(err)
		}
		img.file(word, 0o755, content)
	}
}

// tree copies a directory; what is linked to becomes a file.
func (img *image) tree(root string) {
	img.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir():
			return nil
		case err != nil:
			return err
		case info.Mode()&0o111 != 0 || strings.HasSuffix(path, ".so"):
			img.program(path)
			return nil
		}
		content, err := os.ReadFile(path)
		img.file(path, 0o644, content)
		return err
	})
	if err != nil {
		img.Fatal(err)
	}
}

// load gives the image to Docker.
func (img *image) load(name string, changes ...string) string {
	img.Helper()
	if err := img.tar.Close(); err != nil {
		img.Fatal(err)
	}
	args := []string{"import"}
	for _, change := range changes {
		args = append(args, "--change", change)
	}
	cmd := exec.Command("docker", append(args, "-", name)...)
	cmd.Stdin = io.Reader(&img.buf)
	if out, err := cmd.CombinedOutput(); err != nil {
		img.Fatalf("docker import: %v\n%s", err, out)
	}
	img.Cleanup(func() { _ = exec.Command("docker", "rmi", "--force", name).Run() })
	return name
}

// ping logs in once.
func ping(ctx context.Context, dsn string) error {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}
