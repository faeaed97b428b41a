package lb_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
)

// The server that leads the stream dies under load and comes back. Publishers
// and workers go on, a change of the weights reaches them, and what was
// acknowledged to the publisher is handled.
func TestLoadSurvivesAKilledLeader(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	admin := c.App(t)
	js := jetStream(t, admin)
	ordersStream(t, js, 3)
	// What the dead server was sending to the worker comes again after this time.
	eastConsumer(t, js, 2*time.Second)
	kv := bucket(t, js, 3)
	put(t, kv, revision(1, 1, splitOf(weights{"east": 100})))

	connect := func(name string) *nats.Conn {
		nc, err := lb.Connect(c.URLs(), lb.WithName(name), lb.WithUser(natstest.AppUser, natstest.AppPassword),
			lb.WithNATSOptions(nats.CustomReconnectDelay(func(int) time.Duration { return 50 * time.Millisecond })))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	p := publisher(t, connect("publisher"), lb.WithAttempts(8))
	ready(t, p)
	var l ledger
	var handled atomic.Int64
	cfg := config(func(_ context.Context, msg jetstream.Msg) error { l.add(msg); handled.Add(1); return nil })
	cfg.Concurrency = 8
	running(t, "worker", worker(t, connect("worker"), cfg).Run)

	// Four publishers send until they are told to stop.
	var stored, failed atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var publishers sync.WaitGroup
	for i := range 4 {
		publishers.Go(func() {
			for n := 0; work(ctx, 2*time.Millisecond) == nil; n++ {
				msg := &nats.Msg{Data: fmt.Appendf(nil, "%d-%d", i, n)}
				attempt, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, err := p.PublishJS(attempt, msg)
				cancel()
				if err != nil {
					t.Logf("message %s: %v", msg.Data, err)
					failed.Add(1)
					continue
				}
				stored.Add(1)
			}
		})
	}
	wait.For(t, 30*time.Second, "some traffic", func() bool { return stored.Load() > 200 })

	leader := c.StreamLeader("ORDERS")
	c.Kill(leader)
	killed, before := time.Now(), stored.Load()
	wait.For(t, 30*time.Second, "200 messages without the leader", func() bool { return stored.Load() >= before+200 })
	t.Logf("200 more messages were stored %v after the leader was killed", time.Since(killed))
	wait.For(t, 30*time.Second, "new weights without the leader", func() bool {
		doc, err := revision(2, 2, splitOf(weights{"east": 90, "west": 10})).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		_, err = kv.Put(t.Context(), "split.orders", doc)
		return err == nil
	})
	wait.For(t, 30*time.Second, "the new weights", at(p, 2))
	t.Logf("new weights were in force %v after the leader was killed", time.Since(killed))
	c.Restart(leader)
	t.Logf("the leader was back %v after it was killed", time.Since(killed))
	before = stored.Load()
	wait.For(t, 30*time.Second, "200 messages more", func() bool { return stored.Load() >= before+200 })
	stop()
	publishers.Wait()

	east := p.Stats().Targets["east"].Sent
	stopped := time.Now()
	wait.For(t, 30*time.Second, "all of east's orders", func() bool { n, _ := l.counts(); return uint64(n) >= east })
	t.Logf("the worker had caught up %v after the last message", time.Since(stopped))
	orders, runs := l.counts()
	stream, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	held := stream.CachedInfo().State.Msgs
	t.Logf("%d stored, %d failed, %d retried; the stream holds %d; east was sent %d and handled %d in %d runs",
		stored.Load(), failed.Load(), p.Stats().Retried, held, east, orders, runs)
	if failed.Load() == 0 && held != uint64(stored.Load()) {
		t.Errorf("the stream holds %d messages, %d were acknowledged", held, stored.Load())
	}
	if failed.Load() > 0 {
		t.Errorf("%d messages failed although an attempt had 20s", failed.Load())
	}
	if uint64(orders) != east {
		t.Errorf("east handled %d orders, %d were acknowledged to the publisher", orders, east)
	}
}
