package control

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

func TestConsumerLostAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault fault
		want  traffic.Phase
	}{
		"reply lost": {loseReply, traffic.Baking},
		"write lost": {loseWrite, traffic.Rejected},
		"write late": {holdWrite, traffic.Baking},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			nc := connect(t)
			k := addConsumer(t, ordersStream(t, nc, 1), rich("w0"))
			before := serverConfig(t, nc, k)
			p := newProxy(t, nc.ConnectedUrl())
			clock := &hands{}
			ledger := &memLedger{}
			c, _ := console(t, Config{Conn: natstest.Connect(t, p.url(), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond)), Ledger: ledger, Now: clock.now}, impatient)
			measured := begin(t, c, k, 50, time.Hour)
			e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10), MaxDeliver: of(8)})
			p.arm(tc.fault)
			ch, err := c.ApplyConsumer(ctx, e)
			wantKind(t, err, fleet.Unknown)
			if ch.Phase != traffic.UnknownOut {
				t.Fatalf("phase %s, want unknown", ch.Phase)
			}
			// Until it is known nothing else is written to this consumer: that would
			// carry the old settings, or be undone by the late request.
			_, err = c.ApplyConsumer(ctx, e)
			wantKind(t, err, fleet.Unavailable)
			_, err = c.StopMeasuring(ctx, measured.ID, "ann")
			wantKind(t, err, fleet.Unavailable)
			p.heal()
			if tc.fault == holdWrite {
				p.release()
			}
			if tc.want == traffic.Rejected {
				clock.forward(lateWrite) // too late for it to come
				clock.forward(10 * time.Second)
			}
			ch = waitConsumer(t, c, ch.ID, tc.want)
			after := serverConfig(t, nc, k)
			if freq(t, nc, k) != "50" {
				t.Errorf("sample_freq %v: the change undid the measurement", after["sample_freq"])
			}
			if tc.want == traffic.Rejected {
				if b, a := asJSON(t, without(before, "sample_freq")), asJSON(t, without(after, "sample_freq")); a != b || !strings.Contains(ch.Outcome, "nothing was changed") {
					t.Errorf("rejected (%s), and it changed:\n%s\n%s", ch.Outcome, b, a)
				}
			} else if after["max_ack_pending"] != 10.0 || after["max_deliver"] != 8.0 {
				t.Errorf("in force are %v", after)
			}
			// What a busy machine does not answer in time is tried again by itself.
			_, _ = c.StopMeasuring(ctx, measured.ID, "ann")
			wait.For(t, patient, "the measurement to be over", func() bool {
				clock.forward(time.Second)
				m, _ := c.measurement(measured.ID)
				return m.Phase == traffic.MeasureOver
			})
			if got := freq(t, nc, k); got != "" {
				t.Errorf("sample_freq %q", got)
			}
			mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(20)}))
			checkConsumerReplay(t, c, ledger)
		})
	}
}

// A console that is killed at any step knows after its next start what became of
// its change.
func TestConsumerChangeSurvivesACrash(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	stream := ordersStream(t, nc, 1)
	type setup struct {
		last   traffic.EntryKind // of the journal that is left
		undone bool              // the request never left
		other  bool              // an application wrote its own settings meanwhile
		want   traffic.Phase
		says   string
	}
	for name, tc := range map[string]setup{
		"after the intent":           {traffic.EntryConsumerIntent, true, false, traffic.Rejected, "nothing was changed"},
		"after the request":          {traffic.EntryConsumerIntent, false, false, traffic.Verified, "Still in force"},
		"after the record of it":     {traffic.EntryConsumerWritten, false, false, traffic.Verified, "Still in force"},
		"another wrote meanwhile":    {traffic.EntryConsumerWritten, true, true, traffic.Replaced, "Somebody else set max_ack_pending 66"},
		"another wrote, not we":      {traffic.EntryConsumerIntent, true, true, traffic.Rejected, "the consumer now has max_ack_pending 66"},
		"deleted while it was away":  {traffic.EntryConsumerWritten, false, false, traffic.Replaced, "deleted"},
		"deleted before it was seen": {traffic.EntryConsumerIntent, false, false, traffic.Rejected, "deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			k := addConsumer(t, stream, rich(strings.NewReplacer(" ", "-", ",", "").Replace(name)))
			own := natstest.Connect(t, srv.ClientURL())
			clock := &hands{}
			ledger := &memLedger{}
			c, stop := console(t, Config{Conn: own, Ledger: ledger, Now: clock.now})
			ch := mustChange(t, c, consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)}))
			crash(own, stop)
			left := ledger.until(tc.last)
			if tc.undone {
				update(t, stream, k, func(cfg *jetstream.ConsumerConfig) { cfg.MaxAckPending = 77 })
			}
			if tc.other {
				update(t, stream, k, func(cfg *jetstream.ConsumerConfig) { cfg.MaxAckPending = 66 })
			}
			if strings.HasPrefix(name, "deleted") {
				if err := stream.DeleteConsumer(context.Background(), k.Consumer); err != nil {
					t.Fatal(err)
				}
			}
			c, _ = console(t, Config{Conn: nc, Ledger: left, Now: clock.now})
			if tc.want == traffic.Verified {
				waitConsumer(t, c, ch.ID, traffic.Baking) // first it is seen to be in force
			}
			clock.forward(lateWrite + writeTimeout)
			if tc.want == traffic.Verified {
				clock.forward(time.Hour)
			}
			if got := waitConsumer(t, c, ch.ID, tc.want); !strings.Contains(got.Outcome, tc.says) {
				t.Errorf("outcome %q, want %q in it", got.Outcome, tc.says)
			}
			checkConsumerReplay(t, c, left)
		})
	}
}

// settingGrants is what docs/nats-permissions.md gives for settings.
const settingGrants = `
accounts {
  APP {
    jetstream: enabled
    users: [
      { user: "app", password: "a" }
      { user: "one", password: "o", permissions { publish: [ ` + watching + ` "$SYS.REQ.USER.INFO", "$JS.API.CONSUMER.INFO.*.*",
          "$JS.API.CONSUMER.CREATE.ORDERS.w0.orders.w0", "$JS.API.CONSUMER.PAUSE.ORDERS.w0", "$JS.API.CONSUMER.UNPIN.ORDERS.w0" ], subscribe: [ "_INBOX_ballast.>" ] } }
    ]
  }
}`

func TestConsumerPermissions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv := natstest.Server(t, natstest.Config(settingGrants))
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("app", "a"))
	stream := ordersStream(t, nc, 1)
	pinned := func(name string) fleet.ConsumerKey {
		k := addConsumer(t, stream, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders." + name,
			PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"a"}, PinnedTTL: time.Hour})
		k.Account = "APP"
		return k
	}
	w0, w1 := pinned("w0"), pinned("w1")
	c, _ := console(t, Config{Conn: natstest.Connect(t, srv.ClientURL(), nats.UserInfo("one", "o"), nats.CustomInboxPrefix("_INBOX_ballast"))}, impatient)
	ch := mustChange(t, c, consumerEdit(t, c, w0, traffic.ConsumerPatch{MaxAckPending: of(10)}))
	mustRollBack(t, c, ch.ID)
	mustChange(t, c, consumerEdit(t, c, w0, traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour))}))
	mustChange(t, c, consumerEdit(t, c, w0, traffic.ConsumerPatch{PauseUntil: new(time.Time)}))
	if err := c.Unpin(ctx, w0, "a", "ann", ""); err != nil {
		t.Error(err)
	}

	before := serverConfig(t, nc, w1)
	for subject, p := range map[string]traffic.ConsumerPatch{
		"$JS.API.CONSUMER.CREATE.ORDERS.w1.orders.w1": {MaxAckPending: of(10)},
		"$JS.API.CONSUMER.PAUSE.ORDERS.w1":            {PauseUntil: of(time.Now().Add(time.Hour))},
	} {
		ch, err := c.ApplyConsumer(ctx, consumerEdit(t, c, w1, p))
		if e := wantKind(t, err, fleet.Forbidden); !strings.Contains(e.Hint, subject) || ch.Phase != traffic.Rejected {
			t.Errorf("hint %q does not name %s; change %s", e.Hint, subject, ch.Phase)
		}
	}
	if e := wantKind(t, c.Unpin(ctx, w1, "a", "ann", ""), fleet.Forbidden); !strings.Contains(e.Hint, "$JS.API.CONSUMER.UNPIN.ORDERS.w1") {
		t.Errorf("hint %q", e.Hint)
	}
	if a, b := asJSON(t, serverConfig(t, nc, w1)), asJSON(t, before); a != b {
		t.Errorf("forbidden, and it changed:\n%s\n%s", b, a)
	}
}

// Who may publish to a consumer's CREATE may do more than the console asks for;
// a filter in the subject is all that the server holds it to.
func TestConsumerCreateGrantsMore(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(`
accounts { APP { jetstream: enabled, users: [
  { user: "app", password: "a" }
  { user: "one", password: "o", permissions { publish: [ "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.CREATE.ORDERS.w0.orders.w0", "$JS.API.CONSUMER.CREATE.ORDERS.many" ] } }
] } }`))
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("app", "a"))
	stream := ordersStream(t, nc, 1)
	w0 := addConsumer(t, stream, rich("w0"))
	cfg := rich("many")
	cfg.FilterSubject, cfg.FilterSubjects = "", []string{"orders.a", "orders.b"}
	many := addConsumer(t, stream, cfg)
	one := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("one", "o"))
	ask := func(subject string, k fleet.ConsumerKey, set map[string]json.RawMessage) string {
		c := New(Config{Conn: one, Observer: script(nil)})
		s, err := c.consumer(context.Background(), k)
		if err != nil {
			t.Fatal(err)
		}
		m, err := one.Request(subject, encode(map[string]any{"stream_name": k.Stream, "config": s.put(set), "action": "update"}), patient)
		if err != nil {
			t.Fatal(err)
		}
		return string(m.Data)
	}
	filter := map[string]json.RawMessage{"filter_subject": json.RawMessage(`"orders.secret"`), "filter_subjects": nil}
	if said := ask("$JS.API.CONSUMER.CREATE.ORDERS.w0.orders.w0", w0, filter); !strings.Contains(said, `"error"`) {
		t.Errorf("another filter than the one in the subject: %s", said)
	}
	if said := ask("$JS.API.CONSUMER.CREATE.ORDERS.w0.orders.w0", w0, map[string]json.RawMessage{"description": json.RawMessage(`"mine"`)}); strings.Contains(said, `"error"`) {
		t.Errorf("another setting: %s", said)
	}
	if said := ask("$JS.API.CONSUMER.CREATE.ORDERS.many", many, filter); strings.Contains(said, `"error"`) || serverConfig(t, nc, many)["filter_subject"] != "orders.secret" {
		t.Errorf("nats-server holds a consumer with several filters to them: say so in docs/nats-permissions.md; %s", said)
	}
}

func TestConsumerSettingsOnACluster(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cl := natstest.Cluster(t, 3)
	nc := cl.App(t)
	stream := ordersStream(t, nc, 3)
	cfg := rich("w0")
	cfg.MaxDeliver = -1 // the crowd below publishes to it
	k := addConsumer(t, stream, cfg)
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: cl.App(t), Ledger: ledger})
	before := serverConfig(t, nc, k)

	change := func(p traffic.ConsumerPatch) traffic.ConsumerChange {
		t.Helper()
		return mustChange(t, c, consumerEdit(t, c, k, p))
	}
	// Each server in turn leads the consumer, so each shows that it has the change.
	stepDown := func() {
		t.Helper()
		wait.For(t, patient, "the leader to step down", func() bool {
			_, err := nc.Request("$JS.API.CONSUMER.LEADER.STEPDOWN.ORDERS.w0", nil, 5*time.Second)
			return err == nil
		})
		serverConfig(t, nc, k) // waits for the new leader
	}
	var first traffic.ConsumerChange
	for n := 100; n < 104; n++ {
		ch := change(traffic.ConsumerPatch{MaxAckPending: of(n)})
		if n == 100 {
			first = ch
		}
		stepDown()
		after := serverConfig(t, nc, k)
		if after["max_ack_pending"] != float64(n) {
			t.Errorf("max_ack_pending %v at the new leader, want %d", after["max_ack_pending"], n)
		}
		if b, a := asJSON(t, without(before, "max_ack_pending")), asJSON(t, without(after, "max_ack_pending")); a != b {
			t.Errorf("more than the named settings changed:\n%s\n%s", b, a)
		}
	}
	if first, _ = c.consumerChange(first.ID); first.Phase != traffic.Replaced {
		t.Errorf("the first change is %s", first.Phase)
	}
	until := time.Now().Add(time.Hour)
	paused := change(traffic.ConsumerPatch{PauseUntil: &until})
	stepDown()
	if s := settings(t, c, k); !s.PausedUntil.Equal(until) {
		t.Errorf("paused until %v at the new leader, want %v", s.PausedUntil, until)
	}
	mustRollBack(t, c, paused.ID)
	if b, a := asJSON(t, without(before, "max_ack_pending")), asJSON(t, without(serverConfig(t, nc, k), "max_ack_pending")); a != b {
		t.Errorf("rolled back, it differs:\n%s\n%s", b, a)
	}

	// Without a quorum nothing is changed and nothing hangs; afterwards it is known
	// what became of it.
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(200)})
	keep := cl.MetaLeader()
	for i := range cl.Len() {
		if i != keep {
			cl.Kill(i)
		}
	}
	lost, err := c.ApplyConsumer(ctx, e)
	if kind := fleet.KindOf(err); err == nil || kind != fleet.Unavailable && kind != fleet.Unknown {
		t.Errorf("ApplyConsumer without a quorum = %v", err)
	}
	for i := range cl.Len() {
		if i != keep {
			cl.Restart(i)
		}
	}
	cl.WaitReady()
	serverConfig(t, nc, k)
	if lost.ID != "" {
		wait.For(t, 3*time.Minute, "it to be known what became of the change", func() bool {
			lost, _ = c.consumerChange(lost.ID)
			return lost.Phase == traffic.Baking || lost.Phase == traffic.Rejected
		})
		want := 103.0
		if lost.Phase == traffic.Baking {
			want = 200
		}
		wait.For(t, patient, "the leader to tell the same", func() bool { return serverConfig(t, nc, k)["max_ack_pending"] == want })
	}
	checkConsumerReplay(t, c, ledger)
}
