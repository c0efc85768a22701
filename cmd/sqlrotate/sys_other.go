//go:build !unix

package main

import "io/fs"

// owner returns who owns a file, where that is known.
func owner(fs.FileInfo) (uid, gid int) { return -1, -1 }

// writable reports whether this process may make files in a directory, where that is known.
func writable(string) bool { return false }

// readable reports whether this process may read a file, where that is known.
func readable(string) bool { return true }
