package examples

import (
	"slices"
	"strings"
	"testing"
)

// Each error that is planted in a good example is found, by its name and nothing else.
func TestPlantedErrorsAreFound(t *testing.T) {
	const (
		injector = "vault-agent-injector"
		sidecar  = "vault-agent-sidecar"
		vso      = "vault-secrets-operator"
		eso      = "external-secrets"
		csi      = "secrets-store-csi"
		secret   = "secret"
		mount    = "mountPath: /var/run/orders-db, readOnly: true}"
		env      = "          ports:\n"
	)
	w := newWorld(t)
	for _, test := range []struct{ what, example, before, after, found string }{
		{"a field that Kubernetes doesn't have", secret, "replicas: 2", "replica: 2", "decode"},
		{"a field at the wrong place", secret, "          readinessProbe:", "        readinessProbe:", "decode"},
		{"a key twice", secret, "  replicas: 2\n", "  replicas: 2\n  replicas: 3\n", "decode"},
		{"an API version that is gone", secret, "apiVersion: apps/v1", "apiVersion: apps/v1beta1", "schema"},
		{"labels that don't match", secret, "      labels: {app: orders}", "      labels: {app: order}", "decode"},
		{"a volume that isn't there", secret, "- name: db-login\n          secret", "- name: db-logins\n          secret", "decode"},
		{"a field that the operator doesn't have", vso, "renewalPercent: 67", "renewPercent: 67", "schema"},
		{"a number that the operator doesn't take", vso, "renewalPercent: 67", "renewalPercent: 95", "schema"},
		{"a kind that the operator doesn't have", vso, "kind: VaultDynamicSecret", "kind: VaultDynamicSecrets", "schema"},
		{"a field that is missing", vso, "  mount: database\n", "", "schema"},
		{"an API version that External Secrets no longer serves", eso, "external-secrets.io/v1\nkind: ExternalSecret", "external-secrets.io/v1alpha1\nkind: ExternalSecret", "schema"},
		{"a choice that isn't one", eso, "creationPolicy: Owner", "creationPolicy: Owned", "schema"},
		{"a field that the provider doesn't have", csi, "filePermission: 0444", "filePermissions: 0444", "schema"},
		{"a parameter that the provider doesn't have", csi, "roleName: orders", "roleName: orders\n    role: orders", "schema"},

		{"an annotation that is misspelt", injector, "agent-inject-perms-db", "agent-inject-perm-db", "annotation"},
		{"an annotation of a secret that isn't injected", injector, "agent-inject-perms-db", "agent-inject-perms-database", "annotation"},
		{"an injection that can't be", injector, "        - name: vault-token #", "        - name: vault-tokens #", "injection"},
		{"no role", injector, "        vault.hashicorp.com/role: orders\n", "", "injection"},
		{"an injector that isn't asked", injector, `agent-inject: "true"`, `agent-inject: "false"`, "path"},
		{"no sidecar", injector, "        # Not agent-pre", "        vault.hashicorp.com/agent-pre-populate-only: \"true\"\n        # Not agent-pre", "sidecar"},
		{"an agent that ends before the application starts", sidecar, "          restartPolicy: Always\n", "", "decode"},
		{"an agent that ends, and no probe", sidecar, "          restartPolicy: Always\n          command: [vault, agent, -config=/etc/vault-agent/agent.hcl]\n          startupProbe: # the application starts when there is a login\n            exec: {command: [test, -s, /vault/secrets/db.json]}\n            periodSeconds: 1\n            failureThreshold: 60\n", "          command: [vault, agent, -config=/etc/vault-agent/agent.hcl]\n", "sidecar"},
		{"a configuration that isn't there", sidecar, "-config=/etc/vault-agent/agent.hcl", "-config=/etc/vault-agent/config.hcl", "agent"},
		{"a configuration that isn't one", sidecar, "auto_auth {", "auto_auth {{", "agent"},
		{"a login on a disk", sidecar, "emptyDir: {medium: Memory}", "emptyDir: {}", "memory"},

		{"another file than the agent writes", sidecar, "-credential=/vault/secrets/db.json", "-credential=/vault/secrets/db", "path"},
		{"another file than is injected", injector, "-credential=/vault/secrets/db", "-credential=/vault/secrets/orders-db", "path"},
		{"a path that nobody writes", secret, "-credential=/var/run/orders-db", "-credential=/run/orders-db", "path"},
		{"a mount elsewhere", vso, mount, "mountPath: /etc/orders-db, readOnly: true}", "path"},
		{"a key in place of the Secret", secret, "-credential=/var/run/orders-db", "-credential=/var/run/orders-db/password", "path"},
		{"another Secret than the operator writes", vso, "secretName: orders-db", "secretName: orders", "path"},
		{"another Secret than External Secrets writes", eso, "  target:\n    name: orders-db", "  target:\n    name: orders-login", "path"},
		{"another object than the driver mounts", csi, "objectName: db.json", "objectName: db", "path"},
		{"one of two values", csi, "        secretPath:", "        secretKey: password\n        secretPath:", "path"},

		{"a subPath", secret, mount, "mountPath: /var/run/orders-db, subPath: password, readOnly: true}", "subPath"},
		{"a restart at each rotation", vso, "  # No rolloutRestartTargets", "  rolloutRestartTargets: [{kind: Deployment, name: orders}]\n  #", "restart"},
		{"a restart by Reloader", secret, "metadata:\n  name: orders\n", "metadata:\n  name: orders\n  annotations: {reloader.stakater.com/auto: \"true\"}\n", "restart"},
		{"a password in the environment", secret, env, "          env: [{name: PGPASSWORD, value: made up}]\n" + env, "environment"},
		{"a key of a Secret in the environment", vso, env, "          env: [{name: DB, valueFrom: {secretKeyRef: {name: orders-db, key: username}}}]\n" + env, "environment"},
		{"a Secret in the environment", eso, env, "          envFrom: [{secretRef: {name: orders-db}}]\n" + env, "environment"},
		{"a password in the arguments", secret, "dbname=orders ssl", "dbname=orders password=made-up ssl", "dsn"},
		{"a server that isn't verified", secret, "sslmode=verify-full", "sslmode=require", "dsn"},
		{"a copy in a Secret", csi, "  # No secretObjects", "  secretObjects: [{secretName: orders-db, type: Opaque, data: [{objectName: db.json, key: db}]}]\n  #", "secret"},
		{"an argument that the application doesn't have", secret, "-max-in-use=30s", "-checkout=30s", "argument"},

		{"a rotation that isn't turned on", csi, "--set enableSecretRotation=true ", "", "rotation"},
		{"a poll that isn't what is set", csi, "rotationPollInterval=2m", "rotationPollInterval=10m", "rotation"},
		{"no refresh", eso, "refreshInterval: 30m", "refreshInterval: 0s", "rotation"},

		{"no window", secret, "            - -overlap=1h\n", "            - -overlap=0s\n", "window"},
		{"a window that the lag fills", secret, "-max-in-use=30s", "-max-in-use=2h", "window"},
		{"a window that leaves next to nothing", secret, "-max-in-use=30s", "-max-in-use=58m25s", "window"},
		{"a number without a unit", secret, "-max-in-use=30s", "-max-in-use=30", "window"},
		{"a lag shorter than the kubelet's", secret, "-lag=90s", "-lag=5s", "lag"},
		{"a lag shorter than the poll", csi, "-lag=4m", "-lag=90s", "lag"},
		{"more overlap than the operator leaves", vso, "-overlap=13m", "-overlap=30m", "overlap"},
		{"a later renewal", vso, "renewalPercent: 67", "renewalPercent: 80", "overlap"},
		{"a later refresh", eso, "refreshInterval: 30m", "refreshInterval: 50m", "overlap"},
		{"a shorter lease", injector, "# - ttl 1h:", "# - ttl 30m:", "overlap"},

		{"a probe of something else", secret, "path: /readyz", "path: /healthz", "readiness"},
		{"a probe at another port", secret, "port: observe}", "port: http}", "readiness"},
		{"no probe", secret, "            httpGet: {path: /readyz, port: observe}\n", "            tcpSocket: {port: observe}\n", "readiness"},
		{"a liveness probe", secret, env, "          livenessProbe: {httpGet: {path: /readyz, port: observe}}\n" + env, "liveness"},

		{"root", secret, "runAsUser: 65532", "runAsUser: 0", "security context"},
		{"a file system that can be written", secret, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "security context"},
		{"an agent with capabilities", sidecar, "            capabilities: {drop: [ALL]}\n          volumeMounts:\n            - {name: db-login, mountPath: /vault/secrets}", "          volumeMounts:\n            - {name: db-login, mountPath: /vault/secrets}", "security context"},
		{"no resources", secret, "requests: {cpu: 50m, memory: 32Mi}", "requests: {}", "resources"},
		{"no time to end", secret, "terminationGracePeriodSeconds: 30", "terminationGracePeriodSeconds: 5", "grace"},
		{"a token of Kubernetes for the application", secret, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "token"},
		{"a file that only the agent may read", sidecar, `perms                = "0440"`, `perms                = "0400"`, "mode"},
		{"a file that only the injected agent may read", injector, `perms-db: "0440"`, `perms-db: "0400"`, "mode"},
		{"a Secret without a group", secret, "        fsGroup: 65532\n", "", "mode"},
		{"a group that the driver doesn't know", csi, "filePermission: 0444", "filePermission: 0440", "mode"},

		{"a service account that isn't there", vso, "serviceAccountName: orders", "serviceAccountName: order", "reference"},
		{"another namespace", eso, "kind: ExternalSecret\nmetadata:\n  name: orders-db\n  namespace: shop", "kind: ExternalSecret\nmetadata:\n  name: orders-db\n  namespace: default", "reference"},
		{"another VaultAuth", vso, "vaultAuthRef: orders", "vaultAuthRef: order", "reference"},
		{"another generator", eso, "          kind: VaultDynamicSecret\n          name: orders-db", "          kind: VaultDynamicSecret\n          name: orders", "reference"},
		{"another class", csi, "secretProviderClass: orders-db", "secretProviderClass: orders", "reference"},
		{"another role in Vault", eso, "role: orders", "role: order", "vault"},
		{"another path in Vault", vso, "path: creds/orders", "path: static-creds/orders", "vault"},
		{"another Vault than there is", sidecar, `"https://vault.vault.svc:8200"`, `"https://vault:8200"`, "vault"},

		{"a promise that isn't so", secret, "# - lag 90s:", "# - lag 60s:", "promise"},
		{"a promise that nobody checks", secret, "# - lag 90s:", "# - speed 9: it is fast\n# - lag 90s:", "promise"},
		{"no word of the ttl", vso, "# - token 2h:", "# token 2h:", "promise"},
		{"a token that ends before its leases", vso, "# - token 2h:", "# - token 30m:", "promise"},
	} {
		t.Run(test.example+", "+test.what, func(t *testing.T) {
			good := text(t, test.example)
			bad := strings.Replace(good, test.before, test.after, 1)
			if bad == good {
				t.Fatalf("there is no %q in it", test.before)
			}
			found := w.check(t.Context(), bad)
			if len(found) == 0 || slices.ContainsFunc(found, func(f finding) bool { return f.name != test.found }) {
				t.Errorf("found are %q, and not %s alone", found, test.found)
			}
		})
	}
}
