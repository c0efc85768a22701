// Package rdstoken logs in to Amazon RDS and Aurora with IAM database authentication: the
// password is a token, signed here with the SDK's credentials, that is asked for at login
// only.
//
//	cfg, err := config.LoadDefaultConfig(ctx) // github.com/aws/aws-sdk-go-v2/config
//	if err != nil {
//		return err
//	}
//	source, err := rdstoken.New(cfg, rdstoken.Options{Endpoint: "app.cdgmuqiadpid.us-west-2.rds.amazonaws.com:5432", Username: "app"})
//	if err != nil {
//		return err
//	}
//	defer source.Close()
//
// The window is [sqlrotate.LoginTokens]. At the database the user has the role rds_iam, and
// the policy of the SDK's credentials allows rds-db:connect for it. RDS takes tokens
// over TLS only: let the DSN have sslmode=verify-full, and sslrootcert with the file of
// RDS's certificate authorities.
//
// It is a module of its own: the root module does not depend on the SDK.
package rdstoken

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
	"github.com/sqlrotate/sqlrotate"
)

const (
	// lifetime is how long a token is good, which nobody can change.
	lifetime = 15 * time.Minute
	// soon is how long before their end credentials aren't signed with, if there are others.
	soon = 10 * time.Second
)

// Options say whom [New] makes tokens for.
type Options struct {
	// Endpoint is the instance, cluster or proxy as host:port. Required. It is the name
	// that RDS has given it, whatever name or tunnel it is dialled by: a token for an
	// alias (CNAME), an address or another port is refused.
	Endpoint string

	// Username is the database's user. Required.
	Username string

	// Cache adjusts the cache that is in front of it.
	Cache sqlrotate.CacheOptions
}

// New returns a source of tokens, behind a cache. They are signed with cfg.Credentials for
// the region that is in the endpoint's name, or for cfg.Region if none is. Nothing else of
// cfg is used.
//
// A token's NotAfter is 15 min after it was signed, or the end of the credentials that it
// was signed with if that is earlier: it ends with them. The next one is signed when half
// to two thirds of its time have passed. When a login was refused, and ten seconds before
// the end of credentials, they are fetched anew, past the SDK's own cache of them
// ([aws.CredentialsCache]): after a refusal once a minute at the most.
func New(cfg aws.Config, opt Options) (*sqlrotate.CachedSource, error) {
	s, err := newSource(cfg, opt)
	if err != nil {
		return nil, err
	}
	return sqlrotate.NewCachedSource(s, opt.Cache)
}

// source signs a token at each call. It is a [sqlrotate.Refresher].
type source struct {
	endpoint, region, username string
	credentials                aws.CredentialsProvider
}

func newSource(cfg aws.Config, opt Options) (*source, error) {
	host, err := hostOf(opt.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("sqlrotate: rdstoken: Options.Endpoint %q: %w", opt.Endpoint, err)
	}
	s := &source{endpoint: opt.Endpoint, region: regionOf(host), username: opt.Username, credentials: cfg.Credentials}
	if s.region == "" {
		s.region = cfg.Region
	}
	switch {
	case s.username == "":
		return nil, errors.New("sqlrotate: rdstoken: Options.Username is empty")
	case s.region == "":
		return nil, fmt.Errorf("sqlrotate: rdstoken: no region is in %q, and none in the configuration", host)
	case s.credentials == nil:
		return nil, errors.New("sqlrotate: rdstoken: the configuration has no credentials provider")
	}
	return s, nil
}

// hostOf returns the host of an endpoint, or what is wrong with that.
func hostOf(endpoint string) (string, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", errors.New("it is not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
		return "", errors.New("its port is no number of a port")
	}
	_, err = netip.ParseAddr(host)
	switch {
	case err == nil:
		return "", errors.New("it is an address: a token is for the endpoint's name")
	case host != strings.ToLower(host):
		return "", errors.New("it is not in lower case, as RDS's names are")
	case host == "" || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.HasSuffix(host, "."):
		return "", errors.New("it is not host:port")
	}
	return host, nil
}

// regionOf returns the region in the name that RDS gives an endpoint: the label before
// rds, as in app.id.us-west-2.rds.amazonaws.com, or the one after it, as in China:
// app.id.rds.cn-north-1.amazonaws.com.cn. The name of a global database's writer has none.
func regionOf(host string) string {
	for _, domain := range []string{".amazonaws.com", ".amazonaws.com.cn"} {
		name, ok := strings.CutSuffix(host, domain)
		labels := strings.Split(name, ".")
		n := len(labels)
		switch {
		case !ok || n < 3:
		case labels[n-1] == "rds" && labels[n-2] != "global":
			return labels[n-2]
		case labels[n-2] == "rds":
			return labels[n-1]
		}
	}
	return ""
}

// String names the endpoint.
func (s *source) String() string { return "rds " + s.endpoint }

// Credential signs a token.
func (s *source) Credential(ctx context.Context) (sqlrotate.Credential, error) {
	credentials, err := s.retrieve(ctx)
	if err != nil {
		return sqlrotate.Credential{}, fmt.Errorf("sqlrotate: %s: AWS credentials: %w", s, err)
	}
	if !credentials.HasKeys() {
		return sqlrotate.Credential{}, fmt.Errorf("sqlrotate: %s: the AWS credentials are empty", s)
	}
	signed := time.Now().Truncate(time.Second) // as it is in the token, or earlier
	token, err := auth.BuildAuthToken(ctx, s.endpoint, s.region, s.username, these(credentials))
	if err != nil {
		return sqlrotate.Credential{}, fmt.Errorf("sqlrotate: %s: %w", s, err)
	}
	end := signed.Add(lifetime)
	if credentials.CanExpire && credentials.Expires.Before(end) {
		end = credentials.Expires
	}
	return sqlrotate.Credential{Username: s.username, Password: sqlrotate.NewSecret(token), NotAfter: end.Round(0)}, nil
}

// retrieve returns credentials that don't end soon, if there are any. The SDK's cache gives
// them out to their last moment, and a token that is good for a moment is no use.
func (s *source) retrieve(ctx context.Context) (aws.Credentials, error) {
	credentials, err := s.credentials.Retrieve(ctx)
	if err != nil || !credentials.CanExpire || time.Until(credentials.Expires) > soon || !s.invalidate() {
		return credentials, err
	}
	if next, err := s.credentials.Retrieve(ctx); err == nil {
		return next, nil
	}
	return credentials, nil
}

// invalidate has the SDK forget the credentials that it remembers, and reports whether it
// can.
func (s *source) invalidate() bool {
	cache, ok := s.credentials.(interface{ Invalidate() })
	if ok {
		cache.Invalidate()
	}
	return ok
}

// these provides the credentials whose end is known, and not those of a moment later.
func these(credentials aws.Credentials) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil })
}

// Refresh signs a token with credentials that the SDK has fetched anew: those that it
// remembers may have been revoked.
func (s *source) Refresh(ctx context.Context, _ sqlrotate.Credential) (sqlrotate.Credential, error) {
	s.invalidate()
	return s.Credential(ctx)
}
