package collector

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
)

func (m *memory) find(kind, entity string) []fleet.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []fleet.Event
	for _, e := range m.events {
		if e.Kind == kind && (entity == "" || e.Entity == entity) {
			out = append(out, e)
		}
	}
	return out
}

// Whatever happens in an account and on its servers becomes events, in words.
func TestWhatNATSPushesBecomesEvents(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t, natstest.Accounts(), natstest.Config("server_name: solo\n"))
	app := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword))
	sys := natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.SysUser, natstest.SysPassword))
	m := collect(t, Config{Conn: app, System: sys})
	wait.For(t, patience, "a first look", func() bool { return !m.latest().TakenAt.IsZero() })
	j := js(t, natstest.Connect(t, srv.ClientURL(), nats.UserInfo(natstest.AppUser, natstest.AppPassword), nats.Name("deployer")))
	ctx := t.Context()

	stream(t, j, "ORDERS", 1)
	cfg := jetstream.ConsumerConfig{Durable: "east", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 1, AckWait: 300 * time.Millisecond}
	con, err := j.CreateConsumer(ctx, "ORDERS", cfg)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, j, "orders.a", 3)
	batch, err := con.Fetch(3, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for msg := range batch.Messages() {
		switch i {
		case 0:
			err = msg.Nak()
		case 1:
			err = msg.TermWithReason("bad order")
		}
		if err != nil {
			t.Fatal(err)
		}
		i++ // the third is never acknowledged
	}
	wait.For(t, patience, "the end of the attempts", func() bool { return m.has("consumer.max_deliveries", "APP/ORDERS/east") })
	if _, err := j.PauseConsumer(ctx, "ORDERS", "east", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.ResumeConsumer(ctx, "ORDERS", "east"); err != nil {
		t.Fatal(err)
	}
	if _, err := j.UpdateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>", "more.>"}}); err != nil {
		t.Fatal(err)
	}
	s, err := j.Stream(ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	if err := j.DeleteConsumer(ctx, "ORDERS", "east"); err != nil {
		t.Fatal(err)
	}
	if err := j.DeleteStream(ctx, "ORDERS"); err != nil {
		t.Fatal(err)
	}
	if _, err := nats.Connect(srv.ClientURL(), nats.UserInfo("intruder", "hunter2-canary")); err == nil {
		t.Fatal("a wrong password was accepted")
	}
	for _, want := range []struct{ kind, entity, text string }{
		{"stream.created", "APP/ORDERS", "Stream ORDERS was created."},
		{"consumer.created", "APP/ORDERS/east", "Consumer east of ORDERS was created."},
		{"consumer.nak", "APP/ORDERS/east", "message 1 was refused by a client (NAK) at delivery 1"},
		{"consumer.terminated", "APP/ORDERS/east", "given up by a client (TERM) at delivery 1: bad order."},
		{"consumer.max_deliveries", "APP/ORDERS/east", "delivered 1 times"},
		{"consumer.paused", "APP/ORDERS/east", "is paused until"},
		{"consumer.resumed", "APP/ORDERS/east", "delivers again"},
		{"stream.updated", "APP/ORDERS", "configuration was changed"},
		{"api.stream.purge", "APP/ORDERS", `User app as "deployer" from 127.0.0.1 asked JetStream to purge the stream`},
		{"api.consumer.create", "APP/ORDERS", "create or update a consumer"},
		{"consumer.removed", "APP/ORDERS/east", "was removed"},
		{"stream.removed", "APP/ORDERS", "was removed"},
		{"connections.opened", "APP", "account APP connected"},
		{"server.auth_error", "solo", "Server solo refused the credentials of a client at 127.0.0.1"},
	} {
		wait.For(t, patience, "the event "+want.kind+" of "+want.entity, func() bool { return m.has(want.kind, want.entity) })
		e := m.find(want.kind, want.entity)
		if len(e) != 1 || !strings.Contains(e[0].Text, want.text) || e[0].Severity == "" || e[0].At.IsZero() {
			t.Errorf("%s of %s: %+v, want one with %q", want.kind, want.entity, e, want.text)
		}
	}
	for _, k := range m.kinds() {
		if strings.HasPrefix(k, "api.") && strings.Contains(k, "info") {
			t.Errorf("a read is among the events: %s", k)
		}
	}
	text := fmt.Sprint(m.find("server.auth_error", ""))
	if strings.Contains(text, "hunter2") || strings.Contains(text, "intruder") {
		t.Errorf("credentials in %s", text)
	}
}

func TestElectionsAreToldOnce(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	m := collect(t, Config{Conn: c.App(t), System: c.Sys(t)})
	wait.For(t, patience, "a first look", func() bool { return len(m.latest().Servers) == 3 })
	j := js(t, c.App(t))
	stream(t, j, "ORDERS", 3)
	wait.For(t, patience, "the election", func() bool { return m.has("stream.leader", "APP/ORDERS") })
	victim := (c.StreamLeader("ORDERS") + 1) % 3
	name := natsServer(victim)
	c.Kill(victim)
	wait.For(t, patience, "the server's goodbye", func() bool { return m.has("server.shutdown", name) })
	wait.For(t, patience, "the server's absence", func() bool { return m.has("server.lost", name) })
	if s := m.latest(); s.Expected != 3 {
		t.Errorf("%d servers expected, want 3: one is down", s.Expected)
	}
	other := (victim + 1) % 3
	c.Kill(other)
	wait.For(t, 2*patience, "the lost quorum", func() bool { return m.has("stream.quorum_lost", "APP/ORDERS") })
	if e := m.find("stream.quorum_lost", "APP/ORDERS"); len(e) != 1 || e[0].Severity != fleet.Critical {
		t.Errorf("events %+v, want one critical", e)
	}
	for _, e := range m.find("stream.leader", "APP/ORDERS") {
		if strings.Contains(e.Text, "of 2") {
			t.Errorf("%q: one election was counted over both connections", e.Text)
		}
	}
}

func advisoryMsg(subject string, body map[string]any) *nats.Msg {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &nats.Msg{Subject: subject, Data: b}
}

func nak(stream, consumer string, seq int) *nats.Msg {
	return advisoryMsg("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED."+stream+"."+consumer, map[string]any{
		"type": "io.nats.jetstream.advisory.v1.nak", "id": fmt.Sprint(stream, consumer, seq), "stream": stream, "consumer": consumer,
		"stream_seq": seq, "deliveries": 1,
	})
}

// A thousand refusals a second are one event now and one a minute.
func TestStormsAreFolded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPushed(func() time.Time { return now })
	var events []fleet.Event
	total := 0
	for range 180 { // three minutes, a look a second
		for i := range 1000 {
			p.takeAdvisory(nak("S", "c", i), true)
			total++
		}
		now = now.Add(time.Second)
		events = append(events, p.cut("A")...)
	}
	if len(events) < 3 || len(events) > 5 {
		t.Fatalf("%d events of %d refusals in 3 minutes, want about one a minute: %+v", len(events), total, events)
	}
	if want := "Consumer c of S: 1000 messages were refused by its clients (NAK) within 1s."; events[0].Text != want {
		t.Errorf("first event %q, want %q", events[0].Text, want)
	}
	if !strings.Contains(events[1].Text, "59999 messages") && !strings.Contains(events[1].Text, "60000 messages") {
		t.Errorf("second event %q, want the count of a minute", events[1].Text)
	}
	for range 3 {
		now = now.Add(foldFor + time.Second)
		p.cut("A")
	}
	if len(p.folds) != 0 {
		t.Errorf("%d folds are kept after the storm", len(p.folds))
	}
}

func TestInventedAdvisoriesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPushed(func() time.Time { return now })
	for i := range 3 * maxFolds {
		p.takeAdvisory(nak("S", fmt.Sprintf("worker%cx%d", 'a'+i%26, i), i), true)
	}
	if len(p.folds) > maxFolds || len(p.ids)+len(p.oldIDs) > 2*maxFolds {
		t.Errorf("%d folds and %d ids are kept, want at most %d", len(p.folds), len(p.ids)+len(p.oldIDs), maxFolds)
	}
	events := p.cut("A")
	last := events[len(events)-1]
	if len(events) != maxEvents+1 || last.Kind != "events.omitted" {
		t.Errorf("%d events, the last %+v", len(events), last)
	}
	p.takeAdvisory(&nats.Msg{Subject: "$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.S.c%d", Data: []byte("{")}, true)
	p.takeAdvisory(&nats.Msg{Subject: "$JS.EVENT.ADVISORY.STREAM.CREATED.S.c", Data: []byte("{}")}, true)
	if got := p.trouble(); len(got) != 1 || got[0] != "2 advisories could not be read." {
		t.Errorf("trouble %q", got)
	}
}

func TestShortLivedConsumersAreOneEvent(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPushed(func() time.Time { return now })
	for i := range 50 {
		name := fmt.Sprintf("B0sI%04dYQ", i)
		p.takeAdvisory(advisoryMsg("$JS.EVENT.ADVISORY.CONSUMER.CREATED.100%s."+name, map[string]any{
			"type": "io.nats.jetstream.advisory.v1.consumer_action", "id": name, "action": "create"}), true)
	}
	e := p.cut("A")
	if len(e) != 1 || e[0].Entity != "A/100%s/*" || e[0].Text != "50 short-lived consumers of 100%s were created within 1s." {
		t.Errorf("events %+v, want one of 50", e)
	}
}

func TestNamePattern(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"east": "east", "worker-1": "worker-1", "worker-12": "worker-12", "orderProcessorV2": "orderProcessorV2", "EU_WEST_1": "EU_WEST_1",
		"payments": "payments", "PaymentProcessor": "PaymentProcessor", "c0": "c0", "billing2024": "billing2024",
		"B0sIBYQI": "*", "zPLknPpYFckAELkaajq983": "*", "zPLknPpYFckAELkaajq983_1": "*", "zPLknPpYFckAELkaajq983_17": "*",
		"worker-1764010101-5512": "worker-*", "sub-4f1e2d3c-aa11-4b22-8c33-0123456789ab": "sub-*",
		"4f1e2d3c-aa11-4b22-8c33-0123456789ab": "*", "worker-kX93pQz1LmWv82Rt45AbCd": "worker-*", "": "",
	} {
		if got := namePattern(name); got != want {
			t.Errorf("namePattern(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestServerMadeNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"payments": false, "Payments": false, "PAYMENTS": false, "worker12": false, "EUWEST01": false, "east": false, "pay-ment": false,
		"B0sIBYQI": true, "BxsIBYQI": true, "aBcdefgh": true, "ab1defgh": true, "12345678": true,
	} {
		if got := isServerMade(name); got != want {
			t.Errorf("isServerMade(%q) = %v, want %v", name, got, want)
		}
	}
	// What a real server makes up is taken for that, but for the rare word.
	srv := natstest.Server(t)
	j := js(t, natstest.Connect(t, srv.ClientURL()))
	stream(t, j, "ORDERS", 1)
	missed := 0
	for range 300 {
		c, err := j.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true})
		if err != nil {
			t.Fatal(err)
		}
		if info := c.CachedInfo(); patternOf(&fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Consumer: info.Name}}) == info.Name {
			missed++
		}
	}
	if missed > 6 {
		t.Errorf("%d of 300 names that the server made up are taken for somebody's choice", missed)
	}
}

func TestConnectionsAreCountedByReason(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPushed(func() time.Time { return now })
	for i := range 30 {
		reason := "Client Closed"
		if i%3 == 0 {
			reason = "Slow Consumer (Write Deadline)"
		}
		p.takeServer(advisoryMsg("$SYS.ACCOUNT.APP.DISCONNECT", map[string]any{
			"type": "io.nats.server.advisory.v1.client_disconnect", "server": map[string]any{"name": "n1", "id": "N1"},
			"client": map[string]any{"acc": "APP", "jwt": "canary"}, "reason": reason,
		}))
	}
	e := p.cut("")
	if len(e) != 2 || e[0].Severity != fleet.Warning || e[0].Text != "10 clients of account APP disconnected (Slow Consumer (Write Deadline)) within 1s." ||
		e[1].Severity != fleet.Info || !strings.HasPrefix(e[1].Text, "20 clients of account APP disconnected (Client Closed)") {
		t.Errorf("events %+v", e)
	}
}

func FuzzAdvisory(f *testing.F) {
	f.Add("CONSUMER.MSG_NAKED.S.c", []byte(`{"type":"io.nats.jetstream.advisory.v1.nak","id":"a","stream_seq":1,"deliveries":1}`))
	f.Add("CONSUMER.PAUSE.S.c", []byte(`{"type":"io.nats.jetstream.advisory.v1.consumer_pause","id":"b","paused":true,"pause_until":"2026-11-22T03:36:12Z"}`))
	f.Add("STREAM.LEADER_ELECTED.S", []byte(`{"type":"io.nats.jetstream.advisory.v1.stream_leader_elected","id":"c","account":"A","leader":"n1","replicas":[]}`))
	f.Add("API", []byte(`{"type":"io.nats.jetstream.advisory.v1.api_audit","id":"d","client":{"name":"%d%s","user":"u"},"subject":"$JS.API.STREAM.DELETE.S","response":"{\"error\":{\"description\":\"no\"}}"}`))
	f.Add("SERVER.OUT_OF_STORAGE", []byte(`{"type":"io.nats.jetstream.advisory.v1.server_out_of_space","server":"n1"}`))
	f.Fuzz(func(t *testing.T, what string, body []byte) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		p := newPushed(func() time.Time { return now })
		m := &nats.Msg{Subject: advisorySubject + what, Data: body}
		for range 3 {
			p.takeAdvisory(m, true)
			p.takeAdvisory(m, false)
		}
		for _, e := range p.cut("A") {
			if e.Kind == "" || e.Text == "" || e.Severity == "" || misprinted(e.Text, body) || len(e.Text) > 4096 {
				t.Errorf("%s: %q becomes %+v", what, body, e)
			}
		}
	})
}

// misprinted reports whether a text was put together wrongly: it holds what Go
// prints for a verb without its value, and what it is made of does not.
func misprinted(text string, of ...[]byte) bool {
	for _, b := range of {
		if bytes.Contains(b, []byte("%!")) || bytes.Contains(b, []byte(`\u00`)) {
			return false
		}
	}
	return strings.Contains(text, "%!")
}

func FuzzServerEvent(f *testing.F) {
	f.Add("$SYS.SERVER.N1.STATSZ", []byte(`{"server":{"name":"n1","id":"N1","cluster":"C"},"statsz":{}}`))
	f.Add("$SYS.SERVER.N1.SHUTDOWN", []byte(`{"name":"n1","id":"N1"}`))
	f.Add("$SYS.SERVER.N1.CLIENT.AUTH.ERR", []byte(`{"server":{"name":"%d","id":"N1"},"client":{"host":"1.2.3.4"}}`))
	f.Add("$SYS.ACCOUNT.A.DISCONNECT", []byte(`{"server":{"name":"n1"},"client":{"acc":"A","name_tag":"%s"},"reason":"Client Closed"}`))
	f.Fuzz(func(t *testing.T, subject string, body []byte) {
		p := newPushed(time.Now)
		for range 3 {
			p.takeServer(&nats.Msg{Subject: subject, Data: body})
		}
		for _, e := range p.cut("A") {
			if e.Kind == "" || e.Text == "" || misprinted(e.Text, []byte(subject), body) {
				t.Errorf("%s: %q becomes %+v", subject, body, e)
			}
		}
		if slices.ContainsFunc(p.trouble(), func(s string) bool { return s == "" }) {
			t.Error("empty trouble")
		}
	})
}

func BenchmarkAdvisoryStorm(b *testing.B) {
	p := newPushed(time.Now)
	m := nak("ORDERS", "east", 1)
	b.ReportAllocs()
	for b.Loop() {
		p.takeAdvisory(m, true)
	}
}

func BenchmarkAdvisoryRead(b *testing.B) {
	p := newPushed(time.Now)
	m := advisoryMsg("$JS.EVENT.ADVISORY.API", map[string]any{
		"type": "io.nats.jetstream.advisory.v1.api_audit", "id": "x", "subject": "$JS.API.STREAM.INFO.S", "response": strings.Repeat("x", 2000)})
	b.ReportAllocs()
	for b.Loop() {
		p.takeAdvisory(m, true)
	}
}
