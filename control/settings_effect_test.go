package control

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/sketch"
	"ballast/internal/wait"
	"ballast/traffic"
)

// worker takes messages and counts them; it acknowledges none.
type worker struct {
	cons jetstream.Consumer
	got  atomic.Int64
	msgs chan jetstream.Msg
}

func newWorker(tb testing.TB, nc *nats.Conn, k fleet.ConsumerKey, opts ...jetstream.PullConsumeOpt) *worker {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	if err != nil {
		tb.Fatal(err)
	}
	w := &worker{msgs: make(chan jetstream.Msg, 1000)}
	if w.cons, err = js.Consumer(context.Background(), k.Stream, k.Consumer); err != nil {
		tb.Fatal(err)
	}
	cc, err := w.cons.Consume(func(m jetstream.Msg) { w.got.Add(1); w.msgs <- m }, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(cc.Stop)
	return w
}

func publish(tb testing.TB, nc *nats.Conn, subject string, n int) {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	if err != nil {
		tb.Fatal(err)
	}
	for range n {
		if _, err := js.Publish(context.Background(), subject, []byte("x")); err != nil {
			tb.Fatal(err)
		}
	}
}

func warns(tb testing.TB, c *Control, e traffic.ConsumerEdit, want ...string) {
	tb.Helper()
	plan, err := c.PlanConsumer(context.Background(), e)
	if err != nil {
		tb.Fatal(err)
	}
	all := strings.Join(plan.Warn, "\n")
	for _, w := range want {
		if !strings.Contains(all, w) {
			tb.Errorf("no warning with %q in:\n%s", w, all)
		}
	}
}

// What the dry run says of max_ack_pending is what the server then does.
func TestConsumerMaxAckPendingTakesEffectAtOnce(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour, MaxAckPending: 10})
	c, _ := console(t, Config{Conn: nc})
	w := newWorker(t, nc, k)
	publish(t, nc, "orders.w0", 100)
	wait.For(t, patient, "ten messages", func() bool { return w.got.Load() == 10 })
	wait.For(t, patient, "the others to wait", func() bool { s := settings(t, c, k); return s.Backlog == 90 && s.InFlight == 10 })

	e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(60)})
	warns(t, c, e, "up to 50 of the 90 that wait are delivered in one go")
	mustChange(t, c, e)
	wait.For(t, patient, "fifty more", func() bool { return w.got.Load() == 60 })

	e = consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(5)})
	warns(t, c, e, "60 messages are in flight", "nothing new is delivered until fewer than 5 are")
	mustChange(t, c, e)
	if s := settings(t, c, k); s.InFlight != 60 {
		t.Errorf("%d in flight, want them left with their worker", s.InFlight)
	}
	ack := func(n int) {
		for range n {
			if err := (<-w.msgs).DoubleAck(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ack(55)
	if s := settings(t, c, k); s.InFlight != 5 || w.got.Load() != 60 {
		t.Errorf("%d in flight, %d were delivered; want 5 and 60", s.InFlight, w.got.Load())
	}
	ack(1)
	wait.For(t, patient, "one more", func() bool { return w.got.Load() == 61 })
	if s := settings(t, c, k); s.InFlight != 5 {
		t.Errorf("%d in flight", s.InFlight)
	}
}

func TestConsumerShorterAckWaitRedelivers(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour})
	see := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		o := traffic.Observation{Target: s.Targets[0].Name, From: r.From, To: r.To, Latency: &sketch.Sketch{}}
		for i := range 100 {
			o.Latency.Add(time.Duration(10+i/90*1000) * time.Millisecond)
		}
		return []traffic.Observation{o}, nil
	})
	c, _ := console(t, Config{Conn: nc, Observer: see})
	w := newWorker(t, nc, k)
	publish(t, nc, "orders.w0", 7)
	wait.For(t, patient, "seven messages", func() bool { return w.got.Load() == 7 })
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{AckWait: of(200 * time.Millisecond)})
	warns(t, c, e, "in flight for longer than 200ms are delivered again within about 0.1 s", "7 are in flight", "10 of 100 sampled acknowledgements took longer than 200ms")
	mustChange(t, c, e)
	wait.For(t, patient, "them to come again, long before the hour is over", func() bool { return w.got.Load() >= 14 })
	for range 7 {
		<-w.msgs // the first deliveries
	}
	md, err := (<-w.msgs).Metadata()
	if err != nil || md.NumDelivered < 2 {
		t.Errorf("delivered %+v, %v; want a redelivery", md, err)
	}
	e = consumerEdit(t, c, k, traffic.ConsumerPatch{AckWait: of(time.Hour)})
	warns(t, c, e, "comes back after 1h0m0s, not after 200ms")
	mustChange(t, c, e)
}

func TestConsumerPauseAndResume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour})
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	before := serverConfig(t, nc, k)
	w := newWorker(t, nc, k)
	publish(t, nc, "orders.w0", 3)
	wait.For(t, patient, "three messages", func() bool { return w.got.Load() == 3 })

	until := time.Now().Add(time.Hour)
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{PauseUntil: &until})
	warns(t, c, e, "Work in flight goes on: 3 messages are with workers now", "waits in the stream")
	ch := mustChange(t, c, e)
	if s := settings(t, c, k); !s.PausedUntil.Equal(until) {
		t.Errorf("paused until %v, want %v", s.PausedUntil, until)
	}
	publish(t, nc, "orders.w0", 5)
	if err := (<-w.msgs).DoubleAck(ctx); err != nil {
		t.Fatal(err)
	}
	wait.For(t, patient, "five to wait and two to be in flight", func() bool { s := settings(t, c, k); return s.Backlog == 5 && s.InFlight == 2 })
	if w.got.Load() != 3 {
		t.Errorf("%d delivered during the pause, want the 3 from before", w.got.Load())
	}
	// Another setting leaves the pause as it is, and the other way round.
	mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(55)}))
	if s := settings(t, c, k); !s.PausedUntil.Equal(until) || s.MaxAckPending != 55 {
		t.Errorf("paused until %v, max_ack_pending %d", s.PausedUntil, s.MaxAckPending)
	}
	// So does an application that writes its own settings.
	update(t, stream, k, func(cfg *jetstream.ConsumerConfig) { cfg.PauseUntil = nil })
	if s := settings(t, c, k); !s.PausedUntil.Equal(until) {
		t.Errorf("paused until %v after an update without a pause, want %v", s.PausedUntil, until)
	}

	e = consumerEdit(t, c, k, traffic.ConsumerPatch{PauseUntil: new(time.Time)})
	warns(t, c, e, "5 messages wait", "when the next message comes")
	resumed := mustChange(t, c, e)
	publish(t, nc, "orders.w0", 1)
	wait.For(t, patient, "the rest", func() bool { return w.got.Load() == 9 })
	if old, _ := c.consumerChange(ch.ID); old.Phase != traffic.Replaced {
		t.Errorf("the pause is %s", old.Phase)
	}
	// To roll back a resume is to pause again; to roll back that, to resume.
	again := mustRollBack(t, c, resumed.ID)
	if s := settings(t, c, k); !s.PausedUntil.Equal(until) {
		t.Errorf("paused until %v, want %v", s.PausedUntil, until)
	}
	mustRollBack(t, c, again.ID)
	after := serverConfig(t, nc, k)
	if b, a := asJSON(t, without(before, "max_ack_pending")), asJSON(t, without(after, "max_ack_pending")); a != b {
		t.Errorf("before and after differ:\n%s\n%s", b, a)
	}
	checkConsumerReplay(t, c, ledger)
}

// Another priority policy stops the clients that run: that is why it needs a word
// of its own.
func TestConsumerPolicyStopsRunningClients(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy})
	c, _ := console(t, Config{Conn: nc})
	refused := make(chan error, 100)
	newWorker(t, nc, k, jetstream.PullExpiry(time.Second), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		select {
		case refused <- err:
		default:
		}
	}))
	wait.For(t, patient, "the client's pull", func() bool { return settings(t, c, k).Waiting > 0 })
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityPinned), PriorityGroups: of([]string{"a"})})
	for _, try := range []func() error{
		func() error { _, err := c.PlanConsumer(context.Background(), e); return err },
		func() error { _, err := c.ApplyConsumer(context.Background(), e); return err },
	} {
		got := wantKind(t, try(), fleet.Invalid)
		if !strings.Contains(got.Fields["priority_policy"], "Create a new consumer") || !strings.Contains(got.Fields["migrate"], "pulls wait now") {
			t.Errorf("refused with %v", got.Fields)
		}
	}
	e.Migrate = true
	warns(t, c, e, "Consume ends for good", "restart every client with a group")
	mustChange(t, c, e)
	if s := settings(t, c, k); s.Priority != traffic.PriorityPinned || s.PriorityTimeout != pinnedTimeout {
		t.Errorf("in force are %+v", s)
	}
	// The client is refused for good, as it was said.
	wait.For(t, patient, "the client to be refused; see migrateText if it never is", func() bool {
		select {
		case err := <-refused:
			var api *jetstream.APIError
			return errors.Is(err, jetstream.ErrBadRequest) || errors.As(err, &api) && api.Code == 400
		default:
			return false
		}
	})
	// A new one that names the group works.
	w := newWorker(t, nc, k, jetstream.PullPriorityGroup("a"))
	publish(t, nc, "orders.w0", 3)
	wait.For(t, patient, "a client with the group to get messages", func() bool { return w.got.Load() == 3 })

	// Other groups are a migration, too, and the timeout alone is none.
	e = consumerEdit(t, c, k, traffic.ConsumerPatch{PriorityGroups: of([]string{"b"})})
	_, err := c.PlanConsumer(context.Background(), e)
	if got := wantKind(t, err, fleet.Invalid); got.Fields["migrate"] == "" || got.Fields["priority_groups"] == "" {
		t.Errorf("refused with %v", got.Fields)
	}
	mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{PriorityTimeout: of(time.Minute)}))
	// The way back to none takes the timeout with it, as the server wants it.
	e = consumerEdit(t, c, k, traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityNone), PriorityGroups: of([]string{})})
	e.Migrate = true
	ch := mustChange(t, c, e)
	if _, ok := serverConfig(t, nc, k)["priority_timeout"]; ok || len(ch.Diff) != 3 {
		t.Errorf("the diff is %+v", ch.Diff)
	}
	// And a way back is never barred.
	mustRollBack(t, c, ch.ID)
	if s := settings(t, c, k); s.Priority != traffic.PriorityPinned || s.PriorityTimeout != time.Minute || strings.Join(s.Groups, "") != "a" {
		t.Errorf("in force are %+v", s)
	}
}

func TestUnpin(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "w0", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.w0",
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"a"}, PinnedTTL: time.Hour})
	plain := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: "plain", AckPolicy: jetstream.AckExplicitPolicy})
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	advised, err := nc.SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.UNPINNED.ORDERS.w0")
	if err != nil {
		t.Fatal(err)
	}
	first := newWorker(t, nc, k, jetstream.PullPriorityGroup("a"))
	publish(t, nc, "orders.w0", 1)
	wait.For(t, patient, "a client to be pinned", func() bool { return first.got.Load() == 1 && settings(t, c, k).Pinned["a"] != "" })
	was := settings(t, c, k).Pinned["a"]

	wantKind(t, c.Unpin(ctx, plain, "a", "ann", ""), fleet.Invalid)
	wantKind(t, c.Unpin(ctx, k, "b", "ann", ""), fleet.Invalid)
	wantKind(t, c.Unpin(ctx, k, "a", "", ""), fleet.Invalid)
	wantKind(t, c.Unpin(ctx, fleet.ConsumerKey{Stream: "ORDERS", Consumer: "nope"}, "a", "ann", ""), fleet.NotFound)
	ledger.setRefuse(func(traffic.Entry) error { return errors.New("disk full") })
	wantKind(t, c.Unpin(ctx, k, "a", "ann", ""), fleet.Unavailable)
	ledger.setRefuse(nil)
	if got := settings(t, c, k).Pinned["a"]; got != was {
		t.Fatalf("client %q is pinned after refusals, want %q", got, was)
	}

	if err := c.Unpin(ctx, k, "a", "ann", "it hangs"); err != nil {
		t.Fatal(err)
	}
	m, err := advised.NextMsg(patient)
	if err != nil || !strings.Contains(string(m.Data), `"admin"`) {
		t.Fatalf("the server's word on it: %v, %v", m, err)
	}
	if got := settings(t, c, k).Pinned["a"]; got == was {
		t.Errorf("client %q is still pinned", got)
	}
	if n := ledger.count(traffic.EntryConsumerUnpinned); n != 1 {
		t.Errorf("%d entries", n)
	}
	if e := ledger.entries[len(ledger.entries)-1]; !strings.Contains(e.Text, was) || e.Actor != "ann" {
		t.Errorf("the journal says %q", e.Text)
	}
}
