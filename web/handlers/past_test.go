package handlers

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"ballast/fleet"
	"ballast/traffic"
)

// then is a moment of the fixture: revision 3 of orders was in force.
var then = epoch.Add(-20 * time.Minute)

func at(path string, when time.Time) string {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return path + sep + "at=" + url.QueryEscape(momentText(when))
}

func TestMomentsAreReadInEveryForm(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]time.Time{
		"2026-03-14T09:06:53Z": then, "2026-03-14T10:06:53+01:00": then, "2026-03-14T10:06:53 01:00": then, "1773479213000": then,
		"-20m": then, "20m": then, "2h": epoch.Add(-2 * time.Hour), "3d": epoch.Add(-72 * time.Hour), "-1h30m": epoch.Add(-90 * time.Minute), "2026-03-14T09:06:53": then,
	} {
		if got, err := parseAt(v, epoch); err != nil || !got.Equal(want) {
			t.Errorf("parseAt(%q) = %v, %v, want %v", v, got, err, want)
		}
	}
	for _, v := range []string{"yesterday", "20 minutes", "1e9d", "--5m", "2027-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "<script>"} {
		if got, err := parseAt(v, epoch); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("parseAt(%q) = %v, %v, want Invalid", v, got, err)
		}
	}
}

// Every page answers a past moment: with its banner, without a live stream, with
// links that keep the moment and forms that are switched off.
func TestEveryPageKnowsThePast(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.bake()
	w.found()
	st := newSite(t, w)
	for _, p := range append(allPages, "/topology", "/topology?server=n1&overlay=streams", "/reports", "/reports/orders", "/charts/server-cpu?server=n1") {
		if p == "/demo" || p == "/nothing-here" {
			continue
		}
		a := st.get(at(p, then))
		if a.Code != 200 && a.Code != 404 {
			t.Errorf("%s at %s = %d: %s", p, momentText(then), a.Code, text(a.doc))
		}
		banner := find(a.doc, func(n *html.Node) bool { return attr(n, "class") == "past" })
		if got := text(banner); !strings.Contains(got, "As it was at 09:06:53 UTC") {
			t.Errorf("%s: the banner says %q", p, got)
		}
		if find(a.doc, func(n *html.Node) bool { return attr(n, "id") == "live" }) != nil {
			t.Errorf("%s: the past is live", p)
		}
		for n := range a.doc.Descendants() {
			for _, key := range []string{"href", "action", "hx-get", "hx-post", "data-src"} {
				v := attr(n, key)
				if !strings.HasPrefix(v, "/") || strings.HasPrefix(v, "/static/") || has(n, "data-at-own") || v == "/theme" {
					continue
				}
				u, err := url.Parse(v)
				if err != nil || u.Query().Get("at") != momentText(then) {
					t.Errorf("%s: %s=%q has not the moment (%v)", p, key, v, err)
				}
			}
			if n.Data == "form" && attr(n, "method") == "post" && attr(n, "action") != "/theme" {
				for d := range n.Descendants() {
					if (d.Data == "input" || d.Data == "button" || d.Data == "select" || d.Data == "textarea") && !within(d, "past-off") {
						t.Errorf("%s: a control of the form %s works", p, attr(n, "action"))
					}
				}
			}
		}
	}
}

func within(n *html.Node, class string) bool {
	for p := n.Parent; p != nil; p = p.Parent {
		if attr(p, "class") == class && has(p, "disabled") {
			return true
		}
	}
	return false
}

func TestThePastIsAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	st.get(at("/consumers", then)).status(200).says("consumers", "819") // the fixture had 7 more then
	var cons []consumerDoc
	if err := json.Unmarshal(st.get(at("/consumers.json?sort=-pending", then)).status(200).Body.Bytes(), &cons); err != nil || cons[0].Pending != 819 {
		t.Errorf("consumers.json: %v, %+v", err, cons)
	}
	if csv := st.get(at("/consumers.csv", then)).status(200); !strings.Contains(csv.Body.String(), ",819,") || !strings.Contains(csv.Header().Get("Content-Disposition"), "20260314-090653") {
		t.Errorf("consumers.csv: %v\n%s", csv.Header(), csv.Body)
	}
	// Revision 3 of orders was in force, and what came after is not known.
	a := st.get(at("/splits/orders", then)).status(200)
	a.says("main", "Try an even front")
	if got := text(a.id("main")); strings.Contains(got, "East carries more since the upgrade") || strings.Contains(got, "Move 20 points of orders away") {
		t.Errorf("the past knows what came later: %s", got)
	}
	for _, e := range journalOf(t, st, at("/journal.json", then)) {
		if e.At.After(then) {
			t.Errorf("the journal of then has %+v", e)
		}
	}
	// The present is not touched by it.
	st.get("/consumers").says("consumers", "812")
}

type entryDoc struct {
	At time.Time `json:"at"`
}

func journalOf(t *testing.T, st *site, path string) []entryDoc {
	t.Helper()
	var all []entryDoc
	if err := json.Unmarshal(st.get(path).status(200).Body.Bytes(), &all); err != nil || len(all) == 0 {
		t.Fatalf("%s: %v, %d entries", path, err, len(all))
	}
	return all
}

func TestChartsEndAtTheMoment(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	var doc chartDoc
	if err := json.Unmarshal(st.get(at("/charts/server-cpu.json?range=1h&server=n1", then)).status(200).Body.Bytes(), &doc); err != nil || !doc.To.Equal(then) || !doc.From.Equal(then.Add(-time.Hour)) {
		t.Errorf("the chart covers %s to %s, %v", doc.From, doc.To, err)
	}
}

func TestTheWayThroughThePast(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	links := map[string]string{}
	banner := find(st.get(at("/consumers?stream=ORDERS", then)).status(200).doc, func(n *html.Node) bool { return attr(n, "class") == "past" })
	for n := range banner.Descendants() {
		if n.Data == "a" {
			links[text(n)] = attr(n, "href")
		}
	}
	for label, want := range map[string]time.Time{"−1 h": then.Add(-time.Hour), "−10 min": then.Add(-10 * time.Minute), "+1 min": then.Add(time.Minute), "+10 min": then.Add(10 * time.Minute)} {
		u, err := url.Parse(links[label])
		if err != nil || u.Query().Get("at") != momentText(want) || u.Query().Get("stream") != "ORDERS" {
			t.Errorf("%s leads to %q, want %s", label, links[label], momentText(want))
		}
	}
	if links["+1 h"] != "" {
		t.Errorf("a step leads into the future: %q", links["+1 h"])
	}
	if links["Back to now"] != "/consumers?stream=ORDERS" {
		t.Errorf("back to now leads to %q", links["Back to now"])
	}
	// And from now: the bar has the way there.
	now := st.get("/consumers?stream=ORDERS").status(200)
	if find(now.doc, func(n *html.Node) bool { return attr(n, "name") == "at" }) == nil {
		t.Error("there is no way into the past")
	}
	if find(now.doc, func(n *html.Node) bool { return attr(n, "class") == "past" }) != nil {
		t.Error("now is taken for the past")
	}
}

func TestTheLimitsOfThePast(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	st.get("/?at=yesterday").status(422).says("main", "The moment is not valid")
	st.get(at("/", epoch.Add(time.Minute))).status(422).says("main", "That moment lies in the future")
	a := st.get(at("/", epoch.Add(-3*time.Hour))).status(404)
	a.says("main", "Nothing is recorded of 06:26:53 UTC").says("main", "Back to now").says("main", "+1 h")
	st.get(at("/consumers/APP/ORDERS/nobody", then)).status(404).says("main", "As it was at")
	if a := st.get(at("/splits.json", epoch.Add(-3*time.Hour))).status(404); !strings.Contains(a.Body.String(), "Nothing is recorded") {
		t.Errorf("JSON says %s", a.Body)
	}
	before := len(w.changes)
	a = st.ask("POST", at("/splits/orders/apply", then), weightsForm("4", "40", "40", "20", "From the past")).status(403)
	a.says("main", "You are looking at the past: nothing can be changed from there.")
	if len(w.changes) != before {
		t.Error("something was changed from the past")
	}
	w.metricsErr = &fleet.Error{Kind: fleet.Unavailable, Msg: "The store is closed."}
	st.get(at("/", then)).status(503).says("main", "The store is closed.")
}

// Hostile names cannot break out of the markup that is rewritten, nor fake a
// link or a form of it.
func TestHostileNamesInThePast(t *testing.T) {
	t.Parallel()
	for _, name := range append([]string{`x" href="/splits" data-at-own href="/y`, `</form><form action="/splits/orders/delete" method="post">`}, hostile...) {
		w := newWorld()
		k := fleet.ConsumerKey{Account: name, Stream: name, Consumer: name}
		w.snap.Consumers = append(w.snap.Consumers, fleet.Consumer{ConsumerKey: k, At: w.snap.TakenAt})
		st := newSite(t, w)
		now, past := st.get("/consumers").status(200), st.get(at("/consumers", then)).status(200)
		if a, b := countTags(now.doc, "form"), countTags(past.doc, "form"); a != b {
			t.Errorf("%q: %d forms now, %d in the past", name, a, b)
		}
		st.get(at(consumerURL(k), then)).status(200).says("main", "As it was at")
	}
}

func countTags(n *html.Node, tag string) int {
	c := 0
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && d.Data == tag {
			c++
		}
	}
	return c
}

// A journal that cannot be read as it stood then is an error with its page, and
// nothing worse.
func TestJournalThatCannotBeReadOfThePast(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.entries[0].At, w.entries[0].Kind, w.entries[0].Data = then.Add(-time.Second), traffic.EntryWritten, []byte("{")
	st := newSite(t, w)
	var log bytes.Buffer
	st.s.Log = slog.New(slog.NewTextHandler(&log, nil))
	st.get(at("/accounts/APP", then)).status(500).says("main", "Something went wrong here")
	if strings.Contains(log.String(), "panicked") || !strings.Contains(log.String(), "read journal entry") {
		t.Errorf("the log says %s", log.String())
	}
}
