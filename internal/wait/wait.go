// Package wait lets a test wait for a condition with a deadline. It never
// sleeps for a fixed time: a test is as fast as what it waits for.
package wait

import (
	"testing"
	"time"
)

// For polls cond until it holds, and fails the test when it does not within
// timeout. what completes the sentence "waited … for …". It must be called on
// the test's own goroutine.
func For(tb testing.TB, timeout time.Duration, what string, cond func() bool) {
	tb.Helper()
	if !until(timeout, cond) {
		tb.Fatalf("waited %v for %s", timeout, what)
	}
}

func until(timeout time.Duration, cond func() bool) bool {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return cond() // the machine may have been too busy to ask in between
		}
	}
	return true
}
