package handlers

import (
	"encoding/csv"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
	"ballast/internal/sketch"
)

const heatOf = "?account=APP&stream=ORDERS&consumer=worker-east-1"

// Every sample is in one cell, in JSON and in CSV, and the percentiles are those
// of the distributions.
func TestTheHeatMapHasEverySample(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	_, parts, err := w.LatencyParts(t.Context(), fleet.ConsumerKey{Account: "APP", Stream: "ORDERS", Consumer: "worker-east-1"}, fleet.Range{From: epoch.Add(-15 * time.Minute), To: epoch}, heatPoints)
	if err != nil {
		t.Fatal(err)
	}
	var want uint64
	for _, p := range parts {
		want += p.Sketch.Count()
	}
	var doc heatDoc
	if err := json.Unmarshal(st.get("/charts/consumer-heat.json"+heatOf).status(200).Body.Bytes(), &doc); err != nil || len(doc.Columns) != len(parts) {
		t.Fatalf("%d columns, %v, want %d", len(doc.Columns), err, len(parts))
	}
	var cells uint64
	for i, c := range doc.Columns {
		last := 0.0
		for _, b := range c.Buckets {
			cells += b.Count
			if b.From < last || b.To <= b.From || b.Count == 0 {
				t.Errorf("column %d has the bucket %+v after %v", i, b, last)
			}
			last = b.From
		}
		if sk := parts[i].Sketch; c.P99 != inMS(sk.Quantile(.99)) || c.P50 > c.P90 || c.P90 > c.P99 || c.P99 > c.P999 || c.P999 > c.Max || c.Count != sk.Count() {
			t.Errorf("column %d says %+v", i, c)
		}
	}
	if cells != want || doc.Source != fleet.AckSample || doc.Share != 1 || len(doc.Limits) != 1 || doc.Limits[0].Value != 30_000 {
		t.Errorf("%d samples in the cells, want %d; %s, share %v, limits %+v", cells, want, doc.Source, doc.Share, doc.Limits)
	}
	recs, err := csv.NewReader(st.get("/charts/consumer-heat.csv" + heatOf).status(200).Body).ReadAll()
	if err != nil || strings.Join(recs[0], " ") != strings.Join(heatCols, " ") {
		t.Fatalf("CSV: %v, %v", recs[0], err)
	}
	cells = 0
	for _, r := range recs[1:] {
		n, err := strconv.ParseUint(r[4], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cells += n
	}
	if cells != want {
		t.Errorf("%d samples in the CSV, want %d", cells, want)
	}
	// Without scripts the figures stand in a table.
	page := st.get("/charts/consumer-heat" + heatOf).status(200)
	page.says("main", "p99.9 ms").says("main", "ack_wait 30 s").says("main", "share of a column").says("main", "starts the clock anew").says("main", "Only explicit acknowledgements are sampled").says("main", "about 100 % of what was settled")
	if rows := strings.Count(page.Body.String(), "<tr>"); rows < len(parts) {
		t.Errorf("the table has %d rows, want %d", rows, len(parts))
	}
	part := st.get("/charts/consumer-heat"+heatOf, "HX-Request", "true").status(200).Body.String()
	if strings.Contains(part, "<html") || !strings.Contains(part, "<figcaption>") {
		t.Errorf("what the live page asks for is %.200s", part)
	}
	st.get("/charts/consumer-heat?account=APP&stream=ORDERS&consumer=nobody").status(404)
	st.get("/charts/consumer-heat.xlsx" + heatOf).status(404)
}

func TestTheHeatMapSaysWhatBoundsIt(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	p := st.get("/consumers/APP/PAYMENTS/us").status(200)
	p.says("heat", "No sample of an acknowledgement came in this span.").says("heat", "by Little's law").says("heat", "Estimated mean 12 ms").says("heat", "sample_freq is off")
	var doc heatDoc
	if err := json.Unmarshal(st.get("/charts/consumer-heat.json?account=APP&stream=PAYMENTS&consumer=us").status(200).Body.Bytes(), &doc); err != nil || doc.Source != fleet.Estimate || doc.EstimateMS != 12 || len(doc.Columns) != 0 {
		t.Errorf("an estimate as JSON: %+v, %v", doc, err)
	}
	w := newWorld()
	for i := range w.snap.Consumers {
		w.snap.Consumers[i].AckPolicy, w.snap.Consumers[i].Misfit = "all", "<b>more samples</b> than acknowledgements"
	}
	p = newSite(t, w).get("/consumers/APP/ORDERS/worker-east-1").status(200)
	p.says("heat", "ack_policy of this consumer is all: a figure may be missing").says("heat", "cannot all be the servers' own: <b>more samples</b> than acknowledgements")
}

func TestTheHeatMapKnowsThePast(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	var doc heatDoc
	if err := json.Unmarshal(st.get(at("/charts/consumer-heat.json"+heatOf, then)).status(200).Body.Bytes(), &doc); err != nil || !doc.To.Equal(then) || len(doc.Columns) == 0 {
		t.Errorf("the map of %v ends at %v with %d columns, %v", then, doc.To, len(doc.Columns), err)
	}
}

// From a microsecond to an hour: the scale holds all of it in few rows, and what
// hardly differs fills more than a few.
func TestTheScaleOfTheHeatMapFits(t *testing.T) {
	t.Parallel()
	for _, tc := range [][2]time.Duration{{0, 0}, {time.Nanosecond, time.Hour}, {5 * time.Millisecond, 6 * time.Millisecond}, {time.Microsecond, 40 * time.Second}, {time.Second, time.Second}} {
		sk := &sketch.Sketch{}
		sk.Add(tc[0])
		sk.Add(tc[1])
		h := heatMap{parts: []fleet.LatencyPart{{At: epoch, Sketch: sk}}, limits: []limit{{value: 30_000, name: "ack_wait 30 s"}}}
		sc := h.scale()
		var n uint64
		for _, c := range sc.counts(sk) {
			n += c
		}
		if sc.rows < 2 || sc.rows > heatRows || n != 2 || math.IsNaN(sc.bound(0)) || sc.at(inMS(tc[1])) < sc.at(inMS(tc[0])) {
			t.Errorf("%v to %v: %+v holds %d of 2", tc[0], tc[1], sc, n)
		}
	}
	for share, want := range map[float64]int{.001: 1, .01: 2, .3: 6, 1: 7} {
		if got := shade(share); got != want {
			t.Errorf("a share of %v has shade %d, want %d", share, got, want)
		}
	}
}
