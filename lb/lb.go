// Package lb is the client library of Ballast, for applications that publish to
// a split or work for one of its targets: Connect, Publisher, Worker and
// QueueWorker. docs/client-library.md shows it as a whole.
//
// It follows decisions and makes none. It never writes to the KV bucket, and
// it needs no console: with every console stopped, publishers go on by the last
// document they read. It starts nothing by itself; Run of a Publisher, a Worker
// or a QueueWorker owns their goroutines and returns when the last of them has
// ended.
package lb

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

func discard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// jitter spreads d by ±20 %, so that many clients that lost the same server do
// not come back in step.
func jitter(d time.Duration, random func() float64) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*random()))
}

// pause waits for about d, and reports whether ctx is still alive then.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(jitter(d, rand.Float64))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// rest waits for d, but no longer than until the connection is there again.
func rest(ctx context.Context, connected <-chan nats.Status, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-connected:
	case <-t.C:
	}
}
