//go:build unix

package store

import (
	"os/signal"
	"syscall"
)

// ignoreSizeSignal makes a write beyond the system's limit of a file's size
// fail like on a full disk. Otherwise the Go runtime ends the process.
func ignoreSizeSignal() { signal.Ignore(syscall.SIGXFSZ) }
