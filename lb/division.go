package lb

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/traffic"
)

// member is what a Publisher knows of a target, over all revisions.
type member struct {
	name   string
	sent   atomic.Uint64
	stream atomic.Pointer[string] // that stored its last message
	path   *path                  // to its subject of the newest revision; guarded by Publisher.mu

	mu      sync.Mutex       // guards what follows
	breaker *traffic.Breaker // nil judges nothing
	told    traffic.Circuit  // as it was logged last
}

// path is a subject that messages were sent to, over all revisions: what comes
// back for one that was sent before a target was given another name or subject is
// booked where it was sent.
type path struct {
	inFlight atomic.Int64
	member   atomic.Pointer[member] // whose subject it was last
}

func (m *member) stats() TargetStats {
	s := TargetStats{Sent: m.sent.Load(), InFlight: m.path.inFlight.Load(), Health: 1, Circuit: traffic.Closed}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.breaker != nil {
		s.Health, s.Circuit = m.breaker.Health(), m.breaker.Circuit()
	}
	return s
}

func (m *member) health() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.breaker == nil {
		return 1
	}
	return m.breaker.Health()
}

// record tells the breaker of an outcome and returns whether the target's health
// changed.
func (m *member) record(o traffic.Outcome) bool {
	if m.breaker == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.breaker.Record(time.Now(), o)
}

func (m *member) tick(now time.Time) bool {
	if m.breaker == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.breaker.Tick(now)
}

// division is one revision, ready to pick by, with the targets' health as it was
// when it was made.
type division struct {
	rev      traffic.Revision
	fallback bool
	whole    *traffic.Picker // all healthy
	picker   *traffic.Picker
	// What follows up to loads is by index of the picker's targets.
	members  []*member
	subjects []string
	health   []float64
	loads    traffic.Loads
	paths    map[string]*path // by subject, of this revision and of those before it
	budget   *traffic.Budget
	keyed    traffic.Keyed
	byKey    bool
	choose   bool // between two
	rev10    string
}

// install brings a revision into force.
func (p *Publisher) install(rev traffic.Revision, fallback bool) error {
	picker, err := traffic.NewPicker(rev.Split)
	if err != nil {
		return err
	}
	d := &division{
		rev: rev, fallback: fallback, whole: picker, picker: picker,
		byKey: rev.Split.Pick == traffic.ByKey, choose: rev.Split.Local == traffic.TwoChoices,
		paths: map[string]*path{},
		rev10: strconv.FormatUint(rev.Number, 10),
	}
	if rev.Split.Key != nil {
		d.keyed = *rev.Split.Key
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.now.Load()
	if old != nil {
		maps.Copy(d.paths, old.paths)
	}
	if old != nil && reflect.DeepEqual(old.rev.Split.Retry, rev.Split.Retry) {
		d.budget = old.budget // a new revision is no reason for more retries
	} else {
		d.budget = traffic.NewBudget(rev.Split.Retry)
	}
	for _, t := range picker.Targets() {
		m, ok := p.members[t.Name]
		if !ok {
			m = &member{name: t.Name}
			if !p.noBreak {
				m.breaker = traffic.NewBreaker(p.breaker, nil)
			}
			p.members[t.Name] = m
		}
		way, ok := d.paths[t.Subject]
		if !ok {
			way = &path{}
			d.paths[t.Subject] = way
		}
		way.member.Store(m)
		m.path = way
		d.members = append(d.members, m)
		d.loads = append(d.loads, &way.inFlight)
		d.subjects = append(d.subjects, t.Subject)
	}
	p.lastBad = ""
	p.now.Store(d.adapted())
	p.readyOnce.Do(func() { close(p.ready) })
	return nil
}

// adapted is d with the targets' health as it is now.
func (d *division) adapted() *division {
	next := *d
	next.health = make([]float64, len(d.members))
	for i, m := range d.members {
		next.health[i] = m.health()
	}
	next.picker = d.whole.With(next.health)
	return &next
}

// adapt picks by the targets' health as it is now.
func (p *Publisher) adapt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.now.Load(); d != nil {
		p.now.Store(d.adapted())
	}
}

// settle books what became of a message of a target.
func (p *Publisher) settle(m *member, o traffic.Outcome) {
	if !m.record(o) {
		return
	}
	p.adapt()
	p.tell(m)
}

// tell logs that a target is left alone, tried again, or whole again. Between
// these its share moves every few seconds, and nobody needs a line for that.
func (p *Publisher) tell(m *member) {
	m.mu.Lock()
	circuit := m.breaker.Circuit()
	news := m.told != circuit && (m.told != "" || circuit != traffic.Closed)
	m.told = circuit
	m.mu.Unlock()
	if news {
		p.log.Warn("a target's messages fare differently", "target", m.name, "circuit", circuit)
	}
}

// tend lets time pass for the breakers, until ctx ends.
func (p *Publisher) tend(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			d := p.now.Load()
			if d == nil {
				continue
			}
			changed := false
			for _, m := range d.members {
				if m.tick(now) {
					changed = true
					p.tell(m)
				}
			}
			if changed {
				p.adapt()
			}
		}
	}
}

// pick returns the index of the message's target. A split that picks by key falls
// back to the weights for a message without one: an operator who changes the pick
// must not stop the applications that do not send keys yet.
func (p *Publisher) pick(d *division, key string) int {
	if d.byKey {
		switch {
		case key == "":
			p.keyless.Add(1)
		case d.keyed.Bound > 0:
			return d.picker.PickKeyBounded(key, d.loads)
		default:
			return d.picker.PickKey(key)
		}
	}
	n := p.turn.Add(1)
	if d.choose {
		return d.picker.PickTwo(n, d.loads)
	}
	return d.picker.PickNth(n)
}

// keyOf is the key of a message, from where the split says. What the caller hands
// over goes before it.
func (d *division) keyOf(msg *nats.Msg, caller string) string {
	if !d.byKey || caller != "" {
		return caller
	}
	switch d.keyed.From {
	case traffic.FromCaller:
		return ""
	case traffic.FromToken:
		return token(msg.Subject, d.keyed.Token)
	}
	if d.keyed.Header != "" {
		return msg.Header.Get(d.keyed.Header)
	}
	return msg.Header.Get(KeyHeader)
}

// token is the n-th token of a subject, 1 is the first; "" when it has fewer.
func token(subject string, n int) string {
	for t := range strings.SplitSeq(subject, ".") {
		if n--; n == 0 {
			return t
		}
	}
	return ""
}

// at is the index of a target by name, -1 when it cannot be picked.
func (d *division) at(name string) int {
	for i, m := range d.members {
		if m.name == name {
			return i
		}
	}
	return -1
}

// judge says what an error of JetStream or of a request says of the target; ok is
// false when it says nothing: a connection that is gone, a caller who gave up, a
// message that nobody would take.
func (p *Publisher) judge(ctx context.Context, err error) (o traffic.Outcome, ok bool) {
	switch {
	case err == nil:
		return traffic.Succeeded, true
	case ctx.Err() != nil || !p.nc.IsConnected():
		return 0, false
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return traffic.Failed, true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, jetstream.ErrAsyncPublishTimeout):
		return traffic.TimedOut, true
	case errors.Is(err, errService), apiCode(err) >= 500:
		return traffic.Failed, true
	}
	return 0, false
}

// nobody reports whether an error proves that nobody has the message: it may be
// sent to any other target.
func nobody(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || apiCode(err) != 0
}
