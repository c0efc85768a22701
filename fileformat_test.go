// The application's own decoder, and what the API makes of a refusal.

package sqlrotate

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/credfile"
)

func TestTheApplicationsDecoderReplacesAllOthers(t *testing.T) {
	opt := decodeOptions{decode: func(b []byte) (Credential, error) {
		return Credential{Username: "u", Password: NewSecret(string(b)), NotAfter: time.Unix(1, 0), Version: "7"}, nil
	}}
	cred, err := decodeFile([]byte("\ufefffake-Own\n"), opt)
	if err != nil || cred.Username != "u" || cred.Password.Reveal() != "\ufefffake-Own\n" || !cred.NotAfter.Equal(time.Unix(1, 0)) || cred.Version != "" {
		t.Errorf("got %q %q %v %q, %v", cred.Username, cred.Password.Reveal(), cred.NotAfter, cred.Version, err)
	}
	if cred, err = decodeDir(map[string][]byte{"password": []byte("fake-Own")}, opt); err != nil || cred.Username != "u" {
		t.Errorf("a directory of one file: got %q, %v", cred.Username, err)
	}
	cred, err = decodeDir(map[string][]byte{"username": nil, "password": nil}, opt)
	wantRefusal(t, cred.Credential, err, "unknown-format")
}

func TestTheApplicationsDecoderIsNotTrustedWithSecrets(t *testing.T) {
	secret := func(err error) func([]byte) (Credential, error) {
		return func([]byte) (Credential, error) {
			return Credential{Username: "u", Password: NewSecret("fake-A")}, err
		}
	}
	for name, c := range map[string]struct {
		decode func([]byte) (Credential, error)
		reason DecodeReason
	}{
		"error":            {secret(errors.New("fake-A")), "decoder"},
		"wrapped":          {secret(fmt.Errorf("%w: fake-A", os.ErrNotExist)), "decoder"},
		"its DecodeError":  {secret(&DecodeError{Reason: "fake-A"}), "decoder"},
		"panic":            {func(b []byte) (Credential, error) { panic("fake-A") }, "decoder"},
		"panic with error": {func(b []byte) (Credential, error) { panic(errors.New("fake-A")) }, "decoder"},
		"runtime panic":    {func(b []byte) (Credential, error) { return Credential{Username: string(b[100:])}, nil }, "decoder"},
		"nothing":          {func([]byte) (Credential, error) { return Credential{}, nil }, "no-username"},
		"no password":      {func([]byte) (Credential, error) { return Credential{Username: "u"}, nil }, "no-password"},
		"NUL":              {func([]byte) (Credential, error) { return Credential{Username: "fake-A\x00"}, nil }, "nul"},
	} {
		t.Run(name, func(t *testing.T) {
			cred, err := decodeFile([]byte("fake-A"), decodeOptions{decode: c.decode})
			wantRefusal(t, cred.Credential, err, c.reason)
			t.Log(err)
		})
	}
}

func TestADecodeErrorTellsWhatWasFound(t *testing.T) {
	opt := decodeOptions{Options: credfile.Options{Format: credfile.FormatDotenv}}
	cred, err := decodeFile([]byte("# x\nDB_USER=u\nDB_PASSWORD='fake-A\n"), opt)
	wantRefusal(t, cred.Credential, err, "syntax")
	if e := (*DecodeError)(nil); !errors.As(err, &e) || e.Format != FormatDotenv || e.Line != 3 || !strings.Contains(err.Error(), `as dotenv: line 3: the value of "DB_PASSWORD"`) {
		t.Errorf("%#v", err)
	}
}

func wantRefusal(t *testing.T, cred Credential, err error, reason DecodeReason) {
	t.Helper()
	var e *DecodeError
	if !errors.As(err, &e) {
		t.Fatalf("got %q %q, %v; want a DecodeError", cred.Username, cred.Password.Reveal(), err)
	}
	if e.Reason != reason {
		t.Errorf("Reason is %q, want %q (%v)", e.Reason, reason, err)
	}
	if cred.Username != "" || cred.Password.Reveal() != "" {
		t.Errorf("a credential comes with the error")
	}
	if !strings.HasPrefix(err.Error(), "no credential in it: ") {
		t.Errorf("error %q lacks the prefix", err)
	}
	wantNoSecret(t, err, "fake-")
}

// wantNoSecret checks every usual rendering of err.
func wantNoSecret(t *testing.T, err error, secret string) {
	t.Helper()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		text := fmt.Sprintf(format, err)
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s of the error contains %q: %s", format, secret, text)
		}
	}
}
