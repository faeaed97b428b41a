package handlers

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

func TestReady(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*world)
		status int
		wrong  string
	}{
		{"all is well", func(*world) {}, http.StatusOK, ""},
		{"nothing was seen", func(w *world) { w.snap = &fleet.Snapshot{} }, http.StatusServiceUnavailable, "snapshot"},
		{"the figures are old", func(w *world) { w.snap.TakenAt = epoch.Add(-time.Minute) }, http.StatusServiceUnavailable, "snapshot"},
		{"no leader", func(w *world) {
			w.ready = &fleet.Error{Kind: fleet.Unavailable, Msg: "No quorum.", Hint: "Start a server."}
		}, http.StatusServiceUnavailable, "control"},
		{"the store is broken", func(w *world) { w.metricsErr = errors.New("disk I/O error at /secret/path") }, http.StatusServiceUnavailable, "store"},
	} {
		w := newWorld()
		tc.change(w)
		rec := ask(t, w, "/readyz")
		var doc readyDoc
		if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
			t.Fatalf("%s: %v in %s", tc.name, err, rec.Body)
		}
		if rec.Code != tc.status || doc.Ready != (tc.status == http.StatusOK) || len(doc.Checks) != 3 {
			t.Errorf("%s: %d %+v, want %d", tc.name, rec.Code, doc, tc.status)
		}
		for _, c := range doc.Checks {
			if c.OK == (c.Name == tc.wrong) || c.Text == "" {
				t.Errorf("%s: check %s is %+v", tc.name, c.Name, c)
			}
		}
		if strings.Contains(rec.Body.String(), "secret") {
			t.Errorf("%s: the cause is shown to whoever asks", tc.name)
		}
		if rec := ask(t, w, "/healthz"); rec.Code != http.StatusOK {
			t.Errorf("%s: /healthz is %d, want 200 as long as the process runs", tc.name, rec.Code)
		}
	}
}

func TestProbesAnswerByAnyName(t *testing.T) {
	t.Parallel()
	s := New(newWorld().deps())
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusOK, "/metrics": http.StatusOK, "/": http.StatusMisdirectedRequest} {
		rec, req := newRequest(path)
		req.Host = "10.42.0.7:8080"
		s.Handler().ServeHTTP(rec, req)
		if rec.Code != want {
			t.Errorf("%s by an address that is not ours: %d, want %d", path, rec.Code, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.snap.Servers[2].State = fleet.Unreachable
	w.snap.Consumers[0].Consumer = "hostile\"\n\xff"
	body := ask(t, w, "/metrics").Body.String()
	for _, want := range []string{
		`ballast_servers{state="healthy"} 2`, `ballast_servers{state="unreachable"} 1`, `ballast_server_up{cluster="demo",server="n3"} 0`,
		`ballast_consumer_pending{account="APP",consumer="worker-east-1",stream="ORDERS"} 812`,
		`ballast_split_weight_percent{split="orders",target="worker-east-1"} 60`, `ballast_split_observed_percent{split="orders",target="worker-east-1"} 59.9`,
		`ballast_target_ack_latency_seconds{quantile="0.99",split="orders",target="worker-east-1"} 0.16`, `ballast_target_ack_latency_mean_seconds{estimated="true",split="payments",target="us"}`,
		`ballast_collector_requests 12`, `ballast_snapshot_age_seconds 0.6`, `ballast_suggestions_open 1`, `ballast_control_ready 1`, `ballast_build_info{version="0.1.0-test"} 1`,
		`consumer="hostile\"\n` + "\uFFFD" + `"`, "go_goroutines",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	line := regexp.MustCompile(`^(#.*|[a-z_:][a-z0-9_:]*(\{.*\})? [-+0-9.eEINaf]+)$`)
	for l := range strings.Lines(body) {
		if !line.MatchString(strings.TrimSuffix(l, "\n")) {
			t.Errorf("not in the text format: %q", l)
		}
	}
}

func TestMetricsOfRequestsNameRoutesNotURLs(t *testing.T) {
	t.Parallel()
	w := newWorld()
	s := New(w.deps())
	get := func(url string) string {
		rec, req := newRequest(url)
		s.Handler().ServeHTTP(rec, req)
		return rec.Body.String()
	}
	get("/reports/orders?range=1h")
	get("/reports/nothing")
	get("/no/such/page")
	body := get("/metrics")
	for _, want := range []string{`ballast_http_request_duration_seconds_count{method="GET",route="/reports/:split",status="2xx"} 1`, `route="/reports/:split",status="4xx"} 1`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, "no/such/page") {
		t.Error("a URL became a label: whoever asks for many pages fills the memory")
	}
}

func TestMetricsOfABrokenStoreStillShowTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.metricsErr = errors.New("disk I/O error")
	rec := ask(t, w, "/metrics")
	if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), `ballast_servers{state="healthy"} 3`) {
		t.Errorf("%d: %.300s", rec.Code, rec.Body)
	}
}

// A scraper may ask by any name, a page in a browser may not.
func TestMetricsUnderAnyName(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	st.get("/metrics", "Host", "ballast.monitoring:8080", "User-Agent", "Prometheus/3.1.0", "Accept", "text/plain").status(http.StatusOK)
	for _, h := range []string{"Accept-Language", "Sec-Fetch-Site", "Origin", "Referer", "Cookie"} {
		st.get("/metrics", "Host", "rebound.example", h, "x").status(http.StatusMisdirectedRequest)
	}
	st.ask("POST", "/metrics", nil, "Host", "ballast.monitoring:8080").status(http.StatusMisdirectedRequest)
	st.get("/metrics.json", "Host", "ballast.monitoring:8080").status(http.StatusMisdirectedRequest)
	st.get("/metrics", "Accept-Language", "en").status(http.StatusOK) // by our own name, as ever
}
