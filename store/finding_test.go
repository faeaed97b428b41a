package store

import (
	"reflect"
	"testing"
	"time"

	"ballast/fleet"
)

// Findings and suppressions are there after a restart, one apart from the other.
func TestFindings(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{})
	key := fleet.FindingKey{Code: "JS001", Entity: fleet.Entity{Kind: fleet.KindConsumer, Key: "A/S/<b>'\";--"}}
	f := fleet.Finding{
		FindingKey: key, Severity: fleet.Warning, Title: "Lag grows", Text: "1,200 waiting", Remedy: "Add workers",
		Command: "nats consumer info 'S' 'C'", Since: c.now(), LastSeen: c.now(), Reopened: 2,
		Evidence: []fleet.Evidence{{Name: "pending", Value: "1,200", Limit: "500", Column: fleet.ColPending, Source: fleet.Monitoring, At: c.now()}},
	}
	other := f
	other.Code, other.Kind, other.Key, other.Since = "SRV002", fleet.KindServer, "n1", c.now().Add(time.Second)
	for range 2 { // a second time replaces
		if err := db.PutFindings(t.Context(), []fleet.Finding{f, other}); err != nil {
			t.Fatal(err)
		}
	}
	f.LastSeen = c.add(time.Minute)
	other.Closed = c.now()
	if err := db.PutFindings(t.Context(), []fleet.Finding{f, other}); err != nil {
		t.Fatal(err)
	}
	quiet := fleet.Suppression{By: "ann", Reason: "known", At: c.now(), Until: c.now().Add(time.Hour)}
	if err := db.Suppress(t.Context(), key, quiet); err != nil {
		t.Fatal(err)
	}
	f.Suppressed = quiet
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openTest(t, dir, c, Options{})
	get := func(q fleet.FindingFilter) []fleet.Finding {
		t.Helper()
		got, err := db.Findings(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, x := range []struct {
		what string
		q    fleet.FindingFilter
		want []fleet.Finding
	}{
		{"open", fleet.FindingFilter{}, []fleet.Finding{f}},
		{"closed too", fleet.FindingFilter{Closed: true}, []fleet.Finding{other, f}},
		{"closed before", fleet.FindingFilter{Closed: true, Range: fleet.Range{To: c.now()}}, []fleet.Finding{f}},
		{"closed since", fleet.FindingFilter{Closed: true, Range: fleet.Range{From: c.now()}}, []fleet.Finding{other, f}},
		{"by key", fleet.FindingFilter{Key: key, Closed: true}, []fleet.Finding{f}},
		{"by entity", fleet.FindingFilter{Entity: other.Entity, Closed: true}, []fleet.Finding{other}},
		{"limited", fleet.FindingFilter{Closed: true, Limit: 1}, []fleet.Finding{other}},
	} {
		if got := get(x.q); !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s: %+v, want %+v", x.what, got, x.want)
		}
	}
	state, err := db.FindingState(t.Context(), c.now())
	if err != nil || !reflect.DeepEqual(state.Open, []fleet.Finding{f}) || state.Suppressions[key] != quiet {
		t.Errorf("state %+v, %v", state, err)
	}
	if err := db.Suppress(t.Context(), key, fleet.Suppression{By: "ann"}); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("a suppression without an end: %v", err)
	}
	c.add(2 * time.Hour)
	if state, err := db.FindingState(t.Context(), c.now()); err != nil || len(state.Suppressions) != 0 {
		t.Errorf("ended suppressions: %+v, %v", state.Suppressions, err)
	}
	if err := db.Suppress(t.Context(), key, fleet.Suppression{}); err != nil || get(fleet.FindingFilter{})[0].Suppressed.By != "" {
		t.Errorf("lifting: %v", err)
	}
	c.add(100 * day)
	if err := db.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(fleet.FindingFilter{Closed: true}); len(got) != 1 || got[0].Code != f.Code {
		t.Errorf("after 100 days: %+v, want the open one", got)
	}
}
