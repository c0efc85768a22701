package examples

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// vaultServer is a Vault in dev mode that is set up as docs/deploy.md says.
type vaultServer struct {
	testing.TB
	binary, address, token string
	jwt                    string // of the service account
}

// newVault starts a Vault that makes roles in a database, and believes service accounts'
// tokens.
func newVault(tb testing.TB, server *pgtest.Server) *vaultServer {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	v := &vaultServer{TB: tb, binary: vaultBinary(tb), address: "http://" + address, token: rand.Text()}
	cmd := command(tb.Context(), v.binary, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+v.token, "-dev-listen-address="+address)
	cmd.Env = []string{"HOME=" + tb.TempDir()}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	stall.Watch(tb).Eventually(30*time.Second, "Vault is up, its KV store included", func() bool {
		request, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, v.address+"/v1/secret/config", nil)
		if err != nil {
			return false
		}
		request.Header.Set("X-Vault-Token", v.token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})

	password := rand.Text()
	if err := server.CreateRole(tb.Context(), "vault", password, "SUPERUSER"); err != nil {
		tb.Fatal(err)
	}
	var keys []*ecdsa.PrivateKey
	for range 2 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		keys = append(keys, key)
	}
	v.jwt = serviceAccountToken(tb, keys[0], "orders")
	v.run("secrets", "enable", "database")
	v.run("write", "database/config/orders", "plugin_name=postgresql-database-plugin", "allowed_roles=orders",
		fmt.Sprintf("connection_url=postgres://{{username}}:{{password}}@%s:%d/%s?sslmode=require", server.Host(), server.Port(), server.Database()), "username=vault", "password="+password)
	v.run("auth", "enable", "kubernetes")
	v.run("write", "auth/kubernetes/config", "kubernetes_host="+reviewer(tb, v.jwt), "disable_local_ca_jwt=true",
		"token_reviewer_jwt="+serviceAccountToken(tb, keys[1], "vault"))
	v.documented()
	return v
}

// documented runs the commands of docs/deploy.md.
func (v *vaultServer) documented() {
	v.Helper()
	page, err := os.ReadFile(filepath.Join(dir, "..", "..", "docs", "deploy.md"))
	if err != nil {
		v.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 1 {
		v.Fatalf("%d blocks of commands", len(blocks))
	}
	v.exec(v.token, "sh", "-euc", blocks[0][1])
}

// run runs Vault's command as root.
func (v *vaultServer) run(args ...string) string {
	v.Helper()
	return v.exec(v.token, v.binary, args...)
}

func (v *vaultServer) exec(token, name string, args ...string) string {
	v.Helper()
	cmd := command(v.Context(), name, args...)
	cmd.Env = []string{"PATH=" + filepath.Dir(v.binary) + ":" + os.Getenv("PATH"), "VAULT_ADDR=" + v.address, "VAULT_TOKEN=" + token, "HOME=" + v.TempDir()}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		v.Fatalf("%s %s: %v\n%s", name, args[0], err, complaints.String())
	}
	return string(out)
}

// read returns Vault's answer to the application's service account.
func (v *vaultServer) read(path string) (text string, data map[string]any) {
	v.Helper()
	token := strings.TrimSpace(v.run("write", "-field=token", "auth/kubernetes/login", "role=orders", "jwt="+v.jwt))
	text = v.exec(token, v.binary, "read", "-format=json", path)
	var answer struct{ Data map[string]any }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		v.Fatal(err)
	}
	return text, answer.Data
}

// vaultBinary finds Vault in PATH or where `make vault` has put it, and returns a copy that
// everybody may run.
func vaultBinary(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("vault")
	if err != nil {
		cache, err := os.UserCacheDir()
		if err != nil {
			tb.Fatal(err)
		}
		required, err := os.ReadFile(filepath.Join("..", "..", "vaultbin", "go.mod"))
		if err != nil {
			tb.Fatal(err)
		}
		path = filepath.Join(cache, "sqlrotate", "vault-"+regexp.MustCompile(`hashicorp/vault v([0-9.]+)`).FindStringSubmatch(string(required))[1])
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatalf("no vault in PATH and none at %s: run make vault", path)
		}
		tb.Skipf("no vault in PATH and none at %s: run make vault", path)
	}
	link := filepath.Join(openDir(tb), "vault")
	if os.Link(path, link) != nil {
		output(tb, "cp", path, link)
	}
	return link
}

// serviceAccountToken is one as Kubernetes makes them for the audience vault.
func serviceAccountToken(tb testing.TB, key *ecdsa.PrivateKey, account string) string {
	tb.Helper()
	encode := func(part any) string {
		text, err := json.Marshal(part)
		if err != nil {
			tb.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	body := encode(map[string]string{"alg": "ES256", "kid": "made up"}) + "." + encode(map[string]any{
		"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:" + account, "aud": []string{"vault"},
		"iat": time.Now().Add(-time.Minute).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]string{"name": account, "uid": "uid of " + account}},
	})
	sum := sha256.Sum256([]byte(body))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return body + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// reviewer is what Vault needs of Kubernetes: it knows the one token.
func reviewer(tb testing.TB, jwt string) string {
	tb.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Spec       struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
			Status struct {
				Authenticated bool           `json:"authenticated"`
				User          map[string]any `json:"user"`
				Audiences     []string       `json:"audiences"`
			} `json:"status"`
		}
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Status.Authenticated = review.Spec.Token == jwt
		review.Status.User = map[string]any{"username": "system:serviceaccount:shop:orders", "uid": "uid of orders", "groups": []string{"system:serviceaccounts", "system:authenticated"}}
		review.Status.Audiences = review.Spec.Audiences
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review)
	}))
	tb.Cleanup(api.Close)
	return api.URL
}
