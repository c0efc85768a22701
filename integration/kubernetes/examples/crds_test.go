package examples

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// operators are the modules that hold the definitions of custom resources, with the sums
// of what was looked at. They are files in a module's zip: nothing of it is compiled.
func operators() []module {
	return []module{
		{"github.com/external-secrets/external-secrets", "v1.3.2", "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=", "config/crds/bases"},
		{"github.com/hashicorp/vault-secrets-operator", "v0.10.0", "h1:BjOTBJRqx1SLo7NeyqNJWRPDyfRscbqPtGU1U2LzArg=", "config/crd/bases"},
		{"sigs.k8s.io/secrets-store-csi-driver", "v1.4.8", "h1:YmL0lx9HMYqeZCnLyOZRMuGAZXmP/e42UGCCAnMKjgE=", "config/crd/bases"},
	}
}

type module struct{ path, version, sum, crds string }

// download returns the directory of a module's files.
func (m module) download(tb testing.TB) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "go", "mod", "download", "-json", m.path+"@"+m.version)
	cmd.Dir = tb.TempDir()
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	var about struct{ Dir, Sum, Error string }
	if json.Unmarshal(out, &about) != nil || about.Error != "" || err != nil {
		tb.Fatalf("%s: %v %s", m.path, err, about.Error)
	}
	if about.Sum != m.sum {
		tb.Fatalf("the sum of %s is %s, and not %s", m.path, about.Sum, m.sum)
	}
	return about.Dir
}

// definition is how a version of a custom resource is defined.
type definition struct {
	scope      apiextensionsv1.ResourceScope
	structural *schema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
}

// definitions are those of all operators, by API version and kind.
type definitions map[string]definition

func readDefinitions(tb testing.TB) definitions {
	tb.Helper()
	all := definitions{}
	for _, m := range operators() {
		files, err := filepath.Glob(filepath.Join(m.download(tb), m.crds, "*.yaml"))
		if err != nil {
			tb.Fatal(err)
		}
		before := len(all)
		for _, file := range files {
			if err := all.add(file); err != nil {
				tb.Fatalf("%s: %v", file, err)
			}
		}
		if len(all) == before {
			tb.Fatalf("%s defines nothing", m.path)
		}
	}
	return all
}

func (d definitions) add(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	for _, v := range crd.Spec.Versions {
		if !v.Served || v.Deprecated || v.Schema == nil {
			continue
		}
		var props apiextensions.JSONSchemaProps
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
			return err
		}
		structural, err := schema.NewStructural(&props)
		if err != nil {
			return err
		}
		validator, _, err := validation.NewSchemaValidator(&props)
		if err != nil {
			return err
		}
		d[crd.Spec.Group+"/"+v.Name+" "+crd.Spec.Names.Kind] = definition{
			crd.Spec.Scope, structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit),
		}
	}
	return nil
}

// check says what a server would refuse of a custom resource or, without a word, leave out;
// and adds to it what the server would.
func (d definitions) check(ctx context.Context, kind string, object map[string]any) error {
	def, ok := d[kind]
	if !ok {
		return fmt.Errorf("there is no %s", kind)
	}
	if def.scope != apiextensionsv1.NamespaceScoped {
		return fmt.Errorf("%s is not of a namespace", kind)
	}
	var errs []error
	unknown := pruning.PruneWithOptions(object, def.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		errs = append(errs, fmt.Errorf("unknown: %s", strings.Join(unknown, ", ")))
	}
	defaulting.Default(object, def.structural)
	for _, err := range validation.ValidateCustomResource(nil, object, def.validator) {
		errs = append(errs, err)
	}
	if def.rules != nil {
		broken, _ := def.rules.Validate(ctx, nil, def.structural, object, nil, celconfig.RuntimeCELCostBudget)
		for _, err := range broken {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// What the examples rely on, and no definition says, is so in the operators' own files.
func TestOperatorsAreAsTheExamplesTakeThem(t *testing.T) {
	for _, test := range []struct {
		what, path, file string
		has              []string
		hasNot           string
	}{
		{
			"a fsGroup is no business of the CSI driver's: it says nothing of it, and then it is for volumes that have a file system",
			"sigs.k8s.io/secrets-store-csi-driver", "deploy/csidriver.yaml",
			[]string{"kind: CSIDriver"},
			"fsGroupPolicy",
		},
		{
			"Vault Secrets Operator adds up to a tenth of the lease to renewalPercent",
			"github.com/hashicorp/vault-secrets-operator", "controllers/common.go",
			[]string{"computeMaxJitterWithPercent(duration, 0.10)", "computeStartRenewingAt(leaseDuration, renewalPercent) + time.Duration(maxHorizon) - time.Duration(jitter)"},
			"",
		},
		{
			"and asks for another login when a lease can't be renewed to its full",
			"github.com/hashicorp/vault-secrets-operator", "controllers/vaultdynamicsecret_controller.go",
			[]string{"resp.Secret().LeaseDuration < o.Status.SecretLease.LeaseDuration"},
			"",
		},
	} {
		m := operators()[slices.IndexFunc(operators(), func(m module) bool { return m.path == test.path })]
		content, err := os.ReadFile(filepath.Join(m.download(t), filepath.FromSlash(test.file)))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range test.has {
			if !strings.Contains(string(content), want) {
				t.Errorf("%s: no %s in %s", test.what, want, test.file)
			}
		}
		if test.hasNot != "" && strings.Contains(string(content), test.hasNot) {
			t.Errorf("%s: %s in %s", test.what, test.hasNot, test.file)
		}
	}
}
