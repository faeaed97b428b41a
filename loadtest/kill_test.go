package loadtest

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
)

// Five workers are killed (-9) while all of their handlers are at work, for longer
// than ack_wait already, which their heartbeats allow. Everything they held is
// delivered to others exactly once, when ack_wait is over, and nothing is lost.
func TestKilledWorkers(t *testing.T) {
	t.Parallel()
	const (
		victims = 5
		held    = victims * crewConcurrency
		others  = 200
		ackWait = 5 * time.Second
	)
	srv := natstest.Server(t)
	js, err := jetstream.New(natstest.Connect(t, srv.ClientURL()), jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: crewStream, Subjects: []string{"orders.>"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "crew", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait}); err != nil {
		t.Fatal(err)
	}
	info := func() *jetstream.ConsumerInfo {
		c, err := js.Consumer(context.Background(), crewStream, "crew")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo()
	}
	next := 0
	publish := func(n int) {
		for range n {
			msg := nats.NewMsg("orders.crew")
			msg.Header.Set(jetstream.MsgIDHeader, id(crewRun, next))
			if _, err := js.PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}

	var b book
	var crew []*process
	for i := range victims {
		crew = append(crew, b.hire(t, member{URL: srv.ClientURL(), Name: "victim", Consumer: "crew", Takes: time.Hour}))
		publish(crewConcurrency)
		wait.For(t, time.Minute, "a busy victim", func() bool { return info().NumAckPending == (i+1)*crewConcurrency })
	}
	busy := time.Now()
	for range 2 {
		b.hire(t, member{URL: srv.ClientURL(), Name: "survivor", Consumer: "crew", Takes: quickWork})
	}
	publish(others)
	wait.For(t, time.Minute, "the other messages, and ack_wait to be over", func() bool {
		return len(b.all()) >= others && time.Since(busy) > ackWait+time.Second
	})
	if got := info(); got.NumRedelivered != 0 || got.NumAckPending != held {
		t.Errorf("while the victims lived %d messages were delivered again, and %d are held, want 0 and %d", got.NumRedelivered, got.NumAckPending, held)
	}

	killed := time.Now()
	for _, p := range crew {
		p.kill()
	}
	wait.For(t, time.Minute, "what the victims held", func() bool { return len(b.all()) >= held+others })
	wait.For(t, time.Minute, "the acknowledgements", func() bool { i := info(); return i.NumAckPending == 0 && i.NumPending == 0 })
	runs := map[int]int{}
	var first, last time.Duration
	for _, s := range b.all() {
		runs[s.n]++
		if s.who != "survivor" {
			t.Errorf("message %d was worked off by a %s", s.n, s.who)
		}
		want := 1
		if s.n < held {
			want = 2
			last = max(last, s.at.Sub(killed))
			if first == 0 || s.at.Sub(killed) < first {
				first = s.at.Sub(killed)
			}
		}
		if s.deliveries != want {
			t.Errorf("message %d was worked off at its delivery number %d, want %d", s.n, s.deliveries, want)
		}
	}
	for n := range next {
		if runs[n] != 1 {
			t.Errorf("message %d was worked off %d times", n, runs[n])
		}
	}
	t.Logf("%d workers killed with %d messages in hand: all worked off once by others, the first %v and the last %v after the kill; ack_wait %v, heartbeats each third of it", victims, held, first.Round(time.Millisecond), last.Round(time.Millisecond), ackWait)
}
