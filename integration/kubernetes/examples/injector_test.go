package examples

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch"
	"github.com/hashicorp/vault-k8s/agent-inject/agent"
	corev1 "k8s.io/api/core/v1"
)

// vaultAddress is Vault's, in all examples.
const vaultAddress = "https://vault.vault.svc:8200"

// readAnnotations returns the annotations that the injector's source knows.
func readAnnotations(tb testing.TB) map[string]bool {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/hashicorp/vault-k8s")
	out, err := cmd.Output()
	if err != nil {
		tb.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(out)), "agent-inject", "agent", "annotations.go"), nil, 0)
	if err != nil {
		tb.Fatal(err)
	}
	known := map[string]bool{}
	for n := range ast.Preorder(file) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Annotation") || len(spec.Values) == 0 {
			continue
		}
		if value, ok := spec.Values[0].(*ast.BasicLit); ok {
			name, err := strconv.Unquote(value.Value)
			if err != nil {
				tb.Fatal(err)
			}
			known[name] = true
		}
	}
	if !known[agent.AnnotationAgentInject] {
		tb.Fatal("the injector's annotations are not found")
	}
	return known
}

// checkAnnotations says which annotations the injector would pass over: those that it
// doesn't know, and those of a secret that isn't injected.
func (w *world) checkAnnotations(annotations map[string]string) error {
	ofSecret := []string{
		agent.AnnotationAgentInjectFile, agent.AnnotationAgentInjectFilePermission, agent.AnnotationAgentInjectTemplate,
		agent.AnnotationAgentInjectCommand, agent.AnnotationVaultSecretVolumePath, agent.AnnotationErrorOnMissingKey,
	}
	var errs []error
	for name := range annotations {
		if !strings.HasPrefix(name, "vault.hashicorp.com/") || w.annotations[name] || strings.HasPrefix(name, agent.AnnotationAgentInjectSecret+"-") {
			continue
		}
		known := false
		for _, prefix := range ofSecret {
			secret, ok := strings.CutPrefix(name, prefix+"-")
			_, injected := annotations[agent.AnnotationAgentInjectSecret+"-"+secret]
			known = known || ok && injected
		}
		if !known {
			errs = append(errs, fmt.Errorf("%s means nothing", name))
		}
	}
	return errors.Join(errs...)
}

// inject does with a pod what the injector does, with its own code.
func inject(pod *corev1.Pod) (*corev1.Pod, error) {
	pod = pod.DeepCopy()
	if yes, err := agent.ShouldInject(pod); err != nil || !yes {
		return pod, err
	}
	original, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	err = agent.Init(pod, agent.AgentConfig{
		Image: agent.DefaultVaultImage, Address: vaultAddress, AuthPath: "auth/kubernetes", Namespace: "shop",
		SetSecurityContext: true, DefaultTemplate: agent.DefaultTemplateType, ExitOnRetryFailure: true,
		ResourceRequestCPU: agent.DefaultResourceRequestCPU, ResourceRequestMem: agent.DefaultResourceRequestMem,
		ResourceLimitCPU: agent.DefaultResourceLimitCPU, ResourceLimitMem: agent.DefaultResourceLimitMem,
	})
	if err != nil {
		return nil, err
	}
	injector, err := agent.New(pod)
	if err != nil {
		return nil, err
	}
	if err := injector.Validate(); err != nil {
		return nil, err
	}
	text, err := injector.Patch()
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	if text, err = patch.Apply(original); err != nil {
		return nil, err
	}
	injected := &corev1.Pod{}
	return injected, json.Unmarshal(text, injected)
}

// injectedConfig returns the configuration of an injected agent.
func injectedConfig(c *corev1.Container) string {
	for _, env := range c.Env {
		if env.Name == "VAULT_CONFIG" {
			config, err := base64.StdEncoding.DecodeString(env.Value)
			if err == nil {
				return string(config)
			}
		}
	}
	return ""
}
