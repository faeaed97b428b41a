package lb

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// attempts and waits of a message that names no lane. An attempt that nobody
// answers, as while a stream has no leader, must end before the caller's patience
// does.
const (
	defaultAttempts = 3
	attemptTimeout  = 2 * time.Second
	firstRetryWait  = 250 * time.Millisecond
)

// Sender sends messages of one lane, or with one key, or both. It costs nothing to
// make one for each message.
type Sender struct {
	p         *Publisher
	lane, key string
}

// Lane is for messages of a class of the split: its timeout, its retries, its
// targets. A lane that the document does not have is an error of each message.
func (p *Publisher) Lane(name string) Sender { return Sender{p: p, lane: name} }

// Key is for messages of one key, of a split that picks by key. It goes before the
// key that a message carries.
func (p *Publisher) Key(key string) Sender { return Sender{p: p, key: key} }

// Lane is s for messages of a lane.
func (s Sender) Lane(name string) Sender { s.lane = name; return s }

// Key is s for messages of one key.
func (s Sender) Key(key string) Sender { s.key = key; return s }

// Publish sends data to the picked target, as nats.Conn.Publish does: without
// waiting for anybody to receive it.
func (p *Publisher) Publish(ctx context.Context, data []byte) error {
	return Sender{p: p}.Publish(ctx, data)
}

// PublishMsg sends a message to the picked target and writes the target's
// subject into it. A key is read from the message before, from where the split
// says: a header, or a token of its subject.
func (p *Publisher) PublishMsg(ctx context.Context, msg *nats.Msg) error {
	return Sender{p: p}.PublishMsg(ctx, msg)
}

// Request sends a message to the picked target and waits for the answer. It is
// repeated when nobody was there to get it; otherwise only WithRepeatableRequests,
// since only the caller knows whether that is safe.
func (p *Publisher) Request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	return Sender{p: p}.Request(ctx, msg)
}

// PublishJS sends a message to the picked target, writes the target's subject
// into it, and waits until its stream has stored it. It tries again when nobody
// answers (see WithAttempts). So that a repetition is stored once, a message
// without the header Nats-Msg-Id gets one, which works within the stream's
// duplicate window.
//
// A repetition goes to another target when it cannot be stored twice by that: when
// the answer proves that nobody has the message, or when both targets' messages
// are known to be stored by one stream. Otherwise it goes to the same target.
//
// An error does not mean that the message was not stored. Who tries again should
// do so with the same message, which carries its Nats-Msg-Id.
func (p *Publisher) PublishJS(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	return Sender{p: p}.PublishJS(ctx, msg)
}

// PublishAsync sends a message to the picked target and does not wait for the
// stream's answer, which the future tells. The messages of many calls are on their
// way at the same time, up to the window of WithJetStream (4,000 if not said);
// while it is full, PublishAsync waits until ctx ends. Nothing is repeated
// elsewhere, and Stats counts the message as sent.
func (p *Publisher) PublishAsync(ctx context.Context, msg *nats.Msg) (jetstream.PubAckFuture, error) {
	return Sender{p: p}.PublishAsync(ctx, msg)
}

// Flush waits until every message of PublishAsync is answered for.
func (p *Publisher) Flush(ctx context.Context) error {
	select {
	case <-p.async.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the answers to %d messages to split %s: %w", p.async.PublishAsyncPending(), p.name, ctx.Err())
	}
}

// place is where one message goes: a target of the revision that it was picked by.
type place struct {
	d *division
	i int
}

func (t place) member() *member { return t.d.members[t.i] }
func (t place) subject() string { return t.d.subjects[t.i] }

// inFlight counts what is on its way there.
func (t place) inFlight() *atomic.Int64 { return t.d.loads[t.i] }

// find picks the target of a message, and tells its key.
func (s Sender) find(msg *nats.Msg) (to place, key string, err error) {
	d := s.p.now.Load()
	if d == nil {
		return place{}, "", fmt.Errorf("publish to split %s: %w", s.p.name, ErrNoSplit)
	}
	key = s.key
	if msg != nil {
		key = d.keyOf(msg, key) // before the subject is written over
	}
	to = place{d, -1}
	if s.lane == "" {
		to.i = s.p.pick(d, key)
		return to, key, nil
	}
	lane, ok := d.rev.Split.Lane(s.lane)
	if !ok {
		return place{}, "", fmt.Errorf("publish to split %s: lane %q: %w", s.p.name, s.lane, ErrNoLane)
	}
	if to.i = d.at(lane.Target); to.i < 0 { // also when it is drained
		lane.Target = ""
		to.i = s.p.pick(d, key)
	}
	if other := d.at(lane.Fallback); other >= 0 && lane.FallsBack(s.p.turn.Add(1), d.health[to.i], d.health[other]) {
		to.i = other
	}
	return to, key, nil
}

// route is where a message goes whose answer is waited for, and how long and how
// often.
type route struct {
	place
	key     string
	timeout time.Duration // of an attempt; 0 leaves it to the caller's context
	retries int
	free    bool   // repetitions cost nothing of the budget
	twice   bool   // may be worked off twice: a repetition may go to any target
	other   string // target for repetitions, when the split would pick none; "" none
}

func (s Sender) route(msg *nats.Msg) (route, error) {
	to, key, err := s.find(msg)
	if err != nil {
		return route{}, err
	}
	r := route{place: to, key: key, timeout: attemptTimeout, retries: s.p.attempts - 1}
	if s.lane != "" {
		lane, _ := to.d.rev.Split.Lane(s.lane) // find has found it
		r.timeout, r.retries, r.other = lane.Timeout(), lane.Retries, lane.Fallback
	}
	return r, nil
}

// address writes the target into the message.
func (s Sender) address(to place, msg *nats.Msg) {
	msg.Subject = to.subject()
	if s.p.marks {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header.Set(SplitHeader, s.p.name)
		msg.Header.Set(RevisionHeader, to.d.rev10)
	}
}

// count books what the caller is told and passes the error on.
func (s Sender) count(to place, err error) error {
	if err == nil {
		to.member().sent.Add(1)
		return nil
	}
	s.p.failed.Add(1)
	if to.d == nil {
		return err
	}
	return fmt.Errorf("publish to target %s of split %s: %w", to.member().name, s.p.name, err)
}

// Publish is Publisher.Publish.
func (s Sender) Publish(ctx context.Context, data []byte) error {
	if s.p.marks {
		return s.PublishMsg(ctx, &nats.Msg{Data: data})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	to, _, err := s.find(nil)
	if err == nil {
		err = s.p.nc.Publish(to.subject(), data)
	}
	return s.count(to, err)
}

// PublishMsg is Publisher.PublishMsg.
func (s Sender) PublishMsg(ctx context.Context, msg *nats.Msg) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	to, _, err := s.find(msg)
	if err == nil {
		s.address(to, msg)
		err = s.p.nc.PublishMsg(msg)
	}
	return s.count(to, err)
}

// PublishAsync is Publisher.PublishAsync.
func (s Sender) PublishAsync(ctx context.Context, msg *nats.Msg) (jetstream.PubAckFuture, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to, _, err := s.find(msg)
	var future jetstream.PubAckFuture
	if err == nil {
		s.address(to, msg)
		to.inFlight().Add(1)
		if future, err = s.p.inWindow(ctx, msg); err != nil {
			to.inFlight().Add(-1)
		}
	}
	return future, s.count(to, err)
}

// inWindow sends a message as soon as the window has room. The client itself gives
// up after 200 ms, which a server that is electing a leader takes longer than.
func (p *Publisher) inWindow(ctx context.Context, msg *nats.Msg) (jetstream.PubAckFuture, error) {
	for {
		future, err := p.async.PublishMsgAsync(msg)
		if !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return future, err
		}
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// acked and unacked are told what became of a message of PublishAsync.
func (p *Publisher) acked(_ jetstream.JetStream, msg *nats.Msg, ack *jetstream.PubAck) {
	p.answered(msg, ack.Stream, nil)
}

func (p *Publisher) unacked(_ jetstream.JetStream, msg *nats.Msg, err error) {
	p.answered(msg, "", err)
}

func (p *Publisher) answered(msg *nats.Msg, stream string, err error) {
	d := p.now.Load()
	if d == nil {
		return
	}
	way := d.paths[msg.Subject]
	if way == nil {
		return
	}
	way.inFlight.Add(-1)
	m := way.member.Load()
	m.stored(stream)
	if o, ok := p.judge(context.Background(), err); ok {
		p.settle(m, o)
	}
}

// stored notes which stream holds a target's messages.
func (m *member) stored(stream string) {
	if stream == "" {
		return
	}
	if old := m.stream.Load(); old == nil || *old != stream {
		name := stream // so that only news are allocated
		m.stream.Store(&name)
	}
}

// PublishJS is Publisher.PublishJS.
func (s Sender) PublishJS(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	r, err := s.route(msg)
	if err != nil {
		return nil, s.count(r.place, err)
	}
	if r.retries > 0 && msg.Header.Get(jetstream.MsgIDHeader) == "" {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header.Set(jetstream.MsgIDHeader, nuid.Next())
	}
	// What is stored once makes no work twice, and while a stream has no leader
	// every message must be repeated: a budget is for what targets do again.
	r.free = s.lane == ""
	var ack *jetstream.PubAck
	err = s.attempts(ctx, &r, func(ctx context.Context, r route) error {
		s.address(r.place, msg)
		var err error
		if ack, err = s.p.js.PublishMsg(ctx, msg, once...); err == nil {
			r.member().stored(ack.Stream)
		}
		return err
	}, worthRepeating)
	return ack, s.count(r.place, err)
}

// once leaves retries to us: the client's own know neither back-off nor budget.
var once = []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}

// Request is Publisher.Request.
func (s Sender) Request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	r, err := s.route(msg)
	if err != nil {
		return nil, s.count(r.place, err)
	}
	if s.lane == "" {
		r.timeout = 0 // the caller's context alone
	}
	r.twice = s.p.repeat
	var answer *nats.Msg
	err = s.attempts(ctx, &r, func(ctx context.Context, r route) (err error) {
		if answer, err = s.ask(ctx, r, msg); err == nil && failedService(answer) {
			err = errService
		}
		return err
	}, func(err error) bool {
		return errors.Is(err, nats.ErrNoResponders) || s.p.repeat && worthRepeating(err)
	})
	if errors.Is(err, errService) {
		err = nil // the caller reads in the answer what went wrong
	}
	return answer, s.count(r.place, err)
}

// attempts calls do until it succeeds, an error is not worth repeating, or the
// lane's retries, the budget or the caller's patience are used up. It leaves in r
// the target of the last attempt.
func (s Sender) attempts(ctx context.Context, r *route, do func(context.Context, route) error, repeat func(error) bool) error {
	r.d.budget.Sent()
	for n := 0; ; n++ {
		r.inFlight().Add(1)
		err := bounded(ctx, r.timeout, func(ctx context.Context) error { return do(ctx, *r) })
		r.inFlight().Add(-1)
		if o, ok := s.p.judge(ctx, err); ok {
			s.p.settle(r.member(), o)
		}
		if err == nil || n >= r.retries || ctx.Err() != nil || !repeat(err) {
			return err
		}
		if !r.free && !r.d.budget.Retry() {
			s.p.denied.Add(1)
			return err
		}
		other, moved := s.elsewhere(*r, err)
		// Only the first move is made at once: when the second target fails too, it
		// is what they have in common that needs time, as an election does.
		if (!moved || n > 0) && !pause(ctx, firstRetryWait<<min(n, 4)) {
			return err // err tells more than the context does
		}
		s.p.retried.Add(1)
		if moved {
			s.p.moved.Add(1)
			*r = other
		}
	}
}

func bounded(ctx context.Context, timeout time.Duration, do func(context.Context) error) error {
	if timeout <= 0 {
		return do(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return do(ctx)
}

// elsewhere looks for another target of a message that failed at one: one that
// the split picks, or else its lane's fallback. With a key there is only the one
// that the key has now.
func (s Sender) elsewhere(r route, err error) (route, bool) {
	d := s.p.now.Load()
	sure := r.twice || nobody(err)
	next := r
	may := func(i int) bool {
		if i < 0 {
			return false
		}
		next.place = place{d, i}
		if next.member() == r.member() {
			return false
		}
		a, b := r.member().stream.Load(), next.member().stream.Load()
		return sure || a != nil && b != nil && *a == *b
	}
	for range 4 {
		if may(s.p.pick(d, r.key)) {
			return next, true
		}
	}
	if r.other != "" && may(d.at(r.other)) {
		return next, true
	}
	return r, false
}

// ask sends one request, and one more when it is hedged.
func (s Sender) ask(ctx context.Context, r route, msg *nats.Msg) (*nats.Msg, error) {
	if s.p.hedge <= 0 {
		s.address(r.place, msg)
		return s.p.nc.RequestMsgWithContext(ctx, msg)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of the one that lost
	type reply struct {
		msg *nats.Msg
		err error
	}
	replies := make(chan reply, 2)
	send := func(r route) {
		own := &nats.Msg{Header: nats.Header{}, Data: msg.Data}
		for k, v := range msg.Header {
			own.Header[k] = v
		}
		s.address(r.place, own)
		go func() {
			answer, err := s.p.nc.RequestMsgWithContext(ctx, own)
			replies <- reply{answer, err}
		}()
	}
	send(r)
	waiting := 1
	after := time.NewTimer(s.p.hedge)
	defer after.Stop()
	var err error
	for waiting > 0 {
		select {
		case got := <-replies:
			if got.err == nil {
				return got.msg, nil
			}
			waiting--
			err = got.err
		case <-after.C:
			if other, ok := s.elsewhere(r, nats.ErrNoResponders); ok && r.d.budget.Retry() {
				s.p.hedged.Add(1)
				send(other)
				waiting++
			}
		}
	}
	return nil, err
}

// worthRepeating reports whether the same message may fare better in a moment.
func worthRepeating(err error) bool {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout),
		errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting):
		return true
	}
	return apiCode(err) >= 500
}

// apiCode is the code of an error that JetStream answered, 0 of any other.
func apiCode(err error) int {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code
	}
	return 0
}

// errService is what a micro service answered that could not do what was asked.
var errService = errors.New("the service answered with an error")

// failedService reports whether a micro service answered that it could not.
func failedService(msg *nats.Msg) bool {
	code, err := strconv.Atoi(msg.Header.Get("Nats-Service-Error-Code"))
	return err == nil && code >= 500
}
