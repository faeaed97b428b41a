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

// What is in flight is booked where it was sent, whatever a target is called by the
// time of the answer, and what a lost connection took with it is in flight no more.
func TestInFlightOverRevisionsAndConnections(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	stored, err := nc.SubscribeSync(eastSubject) // it answers as a stream does, when it is told to
	if err != nil {
		t.Fatal(err)
	}
	kv := bucket(t, jetStream(t, nc), 1)
	put(t, kv, revision(1, 1, splitOf(weights{"east": 100})))
	p := publisher(t, nc)
	wait.For(t, 30*time.Second, "the document", at(p, 1))
	for range 2 {
		if _, err := p.PublishAsync(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.Stats().Targets["east"].InFlight; n != 2 {
		t.Fatalf("%d in flight, want 2", n)
	}
	renamed := splitOf(weights{"east": 100})
	renamed.Targets[0].Name = "west"
	put(t, kv, revision(1, 2, renamed))
	wait.For(t, 30*time.Second, "the new name", at(p, 2))
	if n := p.Stats().Targets["west"].InFlight; n != 2 {
		t.Errorf("%d in flight on the subject under its new name, want 2", n)
	}
	msg, err := stored.NextMsg(30 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.Respond([]byte(`{"stream":"ORDERS","seq":1}`)); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "the first answer", func() bool { return p.Stats().Targets["west"].InFlight == 1 })
	again(t, nc)
	wait.For(t, 30*time.Second, "the other one to be given up", func() bool { return p.Stats().Targets["west"].InFlight == 0 })
	if s := p.Stats().Targets["west"]; s.Circuit != traffic.Closed || s.Health != 1 {
		t.Errorf("a connection that was lost is held against the target: %+v", s)
	}
}

// A new revision does not refill the budget of retries, unless it changes it.
func TestTheBudgetOutlivesARevision(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	s := splitOf(weights{"east": 50, "west": 50})
	s.Retry = &traffic.Retries{Percent: 1, Burst: 5}
	put(t, kv, revision(1, 1, s))
	p := publisher(t, nc, lb.WithoutBreaker())
	wait.For(t, 30*time.Second, "the document", at(p, 1))
	fail := func() (retried uint64) {
		before := p.Stats().Retried
		for range 20 {
			if _, err := p.Request(t.Context(), &nats.Msg{}); !errors.Is(err, nats.ErrNoResponders) {
				t.Fatal(err)
			}
		}
		return p.Stats().Retried - before
	}
	if n := fail(); n != 5 {
		t.Errorf("%d retries, want the burst of 5", n)
	}
	put(t, kv, revision(1, 2, s.WithWeights(weights{"east": 60, "west": 40})))
	wait.For(t, 30*time.Second, "the second document", at(p, 2))
	if n := fail(); n > 1 {
		t.Errorf("%d retries more after a change of the weights, want 1 at most", n)
	}
	s.Retry = &traffic.Retries{Percent: 1, Burst: 7}
	put(t, kv, revision(1, 3, s))
	wait.For(t, 30*time.Second, "the third document", at(p, 3))
	if n := fail(); n != 7 {
		t.Errorf("%d retries after a change of the budget, want 7", n)
	}
}
