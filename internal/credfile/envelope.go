// Trees of keys: which of them is the login, and which envelopes producers put around it.

package credfile

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

// tree finds what there is in JSON or YAML. What the tools of a secret store print is an
// envelope: the login is in the secret that one of its members holds.
func (f *finder) tree(pairs []pair, fault *fault) error {
	if fault != nil {
		return f.failFault(fault)
	}
	kind, hasKind := find(pairs, "kind")
	_, isObject := find(pairs, "apiVersion")
	if isObject && !hasKind {
		return f.fail(ReasonSyntax, 0, "it is a Kubernetes object without a kind: perhaps it is not yet written to its end")
	}
	if kind.problem != nil && slices.ContainsFunc(pairs, isInData) {
		return f.failValue("kind", kind.line, kind.problem)
	}
	switch kind.value {
	case "Secret":
		return f.secret(pairs)
	case "SecretList", "List":
		return f.fail(ReasonSyntax, kind.line, "it is a list of Kubernetes objects: write one, as kubectl get secret NAME does")
	case "SealedSecret":
		return f.fail(ReasonEncrypted, kind.line, "it is a SealedSecret, which is encrypted: read the Secret that its controller makes of it")
	}
	for _, e := range envelopes() {
		mark, marked := find(pairs, e.mark...)
		p, found := find(pairs, e.member...)
		if found && marked && strings.Contains(mark.value, e.in) && p.problem == nil && !p.null {
			return f.only(p, pairs, e.encoded)
		}
	}
	return f.addAll(pairs)
}

// only finds what there is in the secret p of an envelope, if that has no other one.
func (f *finder) only(p pair, pairs []pair, encoded bool) error {
	another := func(o pair) bool { return slices.Equal(o.path, p.path) && o.value != p.value }
	if slices.ContainsFunc(pairs, another) {
		return f.fail(ReasonConflict, p.line, "two different values for %s", quote(strings.Join(p.path, ".")))
	}
	return f.enclose(p, encoded)
}

func isInData(p pair) bool { return len(p.path) > 1 && p.path[0] == "data" }

// envelope is what a tool prints a secret in.
type envelope struct {
	mark    []string // a member that it has ...
	in      string   // ... with this in its value
	member  []string // where the secret is
	encoded bool     // in base64
}

func envelopes() []envelope {
	return []envelope{
		{[]string{"SecretString"}, "", []string{"SecretString"}, false}, // aws secretsmanager get-secret-value
		{[]string{"SecretBinary"}, "", []string{"SecretBinary"}, true},
		{[]string{"Parameter", "Type"}, "", []string{"Parameter", "Value"}, false}, // aws ssm get-parameter
		{[]string{"id"}, "/secrets/", []string{"value"}, false},                    // az keyvault secret show
		{[]string{"name"}, "/secrets/", []string{"payload", "data"}, true},         // gcloud secrets versions access
	}
}

func find(pairs []pair, path ...string) (pair, bool) {
	i := slices.IndexFunc(pairs, func(p pair) bool { return slices.Equal(p.path, path) })
	if i < 0 {
		return pair{}, false
	}
	return pairs[i], true
}

// enclose finds what there is in the secret of an envelope.
func (f *finder) enclose(p pair, encoded bool) error {
	key := quote(strings.Join(p.path, "."))
	content := []byte(p.value)
	if encoded {
		var ok bool
		if content, ok = decode(p.value); !ok {
			return f.failValue(key, p.line, broken("is not base64"))
		}
	}
	if f.enclosed {
		return f.failValue(key, p.line, broken("is in an envelope that is in another one"))
	}
	inner := finder{opt: f.opt, enclosed: true}
	if err := inner.content(content); err != nil {
		return f.within(key, p.line, inner.explain(err))
	}
	inner.format, inner.why, inner.enclosed = f.format, f.why, false
	for _, found := range []*field{&inner.user, &inner.password, &inner.token, &inner.end} {
		if found.key != "" {
			found.key, found.line = found.key+" in "+key, p.line
		}
	}
	*f = inner
	return nil
}

// within says where a failure has happened.
func (f *finder) within(key string, line int, err error) error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // made here, and never wrapped
		return f.fail(e.Reason, line, "in the value of %s: %s", key, e.Detail)
	}
	return err
}

// decode reads base64 in either alphabet, with or without padding, on a line or several.
func decode(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "-_"+blanks) {
		s = strings.NewReplacer("-", "+", "_", "/", "\n", "", "\r", "", " ", "").Replace(s)
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	return b, err == nil
}

// secret finds what there is in a Secret, as kubectl prints it or as it is written: its
// values are what the files of its volume would hold.
func (f *finder) secret(pairs []pair) error {
	files := make(map[string][]byte)
	for _, in := range []string{"data", "stringData"} {
		for _, p := range pairs {
			if len(p.path) != 2 || p.path[0] != in {
				continue
			}
			content, ok := []byte(p.value), p.problem == nil
			if in == "data" && ok {
				content, ok = decode(p.value)
			}
			role := f.opt.role(p.path[1:])
			switch {
			case ok:
				files[p.path[1]] = content
			case role == roleUser || role == rolePassword || role == roleURL:
				return f.failValue(quote(strings.Join(p.path, ".")), p.line, broken("is not base64, which it should be in the data of a Secret"))
			}
		}
	}
	if len(files) == 0 {
		return f.fail(ReasonNoPassword, 0, "the Secret has no data, or not on lines of its own")
	}
	format, why, opt := f.format, f.why, f.opt
	f.opt.Format = FormatAuto // it was for the Secret
	err := f.dir(files)
	f.format, f.why, f.opt = format, why, opt
	return err
}

func isJSON(s string) bool { return json.Valid([]byte(s)) }
