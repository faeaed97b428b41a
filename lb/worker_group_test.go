package lb_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
)

// groupSystem is a server whose consumer divides by priority groups.
func groupSystem(tb testing.TB, policy jetstream.PriorityPolicy) (*nats.Conn, jetstream.JetStream) {
	tb.Helper()
	nc := natstest.Connect(tb, natstest.Server(tb).ClientURL())
	js := jetStream(tb, nc)
	ordersStream(tb, js, 1)
	setPolicy(tb, js, policy)
	return nc, js
}

func setPolicy(tb testing.TB, js jetstream.JetStream, policy jetstream.PriorityPolicy) {
	tb.Helper()
	cfg := jetstream.ConsumerConfig{
		Durable: "east", FilterSubject: "orders.process.east", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 1000,
	}
	if policy != jetstream.PriorityPolicyNone {
		cfg.PriorityPolicy, cfg.PriorityGroups = policy, []string{"crew"}
	}
	if policy == jetstream.PriorityPolicyPinned {
		cfg.PinnedTTL = time.Hour
	}
	if _, err := js.CreateOrUpdateConsumer(context.Background(), "ORDERS", cfg); err != nil {
		tb.Fatalf("consumer of policy %v: %v", policy, err)
	}
}

// hand is a worker whose handlers can be held.
type hand struct {
	worker  *lb.Worker
	stop    func()
	handled atomic.Int64
	gate    atomic.Pointer[chan struct{}] // handlers wait for it to be closed
}

// hold keeps the handlers from ending until the function that it returns is called.
func (h *hand) hold() (release func()) {
	gate := make(chan struct{})
	h.gate.Store(&gate)
	return func() { h.gate.Store(nil); close(gate) }
}

func hire(tb testing.TB, nc *nats.Conn, group lb.PriorityGroup, book *logBook) *hand {
	tb.Helper()
	h := &hand{}
	cfg := config(func(ctx context.Context, _ jetstream.Msg) error {
		if gate := h.gate.Load(); gate != nil {
			select {
			case <-*gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		h.handled.Add(1)
		return nil
	})
	cfg.Group, cfg.Concurrency, cfg.PullWait, cfg.Log = group, 4, 2*time.Second, book.logger()
	h.worker = worker(tb, natstest.Connect(tb, nc.ConnectedUrl()), cfg)
	h.stop = running(tb, "worker of group "+group.Name, h.worker.Run)
	return h
}

// one sends an order once so many requests for messages wait at the server, and
// waits until it was worked off.
func one(tb testing.TB, js jetstream.JetStream, requests int, hands ...*hand) {
	tb.Helper()
	all := func() (n int64) {
		for _, h := range hands {
			n += h.handled.Load()
		}
		return n
	}
	wait.For(tb, time.Minute, fmt.Sprint(requests, " requests that wait"), func() bool { return info(tb, js).NumWaiting >= requests })
	before := all()
	publishOrders(tb, js, 0, 1)
	wait.For(tb, time.Minute, "the order to be worked off", func() bool { return all() > before })
}

// The worker of the first priority gets everything while it has a free handler;
// what it has none for goes to the next one, and everything when it is gone.
func TestPrioritizedWorkers(t *testing.T) {
	t.Parallel()
	nc, js := groupSystem(t, jetstream.PriorityPolicyPrioritized)
	var book logBook
	backup := hire(t, nc, lb.PriorityGroup{Name: "crew", Priority: 1}, &book)
	primary := hire(t, nc, lb.PriorityGroup{Name: "crew"}, &book)
	const n = 40
	for range n {
		one(t, js, 2, primary, backup)
	}
	// A request that has just run out is rare, and the next priority's turn then.
	if got := primary.handled.Load(); got < n*9/10 {
		t.Errorf("of %d orders the primary worker got %d", n, got)
	}

	release := primary.hold()
	before := backup.handled.Load()
	publishOrders(t, js, 0, 20)
	wait.For(t, time.Minute, "the backup to get what the primary has no handler for", func() bool { return backup.handled.Load() >= before+16 })
	if held := primary.worker.Stats().InFlight; held > 4 {
		t.Errorf("the primary holds %d orders and has 4 handlers", held)
	}
	release()
	wait.For(t, time.Minute, "all orders", func() bool { i := info(t, js); return i.NumPending == 0 && i.NumAckPending == 0 })

	primary.stop()
	before = backup.handled.Load()
	for range 10 {
		one(t, js, 1, backup)
	}
	if got := backup.handled.Load() - before; got != 10 {
		t.Errorf("without the primary the backup got %d of 10 orders", got)
	}
	if n := book.count("WARN"); n != 0 {
		t.Errorf("warnings of workers that were in order: %s", book.text())
	}
}

// A worker for what overflows gets nothing while the others keep up, and what is
// beyond its threshold while they do not. It leaves min_pending-1 messages behind.
func TestOverflowWorkers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		group lb.PriorityGroup
		left  int // that it never takes
	}{
		{"min_pending", lb.PriorityGroup{Name: "crew", MinPending: 10}, 9},
		{"min_ack_pending", lb.PriorityGroup{Name: "crew", MinAckPending: 4}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			nc, js := groupSystem(t, jetstream.PriorityPolicyOverflow)
			var book logBook
			backup := hire(t, nc, tt.group, &book)
			primary := hire(t, nc, lb.PriorityGroup{Name: "crew"}, &book)
			for range 20 {
				one(t, js, 2, primary, backup)
			}
			if got := backup.handled.Load(); got != 0 {
				t.Errorf("the worker for the overflow got %d orders while there was none", got)
			}

			release := primary.hold()
			publishOrders(t, js, 0, 4)
			wait.For(t, time.Minute, "a busy primary", func() bool { return primary.worker.Stats().InFlight == 4 })
			publishOrders(t, js, 0, 40)
			wait.For(t, time.Minute, "the overflow to be worked off", func() bool {
				return int(backup.handled.Load()) >= 40-tt.left && int(info(t, js).NumPending) <= tt.left
			})
			if got := int(backup.handled.Load()); got != 40-tt.left {
				t.Errorf("the worker for the overflow got %d of 40 orders, want %d", got, 40-tt.left)
			}
			release()
			wait.For(t, time.Minute, "the rest", func() bool { i := info(t, js); return i.NumPending == 0 && i.NumAckPending == 0 })
			if n := book.count("WARN"); n != 0 {
				t.Errorf("warnings of workers that were in order: %s", book.text())
			}
		})
	}
}

// One worker gets everything, over many requests, until it is unpinned; then one
// of those that wait gets everything.
func TestPinnedWorkers(t *testing.T) {
	t.Parallel()
	nc, js := groupSystem(t, jetstream.PriorityPolicyPinned)
	var book logBook
	hands := []*hand{}
	for range 2 {
		hands = append(hands, hire(t, nc, lb.PriorityGroup{Name: "crew"}, &book))
	}
	one(t, js, 2, hands...)
	pinned := func() (yes, no *hand) {
		if hands[0].handled.Load() > 0 {
			return hands[0], hands[1]
		}
		return hands[1], hands[0]
	}
	first, other := pinned()
	for range 30 { // requests are for four messages at the most
		one(t, js, 1, hands...)
	}
	if a, b := first.handled.Load(), other.handled.Load(); a != 31 || b != 0 {
		t.Errorf("the pinned worker got %d orders and the other one %d, want 31 and 0", a, b)
	}

	stream, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	// A worker that was unpinned is told so by an error of its next request; it is
	// no trouble.
	for range 10 {
		if err := stream.UnpinConsumer(t.Context(), "east", "crew"); err != nil {
			t.Fatal(err)
		}
		publishOrders(t, js, 0, 10)
		wait.For(t, time.Minute, "the orders after a change of the pin", func() bool { i := info(t, js); return i.NumPending == 0 && i.NumAckPending == 0 })
	}
	if got := first.handled.Load() + other.handled.Load(); got != 131 {
		t.Errorf("131 orders were handled %d times", got)
	}

	first.stop() // the server waits for it for as long as the consumer says: an hour here
	before := other.handled.Load()
	if err := stream.UnpinConsumer(t.Context(), "east", "crew"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		one(t, js, 1, other)
	}
	if got := other.handled.Load() - before; got != 10 {
		t.Errorf("the other worker got %d of 10 orders", got)
	}
	if n := book.count("WARN"); n != 0 {
		t.Errorf("warnings of workers that were in order: %s", book.text())
	}
}

// The server's own word for a request that does not go with the policy is "bad
// request", or none at all. The worker says it once: when the server refuses, and
// works as soon as the consumer is as it expects; when the server passes over it,
// and works all the same.
func TestWorkerSaysWhyItsGroupDoesNotFit(t *testing.T) {
	t.Parallel()
	none, pinned, overflow, prioritized := jetstream.PriorityPolicyNone, jetstream.PriorityPolicyPinned, jetstream.PriorityPolicyOverflow, jetstream.PriorityPolicyPrioritized
	for _, tt := range []struct {
		policy, good jetstream.PriorityPolicy // good is one that fits; the same works already
		group        lb.PriorityGroup
		want         string
	}{
		{none, none, lb.PriorityGroup{Name: "crew"}, "the consumer has no priority groups"},
		{pinned, pinned, lb.PriorityGroup{Name: "crew", Priority: 1}, "the consumer's policy is pinned_client, not prioritized"},
		{prioritized, none, lb.PriorityGroup{}, "and the worker names none"},
		{none, overflow, lb.PriorityGroup{Name: "crew", MinPending: 1}, "the consumer's policy is none, not overflow"},
		{prioritized, overflow, lb.PriorityGroup{Name: "crew", MinPending: 1}, "the consumer's policy is prioritized, not overflow"},
		{overflow, none, lb.PriorityGroup{Name: "other"}, "and the consumer has ["},
	} {
		t.Run(fmt.Sprint(tt.policy, tt.group), func(t *testing.T) {
			t.Parallel()
			nc, js := groupSystem(t, tt.policy)
			var book logBook
			h := hire(t, nc, tt.group, &book)
			publishOrders(t, js, 0, 10)
			wait.For(t, time.Minute, "a word about it", func() bool { return book.count(tt.want) > 0 })
			if tt.good != tt.policy {
				if n := h.handled.Load(); n != 0 {
					t.Errorf("it got %d orders", n)
				}
				setPolicy(t, js, tt.good)
			}
			wait.For(t, time.Minute, "the orders", func() bool { return h.handled.Load() == 10 })
			if n := book.count(tt.want); n != 1 {
				t.Errorf("it was said %d times: %s", n, book.text())
			}
		})
	}
}

// Workers that name their group already go on while the policy is changed under
// them, to one with groups and back.
func TestWorkersOutliveAChangeOfThePolicy(t *testing.T) {
	t.Parallel()
	nc, js := groupSystem(t, jetstream.PriorityPolicyNone)
	var book logBook
	backup := hire(t, nc, lb.PriorityGroup{Name: "crew", Priority: 1}, &book)
	primary := hire(t, nc, lb.PriorityGroup{Name: "crew"}, &book)
	for range 3 {
		for _, policy := range []jetstream.PriorityPolicy{jetstream.PriorityPolicyPrioritized, jetstream.PriorityPolicyNone} {
			setPolicy(t, js, policy)
			for range 20 {
				one(t, js, 1, primary, backup)
			}
		}
	}
	if got := primary.handled.Load() + backup.handled.Load(); got != 120 {
		t.Errorf("120 orders were handled %d times", got)
	}
	if n := book.count("no messages can be fetched"); n != 0 {
		t.Errorf("workers were refused: %s", book.text())
	}
}

// A consumer may bound what one request asks for. The server refuses what is more.
func TestWorkerHeedsTheConsumersLimits(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	ordersStream(t, js, 1)
	_, err := js.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{
		Durable: "east", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxRequestBatch: 2, MaxRequestExpires: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	var book logBook
	h := hire(t, nc, lb.PriorityGroup{}, &book) // four handlers, requests of 2 s
	publishOrders(t, js, 0, 50)
	wait.For(t, time.Minute, "the orders", func() bool { return h.handled.Load() == 50 })
	one(t, js, 1, h) // after requests that ran out
	if n := book.count("WARN"); n != 0 {
		t.Errorf("the worker asked for too much: %s", book.text())
	}
}

func TestPriorityGroupsThatAreNone(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	for _, group := range []lb.PriorityGroup{
		{Priority: 1}, {MinPending: 1}, {MinAckPending: 1}, // no name
		{Name: "crew", Priority: -1}, {Name: "crew", Priority: 10}, {Name: "crew", MinPending: -1}, {Name: "crew", MinAckPending: -1},
		{Name: "crew", Priority: 1, MinPending: 1},
	} {
		cfg := config(func(context.Context, jetstream.Msg) error { return nil })
		cfg.Group = group
		if _, err := lb.NewWorker(nc, cfg); err == nil {
			t.Errorf("NewWorker with %+v = nil, want an error", group)
		}
	}
}
