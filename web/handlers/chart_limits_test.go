package handlers

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

func TestALimitIsDrawnWhenTheFiguresComeNear(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		wait time.Duration
		want bool
	}{{30 * time.Second, false}, {300 * time.Millisecond, true}} {
		w := newWorld()
		for i := range w.snap.Consumers {
			w.snap.Consumers[i].AckWait = tc.wait
		}
		body := ask(t, w, "/charts/split-latency.svg?split=orders").Body.String()
		if got := strings.Contains(body, `class="lim lim-warn"`); got != tc.want {
			t.Errorf("p99 of 160 ms and an ack wait of %v: the limit is drawn: %v, want %v", tc.wait, got, tc.want)
		}
		if name := "ack_wait " + duration(tc.wait); !strings.Contains(body, name) || strings.Contains(body, "↑ "+name) == tc.want {
			t.Errorf("an ack wait of %v is not named, or not where it is: %s", tc.wait, body)
		}
	}
}

// limitsOf is what a chart's JSON says of its limits.
func limitsOf(t *testing.T, st *site, url string) map[string]limitDoc {
	t.Helper()
	var doc struct {
		Limits []limitDoc `json:"limits"`
	}
	if err := json.Unmarshal(st.get(url).status(200).Body.Bytes(), &doc); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	out := map[string]limitDoc{}
	for _, l := range doc.Limits {
		out[l.Name] = l
	}
	return out
}

func TestTheOwnersLimitsOfAConsumerAreDrawn(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for i := range w.snap.Consumers {
		if c := &w.snap.Consumers[i]; c.Consumer == "worker-east-1" {
			c.Limits = &fleet.Thresholds{Unprocessed: 900, AckPending: 40, Redelivered: 12, Waiting: 7, LastAck: time.Minute}
			c.MaxAckPending, c.AckWait, c.Backoff = 60, 30*time.Second, []time.Duration{2 * time.Second, time.Minute}
		}
	}
	st := newSite(t, w)
	const of = "?account=APP&stream=ORDERS&consumer=worker-east-1"
	for chart, want := range map[string]map[string]limitDoc{
		"consumer-pending":     {"unprocessed-critical 900": {Value: 900, Severity: "critical", Owner: true}},
		"consumer-inflight":    {"outstanding-ack-critical 40": {Value: 40, Severity: "critical", Owner: true}, "max_ack_pending 60": {Value: 60, Severity: "warning"}},
		"consumer-redelivered": {"redelivery-critical 12": {Value: 12, Severity: "critical", Owner: true}},
		"consumer-waiting":     {"waiting-critical 7": {Value: 7, Severity: "critical", Owner: true}},
		"consumer-latency":     {"backoff 2,000 ms": {Value: 2000, Severity: "warning"}},
		"consumer-rate":        {},
	} {
		got := limitsOf(t, st, "/charts/"+chart+".json"+of)
		if len(got) != len(want) {
			t.Errorf("%s has the limits %+v, want %+v", chart, got, want)
		}
		for name, l := range want {
			if l.Name = name; got[name] != l {
				t.Errorf("%s: limit %q is %+v, want %+v", chart, name, got[name], l)
			}
			page := st.get("/charts/" + chart + of).status(200)
			page.says("main", name)
			if shown := text(page.doc); l.Owner && (!strings.Contains(shown, "owner: "+name) || !strings.Contains(shown, "its owner, by metadata")) {
				t.Errorf("%s does not say that %q is its owner's", chart, name)
			}
		}
	}
	// All of it stands on the consumer's page, and the island is told.
	page := st.get("/consumers/APP/ORDERS/worker-east-1").status(200)
	for _, name := range []string{"owner: unprocessed-critical 900", "owner: outstanding-ack-critical 40", "max_ack_pending 60", "owner: redelivery-critical 12", "owner: waiting-critical 7", "backoff 2,000 ms"} {
		page.says("main", name)
	}
	var plots map[string]plotDoc
	if err := json.Unmarshal(st.get("/api/series"+of+"&chart=consumer-pending&range=15m").status(200).Body.Bytes(), &plots); err != nil || fmt.Sprint(plots["consumer-pending"].Limits) != "[{900 owner: unprocessed-critical 900 crit}]" {
		t.Errorf("the island is told %+v, %v", plots["consumer-pending"].Limits, err)
	}
}

func TestTheOwnersLimitsOfAStreamAreDrawn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		limits  fleet.Thresholds
		name    string
		atLeast bool
	}{
		{fleet.Thresholds{MsgsWarn: 100, MsgsCritical: 200}, "msgs-warn 100", false},
		{fleet.Thresholds{MsgsWarn: 300, MsgsCritical: 200}, "msgs-warn 300", true},
		{fleet.Thresholds{MsgsCritical: 200}, "msgs-critical 200", true},
	} {
		w := newWorld()
		st := &w.snap.Streams[0]
		st.Limits, st.MaxMsgs, st.MaxBytes = &tc.limits, 5000, 1<<30
		tc.limits.SubjCritical = 9
		k := st.StreamKey
		site, of := newSite(t, w), "?account="+k.Account+"&stream="+k.Stream
		got := limitsOf(t, site, "/charts/stream-messages.json"+of)
		if l, ok := got[tc.name]; !ok || l.AtLeast != tc.atLeast || !l.Owner || got["max_msgs 5,000"].Value != 5000 {
			t.Errorf("%+v: the limits are %+v, want %s, at least: %v", tc.limits, got, tc.name, tc.atLeast)
		}
		if l := limitsOf(t, site, "/charts/stream-bytes.json"+of); l["max_bytes 1.00 GiB"].Value != 1<<30 {
			t.Errorf("the limits of its size are %+v", l)
		}
		if l := limitsOf(t, site, "/charts/stream-subjects.json"+of); !l["subjects-critical 9"].AtLeast {
			t.Errorf("the limits of its subjects are %+v", l)
		}
		site.get(streamURL(k)).status(200).says("main", "owner: "+tc.name)
	}
}

// The names of limits keep clear of each other and stay within the drawing.
func TestNamesOfLimitsKeepClear(t *testing.T) {
	t.Parallel()
	c := chart{span: fleet.Range{From: epoch.Add(-time.Minute), To: epoch}, lines: []line{{label: "x", step: time.Second, data: []sample{{at: epoch, avg: 100, max: 100, n: 1}}}}}
	for i, v := range []float64{100, 101, 102, 5000, 6000} {
		c.limits.add(fmt.Sprintf("kind%d", i), limit{value: v, name: figure(v, "")})
	}
	p := c.draw()
	if len(p.Limits) != 5 || p.Limits[0].At != "" || p.Limits[4].At == "" || !strings.HasPrefix(p.Limits[0].Name, "↑ kind4") {
		t.Fatalf("the limits are drawn as %+v", p.Limits)
	}
	last := 0.0
	for _, l := range p.Limits {
		var y float64
		fmt.Sscan(l.LabelY, &y)
		if y-last < 7.9 || y > plotH-plotBottom {
			t.Errorf("%q stands at %v, below %v", l.Name, y, last)
		}
		last = y
	}
}
