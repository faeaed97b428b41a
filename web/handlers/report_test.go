package handlers

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"ballast/traffic"
)

// The changes of a span must be found in the report whatever its form.
func TestReportsContainTheChanges(t *testing.T) {
	t.Parallel()
	w := newWorld()
	const reason, outcome = "Try an even front", "p99 of worker-west-1 rose from 21 ms to 64 ms."

	file := ask(t, w, "/reports/orders.html?range=1h")
	if file.Code != http.StatusOK || !strings.HasPrefix(file.Header().Get("Content-Disposition"), `attachment; filename="ballast-report-orders-`) {
		t.Fatalf("HTML: %d %v", file.Code, file.Header())
	}
	page := ask(t, w, "/reports/orders?range=1h")
	for name, body := range map[string]string{"file": file.Body.String(), "page": page.Body.String()} {
		for _, want := range []string{reason, outcome, "Revision 3", "rolled back", "50 %", "−10", "29 ms", "Move 20 points of orders to worker-east-1", "n3 restarted", "measured, 770,400 samples, 100 %", "<b>160</b>", "34 → 60 %", w.entries[0].Hash, "0.1.0-test"} {
			if !strings.Contains(body, want) && !strings.Contains(body, html.EscapeString(want)) {
				t.Errorf("%s: no %q", name, want)
			}
		}
	}

	rows, err := csv.NewReader(ask(t, w, "/reports/orders.csv?range=1h").Body).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	col := func(row []string, name string) string { return row[slices.Index(reportCols, name)] }
	kinds := map[string]int{}
	found := false
	for _, row := range rows[1:] {
		kinds[col(row, "record")]++
		if col(row, "record") == "move" && col(row, "revision") == "3" && col(row, "name") == "worker-east-1" {
			found = col(row, "set_before_percent") == "50" && col(row, "set_after_percent") == "40"
		}
		if col(row, "record") == "change" && col(row, "revision") == "3" && (col(row, "status") != "rolled back" || !strings.Contains(col(row, "text"), reason) || col(row, "p99_before_ms") != "31") {
			t.Errorf("CSV: change 3 is %q", row)
		}
	}
	if !found || kinds["target"] != 3 || kinds["change"] != 4 || kinds["suggestion"] != 3 || kinds["event"] == 0 || kinds["journal"] == 0 {
		t.Errorf("CSV: found the move: %v, rows %v", found, kinds)
	}

	var doc reportDoc
	if err := json.Unmarshal(ask(t, w, "/reports/orders.json?range=1h").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(doc.Changes, func(c traffic.Change) bool { return c.Revision == 3 })
	if i < 0 || doc.Changes[i].Reason != reason || doc.Changes[i].Phase != traffic.RolledBack || doc.Changes[i].After.Weights()["worker-east-1"] != 40 {
		t.Errorf("JSON: change 3 is not as it was: %+v", doc.Changes)
	}
	if doc.Targets[0].P99MS == nil || *doc.Targets[0].P99MS < 150 || *doc.Targets[0].SetFrom != 34 || *doc.Targets[0].SetTo != 60 || doc.Hash != w.entries[0].Hash {
		t.Errorf("JSON: target is %+v", doc.Targets[0])
	}
}

func TestReportOfAnotherSpanLeavesTheChangesOut(t *testing.T) {
	t.Parallel()
	w := newWorld()
	rec := ask(t, w, "/reports/orders?from="+epoch.Add(-55*time.Minute).Format(time.RFC3339)+"&to="+epoch.Add(-50*time.Minute).Format(time.RFC3339))
	body := rec.Body.String()
	if rec.Code != http.StatusOK || !strings.Contains(body, "Its weights were not changed.") || strings.Contains(body, "Try an even front") {
		t.Errorf("%d: a span without changes shows some", rec.Code)
	}
	// What is on the screen is what the files hold.
	if !strings.Contains(body, "/reports/orders.csv?from=1773") {
		t.Error("the link to the CSV does not keep the span")
	}
}

// The file must not need, load or run anything.
func TestReportFileStandsByItself(t *testing.T) {
	t.Parallel()
	body := ask(t, newWorld(), "/reports/orders.html?range=1h").Body.String()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	svgs, styles := 0, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "link", "img", "iframe", "object", "base", "form":
			t.Errorf("the file contains <%s>", n.Data)
		case "svg":
			svgs++
		case "style":
			styles++
		}
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" {
				t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
			}
		}
	}
	if svgs < 4 || styles != 1 {
		t.Errorf("%d drawings and %d style elements, want at least 4 and 1", svgs, styles)
	}
	if strings.Contains(body, "url(") || strings.Contains(body, "@import") {
		t.Error("the file's style loads something")
	}
}

func TestReportsPage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	body := ask(t, w, "/reports").Body.String()
	for _, want := range []string{`<option value="orders">`, "/reports/payments.html?range=1h", "last 24 hours"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for url, want := range map[string]string{
		"/reports?split=orders&range=1h&as=":                                "/reports/orders?range=1h",
		"/reports?split=orders&range=1h&as=csv":                             "/reports/orders.csv?range=1h",
		"/reports?split=orders&range=1h&from=2026-03-14T08:00&to=&as=html":  "/reports/orders.html?from=1773475200000&to=1773480413000",
		"/reports?split=..%2F..%2Fevil%3Fx&range=1h&as=https%3A%2F%2Fevil/": "/reports/..%2F..%2Fevil%3Fx?range=1h",
	} {
		rec := ask(t, w, url)
		if rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != want {
			t.Errorf("%s leads to %d %s, want %s", url, rec.Code, rec.Header().Get("Location"), want)
		}
	}
	for url, want := range map[string]int{
		"/reports/nothing":                      http.StatusNotFound,
		"/reports/orders.pdf":                   http.StatusNotFound,
		"/reports/orders?range=x":               http.StatusUnprocessableEntity,
		"/reports?split=orders&from=never&as=":  http.StatusUnprocessableEntity,
		"/reports/orders?from=2026&to=2025":     http.StatusUnprocessableEntity,
		"/reports/orders.json?from=1&to=999999": http.StatusOK,
	} {
		if rec := ask(t, w, url); rec.Code != want {
			t.Errorf("%s: %d, want %d", url, rec.Code, want)
		}
	}
	if body := ask(t, emptyWorld(), "/reports").Body.String(); !strings.Contains(body, "no split to report on") {
		t.Error("without splits the page does not say so")
	}
}
