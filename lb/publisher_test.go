package lb_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/ports"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

type weights = map[string]int

func publisher(tb testing.TB, nc *nats.Conn, opts ...lb.PublisherOption) *lb.Publisher {
	tb.Helper()
	p, err := lb.NewPublisher(nc, "orders", opts...)
	if err != nil {
		tb.Fatal(err)
	}
	running(tb, "publisher", p.Run)
	return p
}

func ready(tb testing.TB, p *lb.Publisher) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		tb.Fatal(err)
	}
}

// at reports whether the revision is in force.
func at(p *lb.Publisher, number uint64) func() bool {
	return func() bool { rev, ok := p.Revision(); return ok && rev.Number == number }
}

func TestNewPublisherRefuses(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	if _, err := lb.NewPublisher(nc, "a.b"); err == nil {
		t.Error("NewPublisher took a name with a dot")
	}
	if _, err := lb.NewPublisher(nc, "payments", lb.WithFallback(splitOf(weights{"east": 100}))); err == nil {
		t.Error("NewPublisher took the fallback of another split")
	}
	var invalid *traffic.Invalid
	if _, err := lb.NewPublisher(nc, "orders", lb.WithFallback(splitOf(weights{"east": 99}))); !errors.As(err, &invalid) {
		t.Errorf("NewPublisher with an invalid fallback = %v, want *Invalid", err)
	}
}

func TestPublisherFollowsTheDocument(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	put(t, kv, revision(1, 1, splitOf(weights{"east": 60, "west": 30, "backup": 10})))
	p := publisher(t, nc)
	ready(t, p)
	var took []time.Duration
	for n := uint64(2); n <= 50; n++ {
		start := time.Now()
		put(t, kv, revision(1, n, splitOf(weights{"east": int(n), "west": 100 - int(n)})))
		wait.For(t, 30*time.Second, fmt.Sprintf("revision %d", n), at(p, n))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	p90 := took[len(took)*9/10]
	t.Logf("from before the put until in force, of %d changes: median %v, p90 %v, slowest %v", len(took), took[len(took)/2], p90, took[len(took)-1])
	if p90 > 100*time.Millisecond { // the slowest is the machine's, not ours
		t.Errorf("nine of ten changes took up to %v to be in force, want at most 100ms", p90)
	}
	if rev, _ := p.Revision(); rev.Token == 0 || rev.Split.Weights()["east"] != 50 {
		t.Errorf("in force is %+v", rev)
	}
	if s := p.Stats(); s.Taken != 50 || s.Refused != 0 || s.Revision != 50 || s.Epoch != 1 {
		t.Errorf("Stats = %+v", s)
	}
}

func TestPublisherDividesByWeight(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 1, splitOf(weights{"east": 60, "west": 30, "backup": 10})))
	p := publisher(t, nc)
	ready(t, p)
	const n = 20_000
	for range n {
		if err := p.Publish(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	sent := map[string]uint64{}
	for name, target := range p.Stats().Targets {
		sent[name] = target.Sent
	}
	for name, want := range map[string]float64{"east": 60, "west": 30, "backup": 10} {
		if share := 100 * float64(sent[name]) / n; math.Abs(share-want) > 2 {
			t.Errorf("%s got %.1f %% of the messages, want %v", name, share, want)
		}
	}
	if sum := sent["east"] + sent["west"] + sent["backup"]; sum != n {
		t.Errorf("Stats say %d messages, want %d", sum, n)
	}
}

// What Stats say was sent to a target is what its subscriber got.
func TestPublisherCountsByTarget(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	sub, err := nc.SubscribeSync("orders.process.west")
	if err != nil {
		t.Fatal(err)
	}
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 50, "west": 50})))
	for range 1000 {
		if err := p.PublishMsg(t.Context(), &nats.Msg{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "the target's messages", func() bool {
		n, _, err := sub.Pending()
		return err == nil && uint64(n) == p.Stats().Targets["west"].Sent
	})
}

func TestPublisherBeforeTheFirstDocument(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	var book logBook
	p := publisher(t, nc, lb.WithLog(book.logger()))
	if err := p.Publish(t.Context(), nil); !errors.Is(err, lb.ErrNoSplit) {
		t.Errorf("Publish = %v, want ErrNoSplit", err)
	}
	if _, err := p.PublishJS(t.Context(), &nats.Msg{}); !errors.Is(err, lb.ErrNoSplit) {
		t.Errorf("PublishJS = %v, want ErrNoSplit", err)
	}
	if _, ok := p.Revision(); ok {
		t.Error("there is a revision before the first document")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Ready = %v, want context.Canceled", err)
	}
	wait.For(t, 30*time.Second, "a word about the absent bucket", func() bool { return book.count("weights are not followed") > 0 })
	// The bucket comes first, the key later.
	kv := bucket(t, jetStream(t, nc), 1)
	put(t, kv, revision(1, 1, splitOf(weights{"east": 100})))
	wait.For(t, 30*time.Second, "the document", at(p, 1))
	if n := book.count("weights are not followed"); n != 1 {
		t.Errorf("the absent bucket was logged %d times, want once", n)
	}
	if s := p.Stats(); s.Failed != 2 {
		t.Errorf("Stats.Failed = %d, want 2", s.Failed)
	}
}

func TestPublisherWaitsForTheKey(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	p := publisher(t, nc, lb.WithResync(20*time.Millisecond))
	if _, err := kv.PutString(t.Context(), "split.other", "{}"); err != nil {
		t.Fatal(err)
	}
	put(t, kv, revision(1, 1, splitOf(weights{"east": 100})))
	ready(t, p)
}

func TestPublisherUsesTheFallback(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"backup": 100})))
	ready(t, p)
	msg := &nats.Msg{}
	if err := p.PublishMsg(t.Context(), msg); err != nil || msg.Subject != "orders.process.backup" {
		t.Errorf("PublishMsg = %v to %q", err, msg.Subject)
	}
	if rev, ok := p.Revision(); ok {
		t.Errorf("the fallback counts as revision %+v", rev)
	}
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 1, splitOf(weights{"east": 100})))
	wait.For(t, 30*time.Second, "the document", at(p, 1))
	if err := p.PublishMsg(t.Context(), msg); err != nil || msg.Subject != "orders.process.east" {
		t.Errorf("PublishMsg = %v to %q", err, msg.Subject)
	}
}

// Whatever is put into the bucket, the last good weights stay.
func TestPublisherKeepsTheLastGoodDocument(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	put(t, kv, revision(5, 7, splitOf(weights{"east": 60, "west": 40})))
	var book logBook
	p := publisher(t, nc, lb.WithLog(book.logger()))
	ready(t, p)

	other := splitOf(weights{"west": 100})
	other.Name = "payments"
	ofOther, err := revision(9, 9, other).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	older, err := revision(5, 6, splitOf(weights{"west": 100})).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	deposed, err := revision(4, 99, splitOf(weights{"west": 100})).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good, err := revision(6, 8, splitOf(weights{"west": 100})).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	bad := []struct {
		doc  string
		says string
	}{
		{"rubbish", "invalid character"},
		{"", "EOF"},
		{strings.Replace(string(good), `"weight":100`, `"weight":99`, 1), "sum to 99"},
		{strings.Replace(string(good), `"v":1`, `"v":1,"x":1`, 1), "unknown field"},
		{strings.Repeat(" ", traffic.MaxDocument) + string(good), "limit"},
		{string(ofOther), "payments"},
		{string(older), "epoch 5 revision 6 is older"},
		{string(deposed), "epoch 4 revision 99 is older"},
	}
	for i, b := range bad {
		putRaw(t, kv, []byte(b.doc))
		wait.For(t, 30*time.Second, fmt.Sprintf("the refusal of %.40q with %q", b.doc, b.says), func() bool {
			return p.Stats().Refused == uint64(i+1) && book.count(b.says) == 1
		})
	}
	if err := kv.Delete(t.Context(), traffic.Key("orders")); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "a word about the deletion", func() bool { return book.count("was deleted") == 1 })
	if rev, ok := p.Revision(); !ok || rev.Number != 7 || rev.Split.Weights()["east"] != 60 {
		t.Errorf("in force is %+v, want revision 7", rev)
	}
	putRaw(t, kv, good)
	wait.For(t, 30*time.Second, "the good document", at(p, 8))
}

// A bucket that is deleted and created again is followed, though its KV
// revisions begin anew.
func TestPublisherSurvivesANewBucket(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	kv := bucket(t, js, 1)
	for n := range uint64(5) {
		put(t, kv, revision(1, n+1, splitOf(weights{"east": 100})))
	}
	p := publisher(t, nc, lb.WithResync(50*time.Millisecond))
	wait.For(t, 30*time.Second, "revision 5", at(p, 5))
	if err := js.DeleteKeyValue(t.Context(), traffic.Bucket); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), nil); err != nil {
		t.Errorf("Publish without a bucket: %v", err)
	}
	// The server may still be removing the old one's files.
	wait.For(t, 30*time.Second, "the new bucket", func() bool {
		var err error
		kv, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: traffic.Bucket, History: 64})
		return err == nil
	})
	put(t, kv, revision(2, 6, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the new bucket's document", at(p, 6))
}

// A server that goes and comes back with another document is followed.
func TestPublisherSurvivesARestartedServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func(port int) *server.Server {
		return natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.Port, o.StoreDir = port, dir }))
	}
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	port := free[0]
	srv := start(port)
	quick := nats.CustomReconnectDelay(func(int) time.Duration { return 20 * time.Millisecond })
	nc, err := lb.Connect(srv.ClientURL(), lb.WithNATSOptions(quick))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close) // after the publisher's, which is later here and so runs first
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 1, splitOf(weights{"east": 100})))
	p := publisher(t, nc)
	ready(t, p)

	srv.Shutdown()
	srv.WaitForShutdown()
	wait.For(t, 30*time.Second, "the loss of the connection", func() bool { return !nc.IsConnected() })
	if err := p.Publish(t.Context(), nil); err != nil {
		t.Errorf("Publish into the reconnect buffer: %v", err)
	}
	srv = start(port)
	writer := jetStream(t, natstest.Connect(t, srv.ClientURL()))
	kv, err := writer.KeyValue(t.Context(), traffic.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	put(t, kv, revision(1, 2, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the new document", at(p, 2))
}

func TestPublisherRunEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	bucket(t, jetStream(t, nc), 1)
	p, err := lb.NewPublisher(nc, "orders", lb.WithResync(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(t.Context()) }()
	nc.Close()
	select {
	case err := <-done:
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("Run = %v, want ErrConnectionClosed", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Run did not return")
	}
}

func TestPublisherPicksByKey(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	s := splitOf(weights{"east": 60, "west": 30, "backup": 10})
	s.Pick = traffic.ByKey
	p := publisher(t, nc, lb.WithFallback(s))
	subjects := map[string]bool{}
	for k := range 100 {
		key := fmt.Sprintf("customer-%d", k)
		first := ""
		for range 3 {
			msg := &nats.Msg{Header: nats.Header{lb.KeyHeader: {key}}}
			if err := p.PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = msg.Subject
			}
			if msg.Subject != first {
				t.Fatalf("key %s went to %s and to %s", key, first, msg.Subject)
			}
		}
		subjects[first] = true
	}
	if len(subjects) != 3 {
		t.Errorf("100 keys used the subjects %v, want all three", subjects)
	}
	if err := p.Publish(t.Context(), nil); err != nil {
		t.Errorf("Publish without a key: %v", err)
	}
	if s := p.Stats(); s.Keyless != 1 {
		t.Errorf("Stats.Keyless = %d, want 1", s.Keyless)
	}
}

func TestPublisherMarksOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	sub, err := nc.SubscribeSync("orders.process.east")
	if err != nil {
		t.Fatal(err)
	}
	next := func(p *lb.Publisher) nats.Header {
		t.Helper()
		if err := p.Publish(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		msg, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return msg.Header
	}
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 42, splitOf(weights{"east": 100})))
	plain, marked := publisher(t, nc), publisher(t, nc, lb.WithMarks())
	ready(t, plain)
	ready(t, marked)
	if h := next(plain); len(h) > 0 {
		t.Errorf("headers without WithMarks: %v", h)
	}
	if h := next(marked); h.Get(lb.SplitHeader) != "orders" || h.Get(lb.RevisionHeader) != "42" {
		t.Errorf("headers with WithMarks: %v", h)
	}
}

func TestPublisherRequest(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	if _, err := nc.Subscribe("orders.process.east", func(m *nats.Msg) { _ = m.Respond([]byte("done")) }); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 100})))
	answer, err := p.Request(t.Context(), &nats.Msg{Data: []byte("do")})
	if err != nil || string(answer.Data) != "done" {
		t.Errorf("Request = %v, %v", answer, err)
	}
	p = publisher(t, nc, lb.WithFallback(splitOf(weights{"west": 100})))
	if _, err := p.Request(t.Context(), &nats.Msg{}); !errors.Is(err, nats.ErrNoResponders) || !strings.Contains(err.Error(), "target west") {
		t.Errorf("Request to nobody = %v, want ErrNoResponders of target west", err)
	}
}

func ordersStream(tb testing.TB, js jetstream.JetStream, replicas int) jetstream.Stream {
	tb.Helper()
	s, err := js.CreateStream(context.Background(), jetstream.StreamConfig{
		Name: "ORDERS", Subjects: []string{"orders.process.>"}, Replicas: replicas, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		tb.Fatalf("create stream: %v", err)
	}
	return s
}

func TestPublishJS(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	stream := ordersStream(t, js, 1)
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 100})))

	msg := &nats.Msg{Data: []byte("x")}
	first, err := p.PublishJS(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Header.Get(jetstream.MsgIDHeader) == "" {
		t.Error("the message has no Nats-Msg-Id")
	}
	again, err := p.PublishJS(t.Context(), msg)
	if err != nil || !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("the same message again = %+v, %v, want a duplicate of %d", again, err, first.Sequence)
	}
	own := &nats.Msg{Header: nats.Header{jetstream.MsgIDHeader: {"mine"}}}
	if _, err := p.PublishJS(t.Context(), own); err != nil || own.Header.Get(jetstream.MsgIDHeader) != "mine" {
		t.Errorf("own message id: %v, %v", own.Header, err)
	}
	future, err := p.PublishAsync(t.Context(), &nats.Msg{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-future.Ok():
	case err := <-future.Err():
		t.Errorf("asynchronous publish: %v", err)
	case <-time.After(5 * time.Second):
		t.Error("asynchronous publish was not acknowledged")
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 3 {
		t.Errorf("the stream holds %d messages, want 3 (%v)", info.State.Msgs, err)
	}
}

// Without a stream nobody answers: the publisher tries again and says so in the
// end. Who has no stream has no message either, so it may go to another target.
func TestPublishJSTriesAgain(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	half := lb.WithFallback(splitOf(weights{"east": 50, "west": 50}))
	p := publisher(t, nc, half, lb.WithAttempts(3))
	if _, err := p.PublishJS(t.Context(), &nats.Msg{}); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("PublishJS without a stream = %v, want ErrNoStreamResponse", err)
	}
	if s := p.Stats(); s.Retried != 2 || s.Failed != 1 {
		t.Errorf("Stats = %+v, want 2 retries and 1 failure", s)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EAST", Subjects: []string{"orders.process.east"}}); err != nil {
		t.Fatal(err)
	}
	p = publisher(t, nc, half, lb.WithoutBreaker())
	for range 20 {
		msg := &nats.Msg{}
		if _, err := p.PublishJS(t.Context(), msg); err != nil || msg.Subject != "orders.process.east" {
			t.Fatalf("a message to %s: %v", msg.Subject, err)
		}
	}
	if s := p.Stats(); s.Moved == 0 || s.Failed != 0 || s.Targets["east"].Sent != 20 {
		t.Errorf("Stats = %+v, want messages that moved to east, which got all", s)
	}
}

// A full window holds the program up, for as long as it has patience.
func TestPublishAsyncWaitsForRoom(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	// It answers as a stream does, but only when it is told to.
	stored, err := nc.SubscribeSync(eastSubject)
	if err != nil {
		t.Fatal(err)
	}
	answer := func() {
		t.Helper()
		msg, err := stored.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.Respond([]byte(`{"stream":"ORDERS","seq":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	p := publisher(t, nc, lb.WithFallback(splitOf(weights{"east": 100})), lb.WithJetStream(jetstream.WithPublishAsyncMaxPending(1)))
	if _, err := p.PublishAsync(t.Context(), &nats.Msg{}); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.PublishAsync(short, &nats.Msg{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("PublishAsync into a full window = %v, want the end of its context", err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := p.PublishAsync(t.Context(), &nats.Msg{})
		second <- err
	}()
	answer()
	select {
	case err := <-second:
		if err != nil {
			t.Errorf("PublishAsync when there is room again: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("PublishAsync still waits")
	}
	answer()
	ctx, end := context.WithTimeout(t.Context(), 30*time.Second)
	defer end()
	if err := p.Flush(ctx); err != nil {
		t.Error(err)
	}
	if s := p.Stats().Targets["east"]; s.Sent != 2 || s.InFlight != 0 {
		t.Errorf("Stats = %+v, want two sent and none in flight", s)
	}
}
