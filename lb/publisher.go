package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/traffic"
)

// ErrNoSplit means that the split's document was not read yet and that there is
// no fallback: nobody knows where the message should go.
var ErrNoSplit = errors.New("the split's weights are not known yet")

// ErrNoLane means that the split has no lane of that name.
var ErrNoLane = errors.New("the split has no such lane")

// Headers. KeyHeader is read when the split picks by key and names no other
// header; the others are written with WithMarks only.
const (
	KeyHeader      = traffic.KeyHeader
	SplitHeader    = "Ballast-Split"
	RevisionHeader = "Ballast-Rev"
)

// Publisher sends each message to the target that the split's document picks.
// Run keeps the document current. All methods may be called at the same time.
//
// Until the first good document a Publisher uses its cache, then its fallback, or
// returns ErrNoSplit when it has neither. From then on it always has one: a
// document that is invalid or older than the one in force, a deleted key, a
// deleted bucket or a server that is gone changes nothing.
//
// It also judges the targets by what becomes of its own messages, as far as it
// learns of it (PublishJS, PublishAsync and Request): see traffic.Breaker. A
// target that fails gets no messages, one that is slow gets fewer, and the others
// of its tier, or the next tier, take over.
type Publisher struct {
	name     string
	nc       *nats.Conn
	js       jetstream.JetStream // for what waits
	async    jetstream.JetStream // for what does not
	jsOpts   []jetstream.JetStreamOpt
	log      *slog.Logger
	marks    bool
	attempts int
	resync   time.Duration
	fallback *traffic.Split
	cache    string
	breaker  traffic.BreakerConfig
	noBreak  bool
	repeat   bool
	hedge    time.Duration

	now       atomic.Pointer[division]
	ready     chan struct{} // closed when now is set for the first time
	readyOnce sync.Once

	mu      sync.Mutex // guards what follows, and the order of stores to now
	members map[string]*member
	lastBad string // text of the last refusal, so that each is logged once

	turn atomic.Uint64 // of the picks; begins at random, so that publishers are not in step

	failed, retried, moved, denied, hedged, keyless, taken, refused atomic.Uint64
}

// PublisherOption changes a Publisher.
type PublisherOption func(*Publisher)

// WithLog receives what the Publisher learns about its document and its targets.
func WithLog(log *slog.Logger) PublisherOption { return func(p *Publisher) { p.log = discard(log) } }

// WithFallback is the division to use until the first document was read.
func WithFallback(s traffic.Split) PublisherOption { return func(p *Publisher) { p.fallback = &s } }

// WithCache keeps the document in force in a file, so that a program that starts
// while NATS or the bucket is away divides as the last one did. The file is
// written anew at each document, as a whole or not at all. One that cannot be
// read, or is of another split, is logged and passed over.
func WithCache(file string) PublisherOption { return func(p *Publisher) { p.cache = file } }

// WithJetStream gives options to the Publisher's JetStream contexts, e.g. with
// what window PublishAsync works.
func WithJetStream(opts ...jetstream.JetStreamOpt) PublisherOption {
	return func(p *Publisher) { p.jsOpts = opts }
}

// WithAttempts sets how often PublishJS tries a message that names no lane, 3 if
// not said.
func WithAttempts(n int) PublisherOption { return func(p *Publisher) { p.attempts = max(n, 1) } }

// WithMarks adds the headers Ballast-Split and Ballast-Rev, which tell a
// receiver what sent a message its way. It is off by default, because a library
// should not change what applications send: headers cost bytes, and a receiver
// that compares or forwards messages would see them.
func WithMarks() PublisherOption { return func(p *Publisher) { p.marks = true } }

// WithResync sets how often the Publisher compares its document with the
// bucket, 5 s if not said. The watch brings changes at once; this finds a watch
// whose server died without a word, for the price of one small read.
func WithResync(every time.Duration) PublisherOption {
	return func(p *Publisher) { p.resync = max(every, time.Millisecond) }
}

// WithBreaker sets when a target is taken for unhealthy.
func WithBreaker(cfg traffic.BreakerConfig) PublisherOption {
	return func(p *Publisher) { p.breaker = cfg }
}

// WithoutBreaker leaves all judgement of targets to the document.
func WithoutBreaker() PublisherOption { return func(p *Publisher) { p.noBreak = true } }

// WithRepeatableRequests says that those who answer may get a request twice
// without harm. Request then tries again, by the lane's retries; otherwise it does
// only when nobody was there to get it.
func WithRepeatableRequests() PublisherOption { return func(p *Publisher) { p.repeat = true } }

// WithHedging sends a request that is not answered after that time to a second
// target too and takes the answer that comes first (Dean, Barroso: The tail at
// scale, CACM 2013). Choose about the p95 of the answers' times. Each costs one
// retry of the budget, and requests must be repeatable.
func WithHedging(after time.Duration) PublisherOption {
	return func(p *Publisher) { p.hedge, p.repeat = after, true }
}

// NewPublisher builds the publisher of a split. It sends and subscribes to
// nothing; Run does.
func NewPublisher(nc *nats.Conn, split string, opts ...PublisherOption) (*Publisher, error) {
	if !traffic.ValidName(split) {
		return nil, fmt.Errorf("publisher of split %q: use 1 to 64 letters, digits, '-' or '_'", split)
	}
	p := &Publisher{
		name:     split,
		nc:       nc,
		log:      discard(nil),
		attempts: defaultAttempts,
		resync:   5 * time.Second,
		ready:    make(chan struct{}),
		members:  map[string]*member{},
	}
	p.turn.Store(rand.Uint64())
	for _, o := range opts {
		o(p)
	}
	p.log = p.log.With("split", split)
	var err error
	if p.js, err = jetstream.New(nc, p.jsOpts...); err != nil {
		return nil, fmt.Errorf("publisher of split %s: %w", split, err)
	}
	told := append([]jetstream.JetStreamOpt{jetstream.WithPublishAsyncAckHandler(p.acked), jetstream.WithPublishAsyncErrHandler(p.unacked)}, p.jsOpts...)
	if p.async, err = jetstream.New(nc, told...); err != nil {
		return nil, fmt.Errorf("publisher of split %s: %w", split, err)
	}
	if p.fallback != nil {
		if p.fallback.Name != split {
			return nil, fmt.Errorf("publisher of split %s: the fallback is of split %q", split, p.fallback.Name)
		}
		if err := p.install(traffic.Revision{V: traffic.Version, Split: *p.fallback}, true); err != nil {
			return nil, fmt.Errorf("publisher of split %s: fallback: %w", split, err)
		}
	}
	p.readCache()
	return p, nil
}

// Ready waits until Publish knows a target: for the first document, unless
// there is a cached one or a fallback.
func (p *Publisher) Ready(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the weights of split %s: %w", p.name, ctx.Err())
	}
}

// Revision returns the document in force. It is false before the first one; a
// fallback does not count.
func (p *Publisher) Revision() (traffic.Revision, bool) {
	d := p.now.Load()
	if d == nil || d.fallback {
		return traffic.Revision{}, false
	}
	return d.rev, true
}

// Stats counts since NewPublisher.
type Stats struct {
	Epoch, Revision uint64                 // in force; 0 is the fallback or none
	Targets         map[string]TargetStats // by name; those that were once in the split stay listed
	Failed          uint64                 // returned an error to the caller
	Retried         uint64                 // attempts after the first
	Moved           uint64                 // of those, to another target
	Denied          uint64                 // attempts that the retry budget did not allow
	Hedged          uint64                 // requests that were sent to a second target
	Keyless         uint64                 // picked by weight because they had no key
	Taken           uint64                 // documents that came into force
	Refused         uint64                 // documents that were invalid or old
}

// TargetStats is what a Publisher knows of one target.
type TargetStats struct {
	Sent     uint64  // handed to NATS or, by PublishJS, acknowledged
	InFlight int64   // sent, and neither answered nor given up
	Health   float64 // 0..1, as the breaker judges
	Circuit  traffic.Circuit
}

// Stats returns the counts.
func (p *Publisher) Stats() Stats {
	s := Stats{
		Targets: map[string]TargetStats{},
		Failed:  p.failed.Load(), Retried: p.retried.Load(), Moved: p.moved.Load(), Denied: p.denied.Load(),
		Hedged: p.hedged.Load(), Keyless: p.keyless.Load(), Taken: p.taken.Load(), Refused: p.refused.Load(),
	}
	if rev, ok := p.Revision(); ok {
		s.Epoch, s.Revision = rev.Epoch, rev.Number
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, m := range p.members {
		s.Targets[name] = m.stats()
	}
	return s
}
