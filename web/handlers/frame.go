package handlers

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/static"
	"ballast/web/templates"
)

// Keys of the navigation, for frame.
const (
	navOverview    = "overview"
	navTopology    = "topology"
	navFindings    = "findings"
	navConsumers   = "consumers"
	navServers     = "servers"
	navStreams     = "streams"
	navConnections = "connections"
	navAccounts    = "accounts"
	navCost        = "cost"
	navServices    = "services"
	navSplits      = "splits"
	navSuggestions = "suggestions"
	navJournal     = "journal"
	navReports     = "reports"
)

// bareFrame is the frame without anything that could itself go wrong.
func (s *Server) bareFrame(c echo.Context, title string) templates.Frame {
	r := c.Request()
	return templates.Frame{
		Title: title, System: s.System, Version: s.Version, Who: s.Operator,
		Theme: themeOf(r), Path: r.URL.RequestURI(), Build: s.build,
		Nav:    s.nav(""),
		Crumbs: []templates.Crumb{{Name: cmp.Or(s.System, "Ballast"), URL: "/"}, {Name: title}},
		Age:    s.age(), Demo: s.Demo != nil, Travel: s.travelView(c),
		Assets: templates.Assets{
			CSS: static.URL("app.css"), App: static.URL("app.js"), HTMX: static.URL("htmx.js"),
			Plot: static.URL("uplot.js"), Icon: static.URL("icon.svg"), Font: static.URL("inter.woff2"),
		},
	}
}

// frame surrounds a page. The crumbs lead from the system to the page; the last
// one without a URL is the page itself, and is added when there are none.
func (s *Server) frame(c echo.Context, title, nav string, crumbs ...templates.Crumb) templates.Frame {
	f := s.bareFrame(c, title)
	f.Nav = s.nav(nav)
	if len(crumbs) == 0 {
		crumbs = []templates.Crumb{{Name: title}}
	}
	f.Crumbs = append([]templates.Crumb{{Name: cmp.Or(s.System, "Ballast"), URL: "/"}}, crumbs...)
	f.Alerts = s.alerts()
	return f
}

// withLive makes the page follow topics of the live stream.
func withLive(f templates.Frame, topics ...string) templates.Frame {
	q := url.Values{"topics": {strings.Join(append([]string{topicFrame}, topics...), ",")}}
	f.Live = "/live?" + q.Encode()
	return f
}

func (s *Server) nav(current string) []templates.NavGroup {
	open := s.openProposals()
	groups := []templates.NavGroup{
		{Items: []templates.NavItem{
			{Name: "Overview", URL: "/", Icon: "overview", Key: "o"},
			{Name: "Topology", URL: "/topology", Icon: "topology", Key: "t"},
			{Name: "Findings", URL: "/findings", Icon: navFindings, Key: "f", Badge: badge(s.pressing()), BadgeKey: "nav.findings"},
		}},
		{Head: "System", Items: []templates.NavItem{
			{Name: "Servers", URL: "/servers", Icon: navServers, Key: "v"},
			{Name: "Streams", URL: "/streams", Icon: navStreams, Key: "m"},
			{Name: "Consumers", URL: "/consumers", Icon: navConsumers, Key: "c"},
			{Name: "Connections", URL: "/connections", Icon: navConnections, Key: "n"},
			{Name: "Accounts", URL: "/accounts", Icon: navAccounts, Key: "a"},
			{Name: "Services", URL: "/services", Icon: navServices, Key: "i"},
		}},
		{Head: "Steer", Items: []templates.NavItem{
			{Name: "Splits", URL: "/splits", Icon: "splits", Key: "s"},
			{Name: "Suggestions", URL: "/suggestions", Icon: "suggestions", Key: "u", Badge: badge(open), BadgeKey: "nav.suggestions"},
		}},
		{Head: "Records", Items: []templates.NavItem{
			{Name: "Journal", URL: "/journal", Icon: "journal", Key: "j"},
			{Name: "Reports", URL: "/reports", Icon: "reports", Key: "r"},
			{Name: "Cost of watching", URL: "/cost", Icon: navCost, Key: "w"},
		}},
	}
	for _, g := range groups {
		for i := range g.Items {
			g.Items[i].Current = g.Items[i].Icon == current
		}
	}
	return groups
}

func badge(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (s *Server) openProposals() int {
	n := 0
	for _, p := range s.Control.Proposals("", 200) {
		if p.Status == traffic.Open {
			n++
		}
	}
	return n
}

// staleAfter is the age from which figures are not shown as live.
func (s *Server) staleAfter() time.Duration { return 3*s.Interval + time.Second }

func (s *Server) age() templates.Age {
	now := s.Now()
	a := templates.Age{Now: strconv.FormatInt(now.UnixMilli(), 10), Limit: strconv.FormatInt(s.staleAfter().Milliseconds(), 10)}
	at := s.Metrics.Latest().TakenAt
	if at.IsZero() {
		a.Text, a.Stale = "No data yet", true
		return a
	}
	age := max(now.Sub(at), 0)
	a.At = strconv.FormatInt(at.UnixMilli(), 10)
	a.Stale = age > s.staleAfter()
	a.Text = "Data " + ago(age) + " old"
	return a
}

// alerts are the messages above every page.
func (s *Server) alerts() []templates.Alert {
	var out []templates.Alert
	if s.present != nil { // nothing is to be done there
		return nil
	}
	if err := s.Control.Ready(); err != nil {
		f := fault(err)
		out = append(out, templates.Alert{ID: "alert-ready", Tone: "warn", Title: "Nothing can be applied now.", Text: f.Title, Hint: f.Hint})
	}
	for _, ch := range s.Control.Changes("", 50) {
		if ch.Phase == traffic.Baking {
			out = append(out, bakeAlert(ch))
		}
	}
	return out
}

// bakeAlert watches a change that is in force: it can be kept or undone from
// any page.
func bakeAlert(ch traffic.Change) templates.Alert {
	guard := "The guard is off: it stays unless you roll it back."
	if ch.Guard {
		guard = "It is rolled back by itself if its effect is bad."
	}
	return templates.Alert{
		ID: "bake-" + ch.ID, Tone: "info",
		Title: fmt.Sprintf("Revision %d of %s is being watched.", ch.Revision, ch.Split),
		Text:  guard, Ends: millis(ch.BakeEnds), Until: "until " + ch.BakeEnds.UTC().Format("15:04:05 UTC"),
		Acts: []templates.Act{
			{Label: "Keep", URL: "/changes/" + url.PathEscape(ch.ID) + "/keep", Post: true},
			{Label: "Roll back now", URL: "/changes/" + url.PathEscape(ch.ID) + "/rollback", Post: true},
		},
	}
}

func millis(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// themeOf reads the theme from its cookie, so that a page comes in the right
// colours at once.
func themeOf(r *http.Request) string {
	if c, err := r.Cookie("theme"); err == nil && (c.Value == "light" || c.Value == "dark") {
		return c.Value
	}
	return "auto"
}

func (s *Server) setTheme(c echo.Context) error {
	theme := c.FormValue("theme")
	switch theme {
	case "light", "dark", "auto":
	default:
		return &fleet.Error{Kind: fleet.Invalid, Msg: "There is no such theme.", Hint: "Choose light, dark or auto."}
	}
	c.SetCookie(&http.Cookie{Name: "theme", Value: theme, Path: "/", MaxAge: 365 * 24 * 3600, SameSite: http.SameSiteLaxMode})
	return seeOther(c, localPath(c.FormValue("back")))
}

// localPath returns to a page of this console, and nowhere else.
func localPath(p string) string {
	u, err := url.Parse(p)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") {
		return "/"
	}
	return p
}

// spans are the ranges to pick from.
var spans = []struct {
	key string
	d   time.Duration
}{
	{"15m", 15 * time.Minute}, {"1h", time.Hour}, {"6h", 6 * time.Hour}, {"24h", 24 * time.Hour}, {"7d", 7 * 24 * time.Hour},
}

const maxSpan = 400 * 24 * time.Hour

// timeRange is the span of time that a URL names.
type timeRange struct {
	fleet.Range
	Key string // "15m" and so on, "" for a fixed one
}

// rangeOf reads ?range=15m|1h|6h|24h|7d, or ?from= and ?to= (RFC 3339 or unix
// milliseconds); without either it is the last 15 minutes.
func (s *Server) rangeOf(c echo.Context) (timeRange, error) {
	return parseRange(c.QueryParams(), s.Now())
}

func parseRange(q url.Values, now time.Time) (timeRange, error) {
	bad := func(hint string) (timeRange, error) {
		return timeRange{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The time range is not valid.", Hint: hint}
	}
	if q.Get("from") != "" || q.Get("to") != "" {
		from, err := parseTime(q.Get("from"), time.Time{})
		if err != nil || from.IsZero() {
			return bad("Give from= as a date and time like 2026-01-31T12:00:00Z, or as milliseconds since 1970.")
		}
		to, err := parseTime(q.Get("to"), now)
		if err != nil {
			return bad("Give to= as a date and time like 2026-01-31T12:00:00Z, or as milliseconds since 1970.")
		}
		if !from.Before(to) || to.Sub(from) > maxSpan {
			return bad("The beginning must be before the end, and not more than 400 days.")
		}
		return timeRange{Range: fleet.Range{From: from, To: to}}, nil
	}
	key := q.Get("range")
	if key == "" {
		key = spans[0].key
	}
	for _, sp := range spans {
		if sp.key == key {
			return timeRange{fleet.Range{From: now.Add(-sp.d), To: now}, key}, nil
		}
	}
	return bad("Choose 15m, 1h, 6h, 24h or 7d, or give from= and to=.")
}

func parseTime(v string, empty time.Time) (time.Time, error) {
	if v == "" {
		return empty, nil
	}
	if ms, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, v); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("parse time %q: no known layout", v)
}

// query is the range as part of a URL, so that links and exports keep it.
func (r timeRange) query() url.Values {
	if r.Key != "" {
		return url.Values{"range": {r.Key}}
	}
	return url.Values{"from": {millis(r.From)}, "to": {millis(r.To)}}
}

// choices are the links of the range picker on the page at path.
func (r timeRange) choices(path string) []templates.Choice {
	out := make([]templates.Choice, len(spans))
	path += "?"
	if strings.Count(path, "?") > 1 {
		path = strings.TrimSuffix(path, "?") + "&"
	}
	for i, sp := range spans {
		out[i] = templates.Choice{Label: sp.key, URL: path + "range=" + sp.key, Current: sp.key == r.Key}
	}
	return out
}

// ago is a length of time in the fewest words.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " d"
}

// frameTopic keeps the frame of every open page up to date.
func (s *Server) frameTopic(context.Context, string) (update, error) {
	return update{
		Text:  map[string]string{"nav.suggestions": badge(s.openProposals()), "nav.findings": badge(s.pressing())},
		Parts: map[string]part{"alerts": {templates.Alerts(s.alerts()), ""}},
	}, nil
}

func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}
