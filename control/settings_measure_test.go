package control

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// Settings are changed while messages flow, on three servers with three replicas:
// nothing may be lost and nothing delivered again. How long a change takes is
// reported, not asserted: BALLAST_MEASURE=consumer makes enough of them for
// docs/measurements.md.
func TestConsumerChangesUnderTraffic(t *testing.T) {
	t.Parallel()
	rounds := 2
	if os.Getenv("BALLAST_MEASURE") == "consumer" {
		rounds = 20
	}
	ctx := context.Background()
	cl := natstest.Cluster(t, 3)
	nc := cl.App(t)
	stream := ordersStream(t, nc, 3)
	busy := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "busy", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.busy", MaxAckPending: 1000, AckWait: 5 * time.Minute})
	c, _ := console(t, Config{Conn: cl.App(t)})

	f := newFlow(t, cl, busy)
	timed := map[string][]time.Duration{}
	change := func(what string, p traffic.ConsumerPatch) {
		t.Helper()
		e := consumerEdit(t, c, busy, p)
		began := time.Now()
		mustChange(t, c, e)
		timed[what] = append(timed[what], time.Since(began))
		f.more(t, 20)
	}
	for i := range rounds {
		change("max_ack_pending raised", traffic.ConsumerPatch{MaxAckPending: of(2000 + i)})
		change("ack_wait", traffic.ConsumerPatch{AckWait: of(4*time.Minute + time.Duration(i)*time.Second)})
		change("max_deliver", traffic.ConsumerPatch{MaxDeliver: of(20 + i)})
		change("backoff", traffic.ConsumerPatch{BackOff: of([]time.Duration{5 * time.Minute, 6*time.Minute + time.Duration(i)})})
		change("backoff", traffic.ConsumerPatch{BackOff: of([]time.Duration{})})
		change("pause", traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour))})
		change("max_ack_pending lowered in the pause", traffic.ConsumerPatch{MaxAckPending: of(1000 + i)})
		change("resume", traffic.ConsumerPatch{PauseUntil: new(time.Time)})
	}
	defer func() {
		if t.Failed() {
			s, err := c.ConsumerSettings(ctx, busy)
			t.Logf("at the end: %d to be delivered, %d in flight, %d pulls wait, paused until %v; %v", s.Backlog, s.InFlight, s.Waiting, s.PausedUntil, err)
		}
	}()
	published, unique, twice := f.end(t)
	if unique != published || twice != 0 {
		t.Errorf("%d published, %d arrived, %d of them more than once", published, unique, twice)
	}

	// From the click to the message that it lets through.
	gate := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "gate", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.gate", MaxAckPending: 1, AckWait: time.Hour})
	publish(t, nc, "orders.gate", rounds+2)
	w := newWorker(t, nc, gate)
	wait.For(t, patient, "the first message", func() bool { return w.got.Load() == 1 })
	<-w.msgs
	for i := range rounds {
		e := consumerEdit(t, c, gate, traffic.ConsumerPatch{MaxAckPending: of(i + 2)})
		began := time.Now()
		let := make(chan time.Duration, 1)
		go func() {
			<-w.msgs
			let <- time.Since(began)
		}()
		mustChange(t, c, e)
		timed["click to message"] = append(timed["click to message"], <-let)
	}
	if info, err := stream.Consumer(ctx, "gate"); err != nil || info.CachedInfo().NumRedelivered != 0 {
		t.Errorf("redelivered: %v, %v", info, err)
	}
	t.Logf("%d changes in all: %d messages published, %d arrived, %d more than once", 8*rounds, published, unique, twice)
	for _, what := range []string{"max_ack_pending raised", "max_ack_pending lowered in the pause", "ack_wait", "max_deliver", "backoff", "pause", "resume", "click to message"} {
		d := slices.Sorted(slices.Values(timed[what]))
		t.Logf("%s: median %v, longest %v of %d", what, short(d[len(d)/2]), short(d[len(d)-1]), len(d))
	}
}

// A limit that is lowered while messages are on their way holds some of them back
// until ack_wait is over: the dry run says so, and how to avoid it.
func TestConsumerLoweredLimitHoldsMessagesBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cl := natstest.Cluster(t, 3)
	nc := cl.App(t)
	stream := ordersStream(t, nc, 3)
	limit := 10_000
	k := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: limit, AckWait: 3 * time.Second})
	c, _ := console(t, Config{Conn: cl.App(t)})
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(limit - 1)})
	warns(t, c, e, "This consumer has replicas", "arrive only after ack_wait (3s)", "Pause the consumer first")

	var mu sync.Mutex
	seen := map[uint64]bool{}
	held := 0 // first seen as a redelivery: the first delivery reached nobody
	cons, err := stream.Consumer(ctx, "w0")
	if err != nil {
		t.Fatal(err)
	}
	cc, err := cons.Consume(func(m jetstream.Msg) {
		md, err := m.Metadata()
		if err != nil {
			t.Errorf("metadata of a message: %v", err)
			return
		}
		mu.Lock()
		if !seen[md.Sequence.Stream] && md.NumDelivered > 1 {
			held++
		}
		seen[md.Sequence.Stream] = true
		mu.Unlock()
		if err := m.Ack(); err != nil {
			t.Errorf("acknowledge: %v", err)
		}
	}, jetstream.PullExpiry(2*time.Second)) // a client waits for what it pulled until then
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Stop()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	if err != nil {
		t.Fatal(err)
	}
	published, round, changes, late := 0, 0, 0, 0
	for late == 0 && round < 100 {
		round++
		var acks []jetstream.PubAckFuture
		for range 1000 {
			ack, err := js.PublishAsync("orders.w0", []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			acks = append(acks, ack)
		}
		for range 3 {
			limit--
			changes++
			mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(limit)}))
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
				published++
			case err := <-ack.Err():
				t.Fatalf("publish: %v", err)
			}
		}
		wait.For(t, 2*patient, "all messages to arrive", func() bool {
			mu.Lock()
			defer mu.Unlock()
			late = held
			return len(seen) >= published
		})
	}
	if late == 0 {
		t.Errorf("none of %d messages was held back by %d changes: nats-server has learned to send them; see consumerWarnings", published, changes)
	}
	t.Logf("%d messages, %d changes: %d arrived only after ack_wait, none was lost", published, changes, late)
}

// flow is a publisher and a worker of one consumer; every message is counted.
type flow struct {
	stop chan struct{}
	sent chan int
	n    atomic.Int64 // published so far

	mu   sync.Mutex
	seen map[uint64]int // by stream sequence
}

func newFlow(tb testing.TB, cl *natstest.Servers, k fleet.ConsumerKey) *flow {
	tb.Helper()
	f := &flow{stop: make(chan struct{}), sent: make(chan int, 1), seen: map[uint64]int{}}
	js, err := jetstream.New(cl.App(tb), jetstream.WithDefaultTimeout(patient))
	if err != nil {
		tb.Fatal(err)
	}
	cons, err := js.Consumer(context.Background(), k.Stream, k.Consumer)
	if err != nil {
		tb.Fatal(err)
	}
	cc, err := cons.Consume(func(m jetstream.Msg) {
		md, err := m.Metadata()
		if err != nil {
			tb.Errorf("metadata of a message: %v", err)
			return
		}
		f.mu.Lock()
		f.seen[md.Sequence.Stream]++
		f.mu.Unlock()
		if err := m.Ack(); err != nil {
			tb.Errorf("acknowledge: %v", err)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(cc.Stop)
	pub, err := jetstream.New(cl.App(tb), jetstream.WithDefaultTimeout(patient))
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer func() { f.sent <- int(f.n.Load()) }()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := pub.Publish(context.Background(), "orders."+k.Consumer, []byte("x")); err != nil {
				tb.Errorf("publish: %v", err)
				return
			}
			f.n.Add(1)
			select {
			case <-f.stop:
				return
			case <-tick.C:
			}
		}
	}()
	return f
}

// more waits until n messages more were published.
func (f *flow) more(tb testing.TB, n int64) {
	tb.Helper()
	until := f.n.Load() + n
	wait.For(tb, patient, "more messages", func() bool { return f.n.Load() >= until })
}

// end stops the publisher and waits for what it sent.
func (f *flow) end(tb testing.TB) (published, unique, twice int) {
	tb.Helper()
	close(f.stop)
	published = <-f.sent
	wait.For(tb, patient, "all messages to arrive", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.seen) >= published
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.seen {
		if n > 1 {
			twice++
		}
	}
	return published, len(f.seen), twice
}
