package sqlrotate

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"testing"
	"text/template"
	"time"
)

// config is how an application may hold a credential.
type config struct {
	Name       string
	Credential Credential
	Pointer    *Credential
	hidden     Credential
	Map        map[string]Secret
	Any        any
}

func TestSecretsArePrintedByNothing(t *testing.T) {
	const password = "hunter2"
	secret := NewSecret(password)
	cred := Credential{Username: "app", Password: secret, NotAfter: time.Unix(1e9, 0), Version: "7"}
	c := config{"db", cred, &cred, cred, map[string]Secret{"k": secret}, secret}

	var out bytes.Buffer
	for _, v := range []any{secret, &secret, cred, &cred, c, &c, []Secret{secret}, errors.Join(fmt.Errorf("wrapped: %v", cred))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		log.New(&out, "", 0).Println(v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		if b, err := xml.Marshal(v); err == nil {
			out.Write(b)
		}
		_ = gob.NewEncoder(&out).Encode(v)
		_ = template.Must(template.New("").Parse("{{.}} {{printf \"%v %s\" . .}}\n")).Execute(&out, v)
	}
	if i := strings.Index(out.String(), password); i >= 0 {
		t.Errorf("printed: …%s…", out.String()[max(0, i-100):i+len(password)])
	}
	if i := strings.Index(out.String(), fmt.Sprintf("%x", password)); i >= 0 {
		t.Errorf("printed in hexadecimal: …%s…", out.String()[max(0, i-100):i+20])
	}
	if n := strings.Count(out.String(), redacted); n < 50 {
		t.Errorf("%d redacted renderings: does this test print anything?", n)
	}
	if !strings.Contains(out.String(), "app") {
		t.Error("the user name is no secret")
	}
}

func TestSecretEquality(t *testing.T) {
	if !NewSecret("a").Equal(NewSecret("a")) || NewSecret("a").Equal(NewSecret("b")) || NewSecret("a").Equal(NewSecret("aa")) {
		t.Error("Equal doesn't compare the passwords")
	}
	if !(Secret{}).Equal(NewSecret("")) || (Secret{}).Reveal() != "" {
		t.Error("the zero Secret isn't the empty password")
	}
	if NewSecret("a").Reveal() != "a" {
		t.Error("Reveal doesn't reveal")
	}
}

func TestVersionIsUserNameAndPasswordAndNothingElse(t *testing.T) {
	a := Credential{Username: "u", Password: NewSecret("p"), NotAfter: time.Unix(1, 0), Version: "1"}
	for want, b := range map[*Credential]bool{
		{Username: "u", Password: NewSecret("p"), NotAfter: time.Unix(2, 0), Version: "2"}: true,
		{Username: "u", Password: NewSecret("q"), NotAfter: time.Unix(1, 0), Version: "1"}: false,
		{Username: "v", Password: NewSecret("p"), NotAfter: time.Unix(1, 0), Version: "1"}: false,
	} {
		if a.SameLogin(*want) != b {
			t.Errorf("%+v: same is %t", want, !b)
		}
	}
}
