package rdstoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// fakeRDS looks at tokens as RDS does, by the rules of Signature Version 4, and knows
// nothing of the SDK.
type fakeRDS struct {
	endpoint, region, username string

	mu   sync.Mutex
	keys map[string]fakeKey // by their ids
}

// fakeKey is a key of the account's.
type fakeKey struct {
	secret, session string
	end             time.Time // zero: none
}

// check returns why a token is refused at now, or nil.
func (f *fakeRDS) check(token string, now time.Time) error {
	u, err := url.Parse("https://" + token)
	if err != nil {
		return err
	}
	query := u.Query()
	id, scope, _ := strings.Cut(query.Get("X-Amz-Credential"), "/")
	f.mu.Lock()
	key, known := f.keys[id]
	f.mu.Unlock()
	date, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	if err != nil {
		return err
	}
	wantScope := date.Format("20060102") + "/" + f.region + "/rds-db/aws4_request"
	for name, values := range query {
		if len(values) != 1 {
			return fmt.Errorf("%d values for %s", len(values), name)
		}
	}
	switch {
	case u.Host != f.endpoint:
		return errors.New("it is for " + u.Host)
	case strings.Trim(u.Path, "/") != "":
		return errors.New("it is for " + u.Path)
	case query.Get("Action") != "connect" || query.Get("DBUser") != f.username:
		return errors.New("it is for another user")
	case query.Get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" || query.Get("X-Amz-SignedHeaders") != "host" || query.Get("X-Amz-Expires") != "900":
		return errors.New("it is signed in another way")
	case !known:
		return errors.New("nobody has the key " + id)
	case !key.end.IsZero() && !now.Before(key.end):
		return errors.New("the key has ended")
	case query.Get("X-Amz-Security-Token") != key.session:
		return errors.New("it has another session token")
	case scope != wantScope:
		return fmt.Errorf("its scope is %s, and not %s", scope, wantScope)
	case now.Before(date.Add(-5 * time.Minute)):
		return errors.New("it is not good yet")
	case now.After(date.Add(15 * time.Minute)):
		return errors.New("it has expired")
	}
	got, err := hex.DecodeString(query.Get("X-Amz-Signature"))
	if err != nil || !hmac.Equal(got, signature(u.Host, query, key.secret, scope)) {
		return errors.New("its signature is wrong")
	}
	return nil
}

// signature signs a query.
func signature(host string, query url.Values, secret, scope string) []byte {
	var canonical []string
	for name, values := range query {
		if name != "X-Amz-Signature" {
			canonical = append(canonical, escape(name)+"="+escape(values[0]))
		}
	}
	slices.Sort(canonical)
	request := strings.Join([]string{"GET", "/", strings.Join(canonical, "&"), "host:" + host, "", "host", sum("")}, "\n")
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	return mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", query.Get("X-Amz-Date"), scope, sum(request)}, "\n"))
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}
