package collector

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/sketch"
)

const ackSubject = "$JS.EVENT.METRIC.CONSUMER.ACK."

// maxAckConsumers bounds the consumers that are measured at the same time: a
// sketch takes up to 10 KB.
const maxAckConsumers = 10_000

// acks folds the servers' samples of acknowledgement latencies into one sketch
// per consumer and window.
type acks struct {
	now func() time.Time

	mu       sync.Mutex // guards all below
	subs     []*nats.Subscription
	lost     int             // dropped by subscriptions that have ended
	share    float64         // of the time in which those not followed are heard
	followed map[string]bool // subjects of those that are heard all the time
	others   uint64          // samples in all of those not followed
	chosen   uint64          // and of the followed
	from     time.Time
	folds    map[string]*ackFold // by subject
	// Samples that were not counted since the last trouble call.
	malformed, overflow uint64
	dropped             int // by the client library, as last seen
	sampler             sampler
	counted, passed     uint64               // samples in all
	unjudged            int                  // samples since the queue was looked at
	shown               fleet.Intake         // of the last snapshot
	totals              map[string]*ackTotal // by subject, over all windows
}

type ackFold struct {
	latency     sketch.Sketch
	redelivered uint64
	came        uint64
	total       *ackTotal
}

func newAcks(now func() time.Time) *acks {
	return &acks{now: now, from: now(), share: 1, folds: map[string]*ackFold{}, sampler: newSampler(), totals: map[string]*ackTotal{}}
}

// lookAfter is how many samples come between two looks at the clock and the
// queue.
const lookAfter = 256

// hear subscribes; what arrives goes to f until unhear.
func (a *acks) hear(nc *nats.Conn, subject string, f nats.MsgHandler) (*nats.Subscription, error) {
	s, err := nc.Subscribe(subject, f)
	if err == nil {
		err = s.SetPendingLimits(maxWaiting, maxWaitingBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("listen to acknowledgement samples: %w", err)
	}
	a.mu.Lock()
	a.subs = append(a.subs, s)
	a.mu.Unlock()
	return s, nil
}

// unhear ends a subscription. What has arrived is still counted.
func (a *acks) unhear(s *nats.Subscription) {
	a.mu.Lock()
	a.lost += droppedBy(s)
	a.subs = slices.DeleteFunc(a.subs, func(o *nats.Subscription) bool { return o == s })
	a.mu.Unlock()
	s.Drain() // a closed connection has forgotten it already
}

// follow sets the subjects of those that are heard all the time.
func (a *acks) follow(subjects map[string]bool) {
	a.mu.Lock()
	a.followed = subjects
	a.mu.Unlock()
}

func (a *acks) setShare(share float64) {
	a.mu.Lock()
	a.share = share
	a.mu.Unlock()
}

// heard counts the samples that arrived, of those not followed and of the
// others.
func (a *acks) heard() (others, followed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.others, a.chosen
}

// takeOther counts one sample of those who are heard in turns. A followed one's
// arrives by a subscription of its own then.
func (a *acks) takeOther(m *nats.Msg) {
	a.mu.Lock()
	alone := a.share < 1 && a.followed[m.Subject]
	a.mu.Unlock()
	if !alone {
		a.take(m)
	}
}

// take counts one sample, or passes it over when there are too many: of each
// consumer the first of a window is counted, and then one of every few.
func (a *acks) take(m *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.followed[m.Subject] {
		a.chosen++
	} else {
		a.others++
	}
	if a.unjudged++; a.unjudged >= lookAfter {
		a.look()
	}
	f := a.folds[m.Subject]
	if f != nil && a.sampler.every > 1 && f.came%uint64(a.sampler.every) != 0 {
		f.came++
		f.total.came++
		a.passed++
		return
	}
	s, err := parseAck(m.Data)
	if err != nil {
		a.malformed++
		return
	}
	if f == nil {
		if _, ok := ackConsumer(m.Subject); !ok {
			a.malformed++
			return
		}
		if len(a.folds) >= maxAckConsumers || a.totals[m.Subject] == nil && len(a.totals) >= 2*maxAckConsumers {
			a.overflow++
			return
		}
		f = &ackFold{total: a.totals[m.Subject]}
		if f.total == nil {
			f.total = &ackTotal{}
			a.totals[m.Subject] = f.total
		}
		f.total.last = a.now()
		a.folds[m.Subject] = f
	}
	f.came++
	f.total.came++
	f.total.negative = f.total.negative || s.latency < 0
	f.total.longest = max(f.total.longest, s.latency)
	f.total.deliveries = max(f.total.deliveries, s.deliveries)
	a.counted++
	f.latency.Add(s.latency)
	if s.deliveries > 1 {
		f.redelivered++
	}
}

// look judges the queue before the intake; a.mu is held.
func (a *acks) look() {
	a.unjudged = 0
	a.sampler.judge(a.now(), a.waiting(), a.droppedAll())
}

// intake tells how the samples were taken in since it was asked last, and what
// is to be told of it.
func (a *acks) intake() (fleet.Intake, []fleet.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look()
	now := fleet.Intake{
		At: a.now(), Every: a.sampler.every, Since: a.sampler.since, Counted: a.counted, Passed: a.passed,
		Dropped: uint64(a.droppedAll()), Waiting: a.waiting(), Share: a.share,
	}
	before := a.shown
	if span := now.At.Sub(before.At); !before.At.IsZero() && span > 0 {
		came := now.Counted + now.Passed + now.Dropped - before.Counted - before.Passed - before.Dropped
		now.PerSecond = float64(came) / span.Seconds()
	}
	a.shown = now
	return now, said(&before, &now)
}

// byConsumer returns what came in each consumer's name, without the name of the
// account, and forgets those whose samples stayed away.
func (a *acks) byConsumer() map[fleet.ConsumerKey]ackTotal {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, out := a.now(), make(map[fleet.ConsumerKey]ackTotal, len(a.totals))
	for subject, t := range a.totals {
		if a.folds[subject] == nil && now.Sub(t.last) > quietFor {
			delete(a.totals, subject)
			continue
		}
		k, _ := ackConsumer(subject)
		out[k] = *t
		t.negative, t.longest, t.deliveries = false, 0, 0
	}
	return out
}

// cut ends the window at to and returns what it measured, without the name of
// the account.
func (a *acks) cut(to time.Time) []fleet.AckWindow {
	a.mu.Lock()
	a.look()
	from, folds := a.from, a.folds
	a.from, a.folds = to, make(map[string]*ackFold, len(folds))
	a.mu.Unlock()
	out := make([]fleet.AckWindow, 0, len(folds))
	for subject, f := range folds {
		k, _ := ackConsumer(subject)
		out = append(out, fleet.AckWindow{ConsumerKey: k, From: from, To: to, Latency: &f.latency, Redelivered: f.redelivered,
			Passed: f.came - f.latency.Count()})
	}
	return out
}

// trouble says what was not counted since it was asked last.
func (a *acks) trouble() []string {
	var out []string
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.malformed > 0 {
		out = append(out, fmt.Sprintf("%d acknowledgement samples could not be read.", a.malformed))
	}
	if a.overflow > 0 {
		out = append(out, fmt.Sprintf("%d acknowledgement samples were not counted: more than %d consumers are sampled.", a.overflow, maxAckConsumers))
	}
	a.malformed, a.overflow = 0, 0
	if n := a.droppedAll(); n > a.dropped {
		out = append(out, fmt.Sprintf("%d acknowledgement samples were dropped: they came faster than they were counted.", n-a.dropped))
		a.dropped = n
	}
	return out
}

// droppedAll is how many samples were dropped before they were read; a.mu is
// held.
func (a *acks) droppedAll() int {
	n := a.lost
	for _, s := range a.subs {
		n += droppedBy(s)
	}
	return n
}

// waiting is how many samples have arrived and were not read; a.mu is held.
func (a *acks) waiting() int {
	n := 0
	for _, s := range a.subs {
		n += waitingFor(s)
	}
	return n
}

func droppedBy(s *nats.Subscription) int {
	if s == nil {
		return 0
	}
	n, err := s.Dropped()
	if err != nil {
		return 0 // unsubscribed
	}
	return n
}

// waitingFor is how many messages wait for a handler.
func waitingFor(s *nats.Subscription) int {
	if s == nil {
		return 0
	}
	n, _, err := s.Pending()
	if err != nil {
		return 0 // unsubscribed
	}
	return n
}

// ackConsumer reads the stream and the consumer out of a sample's subject:
// their names hold no dots. The same names stand in the body, but a server
// permits subjects, not contents.
func ackConsumer(subject string) (fleet.ConsumerKey, bool) {
	rest, ok := strings.CutPrefix(subject, ackSubject)
	stream, consumer, two := strings.Cut(rest, ".")
	if !ok || !two || stream == "" || consumer == "" || strings.Contains(consumer, ".") {
		return fleet.ConsumerKey{}, false
	}
	return fleet.ConsumerKey{Stream: stream, Consumer: consumer}, true
}

type ackSample struct {
	latency    time.Duration
	deliveries uint64
}

var (
	errNotSample = errors.New("not an acknowledgement sample")
	ackType      = []byte("io.nats.jetstream.metric.v1.consumer_ack")
)

// parseAck reads a sample. It is a flat object of strings and integers; only
// three members matter, so it is scanned by hand, in a tenth of the time that
// encoding/json takes. Anything but such an object is an error.
func parseAck(b []byte) (ackSample, error) {
	var s ackSample
	var typed, timed bool
	p := scanner{b: b}
	if !p.take('{') {
		return s, errNotSample
	}
	for more := !p.take('}'); more; more = p.take(',') {
		key, ok := p.str()
		if !ok || !p.take(':') {
			return s, errNotSample
		}
		if p.peek() == '"' {
			v, ok := p.str()
			if !ok {
				return s, errNotSample
			}
			if string(key) == "type" {
				typed = bytes.Equal(v, ackType)
			}
			continue
		}
		n, ok := p.integer()
		if !ok {
			return s, errNotSample
		}
		switch string(key) {
		case "ack_time":
			s.latency, timed = time.Duration(n), true
		case "deliveries":
			s.deliveries = uint64(max(n, 0))
		}
	}
	if !p.take('}') || !p.end() || !typed || !timed {
		return s, errNotSample
	}
	return s, nil
}

// scanner walks over the few forms of JSON that a sample consists of.
type scanner struct {
	b []byte
	i int
}

func (p *scanner) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *scanner) end() bool {
	p.space()
	return p.i == len(p.b)
}

func (p *scanner) peek() byte {
	p.space()
	if p.i == len(p.b) {
		return 0
	}
	return p.b[p.i]
}

func (p *scanner) take(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.i++
	return true
}

// str returns a string as it stands, escapes unresolved: those that are
// compared have none.
func (p *scanner) str() ([]byte, bool) {
	if !p.take('"') {
		return nil, false
	}
	start := p.i
	for ; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; {
		case c == '"':
			p.i++
			return p.b[start : p.i-1], true
		case c == '\\':
			p.i++
		case c < ' ':
			return nil, false
		}
	}
	return nil, false
}

func (p *scanner) integer() (int64, bool) {
	neg := p.take('-')
	var n int64
	digits := 0
	for ; p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9'; p.i++ {
		d := int64(p.b[p.i] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
		digits++
	}
	if neg {
		n = -n
	}
	return n, digits > 0
}
