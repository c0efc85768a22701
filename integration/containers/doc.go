// Package containers tests sqlrotate with PostgreSQL in a container, and with the
// application and its agent in containers that share a volume. It is a module of its
// own, as nothing else should need testcontainers-go.
package containers
