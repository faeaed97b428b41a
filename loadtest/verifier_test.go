package loadtest

import (
	"context"
	"errors"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

func orders(east, west int) traffic.Split {
	return traffic.Split{
		Name: "orders", Subject: "orders", Pick: traffic.Weighted, Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawManual,
		Targets: []traffic.Target{
			{Name: "east", Subject: "orders.east", Weight: east, State: traffic.Ready},
			{Name: "west", Subject: "orders.west", Weight: west, State: traffic.Ready},
		},
	}
}

func stream(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// follow runs the verifier beside the test.
func follow(t *testing.T, v *Verifier, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Follow(ctx, js, "ORDERS") }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Follow = %v, want nil after cancel", err)
		}
	})
}

func TestVerifierCounts(t *testing.T) {
	t.Parallel()
	_, js := stream(t)
	v := NewVerifier(VerifierConfig{Run: "run", Split: orders(50, 50), Window: 4, RevisionHeader: "Rev"})
	follow(t, v, js)

	put := func(subject, id string, revision uint64) {
		t.Helper()
		m := &nats.Msg{Subject: subject, Header: nats.Header{"Rev": {strconv.FormatUint(revision, 10)}}}
		if id != "" {
			m.Header.Set(jetstream.MsgIDHeader, id)
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	put("orders.east", "run-0", 1)
	put("orders.east", "other-0", 9)
	put("orders.east", "", 9)
	put("orders.west", "run-1", 1)
	put("orders.nobody", "run-2", 3)
	put("orders.west", "run-4", 3)
	wait.For(t, time.Minute, "four messages", func() bool { return v.Count() == 4 })
	report := Report{acked: []bool{true, true, true, true, false}}

	got := v.Check(report)
	if got.Delivered != 4 || got.Duplicates != 0 || len(got.Missing) != 1 || got.Missing[0] != 3 || got.Unasked != 1 || got.Strays != 1 {
		t.Errorf("verdict %+v", got)
	}
	if share, of := v.Shares(); of != 3 || math.Abs(share["east"]-100./3) > 1e-9 || math.Abs(share["west"]-200./3) > 1e-9 {
		t.Errorf("shares %v of %d", share, of)
	}
	if _, ok := v.FirstBy(4); ok {
		t.Error("FirstBy found a revision that nobody picked by")
	}
	one, ok1 := v.FirstBy(1)
	two, ok2 := v.FirstBy(2) // by the later revision 3
	if !ok1 || !ok2 || !one.Before(two) {
		t.Errorf("FirstBy(1) = %v, FirstBy(2) = %v", one, two)
	}

	// With a short memory of ids the stream lets a true duplicate in.
	s, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Duplicates = 100 * time.Millisecond
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	wait.For(t, time.Minute, "the duplicate to be counted", func() bool {
		put("orders.east", "run-0", 3)
		return v.Check(report).Duplicates > 0
	})
	v.ResetWindow()
	for n := 10; n < 20; n++ {
		put("orders.west", id("run", n), 3)
	}
	wait.For(t, time.Minute, "a full window", func() bool { share, of := v.Shares(); return of == 4 && share["west"] == 100 })
}

// The whole way: a publisher follows a split's document, the document is
// changed under load, and nothing is lost or doubled by that.
func TestChangeUnderLoad(t *testing.T) {
	nc, js := stream(t)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: traffic.Bucket, History: 64})
	if err != nil {
		t.Fatal(err)
	}
	put := func(number uint64, s traffic.Split) time.Time {
		t.Helper()
		doc, err := traffic.Revision{V: traffic.Version, Number: number, Base: number - 1, Split: s}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		if _, err := kv.Put(t.Context(), traffic.Key(s.Name), doc); err != nil {
			t.Fatal(err)
		}
		return at
	}
	put(1, orders(80, 20))
	// On a busy machine an answer may take longer than an attempt: that must not
	// count against a target here, and every message be acknowledged in the end.
	pub, err := lb.NewPublisher(nc, "orders", lb.WithMarks(), lb.WithAttempts(20), lb.WithoutBreaker())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pub.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of the publisher = %v", err)
		}
	})
	if err := pub.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}

	const run, window = "change", 1500
	v := NewVerifier(VerifierConfig{Run: run, Split: orders(80, 20), Window: window, RevisionHeader: lb.RevisionHeader})
	follow(t, v, js)
	var report Report
	load, enough := context.WithCancel(ctx) // the load lasts as long as the test needs it
	defer enough()
	finished := make(chan error, 1)
	go func() {
		var err error
		report, err = Run(load, Config{Publisher: pub, Rate: 1000, Count: 1_000_000, Poisson: true, Seed: 1, Timeout: time.Minute, Run: run})
		finished <- err
	}()
	shares := func(east float64) {
		t.Helper()
		wait.For(t, time.Minute, "a full window", func() bool { _, of := v.Shares(); return of == window })
		share, _ := v.Shares()
		if math.Abs(share["east"]-east) > 3 || math.Abs(share["east"]+share["west"]-100) > 1e-6 {
			t.Errorf("shares of the last %d messages are %v, east's weight is %v", window, share, east)
		}
	}
	shares(80)
	changed := put(2, orders(20, 80))
	wait.For(t, time.Minute, "a message by the new weights", func() bool { _, ok := v.FirstBy(2); return ok })
	first, _ := v.FirstBy(2)
	t.Logf("the first message by the new weights came after %v", first.Sub(changed))
	v.ResetWindow()
	shares(20)

	enough()
	if err := <-finished; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wait.For(t, time.Minute, "every message", func() bool { return v.Count() >= report.Acknowledged })
	got := v.Check(report)
	if report.Acknowledged != report.Due || got.Delivered != report.Due || got.Duplicates != 0 || len(got.Missing) != 0 || got.Strays != 0 {
		t.Errorf("%d acknowledged, verdict %+v, errors %v", report.Acknowledged, got, report.Errors)
	}
	t.Log(report)
}

func TestFollowSince(t *testing.T) {
	t.Parallel()
	_, js := stream(t)
	put := func(n int) {
		t.Helper()
		m := &nats.Msg{Subject: "orders.east", Header: nats.Header{jetstream.MsgIDHeader: {id("run", n)}}}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	put(1)
	v := NewVerifier(VerifierConfig{Run: "run", Split: orders(50, 50), Since: time.Now()})
	put(2)
	follow(t, v, js)
	wait.For(t, time.Minute, "the message after the beginning", func() bool { return v.Count() > 0 })
	if got := v.Check(Report{acked: []bool{false, false, true}}); got.Delivered != 1 || len(got.Missing) != 0 {
		t.Errorf("verdict %+v", got)
	}
}

// The generator's own cost: a message through Run against the bare publish that
// it wraps.
func BenchmarkMessage(b *testing.B) {
	nothing := &faultyPublisher{do: func(context.Context, int64) error { return nil }}
	b.Run("baseline=publisher", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := nothing.PublishJS(b.Context(), &nats.Msg{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("run", func(b *testing.B) {
		b.ReportAllocs()
		if _, err := Run(b.Context(), Config{Publisher: nothing, Rate: 1e6, Count: b.N}); err != nil {
			b.Fatal(err)
		}
	})
}
