// Package loadtest puts a measured load on a split and checks what became of
// it. The generator is open-loop: messages are due at moments that do not
// depend on how fast the servers answer, and latency counts from the moment a
// message was due. So a stall shows in the figures with every message that had
// to wait for it, and not as one slow request (coordinated omission). It never
// changes a split.
package loadtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"ballast/internal/sketch"
)

// Publisher publishes to the target that the split picks and waits for the
// stream's acknowledgement. *lb.Publisher is one.
type Publisher interface {
	PublishJS(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error)
}

// Config of a run.
type Config struct {
	Publisher Publisher
	Rate      float64 // messages a second; required
	Count     int     // messages in all; required
	Payload   int     // bytes of each; 0 is 128
	// Poisson draws the gaps between messages at random, as many independent
	// senders produce them; otherwise they are all equal.
	Poisson bool
	Seed    uint64
	// Timeout is how long one attempt waits for its acknowledgement; 0 is 5 s.
	Timeout time.Duration
	// Attempts a message; 0 is 1. All carry the same message id, so that the
	// stream keeps one copy.
	Attempts int
	// MaxWaiting messages wait for their acknowledgement at a time; 0 is 10,000.
	// What is due beyond that fails at once: the generator never slows down.
	MaxWaiting int
	// Run names the run in its message ids; "" draws a name.
	Run string
}

// Report of a run.
type Report struct {
	Run          string
	Due          int // messages that were due: Acknowledged + Failed
	Acknowledged int
	Duplicates   int // acknowledgements that said "already stored"
	Failed       int
	Retried      int // attempts after a message's first
	Started      time.Time
	Ended        time.Time
	// Latency of the acknowledged messages, from when each was due.
	Latency *sketch.Sketch
	// Service is the same from when it was really sent. The difference to Latency
	// is what a closed-loop generator would have hidden.
	Service *sketch.Sketch
	// Errors counts the attempts that failed, by text.
	Errors map[string]int

	acked []bool // by number
}

// Rate is what was acknowledged a second.
func (r Report) Rate() float64 {
	d := r.Ended.Sub(r.Started).Seconds()
	if d <= 0 {
		return 0
	}
	return float64(r.Acknowledged) / d
}

// String is the report for a terminal.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s: %d messages due in %v, %d acknowledged (%.1f/s), %d failed, %d attempts repeated, %d duplicates refused by the stream\n",
		r.Run, r.Due, r.Ended.Sub(r.Started).Round(time.Millisecond), r.Acknowledged, r.Rate(), r.Failed, r.Retried, r.Duplicates)
	for _, l := range []struct {
		name string
		of   *sketch.Sketch
	}{{"latency from when due ", r.Latency}, {"latency from when sent", r.Service}} {
		fmt.Fprintf(&b, "%s  mean %-9v p50 %-9v p95 %-9v p99 %-9v max %v\n", l.name, short(l.of.Mean()),
			short(l.of.Quantile(.50)), short(l.of.Quantile(.95)), short(l.of.Quantile(.99)), short(l.of.Max()))
	}
	for _, text := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(&b, "%d attempts: %q\n", r.Errors[text], text) // quoted: it may come from a server
	}
	return b.String()
}

// short rounds to what a sketch knows.
func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// maxErrors different texts are counted; the rest share one line.
const maxErrors = 20

// runner is the shared state of a run.
type runner struct {
	cfg Config

	mu     sync.Mutex // guards the rest
	report Report
}

// Run sends Count messages at Rate and returns when each is acknowledged or has
// failed. When ctx ends, nothing more is due; what was sent is waited for, for at
// most Timeout, because a request given up half-way is neither lost nor stored
// for certain. Then it reports what was due until then, with ctx's error.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.complete(); err != nil {
		return Report{}, err
	}
	r := &runner{cfg: cfg, report: Report{
		Run:     cfg.Run,
		Latency: new(sketch.Sketch),
		Service: new(sketch.Sketch),
		Errors:  map[string]int{},
		acked:   make([]bool, cfg.Count),
	}}
	rnd := rand.New(rand.NewPCG(cfg.Seed, 0))
	payload := make([]byte, cfg.Payload)
	for i := range payload {
		payload[i] = 'a' + byte(rnd.IntN(26))
	}
	slots := make(chan struct{}, cfg.MaxWaiting)
	gap := float64(time.Second) / cfg.Rate
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C

	start := time.Now()
	r.report.Started = start
	var sending sync.WaitGroup
	var offset float64
loop:
	for n := range cfg.Count {
		due := start.Add(time.Duration(offset))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				break loop
			}
		} else if ctx.Err() != nil {
			break loop
		}
		if cfg.Poisson {
			offset += rnd.ExpFloat64() * gap
		} else {
			offset += gap
		}
		select {
		case slots <- struct{}{}:
			sending.Go(func() {
				defer func() { <-slots }()
				r.send(ctx, n, due, payload) // retries end with ctx, the attempt under way does not
			})
		default:
			r.fail(errors.New("too many messages wait for their acknowledgement"), true)
		}
	}
	sending.Wait()
	r.report.Ended = time.Now()
	r.report.Due = r.report.Acknowledged + r.report.Failed
	if err := ctx.Err(); err != nil && r.report.Due < cfg.Count {
		return r.report, fmt.Errorf("load test ended after %d of %d messages: %w", r.report.Due, cfg.Count, err)
	}
	return r.report, nil
}

func (c *Config) complete() error {
	switch {
	case c.Publisher == nil:
		return errors.New("a load test needs a publisher")
	case !(c.Rate > 0 && c.Rate <= 1e6):
		return fmt.Errorf("a rate of %v messages a second is not between 0 and 1,000,000", c.Rate)
	case c.Count <= 0:
		return fmt.Errorf("a load test of %d messages", c.Count)
	case c.Payload < 0 || c.Attempts < 0 || c.MaxWaiting < 0 || c.Timeout < 0:
		return errors.New("a load test's payload, attempts, timeout and number of waiting messages are not negative")
	case strings.ContainsAny(c.Run, "-\r\n"):
		return fmt.Errorf("the name %q of a load test holds a '-' or a line break", c.Run)
	}
	if c.Payload == 0 {
		c.Payload = 128
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Attempts == 0 {
		c.Attempts = 1
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 10_000
	}
	if c.Run == "" {
		c.Run = nuid.Next()
	}
	return nil
}

// id is a message's id: the run's name and the message's number.
func id(run string, n int) string { return run + "-" + strconv.Itoa(n) }

// parseID is the inverse of id for one run.
func parseID(run, id string) (n int, ok bool) {
	digits, ok := strings.CutPrefix(id, run+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= 0
}

func (r *runner) send(ctx context.Context, n int, due time.Time, payload []byte) {
	msg := &nats.Msg{Header: nats.Header{jetstream.MsgIDHeader: {id(r.cfg.Run, n)}}, Data: payload}
	sent := time.Now()
	pause := 20 * time.Millisecond
	for attempt := 1; ; attempt++ {
		ack, err := r.attempt(context.WithoutCancel(ctx), msg)
		if err == nil {
			r.acknowledge(n, ack.Duplicate, due, sent)
			return
		}
		last := attempt == r.cfg.Attempts
		r.fail(err, last)
		if last {
			return
		}
		select {
		case <-ctx.Done():
			r.fail(ctx.Err(), true)
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, time.Second)
		r.mu.Lock()
		r.report.Retried++
		r.mu.Unlock()
	}
}

func (r *runner) attempt(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	return r.cfg.Publisher.PublishJS(ctx, msg)
}

func (r *runner) acknowledge(n int, duplicate bool, due, sent time.Time) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.acked[n] = true
	r.report.Acknowledged++
	if duplicate {
		r.report.Duplicates++
	}
	r.report.Latency.Add(now.Sub(due))
	r.report.Service.Add(now.Sub(sent))
}

// fail counts an attempt that failed, and the message with it when it was the
// last one.
func (r *runner) fail(err error, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last {
		r.report.Failed++
	}
	text := err.Error()
	if _, known := r.report.Errors[text]; !known && len(r.report.Errors) >= maxErrors {
		text = "other errors"
	}
	r.report.Errors[text]++
}
