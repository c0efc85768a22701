package rdstoken

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/sqlrotate/sqlrotate"
)

const (
	endpoint = "app.cdgmuqiadpid.eu-west-1.rds.amazonaws.com:5432"
	username = "app_user"
)

var errNoCredentials = errors.New("no credentials today")

// fakeSTS issues temporary credentials that a fakeRDS knows, as the SDK's providers get
// them.
type fakeSTS struct {
	rds      *fakeRDS
	lifetime time.Duration // zero: they have no end
	issued   atomic.Int64
	down     atomic.Bool
}

func newFakes(lifetime time.Duration) (*fakeRDS, *fakeSTS) {
	rds := &fakeRDS{endpoint: endpoint, region: "eu-west-1", username: username, keys: map[string]fakeKey{}}
	return rds, &fakeSTS{rds: rds, lifetime: lifetime}
}

// Retrieve implements [aws.CredentialsProvider].
func (f *fakeSTS) Retrieve(context.Context) (aws.Credentials, error) {
	if f.down.Load() {
		return aws.Credentials{}, errNoCredentials
	}
	n := f.issued.Add(1)
	c := aws.Credentials{
		AccessKeyID: fmt.Sprint("ASIA", n), SecretAccessKey: fmt.Sprint("made up/+", n), SessionToken: fmt.Sprint("session/+=", n),
	}
	if f.lifetime > 0 {
		c.CanExpire, c.Expires = true, time.Now().Add(f.lifetime).Round(0)
	}
	f.rds.mu.Lock()
	defer f.rds.mu.Unlock()
	f.rds.keys[c.AccessKeyID] = fakeKey{secret: c.SecretAccessKey, session: c.SessionToken, end: c.Expires}
	return c, nil
}

// revoke makes all credentials so far good for nothing.
func (f *fakeRDS) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.keys)
}

func (f *fakeSTS) config() aws.Config {
	return aws.Config{Region: "us-east-1", Credentials: aws.NewCredentialsCache(f)} // another region than the endpoint's
}

// vector is a token that somebody has published, with the key that it was signed with.
type vector struct {
	from                              string
	token, endpoint, region, username string
	id, secret                        string
	signed                            time.Time
}

func vectors() []vector {
	return []vector{
		{
			from:     "the tests of botocore, on which the AWS CLI is built",
			token:    "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect&DBUser=someusername&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20161107T173933Z&X-Amz-SignedHeaders=host&X-Amz-Expires=900&X-Amz-Credential=akid%2F20161107%2Fus-east-1%2Frds-db%2Faws4_request&X-Amz-Signature=d1138cdbc0ca63eec012ec0fc6c2267e03642168f5884a7795320d4c18374c61",
			endpoint: "prod-instance.us-east-1.rds.amazonaws.com:3306", region: "us-east-1", username: "someusername",
			id: "akid", secret: "skid",
			signed: time.Date(2016, 11, 7, 17, 39, 33, 0, time.UTC),
		},
		{
			from:     "the tests of a plugin for MySQL's Java client",
			token:    "rdsmysql.cdgmuqiadpid.us-west-2.rds.amazonaws.com:3306/?Action=connect&DBUser=jane_doe&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20200128%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20200128T011752Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=9fa655ff59886494ffce521cb732648b9dd8feeb71b9b14d3d1e2b8a3c500ce8",
			endpoint: "rdsmysql.cdgmuqiadpid.us-west-2.rds.amazonaws.com:3306", region: "eu-west-1", username: "jane_doe",
			id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
			signed: time.Date(2020, 1, 28, 1, 17, 52, 0, time.UTC),
		},
	}
}

// The fake judges published tokens right, which it hasn't signed, and so is fit to judge
// ours; and what is signed here at the same second is what was published.
func TestPublishedTokens(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.from, func(t *testing.T) {
			rds := &fakeRDS{endpoint: v.endpoint, region: v.region, username: v.username, keys: map[string]fakeKey{v.id: {secret: v.secret}}}
			for what, c := range map[string]struct {
				token string
				at    time.Duration
				says  string
			}{
				"at once":        {v.token, 0, ""},
				"at the end":     {v.token, 15 * time.Minute, ""},
				"later":          {v.token, 15*time.Minute + 1, "it has expired"},
				"long before":    {v.token, -time.Hour, "not good yet"},
				"another user":   {strings.Replace(v.token, "DBUser=", "DBUser=x", 1), 0, "another user"},
				"another host":   {"x" + v.token, 0, "it is for x"},
				"another port":   {strings.Replace(v.token, ":3306", ":5432", 1), 0, "it is for"},
				"another key":    {strings.Replace(v.token, v.id, "other", 1), 0, "nobody has the key"},
				"another region": {strings.Replace(v.token, v.region+"%2Frds", "eu-south-1%2Frds", 1), 0, "its scope"},
				"a later date":   {strings.Replace(v.token, "T", "T0", 1), 0, "parsing time"},
				"signature":      {v.token[:len(v.token)-2] + "00", 0, "its signature is wrong"},
				"session":        {v.token + "&X-Amz-Security-Token=x", 0, "session"},
			} {
				if err := rds.check(c.token, v.signed.Add(c.at)); c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
					t.Errorf("%s: %v", what, err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(v.signed.Add(999 * time.Millisecond)))
				s, err := newSource(aws.Config{Credentials: these(aws.Credentials{AccessKeyID: v.id, SecretAccessKey: v.secret})}, Options{Endpoint: v.endpoint, Username: v.username})
				if err != nil {
					t.Fatal(err)
				}
				s.region = v.region // one of them isn't that of its endpoint
				cred, err := s.Credential(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if cred.Username != v.username || !cred.NotAfter.Equal(v.signed.Add(15*time.Minute)) {
					t.Errorf("%+v", cred)
				}
				if err := rds.check(cred.Password.Reveal(), cred.NotAfter); err != nil {
					t.Error(err)
				}
				if got, want := parts(t, cred.Password.Reveal()), parts(t, v.token); got != want {
					t.Errorf("it is\n%s, and not\n%s", got, want)
				}
			})
		})
	}
}

// parts returns the parts of a token, in order.
func parts(t *testing.T, token string) string {
	t.Helper()
	u, err := url.Parse("https://" + token)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host + " " + u.Query().Encode()
}

// Whatever credentials there are, what the source gives is a token that RDS takes, at any
// time until its NotAfter; and the SDK is asked for credentials no more often than they
// end.
func TestTokenIsGoodAtAnyTime(t *testing.T) {
	for lifetime, most := range map[time.Duration]int64{0: 1, time.Hour: 7, 15 * time.Minute: 25, 2 * time.Minute: 200} {
		t.Run(lifetime.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rds, sts := newFakes(lifetime)
				source, err := New(sts.config(), Options{Endpoint: endpoint, Username: username, Cache: sqlrotate.CacheOptions{Logger: slog.New(slog.DiscardHandler)}})
				if err != nil {
					t.Fatal(err)
				}
				defer source.Close()
				for began := time.Now(); time.Since(began) < 6*time.Hour; time.Sleep(7 * time.Second) {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					cred, err := source.Credential(ctx)
					cancel()
					if err != nil {
						t.Fatalf("after %v: %v", time.Since(began), err)
					}
					if err := rds.check(cred.Password.Reveal(), time.Now()); err != nil {
						t.Fatalf("after %v: %v", time.Since(began), err)
					}
					last := cred.NotAfter.Add(-time.Nanosecond)
					if err := rds.check(cred.Password.Reveal(), last); err != nil || !last.After(time.Now().Add(-time.Second)) {
						t.Fatalf("after %v, just before its NotAfter: %v", time.Since(began), err)
					}
				}
				if got := sts.issued.Load(); got > most {
					t.Errorf("the SDK was asked for credentials %d times", got)
				}
				if st := source.Status(); lifetime == 0 && st.Fetches > 6*8+1 {
					t.Errorf("%d tokens in six hours", st.Fetches)
				}
			})
		})
	}
}

// Credentials that are revoked are fetched anew when a login was refused, past the SDK's
// cache, though not at every refusal.
func TestRefusedTokenIsSignedWithNewCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rds, sts := newFakes(6 * time.Hour)
		source, err := New(sts.config(), Options{Endpoint: endpoint, Username: username})
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		first, err := source.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		rds.revoke()
		next, err := source.Refresh(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		if err := rds.check(next.Password.Reveal(), time.Now()); err != nil || sts.issued.Load() != 2 {
			t.Errorf("%v, %d", err, sts.issued.Load())
		}
		// Refused for another reason, such as that the user lacks rds_iam.
		for began := time.Now(); time.Since(began) < time.Hour; time.Sleep(time.Second) {
			if next, err = source.Refresh(t.Context(), next); err != nil {
				t.Fatal(err)
			}
		}
		if got := sts.issued.Load(); got > 9 { // after 1, 2, 4, 8 and then each 15 minutes
			t.Errorf("the SDK was asked for credentials %d times", got)
		}
	})
}

// The SDK may be without credentials for a while: the last token is used to its end.
func TestCredentialsThatCantBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, sts := newFakes(10 * time.Minute)
		source, err := New(sts.config(), Options{Endpoint: endpoint, Username: username, Cache: sqlrotate.CacheOptions{Logger: slog.New(slog.DiscardHandler)}})
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		first, err := source.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sts.down.Store(true)
		time.Sleep(10*time.Minute - time.Second)
		if cred, err := source.Credential(t.Context()); err != nil || cred.NotAfter.After(first.NotAfter) {
			t.Errorf("%v, %v", cred, err)
		}
		time.Sleep(time.Minute)
		_, err = source.Credential(t.Context())
		if !errors.Is(err, errNoCredentials) || !strings.HasPrefix(err.Error(), "sqlrotate: rds "+endpoint+": AWS credentials: ") {
			t.Errorf("then it says %v", err)
		}
		if err := source.CheckHealth(); !errors.Is(err, errNoCredentials) {
			t.Errorf("and CheckHealth %v", err)
		}
		sts.down.Store(false)
		time.Sleep(time.Minute)
		if _, err := source.Credential(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A user's name is in the token as it is, whatever is in it.
func TestUsersWithOddNames(t *testing.T) {
	for _, name := range []string{"app user", "a+b", "a&DBUser=b", "a%2Fb", "jané", "a=b?c#d/e", "a~b", "'app\"", "a;b", "日本"} {
		rds, sts := newFakes(0)
		rds.username = name
		s, err := newSource(sts.config(), Options{Endpoint: endpoint, Username: name})
		if err != nil {
			t.Fatal(err)
		}
		cred, err := s.Credential(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := rds.check(cred.Password.Reveal(), time.Now()); err != nil || cred.Username != name {
			t.Errorf("%q: %v, of %q", name, err, cred.Username)
		}
	}
}

func TestOptionsThatMakeNoToken(t *testing.T) {
	good := aws.Config{Region: "eu-west-1", Credentials: these(aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"})}
	for _, c := range []struct {
		endpoint, username string
		cfg                aws.Config
		says               string
	}{
		{"", username, good, "it is not host:port"},
		{":5432", username, good, "it is not host:port"},
		{"app.eu-west-1.rds.amazonaws.com", username, good, "it is not host:port"},
		{"https://app.eu-west-1.rds.amazonaws.com:5432", username, good, "it is not host:port"},
		{"app.eu-west-1.rds.amazonaws.com:5432/app", username, good, "its port"},
		{"user@app.eu-west-1.rds.amazonaws.com:5432", username, good, "it is not host:port"},
		{"app.eu-west-1.rds.amazonaws.com:postgres", username, good, "its port"},
		{"app.eu-west-1.rds.amazonaws.com:0", username, good, "its port"},
		{"app.eu-west-1.rds.amazonaws.com:05432", username, good, "its port"},
		{"app.eu-west-1.rds.amazonaws.com:+5432", username, good, "its port"},
		{"app.eu-west-1.rds.amazonaws.com.:5432", username, good, "it is not host:port"},
		{"app.eu-west-1.rds.amazonaws.com?x:5432", username, good, "it is not host:port"},
		{"app.eu-west-1.rds.amazonaws.com#x:5432", username, good, "it is not host:port"},
		{"10.0.0.1:5432", username, good, "it is an address"},
		{"[::1]:5432", username, good, "it is an address"},
		{"App.eu-west-1.rds.amazonaws.com:5432", username, good, "lower case"},
		{endpoint, "", good, "Username is empty"},
		{endpoint, username, aws.Config{}, "no credentials provider"},
		{"db.example.com:5432", username, aws.Config{Credentials: good.Credentials}, "no region"},
	} {
		_, err := New(c.cfg, Options{Endpoint: c.endpoint, Username: c.username})
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "sqlrotate: rdstoken: ") {
			t.Errorf("%q, %q: %v", c.endpoint, c.username, err)
		}
	}
	for endpoint, region := range map[string]string{
		"app.cdgmuqiadpid.us-west-2.rds.amazonaws.com:5432":                 "us-west-2",
		"app.proxy-cdgmuqiadpid.us-west-2.rds.amazonaws.com:5432":           "us-west-2",
		"app.cluster-ro-cdgmuqiadpid.cn-north-1.rds.amazonaws.com.cn:5432":  "cn-north-1",
		"app.cdgmuqiadpid.rds.cn-north-1.amazonaws.com.cn:5432":             "cn-north-1",
		"app.cluster-cdgmuqiadpid.rds.cn-northwest-1.amazonaws.com.cn:5432": "cn-northwest-1",
		"app.cdgmuqiadpid.us-gov-west-1.rds.amazonaws.com:5432":             "us-gov-west-1",
		"app.global-cdgmuqiadpid.global.rds.amazonaws.com:5432":             "eu-west-1",
		"db.example.com:5432":                          "eu-west-1",
		"us-west-2.rds.amazonaws.com.example.com:5432": "eu-west-1",
	} {
		if s, err := newSource(good, Options{Endpoint: endpoint, Username: username}); err != nil || s.region != region {
			t.Errorf("%s: %v, %v", endpoint, s, err)
		}
	}
	s, err := newSource(aws.Config{Credentials: these(aws.Credentials{})}, Options{Endpoint: endpoint, Username: username})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credential(t.Context()); err == nil || !strings.Contains(err.Error(), "are empty") {
		t.Errorf("without keys: %v", err)
	}
}
