//go:build !unix

package store

// ignoreSizeSignal: there is no such signal here.
func ignoreSizeSignal() {}
