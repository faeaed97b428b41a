package handlers

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/traffic"
)

func TestConsumersList(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	a := st.get("/consumers").status(200)
	a.says("main", "5 consumers; 817 messages wait; 4 are sampled.").says("consumers", "1 to 5 of 5").says("consumers", "worker-east-1").says("consumers", "812")
	var docs []consumerDoc
	if err := json.Unmarshal(st.get("/consumers.json?sort=-pending&stream=ORDERS").status(200).Body.Bytes(), &docs); err != nil || len(docs) != 3 || docs[0].Consumer != "worker-east-1" {
		t.Errorf("consumers.json: %v, %+v", err, docs)
	}
	if got := text(st.get("/consumers?server=n1").id("consumers")); strings.Contains(got, "worker-east-1") || !strings.Contains(got, "worker-backup-1") {
		t.Errorf("the filter by leader does not hold: %s", got)
	}
	st.get("/consumers?q=nobody").says("consumers", "None fits the filter.")
	newSite(t, emptyWorld()).get("/consumers").status(200).says("consumers", "No consumers")
}

func TestConsumerPage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	st := newSite(t, w)
	a := st.get("/consumers/APP/ORDERS/worker-east-1").status(200)
	a.says("consumer-status", "healthy").says("main", "ACK latency is close to ack_wait").says("main", "orders / worker-east-1").says("main", "n3").says("main", "max_ack_pending 1,000")
	a.says("measure", "sample every acknowledgement of this consumer already")
	if a.id("chart-consumer-latency") == nil {
		t.Error("the latency is not drawn")
	}
	st.get("/consumers/APP/PAYMENTS/us").status(200).says("main", "sample_freq is off").says("main", "mean (est.)")
	st.get("/consumers/APP/ORDERS/nobody").status(404)
	var docs []consumerDoc
	if err := json.Unmarshal(st.get("/consumers/APP/ORDERS/worker-east-1.json").status(200).Body.Bytes(), &docs); err != nil || len(docs) != 1 || docs[0].Pending != 812 {
		t.Errorf("worker-east-1.json: %v, %+v", err, docs)
	}
}

func TestConsumersOfAnyNameHaveAPage(t *testing.T) {
	t.Parallel()
	for _, name := range append([]string{"a/b", "%2F", "a%20b", "?x=1#y"}, hostile...) {
		w := newWorld()
		k := fleet.ConsumerKey{Account: name, Stream: name, Consumer: name}
		w.snap.Consumers = append(w.snap.Consumers, fleet.Consumer{ConsumerKey: k, At: epoch})
		st := newSite(t, w)
		a := st.get(consumerURL(k)).status(200)
		if got, want := a.doc, strings.Join(strings.Fields(name), " "); !strings.Contains(text(got), want) && !strings.Contains(name, "\u0000") {
			t.Errorf("the page of %q does not name it", name)
		}
	}
}

func TestMeasuringFromAConsumersPage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	p := "/consumers/APP/PAYMENTS/us"
	action, form := st.get(p).form("measure-form")
	form.Set("percent", "140")
	a := st.ask("POST", action, form).status(422)
	a.says("measure", "Give a whole number from 1 to 100").says("measure", "Say why")
	if a.field("percent") != "140" {
		t.Errorf("what was typed is lost: %q", a.field("percent"))
	}
	form.Set("percent", "")
	form.Set("reason", "Is it slow?")
	form.Set("for", "5m")
	if got := st.ask("POST", action, form).status(303).Header().Get("Location"); got != p {
		t.Errorf("it leads to %q", got)
	}
	if m := w.measured[0]; m.Percent != 0 || m.Ends.Sub(m.Started) != 5*time.Minute || m.Actor != "ada" || m.Reason != "Is it slow?" {
		t.Errorf("measured as %+v", m)
	}
	st.get(p).says("measure", "measuring").says("measure", "Is it slow?").says("measure", "Stop and put back")
	st.ask("POST", p+"/stop", url.Values{"id": {"m1"}}).status(303)
	if w.measured[0].Phase != traffic.MeasureOver {
		t.Errorf("it still runs: %s", w.measured[0].Phase)
	}
	w.planErr = &fleet.Error{Kind: fleet.Invalid, Msg: "The consumer cannot be measured.", Fields: map[string]string{"duration": "too long"}}
	st.ask("POST", action, form).status(422).says("measure", "The consumer cannot be measured.").says("measure", "too long")
	w.ready = &fleet.Error{Kind: fleet.Unavailable, Msg: "NATS cannot be reached."}
	st.get(p).says("measure", "It cannot be measured now: NATS cannot be reached.")
}

func TestConsumersAreLive(t *testing.T) {
	t.Parallel()
	w := newWorld()
	s := New(w.deps())
	list, err := s.topics()["consumers"](t.Context(), "sort=-pending")
	if err != nil {
		t.Fatal(err)
	}
	if key := htmlID("con", "APP/ORDERS/worker-east-1") + "/pending"; list.Text[key] != "812" {
		t.Errorf("the tick has %q", list.Text[key])
	}
	one, err := s.consumerTopic(t.Context(), "account=APP&stream=ORDERS&consumer=worker-east-1")
	if err != nil || one.Text["con/pending"] != "812" || one.Parts["measure"].Component == nil {
		t.Errorf("the consumer's tick: %v, %v", err, one.Text)
	}
	if _, err := s.consumerTopic(t.Context(), "account=APP&stream=ORDERS&consumer=nobody"); err == nil {
		t.Error("a consumer that is gone has a tick")
	}
}

// The small charts under the figures are there at once and move with the ticks.
func TestFiguresHaveTheirCourse(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for i := range w.snap.Consumers {
		w.snap.Consumers[i].Limits = &fleet.Thresholds{Unprocessed: 800, Redelivered: 100, LastAck: time.Minute}
	}
	st := newSite(t, w)
	for _, tc := range []struct{ url, topic, arg, spark string }{
		{"/consumers/APP/ORDERS/worker-east-1", "consumer", "account=APP&stream=ORDERS&consumer=worker-east-1", "spark:con/pending"},
		{"/streams/APP/ORDERS", "stream", "account=APP&stream=ORDERS", "spark:str/messages"},
	} {
		page := st.get(tc.url).status(200)
		if n := page.id(tc.spark + "-line"); n == nil || !strings.HasPrefix(attr(n, "d"), "M") {
			t.Errorf("%s does not draw %s", tc.url, tc.spark)
		}
		up, err := st.s.topics()[tc.topic](t.Context(), tc.arg)
		if err != nil || !strings.HasPrefix(up.Attr[tc.spark+"-line d"], "M") || up.Attr[tc.spark+"-area d"] == "" {
			t.Errorf("the tick of %s has %q, %v", tc.url, up.Attr[tc.spark+"-line d"], err)
		}
	}
	page := st.get("/consumers/APP/ORDERS/worker-east-1")
	page.says("main", "owner: below 800").says("main", "(owner: within "+duration(time.Minute)+")").says("main", "unprocessed-critical 800")
	if got := attr(page.id("kpi:con/pending"), "data-state"); got != "crit" {
		t.Errorf("812 pending of 800 are marked %q", got)
	}
	if got := attr(page.id("kpi:con/redelivered"), "data-state"); got != "" {
		t.Errorf("9 redelivered of 100 are marked %q", got)
	}
}

// manyConsumers makes the list as long as in a big system.
func manyConsumers(n int) *world {
	w := newWorld()
	for i := range n {
		c := w.snap.Consumers[0]
		c.Stream, c.Consumer, c.Pending = fmt.Sprintf("S%03d", i%500), fmt.Sprintf("c%05d", i), uint64(i*7919%n)
		w.snap.Consumers = append(w.snap.Consumers, c)
		w.rates.Consumers[c.ConsumerKey] = fleet.ConsumerRate{Arrived: float64(i)}
	}
	return w
}

// The goal is 30 ms for a page of 5,000 consumers.
func BenchmarkConsumersList(b *testing.B) {
	st := newSite(b, manyConsumers(5000))
	for b.Loop() {
		st.ask("GET", "/consumers?sort=-pending", nil)
	}
}
