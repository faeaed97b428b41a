package handlers

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

// fold adds a row of 12 short-lived consumers with hostile names, five of them in
// detail, and returns its key.
func (w *world) fold() fleet.ConsumerKey {
	k := fleet.ConsumerKey{Account: "APP", Stream: "ORDERS", Consumer: "<script>-* (orders.>)"}
	at := w.snap.TakenAt
	row := fleet.Consumer{ConsumerKey: k, Created: at.Add(-time.Hour), FilterSubjects: []string{"orders.>"}, AckPolicy: "explicit", AckWait: 30 * time.Second, Inactive: 5 * time.Second,
		Pending: 340, AckPending: 17, Redelivered: 2, Waiting: 3, Delivered: 9000, LastDelivery: at, At: at, Source: fleet.Monitoring,
		Fold: &fleet.Fold{Pattern: "<script>-*", Filter: "orders.>", Count: 12, Most: 31, Seen: 4711}}
	for i := range 5 {
		member := fleet.Consumer{ConsumerKey: k, Leader: "n1", Pending: uint64(100 - i), AckPending: i, AckPolicy: "explicit", At: at, Created: at.Add(-time.Minute), Source: fleet.Monitoring}
		member.Consumer = fmt.Sprintf("<script>-%d=1", i)
		row.Fold.Top = append(row.Fold.Top, member)
	}
	w.snap.Consumers = append(w.snap.Consumers, row)
	w.rates.Consumers[k] = fleet.ConsumerRate{Arrived: 40, Delivered: 41, Acked: 39}
	return k
}

func TestAFoldHasItsPage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	k := w.fold()
	st := newSite(t, w)
	list := st.get("/consumers?stream=ORDERS").status(200)
	list.says("consumers", "<script>-* (orders.>)").says("consumers", "12 short-lived").says("main", "1 row sums up short-lived ones.")
	if !strings.Contains(list.Body.String(), consumerURL(k)) {
		t.Errorf("the list does not lead to %s", consumerURL(k))
	}
	p := st.get(consumerURL(k)).status(200)
	for _, want := range []string{"<script>-* (orders.>)", "many, summed up", "Consumers now 12 at most 31", "Seen in all 4,711", "Filter orders.>", "Names <script>-*", "5 of 12", "<script>-0=1", "<script>-4=1", "Pending 340", "Deliveries 9,000", "inactive_threshold"} {
		p.says("main", want)
	}
	if strings.Contains(p.Body.String(), "<script>-") {
		t.Error("a name became markup")
	}
	for _, chart := range []string{"consumer-rate", "consumer-pending", "consumer-inflight", "consumer-redelivered", "consumer-latency"} {
		p.id("chart-" + chart)
	}
	if strings.Contains(p.Body.String(), `id="measure"`) {
		t.Error("many consumers can be measured as if they were one")
	}

	// What is on the screen, as rows.
	var docs []consumerDoc
	if err := json.Unmarshal(st.get(consumerURL(k)+".json").status(200).Body.Bytes(), &docs); err != nil || len(docs) != 6 {
		t.Fatalf("%d rows, %v, want the sum and five members", len(docs), err)
	}
	if d := docs[0]; d.Pattern != "<script>-*" || d.Members != 12 || d.Most != 31 || d.Seen != 4711 || d.Pending != 340 || d.Arrived != 40 {
		t.Errorf("the sum is %+v", d)
	}
	if d := docs[1]; d.Pattern != "" || d.Consumer != "<script>-0=1" || d.Pending != 100 {
		t.Errorf("the first member is %+v", d)
	}
	recs, err := csv.NewReader(st.get(consumerURL(k) + ".csv").status(200).Body).ReadAll()
	if err != nil || len(recs) != 7 || len(recs[0]) != len(recs[1]) {
		t.Errorf("%d lines of CSV, %v", len(recs), err)
	}

	// It lives: the figures, and the members when others come.
	up, err := st.s.topics()[topicFold](t.Context(), "account=APP&stream=ORDERS&consumer=%3Cscript%3E-*+%28orders.%3E%29")
	if err != nil || up.Text["fold/now"] != "12" || up.Text["fold/most"] != "at most 31" || up.Text["con/pending"] != "340" || up.Parts["fold-top"].Component == nil {
		t.Errorf("the tick has %v, %v", up.Text, err)
	}
	if _, err := st.s.topics()[topicFold](t.Context(), "account=APP&stream=ORDERS&consumer=worker-east-1"); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("a consumer that is no fold: %v", err)
	}
}

// A member that is kept in detail has a page of the present, which leads to its
// row; any other is not known.
func TestAMemberOfAFoldLeadsToIt(t *testing.T) {
	t.Parallel()
	w := newWorld()
	k := w.fold()
	st := newSite(t, w)
	member := k
	member.Consumer = "<script>-2=1"
	p := st.get(consumerURL(member)).status(200)
	p.says("main", "Summed up in <script>-* (orders.>)").says("main", "Pending 98")
	if !strings.Contains(p.Body.String(), consumerURL(k)) {
		t.Error("the member does not lead to its row")
	}
	var docs []consumerDoc
	if err := json.Unmarshal(st.get(consumerURL(member)+".json").status(200).Body.Bytes(), &docs); err != nil || len(docs) != 1 || docs[0].Consumer != member.Consumer {
		t.Errorf("the member as JSON: %+v, %v", docs, err)
	}
	member.Consumer = "<script>-9=1"
	st.get(consumerURL(member)).status(404)
}

func TestAFoldKnowsThePast(t *testing.T) {
	t.Parallel()
	w := newWorld()
	k := w.fold()
	st := newSite(t, w)
	st.get(at(consumerURL(k), then)).status(200).says("main", "Consumers now 12").says("main", "5 of 12")
}

// Names of consumers, their subjects, patterns and the keys of their owner's limits
// stay text on every page of theirs, in the files and in the ticks.
func TestHostileNamesOfConsumers(t *testing.T) {
	t.Parallel()
	visit := func(name string) map[string]string {
		w := newWorld()
		k := fleet.ConsumerKey{Account: name, Stream: name, Consumer: name}
		c := fleet.Consumer{ConsumerKey: k, Leader: name, FilterSubjects: []string{name}, AckPolicy: "x" + name, AckWait: time.Second, At: epoch, Misfit: name,
			Limits: &fleet.Thresholds{Unprocessed: 9, Ignored: []string{name}}, Peers: []fleet.Replica{{Name: name, Current: true}}}
		fold, member := c, c
		fold.Consumer, member.Consumer = name+"* ("+name+")", name+"1"
		fold.Fold = &fleet.Fold{Pattern: name + "*", Filter: name, Count: 1, Top: []fleet.Consumer{member}}
		w.snap.Consumers = append(w.snap.Consumers, c, fold)
		w.load[name] = load{rate: 10, p50: 5, sigma: .5}
		w.events = append(w.events, fleet.Event{At: epoch.Add(-time.Minute), Entity: k.Entity().Key, Text: name})
		st := newSite(t, w)
		q := "?" + url.Values{"account": {name}, "stream": {name}, "consumer": {name}}.Encode()
		pages := map[string]string{}
		for what, p := range map[string]string{"list": "/consumers?stream=" + url.QueryEscape(name), "one": consumerURL(k), "fold": consumerURL(fold.ConsumerKey), "member": consumerURL(member.ConsumerKey),
			"heat": "/charts/consumer-heat" + q, "pending": "/charts/consumer-pending" + q} {
			pages[what] = skeleton(st.get(p).status(200).doc)
		}
		for _, p := range []string{consumerURL(k) + ".csv", consumerURL(fold.ConsumerKey) + ".csv", "/consumers.csv", "/charts/consumer-heat.csv" + q, "/charts/consumer-heat.json" + q} {
			a := st.get(p).status(200)
			if body := a.Body.String(); strings.Contains(body, "\n=") || strings.Contains(body, ",=") || strings.Contains(body, ",@") {
				t.Errorf("%s: the name %q is a formula", p, name)
			}
			if d := a.Header().Get("Content-Disposition"); strings.ContainsAny(d, "<>'\u202e\x00/\\") {
				t.Errorf("%s: the name %q is in the file's name: %s", p, name, d)
			}
		}
		return pages
	}
	plain := visit("A")
	for _, name := range hostile {
		if strings.Contains(name, "\u0000") {
			continue // no URL has it
		}
		for what, got := range visit(name) {
			if got != plain[what] {
				t.Errorf("the page %q with the name %q has other elements: %s", what, name, firstDifference(plain[what], got))
			}
		}
	}
}
