package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/lb"
)

const (
	// retryFor is how long an order is tried before it counts as failed. It
	// outlasts the election of a stream leader after a server's death.
	retryFor = 30 * time.Second
	// publishAttempts are more than fit into retryFor.
	publishAttempts = 30
	// maxWaiting orders may wait for their acknowledgement: ten seconds of
	// outage at the normal rate.
	maxWaiting = 3000
	// stopFor is how long Run waits for acknowledgements at its end.
	stopFor = 3 * time.Second
	maxRate = 5000
)

func checkRate(perSecond float64) error {
	if !(perSecond >= 0 && perSecond <= maxRate) {
		return fmt.Errorf("%w: a rate of %v orders a second is not between 0 and %d", ErrRefused, perSecond, maxRate)
	}
	return nil
}

// orders publishes at random moments: open-loop, so that a slow server gets no
// fewer orders, with exponential gaps, as independent customers produce them.
type orders struct {
	log       *slog.Logger
	rate      atomic.Uint64 // float64 bits
	changed   chan struct{} // holds one token when the rate changed
	rnd       *rand.Rand    // of run's goroutine, and so is
	due       time.Time     // when the last arrival was due
	published atomic.Uint64
	failed    atomic.Uint64
	waiting   atomic.Int64
	pub       atomic.Pointer[lb.Publisher] // nil before run
}

func newOrders(seed uint64, rate float64, log *slog.Logger) *orders {
	o := &orders{log: log, changed: make(chan struct{}, 1), rnd: rand.New(rand.NewPCG(seed, math.MaxUint64))}
	o.rate.Store(math.Float64bits(rate))
	return o
}

func (o *orders) setRate(perSecond float64) {
	o.rate.Store(math.Float64bits(perSecond))
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *orders) state() State {
	s := State{
		Rate:      math.Float64frombits(o.rate.Load()),
		Published: o.published.Load(),
		Failed:    o.failed.Load(),
		InFlight:  int(o.waiting.Load()),
	}
	if pub := o.pub.Load(); pub != nil {
		s.Retried = pub.Stats().Retried
	}
	return s
}

// run publishes from the first split document on until ctx ends, then waits a
// little for what is in flight.
func (o *orders) run(ctx context.Context, pub *lb.Publisher) error {
	o.pub.Store(pub)
	if err := pub.Ready(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("wait for the first document of split %s: %w", SplitName, err)
	}
	sendCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var sending sync.WaitGroup
	run := nuid.Next()
	o.due = time.Now()
	for n := 1; o.await(ctx); n++ {
		msg := o.next(fmt.Sprintf("%s-%d", run, n))
		if o.waiting.Load() >= maxWaiting {
			o.failed.Add(1)
			continue
		}
		o.waiting.Add(1)
		sending.Go(func() {
			defer o.waiting.Add(-1)
			o.send(sendCtx, pub, msg)
		})
	}
	defer time.AfterFunc(stopFor, giveUp).Stop()
	sending.Wait()
	return nil
}

// await returns true at the next arrival and false when ctx ends. Arrivals are
// counted from the one that was due, not from now, so that a late timer does
// not lower the rate; only after a stop of over a second (a sleeping laptop, a
// paused rate) does the schedule begin anew. So it does when the rate changes:
// what is left of an exponential gap is as long as a whole one.
func (o *orders) await(ctx context.Context) bool {
	for {
		var next time.Time
		var arrival <-chan time.Time // never, while the rate is 0
		if rate := math.Float64frombits(o.rate.Load()); rate > 0 {
			if now := time.Now(); now.Sub(o.due) > time.Second {
				o.due = now
			}
			next = o.due.Add(time.Duration(o.rnd.ExpFloat64() / rate * float64(time.Second)))
			arrival = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return false
		case <-arrival:
			o.due = next
			return true
		case <-o.changed:
			o.due = time.Now()
		}
	}
}

// order is a message of the workload.
type order struct {
	ID       string    `json:"id"`
	Customer int       `json:"customer"`
	Cents    int       `json:"cents"`
	Items    int       `json:"items"`
	At       time.Time `json:"at"`
}

func (o *orders) next(id string) *nats.Msg {
	// A struct of numbers and strings cannot fail to encode.
	data, _ := json.Marshal(order{
		ID:       id,
		Customer: o.rnd.IntN(10_000),
		Cents:    500 + int(o.rnd.ExpFloat64()*4000),
		Items:    1 + o.rnd.IntN(8),
		At:       time.Now().UTC(),
	})
	return &nats.Msg{Header: nats.Header{jetstream.MsgIDHeader: {id}}, Data: data}
}

// send lets the publisher try until the order is acknowledged or retryFor is
// over. The message id makes the stream drop a second copy, when only the
// acknowledgement of the first was lost.
func (o *orders) send(ctx context.Context, pub *lb.Publisher, msg *nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, retryFor)
	defer cancel()
	if _, err := pub.PublishJS(ctx, msg); err != nil {
		o.failed.Add(1)
		o.log.DebugContext(ctx, "order failed", "id", msg.Header.Get(jetstream.MsgIDHeader), "err", err)
		return
	}
	o.published.Add(1)
}
