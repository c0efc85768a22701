// Package jail runs a test as somebody else: where file permissions count, or where it may
// mount.
package jail
