package mysqlopener_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/openertest"
	"github.com/sqlrotate/sqlrotate/sqlrotatetest"

	"github.com/sqlrotate/sqlrotate/mysqlopener"
)

func open(dsn string) (sqlrotate.Opener, error) {
	cfg, err := mysqlopener.Parse(dsn)
	if err != nil {
		return nil, err
	}
	return mysqlopener.New(cfg)
}

func TestAtAServer(t *testing.T) {
	server := openertest.NewMariaDB(t)
	t.Run("conforms", func(t *testing.T) { conforms(t, server) })
}

func conforms(t *testing.T, server *openertest.MariaDB) {
	verified := func(dsn string) (sqlrotate.Opener, error) {
		cfg, err := mysqlopener.Parse(dsn)
		if err != nil {
			return nil, err
		}
		ca, err := os.ReadFile(server.CAFile())
		if err != nil {
			return nil, err
		}
		cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		cfg.TLS.RootCAs.AppendCertsFromPEM(ca)
		return mysqlopener.New(cfg)
	}
	for name, test := range map[string]struct {
		open       func(string) (sqlrotate.Opener, error)
		parameters string
	}{
		"plain": {open, ""}, "TLS": {verified, ""}, "TLS if there is any": {open, "tls=preferred"},
		"compressed": {open, "compress=true"}, "all sorts": {open, "charset=utf8mb4&parseTime=true&loc=UTC&maxAllowedPacket=0&time_zone=%27%2B00:00%27&readTimeout=20s&interpolateParams=true"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := sqlrotatetest.TestOpener(server.Harness(t, test.open, test.parameters)); err != nil {
				t.Error(err)
			}
		})
	}
}
