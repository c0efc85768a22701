package sqlrotate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The text of an error that holds a secret is withheld, and what the server says by its code
// is not: the password may be the user's name.
func TestWithheldErrorsKeepTheirCode(t *testing.T) {
	const secret = "hunter2"
	said := func(text string, states ...error) error { return fmt.Errorf("%s: %w", text, errors.Join(states...)) }
	for _, test := range []struct {
		err     error
		refused bool
		code    string
	}{
		{said(`no login for user "hunter2"`, stateError("28P01")), true, "28P01"},
		{said(`no login for user "hunter2"`, stateError("57P03"), stateError("28000")), true, "28000"},
		{said(`user "hunter2" has too many`, stateError("53300")), false, "53300"},
		{errors.New("dsn password=hunter2 is bad"), false, ""},
	} {
		got := Withhold(test.err, "", secret)
		if strings.Contains(fmt.Sprintf("%v %+v %#v", got, got, got), secret) || !strings.Contains(got.Error(), "is withheld") {
			t.Errorf("%v is told as %v", test.err, got)
		}
		if SQLStateRefused(got) != test.refused || sqlState(got) != test.code || full(FromDriver(nil, nil), got) != (test.code == "53300") {
			t.Errorf("%v: %v, code %q", test.err, SQLStateRefused(got), sqlState(got))
		}
		if got := Withhold(test.err, "", "another"); got != test.err { //nolint:errorlint // the same one
			t.Errorf("%v is withheld without a reason: %v", test.err, got)
		}
	}
	if err := Withhold(nil, secret); err != nil {
		t.Error(err)
	}
}
