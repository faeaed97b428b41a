package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/internal/reportpb"
	"ballast/traffic"
)

// Handler does the work of one message. nil acknowledges it; an error asks the
// server to deliver it again, after WorkerConfig.NakDelay. It must not
// acknowledge by itself, except that a long one may call msg.InProgress.
//
// ctx is not the one of Run: it ends when the time to finish after that,
// WorkerConfig.Drain, is over.
type Handler func(ctx context.Context, msg jetstream.Msg) error

// WorkerConfig says what a Worker works on. Split, Target, Stream, Consumer and
// Handler are required.
type WorkerConfig struct {
	Split, Target    string // whose reports it sends
	Stream, Consumer string // a pull consumer with explicit acknowledgement, that exists or will
	Handler          Handler
	Group            PriorityGroup // of a consumer with priority groups

	// Concurrency is the number of handlers that run at the same time; 0 is 1.
	Concurrency int
	// Prefetch is the number of messages that wait in the client for a handler;
	// 0 is none. It hides the round trip to the server between two messages of a
	// handler: on loopback 1 % of the throughput when a message takes 5 ms, and
	// a third of it at 0.2 ms. But the server's ack_time then measures the waiting
	// too, and a worker that dies holds more messages back until ack_wait is over.
	Prefetch int

	// Heartbeat is how often a handler that takes long tells the server that it is
	// still at work, so that its message is not delivered to another one; 0 is a
	// third of the consumer's ack_wait, negative never. The first one is sent when
	// that much of ack_wait is over: the server's ack_time counts from the last one,
	// so those of quick messages stay true.
	Heartbeat time.Duration

	NakDelay time.Duration // 0 is 1 s
	Drain    time.Duration // 0 is 30 s
	// PullWait is how long one request for messages stands, 0 is 1 s, and less where
	// the consumer demands it. An idle worker asks once in that time, and one that
	// stops waits for it to end: what the server has sent until then is worked off
	// and not left to be redelivered.
	PullWait time.Duration

	ReportEvery time.Duration // 0 is 5 s, negative sends none
	ID          string        // names the worker in its reports, unique per start; "" draws one
	Observe     func(Outcome) // called after every message, from its handler's goroutine
	JetStream   jetstream.JetStream
	Log         *slog.Logger // nil discards
}

// Outcome is what became of one message.
type Outcome struct {
	Sequence     uint64        // in the stream
	Deliveries   uint64        // 1 is the first
	Processing   time.Duration // the handler's run
	ReceiptToAck time.Duration // from receipt by the client to the acknowledgement sent; 0 when it failed
	Err          error         // the handler's, or of sending the acknowledgement
}

// Worker takes messages from a consumer, hands them to a bounded number of
// handlers and acknowledges each by itself. It reports what it did on
// ballast.report.<split>.<target>.
type Worker struct {
	cfg WorkerConfig
	js  jetstream.JetStream
	reporter
	ackWait atomic.Int64 // of the consumer, as it was looked up last
}

// NewWorker builds a worker. It asks the server for nothing; Run does.
func NewWorker(nc *nats.Conn, cfg WorkerConfig) (*Worker, error) {
	var wrong []error
	refuse := func(bad bool, text string) {
		if bad {
			wrong = append(wrong, errors.New(text))
		}
	}
	refuse(!traffic.ValidName(cfg.Split), "split: use 1 to 64 letters, digits, '-' or '_'")
	refuse(!traffic.ValidName(cfg.Target), "target: use 1 to 64 letters, digits, '-' or '_'")
	refuse(cfg.Stream == "" || cfg.Consumer == "", "name the stream and the consumer")
	refuse(cfg.Handler == nil, "a handler is required")
	refuse(cfg.Concurrency < 0 || cfg.Prefetch < 0, "concurrency and prefetch are not negative")
	refuse(cfg.NakDelay < 0 || cfg.Drain < 0 || cfg.PullWait < 0, "delays and waits are not negative")
	refuse(cfg.ID != "" && !reportpb.ValidWorker(cfg.ID), "the id is not 1 to 64 printable ASCII characters")
	if err := cfg.Group.check(); err != nil {
		wrong = append(wrong, err)
	}
	if wrong != nil {
		return nil, fmt.Errorf("worker of target %q: %w", cfg.Target, errors.Join(wrong...))
	}
	cfg.Concurrency = max(cfg.Concurrency, 1)
	setDefault(&cfg.NakDelay, time.Second)
	setDefault(&cfg.Drain, 30*time.Second)
	setDefault(&cfg.PullWait, time.Second)
	setDefault(&cfg.ReportEvery, 5*time.Second)
	if cfg.ID == "" {
		cfg.ID = nuid.Next()
	}
	w := &Worker{cfg: cfg, js: cfg.JetStream, reporter: reporter{
		nc: nc, split: cfg.Split, target: cfg.Target, id: cfg.ID, workers: cfg.Concurrency, every: cfg.ReportEvery,
		log: discard(cfg.Log).With("split", cfg.Split, "target", cfg.Target, "consumer", cfg.Consumer),
	}}
	if w.js == nil {
		js, err := jetstream.New(nc)
		if err != nil {
			return nil, fmt.Errorf("worker of target %q: %w", cfg.Target, err)
		}
		w.js = js
	}
	return w, nil
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}

// WorkerStats counts since NewWorker.
type WorkerStats struct {
	Processed, Failed uint64 // handler runs that ended, the failed ones included; those that failed
	InFlight          int    // messages received and not answered yet
}

// Stats returns the counts.
func (w *Worker) Stats() WorkerStats { return w.stats() }

// received is a message and when the client had it.
type received struct {
	msg jetstream.Msg
	at  time.Time
}

// Run works until ctx ends. It then stops asking for messages, finishes those
// in hand, sends a last report, makes sure that all of it has reached the server
// and returns nil. A handler that does not heed the end of its own context keeps
// Run from returning. It returns an error when the connection was closed under
// it.
//
// A consumer that does not exist yet or no longer, a change of its leader and a
// server that is gone are waited for.
func (w *Worker) Run(ctx context.Context) error {
	// Handlers outlive ctx on purpose.
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()

	work := make(chan received, w.cfg.Prefetch)
	free := make(chan struct{}, w.cfg.Concurrency+w.cfg.Prefetch)
	for range cap(free) {
		free <- struct{}{}
	}
	var handlers sync.WaitGroup
	for range w.cfg.Concurrency {
		handlers.Go(func() {
			for r := range work {
				w.handle(life, r)
				free <- struct{}{}
			}
		})
	}
	reporter := make(chan struct{})
	go func() {
		defer close(reporter)
		w.report(life)
	}()

	err := w.pull(ctx, work, free)
	close(work)
	patience := time.AfterFunc(w.cfg.Drain, kill)
	handlers.Wait()
	patience.Stop()
	kill()
	<-reporter
	return errors.Join(err, w.flush(ctx))
}

// flush waits until the server has read what was sent.
func (w *Worker) flush(ctx context.Context) error {
	if !w.nc.IsConnected() {
		return nil // nothing can be done: what was not acknowledged is delivered again
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	if err := w.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("send the last acknowledgements of target %s: %w", w.cfg.Target, err)
	}
	return nil
}

// Waits between attempts to get messages after an error. A leader election
// takes some hundred milliseconds, a consumer that is missing may take for ever.
const (
	shortestWait = 100 * time.Millisecond
	longestWait  = 5 * time.Second
)

var errNotConnected = errors.New("not connected to NATS")

// pull hands messages over as handlers become free, until ctx ends.
func (w *Worker) pull(ctx context.Context, work chan<- received, free chan struct{}) error {
	connected := w.nc.StatusChanged(nats.CONNECTED)
	defer w.nc.RemoveStatusListener(connected)
	var src source
	said := ""
	for n := 0; ctx.Err() == nil; n++ {
		ok, err := w.consume(ctx, &src, work, free)
		switch {
		case ctx.Err() != nil:
			return nil
		case w.nc.IsClosed():
			return fmt.Errorf("work for target %s: %w", w.cfg.Target, nats.ErrConnectionClosed)
		case ok:
			n, said = 0, ""
		}
		if text := err.Error(); text != said { // said once, not at every attempt
			said = text
			w.log.WarnContext(ctx, "no messages can be fetched, trying again", "err", err)
		}
		rest(ctx, connected, jitter(min(shortestWait<<min(n, 6), longestWait), rand.Float64))
	}
	return nil
}

// source is a consumer as it was looked up, and how it is asked.
type source struct {
	consumer    jetstream.Consumer // nil before the look-up
	least, most int                // messages of one request
	request     []jetstream.FetchOpt
	note        string // what was last said of its settings
}

// consume pulls from the consumer until an error or the end of ctx, whichever it
// returns. ok reports whether at least one pull went well.
func (w *Worker) consume(ctx context.Context, src *source, work chan<- received, free chan struct{}) (ok bool, err error) {
	for {
		if !w.nc.IsConnected() {
			// Requests would pile up in the client's buffer and be sent long after
			// they have run out here.
			return ok, errNotConnected
		}
		if err := w.lookUp(ctx, src, cap(free)); err != nil {
			return ok, err
		}
		n := take(ctx, free, src.least, src.most)
		if n == 0 {
			return ok, ctx.Err()
		}
		got, err := w.fetch(src, n, work)
		for range n - got {
			free <- struct{}{}
		}
		if errors.Is(err, jetstream.ErrPinIDMismatch) {
			err = nil // another worker was pinned meanwhile; this one waits for its turn
		}
		ok = ok || err == nil || got > 0
		if err != nil {
			if !passing(err) {
				src.consumer = nil
			}
			return ok, err
		}
	}
}

// lookUp asks for the consumer's settings once. It is not asked again at every
// trouble: while a stream's servers elect a leader, messages flow long before
// questions are answered.
func (w *Worker) lookUp(ctx context.Context, src *source, slots int) error {
	if src.consumer != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	consumer, err := w.js.Consumer(ctx, w.cfg.Stream, w.cfg.Consumer)
	if err != nil {
		return fmt.Errorf("look up consumer %s of stream %s: %w", w.cfg.Consumer, w.cfg.Stream, err)
	}
	cfg := consumer.CachedInfo().Config
	if err := w.cfg.Group.refused(cfg); err != nil {
		return fmt.Errorf("work on consumer %s of stream %s: %w", w.cfg.Consumer, w.cfg.Stream, err)
	}
	note := w.cfg.Group.passedOver(cfg)
	if note != "" && note != src.note {
		w.log.WarnContext(ctx, "the consumer passes over settings of the worker", "reason", note)
	}
	src.note = note
	src.consumer, src.most = consumer, slots
	// While less than half of what may wait in the client is missing, no handler is
	// idle: requests are fewer and larger for it.
	src.least = max(1, w.cfg.Prefetch/2)
	src.request = w.cfg.Group.request(patience(cfg, w.cfg.PullWait))
	if limit := cfg.MaxRequestBatch; limit > 0 {
		src.most, src.least = min(slots, limit), min(src.least, limit)
	}
	ackWait := cfg.AckWait
	if len(cfg.BackOff) > 0 { // then the server takes its steps instead
		ackWait = slices.Min(cfg.BackOff)
	}
	w.ackWait.Store(int64(ackWait))
	return nil
}

// passing reports whether an error says nothing against the consumer's settings
// as they were looked up. One that was deleted may be created again.
func passing(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrConsumerLeadershipChanged) ||
		errors.Is(err, jetstream.ErrServerShutdown) || errors.Is(err, jetstream.ErrConsumerDeleted)
}

// take waits for the least number of slots and takes what else is free, up to
// most. It returns 0 when ctx has ended.
func take(ctx context.Context, free <-chan struct{}, least, most int) int {
	if ctx.Err() != nil {
		return 0
	}
	for n := 0; n < most; n++ {
		if n < least {
			select {
			case <-free:
			case <-ctx.Done():
				return 0
			}
			continue
		}
		select {
		case <-free:
		default:
			return n
		}
	}
	return most
}

// fetch asks for n messages and hands over what comes within PullWait. It does
// not heed the end of Run's context: the server may send until the request has
// run out, and what it sends must not be lost on the way.
func (w *Worker) fetch(src *source, n int, work chan<- received) (got int, err error) {
	batch, err := src.consumer.Fetch(n, src.request...)
	if err != nil {
		return 0, fmt.Errorf("ask for messages of consumer %s: %w", w.cfg.Consumer, err)
	}
	for msg := range batch.Messages() {
		got++
		w.inFlight.Add(1)
		work <- received{msg, time.Now()}
	}
	if err := batch.Error(); err != nil {
		return got, fmt.Errorf("fetch messages of consumer %s: %w", w.cfg.Consumer, err)
	}
	return got, nil
}

// beat tells the server at the heartbeat's pace that a message is still worked on,
// until rest is called.
func (w *Worker) beat(msg jetstream.Msg) (rest func()) {
	every := w.cfg.Heartbeat
	if every == 0 {
		every = time.Duration(w.ackWait.Load()) / 3
	}
	if every <= 0 {
		return func() {}
	}
	var mu sync.Mutex // no heartbeat after the answer
	over := false
	var t *time.Timer
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if err := msg.InProgress(); err != nil {
			w.log.Debug("a heartbeat was not sent", "err", err)
		}
		t.Reset(every)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		t.Stop()
	}
}

// handle runs the handler and answers the server.
func (w *Worker) handle(life context.Context, r received) {
	start := time.Now()
	rest := w.beat(r.msg)
	err := w.cfg.Handler(life, r.msg)
	rest()
	o := Outcome{Processing: time.Since(start), Err: err}
	switch {
	case err == nil:
		if err := r.msg.Ack(); err != nil {
			o.Err = fmt.Errorf("acknowledge: %w", err)
		} else {
			o.ReceiptToAck = time.Since(r.at)
		}
	case life.Err() != nil:
		// Cut off by the end of the drain time, not by the message: another worker
		// may have it at once.
		o.Err = errors.Join(err, r.msg.Nak())
	default:
		if nak := r.msg.NakWithDelay(w.cfg.NakDelay); nak != nil {
			o.Err = errors.Join(err, fmt.Errorf("ask for redelivery: %w", nak))
		}
	}
	w.ended(o, err != nil)
	if o.Err != nil {
		w.log.DebugContext(life, "a message was not acknowledged", "err", o.Err)
	}
	if w.cfg.Observe != nil {
		if meta, err := r.msg.Metadata(); err == nil {
			o.Sequence, o.Deliveries = meta.Sequence.Stream, meta.NumDelivered
		}
		w.cfg.Observe(o)
	}
}
