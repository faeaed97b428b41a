package handlers

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

func TestAxis(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		high      float64
		unit      string
		step, end float64
	}{
		{0, "ms", 1, 4}, {-3, "ms", 1, 4}, {math.NaN(), "ms", 1, 4}, {math.Inf(1), "ms", 1, 4},
		{1, "ms", 0.25, 1}, {3.9, "ms", 1, 4}, {4.1, "ms", 2, 6}, {100, "%", 25, 100}, {103, "%", 50, 150}, {0.0007, "ms", 0.0002, 0.0008}, {36_000, "msg/s", 10_000, 40_000},
		{1024, "B", 256, 1024}, {3 * 1024 * 1024, "B", 1024 * 1024, 3 * 1024 * 1024},
	} {
		step, end := axis(tc.high, 4, tc.unit)
		if math.Abs(step-tc.step) > 1e-9 || math.Abs(end-tc.end) > 1e-9 {
			t.Errorf("axis(%v, 4, %q) = %v, %v, want %v, %v", tc.high, tc.unit, step, end, tc.step, tc.end)
		}
	}
}

func TestTimeTicks(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	for _, tc := range []struct {
		span time.Duration
		want string
	}{
		{time.Second * 5, "09:26:48 09:26:49 09:26:50 09:26:51 09:26:52 09:26:53"},
		{time.Minute, "09:26:00 09:26:10 09:26:20 09:26:30 09:26:40 09:26:50"},
		{15 * time.Minute, "09:12 09:15 09:18 09:21 09:24"},
		{time.Hour, "08:30 08:40 08:50 09:00 09:10 09:20"},
		{6 * time.Hour, "04:00 05:00 06:00 07:00 08:00 09:00"},
		{24 * time.Hour, "12:00 18:00 14 Mar 06:00"},
		{7 * 24 * time.Hour, "8 Mar 10 Mar 12 Mar 14 Mar"},
		{0, ""},
	} {
		var got []string
		for _, tick := range timeTicks(fleet.Range{From: at.Add(-tc.span), To: at}, 6) {
			got = append(got, tick.label)
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("ticks of %v: %q, want %q", tc.span, s, tc.want)
		}
	}
	if n := len(timeTicks(fleet.Range{From: at.Add(-400 * 24 * time.Hour), To: at}, 6)); n == 0 || n > 7 {
		t.Errorf("ticks of 400 days: %d, want 1 to 7", n)
	}
}

func points(step time.Duration, values ...float64) []sample {
	out := make([]sample, len(values))
	for i, v := range values {
		out[i] = sample{at: epoch.Add(time.Duration(i) * step), min: v, max: v, avg: v, n: 1}
		if math.IsNaN(v) {
			out[i] = sample{at: out[i].at}
		}
	}
	return out
}

func TestGapsStayGaps(t *testing.T) {
	t.Parallel()
	gap := math.NaN()
	late := points(time.Second, 1, 2, 3, 4)
	late[2].at, late[3].at = late[2].at.Add(3*time.Second), late[3].at.Add(3*time.Second)
	missed := points(time.Second, 1, 2, 3)
	missed[2].at = missed[2].at.Add(time.Second)
	for _, tc := range []struct {
		name string
		data []sample
		want []int // length of each run
	}{
		{"none", nil, nil},
		{"whole", points(time.Second, 1, 2, 3), []int{3}},
		{"a point that says nothing was measured", points(time.Second, 1, 2, gap, 4), []int{2, 1}},
		{"gaps at the ends", points(time.Second, gap, 1, 2, gap), []int{2}},
		{"only gaps", points(time.Second, gap, gap), nil},
		{"points that are too far apart", late, []int{2, 2}},
		{"one missed round is bridged", missed, []int{3}},
	} {
		var got []int
		for _, run := range (line{step: time.Second, data: tc.data}).runs() {
			got = append(got, len(run))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: runs of %v, want %v", tc.name, got, tc.want)
		}
	}
	c := chart{span: fleet.Range{From: epoch, To: epoch.Add(4 * time.Second)}, lines: []line{{color: "c-1", step: time.Second, data: points(time.Second, 1, 2, gap, 4, 5)}}}
	if d := c.draw().Lines[0].D; strings.Count(d, "M") != 2 {
		t.Errorf("a line with one gap is drawn as %q, want two strokes", d)
	}
	doc := c.plot(time.Time{}).Lines[0]
	if len(doc.V) != 5 || doc.V[2] != nil || doc.V[3] == nil {
		t.Errorf("the island gets %v, want null in the gap", doc.V)
	}
}

func TestTheAxisFitsWhatIsKnown(t *testing.T) {
	t.Parallel()
	to := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	for _, tc := range []struct {
		first, want time.Duration // before to
	}{
		{0, 15 * time.Minute},                        // nothing was measured
		{14 * time.Minute, 15 * time.Minute},         // most of it was
		{8 * time.Minute, 15 * time.Minute},          // more than half of it
		{5 * time.Minute, 5*time.Minute + 53e9},      // begins at 09:21
		{40 * time.Second, 2 * time.Minute},          // never shorter
		{15*time.Minute + 1e9, 15 * time.Minute},     // older than asked for
		{7*time.Minute + 29e9, 7*time.Minute + 53e9}, // just under half
	} {
		c := chart{span: fleet.Range{From: to.Add(-15 * time.Minute), To: to}, lines: []line{
			{data: []sample{{at: to.Add(-15 * time.Minute)}, {at: to.Add(-tc.first), n: 1}}},
			{dash: true, steps: true, data: []sample{{at: to.Add(-15 * time.Minute), n: 1}}},
		}}
		if got := to.Sub(c.fitted()); got != tc.want {
			t.Errorf("figures since %v: the axis spans %v, want %v", tc.first, got, tc.want)
		}
	}
}

func TestThinKeepsPeaks(t *testing.T) {
	t.Parallel()
	values := make([]float64, 10_000)
	for i := range values {
		values[i] = float64(i % 7)
	}
	values[4321], values[8765] = 900, -50
	run := points(time.Second, values...)
	thinned := thin(run, 100)
	if len(thinned) > 200 || len(thinned) < 150 {
		t.Errorf("%d samples of %d are left, want 150 to 200", len(thinned), len(run))
	}
	low, high := math.Inf(1), math.Inf(-1)
	for i, s := range thinned {
		low, high = min(low, s.avg), max(high, s.avg)
		if i > 0 && s.at.Before(thinned[i-1].at) {
			t.Fatalf("sample %d is out of order", i)
		}
	}
	if low != -50 || high != 900 {
		t.Errorf("lowest and highest are %v and %v, want -50 and 900", low, high)
	}
	if got := len(thin(run[:150], 100)); got != 150 {
		t.Errorf("150 samples for 200 places became %d, want all", got)
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "ms", "0"}, {3, "ms", "3"}, {3.14159, "ms", "3.1"}, {0.01234, "ms", "0.012"}, {0.5, "ms", "0.50"}, {99.96, "ms", "100"}, {356.7, "msg/s", "357"}, {999.4, "", "999"}, {999.6, "", "1.00k"},
		{1234, "msg/s", "1.23k"}, {36_130, "msg/s", "36.1k"}, {2_500_000, "", "2.50M"}, {1 << 20, "B", "1.00Mi"}, {1536, "B/s", "1.50Ki"}, {-42.42, "", "-42.4"}, {math.NaN(), "", "–"}, {math.Inf(1), "", "–"},
	} {
		if got := figure(tc.v, tc.unit); got != tc.want {
			t.Errorf("figure(%v, %q) = %q, want %q", tc.v, tc.unit, got, tc.want)
		}
	}
	for _, tc := range []struct {
		v, step float64
		unit    string
		want    string
	}{
		{0, 25, "%", "0"}, {75, 25, "%", "75"}, {0.5, 0.25, "ms", "0.5"}, {0.25, 0.25, "ms", "0.25"}, {2500, 2500, "msg/s", "2.5k"}, {10_000, 2500, "msg/s", "10k"}, {2 << 20, 1 << 20, "B", "2Mi"},
	} {
		if got := axisFigure(tc.v, tc.step, tc.unit); got != tc.want {
			t.Errorf("axisFigure(%v, %v, %q) = %q, want %q", tc.v, tc.step, tc.unit, got, tc.want)
		}
	}
}

func TestSpreadKeepsLabelsApart(t *testing.T) {
	t.Parallel()
	for _, at := range [][]float64{{50, 51, 52}, {0, 0, 0, 0}, {99, 100, 98}, {10, 60}, {}} {
		got := spread(at, 12, 4, 100)
		for i := range got {
			for j := range got {
				if at[i] < at[j] && got[j]-got[i] < 12-1e-9 || i != j && math.Abs(got[i]-got[j]) < 12-1e-9 {
					t.Errorf("spread(%v) = %v: too close, or out of order", at, got)
				}
			}
			if got[i] < 4 || got[i] > 100 {
				t.Errorf("spread(%v) = %v: out of the plot", at, got)
			}
		}
	}
}

func TestSharesNeedEveryTarget(t *testing.T) {
	t.Parallel()
	gap := math.NaN()
	got := shares([]line{
		{step: time.Second, data: points(time.Second, 30, 30, 0)},
		{step: time.Second, data: points(time.Second, 10, gap, 0)},
	})
	if v := got[0].data[0].avg; v != 75 {
		t.Errorf("share of 30 beside 10 is %v %%, want 75", v)
	}
	if got[0].data[1].n != 0 {
		t.Error("a share is shown although one target was not measured")
	}
	if got[0].data[2].n != 0 {
		t.Error("a share is shown although nothing came")
	}
}

func TestSparkline(t *testing.T) {
	t.Parallel()
	gap := math.NaN()
	if sp := sparkline("x", []float64{1, 2, gap, 3, 4}); strings.Count(sp.Line, "M") != 2 || strings.Count(sp.Area, "Z") != 2 {
		t.Errorf("a gap is drawn as %+v, want two strokes and two areas", sp)
	}
	for _, values := range [][]float64{nil, {1}, {gap, gap}} {
		if sp := sparkline("x", values); sp.Line != "" || sp.Label != "x" {
			t.Errorf("sparkline(%v) = %+v, want nothing drawn", values, sp)
		}
	}
	if sp := sparkline("x", []float64{0, 0, 0}); strings.Contains(sp.Line, "NaN") || sp.Line == "" {
		t.Errorf("a flat line is drawn as %q", sp.Line)
	}
}

// ask gets a URL from a server over the fixture.
func ask(t *testing.T, w *world, url string) *httptest.ResponseRecorder {
	t.Helper()
	rec, req := newRequest(url)
	New(w.deps()).Handler().ServeHTTP(rec, req)
	return rec
}

func newRequest(url string) (*httptest.ResponseRecorder, *http.Request) {
	req := httptest.NewRequest(http.MethodGet, url, nil)
	req.Host = "127.0.0.1"
	return httptest.NewRecorder(), req
}

func TestEveryChartInEveryForm(t *testing.T) {
	t.Parallel()
	w := newWorld()
	for id := range chartKinds {
		args := "?split=orders&range=1h"
		switch {
		case id == "target-latency":
			args += "&target=worker-east-1"
		case strings.HasPrefix(id, "server-"):
			args = "?server=n2&range=1h"
		}
		for ext, kind := range map[string]string{"": "text/html", ".json": "application/json", ".csv": "text/csv", ".svg": "image/svg+xml"} {
			rec := ask(t, w, "/charts/"+id+ext+args)
			if rec.Code != http.StatusOK || !strings.HasPrefix(rec.Header().Get("Content-Type"), kind) {
				t.Errorf("%s%s: %d %s, want 200 %s: %.200s", id, ext, rec.Code, rec.Header().Get("Content-Type"), kind, rec.Body)
			}
			if ext == "" && !strings.Contains(rec.Body.String(), `id="chart-`+id) {
				t.Errorf("%s: the page does not show the chart", id)
			}
		}
	}
	for url, want := range map[string]int{
		"/charts/nothing":                                                     http.StatusNotFound,
		"/charts/split-share.xlsx?split=orders":                               http.StatusNotFound,
		"/charts/split-share":                                                 http.StatusUnprocessableEntity,
		"/charts/split-share?split=nothing":                                   http.StatusNotFound,
		"/charts/split-latency?split=orders&q=p42":                            http.StatusUnprocessableEntity,
		"/charts/target-latency?split=orders&target=nobody":                   http.StatusNotFound,
		"/charts/split-share?split=orders&range=9y":                           http.StatusUnprocessableEntity,
		"/api/series?chart=split-share&split=orders&since=noon":               http.StatusUnprocessableEntity,
		"/api/series?split=orders" + strings.Repeat("&chart=split-share", 17): http.StatusUnprocessableEntity,
	} {
		if rec := ask(t, w, url); rec.Code != want {
			t.Errorf("%s: %d, want %d", url, rec.Code, want)
		}
	}
}

func TestSeriesFeedsTheIsland(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var all map[string]plotDoc
	rec := ask(t, w, "/api/series?chart=split-share&chart=split-latency&split=orders&range=15m")
	if err := json.Unmarshal(rec.Body.Bytes(), &all); err != nil {
		t.Fatalf("%v in %.200s", err, rec.Body)
	}
	share, latency := all["split-share"], all["split-latency"]
	if len(share.Lines) != 6 || len(latency.Lines) != 3 {
		t.Fatalf("%d and %d lines, want 6 (observed and set) and 3", len(share.Lines), len(latency.Lines))
	}
	if !share.Lines[3].Dash || !share.Lines[3].Steps || share.Lines[3].Color != share.Lines[0].Color {
		t.Errorf("set line is %+v, want it dashed, stepped and in the colour of its target", share.Lines[3])
	}
	// The set share holds from the beginning of the span to its end.
	set := share.Lines[3]
	if set.T[0] != share.From || set.T[len(set.T)-1] != share.To || *set.V[0] != 60 {
		t.Errorf("set line is %v %v, want it from %d to %d at 60", set.T, *set.V[0], share.From, share.To)
	}
	since := latency.Lines[0].T[len(latency.Lines[0].T)-5]
	var newer map[string]plotDoc
	rec = ask(t, w, fmt.Sprintf("/api/series?chart=split-latency&split=orders&range=15m&since=%d", since))
	if err := json.Unmarshal(rec.Body.Bytes(), &newer); err != nil {
		t.Fatal(err)
	}
	if got := newer["split-latency"].Lines[0].T; len(got) != 5 || got[0] != since {
		t.Errorf("since %d: %v, want the 5 newest points", since, got)
	}
}

func TestEstimatesAreLabelled(t *testing.T) {
	t.Parallel()
	rec := ask(t, newWorld(), "/charts/split-latency?split=payments")
	if body := rec.Body.String(); !strings.Contains(body, "us (mean, est.)") || !strings.Contains(body, "estimated from rates") {
		t.Error("the line of a consumer that is not sampled is not labelled as an estimate")
	}
}

func TestChartsSayWhatChanged(t *testing.T) {
	t.Parallel()
	rec := ask(t, newWorld(), "/charts/split-share?split=orders&range=1h")
	for _, want := range []string{"rev 3", "Revision 4 at", "East carries more since the upgrade"} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("the chart does not say %q", want)
		}
	}
}
