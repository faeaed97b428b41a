package lb_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// The stream has stored a message but its acknowledgement does not come back in
// time. The repetition goes to the other target, whose messages the same stream
// stores, and is recognised there.
func TestARetryElsewhereAfterALostAckIsStoredOnce(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	js := jetStream(t, natstest.Connect(t, srv.ClientURL()))
	stream := ordersStream(t, js, 1)
	r := newRelay(t, srv.Addr().String())
	nc := natstest.Connect(t, "nats://"+r.address())
	s := splitOf(weights{"east": 50, "west": 50})
	s.Lanes = []traffic.Lane{{Name: "high", TimeoutMS: 500, Retries: 10}}
	p := publisher(t, nc, lb.WithFallback(s), lb.WithoutBreaker())
	for range 20 { // both targets are known to be of one stream
		if _, err := p.PublishJS(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range uint64(3) {
		before := p.Stats().Moved
		msg := &nats.Msg{Data: []byte("once")}
		var ack *jetstream.PubAck
		done := make(chan error, 1)
		r.hold.Lock()
		go func() {
			var err error
			ack, err = p.Lane("high").PublishJS(t.Context(), msg)
			done <- err
		}()
		wait.For(t, 30*time.Second, "the repetition elsewhere", func() bool { return p.Stats().Moved > before })
		r.hold.Unlock()
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("PublishJS = %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("PublishJS did not return")
		}
		if !ack.Duplicate {
			t.Errorf("the answer to the repetition is %+v, want a duplicate", ack)
		}
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.State.Msgs, 21+round; got != want {
			t.Errorf("the stream holds %d messages, want %d", got, want)
		}
	}
}

// Nothing is asked twice that nobody has said may be: neither when the answer is
// late nor when the attempt is over.
func TestNothingIsHedgedOrRepeatedByDefault(t *testing.T) {
	t.Parallel()
	url := natstest.Server(t).ClientURL()
	nc, workers := natstest.Connect(t, url), natstest.Connect(t, url)
	var asked atomic.Int64
	for _, target := range []string{"east", "west"} {
		serve(t, workers, target, func(*nats.Msg) { asked.Add(1) })
	}
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 50, "west": 50})))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := p.Request(ctx, &nats.Msg{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Request that nobody answers = %v, want the end of its context", err)
	}
	if err := workers.FlushTimeout(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if n, s := asked.Load(), p.Stats(); n != 1 || s.Hedged != 0 || s.Retried != 0 {
		t.Errorf("%d targets were asked, %+v; want one, nothing hedged and nothing repeated", n, s)
	}
}
