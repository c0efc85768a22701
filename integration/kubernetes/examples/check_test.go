package examples

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl"
	"github.com/sqlrotate/sqlrotate"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	kubeletLag = 90 * time.Second // at its defaults: a sync each minute, and a cache
	agentLag   = 5 * time.Second  // FileOptions.Poll, if an event goes missing
	shutdown   = 10 * time.Second // what the application gives its requests
)

// Every example is taken by a server of Kubernetes, and keeps what it promises.
func TestExamplesKeepTheirPromises(t *testing.T) {
	w := newWorld(t)
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			for _, f := range w.check(t.Context(), text(t, name)) {
				t.Errorf("%s: %s", f.name, f.text)
			}
		})
	}
}

// checker checks one example.
type checker struct {
	findings
	w    *world
	e    *example
	pod  *corev1.Pod       // as it runs: after the injector
	app  *corev1.Container // of pod
	args map[string]string
}

// login is the file that the application reads.
type login struct {
	overlap      time.Duration // the most that whoever makes it leaves; 0 if that is up to people
	lag          time.Duration // the least to expect
	mode         fs.FileMode
	owner, group int64
}

// check returns what is wrong with an example. What follows from something that is wrong
// already isn't asked.
func (w *world) check(ctx context.Context, file string) findings {
	c := &checker{w: w}
	c.e, c.findings = w.read(ctx, file)
	if len(c.findings) == 0 && c.e.deployment == nil {
		c.add("decode", "there is no Deployment")
	}
	if len(c.findings) > 0 {
		return c.findings
	}
	template := c.e.deployment.Spec.Template.DeepCopy()
	original := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	if err := w.checkAnnotations(template.Annotations); err != nil {
		c.add("annotation", "%v", err)
	}
	var err error
	if c.pod, err = inject(original); err != nil {
		c.add("injection", "%v", err)
		return c.findings
	}
	if err := w.validatePod(c.pod); err != nil {
		c.add("injection", "%v", err)
		return c.findings
	}
	c.app = &c.pod.Spec.Containers[0]
	c.readArgs()
	c.checkSecrets(&template.Spec)
	c.checkHardening(&template.Spec)
	c.checkProbes()
	c.checkRestarts()
	c.checkReferences()
	from := c.checkLogin()
	if len(c.findings) > 0 {
		return c.findings
	}
	c.checkReadable(from)
	c.checkWindow(from)
	if len(c.findings) == 0 {
		c.checkPromises(file, from)
	}
	return c.findings
}

// readArgs reads the application's arguments, by its own list of them.
func (c *checker) readArgs() {
	c.args = maps.Clone(c.w.flags)
	for _, arg := range c.app.Args {
		name, value, ok := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if _, known := c.w.flags[name]; !ok || !known {
			c.add("argument", "the application has no %s", arg)
			continue
		}
		c.args[name] = value
	}
}

// checkSecrets looks for secrets where everybody sees them, or where they never change.
func (c *checker) checkSecrets(spec *corev1.PodSpec) {
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, env := range container.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil || regexp.MustCompile(`(?i)pass|secret|token`).MatchString(env.Name) {
				c.add("environment", "%s in %s", env.Name, container.Name)
			}
		}
		for _, from := range container.EnvFrom {
			if from.SecretRef != nil {
				c.add("environment", "%s in %s", from.SecretRef.Name, container.Name)
			}
		}
	}
	pg, err := sqlrotate.LibPQ(c.args["dsn"])
	if err != nil || !strings.Contains(c.args["dsn"], "sslmode=verify-full") || strings.Contains(c.args["dsn"], "user=") {
		c.add("dsn", "%s (%v, %v)", c.args["dsn"], pg, err)
	}
}

func (c *checker) checkHardening(spec *corev1.PodSpec) {
	is := func(p *bool, want bool) bool { return p != nil && *p == want }
	sc := spec.SecurityContext
	if sc == nil || !is(sc.RunAsNonRoot, true) || sc.RunAsUser == nil || *sc.RunAsUser == 0 || sc.SeccompProfile == nil {
		c.add("security context", "the pod's isn't that of somebody who may nothing")
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		sc := container.SecurityContext
		if sc == nil || !is(sc.ReadOnlyRootFilesystem, true) || !is(sc.AllowPrivilegeEscalation, false) ||
			sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			c.add("security context", "%s may more than it needs", container.Name)
		}
		if r := container.Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() {
			c.add("resources", "%s doesn't say what it needs", container.Name)
		}
	}
	if grace := spec.TerminationGracePeriodSeconds; grace == nil || time.Duration(*grace)*time.Second < shutdown+10*time.Second {
		c.add("grace", "requests have %v", shutdown)
	}
	if !is(spec.AutomountServiceAccountToken, false) {
		c.add("token", "the application gets a token of Kubernetes")
	}
}

func (c *checker) checkProbes() {
	if c.app.LivenessProbe != nil || c.app.StartupProbe != nil {
		c.add("liveness", "a process that is started anew has no login to fall back to")
	}
	probe := c.app.ReadinessProbe
	if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/readyz" {
		c.add("readiness", "%v", probe)
		return
	}
	number := strconv.Itoa(probe.HTTPGet.Port.IntValue())
	for _, port := range c.app.Ports {
		if port.Name == probe.HTTPGet.Port.StrVal {
			number = strconv.Itoa(int(port.ContainerPort))
		}
	}
	if ":"+number != c.args["observe"] {
		c.add("readiness", "port %s of %s", number, c.args["observe"])
	}
}

// checkRestarts looks for what restarts the application at a rotation.
func (c *checker) checkRestarts() {
	for _, object := range c.e.custom {
		if at[[]any](object, "spec", "rolloutRestartTargets") != nil {
			c.add("restart", "rolloutRestartTargets")
		}
	}
	for _, annotations := range []map[string]string{c.e.deployment.Annotations, c.e.deployment.Spec.Template.Annotations} {
		for name := range annotations {
			if strings.Contains(name, "reloader.stakater.com/") {
				c.add("restart", "%s", name)
			}
		}
	}
}

// checkReferences looks for names that nothing has, and for what Vault doesn't know.
func (c *checker) checkReferences() {
	if name := c.pod.Spec.ServiceAccountName; name != "" && !c.e.accounts[name] {
		c.add("reference", "no ServiceAccount %s", name)
	}
	if len(c.e.namespaces) != 1 {
		c.add("reference", "in %v", slices.Sorted(maps.Keys(c.e.namespaces)))
	}
	expect := func(name, got, want string) {
		if got != want {
			c.add(name, "%s, not %s", got, want)
		}
	}
	if auth := c.e.custom["secrets.hashicorp.com/v1beta1 VaultAuth"]; auth != nil {
		dynamic, connection := c.e.custom["secrets.hashicorp.com/v1beta1 VaultDynamicSecret"], c.e.custom["secrets.hashicorp.com/v1beta1 VaultConnection"]
		expect("reference", at[string](dynamic, "spec", "vaultAuthRef"), at[string](auth, "metadata", "name"))
		expect("reference", at[string](auth, "spec", "vaultConnectionRef"), at[string](connection, "metadata", "name"))
		expect("reference", at[string](auth, "spec", "kubernetes", "serviceAccount"), c.pod.Spec.ServiceAccountName)
		expect("vault", at[string](auth, "spec", "kubernetes", "role"), "orders")
		expect("vault", fmt.Sprint(at[[]any](auth, "spec", "kubernetes", "audiences")), "[vault]")
		expect("vault", path.Join(at[string](dynamic, "spec", "mount"), at[string](dynamic, "spec", "path")), "database/creds/orders")
		expect("vault", at[string](connection, "spec", "address"), vaultAddress)
	}
	if generator := c.e.custom["generators.external-secrets.io/v1alpha1 VaultDynamicSecret"]; generator != nil {
		secret, kubernetes := c.e.custom["external-secrets.io/v1 ExternalSecret"], at[map[string]any](generator, "spec", "provider", "auth", "kubernetes")
		for _, from := range at[[]any](secret, "spec", "dataFrom") {
			from, _ := from.(map[string]any)
			ref := at[map[string]any](from, "sourceRef", "generatorRef")
			expect("reference", fmt.Sprint(ref["apiVersion"], ref["kind"], ref["name"]), fmt.Sprint(generator["apiVersion"], generator["kind"], at[string](generator, "metadata", "name")))
		}
		expect("reference", at[string](kubernetes, "serviceAccountRef", "name"), c.pod.Spec.ServiceAccountName)
		expect("vault", at[string](kubernetes, "role"), "orders")
		expect("vault", fmt.Sprint(at[[]any](kubernetes, "serviceAccountRef", "audiences")), "[vault]")
		expect("vault", at[string](generator, "spec", "path"), "/database/creds/orders")
		expect("vault", at[string](generator, "spec", "provider", "server"), vaultAddress)
	}
}

// checkLogin looks for who writes the file that the application reads.
func (c *checker) checkLogin() login {
	var mount corev1.VolumeMount
	for _, m := range c.app.VolumeMounts {
		if m.SubPath != "" || m.SubPathExpr != "" {
			c.add("subPath", "%s", m.MountPath)
		}
		if within(c.args["credential"], m.MountPath) {
			mount = m
		}
	}
	for _, volume := range c.pod.Spec.Volumes {
		if volume.Name != mount.Name {
			continue
		}
		key, _ := filepath.Rel(mount.MountPath, c.args["credential"])
		switch {
		case volume.Secret != nil:
			return c.checkSecretVolume(volume.Secret, mount, key)
		case volume.CSI != nil:
			return c.checkCSI(volume.CSI, mount, key)
		case volume.EmptyDir != nil:
			return c.checkAgent(volume, key)
		}
	}
	c.add("path", "nobody writes %s", c.args["credential"])
	return login{}
}

func within(name, directory string) bool {
	return name == directory || strings.HasPrefix(name, directory+"/")
}

// fsGroup returns the group that the kubelet gives to volumes, or other.
func (c *checker) fsGroup(other int64) int64 {
	if group := c.pod.Spec.SecurityContext.FSGroup; group != nil {
		return *group
	}
	return other
}

func (c *checker) checkSecretVolume(volume *corev1.SecretVolumeSource, mount corev1.VolumeMount, key string) login {
	if key != "." || len(volume.Items) > 0 || !mount.ReadOnly {
		c.add("path", "the directory of a Secret is the login, not %s in it", key)
	}
	l := login{lag: kubeletLag, group: c.fsGroup(0), mode: 0o644}
	if volume.DefaultMode != nil {
		l.mode = fs.FileMode(*volume.DefaultMode)
	}
	if c.pod.Spec.SecurityContext.FSGroup != nil {
		l.mode |= 0o440
	}
	name := volume.SecretName // of a Secret that somebody makes
	if dynamic := c.e.custom["secrets.hashicorp.com/v1beta1 VaultDynamicSecret"]; dynamic != nil {
		name = at[string](dynamic, "spec", "destination", "name")
		percent := at[int64](dynamic, "spec", "renewalPercent")
		l.overlap = c.ttl() * time.Duration(100-10-percent) / 100
		if percent == 0 {
			c.add("overlap", "when the lease is renewed is not said")
		}
		if !at[bool](dynamic, "spec", "destination", "create") {
			c.add("reference", "nobody makes the Secret")
		}
	}
	if secret := c.e.custom["external-secrets.io/v1 ExternalSecret"]; secret != nil {
		name = at[string](secret, "spec", "target", "name")
		interval, err := time.ParseDuration(at[string](secret, "spec", "refreshInterval"))
		if err != nil || interval <= 0 {
			c.add("rotation", "refreshInterval is %v, %v", interval, err)
		}
		l.overlap = c.ttl() - interval - time.Minute
	}
	if name != volume.SecretName {
		c.add("path", "what is written is the Secret %s, and what is mounted %s", name, volume.SecretName)
	}
	return l
}

func (c *checker) checkCSI(volume *corev1.CSIVolumeSource, mount corev1.VolumeMount, key string) login {
	l := login{mode: 0o644}
	class := c.e.custom["secrets-store.csi.x-k8s.io/v1 SecretProviderClass"]
	if volume.Driver != "secrets-store.csi.k8s.io" || volume.ReadOnly == nil || !*volume.ReadOnly || !mount.ReadOnly ||
		volume.VolumeAttributes["secretProviderClass"] != at[string](class, "metadata", "name") {
		c.add("reference", "%v", volume)
	}
	for name := range at[map[string]any](class, "spec", "parameters") {
		if !slices.Contains([]string{"roleName", "vaultAddress", "vaultNamespace", "audience", "objects"}, name) {
			c.add("schema", "the provider has no parameter %s", name)
		}
	}
	if at[string](class, "spec", "provider") != "vault" || at[string](class, "spec", "parameters", "roleName") != "orders" || at[string](class, "spec", "parameters", "audience") != "vault" {
		c.add("vault", "%v", at[map[string]any](class, "spec"))
	}
	if at[[]any](class, "spec", "secretObjects") != nil {
		c.add("secret", "the login is copied to a Secret")
	}
	var objects []struct {
		ObjectName     string      `json:"objectName"`
		SecretPath     string      `json:"secretPath"`
		SecretKey      string      `json:"secretKey"`
		FilePermission fs.FileMode `json:"filePermission"`
	}
	if err := yaml.UnmarshalStrict([]byte(at[string](class, "spec", "parameters", "objects")), &objects); err != nil || len(objects) != 1 {
		c.add("schema", "objects: %v", err)
		return l
	}
	if objects[0].ObjectName != key || objects[0].SecretKey != "" {
		c.add("path", "what is written is %s, and what is read %s", objects[0].ObjectName, key)
	}
	if objects[0].FilePermission != 0 {
		l.mode = objects[0].FilePermission
	}
	poll, err := time.ParseDuration(c.e.promises["poll"])
	if err != nil || poll <= 0 {
		c.add("promise", "poll: %v", err)
	}
	l.lag = poll + kubeletLag
	return l
}

// agentConfig is what matters of the configuration of a Vault Agent.
type agentConfig struct {
	Vault     []struct{ Address string }
	Templates []struct{ Destination, Contents, Perms string } `json:"template"`
}

// checkAgent looks for the agent that writes key to a volume that it shares with the
// application.
func (c *checker) checkAgent(volume corev1.Volume, key string) login {
	l := login{mode: 0o644, lag: agentLag, overlap: c.ttl()/4 - 10*time.Second}
	if volume.EmptyDir.Medium != corev1.StorageMediumMemory {
		c.add("memory", "the login is written to a disk")
	}
	agents := slices.Clone(c.pod.Spec.Containers[1:])
	for _, container := range c.pod.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			agents = append(agents, container)
		}
	}
	for i := range agents {
		container := &agents[i]
		config, err := c.agentConfig(container)
		if err != nil {
			c.add("agent", "%v", err)
			return l
		}
		if len(config.Vault) != 1 || config.Vault[0].Address != vaultAddress {
			c.add("vault", "%v", config.Vault)
		}
		for _, m := range container.VolumeMounts {
			for _, template := range config.Templates {
				if m.Name != volume.Name || m.ReadOnly || template.Destination != path.Join(m.MountPath, key) {
					continue
				}
				if !strings.Contains(template.Contents, `"database/creds/orders"`) {
					c.add("vault", "%s", template.Contents)
				}
				if template.Perms != "" {
					perms, err := strconv.ParseUint(template.Perms, 8, 32)
					if err != nil {
						c.add("mode", "%v", err)
					}
					l.mode = fs.FileMode(perms)
				}
				l.owner, l.group = *container.SecurityContext.RunAsUser, c.fsGroup(*container.SecurityContext.RunAsGroup)
				return l
			}
		}
	}
	if len(agents) == 0 {
		c.add("sidecar", "no agent runs beside the application")
	} else {
		c.add("path", "no agent writes %s", c.args["credential"])
	}
	return l
}

// configText returns the configuration that an agent is given, by the injector or by a
// ConfigMap that is mounted.
func (c *checker) configText(container *corev1.Container) (string, error) {
	text := injectedConfig(container)
	for _, mount := range container.VolumeMounts {
		for _, volume := range c.pod.Spec.Volumes {
			if volume.Name != mount.Name || volume.ConfigMap == nil || c.e.configs[volume.ConfigMap.Name] == nil {
				continue
			}
			for name, content := range c.e.configs[volume.ConfigMap.Name].Data {
				if slices.Contains(container.Command, "-config="+path.Join(mount.MountPath, name)) {
					text = content
				}
			}
		}
	}
	if text == "" {
		return "", fmt.Errorf("%s has no configuration", container.Name)
	}
	return text, nil
}

func (c *checker) agentConfig(container *corev1.Container) (config agentConfig, err error) {
	text, err := c.configText(container)
	if err != nil {
		return config, err
	}
	var blocks map[string]any // a list of each block
	if err := hcl.Decode(&blocks, text); err != nil {
		return config, err
	}
	whole, err := json.Marshal(blocks)
	if err != nil {
		return config, err
	}
	return config, json.Unmarshal(whole, &config)
}

// ttl is what the example says of the time to live of a login.
func (c *checker) ttl() time.Duration {
	d, err := time.ParseDuration(c.e.promises["ttl"])
	if err != nil {
		c.add("promise", "ttl: %v", err)
	}
	return d
}

// checkWindow asks the library, and compares with what whoever makes the login leaves.
func (c *checker) checkWindow(l login) {
	var w sqlrotate.Window
	for name, d := range map[string]*time.Duration{"overlap": &w.Overlap, "lag": &w.Lag, "max-in-use": &w.MaxInUse} {
		var err error
		if *d, err = time.ParseDuration(c.args[name]); err != nil {
			c.add("window", "%s: %v", name, err)
		}
	}
	pg, err := sqlrotate.LibPQ("host=db")
	if err != nil {
		c.add("window", "%v", err)
		return
	}
	connector, err := sqlrotate.New(sqlrotate.Config{
		Source: sqlrotate.StaticSource(sqlrotate.Credential{Username: "orders", Password: sqlrotate.NewSecret("made up")}),
		Opener: pg, Window: w, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.add("window", "%v", err)
		return
	}
	_ = connector.Close()
	if lifetime, err := w.MaxLifetime(); err != nil || lifetime < 10*time.Second {
		c.add("window", "connections live for %v (%v)", lifetime, err)
	}
	if l.overlap > 0 && w.Overlap > l.overlap {
		c.add("overlap", "%v, of %v that there are", w.Overlap, l.overlap)
	}
	if w.Lag < l.lag {
		c.add("lag", "%v, and it may be %v", w.Lag, l.lag)
	}
}

// checkReadable asks whether the application's user may read the login.
func (c *checker) checkReadable(l login) {
	uid, group := *c.pod.Spec.SecurityContext.RunAsUser, c.pod.Spec.SecurityContext.RunAsGroup
	readable := l.mode&0o004 != 0 || l.owner == uid && l.mode&0o400 != 0 ||
		(group != nil && *group == l.group || c.fsGroup(-1) == l.group) && l.mode&0o040 != 0
	if !readable {
		c.add("mode", "%d can't read what is %#o of %d:%d", uid, l.mode, l.owner, l.group)
	}
}

// checkPromises looks for promises that aren't so, and for those that nobody checks.
func (c *checker) checkPromises(file string, l login) {
	want := []string{"overlap", "lag", "mode"}
	if l.overlap > 0 {
		want = append(want, "ttl", "token")
	}
	if c.e.promises["poll"] != "" {
		want = append(want, "poll")
	}
	is := map[string]string{"overlap": c.args["overlap"], "lag": c.args["lag"], "mode": fmt.Sprintf("%#o", l.mode)}
	for name, value := range c.e.promises {
		if !slices.Contains(want, name) || is[name] != "" && is[name] != value {
			c.add("promise", "%s is %q, not %q", name, is[name], value)
		}
	}
	for _, name := range want {
		if c.e.promises[name] == "" {
			c.add("promise", "no word of %s", name)
		}
	}
	if token, err := time.ParseDuration(c.e.promises["token"]); l.overlap > 0 && (err != nil || token < c.ttl()) {
		c.add("promise", "a login ends with its token, after %v (%v)", token, err)
	}
	if c.e.promises["poll"] != "" && (!strings.Contains(file, " enableSecretRotation=true ") || !strings.Contains(file, " rotationPollInterval="+c.e.promises["poll"]+"\n")) {
		c.add("rotation", "the driver rotates nothing unless it is told to")
	}
}
