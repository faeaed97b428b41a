package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"ballast/collector"
	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/store"
)

// 50,000 acknowledgement samples a second of 500 consumers reach the store's
// sketches, every one of them.
func TestAckSamplesAreNotLost(t *testing.T) {
	const consumers, events, perBatch = 500, 100_000, 500
	srv := natstest.Server(t)
	nc, pub := natstest.Connect(t, srv.ClientURL()), natstest.Connect(t, srv.ClientURL())
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	col, err := collector.New(collector.Config{Conn: nc, Monitor: []string{natstest.MonitorURL(srv)}, Account: "$G",
		Interval: time.Second, AckEvery: time.Second, Log: slog.New(slog.DiscardHandler), Now: time.Now}, db)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- col.Run(ctx) }()
	wait.For(t, 30*time.Second, "the first look", func() bool { return !db.Latest().TakenAt.IsZero() })

	from := time.Now().Add(-2 * time.Second)
	key := func(i int) fleet.ConsumerKey {
		return fleet.ConsumerKey{Account: "$G", Stream: fmt.Sprint("S", i/10), Consumer: fmt.Sprint("C", i)}
	}
	subjects, samples := make([]string, consumers), make([][]byte, 64)
	for i := range subjects {
		k := key(i)
		subjects[i] = "$JS.EVENT.METRIC.CONSUMER.ACK." + k.Stream + "." + k.Consumer
	}
	for i := range samples {
		samples[i] = fmt.Appendf(nil, `{"type":"io.nats.jetstream.metric.v1.consumer_ack","id":"x","timestamp":"2026-03-01T00:00:00Z","stream":"S","consumer":"C","consumer_seq":1,"stream_seq":1,"ack_time":%d,"deliveries":1}`, 1_000_000+i*977_777)
	}
	batch := time.NewTicker(time.Second * perBatch / 50_000)
	defer batch.Stop()
	begin := time.Now()
	for i := range events {
		if i%perBatch == 0 {
			<-batch.C
		}
		if err := pub.Publish(subjects[i%consumers], samples[i%len(samples)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Flush(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	count := func() (n uint64) {
		for i := range consumers {
			l, err := db.Latency(t.Context(), key(i), fleet.Range{From: from, To: time.Now().Add(time.Second)}, 10)
			if err != nil {
				t.Fatal(err)
			}
			n += l.Total.Count()
		}
		return n
	}
	var n uint64
	wait.For(t, 30*time.Second, "all samples in the store", func() bool { n = count(); return n >= events })
	if n != events {
		t.Errorf("%d samples are stored, %d were sent", n, events)
	}
	for _, p := range db.Latest().Problems {
		t.Logf("problem: %s", p.What)
	}
	t.Logf("%d samples in %v: %.0f a second", events, took.Round(time.Millisecond), float64(events)/took.Seconds())
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
