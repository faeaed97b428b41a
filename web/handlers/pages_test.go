package handlers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/net/html"

	"ballast/fleet"
	"ballast/traffic"
)

// site is the real server over a fixture.
type site struct {
	tb testing.TB
	w  *world
	s  *Server
}

func newSite(tb testing.TB, w *world) *site {
	return &site{tb, w, New(w.deps())}
}

// ask sends a request like a browser on the console's own page does.
func (st *site) ask(method, target string, form url.Values, header ...string) *answer {
	st.tb.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequest(method, target, body)
	r.Host = "localhost:8080"
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	st.s.Handler().ServeHTTP(rec, r)
	a := &answer{tb: st.tb, what: method + " " + target, ResponseRecorder: rec}
	if strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") {
		doc, err := html.Parse(strings.NewReader(rec.Body.String()))
		if err != nil {
			st.tb.Fatalf("%s: parse answer: %v", a.what, err)
		}
		a.doc = doc
	}
	return a
}

func (st *site) get(target string, header ...string) *answer {
	st.tb.Helper()
	return st.ask("GET", target, nil, header...)
}

// answer is a response whose HTML can be asked.
type answer struct {
	*httptest.ResponseRecorder
	tb   testing.TB
	what string
	doc  *html.Node
}

func (a *answer) status(want int) *answer {
	a.tb.Helper()
	if a.Code != want {
		a.tb.Fatalf("%s = %d, want %d\n%s", a.what, a.Code, want, text(a.doc))
	}
	return a
}

// id finds an element, or fails.
func (a *answer) id(id string) *html.Node {
	a.tb.Helper()
	n := find(a.doc, func(n *html.Node) bool { return attr(n, "id") == id })
	if n == nil {
		a.tb.Fatalf("%s: there is no #%s in\n%s", a.what, id, text(a.doc))
	}
	return n
}

// says checks that an element holds a text.
func (a *answer) says(id, want string) *answer {
	a.tb.Helper()
	if got := text(a.id(id)); !strings.Contains(got, want) {
		a.tb.Errorf("%s: #%s says %q, want %q in it", a.what, id, got, want)
	}
	return a
}

// field is the value of a form's field.
func (a *answer) field(name string) string {
	a.tb.Helper()
	n := find(a.doc, func(n *html.Node) bool {
		return attr(n, "name") == name && (n.Data == "input" || n.Data == "select")
	})
	if n == nil {
		a.tb.Fatalf("%s: there is no field %s", a.what, name)
	}
	if n.Data == "select" {
		for o := range n.Descendants() {
			if o.Data == "option" && has(o, "selected") {
				return attr(o, "value")
			}
		}
	}
	return attr(n, "value")
}

// form collects the hidden fields and the action of the form with that id.
func (a *answer) form(id string) (action string, fields url.Values) {
	a.tb.Helper()
	f := a.id(id)
	fields = url.Values{}
	for n := range f.Descendants() {
		if n.Data == "input" && attr(n, "name") != "" {
			fields.Add(attr(n, "name"), attr(n, "value"))
		}
	}
	return attr(f, "action"), fields
}

func find(n *html.Node, ok func(*html.Node) bool) *html.Node {
	if n == nil {
		return nil
	}
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && ok(d) {
			return d
		}
	}
	return nil
}

func has(n *html.Node, key string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == key })
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// text is what a reader sees, with single spaces.
func text(n *html.Node) string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode && d.Parent.Data != "script" {
			b.WriteString(d.Data)
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// allPages are the URLs of every page of this half of the console.
var allPages = []string{"/", "/?range=6h", "/splits", "/splits/new", "/splits/orders", "/splits/orders?range=24h", "/splits/orders?proposal=p7", "/splits/orders/edit", "/splits/payments",
	"/suggestions", "/suggestions?state=open", "/suggestions?state=expired", "/suggestions/p7", "/suggestions/p3", "/journal", "/journal?split=orders&kind=change.verified", "/journal?before=5", "/journal/7",
	"/findings", "/findings?state=suppressed&sort=-since", "/findings?state=closed", "/findings/CON003?kind=consumer&key=APP%2FORDERS%2Fworker-east-1", "/findings/JS001?kind=system",
	"/consumers", "/consumers?sort=-pending&stream=ORDERS&q=worker", "/consumers/APP/ORDERS/worker-east-1", "/consumers/APP/PAYMENTS/us?range=1h", "/charts/consumer-heat" + heatOf, eastSettings,
	"/servers", "/servers?sort=-cpu", "/servers/n1", "/streams", "/streams/APP/ORDERS", "/connections", "/connections/sums", "/accounts", "/accounts/APP", "/cost", "/services", "/services?service=pay&sort=-requests", "/services/APP/pay", "/export?kind=consumer&key=APP%2FORDERS%2Fworker-east-1", "/find?q=n1", "/demo", "/nothing-here"}

// weightsForm is the form of orders as a browser sends it.
func weightsForm(base, east, west, backup, reason string) url.Values {
	return url.Values{"base": {base}, "w.worker-east-1": {east}, "w.worker-west-1": {west}, "w.worker-backup-1": {backup},
		"s.worker-east-1": {"READY"}, "s.worker-west-1": {"READY"}, "s.worker-backup-1": {"READY"}, "mode": {"suggest"}, "law": {"capacity"}, "reason": {reason}, "guard": {"1"}}
}

func TestEveryPageKeepsTheContentSecurityPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	st := newSite(t, w)
	for _, p := range allPages {
		a := st.get(p)
		if got := a.Header().Get("Content-Security-Policy"); got != csp {
			t.Errorf("%s: Content-Security-Policy = %q", p, got)
		}
		for _, h := range []string{"X-Content-Type-Options", "Referrer-Policy", "Permissions-Policy", "Cross-Origin-Opener-Policy"} {
			if a.Header().Get(h) == "" {
				t.Errorf("%s: no %s", p, h)
			}
		}
		main := 0
		ids := map[string]bool{}
		for n := range a.doc.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			if n.Data == "main" {
				main++
			}
			if n.Data == "style" || n.Data == "script" && attr(n, "src") == "" {
				t.Errorf("%s: inline <%s>", p, n.Data)
			}
			for _, at := range n.Attr {
				switch {
				case at.Key == "style", strings.HasPrefix(at.Key, "on"), strings.HasPrefix(at.Key, "hx-on"), strings.HasPrefix(at.Key, "hx-vals"):
					t.Errorf("%s: <%s %s=%q>", p, n.Data, at.Key, at.Val)
				case at.Key == "hx-trigger" && strings.Contains(at.Val, "["):
					t.Errorf("%s: hx-trigger with a filter: %q", p, at.Val)
				case at.Key == "id":
					if ids[at.Val] {
						t.Errorf("%s: the id %q stands twice", p, at.Val)
					}
					ids[at.Val] = true
				case at.Key == "href" && strings.HasPrefix(at.Val, "/static/"), at.Key == "src":
					if r := st.get(at.Val); r.Code != http.StatusOK {
						t.Errorf("%s: asset %s = %d", p, at.Val, r.Code)
					}
				}
			}
			if (n.Data == "input" || n.Data == "select") && attr(n, "type") != "hidden" && attr(n, "aria-label") == "" && !labelled(a.doc, n) {
				t.Errorf("%s: the field %q has no label", p, attr(n, "name"))
			}
		}
		if main != 1 {
			t.Errorf("%s: %d main elements", p, main)
		}
	}
}

// labelled reports whether a field stands in a label or is named by one.
func labelled(doc, field *html.Node) bool {
	for p := field.Parent; p != nil; p = p.Parent {
		if p.Data == "label" {
			return true
		}
	}
	id := attr(field, "id")
	return id != "" && find(doc, func(n *html.Node) bool { return n.Data == "label" && attr(n, "for") == id }) != nil
}

func TestEveryLinkOfThePagesLeadsSomewhere(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.found()
	st := newSite(t, w)
	seen := map[string]bool{}
	for _, p := range allPages {
		for n := range st.get(p).doc.Descendants() {
			u := attr(n, "href")
			if n.Data != "a" || !strings.HasPrefix(u, "/") || seen[u] {
				continue
			}
			seen[u] = true
			a := st.get(strings.Split(u, "#")[0])
			if a.Code == http.StatusNotFound && has(n, "data-at-own") {
				continue // what the page is about was not there then
			}
			if a.Code != http.StatusOK {
				t.Errorf("%s links to %s, which answers %d", p, u, a.Code)
			}
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d links were found", len(seen))
	}
}

// hostile are names that nats-server accepts, of the kinds that broke other consoles.
var hostile = []string{
	`x"onfocus="alert(1)"autofocus="`, `<script>alert(1)</script>`, `<img/src=x/onerror=alert(1)>`, `'onmouseover='alert(1)`, `javascript:alert(1)`, `=cmd|'calc'!A0`, `+1`, `-1+1`, `@SUM(A1)`,
	"\x1b[31mred", "a\u202egnp.exe", `"><div hx-get=/demo hx-trigger=load>`, `</title><script>`, `</textarea>`, `{{7*7}}`, `${7*7}`, `%0d%0aX:1`, "\u0000nul", `../../etc/passwd`, `a b`, strings.Repeat("A", 300), `&lt;b&gt;`, `<!--`, `]]>`,
	`" hx-on:click="alert(1)`, "\ufeffbom", `ﷺ`, `data:text/html,<script>`, `\u003cscript\u003e`, `<svg/onload=alert(1)>`,
}

// rename puts a name everywhere where NATS, a person or the tuner could.
func rename(w *world, name string) {
	snap := *w.snap
	snap.Problems = []fleet.Problem{{Where: name, What: name, Hint: name, Since: epoch}}
	snap.Servers = slices.Clone(snap.Servers)
	snap.Servers[0].Name, snap.Servers[0].Error, snap.Servers[0].State, snap.Servers[0].Version = name, name, fleet.Unreachable, name
	snap.Streams = slices.Clone(snap.Streams)
	snap.Streams[0].Stream, snap.Streams[0].Leader = name, ""
	snap.Consumers = append(slices.Clone(snap.Consumers), fleet.Consumer{ConsumerKey: fleet.ConsumerKey{Account: name, Stream: name, Consumer: name}, FilterSubjects: []string{name}, Leader: name, At: epoch})
	snap.Services = slices.Clone(snap.Services)
	one := &snap.Services[0] // of the page itself: its own name stays
	one.ID, one.Version, one.Description, one.Metadata = name, name, name, map[string]string{"region": name}
	one.Endpoints = []fleet.Endpoint{{Name: name, Subject: name, Queue: name, LastError: name, Data: []byte(name)}}
	w.snap = &snap
	w.found()
	for i := range w.findings.all {
		f := &w.findings.all[i]
		f.Title, f.Text, f.Remedy, f.Command, f.Suppressed.Reason = name, name, name, name, name
		f.Evidence = []fleet.Evidence{{Name: name, Value: name, Limit: name, Source: fleet.Monitoring, At: epoch}}
	}
	w.findings.all = append(w.findings.all, fleet.Finding{FindingKey: fleet.FindingKey{Code: "STR001", Entity: fleet.Entity{Kind: fleet.KindServer, Key: name}},
		Severity: fleet.Critical, Title: name, Text: name, Since: epoch.Add(-time.Minute), LastSeen: epoch})
	for i := range w.events {
		w.events[i].Entity, w.events[i].Text = name, name
	}
	for i := range w.entries {
		w.entries[i].Actor, w.entries[i].Text = name, name
	}
	for i := range w.changes {
		w.changes[i].Actor, w.changes[i].Reason, w.changes[i].Outcome = name, name, name
	}
	for i := range w.proposals {
		p := &w.proposals[i]
		p.Title, p.Why, p.ClosedBy, p.Guards = name, name, name, []string{name}
		p.Estimates = slices.Clone(p.Estimates)
		p.Estimates[0].Note = name
	}
	for k, d := range w.decisions {
		d.Why, d.Vetoes = name, []string{name}
		w.decisions[k] = d
	}
	for i := range w.splits {
		w.splits[i].Author, w.splits[i].Reason = name, name
		sp := &w.splits[i].Split
		sp.Targets = slices.Clone(sp.Targets)
		sp.Targets[0].Observe = &traffic.Observed{Account: name, Stream: name, Consumer: name}
	}
	for _, h := range w.history {
		for i := range h {
			h[i].Author, h[i].Reason = name, name
		}
	}
}

// skeleton is a page without its texts and attribute values.
func skeleton(doc *html.Node) string {
	var b strings.Builder
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		b.WriteString(n.Data)
		for _, a := range n.Attr {
			b.WriteString(" " + a.Key)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// A hostile name must give the same elements with the same attributes as a
// harmless one: then no markup came out of it.
func TestHostileNamesStayText(t *testing.T) {
	t.Parallel()
	pages := slices.DeleteFunc(slices.Clone(allPages), func(p string) bool {
		// Rows that are sorted by the name change places with it; those pages are in
		// TestHostileNamesOfThings.
		return p == "/find?q=n1" || strings.HasPrefix(p, "/servers") || strings.HasPrefix(p, "/streams") || strings.HasPrefix(p, "/accounts") || strings.HasPrefix(p, "/connections")
	})
	plain := map[string]string{}
	w := newWorld()
	rename(w, "A")
	st := newSite(t, w)
	for _, p := range pages {
		plain[p] = skeleton(st.get(p).doc)
	}
	for _, name := range hostile {
		w := newWorld()
		rename(w, name)
		st := newSite(t, w)
		for _, p := range pages {
			if got := skeleton(st.get(p).doc); got != plain[p] {
				t.Errorf("%s with the name %q has other elements:\n%s", p, name, firstDifference(plain[p], got))
			}
		}
		for _, p := range []string{"/suggestions.csv", "/journal.csv", "/splits.csv", "/findings.csv"} {
			for line := range strings.Lines(st.get(p).Body.String()) {
				for cell := range strings.SplitSeq(line, ",") {
					if cell = strings.TrimPrefix(cell, `"`); strings.HasPrefix(cell, "=") || strings.HasPrefix(cell, "@") {
						t.Errorf("%s with the name %q has the cell %q", p, name, cell)
					}
				}
			}
		}
		q := url.QueryEscape(name)
		for _, p := range []string{"/find?q=" + q, "/journal?split=" + q, "/journal?change=" + q, "/suggestions?split=" + q, "/journal?kind=" + q} {
			a := st.get(p)
			if n := find(a.doc, func(n *html.Node) bool {
				return n.Data == "img" || n.Data == "script" && attr(n, "src") == "" || has(n, "onerror") || has(n, "onload") || has(n, "onfocus")
			}); n != nil {
				t.Errorf("%s: <%s> came out of the URL", p, n.Data)
			}
		}
	}
}

func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return fmt.Sprintf("line %d: %q, want %q", i, bs[i], as[i])
		}
	}
	return fmt.Sprintf("%d elements, want %d", len(bs), len(as))
}

func TestForeignOriginsAreRefused(t *testing.T) {
	t.Parallel()
	for _, h := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}, {"Sec-Fetch-Site", "", "Origin", "null"}, {"Sec-Fetch-Site", "", "Origin", "http://localhost:9999"},
	} {
		w := newWorld()
		st := newSite(t, w)
		for _, p := range []string{"/splits/orders/apply", "/splits/orders/plan", "/splits/create", "/suggestions/p7/approve", "/suggestions/p7/dismiss", "/changes/c4/rollback", "/changes/c4/keep", "/splits/orders/delete", "/findings/CON003/suppress", "/findings/CON003/lift", "/consumers/APP/ORDERS/eu/measure", "/consumers/APP/ORDERS/eu/stop", eastSettings, eastSettings + "/apply", eastSettings + "/rollback", eastSettings + "/unpin", "/demo/kill", "/theme"} {
			a := st.ask("POST", p, weightsForm("4", "40", "40", "20", "x"), h...)
			if a.Code != http.StatusForbidden {
				t.Errorf("POST %s with %v = %d, want 403", p, h, a.Code)
			}
			if a.Header().Get("Content-Security-Policy") != csp {
				t.Errorf("POST %s with %v: the refusal has no CSP", p, h)
			}
		}
		if len(w.changes) != 4 || len(w.demo.asked) != 0 {
			t.Errorf("with %v something was done: %d changes, demo %v", h, len(w.changes), w.demo.asked)
		}
	}
}

func TestForeignHostNamesAreRefused(t *testing.T) {
	t.Parallel()
	d := newWorld().deps()
	d.Hosts = []string{"console.example:8443"}
	st := &site{t, nil, New(d)}
	for host, want := range map[string]int{
		"localhost:8080": 200, "127.0.0.1:8080": 200, "[::1]:8080": 200, "ballast.localhost": 200, "console.example:8443": 200,
		"evil.example": 421, "console.example.evil.example": 421, "10.0.0.1": 421, "": 421,
	} {
		if a := st.get("/splits", "Host", host); a.Code != want {
			t.Errorf("Host %q = %d, want %d", host, a.Code, want)
		}
	}
}

func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	before, _ := json.Marshal([]any{w.splits, w.changes, w.proposals, w.entries})
	st := newSite(t, w)
	for _, p := range append(slices.Clone(allPages), "/splits.json", "/splits.csv", "/splits/orders.json", "/splits/orders.csv", "/suggestions.json", "/journal.csv", "/journal/3.json") {
		st.get(p)
	}
	for _, p := range []string{"/splits/orders/apply", "/splits/orders/plan", "/changes/c4/rollback", "/suggestions/p7/approve", "/demo/slow", "/splits/create"} {
		if a := st.get(p); a.Code < 400 {
			t.Errorf("GET %s = %d, want a refusal", p, a.Code)
		}
	}
	after, _ := json.Marshal([]any{w.splits, w.changes, w.proposals, w.entries})
	if string(before) != string(after) || len(w.demo.asked) > 0 {
		t.Error("a GET changed something")
	}
}

func TestErrorsAreDrawnInOnePlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{errors.New("disk /secret/path is full"), 500, "Something went wrong here"},
		{&fleet.Error{Kind: fleet.Unavailable, Msg: "The store does not answer.", Hint: "Look at the disk."}, 503, "Look at the disk."},
		{fmt.Errorf("wrapped: %w", &fleet.Error{Kind: fleet.NotFound, Msg: "Gone."}), 404, "Gone."},
	} {
		w := newWorld()
		w.metricsErr = c.err
		st := newSite(t, w)
		page := st.get("/splits/orders").status(c.status)
		page.says("main", c.says)
		if strings.Contains(page.Body.String(), "/secret/path") {
			t.Error("the text of a defect was shown")
		}
		part := st.get("/splits/orders", "HX-Request", "true").status(c.status)
		if part.Header().Get("HX-Retarget") != "#alerts" || !strings.Contains(part.Body.String(), c.says) || strings.Contains(part.Body.String(), "<html") {
			t.Errorf("%v: the part is retargeted to %q and says %s", c.err, part.Header().Get("HX-Retarget"), part.Body)
		}
		var doc map[string]any
		if err := json.Unmarshal(st.get("/splits/orders.json").status(c.status).Body.Bytes(), &doc); err != nil || doc["error"] == "" {
			t.Errorf("%v as JSON: %v, %v", c.err, doc, err)
		}
	}
	st := newSite(t, newWorld())
	st.get("/nope").status(404).says("main", "There is no such page")
	st.ask("POST", "/journal", url.Values{"a": {"b"}}).status(405).says("main", "cannot be used that way")
	st.get("/splits/none").status(404).says("main", "There is no split")
	st.get("/?range=3y").status(422).says("main", "Choose 15m")
	st.get("/?from=x").status(422)
	st.ask("POST", "/splits/new", url.Values{"reason": {strings.Repeat("x", 80<<10)}}).status(413).says("main", "too much")
}

func TestAPanicIsAnErrorPage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.proposals = nil
	st := newSite(t, w)
	st.s.echo.GET("/panics", func(echo.Context) error { panic("boom") })
	a := st.get("/panics").status(500)
	a.says("main", "Something went wrong here")
	if a.Header().Get("Content-Security-Policy") != csp || a.Header().Get("X-Request-Id") == "" {
		t.Error("the error page has no CSP or no request id")
	}
}

func TestHeadIsAnsweredAsGet(t *testing.T) {
	t.Parallel()
	newSite(t, newWorld()).ask("HEAD", "/splits", nil).status(200)
}

func TestOnePageTwoSizes(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	whole := st.get("/splits").Body.String()
	a := st.get("/splits", "HX-Request", "true")
	if !strings.Contains(whole, a.Body.String()) {
		t.Error("the page does not contain the part")
	}
	if vary := strings.Join(a.Header().Values("Vary"), ", "); !strings.Contains(vary, "HX-Request") || !strings.Contains(vary, "HX-History-Restore-Request") {
		t.Errorf("Vary = %q", vary)
	}
	for _, h := range []string{"HX-Boosted", "HX-History-Restore-Request"} {
		if got := st.get("/splits", "HX-Request", "true", h, "true").Body.String(); !strings.Contains(got, "<html") {
			t.Errorf("with %s the answer is no page", h)
		}
	}
}

func TestOverview(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.bake()
	st := newSite(t, w)
	a := st.get("/").status(200)
	a.says("overview-status", "things need attention")
	a.says("needs", "worker-east-1: over capacity").says("needs", "Suggestion: Move 20 points").says("needs", "Revision 3 of orders was rolled back").says("needs", "Revision 4 of orders is being watched")
	a.says("split-health", "orders").says("split-health", "payments").says("latest", "orders revision 4").says("events", "n3 restarted")
	a.says("alerts", "Revision 4 of orders is being watched")
	if got := text(a.id("needs")); strings.Index(got, "over capacity") > strings.Index(got, "Suggestion") {
		t.Errorf("the worst does not stand first: %s", got)
	}

	calm := newWorld()
	calm.proposals, calm.decisions, calm.changes = nil, nil, nil
	a = newSite(t, calm).get("/").status(200)
	a.says("needs", "All is healthy: 3 servers, 5 consumers and 2 splits.").says("overview-status", "all healthy")
}

func TestOverviewSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := emptyWorld()
	a := newSite(t, w).get("/").status(200)
	a.says("forming", "Nothing was seen of NATS yet").says("forming", "NATS cannot be reached.").says("forming", "Check --nats").says("alerts", "Nothing can be applied now")
	a.says("pill", "No data yet")
	w.demo = &fakeDemo{}
	newSite(t, w).get("/").says("forming", "The demo cluster is forming")
	w.snap = &fleet.Snapshot{Problems: []fleet.Problem{{Where: "http://127.0.0.1:8222", What: "The connection was refused.", Hint: "Check the port."}}}
	newSite(t, w).get("/").says("forming", "http://127.0.0.1:8222: The connection was refused.").says("forming", "Check the port.")
	for _, p := range []string{"/splits", "/suggestions", "/journal", "/splits/new", "/find?q=x"} {
		newSite(t, w).get(p).status(200)
	}
}

func TestOldFiguresAreSaidToBeOld(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.now = func() time.Time { return epoch.Add(time.Minute) }
	a := newSite(t, w).get("/").status(200)
	a.says("pill", "Data 1 min old").says("needs", "The figures are old")
	if class := attr(a.id("pill"), "class"); !strings.Contains(class, "off") {
		t.Errorf("the pill looks alive: %q", class)
	}
	newSite(t, w).get("/splits/orders").says("split-status", "figures are old")
}

func TestSplitsList(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	a := st.get("/splits").status(200)
	a.says("splits", "orders").says("splits", "60 / 60 % worker-east-1").says("splits", "payments.capture")
	var docs []splitDoc
	if err := json.Unmarshal(st.get("/splits.json").status(200).Body.Bytes(), &docs); err != nil || len(docs) != 2 || docs[0].Targets[0].Set != 60 || docs[0].Targets[0].P99 == nil {
		t.Errorf("splits.json: %v, %+v", err, docs)
	}
	if docs[1].Targets[1].Quality != "estimated" || docs[1].Targets[1].P99 != nil || docs[1].Targets[2].Quality != "none" {
		t.Errorf("an estimate or a missing figure is not labelled: %+v", docs[1].Targets)
	}
	if csv := st.get("/splits.csv").status(200).Body.String(); strings.Count(csv, "\r\n") != 7 || !strings.Contains(csv, "orders,4,worker-east-1,") {
		t.Errorf("splits.csv:\n%s", csv)
	}
	w := newWorld()
	w.splits = nil
	newSite(t, w).get("/splits").says("main", "No split yet")
}

func TestSplitPage(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	a := st.get("/splits/orders").status(200)
	a.says("split-status", "worker-east-1 over capacity").says("targets", "measured").says("targets", "163").says("targets", "812").says("weights", "Total 100 %")
	a.says("split-suggestion", "Move 20 points of orders away from worker-east-1").says("split-changes", "rolled back")
	if a.field("w.worker-east-1") != "60" || a.field("s.worker-east-1") != "READY" || a.field("base") != "4" {
		t.Errorf("the form does not hold what is in force: %s %s %s", a.field("w.worker-east-1"), a.field("s.worker-east-1"), a.field("base"))
	}
	bar := attr(a.id("bar/orders/worker-east-1"), "width")
	if bar != "59.9" {
		t.Errorf("the observed bar is %s wide, want 59.9", bar)
	}
	b := st.get("/splits/payments").status(200)
	b.says("targets", "mean, est.").says("targets", "out (MAINT)").says("split-decision", "nothing to gain").says("main", "1 target is estimated, because sample_freq is off")
	if p := st.get("/splits/orders?proposal=p7").status(200); p.field("w.worker-east-1") != "40" || p.field("proposal") != "p7" {
		t.Errorf("the suggestion is not in the form: %s", p.field("w.worker-east-1"))
	}
	var doc splitDoc
	if err := json.Unmarshal(st.get("/splits/orders.json").status(200).Body.Bytes(), &doc); err != nil || len(doc.History) != 4 || len(doc.Changes) != 4 || doc.Decision == nil {
		t.Errorf("orders.json: %v, %d revisions, %d changes", err, len(doc.History), len(doc.Changes))
	}
}

// A share that mixes the old weights with the new says nothing: right after a
// change only what came since counts.
func TestSharesAreMeasuredSinceTheRevision(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.splits[0].At = epoch.Add(-12 * time.Second)
	newSite(t, w).get("/splits/orders").says("main", "since revision 4, 12 s")
	w.splits[0].At = epoch.Add(-2 * time.Second)
	newSite(t, w).get("/splits/orders").says("main", "last minute")
}

func TestWeightsAreReviewedThenApplied(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.ask("POST", "/splits/orders/plan", weightsForm("4", "40", "45", "15", "Relieve east")).status(200)
	a.says("main", "Apply revision 5 of orders").says("main", "- worker-east-1 60 % READY").says("main", "+ worker-east-1 40 % READY").says("payload", `"weight":40`).says("command", "nats kv update BALLAST split.orders")
	a.says("main", "moves by more than 20 points").says("main", "Relieve east")
	if len(w.changes) != 4 {
		t.Fatal("the dry run wrote something")
	}
	action, fields := a.form("confirm")
	b := st.ask("POST", action, fields).status(303)
	if loc := b.Header().Get("Location"); loc != "/splits/orders" {
		t.Errorf("Location = %q", loc)
	}
	ch := w.changes[0]
	if ch.Revision != 5 || ch.Actor != "ada" || ch.Reason != "Relieve east" || !ch.Guard || ch.After.Weights()["worker-east-1"] != 40 {
		t.Errorf("applied %+v", ch)
	}
	st.get("/splits/orders").says("alerts", "Revision 5 of orders is being watched")

	dialog := st.ask("POST", "/splits/orders/plan", weightsForm("5", "50", "35", "15", "More"), "HX-Request", "true").status(200)
	if strings.Contains(dialog.Body.String(), "<html") {
		t.Error("htmx got a whole page for its dialog")
	}
	dialog.says("dialog-title", "Apply revision 6 of orders")
}

func TestARejectedWeightsFormComesBackAsTyped(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	for _, c := range []struct {
		name string
		form url.Values
		says string
	}{
		{"sum", weightsForm("4", "40", "40", "17", "x"), "sum to 97, not 100"},
		{"no reason", weightsForm("4", "40", "40", "20", "  "), "Say why"},
		{"long reason", weightsForm("4", "40", "40", "20", strings.Repeat("x", 501)), "at most 500"},
		{"negative", weightsForm("4", "-40", "120", "20", "x"), "whole number from 0 to 100"},
		{"fraction", weightsForm("4", "33.3", "33.3", "33.4", "x"), "whole number"},
		{"no base", weightsForm("", "40", "40", "20", "x"), "does not say which revision"},
	} {
		a := st.ask("POST", "/splits/orders/plan", c.form).status(422)
		a.says("weights", c.says)
		if got := a.field("w.worker-east-1"); got != c.form.Get("w.worker-east-1") {
			t.Errorf("%s: the form came back with %q", c.name, got)
		}
		p := st.ask("POST", "/splits/orders/plan", c.form, "HX-Request", "true").status(422)
		if p.Header().Get("HX-Retarget") != "#weights" || strings.Contains(p.Body.String(), "<html") {
			t.Errorf("%s: htmx puts it into %q", c.name, p.Header().Get("HX-Retarget"))
		}
	}
}

func TestAllTargetsOutIsRefused(t *testing.T) {
	t.Parallel()
	f := weightsForm("4", "0", "0", "0", "x")
	for _, n := range []string{"east-1", "west-1", "backup-1"} {
		f.Set("s.worker-"+n, "MAINT")
	}
	newSite(t, newWorld()).ask("POST", "/splits/orders/plan", f).status(422).says("weights", "No target is READY")
}

func TestDrainingATargetSetsItsWeightToZero(t *testing.T) {
	t.Parallel()
	w := newWorld()
	f := weightsForm("4", "60", "70", "30", "East is being upgraded")
	f.Set("s.worker-east-1", "DRAIN")
	newSite(t, w).ask("POST", "/splits/orders/apply", f).status(303)
	if got, _ := w.splits[0].Split.Target("worker-east-1"); got.State != traffic.Drain || got.Weight != 0 {
		t.Errorf("worker-east-1 is %+v", got)
	}
}

func TestAConflictShowsBothVersions(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	st.ask("POST", "/splits/orders/apply", weightsForm("4", "50", "40", "10", "Somebody was faster")).status(303)
	for _, p := range []string{"/splits/orders/plan", "/splits/orders/apply"} {
		a := st.ask("POST", p, weightsForm("4", "20", "70", "10", "Mine")).status(409)
		a.says("conflict", "You looked at revision 4; revision 5 is in force now").says("conflict", "Somebody was faster").says("conflict", "+ worker-east-1 50 %").says("conflict", "+ worker-east-1 20 %")
		if a.field("base") != "5" {
			t.Errorf("the way on is not based on what is in force: %s", a.field("base"))
		}
	}
	if len(w.changes) != 5 {
		t.Error("a stale edit was applied")
	}
}

func TestWhatControlRefusesIsSaidInTheForm(t *testing.T) {
	t.Parallel()
	for kind, status := range map[fleet.ErrorKind]int{fleet.Forbidden: 403, fleet.Unavailable: 503, fleet.Unknown: 502} {
		w := newWorld()
		w.planErr = &fleet.Error{Kind: kind, Msg: "Everything is frozen.", Hint: "Thaw first."}
		a := newSite(t, w).ask("POST", "/splits/orders/apply", weightsForm("4", "40", "40", "20", "x")).status(status)
		a.says("weights", "Everything is frozen. Thaw first.")
		if a.field("w.worker-west-1") != "40" {
			t.Error("the form lost what was typed")
		}
	}
	w := newWorld()
	w.planErr = errors.New("secret")
	if a := newSite(t, w).ask("POST", "/splits/orders/apply", weightsForm("4", "40", "40", "20", "x")).status(500); strings.Contains(a.Body.String(), "secret") {
		t.Error("the text of a defect was shown")
	}
}

func TestBackToARevision(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	f := url.Values{"base": {"4"}, "restore": {"2"}, "reason": {"Back to revision 2"}, "guard": {"1"}}
	a := st.ask("POST", "/splits/orders/plan", f).status(200)
	a.says("main", "+ worker-east-1 50 %")
	action, fields := a.form("confirm")
	st.ask("POST", action, fields).status(303)
	if got := w.splits[0].Split.Weights()["worker-east-1"]; got != 50 || w.splits[0].Number != 5 {
		t.Errorf("worker-east-1 has %d in revision %d", got, w.splits[0].Number)
	}
	f.Set("base", "5")
	f.Set("restore", "99")
	if a := st.ask("POST", "/splits/orders/plan", f); a.Code < 400 {
		t.Errorf("back to a revision that never was = %d", a.Code)
	}
}

func TestNewSplit(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.get("/splits/new").status(200)
	a.says("main", "New split")
	if find(a.id("consumers"), func(n *html.Node) bool { return attr(n, "value") == "APP/ORDERS/worker-east-1" }) == nil {
		t.Error("the consumers that there are cannot be picked")
	}
	form := url.Values{"base": {"0"}, "name": {"mails"}, "subject": {"mails.send"}, "pick": {"weighted"}, "mode": {"suggest"}, "reason": {"Start"},
		"t.0.name": {"a"}, "t.0.subject": {"mails.send.a"}, "t.0.observe": {"APP / ORDERS / worker-east-1"}, "t.0.weight": {"70"}, "t.0.tier": {"0"},
		"t.1.name": {""}, "t.1.subject": {""}, "t.1.observe": {""}, "t.1.weight": {"0"}, "t.1.tier": {"0"},
		"t.2.name": {"b"}, "t.2.subject": {"mails.send.b"}, "t.2.observe": {""}, "t.2.weight": {"30"}, "t.2.tier": {"0"}}
	change := func(kv ...string) url.Values {
		f := url.Values{}
		for k, v := range form {
			f[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			f[kv[i]] = []string{kv[i+1]}
		}
		return f
	}
	for _, c := range [][3]string{
		{"name", "orders", "There is already a split of this name."}, {"name", "a b", "letters, digits"}, {"subject", "a.*", "not a literal subject"}, {"reason", "", "Say why"},
		{"t.0.weight", "71", "sum to 101"}, {"t.2.weight", "x", "whole number"}, {"t.2.name", "a", "stands twice"}, {"t.2.subject", ">", "not a literal subject"},
		{"t.0.observe", "nonsense", "stream/consumer"}, {"t.2.tier", "77", "from 0 to 9"}, {"t.2.name", "b b", "letters, digits"},
	} {
		a := st.ask("POST", "/splits/new", change(c[0], c[1])).status(422)
		a.says("split-form", c[2])
		if got := a.field(c[0]); got != c[1] {
			t.Errorf("%s = %q came back as %q", c[0], c[1], got)
		}
	}
	st.ask("POST", "/splits/new", change("more", "1")).status(200).field("t.5.name")
	r := st.ask("POST", "/splits/new", form).status(200)
	r.says("main", "Create the split mails").says("main", "+ a 70 %")
	action, fields := r.form("confirm")
	st.ask("POST", action, fields).status(303)
	i := slices.IndexFunc(w.splits, func(r traffic.Revision) bool { return r.Split.Name == "mails" })
	if i < 0 {
		t.Fatal("the split was not made")
	}
	sp := w.splits[i].Split
	if len(sp.Targets) != 2 || *sp.Targets[0].Observe != (traffic.Observed{Account: "APP", Stream: "ORDERS", Consumer: "worker-east-1"}) || sp.Targets[1].Observe != nil {
		t.Errorf("made %+v", sp)
	}
}

func TestEditingTargetsKeepsWhatTheFormDoesNotShow(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.splits[0].Split.Targets = slices.Clone(w.splits[0].Split.Targets)
	w.splits[0].Split.Targets[0].Labels = map[string]string{"region": "east"}
	st := newSite(t, w)
	a := st.get("/splits/orders/edit").status(200)
	_, fields := a.form("split-form")
	fields.Set("pick", "weighted")
	fields.Set("mode", "observe")
	fields.Set("reason", "Only watch")
	r := st.ask("POST", "/splits/orders/edit", fields).status(200)
	r.says("main", "+ mode observe")
	action, confirmed := r.form("confirm")
	st.ask("POST", action, confirmed).status(303)
	now := w.splits[0].Split
	if now.Mode != traffic.Observe || now.Targets[0].Labels["region"] != "east" || len(now.Targets) != 3 || now.Targets[0].Observe == nil {
		t.Errorf("now %+v", now)
	}
	st.ask("POST", "/splits/orders/edit", fields).status(409).says("conflict", "Somebody else changed this split")
	fields.Set("name", "other")
	if a := st.ask("POST", "/splits/orders/edit", fields); a.Code != 422 {
		t.Errorf("renaming = %d", a.Code)
	}
}

func TestDeletingNeedsTheName(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	st.ask("POST", "/splits/orders/delete", url.Values{"base": {"4"}, "reason": {"x"}, "confirm": {"order"}}).status(422)
	st.ask("POST", "/splits/orders/delete", url.Values{"base": {"4"}, "confirm": {"orders"}}).status(422)
	if len(w.splits) != 2 {
		t.Fatal("deleted without a confirmation")
	}
	st.ask("POST", "/splits/orders/delete", url.Values{"base": {"4"}, "reason": {"Not used"}, "confirm": {"orders"}}).status(303)
	if len(w.splits) != 1 {
		t.Error("not deleted")
	}
}

func TestKeepAndRollBack(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.bake()
	st := newSite(t, w)
	st.ask("POST", "/changes/c4/keep", url.Values{}).status(303)
	if w.changes[0].Phase != traffic.Verified {
		t.Errorf("phase = %s", w.changes[0].Phase)
	}
	st.ask("POST", "/changes/c4/rollback", url.Values{"reason": {"Worse"}}).status(303)
	if ch := w.changes[0]; ch.Undo != "c4" || ch.After.Weights()["worker-east-1"] != 40 || ch.Reason != "Worse" {
		t.Errorf("rolled back by %+v", ch)
	}
	st.ask("POST", "/changes/none/keep", url.Values{}).status(404)
	st.ask("POST", "/changes/none/rollback", url.Values{}).status(404)
}

func TestSuggestions(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.get("/suggestions").status(200)
	a.says("suggestion", "Move 20 points of orders away from worker-east-1").says("suggestion", "12,840").says("suggestion", "high confidence").says("suggestion", "158 → 34 ms").says("suggestion", "step: a change moves at most 20 points")
	a.says("suggestion", "capacity, no step limit").says("main", "mode is observe")
	st.get("/suggestions/p3").status(200).says("suggestion", "p99 stayed within 5 % of before")
	st.get("/suggestions?state=expired").status(200).says("main", "No expired suggestion")
	st.get("/suggestions?state=odd").status(422)
	st.get("/suggestions/none").status(404)
	if csv := st.get("/suggestions.csv?state=open").status(200).Body.String(); strings.Count(csv, "\r\n") != 4 {
		t.Errorf("suggestions.csv:\n%s", csv)
	}
	st.get("/suggestions/p7.json").status(200)

	st.ask("POST", "/suggestions/p7/approve", url.Values{"reason": {""}}).status(422).says("suggestion", "Say why")
	st.ask("POST", "/suggestions/p7/approve", url.Values{"reason": {"It is right"}}).status(303)
	if ch := w.changes[0]; ch.Proposal != "p7" || ch.After.Weights()["worker-east-1"] != 40 || ch.Reason != "It is right" {
		t.Errorf("applied %+v", ch)
	}
	w = newWorld()
	newSite(t, w).ask("POST", "/suggestions/p7/dismiss", url.Values{"reason": {"Known"}}).status(303)
	if w.proposals[0].Status != traffic.Dismissed || len(w.changes) != 4 {
		t.Errorf("status = %s", w.proposals[0].Status)
	}
	w = newWorld()
	w.planErr = &fleet.Error{Kind: fleet.Stale, Msg: "Revision 5 is in force now.", Hint: "Wait for a new suggestion."}
	newSite(t, w).ask("POST", "/suggestions/p7/approve", url.Values{"reason": {"It is right"}}).status(409).says("suggestion", "Revision 5 is in force now.")
}

func TestJournal(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.get("/journal").status(200)
	a.says("main", "Revision 3 of orders was rolled back").says("main", "demo fault").says("main", "Saturday, 14 March 2026 (UTC)")
	if got := text(st.get("/journal?kind=change.rolledback").status(200).id("main")); strings.Contains(got, "Move 20 points") || !strings.Contains(got, "Show all") {
		t.Errorf("the filter does not hold: %s", got)
	}
	st.get("/journal?from=2027-01-01T00:00").status(200).says("main", "Nothing was recorded that fits")
	st.get("/journal?from=yesterday").status(422)
	st.get("/journal?before=x").status(422)
	d := st.get("/journal/7").status(200)
	d.says("main", w.entries[len(w.entries)-7].Hash).says("main", "- worker-east-1 50 %").says("main", "The life of this change")
	st.get("/journal/9999").status(404)
	st.get("/journal/x").status(404)
	var entries []traffic.Entry
	if err := json.Unmarshal(st.get("/journal.json?kind=change.verified").status(200).Body.Bytes(), &entries); err != nil || len(entries) != 3 {
		t.Errorf("journal.json: %v, %d entries", err, len(entries))
	}
	// Many entries come in pages that leave none out.
	for i := range 120 {
		w.entries = slices.Insert(w.entries, 0, traffic.Entry{Seq: uint64(15 + i), At: epoch, Kind: traffic.EntryFreeze, Actor: "ada", Text: "x"})
	}
	seen, next := 0, "/journal"
	for next != "" {
		p := st.get(next).status(200)
		next = ""
		for n := range p.doc.Descendants() {
			if n.Data == "a" && attr(n, "rel") == "next" {
				next = attr(n, "href")
			}
			if n.Data == "tbody" {
				for r := range n.Descendants() {
					if r.Data == "tr" {
						seen++
					}
				}
			}
		}
	}
	if seen != 134 {
		t.Errorf("%d records on all pages, want 134", seen)
	}
}

// Measurements stand in the journal beside the changes.
func TestJournalOfAMeasurement(t *testing.T) {
	t.Parallel()
	w := newWorld()
	data, err := json.Marshal(traffic.Measurement{ID: "m1", Phase: traffic.Measuring, Percent: 5, Actor: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []traffic.EntryKind{traffic.EntryMeasureOn, traffic.EntryMeasureOff} {
		e := traffic.Entry{Seq: w.entries[0].Seq + 1, At: epoch, Kind: k, Actor: "ada", Text: "Measure ORDERS/eu.", Change: "m1", Data: data}
		w.entries = slices.Insert(w.entries, 0, e)
	}
	st := newSite(t, w)
	st.get("/journal").status(200).says("main", "measuring begun").says("main", "measuring ended")
	if got := text(st.get("/journal?kind=measure.on").status(200).id("main")); !strings.Contains(got, "Measure ORDERS/eu.") || strings.Contains(got, "Revision 4") {
		t.Errorf("the filter does not hold: %s", got)
	}
	st.get("/journal/"+strconv.FormatUint(w.entries[0].Seq, 10)).status(200).says("main", `"percent": 5`)
}

func TestFind(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	for q, want := range map[string]string{"n2": "server", "EAST": "target of orders", "ORDERS": "stream of APP", "payments.cap": "subject of payments", "journal": "page"} {
		st.get("/find?q="+q).status(200).says("main", want)
	}
	if a := st.get("/find?q=east", "HX-Request", "true"); strings.Contains(a.Body.String(), "<html") || !strings.Contains(a.Body.String(), "worker-east-1") {
		t.Error("the find box does not get its list")
	}
	st.get("/find?q=zzz").says("main", "Nothing is named like that")
	st.get("/find").status(200)
}

func TestDemoDrawer(t *testing.T) {
	t.Parallel()
	w := newWorld()
	st := newSite(t, w)
	a := st.get("/demo").status(200)
	a.says("demo-page", "8 times slower").says("demo-page", "killed").says("demo-page", "360 msg/s")
	for path, form := range map[string]url.Values{
		"slow": {"target": {"worker-east-1"}, "factor": {"20"}}, "stop": {"target": {"worker-east-1"}}, "start": {"target": {"worker-backup-1"}},
		"kill": {"server": {"n1"}}, "restart": {"server": {"n3"}}, "rate": {"factor": {"2"}},
	} {
		st.ask("POST", "/demo/"+path, form).status(303)
	}
	slices.Sort(w.demo.asked)
	if got := strings.Join(w.demo.asked, ", "); got != "kill n1, rate 720, restart n3, slow worker-east-1 20, start worker-backup-1, stop worker-east-1" {
		t.Errorf("asked: %s", got)
	}
	st.ask("POST", "/demo/slow", url.Values{"target": {"worker-east-1"}, "factor": {"1e9"}}).status(422)
	st.ask("POST", "/demo/slow", url.Values{"target": {"nobody"}, "factor": {"2"}}).status(422)
	w.demo.err = errors.New("port is taken")
	if a := st.ask("POST", "/demo/restart", url.Values{"server": {"n3"}}, "HX-Request", "true").status(500); !strings.Contains(a.Body.String(), "did not work") || strings.Contains(a.Body.String(), "port") {
		t.Errorf("a failed fault says %s", a.Body)
	}
	w.demo = nil
	newSite(t, w).get("/demo").status(404)
	if a := newSite(t, w).get("/"); strings.Contains(a.Body.String(), "Demo faults") {
		t.Error("the drawer is there outside of the demo")
	}
}

func TestThemeIsKeptInACookie(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	a := st.ask("POST", "/theme", url.Values{"theme": {"dark"}, "back": {"/splits?x=1"}}).status(303)
	if a.Header().Get("Location") != "/splits?x=1" || !strings.Contains(a.Header().Get("Set-Cookie"), "theme=dark") {
		t.Errorf("answer %v", a.Header())
	}
	page := st.get("/", "Cookie", "theme=dark")
	if root := find(page.doc, func(n *html.Node) bool { return n.Data == "html" }); attr(root, "data-theme") != "dark" {
		t.Error("the page does not come in the theme of the cookie")
	}
	for _, evil := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "javascript:alert(1)", "/a\r\nX: 1", ""} {
		if loc := st.ask("POST", "/theme", url.Values{"theme": {"light"}, "back": {evil}}).Header().Get("Location"); loc != "/" {
			t.Errorf("back to %q leads to %q", evil, loc)
		}
	}
	st.ask("POST", "/theme", url.Values{"theme": {"red"}}).status(422)
}

func TestRanges(t *testing.T) {
	t.Parallel()
	now := epoch
	for q, want := range map[string]fleet.Range{
		"":                                    {From: now.Add(-15 * time.Minute), To: now},
		"range=7d":                            {From: now.Add(-7 * 24 * time.Hour), To: now},
		"from=2026-03-14T09:00:00Z":           {From: time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC), To: now},
		"from=1773478800000&to=1773479000000": {From: time.UnixMilli(1773478800000), To: time.UnixMilli(1773479000000)},
	} {
		v, _ := url.ParseQuery(q)
		r, err := parseRange(v, now)
		if err != nil || !r.From.Equal(want.From) || !r.To.Equal(want.To) {
			t.Errorf("parseRange(%s) = %v, %v, want %v", q, r.Range, err, want)
			continue
		}
		again, err := parseRange(r.query(), now)
		if err != nil || !again.From.Equal(want.From) {
			t.Errorf("%s does not survive its own URL: %v, %v", q, again, err)
		}
	}
	for _, q := range []string{"range=2h", "from=2026-03-14T10:00:00Z", "from=x", "to=1", "from=0&to=1773479000000", "from=1773479000000&to=1773478800000"} {
		v, _ := url.ParseQuery(q)
		if r, err := parseRange(v, now); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("parseRange(%s) = %v, %v, want Invalid", q, r, err)
		}
	}
}

func TestObservedConsumersSurviveTheForm(t *testing.T) {
	t.Parallel()
	for _, o := range []traffic.Observed{{Stream: "S", Consumer: "C"}, {Account: "A", Stream: "S", Consumer: "C"}, {Account: "a/b", Stream: "S", Consumer: "C"}} {
		got, ok := parseObserved(observedValue(&o))
		if !ok || *got != o {
			t.Errorf("%+v came back as %+v, %v", o, got, ok)
		}
	}
	for _, bad := range []string{"x", "/", "a/", "/b", "a//"} {
		if got, ok := parseObserved(bad); ok {
			t.Errorf("parseObserved(%q) = %+v", bad, got)
		}
	}
}

func BenchmarkSplitPage(b *testing.B) {
	st := newSite(b, newWorld())
	for b.Loop() {
		st.get("/splits/orders")
	}
}

func BenchmarkOverview(b *testing.B) {
	st := newSite(b, newWorld())
	for b.Loop() {
		st.get("/")
	}
}

func TestResampleKeepsGaps(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	got := resample([]float64{1, 3, nan, nan, 5, nan, 7, 9}, 4)
	for i, want := range []float64{2, nan, 5, 8} {
		if got[i] != want && !(math.IsNaN(got[i]) && math.IsNaN(want)) {
			t.Errorf("resample()[%d] = %v, want %v", i, got[i], want)
		}
	}
	if got := resample([]float64{1, 2}, 4); len(got) != 2 {
		t.Errorf("few values became %v", got)
	}
}
