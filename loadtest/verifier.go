package loadtest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"ballast/traffic"
)

// VerifierConfig says what a Verifier counts.
type VerifierConfig struct {
	Run    string        // of the load test
	Split  traffic.Split // whose targets it tells apart, by subject
	Window int           // messages over which Shares are taken; 0 is 1000
	// RevisionHeader is the header in which the publisher says by which revision
	// it picked; needed for FirstBy.
	RevisionHeader string
	// Since is where Follow begins in the stream; zero is its first message.
	Since time.Time
}

// Verifier counts the messages of one load test as they arrive: from a stream
// that it follows, or from handlers that call Seen. It is safe for concurrent
// use.
type Verifier struct {
	cfg    VerifierConfig
	target map[string]int // by subject; index into Split.Targets

	mu     sync.Mutex // guards the rest
	copies map[int]int
	strays int // messages of the run to a subject that is no target's
	window []int
	next   int                  // place in window of the next message, once it is full
	first  map[uint64]time.Time // by revision
}

// Verdict compares what arrived with what was acknowledged.
type Verdict struct {
	Delivered  int   // different messages of the run
	Duplicates int   // copies beyond a message's first
	Missing    []int // numbers of acknowledged messages that did not arrive
	Unasked    int   // arrived, though the publisher saw no acknowledgement: it may do so
	Strays     int   // arrived at a subject that is no target's
}

// NewVerifier returns a Verifier that has seen nothing.
func NewVerifier(cfg VerifierConfig) *Verifier {
	if cfg.Window <= 0 {
		cfg.Window = 1000
	}
	v := &Verifier{cfg: cfg, target: map[string]int{}, copies: map[int]int{}, first: map[uint64]time.Time{}}
	for i, t := range cfg.Split.Targets {
		v.target[t.Subject] = i
	}
	return v
}

// Follow reads a stream from Since on until ctx ends, then returns nil. The order and completeness are those of the stream, whatever consumers
// or servers do meanwhile; it leaves nothing behind in NATS.
func (v *Verifier) Follow(ctx context.Context, js jetstream.JetStream, stream string) error {
	var cfg jetstream.OrderedConsumerConfig
	if !v.cfg.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &v.cfg.Since
	}
	c, err := js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return fmt.Errorf("follow stream %s: %w", stream, err)
	}
	messages, err := c.Messages()
	if err != nil {
		return fmt.Errorf("follow stream %s: %w", stream, err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("follow stream %s: %w", stream, err)
		}
		v.Seen(msg)
	}
}

// Seen counts a message. Messages of other runs are passed over.
func (v *Verifier) Seen(msg jetstream.Msg) {
	n, ours := parseID(v.cfg.Run, msg.Headers().Get(jetstream.MsgIDHeader))
	if !ours {
		return
	}
	at := time.Now()
	if meta, err := msg.Metadata(); err == nil {
		at = meta.Timestamp // when it was stored, whenever it is read
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.copies[n]++
	if v.cfg.RevisionHeader != "" {
		rev, err := strconv.ParseUint(msg.Headers().Get(v.cfg.RevisionHeader), 10, 64)
		if old, known := v.first[rev]; err == nil && (!known || at.Before(old)) {
			v.first[rev] = at
		}
	}
	i, known := v.target[msg.Subject()]
	switch {
	case !known:
		v.strays++
	case len(v.window) < v.cfg.Window:
		v.window = append(v.window, i)
	default:
		v.window[v.next] = i
		v.next = (v.next + 1) % len(v.window)
	}
}

// Count is the number of different messages of the run that arrived.
func (v *Verifier) Count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.copies)
}

// ResetWindow makes Shares begin anew, so that they tell nothing of the time
// before.
func (v *Verifier) ResetWindow() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.window, v.next = v.window[:0], 0
}

// Shares returns each target's part of the last messages in percent, and how
// many messages that were.
func (v *Verifier) Shares() (share map[string]float64, of int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	share = map[string]float64{}
	for _, t := range v.cfg.Split.Targets {
		share[t.Name] = 0
	}
	for _, i := range v.window {
		share[v.cfg.Split.Targets[i].Name] += 100 / float64(len(v.window))
	}
	return share, len(v.window)
}

// FirstBy returns when the first message that was picked by the given revision,
// or by a later one, was stored.
func (v *Verifier) FirstBy(revision uint64) (at time.Time, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for rev, t := range v.first {
		if rev >= revision && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Check compares what has arrived so far with a report.
func (v *Verifier) Check(r Report) Verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	verdict := Verdict{Delivered: len(v.copies), Strays: v.strays}
	for n, copies := range v.copies {
		verdict.Duplicates += copies - 1
		if n >= len(r.acked) || !r.acked[n] {
			verdict.Unasked++
		}
	}
	for n, acked := range r.acked {
		if acked && v.copies[n] == 0 {
			verdict.Missing = append(verdict.Missing, n)
		}
	}
	return verdict
}
