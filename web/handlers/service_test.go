package handlers

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

func TestServicePage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	first := &w.snap.Services[0]
	first.Description, first.Endpoints[0].Queue = "takes money", "q"
	first.Endpoints[0].Data = []byte(`{"cpu":12.5,"rss":1048576}`)
	second := *first
	second.ID, second.Version, second.Metadata, second.At = "instZ", "1.3.0", map[string]string{"region": "us"}, epoch.Add(-time.Hour)
	second.Endpoints = []fleet.Endpoint{{Name: "charge", Subject: "pay.charge", Queue: "q", Requests: 1000, Errors: 150, ProcessingTime: 40 * time.Second}}
	w.snap.Services = append(w.snap.Services, second)
	st := newSite(t, w)
	st.get("/services").says("services", "pay")
	a := st.get("/services/APP/pay").status(200)
	for _, want := range []string{"takes money", "1.2.0 ×1, 1.3.0 ×1", "eu ×1, us ×1", "1 of 2 instances are silent", "2,000", "10 %", "1.00 MiB", "12.5", "silent for 1 h", "500:card declined", "nats micro stats pay", "By hand"} {
		a.says("main", want)
	}
	// Both instances' requests of one endpoint are one row: 2,000 requests in 60 s.
	if got := text(a.id("svc-ends")); !strings.Contains(got, "30 ms") || !strings.Contains(got, "refund") {
		t.Errorf("the endpoints: %s", got)
	}
	for _, id := range []string{"service-requests", "service-time", "service-errors", "service-instances", "service-cpu", "service-memory"} {
		if !strings.Contains(a.Body.String(), "/charts/"+id+"?") {
			t.Errorf("no chart %s", id)
		}
		st.get("/charts/" + id + "?account=APP&service=pay").status(200)
		st.get("/charts/" + id + ".csv?account=APP&service=pay").status(200)
	}
	if body := st.get("/charts/service-time.csv?account=APP&service=pay").Body.String(); !strings.Contains(body, "charge") || !strings.Contains(body, "refund") {
		t.Errorf("the chart has no line for each endpoint: %.300s", body)
	}
	var lines []serviceLine
	if err := json.Unmarshal(st.get("/services/APP/pay.json").status(200).Body.Bytes(), &lines); err != nil || len(lines) != 3 || lines[2].Version != "1.3.0" {
		t.Errorf("pay.json: %v, %+v", err, lines)
	}
	if csv := st.get("/services/APP/pay.csv").status(200).Body.String(); strings.Count(csv, "\n") != 4 {
		t.Errorf("pay.csv: %s", csv)
	}
	if !strings.Contains(a.Body.String(), "/export?key=APP%2Fpay&amp;kind=micro+service") {
		t.Error("what is recorded cannot be downloaded")
	}
	st.get("/services/APP/nobody").status(404)
	st.get("/services/OTHER/pay").status(404)
	up, err := st.s.serviceTopic(t.Context(), "account=APP&service=pay")
	if key := htmlID("end", "APP\x00pay\x00charge") + "/requests"; err != nil || up.Text[key] != "2,000" {
		t.Errorf("the tick: %v, %v", err, up.Text)
	}
	if _, err := st.s.serviceTopic(t.Context(), "account=APP&service=nobody"); err == nil {
		t.Error("a service that is gone has a tick")
	}
}

// All instances silent is said plainly; their figures stay, dated.
func TestServiceThatFellSilent(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.snap.Services[0].At = epoch.Add(-time.Hour)
	w.snap.Services[0].Endpoints = nil
	newSite(t, w).get("/services/APP/pay").status(200).says("main", "no new data for 1 h").says("main", "No endpoints")
}

func TestCommandsAreHarmless(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		verb  string
		names []string
		want  string
	}{
		{"nats micro info", []string{"pay"}, "nats micro info pay"},
		{"nats micro info", []string{"it's; rm -rf /"}, `nats micro info 'it'\''s; rm -rf /'`},
		{"nats micro info", []string{"--server=evil", "x"}, "nats micro info -- --server=evil x"},
		{"nats micro info", []string{"a\x1b[31m"}, ""},
		{"nats micro info", []string{"a\nb"}, ""},
		{"nats micro info", []string{"a\xff"}, ""},
		{"nats micro info", []string{""}, "nats micro info ''"},
		{"nats server request varz --name=", []string{"$(id)"}, "nats server request varz --name='$(id)'"},
		{"nats server request varz --name=", []string{"--all"}, "nats server request varz --name=--all"},
		{"nats server request varz --name=", []string{"a\x00"}, ""},
	} {
		if got := shellLine(c.verb, c.names...); got != c.want {
			t.Errorf("shellLine(%q, %q) = %q, want %q", c.verb, c.names, got, c.want)
		}
	}
}

// The page of a past moment is the same page, of what was recorded then.
func TestServicePageOfThePast(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	a := st.get(at("/services/APP/pay", then)).status(200).says("main", "pay").says("main", "Endpoints").says("main", "charge")
	if !strings.Contains(a.Body.String(), `href="/accounts/APP?at=`) {
		t.Error("its links do not keep the moment")
	}
	var lines []serviceLine
	if err := json.Unmarshal(st.get(at("/services/APP/pay.json", then)).status(200).Body.Bytes(), &lines); err != nil || len(lines) != 2 {
		t.Errorf("pay.json of then: %v, %+v", err, lines)
	}
	st.get(at("/services/APP/nobody", then)).status(404)
	st.get("/services/APP/pay?at=2h").status(404) // nothing is recorded of that
}
