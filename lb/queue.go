package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"ballast/internal/reportpb"
	"ballast/traffic"
)

// QueueHandler does the work of one message of core NATS. It answers a request by
// msg.Respond; when it returns an error instead, the one who asked gets that as
// Nats-Service-Error with code 500.
//
// ctx is not the one of Run: it ends when the time to finish after that,
// QueueConfig.Drain, is over.
type QueueHandler func(ctx context.Context, msg *nats.Msg) error

// QueueConfig says what a QueueWorker works on. Split, Target, Subject, Group and
// Handler are required.
type QueueConfig struct {
	Split, Target string // whose reports it sends
	Subject       string // may have wildcards
	Group         string // queue group; the members of one share its messages
	Handler       QueueHandler

	// Dynamic gives each worker a group of its own, named <group>.<start>.<pid> by
	// the second of its start and its process. That is no load balancing: every
	// group gets every message, so all running workers do all of the work. It is
	// for what each process must see, such as a cache that is to be emptied, with
	// names that tell the processes apart in a monitor; a worker that is started
	// anew begins without the backlog of the one before.
	Dynamic bool

	Concurrency int           // handlers at the same time; 0 is 1
	Drain       time.Duration // 0 is 30 s
	ReportEvery time.Duration // 0 is 5 s, negative sends none
	ID          string        // names the worker in its reports, unique per start; "" draws one
	Observe     func(Outcome) // called after every message, from its handler's goroutine
	Log         *slog.Logger  // nil discards
}

// QueueWorker takes messages of core NATS from a queue group, hands them to a
// bounded number of handlers, and reports what it did on
// ballast.report.<split>.<target>. Core NATS keeps nothing: what is on its way to
// a worker that dies is lost, and so is what a worker is too slow to take.
type QueueWorker struct {
	cfg   QueueConfig
	group string
	reporter
}

// NewQueueWorker builds a worker. It subscribes to nothing; Run does.
func NewQueueWorker(nc *nats.Conn, cfg QueueConfig) (*QueueWorker, error) {
	var wrong []error
	refuse := func(bad bool, text string) {
		if bad {
			wrong = append(wrong, errors.New(text))
		}
	}
	refuse(!traffic.ValidName(cfg.Split), "split: use 1 to 64 letters, digits, '-' or '_'")
	refuse(!traffic.ValidName(cfg.Target), "target: use 1 to 64 letters, digits, '-' or '_'")
	refuse(cfg.Subject == "", "name the subject")
	refuse(!traffic.ValidSubject(cfg.Group), "name the queue group; it has no spaces and no wildcards")
	refuse(cfg.Handler == nil, "a handler is required")
	refuse(cfg.Concurrency < 0, "concurrency is not negative")
	refuse(cfg.Drain < 0, "the time to finish is not negative")
	refuse(cfg.ID != "" && !reportpb.ValidWorker(cfg.ID), "the id is not 1 to 64 printable ASCII characters")
	if wrong != nil {
		return nil, fmt.Errorf("queue worker of target %q: %w", cfg.Target, errors.Join(wrong...))
	}
	cfg.Concurrency = max(cfg.Concurrency, 1)
	setDefault(&cfg.Drain, 30*time.Second)
	setDefault(&cfg.ReportEvery, 5*time.Second)
	if cfg.ID == "" {
		cfg.ID = nuid.Next()
	}
	group := cfg.Group
	if cfg.Dynamic {
		group = fmt.Sprintf("%s.%d.%d", group, time.Now().Unix(), os.Getpid())
	}
	return &QueueWorker{cfg: cfg, group: group, reporter: reporter{
		nc: nc, split: cfg.Split, target: cfg.Target, id: cfg.ID, workers: cfg.Concurrency, every: cfg.ReportEvery,
		log: discard(cfg.Log).With("split", cfg.Split, "target", cfg.Target, "group", group),
	}}, nil
}

// Group is the queue group that the worker is a member of.
func (w *QueueWorker) Group() string { return w.group }

// Stats returns the counts.
func (w *QueueWorker) Stats() WorkerStats { return w.stats() }

// Run works until ctx ends. It then leaves the group, finishes what the server had
// sent until then, sends a last report and returns nil. It returns an error when
// the connection was closed under it.
func (w *QueueWorker) Run(ctx context.Context) error {
	life, kill := context.WithCancel(context.WithoutCancel(ctx)) // handlers outlive ctx on purpose
	defer kill()
	work := make(chan *nats.Msg)
	var handlers sync.WaitGroup
	for range w.cfg.Concurrency {
		handlers.Go(func() {
			for msg := range work {
				w.handle(life, msg)
			}
		})
	}
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		w.report(life)
	}()
	finish := func() {
		close(work)
		patience := time.AfterFunc(w.cfg.Drain, kill)
		handlers.Wait()
		patience.Stop()
		kill()
		<-reported
	}

	sub, err := w.nc.QueueSubscribeSync(w.cfg.Subject, w.group)
	if err != nil {
		finish()
		return fmt.Errorf("join queue group %s of %s: %w", w.group, w.cfg.Subject, err)
	}
	var why error
	left := make(chan struct{}) // the subscription has handed over its last message
	go func() {
		defer close(left)
		why = w.hand(sub, work)
	}()
	if w.cfg.Dynamic {
		w.log.WarnContext(ctx, "this worker has a queue group of its own: every group gets every message, so this balances no load")
	}

	select {
	case <-ctx.Done():
		if drained := sub.Drain(); drained != nil && !w.nc.IsClosed() {
			err = fmt.Errorf("leave queue group %s: %w", w.group, drained)
			_ = sub.Unsubscribe()
		}
		<-left
	case <-left: // the connection was closed, or the server refused
	}
	switch {
	case w.nc.IsClosed():
		err = fmt.Errorf("work for target %s: %w", w.cfg.Target, nats.ErrConnectionClosed)
	case ctx.Err() == nil:
		err = fmt.Errorf("work for target %s: %w", w.cfg.Target, why)
	}
	finish()
	if err == nil && w.nc.IsConnected() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		if e := w.nc.FlushWithContext(flush); e != nil {
			err = fmt.Errorf("send the last answers of target %s: %w", w.cfg.Target, e)
		}
	}
	return err
}

// hand hands messages over until the subscription ends, and returns why it did.
func (w *QueueWorker) hand(sub *nats.Subscription, work chan<- *nats.Msg) error {
	for {
		msg, err := sub.NextMsgWithContext(context.Background()) // the subscription's end ends it
		switch {
		case err == nil:
			w.inFlight.Add(1)
			work <- msg
		case errors.Is(err, nats.ErrSlowConsumer):
			w.log.Warn("messages were dropped: this worker is too slow for what its queue group sends it")
		default:
			return err
		}
	}
}

// handle runs the handler and answers for it when it failed.
func (w *QueueWorker) handle(life context.Context, msg *nats.Msg) {
	start := time.Now()
	err := w.cfg.Handler(life, msg)
	o := Outcome{Deliveries: 1, Processing: time.Since(start), Err: err}
	if err == nil {
		o.ReceiptToAck = o.Processing
	} else if msg.Reply != "" {
		answer := nats.NewMsg(msg.Reply)
		answer.Header.Set("Nats-Service-Error", oneLine(err.Error()))
		answer.Header.Set("Nats-Service-Error-Code", "500")
		if e := msg.RespondMsg(answer); e != nil {
			o.Err = errors.Join(err, fmt.Errorf("answer with the error: %w", e))
		}
	}
	w.ended(o, err != nil)
	if o.Err != nil {
		w.log.DebugContext(life, "a message was not worked off", "err", o.Err)
	}
	if w.cfg.Observe != nil {
		w.cfg.Observe(o)
	}
}

// oneLine makes a text fit for a header.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' {
			b[i] = ' '
		}
	}
	return string(b[:min(len(b), 1024)])
}
