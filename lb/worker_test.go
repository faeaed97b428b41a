package lb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/reportpb"
	"ballast/internal/sketch"
	"ballast/internal/wait"
	"ballast/lb"
)

const ackWait = 20 * time.Second // longer than any test waits: what is redelivered was asked for

func eastConsumer(tb testing.TB, js jetstream.JetStream, ackWait time.Duration) {
	tb.Helper()
	_, err := js.CreateConsumer(context.Background(), "ORDERS", jetstream.ConsumerConfig{
		Durable: "east", FilterSubject: "orders.process.east", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: 1000, SampleFrequency: "100",
	})
	if err != nil {
		tb.Fatalf("create consumer: %v", err)
	}
}

func publishOrders(tb testing.TB, js jetstream.JetStream, from, to int) {
	tb.Helper()
	for i := from; i < to; i++ {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "orders.process.east", Data: fmt.Appendf(nil, "%d", i)}); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(20 * time.Second):
		tb.Fatal("the stream did not acknowledge all orders")
	}
}

func info(tb testing.TB, js jetstream.JetStream) *jetstream.ConsumerInfo {
	tb.Helper()
	c, err := js.Consumer(context.Background(), "ORDERS", "east")
	if err != nil {
		tb.Fatalf("consumer info: %v", err)
	}
	return c.CachedInfo()
}

// ledger counts how often each order was handled.
type ledger struct {
	mu   sync.Mutex // guards seen
	seen map[string]int
}

func (l *ledger) add(msg jetstream.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]int{}
	}
	l.seen[string(msg.Data())]++
}

func (l *ledger) counts() (orders, handled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.seen {
		handled += n
	}
	return len(l.seen), handled
}

func config(h lb.Handler) lb.WorkerConfig {
	return lb.WorkerConfig{
		Split: "orders", Target: "east", Stream: "ORDERS", Consumer: "east", Handler: h,
		PullWait: 100 * time.Millisecond, ReportEvery: -1,
	}
}

func worker(tb testing.TB, nc *nats.Conn, cfg lb.WorkerConfig) *lb.Worker {
	tb.Helper()
	w, err := lb.NewWorker(nc, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

// system is a server with the stream and the consumer.
func system(tb testing.TB) (*nats.Conn, jetstream.JetStream) {
	tb.Helper()
	nc := natstest.Connect(tb, natstest.Server(tb).ClientURL())
	js := jetStream(tb, nc)
	ordersStream(tb, js, 1)
	eastConsumer(tb, js, ackWait)
	return nc, js
}

// work takes d, unless ctx ends before.
func work(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestNewWorkerRefuses(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	good := config(func(context.Context, jetstream.Msg) error { return nil })
	for name, spoil := range map[string]func(*lb.WorkerConfig){
		"no split":        func(c *lb.WorkerConfig) { c.Split = "" },
		"a bad target":    func(c *lb.WorkerConfig) { c.Target = "a.>" },
		"no stream":       func(c *lb.WorkerConfig) { c.Stream = "" },
		"no consumer":     func(c *lb.WorkerConfig) { c.Consumer = "" },
		"no handler":      func(c *lb.WorkerConfig) { c.Handler = nil },
		"negative slots":  func(c *lb.WorkerConfig) { c.Concurrency = -1 },
		"negative waits":  func(c *lb.WorkerConfig) { c.PullWait = -time.Second },
		"an id of spaces": func(c *lb.WorkerConfig) { c.ID = "  " },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := lb.NewWorker(nc, cfg); err == nil {
			t.Errorf("NewWorker with %s = nil, want an error", name)
		}
	}
}

func TestWorkerBoundsItsConcurrency(t *testing.T) {
	t.Parallel()
	nc, js := system(t)
	publishOrders(t, js, 0, 200)
	var l ledger
	var now, most atomic.Int64
	cfg := config(func(ctx context.Context, msg jetstream.Msg) error {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		l.add(msg)
		return work(ctx, 2*time.Millisecond)
	})
	cfg.Concurrency = 4
	w := worker(t, nc, cfg)
	running(t, "worker", w.Run)
	wait.For(t, 30*time.Second, "200 acknowledgements", func() bool {
		if inFlight := w.Stats().InFlight; inFlight > 4 {
			t.Fatalf("%d messages are in flight, want at most 4", inFlight)
		}
		i := info(t, js)
		return i.AckFloor.Stream == 200 && i.NumAckPending == 0
	})
	if most.Load() != 4 {
		t.Errorf("at most %d handlers ran at the same time, want 4", most.Load())
	}
	if orders, handled := l.counts(); orders != 200 || handled != 200 {
		t.Errorf("%d orders were handled %d times, want 200 once", orders, handled)
	}
	wait.For(t, 30*time.Second, "the counts", func() bool { s := w.Stats(); return s.Processed == 200 && s.Failed == 0 && s.InFlight == 0 })
}

func TestWorkerAsksForRedeliveryOfWhatFailed(t *testing.T) {
	t.Parallel()
	nc, js := system(t)
	var mu sync.Mutex // guards tries
	tries := map[string]int{}
	var redelivered atomic.Int64
	cfg := config(func(_ context.Context, msg jetstream.Msg) error {
		mu.Lock()
		defer mu.Unlock()
		if tries[string(msg.Data())]++; tries[string(msg.Data())] == 1 {
			return errors.New("not today")
		}
		return nil
	})
	cfg.NakDelay = 50 * time.Millisecond
	cfg.Concurrency = 2
	cfg.Observe = func(o lb.Outcome) {
		if o.Err == nil && o.Deliveries == 2 {
			redelivered.Add(1)
		}
	}
	w := worker(t, nc, cfg)
	running(t, "worker", w.Run)
	publishOrders(t, js, 0, 20)
	wait.For(t, 30*time.Second, "every order's second try", func() bool { return redelivered.Load() == 20 })
	if s := w.Stats(); s.Processed != 40 || s.Failed != 20 {
		t.Errorf("Stats = %+v, want 40 processed and 20 failed", s)
	}
	wait.For(t, 30*time.Second, "the acknowledgements", func() bool { return info(t, js).AckFloor.Stream == 20 })
}

// Handlers that take longer than the time to finish are cut off, and another
// worker gets their messages at once.
func TestWorkerCutsHandlersOffAfterTheDrainTime(t *testing.T) {
	t.Parallel()
	nc, js := system(t)
	publishOrders(t, js, 0, 3)
	cfg := config(func(ctx context.Context, _ jetstream.Msg) error { return work(ctx, time.Hour) })
	cfg.Concurrency = 3
	cfg.Drain = 50 * time.Millisecond
	w := worker(t, nc, cfg)
	halt := running(t, "slow worker", w.Run)
	wait.For(t, 30*time.Second, "three busy handlers", func() bool { return w.Stats().InFlight == 3 })
	halt()
	var l ledger
	quick := config(func(_ context.Context, msg jetstream.Msg) error { l.add(msg); return nil })
	running(t, "quick worker", worker(t, nc, quick).Run)
	wait.For(t, ackWait/2, "the three orders", func() bool { n, _ := l.counts(); return n == 3 })
}

func TestWorkerWaitsForItsConsumer(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	var l ledger
	var book logBook
	cfg := config(func(_ context.Context, msg jetstream.Msg) error { l.add(msg); return nil })
	cfg.Log = book.logger()
	running(t, "worker", worker(t, nc, cfg).Run)
	wait.For(t, 30*time.Second, "a word about the missing stream", func() bool { return book.count("no messages can be fetched") > 0 })
	ordersStream(t, js, 1)
	eastConsumer(t, js, ackWait)
	publishOrders(t, js, 0, 10)
	wait.For(t, 30*time.Second, "ten orders", func() bool { n, _ := l.counts(); return n == 10 })
	// It survives that its consumer is deleted and created again.
	if err := js.DeleteConsumer(t.Context(), "ORDERS", "east"); err != nil {
		t.Fatal(err)
	}
	publishOrders(t, js, 10, 20)
	eastConsumer(t, js, ackWait)
	wait.For(t, 30*time.Second, "twenty orders", func() bool { n, _ := l.counts(); return n == 20 })
}

func TestWorkerReports(t *testing.T) {
	t.Parallel()
	nc, js := system(t)
	reports, err := nc.SubscribeSync(reportpb.Wildcard)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(func(ctx context.Context, msg jetstream.Msg) error {
		if string(msg.Data()) == "7" {
			return errors.New("seven")
		}
		return work(ctx, 3*time.Millisecond)
	})
	cfg.Concurrency = 4
	cfg.ReportEvery = 30 * time.Millisecond
	cfg.NakDelay = time.Hour
	cfg.ID = "w-1"
	w := worker(t, nc, cfg)
	halt := running(t, "worker", w.Run)
	publishOrders(t, js, 0, 100)
	wait.For(t, 30*time.Second, "100 orders", func() bool { return w.Stats().Processed == 100 })
	halt()

	var processed, failed uint64
	var processing, receiptToAck sketch.Sketch
	n := 0
	for {
		msg, err := reports.NextMsg(200 * time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := reportpb.Decode(msg.Subject, msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if r.Split != "orders" || r.Target != "east" || r.Worker != "w-1" || r.Workers != 4 || r.InFlight > 4 || r.Memory <= 0 || r.Cores != runtime.GOMAXPROCS(0) {
			t.Errorf("report %+v", r)
		}
		if age := time.Since(r.At); age < 0 || age > time.Minute {
			t.Errorf("report of %v", r.At)
		}
		n++
		processed += r.Processed
		failed += r.Failed
		processing.Merge(r.Processing)
		receiptToAck.Merge(r.ReceiptToAck)
	}
	if n < 2 {
		t.Errorf("%d reports, want several", n)
	}
	if processed != 100 || failed != 1 || processing.Count() != 100 || receiptToAck.Count() != 99 {
		t.Errorf("reports say %d processed, %d failed, %d timed, %d acknowledged; want 100, 1, 100, 99",
			processed, failed, processing.Count(), receiptToAck.Count())
	}
	if p50 := processing.Quantile(0.5); p50 < 3*time.Millisecond || p50 > receiptToAck.Quantile(0.5)+time.Millisecond {
		t.Errorf("median processing %v, to the acknowledgement %v", p50, receiptToAck.Quantile(0.5))
	}
}

// The server's ack_time is dominated by the work and not by messages that wait
// in the client, as it would be with the client's usual prefetch.
func TestWorkerKeepsAckTimeHonest(t *testing.T) {
	t.Parallel()
	nc, js := system(t)
	acks, err := nc.SubscribeSync("$JS.EVENT.METRIC.CONSUMER.ACK.ORDERS.east")
	if err != nil {
		t.Fatal(err)
	}
	measure := func(prefetch, from int) (server, client *sketch.Sketch) {
		const n = 200
		client, server = &sketch.Sketch{}, &sketch.Sketch{}
		var mu sync.Mutex // guards client
		cfg := config(func(ctx context.Context, _ jetstream.Msg) error { return work(ctx, 5*time.Millisecond) })
		cfg.Concurrency = 4
		cfg.Prefetch = prefetch
		cfg.Observe = func(o lb.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			client.Add(o.Processing)
		}
		w := worker(t, nc, cfg)
		publishOrders(t, js, from, from+n) // all are there before the first is taken
		halt := running(t, "worker", w.Run)
		wait.For(t, 30*time.Second, "the orders", func() bool { return w.Stats().Processed == n })
		halt()
		for range n {
			msg, err := acks.NextMsg(5 * time.Second)
			if err != nil {
				t.Fatalf("acknowledgement sample: %v", err)
			}
			var sample struct {
				AckTime time.Duration `json:"ack_time"`
			}
			if err := json.Unmarshal(msg.Data, &sample); err != nil {
				t.Fatal(err)
			}
			server.Add(sample.AckTime)
		}
		return server, client
	}
	server, client := measure(0, 0)
	far, _ := measure(100, 200)
	t.Logf("median handler run %v; server's ack_time %v without prefetch, %v with 100 messages", client.Quantile(0.5), server.Quantile(0.5), far.Quantile(0.5))
	// Relative to each other, because a busy machine delays both.
	if far.Quantile(0.5) < 5*server.Quantile(0.5) {
		t.Errorf("the median ack_time is %v without prefetch and %v with 100 messages, want a fifth or less", server.Quantile(0.5), far.Quantile(0.5))
	}
}
