package bed

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	// medianWork is how long a message is worked on before its acknowledgement;
	// one in a hundred takes five times as long.
	medianWork = 10 * time.Millisecond
	maxWork    = 500 * time.Millisecond
	// refused is the share of the messages that a worker gives back, so that
	// there are redeliveries.
	refused = 0.01
	// idleEphemeral is when the server removes an ephemeral consumer.
	idleEphemeral = 5 * time.Second
)

// Work is what Run has done so far.
type Work struct {
	Published    uint64 // given to the connection; Unstored of them were not stored
	Unstored     uint64
	Acknowledged uint64 // by consumers
	Ephemerals   uint64 // consumers that were created
}

type work struct {
	published, unstored, acknowledged, ephemerals atomic.Uint64
}

// Work may be called at any time.
func (b *Bed) Work() Work {
	return Work{
		Published: b.work.published.Load(), Unstored: b.work.unstored.Load(),
		Acknowledged: b.work.acknowledged.Load(), Ephemerals: b.work.ephemerals.Load(),
	}
}

// Run publishes, works and churns until ctx ends, and then returns nil once all
// of it has stopped. It returns an error when a server dies.
func (b *Bed) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range b.processes {
		g.Go(func() error {
			select {
			case <-p.done:
				return p.ended()
			case <-ctx.Done():
				return nil
			}
		})
	}
	if b.cfg.Rate > 0 {
		g.Go(func() error { return b.consume(ctx) })
		g.Go(func() error { return b.publish(ctx) })
	}
	if b.cfg.Churn > 0 {
		g.Go(func() error {
			b.churn(ctx)
			return nil
		})
	}
	return g.Wait()
}

// busy are the streams of the workload.
func (b *Bed) busy() []streamPlan {
	n := 0
	for n < len(b.plan.streams) && b.plan.streams[n].busy {
		n++
	}
	return b.plan.streams[:n]
}

// at returns the JetStream of the n-th connection that sits there, so that the
// work is spread over the connections.
func (b *Bed) at(s seat, n int) (jetstream.JetStream, error) {
	var there []*nats.Conn
	for i, p := range b.plan.conns {
		if p.seat == s {
			there = append(there, b.conns[i])
		}
	}
	js, err := jetstream.New(there[n%len(there)],
		jetstream.WithPublishAsyncErrHandler(func(jetstream.JetStream, *nats.Msg, error) { b.work.unstored.Add(1) }))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return js, nil
}

// publish keeps the rate over time: what a slow moment missed is made good. To
// every ten messages for streams comes one request to a service, so that the
// figures of the other connections move as well.
func (b *Bed) publish(ctx context.Context) error {
	streams := b.busy()
	out := make([]jetstream.JetStream, len(streams))
	for i, s := range streams {
		var err error
		if out[i], err = b.at(s.seat, i); err != nil {
			return err
		}
	}
	payload := make([]byte, 1200)
	began, sent := time.Now(), 0.0
	every(ctx, 10*time.Millisecond, func() {
		for due := time.Since(began).Seconds() * b.cfg.Rate; sent < due && ctx.Err() == nil; sent++ {
			i := rand.IntN(len(streams))
			subject := streams[i].subjects[rand.IntN(2)]
			if _, err := out[i].PublishAsync(subject, payload[:200+rand.IntN(1000)]); err != nil {
				b.work.unstored.Add(1)
			}
			b.work.published.Add(1)
			if rand.IntN(10) == 0 {
				_ = b.conns[rand.IntN(len(b.conns))].Publish(b.plan.conns[rand.IntN(len(b.conns))].subject, payload[:200])
			}
		}
	})
	patience := time.After(5 * time.Second) // a server that is gone answers no more
	for _, js := range out {
		select {
		case <-js.PublishAsyncComplete():
		case <-patience:
			return nil
		}
	}
	return nil
}

// consume works on what is published.
func (b *Bed) consume(ctx context.Context) error {
	var open sync.WaitGroup // messages that are worked on
	handle := func(m jetstream.Msg) {
		open.Add(1)
		time.AfterFunc(workTime(), func() {
			defer open.Done()
			if rand.Float64() < refused {
				_ = m.Nak()
			} else if m.Ack() == nil {
				b.work.acknowledged.Add(1)
			}
		})
	}
	var running []jetstream.ConsumeContext
	defer func() {
		for _, c := range running {
			c.Stop()
		}
		for _, c := range running {
			<-c.Closed()
		}
		open.Wait()
	}()
	for i, s := range b.busy() {
		for j, c := range s.consumers {
			if !c.worked {
				continue
			}
			js, err := b.at(s.seat, 2*i+j)
			if err != nil {
				return err
			}
			cc, err := b.consumeOne(ctx, js, s.config.Name, c, handle)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("consume %q of stream %q: %w", c.config.Durable, s.config.Name, err)
			}
			running = append(running, cc)
		}
	}
	<-ctx.Done()
	return nil
}

func (b *Bed) consumeOne(ctx context.Context, js jetstream.JetStream, stream string, c consumerPlan, handle jetstream.MessageHandler) (jetstream.ConsumeContext, error) {
	report := func(_ jetstream.ConsumeContext, err error) {
		b.log.Debug("a worker of the bed reports", "stream", stream, "consumer", c.config.Durable, "err", err)
	}
	if c.push() {
		consumer, err := js.PushConsumer(ctx, stream, c.config.Durable)
		if err != nil {
			return nil, err
		}
		return consumer.Consume(handle, jetstream.ConsumeErrHandler(report))
	}
	consumer, err := js.Consumer(ctx, stream, c.config.Durable)
	if err != nil {
		return nil, err
	}
	return consumer.Consume(handle, jetstream.ConsumeErrHandler(report))
}

// workTime is log-normal, as service times tend to be.
func workTime() time.Duration {
	const sigma = 0.7
	return min(maxWork, time.Duration(float64(medianWork)*math.Exp(sigma*rand.NormFloat64())))
}

// churn creates ephemeral consumers, as short-lived subscribers do.
func (b *Bed) churn(ctx context.Context) {
	streams := b.busy()
	var g errgroup.Group
	g.SetLimit(creating)
	began, made := time.Now(), 0.0
	every(ctx, 10*time.Millisecond, func() {
		for due := time.Since(began).Seconds() * b.cfg.Churn; made < due && ctx.Err() == nil; made++ {
			s, drop := streams[rand.IntN(len(streams))], rand.IntN(2) == 0
			g.Go(func() error {
				b.churnOne(ctx, s, drop)
				return nil
			})
		}
	})
	_ = g.Wait() // they return nil
}

func (b *Bed) churnOne(ctx context.Context, s streamPlan, drop bool) {
	js := b.js[s.seat]
	c, err := js.CreateConsumer(ctx, s.config.Name, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: s.subjects[0], InactiveThreshold: idleEphemeral,
	})
	if err == nil {
		b.work.ephemerals.Add(1)
		if drop {
			err = js.DeleteConsumer(ctx, s.config.Name, c.CachedInfo().Name)
		}
	}
	if err != nil && ctx.Err() == nil {
		b.log.Debug("an ephemeral consumer was not made or not deleted", "stream", s.config.Name, "err", err)
	}
}

// every calls do at a steady pace until ctx ends.
func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}
