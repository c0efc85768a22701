// A Vault server and a Vault Agent, as processes.

package integration

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	vault "github.com/hashicorp/vault/api"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// vaultVersion is what vaultbin/go.mod requires.
const vaultVersion = "1.21.0"

// vaultBinary finds Vault in PATH or where `make vault` has put it.
func vaultBinary(tb testing.TB) string {
	tb.Helper()
	if path, err := exec.LookPath("vault"); err == nil {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(cache, "sqlrotate", "vault-"+vaultVersion)
	if _, err := os.Stat(path); err != nil {
		giveUp(tb, "no vault in PATH and none at %s: run make vault", path)
	}
	return path
}

// giveUp skips a test that lacks what it needs, or fails it in CI.
func giveUp(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// process is a program under way, with its output in a file.
type process struct {
	testing.TB
	cmd  *exec.Cmd
	out  *os.File
	done chan struct{}
}

// start runs a program until the test ends, and not longer than the test's own
// process lives.
func start(tb testing.TB, name string, args ...string) *process {
	tb.Helper()
	out, err := os.CreateTemp(tb.TempDir(), "out")
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{TB: tb, cmd: exec.Command(name, args...), out: out, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + tb.TempDir()} // nothing of VAULT_ADDR and the like
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	tb.Cleanup(func() {
		p.kill()
		_ = out.Close()
		if tb.Failed() {
			tb.Logf("%s %s:\n%s", filepath.Base(name), args[0], complaints(p.output()))
		}
	})
	return p
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.Fatal(err)
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) output() string {
	b, err := os.ReadFile(p.out.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// eventually waits until f is true, for at most limit and what the machine stalls
// meanwhile, and returns how long that took.
func eventually(tb testing.TB, limit time.Duration, what string, f func() bool) time.Duration {
	tb.Helper()
	m := stall.Watch(tb)
	defer m.Stop()
	return m.Eventually(limit, what, f)
}

// vaultServer is a Vault in dev mode: in memory, and unsealed.
type vaultServer struct {
	*process
	address string
	root    *vault.Client
}

func newVault(tb testing.TB) *vaultServer {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	token := rand.Text()
	v := &vaultServer{address: "http://" + address}
	v.process = start(tb, vaultBinary(tb), "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+token, "-dev-listen-address="+address)
	v.root = v.client(token)
	eventually(tb, 30*time.Second, "Vault is up", func() bool {
		health, err := v.root.Sys().Health()
		return err == nil && health.Initialized && !health.Sealed && strings.Contains(v.output(), "Unseal Key: ")
	})
	return v
}

// client returns one that tells at once what it is told.
func (v *vaultServer) client(token string) *vault.Client {
	v.Helper()
	cfg := vault.DefaultConfig()
	if cfg.Error != nil {
		v.Fatal(cfg.Error)
	}
	cfg.Address, cfg.MaxRetries, cfg.Timeout = v.address, 0, 5*time.Second
	cfg.HttpClient = &http.Client{}
	c, err := vault.NewClient(cfg)
	if err != nil {
		v.Fatal(err)
	}
	c.SetToken(token)
	return c
}

// write is `vault write`.
func (v *vaultServer) write(path string, data map[string]any) *vault.Secret {
	v.Helper()
	secret, err := v.root.Logical().WriteWithContext(v.Context(), path, data)
	if err != nil {
		v.Fatal(err)
	}
	return secret
}

func (v *vaultServer) seal() {
	v.Helper()
	if err := v.root.Sys().SealWithContext(v.Context()); err != nil {
		v.Fatal(err)
	}
}

func (v *vaultServer) unseal() {
	v.Helper()
	_, key, _ := strings.Cut(v.output(), "Unseal Key: ")
	key, _, _ = strings.Cut(key, "\n")
	status, err := v.root.Sys().UnsealWithContext(v.Context(), strings.TrimSpace(key))
	if err != nil || status.Sealed {
		v.Fatalf("not unsealed: %v", err)
	}
}

// agent is a Vault Agent that logs in with AppRole and renders one template.
type agent struct {
	*process
	v      *vaultServer
	config string
	source string // the template's file
}

// newAgent sets up an AppRole whose tokens live for tokenTTL and may do what policy
// says, and starts an agent that renders template to path.
func newAgent(v *vaultServer, path, template string, tokenTTL time.Duration) *agent {
	v.Helper()
	if err := v.root.Sys().EnableAuthWithOptionsWithContext(v.Context(), "approle", &vault.EnableAuthOptions{Type: "approle"}); err != nil {
		v.Fatal(err)
	}
	err := v.root.Sys().PutPolicyWithContext(v.Context(), "app", `path "database/creds/*" { capabilities = ["read"] }
path "database/static-creds/*" { capabilities = ["read"] }`)
	if err != nil {
		v.Fatal(err)
	}
	v.write("auth/approle/role/app", map[string]any{
		"token_policies": "app", "token_ttl": tokenTTL.String(), "token_max_ttl": "1h",
	})
	dir := v.TempDir()
	file := func(name, content string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			v.Fatal(err)
		}
		return name
	}
	role, err := v.root.Logical().ReadWithContext(v.Context(), "auth/approle/role/app/role-id")
	if err != nil {
		v.Fatal(err)
	}
	secret := v.write("auth/approle/role/app/secret-id", nil)
	a := &agent{v: v, source: file("template", template)}
	a.config = file("agent.hcl", fmt.Sprintf(`
vault { address = %q }
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = %q
      secret_id_file_path                 = %q
      remove_secret_id_file_after_reading = false
    }
    min_backoff = "100ms"
    max_backoff = "1s"
  }
}
template_config { static_secret_render_interval = "2s" }
template {
  source               = %q
  destination          = %q
  error_on_missing_key = true
}
`, v.address, file("role", role.Data["role_id"].(string)), file("secret", secret.Data["secret_id"].(string)), a.source, path))
	a.start()
	return a
}

// start starts the agent, or another one after kill.
func (a *agent) start() {
	a.process = start(a.v.TB, vaultBinary(a.v.TB), "agent", "-config="+a.config)
}

// revokeTokens revokes the tokens that the agent has got, and with them all their
// leases, and returns how many there were.
func (a *agent) revokeTokens() (n int) {
	a.Helper()
	list, err := a.v.root.Logical().ListWithContext(a.Context(), "auth/token/accessors")
	if err != nil {
		a.Fatal(err)
	}
	for _, key := range list.Data["keys"].([]any) {
		about := a.v.write("auth/token/lookup-accessor", map[string]any{"accessor": key})
		if !strings.HasPrefix(about.Data["display_name"].(string), "approle") {
			continue
		}
		a.v.write("auth/token/revoke-accessor", map[string]any{"accessor": key})
		n++
	}
	return n
}

// render writes the template anew; the agent reads it when it is started.
func (a *agent) render(template string) {
	a.Helper()
	if err := os.WriteFile(a.source, []byte(template), 0o600); err != nil {
		a.Fatal(err)
	}
}

// dynamicTemplate renders a dynamic role's login as JSON.
const dynamicTemplate = `{{ with secret "database/creds/app" }}{"username": {{ .Data.username | toJSON }}, "password": {{ .Data.password | toJSON }}}{{ end }}`

// staticTemplate does so for a static role.
const staticTemplate = `{{ with secret "database/static-creds/app" }}{"username":"{{ .Data.username }}","password":"{{ .Data.password }}"}{{ end }}`

// complaints returns the lines of what a process has said that are not
// information, but no more than the last 30.
func complaints(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		if strings.Contains(line, "[WARN]") || strings.Contains(line, "[ERROR]") || strings.Contains(line, "rror") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-30):], "")
}
