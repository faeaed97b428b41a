package handlers

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/static"
	"ballast/web/templates"
)

// Time travel: a URL with ?at= is answered by a console whose clock stands at
// that moment and which knows only what had been recorded by then. The pages do
// nothing for it and none can forget it: they ask s.Now, s.Metrics, s.Control,
// s.Findings and s.Journal as ever. Links keep the moment, forms that change
// anything are switched off (see past_links.go), and nothing is live.

// timeless are the paths that know no past: they are about the console, not about
// what it watches.
var timeless = []string{static.Prefix, "/live", "/theme", "/demo", "/metrics", "/healthz", "/readyz", "/favicon.ico"}

// travel answers a request with ?at= as of that moment.
func (s *Server) travel(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		v := strings.TrimSpace(r.URL.Query().Get("at"))
		if v == "" || slices.ContainsFunc(timeless, func(p string) bool { return strings.HasPrefix(r.URL.Path, p) }) {
			return next(c)
		}
		at, err := parseAt(v, s.Now())
		if err != nil {
			return err
		}
		p, err := s.asOf(r.Context(), at)
		if err == nil && r.Method != http.MethodGet {
			err = readOnlyPast()
		}
		c.Set(momentKey, at)
		if err == nil {
			p.echo.Router().Find(r.Method, echo.GetPath(r), c)
			err = c.Handler()(c)
		}
		if err != nil {
			p.fail(err, c) // its page leads on to other moments
		}
		return nil
	}
}

// momentKey is under which a request's context has its moment.
const momentKey = "moment"

func readOnlyPast() error {
	return &fleet.Error{Kind: fleet.Forbidden, Msg: "You are looking at the past: nothing can be changed from there.", Hint: "Go back to now first."}
}

// parseAt reads a moment: RFC 3339, milliseconds since 1970, a date and time in
// UTC, or how long ago it is, as 15m, -2h30m or 3d.
func parseAt(v string, now time.Time) (time.Time, error) {
	t, err := parseTime(v, time.Time{})
	if err != nil {
		t, err = time.Parse(time.RFC3339, strings.Replace(v, " ", "+", 1)) // a plus that was not escaped
	}
	if err != nil {
		var d time.Duration
		d, err = parseAgo(strings.TrimPrefix(v, "-"))
		t = now.Add(-d)
	}
	if err != nil {
		return time.Time{}, &fleet.Error{Kind: fleet.Invalid, Msg: "The moment is not valid.", Err: err,
			Hint: "Give at= as a date and time like 2026-01-31T12:00:00Z, or as how long ago, like 15m, 2h or 3d."}
	}
	t = t.UTC().Truncate(time.Millisecond)
	if t.After(now) {
		return time.Time{}, &fleet.Error{Kind: fleet.Invalid, Msg: "That moment lies in the future.", Hint: "Choose one that is over; times without a zone are UTC."}
	}
	return t, nil
}

func parseAgo(v string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(v)
}

// settledAfter is how old a moment must be for its answer not to change any
// more: until then a look that was taken before it may still be on its way.
const settledAfter = time.Minute

// asOf is the console at a moment. With an error it is one that has seen
// nothing, to draw the error's page.
func (s *Server) asOf(ctx context.Context, at time.Time) (*Server, error) {
	if p := s.past.Load(); p != nil && p.moment.Equal(at) {
		return p, nil
	}
	p := &Server{Deps: s.Deps, echo: echo.New(), hub: s.hub, build: s.build, moment: at, present: s}
	p.Now = func() time.Time { return at }
	p.Demo = nil
	snap, rates, err := s.Metrics.SnapshotAt(ctx, at)
	if err != nil {
		snap, rates = &fleet.Snapshot{}, &fleet.Rates{}
		if fleet.KindOf(err) == fleet.NotFound {
			err = &fleet.Error{Kind: fleet.NotFound, Msg: "Nothing is recorded of " + momentWords(at, s.Now()) + ".",
				Hint: "Ballast did not run then, saw nothing, or has dropped it since: choose another moment.", Err: err}
		}
	}
	p.Metrics = pastMetrics{s.Metrics, snap, rates}
	p.Journal = pastJournal{s.Journal, at}
	p.Control = &pastControl{}
	if err == nil {
		var then *pastControl
		if then, err = s.controlAt(ctx, at); err == nil {
			p.Control = then
		}
	}
	if s.Findings != nil {
		f := &pastFindings{record: s.Findings, at: at}
		if err == nil {
			err = f.read(ctx)
		}
		p.Findings = f
	}
	if err != nil {
		return p, err
	}
	p.pages(p.echo)
	if s.Now().Sub(at) > settledAfter {
		s.past.Store(p)
	}
	return p, nil
}

// pastMetrics is what was measured, as it stood at a moment. Whoever asks for a
// range says himself where it ends.
type pastMetrics struct {
	Metrics
	snap  *fleet.Snapshot
	rates *fleet.Rates
}

func (m pastMetrics) Latest() *fleet.Snapshot { return m.snap }
func (m pastMetrics) Rates() *fleet.Rates     { return m.rates }

// Observe names the accounts of the consumers: where a target does not, it would
// be looked for among those that there are now.
func (m pastMetrics) Observe(ctx context.Context, sp traffic.Split, r fleet.Range) ([]traffic.Observation, error) {
	sp.Targets = slices.Clone(sp.Targets)
	found := make([]*fleet.Consumer, len(sp.Targets))
	for i, t := range sp.Targets {
		k, _ := consumerAt(m.snap, t)
		if found[i] = consumerNamed(m.snap, k); found[i] != nil {
			o := *t.Observe
			o.Account = k.Account
			sp.Targets[i].Observe = &o
		}
	}
	out, err := m.Metrics.Observe(ctx, sp, r)
	for i := range out {
		if c := found[i]; c != nil {
			out[i].AckWait, out[i].MaxAckPending = c.AckWait, c.MaxAckPending
		}
	}
	return out, err
}

// momentWords says when it was; the day only if it was another one.
func momentWords(at, now time.Time) string {
	at, now = at.UTC(), now.UTC()
	if at.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return at.Format("15:04:05 UTC")
	}
	if at.Year() == now.Year() {
		return at.Format("2 January 15:04:05 UTC")
	}
	return at.Format("2 January 2006 15:04:05 UTC")
}

// momentText is a moment in a URL.
func momentText(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.999Z07:00") }

// strides are how far one step through the past goes.
var strides = []struct {
	label string
	d     time.Duration
}{{"1 h", time.Hour}, {"10 min", 10 * time.Minute}, {"1 min", time.Minute}}

// travelView are the ways from a page to other moments; nil where there is no
// page to come back to.
func (s *Server) travelView(c echo.Context) *templates.Travel {
	r := c.Request()
	if r.Method != http.MethodGet {
		return nil
	}
	q := r.URL.Query()
	q.Del("at")
	to := func(at time.Time) string {
		there := url.Values{"at": {momentText(at)}}
		for k, v := range q {
			there[k] = v
		}
		return r.URL.EscapedPath() + "?" + there.Encode()
	}
	v := &templates.Travel{Path: r.URL.EscapedPath(), Now: withQuery(r.URL.EscapedPath(), q)}
	for k, values := range q {
		for _, value := range values {
			v.Keep = append(v.Keep, templates.Hidden{Name: k, Value: value})
		}
	}
	slices.SortFunc(v.Keep, func(a, b templates.Hidden) int { return strings.Compare(a.Name, b.Name) })
	from, now := s.Now(), s.Now()
	if s.present != nil {
		now = s.present.Now()
		v.At, v.Exact, v.Milliseconds = momentWords(from, now), from.UTC().Format("2006-01-02 15:04:05 UTC"), millis(from)
	}
	from = from.Truncate(time.Second)
	v.Value = from.UTC().Format("2006-01-02T15:04:05")
	for _, st := range strides {
		v.Earlier = append(v.Earlier, templates.Choice{Label: st.label, URL: to(from.Add(-st.d))})
	}
	for _, st := range slices.Backward(strides) {
		if later := from.Add(st.d); s.present != nil && later.Before(now) {
			v.Later = append(v.Later, templates.Choice{Label: st.label, URL: to(later)})
		}
	}
	return v
}

// consumerNamed is a consumer of a snapshot; nil if it has none.
func consumerNamed(snap *fleet.Snapshot, k fleet.ConsumerKey) *fleet.Consumer {
	for i := range snap.Consumers {
		if snap.Consumers[i].ConsumerKey == k {
			return &snap.Consumers[i]
		}
	}
	return nil
}

// momentOf is the moment of which a request asks; zero is now.
func momentOf(c echo.Context) time.Time {
	at, _ := c.Get(momentKey).(time.Time)
	return at
}

// ofNow is a figure that moves with every message and is not kept: of the past
// it is said to be unknown, not shown as if there had been none.
func (s *Server) ofNow(v string) string {
	if s.moment.IsZero() {
		return v
	}
	return "not kept"
}
