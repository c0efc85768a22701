package credfile

import (
	"errors"
	"testing"
	"time"
)

// A token and a lifetime count in what a program has printed just now, and in no file:
// nobody knows when that was written.
func TestTokensAndLifetimesAreOfPrograms(t *testing.T) {
	for content, want := range map[string]Login{
		`{"username":"app","token":"t","expires_in":60}`:                                              {Password: "t", Lifetime: time.Minute},
		`{"username":"app","password":"p","token":"t","expires_in":"60"}`:                             {Password: "p", Lifetime: time.Minute},
		`{"lease_id":"l","lease_duration":60,"data":{"username":"app","password":"p"}}`:               {Password: "p", Lifetime: time.Minute},
		`{"lease_id":"","lease_duration":60,"data":{"username":"app","password":"p"}}`:                {Password: "p"},
		`{"lease_id":null,"lease_duration":60,"data":{"username":"app","password":"p"}}`:              {Password: "p"},
		`{"lease_id":"l","lease_duration":60,"expires_in":30,"username":"app","password":"p"}`:        {Password: "p", Lifetime: 30 * time.Second},
		`{"data":{"username":"app","password":"p","lease_id":"l","lease_duration":1,"expires_in":1}}`: {Password: "p"},
		`{"username":"app","password":"p","expires_in":null}`:                                         {Password: "p"},
		`{"username":"app","password":"p","expires_on":4102444800}`:                                   {Password: "p", NotAfter: time.Unix(4102444800, 0).UTC()},
		`{"username":"app","password":"p","expires_on":4102444800,"expires_at":4102444800}`:           {Password: "p", NotAfter: time.Unix(4102444800, 0).UTC()},
	} {
		got, err := Parse([]byte(content), Options{Printed: true})
		if err != nil || got.Username != "app" || got.Password != want.Password || got.Lifetime != want.Lifetime || !got.NotAfter.Equal(want.NotAfter) {
			t.Errorf("%s: %+v, %v", content, got, err)
		}
		var e *Error
		switch got, err := Parse([]byte(content), Options{}); {
		case want.Password == "t":
			if !errors.As(err, &e) || e.Reason != ReasonNoPassword {
				t.Errorf("%s in a file: %v", content, err)
			}
		case err != nil || got.Lifetime != 0:
			t.Errorf("%s in a file: %+v, %v", content, got, err)
		}
	}
}
