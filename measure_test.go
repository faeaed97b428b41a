package main

import (
	"context"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// A consumer is measured by the whole console: the rate comes from the store,
// the cost from the samples that the collector received. Ending the console
// puts the consumer back, and the next one knows of it.
func TestMeasureThisConsumer(t *testing.T) {
	t.Parallel()
	const soon = time.Minute
	ctx := t.Context()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "JOBS", Subjects: []string{"jobs.>"}}); err != nil {
		t.Fatal(err)
	}
	cons, err := js.CreateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "east", FilterSubject: "jobs.east", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	work, err := cons.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(work.Stop)
	runUntilCleanup(t, "the load", func(ctx context.Context) error {
		tick := time.NewTicker(5 * time.Millisecond) // 200 a second
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				if err := nc.Publish("jobs.east", nil); err != nil {
					return err
				}
			}
		}
	})
	var samples, bytes atomic.Int64 // as they came over the wire
	if _, err := nc.Subscribe("$JS.EVENT.METRIC.CONSUMER.ACK.JOBS.east", func(m *nats.Msg) {
		samples.Add(1)
		bytes.Add(int64(len("MSG  1 000\r\n\r\n") + len(m.Subject) + len(m.Data)))
	}); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	console := func() (*app, func()) {
		a, err := newApp(ctx, setup{
			listen: "127.0.0.1:0", data: dir, system: "rig", operator: "tester",
			conn: natstest.Connect(t, srv.ClientURL()), monitor: []string{natstest.MonitorURL(srv)}, interval: 500 * time.Millisecond, bake: time.Minute,
			stopping: time.Second, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		actx, cancel := withCancel(t)
		done := make(chan error, 1)
		go func() { done <- a.Run(actx) }()
		return a, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("the console ended with %v", err)
			}
		}
	}
	a, stop := console()
	key := fleet.ConsumerKey{Account: "$G", Stream: "JOBS", Consumer: "east"}
	wait.For(t, soon, "the console to know the consumer's rate", func() bool {
		return a.control.Ready() == nil && a.db.Rates().Consumers[key].Acked > 100
	})
	m, err := a.control.Measure(ctx, key, 0, time.Hour, "ann", "is east slow?")
	if err != nil {
		t.Fatal(err)
	}
	if m.AckRate <= 0 || m.Cost.ExpectedPerSec < 20 || m.Cost.ExpectedPerSec > 50 {
		t.Errorf("at %.0f acknowledgements/s %d %% was chosen: %.0f samples/s are expected", m.AckRate, m.Percent, m.Cost.ExpectedPerSec)
	}
	if !slices.Contains(a.followed(), key) {
		t.Errorf("the console follows %v, not the consumer that it measures", a.followed())
	}
	now := func() traffic.Measurement { return a.control.Measurements()[0] }
	wait.For(t, soon, "samples of some seconds", func() bool { return now().Cost.Samples > 100 })
	m = now()
	size := float64(bytes.Load()) / float64(samples.Load())
	if got := m.Cost.BytesPerSec / m.Cost.SamplesPerSec; math.Abs(got-size) > 0.1*size {
		t.Errorf("a sample is counted as %.0f B, it is %.0f B", got, size)
	}
	if m.Cost.SamplesPerSec <= 0 || m.Cost.ServerCPU <= 0 {
		t.Errorf("cost %+v", m.Cost)
	}
	t.Logf("%.0f acknowledgements/s, sample_freq %d: %.1f samples/s, %.0f B/s, %.4f %% of a core", m.AckRate, m.Percent, m.Cost.SamplesPerSec, m.Cost.BytesPerSec, m.Cost.ServerCPU)

	stop()
	info, err := cons.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.Config.SampleFrequency != "" {
		t.Errorf("sample_freq is %q after the console ended", info.Config.SampleFrequency)
	}
	a, stop = console()
	defer stop()
	wait.For(t, soon, "the next console to know it", func() bool { return len(a.control.Measurements()) == 1 })
	if m := now(); m.Phase != traffic.MeasureOver || m.Cost.Samples < 100 {
		t.Errorf("the journal tells of %+v", m)
	}
}
