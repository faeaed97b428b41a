package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

// fakeFindings is the record of the fixture's findings.
type fakeFindings struct {
	all []fleet.Finding // open and closed, newest first
	err error           // what Suppress answers
}

func (f *fakeFindings) Open() []fleet.Finding {
	open := slices.DeleteFunc(slices.Clone(f.all), func(x fleet.Finding) bool { return !x.Open() })
	fleet.SortFindings(open)
	return open
}

func (f *fakeFindings) Findings(_ context.Context, q fleet.FindingFilter) ([]fleet.Finding, error) {
	var out []fleet.Finding
	for _, x := range f.all {
		if (q.Key.Code == "" || x.FindingKey == q.Key) && (q.Closed || x.Open()) && len(out) < q.Limit {
			out = append(out, x)
		}
	}
	return out, nil
}

func (f *fakeFindings) Suppress(_ context.Context, k fleet.FindingKey, s fleet.Suppression) error {
	if f.err != nil {
		return f.err
	}
	for i := range f.all {
		if f.all[i].FindingKey == k && f.all[i].Open() {
			f.all[i].Suppressed = s
		}
	}
	return nil
}

func (f *fakeFindings) Lift(ctx context.Context, k fleet.FindingKey, _ string) error {
	return f.Suppress(ctx, k, fleet.Suppression{})
}

// found puts findings into the fixture: open, suppressed and over.
func (w *world) found() {
	consumer := fleet.FindingKey{Code: "CON003", Entity: fleet.Entity{Kind: fleet.KindConsumer, Key: "APP/ORDERS/worker-east-1"}}
	server := fleet.FindingKey{Code: "SRV001", Entity: fleet.Entity{Kind: fleet.KindServer, Key: "n3"}}
	w.findings = &fakeFindings{all: []fleet.Finding{
		{FindingKey: consumer, Severity: fleet.Warning, Title: "ACK latency is close to ack_wait", Text: "p99 is 21.3 s of 30 s over 840 samples. It rises.",
			Remedy: "Add workers.", Command: "nats consumer info ORDERS worker-east-1", Since: epoch.Add(-5 * time.Minute), LastSeen: epoch.Add(-time.Second),
			Evidence: []fleet.Evidence{{Name: "p99 ACK latency", Value: "21.3 s", Limit: "24 s", Source: fleet.AckSample, At: epoch.Add(-time.Second)}}},
		{FindingKey: server, Severity: fleet.Critical, Title: "Server does not answer", Text: "n3 was last seen 40 s ago.", Remedy: "Look at its log.", Since: epoch.Add(-time.Minute), LastSeen: epoch},
		{FindingKey: fleet.FindingKey{Code: "JS001", Entity: fleet.Entity{Kind: fleet.KindSystem}}, Severity: fleet.Info, Title: "Known defect", Text: "Version 2.10.1 has one.", Since: epoch.Add(-time.Hour), LastSeen: epoch,
			Suppressed: fleet.Suppression{By: "ada", Reason: "Upgrade is planned", At: epoch.Add(-time.Minute), Until: epoch.Add(time.Hour)}},
		{FindingKey: consumer, Severity: fleet.Warning, Title: "ACK latency is close to ack_wait", Text: "It was 25 s.", Since: epoch.Add(-3 * time.Hour), LastSeen: epoch.Add(-2 * time.Hour), Closed: epoch.Add(-2 * time.Hour)},
	}}
}

func TestFindingsList(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	st := newSite(t, w)
	a := st.get("/findings").status(200)
	a.says("main", "1 critical, 1 warning, 0 to know; 1 suppressed.").says("findings", "1 to 2 of 2")
	if got := text(a.id("findings")); strings.Index(got, "Server does not answer") > strings.Index(got, "ACK latency") || strings.Contains(got, "Known defect") {
		t.Errorf("the worst does not stand first, or a suppressed one is among them: %s", got)
	}
	st.get("/findings?state=suppressed").says("findings", "Known defect")
	st.get("/findings?state=closed").says("findings", "It was 25 s.")
	if got := text(st.get("/findings?severity=warning").id("findings")); strings.Contains(got, "Server does not answer") || !strings.Contains(got, "21.3 s") {
		t.Errorf("the filter by severity does not hold: %s", got)
	}
	st.get("/findings?kind=server").says("findings", "n3 was last seen").says("main", "Show all")
	st.get("/findings?q=nothing").says("findings", "No finding fits the filter.")
	st.get("/findings?state=odd").status(422)
	st.get("/findings?sort=odd").status(422)
	st.get("/findings?page=0").status(422)
	var docs []findingDoc
	if err := json.Unmarshal(st.get("/findings.json?sort=what").status(200).Body.Bytes(), &docs); err != nil || len(docs) != 2 || docs[0].Code != "CON003" || len(docs[0].Evidence) != 1 {
		t.Errorf("findings.json: %v, %+v", err, docs)
	}
	if csv := st.get("/findings.csv").status(200).Body.String(); strings.Count(csv, "\r\n") != 3 {
		t.Errorf("findings.csv:\n%s", csv)
	}
	none := newSite(t, newWorld())
	none.get("/findings").status(200).says("main", "Findings are not running")
	none.get("/findings.json").status(503)
}

func TestAFindingIsSuppressedAndLifted(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	st := newSite(t, w)
	p := findingURL(w.findings.all[0])
	a := st.get(p).status(200)
	a.says("main", "p99 is 21.3 s of 30 s").says("main", "Add workers.").says("finding-command", "nats consumer info ORDERS worker-east-1").says("main", "Other times")
	st.get(findingURL(w.findings.all[3])).status(200).says("main", "It was 25 s.")
	st.get("/findings/CON003?kind=consumer&key=other").status(404)
	action, form := a.form("suppress")
	form.Set("reason", "Load test until noon")
	form.Set("for", "8h")
	if got := st.ask("POST", action, form).status(303).Header().Get("Location"); !strings.HasPrefix(got, "/findings/CON003?") {
		t.Errorf("it leads to %q", got)
	}
	if s := w.findings.all[0].Suppressed; s.By != "ada" || s.Reason != "Load test until noon" || !s.Until.Equal(epoch.Add(8*time.Hour)) {
		t.Errorf("suppressed as %+v", s)
	}
	st.get(p).says("main", "Load test until noon").says("main", "Suppressed until 2026-03-14 17:26:53 UTC")
	st.ask("POST", "/findings/CON003/lift", url.Values{"kind": {"consumer"}, "key": {"APP/ORDERS/worker-east-1"}}).status(303)
	if s := w.findings.all[0].Suppressed; s.By != "" {
		t.Errorf("still suppressed: %+v", s)
	}
	w.findings.err = &fleet.Error{Kind: fleet.Invalid, Msg: "The finding was not suppressed.", Fields: map[string]string{"reason": "Give a reason."}}
	st.ask("POST", action, form).status(422).says("suppress", "Give a reason.")
	if got := st.ask("POST", action, form).field("reason"); got != "Load test until noon" {
		t.Errorf("what was typed is lost: %q", got)
	}
}

// The overview tells what the checks found, and once.
func TestOverviewTellsFindings(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	w.snap.Servers[2].State = fleet.Unreachable
	a := newSite(t, w).get("/").status(200)
	a.says("needs", "Server does not answer: n3").says("needs", "ACK latency is close to ack_wait: APP/ORDERS/worker-east-1")
	if got := text(a.id("needs")); strings.Contains(got, "Server n3 does not answer") || strings.Contains(got, "Known defect") {
		t.Errorf("said twice, or suppressed and said all the same: %s", got)
	}
}

func TestFindingsAreLive(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	s := New(w.deps())
	before, err := s.findingsTopic(t.Context(), "severity=critical")
	if err != nil {
		t.Fatal(err)
	}
	w.findings.all[1].Closed = epoch
	after, err := s.findingsTopic(t.Context(), "severity=critical")
	if err != nil {
		t.Fatal(err)
	}
	if before.Parts["findings"].shape == after.Parts["findings"].shape || before.Text["findings/sub"] == after.Text["findings/sub"] {
		t.Error("the list stays as it was when a finding is over")
	}
}

func TestListsComeInPages(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.findings = &fakeFindings{}
	for i := range 120 {
		w.findings.all = append(w.findings.all, fleet.Finding{FindingKey: fleet.FindingKey{Code: "STR001", Entity: fleet.Entity{Kind: fleet.KindStream, Key: fmt.Sprintf("APP/S%03d", i)}},
			Severity: fleet.Warning, Title: "Stream is nearly full", Text: "Full.", Since: epoch.Add(-time.Duration(i) * time.Second), LastSeen: epoch})
	}
	st := newSite(t, w)
	var seen []string
	for next := "/findings?sort=-entity"; next != ""; {
		a := st.get(next).status(200)
		next = ""
		for n := range a.doc.Descendants() {
			switch {
			case n.Data == "a" && attr(n, "rel") == "next":
				next = attr(n, "href")
			case n.Data == "bdi" && strings.HasPrefix(text(n), "APP/S"):
				seen = append(seen, text(n))
			}
		}
	}
	if len(seen) != 120 || seen[0] != "APP/S119" || !slices.IsSortedFunc(seen, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("%d rows on all pages, the first is %q", len(seen), seen[0])
	}
	st.get("/findings?page=9").status(200).says("findings", "101 to 120 of 120")
}
