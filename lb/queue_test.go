package lb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"ballast/internal/natstest"
	"ballast/internal/reportpb"
	"ballast/internal/wait"
	"ballast/lb"
)

func queueConfig(h lb.QueueHandler) lb.QueueConfig {
	return lb.QueueConfig{Split: "orders", Target: "east", Subject: "orders.process.east", Group: "workers", Handler: h, ReportEvery: -1}
}

func queueWorker(tb testing.TB, nc *nats.Conn, cfg lb.QueueConfig) (w *lb.QueueWorker, stop func()) {
	tb.Helper()
	w, err := lb.NewQueueWorker(nc, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return w, running(tb, "queue worker", w.Run)
}

// members waits until a subject has so many subscriptions, as the server says.
func members(tb testing.TB, nc *nats.Conn, n int) {
	tb.Helper()
	wait.For(tb, 30*time.Second, fmt.Sprint(n, " members"), func() bool {
		got := 0
		in := nc.NewRespInbox()
		sub, err := nc.SubscribeSync(in)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := nc.PublishRequest("orders.process.east", in, []byte("who")); err != nil {
			tb.Fatal(err)
		}
		for {
			if _, err := sub.NextMsg(100 * time.Millisecond); err != nil {
				return got == n
			}
			got++
		}
	})
}

func answer(_ context.Context, m *nats.Msg) error { return m.Respond([]byte("done")) }

// The members of one group share the messages: each is worked off once. Every
// dynamic worker has a group of its own and works them all off.
func TestQueueGroups(t *testing.T) {
	t.Parallel()
	for _, dynamic := range []bool{false, true} {
		url := natstest.Server(t).ClientURL()
		nc := natstest.Connect(t, url)
		var seen [3]atomic.Int64
		names := map[string]bool{}
		for i := range seen {
			cfg := queueConfig(func(ctx context.Context, m *nats.Msg) error {
				if string(m.Data) == "who" {
					return answer(ctx, m)
				}
				seen[i].Add(1)
				return nil
			})
			cfg.Dynamic = dynamic
			if dynamic { // one process runs all three here
				cfg.Group = fmt.Sprint("workers", i)
			}
			w, _ := queueWorker(t, natstest.Connect(t, url), cfg)
			names[w.Group()] = true
			if dynamic && !strings.HasSuffix(w.Group(), fmt.Sprintf(".%d", os.Getpid())) {
				t.Errorf("a dynamic group is called %s", w.Group())
			}
		}
		want, groups := 1, 1
		if dynamic {
			want, groups = 3, 3
		}
		if len(names) != groups {
			t.Errorf("the groups are %v", names)
		}
		members(t, nc, groups)
		const n = 300
		for range n {
			if err := nc.Publish("orders.process.east", nil); err != nil {
				t.Fatal(err)
			}
		}
		all := func() int64 { return seen[0].Load() + seen[1].Load() + seen[2].Load() }
		wait.For(t, 30*time.Second, "all messages", func() bool { return all() >= int64(want*n) })
		if got := all(); got != int64(want*n) {
			t.Errorf("dynamic %v: %d messages were handled %d times", dynamic, n, got)
		}
		for i := range seen {
			if seen[i].Load() == 0 {
				t.Errorf("dynamic %v: worker %d got nothing", dynamic, i)
			}
		}
	}
}

// A worker that stops works off what the server has sent it; nothing is lost while
// another one is there.
func TestQueueWorkerStopsInOrder(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc := natstest.Connect(t, url)
	var handled atomic.Int64
	h := func(ctx context.Context, m *nats.Msg) error {
		if string(m.Data) == "who" {
			return answer(ctx, m)
		}
		err := work(ctx, time.Millisecond)
		handled.Add(1)
		return err
	}
	cfg := queueConfig(h)
	cfg.Concurrency = 4
	_, _ = queueWorker(t, natstest.Connect(t, url), cfg)
	sent, stops := int64(0), 10
	if os.Getenv("BALLAST_MEASURE") == "stops" {
		stops = 100
	}
	for range stops {
		_, stop := queueWorker(t, natstest.Connect(t, url), cfg)
		members(t, nc, 1)
		for range 100 {
			if err := nc.Publish("orders.process.east", nil); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	wait.For(t, 30*time.Second, "all messages", func() bool { return handled.Load() >= sent })
	if got := handled.Load(); got != sent {
		t.Errorf("%d messages were handled %d times", sent, got)
	}
	t.Logf("%d stops: %d messages, all handled once", stops, sent)
}

// Who asked gets the error of the handler; the report tells of both.
func TestQueueWorkerAnswersWithErrors(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc := natstest.Connect(t, url)
	reports, err := nc.SubscribeSync(reportpb.Subject("orders", "east"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := queueConfig(func(ctx context.Context, m *nats.Msg) error {
		if string(m.Data) == "who" {
			return answer(ctx, m)
		}
		return errors.New("no such order\r\nX: y")
	})
	cfg.ReportEvery = 50 * time.Millisecond
	_, stop := queueWorker(t, natstest.Connect(t, url), cfg)
	members(t, nc, 1)
	got, err := nc.RequestWithContext(t.Context(), "orders.process.east", nil)
	if err != nil || got.Header.Get("Nats-Service-Error-Code") != "500" || got.Header.Get("Nats-Service-Error") != "no such order  X: y" {
		t.Fatalf("the answer is %+v, %v", got, err)
	}
	stop()
	processed, failed := uint64(0), uint64(0)
	wait.For(t, 30*time.Second, "the report of the failure", func() bool {
		msg, err := reports.NextMsg(5 * time.Second)
		if err != nil {
			return false
		}
		var r reportpb.Report
		if err := proto.Unmarshal(msg.Data, &r); err != nil {
			t.Fatal(err)
		}
		processed, failed = processed+r.Processed, failed+r.Failed
		return failed == 1 && processed >= 2
	})
}

// At whatever moment the connection is closed under it, Run returns and says so.
func TestQueueWorkerWhoseConnectionIsClosed(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	for i := range 100 {
		nc := natstest.Connect(t, url)
		w, err := lb.NewQueueWorker(nc, queueConfig(answer))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- w.Run(context.Background()) }()
		for range i * 20 {
			runtime.Gosched()
		}
		nc.Close()
		select {
		case err := <-done:
			if !errors.Is(err, nats.ErrConnectionClosed) {
				t.Fatalf("Run = %v, want that the connection was closed", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("Run did not return")
		}
	}
}

func TestNewQueueWorkerRefuses(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	for name, spoil := range map[string]func(*lb.QueueConfig){
		"split":   func(c *lb.QueueConfig) { c.Split = "a b" },
		"target":  func(c *lb.QueueConfig) { c.Target = "" },
		"subject": func(c *lb.QueueConfig) { c.Subject = "" },
		"group":   func(c *lb.QueueConfig) { c.Group = "a b" },
		"handler": func(c *lb.QueueConfig) { c.Handler = nil },
		"drain":   func(c *lb.QueueConfig) { c.Drain = -1 },
		"id":      func(c *lb.QueueConfig) { c.ID = "a b" },
	} {
		cfg := queueConfig(answer)
		spoil(&cfg)
		if _, err := lb.NewQueueWorker(nc, cfg); err == nil {
			t.Errorf("a wrong %s was taken", name)
		}
	}
}

// A handler that takes four times ack_wait keeps its message by heartbeats; a
// worker without them loses it to a redelivery.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	for _, beats := range []time.Duration{0, -1} {
		nc := natstest.Connect(t, natstest.Server(t).ClientURL())
		js := jetStream(t, nc)
		ordersStream(t, js, 1)
		eastConsumer(t, js, 500*time.Millisecond)
		var runs, again atomic.Int64
		cfg := config(func(ctx context.Context, msg jetstream.Msg) error {
			runs.Add(1)
			if meta, err := msg.Metadata(); err == nil && meta.NumDelivered > 1 {
				again.Add(1)
				return nil
			}
			return work(ctx, 2*time.Second)
		})
		cfg.Concurrency, cfg.Heartbeat = 2, beats
		w := worker(t, nc, cfg)
		stop := running(t, "worker", w.Run)
		publishOrders(t, js, 0, 1)
		wait.For(t, 30*time.Second, "the message to be worked off", func() bool {
			return w.Stats().Processed >= 1 && info(t, js).NumAckPending == 0
		})
		stop()
		if beats == 0 && again.Load() != 0 {
			t.Errorf("with heartbeats it was delivered again %d times", again.Load())
		}
		if beats < 0 && again.Load() == 0 {
			t.Error("without heartbeats it was not delivered again: this test shows nothing")
		}
	}
}
