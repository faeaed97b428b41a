package handlers

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

func TestCostPage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.snap.Cost.By[fleet.Fast] = fleet.TierCost{Requests: 9, Bytes: 40_960, ServerCPU: 12 * time.Millisecond}
	w.snap.Cost.By[fleet.Slow] = fleet.TierCost{Requests: 3, Bytes: 7_163, ServerCPU: 30 * time.Millisecond}
	w.snap.Intake = fleet.Intake{Every: 1, PerSecond: 360, Counted: 184_000}
	st := newSite(t, w)
	a := st.get("/cost").status(200)
	for _, want := range []string{"all of it is watched", "42 ms", "estimate", "360", "31.0 MiB", "of 4.00 GiB", "184,000", "all that arrive", "all the time", "Everything answers", "about once a minute"} {
		a.says("main", want)
	}
	var lines []costLine
	if err := json.Unmarshal(st.get("/cost.json").status(200).Body.Bytes(), &lines); err != nil || len(lines) != 3 || lines[0].Bytes != 40_960 || lines[2].CPU != 30 {
		t.Errorf("cost.json = %+v, %v", lines, err)
	}
	up, err := New(w.deps()).topics()["cost"](t.Context(), "")
	if err != nil || up.Text["cost/bytes"] == "" || up.Parts["cost-tiers"].Component == nil {
		t.Errorf("the tick: %+v, %v", up.Text, err)
	}
}

// Too many samples and silent sources are said first.
func TestCostPageSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.snap.Problems = []fleet.Problem{{Where: `n3<script>alert(1)</script>`, What: "It does not answer.", Hint: "Look at it.", Since: epoch.Add(-time.Minute)}}
	a := newSite(t, w).get("/cost").status(200).says("main", "1 source does not answer").says("cost-problems", "It does not answer.").says("cost-problems", "Look at it.")
	if strings.Contains(a.Body.String(), "<script>alert") {
		t.Error("a hostile name reached the page")
	}
	w.snap.Intake = fleet.Intake{Every: 4, Since: epoch.Add(-time.Minute), Passed: 3000}
	newSite(t, w).get("/cost").status(200).says("main", "1 of 4 ACK samples is counted").says("main", "every 4th").says("main", "3,000")
	w.snap.Intake = fleet.Intake{Every: 1, Share: 0.25}
	newSite(t, w).get("/cost").status(200).says("main", "25 % of the time")
	newSite(t, emptyWorld()).get("/cost").status(200).says("main", "no data yet")
}
