package examples

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsinternal "k8s.io/kubernetes/pkg/apis/apps/v1"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	coreinternal "k8s.io/kubernetes/pkg/apis/core/v1"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/yaml"
)

// dir is where the examples are.
const dir = "../../../examples/kubernetes"

// names are the examples there are, without ".yaml".
func names(tb testing.TB) (found []string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		found = append(found, strings.TrimSuffix(filepath.Base(file), ".yaml"))
	}
	return found
}

func text(tb testing.TB, name string) string {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name+".yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	return string(content)
}

// world is what examples are checked against.
type world struct {
	definitions definitions
	annotations map[string]bool   // the injector's
	flags       map[string]string // the application's, with their defaults
	scheme      *runtime.Scheme
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{definitions: readDefinitions(tb), annotations: readAnnotations(tb), flags: readFlags(tb), scheme: runtime.NewScheme()}
	for _, add := range []func(*runtime.Scheme) error{apps.AddToScheme, appsinternal.AddToScheme, core.AddToScheme, coreinternal.AddToScheme} {
		if err := add(w.scheme); err != nil {
			tb.Fatal(err)
		}
	}
	return w
}

// A finding is what is wrong with an example, in a word, and in more.
type finding struct{ name, text string }

type findings []finding

func (f *findings) add(name, format string, args ...any) {
	*f = append(*f, finding{name, fmt.Sprintf(format, args...)})
}

// example is what is in one of the files.
type example struct {
	promises   map[string]string // what its first lines say: from the word to the colon
	deployment *appsv1.Deployment
	configs    map[string]*corev1.ConfigMap
	accounts   map[string]bool
	custom     map[string]map[string]any // by API version and kind
	namespaces map[string]bool
}

// read reads a file's documents as a server does that is asked to be strict.
func (w *world) read(ctx context.Context, file string) (*example, findings) {
	var found findings
	e := &example{
		promises: map[string]string{}, configs: map[string]*corev1.ConfigMap{}, accounts: map[string]bool{},
		custom: map[string]map[string]any{}, namespaces: map[string]bool{},
	}
	for _, match := range regexp.MustCompile(`(?m)^# - (\w+) (\S+): `).FindAllStringSubmatch(file, -1) {
		e.promises[match[1]] = match[2]
	}
	for document := range strings.SplitSeq(file, "\n---\n") {
		var meta struct {
			APIVersion, Kind string
			Metadata         struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			found.add("decode", "%v", err)
			continue
		}
		e.namespaces[meta.Metadata.Namespace] = true
		kind := meta.APIVersion + " " + meta.Kind
		if err := w.decode(ctx, e, kind, []byte(document)); err != nil {
			name := "decode"
			if e.custom[kind] != nil {
				name = "schema"
			}
			found.add(name, "%s: %v", kind, err)
		}
	}
	return e, found
}

func (w *world) decode(ctx context.Context, e *example, kind string, document []byte) error {
	switch kind {
	case "apps/v1 Deployment":
		e.deployment = &appsv1.Deployment{}
		if err := yaml.UnmarshalStrict(document, e.deployment); err != nil {
			return err
		}
		full, internal := e.deployment.DeepCopy(), &apps.Deployment{}
		w.scheme.Default(full)
		if err := w.scheme.Convert(full, internal, nil); err != nil {
			return err
		}
		opts := podutil.GetValidationOptionsFromPodTemplate(&internal.Spec.Template, nil)
		return appsvalidation.ValidateDeployment(internal, opts).ToAggregate()
	case "v1 ConfigMap":
		config := &corev1.ConfigMap{}
		if err := yaml.UnmarshalStrict(document, config); err != nil {
			return err
		}
		e.configs[config.Name] = config
		return nil
	case "v1 ServiceAccount":
		account := &corev1.ServiceAccount{}
		if err := yaml.UnmarshalStrict(document, account); err != nil {
			return err
		}
		e.accounts[account.Name] = true
		return nil
	}
	object := map[string]any{}
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &object); err != nil { // with whole numbers, as in a server
		return err
	}
	e.custom[kind] = object
	return w.definitions.check(ctx, kind, object)
}

// validatePod says what a server would refuse of a pod.
func (w *world) validatePod(pod *corev1.Pod) error {
	full, internal := pod.DeepCopy(), &core.Pod{}
	full.Namespace = "shop"
	w.scheme.Default(full)
	if err := w.scheme.Convert(full, internal, nil); err != nil {
		return err
	}
	template := &core.PodTemplateSpec{ObjectMeta: internal.ObjectMeta, Spec: internal.Spec}
	opts := podutil.GetValidationOptionsFromPodTemplate(template, nil)
	return corevalidation.ValidatePodSpec(&internal.Spec, &internal.ObjectMeta, field.NewPath("spec"), opts).ToAggregate()
}

// at returns what is in a custom resource below some names, or nil.
func at[T any](object map[string]any, path ...string) (value T) {
	var here any = object
	for _, name := range path {
		below, ok := here.(map[string]any)
		if !ok {
			return value
		}
		here = below[name]
	}
	value, _ = here.(T)
	return value
}

// docs/deploy.md has a row for each example, with the mode that it promises, and leads to
// nothing that isn't there.
func TestExamplesAreDocumented(t *testing.T) {
	docs := filepath.Join(dir, "..", "..", "docs")
	page, err := os.ReadFile(filepath.Join(docs, "deploy.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t) {
		row := regexp.MustCompile(`(?m)^\| \[` + name + `\.yaml\].*$`).FindString(string(page))
		promise := regexp.MustCompile(`(?m)^# - mode (\S+):`).FindStringSubmatch(text(t, name))
		if row == "" || promise == nil || !strings.Contains(row, "| "+promise[1]+", ") {
			t.Errorf("%s promises %q, and its row is %q", name, promise, row)
		}
	}
	links := regexp.MustCompile(`\]\(([^)#:]+)`).FindAllStringSubmatch(string(page), -1)
	for _, link := range links {
		if _, err := os.Stat(filepath.Join(docs, link[1])); err != nil {
			t.Error(err)
		}
	}
	if len(links) < len(names(t)) {
		t.Errorf("%d links", len(links))
	}
}
