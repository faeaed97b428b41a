package lb_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/wait"
)

const benchHands = 8 // handlers at a time, here and in the baselines

// BenchmarkWorker holds the worker against what one would write by hand with the
// client library, in one run: eight handlers at a time, in messages a second. What
// waits in the client for a handler is what compares: nothing with eight loops of
// Next and with Prefetch 0, eight messages with a loop of Fetch(8) and Prefetch 8,
// 492 with Consume and its 500.
func BenchmarkWorker(b *testing.B) {
	for _, took := range []time.Duration{0, 200 * time.Microsecond, 5 * time.Millisecond} {
		b.Run(fmt.Sprintf("handler=%v", took), func(b *testing.B) {
			b.Run("baseline=Next", func(b *testing.B) { benchPull(b, took, nextLoops) })
			b.Run("worker/prefetch=0", func(b *testing.B) { benchWorker(b, took, 0) })
			b.Run("baseline=Fetch(8)", func(b *testing.B) { benchPull(b, took, fetchLoop) })
			b.Run("worker/prefetch=8", func(b *testing.B) { benchWorker(b, took, 8) })
			b.Run("baseline=Consume", func(b *testing.B) { benchPull(b, took, consume) })
			b.Run("worker/prefetch=492", func(b *testing.B) { benchWorker(b, took, 492) })
		})
	}
}

// fill stores b.N orders, not more at a time than the client takes.
func fill(b *testing.B, js jetstream.JetStream) {
	b.Helper()
	const some = 2000
	for from := 0; from < b.N; from += some {
		publishOrders(b, js, from, min(from+some, b.N))
	}
}

// spend is what every handler of the benchmark does.
func spend(ctx context.Context, took time.Duration) error {
	if took == 0 {
		return nil
	}
	return work(ctx, took)
}

func benchWorker(b *testing.B, took time.Duration, prefetch int) {
	nc, js := system(b)
	fill(b, js)
	cfg := config(func(ctx context.Context, _ jetstream.Msg) error { return spend(ctx, took) })
	cfg.Concurrency, cfg.Prefetch = benchHands, prefetch
	w := worker(b, nc, cfg)
	timed(b, w.Run, func() bool { return w.Stats().Processed == uint64(b.N) })
}

func benchPull(b *testing.B, took time.Duration, pull func(context.Context, jetstream.Consumer, func(jetstream.Msg)) error) {
	_, js := system(b)
	fill(b, js)
	consumer, err := js.Consumer(b.Context(), "ORDERS", "east")
	if err != nil {
		b.Fatal(err)
	}
	var done atomic.Int64
	timed(b, func(ctx context.Context) error {
		return pull(ctx, consumer, func(msg jetstream.Msg) {
			if spend(context.WithoutCancel(ctx), took) == nil && msg.Ack() == nil {
				done.Add(1)
			}
		})
	}, func() bool { return done.Load() == int64(b.N) })
}

// nextLoops ask for one message each once they have worked off the last one.
func nextLoops(ctx context.Context, consumer jetstream.Consumer, handle func(jetstream.Msg)) error {
	var loops sync.WaitGroup
	for range benchHands {
		loops.Go(func() {
			for ctx.Err() == nil {
				if msg, err := consumer.Next(jetstream.FetchMaxWait(100 * time.Millisecond)); err == nil {
					handle(msg)
				}
			}
		})
	}
	loops.Wait()
	return nil
}

// hands handle what is sent to the channel.
func hands(handle func(jetstream.Msg)) (msgs chan jetstream.Msg, wait func()) {
	msgs = make(chan jetstream.Msg)
	var all sync.WaitGroup
	for range benchHands {
		all.Go(func() {
			for msg := range msgs {
				handle(msg)
			}
		})
	}
	return msgs, func() { close(msgs); all.Wait() }
}

func fetchLoop(ctx context.Context, consumer jetstream.Consumer, handle func(jetstream.Msg)) error {
	msgs, wait := hands(handle)
	defer wait()
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(benchHands, jetstream.FetchMaxWait(100*time.Millisecond))
		if err != nil {
			return err
		}
		for msg := range batch.Messages() {
			msgs <- msg
		}
		if err := batch.Error(); err != nil {
			return err
		}
	}
	return nil
}

func consume(ctx context.Context, consumer jetstream.Consumer, handle func(jetstream.Msg)) error {
	msgs, wait := hands(handle)
	defer wait()
	sub, err := consumer.Consume(func(msg jetstream.Msg) { msgs <- msg })
	if err != nil {
		return err
	}
	<-ctx.Done()
	sub.Stop()
	<-sub.Closed()
	return nil
}

// timed measures from the start of run until done.
func timed(b *testing.B, run func(context.Context) error, done func() bool) {
	b.Helper()
	b.ResetTimer()
	start := time.Now()
	stop := running(b, "benchmark", run)
	wait.For(b, 5*time.Minute, "the orders", done)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msg/s")
	b.StopTimer()
	stop()
}
