package control

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/traffic"
)

// tell sends a configuration as it is and returns the server's code of refusal, 0
// when it took it.
func tell(tb testing.TB, nc *nats.Conn, k fleet.ConsumerKey, set map[string]json.RawMessage) (code int, why string) {
	tb.Helper()
	c := New(Config{Conn: nc, Observer: script(nil)})
	s, err := c.consumer(context.Background(), k)
	if err != nil {
		tb.Fatal(err)
	}
	subject, body := s.ask(k, set)
	m, err := nc.Request(subject, body, patient)
	if err != nil {
		tb.Fatal(err)
	}
	var a struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		tb.Fatal(err)
	}
	if a.Error == nil {
		return 0, ""
	}
	return int(a.Error.ErrorCode), a.Error.Description
}

const flowControl = `{"stream_name":"ORDERS","config":{"durable_name":"fc","name":"fc","deliver_subject":"fc.here","ack_policy":"flow_control","deliver_policy":"all",
	"replay_policy":"instant","flow_control":true,"idle_heartbeat":1000000000,"max_ack_pending":100,"filter_subject":"orders.fc"},"action":"create"}`

// Each refusal that is known beforehand is held against what the server says to
// the same request: it refuses by itself, or it takes the value and makes
// something else of it.
func TestConsumerRefusalsAreTheServersOwn(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	ctx := context.Background()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"},
		ConsumerLimits: jetstream.StreamConsumerLimits{MaxAckPending: 500}})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := console(t, Config{Conn: nc})
	mk := func(name string, f func(*jetstream.ConsumerConfig)) fleet.ConsumerKey {
		cfg := jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders." + name, MaxDeliver: 5, MaxAckPending: 50}
		f(&cfg)
		if cfg.DeliverSubject == "" {
			return addConsumer(t, stream, cfg)
		}
		if _, err := stream.CreatePushConsumer(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		return fleet.ConsumerKey{Stream: "ORDERS", Consumer: name}
	}
	plain := mk("plain", func(*jetstream.ConsumerConfig) {})
	backoff := mk("backoff", func(cfg *jetstream.ConsumerConfig) {
		cfg.BackOff = []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}
	})
	push := mk("push", func(cfg *jetstream.ConsumerConfig) { cfg.DeliverSubject = "deliver.push" })
	pushNone := mk("pushnone", func(cfg *jetstream.ConsumerConfig) {
		cfg.DeliverSubject, cfg.AckPolicy, cfg.MaxAckPending = "deliver.none", jetstream.AckNonePolicy, -1
	})
	pullNone := mk("pullnone", func(cfg *jetstream.ConsumerConfig) { cfg.AckPolicy = jetstream.AckNonePolicy })
	overflow := mk("overflow", func(cfg *jetstream.ConsumerConfig) {
		cfg.PriorityPolicy, cfg.PriorityGroups = jetstream.PriorityPolicyOverflow, []string{"a"}
	})
	pinned := mk("pinned", func(cfg *jetstream.ConsumerConfig) {
		cfg.PriorityPolicy, cfg.PriorityGroups, cfg.PinnedTTL = jetstream.PriorityPolicyPinned, []string{"a"}, time.Minute
	})
	m, err := nc.Request("$JS.API.CONSUMER.CREATE.ORDERS.fc.orders.fc", []byte(flowControl), patient)
	if err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Fatalf("create a consumer with flow control: %v %s", err, m.Data)
	}
	fc := fleet.ConsumerKey{Stream: "ORDERS", Consumer: "fc"}

	const anyRefusal = -1
	type patch = traffic.ConsumerPatch
	for _, tc := range []struct {
		name  string
		k     fleet.ConsumerKey
		patch patch
		field string
		code  int    // that the server refuses it with; 0: it takes it
		makes string // of what it takes: what it then shows
		raw   map[string]json.RawMessage
	}{
		{name: "negative ack_wait", k: plain, patch: patch{AckWait: of(-time.Second)}, field: "ack_wait", code: anyRefusal},
		{name: "no ack_wait", k: plain, patch: patch{AckWait: of(time.Duration(0))}, field: "ack_wait", makes: "ack_wait 30s"},
		{name: "negative step", k: plain, patch: patch{BackOff: of([]time.Duration{time.Second, -1})}, field: "backoff", code: anyRefusal},
		{name: "more steps than deliveries", k: plain, patch: patch{BackOff: of(slices.Repeat([]time.Duration{time.Second}, 6))}, field: "backoff", code: 10116},
		{name: "fewer deliveries than steps", k: backoff, patch: patch{MaxDeliver: of(2)}, field: "max_deliver", code: 10116},
		{name: "ack_wait beside a backoff", k: backoff, patch: patch{AckWait: of(9 * time.Second)}, field: "ack_wait", makes: "ack_wait 1s"},
		{name: "no deliveries", k: plain, patch: patch{MaxDeliver: of(0)}, field: "max_deliver", makes: "max_deliver no limit"},
		{name: "odd number of deliveries", k: plain, patch: patch{MaxDeliver: of(-7)}, field: "max_deliver", makes: "max_deliver no limit"},
		{name: "beyond the stream's limit", k: plain, patch: patch{MaxAckPending: of(501)}, field: "max_ack_pending", code: anyRefusal},
		{name: "nothing pending", k: plain, patch: patch{MaxAckPending: of(0)}, field: "max_ack_pending", makes: "max_ack_pending 500"},
		{name: "odd limit", k: plain, patch: patch{MaxAckPending: of(-7)}, field: "max_ack_pending", makes: "max_ack_pending no limit"},
		{name: "limit of a push consumer without acknowledgements", k: pushNone, patch: patch{MaxAckPending: of(9)}, field: "max_ack_pending", code: anyRefusal},
		{name: "limit of a pull consumer without acknowledgements", k: pullNone, patch: patch{MaxAckPending: of(9)}, field: "max_ack_pending", makes: "max_ack_pending 9"},
		{name: "wait of a consumer without acknowledgements", k: pullNone, patch: patch{AckWait: of(time.Second)}, field: "ack_wait", makes: "ack_wait 1s"},
		{name: "wait under flow control", k: fc, patch: patch{AckWait: of(time.Second)}, field: "ack_wait", code: anyRefusal},
		{name: "deliveries under flow control", k: fc, patch: patch{MaxDeliver: of(3)}, field: "max_deliver", code: anyRefusal},
		{name: "no limit under flow control", k: fc, patch: patch{MaxAckPending: of(-1)}, field: "max_ack_pending", code: anyRefusal},
		{name: "groups of a push consumer", k: push, patch: patch{PriorityPolicy: of(traffic.PriorityOverflow), PriorityGroups: of([]string{"a"})}, field: "priority_policy", code: 10178},
		{name: "policy without groups", k: plain, patch: patch{PriorityPolicy: of(traffic.PriorityOverflow)}, field: "priority_groups", code: anyRefusal},
		{name: "groups without policy", k: plain, patch: patch{PriorityGroups: of([]string{"a"})}, field: "priority_groups", code: anyRefusal},
		{name: "policy taken from its groups", k: overflow, patch: patch{PriorityPolicy: of(traffic.PriorityNone)}, field: "priority_groups", code: anyRefusal},
		{name: "long group", k: overflow, patch: patch{PriorityGroups: of([]string{strings.Repeat("g", 17)})}, field: "priority_groups", code: 10162},
		{name: "spelling of a group", k: overflow, patch: patch{PriorityGroups: of([]string{"a.b"})}, field: "priority_groups", code: 10162},
		{name: "empty group", k: overflow, patch: patch{PriorityGroups: of([]string{""})}, field: "priority_groups", code: anyRefusal},
		{name: "unknown policy", k: overflow, patch: patch{PriorityPolicy: of(traffic.PriorityPolicy("fastest"))}, field: "priority_policy", code: anyRefusal},
		{name: "timeout without policy", k: plain, patch: patch{PriorityTimeout: of(time.Second)}, field: "priority_timeout", code: anyRefusal},
		{name: "timeout of overflow", k: overflow, patch: patch{PriorityTimeout: of(time.Second)}, field: "priority_timeout", makes: "priority_timeout 1s"},
		{name: "no timeout of pinned", k: pinned, patch: patch{PriorityTimeout: of(time.Duration(0))}, field: "priority_timeout", makes: "priority_timeout 2m0s"},
		{name: "negative timeout", k: pinned, patch: patch{PriorityTimeout: of(-time.Second)}, field: "priority_timeout", makes: "priority_timeout 2m0s",
			raw: map[string]json.RawMessage{"priority_timeout": json.RawMessage("-1000000000")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := consumerEdit(t, c, tc.k, tc.patch)
			e.Migrate = true
			_, err := c.PlanConsumer(ctx, e)
			if got := wantKind(t, err, fleet.Invalid); got.Fields[tc.field] == "" {
				t.Errorf("refused without a word at %s: %v", tc.field, got.Fields)
			}
			s, err := c.consumer(ctx, tc.k)
			if err != nil {
				t.Fatal(err)
			}
			before := maps.Clone(s.config)
			set := tc.raw
			if set == nil {
				set = patchFields(tc.patch, s)
			}
			code, why := tell(t, nc, tc.k, set)
			switch {
			case tc.code == anyRefusal && code == 0, tc.code > 0 && code != tc.code, tc.code == 0 && code != 0:
				t.Errorf("the server says %d %s, want %d", code, why, tc.code)
			}
			if s, err = c.consumer(ctx, tc.k); err != nil {
				t.Fatal(err)
			}
			if tc.code != 0 {
				if d := differs(before, s.config); len(d) > 0 {
					t.Errorf("refused, and %v changed", d)
				}
				return
			}
			field, _, _ := strings.Cut(tc.makes, " ")
			if got := valuesOf(s, []string{field}); got != tc.makes {
				t.Errorf("the server makes %s of it, want %s", got, tc.makes)
			}
			back := map[string]json.RawMessage{}
			for f := range set {
				back[f] = before[f]
			}
			if code, why := tell(t, nc, tc.k, back); code != 0 {
				t.Fatalf("put back: %d %s", code, why)
			}
		})
	}
}

// What stands in the list of fixed settings, the server refuses to change.
func TestFixedSettingsAreRefusedByTheServer(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	stream := ordersStream(t, nc, 1)
	c, _ := console(t, Config{Conn: nc})
	pull := addConsumer(t, stream, rich("pull"))
	if _, err := stream.CreatePushConsumer(context.Background(), jetstream.ConsumerConfig{Durable: "push", DeliverSubject: "deliver.here",
		AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "orders.push", IdleHeartbeat: 5 * time.Second, FlowControl: true}); err != nil {
		t.Fatal(err)
	}
	other := map[string]string{
		"ack_policy": `"all"`, "deliver_policy": `"new"`, "opt_start_seq": `7`, "opt_start_time": `"2026-01-01T00:00:00Z"`, "replay_policy": `"original"`,
		"mem_storage": `true`, "max_waiting": `99`, "deliver_subject": `"deliver.there"`, "idle_heartbeat": `7000000000`, "flow_control": `false`,
	}
	shown := map[string]string{}
	for _, k := range []fleet.ConsumerKey{pull, {Stream: "ORDERS", Consumer: "push"}} {
		for _, f := range settings(t, c, k).Fixed {
			shown[f.Name] = f.Value
			set := map[string]json.RawMessage{f.Name: json.RawMessage(other[f.Name])}
			if f.Name == "deliver_subject" {
				set["max_waiting"] = nil // which only a pull consumer may have: it would be refused for that
			}
			if code, why := tell(t, nc, k, set); code == 0 {
				t.Errorf("%s: the server takes another %s", k.Consumer, f.Name)
			} else if !strings.Contains(why, "update") && f.Name[:4] != "opt_" {
				t.Errorf("%s: another %s is refused for another reason: %s", k.Consumer, f.Name, why)
			}
			if !strings.HasSuffix(f.Why, ".") || !strings.Contains(f.Why, "Create another consumer") {
				t.Errorf("%s does not say what to do: %s", f.Name, f.Why)
			}
		}
	}
	if len(shown) != len(other) {
		t.Errorf("%d settings are shown as fixed, want %d", len(shown), len(other))
	}
	for name, want := range map[string]string{"ack_policy": "explicit", "max_waiting": "512", "idle_heartbeat": "5s", "flow_control": "true", "opt_start_seq": "none", "mem_storage": "false"} {
		if shown[name] != want {
			t.Errorf("%s is shown as %q, want %q", name, shown[name], want)
		}
	}
}

// "No limit" gets past the stream's limit, which is a surprise, so it is said.
func TestConsumerNoLimitGetsPastTheStreamsLimit(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"},
		ConsumerLimits: jetstream.StreamConsumerLimits{MaxAckPending: 500}})
	if err != nil {
		t.Fatal(err)
	}
	k := addConsumer(t, stream, rich("w0"))
	c, _ := console(t, Config{Conn: nc})
	if s := settings(t, c, k); s.Limit != 500 || s.LimitedBy != "stream" {
		t.Errorf("limit %d by %q", s.Limit, s.LimitedBy)
	}
	e := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(-1)})
	plan, err := c.PlanConsumer(context.Background(), e)
	if err != nil || !strings.Contains(strings.Join(plan.Warn, "\n"), "is not held against") {
		t.Errorf("warnings %q, %v", plan.Warn, err)
	}
	mustChange(t, c, e)
}

// An account's limit is found, too; a server's own shows in its refusal alone.
func TestConsumerLimitsOfAccountAndServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Config(`
jetstream { store_dir: `+asJSON(t, t.TempDir())+`, limits { max_ack_pending: 300 } }
accounts { APP { jetstream { max_ack_pending: 400 }, users: [ { user: "app", password: "a" } ] } }`))
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo("app", "a"))
	cfg := rich("w0")
	k := addConsumer(t, ordersStream(t, nc, 1), cfg)
	c, _ := console(t, Config{Conn: nc})
	_, err := c.PlanConsumer(context.Background(), consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(401)}))
	if e := wantKind(t, err, fleet.Invalid); !strings.Contains(e.Fields["max_ack_pending"], "account allows 400") {
		t.Errorf("refused with %v", e.Fields)
	}
	before := serverConfig(t, nc, k)
	ch, err := c.ApplyConsumer(context.Background(), consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(350)}))
	if e := wantKind(t, err, fleet.Invalid); !strings.Contains(e.Msg, "max ack") || ch.Phase != traffic.Rejected {
		t.Errorf("%q, change %s", e.Msg, ch.Phase)
	}
	if a, b := asJSON(t, serverConfig(t, nc, k)), asJSON(t, before); a != b {
		t.Errorf("refused, and it changed:\n%s\n%s", b, a)
	}
}

func TestConsumerEditRefused(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	k := addConsumer(t, ordersStream(t, nc, 1), rich("w0"))
	ledger := &memLedger{}
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	good := consumerEdit(t, c, k, traffic.ConsumerPatch{MaxAckPending: of(10)})
	with := func(f func(*traffic.ConsumerEdit)) traffic.ConsumerEdit { e := good; f(&e); return e }
	for name, tc := range map[string]struct {
		e     traffic.ConsumerEdit
		kind  fleet.ErrorKind
		field string
	}{
		"nobody":            {with(func(e *traffic.ConsumerEdit) { e.Actor = " " }), fleet.Invalid, "actor"},
		"unprintable":       {with(func(e *traffic.ConsumerEdit) { e.Reason = "a\x1bb" }), fleet.Invalid, "reason"},
		"long watch":        {with(func(e *traffic.ConsumerEdit) { e.Hold = 25 * time.Hour }), fleet.Invalid, "hold"},
		"nothing":           {with(func(e *traffic.ConsumerEdit) { e.Patch = traffic.ConsumerPatch{} }), fleet.Invalid, ""},
		"same value":        {with(func(e *traffic.ConsumerEdit) { e.Patch = traffic.ConsumerPatch{MaxAckPending: of(77)} }), fleet.Invalid, ""},
		"stream's name":     {with(func(e *traffic.ConsumerEdit) { e.Consumer.Stream = "A.B" }), fleet.Invalid, "stream"},
		"consumer's name":   {with(func(e *traffic.ConsumerEdit) { e.Consumer.Consumer = "a>" }), fleet.Invalid, "consumer"},
		"no such consumer":  {with(func(e *traffic.ConsumerEdit) { e.Consumer.Consumer = "nope" }), fleet.NotFound, ""},
		"another account":   {with(func(e *traffic.ConsumerEdit) { e.Consumer.Account = "OTHER" }), fleet.Forbidden, ""},
		"pause among other": {with(func(e *traffic.ConsumerEdit) { e.Patch.PauseUntil = of(time.Now().Add(time.Hour)) }), fleet.Invalid, "pause_until"},
		"pause in the past": {with(func(e *traffic.ConsumerEdit) {
			e.Patch = traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(-time.Second))}
		}), fleet.Invalid, "pause_until"},
		"pause for ever": {with(func(e *traffic.ConsumerEdit) {
			e.Patch = traffic.ConsumerPatch{PauseUntil: of(time.Date(20270, 1, 1, 0, 0, 0, 0, time.UTC))}
		}), fleet.Invalid, "pause_until"},
		"resume of what runs": {with(func(e *traffic.ConsumerEdit) { e.Patch = traffic.ConsumerPatch{PauseUntil: new(time.Time)} }), fleet.Invalid, "pause_until"},
		"a group twice": {with(func(e *traffic.ConsumerEdit) {
			e.Patch = traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityOverflow), PriorityGroups: of([]string{"a", "a"})}
		}), fleet.Invalid, "priority_groups"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, try := range []func() error{
				func() error { _, err := c.PlanConsumer(context.Background(), tc.e); return err },
				func() error { _, err := c.ApplyConsumer(context.Background(), tc.e); return err },
			} {
				if got := wantKind(t, try(), tc.kind); tc.field != "" && got.Fields[tc.field] == "" {
					t.Errorf("refused without a word at %s: %v", tc.field, got.Fields)
				}
			}
		})
	}
	if len(ledger.entries) != 0 {
		t.Errorf("the journal has %d entries", len(ledger.entries))
	}
	off := New(Config{Observer: script(nil)})
	_, err := off.ConsumerSettings(context.Background(), k)
	wantKind(t, err, fleet.Unavailable)
}

// What a server before 2.11, or before 2.12, cannot do is said beforehand. Such a
// server does not run here, so its answer is made.
func TestConsumerSettingsOfOlderServers(t *testing.T) {
	t.Parallel()
	at := func(level string) consumerState {
		s := consumerState{born: time.Now(), config: map[string]json.RawMessage{"ack_policy": json.RawMessage(`"explicit"`)}}
		if level != "" {
			s.config["metadata"] = encode(map[string]string{"_nats.level": level})
		}
		return s
	}
	for _, tc := range []struct {
		level string
		patch traffic.ConsumerPatch
		field string
	}{
		{"", traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour))}, "pause_until"},
		{"1", traffic.ConsumerPatch{PauseUntil: of(time.Now().Add(time.Hour))}, ""},
		{"", traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityOverflow), PriorityGroups: of([]string{"a"})}, "priority_policy"},
		{"1", traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityOverflow), PriorityGroups: of([]string{"a"})}, ""},
		{"1", traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityPrioritized), PriorityGroups: of([]string{"a"})}, "priority_policy"},
		{"2", traffic.ConsumerPatch{PriorityPolicy: of(traffic.PriorityPrioritized), PriorityGroups: of([]string{"a"})}, ""},
	} {
		s := at(tc.level)
		d := consumerDraft{before: s, settings: settingsOf(fleet.ConsumerKey{}, s), set: patchFields(tc.patch, s)}
		fields := refusals(d, traffic.ConsumerEdit{Patch: tc.patch, Migrate: true}, time.Now())
		if tc.field == "" && len(fields) > 0 || tc.field != "" && !strings.Contains(fields[tc.field], "nats-server 2.1") {
			t.Errorf("level %q: refused with %v, want a word at %q", tc.level, fields, tc.field)
		}
	}
}
