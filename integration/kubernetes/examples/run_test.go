package examples

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume/util"
)

// Every example runs, with its own arguments, configuration and permissions: the
// application is ready and takes orders with the first login, and goes on with the second.
// What an agent writes, it writes; what an operator or a driver would, is written as the
// kubelet does, with what Vault answers.
func TestExamplesRun(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{TLS: true})
	if _, err := server.Admin().ExecContext(t.Context(), "create table app.orders (item text)"); err != nil {
		t.Fatal(err)
	}
	vault, w, binary := newVault(t, server), newWorld(t), build(t)
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			e, found := w.read(t.Context(), text(t, name))
			if len(found) > 0 {
				t.Fatal(found)
			}
			runExample(t, newNode(t, e, server, vault), binary)
		})
	}
	// Its other format takes one more line.
	t.Run("vault-agent-injector, JSON", func(t *testing.T) {
		file := strings.Replace(text(t, "vault-agent-injector"), "        vault.hashicorp.com/role: orders\n",
			"        vault.hashicorp.com/role: orders\n        vault.hashicorp.com/agent-inject-default-template: json\n", 1)
		e, found := w.read(t.Context(), file)
		if len(found) > 0 {
			t.Fatal(found)
		}
		runExample(t, newNode(t, e, server, vault), binary)
	})
}

func runExample(t *testing.T, n *node, binary string) {
	t.Helper()
	stop, first := n.publish(1)
	a := n.start(&n.pod.Spec.Containers[0], binary)
	if status, body := a.get("9090", n.pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Path); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if got := a.current(); got != first() {
		t.Errorf("it is %s, not %s", got, first())
	}
	order := func() {
		response, err := http.Post("http://"+a.address["8080"]+"/orders?item=lamp", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			body, _ := io.ReadAll(response.Body)
			t.Errorf("%s %s", response.Status, body)
		}
	}
	order()
	before := first()
	stop()
	_, second := n.publish(2)
	stall.Watch(t).Eventually(30*time.Second, "the second login is in use", func() bool {
		return second() != before && a.current() == second()
	}, func() string { return a.current() + " and not " + second() })
	order()
	if status, body := a.get("9090", "/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	a.terminate()
}

// node is where a pod runs, as far as its files and its users go.
type node struct {
	testing.TB
	e       *example
	pod     *corev1.Pod
	server  *pgtest.Server
	vault   *vaultServer
	volumes map[string]string // by name: where they are
	home    string
}

// openDir is a directory of the test that everybody may look into.
func openDir(tb testing.TB) string {
	tb.Helper()
	d := tb.TempDir()
	for _, name := range []string{d, filepath.Dir(d)} {
		if err := os.Chmod(name, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

func newNode(t *testing.T, e *example, server *pgtest.Server, vault *vaultServer) *node {
	t.Helper()
	template := e.deployment.Spec.Template
	pod, err := inject(&corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{TB: t, e: e, pod: pod, server: server, vault: vault, volumes: map[string]string{}, home: openDir(t)}
	for _, volume := range pod.Spec.Volumes {
		d := filepath.Join(n.home, volume.Name)
		n.do(os.Mkdir(d, 0o755))
		n.volumes[volume.Name] = d
		switch {
		case volume.EmptyDir != nil:
			n.own(d, fs.ModeSetgid|0o777)
		case volume.ConfigMap != nil:
			n.configMap(volume.ConfigMap.Name, d)
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				if source.ConfigMap != nil {
					n.configMap(source.ConfigMap.Name, d)
					continue
				}
				token := filepath.Join(d, source.ServiceAccountToken.Path)
				n.do(os.WriteFile(token, []byte(vault.jwt), 0o600))
				n.own(token, 0o640)
			}
		}
	}
	return n
}

func (n *node) do(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// own gives a file to the fsGroup, as the kubelet does.
func (n *node) own(name string, mode fs.FileMode) {
	n.Helper()
	if os.Geteuid() == 0 {
		n.do(os.Lchown(name, 0, int(*n.pod.Spec.SecurityContext.FSGroup)))
	}
	n.do(os.Chmod(name, mode))
}

// configMap writes what is in a ConfigMap of the example, or a certificate authority's
// certificate into one of those that the example takes for granted.
func (n *node) configMap(name, d string) {
	n.Helper()
	data := map[string]string{}
	if config := n.e.configs[name]; config != nil {
		data = config.Data
	} else {
		ca, err := os.ReadFile(n.server.CAFile())
		n.do(err)
		data["ca.crt"] = string(ca)
	}
	for key, content := range data {
		n.do(os.WriteFile(filepath.Join(d, key), []byte(content), 0o644))
	}
}

// local replaces what a container knows of paths, and Vault's address.
func (n *node) local(c *corev1.Container, text string) string {
	mounts := slices.Clone(c.VolumeMounts)
	slices.SortFunc(mounts, func(a, b corev1.VolumeMount) int { return len(b.MountPath) - len(a.MountPath) })
	for _, m := range mounts {
		text = strings.ReplaceAll(text, m.MountPath+"/", n.volumes[m.Name]+"/")
		text = strings.ReplaceAll(text, "="+m.MountPath, "="+n.volumes[m.Name])
	}
	return strings.ReplaceAll(text, vaultAddress, n.vault.address)
}

// as makes cmd run as a container's user, if this is root.
func (n *node) as(c *corev1.Container, cmd *exec.Cmd) {
	if os.Geteuid() != 0 {
		return
	}
	sc, group := n.pod.Spec.SecurityContext, uint32(*n.pod.Spec.SecurityContext.FSGroup)
	who := &syscall.Credential{Uid: uint32(*sc.RunAsUser), Gid: uint32(*sc.RunAsGroup), Groups: []uint32{group}}
	if c.SecurityContext.RunAsUser != nil {
		who.Uid, who.Gid = uint32(*c.SecurityContext.RunAsUser), uint32(*c.SecurityContext.RunAsGroup)
	}
	cmd.SysProcAttr.Credential = who
}

// publish makes the n-th login and has it where the application reads it. stop ends the
// agent, if there is one, and username says whose login it is.
func (n *node) publish(number int) (stop func(), username func() string) {
	n.Helper()
	mount := n.pod.Spec.Containers[0].VolumeMounts[slices.IndexFunc(n.pod.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
		return strings.Contains(n.pod.Spec.Containers[0].Args[0], "="+m.MountPath)
	})]
	volume := n.pod.Spec.Volumes[slices.IndexFunc(n.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })]
	if volume.EmptyDir != nil {
		return n.startAgent(n.volumes[volume.Name])
	}
	var name string
	files := map[string]util.FileProjection{}
	switch {
	case volume.CSI != nil:
		name = fmt.Sprintf("orders_csi_%d", number)
		n.do(n.server.CreateRole(n.Context(), name, "password of "+name))
		n.vault.run("kv", "put", "-mount=secret", "orders/db", "username="+name, "password=password of "+name)
		answer, _ := n.vault.read("secret/data/orders/db")
		files["db.json"] = util.FileProjection{Data: []byte(answer), Mode: 0o444}
	case len(n.e.custom) > 0: // an operator
		_, data := n.vault.read("database/creds/orders")
		name, _ = data["username"].(string)
		for key, value := range data {
			files[key] = util.FileProjection{Data: fmt.Append(nil, value), Mode: *volume.Secret.DefaultMode}
		}
	default:
		name = fmt.Sprintf("orders_secret_%d", number)
		n.do(n.server.CreateRole(n.Context(), name, "password of "+name))
		files["username"] = util.FileProjection{Data: []byte(name), Mode: *volume.Secret.DefaultMode}
		files["password"] = util.FileProjection{Data: []byte("password of " + name), Mode: *volume.Secret.DefaultMode}
	}
	writer, err := util.NewAtomicWriter(n.volumes[volume.Name], n.Name())
	n.do(err)
	n.do(writer.Write(files, func(d string) error {
		d = filepath.Join(n.volumes[volume.Name], d)
		if volume.CSI == nil {
			for key, file := range files {
				n.own(filepath.Join(d, key), fs.FileMode(file.Mode))
			}
		}
		return os.Chmod(d, 0o755)
	}))
	return func() {}, func() string { return name }
}

// startAgent starts the pod's agent, which writes to d.
func (n *node) startAgent(d string) (stop func(), username func() string) {
	n.Helper()
	c := &checker{e: n.e, pod: n.pod}
	for _, container := range slices.Concat(n.pod.Spec.InitContainers, n.pod.Spec.Containers[1:]) {
		if container.Name != "vault-agent" {
			continue
		}
		text, err := c.configText(&container)
		n.do(err)
		config := filepath.Join(n.home, "agent.hcl")
		n.do(os.WriteFile(config, []byte(n.local(&container, text)), 0o644))
		cmd := command(n.Context(), n.vault.binary, "agent", "-config="+config)
		cmd.Env = []string{"HOME=/nonexistent"}
		n.as(&container, cmd)
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		n.do(cmd.Start())
		end := func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		n.Cleanup(func() {
			end()
			if n.Failed() {
				n.Log(said.String())
			}
		})
		return end, func() string { return n.written(d) }
	}
	n.Fatal("there is no agent")
	return nil, nil
}

// written returns the user name in the one file in d, however it is written, or "".
func (n *node) written(d string) string {
	files, err := filepath.Glob(filepath.Join(d, "db*"))
	if err != nil || len(files) != 1 {
		return ""
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return ""
	}
	for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune("\" \n,{}", r) }) {
		if strings.HasPrefix(word, "v-") && strings.Contains(word, "-orders-") {
			return word
		}
	}
	return ""
}

// application is the example's application, under way.
type application struct {
	testing.TB
	cmd     *exec.Cmd
	address map[string]string // by port
	ended   chan error
}

// start starts the application with its arguments, but for where the server is and where
// it listens.
func (n *node) start(c *corev1.Container, binary string) *application {
	n.Helper()
	var args []string
	for _, arg := range c.Args {
		arg = n.local(c, arg)
		if _, ca, ok := strings.Cut(arg, "sslrootcert="); ok {
			arg = "-dsn=" + n.server.DSN() + " sslrootcert=" + ca
		}
		args = append(args, arg)
	}
	program := filepath.Join(n.home, "orders")
	output(n, "cp", binary, program)
	cmd := command(n.Context(), program, append(args, "-listen=127.0.0.1:0", "-observe=localhost:0")...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	n.as(c, cmd)
	out, err := cmd.StderrPipe()
	n.do(err)
	n.do(cmd.Start())
	a := &application{TB: n.TB, cmd: cmd, address: map[string]string{}, ended: make(chan error, 1)}
	lines := bufio.NewScanner(out)
	var said []string
	for len(a.address) < 2 && lines.Scan() {
		said = append(said, lines.Text())
		var line struct{ Msg, Address, At string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			a.address[map[string]string{"127.0.0.1:0": "8080", "localhost:0": "9090"}[line.Address]] = line.At
		}
	}
	n.Cleanup(func() { _ = cmd.Process.Kill() })
	if len(a.address) < 2 {
		n.Fatalf("%v\n%s", cmd.Wait(), strings.Join(said, "\n"))
	}
	go func() {
		_, _ = io.Copy(io.Discard, out)
		a.ended <- cmd.Wait()
	}()
	return a
}

func (a *application) get(port, url string) (int, string) {
	a.Helper()
	response, err := http.Get("http://" + a.address[port] + path.Clean(url))
	if err != nil {
		a.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		a.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// current returns whose login new connections are made with.
func (a *application) current() string {
	a.Helper()
	_, body := a.get("9090", "/sqlrotate?format=json")
	var report struct {
		Connectors []struct {
			Versions []struct {
				Username        string
				Current, Proven bool
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &report); err != nil || len(report.Connectors) != 1 {
		a.Fatalf("%v %s", err, body)
	}
	for _, v := range report.Connectors[0].Versions {
		if v.Current && v.Proven {
			return v.Username
		}
	}
	return ""
}

// terminate asks the application to end, as the kubelet does, and waits until it has.
func (a *application) terminate() {
	a.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-a.ended; errors.As(err, &exit) {
		a.Errorf("%v", exit)
	}
}
