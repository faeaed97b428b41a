package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/traffic"
)

// ErrNoSplit means that the split's document was not read yet and that there is
// no fallback: nobody knows where the message should go.
var ErrNoSplit = errors.New("the split's weights are not known yet")

// Headers. KeyHeader is read when the split picks by key; the others are
// written with WithMarks only.
const (
	KeyHeader      = "Ballast-Key"
	SplitHeader    = "Ballast-Split"
	RevisionHeader = "Ballast-Rev"
)

// attempts and waits of PublishJS. An attempt that nobody answers, as while a
// stream has no leader, must end before the caller's patience does.
const (
	defaultAttempts = 3
	attemptTimeout  = 2 * time.Second
	firstRetryWait  = 250 * time.Millisecond
)

// Publisher sends each message to the target that the split's document picks.
// Run keeps the document current. All methods may be called at the same time.
//
// Until the first good document a Publisher uses its fallback, or returns
// ErrNoSplit when it has none. From then on it always has one: a document that
// is invalid or older than the one in force, a deleted key, a deleted bucket or
// a server that is gone changes nothing.
type Publisher struct {
	name     string
	nc       *nats.Conn
	js       jetstream.JetStream
	log      *slog.Logger
	marks    bool
	attempts int
	resync   time.Duration
	fallback *traffic.Split

	now       atomic.Pointer[division]
	ready     chan struct{} // closed when now is set for the first time
	readyOnce sync.Once

	mu       sync.Mutex // guards what follows, and the order of stores to now
	counters map[string]*atomic.Uint64
	lastBad  string // text of the last refusal, so that each is logged once

	turn atomic.Uint64 // of the picks; begins at random, so that publishers are not in step

	failed, retried, keyless, taken, refused atomic.Uint64
}

// division is one revision, ready to pick by.
type division struct {
	rev      traffic.Revision
	fallback bool
	picker   *traffic.Picker
	byKey    bool
	sent     []*atomic.Uint64 // by index of the picker's targets
	rev10    string           // rev.Number in decimal
}

// PublisherOption changes a Publisher.
type PublisherOption func(*Publisher)

// WithLog receives what the Publisher learns about its document.
func WithLog(log *slog.Logger) PublisherOption { return func(p *Publisher) { p.log = discard(log) } }

// WithFallback is the division to use until the first document was read.
func WithFallback(s traffic.Split) PublisherOption { return func(p *Publisher) { p.fallback = &s } }

// WithJetStream replaces the JetStream context, e.g. for a domain.
func WithJetStream(js jetstream.JetStream) PublisherOption {
	return func(p *Publisher) { p.js = js }
}

// WithAttempts sets how often PublishJS tries, 3 if not said. All attempts of a
// message go to the same target: one that only seemed to fail, repeated
// elsewhere, could be stored in two streams.
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
		counters: map[string]*atomic.Uint64{},
	}
	p.turn.Store(rand.Uint64())
	for _, o := range opts {
		o(p)
	}
	p.log = p.log.With("split", split)
	if p.js == nil {
		js, err := jetstream.New(nc)
		if err != nil {
			return nil, fmt.Errorf("publisher of split %s: %w", split, err)
		}
		p.js = js
	}
	if p.fallback != nil {
		if p.fallback.Name != split {
			return nil, fmt.Errorf("publisher of split %s: the fallback is of split %q", split, p.fallback.Name)
		}
		if err := p.install(traffic.Revision{V: traffic.Version, Split: *p.fallback}, true); err != nil {
			return nil, fmt.Errorf("publisher of split %s: fallback: %w", split, err)
		}
	}
	return p, nil
}

// Ready waits until Publish knows a target: for the first document, unless
// there is a fallback.
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
	Epoch, Revision uint64            // in force; 0 is the fallback or none
	Sent            map[string]uint64 // by target: handed to NATS or, by PublishJS, acknowledged
	Failed          uint64            // returned an error to the caller
	Retried         uint64            // attempts of PublishJS after the first
	Keyless         uint64            // picked by weight because they had no key
	Taken           uint64            // documents that came into force
	Refused         uint64            // documents that were invalid or old
}

// Stats returns the counts. Targets that were once in the split stay listed.
func (p *Publisher) Stats() Stats {
	s := Stats{
		Sent:   map[string]uint64{},
		Failed: p.failed.Load(), Retried: p.retried.Load(), Keyless: p.keyless.Load(),
		Taken: p.taken.Load(), Refused: p.refused.Load(),
	}
	if rev, ok := p.Revision(); ok {
		s.Epoch, s.Revision = rev.Epoch, rev.Number
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, n := range p.counters {
		s.Sent[name] = n.Load()
	}
	return s
}

// pick returns the division in force and the index of the message's target. A
// split that picks by key falls back to the weights for a message without
// one: an operator who changes the pick must not stop the applications that do
// not send keys yet.
func (p *Publisher) pick(key string) (*division, int, error) {
	d := p.now.Load()
	if d == nil {
		return nil, 0, fmt.Errorf("publish to split %s: %w", p.name, ErrNoSplit)
	}
	if d.byKey {
		if key != "" {
			return d, d.picker.PickKey(key), nil
		}
		p.keyless.Add(1)
	}
	return d, d.picker.PickNth(p.turn.Add(1)), nil
}

// address picks the target and writes it into the message.
func (p *Publisher) address(msg *nats.Msg) (*division, int, error) {
	d, i, err := p.pick(msg.Header.Get(KeyHeader))
	if err != nil {
		return nil, 0, err
	}
	msg.Subject = d.picker.Targets()[i].Subject
	if p.marks {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header.Set(SplitHeader, p.name)
		msg.Header.Set(RevisionHeader, d.rev10)
	}
	return d, i, nil
}

// count books the outcome of a message and passes the error on.
func (p *Publisher) count(d *division, i int, err error) error {
	if err == nil {
		d.sent[i].Add(1)
		return nil
	}
	p.failed.Add(1)
	if d == nil {
		return err
	}
	return fmt.Errorf("publish to target %s of split %s: %w", d.picker.Targets()[i].Name, p.name, err)
}

// Publish sends data to the picked target, as nats.Conn.Publish does: without
// waiting for anybody to receive it.
func (p *Publisher) Publish(ctx context.Context, data []byte) error {
	if p.marks {
		return p.PublishMsg(ctx, &nats.Msg{Data: data})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d, i, err := p.pick("")
	if err == nil {
		err = p.nc.Publish(d.picker.Targets()[i].Subject, data)
	}
	return p.count(d, i, err)
}

// PublishMsg sends a message to the picked target and writes the target's
// subject into it. The header KeyHeader is the key of a split that picks by key.
func (p *Publisher) PublishMsg(ctx context.Context, msg *nats.Msg) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, i, err := p.address(msg)
	if err == nil {
		err = p.nc.PublishMsg(msg)
	}
	return p.count(d, i, err)
}

// Request sends a message to the picked target and waits for the answer. It is
// never repeated: only the caller knows whether that is safe.
func (p *Publisher) Request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	d, i, err := p.address(msg)
	var answer *nats.Msg
	if err == nil {
		answer, err = p.nc.RequestMsgWithContext(ctx, msg)
	}
	return answer, p.count(d, i, err)
}

// PublishJS sends a message to the picked target, writes the target's subject
// into it, and waits until its stream has stored it. It tries again when nobody
// answers (see WithAttempts), always at the same target. So that a repetition
// is stored once, a message without the header Nats-Msg-Id gets one, which works
// within the stream's duplicate window.
//
// An error does not mean that the message was not stored. Who tries again should
// do so with the same message, which carries its Nats-Msg-Id.
func (p *Publisher) PublishJS(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	d, i, err := p.address(msg)
	if err != nil {
		return nil, p.count(d, i, err)
	}
	if p.attempts > 1 && msg.Header.Get(jetstream.MsgIDHeader) == "" {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header.Set(jetstream.MsgIDHeader, nuid.Next())
	}
	var ack *jetstream.PubAck
	for n := 1; ; n++ {
		if ack, err = p.attempt(ctx, msg); err == nil || n >= p.attempts || ctx.Err() != nil || !worthRepeating(err) {
			break
		}
		if !pause(ctx, firstRetryWait<<min(n-1, 4)) {
			break // err tells more than the context does
		}
		p.retried.Add(1)
	}
	return ack, p.count(d, i, err)
}

// once leaves retries to PublishJS: the client's own know no back-off.
var once = []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}

func (p *Publisher) attempt(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return p.js.PublishMsg(ctx, msg, once...)
}

// worthRepeating reports whether the same message may fare better in a moment.
func worthRepeating(err error) bool {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout),
		errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting):
		return true
	case errors.As(err, &api):
		return api.Code >= 500
	}
	return false
}

// PublishJSAsync sends a message to the picked target and returns at once; the
// future tells the stream's answer. Nothing is repeated, and Stats counts the
// message as sent.
func (p *Publisher) PublishJSAsync(ctx context.Context, msg *nats.Msg) (jetstream.PubAckFuture, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, i, err := p.address(msg)
	var future jetstream.PubAckFuture
	if err == nil {
		future, err = p.js.PublishMsgAsync(msg)
	}
	return future, p.count(d, i, err)
}

// install brings a revision into force.
func (p *Publisher) install(rev traffic.Revision, fallback bool) error {
	picker, err := traffic.NewPicker(rev.Split)
	if err != nil {
		return err
	}
	d := &division{
		rev: rev, fallback: fallback, picker: picker,
		byKey: rev.Split.Pick == traffic.ByKey,
		rev10: strconv.FormatUint(rev.Number, 10),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range picker.Targets() {
		n, ok := p.counters[t.Name]
		if !ok {
			n = new(atomic.Uint64)
			p.counters[t.Name] = n
		}
		d.sent = append(d.sent, n)
	}
	p.lastBad = ""
	p.now.Store(d)
	p.readyOnce.Do(func() { close(p.ready) })
	return nil
}

// Run follows the split's document until ctx ends and then returns nil. A bucket
// or key that is not there yet, or no longer, is waited for, and so is a server.
// It returns an error only when the connection was closed for good.
func (p *Publisher) Run(ctx context.Context) error {
	connected := p.nc.StatusChanged(nats.CONNECTED)
	defer p.nc.RemoveStatusListener(connected)
	said := ""
	for n := 1; ctx.Err() == nil; n++ {
		opened, err := p.watch(ctx, connected)
		switch {
		case ctx.Err() != nil:
			return nil
		case p.nc.IsClosed():
			return fmt.Errorf("follow the weights of split %s: %w", p.name, nats.ErrConnectionClosed)
		case opened:
			n, said = 0, ""
		}
		if err == nil {
			continue // a fresh watch is due
		}
		if text := err.Error(); text != said { // an absent bucket is no news every few seconds
			said = text
			p.log.WarnContext(ctx, "weights are not followed, trying again", "err", err, "known", p.now.Load() != nil)
		}
		// To create the bucket is the first thing that an operator does with
		// Ballast, and then waits for.
		rest(ctx, connected, min(Backoff(max(n, 1), rand.Float64), longestRest))
	}
	return nil
}

const (
	// lookTimeout bounds the requests that open a watch: a denied one is never
	// answered.
	lookTimeout = 5 * time.Second
	longestRest = 5 * time.Second
)

// watch opens a watch and follows it until it ends or is suspected dead, which
// is no error. opened reports whether it came that far.
func (p *Publisher) watch(ctx context.Context, connected <-chan nats.Status) (opened bool, err error) {
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	kv, err := p.js.KeyValue(look, traffic.Bucket)
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", traffic.Bucket, err)
	}
	// The subscription ends with the context that opened it, so that one must not
	// be timed; it is cut off only as long as it has not answered.
	life, end := context.WithCancel(ctx)
	defer end()
	answered := context.AfterFunc(look, end)
	w, err := kv.Watch(life, traffic.Key(p.name))
	if err != nil {
		return false, fmt.Errorf("watch %s/%s: %w", traffic.Bucket, traffic.Key(p.name), err)
	}
	defer w.Stop()
	if !answered() {
		return false, fmt.Errorf("watch %s/%s: %w", traffic.Bucket, traffic.Key(p.name), context.DeadlineExceeded)
	}

	var newest time.Time // of what the watch brought
	check := time.NewTicker(jitter(p.resync, rand.Float64))
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, nil
		case <-connected:
			// Whatever happened meanwhile, a fresh watch begins with the document as
			// it stands now.
			return true, nil
		case entry, open := <-w.Updates():
			if !open {
				return true, fmt.Errorf("watch %s/%s: the subscription ended", traffic.Bucket, traffic.Key(p.name))
			}
			if entry != nil { // nil marks the end of what was there at the beginning
				newest = entry.Created()
				p.take(ctx, entry)
			}
		case <-check.C:
			alive, err := p.alive(ctx, kv, newest)
			if err != nil || !alive {
				return true, err
			}
		}
	}
}

// alive reports whether the watch has brought what the bucket holds. The times
// are compared and not the KV revisions, which begin anew in a bucket that was
// deleted and created; an older time is that of a replica that lags.
func (p *Publisher) alive(ctx context.Context, kv jetstream.KeyValue, newest time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	entry, err := kv.Get(ctx, traffic.Key(p.name))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // also when it was deleted
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read %s/%s: %w", traffic.Bucket, traffic.Key(p.name), err)
	}
	return !entry.Created().After(newest), nil
}

// take judges what the bucket holds and brings it into force if it is good and
// newer.
func (p *Publisher) take(ctx context.Context, entry jetstream.KeyValueEntry) {
	if entry.Operation() != jetstream.KeyValuePut {
		p.refuse(ctx, "the split's document was deleted, the last weights stay",
			fmt.Errorf("%v at KV revision %d", entry.Operation(), entry.Revision()))
		return
	}
	rev, err := traffic.Parse(entry.Value())
	old, known := p.Revision()
	switch {
	case err != nil:
	case rev.Split.Name != p.name:
		err = fmt.Errorf("the document is of split %q", rev.Split.Name)
	case known && rev.Epoch == old.Epoch && rev.Number == old.Number:
		return // a fresh watch repeats what is in force
	case known && !rev.Newer(old):
		err = fmt.Errorf("epoch %d revision %d is older than epoch %d revision %d", rev.Epoch, rev.Number, old.Epoch, old.Number)
	default:
		rev.Token = entry.Revision()
		err = p.install(rev, false)
	}
	if err != nil {
		p.refused.Add(1)
		p.refuse(ctx, "a document was refused, the last weights stay", err)
		return
	}
	p.taken.Add(1)
	p.log.InfoContext(ctx, "weights are in force", "epoch", rev.Epoch, "revision", rev.Number)
}

// refuse logs a refusal once, however often a fresh watch brings it again.
func (p *Publisher) refuse(ctx context.Context, msg string, err error) {
	p.mu.Lock()
	again := p.lastBad == err.Error()
	p.lastBad = err.Error()
	p.mu.Unlock()
	if !again {
		p.log.WarnContext(ctx, msg, "err", err)
	}
}
