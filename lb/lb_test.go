package lb_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// splitOf has one target of tier 0 for each weight, by name.
func splitOf(weights map[string]int) traffic.Split {
	s := traffic.Split{
		Name: "orders", Subject: "orders.process", Pick: traffic.Weighted,
		Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawCapacity,
	}
	for _, name := range []string{"east", "west", "backup"} {
		if w, ok := weights[name]; ok {
			s.Targets = append(s.Targets, traffic.Target{Name: name, Subject: "orders.process." + name, Weight: w, State: traffic.Ready})
		}
	}
	return s
}

func revision(epoch, number uint64, s traffic.Split) traffic.Revision {
	return traffic.Revision{
		V: traffic.Version, Epoch: epoch, Number: number, Base: number - 1,
		Change: "chg", Author: "test", Reason: "test", At: time.Now().UTC(), Split: s,
	}
}

func jetStream(tb testing.TB, nc *nats.Conn) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

func bucket(tb testing.TB, js jetstream.JetStream, replicas int) jetstream.KeyValue {
	tb.Helper()
	kv, err := js.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: traffic.Bucket, History: 64, Replicas: replicas})
	if err != nil {
		tb.Fatalf("create bucket: %v", err)
	}
	return kv
}

func put(tb testing.TB, kv jetstream.KeyValue, rev traffic.Revision) {
	tb.Helper()
	doc, err := rev.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	putRaw(tb, kv, doc)
}

func putRaw(tb testing.TB, kv jetstream.KeyValue, doc []byte) {
	tb.Helper()
	if _, err := kv.Put(context.Background(), traffic.Key("orders"), doc); err != nil {
		tb.Fatalf("put document: %v", err)
	}
}

// running runs f until the test ends, and fails the test when it returned an
// error or does not return. The function that it returns stops it earlier.
func running(tb testing.TB, what string, f func(context.Context) error) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		tb.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("%s: Run = %v, want nil", what, err)
			}
		case <-time.After(30 * time.Second):
			tb.Errorf("%s: Run did not return", what)
		}
	})
	tb.Cleanup(stop)
	return stop
}

// logBook keeps what was logged.
type logBook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Not parallel: it looks at all goroutines, and tests that are parallel wait
// until it is over.
func TestRunLeavesNothingBehind(t *testing.T) {
	srv := natstest.Server(t)
	admin := natstest.Connect(t, srv.ClientURL())
	js := jetStream(t, admin)
	ordersStream(t, js, 1)
	eastConsumer(t, js, ackWait)
	put(t, bucket(t, js, 1), revision(1, 1, splitOf(weights{"east": 100})))
	admin.Close()

	nc, err := lb.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	p, err := lb.NewPublisher(nc, "orders", lb.WithResync(5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(func(context.Context, jetstream.Msg) error { return nil })
	cfg.ReportEvery, cfg.Concurrency = 5*time.Millisecond, 4
	w := worker(t, nc, cfg)
	if n := ours(); n > 0 {
		t.Errorf("New started %d goroutines", n)
	}
	stopPublisher, stopWorker := running(t, "publisher", p.Run), running(t, "worker", w.Run)
	ready(t, p)
	for range 20 {
		if _, err := p.PublishJS(t.Context(), &nats.Msg{}); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, 30*time.Second, "the orders", func() bool { return w.Stats().Processed == 20 })
	stopPublisher()
	stopWorker()
	if n := ours(); n > 0 {
		t.Errorf("%d goroutines are left when Run has returned", n)
	}
	wait.For(t, 30*time.Second, "the end of the subscriptions", func() bool { return nc.NumSubscriptions() <= 1 }) // the client's own, for replies
	nc.Close()
	wait.For(t, 30*time.Second, "the end of the client's goroutines", func() bool { return count("nats.go") == 0 })
}

// ours counts the goroutines that run code of package lb.
func ours() int { return count("ballast/lb.(") }

func count(text string) int {
	buf := make([]byte, 1<<20)
	n := 0
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, text) && !strings.Contains(g, "lb_test.count") {
			n++
		}
	}
	return n
}
