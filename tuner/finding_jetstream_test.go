package tuner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"ballast/collector"
	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// bench is a real server with JetStream, an account's connection, and the rig.
type bench struct {
	*rig
	js  jetstream.JetStream
	ctx context.Context
}

func newBench(t *testing.T, limits Limits, opts ...natstest.Option) *bench {
	t.Helper()
	srv := natstest.Server(t, append([]natstest.Option{named("one"), natstest.Accounts()}, opts...)...)
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	b := &bench{ctx: t.Context()}
	var err error
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	b.rig = newRig(t, FindingsConfig{Limits: limits}, collector.Config{Monitor: []string{natstest.MonitorURL(srv)}, Conn: nc, AckEvery: lookEvery})
	return b
}

func (b *bench) stream(cfg jetstream.StreamConfig) jetstream.Stream {
	b.t.Helper()
	if cfg.Subjects == nil {
		cfg.Subjects = []string{cfg.Name}
	}
	s, err := b.js.CreateOrUpdateStream(b.ctx, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) consumer(stream string, cfg jetstream.ConsumerConfig) jetstream.Consumer {
	b.t.Helper()
	cfg.AckPolicy = jetstream.AckExplicitPolicy
	c, err := b.js.CreateOrUpdateConsumer(b.ctx, stream, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) publish(subject string, n, size int) {
	b.t.Helper()
	for range n {
		if _, err := b.js.Publish(b.ctx, subject, make([]byte, size)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) purge(s jetstream.Stream) {
	b.t.Helper()
	if err := s.Purge(b.ctx); err != nil {
		b.t.Fatal(err)
	}
}

// fetch takes n messages and does not acknowledge them.
func (b *bench) fetch(c jetstream.Consumer, n int) []jetstream.Msg {
	b.t.Helper()
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(10*time.Second))
	if err != nil {
		b.t.Fatal(err)
	}
	var out []jetstream.Msg
	for m := range batch.Messages() {
		out = append(out, m)
	}
	if len(out) != n {
		b.t.Fatalf("fetched %d of %d: %v", len(out), n, batch.Error())
	}
	return out
}

func ack(t *testing.T, msgs []jetstream.Msg) {
	t.Helper()
	for _, m := range msgs {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func testStorage(t *testing.T) {
	b := newBench(t, Limits{}, natstest.Tweak(func(o *server.Options) { o.JetStreamMaxStore, o.JetStreamMaxMemory = 4<<20, 4<<20 }))

	disk := b.stream(jetstream.StreamConfig{Name: "DISK", MaxAge: time.Hour})
	memory := b.stream(jetstream.StreamConfig{Name: "MEMORY", MaxAge: time.Hour, Storage: jetstream.MemoryStorage})
	b.publish("DISK", 15, 256<<10)
	b.publish("MEMORY", 15, 256<<10)
	b.fires("JS003", "one")
	b.fires("JS004", "one")
	b.purge(disk)
	b.purge(memory)
	b.clears("JS003", "one")
	b.clears("JS004", "one")

	for range 40 {
		if _, err := b.js.Stream(b.ctx, "NOSUCH"); err == nil {
			t.Fatal("a stream that was never made was found")
		}
	}
	b.fires("JS005", "one")
	b.clears("JS005", "one")
}

func testStreams(t *testing.T) {
	b := newBench(t, Limits{})

	bytes := b.stream(jetstream.StreamConfig{Name: "BYTES", MaxBytes: 1 << 20, Discard: jetstream.DiscardNew})
	b.publish("BYTES", 15, 64<<10)
	msgs := b.stream(jetstream.StreamConfig{Name: "MSGS", MaxMsgs: 10, Discard: jetstream.DiscardNew, Metadata: map[string]string{"io.nats.monitor.msgs-warn": "4", "io.nats.monitor.msgs-critical": "5"}})
	b.publish("MSGS", 10, 10)
	b.stream(jetstream.StreamConfig{Name: "OPEN", Retention: jetstream.LimitsPolicy})
	b.stream(jetstream.StreamConfig{Name: "QUEUE", Retention: jetstream.WorkQueuePolicy})
	b.publish("QUEUE", 3, 10)
	// A stream that rotates by its limit is full as it should be.
	b.stream(jetstream.StreamConfig{Name: "RING", MaxMsgs: 10})
	b.publish("RING", 20, 10)

	b.fires("STR004", "APP/BYTES")
	if f := b.fires("STR005", "APP/MSGS"); f.Severity != fleet.Critical {
		t.Errorf("a stream that is full is %s", f.Severity)
	}
	b.fires("STR006", "APP/OPEN")
	if f := b.fires("STR007", "APP/QUEUE"); f.Severity != fleet.Warning {
		t.Errorf("a work queue without consumers is %s", f.Severity)
	}
	b.fires("STR008", "APP/MSGS")
	if _, ok := b.find("STR005", "APP/RING"); ok {
		t.Error("a stream that rotates by its limit was found to be full")
	}

	b.purge(bytes)
	b.purge(msgs)
	b.stream(jetstream.StreamConfig{Name: "OPEN", MaxAge: time.Hour})
	b.consumer("QUEUE", jetstream.ConsumerConfig{Durable: "worker"})
	for code, name := range map[string]string{"STR004": "BYTES", "STR005": "MSGS", "STR006": "OPEN", "STR007": "QUEUE", "STR008": "MSGS"} {
		b.clears(code, "APP/"+name)
	}
}

func testConsumers(t *testing.T) {
	b := newBench(t, Limits{Lag: 20, Stuck: 500 * time.Millisecond, Samples: 20})
	b.stream(jetstream.StreamConfig{Name: "WORK", MaxAge: time.Hour, Subjects: []string{"work.*"}})
	key := func(consumer string) string { return "APP/WORK/" + consumer }

	// One that is slow to acknowledge, a fifth less than its ack_wait.
	slow := b.consumer("WORK", jetstream.ConsumerConfig{Durable: "slow", FilterSubject: "work.slow", AckWait: 2 * time.Second, SampleFrequency: "100%"})
	b.publish("work.slow", 40, 10)
	held, begun := b.fetch(slow, 40), time.Now()
	wait.For(t, patience, "time to pass", func() bool { b.look(); return time.Since(begun) > 1500*time.Millisecond })
	ack(t, held[:30])
	f := b.firesWhile("CON003", key("slow"), func() {
		if len(held) > 30 { // a few at a time: samples that came at once are one measurement
			ack(t, held[len(held)-1:])
			held = held[:len(held)-1]
		}
		b.rounds(1)
	})
	if !strings.Contains(f.Text, "% of ack_wait") {
		t.Errorf("it says %q, and not what share of ack_wait the p99 is", f.Text)
	}
	b.consumer("WORK", jetstream.ConsumerConfig{Durable: "slow", FilterSubject: "work.slow", AckWait: time.Minute, SampleFrequency: "100%"})
	b.clearsWhile("CON003", key("slow"), func() {
		b.publish("work.slow", 1, 10)
		ack(t, b.fetch(slow, 1))
		b.rounds(1)
	})
	if len(f.Evidence) == 0 || f.Evidence[0].Source != fleet.AckSample {
		t.Errorf("the evidence does not say that it was sampled: %+v", f.Evidence)
	}

	// One whose messages come back.
	again := b.consumer("WORK", jetstream.ConsumerConfig{Durable: "again", FilterSubject: "work.again", AckWait: time.Minute, MaxDeliver: 50})
	b.publish("work.again", 20, 10)
	for range 2 {
		for _, m := range b.fetch(again, 20) {
			if err := m.Nak(); err != nil {
				t.Fatal(err)
			}
		}
	}
	held = b.fetch(again, 20)
	b.fires("CON002", key("again"))
	ack(t, held)
	b.clears("CON002", key("again"))

	// One that may have no more in flight.
	full := b.consumer("WORK", jetstream.ConsumerConfig{Durable: "full", FilterSubject: "work.full", MaxAckPending: 10, AckWait: time.Minute,
		Metadata: map[string]string{"io.nats.monitor.outstanding-ack-critical": "8"}})
	b.publish("work.full", 15, 10)
	held = b.fetch(full, 10)
	b.fires("CON004", key("full"))
	b.fires("CON009", key("full"))
	ack(t, held)
	b.clears("CON004", key("full"))
	b.clears("CON009", key("full"))

	// One that falls behind, then is stuck, then paused, then works.
	late := b.consumer("WORK", jetstream.ConsumerConfig{Durable: "late", FilterSubject: "work.late"})
	b.publish("work.late", 30, 10)
	b.firesWhile("CON001", key("late"), func() { b.publish("work.late", 10, 10) })
	wait.For(t, patience, "CON001 to say when it drains", func() bool { // as soon as rates are known
		b.publish("work.late", 10, 10)
		b.look()
		f, _ := b.find("CON001", key("late"))
		return strings.Contains(f.Text, "drains")
	})
	b.fires("CON005", key("late"))
	if _, err := b.js.PauseConsumer(b.ctx, "WORK", "late", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	b.fires("CON010", key("late"))
	b.clears("CON005", key("late"))
	b.clears("CON001", key("late"))
	if _, err := b.js.ResumeConsumer(b.ctx, "WORK", "late"); err != nil {
		t.Fatal(err)
	}
	b.clears("CON010", key("late"))
	cc, err := late.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Stop()
	b.clears("CON005", key("late"))
}

func testForgotten(t *testing.T) {
	b := newBench(t, Limits{Stuck: 500 * time.Millisecond, Idle: 500 * time.Millisecond})
	b.stream(jetstream.StreamConfig{Name: "WORK", MaxAge: time.Hour})
	b.consumer("WORK", jetstream.ConsumerConfig{Durable: "idle"})
	now := time.Now().Unix()
	old, young := fmt.Sprintf("pool-%d-4711", now-3600), fmt.Sprintf("pool-%d-4712", now)
	b.consumer("WORK", jetstream.ConsumerConfig{Durable: old})
	fresh := b.consumer("WORK", jetstream.ConsumerConfig{Durable: young})
	cc, err := fresh.Consume(func(m jetstream.Msg) { _ = m.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Stop()

	b.fires("CON006", "APP/WORK/idle")
	b.fires("QUE001", "stream APP/WORK pool")
	for _, name := range []string{"idle", old} {
		if err := b.js.DeleteConsumer(b.ctx, "WORK", name); err != nil {
			t.Fatal(err)
		}
	}
	b.clears("CON006", "APP/WORK/idle")
	b.clears("QUE001", "stream APP/WORK pool")
}

func testSplits(t *testing.T) {
	b := newBench(t, Limits{ReportsLate: time.Second})
	b.stream(jetstream.StreamConfig{Name: "WORK", MaxAge: time.Hour})
	b.consumer("WORK", jetstream.ConsumerConfig{Durable: "east"})
	target := func(name string) traffic.Target {
		return traffic.Target{Name: name, Subject: "WORK", Weight: 50, State: traffic.Ready, Observe: &traffic.Observed{Stream: "WORK", Consumer: name}}
	}
	b.splits = []traffic.Revision{{V: 1, Number: 1, Split: traffic.Split{Name: "orders", Targets: []traffic.Target{target("east"), target("west")}}}}
	b.fires("SPL001", "orders/east")
	b.fires("SPL002", "orders/west")
	b.consumer("WORK", jetstream.ConsumerConfig{Durable: "east", SampleFrequency: "100%"})
	b.consumer("WORK", jetstream.ConsumerConfig{Durable: "west", SampleFrequency: "100%"})
	b.clears("SPL001", "orders/east")
	b.clears("SPL002", "orders/west")

	report := func(cpu float64) {
		if err := b.db.PutReports(b.ctx, []fleet.WorkerReport{{Split: "orders", Target: "east", Worker: "w1", At: time.Now(), Interval: 5 * time.Second, Workers: 4, Processed: 10, CPU: cpu, Cores: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	b.firesWhile("SPL004", "orders/east", func() { report(99) })
	b.clearsWhile("SPL004", "orders/east", func() { report(10) })
	b.fires("SPL003", "orders/east") // nobody reports any more
	b.clearsWhile("SPL003", "orders/east", func() { report(10) })
}

func testServices(t *testing.T) {
	srv := natstest.Server(t, named("one"), natstest.Accounts())
	nc := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	add := func(version, queue string) micro.Service {
		s, err := micro.AddService(nc, micro.Config{Name: "billing", Version: version, QueueGroup: queue, Endpoint: &micro.EndpointConfig{
			Subject: "billing",
			Handler: micro.HandlerFunc(func(r micro.Request) { _ = r.Error("500", "out of order", nil) }),
		}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	now := time.Now().Unix()
	first := add("1.0.0", fmt.Sprintf("pool.%d.1", now-100))
	second := add("1.1.0", fmt.Sprintf("pool.%d.2", now))
	// Only now: nats.go 1.55.0 answers $SRV while AddService still writes (a data race).
	b := newRig(t, FindingsConfig{}, collector.Config{Monitor: []string{natstest.MonitorURL(srv)}, Conn: nc})
	b.fires("SVC002", "billing")
	b.fires("QUE001", "APP/billing pool")
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	// A counter's first reading is where its rise begins.
	id := second.Info().ID
	wait.For(t, patience, "the instance to be seen", func() bool {
		b.look()
		return slices.ContainsFunc(b.db.Latest().Services, func(s fleet.Service) bool { return s.ID == id })
	})
	b.rounds(5)
	for range 60 {
		if _, err := nc.Request("billing", nil, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	b.fires("SVC001", "billing/"+id)
	b.clears("SVC001", "billing/"+id)
	b.clears("SVC002", "billing")
	b.clears("QUE001", "APP/billing pool")
}

func testReplication(t *testing.T) {
	c := natstest.Cluster(t, 3)
	nc := c.App(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	fronts, urls := newFronts(t, c)
	r := newRig(t, FindingsConfig{}, collector.Config{Monitor: urls, Conn: nc})
	ctx := t.Context()
	var metadata map[string]string
	create := func(name string, replicas int) {
		t.Helper()
		wait.For(t, patience, "stream "+name, func() bool {
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: replicas, MaxAge: time.Hour, Metadata: metadata})
			return err == nil
		})
	}
	create("ONE", 1)
	r.fires("STR009", "APP/ONE")
	metadata = map[string]string{"io.nats.monitor.peer-lag-critical": "1000", "io.nats.monitor.peer-seen-critical": "5s"}
	create("ONE", 3)
	metadata = nil
	r.clears("STR009", "APP/ONE")
	if _, err := js.CreateOrUpdateConsumer(ctx, "ONE", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}

	// All leaders on one server, then spread.
	const streams = 12
	for i := range streams {
		create(fmt.Sprintf("S%d", i), 3)
	}
	lead := func(i, server int) {
		t.Helper()
		name := fmt.Sprintf("S%d", i)
		want := fmt.Sprintf("n%d", server+1)
		wait.For(t, patience, name+" to be led by "+want, func() bool {
			if c.StreamLeader(name) == server {
				return true
			}
			_, _ = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+name, []byte(fmt.Sprintf(`{"placement":{"preferred":%q}}`, want)), time.Second)
			return c.StreamLeader(name) == server
		})
	}
	for i := range streams {
		lead(i, 0)
	}
	r.fires("JS006", "test")
	for i := range streams {
		lead(i, i%3)
	}
	r.clears("JS006", "test")

	// One server away: replicas and a meta peer are missing.
	down := 2
	if c.StreamLeader("ONE") == down || c.MetaLeader() == down {
		down = 1
	}
	if c.StreamLeader("ONE") == down || c.MetaLeader() == down {
		down = 0
	}
	c.Kill(down)
	r.fires("STR002", "APP/ONE")
	// What is published now is written on two servers of three.
	// One after the other: what comes at once is one operation.
	for range 1200 {
		if _, err := js.Publish(ctx, "ONE", nil); err != nil {
			t.Fatal(err)
		}
	}
	r.fires("STR003", "APP/ONE")
	r.fires("STR008", "APP/ONE")
	wait.For(t, patience, "both of the owner's limits of replicas to be passed", func() bool {
		r.look()
		f, _ := r.find("STR008", "APP/ONE")
		return strings.Contains(f.Text, "peer-lag-critical") && strings.Contains(f.Text, "peer-seen-critical")
	})
	r.fires("CON008", "APP/ONE/c")
	r.fires("JS002", "")
	// A second one: no quorum.
	next := (down + 1) % 3
	if c.StreamLeader("ONE") != next {
		next = (down + 2) % 3
	}
	c.Kill(next)
	r.fires("STR001", "APP/ONE")
	r.fires("CON007", "APP/ONE/c")
	r.fires("JS001", "")
	restart(c, fronts, next)
	restart(c, fronts, down)
	for code, key := range map[string]string{"STR003": "APP/ONE", "STR008": "APP/ONE", "STR001": "APP/ONE", "CON007": "APP/ONE/c", "JS001": "", "STR002": "APP/ONE", "CON008": "APP/ONE/c", "JS002": ""} {
		r.clears(code, key)
	}
	ownersShown.note("peer-lag-critical", t.Name())
	ownersShown.note("peer-seen-critical", t.Name())
}
