package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/sketch"
	"ballast/internal/wait"
	"ballast/traffic"
)

const patient = time.Minute // for what servers and elections do on a busy machine

func of[T any](v T) *T { return &v }

// settings asks the leader.
func settings(tb testing.TB, c *Control, k fleet.ConsumerKey) traffic.ConsumerSettings {
	tb.Helper()
	var s traffic.ConsumerSettings
	wait.For(tb, patient, "the consumer's leader to answer", func() bool {
		var err error
		s, err = c.ConsumerSettings(context.Background(), k)
		if err != nil && fleet.KindOf(err) != fleet.Unavailable { // a busy machine may answer late
			tb.Fatalf("ConsumerSettings(%v): %v", k, err)
		}
		return err == nil
	})
	return s
}

// consumerEdit is based on what is in force.
func consumerEdit(tb testing.TB, c *Control, k fleet.ConsumerKey, p traffic.ConsumerPatch) traffic.ConsumerEdit {
	tb.Helper()
	return traffic.ConsumerEdit{Consumer: observedOf(k), Base: settings(tb, c, k).Digest, Patch: p, Actor: "ann", Reason: "too slow", Hold: time.Hour}
}

func mustChange(tb testing.TB, c *Control, e traffic.ConsumerEdit) traffic.ConsumerChange {
	tb.Helper()
	return inForce(tb, c, func() (traffic.ConsumerChange, error) { return c.ApplyConsumer(context.Background(), e) })
}

func mustRollBack(tb testing.TB, c *Control, id string) traffic.ConsumerChange {
	tb.Helper()
	return inForce(tb, c, func() (traffic.ConsumerChange, error) {
		return c.RollBackConsumer(context.Background(), id, "bob", "no better")
	})
}

// inForce makes a change and waits until the leader shows it: a busy machine may
// answer late, or elect a leader just then.
func inForce(tb testing.TB, c *Control, try func() (traffic.ConsumerChange, error)) traffic.ConsumerChange {
	tb.Helper()
	var ch traffic.ConsumerChange
	wait.For(tb, patient, "the change to be taken", func() bool {
		var err error
		ch, err = try()
		switch kind := fleet.KindOf(err); {
		case err == nil, kind == fleet.Unknown:
			return true
		case kind != fleet.Unavailable:
			tb.Fatalf("change a consumer: %v", err)
		}
		return false
	})
	wait.For(tb, 3*patient, "the change to be seen", func() bool {
		ch, _ = c.consumerChange(ch.ID)
		return ch.Phase == traffic.Baking || ch.Phase == traffic.Rejected
	})
	if ch.Phase == traffic.Rejected { // lost with a leader
		return inForce(tb, c, try)
	}
	return ch
}

func waitConsumer(tb testing.TB, c *Control, id string, want traffic.Phase) traffic.ConsumerChange {
	tb.Helper()
	var ch traffic.ConsumerChange
	wait.For(tb, patient, "the change to be "+string(want), func() bool {
		ch, _ = c.consumerChange(id)
		return ch.Phase == want
	})
	return ch
}

// checkConsumerReplay holds what the journal tells against what is remembered.
func checkConsumerReplay(tb testing.TB, c *Control, ledger *memLedger) {
	tb.Helper()
	told, held := "", ""
	defer func() {
		if tb.Failed() {
			tb.Logf("the journal tells\n%s\nremembered is\n%s", told, held)
		}
	}()
	wait.For(tb, patient, "the journal to tell what is remembered", func() bool {
		again := New(Config{Ledger: ledger, Observer: script(nil)})
		if err := again.replay(context.Background()); err != nil {
			tb.Fatal(err)
		}
		told, held = asJSON(tb, again.ConsumerChanges()), asJSON(tb, c.ConsumerChanges())
		return told == held
	})
}

func without(m map[string]any, fields ...string) map[string]any {
	m = maps.Clone(m)
	for _, f := range fields {
		delete(m, f)
	}
	return m
}

func TestConsumerPatchChangesOnlyWhatItNames(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	many := rich("many")
	many.FilterSubject, many.FilterSubjects = "", []string{"orders.many", "orders.b"}
	sampledOne := rich("sampled")
	sampledOne.SampleFrequency = "5%"
	pinned := jetstream.ConsumerConfig{Durable: "pinned", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.pinned",
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"a"}, PinnedTTL: 30 * time.Second}
	push := jetstream.ConsumerConfig{Durable: "push", DeliverSubject: "deliver.here", DeliverGroup: "g", AckPolicy: jetstream.AckExplicitPolicy,
		FilterSubject: "orders.push", IdleHeartbeat: 5 * time.Second, RateLimit: 1 << 20}
	sub, err := nc.QueueSubscribeSync("deliver.here", "g") // interest, as in real life
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	one := traffic.ConsumerPatch{MaxAckPending: of(123)}
	for _, tc := range []struct {
		name  string
		cfg   jetstream.ConsumerConfig
		patch traffic.ConsumerPatch
		want  map[string]any // of the fields that change, as the server tells them
	}{
		{"one setting", rich("w0"), one, map[string]any{"max_ack_pending": 123.0}},
		{"several", rich("w1"), traffic.ConsumerPatch{MaxAckPending: of(-1), MaxDeliver: of(9), BackOff: of([]time.Duration{3 * time.Second, 4 * time.Second})},
			map[string]any{"max_ack_pending": -1.0, "max_deliver": 9.0, "backoff": []any{3e9, 4e9}, "ack_wait": 3e9}},
		{"backoff taken away", rich("w2"), traffic.ConsumerPatch{BackOff: of([]time.Duration{}), AckWait: of(8 * time.Second)}, map[string]any{"backoff": nil, "ack_wait": 8e9}},
		{"sampled", sampledOne, one, map[string]any{"max_ack_pending": 123.0}},
		{"several filters", many, one, map[string]any{"max_ack_pending": 123.0}},
		{"pinned", pinned, traffic.ConsumerPatch{PriorityTimeout: of(3 * time.Second), AckWait: of(time.Second)}, map[string]any{"priority_timeout": 3e9, "ack_wait": 1e9}},
		{"hostile name", rich("<b'x'{}\"&;$(id)é"), one, map[string]any{"max_ack_pending": 123.0}},
		{"push", push, traffic.ConsumerPatch{AckWait: of(2 * time.Second)}, map[string]any{"ack_wait": 2e9}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.cfg.DeliverSubject != "" {
				if _, err := stream.CreatePushConsumer(context.Background(), tc.cfg); err != nil {
					t.Fatal(err)
				}
			} else {
				addConsumer(t, stream, tc.cfg)
			}
			k := fleet.ConsumerKey{Stream: "ORDERS", Consumer: tc.cfg.Durable}
			before := serverConfig(t, nc, k)
			e := consumerEdit(t, c, k, tc.patch)
			plan, err := c.PlanConsumer(context.Background(), e)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
				t.Fatalf("the dry run changed the consumer:\n%s\n%s", b, a)
			}
			ch := mustChange(t, c, e)
			after := serverConfig(t, nc, k)
			fields := slices.Collect(maps.Keys(tc.want))
			if b, a := asJSON(t, without(before, fields...)), asJSON(t, without(after, fields...)); a != b {
				t.Errorf("more than the named settings changed:\n%s\n%s", b, a)
			}
			for f, want := range tc.want {
				if a, b := asJSON(t, after[f]), asJSON(t, want); a != b {
					t.Errorf("%s is %s, want %s", f, a, b)
				}
			}
			if a, b := asJSON(t, plan.Diff), asJSON(t, ch.Diff); a != b || len(plan.Diff) != len(tc.want) {
				t.Errorf("the dry run tells %s, the change %s", a, b)
			}
			// The dry run foretold the settings: only the counts are of another moment.
			now, said := settings(t, c, k), plan.After
			said.Waiting, said.InFlight, said.Backlog = now.Waiting, now.InFlight, now.Backlog
			if a, b := asJSON(t, now), asJSON(t, said); a != b {
				t.Errorf("foretold was\n%s\nin force is\n%s", b, a)
			}
			back := mustRollBack(t, c, ch.ID)
			if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
				t.Errorf("rolled back, it differs:\n%s\n%s", b, a)
			}
			if old, _ := c.consumerChange(ch.ID); old.Phase != traffic.RolledBack || back.Undo != ch.ID || back.Phase != traffic.Baking {
				t.Errorf("the change is %s, its undoing %+v", old.Phase, back)
			}
			_, err = c.RollBackConsumer(context.Background(), ch.ID, "bob", "")
			wantKind(t, err, fleet.Invalid)
		})
	}
	checkConsumerReplay(t, c, ledger)
}

// What the dry run shows as the request, sent by hand, does the same.
func TestConsumerPlanIsWhatIsSent(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, rich("it's"))
	c, _ := console(t, Config{Conn: nc})
	for name, tc := range map[string]struct {
		patch   traffic.ConsumerPatch
		command string
	}{
		"edit":   {traffic.ConsumerPatch{MaxAckPending: of(50), MaxDeliver: of(7)}, `nats consumer edit 'ORDERS' 'it'\''s' --max-pending=50 --max-deliver=7 --force`},
		"others": {traffic.ConsumerPatch{MaxAckPending: of(-1)}, `nats request '$JS.API.CONSUMER.CREATE.ORDERS.it'\''s.orders.it'\''s' '{`},
		"pause":  {traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour).UTC().Truncate(time.Second))}, `nats consumer pause 'ORDERS' 'it'\''s' '2`},
		"resume": {traffic.ConsumerPatch{PauseUntil: new(time.Time)}, `nats consumer resume 'ORDERS' 'it'\''s' --force`},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "resume" {
				mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour))}))
			}
			plan, err := c.PlanConsumer(context.Background(), consumerEdit(t, c, k, tc.patch))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(plan.Command, tc.command) {
				t.Errorf("command %s", plan.Command)
			}
			m, err := nc.Request(plan.Subject, plan.Payload, patient)
			if err != nil || strings.Contains(string(m.Data), `"error"`) {
				t.Fatalf("sent by hand: %v %s", err, m.Data)
			}
			if a, b := settings(t, c, k).Digest, plan.After.Digest; a != b {
				t.Errorf("by hand it has digest %s, foretold was %s", a, b)
			}
		})
	}
}

// A configuration of a newer server has fields that this program does not know.
// No real server of today can show one, so this one is played.
func TestConsumerPatchKeepsFieldsItDoesNotKnow(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.JetStream = false }))
	player, asker := natstest.Connect(t, srv.ClientURL()), natstest.Connect(t, srv.ClientURL())
	const config = `{"durable_name":"w0","name":"w0","ack_policy":"explicit","num_replicas":0,"max_ack_pending":10,
		"max_bytes":9007199254740993,"warp":{"factor":9.50,"deep":[{"x":null}]},"metadata":{"_nats.ver":"9.9.9"}}`
	var mu sync.Mutex
	held := json.RawMessage(config)
	answer := func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if len(m.Data) > 0 {
			var req struct {
				Action string          `json:"action"`
				Config json.RawMessage `json:"config"`
			}
			if err := json.Unmarshal(m.Data, &req); err != nil || req.Action != "update" {
				t.Errorf("asked %s: %v", m.Data, err)
			}
			held = req.Config
		}
		if err := m.Respond(encode(map[string]any{"created": "2026-01-01T00:00:00Z", "config": held})); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
	for _, subject := range []string{"$JS.API.CONSUMER.INFO.ORDERS.w0", "$JS.API.CONSUMER.CREATE.ORDERS.w0"} {
		if _, err := player.Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := player.Flush(); err != nil {
		t.Fatal(err)
	}
	c, _ := console(t, Config{Conn: asker})
	k := fleet.ConsumerKey{Stream: "ORDERS", Consumer: "w0"}
	mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(20)}))
	mu.Lock()
	defer mu.Unlock()
	var was, is map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal([]byte(config), &was), json.Unmarshal(held, &is)); err != nil {
		t.Fatal(err)
	}
	was["max_ack_pending"] = json.RawMessage("20")
	for f := range was {
		if string(is[f]) != string(was[f]) { // byte for byte: a number must not lose digits
			t.Errorf("%s is %s, was %s", f, is[f], was[f])
		}
	}
	if len(is) != len(was) {
		t.Errorf("%d fields, want %d", len(is), len(was))
	}
}

func TestConsumerChangedSinceIsAConflict(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	k := addConsumer(t, stream, rich("w0"))
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)})
	update(t, stream, k, func(cfg *jetstream.ConsumerConfig) { cfg.MaxAckPending = 555 })
	for _, try := range []func() error{
		func() error { _, err := c.PlanConsumer(context.Background(), e); return err },
		func() error { _, err := c.ApplyConsumer(context.Background(), e); return err },
	} {
		if got := wantKind(t, try(), fleet.Stale); !strings.Contains(got.Hint, "max_ack_pending 555") {
			t.Errorf("hint %q does not show what is in force", got.Hint)
		}
	}
	if len(ledger.entries) != 0 {
		t.Errorf("the journal has %d entries", len(ledger.entries))
	}

	// What somebody else writes while the intent is put on record survives, too.
	e = consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)})
	ledger.setRefuse(func(en traffic.Entry) error {
		if en.Kind == traffic.EntryConsumerIntent {
			update(t, stream, k, func(cfg *jetstream.ConsumerConfig) { cfg.MaxDeliver = 77 })
		}
		return nil
	})
	ch, err := c.ApplyConsumer(context.Background(), e)
	wantKind(t, err, fleet.Stale)
	if ch.Phase != traffic.Rejected {
		t.Errorf("change is %s", ch.Phase)
	}
	if s := settings(t, c, k); s.MaxDeliver != 77 || s.MaxAckPending != 555 {
		t.Errorf("in force are %+v", s)
	}
	// One created anew is another, though its settings are the same.
	e = consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)})
	if err := stream.DeleteConsumer(context.Background(), "w0"); err != nil {
		t.Fatal(err)
	}
	_, err = c.ApplyConsumer(context.Background(), e)
	wantKind(t, err, fleet.NotFound)
	again := rich("w0")
	again.MaxAckPending, again.MaxDeliver = 555, 77
	addConsumer(t, stream, again)
	_, err = c.ApplyConsumer(context.Background(), e)
	wantKind(t, err, fleet.Stale)
}

func TestConsumerNoRecordNoChange(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), rich("w0"))
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	before := serverConfig(t, nc, k)
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)})
	ledger.setRefuse(func(traffic.Entry) error { return errors.New("disk full") })
	_, err := c.ApplyConsumer(context.Background(), e)
	wantKind(t, err, fleet.Unavailable)
	if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b || len(c.ConsumerChanges()) != 0 {
		t.Errorf("%d changes, the consumer is\n%s", len(c.ConsumerChanges()), a)
	}
	// What happened is told even if the journal is full just then.
	ledger.setRefuse(func(e traffic.Entry) error {
		if e.Kind == traffic.EntryConsumerWritten {
			return errors.New("disk full")
		}
		return nil
	})
	mustChange(t, c, e)
	ledger.setRefuse(nil)
	wait.For(t, patient, "the owed entry", func() bool { return ledger.count(traffic.EntryConsumerWritten) == 1 })

	ro := New(Config{Conn: nc, Ledger: ledger, Observer: script(nil), ReadOnly: true})
	if _, err := ro.PlanConsumer(context.Background(), consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(11)})); err != nil {
		t.Errorf("a watching console's dry run: %v", err)
	}
	_, err = ro.ApplyConsumer(context.Background(), e)
	wantKind(t, err, fleet.Forbidden)
	_, err = ro.RollBackConsumer(context.Background(), "x", "ann", "")
	wantKind(t, err, fleet.Forbidden)
	wantKind(t, ro.Unpin(context.Background(), k, "a", "ann", ""), fleet.Forbidden)
}

// hands is a clock that a test moves.
type hands struct{ ns atomic.Int64 }

func (h *hands) now() time.Time          { return time.Unix(1_800_000_000, h.ns.Load()) }
func (h *hands) forward(d time.Duration) { h.ns.Add(int64(d)) }

func TestConsumerChangeIsVerifiedOrReplaced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	clock := &hands{}
	see := script(func(s traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
		o := traffic.Observation{Target: s.Targets[0].Name, From: r.From, To: r.To, Interval: time.Second, Latency: &sketch.Sketch{}, Acked: 600, Backlog: 90}
		d := 100 * time.Millisecond
		if r.From.Before(time.Unix(1_800_000_000, 0)) {
			o.Acked, o.Backlog, o.Redelivered, d = 500, 700, 40, 300*time.Millisecond
		}
		for range 500 {
			o.Latency.Add(d)
		}
		return []traffic.Observation{o}, nil
	})
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Now: clock.now, Observer: see, Ledger: ledger})
	edit := func(k fleet.ConsumerKey, n int) traffic.ConsumerEdit {
		e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(n)})
		e.Hold = 0 // the default
		return e
	}
	stays := addConsumer(t, stream, rich("stays"))
	mine := rich("app")
	app := addConsumer(t, stream, mine)
	gone := addConsumer(t, stream, rich("gone"))
	anew := addConsumer(t, stream, rich("anew"))
	twice := addConsumer(t, stream, rich("twice"))

	verified := mustChange(t, c, edit(stays, 200))
	if want := verified.Written.Add(time.Minute); !verified.HoldEnds.Equal(want) {
		t.Errorf("watched until %v, want %v", verified.HoldEnds, want)
	}
	reset := mustChange(t, c, edit(app, 200))
	deleted := mustChange(t, c, edit(gone, 200))
	recreated := mustChange(t, c, edit(anew, 200))
	first := mustChange(t, c, edit(twice, 200))
	waits := mustChange(t, c, consumerEdit(t, c, twice, traffic.ConsumerPatch{MaxDeliver: of(8)}))
	second := mustChange(t, c, edit(twice, 300))

	// An application starts, with settings of its own.
	if _, err := stream.CreateOrUpdateConsumer(ctx, mine); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gone", "anew"} {
		if err := stream.DeleteConsumer(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	addConsumer(t, stream, rich("anew"))
	clock.forward(20 * time.Second) // the next look
	for id, want := range map[string]string{
		reset.ID: "Somebody else set max_ack_pending 77", deleted.ID: "deleted", recreated.ID: "created anew", first.ID: "Another change by ann",
	} {
		if ch := waitConsumer(t, c, id, traffic.Replaced); !strings.Contains(ch.Outcome, want) {
			t.Errorf("outcome %q, want %q in it", ch.Outcome, want)
		}
	}
	for _, ch := range []traffic.ConsumerChange{verified, second, waits} {
		if ch, _ = c.consumerChange(ch.ID); ch.Phase != traffic.Baking {
			t.Errorf("change is %s before its time: %s", ch.Phase, ch.Outcome)
		}
	}
	_, err := c.RollBackConsumer(ctx, reset.ID, "ann", "")
	if e := wantKind(t, err, fleet.Stale); !strings.Contains(e.Msg, "max_ack_pending") || !strings.Contains(e.Hint, "77") {
		t.Errorf("refused with %q, %q", e.Msg, e.Hint)
	}
	_, err = c.RollBackConsumer(ctx, recreated.ID, "ann", "")
	wantKind(t, err, fleet.Stale)
	_, err = c.RollBackConsumer(ctx, deleted.ID, "ann", "")
	wantKind(t, err, fleet.NotFound)
	_, err = c.RollBackConsumer(ctx, "no such", "ann", "")
	wantKind(t, err, fleet.NotFound)

	clock.forward(41 * time.Second)
	for _, id := range []string{verified.ID, second.ID} {
		ch := waitConsumer(t, c, id, traffic.Verified)
		if e := ch.Effect; e == nil || e.BacklogBefore != 700 || e.BacklogAfter != 90 || e.RedeliveredBefore != 40 || e.P99Before < 2*e.P99After {
			t.Errorf("effect %+v", ch.Effect)
		}
		if !strings.Contains(ch.Outcome, "Still in force after 1m1s. Acknowledged 500 before and 600 after, redelivered 40 and 0, waiting or in flight 700 and 90. p99 ACK latency 3") {
			t.Errorf("outcome %q", ch.Outcome)
		}
	}
	if ch, _ := c.consumerChange(waits.ID); ch.Phase != traffic.Baking { // an hour
		t.Errorf("change is %s before its time: %s", ch.Phase, ch.Outcome)
	}
	// An application that starts long after it was verified is seen, too; a change
	// that a newer one replaced is no business of it.
	clock.forward(3 * time.Hour)
	update(t, stream, stays, func(cfg *jetstream.ConsumerConfig) { cfg.MaxAckPending = 79 })
	clock.forward(driftEvery)
	if ch := waitConsumer(t, c, verified.ID, traffic.Replaced); !strings.Contains(ch.Outcome, "set max_ack_pending 79") || !strings.Contains(ch.Outcome, "seen 3h") {
		t.Errorf("outcome %q", ch.Outcome)
	}
	waitConsumer(t, c, waits.ID, traffic.Verified) // its hour is over
	// Later changes of other settings do not stand in the way of a way back.
	mustRollBack(t, c, second.ID)
	if s := settings(t, c, twice); s.MaxAckPending != 200 || s.MaxDeliver != 8 {
		t.Errorf("in force are %+v", s)
	}
	wait.For(t, patient, "every step to be in the journal", func() bool {
		return ledger.count(traffic.EntryConsumerVerified) == 3 && ledger.count(traffic.EntryConsumerReplaced) == 5
	})
	checkConsumerReplay(t, c, ledger)
}

// Whatever was changed, in whatever order: rolled back from the newest to the
// oldest, the consumer is what it was.
func TestConsumerRollbacksRestoreEverything(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	c, _ := console(t, Config{Conn: nc})
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		k := addConsumer(t, stream, rich(fmt.Sprintf("w%d", seed)))
		before := serverConfig(t, nc, k)
		span := func() time.Duration { return time.Duration(1 + rnd.IntN(1e9)) }
		var made []string
		for range 20 {
			var p traffic.ConsumerPatch
			if rnd.IntN(2) == 0 {
				p.MaxAckPending = of(1 + rnd.IntN(9))
			}
			switch rnd.IntN(6) {
			case 0:
				p.BackOff = of([]time.Duration{span(), span(), span()}[:rnd.IntN(4)])
				p.MaxDeliver = of(3 + rnd.IntN(9))
			case 1:
				p.BackOff, p.AckWait = of([]time.Duration{}), of(span())
			case 2:
				p = traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour + span()))}
			case 3:
				p = traffic.ConsumerPatch{PauseUntil: new(time.Time)}
			case 4:
				p.PriorityPolicy = of([]traffic.PriorityPolicy{traffic.PriorityOverflow, traffic.PriorityPinned, traffic.PriorityPrioritized}[rnd.IntN(3)])
				p.PriorityGroups = of([]string{string(rune('a' + rnd.IntN(3)))})
			case 5:
				p.PriorityPolicy, p.PriorityGroups = of(traffic.PriorityNone), of([]string{})
			}
			e := consumerEdit(t, c, k, p)
			e.Migrate = true
			if _, err := c.PlanConsumer(context.Background(), e); fleet.KindOf(err) == fleet.Invalid && err != nil {
				continue // nothing would change, or it is not paused
			}
			made = append(made, mustChange(t, c, e).ID)
		}
		if len(made) < 5 {
			t.Fatalf("seed %d: only %d changes", seed, len(made))
		}
		for _, id := range slices.Backward(made) {
			mustRollBack(t, c, id)
		}
		if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
			t.Errorf("seed %d: after %d changes and as many rollbacks it differs:\n%s\n%s", seed, len(made), b, a)
		}
	}
}

// A measurement and a change of settings write the same configuration: neither
// may undo the other.
func TestConsumerSettingsAndMeasurementLeaveEachOtherAlone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), rich("w0"))
	c, _ := console(t, Config{Conn: nc})
	edit := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)})
	m := begin(t, c, k, 50, time.Hour)
	ch := mustChange(t, c, edit) // its base is from before: sampling is no conflict
	if got := freq(t, nc, k); got != "50" || ch.Outcome != "" && strings.Contains(ch.Outcome, "changed, too") {
		t.Errorf("sample_freq %q; %s", got, ch.Outcome)
	}
	if _, err := c.StopMeasuring(ctx, m.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if s := settings(t, c, k); s.MaxAckPending != 10 || freq(t, nc, k) != "" {
		t.Errorf("max_ack_pending %d, sample_freq %q", s.MaxAckPending, freq(t, nc, k))
	}

	// Both at once, again and again.
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 20 {
			if m, err := c.Measure(ctx, k, 100, time.Hour, "ann", ""); err != nil {
				t.Errorf("Measure: %v", err)
			} else if _, err := c.StopMeasuring(ctx, m.ID, "ann"); err != nil {
				t.Errorf("StopMeasuring: %v", err)
			}
		}
	})
	last := 0
	for n := 1000; n < 1020; n++ {
		mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(n)}))
		last = n
	}
	wg.Wait()
	if s := settings(t, c, k); s.MaxAckPending != last || freq(t, nc, k) != "" {
		t.Errorf("max_ack_pending %d, sample_freq %q; want %d and none", s.MaxAckPending, freq(t, nc, k), last)
	}
	for _, m := range c.Measurements() {
		if !strings.Contains(m.Outcome, "Measured") {
			t.Errorf("measurement: %s", m.Outcome)
		}
	}
}
