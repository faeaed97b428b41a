package handlers

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

func (w *world) services(names ...string) {
	for i, name := range names {
		w.snap.Services = append(w.snap.Services, fleet.Service{Account: "APP", Name: name, ID: "inst" + string(rune('A'+i)), Version: "1.2.0", Metadata: map[string]string{"region": "eu", "_nats.client.library": "nats.go"},
			Started: epoch.Add(-time.Hour), At: epoch, Endpoints: []fleet.Endpoint{
				{Name: "charge", Subject: "pay.charge", Requests: 1000, Errors: 50, ProcessingTime: 20 * time.Second, Data: []byte(`{"cpu":12}`), LastError: "500:card declined"},
				{Name: "refund", Subject: "pay.refund"},
			}})
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.get("/services").status(200)
	a.says("main", "2 services in 2 instances; 2,000 requests since their starts, 100 errors.").says("services", "region eu").says("services", "20 ms").says("services", "5.0").says("services", `{"cpu":12}`)
	if strings.Contains(text(a.id("services")), "nats.go") {
		t.Error("the client library's own labels are shown")
	}
	var lines []serviceLine
	if err := json.Unmarshal(st.get("/services.json?service=pay&sort=-requests").status(200).Body.Bytes(), &lines); err != nil || len(lines) != 2 || lines[0].Endpoint != "charge" || lines[0].MeanMS != 20 || lines[0].Errors != 50 {
		t.Errorf("services.json: %v, %+v", err, lines)
	}
	if csv := st.get("/services.csv").status(200).Body.String(); strings.Count(csv, "\n") != 5 || !strings.Contains(csv, "card declined") {
		t.Errorf("services.csv: %s", csv)
	}
	newSite(t, emptyWorld()).get("/services").status(200).says("services", "No micro service answered")
	up, err := servicePages.topic(st.s)(t.Context(), "service=pay")
	if key := htmlID("svc", "APP\x00pay\x00instA\x00charge\x00pay.charge") + "/requests"; err != nil || up.Text[key] != "1,000" {
		t.Errorf("the tick: %v, %v", err, up.Text)
	}
}

func TestServicesOfHostileNames(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.services(hostile...)
	st := newSite(t, w)
	a := st.get("/services").status(200)
	for n := range a.doc.Descendants() {
		if n.Data == "script" && attr(n, "src") == "" || n.Data == "img" {
			t.Errorf("a name became markup: <%s>", n.Data)
		}
	}
	for _, name := range hostile {
		st.get(instancesURL("APP", name)).status(200)
		st.get(serviceURL("APP", name)).status(200).says("main", "Endpoints")
	}
}
