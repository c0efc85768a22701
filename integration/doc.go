// Package integration holds tests of sqlrotate against the programs that rotate
// logins in production: a Vault server with its database engine, and a Vault Agent
// that renders what it issues into a file. The nested modules beside it do the same
// with containers and with the kubelet's volumes. A PgBouncer stands between the
// application and the server in some.
//
// It is a module of its own, so that nobody who imports sqlrotate downloads any of
// this. `make integration` builds Vault, which takes a while, and runs everything.
package integration
