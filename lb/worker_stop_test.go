package lb_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/sketch"
	"ballast/internal/wait"
	"ballast/lb"
)

// stops is how the stops are tried: short ones in every run of the tests, and by
// BALLAST_MEASURE=stops such that handlers take longer than ack_wait.
type stops struct {
	n                         int
	ackWait, heartbeat, takes time.Duration // takes: of every 20th message; others take 5 ms
}

func stopsToTry() stops {
	if os.Getenv("BALLAST_MEASURE") == "stops" {
		return stops{n: 100, ackWait: time.Second, takes: 2500 * time.Millisecond}
	}
	return stops{n: 100, ackWait: ackWait, heartbeat: 10 * time.Millisecond, takes: 60 * time.Millisecond}
}

// A worker is stopped in order and started anew again and again, with eight
// handlers at work, messages that arrive while it stops, and handlers that keep
// their messages by heartbeats. Nothing is lost, and nothing has to be delivered
// again.
func TestOrderlyStops(t *testing.T) {
	t.Parallel()
	try := stopsToTry()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	ordersStream(t, js, 1)
	eastConsumer(t, js, try.ackWait)
	sent, endLoad := steady(t, js)

	var l ledger
	var redelivered, busy atomic.Int64
	handler := func(ctx context.Context, msg jetstream.Msg) error {
		l.add(msg)
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream%20 == 0 {
			return work(ctx, try.takes)
		}
		return work(ctx, 5*time.Millisecond)
	}
	var took sketch.Sketch
	for stop := range try.n {
		cfg := config(handler)
		cfg.Concurrency, cfg.Prefetch = 8, stop%3*4
		cfg.Heartbeat = try.heartbeat
		cfg.Observe = func(o lb.Outcome) {
			if o.Err != nil {
				t.Errorf("order %d: %v", o.Sequence, o.Err)
			}
			if o.Deliveries > 1 {
				redelivered.Add(1)
			}
		}
		w := worker(t, natstest.Connect(t, nc.ConnectedUrl()), cfg)
		halt := running(t, "worker", w.Run)
		if stop%2 == 0 { // more than it can take
			publishOrders(t, js, -200*(stop+1), -200*stop)
			sent.Add(200)
		}
		wait.For(t, time.Minute, "some work", func() bool { return w.Stats().Processed >= 50 })
		busy.Add(int64(w.Stats().InFlight))
		start := time.Now()
		halt()
		took.Add(time.Since(start))
		if s := w.Stats(); s.InFlight != 0 {
			t.Errorf("after Run %d messages are in flight", s.InFlight)
		}
		// Acknowledgements are one-way; the server may still be at the last of them.
		wait.For(t, time.Minute, "the last acknowledgements", func() bool { return info(t, js).NumAckPending == 0 })
	}
	endLoad()
	cfg := config(func(_ context.Context, msg jetstream.Msg) error { l.add(msg); return nil })
	cfg.Concurrency = 8
	running(t, "last worker", worker(t, nc, cfg).Run)
	wait.For(t, time.Minute, "the rest", func() bool { i := info(t, js); return i.NumPending == 0 && i.NumAckPending == 0 })
	orders, handled := l.counts()
	want := int(sent.Load())
	t.Logf("%d stops with %.1f messages in hand on average: %d orders stored, %d handled in %d handler runs, %d redelivered; a stop took %v at the median, %v at most",
		try.n, float64(busy.Load())/float64(try.n), want, orders, handled, redelivered.Load(), took.Quantile(0.5).Round(time.Millisecond), took.Max().Round(time.Millisecond))
	if orders != want || handled != want || redelivered.Load() != 0 {
		t.Errorf("%d orders, %d handler runs, %d redelivered; want %d, %d, 0", orders, handled, redelivered.Load(), want, want)
	}
}

// steady stores an order every 2 ms until it is ended, and counts them.
func steady(tb testing.TB, js jetstream.JetStream) (sent *atomic.Int64, end func()) {
	tb.Helper()
	sent = &atomic.Int64{}
	end = running(tb, "steady load", func(ctx context.Context) error {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			// To its end, whatever ctx says: what was stored must be counted.
			if _, err := js.PublishMsg(context.WithoutCancel(ctx), &nats.Msg{Subject: "orders.process.east", Data: fmt.Appendf(nil, "%d", i)}); err != nil {
				return fmt.Errorf("store an order: %w", err)
			}
			sent.Add(1)
		}
	})
	return sent, end
}
