package tuner

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/collector"
	"ballast/fleet"
	"ballast/internal/natstest"
)

// ownersKeys are the limits that an owner can write into the metadata of a
// stream or consumer.
var ownersKeys = []string{
	"lag-critical", "seen-critical", "min-sources", "max-sources", "peer-expect", "peer-lag-critical", "peer-seen-critical",
	"msgs-warn", "msgs-critical", "subjects-warn", "subjects-critical",
	"outstanding-ack-critical", "waiting-critical", "unprocessed-critical", "last-delivery-critical", "last-ack-critical",
	"redelivery-critical", "pinned",
}

// ownersShown is which of them were seen to be passed and kept again.
var ownersShown = coverage{by: map[string]string{}}

func owner(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m["io.nats.monitor."+pairs[i]] = pairs[i+1]
	}
	return m
}

func testOwnersStreams(t *testing.T) {
	b := newBench(t, Limits{})
	subjects := func(name string) func() {
		return func() {
			for i := range 8 {
				b.publish(fmt.Sprintf("%s.%d", name, i), 1, 10)
			}
		}
	}
	empty := func(name string) func() {
		return func() {
			s, err := b.js.Stream(b.ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			b.purge(s)
		}
	}
	make := func(cfg jetstream.StreamConfig) func() {
		return func() {
			if cfg.Sources != nil {
				cfg.Subjects = []string{"own." + cfg.Name}
			}
			b.stream(cfg)
		}
	}
	from := func(names ...string) (out []*jetstream.StreamSource) {
		for _, n := range names {
			out = append(out, &jetstream.StreamSource{Name: n})
		}
		return out
	}
	many := func(name string) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: name, Subjects: []string{name + ".*"}, MaxAge: time.Hour}
	}
	b.stream(jetstream.StreamConfig{Name: "ORIGIN", MaxAge: time.Hour})
	b.stream(jetstream.StreamConfig{Name: "ORIGIN2", MaxAge: time.Hour})
	b.publish("ORIGIN", 100, 10)

	with := func(cfg jetstream.StreamConfig, pairs ...string) jetstream.StreamConfig {
		cfg.Metadata = owner(pairs...)
		return cfg
	}
	sourced := func(name string, sources ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: name, Sources: from(sources...), MaxAge: time.Hour}
	}
	narrow := sourced("LAG", "ORIGIN")
	narrow.MaxMsgs, narrow.Discard = 5, jetstream.DiscardNew
	wide := sourced("LAG", "ORIGIN")
	wide.MaxMsgs, wide.Discard = 1000, jetstream.DiscardNew
	cases := []struct {
		key, stream string
		cfg         jetstream.StreamConfig
		bad, good   func()
	}{
		{"peer-expect", "PEERS", with(many("PEERS"), "peer-expect", "3"), nil, make(with(many("PEERS"), "peer-expect", "1"))},
		{"msgs-critical", "MSGSC", with(many("MSGSC"), "msgs-critical", "5"), nil, subjects("MSGSC")},
		{"msgs-warn", "MSGSW", with(many("MSGSW"), "msgs-warn", "5", "msgs-critical", "50"), subjects("MSGSW"), empty("MSGSW")},
		{"subjects-critical", "SUBJC", with(many("SUBJC"), "subjects-critical", "5"), subjects("SUBJC"), empty("SUBJC")},
		{"subjects-warn", "SUBJW", with(many("SUBJW"), "subjects-warn", "5", "subjects-critical", "50"), subjects("SUBJW"), empty("SUBJW")},
		{"min-sources", "MINS", with(sourced("MINS", "ORIGIN"), "min-sources", "2"), nil, make(with(sourced("MINS", "ORIGIN", "ORIGIN2"), "min-sources", "2"))},
		{"max-sources", "MAXS", with(sourced("MAXS", "ORIGIN", "ORIGIN2"), "max-sources", "1"), nil, make(with(sourced("MAXS", "ORIGIN"), "max-sources", "1"))},
		{"lag-critical", "LAG", with(narrow, "lag-critical", "50"), nil, make(with(wide, "lag-critical", "50"))},
		{"seen-critical", "SEEN", with(sourced("SEEN", "LATER"), "seen-critical", "6s"), nil, make(jetstream.StreamConfig{Name: "LATER", MaxAge: time.Hour})},
	}
	for _, c := range cases {
		make(c.cfg)()
		if c.bad != nil {
			c.bad()
		}
	}
	for _, c := range cases {
		f := b.fires("STR008", "APP/"+c.stream)
		if !strings.Contains(f.Text, c.key) {
			t.Errorf("%s: it says %q", c.key, f.Text)
		}
		if warn := strings.HasSuffix(c.key, "-warn"); warn != (f.Severity == fleet.Warning) {
			t.Errorf("%s is %s", c.key, f.Severity)
		}
	}
	for _, c := range cases {
		c.good()
	}
	for _, c := range cases {
		b.clears("STR008", "APP/"+c.stream)
		ownersShown.note(c.key, t.Name())
	}
}

func testOwnersConsumers(t *testing.T) {
	b := newBench(t, Limits{})
	stream := b.stream(jetstream.StreamConfig{Name: "WORK", MaxAge: time.Hour, Subjects: []string{"work.*"}})
	fires := func(consumer, key string) {
		t.Helper()
		if f := b.fires("CON009", "APP/WORK/"+consumer); !strings.Contains(f.Text, key) {
			t.Errorf("%s: it says %q", key, f.Text)
		}
	}
	clears := func(consumer, key string, do func()) {
		t.Helper()
		b.clearsWhile("CON009", "APP/WORK/"+consumer, do)
		ownersShown.note(key, t.Name())
	}
	nothing := func() {}
	add := func(name, key, value string) jetstream.Consumer {
		return b.consumer("WORK", jetstream.ConsumerConfig{Durable: name, FilterSubject: "work." + name, AckWait: 10 * time.Minute, Metadata: owner(key, value)})
	}
	// All begin at once, so that what needs time takes it together.
	full := add("full", "outstanding-ack-critical", "8")
	asked := add("asked", "waiting-critical", "1")
	add("behind", "unprocessed-critical", "5")
	again := add("again", "redelivery-critical", "5")
	quiet := add("quiet", "last-delivery-critical", "3s")
	unacked := add("unacked", "last-ack-critical", "3s")
	pinned := b.consumer("WORK", jetstream.ConsumerConfig{Durable: "pinned", FilterSubject: "work.pinned", Metadata: owner("pinned", "true"),
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"g"}})

	b.publish("work.full", 10, 10)
	held := b.fetch(full, 10)
	fires("full", "outstanding-ack-critical")
	ack(t, held)
	clears("full", "outstanding-ack-critical", nothing)

	cc, err := asked.Consume(func(jetstream.Msg) {}, jetstream.PullExpiry(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	fires("asked", "waiting-critical")
	cc.Stop()
	clears("asked", "waiting-critical", nothing)

	b.publish("work.behind", 8, 10)
	fires("behind", "unprocessed-critical")
	if err := stream.Purge(b.ctx, jetstream.WithPurgeSubject("work.behind")); err != nil {
		t.Fatal(err)
	}
	clears("behind", "unprocessed-critical", nothing)

	b.publish("work.again", 8, 10)
	for _, m := range b.fetch(again, 8) {
		if err := m.Nak(); err != nil {
			t.Fatal(err)
		}
	}
	held = b.fetch(again, 8)
	fires("again", "redelivery-critical")
	ack(t, held)
	clears("again", "redelivery-critical", nothing)

	work := func(name string, c jetstream.Consumer) func() {
		return func() {
			b.publish("work."+name, 1, 10)
			ack(t, b.fetch(c, 1))
			b.rounds(1)
		}
	}
	fires("quiet", "last-delivery-critical")
	clears("quiet", "last-delivery-critical", work("quiet", quiet))
	fires("unacked", "last-ack-critical")
	clears("unacked", "last-ack-critical", work("unacked", unacked))

	fires("pinned", "pinned")
	only, err := pinned.Consume(func(m jetstream.Msg) { _ = m.Ack() }, jetstream.PullPriorityGroup("g"))
	if err != nil {
		t.Fatal(err)
	}
	defer only.Stop()
	clears("pinned", "pinned", func() { b.publish("work.pinned", 1, 10); b.rounds(1) })
}

// testQueueGroups has a member whose permissions deny what its group is sent,
// and one that an earlier start left behind.
func testQueueGroups(t *testing.T) {
	srv := natstest.Server(t, named("one"), natstest.Config(`
accounts {
  APP { users: [
    { user: app, password: app }
    { user: half, password: half, permissions: { subscribe: { allow: ["jobs.>", "_INBOX.>"], deny: ["jobs.a"] } } }
  ] }
}
`))
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(srv)}})
	member := func(user, subject, queue string) *nats.Conn {
		nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(user, user), nats.Name("member of "+user))
		if _, err := nc.QueueSubscribe(subject, queue, func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return nc
	}
	pub := member("app", "jobs.>", "crew")
	member("app", "jobs.>", "crew")
	without := member("half", "jobs.>", "crew")
	publish := func() {
		for range 20 {
			if err := pub.Publish("jobs.a", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if f := r.firesWhile("QUE001", "APP/jobs.> crew", publish); !strings.Contains(f.Text, "member of half") {
		t.Errorf("it does not name the member: %s", f.Text)
	}
	without.Close()
	r.clearsWhile("QUE001", "APP/jobs.> crew", publish)

	now := time.Now().Unix()
	old := member("app", "orders", fmt.Sprintf("pool.%d.1", now-3600))
	member("app", "orders", fmt.Sprintf("pool.%d.2", now))
	r.fires("QUE001", "APP/orders pool")
	old.Close()
	r.clears("QUE001", "APP/orders pool")
}

// testForgedSamples has a client that sends what looks like the servers' samples.
func testForgedSamples(t *testing.T) {
	srv := natstest.Server(t, named("one"), natstest.Accounts())
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WORK", MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "WORK", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, SampleFrequency: "100"}); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(srv)}, Conn: nc, AckEvery: lookEvery,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	r.firesWhile("CON011", "APP/WORK/c", func() {
		if err := nc.Publish("$JS.EVENT.METRIC.CONSUMER.ACK.WORK.c", []byte(`{"type":"io.nats.jetstream.metric.v1.consumer_ack","id":"x","stream":"WORK","consumer":"c","consumer_seq":1,"stream_seq":1,"ack_time":9000000000000,"deliveries":1}`)); err != nil {
			t.Fatal(err)
		}
	})
	// The mark stays for five minutes after the last of them was looked at.
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	r.clearsWhile("CON011", "APP/WORK/c", func() {
		r.rounds(1)
		ahead.Add(int64(time.Minute))
	})
}
