package handlers

import (
	"encoding/json"
	"strings"
	"testing"
)

// Samples that cannot all be the servers' own are marked on the page and in its
// data, in JSON and CSV.
func TestSamplesThatDoNotFitAreMarked(t *testing.T) {
	t.Parallel()
	w := newWorld()
	const why = "2000 came while 10 deliveries were settled"
	for i := range w.snap.Consumers {
		if w.snap.Consumers[i].Consumer == "worker-east-1" {
			w.snap.Consumers[i].Misfit = why
		}
	}
	st := newSite(t, w)
	st.get("/consumers/APP/ORDERS/worker-east-1").status(200).says("measure", "cannot all be the servers' own: "+why)
	var docs []consumerDoc
	if err := json.Unmarshal(st.get("/consumers.json?stream=ORDERS").status(200).Body.Bytes(), &docs); err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if marked := d.Misfit == why; marked != (d.Consumer == "worker-east-1") {
			t.Errorf("%s: %q", d.Consumer, d.Misfit)
		}
	}
	if csv := st.get("/consumers.csv").status(200).Body.String(); !strings.Contains(csv, "samples_misfit") || !strings.Contains(csv, why) {
		t.Errorf("CSV without the mark: %.300s", csv)
	}
}
