package handlers

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/labstack/echo/v4"

	"ballast/fleet"
	"ballast/traffic"
	"ballast/web/static"
	"ballast/web/templates"
)

// journalLimit is how many journal entries a report lists; the CSV of the
// journal page has no such limit.
const journalLimit = 500

// report is what is known of a split over a span of time.
type report struct {
	rev       traffic.Revision
	span      timeRange
	made      time.Time
	version   string
	system    string
	operator  string
	targets   []reportTarget
	charts    []chart
	changes   []traffic.Change   // oldest first
	proposals []traffic.Proposal // oldest first
	events    []fleet.Event      // oldest first
	journal   []traffic.Entry    // oldest first
	more      bool               // the journal of the span is longer
	hash      string
	arrived   uint64
}

type reportTarget struct {
	traffic.Target
	color    string
	from, to int // weights at the ends of the span; -1 when there was none
	seen     float64
	obs      traffic.Observation
}

func (s *Server) report(ctx context.Context, name string, span timeRange) (*report, error) {
	rev, err := s.Control.Split(name)
	if err != nil {
		return nil, err
	}
	r := &report{rev: rev, span: span, made: s.Now(), version: s.Version, system: s.System, operator: s.Operator}
	obs, err := share(ctx, s, fmt.Sprintf("report %q %d %s", name, rev.Number, span.shareKey()), func(ctx context.Context) ([]traffic.Observation, error) {
		return s.Metrics.Observe(ctx, rev.Split, span.Range)
	})
	if err != nil {
		return nil, fmt.Errorf("observe split %s: %w", name, err)
	}
	history, err := s.Control.History(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read the history of split %s: %w", name, err)
	}
	for _, o := range obs {
		r.arrived += o.Arrived
	}
	for i, t := range rev.Split.Targets {
		rt := reportTarget{Target: t, color: targetColor(i), seen: math.NaN(), from: weightAt(history, t.Name, span.From), to: weightAt(history, t.Name, span.To)}
		for _, o := range obs {
			if o.Target == t.Name {
				rt.obs = o
				if r.arrived > 0 {
					rt.seen = 100 * float64(o.Arrived) / float64(r.arrived)
				}
			}
		}
		r.targets = append(r.targets, rt)
	}
	a := chartArgs{split: name, span: span}
	for _, id := range []string{"split-latency", "split-share", "split-rate", "split-pending"} {
		c, err := s.chart(ctx, id, a)
		if err != nil {
			return nil, err
		}
		r.charts = append(r.charts, c)
	}
	in := func(t time.Time) bool { return !t.Before(span.From) && !t.After(span.To) }
	for _, c := range s.Control.Changes(name, 1000) {
		if in(c.Created) || in(c.Written) || in(c.Ended) {
			r.changes = append(r.changes, c)
		}
	}
	for _, p := range s.Control.Proposals(name, 1000) {
		if in(p.At) {
			r.proposals = append(r.proposals, p)
		}
	}
	if r.events, err = s.Metrics.Events(ctx, span.Range, 200); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	r.journal, err = s.Journal.Entries(ctx, traffic.EntryFilter{Split: name, From: span.From, To: span.To, Limit: journalLimit + 1})
	if err != nil {
		return nil, fmt.Errorf("read journal of split %s: %w", name, err)
	}
	if len(r.journal) > journalLimit {
		r.journal, r.more = r.journal[:journalLimit], true
	}
	newest, err := s.Journal.Entries(ctx, traffic.EntryFilter{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("read newest journal entry: %w", err)
	}
	if len(newest) > 0 {
		r.hash = newest[0].Hash
	}
	// All of these come newest first; a report is read from its beginning. The
	// events are shared with other readers.
	slices.Reverse(r.changes)
	slices.Reverse(r.proposals)
	r.events = slices.Clone(r.events)
	slices.Reverse(r.events)
	r.journal = slices.Clone(r.journal)
	slices.Reverse(r.journal)
	return r, nil
}

// weightAt is a target's weight at a moment; -1 when it had none yet.
func weightAt(history []traffic.Revision, target string, at time.Time) int {
	var then *traffic.Revision
	for i, rev := range history {
		if !rev.At.After(at) && (then == nil || rev.Number > then.Number) {
			then = &history[i]
		}
	}
	if then == nil {
		return -1
	}
	t, ok := then.Split.Target(target)
	if !ok {
		return -1
	}
	return t.Weight
}

const reportTime = "2006-01-02 15:04:05"

func (r *report) title() string { return "Traffic report: " + r.rev.Split.Name }

func (r *report) view() templates.Report {
	v := templates.Report{
		Title: r.title(),
		Subtitle: []string{r.system, r.rev.Split.Subject, spanWords(r.span.Span()) + ", " + r.span.From.UTC().Format(reportTime) + " to " + r.span.To.UTC().Format(reportTime) + " UTC",
			fmt.Sprintf("revision %d now", r.rev.Number), "made by " + r.operator},
		Lead: r.lead(),
		Made: "Made " + r.made.UTC().Format(reportTime) + " UTC by Ballast " + r.version + ". All times are UTC.",
		Note: "ACK latency runs from a message's last delivery to the arrival of its acknowledgement at the server. Measured: from the servers' own samples. Estimated: a mean from rates and outstanding messages, where a consumer is not sampled.",
		Hash: r.hash,
	}
	for _, t := range r.targets {
		row := templates.ReportTarget{Name: t.Name, Color: t.color, State: string(t.State), Set: setWords(t.from, t.to), SetW: strconv.Itoa(max(t.to, 0)),
			Observed: seenText(t.seen), SeenW: f1(seenWidth(t.seen, 100)), Messages: countWords(t.obs.Arrived), Acked: countWords(t.obs.Acked), Redelivered: countWords(t.obs.Redelivered),
			Mean: latencyWords(t.obs.Mean), P50: none, P95: none, P99: none, Source: latencyKind(t.obs)}
		if t.State == traffic.Ready {
			row.State = ""
		}
		if t.obs.Latency.Count() > 0 {
			row.P50, row.P95, row.P99 = latencyWords(t.obs.Latency.Quantile(.5)), latencyWords(t.obs.Latency.Quantile(.95)), latencyWords(t.obs.Latency.Quantile(.99))
		}
		v.Targets = append(v.Targets, row)
	}
	for _, c := range r.charts {
		cv := c.view(chartArgs{})
		v.Charts = append(v.Charts, cv)
	}
	for _, c := range r.changes {
		v.Changes = append(v.Changes, changeView(c))
	}
	for _, p := range r.proposals {
		v.Proposals = append(v.Proposals, proposalView(p))
	}
	for _, e := range r.events {
		v.Events = append(v.Events, templates.ReportEvent{When: e.At.UTC().Format(reportTime), What: e.Kind, Text: e.Text, Tone: severityTone(e.Severity)})
	}
	for _, e := range r.journal {
		v.Journal = append(v.Journal, templates.ReportEvent{When: e.At.UTC().Format(reportTime), What: entryWords(e.Kind), Who: e.Actor, Text: e.Text, Tone: entryTone(e.Kind)})
	}
	if r.more {
		v.More = fmt.Sprintf("These are the newest %d entries of the span; the journal has more.", journalLimit)
	}
	return v
}

func latencyKind(o traffic.Observation) string {
	switch {
	case o.Latency.Count() > 0:
		return fmt.Sprintf("measured, %s samples, %.0f %%", countWords(o.Samples), min(o.Share, 1)*100)
	case o.Estimated && o.Mean > 0:
		return "estimated"
	}
	return "not measured"
}

func setWords(from, to int) string {
	word := func(w int) string {
		if w < 0 {
			return none
		}
		return strconv.Itoa(w)
	}
	if from == to {
		return word(to) + " %"
	}
	return word(from) + " → " + word(to) + " %"
}

// lead says what happened in the span.
func (r *report) lead() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s carried %s messages in %s. ", r.rev.Split.Name, humanize.Comma(int64(r.arrived)), spanWords(r.span.Span()))
	var written []traffic.Change
	for _, c := range r.changes {
		if !c.Written.IsZero() {
			written = append(written, c)
		}
	}
	switch n := len(written); {
	case n == 0:
		b.WriteString("Its weights were not changed.")
	default:
		fmt.Fprintf(&b, "Its weights were changed %s. ", times(n))
		last := written[n-1]
		fmt.Fprintf(&b, "The newest change, revision %d at %s UTC by %s, moved %s", last.Revision, last.Written.UTC().Format("15:04:05"), last.Actor, movesWords(last))
		if e := last.Effect; e != nil && e.P99Before > 0 && e.P99After > 0 {
			fmt.Fprintf(&b, "; ACK p99 went from %s to %s (%s)", duration(e.P99Before), duration(e.P99After), delta(float64(e.P99Before), float64(e.P99After)))
		}
		fmt.Fprintf(&b, "; it is %s.", last.Phase)
	}
	return b.String()
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return strconv.Itoa(n) + " times"
}

func movesWords(c traffic.Change) string {
	var moves []string
	for _, m := range weightMoves(c) {
		moves = append(moves, fmt.Sprintf("%s from %d to %d %%", m.Target, m.From, m.To))
	}
	if len(moves) == 0 {
		return "no weight"
	}
	return strings.Join(moves, ", ")
}

// weightMoves are the weights that a change moved.
func weightMoves(c traffic.Change) []traffic.Move {
	var moves []traffic.Move
	for _, d := range traffic.Diff(c.Before, c.After) {
		m := traffic.Move{Target: d.Name}
		if d.Before != nil {
			m.From = d.Before.Weight
		}
		if d.After != nil {
			m.To = d.After.Weight
		}
		moves = append(moves, m)
	}
	return moves
}

// delta is a relative change, with its sign.
func delta(before, after float64) string {
	if before <= 0 {
		return none
	}
	return strings.Replace(fmt.Sprintf("%+.1f %%", 100*(after-before)/before), "-", "−", 1)
}

func changeView(c traffic.Change) templates.ReportChange {
	v := templates.ReportChange{
		When: c.Created.UTC().Format(reportTime), Actor: c.Actor, Reason: c.Reason, Tone: phaseTone(c.Phase), Phase: string(c.Phase), Outcome: c.Outcome,
		Title: fmt.Sprintf("Revision %d, on %d", c.Revision, c.Base),
	}
	if c.Undo != "" {
		v.Title += ", undoing an earlier change"
	}
	for _, m := range weightMoves(c) {
		v.Moves = append(v.Moves, templates.ReportMove{Target: m.Target, From: strconv.Itoa(m.From) + " %", To: strconv.Itoa(m.To) + " %",
			Delta: strings.Replace(fmt.Sprintf("%+d", m.To-m.From), "-", "−", 1)})
	}
	if e := c.Effect; e != nil {
		add := func(name string, before, after float64, words func(float64) string) {
			v.Effect = append(v.Effect, templates.ReportEffect{Name: name, Before: words(before), After: words(after), Delta: delta(before, after)})
		}
		asTime := func(f float64) string { return duration(time.Duration(f)) }
		asCount := func(f float64) string { return countWords(uint64(f)) }
		add("ACK p99", float64(e.P99Before), float64(e.P99After), asTime)
		add("ACK mean", float64(e.MeanBefore), float64(e.MeanAfter), asTime)
		add("Redelivered", float64(e.RedeliveredBefore), float64(e.RedeliveredAfter), asCount)
		add("Backlog", float64(e.BacklogBefore), float64(e.BacklogAfter), asCount)
		add("Samples", float64(e.SamplesBefore), float64(e.SamplesAfter), asCount)
		v.Effect[len(v.Effect)-1].Delta = ""
	}
	return v
}

func proposalView(p traffic.Proposal) templates.ReportProposal {
	v := templates.ReportProposal{When: p.At.UTC().Format(reportTime) + ", over " + spanWords(p.Window) + ", law " + string(p.Law), Title: p.Title, Why: p.Why, Status: string(p.Status)}
	var parts []string
	for _, e := range p.Estimates {
		parts = append(parts, fmt.Sprintf("%s: ACK p99 %s over %s samples, %s msg/s of %s it can do", e.Target, duration(e.P99), countWords(e.Samples), figure(e.Rate, "msg/s"), figure(e.Capacity, "msg/s")))
	}
	if len(parts) > 0 {
		v.Evidence = strings.Join(parts, "; ") + "."
	}
	if q := p.Predicted; q.P99Before > 0 && q.P99After > 0 {
		v.Evidence += fmt.Sprintf(" Predicted ACK p99: %s to %s.", duration(q.P99Before), duration(q.P99After))
	}
	v.Evidence = strings.TrimSpace(v.Evidence)
	return v
}

// reportDoc is a report as JSON.
type reportDoc struct {
	Split     traffic.Split      `json:"split"`
	Revision  uint64             `json:"revision"`
	From      time.Time          `json:"from"`
	To        time.Time          `json:"to"`
	Made      time.Time          `json:"made"`
	Version   string             `json:"version"`
	System    string             `json:"system"`
	Summary   string             `json:"summary"`
	Targets   []reportTargetDoc  `json:"targets"`
	Changes   []traffic.Change   `json:"changes"`
	Proposals []traffic.Proposal `json:"suggestions"`
	Events    []eventDoc         `json:"events"`
	Journal   []traffic.Entry    `json:"journal"`
	Cut       bool               `json:"journal_is_cut"`
	Hash      string             `json:"newest_journal_hash"`
	Charts    []chartDoc         `json:"charts"`
}

type reportTargetDoc struct {
	Name        string   `json:"name"`
	State       string   `json:"state"`
	SetFrom     *int     `json:"set_percent_at_start"`
	SetTo       *int     `json:"set_percent_at_end"`
	Observed    *float64 `json:"observed_percent"`
	Arrived     uint64   `json:"messages"`
	Acked       uint64   `json:"acked"`
	Redelivered uint64   `json:"redelivered"`
	Backlog0    uint64   `json:"backlog_at_start"`
	Backlog     uint64   `json:"backlog_at_end"`
	Samples     uint64   `json:"ack_samples"`
	Share       float64  `json:"ack_sampled_share"`
	Latency     string   `json:"ack_latency_source"`
	MeanMS      *float64 `json:"ack_mean_ms"`
	P50MS       *float64 `json:"ack_p50_ms"`
	P95MS       *float64 `json:"ack_p95_ms"`
	P99MS       *float64 `json:"ack_p99_ms"`
}

type eventDoc struct {
	At       time.Time      `json:"at"`
	Kind     string         `json:"kind"`
	Severity fleet.Severity `json:"severity"`
	Entity   string         `json:"entity"`
	Text     string         `json:"text"`
}

func (t reportTarget) doc() reportTargetDoc {
	d := reportTargetDoc{Name: t.Name, State: string(t.State), Arrived: t.obs.Arrived, Acked: t.obs.Acked, Redelivered: t.obs.Redelivered,
		Backlog0: t.obs.Backlog0, Backlog: t.obs.Backlog, Samples: t.obs.Samples, Share: t.obs.Share}
	d.Latency, _, _ = strings.Cut(latencyKind(t.obs), ",")
	if t.from >= 0 {
		d.SetFrom = &t.from
	}
	if t.to >= 0 {
		d.SetTo = &t.to
	}
	if !math.IsNaN(t.seen) {
		d.Observed = &t.seen
	}
	put := func(to **float64, v time.Duration) { ms := inMS(v); *to = &ms }
	if t.obs.Mean > 0 {
		put(&d.MeanMS, t.obs.Mean)
	}
	if l := t.obs.Latency; l.Count() > 0 {
		put(&d.P50MS, l.Quantile(.5))
		put(&d.P95MS, l.Quantile(.95))
		put(&d.P99MS, l.Quantile(.99))
	}
	return d
}

func (r *report) doc() reportDoc {
	d := reportDoc{
		Split: r.rev.Split, Revision: r.rev.Number, From: r.span.From.UTC(), To: r.span.To.UTC(), Made: r.made.UTC(), Version: r.version, System: r.system, Summary: r.lead(),
		Targets: []reportTargetDoc{}, Changes: orEmpty(r.changes), Proposals: orEmpty(r.proposals), Events: []eventDoc{}, Journal: orEmpty(r.journal), Cut: r.more, Hash: r.hash, Charts: []chartDoc{},
	}
	for _, t := range r.targets {
		d.Targets = append(d.Targets, t.doc())
	}
	for _, e := range r.events {
		d.Events = append(d.Events, eventDoc{e.At.UTC(), e.Kind, e.Severity, e.Entity, e.Text})
	}
	for _, c := range r.charts {
		d.Charts = append(d.Charts, c.doc())
	}
	return d
}

// orEmpty makes a list that is empty in JSON, not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

var reportCols = []string{"record", "time", "name", "revision", "actor", "status", "text", "set_before_percent", "set_after_percent", "observed_percent",
	"messages", "acked", "redelivered", "backlog", "ack_mean_ms", "ack_p50_ms", "ack_p95_ms", "ack_p99_ms", "ack_samples", "ack_source", "p99_before_ms", "p99_after_ms", "hash"}

// rows are the report as one table; the first column says what a row is.
func (r *report) rows() iter.Seq[[]any] {
	type row = map[string]any
	return func(yield func([]any) bool) {
		put := func(v row) bool {
			out := make([]any, len(reportCols))
			for i, c := range reportCols {
				out[i] = v[c]
			}
			return yield(out)
		}
		for _, t := range r.targets {
			d := t.doc()
			v := row{"record": "target", "time": r.span.To, "name": d.Name, "revision": r.rev.Number, "status": d.State, "messages": d.Arrived, "acked": d.Acked, "redelivered": d.Redelivered,
				"backlog": d.Backlog, "ack_samples": d.Samples, "ack_source": d.Latency}
			for col, p := range map[string]*float64{"observed_percent": d.Observed, "ack_mean_ms": d.MeanMS, "ack_p50_ms": d.P50MS, "ack_p95_ms": d.P95MS, "ack_p99_ms": d.P99MS} {
				if p != nil {
					v[col] = *p
				}
			}
			if d.SetFrom != nil {
				v["set_before_percent"] = *d.SetFrom
			}
			if d.SetTo != nil {
				v["set_after_percent"] = *d.SetTo
			}
			if !put(v) {
				return
			}
		}
		for _, c := range r.changes {
			v := row{"record": "change", "time": c.Created, "name": c.ID, "revision": c.Revision, "actor": c.Actor, "status": string(c.Phase), "text": strings.TrimSpace(c.Reason + " " + c.Outcome)}
			if e := c.Effect; e != nil {
				v["p99_before_ms"], v["p99_after_ms"] = e.P99Before, e.P99After
			}
			if !put(v) {
				return
			}
			for _, m := range weightMoves(c) {
				if !put(row{"record": "move", "time": cmp.Or(c.Written, c.Created), "name": m.Target, "revision": c.Revision, "actor": c.Actor, "status": string(c.Phase), "set_before_percent": m.From, "set_after_percent": m.To}) {
					return
				}
			}
		}
		for _, p := range r.proposals {
			if !put(row{"record": "suggestion", "time": p.At, "name": p.Title, "revision": p.Base, "actor": "tuner", "status": string(p.Status), "text": p.Why, "p99_before_ms": p.Predicted.P99Before, "p99_after_ms": p.Predicted.P99After}) {
				return
			}
		}
		for _, e := range r.events {
			if !put(row{"record": "event", "time": e.At, "name": e.Entity, "status": string(e.Severity), "text": e.Text}) {
				return
			}
		}
		for _, e := range r.journal {
			if !put(row{"record": "journal", "time": e.At, "name": string(e.Kind), "revision": e.Seq, "actor": e.Actor, "text": e.Text, "hash": e.Hash}) {
				return
			}
		}
	}
}

// reportRoutes are the URLs of the reports.
func reportRoutes(s *Server, e *echo.Echo) {
	e.GET("/reports", s.getReports)
	e.GET("/reports/:split", s.getReport)
}

// reportRanges are the spans that the page offers.
var reportRanges = []templates.Hidden{{Name: "last 15 minutes", Value: "15m"}, {Name: "last hour", Value: "1h"}, {Name: "last 6 hours", Value: "6h"}, {Name: "last 24 hours", Value: "24h"}, {Name: "last 7 days", Value: "7d"}}

// getReports shows what can be reported, or leads on to the report that its
// form asked for.
func (s *Server) getReports(c echo.Context) error {
	if name := c.QueryParam("split"); name != "" {
		span, err := s.rangeOf(c)
		if err != nil {
			return err
		}
		ext := ""
		switch as := c.QueryParam("as"); as {
		case "html", "csv", "json":
			ext = "." + as
		}
		return c.Redirect(http.StatusSeeOther, reportURL(name, ext, span.query()))
	}
	now := s.Now().UTC()
	v := templates.Reports{Ranges: reportRanges, From: now.Add(-time.Hour).Format("2006-01-02T15:04:05"), To: now.Format("2006-01-02T15:04:05")}
	for _, rev := range s.Control.Splits() {
		row := templates.ReportSplit{Name: rev.Split.Name, Subject: rev.Split.Subject}
		for _, r := range []templates.Hidden{reportRanges[0], reportRanges[1], reportRanges[3]} {
			q := url.Values{"range": {r.Value}}
			row.Links = append(row.Links, templates.ReportLinks{Label: r.Name, Page: reportURL(rev.Split.Name, "", q),
				HTML: reportURL(rev.Split.Name, ".html", q), CSV: reportURL(rev.Split.Name, ".csv", q), JSON: reportURL(rev.Split.Name, ".json", q)})
		}
		v.Splits = append(v.Splits, row)
	}
	f := withLive(s.frame(c, "Reports", navReports))
	return show(c, templates.ReportsPage(f, v), templates.ReportsPage(f, v))
}

func reportURL(split, ext string, q url.Values) string {
	return "/reports/" + url.PathEscape(split) + ext + "?" + q.Encode()
}

// getReport answers a report as a page, and with .html, .csv or .json at its
// end as a file.
func (s *Server) getReport(c echo.Context) error {
	name, ext := c.Param("split"), ""
	// Names of splits contain no dot.
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name, ext = name[:i], name[i:]
	}
	span, err := s.rangeOf(c)
	if err != nil {
		return err
	}
	r, err := s.report(c.Request().Context(), name, span)
	if err != nil {
		return err
	}
	file := "report-" + name
	switch ext {
	case ".csv", ".json":
		return s.export(c, file, reportCols, r.rows(), r.doc())
	case ".html":
		c.Response().Header().Set(echo.HeaderContentDisposition, `attachment; filename="`+fileName(file, r.made, ".html")+`"`)
		return render(c, http.StatusOK, templates.ReportFile(r.view(), reportStyle()))
	case "":
	default:
		return echo.ErrNotFound
	}
	v := r.view()
	// The files cover the very span that is on the screen.
	q := url.Values{"from": {millis(span.From)}, "to": {millis(span.To)}}
	v.HTML, v.CSV, v.JSON = reportURL(name, ".html", q), reportURL(name, ".csv", q), reportURL(name, ".json", q)
	f := s.frame(c, r.title(), navReports, templates.Crumb{Name: "Reports", URL: "/reports"}, templates.Crumb{Name: name})
	f.Range = span.choices("/reports/" + url.PathEscape(name))
	return show(c, templates.ReportPage(f, v), templates.ReportBody(v))
}

// reportStyle is all the style that a report needs to stand by itself.
func reportStyle() string {
	var b strings.Builder
	for _, name := range []string{"css/report.css", "css/tokens.css", "css/charts.css", "css/reports.css"} {
		b.WriteString(static.Text(name))
	}
	return b.String()
}
