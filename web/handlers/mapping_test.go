package handlers

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"ballast/fleet"
	"ballast/internal/browser"
	"ballast/traffic"
)

// The text by which servers carry a split out: from its page and from the dry run,
// as a file and never as something that a browser shows.
func TestMappingIsDownloaded(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.splits[0].Split.Driver = traffic.DriverMappingConfig
	w.mapping = "\"orders\": [ # split orders\n  { destination: \"</pre><script>alert(1)</script>\", weight: 100 }\n]\n"
	st := newSite(t, w)
	href := func(a *answer, id string) string {
		n := find(a.doc, func(n *html.Node) bool { return attr(n, "id") == id })
		if n == nil {
			return ""
		}
		return attr(n, "href")
	}
	if got := href(st.get("/splits/orders").status(200), "mapping-download"); got != "/splits/orders/mapping.conf" {
		t.Errorf("the page leads to %q", got)
	}
	a := st.get("/splits/orders/mapping.conf").status(200)
	h := a.Header()
	if a.Body.String() != w.mapping || h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.HasPrefix(h.Get("Content-Disposition"), `attachment; filename="ballast-orders-mapping-2026`) || !strings.HasSuffix(h.Get("Content-Disposition"), `.conf"`) {
		t.Errorf("%v\n%s", h, a.Body)
	}
	st.get("/splits/orders/mapping.json").status(404) // it is not in claims
	st.get("/splits/nobody/mapping.conf").status(404)
	if got := href(st.get("/splits/payments").status(200), "mapping-download"); got != "" {
		t.Errorf("a split that publishers carry out leads to %q", got)
	}
	st.get("/splits/payments/mapping.conf").status(404)

	w.splits[0].Split.Driver = traffic.DriverMappingJWT
	w.mapping = `{"nats":{"mappings":{}}}`
	if a := st.get("/splits/orders/mapping.json").status(200); a.Body.String() != w.mapping || a.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%v\n%s", a.Header(), a.Body)
	}
	w.mappingErr = &fleet.Error{Kind: fleet.Unavailable, Msg: "No server answers over the system account."}
	if a := st.get("/splits/orders/mapping.json").status(503); a.Header().Get("Content-Disposition") != "" {
		t.Errorf("an error is offered as a file: %v", a.Header())
	}
	if got := st.get("/splits/orders/mapping.json?at=-15m"); got.Code == 200 {
		t.Error("the past gives a mapping that nobody recorded")
	}
}

// The dry run's text can be saved byte for byte, whatever stands in it.
func TestMappingOfTheDryRunIsSaved(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.servers = "\"a#b?c%d&e\": [ # split orders\n  { destination: \"x\\\"<y>'é\", weight: 100 }\n]\n"
	st := newSite(t, w)
	w.splits[0].Split.Driver = traffic.DriverMappingConfig
	a := st.ask("POST", "/splits/orders/plan", weightsForm("4", "40", "45", "15", "Relieve east")).status(200)
	n := a.id("mapping-save")
	if attr(n, "download") != "ballast-mapping.conf" {
		t.Errorf("it is saved as %q", attr(n, "download"))
	}
	if text := unescaped(t, attr(n, "href")); text != w.servers {
		t.Errorf("what is saved is\n%s\nthe servers get\n%s", text, w.servers)
	}
}

// unescaped is the text that a data: link holds, as a browser saves it.
func unescaped(tb testing.TB, link string) string {
	tb.Helper()
	body, ok := strings.CutPrefix(link, "data:text/plain;charset=utf-8,")
	if !ok || strings.ContainsAny(body, "#?\n\" ") {
		tb.Errorf("the link is %q", link)
	}
	text, err := url.PathUnescape(body)
	if err != nil {
		tb.Error(err)
	}
	return text
}

// The link that holds the dry run's text is no way to another page, and the page's
// own rules allow it.
func TestMappingOfTheDryRunInABrowser(t *testing.T) {
	w := newWorld()
	w.splits[0].Split.Driver = traffic.DriverMappingConfig
	w.servers = "\"orders\": [ # split orders\n  { destination: \"<b>\", weight: 100 }\n]\n"
	st := newStation(t, w)
	tab := browser.Open(t, 1440, 900)
	tab.Go(st.URL + "/splits/orders")
	browser.Eval[bool](tab, `(() => {
		const f = document.createElement("form")
		f.method = "post"; f.action = "/splits/orders/plan"
		for (const [k, v] of new URLSearchParams("`+weightsForm("4", "40", "45", "15", "x").Encode()+`")) {
			const i = document.createElement("input"); i.name = k; i.value = v; f.append(i)
		}
		document.body.append(f); f.submit(); return true
	})()`)
	tab.Wait("the dry run", 2*time.Minute, "document.querySelector('#mapping-save')")
	if got := browser.Eval[string](tab, "decodeURIComponent(document.querySelector('#mapping-save').href.split(',').slice(1).join(','))"); got != w.servers {
		t.Errorf("the link holds %q, want %q", got, w.servers)
	}
	browser.Eval[bool](tab, "(document.querySelector('#mapping-save').click(), true)")
	tab.Wait("the page to stay", 2*time.Minute, "location.pathname === '/splits/orders/plan' && document.querySelector('#servers')")
	tab.Go(st.URL + "/splits")
	for _, c := range tab.Complaints() {
		t.Error(c)
	}
}
