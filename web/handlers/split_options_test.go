package handlers

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"ballast/traffic"
)

// everyOption is a split by key with all that a form offers.
func everyOption(sp traffic.Split) traffic.Split {
	sp.Pick = traffic.ByKey
	sp.Key = &traffic.Keyed{From: traffic.FromToken, Token: 3, Hash: traffic.Ring, Bound: 125}
	sp.Spill = &traffic.Spill{Factor: 120, Panic: 40}
	sp.Retry = &traffic.Retries{Percent: 5, Burst: 7}
	sp.Lanes = []traffic.Lane{
		{Name: "high", TimeoutMS: 500, Retries: 3, Fallback: sp.Targets[1].Name},
		{Name: "bulk", TimeoutMS: 60_000, Target: sp.Targets[0].Name},
	}
	return sp
}

// What was chosen in the lists of a form, which the helper for its fields does not
// read.
func chosen(a *answer, id string, fields url.Values) {
	for n := range a.id(id).Descendants() {
		if n.Type == html.ElementNode && n.Data == "option" && slices.ContainsFunc(n.Attr, func(x html.Attribute) bool { return x.Key == "selected" }) {
			fields.Set(attr(n.Parent, "name"), attr(n, "value"))
		}
	}
}

// A form that is sent as it came changes no option; each option can be changed, and
// the review names what changes.
func TestEditingKeepsTheOptions(t *testing.T) {
	t.Parallel()
	w := newWorld()
	want := everyOption(w.splits[0].Split)
	w.splits[0].Split = want
	st := newSite(t, w)
	a := st.get("/splits/orders/edit").status(200)
	_, fields := a.form("split-form")
	chosen(a, "split-form", fields)
	fields.Set("reason", "as it is")
	fields.Set("mode", string(traffic.Observe))
	r := st.ask("POST", "/splits/orders/edit", fields).status(200)
	action, confirmed := r.form("confirm")
	st.ask("POST", action, confirmed).status(303)
	got := w.splits[0].Split
	want.Mode = traffic.Observe
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the split is now\n%+v\nwant\n%+v", got, want)
	}

	fields.Set("base", "5")
	fields.Set("key.from", "")
	fields.Set("key.header", "Tenant")
	fields.Set("key.hash", "")
	fields.Set("l.0.retries", "2")
	fields.Set("l.1.name", "")
	fields.Set("spill.factor", "")
	r = st.ask("POST", "/splits/orders/edit", fields).status(200)
	r.says("main", "+ key.header Tenant").says("main", "- key.token 3").says("main", "- lane 2 bulk").says("main", "+ lane 1 high 500 ms, 2 retries")
	action, confirmed = r.form("confirm")
	st.ask("POST", action, confirmed).status(303)
	got = w.splits[0].Split
	if *got.Key != (traffic.Keyed{Header: "Tenant", Bound: 125}) || got.Spill.Factor != 0 || got.Spill.Panic != 40 || len(got.Lanes) != 1 || got.Lanes[0].Retries != 2 {
		t.Errorf("the split is now %+v %+v %+v %+v", got, *got.Key, *got.Spill, got.Lanes)
	}
}

// Wrong options come back as typed, with what is wrong beside them.
func TestWrongOptionsAreSaid(t *testing.T) {
	t.Parallel()
	st := newSite(t, newWorld())
	form := url.Values{"base": {"0"}, "name": {"mails"}, "subject": {"mails.send"}, "pick": {"key"}, "mode": {"suggest"}, "reason": {"Start"},
		"t.0.name": {"a"}, "t.0.subject": {"mails.send.a"}, "t.0.observe": {""}, "t.0.weight": {"100"}, "t.0.tier": {"0"},
		"l.0.name": {""}, "l.0.timeout": {""}, "l.0.retries": {""}, "l.0.target": {""}, "l.0.fallback": {""}}
	for _, c := range []struct{ field, value, says string }{
		{"key.token", "17", "name the token"},
		{"key.token", "x", "whole number"},
		{"key.bound", "90", "neither 0 nor between"},
		{"key.header", "a b", "not the name of a header"},
		{"spill.factor", "99", "not between 100"},
		{"spill.panic", "101", "not between 0 and 100"},
		{"retry.percent", "-1", "whole number"},
		{"retry.burst", "99999", "not between 0 and 10000"},
	} {
		f := url.Values{}
		for k, v := range form {
			f[k] = v
		}
		f.Set(c.field, c.value)
		if c.field == "key.token" {
			f.Set("key.from", "token")
		}
		a := st.ask("POST", "/splits/new", f).status(422)
		if said := strings.ToLower(text(a.id("split-form"))); !strings.Contains(said, c.says) {
			t.Errorf("%s = %q: the form does not say %q", c.field, c.value, c.says)
		}
		if got := a.field(c.field); got != c.value {
			t.Errorf("%s = %q came back as %q", c.field, c.value, got)
		}
	}
	form.Set("l.0.name", "high")
	form.Set("l.0.timeout", "0")
	form.Set("l.0.fallback", "nobody")
	form["l.1.name"], form["l.1.timeout"], form["l.1.retries"], form["l.1.target"], form["l.1.fallback"] = []string{"a b"}, []string{"soon"}, []string{"99"}, []string{""}, []string{""}
	a := st.ask("POST", "/splits/new", form).status(422)
	for field, says := range map[string]string{"l.0.timeout": "0 is not between 1 and", "l.0.fallback": `has no target "nobody"`, "l.1.name": "64 letters", "l.1.timeout": "whole number", "l.1.retries": "99 is not between"} {
		n := find(a.doc, func(n *html.Node) bool { return attr(n, "name") == field })
		if n == nil || attr(n, "aria-invalid") != "true" || !strings.Contains(text(n.Parent), says) {
			t.Errorf("%s: its field does not say %q", field, says)
		}
	}
}

// A default that a document writes out is shown as the default and stays one.
func TestDefaultsThatAreWrittenOut(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.splits[0].Split.Order = traffic.Spread
	w.splits[1].Split.Key = &traffic.Keyed{From: traffic.FromHeader, Hash: traffic.Rendezvous}
	st := newSite(t, w)
	for _, name := range []string{"orders", "payments"} {
		a := st.get("/splits/" + name + "/edit").status(200)
		_, fields := a.form("split-form")
		chosen(a, "split-form", fields)
		fields.Set("reason", "as it is")
		st.ask("POST", "/splits/"+name+"/edit", fields).status(200).says("main", "Nothing would change")
	}
}

// A split that the servers carry out shows what each does, and its dry run shows
// what they would get.
func TestSplitOfTheServers(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.splits[0].Split.Driver = traffic.DriverMappingConfig
	name := w.splits[0].Split.Targets[0].Name
	w.inForce = []traffic.InForce{
		{Server: "n1", State: traffic.ForceSame, Weights: map[string]int{name: 100}},
		{Server: "n2<b>", State: traffic.ForceOther, Text: "The server has other weights.", Weights: map[string]int{name: 40}, Others: map[string]int{"x.y": 60}},
		{Server: "n3", State: traffic.ForceUnused},
	}
	st := newSite(t, w)
	st.get("/splits/orders").status(200).says("split-servers", "In force on the servers").says("split-servers", "n2<b>").
		says("split-servers", "x.y 60").says("split-servers", "differs").says("split-servers", "The server has other weights.")
	w.splits[0].Split.Driver = traffic.DriverKV
	if said := text(st.get("/splits/orders").status(200).id("split-servers")); strings.TrimSpace(said) != "" {
		t.Errorf("a split of the client library shows %q", said)
	}
}
